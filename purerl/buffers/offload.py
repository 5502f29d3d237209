"""Buffers of a compiled program in the device's memory, or in the larger memory of the host.

Rows are copied one by one from host memory, because XLA can move slices between the memories but cannot gather there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from purerl.buffers import slices
from purerl.types import Array

_SPACES = {"device": jax.memory.Space.Device, "host": jax.memory.Space.Host}


Memory = Literal["device", "host"]


def zeros(memory: Memory, shape: tuple[int, ...], dtype: str) -> Array:
    """Zeros in the given memory (also inside jit)."""
    return jax.device_put(jnp.zeros(shape, dtype), _SPACES[memory])


def write(memory: Memory, buffer: Array, row: Array, index: Array) -> Array:
    """Writes `row` [...] at `index` [] of `buffer` [K, ...]. The index must not be batched under vmap."""
    return slices.write(buffer, jax.device_put(row, _SPACES[memory])[None], index, axis=0)


def read(memory: Memory, buffer: Array, indices: Array) -> Array:
    """Reads rows of a buffer to the device.

    Args:
      memory: where the buffer is stored.
      buffer: [K1, .., Kr, ...].
      indices: int32 [B, r], in range (they are not checked).

    Returns:
      [B, ...], buffer[tuple(indices[b])] for each b.
    """
    if memory == "device":
        return buffer.at[tuple(jnp.moveaxis(indices, -1, 0))].get(mode="clip")
    return _read_from_host(buffer, indices)


@jax.custom_vjp
def _read_from_host(buffer: Array, indices: Array) -> Array:
    """`read`, one copy for each row."""
    return _copy_rows(buffer, indices)


def _read_forward(buffer: Array, indices: Array) -> tuple[Array, tuple[Array, Callable[[Array, Array], Array]]]:
    shape, space = buffer.shape, jax.typeof(buffer).memory_space

    def scatter(indices: Array, gradient: Array) -> Array:
        zeros = jnp.zeros(shape, gradient.dtype)
        return jax.device_put(zeros.at[tuple(jnp.moveaxis(indices, -1, 0))].add(gradient, mode="drop"), space)

    return _read_from_host(buffer, indices), (indices, jax.tree_util.Partial(scatter))


def _read_backward(residuals: tuple[Array, Callable[[Array, Array], Array]], gradient: Array) -> tuple[Array, None]:
    indices, scatter = residuals
    return scatter(indices, gradient), None


_read_from_host.defvjp(_read_forward, _read_backward)


@jax.custom_batching.custom_vmap
def _copy_rows(buffer: Array, indices: Array) -> Array:
    num_axes = indices.shape[1]

    def one(index: Array) -> Array:
        corner = (*index, *[jnp.int32(0)] * (buffer.ndim - num_axes))
        row = jax.lax.dynamic_slice(buffer, corner, (*[1] * num_axes, *buffer.shape[num_axes:]))
        return jax.device_put(row, jax.memory.Space.Device).reshape(buffer.shape[num_axes:])

    return jax.lax.map(one, indices)


@_copy_rows.def_vmap
def _read_batched(axis_size: int, in_batched: list[bool], buffer: Array, indices: Array) -> tuple[Array, bool]:
    # JAX would batch the slices into a gather. Instead, the batch axis becomes one more axis to slice.
    if not in_batched[1]:
        indices = jnp.broadcast_to(indices, (axis_size, *indices.shape))
    if not in_batched[0]:
        rows = _copy_rows(buffer, indices.reshape(-1, indices.shape[-1]))
    else:
        lanes = jnp.broadcast_to(jnp.arange(axis_size, dtype=indices.dtype)[:, None, None], (*indices.shape[:2], 1))
        rows = _copy_rows(buffer, jnp.concatenate([lanes, indices], axis=-1).reshape(-1, indices.shape[-1] + 1))
    return rows.reshape(*indices.shape[:2], *rows.shape[1:]), True
