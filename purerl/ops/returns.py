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
