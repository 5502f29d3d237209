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

from purerl.errors import PurerlError
from purerl.nn import heads, initializers, layers, network_inputs, recurrent, torsos
from purerl.ops import advantages, distributions, episode_memory, losses, minibatches, normalizers, optimizers
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants. Source: the released baseline (train-procgen, baselines ppo2)."""

    num_envs: int = static(64, low=1, help="parallel environments per seed")
    rollout_length: int = static(256, low=1, help="steps per environment between updates")
    num_epochs: int = static(3, low=1, help="epochs: passes over each rollout")
    num_minibatches: int = static(8, low=1, help="minibatches (gradient steps) per epoch")
    shuffle: minibatches.ShuffleName = static(
        "transitions", help="a minibatch is a random subset of transitions, or of whole environments"
    )
    normalize_advantages: Literal["minibatch", "rollout", "none"] = static(
        "minibatch", help="normalize advantages to mean 0 and std 1 over a minibatch or over the rollout"
    )
    clip_values: bool = static(True, help="clip the value loss as OpenAI Baselines does (range: value_clip)")
    scale_rewards: advantages.RewardScaling = static(
        "per-step", help="divide rewards by the running standard deviation of the return"
    )
    reward_groups: int = static(
        1, low=1, help="with scale_rewards per-fragment: groups of environments that have statistics of their own"
    )
    normalize_observations: bool = static(
        False, help="subtract the running mean of observations and divide by their running standard deviation"
    )
    time_limit_is_terminal: bool = static(True, help="treat a time-out as terminal instead of bootstrapping")
    anneal_learning_rate: bool = static(
        False, help="anneal the learning rate linearly to final_learning_rate over the run"
    )
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
    features: int = static(0, low=0, help="width of the layer that ends an image network; 0: the published one")
    hidden: tuple[int, ...] = static((64, 64), low=1, help="hidden sizes of the MLP")
    activation: Literal["tanh", "relu"] = static("tanh", help="activation of the MLP")
    initializer: initializers.InitializerName = static("glorot", help="weight initialization")
    pooling: layers.PoolingName = static(
        "tensorflow", help="padding of IMPALA's max pooling: as TensorFlow (SAME) or as PyTorch"
    )
    stacked_frames: int = static(1, low=1, help="how many of the last observations the network sees")
    frame_differences: bool = static(False, help="the network also sees what changes between stacked frames")
    previous_action: bool = static(False, help="the network also sees the previous action")
    penalize_repetition: bool = static(False, help="add repetition_penalty to rewards of steps that change nothing")
    adaptive_entropy: bool = static(
        False, help="weight the entropy by raised_entropy_coefficient where agents go round in circles"
    )
    dtype: Literal["float32", "bfloat16"] = static(
        "float32", help="compute dtype of the networks; parameters stay float32"
    )
    matmul_precision: MatmulPrecision = static(
        "default", help="precision of float32 products; default: JAX's own, TF32 on recent GPUs; highest: float32"
    )
    learning_rate: float = traced(5e-4, low=0.0, help="Adam learning rate")
    final_learning_rate: float = traced(0.0, low=0.0, help="the learning rate at the end, if it is annealed")
    adam_epsilon: float = traced(1e-5, low=0.0, help="Adam epsilon")
    max_grad_norm: float = traced(
        0.5, above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping"
    )
    max_grad_value: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip each number of a gradient to +-this before; inf: none"
    )
    discount: float = traced(0.999, low=0.0, high=1.0, help="discount factor gamma")
    gae_lambda: float = traced(0.95, low=0.0, high=1.0, help="lambda of generalized advantage estimation (GAE)")
    clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the policy ratio")
    value_clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the value loss, if clip_values")
    entropy_coefficient: float = traced(0.01, help="weight of the entropy bonus")
    raised_entropy_coefficient: float = traced(0.02, help="weight of the entropy bonus, see adaptive_entropy")
    repetition_penalty: float = traced(-0.1, help="added to raw rewards, see penalize_repetition")
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
    reward_normalizer: advantages.RewardStatistics
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
        features=config.features,
    )


class Network(nn.Module):
    """The actor-critic: policy parameters [..., A], values [...] and memories.

    Its input is the result of `network_inputs.choose`: observations [..., *shape], or Inputs with the previous action.
    A recurrent network takes Inputs [T, N, ...] and the memory [N, size] of each core before them.
    """

    config: Config
    spec: EnvSpec

    @nn.compact
    def __call__(self, inputs: Any, memory: tuple[Array, ...] = ()) -> tuple[Any, Array, tuple[Array, ...]]:
        config = self.config
        torso = make_torso(config, self.spec)
        observation, context = network_inputs.of(config, self.spec, inputs)
        if config.share_torso:
            features = (torso(name="torso")(observation, context),)
        else:
            features = torsos.TorsoPair(torso, ("policy", "value"), name="torsos")(observation, context)
        features = tuple(network_inputs.join(x, context) for x in features)
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
    shuffle = "environments" if by_environment(config) else "transitions"
    items, what = minibatches.shuffled(shuffle, config.num_envs, config.rollout_length)
    minibatches.check_division(what, items, "num_minibatches", config.num_minibatches)
    minibatches.check_division("num_envs", config.num_envs, "reward_groups", config.reward_groups)
    if config.normalize_observations and config.stacked_frames > 1:
        raise PurerlError("normalize_observations has no statistics of stacked frames: use stacked_frames = 1")
    episode_memory.check(config, spec)
    make_torso(config, spec)


def num_cores(config: Config) -> int:
    """The number of recurrent cores."""
    return {"none": 0, "gru": 1 if config.share_torso else 2}[config.recurrent]


def init_memory(config: Config, spec: EnvSpec) -> tuple[Any, ...]:
    """The memory at an episode's start: [size] of each recurrent core, then the EpisodeMemory if there is one."""
    episode = episode_memory.init(config, spec)
    return (jnp.zeros(config.recurrent_size, jnp.float32),) * num_cores(config) + ((episode,) if episode else ())


def split_memory(config: Config, memory: tuple[Any, ...]) -> tuple[tuple[Array, ...], Any]:
    """(memories of the recurrent cores, EpisodeMemory or ())."""
    cores = num_cores(config)
    return memory[:cores], (memory[cores] if len(memory) > cores else ())


def network_input(config: Config, inputs: Inputs) -> Any:
    """What the network takes of the Inputs."""
    return network_inputs.choose(config, inputs) if config.recurrent == "none" else inputs


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training."""
    observation = jnp.zeros((1, *episode_memory.shape(config, spec)), spec.observation_dtype)
    inputs = network_input(config, Inputs.at_start(spec, observation))
    if config.recurrent == "none":
        params = network(config, spec).init(key, inputs)
    else:
        cores, _ = split_memory(config, init_memory(config, spec))
        inputs, cores = jax.tree.map(lambda x: x[None], (inputs, cores))
        params = network(config, spec).init(key, inputs, cores)
    seen = normalizers.init_observation_normalizer(spec.observation_shape) if config.normalize_observations else ()
    statistics = advantages.init_reward_statistics(config.scale_rewards, config.num_envs, config.reward_groups)
    return State(params, adam(config).init(params), statistics, seen)


def normalized(config: Config, state: State, observation: Array | None) -> Array | None:
    """Observations [..., *shape] as the network sees them; None stays None."""
    if not config.normalize_observations or observation is None:
        return observation
    return normalizers.normalize_observations(state.observation_normalizer, observation, config.observation_clip)


def adam(config: Config, clock: Clock | None = None) -> optax.GradientTransformation:
    """The optimizer, with the step size at `clock`."""
    learning_rate = config.learning_rate
    if config.anneal_learning_rate and clock is not None:
        learning_rate = optimizers.annealed(learning_rate, clock, config.final_learning_rate)
    return optimizers.adam(
        learning_rate,
        epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        max_grad_value=config.max_grad_value,
        form=config.optimizer,
    )


def act(
    config: Config,
    spec: EnvSpec,
    state: State,
    memory: tuple[Any, ...],
    inputs: Inputs,
    keys: Array,
    clock: Clock,
    explore: bool,
) -> tuple[Array, tuple[Any, ...], advantages.ActorCriticExtras]:
    """Samples actions [N] (or takes the most likely ones, if not `explore`)."""
    cores, episode = split_memory(config, memory)
    inputs, episode, distinct_share = episode_memory.see(config, episode, inputs)
    inputs = network_input(config, inputs.replace(observation=normalized(config, state, inputs.observation)))
    if config.recurrent == "none":
        parameters, value, _ = network(config, spec).apply(state.params, inputs)
    else:  # one step of time
        out = network(config, spec).apply(state.params, jax.tree.map(lambda x: x[None], inputs), cores)
        parameters, value, cores = jax.tree.map(lambda x: x[0], out)
    memory = cores + ((episode,) if episode else ())
    policy = distributions.for_spec(spec)
    action = jax.vmap(policy.sample)(keys, parameters) if explore else policy.mode(parameters)
    log_prob = policy.log_prob(parameters, action)
    return action, memory, advantages.ActorCriticExtras(log_prob, value, distinct_share)


def bootstrap_values(config: Config, spec: EnvSpec, params: Any, rollout: Rollout) -> tuple[Array, Array | None]:
    """Values [N] after the rollout, and [T, N] of the final observations (None if they are not bootstrapped)."""
    apply = network(config, spec).apply
    time_outs = advantages.bootstraps_time_outs(rollout, config.time_limit_is_terminal)
    if config.recurrent == "none":
        final_value = apply(params, network_input(config, rollout.final_inputs()))[1] if time_outs else None
        return apply(params, network_input(config, rollout.last))[1], final_value
    last_cores, _ = split_memory(config, rollout.last_memory)
    last_value = apply(params, jax.tree.map(lambda x: x[None], rollout.last), last_cores)[1][0]
    if not time_outs:
        return last_value, None
    # Each final observation is one step, after the memory of its row.
    memories = apply(params, rollout.inputs(), split_memory(config, rollout.memory)[0])[2]
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
    weight = episode_memory.entropy_coefficient(config, batch.distinct_share)
    total = policy_loss + config.value_coefficient * value_loss - weight * entropy
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
    cores, episode = split_memory(config, rollout.memory)
    rollout = episode_memory.rows(config, rollout, episode)
    rollout = rollout.replace(
        observation=normalized(config, state, rollout.observation),
        final_observation=normalized(config, state, rollout.final_observation),
        last=rollout.last.replace(observation=normalized(config, state, rollout.last.observation)),
    )
    last_value, final_value = bootstrap_values(config, spec, state.params, rollout)
    normalizer, batch, metrics = advantages.actor_critic_batch(
        rollout,
        network_input(config, rollout.inputs()),
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
        memory = minibatches.take(cores, indices)
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


AGENT = Agent(
    *("ppo", Config, check, init, act, update, init_memory),
    acting=("params", "observation_normalizer"),
    environment_axes={},
)
