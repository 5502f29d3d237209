"""Prepares a rollout for the loss: ends of episodes, values of next states, reward scaling, advantages."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from flax import struct

from purerl.ops import losses, normalizers, returns
from purerl.types import Array, Metric, PyTree, Rollout

RewardScaling = Literal["none", "per-step", "per-rollout", "per-fragment"]
RewardStatistics = normalizers.RewardNormalizer | normalizers.FragmentNormalizer


@struct.dataclass
class ActorCriticExtras:
    """What acting stores for learning, [N]: log-probability of the action, value of the observation, and the share of
    the episode's frames that were new, where the agent follows them (see `ops.episode_memory`).
    """

    log_prob: Array
    value: Array
    distinct_share: Array | None = None


@struct.dataclass
class ActorCriticBatch:
    """The data of actor-critic gradient steps, [T, N, ...].

    `inputs` is the input of the network: observations, or Inputs. `distinct_share` is as in ActorCriticExtras.
    """

    inputs: PyTree
    action: Array
    log_prob: Array
    value: Array
    advantage: Array
    value_target: Array
    distinct_share: Array | None = None


def episode_ends(
    rollout: Rollout, time_limit_is_terminal: bool, bootstraps_from_rows: bool = False
) -> tuple[Array, Array]:
    """(terminated, done), bool [T, N]: where the value is masked, and where an episode ends for any reason.

    With `time_limit_is_terminal` a time-out counts as a termination, as in the Procgen and Atari papers. It also counts
    as a termination if the environment hides its final observations, unless the learner can bootstrap from the row
    before (a replay, `bootstraps_from_rows`). A lost life is a termination if the environment reports it (an option of
    Atari).
    """
    done = rollout.done
    hidden = rollout.final_observation is None and not bootstraps_from_rows
    terminated = done if time_limit_is_terminal or hidden else rollout.terminated
    if rollout.life_lost is not None:
        return terminated | rollout.life_lost, done | rollout.life_lost
    return terminated, done


def next_values(rollout: Rollout, value: Array, last_value: Array, final_value: Array | None) -> Array:
    """Values [T, N] of the states that the actions led to, before any reset.

    This is the next row's value, except after a time-out: there it is the value of the final observation, not of the
    new episode's first one. Terminated rows hold a value too, which GAE masks.

    Args:
      rollout: [T, N] rollout.
      value: [T, N], the values of `rollout.observation`.
      last_value: [N], the values of `rollout.last`.
      final_value: [T, N], the values of `rollout.final_inputs()`; None where time-outs are not bootstrapped.
    """
    following = jnp.concatenate([value[1:], last_value[None]])
    return following if final_value is None else jnp.where(rollout.truncated, final_value, following)


def bootstraps_time_outs(rollout: Rollout, time_limit_is_terminal: bool) -> bool:
    """Whether the values of final observations are needed and available."""
    return not time_limit_is_terminal and rollout.final_observation is not None


def init_reward_statistics(scaling: RewardScaling, num_envs: int, groups: int = 1) -> RewardStatistics:
    """The statistics of a scaling before the first step; `groups` have their own ones "per-fragment"."""
    if scaling == "per-fragment":
        return normalizers.init_fragment_normalizer(groups)
    return normalizers.init_reward_normalizer(num_envs)


def scale_rewards(
    scaling: RewardScaling,
    state: RewardStatistics,
    rollout: Rollout,
    done: Array,
    *,
    discount: Array | float,
    clip: Array | float,
) -> tuple[RewardStatistics, Array]:
    """(statistics, rewards [T, N]) after scaling: "none", "per-step" (Baselines), "per-rollout" (PPG code) or
    "per-fragment", which uses neither the discount nor the clip.
    """
    if scaling == "none":
        return state, rollout.reward
    if scaling == "per-fragment":
        return normalizers.normalize_rewards_per_fragment(state, rollout.reward, done)
    normalize = {
        "per-step": normalizers.normalize_rewards_per_step,
        "per-rollout": normalizers.normalize_rewards_per_rollout,
    }[scaling]
    return normalize(state, rollout.reward, done, discount=discount, clip=clip)


def actor_critic_batch(
    rollout: Rollout,
    inputs: PyTree,
    normalizer: RewardStatistics,
    *,
    last_value: Array,
    final_value: Array | None,
    time_limit_is_terminal: bool,
    discount: Array | float,
    gae_lambda: Array | float,
    reward_scaling: RewardScaling = "none",
    reward_discount: Array | float = 0.99,
    reward_clip: Array | float = 10.0,
    normalize: bool = False,
) -> tuple[RewardStatistics, ActorCriticBatch, dict[str, Metric]]:
    """Scaled rewards, bootstrapped values, advantages and value targets of a rollout.

    Args:
      rollout: [T, N], its extras an ActorCriticExtras.
      inputs: [T, N, ...], the input of the network.
      normalizer: reward statistics before the rollout.
      last_value, final_value: as in `next_values`, computed with the parameters that acted.
      time_limit_is_terminal: as in `episode_ends`.
      discount, gae_lambda: gamma and lambda of GAE.
      reward_scaling, reward_discount, reward_clip: as in `scale_rewards`.
      normalize: whether the advantages are normalised over the rollout; value targets always use the raw advantages.

    Returns:
      the reward statistics after the rollout, the batch [T, N], and metrics.
    """
    terminated, done = episode_ends(rollout, time_limit_is_terminal)
    normalizer, reward = scale_rewards(
        reward_scaling, normalizer, rollout, done, discount=reward_discount, clip=reward_clip
    )
    value, log_prob = rollout.extras.value, rollout.extras.log_prob
    value_next = next_values(rollout, value, last_value, final_value)
    advantage = returns.generalized_advantage_estimation(
        reward, value, value_next, terminated, done, discount, gae_lambda
    )
    value_target = advantage + value
    if normalize:
        advantage = losses.normalize_advantages(advantage)
    share = rollout.extras.distinct_share
    batch = ActorCriticBatch(inputs, rollout.action, log_prob, value, advantage, value_target, share)
    return normalizer, batch, {"value_target": Metric.of(value_target)}
