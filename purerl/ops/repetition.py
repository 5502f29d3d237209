"""Frames that an agent has already seen: a penalty for standing still, and more entropy where it goes round in circles.

Both are of the winner of the sample efficiency track of the NeurIPS 2020 Procgen challenge, A. Gaidon and B. Wulfe (the
repository wulfebw/neurips2020-procgen), whose constants are the defaults.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from purerl.types import Array

# --- Steps since an episode began ------------------------------------------------------------------------------------


def episode_steps(is_first: Array, before: Array) -> tuple[Array, Array]:
    """How many steps each observation is away from its episode's first one.

    Args:
      is_first: [T, N] bool, the observation of row t is an episode's first one.
      before: int32 [N], the result for row 0 if no episode begins there; 0 at the start of training.

    Returns:
      int32 [T, N], and what the next rollout takes as `before` [N].
    """
    row = jnp.arange(is_first.shape[0], dtype=jnp.int32)[:, None]
    begin = jax.lax.cummax(jnp.where(is_first, row, -before[None]))
    steps = row - begin
    return steps, steps[-1] + 1


# --- Penalty ---------------------------------------------------------------------------------------------------------


def repetition_penalty(
    observation: Array,
    next_observation: Array,
    done: Array,
    steps: Array,
    penalty: Array | float = -0.1,
    free_steps: int = 10,
    channels: int = 3,
) -> Array:
    """What to add to the rewards of steps after which the agent sees the same frame again.

    It is added to the raw rewards, before they are scaled.

    Args:
      observation: [T, N, ..., C], what was acted on. Only the last `channels` of a stack of frames are compared.
      next_observation: [N, ..., C], what follows the last row.
      done: [T, N] bool, the episode ended with this step: no penalty, because what follows is of another episode.
      steps: int32 [T, N], see `episode_steps`.
      penalty: added, negative.
      free_steps: no penalty as long as `steps` is not larger.
      channels: of one frame.

    Returns:
      float32 [T, N], `penalty` or 0.
    """
    frames = observation[..., -channels:]
    following = jnp.concatenate([frames[1:], next_observation[None, ..., -channels:]])
    same = jnp.all(frames == following, axis=tuple(range(2, frames.ndim)))
    return jnp.where(same & ~done & (steps > free_steps), jnp.float32(penalty), jnp.float32(0))


# --- Distinct frames -------------------------------------------------------------------------------------------------


@struct.dataclass
class SeenFrames:
    """The frames of an episode so far: part of an agent's Memory, of one environment.

    Attributes:
      hashes: uint32 [L], of the first L frames; later ones are forgotten.
      seen: int32 [], the number of frames.
      distinct: int32 [], how many of them were new.
    """

    hashes: Array
    seen: Array
    distinct: Array


def init_seen_frames(longest: int = 1000) -> SeenFrames:
    """Nothing seen. `longest` is L, best the longest episode (1000 steps in most of Procgen's games)."""
    return SeenFrames(jnp.zeros(longest, jnp.uint32), jnp.int32(0), jnp.int32(0))


def frame_hash(frame: Array) -> Array:
    """A hash of an observation [...], uint32 []. Those of two different frames are equal once in 2^32 times."""
    x = frame.reshape(-1)
    if jnp.issubdtype(x.dtype, jnp.floating):
        x = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32) * jnp.uint32(0x9E3779B1)
    x = x.astype(jnp.uint32)
    x = 256 * jnp.arange(x.size, dtype=jnp.uint32) + x  # each value at each place is a number of its own,
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)  # which the finalizer of MurmurHash3 makes look random
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(x ^ (x >> 16), dtype=jnp.uint32)


def see(memory: SeenFrames, frame: Array) -> SeenFrames:
    """The memory of one environment after another frame [...]."""
    hashed, place = frame_hash(frame), jnp.arange(memory.hashes.shape[0], dtype=jnp.int32)
    known = jnp.any((memory.hashes == hashed) & (place < memory.seen))
    return SeenFrames(
        jnp.where(place == memory.seen, hashed, memory.hashes),
        memory.seen + 1,
        memory.distinct + (~known).astype(jnp.int32),
    )


def distinct_share(memory: SeenFrames) -> Array:
    """The share of the episode's frames that were new, float32; 1 before the first frame."""
    return jnp.where(memory.seen > 0, memory.distinct / jnp.maximum(memory.seen, 1), 1.0).astype(jnp.float32)


def adaptive_entropy_coefficient(
    share: Array,
    coefficient: Array | float = 0.01,
    raised: Array | float = 0.02,
    threshold: Array | float = 0.9,
) -> Array:
    """The weight of the entropy bonus in a minibatch, float32 []: `raised` if agents have seen many frames twice.

    Args:
      share: any shape, the `distinct_share` of each sample, at its step.
      coefficient: the weight otherwise.
      raised: the weight if the mean share is less than the threshold.
      threshold: of the mean share.
    """
    return jnp.where(jnp.mean(share) < threshold, jnp.float32(raised), jnp.float32(coefficient))
