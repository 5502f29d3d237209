"""Seeds spread over devices, and each of them over several (`data_parallel`).

Lanes never talk to each other, so over seeds this is plain shard_map, without collectives. The devices of one seed are
a second axis of the mesh, which XLA's partitioner takes care of.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from purerl import data_parallel
from purerl.errors import PurerlError
from purerl.loops.lanes import Lanes
from purerl.loops.lanes import resolve as resolve_lanes
from purerl.types import Agent, EnvSpec, PyTree, RunState

AXIS = "seeds"
DevicesPerSeed = int | Literal["auto"]
# Numbers in the smallest observation of which a network is worth more than one device: 32 x 32 pixels of three colours.
LEAST_IMAGE = 32 * 32 * 3
_LONGEST_WAIT = "xla_cpu_collective_call_terminate_timeout_seconds"


def one_cpu_device_per_core() -> None:
    """Lets JAX see every CPU core as a device, so that seeds spread over them: XLA's own threading of small operations
    leaves cores idle. Does nothing where the user has set the number of devices. Where JAX has started already (a
    module-level `jnp.array` is enough) it is too late, which is said on stderr.

    Devices that share a seed are threads that wait for one another, and XLA ends the process where one has waited for
    40 seconds. A busy machine may take longer, so here they wait for up to a day. XLA reads this from the process's
    flags only: as a compiler option of a program it has no effect.
    """
    if _LONGEST_WAIT not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{_LONGEST_WAIT}=86400".strip()
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


def resolve(
    asked: DevicesPerSeed,
    agent: Agent,
    spec: EnvSpec,
    num_envs: int,
    num_seeds: int,
    lanes: Lanes,
    on_host: bool,
) -> int:
    """How many devices each seed is spread over; "auto" is more than one only where that was measured to be faster
    (docs/performance.md), and where an agent can: see `Agent.environment_axes`.

    Those are networks on images, of seeds that do not have a device each: a single one, or, on the host, any number
    that take turns (`map`).

    Raises PurerlError for more devices than there are.
    """
    if asked != "auto":
        _check_devices(asked)
        return asked
    small = spec.observation_dtype != "uint8" or math.prod(spec.observation_shape) < LEAST_IMAGE
    if agent.environment_axes is None or small:
        return 1
    if num_seeds > 1 and not (on_host and resolve_lanes(lanes) == "map"):
        return 1
    return max(n for n in range(1, jax.device_count() + 1) if num_envs % n == 0)


def _check_devices(devices_per_seed: int) -> None:
    count = jax.device_count()
    if devices_per_seed <= count:
        return
    hint = f", or set XLA_FLAGS=--xla_force_host_platform_device_count={devices_per_seed}"
    raise PurerlError(
        f"devices_per_seed = {devices_per_seed}, and JAX has {count} {'device' if count == 1 else 'devices'}: use "
        f"fewer{hint if jax.default_backend() == 'cpu' else ''}"
    )


def seed_mesh(num_seeds: int, devices_per_seed: int = 1) -> Mesh:
    """A mesh of as many devices as divide the seeds evenly (perhaps only one); with more than one device for each seed,
    they are its second axis.

    Raises PurerlError if there are fewer devices than one seed is to have.
    """
    _check_devices(devices_per_seed)
    devices = jax.devices()
    most = len(devices) // devices_per_seed
    count = max(n for n in range(1, most + 1) if num_seeds % n == 0)
    if devices_per_seed == 1:
        return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])
    return jax.make_mesh(
        (count, devices_per_seed),
        (AXIS, data_parallel.AXIS),
        axis_types=(AxisType.Auto,) * 2,
        devices=devices[: count * devices_per_seed],
    )


def spread_evenly(num_lanes: int, devices_per_seed: int = 1) -> int:
    """The least number of lanes from `num_lanes` on that uses all devices evenly (or one device for each lane)."""
    devices = max(1, min(jax.device_count() // devices_per_seed, num_lanes))
    return -(-num_lanes // devices) * devices


def of_seeds(mesh: Mesh, *axes: str | None, memory_kind: str | None = None) -> NamedSharding:
    """Where an array [S, ...] is whose seeds are spread over the mesh, and whose next axes are spread as named.

    An axis of one device is not named, as XLA does not name it in its results: a program's results can go into it again
    without another compilation.
    """
    names = [name if name in mesh.axis_names and mesh.shape[name] > 1 else None for name in (AXIS, *axes)]
    while names and names[-1] is None:
        names.pop()
    return NamedSharding(mesh, P(*names), memory_kind=memory_kind)


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """A tree of [S, ...] arrays, its seeds spread over the mesh, each array in the kind of memory that it is in."""
    return jax.tree.map(lambda x: jax.device_put(x, of_seeds(mesh, memory_kind=x.sharding.memory_kind)), tree)


def placements(run_state: RunState, mesh: Mesh, environment_axes: Mapping[str, int] | None) -> RunState:
    """The NamedSharding of each array of a RunState [S, ...] on the mesh of `seed_mesh`: its seeds are spread, and what
    there is of each environment is spread over the devices of the seed.

    Args:
      run_state: arrays or their shapes.
      environment_axes: of the agent, see `Agent`.
    """
    num_envs = run_state.inputs.is_first.shape[1]
    split = mesh.shape.get(data_parallel.AXIS, 1)

    def at(axis: int | None) -> Callable[[Any], NamedSharding]:
        def of_array(x: Any) -> NamedSharding:
            kind = getattr(getattr(x, "sharding", None), "memory_kind", None)
            if axis is None or x.ndim <= axis + 1 or x.shape[axis + 1] % split:
                return of_seeds(mesh, memory_kind=kind)
            return of_seeds(mesh, *[None] * axis, data_parallel.AXIS, memory_kind=kind)

        return of_array

    def of_environments(x: Any) -> NamedSharding:
        return at(0 if x.ndim > 1 and x.shape[1] == num_envs else None)(x)

    agent = jax.tree.map(at(None), run_state.agent)
    if environment_axes:
        axes = environment_axes.items()
        agent = agent.replace(**{name: jax.tree.map(at(axis), getattr(run_state.agent, name)) for name, axis in axes})
    rest = jax.tree.map(of_environments, run_state.replace(agent=None, key=None))
    return rest.replace(agent=agent, key=at(None)(run_state.key))


def on_one_device(tree: PyTree) -> PyTree:
    """The same arrays, on one of their devices each, without a copy where it has them whole."""

    def of_array(x: Any) -> Any:
        if not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1:
            return x
        if x.is_fully_replicated:
            return x.addressable_shards[0].data
        return jax.device_put(x, min(x.sharding.device_set, key=lambda device: device.id))

    return jax.tree.map(of_array, tree)


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
        if data_parallel.AXIS in getattr(getattr(x.sharding, "mesh", None), "axis_names", ()):
            return on_one_device(x)[first:end]
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
        return jax.shard_map(
            function, mesh=mesh, in_specs=(config_specs, *specs), out_specs=P(AXIS), axis_names={AXIS}, check_vma=False
        )(config, *args)

    return sharded
