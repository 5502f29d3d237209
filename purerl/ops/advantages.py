"""What every learner does to a rollout before its loss: ends of episodes, values of next states, reward scaling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from flax import struct

from purerl.ops import losses, normalizers, returns
from purerl.types import Array, Metric, Rollout

RewardScaling = Literal["none", "per-step", "per-rollout"]


@struct.dataclass
class ActorCriticExtras:
    """What acting leaves for learning, [N]: log-probability of the action and value of the observation."""

    log_prob: Array
    value: Array


@struct.dataclass
class ActorCriticBatch:
    """What actor-critic gradient steps learn from, [T, N, ...]."""

    observation: Array
    action: Array
    log_prob: Array
    value: Array
    advantage: Array
    value_target: Array
    valid: Array | None


def episode_ends(
    rollout: Rollout, time_limit_is_terminal: bool, bootstraps_from_rows: bool = False
) -> tuple[Array, Array]:
    """(terminated, done), bool [T, N]: where nothing may be bootstrapped, and where an episode ends at all.

    With `time_limit_is_terminal` a time-out counts as an end of the game, as the Procgen and Atari papers have it. An
    environment that hides its final observations leaves no other choice, except to a learner that can bootstrap from
    the row before instead (a replay, `bootstraps_from_rows`). A lost life is an end where the environment
    tells of it (an option of Atari).
    """
    done = rollout.terminated | rollout.truncated
    hidden = rollout.final_observation is None and not bootstraps_from_rows
    terminated = done if time_limit_is_terminal or hidden else rollout.terminated
    if rollout.life_lost is not None:
        return terminated | rollout.life_lost, done | rollout.life_lost
    return terminated, done


def next_values(
    rollout: Rollout, value: Array, value_function: Callable[[Array], Array], time_limit_is_terminal: bool
) -> Array:
    """Values [T, N] of the states that the actions truly led to.

    The next row's value, except behind a time-out, where the final observation (not the new episode's first one) is
    valued. Rows that end an episode for good hold a value too, which GAE masks.

    Args:
      rollout: [T, N] rollout.
      value: [T, N], the values of `rollout.observation`.
      value_function: observations [..., *shape] -> values [...], under the parameters that gave `value`.
      time_limit_is_terminal: as in `episode_ends`.
    """
    following = jnp.concatenate([value[1:], value_function(rollout.last_observation)[None]])
    if time_limit_is_terminal or rollout.final_observation is None:
        return following
    return jnp.where(rollout.truncated, value_function(rollout.final_observation), following)


def scale_rewards(
    scaling: RewardScaling,
    state: normalizers.RewardNormalizer,
    rollout: Rollout,
    done: Array,
    *,
    discount: Array | float,
    clip: Array | float,
) -> tuple[normalizers.RewardNormalizer, Array]:
    """(normalizer, rewards [T, N]) after scaling: "none", "per-step" (Baselines) or "per-rollout" (PPG code)."""
    if scaling == "none":
        return state, rollout.reward
    normalize = {
        "per-step": normalizers.normalize_rewards_per_step,
        "per-rollout": normalizers.normalize_rewards_per_rollout,
    }[scaling]
    return normalize(state, rollout.reward, done, discount=discount, clip=clip, valid=rollout.valid)


def actor_critic_batch(
    config: Any,
    normalizer: normalizers.RewardNormalizer,
    rollout: Rollout,
    value_function: Callable[[Array], Array],
) -> tuple[normalizers.RewardNormalizer, ActorCriticBatch, dict[str, Metric]]:
    """Scaled rewards, bootstrapped values, advantages and value targets of a rollout.

    Args:
      config: reads scale_rewards, reward_discount, reward_clip, time_limit_is_terminal, discount, trace_decay and
        normalize_advantages ("rollout" normalises here; the value targets always come from the raw advantages).
      normalizer: reward statistics before the rollout.
      rollout: [T, N], its extras an ActorCriticExtras.
      value_function: observations [..., *shape] -> values [...], under the parameters that acted.

    Returns:
      the reward statistics after the rollout, the batch [T, N], and metrics.
    """
    terminated, done = episode_ends(rollout, config.time_limit_is_terminal)
    normalizer, reward = scale_rewards(
        config.scale_rewards, normalizer, rollout, done, discount=config.reward_discount, clip=config.reward_clip
    )
    value = rollout.extras.value
    value_next = next_values(rollout, value, value_function, config.time_limit_is_terminal)
    advantage = returns.generalized_advantage_estimation(
        reward, value, value_next, terminated, done, config.discount, config.trace_decay
    )
    value_target = advantage + value
    if config.normalize_advantages == "rollout":
        advantage = losses.normalize_advantages(advantage, rollout.valid)
    metrics = {"value_target": Metric.of(value_target, rollout.valid)}
    log_prob = rollout.extras.log_prob
    return (
        normalizer,
        ActorCriticBatch(rollout.observation, rollout.action, log_prob, value, advantage, value_target, rollout.valid),
        metrics,
    )
