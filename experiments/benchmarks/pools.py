"""Measures what host pools cost: frames that land in a device's rollout buffer, against bare calls of the library."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs import atari, procgen
from purerl.envs.gym import family
from purerl.envs.pool_guard import usable_cores
from purerl.types import Pool

if TYPE_CHECKING:
    import gymnasium

PROCGEN_GAMES = ("coinrun", "starpilot", "bigfish")
ATARI_GAMES = ("Pong", "Breakout", "SpaceInvaders")
NUM_GROUPS = 2
ROLLOUT_LENGTH = 256

Stepper = Callable[[], None]


def procgen_pool(seconds_per_repeat: float = 2.0, repeats: int = 5) -> dict:
    """64 easy games of coinrun, starpilot and bigfish; see `_against_bare`. Bare is libenv's act and observe."""
    num_envs = 64

    def bare(game: str, threads: int, stack: contextlib.ExitStack) -> Stepper:
        buffers = procgen.Buffers.empty((num_envs,))
        games = procgen.Games(game, procgen.Options(distribution_mode="easy"), 0, threads, buffers)
        stack.callback(games.close)
        actions = _random_actions(num_envs, 15)

        def step_rollout() -> None:
            for action in actions:
                np.copyto(buffers.action, action[0])
                games.act()
                games.observe()

        return step_rollout

    def pool(game: str) -> Pool:
        return procgen.make_pool(game, procgen.Options(distribution_mode="easy"), [0], num_envs, NUM_GROUPS)

    return _against_bare(PROCGEN_GAMES, num_envs, pool, bare, seconds_per_repeat, repeats)


def atari_pool(seconds_per_repeat: float = 2.0, repeats: int = 5) -> dict:
    """32 games of Pong, Breakout and SpaceInvaders; see `_against_bare`. Bare is ale-py's AtariVectorEnv."""
    num_envs = 32

    def bare(game: str, threads: int, stack: contextlib.ExitStack) -> Stepper:
        games = atari.vector_environment(game, atari.Options(num_threads=threads), num_envs)
        games.reset(seed=0)
        actions = _random_actions(num_envs, int(games.single_action_space.n))

        def step_rollout() -> None:
            for action in actions:
                games.send(action[0])
                games.recv()

        return step_rollout

    def pool(game: str) -> Pool:
        return atari.make_pool(game, atari.Options(), [0], num_envs, NUM_GROUPS)

    return _against_bare(ATARI_GAMES, num_envs, pool, bare, seconds_per_repeat, repeats)


GYM_GAMES = ("Hopper-v5", "HalfCheetah-v5", "CartPole-v1")


def gym_pool(seconds_per_repeat: float = 2.0, repeats: int = 5) -> dict:
    """16 environments of Hopper, HalfCheetah and CartPole, stepped with random actions in three ways that take turns:

    - pool: two groups; every observation is written into a rollout buffer on the device, as in `_against_bare`.
    - async: gymnasium's AsyncVectorEnv with shared memory, one process for each environment. Nothing is copied out.
    - sync: gymnasium's SyncVectorEnv, in this process.

    Returns {environment: {way: environment steps per second, "ratio": pool / async, "ratio_sync"}} and the setting; see
    `_in_turns`.
    """
    import gymnasium

    num_envs = 16

    def vector(name: str, mode: gymnasium.VectorizeMode, stack: contextlib.ExitStack) -> Stepper:
        how = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        games = gymnasium.make_vec(name, num_envs, vectorization_mode=mode, vector_kwargs=how)
        stack.callback(games.close)
        games.reset(seed=0)
        actions = _of_space(games.single_action_space, num_envs)

        def step_rollout() -> None:
            for action in actions:
                games.step(action[0])

        return step_rollout

    def contenders(name: str, stack: contextlib.ExitStack) -> dict[str, Stepper]:
        pool = stack.enter_context(family.make_pool(name, family.Options(), [0], num_envs, NUM_GROUPS))
        of_group = _of_space(gymnasium.make(name).action_space, num_envs // NUM_GROUPS)
        return {
            "pool": _pool_stepper(pool, [of_group] * NUM_GROUPS),
            "async": vector(name, gymnasium.VectorizeMode.ASYNC, stack),
            "sync": vector(name, gymnasium.VectorizeMode.SYNC, stack),
        }

    return _in_turns(
        GYM_GAMES, num_envs, contenders, {"ratio": "async", "ratio_sync": "sync"}, seconds_per_repeat, repeats
    )


def _of_space(space: gymnasium.Space, num_envs: int) -> np.ndarray:
    """Actions [T, 1, num_envs, ...] of a gymnasium space, the same every time."""
    if space.shape == ():
        return _random_actions(num_envs, int(space.n))
    shape = (ROLLOUT_LENGTH, 1, num_envs, *space.shape)
    return np.random.default_rng(0).uniform(space.low, space.high, shape).astype(space.dtype)


def _against_bare(
    games: Sequence[str],
    num_envs: int,
    make_pool: Callable[[str], Pool],
    make_bare: Callable[[str, int, contextlib.ExitStack], Stepper],
    seconds_per_repeat: float,
    repeats: int,
) -> dict:
    """Steps games with random actions, in three ways that take turns:

    - pool: two groups, each with one thread per core; every observation is written into a rollout buffer
      [256, 1, N, ...] on the device by one jitted, donated call, which also hands out the actions.
    - bare: the library's own calls for all games, with one thread per core. No frame is read.
    - bare_all_threads: the same with as many threads as the pool's two groups have together.

    On a CPU "device" the pool's copying of frames runs on the very cores that step the games; bare copies nothing.

    Returns {game: {"pool": environment steps per second, "bare": ..., "bare_all_threads": ..., "ratio",
    "ratio_all_threads"}} and the setting; see `_in_turns`.
    """
    cores = usable_cores()

    def contenders(game: str, stack: contextlib.ExitStack) -> dict[str, Stepper]:
        return {
            "pool": _pool_stepper(stack.enter_context(make_pool(game))),
            "bare": make_bare(game, cores, stack),
            "bare_all_threads": make_bare(game, cores * NUM_GROUPS, stack),
        }

    peers = {"ratio": "bare", "ratio_all_threads": "bare_all_threads"}
    return _in_turns(games, num_envs, contenders, peers, seconds_per_repeat, repeats)


def _in_turns(
    games: Sequence[str],
    num_envs: int,
    make: Callable[[str, contextlib.ExitStack], dict[str, Stepper]],
    peers: dict[str, str],
    seconds_per_repeat: float,
    repeats: int,
) -> dict:
    """{game: {way: environment steps per second, ratio: the pool's over its peer's}} and the setting.

    Rates are medians over the repeats. Ratios are medians of each repeat's own ratio, so that a machine slowed down
    for a while by others does not tilt them.
    """
    result: dict = {
        "device": jax.devices()[0].device_kind,
        "cores": usable_cores(),
        "num_envs": num_envs,
        "num_groups": NUM_GROUPS,
        "load": [os.getloadavg()[0]],
    }
    for game in games:
        with contextlib.ExitStack() as stack:
            contenders = make(game, stack)
            rates: dict[str, list[float]] = {name: [] for name in contenders}
            for step_rollout in contenders.values():
                _rate(step_rollout, num_envs, 0.0)  # compiles, and gets every game out of its first episode's beginning
            for _ in range(repeats):
                for name, step_rollout in contenders.items():
                    rates[name].append(_rate(step_rollout, num_envs, seconds_per_repeat))
        result[game] = {name: statistics.median(values) for name, values in rates.items()}
        for ratio, peer in peers.items():
            pairs = zip(rates["pool"], rates[peer], strict=True)
            result[game][ratio] = statistics.median(ours / theirs for ours, theirs in pairs)
    result["load"].append(os.getloadavg()[0])
    return result


def _rate(step_rollout: Stepper, num_envs: int, seconds: float) -> float:
    """Environment steps per second of whole rollouts, as many as take `seconds`."""
    rollouts, start = 0, time.perf_counter()
    while True:
        step_rollout()
        rollouts += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return rollouts * ROLLOUT_LENGTH * num_envs / elapsed


def _random_actions(num_envs: int, num_actions: int) -> np.ndarray:
    """Actions [T, 1, num_envs], the same every time."""
    return np.random.default_rng(0).integers(0, num_actions, (ROLLOUT_LENGTH, 1, num_envs), dtype=np.int32)


@functools.partial(jax.jit, donate_argnums=0)
def _store(rollout: jax.Array, observation: jax.Array, t: jax.Array, first: jax.Array, actions: jax.Array):
    """Writes a group's observation [1, M, ...] at row t; gives the actions back as the program's own output."""
    corner = (t, 0, first, *[0] * (observation.ndim - 2))
    return jax.lax.dynamic_update_slice(rollout, observation[None], corner), actions


def _pool_stepper(pool: Pool, of_groups: Sequence[np.ndarray] | None = None) -> Stepper:
    """A function that steps the pool through one rollout, a group always stepping while the other is served.

    `of_groups` are the actions [T, 1, M, ...] of each group; None for random ones of a game with discrete actions.
    """
    size = pool.num_envs // NUM_GROUPS
    if of_groups is None:
        of_groups = [_random_actions(size, pool.spec.num_actions) for _ in range(NUM_GROUPS)]
    groups = [(group, np.int32(group * size), actions) for group, actions in enumerate(of_groups)]
    shape = (ROLLOUT_LENGTH, 1, pool.num_envs, *pool.spec.observation_shape)
    rollout = jnp.zeros(shape, pool.spec.observation_dtype)
    for group, _, actions in groups:
        pool.send(group, actions[0])

    def step_rollout() -> None:
        nonlocal rollout
        for t in range(ROLLOUT_LENGTH):
            row = np.int32(t)
            for group, first, actions in groups:
                step = pool.recv(group)
                rollout, chosen = _store(rollout, step.observation, row, first, actions[t])
                pool.send(group, np.asarray(chosen))  # the frames have been read by now: the games may overwrite them
        rollout.block_until_ready()

    return step_rollout
