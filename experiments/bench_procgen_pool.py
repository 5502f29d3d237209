"""Measures what the Procgen pool costs: frames that land in a device's rollout buffer, against bare libenv calls."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs import procgen

GAMES = ("coinrun", "starpilot", "bigfish")
NUM_ENVS = 64
NUM_GROUPS = 2
ROLLOUT_LENGTH = 256


def procgen_pool(seconds_per_repeat: float = 2.0, repeats: int = 5) -> dict:
    """Steps 64 easy games of coinrun, starpilot and bigfish with random actions, in three ways that take turns:

    - pool: two groups, each with one thread per core; every observation is written into a rollout buffer
      [256, 1, 64, 64, 64, 3] on the device by one jitted, donated call, which also hands out the actions.
    - bare: libenv's act and observe for all 64 games, with one thread per core. No frame is read.
    - bare_all_threads: the same with as many threads as the pool's two groups have together.

    On a CPU "device" the pool's copying of frames runs on the very cores that step the games; bare copies nothing.

    Returns {game: {"pool": frames per second, "bare": ..., "bare_all_threads": ..., "ratio": pool / bare,
    "ratio_all_threads": pool / bare_all_threads}} and the setting. Rates are medians over the repeats. Ratios are
    medians of each repeat's own ratio, so that a machine slowed down for a while by others does not tilt them.
    """
    cores = procgen.usable_cores()
    result: dict = {
        "device": jax.devices()[0].device_kind,
        "cores": cores,
        "num_envs": NUM_ENVS,
        "num_groups": NUM_GROUPS,
        "load": [os.getloadavg()[0]],
    }
    for game in GAMES:
        with contextlib.ExitStack() as stack:
            contenders = {
                "pool": _pool_stepper(game, stack),
                "bare": _bare_stepper(game, cores, stack),
                "bare_all_threads": _bare_stepper(game, cores * NUM_GROUPS, stack),
            }
            rates: dict[str, list[float]] = {name: [] for name in contenders}
            for step_rollout in contenders.values():
                _rate(step_rollout, 0.0)  # compiles, and gets every game out of its first episode's first steps
            for _ in range(repeats):
                for name, step_rollout in contenders.items():
                    rates[name].append(_rate(step_rollout, seconds_per_repeat))
        result[game] = {name: statistics.median(values) for name, values in rates.items()}
        for ratio, against in (("ratio", "bare"), ("ratio_all_threads", "bare_all_threads")):
            pairs = zip(rates["pool"], rates[against], strict=True)
            result[game][ratio] = statistics.median(pool / bare for pool, bare in pairs)
    result["load"].append(os.getloadavg()[0])
    return result


def _rate(step_rollout: Callable[[], None], seconds: float) -> float:
    """Frames per second of whole rollouts, as many as take `seconds`."""
    rollouts, start = 0, time.perf_counter()
    while True:
        step_rollout()
        rollouts += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return rollouts * ROLLOUT_LENGTH * NUM_ENVS / elapsed


def _random_actions(num_envs: int) -> np.ndarray:
    """Actions [T, 1, num_envs], the same every time."""
    return np.random.default_rng(0).integers(0, 15, (ROLLOUT_LENGTH, 1, num_envs), dtype=np.int32)


def _bare_stepper(game: str, threads: int, stack: contextlib.ExitStack) -> Callable[[], None]:
    """A function that steps bare libenv games through one rollout."""
    buffers = procgen.Buffers.empty((NUM_ENVS,))
    games = procgen.Games(game, procgen.Options(distribution_mode="easy"), 0, threads, buffers)
    stack.callback(games.close)
    actions = _random_actions(NUM_ENVS)

    def step_rollout() -> None:
        for action in actions:
            np.copyto(buffers.action, action[0])
            games.act()
            games.observe()

    return step_rollout


@functools.partial(jax.jit, donate_argnums=0)
def _store(rollout: jax.Array, observation: jax.Array, t: jax.Array, first: jax.Array, actions: jax.Array):
    """Writes a group's observation [1, M, ...] at row t; gives the actions back as the program's own output."""
    return jax.lax.dynamic_update_slice(rollout, observation[None], (t, 0, first, 0, 0, 0)), actions


def _pool_stepper(game: str, stack: contextlib.ExitStack) -> Callable[[], None]:
    """A function that steps the pool through one rollout, a group always stepping while the other is served."""
    pool = procgen.make_pool(game, procgen.Options(distribution_mode="easy"), [0], NUM_ENVS, NUM_GROUPS)
    stack.enter_context(pool)
    size = NUM_ENVS // NUM_GROUPS
    groups = [(group, np.int32(group * size), _random_actions(size)) for group in range(NUM_GROUPS)]
    rollout = jnp.zeros((ROLLOUT_LENGTH, 1, NUM_ENVS, 64, 64, 3), jnp.uint8)
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
