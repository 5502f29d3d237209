"""Segments of experience that are learned from with the current values: n-step actor-critics, on and off the policy.

A segment is T steps of B environments with everything that is needed to compute its advantages again by other values:
what came after the last step is in it. So it can be kept in a replay.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from purerl.ops import advantages, returns
from purerl.types import Array, PyTree, Rollout


@struct.dataclass
class Segment:
    """T steps of B environments.

    Attributes:
      observation: [T, B, ...].
      action: [T, B, ...].
      reward: float32 [T, B], as it is learned from.
      terminated, done: bool [T, B], as `advantages.episode_ends` gives them.
      behaviour: parameters [T, B, ...] of the policy that acted, as it was then.
      last: [B, ...], the observation after the last row.
      final: [T, B, ...], the observations before each reset; None where time-outs are not bootstrapped.
    """

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    done: Array
    behaviour: PyTree
    last: Array
    final: Array | None = None


def from_rollout(rollout: Rollout, behaviour: PyTree, *, time_limit_is_terminal: bool, reward_clip: Array) -> Segment:
    """The segment of a rollout [T, N], its rewards clipped to +-reward_clip."""
    terminated, done = advantages.episode_ends(rollout, time_limit_is_terminal)
    final = rollout.final_observation if advantages.bootstraps_time_outs(rollout, time_limit_is_terminal) else None
    reward = jnp.clip(rollout.reward, -reward_clip, reward_clip)
    last = rollout.last.observation
    return Segment(rollout.observation, rollout.action, reward, terminated, done, behaviour, last, final)


def observations(segment: Segment) -> Array:
    """All observations whose values are needed: [T + 1, B, ...], with the last one after the rows, or [2 T + 1, B, ...]
    with the final observations after it.
    """
    parts = [segment.observation, segment.last[None]]
    return jnp.concatenate(parts if segment.final is None else [*parts, segment.final])


def value_targets(
    segment: Segment, value: Array, discount: Array | float, gae_lambda: Array | float
) -> tuple[Array, Array]:
    """(advantages, value targets), [T, B] each and without gradients, by the values of `observations(segment)`."""
    value = jax.lax.stop_gradient(value)
    length = segment.reward.shape[0]
    here, reached = value[:length], value[1 : length + 1]
    if segment.final is not None:
        reached = jnp.where(segment.done & ~segment.terminated, value[length + 1 :], reached)
    advantage = returns.generalized_advantage_estimation(
        segment.reward, here, reached, segment.terminated, segment.done, discount, gae_lambda
    )
    return advantage, advantage + here
