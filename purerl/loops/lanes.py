"""Lanes: the seeds (and settings) that one program trains side by side.

Two ways to run them. `vmap` batches all lanes: best where products are small and the device is wide. `map` runs the
lanes of each device one after the other, each by the very program of a solo run: so a lane equals its solo run bit for
bit, and on a CPU core, which one lane fills, it is the faster one too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from purerl.types import Array, PyTree

Lanes = Literal["auto", "vmap", "map"]


def resolve(lanes: Lanes) -> Lanes:
    """ "vmap" or "map"; "auto" is map on CPUs and vmap on accelerators (docs/performance.md has the measurements)."""
    if lanes != "auto":
        return lanes
    return "map" if jax.default_backend() == "cpu" else "vmap"


def config_axes(config: Any) -> Any:
    """vmap axes of a config: 0 for traced fields that hold one value per lane [S], None for plain numbers []."""
    return jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, config)


def lane_of(config: Any, lane: Array | int) -> Any:
    """The config of one lane: its value of the traced fields that hold one per lane."""
    return jax.tree.map(lambda x: x[lane] if jnp.ndim(x) else x, config)


def one_by_one(
    function: Callable[[Any, PyTree], tuple[PyTree, PyTree]], config: Any, state: PyTree
) -> tuple[PyTree, PyTree]:
    """`function(config, state) -> (state, out)` of each lane in turn.

    Args:
      function: of one lane, without the axis S.
      config: as for `config_axes`.
      state: [S, ...]; changed in place where it is donated. A single lane is not copied.

    Returns:
      (state, out), both [S, ...].
    """
    num_lanes = jax.tree.leaves(state)[0].shape[0]
    if num_lanes == 1:
        out = function(lane_of(config, 0), jax.tree.map(lambda x: x.reshape(x.shape[1:]), state))
        return jax.tree.map(lambda x: x[None], out)

    def take(tree: PyTree, lane: Array) -> PyTree:
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, lane, keepdims=False), tree)

    def put(tree: PyTree, part: PyTree, lane: Array) -> PyTree:
        return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, lane, 0), tree, part)

    def turn(lane: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        states, outs = carry
        state, out = function(lane_of(config, lane), take(states, lane))
        return put(states, state, lane), put(outs, out, lane)

    shapes = jax.eval_shape(lambda: function(lane_of(config, 0), take(state, jnp.int32(0)))[1])
    outs = jax.tree.map(lambda x: jnp.zeros((num_lanes, *x.shape), x.dtype), shapes)
    return jax.lax.fori_loop(0, num_lanes, turn, (state, outs))


def in_turn(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Jitted (config, *trees [S, ...]) -> [S, ...] of function(config, *trees) of each lane, one after the other, for
    what
    is computed once: a lane begins as the very bits of its solo run.
    """

    def each(config: Any, *trees: PyTree) -> PyTree:
        num_lanes = jax.tree.leaves(trees)[0].shape[0]

        def one(lane: Array) -> PyTree:
            return function(lane_of(config, lane), *jax.tree.map(lambda x: x[lane], trees))

        return jax.lax.map(one, jnp.arange(num_lanes))

    return jax.jit(each)


def pad(config: Any, keys: Array, num_lanes: int) -> tuple[Any, Array]:
    """(config, keys) of more lanes, which repeat the last one."""
    return jax.tree.map(lambda x: pad_state(x, num_lanes) if jnp.ndim(x) else x, config), pad_state(keys, num_lanes)


def pad_state(tree: PyTree, num_lanes: int) -> PyTree:
    """A tree [S, ...] with more lanes, which repeat the last one."""

    def longer(x: Array) -> Array:
        extra = num_lanes - x.shape[0]
        return jnp.concatenate([x, jnp.repeat(x[-1:], extra, axis=0)]) if extra else x

    return jax.tree.map(longer, tree)
