"""Policy and value heads."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers

from purerl.nn.initializers import InitializerName, bias_init, head_init
from purerl.types import Array, EnvSpec, GaussianParameters


class PolicyHead(nn.Module):
    """Features [..., F] to the parameters of the policy (`distributions.for_spec`), in float32.

    These are logits [..., A], or GaussianParameters [..., D] whose log standard deviation starts at 0 and does not
    depend on the features.
    """

    spec: EnvSpec
    initializer: InitializerName = "orthogonal"

    @nn.compact
    def __call__(self, features: Array) -> Array | GaussianParameters:
        size = self.spec.num_actions or math.prod(self.spec.action_shape)
        out = _dense(features, size, self.initializer, 0.01)
        if self.spec.num_actions:
            return out
        log_std = self.param("log_std", initializers.zeros, (size,), jnp.float32)
        return GaussianParameters(out, jnp.broadcast_to(log_std, out.shape))


class ValueHead(nn.Module):
    """Features [..., F] to values [...], in float32."""

    initializer: InitializerName = "orthogonal"

    @nn.compact
    def __call__(self, features: Array) -> Array:
        return jnp.squeeze(_dense(features, 1, self.initializer, 1.0), axis=-1)


def _dense(features: Array, size: int, initializer: InitializerName, gain: float) -> Array:
    """A head's layer, called inside of a module, which has it: [..., F] to [..., size] in float32."""
    kernel, bias = head_init(initializer, gain), bias_init(initializer, features.shape[-1])
    return nn.Dense(size, dtype=jnp.float32, kernel_init=kernel, bias_init=bias, name="dense")(features)
