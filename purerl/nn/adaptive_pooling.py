"""Maximum pooling to a given size, whatever the size of the images."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax

from purerl.types import Array


def adaptive_max_pool(x: Array, size: int) -> Array:
    """The maxima of size x size windows that cover the images.

    Window i of n pixels goes from floor(i n / size) up to, but without, ceil((i + 1) n / size), as in PyTorch's
    AdaptiveMaxPool2d. So windows overlap if n is not a multiple of `size`. Equal maxima share a gradient.

    Args:
      x: images [B, H, W, C].
      size: of the result.

    Returns:
      [B, size, size, C].
    """
    chex.assert_rank(x, 4)
    for axis in (1, 2):
        n = x.shape[axis]
        windows = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        maxima = [jnp.max(lax.slice_in_dim(x, low, high, axis=axis), axis=axis) for low, high in windows]
        x = jnp.stack(maxima, axis=axis)
    return x
