"""A2C, advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783, algorithm S3, in synchronous form).

Every iteration makes one gradient step on the rollout of all environments. The defaults are the settings that the paper
of P3O (Fakoor et al. 2019, arXiv 1905.01756) gives for its A2C: 16 environments, 5 steps, RMSProp. With 16 steps and
lambda 0.95 (the preset `matched`) it is P3O without its replay: P3O minus A2C is what the replay does.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl.nn import actor_critic, initializers, layers, torsos
from purerl.ops import distributions, losses, optimizers, segments
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants. Source: the supplement of P3O's paper, tables 1 to 4."""

    num_envs: int = static(16, low=1, help="parallel environments per seed")
    rollout_length: int = static(5, low=1, help="steps per environment between updates")
    time_limit_is_terminal: bool = static(True, help="treat a time-out as terminal instead of bootstrapping")
    anneal_learning_rate: bool = static(True, help="anneal the learning rate linearly to 0 over the run")
    network: torsos.TorsoName = static("auto", help="torso network; auto chooses by the observation shape")
    share_torso: bool = static(True, help="policy and value share one torso")
    hidden: tuple[int, ...] = static((64, 64), low=1, help="hidden sizes of the MLP")
    activation: layers.ActivationName = static("tanh", help="activation of the MLP")
    initializer: initializers.InitializerName = static("orthogonal", help="weight initialization")
    dtype: layers.DTypeName = static("float32", help="compute dtype of the torsos; parameters stay float32")
    matmul_precision: MatmulPrecision = static(
        "default", help="precision of float32 products; default: JAX's own, TF32 on recent GPUs; highest: float32"
    )
    learning_rate: float = traced(7e-4, low=0.0, help="learning rate of RMSProp")
    rmsprop_decay: float = traced(0.99, low=0.0, high=1.0, help="decay of RMSProp's mean square")
    optimizer_epsilon: float = traced(1e-5, low=0.0, help="epsilon of RMSProp, outside of the root")
    max_grad_norm: float = traced(
        0.5, above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping"
    )
    discount: float = traced(0.99, low=0.0, high=1.0, help="discount factor gamma")
    gae_lambda: float = traced(1.0, low=0.0, high=1.0, help="lambda of GAE; 1: n-step returns, as in A2C's paper")
    value_coefficient: float = traced(1.0, low=0.0, help="weight of the value loss (half the squared error)")
    entropy_coefficient: float = traced(0.01, help="weight of the entropy bonus")
    reward_clip: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip rewards to +-this for learning; inf: no clipping"
    )


@struct.dataclass
class State:
    """Parameters and RMSProp's state."""

    params: Any
    optimizer: Any


def network(config: Config, spec: EnvSpec) -> actor_critic.ActorCritic:
    """The actor-critic."""
    return actor_critic.ActorCritic(
        spec,
        config.network,
        config.hidden,
        config.activation,
        config.initializer,
        config.share_torso,
        config.dtype,
    )


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    torsos.make_torso(config.network, spec, initializer=config.initializer)
    distributions.for_spec(spec)


def optimizer(config: Config, clock: Clock | None = None) -> optax.GradientTransformation:
    """The optimizer, with the step size at `clock`."""
    learning_rate = config.learning_rate
    if config.anneal_learning_rate and clock is not None:
        learning_rate = optimizers.annealed(learning_rate, clock)
    return optimizers.rmsprop(
        learning_rate,
        decay=config.rmsprop_decay,
        epsilon=config.optimizer_epsilon,
        max_grad_norm=config.max_grad_norm,
    )


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training."""
    params = network(config, spec).init(key, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
    return State(params, optimizer(config).init(params))


def act(
    config: Config,
    spec: EnvSpec,
    state: State,
    memory: tuple[()],
    inputs: Inputs,
    keys: Array,
    clock: Clock,
    explore: bool,
) -> tuple[Array, tuple[()], None]:
    """Samples actions [N] (or takes the most likely ones, if not `explore`)."""
    parameters, _ = network(config, spec).apply(state.params, inputs.observation)
    policy = distributions.for_spec(spec)
    return (jax.vmap(policy.sample)(keys, parameters) if explore else policy.mode(parameters)), memory, None


def loss(config: Config, spec: EnvSpec, params: Any, segment: segments.Segment) -> tuple[Array, dict[str, Array]]:
    """The policy gradient with advantages, the value loss and the entropy bonus, and its metrics."""
    policy, length = distributions.for_spec(spec), segment.reward.shape[0]
    parameters, value = network(config, spec).apply(params, segments.observations(segment))
    advantage, target = segments.value_targets(segment, value, config.discount, config.gae_lambda)
    parameters = jax.tree.map(lambda x: x[:length], parameters)
    policy_loss = -losses.mean(advantage * policy.log_prob(parameters, segment.action))
    value_loss = losses.mean(losses.squared_value_error(value[:length], target))
    entropy = losses.mean(policy.entropy(parameters))
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """One gradient step on a rollout [T, N]."""
    segment = segments.from_rollout(
        rollout, (), time_limit_is_terminal=config.time_limit_is_terminal, reward_clip=config.reward_clip
    )
    gradients, terms = jax.grad(loss, argnums=2, has_aux=True)(config, spec, state.params, segment)
    updates, optimizer_state = optimizer(config, clock).update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, optimizer_state), {name: Metric.of(value) for name, value in terms.items()}


AGENT = Agent("a2c", Config, check, init, act, update)
