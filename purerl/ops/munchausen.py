"""Munchausen targets: the scaled log-policy joins the reward, and a soft maximum takes the place of the maximum.

See "Munchausen Reinforcement Learning" by Vieillard et al. 2020 (https://arxiv.org/abs/2007.14430). With values q of
the target network, pi = softmax(q / tau) and a one-step return the target is (eq. 2 of the paper)

    r + alpha [tau ln pi(a|s)]_l0^0 + gamma sum_a' pi(a'|s') (q(s', a') - tau ln pi(a'|s')).

The paper has alpha = 0.9, tau = 0.03 and l0 = -1 (section 4), and so has "Beyond the Rainbow".

With n-step returns only the first action of the window earns a bonus: R_n + alpha [tau ln pi(a_t|s_t)] + gamma^n times
the soft value of s_{t+n}. R_n is the sum of the (clipped) rewards alone. This is what the code of "Beyond the Rainbow"
does (VIPTankz/BeyondTheRainbowICML, Agent.py at 0e08f8b). That code takes the bonus from the online network; both
papers take it from the target network, and so does purerl.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from purerl.types import Array


def log_policy(q: Array, temperature: Array | float) -> Array:
    """tau ln softmax(q / tau) [..., A] of values [..., A]: at most 0, and 0 for the best action if tau is small."""
    return temperature * jax.nn.log_softmax(q / temperature, axis=-1)


def bonus(q: Array, action: Array, temperature: Array | float, lowest: Array | float) -> Array:
    """[tau ln pi(a)]_l0^0, what an action adds to the reward, times alpha.

    Args:
      q: [A] values.
      action: [] integer.
      temperature: tau.
      lowest: l0, below which the log-policy is clipped.

    Returns:
      [], in [l0, 0].
    """
    chex.assert_rank([q, action], [1, 0])
    return jnp.clip(log_policy(q, temperature)[action], lowest, 0.0)


def soft_value(returns: Array, q: Array, temperature: Array | float) -> Array:
    """The soft value of a state: sum_a pi(a) (Z(a) - tau ln pi(a)).

    Args:
      returns: [A] values, or [A, N] quantiles of each: the sum is then one for each quantile, as in M-IQN.
      q: [A] values that make the policy.
      temperature: tau.

    Returns:
      [] or [N].
    """
    chex.assert_rank(q, 1)
    policy, scaled = jax.nn.softmax(q / temperature), log_policy(q, temperature)
    each = (-1, *[1] * (returns.ndim - 1))
    return jnp.sum(policy.reshape(each) * (returns - scaled.reshape(each)), axis=0)
