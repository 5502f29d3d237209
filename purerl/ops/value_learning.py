"""What all agents of the DQN family share: exploration, targets, and when gradient steps and target copies are due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

from purerl import rng
from purerl.errors import PurerlError
from purerl.types import Array, Clock, Metric, PyTree

LossName = Literal["huber", "squared"]


def epsilon(config: Any, clock: Clock) -> Array:
    """Share of random actions, float32 []: from `epsilon_initial` to `epsilon_final` in a line over
    `epsilon_decay_steps` transitions, which begins when learning does (Dopamine's schedule).
    """
    transitions = clock.iteration.astype(jnp.float32) * (config.num_envs * config.rollout_length)
    done = jnp.clip((transitions - config.learning_starts) / config.epsilon_decay_steps, 0.0, 1.0)
    return config.epsilon_initial + done * (config.epsilon_final - config.epsilon_initial)


def epsilon_greedy(keys: Array, q: Array, epsilon: Array | float) -> Array:
    """The action of the highest value, or with probability epsilon any action, each alike.

    Args:
      keys: [N] typed keys.
      q: [N, A] action values.
      epsilon: [].

    Returns:
      int32 [N].
    """
    chex.assert_rank(q, 2)

    def one(key: Array, q: Array) -> Array:
        coin, anything = rng.words(key, (2,))
        return jnp.where(rng.unit(coin) < epsilon, rng.below(anything, q.shape[-1]), jnp.argmax(q)).astype(jnp.int32)

    return jax.vmap(one)(keys, q)


def chosen(q: Array, action: Array) -> Array:
    """The entries of the actions: q [B, A, ...] and action [B] to [B, ...]."""
    # As fast as a gather on few actions, and its gradient is not a scatter (slow on accelerators).
    mask = jax.nn.one_hot(action, q.shape[1], dtype=jnp.bool_).reshape(*q.shape[:2], *[1] * (q.ndim - 2))
    return jnp.sum(jnp.where(mask, q, 0), axis=1)


def temporal_difference_loss(error: Array, kind: LossName) -> Array:
    """Of errors [...]: "squared" is x^2 (without a half, as in Dopamine's JAX agents), "huber" has delta = 1."""
    if kind == "squared":
        return jnp.square(error)
    size = jnp.abs(error)
    return jnp.where(size <= 1.0, 0.5 * jnp.square(error), size - 0.5)


def categorical_projection(atoms: Array, probabilities: Array, support: Array) -> Array:
    """A distribution moved onto the support's evenly spaced atoms, its mass split linearly between neighbours.

    See "A Distributional Perspective on Reinforcement Learning" by Bellemare et al. (https://arxiv.org/abs/1707.06887),
    eq. 7. Mass beyond the ends goes to the end atoms.

    Args:
      atoms: [K] where the mass is (r + gamma z).
      probabilities: [K] how much.
      support: [K] increasing, evenly spaced.

    Returns:
      [K] probabilities of the support's atoms.
    """
    chex.assert_rank([atoms, probabilities, support], 1)
    spacing = (support[-1] - support[0]) / (support.shape[0] - 1)
    distance = jnp.abs(jnp.clip(atoms, support[0], support[-1])[:, None] - support[None, :]) / spacing
    return probabilities @ jnp.clip(1.0 - distance, 0.0, 1.0)


def check(config: Any) -> None:
    """Raises PurerlError unless gradient steps and target copies fall on whole iterations."""
    rollout = config.num_envs * config.rollout_length
    for name in ("train_period", "target_period", "batch_size", "num_steps", "epsilon_decay_steps"):
        if getattr(config, name) < 1:
            raise PurerlError(f"{name} must be at least 1")
    if rollout % config.train_period:
        raise PurerlError(
            f"num_envs x rollout_length = {rollout} must be a multiple of train_period = {config.train_period}: "
            f"each iteration makes a whole number of gradient steps"
        )
    if config.target_period % config.train_period:
        near = max(1, round(config.target_period / config.train_period)) * config.train_period
        raise PurerlError(
            f"target_period = {config.target_period} must be a multiple of train_period = {config.train_period}: "
            f"try {near}"
        )


def gradient_steps(
    config: Any,
    clock: Clock,
    key: Array,
    carry: Any,
    step: Callable[[Any, Array, Array], tuple[Any, dict[str, Metric]]],
) -> tuple[Any, dict[str, Metric]]:
    """The gradient steps that an iteration owes: one for every `train_period` transitions, none while there are no more
    than `learning_starts` of them. After every `target_period` transitions the target network is renewed.

    The number of steps is a loop bound, not a branch: it is never batched, and nothing in the carry is copied.

    Args:
      config: reads num_envs, rollout_length, train_period, target_period and learning_starts.
      clock: of the iteration whose rollout has just been stored.
      key: typed key [].
      carry: what the steps change.
      step: (carry, key [], due) -> (carry, {name: Metric}); `due` is bool [], whether the step's result is the next
        target.

    Returns:
      the carry, and the metrics of all steps.
    """
    rollout = config.num_envs * config.rollout_length
    owed = rollout // config.train_period
    per_copy = config.target_period // config.train_period
    learning = clock.iteration >= config.learning_starts // rollout
    # Steps since the last copy: iterations are counted modulo a copy's, so that nothing overflows.
    before = (clock.iteration % per_copy) * owed

    keys = jax.vmap(lambda u: rng.at(key, u))(jnp.arange(owed))

    def one(u: Array, carry: Any) -> Any:
        inner, sums = carry
        inner, terms = step(inner, keys[u], (before + u + 1) % per_copy == 0)
        return inner, jax.tree.map(jnp.add, sums, terms)

    shapes = jax.eval_shape(step, carry, key, before == 0)[1]
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, jnp.where(learning, owed, 0), one, (carry, sums))


def next_target(due: Array, params: PyTree, target_params: PyTree) -> tuple[PyTree, Metric]:
    """The target network behind a gradient step that gave `params`: those, where `due`.

    Returns:
      its parameters, and the distance |theta_k+1 - theta_k| over all of them from the target network before, where
      there is a new one.
    """

    def renew(_: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        return params, optax.tree.norm(jax.tree.map(jnp.subtract, params, carry[0]))

    # A loop of no turn or one: a branch would copy one or the other every time, this copies nothing until it is due.
    carry = target_params, jnp.zeros((), jnp.float32)
    target_params, distance = jax.lax.fori_loop(0, due.astype(jnp.int32), renew, carry)
    return target_params, Metric(distance, due.astype(jnp.float32))
