"""Networks of deterministic policy gradients: an actor within the bounds of the actions, and two critics."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl import rng
from purerl.errors import PurerlError
from purerl.nn.initializers import InitializerName, bias_init, kernel_init
from purerl.nn.layers import ActivationName, flat_batch, to_float
from purerl.types import Array, EnvSpec


def check(spec: EnvSpec) -> None:
    """Raises PurerlError unless an environment's actions are vectors with finite bounds."""
    if spec.num_actions:
        raise PurerlError(
            f"deterministic policy gradients need continuous actions, and those of {spec.name} are discrete: choose "
            "another agent (purerl list agents)"
        )
    if len(spec.action_shape) != 1:
        raise PurerlError(
            f"{spec.name}: actions of shape {spec.action_shape} are not supported; flatten them to a vector in the "
            "environment"
        )
    if not all(math.isfinite(bound) for side in spec.action_bounds for bound in side.reshape(-1)):
        raise PurerlError(
            f"{spec.name}: an actor needs finite bounds of its actions, and these are {spec.action_low} to "
            f"{spec.action_high}: clip them in the environment"
        )


def centre_and_scale(spec: EnvSpec) -> tuple[Array, Array]:
    """(middle of the action bounds, half of their range), float32 [A] each: actions are middle +- half of the range."""
    low, high = spec.action_bounds
    return jnp.asarray((low + high) / 2), jnp.asarray((high - low) / 2)


def _bounds(spec: EnvSpec, rank: int) -> tuple[Array, Array]:
    """(lowest, highest) action of `rank` axes, [1, ..., A]."""
    low, high = (jnp.asarray(bound).reshape((1,) * (rank - 1) + (-1,)) for bound in spec.action_bounds)
    return low, high


def within_bounds(spec: EnvSpec, action: Array) -> Array:
    """Actions [..., A] clipped to the environment's bounds."""
    low, high = _bounds(spec, action.ndim)
    return jnp.clip(action, low, high)


def uniform_actions(spec: EnvSpec, unit: Array) -> Array:
    """Actions [..., A] between the bounds, from uniform numbers [..., A] in [0, 1)."""
    low, high = _bounds(spec, unit.ndim)
    return within_bounds(spec, low + unit * (high - low))


def explored(spec: EnvSpec, action: Array, keys: Array, noise: Array | float, learning: Array) -> Array:
    """Actions [N, A] with Gaussian noise within the bounds, or uniformly random ones before learning has begun.

    Args:
      action: float32 [N, A].
      keys: [N] typed keys.
      noise: standard deviation, in halves of the range of each action, [].
      learning: bool [].
    """
    _, scale = centre_and_scale(spec)
    normal = jax.vmap(lambda key: jax.random.normal(rng.stream(key, "noise"), spec.action_shape))(keys)
    unit = jax.vmap(lambda key: rng.unit(rng.words(rng.stream(key, "uniform"), spec.action_shape)))(keys)
    return jnp.where(learning, within_bounds(spec, action + noise * scale[None] * normal), uniform_actions(spec, unit))


class DenseLayers(nn.Module):
    """Dense layers on vectors [B, F] to [B, outputs], an activation after all but the last. In float32.

    Attributes:
      hidden: widths of the hidden layers.
      outputs: numbers of the last layer.
      activation: "relu" or "tanh".
      initializer: of all layers; "torch" is that of the published code.
    """

    hidden: tuple[int, ...]
    outputs: int
    activation: ActivationName = "relu"
    initializer: InitializerName = "torch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activate = {"tanh": jnp.tanh, "relu": nn.relu}[self.activation]
        for i, width in enumerate((*self.hidden, self.outputs)):
            kernel, bias = kernel_init(self.initializer, 1.0), bias_init(self.initializer, x.shape[-1])
            x = nn.Dense(width, kernel_init=kernel, bias_init=bias, name=f"dense{i}")(x if i == 0 else activate(x))
        return x


def _vectors(spec: EnvSpec, *parts: Array) -> tuple[Array, tuple[int, ...]]:
    """Observations [..., *shape] and more [..., D] side by side, float32 [B, F]; and the leading axes."""
    x, batch = flat_batch(to_float(parts[0], jnp.float32), len(spec.observation_shape))
    rest = (part.reshape(x.shape[0], -1) for part in parts[1:])
    return jnp.concatenate([x.reshape(x.shape[0], -1), *rest], axis=-1), batch


class Actor(nn.Module):
    """mu(s): observations [..., *shape], and a context [..., C] if there is one, to actions [..., A] in the bounds.

    The action is the middle of the bounds plus half of their range times tanh of the last layer.
    """

    spec: EnvSpec
    hidden: tuple[int, ...]
    activation: ActivationName = "relu"
    initializer: InitializerName = "torch"

    @nn.compact
    def __call__(self, observation: Array, *context: Array) -> Array:
        x, batch = _vectors(self.spec, observation, *context)
        size = math.prod(self.spec.action_shape)
        x = DenseLayers(self.hidden, size, self.activation, self.initializer, name="actor")(x)
        centre, scale = centre_and_scale(self.spec)
        return within_bounds(self.spec, centre[None] + scale[None] * jnp.tanh(x)).reshape(*batch, size)


class Critics(nn.Module):
    """Q_1(s, a) and Q_2(s, a): observations, actions [..., A], and perhaps a context [..., C], to values [2, ...]."""

    spec: EnvSpec
    hidden: tuple[int, ...]
    activation: ActivationName = "relu"
    initializer: InitializerName = "torch"

    @nn.compact
    def __call__(self, observation: Array, action: Array, *context: Array) -> Array:
        x, batch = _vectors(self.spec, observation, action, *context)
        both = [DenseLayers(self.hidden, 1, self.activation, self.initializer, name=f"critic{i}")(x) for i in (1, 2)]
        return jnp.stack([q.reshape(batch) for q in both])
