"""Measures what host pools cost: frames that land in a device's rollout buffer, against bare calls of the library."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs import atari, procgen
from purerl.envs.pool_guard import usable_cores
from purerl.types import Pool

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

    Returns {game: {"pool": environment steps per second, "bare": ..., "bare_all_threads": ..., "ratio": pool / bare,
    "ratio_all_threads": pool / bare_all_threads}} and the setting. Rates are medians over the repeats. Ratios are
    medians of each repeat's own ratio, so that a machine slowed down for a while by others does not tilt them.
    """
    cores = usable_cores()
    result: dict = {
        "device": jax.devices()[0].device_kind,
        "cores": cores,
        "num_envs": num_envs,
        "num_groups": NUM_GROUPS,
        "load": [os.getloadavg()[0]],
    }
    for game in games:
        with contextlib.ExitStack() as stack:
            contenders = {
                "pool": _pool_stepper(stack.enter_context(make_pool(game))),
                "bare": make_bare(game, cores, stack),
                "bare_all_threads": make_bare(game, cores * NUM_GROUPS, stack),
            }
            rates: dict[str, list[float]] = {name: [] for name in contenders}
            for step_rollout in contenders.values():
                _rate(step_rollout, num_envs, 0.0)  # compiles, and gets every game out of its first episode's beginning
            for _ in range(repeats):
                for name, step_rollout in contenders.items():
                    rates[name].append(_rate(step_rollout, num_envs, seconds_per_repeat))
        result[game] = {name: statistics.median(values) for name, values in rates.items()}
        for ratio, against in (("ratio", "bare"), ("ratio_all_threads", "bare_all_threads")):
            pairs = zip(rates["pool"], rates[against], strict=True)
            result[game][ratio] = statistics.median(pool / bare for pool, bare in pairs)
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


def _pool_stepper(pool: Pool) -> Stepper:
    """A function that steps the pool through one rollout, a group always stepping while the other is served."""
    size = pool.num_envs // NUM_GROUPS
    groups = [
        (group, np.int32(group * size), _random_actions(size, pool.spec.num_actions)) for group in range(NUM_GROUPS)
    ]
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
