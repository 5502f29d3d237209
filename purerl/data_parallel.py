"""One seed on several devices: what code inside of a program says about it.

A program of one seed may be spread over D devices (`--devices-per-seed`): each has its share of the environments and of
every minibatch, and XLA's partitioner adds what crosses between them. So results are those of one device but for the
order of sums, whatever an agent computes. These functions only tell the partitioner what to spread; outside of such a
program they do nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from purerl.types import Array, PyTree

AXIS = "environments"


def num_devices() -> int:
    """The number of devices that the seeds of the program being traced are spread over, 1 if they are not."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[AXIS] if AXIS in mesh.axis_names and AXIS not in mesh.manual_axes else 1


def spread(tree: PyTree, axis: int = 0) -> PyTree:
    """The same arrays, spread over the seed's devices along an axis, if they divide evenly."""
    devices = num_devices()
    if devices == 1:
        return tree

    def of_array(x: Array) -> Array:
        if jax.numpy.ndim(x) <= axis or x.shape[axis] % devices:
            return x
        return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, AXIS))

    return jax.tree.map(of_array, tree)


def summed(function: Callable[..., Array], *batches: Array) -> Array:
    """`function(*batches)`, where it is a sum over the first axis [B]: each device's own sum, all added at the end.

    The partitioner cannot do this with a loop over parts of the batch: it would add over the devices in each turn.
    """
    if num_devices() == 1 or batches[0].shape[0] % num_devices():
        return function(*batches)
    whole, share = PartitionSpec(), PartitionSpec(AXIS)
    of_device = jax.shard_map(
        lambda *own: jax.lax.psum(function(*own), AXIS),
        in_specs=(share,) * len(batches),
        out_specs=whole,
        axis_names={AXIS},
        check_vma=False,
    )
    return of_device(*batches)
