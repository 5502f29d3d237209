"""The ring against a slow oracle, prioritized draws against their distribution, and the numbers of the DQN Pro
specification (section 8).
"""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import registry, rng
from purerl.buffers import prioritized, replay
from purerl.errors import PurerlError
from purerl.loops import in_graph
from purerl.types import EnvSpec, Rollout

VECTOR = EnvSpec("test/vector", (2,), "float32", 4)
FRAMES = EnvSpec("test/frames", (4, 1, 4), "uint8", 4, stacked_frames=4)


class Episodes:
    """Random episodes of N environments, whose observations count the frames: environment n, frame k is 1000 n + k."""

    def __init__(self, num_envs, steps, seed=0, end=0.1, cut=0.05):
        random = np.random.default_rng(seed)
        self.terminated = random.random((steps, num_envs)) < end
        self.truncated = (random.random((steps, num_envs)) < cut) & ~self.terminated
        self.reward = random.normal(size=(steps, num_envs)).astype(np.float32)
        self.action = random.integers(0, 4, (steps, num_envs)).astype(np.int32)
        self.done = self.terminated | self.truncated
        self.number = np.arange(steps)[:, None] + 1 + 1000 * np.arange(num_envs)
        self.start = np.zeros((steps, num_envs), int)
        for t in range(1, steps):
            self.start[t] = np.where(self.done[t - 1], t, self.start[t - 1])

    def observation(self, spec):
        """[steps, N, *shape]"""
        if spec.stacked_frames == 1:
            return np.stack([self.number, -self.number], -1).astype(np.float32)
        return np.stack([[self.stack(t, n) for n in range(self.number.shape[1])] for t in range(self.number.shape[0])])

    def frame(self, t, n):
        return np.frombuffer(np.int32(self.number[t, n]).tobytes(), np.uint8).reshape(1, 4)

    def stack(self, t, n):
        blank = np.zeros((1, 4), np.uint8)
        return np.stack([self.frame(t - j, n) if t - j >= self.start[t, n] else blank for j in (3, 2, 1, 0)])

    def rollout(self, spec, first, length, observation):
        at = slice(first, first + length)
        return Rollout(
            observation=jnp.asarray(observation[at]),
            action=jnp.asarray(self.action[at]),
            reward=jnp.asarray(self.reward[at]),
            terminated=jnp.asarray(self.terminated[at]),
            truncated=jnp.asarray(self.truncated[at]),
            final_observation=None,
            extras=None,
            first=None,
            last=None,
        )

    def fill(self, spec, length, rollout_length):
        """The ring after all steps."""
        ring, observation = replay.init(spec, self.number.shape[1], length), self.observation(spec)
        add = jax.jit(
            lambda ring, rollout, i: replay.add(ring, rollout, spec=spec, iteration=i, terminated=rollout.terminated)
        )
        for i in range(len(self.number) // rollout_length):
            ring = add(ring, self.rollout(spec, i * rollout_length, rollout_length, observation), i)
        return ring

    def window(self, t, n, num_steps, discount):
        """(return, discount, step of the next observation, weight): the oracle, step by step."""
        total, factor = 0.0, 1.0
        for k in range(t, t + num_steps):
            if self.truncated[k, n]:
                return total, factor, k, float(k > t)
            total += factor * self.reward[k, n]
            factor *= discount
            if self.terminated[k, n]:
                return total, 0.0, None, 1.0
        return total, factor, t + num_steps, 1.0


@pytest.mark.parametrize("spec", [VECTOR, FRAMES], ids=["vector", "frames"])
@pytest.mark.parametrize(("num_envs", "rollout_length", "num_steps"), [(1, 4, 3), (3, 2, 1), (2, 5, 4)])
def test_every_row_equals_the_oracle_past_the_wrap(spec, num_envs, rollout_length, num_steps):
    length, steps = 40, 80 - rollout_length
    episodes = Episodes(num_envs, steps)
    ring, observation = episodes.fill(spec, length, rollout_length), episodes.observation(spec)
    times = np.arange(steps - length + 3, steps - num_steps)  # with all frames before and the next row after
    env, time = (x.reshape(-1) for x in np.meshgrid(np.arange(num_envs), times))
    found = replay.gather(
        ring,
        (jnp.asarray(env), jnp.asarray(time % length)),
        spec=spec,
        num_steps=num_steps,
        discount=0.9,
        reward_clip=jnp.inf,
    )
    np.testing.assert_array_equal(found.observation, observation[time, env])
    np.testing.assert_array_equal(found.action, episodes.action[time, env])
    for b, (t, n) in enumerate(zip(time, env, strict=True)):
        total, discount, after, weight = episodes.window(t, n, num_steps, 0.9)
        np.testing.assert_allclose(found.reward[b], total, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.discount[b], discount, rtol=1e-6)
        assert found.weight[b] == weight
        if after is not None:
            np.testing.assert_array_equal(found.next_observation[b], observation[after, n])


def test_n_step_returns_of_the_specification():
    """Check 9: rewards 1..7, terminal at 7, gamma 0.99, n = 3."""
    episodes = Episodes(1, 12, end=0, cut=0)
    episodes.reward[:, 0] = np.arange(1, 13)
    episodes.terminated[6] = episodes.done[6] = True
    ring = episodes.fill(VECTOR, 12, 4)
    rows = jnp.arange(7)
    found = replay.gather(
        ring, (jnp.zeros_like(rows), rows), spec=VECTOR, num_steps=3, discount=0.99, reward_clip=jnp.inf
    )
    np.testing.assert_allclose(np.asarray(found.reward)[[3, 4, 6]], [14.8306, 17.8007, 7.0], atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.discount)[[3, 4, 6]], [0.99**3, 0.0, 0.0], atol=1e-6)
    assert found.next_observation[3, 0] == 7  # s_7
    assert found.weight.sum() == 7


def test_a_ring_with_final_observations_learns_from_time_outs():
    """Vectors as actions; a window ends with the row of a time-out, and bootstraps from where that row truly led."""
    spec = EnvSpec("test/vector", (1,), "float32", 0, action_shape=(2,))
    ring = replay.init(spec, 1, 6, final_observations=True)
    column = lambda *values: jnp.array(values, jnp.float32).reshape(6, 1)  # noqa: E731
    rollout = Rollout(
        observation=column(0, 1, 2, 30, 31, 32)[..., None],
        action=jnp.arange(12.0).reshape(6, 1, 2),
        reward=column(1, 2, 4, 8, 16, 32),
        terminated=column(0, 0, 0, 0, 1, 0) > 0,
        truncated=column(0, 0, 1, 0, 0, 0) > 0,
        final_observation=column(1, 2, 3, 31, 99, 33)[..., None],
        extras=None,
        first=None,
        last=None,
    )
    ring = replay.add(ring, rollout, spec=spec, iteration=jnp.int32(0), terminated=rollout.terminated)
    rows = jnp.arange(5)
    found = replay.gather(
        ring, (jnp.zeros_like(rows), rows), spec=spec, num_steps=2, discount=0.5, reward_clip=float("inf")
    )
    np.testing.assert_array_equal(found.action, np.arange(10.0).reshape(5, 2))
    np.testing.assert_array_equal(found.reward, [2, 4, 4, 16, 16])  # 1 + 2 / 2, 2 + 4 / 2, 4, 8 + 16 / 2, 16
    np.testing.assert_array_equal(found.discount, [0.25, 0.25, 0.5, 0, 0])
    np.testing.assert_array_equal(found.next_observation[:3, 0], [2, 3, 3])
    np.testing.assert_array_equal(found.weight, np.ones(5))
    assert replay.learnable(ring, jnp.zeros_like(rows), rows).all()
    with pytest.raises(PurerlError, match="final observations that are shown"):
        replay.init(
            EnvSpec("test/hidden", (1,), "float32", 2, shows_final_observation=False), 1, 6, final_observations=True
        )


def test_rewards_are_clipped_for_learning_only():
    episodes = Episodes(1, 8, end=0, cut=0)
    episodes.reward[:, 0] = [5, -3, 0.5, 0, 0, 0, 0, 0]
    ring = episodes.fill(VECTOR, 8, 4)
    indices = jnp.zeros(3, int), jnp.arange(3)
    clipped = replay.gather(ring, indices, spec=VECTOR, num_steps=1, discount=0.9, reward_clip=1.0)
    np.testing.assert_allclose(clipped.reward, [1, -1, 0.5])
    np.testing.assert_allclose(ring.reward[0, :3], [5, -3, 0.5])


def test_a_new_episode_starts_with_blank_frames():
    """Check 10."""
    episodes = Episodes(1, 8, end=0, cut=0)
    episodes.terminated[3] = episodes.done[3] = True
    episodes.start[4:] = 4
    ring = episodes.fill(FRAMES, 8, 4)
    stack = np.asarray(replay.frames(ring, jnp.array([0]), jnp.array([4]), FRAMES))[0]
    assert (stack[:3] == 0).all() and (stack[3] == episodes.frame(4, 0)).all()


@pytest.mark.parametrize("num_envs", [1, 4])
def test_no_sample_straddles_the_cursor(num_envs):
    """Check 11: frame numbers in the frames' bytes, 1.3 x capacity, 1e5 samples."""
    length, num_steps, steps = 300, 3, 390
    episodes = Episodes(num_envs, steps, end=0, cut=0)
    ring = episodes.fill(FRAMES, length, 10)
    span = replay.span(steps // 10, 10, length)
    words = rng.words(jax.random.key(0), (2, 100_000))
    indices = replay.uniform(words, span, ring, num_steps=num_steps, spec=FRAMES)
    batch = replay.gather(ring, indices, spec=FRAMES, num_steps=num_steps, discount=0.9, reward_clip=1.0)
    numbers = [
        np.asarray(x)[:, :, 0].copy().view(np.int32)[..., 0] for x in (batch.observation, batch.next_observation)
    ]
    newest = numbers[0][:, 3]
    for j in range(4):
        np.testing.assert_array_equal(numbers[0][:, j], newest - 3 + j)
        np.testing.assert_array_equal(numbers[1][:, j], newest + num_steps - 3 + j)
    first, last = steps - length + 4, steps - num_steps
    assert set(newest % 1000) == set(range(first, last + 1))
    assert set(newest // 1000) == set(range(num_envs))


def test_a_ring_that_fills_draws_from_what_is_there():
    episodes = Episodes(1, 20, end=0, cut=0)
    ring = episodes.fill(FRAMES, 40, 4)
    words = rng.words(jax.random.key(0), (2, 2000))
    _, row = replay.uniform(words, replay.span(5, 4, 40), ring, num_steps=3, spec=FRAMES)
    assert set(np.asarray(row)) == set(range(17))


def test_no_window_reaches_over_a_restart():
    episodes = Episodes(1, 8, end=0, cut=0)
    ring = replay.mark_restart(episodes.fill(VECTOR, 8, 4), 1, 4)  # after the first rollout
    rows = jnp.arange(4)
    found = replay.gather(ring, (0 * rows, rows), spec=VECTOR, num_steps=2, discount=0.5, reward_clip=jnp.inf)
    np.testing.assert_array_equal(found.weight, [1, 1, 1, 0])
    np.testing.assert_allclose(found.discount, [0.25, 0.25, 0.5, 1.0])
    assert found.next_observation[2, 0] == 4  # its own last row, not the first one of the new episode


def test_a_million_atari_frames_take_7_gb():
    atari = EnvSpec("test/atari", (4, 84, 84), "uint8", 18, stacked_frames=4)
    ring = jax.eval_shape(lambda: replay.init(atari, 1, 1_000_000))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(ring))
    assert 7.056e9 < size < 7.2e9


def test_writing_is_one_slice_under_vmap():
    """The cursor is not batched, so seeds do not turn the write into a scatter over the whole ring."""
    episodes = Episodes(2, 4)
    rings = jax.vmap(lambda _: replay.init(VECTOR, 2, 8))(jnp.arange(3))
    rollout = jax.tree.map(lambda x: jnp.stack([x] * 3), episodes.rollout(VECTOR, 0, 4, episodes.observation(VECTOR)))

    def add(ring, rollout, i):
        return replay.add(ring, rollout, spec=VECTOR, iteration=i, terminated=rollout.terminated)

    jaxpr = str(jax.make_jaxpr(jax.vmap(add, in_axes=(0, 0, None)))(rings, rollout, 0))
    assert "dynamic_update_slice" in jaxpr and "scatter" not in jaxpr


def test_cursor_never_overflows():
    span = jax.jit(lambda i: replay.span(i, 4, 1_000_000))(jnp.int32(2**31 - 1))
    assert span.filled == 1_000_000 and span.cursor == (2**31 - 1) * 4 % 1_000_000


@pytest.mark.parametrize(("size", "message"), [(1003, "try 1000"), (8, "at least 16: try 16")])
def test_sizes_that_do_not_fit_are_named(size, message):
    with pytest.raises(PurerlError, match=message):
        replay.check(size, num_envs=2, rollout_length=4, num_steps=3, spec=VECTOR, learning_starts=100)


SIZES = [(512, 1, 3, 1536), (4, 4, 3, 0), (3, 2, 3, 6), (2, 1, 1, 2), (2, 4, 4, 8), (1, 4, 9, 8)]


@pytest.mark.parametrize("stacked_frames", [1, 4])
@pytest.mark.parametrize(("num_envs", "rollout_length", "num_steps", "least"), SIZES)
def test_learning_starts_with_the_first_complete_window(num_envs, rollout_length, num_steps, least, stacked_frames):
    """With the least value all draws of the first iteration that learns are rows whose window is stored, and there is
    such a row; one iteration earlier there is none, and that is refused.
    """
    shape = (4, 6, 6) if stacked_frames > 1 else (3,)
    spec = EnvSpec("test/any", shape, "float32", 2, stacked_frames=stacked_frames)
    rollout = num_envs * rollout_length
    size = 8 * rollout * (1 + num_steps // rollout_length)

    def check(learning_starts):
        replay.check(size, num_envs, rollout_length, num_steps, spec, learning_starts=learning_starts)

    check(least)
    with pytest.raises(PurerlError, match=f"it must be at least {least}$"):
        check(least - 1)
    ring, first = replay.init(spec, num_envs, size // num_envs), least // rollout
    span = replay.span(jnp.int32(first + 1), rollout_length, size // num_envs)
    assert replay.drawable(span, ring, num_steps=num_steps, spec=spec) >= 1
    words = rng.words(jax.random.key(0), (2, 64))
    _, row = replay.uniform(words, span, ring, num_steps=num_steps, spec=spec)
    assert ((row >= 0) & (row + num_steps < span.filled)).all()
    before = replay.span(jnp.int32(first), rollout_length, size // num_envs)
    assert first == 0 or replay.drawable(before, ring, num_steps=num_steps, spec=spec) < 1


# --- prioritized ---


def filled(values):
    values = jnp.asarray(values, jnp.float32)
    return prioritized.update(prioritized.init(len(values)), jnp.arange(len(values)), values)


def levels(priorities):
    """The rows of each level [rows, 16], from the items to the root, as `Priorities.sums` describes them."""
    sums, counts = np.asarray(priorities.sums), [math.ceil(priorities.capacity / 16)]
    while counts[-1] > 1:
        counts.append(math.ceil(counts[-1] / 16))
    assert sum(counts) == len(sums)
    return np.split(sums, np.cumsum(counts)[:-1])


def test_frequencies_are_the_priorities():
    """Check 12: chi-square of 1e6 draws against p / sum p."""
    values = np.random.default_rng(0).random(200) ** 3
    values[::7] = 0
    priorities = filled(values)
    draw = jax.jit(jax.vmap(lambda key: prioritized.sample(priorities, rng.words(key, (100,)))[0]))
    counts = np.bincount(np.asarray(draw(jax.random.split(jax.random.key(0), 10_000))).reshape(-1), minlength=200)
    expected = 1e6 * values / values.sum()
    assert (counts[values == 0] == 0).all()
    seen = values > 0
    chi_square = (((counts - expected) ** 2)[seen] / expected[seen]).sum()
    # Stratified draws vary less than independent ones: 4 standard deviations above the mean is far away.
    freedom = seen.sum() - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_one_draw_from_each_share():
    priorities = filled(np.ones(64))
    items = np.asarray(prioritized.sample(priorities, rng.words(jax.random.key(3), (16,)))[0])
    np.testing.assert_array_equal(items // 4, np.arange(16))


def test_probabilities_and_weights():
    """Check 12: w = P^-beta over the largest."""
    priorities = filled([1.0, 0.0, 3.0, 4.0])
    # An eighth of the mass is the first item's, the next three eighths are the third's, the last half is the fourth's.
    items, probability = prioritized.sample(priorities, rng.words(jax.random.key(0), (8,)))
    np.testing.assert_array_equal(items, [0, 2, 2, 2, 3, 3, 3, 3])
    np.testing.assert_allclose(probability, np.array([0.125, 0.375, 0.5])[[0, 1, 1, 1, 2, 2, 2, 2]])
    probability, counts = probability[jnp.array([0, 1, 4])], jnp.ones(3)
    weights = prioritized.importance_weights(probability, 0.5, counts)
    np.testing.assert_allclose(weights, [1.0, np.sqrt(1 / 3), 0.5], rtol=1e-6)
    np.testing.assert_array_equal(prioritized.importance_weights(probability, 0.0, counts), 1.0)


def test_rows_of_weight_0_do_not_scale_the_others_down():
    """The rarest row is drawn by the uniform share, and cannot be learned from: the largest weight is the second's."""
    probability, counts = jnp.array([0.001, 0.125, 0.5]), jnp.array([0.0, 1.0, 1.0])
    np.testing.assert_allclose(prioritized.importance_weights(probability, 0.5, counts), [0, 1, 0.5], rtol=1e-6)
    nothing = prioritized.importance_weights(jnp.zeros(3), 0.5, jnp.zeros(3))
    np.testing.assert_array_equal(nothing, 0.0)


def test_without_any_priority_the_probabilities_are_0_not_nan():
    _, probability = prioritized.sample(prioritized.init(20), rng.words(jax.random.key(0), (4,)))
    np.testing.assert_array_equal(probability, 0.0)


def test_sums_do_not_drift():
    """Check 12: after 1e6 changes the root is the sum of the leaves to 1e-5."""
    priorities = filled(np.zeros(5000))

    def step(i, priorities):
        key = jax.random.fold_in(jax.random.key(0), i)
        items = jax.random.randint(key, (100,), 0, 5000)
        return prioritized.update(priorities, items, jax.random.exponential(key, (100,)) ** 4)

    priorities = jax.jit(lambda p: jax.lax.fori_loop(0, 10_000, step, p))(priorities)
    exact = np.asarray(priorities.items, np.float64).sum()
    assert abs(float(priorities.total) - exact) < 1e-5 * exact
    tree = levels(priorities)
    assert len(tree) == 4
    for below, above in itertools.pairwise(tree):
        np.testing.assert_allclose(above.reshape(-1)[: len(below)], below.sum(-1), rtol=1e-6)
        assert (above.reshape(-1)[len(below) :] == 0).all()
    np.testing.assert_array_equal(priorities.items, tree[0].reshape(-1)[:5000])
    assert (tree[0].reshape(-1)[5000:] == 0).all()


def test_an_item_that_comes_twice_keeps_one_value_and_exact_sums():
    priorities = prioritized.update(filled(np.ones(8)), jnp.array([3, 3, 5]), jnp.array([7.0, 7.0, 2.0]))
    assert priorities.total == 6 + 7 + 2
    assert priorities.largest == 7


@pytest.mark.parametrize("spec", [VECTOR, FRAMES], ids=["vector", "frames"])
@pytest.mark.parametrize(("num_envs", "rollout_length", "num_steps"), [(1, 4, 3), (3, 2, 1), (2, 5, 4)])
def test_positive_if_and_only_if_it_can_be_learned_from(spec, num_envs, rollout_length, num_steps):
    """After every rollout, until the ring has been overwritten twice, against the rule written out."""
    length, steps = 20, 60
    episodes = Episodes(num_envs, steps, seed=1)
    ring, priorities = replay.init(spec, num_envs, length), prioritized.init(num_envs * length)
    observation = episodes.observation(spec)

    @jax.jit
    def add(ring, priorities, rollout, i):
        ring = replay.add(ring, rollout, spec=spec, iteration=i, terminated=rollout.terminated)
        return ring, prioritized.admit(
            priorities, ring, iteration=i, rollout_length=rollout_length, num_steps=num_steps, spec=spec
        )

    for i in range(steps // rollout_length):
        ring, priorities = add(
            ring, priorities, episodes.rollout(spec, i * rollout_length, rollout_length, observation), i
        )
        written = (i + 1) * rollout_length
        expected = np.zeros((num_envs, length), bool)
        for t in range(max(0, written - length), written):
            has_frames = written < length or t >= written - length + spec.stacked_frames - 1
            expected[:, t % length] = has_frames and t < written - num_steps
            expected[:, t % length] &= ~episodes.truncated[t]
        found = levels(priorities)[0].reshape(-1)
        np.testing.assert_array_equal(found[: num_envs * length].reshape(num_envs, length) > 0, expected)
        assert (found[num_envs * length :] == 0).all()
        np.testing.assert_allclose(priorities.total, found.sum(), rtol=1e-6)


def test_new_items_get_the_largest_priority():
    """Check 12: 1 at the start, then the largest ever set."""
    episodes = Episodes(1, 12, end=0, cut=0)
    observation = episodes.observation(VECTOR)
    ring, priorities = replay.init(VECTOR, 1, 12), prioritized.init(12)
    for i in range(3):
        rollout = episodes.rollout(VECTOR, 4 * i, 4, observation)
        ring = replay.add(ring, rollout, spec=VECTOR, iteration=jnp.int32(i), terminated=rollout.terminated)
        priorities = prioritized.admit(
            priorities, ring, iteration=jnp.int32(i), rollout_length=4, num_steps=1, spec=VECTOR
        )
        if i == 0:
            priorities = prioritized.update(priorities, jnp.array([0, 1]), jnp.array([5.0, 0.5]))
            priorities = prioritized.update(priorities, jnp.array([0]), jnp.array([2.0]))
    np.testing.assert_array_equal(priorities.items, [2, 0.5, 1, 5, 5, 5, 5, 5, 5, 5, 5, 0])


def test_lanes_equal_solo_draws():
    values = np.random.default_rng(2).random((3, 50))
    lanes = jax.vmap(filled)(jnp.asarray(values))
    words = jax.vmap(lambda key: rng.words(key, (8,)))(jax.random.split(jax.random.key(5), 3))
    together = jax.vmap(prioritized.sample)(lanes, words)
    for lane in range(3):
        alone = prioritized.sample(filled(values[lane]), words[lane])
        np.testing.assert_array_equal(together[0][lane], alone[0])
        np.testing.assert_allclose(together[1][lane], alone[1], rtol=1e-6)


@pytest.mark.parametrize("capacity", [7, 16, 300, 5000])
def test_an_item_that_is_taken_instead_of_a_draw(capacity):
    """It comes back with its own probability, 0 too, and the other draws are those that would have been made anyway."""
    random = np.random.default_rng(4)
    values = random.random(capacity).astype(np.float32)
    values[::3] = 0
    priorities, words = filled(values), rng.words(jax.random.key(6), (64,))
    taken, item = random.random(64) < 0.5, random.integers(0, capacity, 64).astype(np.int32)
    item[np.nonzero(taken)[0][:3]] = 0, capacity - 1, capacity // 3 * 3 - 3
    drawn, its_probability = jax.jit(prioritized.sample)(priorities, words)
    items, probability = jax.jit(prioritized.sample)(priorities, words, (jnp.asarray(taken), jnp.asarray(item)))
    assert (items.dtype, probability.dtype) == (jnp.int32, jnp.float32)
    np.testing.assert_array_equal(items, np.where(taken, item, drawn))
    np.testing.assert_array_equal(probability[~taken], its_probability[~taken])
    np.testing.assert_allclose(probability, values[np.asarray(items)] / values.sum(dtype=np.float64), rtol=1e-5)
    assert 0 < (values[item[taken]] == 0).sum() < taken.sum()


def copies(compiled, array):
    """The operations of a compiled program that copy something of the array's size, which must occur in it."""
    text = compiled.as_text()
    assert f"[{','.join(map(str, array.shape))}]" in text
    found = re.findall(r"= \(?\w+\[([\d,]*)\]\S* (copy(?:-start)?\(\S+)", text)
    return [copy for shape, copy in found if math.prod(map(int, filter(None, shape.split(",")))) == array.size]


def learning(reads_behind_the_update):
    """A program of 10 gradient steps with prioritized draws, for lanes of (weight [], priorities) and their words."""

    def lane(weight, priorities, words):
        def step(i, carry):
            weight, priorities = carry
            items, probability = prioritized.sample(priorities, words[i])
            importance = prioritized.importance_weights(probability, 0.5, jnp.ones(32))
            each = (weight - items.astype(jnp.float32)) ** 2
            loss, gradient = jax.value_and_grad(lambda w: jnp.mean(importance * (w - items) ** 2))(weight)
            changed = prioritized.update(priorities, items, jnp.sqrt(each) + loss)
            if reads_behind_the_update:
                gradient += jnp.sum(priorities.items * changed.items)
            return weight - 0.1 * gradient, changed

        return jax.lax.fori_loop(0, 10, step, (weight, priorities))

    return jax.vmap(lambda lanes, words: lane(*lanes, words))


@pytest.mark.parametrize("reads_behind_the_update", [False, True], ids=["as it should be", "as the test must notice"])
def test_priorities_are_changed_in_place(reads_behind_the_update):
    """A gradient step under vmap costs O(log capacity): no copy of all priorities, in a donated loop."""
    priorities = jax.vmap(lambda _: prioritized.init(5000))(jnp.arange(3))
    words = jax.vmap(lambda key: rng.words(key, (10, 32)))(rng.seed_keys(0, 3))
    state = jnp.zeros(3), priorities
    compiled = jax.jit(learning(reads_behind_the_update), donate_argnums=0).lower(state, words).compile()
    assert bool(copies(compiled, priorities.sums)) == reads_behind_the_update


def test_rainbow_copies_neither_its_priorities_nor_its_replay():
    """The same of a whole agent, in which XLA finds more reasons to: with a tree walked level by level it did."""
    environment = registry.environment("gymnax/CartPole-v1")[0].make("CartPole-v1")
    agent = registry.agent("rainbow")
    config = agent.Config(network="mlp", hidden=(8,), replay_size=5120, learning_starts=64, num_envs=1)
    state = in_graph.make_init(agent, environment)(config, rng.seed_keys(0, 3))
    chunk = jax.jit(in_graph.make_chunk(agent, environment), donate_argnums=1)
    compiled = chunk.lower(config, state, None, jnp.int32(0), jnp.int32(100), jnp.int32(10)).compile()
    ring = state.agent.replay
    for array in (state.agent.priorities.sums, ring.observation, ring.action, ring.reward, ring.done, ring.age):
        assert not copies(compiled, array)
