"""Returns and advantages, computed backwards through time. Time leads: [T, ...]."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from purerl.types import Array


def generalized_advantage_estimation(
    reward_t: Array,
    value_tm1: Array,
    value_t: Array,
    terminated_t: Array,
    done_t: Array,
    discount: Array | float,
    gae_lambda: Array | float,
) -> Array:
    """Generalized advantage estimates A_t, with separate treatment of terminations and time-outs.

    See "High-Dimensional Continuous Control Using Generalized Advantage Estimation" by Schulman et al.
    (https://arxiv.org/abs/1506.02438), eq. 16.

    Row t is one step: in a state of value `value_tm1[t]` an action gave `reward_t[t]` and led to a state of value
    `value_t[t]`. At a time-out, `value_t[t]` is the value of the old episode's last state, not of the next episode's
    first state. It is bootstrapped (only `terminated_t` masks it), but the sum of later errors stops there (`done_t`).

    Args:
      reward_t: [T, ...] rewards.
      value_tm1: [T, ...] values of the states acted in.
      value_t: [T, ...] values of the states reached. Any finite value where `terminated_t`.
      terminated_t: [T, ...] bool, the step terminated the episode: the value of the state reached is 0.
      done_t: [T, ...] bool, the step ended the episode, by the rules or by a time limit.
      discount: gamma, scalar.
      gae_lambda: lambda, scalar.

    Returns:
      advantages [T, ...]. Added to `value_tm1` they are the lambda-returns, the targets of the value function.
    """
    chex.assert_equal_shape([reward_t, value_tm1, value_t, terminated_t, done_t])
    chex.assert_type([reward_t, value_tm1, value_t, terminated_t, done_t], [float, float, float, bool, bool])
    delta_t = reward_t + discount * jnp.where(terminated_t, 0.0, value_t) - value_tm1
    decay_t = jnp.where(done_t, 0.0, discount * gae_lambda).astype(delta_t.dtype)

    def backwards(advantage_tp1: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, decay = row
        advantage = delta + decay * advantage_tp1
        return advantage, advantage

    _, advantage_t = jax.lax.scan(backwards, jnp.zeros_like(delta_t[0]), (delta_t, decay_t), reverse=True, unroll=8)
    return advantage_t


def lambda_returns(
    reward_t: Array,
    value_t: Array,
    terminated_t: Array,
    done_t: Array,
    discount: Array | float,
    trace_decay: Array | float,
) -> Array:
    """Lambda-returns G_t = r_t + gamma ((1 - lambda) v(s') + lambda G_{t+1}), with terminations and time-outs apart.

    With v(s') = max_a Q(s', a) this is the Q(lambda) of Peng and Williams 1996, which "Simplifying Deep Temporal
    Difference Learning" by Gallici et al. (https://arxiv.org/abs/2407.04811) trains on. It is not cut where an action
    explores. After the last row the return is the value of the state reached.

    Args:
      reward_t: [T, ...] rewards.
      value_t: [T, ...] values of the states reached. Any finite value where `terminated_t`.
      terminated_t: [T, ...] bool, the step terminated the episode: nothing comes after its reward.
      done_t: [T, ...] bool, the step ended the episode, by the rules or by a time limit. A time-out is bootstrapped
        from `value_t` alone, since the next row is of another episode.
      discount: gamma, scalar.
      trace_decay: lambda, scalar.

    Returns:
      [T, ...].
    """
    chex.assert_equal_shape([reward_t, value_t, terminated_t, done_t])
    chex.assert_type([reward_t, value_t, terminated_t, done_t], [float, float, bool, bool])
    gamma_t = jnp.where(terminated_t, 0.0, discount).astype(reward_t.dtype)
    lambda_t = jnp.where(done_t, 0.0, trace_decay).astype(reward_t.dtype)

    def backwards(return_tp1: Array, row: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        reward, value, gamma, decay = row
        return_t = reward + gamma * ((1 - decay) * value + decay * return_tp1)
        return return_t, return_t

    rows = reward_t, value_t, gamma_t, lambda_t
    _, return_t = jax.lax.scan(backwards, value_t[-1], rows, reverse=True, unroll=8)
    return return_t
