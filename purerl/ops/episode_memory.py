"""What an agent remembers of its episode: earlier frames, its steps, and the frames that it has seen.

These are parts of the two winners of the NeurIPS 2020 Procgen challenge, for any actor-critic. An agent whose Config
has these fields carries the memory in acting (`Agent.init_memory`) and reads it from the rollout when it learns:

    stacked_frames: K > 1 shows the network the last K observations, joined along the last axis, oldest first.
    penalize_repetition: adds `repetition_penalty` to rewards where nothing moves (see `ops.repetition`).
    adaptive_entropy: stores the share of distinct frames, by which `entropy_coefficient` chooses its weight.

Without them the memory is (). A rollout holds each frame once; the stacks are made when it is learned from. At an
episode's start the missing frames are copies of its first one, so nothing seems to move, and none is of the episode
before.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from purerl.errors import PurerlError
from purerl.ops import repetition
from purerl.types import Array, EnvSpec, Inputs, Rollout


@struct.dataclass
class EpisodeMemory:
    """The memory of one environment; a part that is off is None.

    Attributes:
      frames: [*shape[:-1], (K - 1) C], the observations before the next one, oldest first.
      steps: int32 [], the number of observations of the episode so far.
      seen: its distinct frames.
    """

    frames: Array | None
    steps: Array | None
    seen: repetition.SeenFrames | None


def check(config: Any, spec: EnvSpec) -> None:
    """Raises PurerlError if the observations cannot be stacked."""
    if config.stacked_frames > 1 and spec.stacked_frames > 1:
        raise PurerlError(
            f"{spec.name} stacks {spec.stacked_frames} frames itself: use stacked_frames = 1, or an option of the "
            "environment"
        )
    if config.stacked_frames > 1 and not spec.observation_shape:
        raise PurerlError(f"{spec.name} shows single numbers, which are not stacked: use stacked_frames = 1")
    if config.frame_differences and config.stacked_frames == 1:
        raise PurerlError("frame_differences compares stacked frames: use stacked_frames = 2, or no differences")


def shape(config: Any, spec: EnvSpec) -> tuple[int, ...]:
    """The shape of the observations that the network sees."""
    if config.stacked_frames == 1:
        return spec.observation_shape
    return (*spec.observation_shape[:-1], config.stacked_frames * spec.observation_shape[-1])


def init(config: Any, spec: EnvSpec) -> EpisodeMemory | tuple[()]:
    """The memory of one environment before an episode's first observation."""
    frames = steps = seen = None
    if config.stacked_frames > 1:
        older = (*spec.observation_shape[:-1], (config.stacked_frames - 1) * spec.observation_shape[-1])
        frames = jnp.zeros(older, spec.observation_dtype)
    if config.penalize_repetition:
        steps = jnp.int32(0)
    if config.adaptive_entropy:
        seen = repetition.init_seen_frames()
    parts = (frames, steps, seen)
    return () if all(part is None for part in parts) else EpisodeMemory(*parts)


def see(
    config: Any, memory: EpisodeMemory | tuple[()], inputs: Inputs
) -> tuple[Inputs, EpisodeMemory | tuple[()], Array | None]:
    """What the network sees of the next observations, and what is remembered.

    Args:
      config: of the agent.
      memory: [N, ...], reset at an episode's start, as the loops do.
      inputs: [N, ...].

    Returns:
      the inputs with stacked observations, the memory after them, and the share of distinct frames [N] (None without
      adaptive_entropy).
    """
    if isinstance(memory, tuple):
        return inputs, memory, None
    frame, frames, steps, seen, share = inputs.observation, memory.frames, memory.steps, memory.seen, None
    if frames is not None:
        copies = jnp.concatenate([frame] * (config.stacked_frames - 1), axis=-1)
        stacked = jnp.concatenate([jnp.where(_like(inputs.is_first, frame), copies, frames), frame], axis=-1)
        frames, inputs = stacked[..., frame.shape[-1] :], inputs.replace(observation=stacked)
    if steps is not None:
        steps = steps + 1
    if seen is not None:
        seen = jax.vmap(repetition.see)(seen, frame)
        share = jax.vmap(repetition.distinct_share)(seen)
    return inputs, EpisodeMemory(frames, steps, seen), share


def rows(config: Any, rollout: Rollout, memory: EpisodeMemory | tuple[()]) -> Rollout:
    """A rollout as the learner needs it: stacked observations, rewards with the penalty.

    Args:
      config: of the agent.
      rollout: [T, N, ...].
      memory: [N, ...] before row 0, as in `rollout.memory`.

    Returns:
      the rollout with other `observation` [T, N, ..., K C], `final_observation`, `last` and `reward`.
    """
    if isinstance(memory, tuple):
        return rollout
    is_first, frame, last = rollout.inputs().is_first, rollout.observation, rollout.last.observation
    if memory.steps is not None:
        steps = repetition.episode_steps(is_first, memory.steps)[0]
        penalty = repetition.repetition_penalty(
            frame, last, rollout.done, steps, config.repetition_penalty, channels=frame.shape[-1]
        )
        rollout = rollout.replace(reward=rollout.reward + penalty)
    if memory.frames is None:
        return rollout
    size = frame.shape[-1]
    ages = [jnp.concatenate([frame, last[None]])]  # [T + 1, N, ...], each row's frame, the one before it, ...
    begins = _like(jnp.concatenate([is_first, rollout.last.is_first[None]]), ages[0])
    for age in range(1, config.stacked_frames):
        end = memory.frames.shape[-1] - (age - 1) * size
        before = memory.frames[None, ..., end - size : end]
        ages.append(jnp.where(begins, ages[0], jnp.concatenate([before, ages[-1][:-1]])))
    stacked = jnp.concatenate(ages[::-1], axis=-1)
    final = rollout.final_observation
    if final is not None:
        final = jnp.concatenate([stacked[:-1, ..., size:], final], axis=-1)
    return rollout.replace(
        observation=stacked[:-1], final_observation=final, last=rollout.last.replace(observation=stacked[-1])
    )


def entropy_coefficient(config: Any, share: Array | None) -> Array | float:
    """The weight of the entropy bonus in a minibatch with these shares of distinct frames [...]."""
    if share is None:
        return config.entropy_coefficient
    return repetition.adaptive_entropy_coefficient(share, config.entropy_coefficient, config.raised_entropy_coefficient)


def _like(flags: Array, x: Array) -> Array:
    """Flags [...] with as many axes as x [..., *shape]."""
    return flags.reshape(*flags.shape, *[1] * (x.ndim - flags.ndim))
