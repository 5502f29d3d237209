"""Phasic policy gradient (Cobbe, Hilton, Klimov, Schulman 2020, arXiv 2009.04416).

Two phases alternate. The policy phase is PPO on whole rollouts. After `policy_iterations` (N_pi) policy phases, the
auxiliary phase distils the value function into the policy network's features, on all the data since the last auxiliary
phase. A KL penalty keeps the policy itself unchanged.

If the paper and its released code disagree, this file follows the code, because the published results came from it.
"code" marks each such choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl import rng
from purerl.buffers import offload
from purerl.nn import heads, initializers, layers, torsos
from purerl.ops import advantages, distributions, losses, minibatches, normalizers, optimizers
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants from appendix A of the paper; those marked "code" are only in the released code."""

    num_envs: int = static(256, low=1, help="parallel environments per seed (paper: 4 workers of 64)")
    rollout_length: int = static(256, low=1, help="steps per environment between updates")
    policy_iterations: int = static(32, low=1, help="N_pi: policy iterations before each auxiliary phase")
    policy_epochs: int = static(1, help="E_pi: policy epochs per rollout")
    value_epochs: int = static(1, help="E_V: value epochs per rollout")
    auxiliary_epochs: int = static(6, help="E_aux: epochs over the auxiliary buffer; 0: no auxiliary phase")
    num_minibatches: int = static(8, low=1, help="minibatches (gradient steps) per epoch over a rollout")
    final_auxiliary_phase: bool = static(
        True, help="run the auxiliary phase that is due at the run's last iteration (the released code ends before it)"
    )
    auxiliary_minibatches: int = static(
        16, low=1, help="minibatches (gradient steps) per auxiliary epoch, for each rollout in the buffer"
    )
    architecture: Literal["dual", "detach", "shared"] = static(
        "dual", help="two networks, one whose true value is detached from the torso, or one without that"
    )
    objective: Literal["clip", "kl"] = static(
        "clip", help="clipped surrogate objective, or the ratio with a KL penalty (section 3.5)"
    )
    normalize_advantages: Literal["rollout", "none"] = static(
        "rollout", help="normalize advantages to mean 0 and std 1 over the rollout (code)"
    )
    scale_rewards: advantages.RewardScaling = static(
        "per-rollout", help="divide rewards by the running standard deviation of the return"
    )
    time_limit_is_terminal: bool = static(True, help="treat a time-out as terminal instead of bootstrapping")
    anneal_learning_rate: bool = static(
        False, help="anneal the policy phase's learning rate linearly to 0 over the run"
    )
    anneal_auxiliary_learning_rate: bool = static(
        False, help="anneal the auxiliary learning rate linearly to 0 over the run"
    )
    network: torsos.TorsoName = static("auto", help="torso network; auto chooses by the observation shape")
    channels: tuple[int, ...] = static((16, 32, 32), low=1, help="channels of the IMPALA network's blocks")
    hidden: tuple[int, ...] = static((64, 64), low=1, help="hidden sizes of the MLP")
    activation: Literal["tanh", "relu"] = static("tanh", help="activation of the MLP")
    initializer: initializers.InitializerName = static("normed", help="weight initialization (code)")
    pooling: layers.PoolingName = static(
        "torch", help="padding of IMPALA's max pooling: as TensorFlow (SAME) or as PyTorch (code)"
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
    adam_epsilon: float = traced(1e-8, low=0.0, help="Adam epsilon (code)")
    max_grad_norm: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping (code)"
    )
    discount: float = traced(0.999, low=0.0, high=1.0, help="discount factor gamma")
    gae_lambda: float = traced(0.95, low=0.0, high=1.0, help="lambda of generalized advantage estimation (GAE)")
    clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the policy ratio")
    kl_coefficient: float = traced(1.0, low=0.0, help="beta_pi: weight of the KL penalty, with objective kl")
    entropy_coefficient: float = traced(0.01, help="beta_S: weight of the entropy bonus")
    value_coefficient: float = traced(1.0, low=0.0, help="weight of the value loss (half the squared error)")
    clone_coefficient: float = traced(1.0, low=0.0, help="beta_clone: weight of the auxiliary phase's KL term")
    reward_discount: float = traced(
        0.99, low=0.0, high=1.0, help="discount of the return that scales rewards (code; not gamma)"
    )
    reward_clip: float = traced(10.0, above=0.0, high=float("inf"), help="clip scaled rewards to +-this (code)")


@struct.dataclass
class Segments:
    """The auxiliary buffer B: the rollouts since the last auxiliary phase, [N_pi, N, T, ...]; one row is a segment.

    Observations keep the environment's dtype (uint8 frames stay uint8). It is never cleared: each cycle overwrites the
    previous one.
    """

    observation: Array
    value_target: Array


@struct.dataclass
class State:
    """Parameters, one Adam state for each phase, reward statistics, auxiliary buffer.

    `value_optimizer` is None unless E_pi != E_V: with equal epochs, one Adam for both losses gives the same results.
    """

    params: Any
    policy_optimizer: Any
    value_optimizer: Any
    auxiliary_optimizer: Any
    reward_normalizer: normalizers.RewardNormalizer
    segments: Segments


@struct.dataclass
class Output:
    """Policy parameters [..., A], true value [...], auxiliary value [...]."""

    policy: Any
    value: Array
    auxiliary_value: Array


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
    """The network of sections 2 and 3.6.

    dual: separate policy and value networks. detach: one network; the value head's gradient is stopped before the trunk
    in both phases (code; the paper stops it only in the policy phase). shared: one network; the gradients of all heads
    reach the trunk, and the auxiliary head is unused without auxiliary phases (code: PPO).
    """

    config: Config
    spec: EnvSpec

    @nn.compact
    def __call__(self, observation: Array) -> Output:
        torso = make_torso(self.config, self.spec)
        if self.config.architecture == "dual":
            features, value_features = torsos.TorsoPair(torso, ("policy", "value"), name="torsos")(observation)
        else:
            features = value_features = torso(name="torso")(observation)
        if self.config.architecture == "detach":
            value_features = jax.lax.stop_gradient(value_features)
        policy = heads.PolicyHead(self.spec, self.config.initializer, name="policy")(features)
        value = heads.ValueHead(self.config.initializer, name="value")(value_features)
        auxiliary_value = heads.ValueHead(self.config.initializer, name="auxiliary_value")(features)
        return Output(policy, value, auxiliary_value)


def network(config: Config, spec: EnvSpec) -> Network:
    """The network of a config. Traced fields are dropped, so that no module holds a tracer."""
    return Network(jax.tree.map(lambda _: 0.0, config), spec)


def adam(config: Config, clock: Clock | None = None) -> optax.GradientTransformation:
    """The policy phase's optimizer, with the step size at `clock`."""
    anneals = config.anneal_learning_rate and clock is not None
    learning_rate = optimizers.annealed(config.learning_rate, clock) if anneals else config.learning_rate
    return optimizers.adam(learning_rate, epsilon=config.adam_epsilon, max_grad_norm=config.max_grad_norm)


def auxiliary_adam(config: Config, clock: Clock | None = None) -> optax.GradientTransformation:
    """The auxiliary phase's separate Adam over all parameters: it shares no moments with the policy phase."""
    learning_rate = config.auxiliary_learning_rate
    if config.anneal_auxiliary_learning_rate and clock is not None:
        learning_rate = optimizers.annealed(learning_rate, clock)
    return optimizers.adam(learning_rate, epsilon=config.adam_epsilon, max_grad_norm=config.max_grad_norm)


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    minibatches.check_division("num_envs", config.num_envs, "num_minibatches", config.num_minibatches)
    if config.auxiliary_epochs:
        minibatches.check_division("num_envs", config.num_envs, "auxiliary_minibatches", config.auxiliary_minibatches)
    make_torso(config, spec)


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training."""
    params = network(config, spec).init(key, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
    adam_state = adam(config).init(params)
    stored = config.policy_iterations if config.auxiliary_epochs else 0
    rows = (stored, config.num_envs, config.rollout_length)
    return State(
        params=params,
        policy_optimizer=adam_state,
        value_optimizer=None if config.policy_epochs == config.value_epochs else adam_state,
        auxiliary_optimizer=adam_state,
        reward_normalizer=normalizers.init_reward_normalizer(config.num_envs),
        segments=Segments(
            observation=offload.zeros(
                config.auxiliary_memory, (*rows, *spec.observation_shape), spec.observation_dtype
            ),
            value_target=jnp.zeros(rows, jnp.float32),
        ),
    )


def act(
    config: Config,
    spec: EnvSpec,
    state: State,
    memory: tuple[()],
    inputs: Inputs,
    keys: Array,
    clock: Clock,
    explore: bool,
) -> tuple[Array, tuple[()], advantages.ActorCriticExtras]:
    """Samples actions [N] (or takes the most likely ones, if not `explore`)."""
    policy = distributions.for_spec(spec)
    output = network(config, spec).apply(state.params, inputs.observation)
    action = jax.vmap(policy.sample)(keys, output.policy) if explore else policy.mode(output.policy)
    return action, memory, advantages.ActorCriticExtras(policy.log_prob(output.policy, action), output.value)


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
    return surrogate - config.entropy_coefficient * entropy, {
        "policy_loss": surrogate,
        "entropy": entropy,
        "approximate_kl": losses.mean(jnp.expm1(log_ratio) - log_ratio),
        "clipped_fraction": losses.mean(jnp.abs(jnp.expm1(log_ratio)) > config.clip),
    }


def value_loss(
    config: Config, spec: EnvSpec, output: Output, batch: advantages.ActorCriticBatch
) -> tuple[Array, dict[str, Array]]:
    """L^value, half the mean squared error (eq. 2)."""
    error = losses.mean(losses.squared_value_error(output.value, batch.value_target))
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

    Minibatches are whole environments, [T, N / num_minibatches] (code).
    """
    apply = network(config, spec).apply
    time_outs = advantages.bootstraps_time_outs(rollout, config.time_limit_is_terminal)
    normalizer, batch, metrics = advantages.actor_critic_batch(
        rollout,
        rollout.observation,
        state.reward_normalizer,
        last_value=apply(state.params, rollout.last.observation).value,
        final_value=apply(state.params, rollout.final_observation).value if time_outs else None,
        time_limit_is_terminal=config.time_limit_is_terminal,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        reward_scaling=config.scale_rewards,
        reward_discount=config.reward_discount,
        reward_clip=config.reward_clip,
        normalize=config.normalize_advantages == "rollout",
    )
    optimizer = adam(config, clock)

    def passes(loss, params, optimizer_state, num_epochs, stream):
        def gradient_step(carry, environments):
            params, optimizer_state = carry
            minibatch = minibatches.take(batch, environments, axis=1)
            gradients, terms = jax.grad(
                lambda p: loss(config, spec, apply(p, minibatch.inputs), minibatch), has_aux=True
            )(params)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), terms

        carry, terms = minibatches.shuffled_epochs(
            gradient_step,
            (params, optimizer_state),
            rng.stream(key, stream),
            num_items=config.num_envs,
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
    new = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), Segments(batch.inputs, batch.value_target))
    return Segments(
        observation=offload.write(config.auxiliary_memory, segments.observation, new.observation, slot),
        value_target=offload.write("device", segments.value_target, new.value_target, slot),
    )


def auxiliary_loss(
    config: Config, spec: EnvSpec, output: Output, old_policy: Any, value_target: Array
) -> tuple[Array, dict[str, Array]]:
    """L^joint = L^aux + beta_clone KL[pi_old, pi], plus L^value (lines 11 and 12; code: in one gradient step)."""
    kl = losses.mean(distributions.for_spec(spec).kl(old_policy, output.policy))
    value = losses.mean(losses.squared_value_error(output.value, value_target))
    auxiliary = losses.mean(losses.squared_value_error(output.auxiliary_value, value_target))
    terms = {"auxiliary_kl": kl, "auxiliary_true_value_loss": value, "auxiliary_value_loss": auxiliary}
    return config.clone_coefficient * kl + value + auxiliary, terms


def auxiliary_phase(
    config: Config,
    spec: EnvSpec,
    params: Any,
    optimizer_state: Any,
    segments: Segments,
    key: Array,
    clock: Clock | None = None,
) -> tuple[Any, Any, dict[str, Metric]]:
    """Lines 9 to 13: E_aux passes over the buffer in minibatches of whole segments [B, T]. Targets stay as stored."""
    apply = network(config, spec).apply
    num_rollouts, num_envs = segments.value_target.shape[:2]
    num_segments, num_groups = num_rollouts * num_envs, num_rollouts * config.auxiliary_minibatches

    def take(indices: Array) -> Segments:
        slots = jnp.stack(jnp.divmod(indices, num_envs), axis=-1)
        return Segments(
            observation=offload.read(config.auxiliary_memory, segments.observation, slots),
            value_target=offload.read("device", segments.value_target, slots),
        )

    # Line 9: pi_old is the policy at the start of the auxiliary phase, not the policy that acted.
    grouped = jnp.arange(num_segments).reshape(num_groups, -1)
    old_policy = jax.lax.map(lambda indices: apply(params, take(indices).observation).policy, grouped)
    old_policy = jax.tree.map(lambda x: x.reshape(num_segments, *x.shape[2:]), old_policy)
    optimizer = auxiliary_adam(config, clock)

    def gradient_step(carry, indices):
        params, optimizer_state = carry
        batch, old = take(indices), minibatches.take(old_policy, indices)

        def loss(p):
            return auxiliary_loss(config, spec, apply(p, batch.observation), old, batch.value_target)

        gradients, terms = jax.grad(loss, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), terms

    (params, optimizer_state), terms = minibatches.shuffled_epochs(
        gradient_step,
        (params, optimizer_state),
        key,
        num_items=num_segments,
        num_minibatches=num_groups,
        num_epochs=config.auxiliary_epochs,
    )
    return params, optimizer_state, {name: Metric.of(values) for name, values in terms.items()}


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """One iteration of algorithm 1: a policy phase, and after N_pi of them an auxiliary phase."""
    state, batch, metrics = policy_phase(config, spec, state, rollout, key, clock)
    if not config.auxiliary_epochs:
        return state, metrics
    segments = store(config, state.segments, batch, clock.iteration % config.policy_iterations)

    def run_phase(params, optimizer_state):
        return auxiliary_phase(config, spec, params, optimizer_state, segments, rng.stream(key, "auxiliary"), clock)

    def skip_phase(params, optimizer_state):
        shapes = jax.eval_shape(run_phase, params, optimizer_state)[2]
        return params, optimizer_state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    # The clock is never batched, so this stays a branch under vmap. The buffer is no output, so it is not copied.
    due = (clock.iteration + 1) % config.policy_iterations == 0
    if not config.final_auxiliary_phase:
        due &= clock.iteration + 1 < clock.total_iterations
    params, optimizer_state, terms = jax.lax.cond(due, run_phase, skip_phase, state.params, state.auxiliary_optimizer)
    state = state.replace(params=params, auxiliary_optimizer=optimizer_state, segments=segments)
    return state, metrics | terms


AGENT = Agent("ppg", Config, check, init, act, update)
