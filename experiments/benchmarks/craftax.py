"""PPO on Craftax against a plain jitted loop: Craftax's own baseline, as one would write it without a library.

The loop has the network and the sizes of ppo.py in MichaelTMatthews/Craftax_Baselines (1024 environments x 64 steps, 4
epochs of 8 minibatches, actor and critic of three layers of 512), and its optimistic resets: one new world for 16
environments in every step. It was written for this comparison, and shares no code with purerl. On CPUs both play
Craftax-Classic in 64 environments.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.linen.initializers import orthogonal

from purerl.envs import craftax as family
from purerl.experiments.benchmarks.measured import Measured

ENVIRONMENTS_PER_WORLD = 16
NUM_STEPS, NUM_EPOCHS, NUM_MINIBATCHES = 64, 4, 8
# The baseline anneals its step size, which costs nothing: left out on both sides, since a bench has no end.
FAIR = {"anneal_learning_rate": False}


class ActorCritic(nn.Module):
    """Logits [N, A] and values [N] of observations [N, D]: two columns of three tanh layers of 512."""

    num_actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def column(outputs: int, gain: float) -> jax.Array:
            y = x
            for _ in range(3):
                y = nn.tanh(nn.Dense(512, kernel_init=orthogonal(2**0.5))(y))
            return nn.Dense(outputs, kernel_init=orthogonal(gain))(y)

        return column(self.num_actions, 0.01), column(1, 1.0)[:, 0]


class Row(NamedTuple):
    """A step of all environments, [N, ...], and later what is learned from it."""

    observation: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


def plain_ppo(env: Any, num_envs: int) -> tuple[Callable, Callable]:
    """(key -> carry, carry -> carry after one iteration of PPO in an environment without automatic resets)."""
    env_params = env.default_params
    network = ActorCritic(env.action_space(env_params).n)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-4, eps=1e-5))
    num_worlds = -(-num_envs // ENVIRONMENTS_PER_WORLD)

    def new_worlds(key: jax.Array, number: int) -> Any:
        return jax.vmap(env.reset_env, (0, None))(jax.random.split(key, number), env_params)

    def step_environments(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
        key_step, key_reset = jax.random.split(key)
        keys = jax.random.split(key_step, num_envs)
        seen, state, reward, done, _ = jax.vmap(env.step_env, (0, 0, 0, None))(keys, state, action, env_params)
        fresh = new_worlds(key_reset, num_worlds)
        which = (jnp.cumsum(done) - 1) % num_worlds

        def replaced(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), new[which], old)

        seen, state = jax.tree.map(replaced, fresh, (seen, state))
        return state, seen, reward, done

    def begin(key: jax.Array) -> Any:
        key, key_network, key_worlds = jax.random.split(key, 3)
        seen, state = new_worlds(key_worlds, num_envs)
        params = network.init(key_network, seen)
        # Python numbers in the first state become arrays of the dtypes that a step leaves.
        state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
        return params, optimizer.init(params), state, seen, key

    def collect(carry: Any, _: None) -> tuple[Any, Row]:
        params, state, seen, key = carry
        key, key_action, key_step = jax.random.split(key, 3)
        logits, value = network.apply(params, seen)
        action = jax.random.categorical(key_action, logits)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=1)[:, 0]
        state, following, reward, done = step_environments(key_step, state, action)
        return (params, state, following, key), Row(seen, action, log_prob, value, reward, done)

    def advantages(rows: Row, last_value: jax.Array) -> jax.Array:
        def back(carry: tuple[jax.Array, jax.Array], row: Row) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            advantage, next_value = carry
            goes_on = 1.0 - row.done
            delta = row.reward + 0.99 * goes_on * next_value - row.value
            advantage = delta + 0.99 * 0.8 * goes_on * advantage
            return (advantage, row.value), advantage

        return jax.lax.scan(back, (jnp.zeros_like(last_value), last_value), rows, reverse=True)[1]

    def loss(params: Any, rows: Row, advantage: jax.Array) -> jax.Array:
        logits, value = network.apply(params, rows.observation)
        log_probs = jax.nn.log_softmax(logits)
        log_prob = jnp.take_along_axis(log_probs, rows.action[:, None], axis=1)[:, 0]
        ratio, target = jnp.exp(log_prob - rows.log_prob), advantage + rows.value
        clipped = rows.value + jnp.clip(value - rows.value, -0.2, 0.2)
        value_loss = 0.5 * jnp.maximum(jnp.square(value - target), jnp.square(clipped - target)).mean()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage).mean()
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=1).mean()
        return 0.5 * value_loss - gain - 0.01 * entropy

    def iterate(carry: Any) -> Any:
        params, optimizer_state, state, seen, key = carry
        (_, state, seen, key), rows = jax.lax.scan(collect, (params, state, seen, key), None, NUM_STEPS)
        data = rows, advantages(rows, network.apply(params, seen)[1])
        data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)

        def gradient_step(carry: Any, minibatch: Any) -> tuple[Any, None]:
            params, optimizer_state = carry
            updates, optimizer_state = optimizer.update(jax.grad(loss)(params, *minibatch), optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), None

        def epoch(carry: Any, key: jax.Array) -> tuple[Any, None]:
            order = jax.random.permutation(key, NUM_STEPS * num_envs).reshape(NUM_MINIBATCHES, -1)
            return jax.lax.scan(gradient_step, carry, jax.tree.map(lambda x: x[order], data))

        key, key_epochs = jax.random.split(key)
        keys = jax.random.split(key_epochs, NUM_EPOCHS)
        (params, optimizer_state), _ = jax.lax.scan(epoch, (params, optimizer_state), keys)
        return params, optimizer_state, state, seen, key

    return begin, iterate


class PlainLoop(Measured):
    """The plain loop, one iteration a call."""

    cycle, learning_starts = 1, 1

    def __init__(self, id: str, num_envs: int):
        begin, iterate = plain_ppo(family.package_environment(id), num_envs)
        self.steps_per_iteration = num_envs * NUM_STEPS
        self.state = jax.jit(begin)(jax.random.key(0))
        self._iterate = jax.jit(iterate, donate_argnums=0)
        started = time.perf_counter()
        self.advance(1)
        self.first_seconds = time.perf_counter() - started

    def advance(self, iterations: int) -> None:
        """Trains and waits for the end of it."""
        for _ in range(iterations):
            self.state = self._iterate(self.state)
        jax.block_until_ready(self.state)


def ppo_craftax(repeats: int, seconds: float) -> dict[str, Any]:
    """PPO of preset craftax and the plain loop, taking turns; medians, and the median of each repeat's own ratio."""
    on_cpu = jax.default_backend() == "cpu"
    id, num_envs = ("Craftax-Classic-Symbolic-v1", 64) if on_cpu else ("Craftax-Symbolic-v1", 1024)
    config = FAIR | {"num_envs": num_envs}
    ours = Measured("ppo", f"craftax/{id}", 1, preset="craftax", config=config)
    theirs = PlainLoop(id, num_envs)
    lengths = [run.iterations_for(seconds) for run in (ours, theirs)]
    pairs = [(ours.measure(lengths[0]), theirs.measure(lengths[1])) for _ in range(repeats)]

    def median(side: int, name: str) -> float:
        return round(statistics.median(pair[side][name] for pair in pairs), 1)

    ratios = [mine["steps_per_second"] / its["steps_per_second"] for mine, its in pairs]
    return {
        "environment": f"craftax/{id}",
        "config": config,
        "purerl_steps_per_second": median(0, "steps_per_second"),
        "purerl_steps_per_cpu_second": median(0, "steps_per_cpu_second"),
        "purerl_compile_and_first_iteration_seconds": round(ours.first_seconds, 2),
        "plain_steps_per_second": median(1, "steps_per_second"),
        "plain_steps_per_cpu_second": median(1, "steps_per_cpu_second"),
        "plain_compile_and_first_iteration_seconds": round(theirs.first_seconds, 2),
        "ratio": round(statistics.median(ratios), 3),
    }
