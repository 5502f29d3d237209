"""Experience replay: a ring of transitions on the device in which every frame is stored once.

Stacks of frames and n-step returns are built when a batch is drawn, and never cross the end of an episode. The write
position is a function of the iteration, not state. The clock is never batched, so a rollout is written as one slice, in
place, also under vmap.

Shapes: N environments, L rows of each, row after row in time, so a window of steps is a range of rows modulo L.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from purerl import rng
from purerl.buffers import slices
from purerl.errors import PurerlError
from purerl.types import Array, EnvSpec, Rollout


@struct.dataclass
class Ring:
    """Rows of N environments, [N, L, ...]. Row t: at `observation[t]`, `action[t]` gave `reward[t]`.

    Attributes:
      observation: [N, L, F], flat, in the environment's dtype; only the newest of stacked frames.
      action: [N, L] int32, or [N, L, A] float32.
      reward: [N, L] float32, raw.
      terminated: [N, L] bool, the value after this row is masked.
      done: [N, L] bool, an episode ends with this row (also by a time-out).
      age: [N, L] uint8, steps since the episode's first observation, at most 255.
      next_age: [N] uint8, age of the next row.
      final_observation: [N, L, F], where the action of each row truly led, before any reset; None for a ring without
        them (see `init`).
    """

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    done: Array
    age: Array
    next_age: Array
    final_observation: Array | None = None


class Span(NamedTuple):
    """The filled rows: `cursor`, int32 [], is the next row to write; `filled`, int32 [], is the number of rows."""

    cursor: Array
    filled: Array

    def oldest(self, length: int) -> Array:
        """The row that was written first, int32 []."""
        return jnp.where(self.filled == length, self.cursor, 0)


@struct.dataclass
class Transitions:
    """A batch to learn from, [B, ...].

    Attributes:
      observation: [B, *shape], stacked again.
      action: int32 [B], or float32 [B, A].
      reward: float32 [B], the discounted sum of the window's rewards.
      discount: float32 [B], gamma to the number of steps in the window, 0 where it ends in a terminal state.
      next_observation: [B, *shape], after the window.
      weight: float32 [B], 0 for rows that cannot be learned from, else 1.
    """

    observation: Array
    action: Array
    reward: Array
    discount: Array
    next_observation: Array
    weight: Array


def check(
    size: int, num_envs: int, rollout_length: int, num_steps: int, spec: EnvSpec, *, learning_starts: int
) -> None:
    """Raises PurerlError for a ring or a start of learning that is too small.

    `size` transitions must be a whole number of rollouts and hold a window. When learning starts, a first window must
    be complete: an iteration learns if at least `learning_starts` transitions were stored before it.
    """
    rollout = num_envs * rollout_length
    if size > 2**31 - 1:
        raise PurerlError(f"replay_size = {size} is too large: items are counted up to {2**31 - 1}")
    least = rollout * -(-(rollout_length + num_steps + spec.stacked_frames) // rollout_length)
    if size % rollout or size < least:
        near = max(least, round(size / rollout) * rollout)
        raise PurerlError(
            f"replay_size = {size} must be a multiple of num_envs x rollout_length = {rollout}, and at least {least}: "
            f"try {near}"
        )
    first = least_learning_starts(num_envs, rollout_length, num_steps)
    if learning_starts < first:
        raise PurerlError(
            f"learning_starts = {learning_starts} is before the first complete {num_steps}-step window of {num_envs} "
            f"environments with rollouts of {rollout_length}: it must be at least {first}"
        )


def least_learning_starts(num_envs: int, rollout_length: int, num_steps: int) -> int:
    """The fewest transitions, of all environments together, after which the next iteration can learn.

    That iteration first stores its own rollout. A window is complete if the row after its n steps is stored, so n + 1
    rows are needed, and the rollouts before must hold n + 1 - T of them. The number of stacked frames does not matter:
    an episode's first rows are stacked with blank frames.
    """
    return num_steps // rollout_length * rollout_length * num_envs


def init(spec: EnvSpec, num_envs: int, length: int, *, final_observations: bool = False) -> Ring:
    """An empty ring of N x L rows.

    Without `final_observations`, every observation is stored once, and the state that a time-out led to is lost. With
    them, each row also holds where its action truly led, so that rows with a time-out are learned from like all others.
    That is twice the memory, and for observations without stacked frames only.
    """
    if final_observations and (spec.stacked_frames > 1 or not spec.shows_final_observation):
        raise PurerlError(f"{spec.name}: a replay keeps final observations that are shown, and of one frame")
    shape = spec.observation_shape[1:] if spec.stacked_frames > 1 else spec.observation_shape
    return Ring(
        observation=jnp.zeros((num_envs, length, math.prod(shape)), spec.observation_dtype),
        action=jnp.zeros((num_envs, length, *spec.action_shape), spec.action_dtype),
        reward=jnp.zeros((num_envs, length), jnp.float32),
        terminated=jnp.zeros((num_envs, length), jnp.bool_),
        done=jnp.zeros((num_envs, length), jnp.bool_),
        age=jnp.zeros((num_envs, length), jnp.uint8),
        next_age=jnp.zeros((num_envs,), jnp.uint8),
        final_observation=(
            jnp.zeros((num_envs, length, math.prod(shape)), spec.observation_dtype) if final_observations else None
        ),
    )


def span(iteration: Array, rollout_length: int, length: int) -> Span:
    """The filled rows of a ring of L rows after `iteration` rollouts of T steps; T divides L. Never overflows."""
    rollouts = length // rollout_length
    return Span((iteration % rollouts) * rollout_length, jnp.minimum(iteration, rollouts) * rollout_length)


def add(ring: Ring, rollout: Rollout, *, spec: EnvSpec, iteration: Array, terminated: Array) -> Ring:
    """Writes a rollout [T, N] over the oldest rows of the ring. O(T N).

    Args:
      ring: [N, L].
      rollout: [T, N]; T divides L.
      spec: the environment.
      iteration: int32 [], rollouts added before this one; not batched under vmap.
      terminated: bool [T, N], what counts as terminal for the learner (possibly also lost lives or time-outs).
    """
    num_steps, num_envs = rollout.reward.shape
    chex.assert_shape([terminated, rollout.terminated, rollout.truncated], (num_steps, num_envs))
    cursor = span(iteration, num_steps, ring.reward.shape[1]).cursor
    done = rollout.done | terminated

    def following(age: Array, done: Array) -> tuple[Array, Array]:
        return jnp.where(done, jnp.uint8(0), jnp.minimum(age, jnp.uint8(254)) + jnp.uint8(1)), age

    next_age, age = jax.lax.scan(following, ring.next_age, done)
    frames = rollout.observation[:, :, -1] if spec.stacked_frames > 1 else rollout.observation
    final = None if ring.final_observation is None else rollout.final_observation
    rows = Ring(
        observation=frames.reshape(num_steps, num_envs, -1),
        action=rollout.action,
        reward=rollout.reward,
        terminated=terminated,
        done=done,
        age=age,
        next_age=None,
        final_observation=None if final is None else final.reshape(num_steps, num_envs, -1),
    )

    def write(old: Array, new: Array) -> Array:
        return slices.write(old, jnp.swapaxes(new, 0, 1), cursor, axis=1)

    return jax.tree.map(write, ring.replace(next_age=None), rows).replace(next_age=next_age)


def mark_restart(ring: Ring, iteration: Array, rollout_length: int) -> Ring:
    """Marks the newest rows as the end of an episode, like a time-out, because the environments restarted there."""
    length = ring.reward.shape[1]
    newest = (span(iteration, rollout_length, length).cursor - 1) % length
    return ring.replace(done=ring.done.at[:, newest].set(True), next_age=jnp.zeros_like(ring.next_age))


def drawable(span: Span, ring: Ring, *, num_steps: int, spec: EnvSpec) -> Array:
    """How many rows of each environment `uniform` draws from, int32 []."""
    return span.filled - num_steps - _without_frames(span, ring, spec)


def _without_frames(span: Span, ring: Ring, spec: EnvSpec) -> Array:
    """How many of the oldest rows have lost earlier frames of their stacks, int32 []."""
    return jnp.where(span.filled == ring.reward.shape[1], spec.stacked_frames - 1, 0)


def uniform(
    words: Array, span: Span, ring: Ring, *, num_steps: int, spec: EnvSpec, history: int = 0
) -> tuple[Array, Array]:
    """Draws rows uniformly, among those whose n-step window, next row and earlier frames are all in the ring.

    Args:
      words: uint32 [2, B], from `rng.words`.
      span: the filled rows, more than n (see `least_learning_starts`).
      ring: [N, L].
      num_steps: n of the n-step returns.
      spec: the environment.
      history: how many rows before a row must be in the ring, too (`buffers.windows`).

    Returns:
      (environment, row), int32 [B] each.
    """
    num_envs, length = ring.reward.shape
    lost = jnp.where(span.filled == length, max(spec.stacked_frames - 1, history), 0)
    age = lost + rng.below(words[1], span.filled - num_steps - lost)
    return rng.below(words[0], num_envs), (span.oldest(length) + age) % length


def frames(ring: Ring, env: Array, row: Array, spec: EnvSpec) -> Array:
    """The observations [B, *shape] of rows, with frames stacked again; zeros before an episode's first frame."""
    if spec.stacked_frames == 1:
        return ring.observation[env, row].reshape(-1, *spec.observation_shape)
    length = ring.reward.shape[1]
    back = jnp.arange(spec.stacked_frames - 1, -1, -1)[None]
    stack = ring.observation[env[:, None], (row[:, None] - back) % length]
    inside = back <= ring.age[env, row][:, None].astype(jnp.int32)
    return jnp.where(inside[:, :, None], stack, jnp.zeros_like(stack)).reshape(-1, *spec.observation_shape)


def learnable(ring: Ring, env: Array, row: Array) -> Array:
    """Whether a row can be learned from: not if a time-out ended it, unless the ring knows its next state."""
    if ring.final_observation is not None:
        return jnp.ones(row.shape, jnp.bool_)
    return ring.terminated[env, row] | ~ring.done[env, row]


def gather(
    ring: Ring,
    indices: tuple[Array, Array],
    *,
    spec: EnvSpec,
    num_steps: int,
    discount: Array | float,
    reward_clip: Array | float,
) -> Transitions:
    """The transitions that begin in rows (environment [B], row [B]), with n-step returns.

    A window ends early at a termination, with a masked value. It also ends before a row with a time-out: the state
    after that row is not in the ring, so the window bootstraps from the row's own observation. This is a correct n-step
    return with a smaller n. A ring with final observations takes that row too, and bootstraps from where it led.

    Args:
      ring: [N, L].
      indices: from `uniform` or `prioritized.sample`.
      spec: the environment.
      num_steps: n.
      discount: gamma, [].
      reward_clip: rewards are clipped to +- this, []; inf for no clipping.
    """
    env, row = indices
    chex.assert_rank([env, row], 1)
    length = ring.reward.shape[1]
    rows = (row[:, None] + jnp.arange(num_steps)[None]) % length
    at = env[:, None], rows
    done, terminated = ring.done[at], ring.terminated[at]
    reward = jnp.clip(ring.reward[at], -reward_clip, reward_clip)
    ended_before = jnp.cumsum(done, axis=1) - done.astype(jnp.int32)
    taken = (ended_before == 0) & (terminated | ~done if ring.final_observation is None else True)
    powers = jnp.power(jnp.float32(discount), jnp.arange(num_steps + 1, dtype=jnp.float32))
    count = jnp.sum(taken, axis=1)
    terminal = jnp.any(taken & terminated, axis=1)
    if ring.final_observation is None:
        next_observation = frames(ring, env, (row + count) % length, spec)
    else:
        last = ring.final_observation[env, (row + count - 1) % length]
        next_observation = last.reshape(-1, *spec.observation_shape)
    return Transitions(
        observation=frames(ring, env, row, spec),
        action=ring.action[env, row],
        reward=jnp.sum(jnp.where(taken, powers[None, :-1] * reward, 0.0), axis=1),
        discount=jnp.where(terminal, 0.0, powers[count]),
        next_observation=next_observation,
        weight=(count > 0).astype(jnp.float32),
    )
