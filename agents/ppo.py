"""Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347).

The defaults are the Procgen baseline of Cobbe et al. 2020 (arXiv 1912.01588) as released: shared trunk, minibatches of
shuffled transitions, value clipping, gradients clipped to a global norm, rewards scaled step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl.nn import heads, initializers, layers, recurrent, torsos
from purerl.ops import advantages, distributions, losses, minibatches, normalizers, optimizers
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants. Source: the released baseline (train-procgen, baselines ppo2)."""

    num_envs: int = static(64, low=1, help="parallel environments per seed")
    rollout_length: int = static(256, low=1, help="steps per environment between updates")
    num_epochs: int = static(3, low=1, help="epochs: passes over each rollout")
    num_minibatches: int = static(8, low=1, help="minibatches (gradient steps) per epoch")
    shuffle: Literal["transitions", "environments"] = static(
        "transitions", help="a minibatch is a random subset of transitions, or of whole environments"
    )
    normalize_advantages: Literal["minibatch", "rollout", "none"] = static(
        "minibatch", help="normalize advantages to mean 0 and std 1 over a minibatch or over the rollout"
    )
    clip_values: bool = static(True, help="clip the value loss as OpenAI Baselines does (range: value_clip)")
    scale_rewards: advantages.RewardScaling = static(
        "per-step", help="divide rewards by the running standard deviation of the return"
    )
    normalize_observations: bool = static(
        False, help="subtract the running mean of observations and divide by their running standard deviation"
    )
    time_limit_is_terminal: bool = static(True, help="treat a time-out as terminal instead of bootstrapping")
    anneal_learning_rate: bool = static(False, help="anneal the learning rate linearly to 0 over the run")
    optimizer: optimizers.AdamName = static(
        "adam", help="adam, or adam-tensorflow (epsilon placed as in TensorFlow 1, which Baselines uses)"
    )
    network: torsos.TorsoName = static("auto", help="torso network; auto chooses by the observation shape")
    share_torso: bool = static(True, help="policy and value share one torso")
    recurrent: recurrent.RecurrentName = static(
        "none",
        help="gru: a GRU after each torso; minibatches are then whole environments, unrolled from their first memory",
    )
    recurrent_size: int = static(128, low=1, help="hidden units of each GRU")
    channels: tuple[int, ...] = static((16, 32, 32), low=1, help="channels of the IMPALA network's blocks")
    hidden: tuple[int, ...] = static((64, 64), low=1, help="hidden sizes of the MLP")
    activation: Literal["tanh", "relu"] = static("tanh", help="activation of the MLP")
    initializer: initializers.InitializerName = static("glorot", help="weight initialization")
    pooling: layers.PoolingName = static(
        "tensorflow", help="padding of IMPALA's max pooling: as TensorFlow (SAME) or as PyTorch"
    )
    dtype: Literal["float32", "bfloat16"] = static(
        "float32", help="compute dtype of the networks; parameters stay float32"
    )
    matmul_precision: MatmulPrecision = static(
        "default", help="precision of float32 products; default: JAX's own, TF32 on recent GPUs; highest: float32"
    )
    learning_rate: float = traced(5e-4, low=0.0, help="Adam learning rate")
    adam_epsilon: float = traced(1e-5, low=0.0, help="Adam epsilon")
    max_grad_norm: float = traced(
        0.5, above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping"
    )
    discount: float = traced(0.999, low=0.0, high=1.0, help="discount factor gamma")
    gae_lambda: float = traced(0.95, low=0.0, high=1.0, help="lambda of generalized advantage estimation (GAE)")
    clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the policy ratio")
    value_clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the value loss, if clip_values")
    entropy_coefficient: float = traced(0.01, help="weight of the entropy bonus")
    value_coefficient: float = traced(0.5, low=0.0, help="weight of the value loss (half the squared error)")
    reward_discount: float = traced(
        0.99, low=0.0, high=1.0, help="discount of the return that scales rewards; 0.99 in the released code, not gamma"
    )
    reward_clip: float = traced(10.0, above=0.0, high=float("inf"), help="clip scaled rewards to +-this")
    observation_clip: float = traced(
        10.0, above=0.0, high=float("inf"), help="clip observations to +-this, if normalize_observations"
    )


@struct.dataclass
class State:
    """Parameters, Adam state, reward statistics, and observation statistics (() if they are not normalized)."""

    params: Any
    optimizer: Any
    reward_normalizer: normalizers.RewardNormalizer
    observation_normalizer: normalizers.ObservationNormalizer | tuple[()] = ()


def make_torso(config: Config, spec: EnvSpec) -> Callable[..., nn.Module]:
    """The torso of a config. Raises PurerlError if it does not fit the observations."""
    return torsos.make_torso(
        config.network,
        spec,
        initializer=config.initializer,
        pooling=config.pooling,
        channels=config.channels,
        hidden=config.hidden,
        activation=config.activation,
        dtype=config.dtype,
    )


class Network(nn.Module):
    """The actor-critic: policy parameters [..., A], values [...] and memories.

    Its input is observations [..., *shape]. A recurrent network takes Inputs [T, N, ...] and the memory [N, size] of
    each core before them.
    """

    config: Config
    spec: EnvSpec

    @nn.compact
    def __call__(self, inputs: Any, memory: tuple[Array, ...] = ()) -> tuple[Any, Array, tuple[Array, ...]]:
        config = self.config
        torso = make_torso(config, self.spec)
        observation = inputs if config.recurrent == "none" else inputs.observation
        if config.share_torso:
            features = (torso(name="torso")(observation),)
        else:
            features = torsos.TorsoPair(torso, ("policy", "value"), name="torsos")(observation)
        if config.recurrent == "gru":
            cores = [recurrent.GRU(config.recurrent_size, name=f"core{i}") for i in range(len(features))]
            features = memory = tuple(
                core(before, recurrent.context(x, inputs, self.spec), inputs.is_first)
                for core, before, x in zip(cores, memory, features, strict=True)
            )
        policy = heads.PolicyHead(self.spec, config.initializer, name="policy")(features[0])
        return policy, heads.ValueHead(config.initializer, name="value")(features[-1]), memory


def network(config: Config, spec: EnvSpec) -> Network:
    """The actor-critic. Traced fields are dropped from its config, which must be hashable."""
    return Network(jax.tree.map(lambda _: 0.0, config), spec)


def by_environment(config: Config) -> bool:
    """Whether minibatches are whole environments [T, n] instead of shuffled transitions."""
    return config.shuffle == "environments" or config.recurrent != "none"


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    items = config.num_envs * (1 if by_environment(config) else config.rollout_length)
    what = "num_envs" if by_environment(config) else "num_envs x rollout_length"
    minibatches.check_division(what, items, "num_minibatches", config.num_minibatches)
    make_torso(config, spec)


def init_memory(config: Config, spec: EnvSpec) -> tuple[Array, ...]:
    """The memory of each recurrent core at an episode's start, [size]; () without recurrent cores."""
    cores = {"none": 0, "gru": 1 if config.share_torso else 2}[config.recurrent]
    return (jnp.zeros(config.recurrent_size, jnp.float32),) * cores


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training."""
    observation = jnp.zeros((1, *spec.observation_shape), spec.observation_dtype)
    if config.recurrent == "none":
        params = network(config, spec).init(key, observation)
    else:
        inputs = jax.tree.map(lambda x: x[None], Inputs.at_start(spec, observation))
        memory = jax.tree.map(lambda x: x[None], init_memory(config, spec))
        params = network(config, spec).init(key, inputs, memory)
    seen = normalizers.init_observation_normalizer(spec.observation_shape) if config.normalize_observations else ()
    return State(params, adam(config).init(params), normalizers.init_reward_normalizer(config.num_envs), seen)


def normalized(config: Config, state: State, observation: Array | None) -> Array | None:
    """Observations [..., *shape] as the network sees them; None stays None."""
    if not config.normalize_observations or observation is None:
        return observation
    return normalizers.normalize_observations(state.observation_normalizer, observation, config.observation_clip)


def adam(config: Config, clock: Clock | None = None) -> optax.GradientTransformation:
    """The optimizer, with the step size at `clock`."""
    anneals = config.anneal_learning_rate and clock is not None
    return optimizers.adam(
        optimizers.annealed(config.learning_rate, clock) if anneals else config.learning_rate,
        epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        form=config.optimizer,
    )


def act(
    config: Config,
    spec: EnvSpec,
    state: State,
    memory: tuple[Array, ...],
    inputs: Inputs,
    keys: Array,
    clock: Clock,
    explore: bool,
) -> tuple[Array, tuple[Array, ...], advantages.ActorCriticExtras]:
    """Samples actions [N] (or takes the most likely ones, if not `explore`)."""
    inputs = inputs.replace(observation=normalized(config, state, inputs.observation))
    if config.recurrent == "none":
        parameters, value, _ = network(config, spec).apply(state.params, inputs.observation)
    else:  # one step of time
        out = network(config, spec).apply(state.params, jax.tree.map(lambda x: x[None], inputs), memory)
        parameters, value, memory = jax.tree.map(lambda x: x[0], out)
    policy = distributions.for_spec(spec)
    action = jax.vmap(policy.sample)(keys, parameters) if explore else policy.mode(parameters)
    return action, memory, advantages.ActorCriticExtras(policy.log_prob(parameters, action), value)


def bootstrap_values(config: Config, spec: EnvSpec, params: Any, rollout: Rollout) -> tuple[Array, Array | None]:
    """Values [N] after the rollout, and [T, N] of the final observations (None if they are not bootstrapped)."""
    apply = network(config, spec).apply
    time_outs = advantages.bootstraps_time_outs(rollout, config.time_limit_is_terminal)
    if config.recurrent == "none":
        final_value = apply(params, rollout.final_observation)[1] if time_outs else None
        return apply(params, rollout.last.observation)[1], final_value
    last_value = apply(params, jax.tree.map(lambda x: x[None], rollout.last), rollout.last_memory)[1][0]
    if not time_outs:
        return last_value, None
    # Each final observation is one step, after the memory of its row.
    memories = apply(params, rollout.inputs(), rollout.memory)[2]
    memories = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), memories)
    final_inputs = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), rollout.final_inputs())
    return last_value, apply(params, final_inputs, memories)[1].reshape(rollout.reward.shape)


def loss(
    config: Config, spec: EnvSpec, params: Any, batch: advantages.ActorCriticBatch, memory: tuple[Array, ...] = ()
) -> tuple[Array, dict[str, Array]]:
    """Clipped surrogate, value and entropy terms of one minibatch (eq. 9 of the paper), and its metrics."""
    policy = distributions.for_spec(spec)
    parameters, value, _ = network(config, spec).apply(params, batch.inputs, memory)
    advantage = batch.advantage
    if config.normalize_advantages == "minibatch":
        advantage = losses.normalize_advantages(advantage)
    # L^CLIP (eq. 7)
    log_ratio = policy.log_prob(parameters, batch.action) - batch.log_prob
    policy_loss = losses.mean(losses.clipped_surrogate(log_ratio, advantage, config.clip))
    # L^VF, with the value clipping of the Baselines code
    if config.clip_values:
        value_error = losses.clipped_squared_value_error(value, batch.value, batch.value_target, config.value_clip)
    else:
        value_error = losses.squared_value_error(value, batch.value_target)
    value_loss = losses.mean(value_error)
    # S[pi]
    entropy = losses.mean(policy.entropy(parameters))
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    return total, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approximate_kl": losses.mean(jnp.expm1(log_ratio) - log_ratio),
        "clipped_fraction": losses.mean(jnp.abs(jnp.expm1(log_ratio)) > config.clip),
    }


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """One PPO iteration: epochs of minibatch gradient steps on a rollout [T, N]."""
    seen = state.observation_normalizer
    if config.normalize_observations:  # the next rollout is acted on with the statistics of this one
        seen = normalizers.update_observation_normalizer(seen, rollout.observation)
    rollout = rollout.replace(
        observation=normalized(config, state, rollout.observation),
        final_observation=normalized(config, state, rollout.final_observation),
        last=rollout.last.replace(observation=normalized(config, state, rollout.last.observation)),
    )
    last_value, final_value = bootstrap_values(config, spec, state.params, rollout)
    normalizer, batch, metrics = advantages.actor_critic_batch(
        rollout,
        rollout.observation if config.recurrent == "none" else rollout.inputs(),
        state.reward_normalizer,
        last_value=last_value,
        final_value=final_value,
        time_limit_is_terminal=config.time_limit_is_terminal,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        reward_scaling=config.scale_rewards,
        reward_discount=config.reward_discount,
        reward_clip=config.reward_clip,
        normalize=config.normalize_advantages == "rollout",
    )
    axis, num_items = 1, config.num_envs
    if not by_environment(config):
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        axis, num_items = 0, batch.action.shape[0]
    optimizer = adam(config, clock)

    def gradient_step(carry, indices):
        params, optimizer_state = carry
        minibatch = minibatches.take(batch, indices, axis)
        memory = minibatches.take(rollout.memory, indices)
        gradients, terms = jax.grad(loss, argnums=2, has_aux=True)(config, spec, params, minibatch, memory)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
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
    return State(params, optimizer_state, normalizer, seen), metrics


AGENT = Agent("ppo", Config, check, init, act, update, init_memory, acting=("params", "observation_normalizer"))
