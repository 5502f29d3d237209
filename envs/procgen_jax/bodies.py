"""What the games of continuous positions share: velocities, and boxes that overlap. All rounded as the library rounds.

The library adds and multiplies float32 numbers one by one. XLA may join a product and a sum into one operation, which
rounds once instead of twice. So here every product that is summed is exact, or is guarded by `rounded`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from purerl.types import Array

SUB_STEPS = 4  # moves of a step, in each axis in turns, at the speeds of these games


def rounded(product: Array) -> Array:
    """A product as it is, which XLA then does not join with a sum."""
    return jnp.where(product == product, product, 0)


def accelerated(velocity: Array, push: Array) -> Array:
    """A velocity of the next step: half of the old one and a push, float32; then 0.9 of it, a product in float64."""
    with jax.enable_x64(True):
        product = np.float64(0.9) * (np.float32(0.5) * velocity + push).astype(jnp.float64)
        return product.astype(jnp.float32)


def overlap(x: Array, y: Array, boxes: tuple[Array, Array], reach: tuple[Array, Array]) -> Array:
    """Whether a box at (x, y) overlaps others at `boxes` (x, y): nearer than the sums `reach` of their radii, bool."""
    return (jnp.abs(x - boxes[0]) < reach[0]) & (jnp.abs(y - boxes[1]) < reach[1])
