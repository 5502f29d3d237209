"""Quantile regression with sampled fractions, for implicit quantile networks (IQN).

See "Implicit Quantile Networks for Distributional Reinforcement Learning" by Dabney et al.
(https://arxiv.org/abs/1806.06923).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from purerl import rng
from purerl.types import Array

KAPPA = 1.0  # where the Huber loss turns linear, as in section 4 of the paper


def draw_fractions(key: Array, shape: tuple[int, ...]) -> Array:
    """Quantile fractions tau, uniform in [0, 1), float32 of this shape."""
    return rng.unit(rng.words(key, shape))


def quantile_huber_loss(quantiles: Array, fractions: Array, targets: Array) -> tuple[Array, Array]:
    """The quantile Huber loss of one state and action (eq. 3 of the paper): a sum over N, a mean over N'.

    An error delta = target - quantile weighs |tau - 1{delta < 0}|. So a quantile with a large tau is pulled up by the
    targets above it more than it is pulled down by those below it.

    Args:
      quantiles: [N] values Z_tau of the online network.
      fractions: [N] their tau.
      targets: [N'] samples of the return, without gradient.

    Returns:
      the loss [], and the absolute errors [] summed and averaged in the same way. "Beyond the Rainbow" takes the latter
      as the priority.
    """
    chex.assert_rank([quantiles, fractions, targets], 1)
    chex.assert_equal_shape([quantiles, fractions])
    error = targets[None, :] - quantiles[:, None]
    size = jnp.abs(error)
    huber = jnp.where(size <= KAPPA, 0.5 * jnp.square(error), KAPPA * (size - 0.5 * KAPPA))
    weight = jnp.abs(fractions[:, None] - jax.lax.stop_gradient(error < 0).astype(error.dtype))
    return jnp.sum(jnp.mean(weight * huber / KAPPA, axis=1)), jnp.sum(jnp.mean(size, axis=1))
