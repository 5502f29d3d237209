"""Evaluates a trained agent: plays a fixed number of episodes of every environment, and aggregates their returns.

Every environment plays the same number of episodes, and all of them count. The first episodes to finish would be a
biased sample, because they are the short ones. Evaluation has its own random streams and never changes the state of a
run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import arguments, configs, registry, rng
from purerl import statistics as stats
from purerl.errors import PurerlError, shown
from purerl.loops import compilation, play
from purerl.runs import checkpoint, estimates, files, provenance, run_folder
from purerl.runs.plan import Plan, seed_keys
from purerl.runs.policy import best_marks, open_run
from purerl.runs.recording import Recording
from purerl.types import Agent, PyTree, RunState

# Longer than any episode of the environment families here (Atari: 27,000 steps of four frames).
MOST_STEPS_PER_EPISODE = 30_000


class TooLong(PurerlError):
    """Episodes that have not ended within the steps of an evaluation."""


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The first E episodes of each environment: raw, undiscounted returns float64, lengths int64, both [S, N, E]."""

    returns: np.ndarray
    lengths: np.ndarray


# --- playing ---------------------------------------------------------------------------------------------------------


class Player:
    """Plays with an agent of a run. It compiles once, even if the parameters change between plays.

    Args:
      plan: the run's plan, with the options of the environments to play.
      num_envs: N, environments of each seed.
      greedy: whether to take the most likely actions instead of sampled ones.
      observations: whether blocks contain what `picture` takes.
      agent: who plays, with the plan's config; None for the plan's agent.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        num_envs: int,
        greedy: bool = False,
        observations: bool = False,
        agent: Agent | None = None,
    ):
        self._plan = plan
        agent, config = agent or registry.agent(plan.agent), configs.traced(plan.config)
        family, env_id = registry.environment(plan.env)
        self._render: Callable[[Any], np.ndarray] | None = None
        self._picture = functools.partial(getattr(family, "picture", _itself), plan.options)
        how = {
            "num_envs": num_envs,
            "explore": not (greedy or agent.plays_greedily),
            "observations": observations,
            "lanes": plan.lanes,
        }
        if registry.is_host(family):
            draws = {"draws": True} if observations and getattr(family, "DRAWS", False) else {}
            make_pool = functools.partial(family.make_pool, env_id, plan.options, **draws)
            self._player = play.PoolPlayer(agent, family.spec(env_id, plan.options), config, make_pool, **how)
        else:
            if observations and hasattr(family, "renderer"):
                self._render = family.renderer(env_id, plan.options)
            environment = family.make(env_id, plan.options)
            self._player = play.GraphPlayer(agent, environment, config, states=self._render is not None, **how)

    def play(self, agent_state: PyTree, seed: int = 0) -> Generator[play.Block, None, None]:
        """Plays without end, from first observations.

        Args:
          agent_state: the agent's State [S, ...].
          seed: seeds all random numbers of the play; they are independent of those of training.

        Yields:
          Blocks without end; those of the same columns are consecutive in time. Close the iterator to free host
          environments.
        """
        keys = jax.vmap(lambda key: rng.evaluation_key(key, seed))(seed_keys(self._plan))
        return self._player.play(agent_state, keys, pool_seeds(self._plan.seeds, seed))

    def picture(self, block: play.Block, lane: int, t: int, column: int) -> np.ndarray:
        """What a video shows of one step of a block: what the environment's own renderer draws, or the observation.

        Raises PurerlError if a family's renderer gives anything but uint8 [H, W, 3].
        """
        acted_on = jax.tree.map(lambda x: x[lane, t, column], block.observation)
        if self._render is None:
            return np.array(self._picture(acted_on))
        found = self._render(acted_on)
        if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 3 or found.shape[-1] != 3:
            what = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else shown(found)
            raise PurerlError(
                f"the renderer of {self._plan.env} gave {what}: it must give a numpy array uint8 [H, W, 3]"
            )
        return found


def _itself(options: Any, observation: np.ndarray) -> np.ndarray:
    return observation


def pool_seeds(training_seeds: tuple[int, ...], seed: int) -> list[int]:
    """Seeds of the environments' own random numbers in an evaluation: all different, and none of the training's."""
    taken, found = set(training_seeds), {}
    for number in dict.fromkeys(training_seeds):
        candidate = zlib.crc32(f"evaluation {seed} of {number}".encode()) % 2**31
        while candidate in taken:
            candidate = (candidate + 1) % 2**31
        taken.add(candidate)
        found[number] = candidate
    return [found[number] for number in training_seeds]


# --- counting --------------------------------------------------------------------------------------------------------


class EpisodeBook:
    """Records the first E episodes of each of S x N environments; later episodes are ignored.

    Attributes:
      returns, lengths: float64 and int64 [S, N, E], filled for the episodes that have ended.
      ended: int64 [S, N], the number of ended episodes.
    """

    def __init__(self, num_seeds: int, num_envs: int, episodes: int):
        self.returns = np.zeros((num_seeds, num_envs, episodes))
        self.lengths = np.zeros((num_seeds, num_envs, episodes), np.int64)
        self.ended = np.zeros((num_seeds, num_envs), np.int64)
        self.steps = np.zeros(num_envs, np.int64)
        self._return = np.zeros((num_seeds, num_envs))
        self._length = np.zeros((num_seeds, num_envs), np.int64)
        self._episodes = episodes

    def add(self, block: play.Block) -> None:
        """Adds a block of consecutive steps."""
        for t in range(block.done.shape[1]):
            self._add_step(block.columns, block.reward[:, t], block.done[:, t])
        self.steps[block.columns] += block.done.shape[1]

    def _add_step(self, columns: slice, reward: np.ndarray, done: np.ndarray) -> None:
        returns, lengths, ended = self._return[:, columns], self._length[:, columns], self.ended[:, columns]
        returns += reward
        lengths += 1
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
    """Plays `episodes` episodes of every environment, and returns them all.

    Args:
      plan, agent_state, greedy, seed: as in `Player`.
      episodes: E, of every environment.
      num_envs: N, environments of each seed; None for as many as in training.
      max_steps: steps of every environment after which the evaluation fails (up to one block later); None for
        MOST_STEPS_PER_EPISODE per episode.
      report: called at intervals with the number of ended episodes and the number of all episodes.
      player: an existing Player of the same plan, num_envs and greedy; None to create one.

    Returns:
      Episodes [S, N, E].

    Raises:
      PurerlError: impossible sizes.
      TooLong (a PurerlError): episodes that do not end.
    """
    num_envs = int(plan.config.num_envs if num_envs is None else num_envs)
    # The steps of an evaluation are counted in an int32 (random numbers are drawn for them).
    limit = min(episodes * MOST_STEPS_PER_EPISODE if max_steps is None else max_steps, 2**31 - 1 - play.BLOCK_LENGTH)
    check_sizes(episodes, num_envs, limit, seed)
    estimates.check_evaluation(plan, num_envs, episodes)
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
                raise TooLong(
                    f"after {book.steps.min()} steps of every environment, one of {plan.env} has ended only "
                    f"{book.ended.min()} of its {episodes} episodes: raise --max-steps, or ask for fewer --episodes"
                )
    return Episodes(book.returns, book.lengths)


def check_sizes(episodes: int, num_envs: int | None, max_steps: int | None, seed: int) -> None:
    """Raises PurerlError for impossible arguments of `evaluate_agent`."""
    for name, value in (("episodes", episodes), ("num_envs", num_envs)):
        if value is not None:
            arguments.in_range(name, value, 1, 2**31 - 1)
    if max_steps is not None:
        arguments.in_range("max_steps", max_steps, 1)
    arguments.in_range("seed", seed, 0, 2**31 - 1)


# --- a run folder's evaluation ---------------------------------------------------------------------------------------


@arguments.checked
def evaluate(
    folder: str | Path,
    *,
    episodes: int = 10,
    num_envs: int | None = None,
    greedy: bool = False,
    seed: int = 0,
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    best: bool = False,
    max_steps: int | None = None,
    out: str | Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run, and writes the result to <folder>/eval.json.

    Args:
      folder: the run folder.
      episodes, num_envs, greedy, seed, max_steps, report: as in `evaluate_agent`.
      env: another environment to play in, with the same observations and actions, e.g. "procgen/maze" after training
        in "procgen-jax/maze"; None for that of training. Options that both have keep the values of training.
      env_options: environment options that replace those of training, e.g. {"num_levels": 0} for Procgen's test levels.
      best: the best parameters of each seed by its training return (see `best`) instead of the newest ones.
      out: another file to write to.

    Returns:
      a dict of
        agent, preset, training_env; env, where it played; iteration and step of the newest checkpoint;
        best, with that argument: the step and the training return of each seed's best parameters;
        env_options, and changed_env_options {name: [in training, here]};
        greedy, seed, num_envs, episodes_per_environment;
        per_seed [{seed, mean, std, episodes, length, normalized}];
        return {iqm and mean over the seeds, their 95% bootstrap intervals (None for one seed)};
        normalized_return, the same for Procgen's normalised return or Atari's human-normalised score (None elsewhere);
        episode_length, the mean length;
        environment, the versions and the device.

    Raises:
      PurerlError: no run, no checkpoint or no best parameters in the folder, an unknown option, an environment of other
        observations or actions, episodes that do not end, a failed write.
    """
    folder = Path(folder)
    check_sizes(episodes, num_envs, max_steps, seed)
    target = folder / run_folder.EVALUATION if out is None else Path(out)
    files.check_name(target)
    compilation.enable_cache()
    trained, plan, state, iteration = open_for_evaluation(folder, env, env_options, best)
    num_envs = plan.config.num_envs if num_envs is None else num_envs
    played = evaluate_agent(
        plan, state, episodes=episodes, num_envs=num_envs, greedy=greedy, seed=seed, max_steps=max_steps, report=report
    )
    before, now = configs.to_dict(trained.options), configs.to_dict(plan.options)
    result = {
        "agent": plan.agent,
        "env": plan.env,
        "training_env": trained.env,
        "preset": plan.preset,
        "iteration": iteration,
        "step": iteration * plan.steps_per_iteration,
        **({"best": best_marks(folder)} if best else {}),
        "env_options": now,
        "changed_env_options": {
            name: [before[name], now[name]] for name in now if name in before and before[name] != now[name]
        },
        "greedy": greedy or registry.agent(plan.agent).plays_greedily,
        "seed": seed,
        "num_envs": num_envs,
        "episodes_per_environment": episodes,
        **summarize(plan, played),
        "environment": provenance.environment_report(),
    }
    files.write_json(target, result)
    return result


def open_for_evaluation(
    folder: Path,
    env: str | None,
    env_options: dict[str, Any] | None,
    best: bool = False,
    needed: slice = slice(None),
    whole_state: bool = False,
) -> tuple[Plan, Plan, PyTree, int]:
    """Opens a run folder: (its plan, the plan in `env` with `env_options`, the agent's State [S, ...], iteration).

    `best`, `needed` and `whole_state` as in `open_run`.
    """
    trained, _, spec, _, load = open_run(folder, best, needed, whole_state)
    plan = trained if env is None else trained.with_env(env)
    values = {field.name: getattr(plan.options, field.name) for field in dataclasses.fields(plan.options)}
    options = configs.build(type(plan.options), values | (env_options or {}), plan.env)
    if dataclasses.replace(registry.env_spec(plan.env, options), name=spec.name) != spec:
        raise PurerlError(
            f"with these options {plan.env} has other observations or actions than in training: "
            "leave out the options that change them"
            if plan.env == trained.env
            else f"{plan.env} has other observations or actions than {trained.env} had in training"
        )
    with checkpoint.Checkpoints(folder / run_folder.CHECKPOINTS) as saved:
        iteration, _ = saved.read_metadata()
    return trained, dataclasses.replace(plan, options=options), load(), iteration


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
        "return": over_seeds(means),
        "normalized_return": None if normalized is None else over_seeds(normalized),
        "normalization": kind,
        "episode_length": float(played.lengths.mean()),
    }


def over_seeds(values: np.ndarray) -> dict[str, Any]:
    """Aggregates one number per seed [S], with 95% bootstrap intervals (None for one seed)."""
    statistics = {"iqm": stats.interquartile_mean, "mean": np.mean}
    numbers = {name: float(statistic(values)) for name, statistic in statistics.items()}
    intervals = {
        f"{name}_interval_95": None if len(values) < 2 else list(stats.stratified_bootstrap_interval(values, statistic))
        for name, statistic in statistics.items()
    }
    return numbers | intervals


def make_evaluations(the_plan: Plan, recording: Recording) -> Evaluations | None:
    """The evaluations of a run's recording; None if there are none. Raises PurerlError for unknown options."""
    if not recording.eval_every:
        return None
    options = configs.build(
        type(the_plan.options), configs.to_dict(the_plan.options) | (recording.eval_env_options or {}), the_plan.env
    )
    the_plan = dataclasses.replace(the_plan, options=options)
    return Evaluations(the_plan, recording.eval_every, recording.eval_episodes)


class Evaluations:
    """Evaluates an agent during its training, each time with another seed.

    Args:
      the_plan: the run's plan, with the environment options of the evaluation.
      every: environment steps of each seed between evaluations.
      episodes: episodes of every environment in each evaluation.
    """

    def __init__(self, the_plan: Plan, every: int, episodes: int):
        self._plan, self._every, self._episodes = the_plan, every, episodes
        self._player = Player(the_plan, num_envs=the_plan.config.num_envs)
        self._evaluate = evaluate_agent

    def returns(self, state: RunState, before: int, now: int) -> list[float | None]:
        """Mean returns of each seed at step `now`, if an evaluation is due since the last row at step `before`."""
        number = now // self._every
        if number == before // self._every:
            return [None] * len(self._plan.seeds)
        found = self._evaluate(self._plan, state.agent, episodes=self._episodes, seed=number, player=self._player)
        return np.mean(found.returns, axis=(1, 2)).tolist()
