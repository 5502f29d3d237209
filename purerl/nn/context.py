"""Actor and critics that see a context: the last output of a GRU over a window of steps (`buffers.windows`)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from purerl.nn import deterministic, recurrent
from purerl.types import Array, EnvSpec


class Context(nn.Module):
    """z: steps [B, T, F] to [B, size], the last output of a GRU that starts at 0.

    Zeros before an episode's first step are fed like steps, and change z if the GRU has biases. Where `used` [B, T] is
    given, the GRU starts with the first slot that is used instead.
    """

    size: int

    @nn.compact
    def __call__(self, steps: Array, used: Array | None = None) -> Array:
        if used is None:
            starts = jnp.zeros(steps.shape[:2], jnp.bool_)
        else:
            starts = used & ~jnp.concatenate([jnp.zeros_like(used[:, :1]), used[:, :-1]], axis=1)
        memory = jnp.zeros((steps.shape[0], self.size))
        steps, starts = jnp.swapaxes(steps, 0, 1), jnp.swapaxes(starts, 0, 1)
        return recurrent.GRU(self.size, initializer="torch", name="gru")(memory, steps, starts)[-1]


class ContextActor(nn.Module):
    """mu(s, z): observations [B, *shape] and steps [B, T, F] to actions [B, A] in the bounds, and z [B, C]."""

    spec: EnvSpec
    hidden: tuple[int, ...]
    context_size: int

    @nn.compact
    def __call__(self, observation: Array, steps: Array, used: Array | None = None) -> tuple[Array, Array]:
        z = Context(self.context_size, name="context")(steps, used)
        return deterministic.Actor(self.spec, self.hidden, name="policy")(observation, z), z


class ContextCritics(nn.Module):
    """Q_1(s, a, z) and Q_2(s, a, z), values [2, B], which share the GRU of their context."""

    spec: EnvSpec
    hidden: tuple[int, ...]
    context_size: int

    @nn.compact
    def __call__(self, observation: Array, action: Array, steps: Array) -> Array:
        z = Context(self.context_size, name="context")(steps)
        return deterministic.Critics(self.spec, self.hidden, name="values")(observation, action, z)
