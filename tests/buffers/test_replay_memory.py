"""A replay of more than 2**32 bytes of Atari frames, really allocated, never copied, every frame where it belongs.

The test runs this file as a script, on the CPU, in a process of its own whose memory nothing else moves. Run by hand,
with 1_000_000 as its argument, it takes 7.2 GB and does the same on JAX's default device. Everything is under vmap over
one seed, as in a run.
"""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import rng
from purerl.buffers import replay
from purerl.loops import lanes
from purerl.types import EnvSpec, Rollout

ATARI = EnvSpec("test/atari", (4, 84, 84), "uint8", 18, stacked_frames=4)
LENGTH = int(sys.argv[1]) if __name__ == "__main__" else 620_000
ROLLOUT, NUM_STEPS = 100, 3
ITERATIONS = LENGTH * 13 // 1_000  # 1.3 x the capacity: the newest rows have overwritten three tenths
BATCH, BATCHES = 100, 200
PIXELS = 84 * 84


def canary(number, np=jnp):
    """The frame of a number [...], uint8 [..., 84 * 84]: its four bytes, then pixels that depend on all of them."""
    number = np.asarray(number, np.int32)[..., None]
    own = [(number >> shift).astype(np.uint8) for shift in (0, 8, 16, 24)]
    mixed = own[0] * np.uint8(97) + own[1] * np.uint8(13) + own[2] * np.uint8(57)
    rest = mixed + (np.arange(4, PIXELS) * 31 % 256).astype(np.uint8)
    return np.concatenate([*own, rest], axis=-1)


def stacks(number):
    """What an environment shows at steps `number` [...]: the frames of four steps, uint8 [..., 4, 84, 84]."""
    return canary(number[..., None] + jnp.arange(-3, 1)).reshape(*number.shape, 4, 84, 84)


def write(ring, iteration):
    """The ring with the rollout of an iteration, steps iteration * ROLLOUT on."""
    number = iteration * ROLLOUT + jnp.arange(ROLLOUT, dtype=jnp.int32)[:, None]
    never = jnp.zeros(number.shape, bool)
    rollout = Rollout(
        observation=stacks(number),
        action=number % 18,
        reward=number.astype(jnp.float32),
        terminated=never,
        truncated=never,
        final_observation=None,
        extras=None,
        first=None,
        last=None,
    )
    return replay.add(ring, rollout, spec=ATARI, iteration=iteration, terminated=never)


@functools.partial(jax.jit, donate_argnums=0)
def fill(ring, first, last):
    """Writes the rollouts first .. last - 1."""
    return jax.lax.fori_loop(first, last, lambda i, r: jax.vmap(write, (0, None))(r, i), ring)


def gather(ring, row):
    """Transitions of rows [B], unbatched."""
    return replay.gather(
        ring, (jnp.zeros_like(row), row), spec=ATARI, num_steps=NUM_STEPS, discount=1.0, reward_clip=jnp.inf
    )


gather_rows = jax.jit(jax.vmap(gather, (0, None)))


@jax.jit
def wrong_draws(ring, keys):
    """Of uniform draws, a batch for each key [K]: how many differ in any byte from what their step was; and the lowest
    and highest step drawn.
    """
    span = replay.span(jnp.int32(ITERATIONS), ROLLOUT, LENGTH)
    oldest = ITERATIONS * ROLLOUT - LENGTH

    def batch(key):
        words = rng.words(key, (2, BATCH))
        _, row = replay.uniform(words, span, jax.tree.map(lambda x: x[0], ring), num_steps=NUM_STEPS, spec=ATARI)
        number = oldest + (row - oldest) % LENGTH
        found = jax.tree.map(lambda x: x[0], jax.vmap(gather, (0, None))(ring, row))
        same = jnp.all(found.observation == stacks(number), axis=(1, 2, 3))
        same &= jnp.all(found.next_observation == stacks(number + NUM_STEPS), axis=(1, 2, 3))
        same &= found.action == number % 18
        return jnp.sum(~same), jnp.min(number), jnp.max(number)

    wrong, lowest, highest = jax.lax.map(batch, keys)
    return jnp.sum(wrong), jnp.min(lowest), jnp.max(highest)


def memory(name):
    """A line of /proc/self/status in bytes: VmRSS, resident now, or VmHWM, the most there ever was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def assert_rows(ring, rows, oldest):
    """Transitions of rows against frames made by numpy; `oldest` is the step in the oldest row."""
    found = gather_rows(ring, jnp.asarray(rows))
    number = oldest + (np.asarray(rows) - oldest) % LENGTH
    for stack, last in ((found.observation, number), (found.next_observation, number + NUM_STEPS)):
        expected = canary(last[:, None] + np.arange(-3, 1), np).reshape(1, len(rows), 4, 84, 84)
        np.testing.assert_array_equal(stack, expected)
    np.testing.assert_array_equal(found.action[0], number % 18)
    np.testing.assert_array_equal(found.reward[0], 3 * number + 3)
    np.testing.assert_array_equal(found.weight, 1)


def measure():
    """Fills a replay, reads it back, and returns bytes and seconds."""
    rng.seed_keys(0, 1).block_until_ready()
    before, started = memory("VmRSS"), time.perf_counter()
    init = lanes.in_turn(lambda _, key: replay.init(ATARI, 1, LENGTH))
    ring = jax.block_until_ready(init((), rng.seed_keys(0, 1)))
    live = sum(x.nbytes for x in jax.live_arrays())
    seconds = {"init": time.perf_counter() - started}

    ring = jax.block_until_ready(fill(ring, 0, ITERATIONS))
    seconds["fill"] = time.perf_counter() - started - sum(seconds.values())

    oldest, cursor = ITERATIONS * ROLLOUT - LENGTH, ITERATIONS * ROLLOUT % LENGTH
    crossings = [2**power // PIXELS + np.arange(-4, 4) for power in (31, 32)]
    beyond = [np.arange(4), LENGTH - 8 + np.arange(8)]  # the windows of the last rows continue in row 0
    newest, first = cursor - NUM_STEPS - 4 + np.arange(4), cursor + 3 + np.arange(4)
    assert_rows(ring, np.concatenate([newest, first, *crossings, *beyond]), oldest)
    wrong, lowest, highest = wrong_draws(ring, jax.random.split(jax.random.key(1), BATCHES))
    assert wrong == 0
    assert oldest + 3 <= lowest < oldest + 0.01 * LENGTH
    assert oldest + 0.99 * LENGTH < highest < ITERATIONS * ROLLOUT - NUM_STEPS
    seconds["read"] = time.perf_counter() - started - sum(seconds.values())

    return {
        "frame_bytes": ring.observation.nbytes,
        "live_bytes": live,
        "peak_resident_growth": memory("VmHWM") - before,
        "peak_device_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


@pytest.mark.slow
def test_frames_beyond_32_bits_of_bytes_take_their_size_and_are_all_found():
    """Check 11: past 2**31 and 2**32 bytes, over the ring's end and beside its cursor."""
    information = Path("/proc/meminfo")
    if not information.exists():
        pytest.skip("memory is measured through /proc, which is Linux's")
    available = int(information.read_text().split("MemAvailable:")[1].split()[0]) * 1024
    if available < 8e9:
        pytest.skip(f"needs 8 GB of memory, and {available / 1e9:.1f} GB are available")
    done = subprocess.run(
        [sys.executable, __file__, str(LENGTH)],
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},  # runs longer than it compiles
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    size = LENGTH * 84 * 84
    assert found["frame_bytes"] == size > 2**32
    assert found["live_bytes"] < 1.02 * size
    # At least the frames, or the pages were never touched and nothing was measured.
    assert size < found["peak_resident_growth"] < 1.02 * size + 0.4e9


if __name__ == "__main__":
    print(json.dumps(measure()))
