"""Initializers of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.nn import initializers

from purerl.types import Array

InitializerName = Literal["glorot", "orthogonal", "normed", "fan_in", "torch", "he", "lecun"]

# (1 / sqrt(3) / sqrt(2)) ** (1 / 2): 3 stacks, 2 residual blocks in each, 2 convolutions in each block.
RESIDUAL_SCALE = math.sqrt(1 / math.sqrt(3) / math.sqrt(2))


def normed(scale: float) -> Callable[..., Array]:
    """An initializer that gives every output unit a weight vector of length `scale`, in a random direction.

    As in the released code of "Phasic Policy Gradient" by Cobbe et al. (https://arxiv.org/abs/2009.04416). The vector
    covers all axes but the last: (height, width, in) of a convolution, (in,) of a dense layer.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        kernel = jax.random.uniform(key, shape, dtype, -1.0, 1.0)
        length = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=range(len(shape) - 1), keepdims=True))
        return kernel * (scale / length)

    return init


def orthogonal(gain: float) -> Callable[..., Array]:
    """An initializer that gives orthogonal weights (Saxe et al. 2014, arXiv 1312.6120) times a gain.

    Under vmap it computes one lane after the other, because batched QR decompositions can deadlock in the thread pool
    of jaxlib 0.10 on CPUs.
    """
    one = initializers.orthogonal(gain)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return sequential_vmap(lambda k: one(k, shape, dtype))(key)

    return init


def kernel_init(initializer: InitializerName, scale: float) -> Callable[..., Array]:
    """A hidden layer's initializer: "normed" to `scale`, "glorot" uniform, "orthogonal" with gain sqrt(2), "fan_in",
    uniform with a variance of 1 / sqrt(3) / inputs (Dopamine's Rainbow), "torch", uniform within +- 1 / sqrt(inputs)
    (Torch's, so that of Mnih et al. 2015 and Hessel et al. 2018; `_dqn_default_initializer` of DQN Zoo), or normal with
    a variance of 2 / inputs ("he", PQN's images) or 1 / inputs ("lecun", flax's own default).
    """
    return {
        "normed": normed(scale),
        "glorot": initializers.glorot_uniform(),
        "orthogonal": orthogonal(math.sqrt(2)),
        "fan_in": initializers.variance_scaling(1 / math.sqrt(3), "fan_in", "uniform"),
        "torch": initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        "he": initializers.he_normal(),
        "lecun": initializers.lecun_normal(),
    }[initializer]


def bias_init(initializer: InitializerName, inputs: int) -> Callable[..., Array]:
    """A layer's initializer of biases: zeros, or for "torch" uniform within +- 1 / sqrt(inputs), as its weights.

    Args:
      initializer: of the layer's weights, see `kernel_init`.
      inputs: how many inputs each unit of the layer has: (height x width x channels) in a convolution.
    """
    if initializer != "torch":
        return initializers.zeros
    bound = 1 / math.sqrt(inputs)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def head_init(initializer: InitializerName, gain: float) -> Callable[..., Array]:
    """A head's initializer: "normed" to 0.1 as in the PPG code, "torch" as in other layers, "lecun" for "he" and
    "lecun" as in PQN's code, else orthogonal with a gain as in Baselines.
    """
    if initializer in ("he", "lecun"):
        return kernel_init("lecun", gain)
    if initializer == "torch":
        return kernel_init(initializer, gain)
    return normed(0.1) if initializer == "normed" else orthogonal(gain)
