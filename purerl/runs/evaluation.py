"""Plays with a trained agent: a fixed number of episodes of every environment, and what to make of their returns.

Taking the first episodes to finish would favour short ones (Procgen's maze would begin at 10), so every environment
plays the same number, and all of them count. Evaluation draws from random streams of its own and never touches the
state of a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import configs, registry, rng
from purerl import statistics as stats
from purerl.errors import PurerlError
from purerl.loops import compilation, in_graph
from purerl.runs import checkpoint, files, provenance, run_folder
from purerl.runs.plan import Plan, seed_keys
from purerl.runs.policy import open_run
from purerl.runs.recording import Recording
from purerl.types import Agent, Array, Clock, Environment, EnvSpec, Pool, PyTree, RunState

# Steps of each environment in one call of the compiled program.
BLOCK_LENGTH = 128
# Longer than any episode of the families here (Atari: 27,000 steps of four frames).
MOST_STEPS_PER_EPISODE = 30_000


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The first E episodes of each environment: raw, undiscounted returns float64, lengths int64, both [S, N, E]."""

    returns: np.ndarray
    lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class Block:
    """T steps of the environments `columns` of all seeds.

    Attributes:
      columns: slice of the N environments, n of them.
      observation: [S, T, n, ...], what was acted on; None where it was not asked for.
      reward: float32 [S, T, n], raw.
      done: bool [S, T, n], the episode ended with this step.
      valid: bool [S, T, n], rows that are steps at all; None for all.
    """

    columns: slice
    observation: np.ndarray | None
    reward: np.ndarray
    done: np.ndarray
    valid: np.ndarray | None


# --- playing ---------------------------------------------------------------------------------------------------------


class Player:
    """Plays with an agent of a run, whose parameters may change between plays; it compiles once.

    Args:
      plan: of the run; its options are those of the environments.
      num_envs: N, environments of each seed.
      greedy: the most likely actions instead of sampled ones.
      observations: whether blocks carry them.
    """

    def __init__(self, plan: Plan, *, num_envs: int, greedy: bool = False, observations: bool = False):
        self._plan, self._num_envs, self._observations = plan, num_envs, observations
        self._agent, self._config = registry.agent(plan.agent), configs.traced(plan.config)
        self._family, self._id = registry.environment(plan.env)
        axes = in_graph.config_axes(self._config)
        if registry.is_host(self._family):
            act = _actor(self._agent, self._family.spec(self._id, plan.options), greedy)
            self._act = jax.jit(jax.vmap(act, in_axes=(axes, 0, 0, 0, None, None)))
        else:
            environment = self._family.make(self._id, plan.options)
            self._begin, block = _in_graph(self._agent, environment, num_envs, greedy, observations)
            self._block = jax.jit(jax.vmap(block, in_axes=(axes, 0, 0, 0, None)))

    def play(self, agent_state: PyTree, seed: int = 0) -> Iterator[Block]:
        """Plays on and on, from first observations.

        Args:
          agent_state: the agent's State [S, ...].
          seed: of everything random in it, apart from all of training's random numbers.

        Yields:
          Blocks without end; those of the same columns are consecutive in time. Close the iterator to free host games.
        """
        keys = _keys(self._plan, seed)
        if not registry.is_host(self._family):
            carry, start = self._begin(keys), 0
            while True:
                carry, rows = self._block(self._config, agent_state, keys, carry, jnp.int32(start))
                yield Block(slice(0, self._num_envs), *jax.device_get(rows))
                start += BLOCK_LENGTH
        groups, seeds = 2 if self._num_envs % 2 == 0 else 1, pool_seeds(self._plan.seeds, seed)
        with self._family.make_pool(self._id, self._plan.options, seeds, self._num_envs, groups) as pool:
            act = functools.partial(self._act, self._config, agent_state, keys)
            yield from _play_pool(pool, act, self._observations)


def _keys(plan: Plan, seed: int) -> Array:
    """Typed base keys [S] of an evaluation, a stream of their own under each seed's key."""
    return jax.vmap(lambda key: rng.at(rng.stream(key, "evaluation"), seed))(seed_keys(plan))


def pool_seeds(training_seeds: tuple[int, ...], seed: int) -> list[int]:
    """Seeds of an evaluation's host games: different for different seeds, and none that the run was trained with."""
    taken, found = set(training_seeds), {}
    for number in dict.fromkeys(training_seeds):
        chosen = zlib.crc32(f"evaluation {seed} of {number}".encode()) % 2**31
        while chosen in taken:
            chosen = (chosen + 1) % 2**31
        taken.add(chosen)
        found[number] = chosen
    return [found[number] for number in training_seeds]


def _actor(agent: Agent, spec: EnvSpec, greedy: bool) -> Callable[..., Array]:
    """(config, state, key, observation [n, ...], t, first) -> actions [n, ...] of one seed at step t."""
    end_of_training = Clock(jnp.int32(1), jnp.int32(1))
    explore = not (greedy or agent.plays_greedily)

    def act(config: Any, state: PyTree, key: Array, observation: Array, t: Array, first: Array | int = 0) -> Array:
        keys = in_graph.action_keys(key, 0, t, observation.shape[0], first)
        return agent.act(config, spec, state, observation, keys, end_of_training, explore)[0]

    return act


def _in_graph(
    agent: Agent, environment: Environment, num_envs: int, greedy: bool, observations: bool
) -> tuple[Callable[[Array], PyTree], Callable[..., tuple[PyTree, PyTree]]]:
    """(begin, block): keys [S] -> carry [S, ...], and a block of steps of one seed."""
    act = _actor(agent, environment.spec, greedy)

    @jax.jit
    def begin(keys: Array):
        reset_keys = jax.vmap(lambda key: rng.per_environment(rng.at(rng.stream(key, "reset"), 0), num_envs))(keys)
        return jax.vmap(jax.vmap(environment.reset))(reset_keys)

    def block(config: Any, state: PyTree, key: Array, carry: PyTree, start: Array):
        def step(carry, t):
            environment_state, observation = carry
            action = act(config, state, key, observation, t)
            keys_step = rng.per_environment(rng.at(rng.stream(key, "environment"), t), num_envs)
            environment_state, timestep = jax.vmap(environment.step)(keys_step, environment_state, action)
            row = (
                observation if observations else None,
                timestep.reward,
                timestep.terminated | timestep.truncated,
                timestep.valid,
            )
            return (environment_state, timestep.observation), row

        return jax.lax.scan(step, carry, start + jnp.arange(BLOCK_LENGTH, dtype=jnp.int32))

    return begin, block


def _play_pool(pool: Pool, act: Callable[..., Array], observations: bool) -> Iterator[Block]:
    """Blocks of one step; `act` is (observation [S, n, ...], t, first) -> actions [S, n, ...]."""
    size = pool.num_envs // pool.num_groups
    columns = [slice(group * size, (group + 1) * size) for group in range(pool.num_groups)]
    acted_on: list[np.ndarray | None] = [None] * pool.num_groups

    def send(group: int, observation: np.ndarray, t: int) -> None:
        if observations:
            acted_on[group] = observation[:, None].copy()  # the pool will write over it
        first = np.int32(columns[group].start)
        pool.send(group, np.asarray(act(observation, np.int32(t), first)))

    for group in range(pool.num_groups):
        send(group, pool.reset(group), 0)
    t = 0
    while True:
        t += 1
        for group in range(pool.num_groups):
            timestep = pool.recv(group)
            done = np.asarray(timestep.terminated) | timestep.truncated
            valid = None if timestep.valid is None else np.array(timestep.valid)[:, None]
            yield Block(columns[group], acted_on[group], np.array(timestep.reward)[:, None], done[:, None], valid)
            send(group, timestep.observation, t)


# --- counting --------------------------------------------------------------------------------------------------------


class EpisodeBook:
    """Counts the first E episodes of each of S x N environments; all that come after them are ignored.

    Attributes:
      returns, lengths: float64 and int64 [S, N, E], as far as they have ended.
      ended: int64 [S, N], how many have.
    """

    def __init__(self, num_seeds: int, num_envs: int, episodes: int):
        self.returns = np.zeros((num_seeds, num_envs, episodes))
        self.lengths = np.zeros((num_seeds, num_envs, episodes), np.int64)
        self.ended = np.zeros((num_seeds, num_envs), np.int64)
        self.steps = np.zeros(num_envs, np.int64)
        self._return = np.zeros((num_seeds, num_envs))
        self._length = np.zeros((num_seeds, num_envs), np.int64)
        self._episodes = episodes

    def add(self, block: Block) -> None:
        """Follows the episodes through a block of consecutive steps."""
        valid = np.ones(block.done.shape, bool) if block.valid is None else block.valid
        for t in range(block.done.shape[1]):
            self._add_step(block.columns, block.reward[:, t], block.done[:, t] & valid[:, t], valid[:, t])
        self.steps[block.columns] += block.done.shape[1]

    def _add_step(self, columns: slice, reward: np.ndarray, done: np.ndarray, valid: np.ndarray) -> None:
        returns, lengths, ended = self._return[:, columns], self._length[:, columns], self.ended[:, columns]
        returns += np.where(valid, reward, 0)
        lengths += valid
        if not done.any():
            return
        s, n = np.nonzero(done & (ended < self._episodes))
        self.returns[:, columns][s, n, ended[s, n]] = returns[s, n]
        self.lengths[:, columns][s, n, ended[s, n]] = lengths[s, n]
        ended[s, n] += 1
        returns[done], lengths[done] = 0, 0

    @property
    def complete(self) -> bool:
        """Whether every environment has ended its E episodes."""
        return bool(self.ended.min() >= self._episodes)


def evaluate_agent(
    plan: Plan,
    agent_state: PyTree,
    *,
    episodes: int = 10,
    num_envs: int | None = None,
    greedy: bool = False,
    seed: int = 0,
    max_steps: int | None = None,
    report: Callable[[int, int], None] | None = None,
    player: Player | None = None,
) -> Episodes:
    """Plays `episodes` episodes of every environment, and counts them all.

    Args:
      plan, agent_state, greedy, seed: as in `Player`.
      episodes: E, of every environment.
      num_envs: N, environments of each seed; None for as many as in training.
      max_steps: of every environment, before giving up (up to a block later); None for MOST_STEPS_PER_EPISODE an
        episode.
      report: called now and then with the numbers of episodes that have ended and that are wanted.
      player: one that is there already, of the same plan, num_envs and greedy.

    Returns:
      Episodes [S, N, E].

    Raises:
      PurerlError: impossible sizes, or episodes that do not end.
    """
    num_envs = plan.config.num_envs if num_envs is None else num_envs
    limit = episodes * MOST_STEPS_PER_EPISODE if max_steps is None else max_steps
    for name, value in (("episodes", episodes), ("num_envs", num_envs), ("max_steps", limit)):
        if value < 1:
            raise PurerlError(f"{name} = {value} must be at least 1")
    if not 0 <= seed < 2**31:
        raise PurerlError(f"seed = {seed} must be from 0 to {2**31 - 1}")
    book = EpisodeBook(len(plan.seeds), num_envs, episodes)
    player = player or Player(plan, num_envs=num_envs, greedy=greedy)
    with contextlib.closing(player.play(agent_state, seed)) as blocks:
        for block in blocks:
            book.add(block)
            if report is not None:
                report(int(book.ended.sum()), book.ended.size * episodes)
            if book.complete:
                break
            if book.steps.min() >= limit:
                raise PurerlError(
                    f"after {book.steps.min()} steps of every environment, one of {plan.env} has ended only "
                    f"{book.ended.min()} of its {episodes} episodes: raise --max-steps, or ask for fewer --episodes"
                )
    return Episodes(book.returns, book.lengths)


# --- a run folder's evaluation ---------------------------------------------------------------------------------------


def evaluate(
    folder: str | Path,
    *,
    episodes: int = 10,
    num_envs: int | None = None,
    greedy: bool = False,
    seed: int = 0,
    env_options: dict[str, Any] | None = None,
    max_steps: int | None = None,
    out: str | Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run, and writes the result to <folder>/eval.json.

    Args:
      folder: of the run.
      episodes, num_envs, greedy, seed, max_steps, report: as in `evaluate_agent`.
      env_options: environment options over those of the training, e.g. {"num_levels": 0} for Procgen's test levels.
      out: another file to write to.

    Returns:
      agent, env, preset, iteration and step of the checkpoint; env_options and, of those, changed_env_options {name:
      [in training, here]}; greedy, seed, num_envs, episodes_per_environment; per_seed [{seed, mean, std, episodes,
      length, normalized}]; return {iqm, mean over the seeds, their 95% bootstrap intervals, None of one seed};
      normalized_return, the same of Procgen's normalised return or Atari's human-normalised score (None elsewhere);
      episode_length, their mean; and
      environment, what it ran on.

    Raises:
      PurerlError: no run or checkpoint there, an unknown option, episodes that do not end, a failed write.
    """
    folder = Path(folder)
    compilation.enable_cache()
    trained, plan, state, iteration = open_for_evaluation(folder, env_options)
    num_envs = plan.config.num_envs if num_envs is None else num_envs
    played = evaluate_agent(
        plan, state, episodes=episodes, num_envs=num_envs, greedy=greedy, seed=seed, max_steps=max_steps, report=report
    )
    before, now = configs.to_dict(trained.options), configs.to_dict(plan.options)
    result = {
        "agent": plan.agent,
        "env": plan.env,
        "preset": plan.preset,
        "iteration": iteration,
        "step": iteration * plan.steps_per_iteration,
        "env_options": now,
        "changed_env_options": {name: [before[name], now[name]] for name in now if before[name] != now[name]},
        "greedy": greedy or registry.agent(plan.agent).plays_greedily,
        "seed": seed,
        "num_envs": num_envs,
        "episodes_per_environment": episodes,
        **summarize(plan, played),
        "environment": provenance.environment_report(),
    }
    files.write_json(folder / run_folder.EVALUATION if out is None else out, result)
    return result


def open_for_evaluation(folder: Path, env_options: dict[str, Any] | None) -> tuple[Plan, Plan, PyTree, int]:
    """Of a run folder: (its plan, the plan with other environment options, the agent's State [S, ...], iteration)."""
    plan, _, spec, _, load = open_run(folder)
    family, _ = registry.environment(plan.env)
    values = {field.name: getattr(plan.options, field.name) for field in dataclasses.fields(plan.options)}
    options = configs.build(family.Options, values | (env_options or {}), plan.env)
    if registry.env_spec(plan.env, options) != spec:
        raise PurerlError(f"with these options {plan.env} has other observations or actions than it was trained on")
    with checkpoint.Checkpoints(folder / run_folder.CHECKPOINTS) as saved:
        iteration, _ = saved.read_metadata()
    return plan, dataclasses.replace(plan, options=options), load(), iteration


def summarize(plan: Plan, played: Episodes) -> dict[str, Any]:
    """The numbers of an evaluation: `per_seed`, `return`, `normalized_return` and `episode_length` (see `evaluate`)."""
    returns = played.returns.reshape(len(plan.seeds), -1)
    means = returns.mean(axis=1)
    scored = registry.score(plan.env, plan.options, means)
    kind, normalized = (None, None) if scored is None else scored
    per_seed = [
        {
            "seed": seed,
            "mean": float(means[lane]),
            "std": float(returns[lane].std()),
            "episodes": returns.shape[1],
            "length": float(played.lengths[lane].mean()),
            "normalized": None if normalized is None else float(normalized[lane]),
        }
        for lane, seed in enumerate(plan.seeds)
    ]
    return {
        "per_seed": per_seed,
        "return": _over_seeds(means),
        "normalized_return": None if normalized is None else _over_seeds(normalized),
        "normalization": kind,
        "episode_length": float(played.lengths.mean()),
    }


def _over_seeds(values: np.ndarray) -> dict[str, Any]:
    """Aggregates of one number per seed [S], with 95% bootstrap intervals; one seed has none."""
    statistics = {"iqm": stats.interquartile_mean, "mean": np.mean}
    numbers = {name: float(statistic(values)) for name, statistic in statistics.items()}
    intervals = {
        f"{name}_interval_95": None if len(values) < 2 else list(stats.stratified_bootstrap_interval(values, statistic))
        for name, statistic in statistics.items()
    }
    return numbers | intervals


def first_seed(plan: Plan, agent_state: PyTree) -> tuple[Plan, PyTree]:
    """The run of the first seed alone: its plan, and its State [1, ...]."""
    config = jax.tree.map(lambda x: np.asarray(x)[:1] if np.ndim(x) else x, plan.config)
    plan = dataclasses.replace(plan, seeds=plan.seeds[:1], config=config)
    return plan, jax.tree.map(lambda x: x[:1], agent_state)


def make_evaluations(the_plan: Plan, recording: Recording) -> Evaluations | None:
    """The evaluations that a run's recording asks for; None for none. Raises PurerlError for unknown options."""
    if not recording.eval_every:
        return None
    options = configs.build(
        type(the_plan.options), configs.to_dict(the_plan.options) | (recording.eval_env_options or {}), the_plan.env
    )
    the_plan = dataclasses.replace(the_plan, options=options)
    return Evaluations(the_plan, recording.eval_every, recording.eval_episodes)


class Evaluations:
    """Evaluates an agent in the course of its training, each time with another seed.

    Args:
      the_plan: the run's, with the evaluation's own environment options.
      every: environment steps of each seed between evaluations.
      episodes: of every environment in each of them.
    """

    def __init__(self, the_plan: Plan, every: int, episodes: int):
        self._plan, self._every, self._episodes = the_plan, every, episodes
        self._player = Player(the_plan, num_envs=the_plan.config.num_envs)
        self._evaluate = evaluate_agent

    def returns(self, state: RunState, before: int, now: int) -> list[float | None]:
        """Mean returns of each seed at step `now`, if one is due there; the row before was at step `before`."""
        number = now // self._every
        if number == before // self._every:
            return [None] * len(self._plan.seeds)
        found = self._evaluate(self._plan, state.agent, episodes=self._episodes, seed=number, player=self._player)
        return np.mean(found.returns, axis=(1, 2)).tolist()
