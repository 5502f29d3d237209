"""Reward scaling: the numbers of the released code, slow float64 oracles, and very long runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.ops import normalizers
from purerl.ops.normalizers import init_reward_normalizer, normalize_rewards_per_rollout, normalize_rewards_per_step

pytestmark = pytest.mark.usefixtures("strict_dtypes")
with_and_without_jit = pytest.mark.parametrize("compiled", [jax.jit, lambda f: f], ids=["jit", "eager"])
both = pytest.mark.parametrize(
    "normalize", [normalize_rewards_per_step, normalize_rewards_per_rollout], ids=["per-step", "per-rollout"]
)


class SlowNormalizer:
    """Float64, one step after the other, keeping every return ever seen. The prior is 1e-4 of a return of mean 0 and
    variance 1.
    """

    def __init__(self, num_envs, discount, clip):
        self.running, self.seen = np.zeros(num_envs), []
        self.discount, self.clip = discount, clip

    def follow(self, reward, done):
        for n in range(len(reward)):
            self.running[n] = self.discount * self.running[n] + reward[n]
            self.seen.append(self.running[n])
            if done[n]:
                self.running[n] = 0.0

    def variance(self):
        x, prior = np.array(self.seen), 1e-4
        mean = x.sum() / (len(x) + prior)
        return (prior * (1 + mean**2) + ((x - mean) ** 2).sum()) / (len(x) + prior)

    def scale(self, reward):
        return np.clip(reward / np.sqrt(self.variance() + 1e-8), -self.clip, self.clip)

    def per_step(self, reward, done):
        rows = []
        for row in zip(reward, done, strict=True):
            self.follow(*row)
            rows.append(self.scale(row[0]))
        return np.array(rows)

    def per_rollout(self, reward, done):
        for row in zip(reward, done, strict=True):
            self.follow(*row)
        return self.scale(reward)


def random_rollout(rng, shape):
    reward = rng.normal(0.3, 2.0, shape) * (rng.random(shape) < 0.4)
    return reward.astype(np.float32), rng.random(shape) < 0.1


@both
@with_and_without_jit
@pytest.mark.parametrize(("discount", "variance", "last"), [(0.99, 636.709, 0.0396305), (0.999, 4245.760, 0.0153470)])
def test_constant_rewards(normalize, compiled, discount, variance, last):
    reward, done = jnp.ones((256, 64)), jnp.zeros((256, 64), bool)
    state, scaled = compiled(lambda *x: normalize(*x, discount=discount))(init_reward_normalizer(64), reward, done)
    np.testing.assert_allclose(state.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(scaled[-1], last, rtol=1e-5)
    np.testing.assert_allclose(state.discounted_return, (1 - discount**256) / (1 - discount), rtol=1e-5)
    assert float(state.count) == 256 * 64
    # The first step's returns are all the same; the whole rollout's are not.
    np.testing.assert_allclose(scaled[0], 10.0 if normalize is normalize_rewards_per_step else last, rtol=1e-5)


def test_the_discount_is_that_of_the_released_code():
    reward, done = jnp.ones((256, 64)), jnp.zeros((256, 64), bool)
    for normalize in (normalize_rewards_per_step, normalize_rewards_per_rollout):
        assert float(normalize(init_reward_normalizer(64), reward, done)[1][-1, 0]) == pytest.approx(
            0.0396305, rel=1e-5
        )


@both
def test_equals_the_slow_oracle_over_several_rollouts(normalize):
    rng, slow = np.random.default_rng(0), SlowNormalizer(5, 0.9, 1.5)
    oracle = slow.per_step if normalize is normalize_rewards_per_step else slow.per_rollout
    state = init_reward_normalizer(5)
    call = jax.jit(lambda state, reward, done: normalize(state, reward, done, 0.9, 1.5))
    clipped = 0
    for _ in range(4):
        reward, done = random_rollout(rng, (11, 5))
        state, scaled = call(state, jnp.asarray(reward), jnp.asarray(done))
        np.testing.assert_allclose(scaled, oracle(reward, done), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.discounted_return, slow.running, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.variance, slow.variance(), rtol=1e-5)
        np.testing.assert_allclose(state.mean, np.mean(slow.seen), rtol=1e-3)
        assert round(float(state.count)) == len(slow.seen)
        clipped += int((np.abs(scaled) == 1.5).sum())
    assert clipped > 0
    assert state.variance.dtype == state.count.dtype == scaled.dtype == jnp.float32


@both
def test_an_episodes_end_forgets_the_return(normalize):
    # Discount 0.5: the returns are 1, 1.5, then afresh 1, 1.5.
    done = jnp.array([[False], [True], [False], [False]])
    state, _ = normalize(init_reward_normalizer(1), jnp.ones((4, 1)), done, 0.5)
    np.testing.assert_allclose(state.discounted_return, [1.5])
    np.testing.assert_allclose(state.mean, 1.25, rtol=1e-4)
    np.testing.assert_allclose(state.variance, 0.0625, rtol=1e-2)


@both
def test_the_mean_is_not_subtracted(normalize):
    reward = jnp.array([[1.0], [2.0], [0.0], [-1.0]])
    _, scaled = normalize(init_reward_normalizer(1), reward, jnp.zeros((4, 1), bool), clip=1e9)
    np.testing.assert_array_equal(np.sign(scaled), np.sign(reward))
    assert float(scaled[2, 0]) == 0.0


def test_both_agree_on_the_statistics():
    # They differ in when they are applied, not in what they are.
    reward, done = map(jnp.asarray, random_rollout(np.random.default_rng(1), (50, 4)))
    state = init_reward_normalizer(4)
    step, scaled_step = normalize_rewards_per_step(state, reward, done)
    rollout, scaled_rollout = normalize_rewards_per_rollout(state, reward, done)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), step, rollout)
    np.testing.assert_allclose(scaled_step[-1], scaled_rollout[-1], rtol=1e-5)
    assert float(jnp.abs(scaled_step - scaled_rollout).max()) > 0.01


@both
def test_statistics_still_move_after_2_to_the_31_steps(normalize):
    # A float32 counter that grew by one vector of environments at a time would have stopped by then, and with it the
    # statistics.
    state = normalizers.RewardNormalizer(jnp.zeros(8), jnp.float32(0.0), jnp.float32(1.0), jnp.float32(2.0**31))
    reward = np.random.default_rng(0).normal(0, 30, (256, 8)).astype(np.float32)
    after, scaled = jax.jit(normalize)(state, jnp.asarray(reward), jnp.ones((256, 8), bool))
    assert float(after.count) == 2.0**31 + 2048
    share = 2048 / (2**31 + 2048)
    expected = (1 - share) + share * np.var(reward, dtype=np.float64)
    np.testing.assert_allclose(float(after.variance) - 1, expected - 1, rtol=1e-3)
    np.testing.assert_allclose(scaled, np.clip(reward, -10, 10), rtol=1e-3)


@both
def test_large_values_stay_finite(normalize):
    state, scaled = normalize(init_reward_normalizer(3), jnp.full((20, 3), 1e6), jnp.zeros((20, 3), bool))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((state, scaled)))
    assert float(jnp.abs(scaled).max()) <= 10.0


@both
def test_seeds_can_be_vmapped(normalize):
    reward, done = (jnp.asarray(x) for x in random_rollout(np.random.default_rng(2), (3, 12, 4)))
    states = jax.tree.map(lambda x: jnp.stack([x] * 3), init_reward_normalizer(4))
    together = jax.vmap(normalize)(states, reward, done)
    for i in range(3):
        alone = normalize(init_reward_normalizer(4), reward[i], done[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-5, atol=1e-6), together, alone)


def test_wrong_shapes_and_types_are_refused():
    state, reward, done = init_reward_normalizer(4), jnp.zeros((3, 4)), jnp.zeros((3, 4), bool)
    for call in (normalize_rewards_per_step, normalize_rewards_per_rollout):
        with pytest.raises(AssertionError):
            call(state, reward[:, :3], done[:, :3])
        with pytest.raises(AssertionError):
            call(state, reward, done.astype(jnp.float32))


# --- observations ----------------------------------------------------------------------------------------------------


def test_statistics_of_observations_are_those_of_all_rollouts():
    rng, state = np.random.default_rng(3), normalizers.init_observation_normalizer((2, 3))
    np.testing.assert_array_equal(normalizers.normalize_observations(state, jnp.ones((4, 2, 3))), 1.0)
    rollouts = [rng.normal(np.arange(6).reshape(2, 3), 1 + np.arange(6).reshape(2, 3), (5, 4, 2, 3)) for _ in range(3)]
    for rollout in rollouts:
        state = normalizers.update_observation_normalizer(state, jnp.asarray(rollout, jnp.float32))
    seen = np.concatenate(rollouts).reshape(-1, 2, 3)
    np.testing.assert_allclose(state.count, 60, rtol=1e-5)
    np.testing.assert_allclose(state.mean, seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(state.variance, seen.var(0), rtol=1e-4)
    found = normalizers.normalize_observations(state, jnp.asarray(rollouts[0], jnp.float32), clip=1.5)
    np.testing.assert_allclose(found, np.clip((rollouts[0] - seen.mean(0)) / seen.std(0), -1.5, 1.5), atol=1e-4)


def test_observations_that_never_change_stay_finite():
    state = normalizers.update_observation_normalizer(
        normalizers.init_observation_normalizer((2,)), jnp.full((50, 2), 200, jnp.uint8)
    )
    found = normalizers.normalize_observations(state, jnp.array([[200, 201]], jnp.uint8))
    assert found.dtype == jnp.float32 and bool(jnp.isfinite(found).all()) and float(jnp.abs(found).max()) <= 10
    with pytest.raises(AssertionError):
        normalizers.normalize_observations(state, jnp.zeros((5, 3)))


# --- Sums of fragments -----------------------------------------------------------------------------------------------


class SlowFragments:
    """Float64, one fragment after the other."""

    def __init__(self, alpha):
        self.alpha, self.mean, self.variance = alpha, None, 1.0

    def add(self, total):
        if self.mean is None:
            self.mean = total
            return
        delta = total - self.mean
        self.mean += self.alpha * delta
        self.variance = (1 - self.alpha) * (self.variance + self.alpha * delta**2)

    def scale(self, reward, done):
        scaled, start = np.zeros(reward.shape), np.zeros(reward.shape[1], int)
        for t, n in np.ndindex(reward.shape):
            if done[t, n] or t == len(reward) - 1:
                rows = slice(start[n], t + 1)
                self.add(reward[rows, n].sum(dtype=np.float64))
                scaled[rows, n] = reward[rows, n] / (np.sqrt(self.variance) + 1e-8)
                start[n] = t + 1
        return scaled


def test_fragments_of_the_winner_by_hand():
    """Sums 1, 3, 2: the first sets the mean, then 1.0149 and 1.0147015."""
    reward = jnp.array([[0.0], [1.0], [3.0], [0.5], [0.5], [1.0]])
    done = jnp.array([[False], [True], [True], [False], [False], [False]])
    normalize = jax.jit(normalizers.normalize_rewards_per_fragment)
    state, scaled = normalize(normalizers.init_fragment_normalizer(), reward, done)
    np.testing.assert_allclose(state.variance, [1.0147015], rtol=1e-6)
    np.testing.assert_allclose(state.mean, [1.01 + 0.005 * 0.99], rtol=1e-6)
    deviation = np.sqrt([[1], [1], [1.0149], [1.0147015], [1.0147015], [1.0147015]])
    np.testing.assert_allclose(scaled, np.asarray(reward) / deviation, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 3])
def test_fragments_equal_the_slow_oracle(groups):
    rng, slow = np.random.default_rng(0), [SlowFragments(0.05) for _ in range(groups)]
    normalize = jax.jit(lambda s, r, d: normalizers.normalize_rewards_per_fragment(s, r, d, 0.05))
    state = normalizers.init_fragment_normalizer(groups)
    assert not state.started.any()
    for _ in range(4):
        reward, done = random_rollout(rng, (16, 6))
        parts = [slice(g * 6 // groups, (g + 1) * 6 // groups) for g in range(groups)]
        expected = np.concatenate([s.scale(reward[:, p], done[:, p]) for s, p in zip(slow, parts, strict=True)], axis=1)
        state, scaled = normalize(state, jnp.asarray(reward), jnp.asarray(done))
        np.testing.assert_allclose(scaled, expected, rtol=2e-5)
    assert state.started.all()
    np.testing.assert_allclose(state.variance, [s.variance for s in slow], rtol=2e-5)
    np.testing.assert_allclose(state.mean, [s.mean for s in slow], rtol=2e-5)


def test_fragments_of_vmapped_seeds():
    rng = np.random.default_rng(1)
    reward, done = (jnp.stack(x) for x in zip(*(random_rollout(rng, (5, 4)) for _ in range(2)), strict=True))
    states = jax.vmap(lambda _: normalizers.init_fragment_normalizer())(jnp.arange(2))
    normalize = normalizers.normalize_rewards_per_fragment
    together = jax.jit(jax.vmap(normalize))(states, reward, done)[1]
    alone = jax.jit(normalize)(normalizers.init_fragment_normalizer(), reward[1], done[1])[1]
    np.testing.assert_allclose(together[1], alone, rtol=1e-6)
