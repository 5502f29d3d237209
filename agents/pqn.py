"""PQN, the parallelised Q-network (Gallici et al. 2024, arXiv 2407.04811): Q-learning without replay or target network.

Layer normalization keeps the network's values in bounds, so that the same network can be its own target, and many
environments at once take the place of the replay. An iteration collects T steps of N environments epsilon-greedily,
computes their Q(lambda) returns once, and regresses on them in epochs of shuffled minibatches (algorithm 1).

The defaults are the released settings for MinAtar (pqn_minatar.yaml of mttga/purejaxql). Three things differ from that
code: the step size is annealed from iteration to iteration (there within one, too); the row before the last of a
rollout bootstraps from the state that it led to (pqn_minatar.py takes the one after it; pqn_atari.py is as here); and
batch normalization, which Craftax's settings use, is not offered.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from purerl.errors import PurerlError
from purerl.nn import initializers, layers, recurrent, torsos
from purerl.ops import advantages, losses, minibatches, optimizers, returns, value_learning
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, MatmulPrecision, Metric, Rollout, static, traced


@struct.dataclass
class Config:
    """Sizes and constants. Source: the released settings for MinAtar (pqn_minatar.yaml)."""

    num_envs: int = static(128, low=1, help="parallel environments per seed")
    rollout_length: int = static(32, low=1, help="steps per environment between updates")
    num_epochs: int = static(2, low=1, help="epochs: passes over each rollout")
    num_minibatches: int = static(32, low=1, help="minibatches (gradient steps) per epoch")
    time_limit_is_terminal: bool = static(
        True, help="treat a time-out as terminal, as the released code does, instead of bootstrapping"
    )
    anneal_learning_rate: bool = static(True, help="anneal the learning rate linearly to 0 over the run")
    network: torsos.TorsoName = static("auto", help="torso network; auto chooses by the observation shape")
    normalization: torsos.NormalizationName = static(
        "layer", help="layer: layer normalization before every activation of the torso; none is the paper's ablation"
    )
    recurrent: recurrent.RecurrentName = static(
        "none",
        help="gru: a GRU after the torso; minibatches are then whole environments, unrolled from their first memory",
    )
    recurrent_size: int = static(128, low=1, help="hidden units of the GRU")
    hidden: tuple[int, ...] = static((256, 256), low=1, help="hidden sizes of the MLP")
    activation: layers.ActivationName = static("relu", help="activation of the MLP")
    initializer: initializers.InitializerName = static("he", help="weight initialization")
    observation_scale: float = static(
        1.0,
        above=0.0,
        high=float("inf"),
        help="observations are multiplied by this; the released code divides MinAtar's zeros and ones by 255",
    )
    dtype: layers.DTypeName = static("float32", help="compute dtype of the torso; parameters stay float32")
    matmul_precision: MatmulPrecision = static(
        "default", help="precision of float32 products; default: JAX's own, TF32 on recent GPUs; highest: float32"
    )
    learning_rate: float = traced(5e-4, low=0.0, help="learning rate of rectified Adam (RAdam)")
    optimizer_epsilon: float = traced(1e-8, low=0.0, help="epsilon of RAdam")
    max_grad_norm: float = traced(
        10.0, above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping"
    )
    discount: float = traced(0.99, low=0.0, high=1.0, help="discount factor gamma")
    trace_decay: float = traced(0.65, low=0.0, high=1.0, help="lambda of the Q(lambda) returns; 0: one-step targets")
    reward_scale: float = traced(1.0, low=0.0, help="rewards are multiplied by this for learning")
    reward_clip: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip rewards to +-this before; inf: no clipping"
    )
    epsilon_initial: float = traced(1.0, low=0.0, high=1.0, help="epsilon-greedy exploration at the start")
    epsilon_final: float = traced(0.05, low=0.0, high=1.0, help="epsilon after the decay")
    epsilon_decay_fraction: float = traced(
        0.1, above=0.0, high=1.0, help="share of the run over which epsilon decays linearly"
    )
    epsilon_evaluation: float = traced(0.0, low=0.0, high=1.0, help="epsilon in evaluation")


@struct.dataclass
class State:
    """Parameters of the one network, and RAdam's state."""

    params: Any
    optimizer: Any


@struct.dataclass
class Batch:
    """The data of gradient steps, [T, N, ...]: the network's inputs, actions, Q(lambda) returns."""

    inputs: Inputs
    action: Array
    target: Array


class Network(nn.Module):
    """Q(s, .): Inputs [..., *shape] to values [..., A]; a recurrent one takes [T, N, ...] and a memory [N, size], too.

    Returns the values, and the memories after each row [T, N, size] (without a GRU what it was given).
    """

    config: Config
    spec: EnvSpec

    @nn.compact
    def __call__(self, inputs: Inputs, memory: Any = ()) -> tuple[Array, Any]:
        config, observation = self.config, inputs.observation
        if config.observation_scale != 1.0:
            dtype = jnp.dtype(config.dtype)
            observation = layers.to_float(observation, dtype) * jnp.asarray(config.observation_scale, dtype)
        x = make_torso(config, self.spec)(name="torso")(observation)
        if config.recurrent == "gru":
            x = recurrent.context(x, inputs, self.spec)
            x = memory = recurrent.GRU(config.recurrent_size, name="core")(memory, x, inputs.is_first)
        kernel = initializers.head_init(config.initializer, 1.0)
        bias = initializers.bias_init(config.initializer, x.shape[-1])
        head = nn.Dense(self.spec.num_actions, dtype=jnp.float32, kernel_init=kernel, bias_init=bias, name="value")
        return head(x), memory


def make_torso(config: Config, spec: EnvSpec) -> Any:
    """The torso of a config. Raises PurerlError if it does not fit the observations."""
    return torsos.make_torso(
        config.network,
        spec,
        initializer=config.initializer,
        hidden=config.hidden,
        activation=config.activation,
        dtype=config.dtype,
        normalization=config.normalization,
    )


def network(config: Config, spec: EnvSpec) -> Network:
    """The network. Traced fields are dropped from its config, which must be hashable."""
    return Network(jax.tree.map(lambda _: 0.0, config), spec)


def seen(config: Config, inputs: Inputs) -> Inputs:
    """What the network takes of the Inputs: without a memory only the observation."""
    if config.recurrent != "none":
        return inputs
    return inputs.replace(is_first=None, last_action=None, last_reward=None)


def one_step(config: Config, spec: EnvSpec, params: Any, memory: Any, inputs: Inputs) -> tuple[Array, Any]:
    """Q(s, .) [N, A] of one step of time [N, ...], and the memory after it."""
    inputs = jax.tree.map(lambda x: x[None], seen(config, inputs))
    q, memory = network(config, spec).apply(params, inputs, memory)
    return q[0], jax.tree.map(lambda x: x[0], memory)


def check(config: Config, spec: EnvSpec) -> None:
    """Raises PurerlError for invalid sizes, before anything is built."""
    if not spec.num_actions:
        raise PurerlError(f"pqn needs discrete actions, and {spec.name} has continuous ones: use ppo or ppg")
    items, what = minibatches.shuffled(shuffle(config), config.num_envs, config.rollout_length)
    minibatches.check_division(what, items, "num_minibatches", config.num_minibatches)
    make_torso(config, spec)


def shuffle(config: Config) -> minibatches.ShuffleName:
    """What minibatches are made of: transitions, or with a memory whole environments."""
    return "transitions" if config.recurrent == "none" else "environments"


def optimizer(config: Config, clock: Clock | None = None) -> optax.GradientTransformation:
    """The optimizer, with the step size at `clock`."""
    learning_rate = config.learning_rate
    if config.anneal_learning_rate and clock is not None:
        learning_rate = optimizers.annealed(learning_rate, clock)
    return optimizers.radam(learning_rate, epsilon=config.optimizer_epsilon, max_grad_norm=config.max_grad_norm)


def init_memory(config: Config, spec: EnvSpec) -> Any:
    """The memory of one environment at an episode's start: the GRU's [size], or ()."""
    return () if config.recurrent == "none" else jnp.zeros(config.recurrent_size, jnp.float32)


def init(config: Config, spec: EnvSpec, key: Array) -> State:
    """State at the start of training."""
    inputs = Inputs.at_start(spec, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
    inputs, memory = jax.tree.map(lambda x: x[None], (seen(config, inputs), init_memory(config, spec)))
    params = network(config, spec).init(key, inputs, memory)
    return State(params, optimizer(config).init(params))


def epsilon(config: Config, clock: Clock, explore: bool) -> Array:
    """Share of random actions, [], in training or in evaluation."""
    if not explore:
        return config.epsilon_evaluation
    return value_learning.epsilon_schedule(
        clock.fraction_done(),
        initial=config.epsilon_initial,
        final=config.epsilon_final,
        begin=0,
        decay_steps=config.epsilon_decay_fraction,
    )


def act(
    config: Config,
    spec: EnvSpec,
    state: State,
    memory: Any,
    inputs: Inputs,
    keys: Array,
    clock: Clock,
    explore: bool,
) -> tuple[Array, Any, Array]:
    """Epsilon-greedy actions [N] (`epsilon_evaluation` if not `explore`), and the values max_a Q(s, a) [N]."""
    q, memory = one_step(config, spec, state.params, memory, inputs)
    return value_learning.epsilon_greedy(keys, q, epsilon(config, clock, explore)), memory, jnp.max(q, axis=-1)


def final_values(config: Config, spec: EnvSpec, params: Any, rollout: Rollout) -> Array | None:
    """max_a Q [T, N] of the observations before each reset; None if time-outs are not bootstrapped."""
    if not advantages.bootstraps_time_outs(rollout, config.time_limit_is_terminal):
        return None
    inputs, apply = seen(config, rollout.final_inputs()), network(config, spec).apply
    if config.recurrent == "none":
        return jnp.max(apply(params, inputs)[0], axis=-1)
    # Each final observation is one step, after the memory of its row.
    memories = apply(params, rollout.inputs(), rollout.memory)[1]
    inputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs)
    q, _ = one_step(config, spec, params, memories.reshape(-1, memories.shape[-1]), inputs)
    return jnp.max(q, axis=-1).reshape(rollout.reward.shape)


def targets(config: Config, spec: EnvSpec, params: Any, rollout: Rollout) -> Array:
    """The Q(lambda) returns [T, N] of a rollout, by the network that acted: its extras are max_a Q(s_t, a)."""
    last_q, _ = one_step(config, spec, params, rollout.last_memory, rollout.last)
    final_value = final_values(config, spec, params, rollout)
    value = advantages.next_values(rollout, rollout.extras, jnp.max(last_q, axis=-1), final_value)
    terminated, done = advantages.episode_ends(rollout, config.time_limit_is_terminal)
    reward = config.reward_scale * jnp.clip(rollout.reward, -config.reward_clip, config.reward_clip)
    return returns.lambda_returns(reward, value, terminated, done, config.discount, config.trace_decay)


def loss(config: Config, spec: EnvSpec, params: Any, batch: Batch, memory: Any = ()) -> tuple[Array, dict[str, Array]]:
    """Half the mean squared error of Q(s, a) against the Q(lambda) returns, and its metrics."""
    q, _ = network(config, spec).apply(params, batch.inputs, memory)
    q = value_learning.batched_index(q.reshape(-1, q.shape[-1]), batch.action.reshape(-1))
    error = losses.mean(losses.squared_value_error(q, batch.target.reshape(-1)))
    return error, {"loss": error, "q": losses.mean(q)}


def update(
    config: Config, spec: EnvSpec, state: State, rollout: Rollout, key: Array, clock: Clock
) -> tuple[State, dict[str, Metric]]:
    """One iteration of algorithm 1: epochs of minibatch gradient steps on the returns of a rollout [T, N]."""
    target = targets(config, spec, state.params, rollout)
    batch = Batch(seen(config, rollout.inputs()), rollout.action, target)
    axis, num_items = 1, config.num_envs
    if shuffle(config) == "transitions":
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        axis, num_items = 0, batch.action.shape[0]
    gradient_transformation = optimizer(config, clock)

    def gradient_step(carry, indices):
        params, optimizer_state = carry
        minibatch, memory = minibatches.take(batch, indices, axis), minibatches.take(rollout.memory, indices)
        gradients, terms = jax.grad(loss, argnums=2, has_aux=True)(config, spec, params, minibatch, memory)
        updates, optimizer_state = gradient_transformation.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), terms

    carry, terms = minibatches.shuffled_epochs(
        gradient_step,
        (state.params, state.optimizer),
        key,
        num_items=num_items,
        num_minibatches=config.num_minibatches,
        num_epochs=config.num_epochs,
    )
    metrics = {"q_target": Metric.of(target)} | {name: Metric.of(values) for name, values in terms.items()}
    return State(*carry), metrics


AGENT = Agent("pqn", Config, check, init, act, update, init_memory, plays_greedily=True, environment_axes={})
