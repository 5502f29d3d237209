"""Procgen in the graph beside the library: whether both are the same, and how fast each is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs import procgen, procgen_jax
from purerl.envs.procgen_jax import banks, family, states
from purerl.experiments.benchmarks import procgen_players

# --- the same? -------------------------------------------------------------------------------------------------------


class Pair:
    """The same games in the graph and in the library, stepped with the same actions and compared after every step.

    Args:
      game: its id.
      num_envs, seed: how many games, of which seed.
      frames: whether frames are compared too.
      options: of both families.

    Attributes:
      state: [N, ...], the games in the graph.
      steps, ends, solved, rewards: of all games so far.
      levels: the numbers of all levels that were played.
      mismatches: {what is compared: how many games differed in it, over all steps}.
    """

    def __init__(self, game: str, num_envs: int, seed: int, frames: bool = True, **options: Any):
        asked = procgen_jax.Options(**options, observation="frames" if frames else "symbolic")
        request = family.bank_request(game, asked)
        self.game, self.num_envs, self._frames = game, num_envs, frames
        self._bank, self._first_level = banks.bank(request), request.levels[0]
        environment = procgen_jax.make(game, asked)
        self.pool = procgen.make_pool(game, request.options, [seed], num_envs, 1)
        self.state, first = jax.jit(lambda s: environment.begin(s, num_envs))(jnp.uint32(seed))
        self._step = jax.jit(jax.vmap(lambda state, action: environment.step(None, state, action)))
        self.steps = self.ends = self.solved = 0
        self.rewards, self.levels = 0.0, set()
        self.mismatches: dict[str, int] = {}
        if frames:
            self._compare("frame", self.pool.reset(0)[0], first)
        self._compare_states()

    def step(self, action: np.ndarray) -> np.ndarray:
        """Steps both with actions [N], compares all that they show and hold, and returns which episodes ended."""
        self.pool.send(0, action[None].astype(np.int32))
        theirs = self.pool.recv(0)
        self.state, mine = self._step(self.state, jnp.asarray(action, jnp.int32))
        self._compare("reward", theirs.reward[0], mine.reward)
        self._compare("done", theirs.terminated[0], mine.terminated)
        if self._frames:
            self._compare("frame", theirs.observation[0], mine.observation)
        solved = self._compare_states()
        self.steps += self.num_envs
        self.ends += int(theirs.terminated.sum())
        self.solved += int(solved.sum())
        self.rewards += float(theirs.reward.sum())
        return theirs.terminated[0].copy()

    def close(self) -> None:
        """Ends the library's games."""
        self.pool.close()

    def _compare_states(self) -> np.ndarray:
        """Compares what the games hold; returns which of the library's have solved a level in the last step."""
        saved = self.pool.state()
        games = zip(saved["games"][0], saved["lengths"][0], strict=True)
        theirs = [states.parse(blob[:length].tobytes()) for blob, length in games]

        def number(name: str) -> np.ndarray:
            return np.array([state.numbers[name] for state in theirs])

        mine, level = jax.device_get(self.state.game), np.asarray(self.state.level)
        solved = number("level_complete") != 0
        self.levels |= set((self._first_level + level).tolist())
        self._compare("level", number("current_level_seed"), self._first_level + level)
        self._compare("time", number("cur_time"), self.state.time)
        self._compare("level_complete", solved, self.state.level_complete)
        for what, both in procgen_players.compared(self.game, self._bank, level, mine, theirs).items():
            self._compare(what, *both)
        return solved

    def _compare(self, what: str, theirs: np.ndarray, mine: Any) -> None:
        differs = (np.asarray(theirs) != np.asarray(mine)).reshape(self.num_envs, -1).any(axis=1)
        self.mismatches[what] = self.mismatches.get(what, 0) + int(differs.sum())

    def seeking(self) -> np.ndarray:
        """Actions [N] of a player who knows the way."""
        level = np.asarray(self.state.level)
        return procgen_players.seeking(self.game, self._bank, level, jax.device_get(self.state.game))


def play(pair: Pair, num_steps: int, seed: int = 0) -> None:
    """Plays num_steps steps of each game: a third of the games at random, a third seeking the goal in 50% of their
    steps and a third in 85%. A game sometimes repeats one action for long, so that time-outs and walls are met too.
    """
    random = np.random.RandomState(seed)
    share = np.array([0.0, 0.5, 0.85])[np.arange(pair.num_envs) % 3]
    for _ in range(num_steps):
        action = random.randint(0, procgen.NUM_ACTIONS, pair.num_envs)
        seeks = random.rand(pair.num_envs) < share
        pair.step(np.where(seeks, pair.seeking(), action) if seeks.any() else action)


def exactness(
    steps: int = 300_000, num_levels: int = 100, num_envs: int = 60, games: Sequence[str] | None = None
) -> dict[str, Any]:
    """All games, or those given, in easy and hard mode against the library: rewards, ends, level_complete, levels,
    clocks, positions, all that moves or changes, and frames, after every step. Any mismatch is counted.
    """
    found: dict[str, Any] = {"levels": num_levels, "games_at_once": num_envs}
    for game in games or procgen_jax.names():
        for mode, length in (("easy", steps), ("hard", steps // 10)):
            pair = Pair(game, num_envs, seed=1, num_levels=num_levels, distribution_mode=mode)
            play(pair, -(-length // num_envs))
            pair.close()
            found[f"{game}_{mode}"] = {
                "steps": pair.steps,
                "episodes": pair.ends,
                "solved": pair.solved,
                "reward": pair.rewards,
                "levels_played": len(pair.levels),
                "mismatches": pair.mismatches,
            }
    return found


# --- how fast? -------------------------------------------------------------------------------------------------------


def speed(seconds: float = 2.0, repeats: int = 5, num_levels: int = 200) -> dict[str, Any]:
    """Steps per second of random play, easy mode: the library on its threads, and the graph with frames and symbolic,
    at 64 and 1,024 games, taking turns.
    """
    found: dict[str, Any] = {"target_ratio_of_maze_with_frames": 20}
    for game in procgen_jax.names():
        for num_envs in (64, 1024):
            rates: dict[str, list[float]] = {}
            kinds = ("frames", "symbolic")
            steppers = {"library": _library(game, num_envs, num_levels)}
            steppers |= {kind: _graph(game, num_envs, num_levels, kind) for kind in kinds}
            lengths = {name: _length(stepper, seconds) for name, stepper in steppers.items()}
            for _ in range(repeats):
                for name, stepper in steppers.items():
                    rates.setdefault(name, []).append(_rate(stepper, lengths[name]))
            row = {f"{name}_steps_per_second": round(statistics.median(of), 1) for name, of in rates.items()}
            for kind in kinds:
                ratios = [mine / theirs for mine, theirs in zip(rates[kind], rates["library"], strict=True)]
                row[f"{kind}_ratio"] = round(statistics.median(ratios), 2)
            found[f"{game}_{num_envs}_games"] = row
    return found


Stepper = Callable[[int], int]  # plays so many blocks of steps and returns the number of steps


def _library(game: str, num_envs: int, num_levels: int, block: int = 64) -> Stepper:
    pool = procgen.make_pool(
        game, procgen.Options(num_levels=num_levels, distribution_mode="easy"), [0], num_envs, num_groups=2
    )
    actions = np.random.RandomState(0).randint(0, procgen.NUM_ACTIONS, (block, 1, num_envs // 2)).astype(np.int32)

    def play_blocks(blocks: int) -> int:
        for _ in range(blocks):
            for action in actions:
                for group in range(2):
                    pool.send(group, action)
                for group in range(2):
                    pool.recv(group)
        return blocks * block * num_envs

    return play_blocks


def _graph(game: str, num_envs: int, num_levels: int, kind: str, block: int = 64) -> Stepper:
    options = procgen_jax.Options(num_levels=num_levels, distribution_mode="easy", observation=kind)
    environment = procgen_jax.make(game, options)

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        action = jax.random.randint(key, (num_envs,), 0, procgen.NUM_ACTIONS)
        state, timestep = jax.vmap(lambda s, a: environment.step(None, s, a))(carry[0], action)
        # The observation is carried, as the loops do it, so that all of it is made.
        return (state, timestep.observation), timestep.reward.sum()

    @jax.jit
    def blocks_of(carry: Any, key: jax.Array, blocks: int) -> tuple[Any, jax.Array]:
        def one(i: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            carried, rewards = jax.lax.scan(step, carry[0], jax.random.split(jax.random.fold_in(key, i), block))
            return carried, carry[1] + rewards.sum()

        return jax.lax.fori_loop(0, blocks, one, (carry, jnp.float32(0)))

    carry = [jax.jit(lambda: environment.begin(jnp.uint32(0), num_envs))()]

    def play_blocks(blocks: int) -> int:
        carry[0], rewards = blocks_of(carry[0], jax.random.key(0), blocks)
        jax.block_until_ready(rewards)
        return blocks * block * num_envs

    return play_blocks


def _rate(stepper: Stepper, blocks: int) -> float:
    started = time.perf_counter()
    return stepper(blocks) / (time.perf_counter() - started)


def _length(stepper: Stepper, seconds: float) -> int:
    """How many blocks take about that long."""
    stepper(1)  # compiles
    blocks = 1
    while True:
        started = time.perf_counter()
        stepper(blocks)
        spent = time.perf_counter() - started
        if spent > seconds / 2:
            return max(1, round(blocks * seconds / spent))
        blocks *= 4
