"""Phasic policy gradient (Cobbe, Hilton, Klimov, Schulman 2020, arXiv 2009.04416).

Two phases alternate. The policy phase is PPO on whole rollouts. After `policy_iterations` (N_pi) policy phases, the
auxiliary phase distils the value function into the policy network's features, on all the data since the last auxiliary
phase. A KL penalty keeps the policy itself unchanged.

If the paper and its released code disagree, this file follows the code, because the published results came from it.
"code" marks each such choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl import data_parallel, rng
from purerl.buffers import offload
from purerl.errors import PurerlError
from purerl.nn import heads, initializers, layers, network_inputs, torsos
from purerl.ops import advantages, augmentations, distributions, episode_memory, losses, minibatches, optimizers
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants from appendix A of the paper; those marked "code" are only in the released code."""

    num_envs: int = static(256, low=1, help="parallel environments per seed (paper: 4 workers of 64)")
    rollout_length: int = static(256, low=1, help="steps per environment between updates")
    policy_iterations: int = static(32, low=1, help="N_pi: policy iterations before each auxiliary phase")
    skip_iterations: int = static(
        0, low=0, help="further policy iterations, before the N_pi ones, that the auxiliary phase does not learn from"
    )
    max_auxiliary_phases: int = static(0, low=0, help="no auxiliary phase after so many; 0: no limit")
    policy_epochs: int = static(1, help="E_pi: policy epochs per rollout")
    value_epochs: int = static(1, help="E_V: value epochs per rollout")
    auxiliary_epochs: int = static(6, help="E_aux: epochs over the auxiliary buffer; 0: no auxiliary phase")
    num_minibatches: int = static(8, low=1, help="minibatches (gradient steps) per epoch over a rollout")
    shuffle: minibatches.ShuffleName = static(
        "environments", help="a policy minibatch is a random subset of whole environments (code), or of transitions"
    )
    auxiliary_shuffle: minibatches.ShuffleName = static("environments", help="the same for the auxiliary phase")
    final_auxiliary_phase: bool = static(
        True, help="run the auxiliary phase that is due at the run's last iteration (the released code ends before it)"
    )
    auxiliary_minibatches: int = static(
        16, low=1, help="minibatches (gradient steps) per auxiliary epoch, for each rollout in the buffer"
    )
    architecture: Literal["dual", "detach", "shared", "single"] = static(
        "dual",
        help="two networks; one whose true value is detached from the torso; one without that; or one with only that "
        "value, which the auxiliary phase trains too",
    )
    auxiliary_optimizer: Literal["own", "shared-value", "shared"] = static(
        "own",
        help="Adam's moments in the auxiliary phase: its own, its own except for the value head, or the policy phase's",
    )
    auxiliary_augmentation: augmentations.AugmentationName = static(
        "none", help="random augmentation of the auxiliary phase's observations; the policy to stay close to sees none"
    )
    auxiliary_dropout: float = static(0.0, low=0.0, high=0.9, help="dropout in the auxiliary phase's gradient steps")
    objective: Literal["clip", "kl"] = static(
        "clip", help="clipped surrogate objective, or the ratio with a KL penalty (section 3.5)"
    )
    normalize_advantages: Literal["rollout", "none"] = static(
        "rollout", help="normalize advantages to mean 0 and std 1 over the rollout (code)"
    )
    scale_rewards: advantages.RewardScaling = static(
        "per-rollout", help="divide rewards by the running standard deviation of the return"
    )
    reward_groups: int = static(
        1,
        low=1,
        help="groups of environments whose rewards have statistics of their own, with scale_rewards per-fragment",
    )
    clip_values: bool = static(False, help="clip the value loss as OpenAI Baselines does (range: value_clip)")
    time_limit_is_terminal: bool = static(True, help="treat a time-out as terminal instead of bootstrapping")
    anneal_learning_rate: bool = static(
        False, help="anneal the policy phase's learning rate linearly to final_learning_rate over the run"
    )
    anneal_auxiliary_learning_rate: bool = static(
        False, help="anneal the auxiliary learning rate linearly to final_learning_rate over the run"
    )
    network: torsos.TorsoName = static("auto", help="torso network; auto chooses by the observation shape")
    channels: tuple[int, ...] = static((16, 32, 32), low=1, help="channels of the IMPALA network's blocks")
    features: int = static(0, low=0, help="width of the layer that ends an image network; 0: the published one")
    hidden: tuple[int, ...] = static((64, 64), low=1, help="hidden sizes of the MLP")
    activation: Literal["tanh", "relu"] = static("tanh", help="activation of the MLP")
    initializer: initializers.InitializerName = static("normed", help="weight initialization (code)")
    pooling: layers.PoolingName = static(
        "torch", help="padding of IMPALA's max pooling: as TensorFlow (SAME) or as PyTorch (code)"
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
    auxiliary_memory: offload.Memory = static(
        "device", help="memory that holds the auxiliary buffer's frames (12 KB per Procgen step)"
    )
    learning_rate: float = traced(5e-4, low=0.0, help="Adam learning rate of the policy phase")
    auxiliary_learning_rate: float = traced(5e-4, low=0.0, help="Adam learning rate of the auxiliary phase")
    final_learning_rate: float = traced(0.0, low=0.0, help="the learning rates at the end, where they are annealed")
    adam_epsilon: float = traced(1e-8, low=0.0, help="Adam epsilon (code)")
    max_grad_norm: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping (code)"
    )
    max_grad_value: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip each number of a gradient to +-this before; inf: none"
    )
    discount: float = traced(0.999, low=0.0, high=1.0, help="discount factor gamma")
    gae_lambda: float = traced(0.95, low=0.0, high=1.0, help="lambda of generalized advantage estimation (GAE)")
    clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the policy ratio")
    value_clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the value loss, if clip_values")
    kl_coefficient: float = traced(1.0, low=0.0, help="beta_pi: weight of the KL penalty, with objective kl")
    entropy_coefficient: float = traced(0.01, help="beta_S: weight of the entropy bonus")
    raised_entropy_coefficient: float = traced(0.02, help="weight of the entropy bonus, see adaptive_entropy")
    repetition_penalty: float = traced(-0.1, help="added to raw rewards, see penalize_repetition")
    value_coefficient: float = traced(1.0, low=0.0, help="weight of the value loss (half the squared error)")
    clone_coefficient: float = traced(1.0, low=0.0, help="beta_clone: weight of the auxiliary phase's KL term")
    reward_discount: float = traced(
        0.99, low=0.0, high=1.0, help="discount of the return that scales rewards (code; not gamma)"
    )
    reward_clip: float = traced(10.0, above=0.0, high=float("inf"), help="clip scaled rewards to +-this (code)")


@struct.dataclass
class Segments:
    """The auxiliary buffer B: the rollouts since the last auxiliary phase, [N_pi, N, T, ...]; one row is a segment.

    The network's inputs keep the environment's dtype (uint8 frames stay uint8). It is never cleared: each cycle
    overwrites the previous one.
    """

    observation: Array
    value_target: Array
    last_action: Array | None = None  # where the network sees it

    @property
    def inputs(self) -> Any:
        """The network's inputs [...]."""
        if self.last_action is None:
            return self.observation
        return Inputs(self.observation, None, self.last_action, None)


@struct.dataclass
class State:
    """Parameters, one Adam state for each phase, reward statistics, auxiliary buffer.

    `value_optimizer` is None unless E_pi != E_V: with equal epochs, one Adam for both losses gives the same results.
    `auxiliary_optimizer` is None if the phases share all moments.
    """

    params: Any
    policy_optimizer: Any
    value_optimizer: Any
    auxiliary_optimizer: Any
    reward_normalizer: advantages.RewardStatistics
    segments: Segments


@struct.dataclass
class Output:
    """Policy parameters [..., A], true value [...], auxiliary value [...]."""

    policy: Any
    value: Array
    auxiliary_value: Array


def make_torso(config: Config, spec: EnvSpec, dropout: float = 0.0) -> Callable[..., nn.Module]:
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
        dropout=dropout,
    )


class Network(nn.Module):
    """The network of sections 2 and 3.6.

    dual: separate policy and value networks. detach: one network; the value head's gradient is stopped before the trunk
    in both phases (code; the paper stops it only in the policy phase). shared: one network; the gradients of all heads
    reach the trunk, and the auxiliary head is unused without auxiliary phases (code: PPO). single: as shared, without
    the auxiliary head, whose value is then the true one.
    """

    config: Config
    spec: EnvSpec
    dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs: Any) -> Output:
        torso = make_torso(self.config, self.spec, self.dropout)
        observation, context = network_inputs.of(self.config, self.spec, inputs)
        if self.config.architecture == "dual":
            features, value_features = torsos.TorsoPair(torso, ("policy", "value"), name="torsos")(observation, context)
        else:
            features = value_features = torso(name="torso")(observation, context)
        features, value_features = (network_inputs.join(x, context) for x in (features, value_features))
        if self.config.architecture == "detach":
            value_features = jax.lax.stop_gradient(value_features)
        policy = heads.PolicyHead(self.spec, self.config.initializer, name="policy")(features)
        value = heads.ValueHead(self.config.initializer, name="value")(value_features)
        if self.config.architecture == "single":
            return Output(policy, value, value)
        auxiliary_value = heads.ValueHead(self.config.initializer, name="auxiliary_value")(features)
        return Output(policy, value, auxiliary_value)


def network(config: Config, spec: EnvSpec, dropout: float = 0.0) -> Network:
    """The network of a config. Traced fields are dropped, so that no module holds a tracer."""
    return Network(jax.tree.map(lambda _: 0.0, config), spec, dropout)


def adam(config: Config, clock: Clock | None = None) -> optax.GradientTransformation:
    """The policy phase's optimizer, with the step size at `clock`."""
    return _adam(config, config.learning_rate, config.anneal_learning_rate, clock)


def auxiliary_adam(config: Config, clock: Clock | None = None) -> optax.GradientTransformation:
    """The auxiliary phase's Adam over all parameters, of its own step size. See `auxiliary_moments` for its state."""
    return _adam(config, config.auxiliary_learning_rate, config.anneal_auxiliary_learning_rate, clock)


def _adam(config: Config, learning_rate: Array, anneals: bool, clock: Clock | None) -> optax.GradientTransformation:
    if anneals and clock is not None:
        learning_rate = optimizers.annealed(learning_rate, clock, config.final_learning_rate)
    optimizer = optimizers.adam(
        learning_rate,
        epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        max_grad_value=config.max_grad_value,
    )
    return optimizers.for_parts(optimizer, "value") if config.auxiliary_optimizer == "shared-value" else optimizer


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    items, what = minibatches.shuffled(config.shuffle, config.num_envs, config.rollout_length)
    minibatches.check_division(what, items, "num_minibatches", config.num_minibatches)
    if config.auxiliary_epochs:
        items, what = minibatches.shuffled(config.auxiliary_shuffle, config.num_envs, config.rollout_length)
        minibatches.check_division(what, items, "auxiliary_minibatches", config.auxiliary_minibatches)
    minibatches.check_division("num_envs", config.num_envs, "reward_groups", config.reward_groups)
    if config.auxiliary_optimizer != "own" and config.policy_epochs != config.value_epochs:
        raise PurerlError(
            f"auxiliary_optimizer = '{config.auxiliary_optimizer}' shares the one Adam of equal epochs: use "
            f"value_epochs = {config.policy_epochs}, as policy_epochs, or auxiliary_optimizer = 'own'"
        )
    if config.auxiliary_augmentation != "none" and len(spec.observation_shape) != 3:
        raise PurerlError(f"{spec.name} shows no images to augment: use auxiliary_augmentation = 'none'")
    episode_memory.check(config, spec)
    make_torso(config, spec)


def init_memory(config: Config, spec: EnvSpec) -> Any:
    """What acting remembers of an episode; () by default."""
    return episode_memory.init(config, spec)


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training."""
    seen = jnp.zeros(episode_memory.shape(config, spec), spec.observation_dtype)
    inputs = network_inputs.choose(config, Inputs.at_start(spec, seen[None]))
    params = network(config, spec).init(key, inputs)
    adam_state = adam(config).init(params)
    stored = config.policy_iterations if config.auxiliary_epochs else 0
    rows = (stored, config.num_envs, config.rollout_length)
    return State(
        params=params,
        policy_optimizer=adam_state,
        value_optimizer=None if config.policy_epochs == config.value_epochs else adam_state,
        auxiliary_optimizer=None if config.auxiliary_optimizer == "shared" else adam_state,
        reward_normalizer=advantages.init_reward_statistics(
            config.scale_rewards, config.num_envs, config.reward_groups
        ),
        segments=Segments(
            observation=offload.zeros(config.auxiliary_memory, (*rows, *seen.shape), seen.dtype),
            value_target=jnp.zeros(rows, jnp.float32),
            last_action=jnp.zeros((*rows, *spec.action_shape), spec.action_dtype) if config.previous_action else None,
        ),
    )


def act(
    config: Config, spec: EnvSpec, state: State, memory: Any, inputs: Inputs, keys: Array, clock: Clock, explore: bool
) -> tuple[Array, Any, advantages.ActorCriticExtras]:
    """Samples actions [N] (or takes the most likely ones, if not `explore`)."""
    policy = distributions.for_spec(spec)
    inputs, memory, distinct_share = episode_memory.see(config, memory, inputs)
    output = network(config, spec).apply(state.params, network_inputs.choose(config, inputs))
    action = jax.vmap(policy.sample)(keys, output.policy) if explore else policy.mode(output.policy)
    log_prob = policy.log_prob(output.policy, action)
    return action, memory, advantages.ActorCriticExtras(log_prob, output.value, distinct_share)


def policy_loss(
    config: Config, spec: EnvSpec, output: Output, batch: advantages.ActorCriticBatch
) -> tuple[Array, dict[str, Array]]:
    """L^clip with the entropy bonus (eq. 1 of the paper), or the ratio with a quadratic KL penalty (code)."""
    policy = distributions.for_spec(spec)
    log_ratio = policy.log_prob(output.policy, batch.action) - batch.log_prob
    if config.objective == "clip":
        surrogate = losses.clipped_surrogate(log_ratio, batch.advantage, config.clip)
    else:
        surrogate = -batch.advantage * jnp.exp(log_ratio)
        surrogate = surrogate + config.kl_coefficient * losses.quadratic_kl_penalty(log_ratio)
    surrogate = losses.mean(surrogate)
    entropy = losses.mean(policy.entropy(output.policy))
    weight = episode_memory.entropy_coefficient(config, batch.distinct_share)
    return surrogate - weight * entropy, {
        "policy_loss": surrogate,
        "entropy": entropy,
        "approximate_kl": losses.mean(jnp.expm1(log_ratio) - log_ratio),
        "clipped_fraction": losses.mean(jnp.abs(jnp.expm1(log_ratio)) > config.clip),
    }


def value_loss(
    config: Config, spec: EnvSpec, output: Output, batch: advantages.ActorCriticBatch
) -> tuple[Array, dict[str, Array]]:
    """L^value, half the mean squared error (eq. 2), perhaps clipped as in Baselines."""
    if config.clip_values:
        error = losses.clipped_squared_value_error(output.value, batch.value, batch.value_target, config.value_clip)
    else:
        error = losses.squared_value_error(output.value, batch.value_target)
    error = losses.mean(error)
    return config.value_coefficient * error, {"value_loss": error}


def joint_loss(
    config: Config, spec: EnvSpec, output: Output, batch: advantages.ActorCriticBatch
) -> tuple[Array, dict[str, Array]]:
    """Policy and value loss together, for E_pi = E_V."""
    policy, policy_terms = policy_loss(config, spec, output, batch)
    value, value_terms = value_loss(config, spec, output, batch)
    return policy + value, policy_terms | value_terms


def policy_phase(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, advantages.ActorCriticBatch, dict[str, Metric]]:
    """Lines 3 to 7 of algorithm 1: one rollout, E_V value passes then E_pi policy passes (or both together).

    Minibatches are whole environments, [T, N / num_minibatches] (code), unless `shuffle` asks for transitions.
    """
    net = network(config, spec)

    def apply(params: Any, inputs: Inputs) -> Output:
        return net.apply(params, network_inputs.choose(config, inputs))

    rollout = episode_memory.rows(config, rollout, rollout.memory)
    time_outs = advantages.bootstraps_time_outs(rollout, config.time_limit_is_terminal)
    normalizer, batch, metrics = advantages.actor_critic_batch(
        rollout,
        network_inputs.choose(config, rollout.inputs()),
        state.reward_normalizer,
        last_value=apply(state.params, rollout.last).value,
        final_value=apply(state.params, rollout.final_inputs()).value if time_outs else None,
        time_limit_is_terminal=config.time_limit_is_terminal,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        reward_scaling=config.scale_rewards,
        reward_discount=config.reward_discount,
        reward_clip=config.reward_clip,
        normalize=config.normalize_advantages == "rollout",
    )
    optimizer = adam(config, clock)
    whole = config.shuffle == "environments"
    items, axis = (batch, 1) if whole else (jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch), 0)

    def passes(loss, params, optimizer_state, num_epochs, stream):
        def gradient_step(carry, indices):
            params, optimizer_state = carry
            minibatch = minibatches.take(items, indices, axis)
            gradients, terms = jax.grad(
                lambda p: loss(config, spec, net.apply(p, minibatch.inputs), minibatch), has_aux=True
            )(params)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), terms

        carry, terms = minibatches.shuffled_epochs(
            gradient_step,
            (params, optimizer_state),
            rng.stream(key, stream),
            num_items=items.action.shape[axis],
            num_minibatches=config.num_minibatches,
            num_epochs=num_epochs,
        )
        return *carry, {name: Metric.of(values) for name, values in terms.items()}

    params, policy_optimizer, value_optimizer = state.params, state.policy_optimizer, state.value_optimizer
    if config.policy_epochs == config.value_epochs:
        params, policy_optimizer, terms = passes(joint_loss, params, policy_optimizer, config.policy_epochs, "policy")
        metrics |= terms
    else:
        params, value_optimizer, terms = passes(value_loss, params, value_optimizer, config.value_epochs, "value")
        metrics |= terms
        params, policy_optimizer, terms = passes(policy_loss, params, policy_optimizer, config.policy_epochs, "policy")
        metrics |= terms
    state = state.replace(
        params=params,
        policy_optimizer=policy_optimizer,
        value_optimizer=value_optimizer,
        reward_normalizer=normalizer,
    )
    return state, batch, metrics


def store(config: Config, segments: Segments, batch: advantages.ActorCriticBatch, slot: Array) -> Segments:
    """Line 8: writes a rollout [T, N] with its value targets to slot [] of the buffer; segments are contiguous."""
    observation, last_action = batch.inputs, None
    if isinstance(batch.inputs, Inputs):
        observation, last_action = batch.inputs.observation, batch.inputs.last_action
    new = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), Segments(observation, batch.value_target, last_action))
    others = segments.replace(observation=None), new.replace(observation=None)
    return jax.tree.map(lambda buffer, row: offload.write("device", buffer, row, slot), *others).replace(
        observation=offload.write(config.auxiliary_memory, segments.observation, new.observation, slot)
    )


def auxiliary_loss(
    config: Config, spec: EnvSpec, output: Output, old_policy: Any, value_target: Array
) -> tuple[Array, dict[str, Array]]:
    """L^joint = L^aux + beta_clone KL[pi_old, pi], plus L^value (lines 11 and 12; code: in one gradient step)."""
    kl = losses.mean(distributions.for_spec(spec).kl(old_policy, output.policy))
    value = losses.mean(losses.squared_value_error(output.value, value_target))
    terms = {"auxiliary_kl": kl, "auxiliary_true_value_loss": value}
    total = config.clone_coefficient * kl + value
    if config.architecture != "single":
        terms["auxiliary_value_loss"] = losses.mean(losses.squared_value_error(output.auxiliary_value, value_target))
        total = total + terms["auxiliary_value_loss"]
    return total, terms


def auxiliary_phase(
    config: Config,
    spec: EnvSpec,
    params: Any,
    optimizer_state: Any,
    segments: Segments,
    key: Array,
    clock: Clock | None = None,
) -> tuple[Any, Any, dict[str, Metric]]:
    """Lines 9 to 13: E_aux passes over the buffer. Targets stay as stored.

    Minibatches are whole segments [B, T], or single transitions [B], if `auxiliary_shuffle` asks for them.
    """
    net = network(config, spec, config.auxiliary_dropout)
    augment = augmentations.make_augmentation(config.auxiliary_augmentation)
    items = segments.value_target.shape[: 2 if config.auxiliary_shuffle == "environments" else 3]
    num_items, num_groups = math.prod(items), segments.value_target.shape[0] * config.auxiliary_minibatches

    def take(indices: Array) -> Segments:
        slots = jnp.stack(jnp.unravel_index(indices, items), axis=-1)
        others = jax.tree.map(lambda x: offload.read("device", x, slots), segments.replace(observation=None))
        taken = others.replace(observation=offload.read(config.auxiliary_memory, segments.observation, slots))
        return data_parallel.spread(taken)

    # Line 9: pi_old is the policy at the start of the auxiliary phase, not the policy that acted.
    grouped = jnp.arange(num_items).reshape(num_groups, -1)
    plain = network(config, spec)
    old_policy = jax.lax.map(lambda indices: plain.apply(params, take(indices).inputs).policy, grouped)
    old_policy = jax.tree.map(lambda x: x.reshape(num_items, *x.shape[2:]), old_policy)
    optimizer = auxiliary_adam(config, clock)

    def gradient_step(carry, indices):
        params, optimizer_state, step = carry
        batch, old = take(indices), minibatches.take(old_policy, indices)
        step_key = rng.at(rng.stream(key, "perturbations"), step)
        batch = batch.replace(observation=augment(rng.stream(step_key, "augmentation"), batch.observation))
        keys = {"dropout": rng.stream(step_key, "dropout")}

        def loss(p):
            return auxiliary_loss(config, spec, net.apply(p, batch.inputs, rngs=keys), old, batch.value_target)

        gradients, terms = jax.grad(loss, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state, step + 1), terms

    (params, optimizer_state, _), terms = minibatches.shuffled_epochs(
        gradient_step,
        (params, optimizer_state, jnp.int32(0)),
        key,
        num_items=num_items,
        num_minibatches=num_groups,
        num_epochs=config.auxiliary_epochs,
    )
    return params, optimizer_state, {name: Metric.of(values) for name, values in terms.items()}


def auxiliary_moments(config: Config, state: State) -> Any:
    """The optimizer state with which an auxiliary phase begins, by `auxiliary_optimizer`."""
    if config.auxiliary_optimizer == "shared":
        return state.policy_optimizer
    if config.auxiliary_optimizer == "shared-value":
        return state.auxiliary_optimizer | {"part": state.policy_optimizer["part"]}
    return state.auxiliary_optimizer


def with_auxiliary_moments(config: Config, state: State, moments: Any) -> State:
    """The state after an auxiliary phase that ended with these moments."""
    if config.auxiliary_optimizer == "shared":
        return state.replace(policy_optimizer=moments)
    if config.auxiliary_optimizer == "shared-value":
        state = state.replace(policy_optimizer=state.policy_optimizer | {"part": moments["part"]})
    return state.replace(auxiliary_optimizer=moments)


def auxiliary_phase_is_due(config: Config, iteration: Array | int, total_iterations: Array | int) -> Any:
    """Whether an iteration ends with an auxiliary phase: bool, or bool [] of a traced iteration."""
    cycle = config.skip_iterations + config.policy_iterations
    due = (iteration + 1) % cycle == 0
    if config.max_auxiliary_phases:
        due &= iteration + 1 <= cycle * config.max_auxiliary_phases
    if not config.final_auxiliary_phase:
        due &= iteration + 1 < total_iterations
    return due


def passes(config: Config, iteration: int, total_iterations: int) -> float:
    """How many passes over a rollout's data an iteration makes; one more in an auxiliary phase, for the old policy."""
    joint = config.policy_epochs == config.value_epochs
    count = config.policy_epochs + (0 if joint else config.value_epochs)
    if config.auxiliary_epochs and auxiliary_phase_is_due(config, iteration, total_iterations):
        count += config.policy_iterations * (config.auxiliary_epochs + 1)
    return count


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """One iteration of algorithm 1: a policy phase, and after N_pi of them an auxiliary phase."""
    state, batch, metrics = policy_phase(config, spec, state, rollout, key, clock)
    if not config.auxiliary_epochs:
        return state, metrics
    cycle = config.skip_iterations + config.policy_iterations
    # A skipped rollout is written too, where the first of the N_pi ones overwrites it.
    slot = jnp.maximum(clock.iteration % cycle - config.skip_iterations, 0)
    segments = store(config, state.segments, batch, slot)

    def run_phase(params, optimizer_state):
        return auxiliary_phase(config, spec, params, optimizer_state, segments, rng.stream(key, "auxiliary"), clock)

    def skip_phase(params, optimizer_state):
        shapes = jax.eval_shape(run_phase, params, optimizer_state)[2]
        return params, optimizer_state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    # The clock is never batched, so this stays a branch under vmap. The buffer is no output, so it is not copied.
    due = auxiliary_phase_is_due(config, clock.iteration, clock.total_iterations)
    moments = auxiliary_moments(config, state)
    params, moments, terms = jax.lax.cond(due, run_phase, skip_phase, state.params, moments)
    state = with_auxiliary_moments(config, state.replace(params=params, segments=segments), moments)
    return state, metrics | terms


AGENT = Agent(*("ppg", Config, check, init, act, update, init_memory), environment_axes={"segments": 1}, passes=passes)
