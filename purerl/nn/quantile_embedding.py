"""The cosine embedding of quantile fractions in implicit quantile networks (IQN)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from purerl.nn.initializers import InitializerName, bias_init, kernel_init
from purerl.types import Array


class QuantileEmbedding(nn.Module):
    """Features [..., F] times an embedding of fractions tau [..., N]: [..., N, F].

    Eq. 4 of "Implicit Quantile Networks" by Dabney et al. (https://arxiv.org/abs/1806.06923): the embedding is a dense
    layer with a ReLU on cos(pi i tau) for i = 0 .. cosines - 1; it multiplies the features one by one.

    Attributes:
      cosines: n of the paper, 64 there.
      initializer: of the dense layer.
      dtype: of the arithmetic. The cosines are computed in float32.
    """

    cosines: int = 64
    initializer: InitializerName = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Array, fractions: Array) -> Array:
        frequencies = jnp.pi * jnp.arange(self.cosines, dtype=jnp.float32)
        angles = fractions[..., None] * frequencies.reshape(*[1] * fractions.ndim, -1)
        embedded = nn.Dense(
            features.shape[-1],
            dtype=self.dtype,
            kernel_init=kernel_init(self.initializer, 1.4),
            bias_init=bias_init(self.initializer, self.cosines),
            name="dense",
        )(jnp.cos(angles).astype(self.dtype))
        return features[..., None, :] * nn.relu(embedded)
