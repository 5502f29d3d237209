"""P3O, policy-on policy-off policy optimization (Fakoor et al. 2019, arXiv 1905.01756), with any action space.

An iteration makes one step of A2C with GAE on its rollout, appends the rollout to a replay, and makes xi ~ Poisson(2)
steps on rollouts of the replay (algorithm 1). A replay step weighs the policy gradient by min(rho, c), where rho is the
importance ratio, and pulls the policy towards the one that acted by lambda KL (eq. 14). Both constants come from the
effective sample size of the ratios in the minibatch: c = ESS, lambda = 1 - ESS (eq. 11, 15, 16).

Written from the paper. Where the authors' code is known to differ, a switch has both: `kl_direction`, `kl_reduction`,
`ratio_clip`. Three things of it are not here. Where 1 - ESS is below 1e-7 it sets c to 1e-7, too, which stops learning
just where the data are on the policy. It leaves out the step on the rollout where the mean return is exactly 0. Its
last convolution has 32 channels (64 in the paper's supplement, and here).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl import rng
from purerl.buffers import slices
from purerl.errors import PurerlError
from purerl.nn import actor_critic, initializers, layers, torsos
from purerl.ops import distributions, losses, optimizers, segments
from purerl.ops.repeat import repeat
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants. Source: the paper's supplement, tables 1 to 4; lengths are steps of one environment."""

    num_envs: int = static(16, low=1, help="parallel environments per seed")
    rollout_length: int = static(16, low=1, help="steps per environment between updates")
    replay_size: int = static(50_000, low=1, help="capacity of the replay, in steps of each environment")
    learning_starts: int = static(15_000, low=0, help="steps of each environment before the first replay step")
    sample_multiplier: int = static(6, low=1, help="a minibatch has this times num_envs segments of rollout_length")
    max_replay_steps: int = static(8, low=0, help="at most this many replay steps an iteration; 0: no replay step")
    kl_direction: Literal["policy-behaviour", "behaviour-policy"] = static(
        "policy-behaviour", help="KL(pi || beta), of the paper's text and code, or KL(beta || pi), of its eq. 14"
    )
    kl_reduction: Literal["sum", "mean"] = static(
        "sum", help="the KL as it is defined, or divided by the number of actions (or dimensions), as in the code"
    )
    ratio_clip: Literal["ess", "fixed"] = static("ess", help="c: the effective sample size, or the field clip")
    kl_weight: Literal["ess", "fixed"] = static("ess", help="lambda: 1 - ESS, or the field kl_coefficient")
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
    gae_lambda: float = traced(0.95, low=0.0, high=1.0, help="lambda of generalized advantage estimation (GAE)")
    value_coefficient: float = traced(1.0, low=0.0, help="weight of the value loss (half the squared error)")
    entropy_coefficient: float = traced(0.01, help="weight of the entropy bonus in the step on the rollout")
    replay_entropy_coefficient: float = traced(0.0, help="weight of the entropy bonus in replay steps")
    replay_steps: float = traced(2.0, low=0.0, help="mean of the Poisson number of replay steps an iteration")
    clip: float = traced(1.0, low=0.0, high=float("inf"), help="c, with ratio_clip fixed")
    kl_coefficient: float = traced(0.0, low=0.0, help="lambda, with kl_weight fixed; 0: no KL")
    reward_clip: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip rewards to +-this for learning; inf: no clipping"
    )


@struct.dataclass
class State:
    """Parameters, RMSProp's state, and the replay: a ring of whole rollouts, a Segment [slots, T, N, ...]."""

    params: Any
    optimizer: Any
    replay: segments.Segment


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


def slots(config: Config) -> int:
    """The number of rollouts that the replay holds."""
    return config.replay_size // config.rollout_length


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    if slots(config) < 1:
        raise PurerlError(
            f"replay_size = {config.replay_size} holds no rollout of rollout_length = {config.rollout_length}: "
            f"use at least {config.rollout_length}"
        )
    if config.learning_starts > config.replay_size:
        raise PurerlError(
            f"learning_starts = {config.learning_starts} is more than replay_size = {config.replay_size} can hold"
        )
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
    observation = jnp.zeros((1, *spec.observation_shape), spec.observation_dtype)
    params = network(config, spec).init(key, observation)
    shape = (slots(config), config.rollout_length, config.num_envs)
    zeros = lambda of, dtype, lead=shape: jnp.zeros((*lead, *of), dtype)  # noqa: E731
    behaviour = jax.eval_shape(network(config, spec).apply, params, observation)[0]
    bootstraps = not config.time_limit_is_terminal and spec.shows_final_observation
    ring = segments.Segment(
        observation=zeros(spec.observation_shape, spec.observation_dtype),
        action=zeros(spec.action_shape, spec.action_dtype),
        reward=zeros((), jnp.float32),
        terminated=zeros((), jnp.bool_),
        done=zeros((), jnp.bool_),
        behaviour=jax.tree.map(lambda x: zeros(x.shape[1:], x.dtype), behaviour),
        last=zeros(spec.observation_shape, spec.observation_dtype, (slots(config), config.num_envs)),
        final=zeros(spec.observation_shape, spec.observation_dtype) if bootstraps else None,
    )
    return State(params, optimizer(config).init(params), ring)


def act(
    config: Config,
    spec: EnvSpec,
    state: State,
    memory: tuple[()],
    inputs: Inputs,
    keys: Array,
    clock: Clock,
    explore: bool,
) -> tuple[Array, tuple[()], Any]:
    """Samples actions [N] (or takes the most likely ones, if not `explore`); the extras are beta, the whole policy."""
    parameters, _ = network(config, spec).apply(state.params, inputs.observation)
    policy = distributions.for_spec(spec)
    action = jax.vmap(policy.sample)(keys, parameters) if explore else policy.mode(parameters)
    return action, memory, parameters


def effective_sample_size(log_ratio: Array) -> Array:
    """(sum rho)^2 / (n sum rho^2) of importance ratios, given as logarithms [...]: in (0, 1], [] (eq. 11).

    It is 1 where all are equal. The ratios are as they are, before any clip.
    """
    ratio = jnp.exp(log_ratio - jnp.max(log_ratio))  # the share does not change, and no square overflows
    return jnp.square(losses.mean(ratio)) / losses.mean(jnp.square(ratio))


def policy_loss_on(config: Config, spec: EnvSpec, parameters: Any, segment: segments.Segment, advantage: Array):
    """The policy gradient and the entropy bonus of the step on the rollout (eq. 14, first term), and its metrics."""
    policy = distributions.for_spec(spec)
    policy_loss = -losses.mean(advantage * policy.log_prob(parameters, segment.action))
    entropy = losses.mean(policy.entropy(parameters))
    return policy_loss - config.entropy_coefficient * entropy, {"policy_loss": policy_loss, "entropy": entropy}


def policy_loss_off(config: Config, spec: EnvSpec, parameters: Any, segment: segments.Segment, advantage: Array):
    """The truncated policy gradient and the KL term of a replay step (eq. 14 to 16), and its metrics."""
    policy = distributions.for_spec(spec)
    log_prob = policy.log_prob(parameters, segment.action)
    # rho, its share and so c and lambda are constants of the loss.
    log_ratio = jax.lax.stop_gradient(log_prob - policy.log_prob(segment.behaviour, segment.action))
    ratio, ess = jnp.exp(log_ratio), effective_sample_size(log_ratio)
    clip = ess if config.ratio_clip == "ess" else config.clip
    weight = 1.0 - ess if config.kl_weight == "ess" else config.kl_coefficient
    policy_loss = -losses.mean(jnp.minimum(ratio, clip) * advantage * log_prob)
    pair = (parameters, segment.behaviour)
    kl = losses.mean(policy.kl(*(pair if config.kl_direction == "policy-behaviour" else pair[::-1])))
    if config.kl_reduction == "mean":
        kl = kl / (spec.num_actions or math.prod(spec.action_shape))
    entropy = losses.mean(policy.entropy(parameters))
    total = policy_loss + weight * kl - config.replay_entropy_coefficient * entropy
    return total, {"effective_sample_size": ess, "replay_kl": kl, "replay_policy_loss": policy_loss}


def loss(
    config: Config, spec: EnvSpec, params: Any, segment: segments.Segment, on_policy: bool
) -> tuple[Array, dict[str, Array]]:
    """The policy's loss, by advantages with the current values and without importance weights, and the value loss."""
    length = segment.reward.shape[0]
    parameters, value = network(config, spec).apply(params, segments.observations(segment))
    advantage, target = segments.value_targets(segment, value, config.discount, config.gae_lambda)
    parameters = jax.tree.map(lambda x: x[:length], parameters)
    of_policy = policy_loss_on if on_policy else policy_loss_off
    policy_loss, terms = of_policy(config, spec, parameters, segment, advantage)
    value_loss = losses.mean(losses.squared_value_error(value[:length], target))
    terms["value_loss" if on_policy else "replay_value_loss"] = value_loss
    return policy_loss + config.value_coefficient * value_loss, terms


def append(ring: segments.Segment, segment: segments.Segment, iteration: Array) -> segments.Segment:
    """The replay with a rollout in the place of its oldest one."""
    place = iteration % ring.reward.shape[0]
    return jax.tree.map(lambda xs, x: slices.write(xs, x[None], place, axis=0), ring, segment)


def draw(config: Config, ring: segments.Segment, filled: Array, key: Array) -> segments.Segment:
    """A minibatch [T, B]: segment i is of environment i % num_envs, and each is of a uniformly drawn rollout."""
    size = config.sample_multiplier * config.num_envs
    slot, column = rng.below(rng.words(key, (size,)), filled), jnp.arange(size, dtype=jnp.int32) % config.num_envs
    rows = ring.replace(last=None)
    rows = jax.tree.map(lambda x: jnp.moveaxis(x[slot, :, column], 0, 1), rows)
    return rows.replace(last=ring.last[slot, column])


def number_of_steps(word: Array, mean: Array, most: int) -> Array:
    """A Poisson number from a random word, at most `most`: int32 []."""
    k = jnp.arange(most, dtype=jnp.float32)
    log_mass = jax.scipy.special.xlogy(k, mean) - mean - jax.lax.lgamma(k + 1)
    return jnp.sum(rng.unit(word) >= jnp.cumsum(jnp.exp(log_mass)), dtype=jnp.int32)


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """One iteration of algorithm 1: a step on the rollout [T, N], then xi steps on the replay."""
    segment = segments.from_rollout(
        rollout, rollout.extras, time_limit_is_terminal=config.time_limit_is_terminal, reward_clip=config.reward_clip
    )
    ring = append(state.replay, segment, clock.iteration)
    gradient_transformation = optimizer(config, clock)

    def step(carry: Any, segment: segments.Segment, on_policy: bool) -> tuple[Any, dict[str, Metric]]:
        params, optimizer_state = carry
        gradients, terms = jax.grad(loss, argnums=2, has_aux=True)(config, spec, params, segment, on_policy)
        updates, optimizer_state = gradient_transformation.update(gradients, optimizer_state, params)
        carry = optax.apply_updates(params, updates), optimizer_state
        return carry, {name: Metric.of(value) for name, value in terms.items()}

    carry, metrics = step((state.params, state.optimizer), segment, True)
    filled = jnp.minimum(clock.iteration + 1, slots(config))
    keys = rng.stream(key, "replay")
    drawn = number_of_steps(rng.words(rng.stream(key, "number"), ()), config.replay_steps, config.max_replay_steps)
    # Lanes of one batch draw numbers of their own, and the batch makes as many steps as the largest.
    count = jnp.where(clock.iteration + 1 >= config.learning_starts // config.rollout_length, drawn, 0)

    def replay_step(turn: Array, carry: Any) -> Any:
        inner, sums = carry
        inner, terms = step(inner, draw(config, ring, filled, rng.at(keys, turn)), False)
        return inner, jax.tree.map(jnp.add, sums, terms)

    shapes = jax.eval_shape(lambda c: step(c, draw(config, ring, filled, keys), False)[1], carry)
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    carry, replayed = repeat(count, config.max_replay_steps, replay_step, (carry, sums))
    return State(*carry, ring), metrics | replayed | {"replay_steps": Metric.of(count)}


AGENT = Agent("p3o", Config, check, init, act, update)
