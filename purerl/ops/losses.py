"""The terms of policy-gradient losses, elementwise: callers weight them and take the mean."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from purerl.types import Array


def mean(x: Array) -> Array:
    """The mean of all entries, float32 []; booleans and integers are counted as float32."""
    return jnp.mean(x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32), dtype=jnp.float32)


def clipped_surrogate(log_ratio: Array, advantage: Array, clip: Array | float) -> Array:
    """The clipped surrogate objective as a loss to minimise.

    See "Proximal Policy Optimization Algorithms" by Schulman et al. (https://arxiv.org/abs/1707.06347), eq. 7, with the
    opposite sign: max(-A r, -A clip(r, 1 - clip, 1 + clip)).

    Args:
      log_ratio: [...] log pi(a|s) - log pi_old(a|s).
      advantage: [...] advantages of the actions.
      clip: epsilon, scalar.

    Returns:
      [...] losses.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    chex.assert_type([log_ratio, advantage], float)
    ratio = jnp.exp(log_ratio)
    return jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1.0 - clip, 1.0 + clip))


def quadratic_kl_penalty(log_ratio: Array) -> Array:
    """Half the squared log-ratio: a second-order estimate of the KL divergence from the policy that acted.

    See "Phasic Policy Gradient" by Cobbe et al. (https://arxiv.org/abs/2009.04416), section 3.5. The paper writes
    KL[old, new]; the released code, and so the published curves, use this estimate from the sampled actions instead.

    Args:
      log_ratio: [...] log pi(a|s) - log pi_old(a|s).

    Returns:
      [...] penalties.
    """
    chex.assert_type(log_ratio, float)
    return 0.5 * jnp.square(log_ratio)


def squared_value_error(value: Array, target: Array) -> Array:
    """Half the squared error of a value function.

    See "Phasic Policy Gradient" by Cobbe et al. (https://arxiv.org/abs/2009.04416), eq. 2 and L^aux.

    Args:
      value: [...] values.
      target: [...] value targets.

    Returns:
      [...] errors, 0.5 (value - target)^2.
    """
    chex.assert_equal_shape([value, target])
    chex.assert_type([value, target], float)
    return 0.5 * jnp.square(value - target)


def clipped_squared_value_error(value: Array, old_value: Array, target: Array, clip: Array | float) -> Array:
    """Half the squared error of a value function, clipped so that moving more than `clip` gives no lower loss.

    This is not in a paper: it is the value loss of PPO in OpenAI Baselines (https://github.com/openai/baselines, ppo2).

    Args:
      value: [...] values.
      old_value: [...] values when the data were collected.
      target: [...] value targets.
      clip: how far a value may move, scalar.

    Returns:
      [...] errors, 0.5 max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2).
    """
    chex.assert_equal_shape([value, old_value, target])
    chex.assert_type([value, old_value, target], float)
    clipped = old_value + jnp.clip(value - old_value, -clip, clip)
    return 0.5 * jnp.maximum(jnp.square(value - target), jnp.square(clipped - target))


def normalize_advantages(advantage: Array, epsilon: float = 1e-8) -> Array:
    """Normalises advantages to mean 0 and (population) standard deviation 1.

    Args:
      advantage: [...] advantages.
      epsilon: added to the standard deviation.

    Returns:
      [...] advantages, (A - mean) / (std + epsilon) over all axes.
    """
    chex.assert_type(advantage, float)
    centred = advantage - mean(advantage)
    return centred / (jnp.sqrt(mean(jnp.square(centred))) + epsilon)
