"""Writes a slice into a buffer so that it stays a slice under vmap and supports reverse-mode differentiation.

JAX batches `dynamic_update_slice` into a scatter, even if all lanes write to the same place. That is slower, and
impossible in the host's memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purerl.types import Array


def write(buffer: Array, update: Array, index: Array | int, axis: int) -> Array:
    """Writes `update`, of the same shape except along `axis`, into `buffer` from `index` [] on along that axis."""
    return _write(axis)(buffer, update, jnp.asarray(index, jnp.int32))


@functools.cache
def _write(axis: int) -> Callable[..., Array]:
    batched = _batched_write(axis)

    @jax.custom_vjp
    def written(buffer: Array, update: Array, index: Array) -> Array:
        return batched(buffer, update, index)

    def forward(buffer: Array, update: Array, index: Array) -> tuple[Array, tuple[Array, int]]:
        return written(buffer, update, index), (index, update.shape[axis])

    def backward(residuals: tuple[Array, int], gradient: Array) -> tuple[Array, Array, None]:
        index, size = residuals
        of_update = jax.lax.dynamic_slice_in_dim(gradient, index, size, axis)
        return written(gradient, jnp.zeros_like(of_update), index), of_update, None

    written.defvjp(forward, backward)
    return written


@functools.cache
def _batched_write(axis: int) -> Callable[..., Array]:
    @jax.custom_batching.custom_vmap
    def written(buffer: Array, update: Array, index: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(buffer, update, index, axis)

    @written.def_vmap
    def _rule(axis_size: int, in_batched: list[bool], buffer: Array, update: Array, index: Array) -> Any:
        buffer, update = (
            x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            for x, batched in zip((buffer, update), in_batched[:2], strict=True)
        )
        if in_batched[2]:
            scatter = jax.vmap(lambda b, u, i: jax.lax.dynamic_update_slice_in_dim(b, u, i, axis))
            return scatter(buffer, update, index), True
        return _batched_write(axis + 1)(buffer, update, index), True

    return written
