"""Shared parts of the DQN family: exploration, targets, and the schedule of gradient steps and target copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

from purerl import rng
from purerl.errors import PurerlError
from purerl.ops.repeat import repeat
from purerl.types import Array, Clock, Metric, PyTree

LossName = Literal["huber", "squared"]


def epsilon_schedule(
    transitions: Array,
    *,
    initial: Array | float,
    final: Array | float,
    begin: int,
    decay_steps: Array | float,
) -> Array:
    """Share of random actions: linear from `initial` to `final` over `decay_steps` transitions after `begin`.

    It is Dopamine's schedule if `begin` is the start of learning.

    Args:
      transitions: float32 [], so far.

    Returns:
      float32 [].
    """
    done = jnp.clip((transitions - begin) / decay_steps, 0.0, 1.0)
    return initial + done * (final - initial)


def epsilon_greedy(keys: Array, q: Array, epsilon: Array | float) -> Array:
    """The action of the highest value, or with probability epsilon a uniformly drawn one.

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


def batched_index(q: Array, action: Array) -> Array:
    """Selects the entries of the actions: q [B, A, ...] and action [B] to [B, ...]."""
    # As fast as a gather on few actions, and its gradient is not a scatter (slow on accelerators).
    mask = jax.nn.one_hot(action, q.shape[1], dtype=jnp.bool_).reshape(*q.shape[:2], *[1] * (q.ndim - 2))
    return jnp.sum(jnp.where(mask, q, 0), axis=1)


def temporal_difference_loss(error: Array, kind: LossName) -> Array:
    """The loss of errors [...]: "squared" is x^2 (without 1/2, as in Dopamine's JAX agents), "huber" has delta = 1."""
    if kind == "squared":
        return jnp.square(error)
    size = jnp.abs(error)
    return jnp.where(size <= 1.0, 0.5 * jnp.square(error), size - 0.5)


def categorical_projection(atoms: Array, probabilities: Array, support: Array) -> Array:
    """Projects a distribution onto the support's evenly spaced atoms; mass is split linearly between neighbours.

    See "A Distributional Perspective on Reinforcement Learning" by Bellemare et al. (https://arxiv.org/abs/1707.06887),
    eq. 7. Mass beyond the ends goes to the end atoms.

    Args:
      atoms: [K] positions of the mass (r + gamma z).
      probabilities: [K] mass at these positions.
      support: [K] increasing, evenly spaced.

    Returns:
      [K] probabilities of the support's atoms.
    """
    chex.assert_rank([atoms, probabilities, support], 1)
    spacing = (support[-1] - support[0]) / (support.shape[0] - 1)
    distance = jnp.abs(jnp.clip(atoms, support[0], support[-1])[:, None] - support[None, :]) / spacing
    return probabilities @ jnp.clip(1.0 - distance, 0.0, 1.0)


def check_periods(
    *, num_envs: int, rollout_length: int, train_period: int, target_period: int, positive: dict[str, float]
) -> None:
    """Raises PurerlError unless gradient steps and target copies fall on whole iterations.

    Args:
      num_envs, rollout_length: sizes of an iteration.
      train_period, target_period: transitions for each gradient step and each target copy.
      positive: {name: value} of other numbers that must be at least 1.
    """
    rollout = num_envs * rollout_length
    for name, value in {"train_period": train_period, "target_period": target_period, **positive}.items():
        if value < 1:
            raise PurerlError(f"{name} must be at least 1")
    if rollout % train_period:
        raise PurerlError(
            f"num_envs x rollout_length = {rollout} must be a multiple of train_period = {train_period}: "
            f"each iteration makes a whole number of gradient steps"
        )
    if target_period % train_period:
        near = max(1, round(target_period / train_period)) * train_period
        raise PurerlError(
            f"target_period = {target_period} must be a multiple of train_period = {train_period}: try {near}"
        )
    most = (2**31 - 1) // (rollout // train_period) * train_period
    if target_period > most:  # the gradient steps since the last copy are counted in an int32
        raise PurerlError(f"target_period = {target_period} is too long: at most {most} with these sizes")


def gradient_steps(
    step: Callable[[Any, Array, Array], tuple[Any, dict[str, Metric]]],
    carry: Any,
    key: Array,
    clock: Clock,
    *,
    transitions: int,
    train_period: int,
    target_period: int,
    learning_starts: int,
) -> tuple[Any, dict[str, Metric]]:
    """Runs the gradient steps of an iteration, and updates the target network every `target_period` transitions.

    There is one step for every `train_period` transitions, and none up to `learning_starts` transitions. The number of
    steps is a loop bound, not a branch: it is never batched, and nothing in the carry is copied.

    Args:
      step: (carry, key [], due) -> (carry, {name: Metric}); `due` is bool [], whether the step's result is the next
        target.
      carry: pytree that the steps update.
      key: typed key [].
      clock: of the iteration whose rollout has just been stored.
      transitions: number of transitions of one iteration, over all environments.
      train_period, target_period, learning_starts: in transitions.

    Returns:
      the carry, and the metrics of all steps.
    """
    owed = transitions // train_period
    per_copy = target_period // train_period
    learning = clock.iteration >= min(learning_starts // transitions, 2**31 - 1)  # an int32 is compared
    # Steps since the last target copy. Iterations are counted modulo the copy period, so that nothing overflows.
    before = (clock.iteration % per_copy) * owed

    # At least two: of a single key XLA knows which one a turn takes, moves the turn's gathers in front of the loop, and
    # may copy a whole replay for them.
    keys = jax.vmap(lambda u: rng.at(key, u))(jnp.arange(max(owed, 2)))

    def one(u: Array, carry: Any) -> Any:
        inner, sums = carry
        inner, terms = step(inner, keys[u], (before + u + 1) % per_copy == 0)
        return inner, jax.tree.map(jnp.add, sums, terms)

    shapes = jax.eval_shape(step, carry, key, before == 0)[1]
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return repeat(jnp.where(learning, owed, 0), owed, one, (carry, sums))


def next_target(due: Array, params: PyTree, target_params: PyTree) -> tuple[PyTree, Metric]:
    """The target network after a gradient step: a copy of `params` if `due`, else unchanged.

    Returns:
      its parameters, and the distance |theta_k+1 - theta_k| from the last target network to the new one, if there is a
      new one.
    """

    def renew(_: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        return params, optax.tree.norm(jax.tree.map(jnp.subtract, params, carry[0]))

    # A loop of 0 or 1 steps: a branch would copy the parameters every time, this copies them only when due.
    carry = target_params, jnp.zeros((), jnp.float32)
    target_params, distance = repeat(due.astype(jnp.int32), 1, renew, carry)
    return target_params, Metric(distance, due.astype(jnp.int32))
