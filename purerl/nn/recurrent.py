"""Recurrent cores: the memory of a network from step to step.

Time leads, [T, N, ...]. A network acts with T = 1 and learns on whole rollouts with the same code. So replaying a
rollout from its first memory gives the same outputs as acting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl.types import Array, EnvSpec, Inputs

RecurrentName = Literal["none", "gru"]
# "lecun": flax's own, normal and orthogonal kernels, zero biases; "torch": all uniform within +-1 / sqrt(size).
CellInitializerName = Literal["lecun", "torch"]


def _uniform(size: int) -> Callable[..., Array]:
    """An initializer that is uniform within +-1 / sqrt(size)."""
    bound = 1 / math.sqrt(size)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class _ResettingGRU(nn.Module):
    """One step of a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) that is reset at an episode's start."""

    size: int
    dtype: Any
    initializer: CellInitializerName = "lecun"

    @nn.compact
    def __call__(self, memory: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        features, is_first = row
        memory = jnp.where(is_first[:, None], 0.0, memory)
        chosen = {}
        if self.initializer == "torch":
            chosen = dict.fromkeys(("kernel_init", "recurrent_kernel_init", "bias_init"), _uniform(self.size))
        memory, _ = nn.GRUCell(self.size, dtype=self.dtype, name="cell", **chosen)(memory, features)
        memory = memory.astype(jnp.float32)
        return memory, memory


class GRU(nn.Module):
    """A GRU over time: (memory [N, size], features [T, N, F], is_first [T, N]) -> memories [T, N, size].

    Row t of the result is the memory after step t, which the rest of the network reads. The memory is reset to 0 at an
    episode's start.
    """

    size: int
    dtype: Any = jnp.float32
    initializer: CellInitializerName = "lecun"

    @nn.compact
    def __call__(self, memory: Array, features: Array, is_first: Array) -> Array:
        scan = nn.scan(_ResettingGRU, variable_broadcast="params", split_rngs={"params": False})
        return scan(self.size, self.dtype, self.initializer, name="steps")(memory, (features, is_first))[1]


def context(features: Array, inputs: Inputs, spec: EnvSpec) -> Array:
    """Concatenates features [..., F], the last action (one-hot if discrete) and the last reward: [..., F + A + 1].

    A recurrent agent needs both to learn the effect of its own actions (Duan et al. 2016, arXiv 1611.02779). At an
    episode's start both are 0.
    """
    if spec.num_actions:
        action = jax.nn.one_hot(inputs.last_action, spec.num_actions, dtype=features.dtype)
        action = jnp.where(inputs.is_first[..., None], 0, action)
    else:
        action = inputs.last_action.reshape(*inputs.is_first.shape, -1).astype(features.dtype)
    return jnp.concatenate([features, action, inputs.last_reward[..., None].astype(features.dtype)], axis=-1)
