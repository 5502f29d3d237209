"""Convolutions whose gradients stay fast inside compiled loops on CPUs.

XLA's fast CPU kernels need convolutions in the form [B, H, W, C] by [kh, kw, in, out]. XLA converts other forms to it
only outside of loops (https://github.com/jax-ml/jax/issues/12868). JAX writes the two gradients of a convolution in
other forms, and all of purerl's learning happens in loops, so there each gradient took 20 to 40 times as long.

On CPUs, this module therefore writes both gradients in the fast form; the results are bit-identical. Seeds run one
after another, because a vmapped convolution is a grouped one, which has no fast kernel either. Small images (MinAtar's)
are faster still as one matrix product of all their patches, which stays one product under vmap. On accelerators this is
JAX's own convolution.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from purerl.types import Array

_NHWC = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]
# Upper bounds of pixels, and of numbers in a patch, so that the patches of a batch need little memory.
_SMALL_IMAGE, _SMALL_PATCH = 256, 128


def convolution(x: Array, kernel: Array, strides: Sequence[int], padding: str | Padding) -> Array:
    """The convolution of images [B, H, W, in] with a kernel [kh, kw, in, out]: [B, H', W', out].

    Args:
      x: images.
      kernel: of the same dtype.
      strides: of rows and columns.
      padding: "SAME", "VALID", or (before, after) of rows and columns.
    """
    strides = tuple(strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    padding = tuple((int(before), int(after)) for before, after in padding)
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_NHWC)
    if x.shape[1] * x.shape[2] <= _SMALL_IMAGE and kernel[..., 0].size <= _SMALL_PATCH:
        return _of_patches(x, kernel, strides, padding)
    return _on_cpu(x, kernel, strides, padding)


def _of_patches(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    (rows, columns), (down, right) = kernel.shape[:2], strides
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    shifted = [x[:, i : i + height : down, j : j + width : right] for i in range(rows) for j in range(columns)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[3])


def for_linen(x: Array, kernel: Array, strides: Any, padding: Any, **kwargs: Any) -> Array:
    """`convolution` for flax's `nn.Conv(conv_general_dilated=...)`. Dilation and groups are not supported."""
    assert kwargs.get("feature_group_count", 1) == 1
    assert all(d == 1 for name in ("lhs_dilation", "rhs_dilation") for d in kwargs.get(name) or ())
    return convolution(x, kernel, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _on_cpu(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    @sequential_vmap
    def forward(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_NHWC)

    return forward(x, kernel)


def _on_cpu_forward(x, kernel, strides, padding):
    return _on_cpu(x, kernel, strides, padding), (x, kernel)


def _on_cpu_backward(strides: tuple[int, int], padding: Padding, residuals: tuple[Array, Array], gradient: Array):
    x, kernel = residuals
    sizes = tuple(zip(x.shape[1:3], kernel.shape[:2], gradient.shape[1:3], strides, padding, strict=True))

    @sequential_vmap
    def of_images(kernel, gradient):
        # The gradient, dilated by the stride, convolved with the kernel rotated by 180 degrees.
        pads = [(k - 1 - before, n + before - (o - 1) * stride - 1) for n, k, o, stride, (before, _) in sizes]
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return lax.conv_general_dilated(gradient, turned, (1, 1), pads, lhs_dilation=strides, dimension_numbers=_NHWC)

    @sequential_vmap
    def of_kernel(x, gradient):
        # The batch axis and the input channels are swapped.
        pads = [(before, (o - 1) * stride + k - n - before) for n, k, o, stride, (before, _) in sizes]
        out = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            gradient.transpose(1, 2, 0, 3),
            (1, 1),
            pads,
            rhs_dilation=strides,
            dimension_numbers=_NHWC,
        )
        return out.transpose(1, 2, 0, 3)

    return of_images(kernel, gradient), of_kernel(x, gradient)


_on_cpu.defvjp(_on_cpu_forward, _on_cpu_backward)
