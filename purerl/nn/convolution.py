"""Convolutions whose gradients stay fast inside compiled loops on CPUs.

XLA's fast CPU kernels need convolutions in the form [B, H, W, C] by [kh, kw, in, out]. XLA converts other forms to it
only outside of loops (https://github.com/jax-ml/jax/issues/12868). JAX writes the two gradients of a convolution in
other forms, and all of purerl's learning happens in loops, so there each gradient took 20 to 40 times as long.

On CPUs, this module therefore writes both gradients in the fast form. Seeds run one after another, because a vmapped
convolution is a grouped one, which has no fast kernel either. Two more things matter there, for networks like IMPALA's
(`purerl bench impala` compares with PyTorch):

- The gradient of a kernel is summed over parts of the batch that fit into a core's cache: about a third of the time.
- With up to 16 output channels, two neighbouring pixels become one of twice the channels, because the fast kernels need
  32: about two thirds of the time, although a quarter of the products are then with zeros.

Small images (MinAtar's) are faster still as one matrix product of all their patches, which stays one product under
vmap. On accelerators this is JAX's own convolution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from purerl import data_parallel
from purerl.types import Array

_NHWC = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]
# Upper bounds of pixels, and of numbers in a patch, so that the patches of a batch need little memory.
_SMALL_IMAGE, _SMALL_PATCH = 256, 128
# Numbers of the gradient in one part of a batch: a megabyte, which a core's second cache holds beside the images. Parts
# of fewer than eight images are slow.
_PART, _FEWEST_IMAGES = 2**18, 8
_FEW_CHANNELS = 16


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
        return of_patches(x, kernel, strides, padding)
    return _on_cpu(x, kernel, strides, padding)


def of_patches(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    """`convolution` as one matrix product of all patches of the images, on any device."""
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
        return _product(x, kernel, strides, padding)

    return forward(x, kernel)


def _product(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    width, columns = x.shape[2] + sum(padding[1]), kernel.shape[1]
    if strides == (1, 1) and kernel.shape[3] <= _FEW_CHANNELS and columns % 2 and width % 2 == 0:
        return _of_pairs(x, kernel, padding)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_NHWC)


def _of_pairs(x: Array, kernel: Array, padding: Padding) -> Array:
    """The convolution as one of pairs of columns; the kernel at each column of a pair gives a pair of outputs."""
    x = jnp.pad(x, ((0, 0), (0, 0), padding[1], (0, 0)))
    batch, height, width, channels = x.shape
    rows, columns, _, out = kernel.shape
    placed = [jnp.pad(kernel, ((0, 0), place, (0, 0), (0, 0))) for place in ((0, 1), (1, 0))]
    kernel = jnp.stack(placed, axis=3).reshape(rows, (columns + 1) // 2, 2 * channels, 2 * out)
    x = x.reshape(batch, height, width // 2, 2 * channels)
    y = lax.conv_general_dilated(x, kernel, (1, 1), (padding[0], (0, 0)), dimension_numbers=_NHWC)
    return y.reshape(batch, y.shape[1], -1, out)


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
        if strides == (1, 1):
            return _product(gradient, turned, strides, tuple(pads))
        return lax.conv_general_dilated(gradient, turned, (1, 1), pads, lhs_dilation=strides, dimension_numbers=_NHWC)

    @sequential_vmap
    def of_kernel(x, gradient):
        return data_parallel.summed(functools.partial(_in_parts, of_part), x, gradient)

    def of_part(x, gradient):
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


def _in_parts(function: Callable[[Array, Array], Array], x: Array, gradient: Array) -> Array:
    """function(x [B, ...], gradient [B, ...]), a sum over the images, added up over equal parts of the batch."""
    batch = x.shape[0]
    most = max(_FEWEST_IMAGES, _PART * batch // max(gradient.size, 1))
    size = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)
    if size == batch or size < _FEWEST_IMAGES:
        return function(x, gradient)
    x, gradient = (y.reshape(-1, size, *y.shape[1:]) for y in (x, gradient))
    first = jax.eval_shape(function, x[0], gradient[0])

    def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        return total + function(*part), None

    return lax.scan(add, jnp.zeros(first.shape, first.dtype), (x, gradient))[0]


_on_cpu.defvjp(_on_cpu_forward, _on_cpu_backward)
