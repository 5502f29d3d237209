"""Seeds spread over devices. Lanes never talk to each other, so this is plain shard_map, without collectives."""

from __future__ import annotations

import contextlib
import os
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
    leaves cores idle. Does nothing once JAX has started, or where the user has set the number of devices.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


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


def shard_seeds(function: Callable[..., PyTree], mesh: Mesh, config: Any, num_seed_trees: int) -> Callable[..., PyTree]:
    """function(config, *trees of [S, ...], *trees without seeds) -> trees of [S, ...], run on each device's own seeds.

    Args:
      function: works for any number of seeds.
      mesh: from `seed_mesh`.
      config: its fields of one value per seed are split like the seeds, the others are shared.
      num_seed_trees: how many arguments behind the config have a seed axis.
    """
    config_specs = jax.tree.map(lambda x: P(AXIS) if jnp.ndim(x) else P(), config)

    def sharded(config, *args):
        specs = [P(AXIS)] * num_seed_trees + [P()] * (len(args) - num_seed_trees)
        return jax.shard_map(function, mesh=mesh, in_specs=(config_specs, *specs), out_specs=P(AXIS), check_vma=False)(
            config, *args
        )

    return sharded
