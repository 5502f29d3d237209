"""Sums of metrics over any number of iterations, kept on the device without losing anything.

A float32 sum of a million tenths is off by a percent, and a float32 count of ones stops at 16,777,216. So
numbers are summed in pairs of float32 (about 48 bits, after Dekker 1971 and Knuth), and counts as 64-bit integers in
two words. The sums of all metrics are packed into four vectors: an addition costs a few operations, however many there
are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.types import Array, Metric, PyTree


@struct.dataclass
class Sums:
    """Running sums of metrics: of F real numbers and K integers, with the leading axes of the metrics.

    Attributes:
      total, rest: float32 [..., F]; a sum is total + rest, and rest is less than half a unit in total's last place.
      low, high: uint32 [..., K], the words of a 64-bit integer in two's complement.
      layout: (structure of the metrics, whether each of its leaves is a real number).
    """

    total: Array
    rest: Array
    low: Array
    high: Array
    layout: Any = struct.field(pytree_node=False)


def zeros(metrics: PyTree) -> Sums:
    """Sums of nothing yet, for metrics {name: Metric} of these shapes and dtypes, which all have the same shape."""
    leaves, structure = jax.tree.flatten(metrics)
    real = tuple(bool(jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in leaves)
    reals, integers = ((*leaves[0].shape, n) for n in (sum(real), len(real) - sum(real)))
    return Sums(
        *(jnp.zeros(reals, jnp.float32) for _ in range(2)),
        *(jnp.zeros(integers, jnp.uint32) for _ in range(2)),
        layout=(structure, real),
    )


def add(sums: Sums, metrics: dict[str, Metric]) -> Sums:
    """The sums after one more iteration."""
    leaves, (_, real) = jax.tree.leaves(metrics), sums.layout
    x = _packed([leaf for leaf, is_real in zip(leaves, real, strict=True) if is_real], sums.total)
    n = _packed([leaf for leaf, is_real in zip(leaves, real, strict=True) if not is_real], sums.low.astype(jnp.int32))
    # total + x = rounded + error exactly (Knuth's two-sum).
    rounded = sums.total + x
    added = rounded - sums.total
    error = (sums.total - (rounded - added)) + (x - added)
    rest = jnp.where(jnp.isfinite(rounded), sums.rest + error, 0.0)
    total = rounded + rest
    low = sums.low + n.astype(jnp.uint32)
    carry = (low < sums.low).astype(jnp.uint32)
    sign = jax.lax.shift_right_arithmetic(n, jnp.full_like(n, 31)).astype(jnp.uint32)
    return sums.replace(total=total, rest=rest - (total - rounded), low=low, high=sums.high + sign + carry)


def arrays(sums: Sums) -> dict[str, Array]:
    """The arrays of sums, as a checkpoint holds them."""
    return {"total": sums.total, "rest": sums.rest, "low": sums.low, "high": sums.high}


def _packed(leaves: list[Array], like: Array) -> Array:
    """Numbers [...] as one array [..., n] of the dtype of `like` [..., n]."""
    return jnp.stack([leaf.astype(like.dtype) for leaf in leaves], axis=-1) if leaves else like


def read(sums: Sums) -> dict[str, Metric]:
    """The sums on the host: {name: Metric} of numpy arrays [...], float64, and int64 where integers were summed."""
    structure, real = sums.layout
    total, rest, low, high = (np.asarray(x) for x in jax.device_get((sums.total, sums.rest, sums.low, sums.high)))
    # The rest of an infinite sum is NaN.
    reals = np.where(np.isfinite(total), total.astype(np.float64) + rest, total)
    integers = (high.astype(np.int32).astype(np.int64) << 32) + low
    columns = {True: iter(np.moveaxis(reals, -1, 0)), False: iter(np.moveaxis(integers, -1, 0))}
    return jax.tree.unflatten(structure, [next(columns[is_real]) for is_real in real])
