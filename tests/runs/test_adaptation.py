"""`purerl eval --adapt`: returns before and after adapting to one episode of each task."""

import json
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import purerl
from purerl import registry, rng
from purerl.agents import mql
from purerl.cli import main
from purerl.envs import hosted
from purerl.errors import PurerlError
from purerl.loops import meta_test, pool_meta_test
from purerl.runs import adaptation, policy

SMALL = {
    "num_envs": 2,
    "hidden": (8,),
    "history_length": 4,
    "context_size": 3,
    "batch_size": 16,
    "replay_size": 400,
    "learning_starts": 100,
    "new_task_steps": 3,
    "replay_steps": 4,
    "replay_batches": 1,
}
OPTIONS = {"num_tasks": 3, "max_steps": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptation") / "run"
    how = {"seeds": 2, "steps": 160, "random_episodes": 0, "quiet": True}
    purerl.train("mql", "tasks/point-robot", config=SMALL, env_options={"max_steps": 6}, out=folder, **how)
    return folder


class Opened(NamedTuple):
    """The second seed of the run; `play` is (goal, key) -> Returns of two episodes, in the graph."""

    config: Any
    state: Any
    goals: jax.Array
    environment: Any
    play: Any


@pytest.fixture(scope="module")
def opened(run):
    plan, agent, _, config, load = policy.open_run(run, whole_state=True)
    state, (family, name) = jax.tree.map(lambda x: x[1], load()), registry.environment(plan.env)
    options = family.Options(split="test", **OPTIONS)

    @jax.jit
    def play(goal, key):
        one = family.of_task(name, goal, options)
        return meta_test.evaluate_task(agent, one, config, state, key, length=6, episodes=2)

    return Opened(config, state, family.tasks(name, options), lambda goal: family.of_task(name, goal, options), play)


def test_before_and_after_are_those_of_the_meta_test(run, opened, capsys):
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main.main(["eval", str(run), "--adapt", "--episodes", "2", "--seed", "5", "--env.num-tasks", "3"]) == 0
    assert "3 tasks (test), 2 episodes of each" in capsys.readouterr().out
    found = json.loads((run / "adapt.json").read_text())
    assert found["env_options"] == OPTIONS | {"split": "test"} and found["tasks"] == len(found["per_task"]) == 3
    assert {path: path.read_bytes() for path in kept} == kept

    key = rng.evaluation_key(rng.seed_keys(1, 1)[0], 5)
    returns = [opened.play(opened.goals[i], rng.at(key, i)) for i in range(3)]
    lane = found["per_seed"][1]
    assert lane["seed"] == 1 and lane["before"] != lane["after"]
    np.testing.assert_allclose(lane["before"], np.mean([one.before for one in returns]), rtol=1e-5)
    np.testing.assert_allclose(lane["after"], np.mean([one.after for one in returns]), rtol=1e-4)
    gains = [lane["after"] - lane["before"] for lane in found["per_seed"]]
    assert found["gain"]["mean"] == pytest.approx(np.mean(gains)) and len(found["gain"]["mean_interval_95"]) == 2


def test_ways_to_adapt_are_compared_on_one_run(run, tmp_path):
    """Without a step of either stage an agent stays what it was, in the same episodes."""
    how = {"episodes": 2, "env_options": {"num_tasks": 2}, "out": tmp_path / "found.json"}
    found = adaptation.evaluate_adaptation(run, config={"new_task_steps": 0, "replay_steps": 0}, **how)
    assert found["config"] == {"new_task_steps": 0, "replay_steps": 0}
    assert all(one["before"] == one["after"] for one in found["per_seed"])
    assert json.loads((tmp_path / "found.json").read_text()) == found
    with pytest.raises(PurerlError, match=r"mql has no field 'replay_stepz'\. Did you mean"):
        adaptation.evaluate_adaptation(run, config={"replay_stepz": 0}, **how)
    with pytest.raises(PurerlError, match="hidden: the trained state has another shape"):
        adaptation.evaluate_adaptation(run, config={"hidden": (4,)}, **how)


def test_on_the_host_it_is_that_in_the_graph_and_leaves_no_trace(opened):
    """The same task twice, through pools that play it with the random numbers of the graph."""
    config, state, keys = opened.config, opened.state, rng.seed_keys(9, 2)
    environment = opened.environment(opened.goals[0])
    test = pool_meta_test.PoolMetaTest(mql.AGENT, environment.spec, 6)
    bits = [np.asarray(rng.as_words(x)).tobytes() for x in jax.tree.leaves(state)]

    def evaluated(config):
        streams = [jax.vmap(lambda key: rng.stream(key, name))(keys) for name in ("new", "evaluation")]  # noqa: B023
        pools = (hosted.HostedPool(environment, stream, n) for stream, n in zip(streams, (1, 2), strict=True))
        return test.evaluate(config, state, keys, *pools)

    found = evaluated(config)
    for k in range(2):
        wanted = opened.play(opened.goals[0], keys[k])
        np.testing.assert_allclose(found.before[k], wanted.before, rtol=1e-5)
        np.testing.assert_allclose(found.after[k], wanted.after, rtol=1e-4)
        assert (np.abs(wanted.after - wanted.before) > 1e-3).any()
    still = evaluated(config.replace(adaptation_learning_rate=0.0, tau=0.0))
    np.testing.assert_array_equal(still.before, found.before)
    np.testing.assert_allclose(still.after, found.before, rtol=1e-6)  # the same episodes, by the same agent
    assert [np.asarray(rng.as_words(x)).tobytes() for x in jax.tree.leaves(state)] == bits
    with pytest.raises(PurerlError, match="td3-context does not adapt"):
        pool_meta_test.PoolMetaTest(mql.TD3_CONTEXT, environment.spec, 6)


def test_what_cannot_be_adapted_is_one_line(run, tmp_path, capsys):
    assert main.main(["eval", str(run), "--adapt", "--greedy"]) == 2
    assert "--greedy does not go with --adapt: leave it out" in capsys.readouterr().err
    how = {"steps": 64, "random_episodes": 0, "quiet": True}
    small = {"num_envs": 2, "rollout_length": 4, "num_minibatches": 2, "hidden": (4,)}
    purerl.train("ppo", "gymnax/CartPole-v1", config=small, out=tmp_path / "ppo", **how)
    with pytest.raises(PurerlError, match="ppo does not adapt to tasks: train an agent that has an `adapt`"):
        adaptation.evaluate_adaptation(tmp_path / "ppo")
    assert not (tmp_path / "ppo" / "adapt.json").exists()
    purerl.train("mql", "gymnax/Pendulum-v1", config=SMALL, out=tmp_path / "mql", **how)
    with pytest.raises(PurerlError, match="gymnax/Pendulum-v1 has no tasks to adapt to"):
        adaptation.evaluate_adaptation(tmp_path / "mql")
