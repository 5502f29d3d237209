"""Windows of the last T steps of an episode, gathered from the rows of a replay, never stored.

Row t of an episode has two windows: `before` the action, which ends with step t - 1, and `after` it, which ends with
step t. A step is (a, r, o): the observation o in which the action was taken. Slots before the episode's first step are
0. The slot just before the first step holds the first observation with zeros for action and reward, in `before` only:
at t = 0 the window shows where the episode begins. So after(t) and before(t + 1) differ in exactly that slot, while it
is inside of the window.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import struct

from purerl.buffers.replay import Ring
from purerl.types import Array, EnvSpec


@struct.dataclass
class Window:
    """T steps, oldest first.

    Attributes:
      steps: float32 [..., T, A + 1 + O], action, reward and flat observation side by side.
      used: bool [..., T], whether a slot holds a step or the first observation, rather than zeros.
    """

    steps: Array
    used: Array


def width(spec: EnvSpec) -> int:
    """A + 1 + O, the numbers of a step."""
    return math.prod(spec.action_shape) + 1 + math.prod(spec.observation_shape)


def empty(spec: EnvSpec, length: int) -> Window:
    """A window [T] of zeros."""
    return Window(jnp.zeros((length, width(spec))), jnp.zeros(length, jnp.bool_))


def step_of(action: Array, reward: Array, observation: Array) -> Array:
    """A step [..., A + 1 + O] of an action [..., A], a reward [...] and a flat observation [..., O]."""
    return jnp.concatenate([action, reward[..., None], observation.astype(jnp.float32)], axis=-1)


def pushed(window: Window, step: Array) -> Window:
    """The window [N, T] with a step [N, A + 1 + O] as its newest; the oldest is dropped."""
    used = jnp.ones_like(window.used[:, :1])
    return Window(
        jnp.concatenate([window.steps[:, 1:], step[:, None]], axis=1),
        jnp.concatenate([window.used[:, 1:], used], axis=1),
    )


def gather(ring: Ring, env: Array, row: Array, *, length: int) -> tuple[Window, Window]:
    """(before, after) of rows (environment [B], row [B]), each [B, T].

    The T rows before a row must still be in the ring where its episode is that long (`replay.uniform`'s history).
    """
    back = jnp.arange(length, -1, -1)[None]  # steps back from the row: T .. 0
    rows = (row[:, None] - back) % ring.reward.shape[1]
    age = ring.age[env, row].astype(jnp.int32)[:, None]
    at = env[:, None], rows
    steps = step_of(ring.action[at], ring.reward[at], ring.observation[at])
    inside = back <= age
    steps = jnp.where(inside[..., None], steps, 0.0)
    # The first observation, in the slot before the first step.
    first = ring.observation[env, (row - age[:, 0]) % ring.reward.shape[1]].astype(jnp.float32)
    start = jnp.concatenate([jnp.zeros((row.shape[0], steps.shape[-1] - first.shape[-1])), first], axis=-1)
    is_start = back == age + 1
    with_start = jnp.where(is_start[..., None], start[:, None], steps)
    before = Window(with_start[:, :-1], (inside | is_start)[:, :-1])
    return before, Window(steps[:, 1:], inside[:, 1:])
