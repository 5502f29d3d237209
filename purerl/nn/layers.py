"""Shared layers: conversion of observations to floats and images, max-pooling with a fast gradient."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from purerl.types import Array

PoolingName = Literal["torch", "tensorflow"]
ActivationName = Literal["tanh", "relu"]
DTypeName = Literal["float32", "bfloat16"]


def to_float(observation: Array, dtype: Any) -> Array:
    """Converts observations to a float dtype; uint8 is scaled from 0 .. 255 to 0 .. 1."""
    if observation.dtype == jnp.uint8:
        return observation.astype(dtype) / jnp.asarray(255, dtype)
    return observation.astype(dtype)


def images(observation: Array, dtype: Any, frames_first: bool) -> Array:
    """Observations as float images [..., H, W, C]; stacked frames [..., K, H, W] become channels."""
    x = to_float(observation, dtype)
    return jnp.moveaxis(x, -3, -1) if frames_first else x


def with_differences(x: Array, channels: int = 3) -> Array:
    """Floats of K stacked frames of C channels [..., K C], and each frame minus the next one: [..., (2 K - 1) C].

    The oldest frame is first. With images of 0 .. 1 a difference has -1 .. 1. As in the network of the generalization
    track's winner of the NeurIPS 2020 Procgen challenge (the repository Dipamc77/procgen-competition, K = 2).
    """
    return jnp.concatenate([x, x[..., :-channels] - x[..., channels:]], axis=-1)


def flat_batch(x: Array, event_rank: int) -> tuple[Array, tuple[int, ...]]:
    """Reshapes [..., *event] to [B, *event]; also returns the leading axes to restore."""
    batch = x.shape[: x.ndim - event_rank]
    return x.reshape(math.prod(batch), *x.shape[x.ndim - event_rank :]), batch


# --- 3x3 max-pooling with stride 2 -----------------------------------------------------------------------------------
# JAX's own gradient (select-and-scatter) is slow: on two CPU cores the gradient of an ImpalaCNN takes 4 to 7 times as
# long as with the one below. Both give a window's gradient to its first maximum in row-major order, as PyTorch does.
# This matters: in the flat background of a game all nine entries are equal.


def _pool_geometry(size: int, pooling: PoolingName) -> tuple[int, int, int]:
    """(output size, padding before, padding after) of one axis."""
    out = (size + 1) // 2
    padding = 2 if pooling == "torch" else 2 * (out - 1) + 3 - size
    return out, padding // 2, padding - padding // 2


def _pool_taps(x: Array, pooling: PoolingName) -> list[Array]:
    """The nine entries of each window, row-major, each [B, H', W', C]; -inf outside the image."""
    (height, top, bottom), (width, left, right) = (_pool_geometry(n, pooling) for n in x.shape[1:3])
    padding = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), padding)
    return [x[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Array, pooling: PoolingName) -> Array:
    """Max-pooling, window 3x3, stride 2. Reverse-mode derivatives only.

    Args:
      x: [B, H, W, C].
      pooling: how the border is padded with -inf. "torch": one pixel on every side. "tensorflow" ("SAME"): for even
        sizes only at the bottom and right, which shifts windows by one pixel.

    Returns:
      [B, ceil(H / 2), ceil(W / 2), C].
    """
    chex.assert_rank(x, 4)
    padding = [_pool_geometry(n, pooling)[1:] for n in x.shape[1:3]]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), *padding, (0, 0)))


def _max_pool_forward(x: Array, pooling: PoolingName) -> tuple[Array, tuple[Array, Array]]:
    taps = _pool_taps(x, pooling)
    largest, winner = taps[0], jnp.zeros(taps[0].shape, jnp.int8)
    for i, tap in enumerate(taps[1:], 1):
        winner = jnp.where(tap > largest, jnp.int8(i), winner)
        largest = jnp.maximum(largest, tap)
    return largest, (winner, jnp.zeros((0, *x.shape[1:3])))


def _max_pool_backward(pooling: PoolingName, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    """Each pixel gathers from its windows (at most 2 x 2). This is faster than a scatter from windows to pixels."""
    winner, pixels = residuals
    height, width = pixels.shape[1:]
    top, left = (_pool_geometry(n, pooling)[1] for n in (height, width))
    border = ((0, 0), (1, 1), (1, 1), (0, 0))

    def for_pixels(x: Array, row: int, column: int) -> Array:
        """Windows [B, H' + 2, W' + 2, C] to pixels [B, H, W, C]: each pixel's last window (0) or the one before (1)."""
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
        first_row, first_column = 2 * (1 - row) + top, 2 * (1 - column) + left
        return x[:, first_row : first_row + height, first_column : first_column + width]

    def places(size: int, before: int, back: int) -> np.ndarray:
        """Each pixel's position in that window: 0 .. 2, or 3 if it is outside."""
        return (np.arange(size) + before) % 2 + 2 * back

    gradient = jnp.pad(gradient, border)
    winner = jnp.pad(winner, border, constant_values=-1)
    total = jnp.zeros((), gradient.dtype)
    for row in (0, 1):
        for column in (0, 1):
            i, j = places(height, top, row)[:, None], places(width, left, column)[None]
            place = np.where((i < 3) & (j < 3), 3 * i + j, -2).astype(np.int8)[None, :, :, None]
            wins = for_pixels(winner, row, column) == place
            total = total + jnp.where(wins, for_pixels(gradient, row, column), 0)
    return (total,)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
