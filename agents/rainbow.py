"""Rainbow (Hessel et al. 2018, arXiv 1710.02298) and Rainbow Pro (Asadi et al. 2022, arXiv 2112.05848).

Each part of Rainbow is a switch. The defaults are Dopamine's: n-step returns, a distribution of returns (C51),
prioritized replay. `double`, `dueling` and `noisy` give the full Rainbow. Rainbow Pro also pulls the online network
towards the target network in every gradient step, like DQN Pro. "Beyond the Rainbow" (Clark et al. 2024, arXiv
2411.03820) has quantiles (IQN, arXiv 1806.06923) in place of atoms, Munchausen targets (arXiv 2007.14430) in place of
double DQN, and a wider IMPALA network with spectral normalization and maximum pooling.
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
from purerl.nn import initializers, layers, spectral_norm, torsos
from purerl.nn.q_network import QNetwork
from purerl.ops import advantages, munchausen, optimizers, quantiles, value_learning
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
    atoms: int = static(51, help="atoms of the return distribution (C51); 0: plain values, or quantiles")
    quantiles: int = static(0, help="N, quantiles of the online network in the loss (IQN); 0: none. Needs atoms 0")
    target_quantiles: int = static(64, low=1, help="N', quantiles of the target, with quantiles")
    acting_quantiles: int = static(32, low=1, help="K, quantiles whose mean is a value that chooses, with quantiles")
    munchausen: bool = static(False, help="Munchausen targets, in place of a greedy target policy. Needs atoms 0")
    double: bool = static(False, help="double DQN: the online network selects the target's action")
    dueling: bool = static(False, help="dueling network: separate value and advantage streams")
    separate_streams: bool = static(False, help="each stream of the dueling network has its own last hidden layer")
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
    channels: tuple[int, ...] = static((16, 32, 32), low=1, help="channels of the stacks of network impala")
    features: int = static(0, help="width of the dense layer after convolutions; 0: as published")
    spectral_norm: bool = static(False, help="spectral normalization in the residual blocks of network impala")
    max_pool: int = static(0, help="adaptive maximum pooling of the last images to this size; 0: none")
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
    munchausen_scale: float = traced(0.9, low=0.0, high=1.0, help="alpha, weight of the log-policy in the reward")
    munchausen_temperature: float = traced(0.03, above=0.0, help="tau, temperature of the policy, with munchausen")
    munchausen_clip: float = traced(-1.0, high=0.0, help="l0, smallest log-policy in the reward")
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
    epsilon_zero_after: float = traced(
        float("inf"), low=0.0, high=float("inf"), help="transitions after which epsilon is 0; inf: never"
    )
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
        separate_streams=config.separate_streams,
        channels=config.channels,
        features=config.features,
        spectral_norm=config.spectral_norm,
        max_pool=config.max_pool,
    )


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    if not spec.num_actions:
        raise PurerlError(f"the DQN family needs discrete actions, and {spec.name} has continuous ones: use ppo or ppg")
    torsos.make_torso(config.network, spec, spectral_norm=config.spectral_norm, max_pool=config.max_pool)
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
    if config.atoms and (config.quantiles or config.munchausen):
        raise PurerlError("quantiles and munchausen take the place of C51's atoms: set atoms to 0")
    if config.munchausen and config.double:
        raise PurerlError("munchausen targets have no best action for double to select: set one of them to False")


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
    transitions = clock.iteration.astype(jnp.float32) * (config.num_envs * config.rollout_length)
    decayed = value_learning.epsilon_schedule(
        transitions,
        initial=config.epsilon_initial,
        final=config.epsilon_final,
        begin=config.learning_starts,
        decay_steps=config.epsilon_decay_steps,
    )
    return jnp.where(transitions < config.epsilon_zero_after, decayed, 0.0)


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training: the target network is a copy of the online network."""
    fractions = jnp.zeros((1, 1)) if config.quantiles else None
    observation = jnp.zeros((1, *spec.observation_shape), spec.observation_dtype)
    params = network(config, spec).init(key, observation, None, fractions)
    ring = replay.init(spec, config.num_envs, config.replay_size // config.num_envs)
    priorities = prioritized.init(ring.reward.size) if config.prioritized else None
    return State(params, jax.tree.map(jnp.copy, params), optimizer(config).init(params), ring, priorities)


def support(config: Config) -> Array:
    """The atoms z [K] of the distribution of returns."""
    return jnp.linspace(-1.0, 1.0, config.atoms) * config.support_max


def values(config: Config, out: Array) -> Array:
    """Q [..., A] of the network's output: its distribution's mean, the mean of its quantiles, or the output itself."""
    if config.quantiles:
        return jnp.mean(out, axis=-1)
    return jax.nn.softmax(out) @ support(config) if config.atoms else out


def fractions(config: Config, key: Array, shape: tuple[int, ...]) -> Array | None:
    """Random fractions of the quantiles that a pass through the network gives; None without quantiles."""
    return quantiles.draw_fractions(key, shape) if config.quantiles else None


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
    taus = jax.vmap(lambda k: fractions(config, rng.stream(k, "quantiles"), (config.acting_quantiles,)))(keys)
    q = values(config, network(config, spec).apply(state.params, inputs.observation, noise, taus))
    return value_learning.epsilon_greedy(keys, q, epsilon(config, clock, explore)), memory, None


def losses_of(
    config: Config, spec: EnvSpec, params: Any, target_params: Any, batch: replay.Transitions, key: Array
) -> tuple[Array, Array, Array]:
    """Of each transition [B]: the loss, the size of the error that becomes its priority, and its action's value."""
    q_network, choosing = network(config, spec), config.acting_quantiles
    # Three noise samples: the network that selects the action has its own (as in DQN Zoo).
    online, target, selecting = (
        rng.stream(key, name) if config.noisy else None for name in ("online", "target", "selector")
    )

    def taus(name: str, count: int) -> Array | None:
        return fractions(config, rng.stream(key, f"{name} quantiles"), (len(batch.action), count))

    online_taus, policy_taus = taus("online", config.quantiles), taus("policy", choosing)
    out = value_learning.batched_index(q_network.apply(params, batch.observation, online, online_taus), batch.action)
    next_taus = taus("target", choosing + config.target_quantiles)
    out_next = q_network.apply(target_params, batch.next_observation, target, next_taus)
    # The first K quantiles choose, the others are the target (algorithm 1 of IQN).
    selector = out_next[..., :choosing] if config.quantiles else out_next
    out_next = out_next[..., choosing:] if config.quantiles else out_next
    if config.double:
        selector = q_network.apply(params, batch.next_observation, selecting, policy_taus)
    reward, selector = batch.reward, values(config, selector)
    if config.munchausen:
        # Eq. 2 of arXiv 2007.14430: the log-policy joins the reward, a soft maximum takes the place of the maximum.
        q = values(config, q_network.apply(target_params, batch.observation, target, policy_taus))
        temperature, lowest = config.munchausen_temperature, config.munchausen_clip
        bonus = jax.vmap(munchausen.bonus, (0, 0, None, None))(q, batch.action, temperature, lowest)
        reward = reward + config.munchausen_scale * bonus
        out_next = jax.vmap(munchausen.soft_value, (0, 0, None))(out_next, selector, temperature)
    else:
        out_next = value_learning.batched_index(out_next, jnp.argmax(selector, axis=-1))
    if config.quantiles:
        targets = jax.lax.stop_gradient(reward[:, None] + batch.discount[:, None] * out_next)
        return *jax.vmap(quantiles.quantile_huber_loss)(out, online_taus, targets), values(config, out)
    if not config.atoms:
        error = jax.lax.stop_gradient(reward + batch.discount * out_next) - out
        each = value_learning.temporal_difference_loss(error, config.loss)
        return each, each, out
    # The distribution of r + gamma z, projected onto the atoms (section 2 of the paper, eq. 2 and 3)
    z = support(config)
    atoms = reward[:, None] + batch.discount[:, None] * z[None]
    target_probabilities = jax.vmap(value_learning.categorical_projection, (0, 0, None))(
        atoms, jax.nn.softmax(out_next), z
    )
    cross_entropy = -jnp.sum(jax.lax.stop_gradient(target_probabilities) * jax.nn.log_softmax(out), axis=-1)
    return cross_entropy, cross_entropy, values(config, out)


def loss(
    config: Config,
    spec: EnvSpec,
    params: Any,
    target_params: Any,
    batch: replay.Transitions,
    importance: Array,
    key: Array,
) -> tuple[Array, tuple[Array, dict[str, Metric]]]:
    """The mean loss with importance weights [B], the sizes [B] of the errors for the priorities, and the metrics."""
    each, size, q = losses_of(config, spec, params, target_params, batch, key)
    total = jnp.mean(batch.weight * importance * each)
    if config.proximal == "penalty":
        total = total + optimizers.proximal_penalty(config.penalty_coefficient, params, target_params)
    return total, (size, {"loss": Metric.of(each), "q": Metric.of(q)})


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
        gradients, (size, terms) = jax.grad(loss, argnums=2, has_aux=True)(
            config, spec, params, target_params, batch, importance, rng.stream(key, "noise")
        )
        updates, optimizer_state = gradient_transformation.update(
            gradients, optimizer_state, params, anchor=target_params
        )
        params = spectral_norm.power_iteration(optax.apply_updates(params, updates))
        if priorities is not None:
            # Dopamine takes the root of the loss, not of the error.
            priority = (jnp.minimum(size, config.priority_clip) + 1e-10) ** config.priority_exponent
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
