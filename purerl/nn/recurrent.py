"""Recurrent cores: what a network remembers from step to step.

Time leads, [T, N, ...]. A network acts on T = 1 steps and learns on whole rollouts by the same code, so that replaying
a rollout from its first memory gives again what acting saw.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl.types import Array, EnvSpec, Inputs

RecurrentName = Literal["none", "gru"]


class _ResettingGRU(nn.Module):
    """One step of a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) that forgets where an episode begins."""

    size: int
    dtype: Any

    @nn.compact
    def __call__(self, memory: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        features, is_first = row
        memory = jnp.where(is_first[:, None], 0.0, memory)
        memory, _ = nn.GRUCell(self.size, dtype=self.dtype, name="cell")(memory, features)
        memory = memory.astype(jnp.float32)
        return memory, memory


class GRU(nn.Module):
    """A GRU along time: (memory [N, size], features [T, N, F], is_first [T, N]) -> memories [T, N, size] after each
    row.

    The memory is 0 at an episode's start. What the rest of a network reads are the memories.
    """

    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, memory: Array, features: Array, is_first: Array) -> Array:
        scan = nn.scan(_ResettingGRU, variable_broadcast="params", split_rngs={"params": False})
        return scan(self.size, self.dtype, name="steps")(memory, (features, is_first))[1]


def context(features: Array, inputs: Inputs, spec: EnvSpec) -> Array:
    """Features [..., F] joined with the last action (one-hot, or as it is) and the last reward: [..., F + A + 1].

    What a recurrent agent needs to tell what its own actions did (Duan et al. 2016, arXiv 1611.02779). At an episode's
    start both are 0.
    """
    if spec.num_actions:
        action = jax.nn.one_hot(inputs.last_action, spec.num_actions, dtype=features.dtype)
        action = jnp.where(inputs.is_first[..., None], 0, action)
    else:
        action = inputs.last_action.reshape(*inputs.is_first.shape, -1).astype(features.dtype)
    return jnp.concatenate([features, action, inputs.last_reward[..., None].astype(features.dtype)], axis=-1)
