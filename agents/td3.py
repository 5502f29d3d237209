"""TD3, "Addressing Function Approximation Error in Actor-Critic Methods" (Fujimoto et al. 2018, arXiv 1802.09477).

Deterministic policy gradients with three changes: the target takes the smaller of two critics (section 4.2), the actor
and the targets move once for every d critic steps (5.2), and the target's action is smoothed by clipped noise (5.3).
The defaults are those of the authors' released code (its second version: 256-256, 3e-4, batches of 256); the paper's
own settings are the preset `td3-2018`. Noise is in units of half of the range of the action bounds, as there.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl import rng
from purerl.buffers import replay
from purerl.nn import deterministic, initializers, layers
from purerl.ops import advantages, optimizers, value_learning
from purerl.ops.repeat import repeat
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """The authors' settings. All lengths are in transitions (agent steps) of all environments together."""

    num_envs: int = static(1, low=1, help="parallel environments per seed (the reference has 1)")
    rollout_length: int = static(1, low=1, help="steps per environment between updates")
    train_period: int = static(1, low=1, help="transitions per gradient step of the critics")
    policy_delay: int = static(2, low=1, help="d: gradient steps of the critics per step of actor and targets")
    batch_size: int = static(256, low=1, help="minibatch size")
    replay_size: int = static(1_000_000, low=1, help="capacity of the replay buffer, in transitions")
    learning_starts: int = static(25_000, help="transitions with uniformly random actions before the first step")
    time_limit_is_terminal: bool = static(False, help="treat a time-out as terminal instead of bootstrapping")
    hidden: tuple[int, ...] = static((256, 256), low=1, help="hidden sizes of the actor and of each critic")
    activation: layers.ActivationName = static("relu", help="activation of the dense layers")
    initializer: initializers.InitializerName = static("torch", help="weight initialization")
    matmul_precision: MatmulPrecision = static(
        "default", help="precision of float32 products; default: JAX's own, TF32 on recent GPUs; highest: float32"
    )
    learning_rate: float = traced(3e-4, low=0.0, help="learning rate of actor and critics")
    adam_epsilon: float = traced(1e-8, low=0.0, help="Adam epsilon")
    max_grad_norm: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping"
    )
    discount: float = traced(0.99, low=0.0, high=1.0, help="discount factor gamma")
    tau: float = traced(0.005, low=0.0, high=1.0, help="share by which the target networks follow")
    exploration_noise: float = traced(0.1, low=0.0, help="standard deviation of the noise on actions in training")
    target_noise: float = traced(0.2, low=0.0, help="sigma~: standard deviation of the noise on target actions")
    target_noise_clip: float = traced(0.5, low=0.0, help="c: the noise on target actions is clipped to +-this")


@struct.dataclass
class State:
    """Networks {"actor": phi, "critics": theta_1 and theta_2}, their targets, an optimizer for each, and the replay."""

    params: dict[str, Any]
    target_params: dict[str, Any]
    actor_optimizer: Any
    critic_optimizer: Any
    replay: replay.Ring


def actor(config: Config, spec: EnvSpec) -> deterministic.Actor:
    """mu(s; phi)."""
    return deterministic.Actor(spec, config.hidden, config.activation, config.initializer)


def critics(config: Config, spec: EnvSpec) -> deterministic.Critics:
    """Q_i(s, a; theta_i), [2, ...]."""
    return deterministic.Critics(spec, config.hidden, config.activation, config.initializer)


def adam(config: Config) -> optax.GradientTransformation:
    """The optimizer of the actor, and of the critics."""
    return optimizers.adam(config.learning_rate, epsilon=config.adam_epsilon, max_grad_norm=config.max_grad_norm)


def keeps_final_observations(config: Config, spec: EnvSpec) -> bool:
    """Whether the replay stores where actions led, to bootstrap from the true last state of a time-out."""
    return spec.shows_final_observation and spec.stacked_frames == 1 and not config.time_limit_is_terminal


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    deterministic.check(spec)
    value_learning.check_periods(
        num_envs=config.num_envs,
        rollout_length=config.rollout_length,
        train_period=config.train_period,
        target_period=config.train_period * config.policy_delay,
        positive={"batch_size": config.batch_size, "policy_delay": config.policy_delay},
    )
    replay.check(
        config.replay_size, config.num_envs, config.rollout_length, 1, spec, learning_starts=config.learning_starts
    )


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training: the targets are copies of the networks."""
    observation = jnp.zeros((1, *spec.observation_shape), spec.observation_dtype)
    action = jnp.zeros((1, *spec.action_shape))
    params = {
        "actor": actor(config, spec).init(rng.stream(key, "actor"), observation),
        "critics": critics(config, spec).init(rng.stream(key, "critics"), observation, action),
    }
    ring = replay.init(
        spec,
        config.num_envs,
        config.replay_size // config.num_envs,
        final_observations=keeps_final_observations(config, spec),
    )
    return State(
        params=params,
        target_params=jax.tree.map(jnp.copy, params),
        actor_optimizer=adam(config).init(params["actor"]),
        critic_optimizer=adam(config).init(params["critics"]),
        replay=ring,
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
) -> tuple[Array, tuple[()], None]:
    """Actions [N, A]: mu(s) with noise, uniformly random before learning starts; only mu(s) if not `explore`."""
    action = actor(config, spec).apply(state.params["actor"], inputs.observation)
    if not explore:
        return action, memory, None
    learning = clock.iteration >= config.learning_starts // (config.num_envs * config.rollout_length)
    return deterministic.explored(spec, action, keys, config.exploration_noise, learning), memory, None


def targets(
    config: Config, spec: EnvSpec, target_params: dict[str, Any], batch: replay.Transitions, noise: Array
) -> Array:
    """y = r + gamma min_i Q'_i(s', a~) [B], with a~ = mu'(s') + clip(sigma~ noise, -c, c); noise [B, A] is normal."""
    _, scale = deterministic.centre_and_scale(spec)
    smoothing = jnp.clip(config.target_noise * noise, -config.target_noise_clip, config.target_noise_clip)
    action = actor(config, spec).apply(target_params["actor"], batch.next_observation)
    action = deterministic.within_bounds(spec, action + scale[None] * smoothing)
    q = critics(config, spec).apply(target_params["critics"], batch.next_observation, action)
    return batch.reward + batch.discount * jnp.min(q, axis=0)


def critic_loss(
    config: Config, spec: EnvSpec, critic_params: Any, batch: replay.Transitions, target: Array
) -> tuple[Array, Array]:
    """The mean over the batch of sum_i (y - Q_i(s, a))^2, and the values [2, B]."""
    q = critics(config, spec).apply(critic_params, batch.observation, batch.action)
    return jnp.mean(batch.weight * jnp.sum(jnp.square(target[None] - q), axis=0)), q


def actor_loss(
    config: Config, spec: EnvSpec, actor_params: Any, critic_params: Any, batch: replay.Transitions
) -> Array:
    """- mean Q_1(s, mu(s)): its gradient is the deterministic policy gradient (Silver et al. 2014)."""
    action = actor(config, spec).apply(actor_params, batch.observation)
    return -jnp.mean(critics(config, spec).apply(critic_params, batch.observation, action)[0])


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """Stores a rollout [T, N], then runs the gradient steps of this iteration (algorithm 1 of the paper)."""
    terminated, _ = advantages.episode_ends(rollout, config.time_limit_is_terminal, bootstraps_from_rows=True)
    ring = replay.add(state.replay, rollout, spec=spec, iteration=clock.iteration, terminated=terminated)
    span = replay.span(clock.iteration + 1, config.rollout_length, ring.reward.shape[1])
    optimizer = adam(config)

    def gradient_step(carry, key, due):
        params, target_params, actor_optimizer, critic_optimizer = carry
        words = rng.words(rng.stream(key, "sample"), (2, config.batch_size))
        noise = jax.random.normal(rng.stream(key, "noise"), (config.batch_size, *spec.action_shape))
        indices = replay.uniform(words, span, ring, num_steps=1, spec=spec)
        batch = replay.gather(ring, indices, spec=spec, num_steps=1, discount=config.discount, reward_clip=float("inf"))
        # Critics: theta_i <- argmin (y - Q_i(s, a))^2
        target = jax.lax.stop_gradient(targets(config, spec, target_params, batch, noise))
        (loss, q), gradients = jax.value_and_grad(critic_loss, argnums=2, has_aux=True)(
            config, spec, params["critics"], batch, target
        )
        updates, critic_optimizer = optimizer.update(gradients, critic_optimizer, params["critics"])
        params = params | {"critics": optax.apply_updates(params["critics"], updates)}

        def delayed(_, carry):
            # Every d steps: the deterministic policy gradient, then theta' <- tau theta + (1 - tau) theta'
            params, target_params, actor_optimizer, _ = carry
            loss, gradients = jax.value_and_grad(actor_loss, argnums=2)(
                config, spec, params["actor"], params["critics"], batch
            )
            updates, actor_optimizer = optimizer.update(gradients, actor_optimizer, params["actor"])
            params = params | {"actor": optax.apply_updates(params["actor"], updates)}
            target_params = optax.incremental_update(params, target_params, config.tau)
            return params, target_params, actor_optimizer, loss

        # A loop of 0 or 1 steps: it copies nothing when it is not due (`due` is never batched).
        carry = params, target_params, actor_optimizer, jnp.zeros(())
        due = due.astype(jnp.int32)
        params, target_params, actor_optimizer, of_actor = repeat(due, 1, delayed, carry)
        metrics = {"critic_loss": Metric.of(loss), "q": Metric.of(q), "actor_loss": Metric(of_actor, due)}
        return (params, target_params, actor_optimizer, critic_optimizer), metrics

    carry = state.params, state.target_params, state.actor_optimizer, state.critic_optimizer
    carry, metrics = value_learning.gradient_steps(
        gradient_step,
        carry,
        rng.stream(key, "replay"),
        clock,
        transitions=config.num_envs * config.rollout_length,
        train_period=config.train_period,
        target_period=config.train_period * config.policy_delay,
        learning_starts=config.learning_starts,
    )
    return State(*carry, ring), metrics


def on_env_restart(config: Config, state: State, iteration: Array) -> State:
    """The state after a restart of the environments: no window of steps may cross the restart."""
    return state.replace(replay=replay.mark_restart(state.replay, iteration, config.rollout_length))


AGENT = Agent("td3", Config, check, init, act, update, on_env_restart=on_env_restart, plays_greedily=True)
