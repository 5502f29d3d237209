"""Seeds spread over devices. Lanes never talk to each other, so this is plain shard_map, without collectives."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from purerl.types import PyTree

AXIS = "seeds"


def one_cpu_device_per_core() -> None:
    """Lets JAX see every CPU core as a device, so that seeds spread over them: XLA's own threading of small operations
    leaves cores idle. Does nothing where the user has set the number of devices. Where JAX has started already (a
    module-level `jnp.array` is enough) it is too late, which is said on stderr.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:  # JAX has started
        if jax.default_backend() == "cpu" and jax.device_count() < cores:
            print(
                f"purerl: JAX was started before purerl could give it the {cores} cores, so seeds share "
                f"{jax.device_count()}: make no jax arrays at the top level of your files, or set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={cores}",
                file=sys.stderr,
            )


def seed_mesh(num_seeds: int) -> Mesh:
    """A mesh of as many devices as divide the seeds evenly (perhaps only one)."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if num_seeds % n == 0)
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def spread_evenly(num_lanes: int) -> int:
    """The least number of lanes from `num_lanes` on that uses all devices evenly (or one device for each lane)."""
    devices = min(jax.device_count(), num_lanes)
    return -(-num_lanes // devices) * devices


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """A tree of [S, ...] arrays, its seeds spread over the mesh, each array in the kind of memory that it is in."""
    return jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(mesh, P(AXIS), memory_kind=x.sharding.memory_kind)), tree
    )


def take(tree: PyTree, lanes: slice) -> PyTree:
    """Some lanes of a tree of [S, ...] arrays, on the first of their devices (all lanes: where they are).

    Each device cuts its own part, and the parts are copied. `x[lanes]` would be a program of all devices, which talk to
    each other: on a busy CPU their threads may wait for one another until XLA gives up and ends the process.

    Args:
      tree: arrays whose seeds are spread evenly (see `place`) or are on one device.
      lanes: of step 1.
    """

    def of_array(x: Any) -> Any:
        first, end, _ = lanes.indices(x.shape[0])
        if end - first == x.shape[0]:
            return x
        if len(x.sharding.device_set) == 1:
            return x[first:end]
        parts = []
        for shard in sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0):
            begins = shard.index[0].start or 0
            low, high = max(first - begins, 0), min(end - begins, shard.data.shape[0])
            if low < high:
                parts.append(shard.data if high - low == shard.data.shape[0] else shard.data[low:high])
        here = parts[0].sharding  # with the kind of memory
        return parts[0] if len(parts) == 1 else jnp.concatenate([jax.device_put(part, here) for part in parts])

    return jax.tree.map(of_array, tree)


def shard_seeds(function: Callable[..., PyTree], mesh: Mesh, config: Any, num_seed_trees: int) -> Callable[..., PyTree]:
    """function(config, *trees of [S, ...], *trees without seeds) -> trees of [S, ...], run on each device's own seeds.

    Args:
      function: works for any number of seeds.
      mesh: from `seed_mesh`.
      config: its fields of one value per seed are split like the seeds, the others are shared.
      num_seed_trees: how many arguments after the config have a seed axis.
    """
    config_specs = jax.tree.map(lambda x: P(AXIS) if jnp.ndim(x) else P(), config)

    def sharded(config, *args):
        specs = [P(AXIS)] * num_seed_trees + [P()] * (len(args) - num_seed_trees)
        return jax.shard_map(function, mesh=mesh, in_specs=(config_specs, *specs), out_specs=P(AXIS), check_vma=False)(
            config, *args
        )

    return sharded
