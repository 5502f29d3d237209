"""Raw episode statistics, counted from rollouts on the device: undiscounted, unclipped, unscaled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from purerl.types import Array, Metric, Rollout


@struct.dataclass
class EpisodeTracker:
    """Return and length so far of the running episode of each environment, float32 [N] and int32 [N]."""

    return_so_far: Array
    length: Array


def init_tracker(num_envs: int) -> EpisodeTracker:
    """A tracker of N environments at the start of their first episodes."""
    return EpisodeTracker(jnp.zeros(num_envs, jnp.float32), jnp.zeros(num_envs, jnp.int32))


def track(tracker: EpisodeTracker, reward: Array, done: Array) -> tuple[EpisodeTracker, dict[str, Metric]]:
    """Follows the episodes through a rollout.

    Args:
      tracker: statistics of the episodes running before the rollout, [N].
      reward: [T, N] raw rewards.
      done: [T, N] bool, the episode ended with this step.

    Returns:
      the tracker after the rollout, and the metrics `episode_return` and `episode_length` of the episodes that ended
      in it (their `count` is the number of episodes).
    """

    def step(carry, row):
        return_so_far, length = carry
        reward_t, done_t = row
        return_so_far = return_so_far + reward_t
        length = length + 1
        carry = jnp.where(done_t, 0, return_so_far), jnp.where(done_t, 0, length)
        return carry, (return_so_far, length)

    carry, (returns, lengths) = jax.lax.scan(
        step, (tracker.return_so_far, tracker.length), (reward.astype(jnp.float32), done)
    )
    return EpisodeTracker(*carry), {
        "episode_return": Metric.of(returns, done),
        "episode_length": Metric.of(lengths, done),
    }


def reported(names: tuple[str, ...], rollout: Rollout) -> dict[str, Metric]:
    """What the environment itself reports of the episodes that ended in a rollout: {name: Metric}; {} of host games."""
    if rollout.episode_metrics is None:
        return {}
    return {name: Metric.of(rollout.episode_metrics[..., i], rollout.done) for i, name in enumerate(names)}
