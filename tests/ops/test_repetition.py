"""Frames seen before: steps of episodes, the penalty, distinct frames and the entropy's weight, by hand and by sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.ops import repetition

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_steps_of_episodes_equal_counting():
    rng = np.random.default_rng(0)
    is_first, before = rng.random((12, 5)) < 0.25, np.array([0, 3, 7, 40, 2], np.int32)
    is_first[:, 4] = False
    expected, count = [], before.copy()
    for row in is_first:
        count = np.where(row, 0, count)
        expected.append(count)
        count = count + 1
    steps, following = jax.jit(repetition.episode_steps)(jnp.asarray(is_first), jnp.asarray(before))
    assert steps.dtype == following.dtype == jnp.int32
    np.testing.assert_array_equal(steps, np.stack(expected))
    np.testing.assert_array_equal(following, count)


@pytest.fixture
def standing_still():
    """Six steps in three environments that never move: observations [6, 3, 8, 8, 6] and what follows [3, 8, 8, 6]."""
    frames = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 6), np.uint8)
    return jnp.broadcast_to(frames, (6, 3, 8, 8, 6)), jnp.asarray(frames)


def test_penalty_where_the_newest_frame_repeats(standing_still):
    observation, last = standing_still
    observation = observation.at[2, 0, 7, 7, 5].add(1)  # one channel of one pixel, for one step: both neighbours differ
    observation = observation.at[3, 1, :, :, :3].add(1)  # only the older frame of the stack
    last = last.at[2, 0, 0, 3].add(1)
    done = jnp.zeros((6, 3), jnp.bool_).at[4, 1].set(True)
    found = jax.jit(repetition.repetition_penalty)(observation, last, done, jnp.full((6, 3), 11, jnp.int32))
    expected = np.full((6, 3), -0.1, np.float32)
    expected[1:3, 0] = expected[4, 1] = expected[5, 2] = 0
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)


def test_no_penalty_in_the_first_steps(standing_still):
    steps = jnp.arange(8, 14, dtype=jnp.int32)[:, None] + jnp.zeros((1, 3), jnp.int32)
    found = repetition.repetition_penalty(*standing_still, jnp.zeros((6, 3), jnp.bool_), steps, -0.5)
    np.testing.assert_array_equal(found[:, 0], np.float32([0, 0, 0, -0.5, -0.5, -0.5]))
    later = repetition.repetition_penalty(*standing_still, jnp.zeros((6, 3), jnp.bool_), steps, -0.5, free_steps=12)
    np.testing.assert_array_equal(later[:, 0], np.float32([0, 0, 0, 0, 0, -0.5]))


def test_distinct_frames_equal_a_set():
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 256, (9, 8, 8, 3), np.uint8)
    order = rng.integers(0, 9, (2, 25))
    order[1] = 0

    def follow(memory, frame):
        memory = repetition.see(memory, frame)
        return memory, (memory.distinct, memory.seen, repetition.distinct_share(memory))

    walk = jax.jit(jax.vmap(lambda frames: jax.lax.scan(follow, repetition.init_seen_frames(40), frames)[1]))
    distinct, seen, share = walk(jnp.asarray(kinds[order]))
    expected = np.array([[len(set(row[: t + 1])) for t in range(25)] for row in order.tolist()])
    assert expected[0, -1] > 5
    np.testing.assert_array_equal(distinct, expected)
    np.testing.assert_array_equal(seen, np.broadcast_to(np.arange(1, 26), (2, 25)))
    np.testing.assert_allclose(share, expected / np.arange(1, 26), rtol=1e-6)
    assert float(repetition.distinct_share(repetition.init_seen_frames())) == 1.0


def test_black_frames_and_long_episodes():
    """Empty places of the memory are no frames, and a full memory forgets what comes later."""
    black, white = jnp.zeros((8, 8, 3), jnp.uint8), jnp.full((8, 8, 3), 255, jnp.uint8)
    memory = repetition.init_seen_frames(2)
    memory = memory.replace(hashes=jnp.broadcast_to(repetition.frame_hash(black), (2,)))  # left there by chance
    for frame, distinct in zip((black, black, white, white, black), (1, 1, 2, 3, 3), strict=True):
        memory = repetition.see(memory, frame)
        assert int(memory.distinct) == distinct


def test_hashes_of_similar_frames_differ():
    """Frames with one or two changed pixels, exchanged rows, and all frames of one colour."""
    base = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
    frames = [base, base[::-1], base[:, ::-1], base[..., ::-1]]
    for i in range(192):
        for change in (1, 128, 255):
            flat = base.reshape(-1).astype(np.int32)
            flat[i] += change
            flat[(7 * i + 5) % 192] -= change
            frames.append((flat % 256).astype(np.uint8).reshape(8, 8, 3))
    frames += [np.full((8, 8, 3), value, np.uint8) for value in range(256)]
    hashes = np.asarray(jax.jit(jax.vmap(repetition.frame_hash))(jnp.asarray(np.stack(frames))))
    assert hashes.dtype == np.uint32 and len(np.unique(hashes)) == len(frames)
    bits = (hashes[:, None] >> np.arange(32)) & 1
    assert abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(frames))


@pytest.mark.parametrize(("shares", "expected"), [([0.9, 0.9], 0.01), ([1.0, 0.79], 0.02), ([0.5, 1.0, 1.0], 0.02)])
def test_entropy_coefficient(shares, expected):
    found = jax.jit(repetition.adaptive_entropy_coefficient)(jnp.array(shares, jnp.float32))
    threshold = jnp.float32(0.9) <= jnp.mean(jnp.array(shares, jnp.float32))
    assert found.dtype == jnp.float32 and float(found) == np.float32(expected) and bool(threshold) == (expected == 0.01)
    other = repetition.adaptive_entropy_coefficient(jnp.array(shares, jnp.float32), 0.1, 0.3, 0.85)
    assert float(other) == np.float32(0.3 if shares[0] == 0.5 else 0.1)
