"""The replay against flashbax 0.1.3: the same transitions and priorities give the same draws, in distribution, and the
same contents.

Items have the same numbers on both sides: environment n, row t is n L + t.
"""

import flashbax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import rng
from purerl.buffers import prioritized, replay
from purerl.types import EnvSpec, Rollout

SPEC = EnvSpec("test/vector", (2,), "float32", 4)
NUM_ENVS, LENGTH, ROLLOUT, STEPS = 4, 64, 8, 96  # the ring has been overwritten by half
ITEMS = NUM_ENVS * LENGTH
BATCH, DRAWS = 64, 2000

pytestmark = pytest.mark.usefixtures("rank_promotion")


def steps():
    """STEPS steps of all environments, [T, N, ...], with ends; the observation's first entry is its number."""
    random = np.random.default_rng(0)
    number = np.arange(STEPS)[:, None] + 1000 * np.arange(NUM_ENVS)
    return {
        "observation": np.stack([number, random.normal(size=number.shape)], -1).astype(np.float32),
        "action": random.integers(0, 4, number.shape).astype(np.int32),
        "reward": random.normal(size=number.shape).astype(np.float32),
        "done": random.random(number.shape) < 0.1,
    }


def rollouts():
    made = steps()
    for first in range(0, STEPS, ROLLOUT):
        yield jax.tree.map(lambda x, first=first: jnp.asarray(x[first : first + ROLLOUT]), made)


def ours():
    """(ring, priorities), filled."""
    ring, priorities = replay.init(SPEC, NUM_ENVS, LENGTH), prioritized.init(ITEMS)

    @jax.jit
    def add(ring, priorities, rows, i):
        ended = rows["done"]
        rollout = Rollout(
            observation=rows["observation"],
            action=rows["action"],
            reward=rows["reward"],
            terminated=ended,
            truncated=jnp.zeros_like(ended),
            final_observation=None,
            extras=None,
            first=None,
            last=None,
        )
        ring = replay.add(ring, rollout, spec=SPEC, iteration=i, terminated=ended)
        priorities = prioritized.admit(priorities, ring, iteration=i, rollout_length=ROLLOUT, num_steps=1, spec=SPEC)
        return ring, priorities

    for i, rows in enumerate(rollouts()):
        ring, priorities = add(ring, priorities, rows, i)
    return ring, priorities


def theirs(buffer):
    """The state of a flashbax buffer, filled."""
    state = buffer.init(jax.tree.map(lambda x: jnp.asarray(x[0, 0]), steps()))
    add = jax.jit(buffer.add)
    for rows in rollouts():
        state = add(state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows))
    return state


def gathered(ring, items):
    """Our one-step transitions of items [B]."""
    indices = jnp.divmod(jnp.asarray(items), LENGTH)
    return replay.gather(ring, indices, spec=SPEC, num_steps=1, discount=0.9, reward_clip=jnp.inf)


def assert_same_transitions(found, pairs):
    """Ours [B] against flashbax's pairs of neighbouring steps [B], of the same items."""
    first, second = pairs.first, pairs.second
    np.testing.assert_array_equal(found.observation, first["observation"])
    np.testing.assert_array_equal(found.action, first["action"])
    np.testing.assert_array_equal(found.reward, first["reward"])
    np.testing.assert_array_equal(found.discount, np.where(first["done"], np.float32(0), np.float32(0.9)))
    np.testing.assert_array_equal(found.weight, 1)
    inside = ~np.asarray(first["done"])
    assert inside.any() and not inside.all()
    np.testing.assert_array_equal(np.asarray(found.next_observation)[inside], second["observation"][inside])


def assert_frequencies(counts, expected):
    """Chi-square against the expected counts, at most 4 standard deviations above its mean."""
    seen = expected > 0
    assert (counts[~seen] == 0).all()
    freedom = seen.sum() - 1
    assert ((counts - expected)[seen] ** 2 / expected[seen]).sum() < freedom + 4 * np.sqrt(2 * freedom)


def assert_same_frequencies(left, right):
    """Chi-square of two samples of the same size, at most 4 standard deviations above its mean."""
    seen = left + right > 0
    freedom = seen.sum() - 1
    assert left.sum() == right.sum()
    assert ((left - right)[seen] ** 2 / (left + right)[seen]).sum() < freedom + 4 * np.sqrt(2 * freedom)


def counted(items):
    return np.bincount(np.asarray(items).reshape(-1), minlength=ITEMS).astype(np.float64)


def test_prioritized_draws_equal_flashbax():
    buffer = flashbax.make_prioritised_flat_buffer(
        max_length=ITEMS,
        min_length=BATCH,
        sample_batch_size=BATCH,
        add_sequences=True,
        add_batch_size=NUM_ENVS,
        priority_exponent=1.0,
    )
    (ring, priorities), state = ours(), theirs(buffer)
    tree = state.sum_tree_state
    leaves = np.asarray(tree.nodes)[2**tree.tree_depth - 1 :][:ITEMS]
    admitted = np.asarray(priorities.items) > 0
    np.testing.assert_array_equal(admitted, leaves > 0)
    assert admitted.sum() == NUM_ENVS * (LENGTH - 1)

    items = np.nonzero(admitted)[0]
    values = np.random.default_rng(1).random(len(items)).astype(np.float32) ** 3
    values[::9] = 0
    priorities = prioritized.update(priorities, jnp.asarray(items), jnp.asarray(values))
    state = buffer.set_priorities(state, jnp.asarray(items), jnp.asarray(values))
    np.testing.assert_allclose(priorities.total, state.sum_tree_state.nodes[0], rtol=1e-6)

    keys = jax.random.split(jax.random.key(2), DRAWS)
    drawn, probability = jax.jit(jax.vmap(lambda k: prioritized.sample(priorities, rng.words(k, (BATCH,)))))(keys)
    samples = jax.jit(jax.vmap(lambda k: buffer.sample(state, k)))(keys)
    exact = np.zeros(ITEMS)
    exact[items] = values / values.sum(dtype=np.float64)
    for counts in (counted(drawn), counted(samples.indices)):
        assert_frequencies(counts, exact * BATCH * DRAWS)
    assert_same_frequencies(counted(drawn), counted(samples.indices))

    table = np.full((2, ITEMS), np.nan)
    table[0, np.asarray(drawn)], table[1, np.asarray(samples.indices)] = probability, samples.probabilities
    both = np.isfinite(table).all(axis=0)
    assert both.sum() > 0.7 * len(items)
    np.testing.assert_allclose(table[0, both], exact[both], rtol=2e-6)
    # flashbax sets a leaf by adding a difference, which costs the small ones digits.
    np.testing.assert_allclose(table[0, both], table[1, both], rtol=1e-4)
    batch = jax.tree.map(lambda x: x[:4].reshape(4 * BATCH, *x.shape[2:]), samples)
    assert_same_transitions(gathered(ring, batch.indices), batch.experience)


def test_uniform_draws_equal_flashbax():
    buffer = flashbax.make_flat_buffer(
        max_length=ITEMS, min_length=BATCH, sample_batch_size=BATCH, add_sequences=True, add_batch_size=NUM_ENVS
    )
    (ring, _), state = ours(), theirs(buffer)
    span = replay.span(jnp.int32(STEPS // ROLLOUT), ROLLOUT, LENGTH)

    def draw(key):
        env, row = replay.uniform(rng.words(key, (2, BATCH)), span, ring, num_steps=1, spec=SPEC)
        return env * LENGTH + row

    keys = jax.random.split(jax.random.key(3), DRAWS)
    drawn = jax.jit(jax.vmap(draw))(keys)
    pairs = jax.jit(jax.vmap(lambda k: buffer.sample(state, k).experience))(keys)
    number = np.asarray(pairs.first["observation"][..., 0]).astype(int)
    env, step = np.divmod(number, 1000)
    indices = env * LENGTH + step % LENGTH  # flashbax does not say which items it drew: their contents do

    expected = np.zeros((NUM_ENVS, LENGTH))
    expected[:, np.arange(STEPS - LENGTH, STEPS - 1) % LENGTH] = BATCH * DRAWS / (NUM_ENVS * (LENGTH - 1))
    for counts in (counted(drawn), counted(indices)):
        assert_frequencies(counts, expected.reshape(-1))
    assert_same_frequencies(counted(drawn), counted(indices))
    first = jax.tree.map(lambda x: x[:4].reshape(4 * BATCH, *x.shape[2:]), pairs)
    assert_same_transitions(gathered(ring, indices[:4].reshape(-1)), first)
