"""What the networks of actor-critics see in addition to an observation: differences of frames, the previous action.

Both are parts of the winners of the NeurIPS 2020 Procgen challenge. An agent whose Config has `frame_differences` and
`previous_action` passes what `of` returns to its torso, and features through `join`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from purerl.nn import layers
from purerl.types import Array, EnvSpec, Inputs


def choose(config: Any, inputs: Inputs) -> Any:
    """What of the Inputs a network takes: them, if it sees the previous action, or else only the observation."""
    return inputs.replace(is_first=None, last_reward=None) if config.previous_action else inputs.observation


def of(config: Any, spec: EnvSpec, inputs: Any) -> tuple[Array, Array | None]:
    """(observation [..., *shape], context [..., A] or None) from the result of `choose`.

    The context is the previous action, one-hot if it is discrete. At an episode's start it is action 0, or zeros.
    """
    observation, context = (inputs.observation, inputs.last_action) if isinstance(inputs, Inputs) else (inputs, None)
    if not config.previous_action:
        context = None
    if context is not None:
        lead = observation.shape[: observation.ndim - len(spec.observation_shape)]
        context = jax.nn.one_hot(context, spec.num_actions) if spec.num_actions else context.reshape(*lead, -1)
    if config.frame_differences:
        floats = layers.to_float(observation, jnp.dtype(config.dtype))
        observation = layers.with_differences(floats, spec.observation_shape[-1])
    return observation, context


def join(features: Array, context: Array | None) -> Array:
    """Features [..., F] followed by the context: [..., F + A]."""
    return features if context is None else jnp.concatenate([features, context.astype(features.dtype)], axis=-1)
