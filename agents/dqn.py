"""DQN (Mnih et al. 2015) and DQN Pro (Asadi et al. 2022, arXiv 2112.05848), with the settings of Dopamine.

DQN Pro is DQN with one change: every gradient step also pulls the online network a little towards the target network
(`optimizers.proximal_pull`), so that each target is the proximal point of the previous one. `proximal_coefficient` is
c; with c = inf the results are bit-identical to DQN.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl import rng
from purerl.buffers import replay
from purerl.errors import PurerlError
from purerl.nn import initializers, layers, torsos
from purerl.nn.q_network import QNetwork
from purerl.ops import advantages, optimizers, value_learning
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants of Dopamine's JAX agent, which trains with Adam on squared errors.

    All lengths are in transitions (agent steps) of all environments together.
    """

    num_envs: int = static(1, low=1, help="parallel environments per seed (the reference has 1)")
    rollout_length: int = static(4, low=1, help="steps per environment between updates")
    train_period: int = static(4, low=1, help="transitions per gradient step")
    batch_size: int = static(32, low=1, help="minibatch size")
    replay_size: int = static(1_000_000, low=1, help="capacity of the replay buffer, in transitions")
    learning_starts: int = static(20_000, help="transitions collected before the first gradient step")
    target_period: int = static(8000, low=1, help="transitions between target network updates")
    num_steps: int = static(1, low=1, help="n of n-step returns")
    double: bool = static(False, help="double DQN: the online network selects the target's action")
    loss: value_learning.LossName = static("squared", help="loss of the temporal-difference error")
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
    initializer: initializers.InitializerName = static("glorot", help="weight initialization")
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
    epsilon_initial: float = traced(1.0, low=0.0, high=1.0, help="epsilon-greedy exploration until learning starts")
    epsilon_final: float = traced(0.01, low=0.0, high=1.0, help="epsilon after the decay")
    epsilon_decay_steps: float = traced(250_000.0, above=0.0, help="transitions over which epsilon decays linearly")
    epsilon_evaluation: float = traced(0.001, low=0.0, high=1.0, help="epsilon in evaluation")


@struct.dataclass
class State:
    """Online network w, target network theta, optimizer state (a target copy does not reset it), replay."""

    params: Any
    target_params: Any
    optimizer: Any
    replay: replay.Ring


def network(config: Config, spec: EnvSpec) -> QNetwork:
    """Q(s, .; w)."""
    return QNetwork(spec, config.network, config.hidden, config.activation, config.initializer, dtype=config.dtype)


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
    return State(params, jax.tree.map(jnp.copy, params), optimizer(config).init(params), ring)


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
    """Epsilon-greedy actions [N], with `epsilon_evaluation` if not `explore`."""
    q = network(config, spec).apply(state.params, inputs.observation)
    return value_learning.epsilon_greedy(keys, q, epsilon(config, clock, explore)), memory, None


def loss(
    config: Config, spec: EnvSpec, params: Any, target_params: Any, batch: replay.Transitions
) -> tuple[Array, dict[str, Metric]]:
    """h(theta, w): the mean loss of r + gamma max_a Q(s', a; theta) - Q(s, a; w)."""
    q_network = network(config, spec)
    q = value_learning.batched_index(q_network.apply(params, batch.observation), batch.action)
    q_next = q_network.apply(target_params, batch.next_observation)
    selector = q_network.apply(params, batch.next_observation) if config.double else q_next
    target = batch.reward + batch.discount * value_learning.batched_index(q_next, jnp.argmax(selector, axis=-1))
    error = value_learning.temporal_difference_loss(jax.lax.stop_gradient(target) - q, config.loss)
    total = mean = jnp.mean(batch.weight * error)
    if config.proximal == "penalty":
        total = total + optimizers.proximal_penalty(config.penalty_coefficient, params, target_params)
    return total, {"loss": Metric.of(mean), "q": Metric.of(q)}


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """Stores a rollout [T, N], then runs the gradient steps and target copies of this iteration."""
    terminated, _ = advantages.episode_ends(rollout, config.time_limit_is_terminal, bootstraps_from_rows=True)
    ring = replay.add(state.replay, rollout, spec=spec, iteration=clock.iteration, terminated=terminated)
    span = replay.span(clock.iteration + 1, config.rollout_length, ring.reward.shape[1])
    gradient_transformation = optimizer(config)

    def gradient_step(carry, key, due):
        params, target_params, optimizer_state = carry
        words = rng.words(key, (2, config.batch_size))
        indices = replay.uniform(words, span, ring, num_steps=config.num_steps, spec=spec)
        batch = replay.gather(
            ring,
            indices,
            spec=spec,
            num_steps=config.num_steps,
            discount=config.discount,
            reward_clip=config.reward_clip,
        )
        gradients, terms = jax.grad(loss, argnums=2, has_aux=True)(config, spec, params, target_params, batch)
        updates, optimizer_state = gradient_transformation.update(
            gradients, optimizer_state, params, anchor=target_params
        )
        params = optax.apply_updates(params, updates)
        target_params, distance = value_learning.next_target(due, params, target_params)
        return (params, target_params, optimizer_state), terms | {"target_distance": distance}

    carry = state.params, state.target_params, state.optimizer
    carry, metrics = value_learning.gradient_steps(
        gradient_step,
        carry,
        rng.stream(key, "replay"),
        clock,
        transitions=config.num_envs * config.rollout_length,
        train_period=config.train_period,
        target_period=config.target_period,
        learning_starts=config.learning_starts,
    )
    return State(*carry, ring), metrics


def on_env_restart(config: Config, state: State, iteration: Array) -> State:
    """The state after a restart of the environments: no window of steps may cross the restart."""
    return state.replace(replay=replay.mark_restart(state.replay, iteration, config.rollout_length))


AGENT = Agent("dqn", Config, check, init, act, update, on_env_restart=on_env_restart, plays_greedily=True)
PRO = AGENT._replace(name="dqn-pro", defaults={"proximal_coefficient": 0.05})
