"""Evaluation with adaptation: what an agent gains in held-out tasks by adapting to one episode of each."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import configs, registry, rng
from purerl.errors import PurerlError
from purerl.loops import compilation, lanes, meta_test, pool_meta_test
from purerl.runs import files, provenance, run_folder
from purerl.runs.evaluation import check_sizes, open_for_evaluation, over_seeds, pool_seeds
from purerl.runs.plan import Plan, seed_keys
from purerl.types import Array, PyTree


def evaluate_adaptation(
    folder: str | Path,
    *,
    episodes: int = 10,
    seed: int = 0,
    env_options: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Plays every task of a split with the newest agent of a run and with a copy that has adapted to one episode of it,
    and writes the result to <folder>/adapt.json. All actions are greedy.

    Args:
      folder: of a run on a family of tasks, of an agent that adapts.
      episodes: of each task, before and after.
      seed: of the evaluation's random numbers.
      env_options: environment options that replace those of training; without a split among them the tasks are those
        that were held out.
      config: fields of the agent's config that replace those of training, such as `replay_steps`, to compare ways to
        adapt; none that changes the shape of the agent's state.
      out: another file to write to.

    Returns:
      a dict of
        agent, preset, env, iteration, step, env_options, config (what was replaced), seed,
        episodes_per_task, tasks (their number);
        per_seed [{seed, before, after}], mean returns over tasks and episodes;
        before, after, gain (after - before): {iqm and mean over the seeds, their 95% bootstrap intervals};
        per_task [{before, after}], mean returns over seeds and episodes;
        environment, the versions and the device.

    Raises:
      PurerlError: no run or checkpoint in the folder, an agent that does not adapt, an environment without tasks, an
        unknown option, a field that is unknown or changes the state, a failed write.
    """
    folder = Path(folder)
    check_sizes(episodes, None, None, seed)
    target = folder / run_folder.ADAPTATION if out is None else Path(out)
    files.check_name(target)
    trained = Plan.from_dict(run_folder.load(folder)["config"])
    agent, (family, env_id) = registry.agent(trained.agent), registry.environment(trained.env)
    if agent.adapt is None:
        raise PurerlError(f"{agent.name} does not adapt to tasks: train an agent that has an `adapt`")
    if not hasattr(family, "of_task") and not hasattr(family, "make_task_pool"):
        raise PurerlError(f"{trained.env} has no tasks to adapt to: train in one that has (purerl list envs)")
    compilation.enable_cache()
    held_out = {"split": "test"} if hasattr(trained.options, "split") else {}
    _, plan, state, iteration = open_for_evaluation(folder, None, held_out | (env_options or {}), whole_state=True)
    if config:
        plan = dataclasses.replace(plan, config=_changed(plan, config))
    number = jax.tree.leaves(family.tasks(env_id, plan.options))[0].shape[0]

    def keys_of_tasks(key: Array) -> Array:
        base = rng.evaluation_key(key, seed)
        return jax.vmap(lambda n: rng.at(base, n))(jnp.arange(number))

    keys = jax.vmap(keys_of_tasks)(seed_keys(plan))
    play = _in_pools if registry.is_host(family) else _in_graph
    found = play(plan, state, keys, episodes=episodes, seed=seed)
    before, after = (np.asarray(x, np.float64) for x in found)
    of_seeds = [returns.mean(axis=(1, 2)) for returns in (before, after)]
    of_tasks = [returns.mean(axis=(0, 2)) for returns in (before, after)]
    result = {
        "agent": plan.agent,
        "preset": plan.preset,
        "env": plan.env,
        "iteration": iteration,
        "step": iteration * plan.steps_per_iteration,
        "env_options": configs.to_dict(plan.options),
        "config": config or {},
        "seed": seed,
        "episodes_per_task": episodes,
        "tasks": number,
        "per_seed": [
            {"seed": one, "before": float(b), "after": float(a)}
            for one, b, a in zip(plan.seeds, *of_seeds, strict=True)
        ],
        "before": over_seeds(of_seeds[0]),
        "after": over_seeds(of_seeds[1]),
        "gain": over_seeds(of_seeds[1] - of_seeds[0]),
        "per_task": [{"before": float(b), "after": float(a)} for b, a in zip(*of_tasks, strict=True)],
        "environment": provenance.environment_report(),
    }
    files.write_json(target, result)
    return result


def _changed(plan: Plan, fields: dict[str, Any]) -> Any:
    """The config of a plan with other values of some fields. Raises PurerlError if the state has another shape then."""
    agent, spec = registry.agent(plan.agent), registry.env_spec(plan.env, plan.options)
    values = {field.name: getattr(plan.config, field.name) for field in dataclasses.fields(plan.config)}
    changed = configs.build(type(plan.config), values | fields, plan.agent)
    agent.check(changed, spec)

    def shapes(config: Any) -> Any:
        return jax.eval_shape(lambda key: agent.init(config, spec, key), jax.random.key(0))

    if shapes(changed) != shapes(plan.config):
        raise PurerlError(
            f"{', '.join(fields)}: the trained state has another shape: leave out what changes its networks"
        )
    return changed


def _in_graph(plan: Plan, state: PyTree, keys: Array, *, episodes: int, seed: int) -> meta_test.Returns:
    """Returns [S, K, episodes] of a run's agents [S, ...], with keys [S, K] for each seed and task."""
    agent, (family, env_id) = registry.agent(plan.agent), registry.environment(plan.env)
    among, length = family.tasks(env_id, plan.options), family.episode_length(env_id, plan.options)

    def of_seed(config: Any, state: Any, keys: Array) -> meta_test.Returns:
        def of_task(task: Any, key: Array) -> meta_test.Returns:
            environment = family.of_task(env_id, task, plan.options)
            return meta_test.evaluate_task(agent, environment, config, state, key, length=length, episodes=episodes)

        return jax.vmap(of_task)(among, keys)

    return lanes.in_turn(of_seed)(configs.traced(plan.config), state, keys)


def _in_pools(plan: Plan, state: PyTree, keys: Array, *, episodes: int, seed: int) -> meta_test.Returns:
    """The same on the host, with two pools for each seed of the run: of the new episodes, and of the evaluation."""
    agent, (family, env_id) = registry.agent(plan.agent), registry.environment(plan.env)
    length = family.episode_length(env_id, plan.options)
    test = pool_meta_test.PoolMetaTest(agent, family.spec(env_id, plan.options), length)
    found = []
    for lane, number in enumerate(pool_seeds(plan.seeds, seed)):

        def pool(name: str, num_envs: int) -> Any:
            seeds = [zlib.crc32(f"{name} {number} {task}".encode()) % 2**31 for task in range(keys.shape[1])]  # noqa: B023
            return family.make_task_pool(env_id, plan.options, seeds, num_envs)

        config, mine = lanes.lane_of(configs.traced(plan.config), lane), jax.tree.map(lambda x: x[lane], state)  # noqa: B023
        with pool("new", 1) as new, pool("evaluation", episodes) as evaluation:
            found.append(test.evaluate(config, mine, keys[lane], new, evaluation))
    return meta_test.Returns(*(np.stack(x) for x in zip(*found, strict=True)))
