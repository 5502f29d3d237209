"""Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347).

The defaults are the Procgen baseline of Cobbe et al. 2020 (arXiv 1912.01588) as released: shared trunk, minibatches of
shuffled transitions, value clipping, gradients clipped to a global norm, rewards scaled step by step.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl.nn import heads, initializers, layers, torsos
from purerl.ops import advantages, distributions, losses, minibatches, normalizers, optimizers
from purerl.types import Agent, Array, Clock, EnvSpec, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants. Sources: spec of the released baseline (train-procgen, baselines ppo2)."""

    num_envs: int = static(64, help="environments of one seed")
    rollout_length: int = static(256, help="steps of each environment between updates")
    num_epochs: int = static(3, help="passes over each rollout")
    num_minibatches: int = static(8, help="gradient steps in one pass")
    shuffle: Literal["transitions", "environments"] = static("transitions", help="what a minibatch is drawn from")
    normalize_advantages: Literal["minibatch", "rollout", "none"] = static("minibatch", help="scope of normalisation")
    clip_values: bool = static(True, help="clipped value loss of the Baselines code")
    scale_rewards: advantages.RewardScaling = static("per-step", help="divide rewards by the std of their return")
    time_limit_is_terminal: bool = static(True, help="a time-out ends the game instead of being bootstrapped")
    anneal_learning_rate: bool = static(False, help="linearly to 0 over the run")
    optimizer: optimizers.AdamName = static("adam", help="adam-tensorflow has TensorFlow 1's epsilon, as Baselines")
    network: torsos.TorsoName = static("auto", help="torso; auto chooses by the observations")
    share_torso: bool = static(True, help="one torso for policy and value")
    channels: tuple[int, ...] = static((16, 32, 32), help="channels of the IMPALA stacks")
    hidden: tuple[int, ...] = static((64, 64), help="widths of the MLP")
    activation: Literal["tanh", "relu"] = static("tanh", help="of the MLP")
    initializer: initializers.InitializerName = static("glorot", help="weights at the start")
    pooling: layers.PoolingName = static("tensorflow", help="padding convention of IMPALA's max-pooling")
    dtype: Literal["float32", "bfloat16"] = static(
        "float32", help="of the networks' arithmetic; parameters are float32"
    )
    learning_rate: float = traced(5e-4, help="Adam step size")
    adam_epsilon: float = traced(1e-5, help="Adam epsilon")
    max_grad_norm: float = traced(0.5, help="global norm to clip gradients to; inf for none")
    discount: float = traced(0.999, help="gamma")
    trace_decay: float = traced(0.95, help="lambda of GAE")
    clip: float = traced(0.2, help="clip range of the probability ratio")
    value_clip: float = traced(0.2, help="clip range of the value, with clip_values")
    entropy_coefficient: float = traced(0.01, help="weight of the entropy bonus")
    value_coefficient: float = traced(0.5, help="weight of the value loss, itself half a squared error")
    reward_discount: float = traced(
        0.99, help="discount in reward scaling (not gamma: see the spec of the released curves)"
    )
    reward_clip: float = traced(10.0, help="largest scaled reward")


@struct.dataclass
class State:
    """Parameters, Adam state and reward statistics."""

    params: Any
    optimizer: Any
    reward_normalizer: normalizers.RewardNormalizer


class Network(nn.Module):
    """Observations [..., *shape] to policy parameters [..., A] and values [...]."""

    config: Config
    spec: EnvSpec

    @nn.compact
    def __call__(self, observation: Array) -> tuple[Any, Array]:
        torso = torsos.torso_of(self.config, self.spec)
        if self.config.share_torso:
            features = value_features = torso(name="torso")(observation)
        else:
            features, value_features = torsos.TorsoPair(torso, ("policy", "value"), name="torsos")(observation)
        policy = heads.PolicyHead(self.spec, self.config.initializer, name="policy")(features)
        return policy, heads.ValueHead(self.config.initializer, name="value")(value_features)


def network(config: Config, spec: EnvSpec) -> Network:
    """The actor-critic. Traced fields are dropped from its config, which must be hashable."""
    return Network(jax.tree.map(lambda _: 0.0, config), spec)


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError if the sizes cannot work, before anything is built."""
    items = config.num_envs * (config.rollout_length if config.shuffle == "transitions" else 1)
    what = "num_envs x rollout_length" if config.shuffle == "transitions" else "num_envs"
    minibatches.check_division(what, items, "num_minibatches", config.num_minibatches)
    torsos.check_torso(config, spec)


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training."""
    params = network(config, spec).init(key, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
    adam = optimizers.adam(config, form=config.optimizer)
    return State(params, adam.init(params), normalizers.init_reward_normalizer(config.num_envs))


def act(
    config: Config, spec: EnvSpec, state: State, observation: Array, keys: Array, clock: Clock, explore: bool
) -> tuple[Array, advantages.ActorCriticExtras]:
    """Samples actions [N] (or takes the most likely ones, if not `explore`)."""
    policy = distributions.for_spec(spec)
    parameters, value = network(config, spec).apply(state.params, observation)
    action = jax.vmap(policy.sample)(keys, parameters) if explore else policy.mode(parameters)
    return action, advantages.ActorCriticExtras(policy.log_prob(parameters, action), value)


def loss(
    config: Config, spec: EnvSpec, params: Any, batch: advantages.ActorCriticBatch
) -> tuple[Array, dict[str, Array]]:
    """Clipped surrogate, value and entropy terms of one minibatch (eq. 9 of the paper), and its metrics."""
    policy = distributions.for_spec(spec)
    parameters, value = network(config, spec).apply(params, batch.observation)
    advantage = batch.advantage
    if config.normalize_advantages == "minibatch":
        advantage = losses.normalize_advantages(advantage, batch.valid)
    # L^CLIP (eq. 7)
    log_ratio = policy.log_prob(parameters, batch.action) - batch.log_prob
    policy_loss = losses.masked_mean(losses.clipped_surrogate(log_ratio, advantage, config.clip), batch.valid)
    # L^VF, with the value clipping of the Baselines code
    if config.clip_values:
        value_error = losses.clipped_squared_value_error(value, batch.value, batch.value_target, config.value_clip)
    else:
        value_error = losses.squared_value_error(value, batch.value_target)
    value_loss = losses.masked_mean(value_error, batch.valid)
    # S[pi]
    entropy = losses.masked_mean(policy.entropy(parameters), batch.valid)
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    approximate_kl = losses.masked_mean(jnp.expm1(log_ratio) - log_ratio, batch.valid)
    clipped = losses.masked_mean(jnp.abs(jnp.expm1(log_ratio)) > config.clip, batch.valid)
    return total, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approximate_kl": approximate_kl,
        "clipped_fraction": clipped,
    }


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """One PPO iteration: epochs of minibatch gradient steps on a rollout [T, N]."""
    normalizer, batch, metrics = advantages.actor_critic_batch(
        config, state.reward_normalizer, rollout, lambda o: network(config, spec).apply(state.params, o)[1]
    )
    if config.shuffle == "transitions":
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    axis, num_items = (0, batch.action.shape[0]) if config.shuffle == "transitions" else (1, config.num_envs)
    adam = optimizers.adam(config, clock, config.optimizer)

    def gradient_step(carry, indices):
        params, optimizer_state = carry
        minibatch = minibatches.take(batch, indices, axis)
        gradients, terms = jax.grad(loss, argnums=2, has_aux=True)(config, spec, params, minibatch)
        updates, optimizer_state = adam.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), terms

    (params, optimizer_state), terms = minibatches.shuffled_epochs(
        gradient_step,
        (state.params, state.optimizer),
        key,
        num_items=num_items,
        num_minibatches=config.num_minibatches,
        num_epochs=config.num_epochs,
    )
    metrics |= {name: Metric.of(values) for name, values in terms.items()}
    return State(params, optimizer_state, normalizer), metrics


AGENT = Agent("ppo", Config, check, init, act, update)
