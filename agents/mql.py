"""Meta-Q-Learning (Fakoor et al. 2020, arXiv 1910.00125), and TD3 with a context, which is MQL without adaptation.

`td3-context` is TD3 whose actor and critics see a GRU's output over the last T steps (action, reward, observation), by
which they tell tasks apart. `mql` is the same, and `adapt` fits a copy of it to a new task from one episode: stage A
learns from that episode, stage B from the replay of meta-training, weighted by how likely its transitions are under the
new task (propensity scores), with a proximal term that holds the parameters near those of meta-training.

Written from a description of the method, not from its published code, which is for non-commercial use only. The method
is patented in the United States (12,217,137). The defaults are the published settings of HalfCheetah-vel. What differs
from the published code: gradient steps follow `train_period` instead of whole episodes of drawn tasks; the first slot
of a window has a zero action instead of noise; the classifier sees the newest transitions of all tasks together, as
many as the new ones, instead of a buffer for each task.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl import rng
from purerl.buffers import replay, windows
from purerl.errors import PurerlError
from purerl.nn import context, deterministic
from purerl.ops import advantages, optimizers, propensity, value_learning
from purerl.ops.repeat import repeat
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """The published settings of HalfCheetah-vel. All lengths are in transitions of all environments together."""

    num_envs: int = static(1, low=1, help="parallel environments per seed")
    rollout_length: int = static(1, low=1, help="steps per environment between updates")
    train_period: int = static(1, low=1, help="transitions per gradient step of the critics")
    policy_delay: int = static(2, low=1, help="gradient steps of the critics per step of actor and targets")
    batch_size: int = static(256, low=1, help="minibatch size")
    replay_size: int = static(1_000_000, low=1, help="capacity of the replay buffer, in transitions")
    learning_starts: int = static(10_000, help="transitions with uniformly random actions before the first step")
    history_length: int = static(20, low=1, help="T: steps in the context's window")
    context_size: int = static(15, low=1, help="units of the context's GRU")
    hidden: tuple[int, ...] = static((300, 300), low=1, help="hidden sizes of the actor and of each critic")
    pad_evaluation: bool = static(
        False, help="feed zeros before an episode's first step to the GRU in evaluation too, as in training"
    )
    new_task_steps: int = static(10, low=0, help="stage A: gradient steps on the new task's episode")
    replay_steps: int = static(100, low=0, help="stage B: gradient steps on the replay of meta-training")
    replay_batches: int = static(5, low=1, help="stage B: its minibatch, in batch_size")
    snapshot_size: int = static(160_000, low=1, help="the newest transitions that the classifier is fitted to")
    weighting: Literal["propensity", "ones"] = static("propensity", help="stage B: weights beta of transitions")
    proximal: Literal["constant", "effective-sample-size"] = static(
        "constant", help="stage B: lambda is proximal_coefficient (released code) or 1 - ESS (paper)"
    )
    classifier_sees_observation: bool = static(False, help="the classifier sees the observation beside the context")
    matmul_precision: MatmulPrecision = static(
        "default", help="precision of float32 products; default: JAX's own, TF32 on recent GPUs; highest: float32"
    )
    learning_rate: float = traced(1e-3, low=0.0, help="learning rate of meta-training")
    adaptation_learning_rate: float = traced(1e-3, low=0.0, help="learning rate of both stages of adaptation")
    discount: float = traced(0.99, low=0.0, high=1.0, help="discount factor gamma")
    tau: float = traced(0.005, low=0.0, high=1.0, help="share by which the target networks follow")
    exploration_noise: float = traced(0.3, low=0.0, help="standard deviation of the noise on actions in training")
    target_noise: float = traced(0.3, low=0.0, help="standard deviation of the noise on target actions")
    target_noise_clip: float = traced(0.5, low=0.0, help="the noise on target actions is clipped to +-this")
    classifier_strength: float = traced(0.1, above=0.0, help="C of the logistic regression")
    beta_clip: float = traced(1.0, low=0.0, help="the largest weight is exp of this")
    proximal_coefficient: float = traced(0.1, low=0.0, help="lambda of the proximal term")


@struct.dataclass
class State:
    """Networks {"actor", "critics"}, their targets, an optimizer for each, the replay of meta-training, and how many
    rollouts were added to it, int32 [], which adaptation reads where it has no clock.
    """

    params: dict[str, Any]
    target_params: dict[str, Any]
    actor_optimizer: Any
    critic_optimizer: Any
    replay: replay.Ring
    rollouts: Array


@struct.dataclass
class Memory:
    """What acting remembers of an episode: its last T steps, and the observation of the last one (flat, float32)."""

    window: windows.Window
    last_observation: Array


class Batch(NamedTuple):
    """B transitions and the windows before and after their actions."""

    transitions: replay.Transitions
    before: windows.Window
    after: windows.Window


class Networks(NamedTuple):
    """What a gradient step changes."""

    params: dict[str, Any]
    target_params: dict[str, Any]
    actor_optimizer: Any
    critic_optimizer: Any


def actor(config: Config, spec: EnvSpec) -> context.ContextActor:
    """mu(s, z), and z."""
    return context.ContextActor(spec, config.hidden, config.context_size)


def critics(config: Config, spec: EnvSpec) -> context.ContextCritics:
    """Q_i(s, a, z), [2, B]."""
    return context.ContextCritics(spec, config.hidden, config.context_size)


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    deterministic.check(spec)
    if spec.stacked_frames > 1 or not spec.shows_final_observation:
        raise PurerlError(f"{spec.name}: windows of steps need single observations, the last one of an episode too")
    value_learning.check_periods(
        num_envs=config.num_envs,
        rollout_length=config.rollout_length,
        train_period=config.train_period,
        target_period=config.train_period * config.policy_delay,
        positive={"batch_size": config.batch_size, "policy_delay": config.policy_delay},
    )
    replay.check(
        config.replay_size,
        config.num_envs,
        config.rollout_length,
        config.history_length + 1,
        spec,
        learning_starts=config.learning_starts,
    )
    if config.history_length > 250:  # a replay counts an episode's steps up to 255
        raise PurerlError(f"history_length = {config.history_length} must be at most 250")


def init_memory(config: Config, spec: EnvSpec) -> Memory:
    """The memory at an episode's start, before its first observation is seen."""
    window = windows.empty(spec, config.history_length)
    return Memory(window, jnp.zeros(window.steps.shape[-1] - 1 - spec.action_shape[0]))


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of meta-training: the targets are copies of the networks."""
    observation = jnp.zeros((1, *spec.observation_shape), spec.observation_dtype)
    action, steps = jnp.zeros((1, *spec.action_shape)), windows.empty(spec, config.history_length).steps[None]
    params = {
        "actor": actor(config, spec).init(rng.stream(key, "actor"), observation, steps),
        "critics": critics(config, spec).init(rng.stream(key, "critics"), observation, action, steps),
    }
    adam = optimizers.adam(config.learning_rate)
    return State(
        params=params,
        target_params=jax.tree.map(jnp.copy, params),
        actor_optimizer=adam.init(params["actor"]),
        critic_optimizer=adam.init(params["critics"]),
        replay=replay.init(spec, config.num_envs, config.replay_size // config.num_envs, final_observations=True),
        rollouts=jnp.zeros((), jnp.int32),
    )


def act(
    config: Config,
    spec: EnvSpec,
    state: State,
    memory: Memory,
    inputs: Inputs,
    keys: Array,
    clock: Clock,
    explore: bool,
) -> tuple[Array, Memory, None]:
    """Actions [N, A]: mu(s, z) with noise, uniformly random before learning starts; only mu if not `explore`."""
    flat = inputs.observation.reshape(inputs.observation.shape[0], -1).astype(jnp.float32)
    # The last step, or at an episode's start the first observation with zeros.
    seen = jnp.where(inputs.is_first[:, None], flat, memory.last_observation)
    window = windows.pushed(memory.window, windows.step_of(inputs.last_action, inputs.last_reward, seen))
    used = None if explore or config.pad_evaluation else window.used
    action, _ = actor(config, spec).apply(state.params["actor"], inputs.observation, window.steps, used)
    memory = Memory(window, flat)
    if not explore:
        return action, memory, None
    learning = clock.iteration >= config.learning_starts // (config.num_envs * config.rollout_length)
    return deterministic.explored(spec, action, keys, config.exploration_noise, learning), memory, None


# --- TD3 with a context ----------------------------------------------------------------------------------------------


def gather(config: Config, spec: EnvSpec, ring: replay.Ring, indices: tuple[Array, Array]) -> Batch:
    """The transitions of rows (environment [B], row [B]), and their windows."""
    transitions = replay.gather(
        ring, indices, spec=spec, num_steps=1, discount=config.discount, reward_clip=float("inf")
    )
    return Batch(transitions, *windows.gather(ring, *indices, length=config.history_length))


def targets(config: Config, spec: EnvSpec, target_params: dict[str, Any], batch: Batch, noise: Array) -> Array:
    """y = r + gamma min_i Q'_i(s', a~, z') [B], z' of each target's own GRU; noise [B, A] is standard normal."""
    _, scale = deterministic.centre_and_scale(spec)
    observation, steps = batch.transitions.next_observation, batch.after.steps
    smoothing = jnp.clip(config.target_noise * noise, -config.target_noise_clip, config.target_noise_clip)
    action, _ = actor(config, spec).apply(target_params["actor"], observation, steps)
    action = deterministic.within_bounds(spec, action + scale[None] * smoothing)
    q = critics(config, spec).apply(target_params["critics"], observation, action, steps)
    return batch.transitions.reward + batch.transitions.discount * jnp.min(q, axis=0)


def critic_loss(
    config: Config, spec: EnvSpec, critic_params: Any, batch: Batch, target: Array, beta: Array
) -> tuple[Array, Array]:
    """The mean of beta sum_i (y - Q_i(s, a, z))^2 with weights beta [B], and the values [2, B]."""
    transitions = batch.transitions
    q = critics(config, spec).apply(critic_params, transitions.observation, transitions.action, batch.before.steps)
    return jnp.mean(beta * jnp.sum(jnp.square(target[None] - q), axis=0)), q


def actor_loss(
    config: Config, spec: EnvSpec, actor_params: Any, critic_params: Any, batch: Batch, beta: Array
) -> Array:
    """- mean beta Q_1(s, mu(s, z), z_Q): the actor's GRU learns from it, the critics' does not."""
    observation, steps = batch.transitions.observation, batch.before.steps
    action, _ = actor(config, spec).apply(actor_params, observation, steps)
    return -jnp.mean(beta * critics(config, spec).apply(critic_params, observation, action, steps)[0])


def gradient_step(
    config: Config,
    spec: EnvSpec,
    optimizer: optax.GradientTransformation,
    networks: Networks,
    batch: Batch,
    noise: Array,
    due: Array,
    *,
    beta: Array,
    strength: Array | float = 0.0,
    anchor: dict[str, Any] | None = None,
) -> tuple[Networks, dict[str, Metric]]:
    """A step of the critics, and if `due` one of the actor and the targets.

    Args:
      noise: [B, A], standard normal, on target actions.
      due: bool [], not batched in meta-training.
      beta: [B], weights of transitions.
      strength, anchor: lambda |theta - anchor|^2 is added to both losses, with the parameters `anchor`; None for none.
    """
    params, target_params, actor_optimizer, critic_optimizer = networks

    def proximal(name: str, mine: Any) -> Array | float:
        # In the loss, and so in Adam's moments, with no 1/2. It is not the decoupled `optimizers.proximal_pull`.
        return 0.0 if anchor is None else optimizers.proximal_penalty(2 * strength, mine, anchor[name])

    def of_critics(mine: Any) -> tuple[Array, tuple[Array, Array]]:
        loss, q = critic_loss(config, spec, mine, batch, target, beta)
        return loss + proximal("critics", mine), (loss, q)

    target = jax.lax.stop_gradient(targets(config, spec, target_params, batch, noise))
    gradients, (loss, q) = jax.grad(of_critics, has_aux=True)(params["critics"])
    updates, critic_optimizer = optimizer.update(gradients, critic_optimizer, params["critics"])
    params = params | {"critics": optax.apply_updates(params["critics"], updates)}

    def delayed(_: Array, carry: Any) -> Any:
        params, target_params, actor_optimizer, _ = carry

        def of_actor(mine: Any) -> tuple[Array, Array]:
            loss = actor_loss(config, spec, mine, params["critics"], batch, beta)
            return loss + proximal("actor", mine), loss

        gradients, loss = jax.grad(of_actor, has_aux=True)(params["actor"])
        updates, actor_optimizer = optimizer.update(gradients, actor_optimizer, params["actor"])
        params = params | {"actor": optax.apply_updates(params["actor"], updates)}
        target_params = optax.incremental_update(params, target_params, config.tau)
        return params, target_params, actor_optimizer, loss

    due = jnp.asarray(due, jnp.int32)
    carry = params, target_params, actor_optimizer, jnp.zeros(())
    params, target_params, actor_optimizer, of_actor = repeat(due, 1, delayed, carry)
    metrics = {"critic_loss": Metric.of(loss), "q": Metric.of(q), "actor_loss": Metric(of_actor, due)}
    return Networks(params, target_params, actor_optimizer, critic_optimizer), metrics


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """Stores a rollout [T, N] of any tasks, then runs the gradient steps of this iteration (eq. 1: all tasks alike)."""
    terminated, _ = advantages.episode_ends(rollout, False)
    ring = replay.add(state.replay, rollout, spec=spec, iteration=clock.iteration, terminated=terminated)
    span = replay.span(clock.iteration + 1, config.rollout_length, ring.reward.shape[1])
    optimizer = optimizers.adam(config.learning_rate)

    def step(networks: Networks, key: Array, due: Array) -> tuple[Networks, dict[str, Metric]]:
        words = rng.words(rng.stream(key, "sample"), (2, config.batch_size))
        noise = jax.random.normal(rng.stream(key, "noise"), (config.batch_size, *spec.action_shape))
        indices = replay.uniform(words, span, ring, num_steps=1, spec=spec, history=config.history_length)
        batch = gather(config, spec, ring, indices)
        ones = jnp.ones(config.batch_size)
        return gradient_step(config, spec, optimizer, networks, batch, noise, due, beta=ones)

    networks, metrics = value_learning.gradient_steps(
        step,
        Networks(state.params, state.target_params, state.actor_optimizer, state.critic_optimizer),
        rng.stream(key, "replay"),
        clock,
        transitions=config.num_envs * config.rollout_length,
        train_period=config.train_period,
        target_period=config.train_period * config.policy_delay,
        learning_starts=config.learning_starts,
    )
    return State(*networks, ring, clock.iteration + 1), metrics


def on_env_restart(config: Config, state: State, iteration: Array) -> State:
    """The state after a restart of the environments: no window of steps may cross the restart."""
    return state.replace(replay=replay.mark_restart(state.replay, iteration, config.rollout_length))


# --- adaptation ------------------------------------------------------------------------------------------------------


def features(config: Config, spec: EnvSpec, actor_params: Any, batch: Batch) -> Array:
    """What the classifier sees of transitions, [B, F]: the actor's context, and perhaps the observation before it."""
    observation = batch.transitions.observation
    _, z = actor(config, spec).apply(actor_params, observation, batch.before.steps)
    if not config.classifier_sees_observation:
        return z
    return jnp.concatenate([observation.reshape(observation.shape[0], -1).astype(jnp.float32), z], axis=-1)


def proximal_strength(config: Config, beta: Array) -> Array:
    """lambda []: the coefficient, or 1 - ESS of the weights (and the coefficient where that is 0 or NaN)."""
    if config.proximal == "constant":
        return jnp.asarray(config.proximal_coefficient)
    strength = 1.0 - propensity.effective_sample_size(beta)
    return jnp.where(strength > 1e-7, strength, config.proximal_coefficient)


def adapt(config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array) -> State:
    """The state adapted to the task of a rollout [T, N] that begins with its episodes' first observations.

    Only the parameters and their targets differ; to go back is to take the old state again.
    """
    num_steps, num_envs = rollout.reward.shape
    new_ring = replay.init(spec, num_envs, num_steps, final_observations=True)
    terminated, _ = advantages.episode_ends(rollout, False)
    new_ring = replay.add(new_ring, rollout, spec=spec, iteration=jnp.int32(0), terminated=terminated)
    anchor, number = state.params, num_steps * num_envs

    # 1. Propensity: tell the new task's transitions (-1) from those of meta-training (+1).
    every = jnp.divmod(jnp.arange(number), num_steps)
    old = replay_rows(config, state, rng.stream(key, "classifier"), number, config.snapshot_size)
    seen = [
        features(config, spec, anchor["actor"], gather(config, spec, ring, rows))
        for ring, rows in ((new_ring, every), (state.replay, old))
    ]
    labels = jnp.concatenate([-jnp.ones(number), jnp.ones(number)])
    classifier = propensity.fit_logistic(jnp.concatenate(seen), labels, config.classifier_strength)

    optimizer = optimizers.adam(config.adaptation_learning_rate)  # new ones, for both stages
    fresh = (optimizer.init(anchor["actor"]), optimizer.init(anchor["critics"]))
    networks = Networks(state.params, state.target_params, *fresh)

    def stage(name: str, networks: Networks, count: int, batch_size: int, step: Any) -> Networks:
        def one(i: Array, networks: Networks) -> Networks:
            its = rng.at(rng.stream(key, name), i)
            noise = jax.random.normal(rng.stream(its, "noise"), (batch_size, *spec.action_shape))
            return step(networks, rng.stream(its, "sample"), noise, i % config.policy_delay == 0)

        return jax.lax.fori_loop(0, count, one, networks)

    # 2. Stage A: on the new task's transitions, all alike, with no proximal term.
    def on_new_task(networks: Networks, key: Array, noise: Array, due: Array) -> Networks:
        words = rng.words(key, (2, number))
        rows = rng.below(words[0], num_envs), rng.below(words[1], num_steps)
        batch = gather(config, spec, new_ring, rows)
        return gradient_step(config, spec, optimizer, networks, batch, noise, due, beta=jnp.ones(number))[0]

    # 3. Stage B: on the replay of meta-training, weighted by beta, near the parameters of meta-training.
    batch_size = config.replay_batches * config.batch_size

    def on_replay(networks: Networks, key: Array, noise: Array, due: Array) -> Networks:
        batch = gather(config, spec, state.replay, replay_rows(config, state, key, batch_size))
        beta = jnp.ones(batch_size)
        if config.weighting == "propensity":
            log_odds = classifier.log_odds(features(config, spec, networks.params["actor"], batch))
            beta = propensity.importance_weights(log_odds, config.beta_clip)
        strength = proximal_strength(config, beta)
        return gradient_step(
            config, spec, optimizer, networks, batch, noise, due, beta=beta, strength=strength, anchor=anchor
        )[0]

    networks = stage("new-task", networks, config.new_task_steps, number, on_new_task)
    networks = stage("replay", networks, config.replay_steps, batch_size, on_replay)
    return state.replace(params=networks.params, target_params=networks.target_params)


def replay_rows(
    config: Config, state: State, key: Array, number: int, newest: int | None = None
) -> tuple[Array, Array]:
    """Rows of the replay whose windows it holds, drawn uniformly: (environment, row), int32 [number] each.

    With `newest` they are among so many newest transitions.
    """
    num_envs, length = state.replay.reward.shape
    span = replay.span(state.rollouts, config.rollout_length, length)
    rows = span.filled - jnp.where(span.filled == length, config.history_length, 0)
    if newest is not None:
        rows = jnp.minimum(rows, max(1, newest // num_envs))
    words = rng.words(key, (2, number))
    return rng.below(words[0], num_envs), (span.cursor - 1 - rng.below(words[1], rows)) % length


AGENT = Agent(
    *("mql", Config, check, init, act, update, init_memory),
    adapt=adapt,
    on_env_restart=on_env_restart,
    plays_greedily=True,
)
TD3_CONTEXT = AGENT._replace(name="td3-context", adapt=None)
