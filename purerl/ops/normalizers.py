"""Running statistics that scale rewards and observations.

Rewards are divided by the standard deviation of the discounted return of each environment, or of the sums of fragments
of episodes. The mean is not subtracted.
Reported returns are always raw (see `loops.episodes`). Observations lose their mean and are divided by their standard
deviation, number by number.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from purerl.types import Array


@struct.dataclass
class RewardNormalizer:
    """Running statistics of discounted returns.

    They are safe for very long runs in float32. Each rollout's statistics are computed separately and merged once. So
    `count` grows until a rollout is less than 2^-24 of it: to 2^38 steps with rollouts of 16,384 steps, to 2^31 with
    rollouts of 128. After that, `count` and in effect the statistics no longer change.

    Attributes:
      discounted_return: float32 [N], of the current episodes.
      mean, variance: float32 [], of all returns so far, one for each step; they start at 0 and 1.
      count: float32 [], the number of these returns; it starts at 1e-4.
    """

    discounted_return: Array
    mean: Array
    variance: Array
    count: Array


def init_reward_normalizer(num_envs: int) -> RewardNormalizer:
    """The statistics of N environments before their first step."""
    return RewardNormalizer(jnp.zeros(num_envs, jnp.float32), jnp.float32(0), jnp.float32(1), jnp.float32(1e-4))


@struct.dataclass
class ObservationNormalizer:
    """Running statistics of observations, merged once for each rollout (see `RewardNormalizer` for long runs).

    Attributes:
      mean, variance: float32 [*shape], of all observations so far; they start at 0 and 1.
      count: float32 [], the number of these observations; it starts at 1e-4.
    """

    mean: Array
    variance: Array
    count: Array


def init_observation_normalizer(shape: tuple[int, ...]) -> ObservationNormalizer:
    """The statistics of observations of a shape before the first one: they change nothing."""
    return ObservationNormalizer(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), jnp.float32(1e-4))


def update_observation_normalizer(state: ObservationNormalizer, observation: Array) -> ObservationNormalizer:
    """The statistics after more observations [..., *shape], of any dtype."""
    x = observation.astype(jnp.float32).reshape(-1, *state.mean.shape)
    share = 1.0 / x.shape[0]
    mean = jnp.sum(x, axis=0, keepdims=True) * share
    variance = jnp.sum(jnp.square(x - mean), axis=0) * share
    new = _Moments(mean[0], variance, jnp.float32(x.shape[0]))
    after = _merge(_Moments(state.mean, state.variance, state.count), new)
    return ObservationNormalizer(after.mean, after.variance, after.count)


def normalize_observations(
    state: ObservationNormalizer, observation: Array, clip: Array | float = 10.0, epsilon: float = 1e-8
) -> Array:
    """Observations [..., *shape] with mean 0 and variance 1 under the statistics, clipped to +-clip, float32.

    As VecNormalize in OpenAI Baselines (https://github.com/openai/baselines), which updates its statistics in every
    step. Here they are those before the rollout, so that acting and learning see the same numbers.
    """
    chex.assert_equal_shape_suffix([state.mean, observation], state.mean.ndim)
    lead = (1,) * (observation.ndim - state.mean.ndim)
    mean, variance = (x.reshape(*lead, *x.shape) for x in (state.mean, state.variance))
    return jnp.clip((observation.astype(jnp.float32) - mean) * jax.lax.rsqrt(variance + epsilon), -clip, clip)


@struct.dataclass
class _Moments:
    """Mean and population variance of `count` numbers, float32 [], or of each element of `count` arrays."""

    mean: Array
    variance: Array
    count: Array


def _moments(x: Array) -> _Moments:
    """The moments of x [...]."""
    share = 1.0 / x.size
    mean = jnp.sum(x) * share
    return _Moments(mean, jnp.sum(jnp.square(x - mean)) * share, jnp.float32(x.size))


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """The moments of both sets of numbers together.

    See "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" by Chan et al. 1979. It avoids a
    product of counts, which would overflow the precision of float32.
    """
    count = a.count + b.count
    share_a, share_b = a.count / jnp.maximum(count, 1e-30), b.count / jnp.maximum(count, 1e-30)
    delta = b.mean - a.mean
    between = share_a * share_b * jnp.square(delta)
    return _Moments(a.mean + share_b * delta, a.variance + share_b * (b.variance - a.variance) + between, count)


def _check(state: RewardNormalizer, reward: Array, done: Array) -> None:
    chex.assert_rank(reward, 2)
    chex.assert_shape(state.discounted_return, reward.shape[1:])
    chex.assert_equal_shape([reward, done])
    chex.assert_type([reward, done], [float, bool])


def _scale(reward: Array, variance: Array, clip: Array | float, epsilon: float) -> Array:
    return jnp.clip(reward * jax.lax.rsqrt(variance + epsilon), -clip, clip)


def normalize_rewards_per_step(
    state: RewardNormalizer,
    reward: Array,
    done: Array,
    discount: Array | float = 0.99,
    clip: Array | float = 10.0,
    epsilon: float = 1e-8,
) -> tuple[RewardNormalizer, Array]:
    """Scales each step's rewards by the statistics up to and including that step.

    As VecNormalize in OpenAI Baselines (https://github.com/openai/baselines), which produced the curves of Cobbe et al.
    2020 (https://arxiv.org/abs/1912.01588). Their discount here is 0.99, independent of the agent's discount.

    Args:
      state: statistics before the rollout.
      reward: [T, N] raw rewards.
      done: [T, N] bool, the episode ended with this step.
      discount: of the followed return, scalar.
      clip: largest scaled reward, scalar.
      epsilon: added to the variance.

    Returns:
      the statistics after the rollout, and the scaled rewards [T, N].
    """
    _check(state, reward, done)
    before = _Moments(state.mean, state.variance, state.count)

    def step(carry: tuple[Array, _Moments], row: tuple[Array, Array]) -> tuple[tuple[Array, _Moments], Array]:
        discounted_return, rollout = carry
        reward_t, done_t = row
        discounted_return = discount * discounted_return + reward_t
        rollout = _merge(rollout, _moments(discounted_return))
        return (jnp.where(done_t, 0, discounted_return), rollout), _merge(before, rollout).variance

    nothing = _Moments(jnp.float32(0), jnp.float32(0), jnp.float32(0))
    (discounted_return, rollout), variance = jax.lax.scan(step, (state.discounted_return, nothing), (reward, done))
    after = _merge(before, rollout)
    state = RewardNormalizer(discounted_return, after.mean, after.variance, after.count)
    return state, _scale(reward, variance[:, None], clip, epsilon)


def normalize_rewards_per_rollout(
    state: RewardNormalizer,
    reward: Array,
    done: Array,
    discount: Array | float = 0.99,
    clip: Array | float = 10.0,
    epsilon: float = 1e-8,
) -> tuple[RewardNormalizer, Array]:
    """Scales a whole rollout's rewards by the statistics that already include it.

    As in the released code of "Phasic Policy Gradient" by Cobbe et al. (https://arxiv.org/abs/2009.04416). Its discount
    here is 0.99, independent of the agent's discount.

    Args:
      state: statistics before the rollout.
      reward: [T, N] raw rewards.
      done: [T, N] bool, the episode ended with this step.
      discount: of the followed return, scalar.
      clip: largest scaled reward, scalar.
      epsilon: added to the variance.

    Returns:
      the statistics after the rollout, and the scaled rewards [T, N].
    """
    _check(state, reward, done)

    def step(discounted_return: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward_t, done_t = row
        discounted_return = discount * discounted_return + reward_t
        return jnp.where(done_t, 0, discounted_return), discounted_return

    discounted_return, returns = jax.lax.scan(step, state.discounted_return, (reward, done))
    after = _merge(_Moments(state.mean, state.variance, state.count), _moments(returns))
    state = RewardNormalizer(discounted_return, after.mean, after.variance, after.count)
    return state, _scale(reward, after.variance, clip, epsilon)


# --- Sums of fragments -----------------------------------------------------------------------------------------------


@struct.dataclass
class FragmentNormalizer:
    """Exponentially weighted statistics of the rewards' sums over fragments, for W groups of environments.

    Attributes:
      mean, variance: float32 [W]; they start at 0 and 1.
      started: bool [W], whether a fragment has been seen: the first one only sets the mean.
    """

    mean: Array
    variance: Array
    started: Array


def init_fragment_normalizer(num_groups: int = 1) -> FragmentNormalizer:
    """The statistics before the first fragment. The winner has W = 7 workers, each with statistics of its own."""
    shape = (num_groups,)
    return FragmentNormalizer(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.bool_))


def _recurrence(factor: Array, term: Array, first: Array) -> Array:
    """x_k = factor_k x_{k-1} + term_k for all k [K], from x_{-1} = first []; in O(log K) steps."""

    def after(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] * b[0], a[1] * b[0] + b[1]

    product, total = jax.lax.associative_scan(after, (factor, term))
    return product * first[None] + total


def _follow_fragments(
    state: FragmentNormalizer, total: Array, ended: Array, alpha: Array | float
) -> tuple[FragmentNormalizer, Array]:
    """The statistics (of one group) after the sums [K] that are marked in ended [K], and the variance after each."""
    first = ended & ~state.started & (jnp.cumsum(ended) == 1)
    later = ended & ~first
    kept = jnp.where(later, 1 - alpha, 1.0)
    mean = _recurrence(
        jnp.where(first, 0.0, kept), jnp.where(first, total, jnp.where(later, alpha * total, 0.0)), state.mean
    )
    delta = total - jnp.concatenate([state.mean[None], mean[:-1]])
    variance = _recurrence(kept, jnp.where(later, (1 - alpha) * alpha * jnp.square(delta), 0.0), state.variance)
    return FragmentNormalizer(mean[-1], variance[-1], state.started | ended.any()), variance


def normalize_rewards_per_fragment(
    state: FragmentNormalizer, reward: Array, done: Array, alpha: Array | float = 0.005, epsilon: float = 1e-8
) -> tuple[FragmentNormalizer, Array]:
    """Divides the rewards of each fragment by the standard deviation of the fragments' sums, its own included.

    A fragment is an environment's steps of one episode within the rollout. As the winner of the sample efficiency track
    of the NeurIPS 2020 Procgen challenge (the repository wulfebw/neurips2020-procgen), with rollouts of 16 steps. The
    sums are not discounted, nothing is clipped, and the mean is not subtracted. Fragments count in the order in which
    they end, those of one step in the order of their environments.

    Args:
      state: statistics before the rollout, of W groups.
      reward: [T, N] raw rewards. N is a multiple of W; a group is N / W neighbours.
      done: [T, N] bool, the episode ended with this step.
      alpha: weight of the newest sum, scalar.
      epsilon: added to the standard deviation.

    Returns:
      the statistics after the rollout, and the scaled rewards [T, N].
    """
    chex.assert_rank(reward, 2)
    chex.assert_equal_shape([reward, done])
    chex.assert_type([reward, done], [float, bool])
    groups, length = state.mean.shape[0], reward.shape[0]

    def add(total: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward_t, done_t = row
        return jnp.where(done_t, 0.0, total + reward_t), total + reward_t

    total = jax.lax.scan(add, jnp.zeros_like(reward[0]), (reward, done))[1]
    ended = done | (jnp.arange(length) == length - 1)[:, None]

    def by_group(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(length, groups, -1), 0, 1).reshape(groups, -1)

    state, variance = jax.vmap(lambda s, x, e: _follow_fragments(s, x, e, alpha))(
        state, by_group(total), by_group(ended)
    )
    variance = jnp.swapaxes(variance.reshape(groups, length, -1), 0, 1).reshape(reward.shape)

    def back(after: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        own, ended_t = row
        now = jnp.where(ended_t, own, after)
        return now, now

    of_fragment = jax.lax.scan(back, variance[-1], (variance, ended), reverse=True)[1]
    return state, reward / (jnp.sqrt(of_fragment) + epsilon)
