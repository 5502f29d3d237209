"""Rainbow (Hessel et al. 2018, arXiv 1710.02298) and Rainbow Pro (Asadi et al. 2022, arXiv 2112.05848).

Each part of Rainbow is a switch. The defaults are Dopamine's: n-step returns, a distribution of returns (C51),
prioritized replay. `double`, `dueling` and `noisy` give the full Rainbow. Rainbow Pro also pulls the online network
towards the target network in every gradient step, like DQN Pro.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl import rng
from purerl.buffers import prioritized, replay
from purerl.errors import PurerlError
from purerl.nn import initializers, layers, torsos
from purerl.nn.q_network import QNetwork
from purerl.ops import advantages, optimizers, value_learning
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants: Dopamine's Rainbow. Lengths are in transitions of all environments together."""

    num_envs: int = static(1, low=1, help="parallel environments per seed (the reference has 1)")
    rollout_length: int = static(4, low=1, help="steps per environment between updates")
    train_period: int = static(4, low=1, help="transitions per gradient step")
    batch_size: int = static(32, low=1, help="minibatch size")
    replay_size: int = static(1_000_000, low=1, help="capacity of the replay buffer, in transitions")
    learning_starts: int = static(20_000, help="transitions collected before the first gradient step")
    target_period: int = static(8000, low=1, help="transitions between target network updates")
    num_steps: int = static(3, low=1, help="n of n-step returns")
    atoms: int = static(51, help="atoms of the return distribution (C51); 0: plain values")
    double: bool = static(False, help="double DQN: the online network selects the target's action")
    dueling: bool = static(False, help="dueling network: separate value and advantage streams")
    noisy: bool = static(False, help="noisy dense layers (NoisyNet); set epsilon to 0 to explore by noise alone")
    noisy_sigma: float = static(0.1, low=0.0, help="initial sigma of noisy layers (paper: 0.5)")
    prioritized: bool = static(True, help="prioritized experience replay; else uniform")
    loss: value_learning.LossName = static("huber", help="loss of the temporal-difference error, with atoms 0")
    optimizer: optimizers.ValueOptimizerName = static(
        "adam", help="optimizer; rmsprop is TensorFlow 1's centered RMSProp"
    )
    proximal: Literal["pull", "penalty"] = static(
        "pull", help="proximal term: decoupled from the optimizer (published) or a penalty in the loss (ablation)"
    )
    time_limit_is_terminal: bool = static(False, help="treat a time-out as terminal instead of bootstrapping")
    network: torsos.TorsoName = static("auto", help="torso network; auto chooses by the observation shape")
    hidden: tuple[int, ...] = static((512,), low=1, help="hidden sizes of the MLP")
    activation: layers.ActivationName = static("relu", help="activation of the dense layers")
    initializer: initializers.InitializerName = static("fan_in", help="weight initialization")
    dtype: layers.DTypeName = static("float32", help="compute dtype of the torso; parameters stay float32")
    matmul_precision: MatmulPrecision = static(
        "default", help="precision of float32 products; default: JAX's own, TF32 on recent GPUs; highest: float32"
    )
    learning_rate: float = traced(6.25e-5, low=0.0, help="learning rate")
    optimizer_epsilon: float = traced(1.5e-4, low=0.0, help="epsilon of Adam or RMSProp")
    max_grad_norm: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping"
    )
    proximal_coefficient: float = traced(
        float("inf"),
        above=0.0,
        high=float("inf"),
        help="c: each step pulls by learning_rate / c towards the target network; inf: no pull",
    )
    penalty_coefficient: float = traced(0.0, low=0.0, help="weight of the penalty, with proximal penalty")
    discount: float = traced(0.99, low=0.0, high=1.0, help="discount factor gamma")
    reward_clip: float = traced(
        1.0, above=0.0, high=float("inf"), help="clip rewards to +-this for learning; inf: no clipping"
    )
    support_max: float = traced(10.0, above=0.0, help="atoms are evenly spaced in [-support_max, support_max]")
    priority_exponent: float = traced(0.5, low=0.0, help="exponent alpha of the priorities")
    priority_clip: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip the loss to this before it becomes a priority"
    )
    uniform_mix: float = traced(0.0, low=0.0, high=1.0, help="fraction of uniform samples in prioritized replay")
    importance_exponent: float = traced(0.5, low=0.0, help="beta of the importance weights at the start of the run")
    importance_exponent_final: float = traced(0.5, low=0.0, help="beta of the importance weights at the end of the run")
    epsilon_initial: float = traced(1.0, low=0.0, high=1.0, help="epsilon-greedy exploration until learning starts")
    epsilon_final: float = traced(0.01, low=0.0, high=1.0, help="epsilon after the decay")
    epsilon_decay_steps: float = traced(250_000.0, above=0.0, help="transitions over which epsilon decays linearly")
    epsilon_evaluation: float = traced(0.001, low=0.0, high=1.0, help="epsilon in evaluation")


@struct.dataclass
class State:
    """Online network w, target network theta, optimizer state, replay; priorities are None with uniform replay."""

    params: Any
    target_params: Any
    optimizer: Any
    replay: replay.Ring
    priorities: prioritized.Priorities | None


def network(config: Config, spec: EnvSpec) -> QNetwork:
    """Q(s, .; w), or the logits of its distribution."""
    return QNetwork(
        spec,
        config.network,
        config.hidden,
        config.activation,
        config.initializer,
        atoms=config.atoms,
        dueling=config.dueling,
        noisy=config.noisy,
        sigma=config.noisy_sigma,
        dtype=config.dtype,
    )


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    if not spec.num_actions:
        raise PurerlError(f"the DQN family needs discrete actions, and {spec.name} has continuous ones: use ppo or ppg")
    torsos.resolve_torso(config.network, spec)
    value_learning.check_periods(
        num_envs=config.num_envs,
        rollout_length=config.rollout_length,
        train_period=config.train_period,
        target_period=config.target_period,
        positive={name: getattr(config, name) for name in ("batch_size", "num_steps", "epsilon_decay_steps")},
    )
    replay.check(
        config.replay_size,
        config.num_envs,
        config.rollout_length,
        config.num_steps,
        spec,
        learning_starts=config.learning_starts,
    )
    if config.atoms == 1:
        raise PurerlError("atoms = 1 is not a distribution: use 0 for plain values, or 51")


def optimizer(config: Config) -> optax.GradientTransformationExtraArgs:
    """The optimizer, including the pull towards the target network."""
    return optimizers.value_optimizer(
        config.optimizer,
        config.learning_rate,
        epsilon=config.optimizer_epsilon,
        max_grad_norm=config.max_grad_norm,
        proximal_coefficient=config.proximal_coefficient,
    )


def epsilon(config: Config, clock: Clock, explore: bool) -> Array:
    """Share of random actions, [], in training or in evaluation."""
    if not explore:
        return config.epsilon_evaluation
    return value_learning.epsilon_schedule(
        clock.iteration.astype(jnp.float32) * (config.num_envs * config.rollout_length),
        initial=config.epsilon_initial,
        final=config.epsilon_final,
        begin=config.learning_starts,
        decay_steps=config.epsilon_decay_steps,
    )


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training: the target network is a copy of the online network."""
    params = network(config, spec).init(key, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
    ring = replay.init(spec, config.num_envs, config.replay_size // config.num_envs)
    priorities = prioritized.init(ring.reward.size) if config.prioritized else None
    return State(params, jax.tree.map(jnp.copy, params), optimizer(config).init(params), ring, priorities)


def support(config: Config) -> Array:
    """The atoms z [K] of the distribution of returns."""
    return jnp.linspace(-1.0, 1.0, config.atoms) * config.support_max


def values(config: Config, out: Array) -> Array:
    """Q [..., A] of the network's output."""
    return jax.nn.softmax(out) @ support(config) if config.atoms else out


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
    """Epsilon-greedy actions [N], with independent noise for each environment; no noise if not `explore`."""
    noise = jax.vmap(lambda k: rng.stream(k, "noise"))(keys) if config.noisy and explore else None
    q = values(config, network(config, spec).apply(state.params, inputs.observation, noise))
    return value_learning.epsilon_greedy(keys, q, epsilon(config, clock, explore)), memory, None


def losses_of(
    config: Config, spec: EnvSpec, params: Any, target_params: Any, batch: replay.Transitions, key: Array
) -> tuple[Array, Array]:
    """The loss of each transition [B], and the values [B] of its actions."""
    q_network = network(config, spec)
    # Three noise samples: the network that selects the action has its own (as in DQN Zoo).
    online, target, selecting = (
        rng.stream(key, name) if config.noisy else None for name in ("online", "target", "selector")
    )
    out = value_learning.batched_index(q_network.apply(params, batch.observation, online), batch.action)
    out_next = q_network.apply(target_params, batch.next_observation, target)
    selector = q_network.apply(params, batch.next_observation, selecting) if config.double else out_next
    out_next = value_learning.batched_index(out_next, jnp.argmax(values(config, selector), axis=-1))
    if not config.atoms:
        error = jax.lax.stop_gradient(batch.reward + batch.discount * out_next) - out
        return value_learning.temporal_difference_loss(error, config.loss), out
    # The distribution of r + gamma z, projected onto the atoms (section 2 of the paper, eq. 2 and 3)
    z = support(config)
    atoms = batch.reward[:, None] + batch.discount[:, None] * z[None]
    target_probabilities = jax.vmap(value_learning.categorical_projection, (0, 0, None))(
        atoms, jax.nn.softmax(out_next), z
    )
    cross_entropy = -jnp.sum(jax.lax.stop_gradient(target_probabilities) * jax.nn.log_softmax(out), axis=-1)
    return cross_entropy, values(config, out)


def loss(
    config: Config,
    spec: EnvSpec,
    params: Any,
    target_params: Any,
    batch: replay.Transitions,
    importance: Array,
    key: Array,
) -> tuple[Array, tuple[Array, dict[str, Metric]]]:
    """The mean loss with importance weights [B]; the loss of each transition also sets its priority."""
    each, q = losses_of(config, spec, params, target_params, batch, key)
    total = jnp.mean(batch.weight * importance * each)
    if config.proximal == "penalty":
        total = total + optimizers.proximal_penalty(config.penalty_coefficient, params, target_params)
    return total, (each, {"loss": Metric.of(each), "q": Metric.of(q)})


def importance_exponent(config: Config, clock: Clock) -> Array:
    """beta, [], linear over the run."""
    change = config.importance_exponent_final - config.importance_exponent
    return config.importance_exponent + clock.fraction_done() * change


def sample(
    config: Config,
    spec: EnvSpec,
    ring: replay.Ring,
    span: replay.Span,
    priorities: prioritized.Priorities | None,
    key: Array,
) -> tuple[tuple[Array, Array], Array]:
    """Samples rows of the replay: (environment [B], row [B]), and their probabilities [B]."""
    words = rng.words(key, (4, config.batch_size))
    uniform = replay.uniform(words[:2], span, ring, num_steps=config.num_steps, spec=spec)
    each = 1 / (config.num_envs * replay.drawable(span, ring, num_steps=config.num_steps, spec=spec))
    if priorities is None:
        return uniform, jnp.broadcast_to(each, (config.batch_size,))
    length = ring.reward.shape[1]
    # All priorities are 0 while every row so far ends in a time-out: then uniform rows, whose weights are 0.
    mixed = (rng.unit(words[3]) < config.uniform_mix) | (priorities.total == 0)
    items, probability = prioritized.sample(priorities, words[2], (mixed, uniform[0] * length + uniform[1]))
    return jnp.divmod(items, length), (1 - config.uniform_mix) * probability + config.uniform_mix * each


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """Stores a rollout [T, N], then runs the gradient steps and target copies of this iteration."""
    terminated, _ = advantages.episode_ends(rollout, config.time_limit_is_terminal, bootstraps_from_rows=True)
    ring = replay.add(state.replay, rollout, spec=spec, iteration=clock.iteration, terminated=terminated)
    span = replay.span(clock.iteration + 1, config.rollout_length, ring.reward.shape[1])
    priorities = state.priorities
    if priorities is not None:
        priorities = prioritized.admit(
            priorities,
            ring,
            iteration=clock.iteration,
            rollout_length=config.rollout_length,
            num_steps=config.num_steps,
            spec=spec,
        )
    gradient_transformation = optimizer(config)

    def gradient_step(carry, key, due):
        params, target_params, optimizer_state, priorities = carry
        indices, probability = sample(config, spec, ring, span, priorities, rng.stream(key, "sample"))
        batch = replay.gather(
            ring,
            indices,
            spec=spec,
            num_steps=config.num_steps,
            discount=config.discount,
            reward_clip=config.reward_clip,
        )
        importance = jnp.ones_like(batch.weight)
        if priorities is not None:
            importance = prioritized.importance_weights(probability, importance_exponent(config, clock), batch.weight)
        gradients, (each, terms) = jax.grad(loss, argnums=2, has_aux=True)(
            config, spec, params, target_params, batch, importance, rng.stream(key, "noise")
        )
        updates, optimizer_state = gradient_transformation.update(
            gradients, optimizer_state, params, anchor=target_params
        )
        params = optax.apply_updates(params, updates)
        if priorities is not None:
            # Dopamine takes the root of the loss, not of the error.
            priority = (jnp.minimum(each, config.priority_clip) + 1e-10) ** config.priority_exponent
            items = indices[0] * ring.reward.shape[1] + indices[1]
            priorities = prioritized.update(priorities, items, jnp.where(batch.weight > 0, priority, 0.0))
        target_params, distance = value_learning.next_target(due, params, target_params)
        return (params, target_params, optimizer_state, priorities), terms | {"target_distance": distance}

    carry = state.params, state.target_params, state.optimizer, priorities
    (*carry, priorities), metrics = value_learning.gradient_steps(
        gradient_step,
        carry,
        rng.stream(key, "replay"),
        clock,
        transitions=config.num_envs * config.rollout_length,
        train_period=config.train_period,
        target_period=config.target_period,
        learning_starts=config.learning_starts,
    )
    return State(*carry, ring, priorities), metrics


def on_env_restart(config: Config, state: State, iteration: Array) -> State:
    """The state after a restart of the environments: no window of steps may cross the restart."""
    return state.replace(replay=replay.mark_restart(state.replay, iteration, config.rollout_length))


AGENT = Agent("rainbow", Config, check, init, act, update, on_env_restart=on_env_restart, plays_greedily=True)
PRO = AGENT._replace(name="rainbow-pro", defaults={"proximal_coefficient": 0.05})
