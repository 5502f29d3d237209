"""Estimates of the memory that training and evaluation take, before anything is allocated."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import configs, registry
from purerl.buffers import offload
from purerl.errors import PurerlError, shown
from purerl.loops import lanes
from purerl.runs.plan import Plan
from purerl.types import EnvSpec

# Files of a container's memory limit, its use and its statistics: of control groups of version 2 and 1.
_GROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
# Of one step in a rollout, beside its observation: action, reward, flags and what the agent adds.
_STEP_BYTES = 16


def check_training(plan: Plan) -> None:
    """Raises PurerlError for a run that cannot fit into the memory: its estimate is what it needs at the least."""
    _check(least_bytes(plan), _limit(plan.config), "--seeds, --num-envs, --rollout-length or the agent's own buffers")


def check_evaluation(plan: Plan, num_envs: int, episodes: int, frames: int = 0) -> None:
    """Raises PurerlError for an evaluation that cannot fit into the memory.

    Args:
      plan: of the run.
      num_envs, episodes: as in `evaluation.evaluate_agent`.
      frames: how many observations are kept, for a video.
    """
    spec = registry.env_spec(plan.env, plan.options)
    needs = {
        "the returns of its episodes": len(plan.seeds) * num_envs * episodes * 16,
        "its environments": len(plan.seeds) * num_envs * _environment_bytes(plan, spec),
        "its frames": frames * _observation_bytes(spec),
    }
    _check(needs, _limit(plan.config), "--num-envs, --episodes or --steps")


def check_frames(plan: Plan, frames: int, frame_bytes: int) -> None:
    """Raises PurerlError if the frames of a video, of that many bytes each, cannot fit into the memory."""
    _check({"its frames": frames * frame_bytes}, _limit(plan.config), "--steps")


def least_bytes(plan: Plan) -> dict[str, int]:
    """{what: bytes} that training takes at the least, without the temporaries of its programs."""
    spec = registry.env_spec(plan.env, plan.options)
    seeds, num_envs = len(plan.seeds), plan.config.num_envs
    # Lanes that take turns have one rollout on each device at a time.
    at_once = min(seeds, jax.device_count()) if lanes.resolve(plan.lanes) == "map" else seeds
    needs = {
        "its rollouts": at_once * plan.steps_per_iteration * (_observation_bytes(spec) + _STEP_BYTES),
        "its environments": seeds * num_envs * _environment_bytes(plan, spec),
    }
    if sum(needs.values()) < 2**62:
        needs["its networks and buffers"] = seeds * _agent_bytes(plan, spec)
    return needs


def _check(needs: dict[str, int], limit: int, fewer: str) -> None:
    """Raises PurerlError if what is needed does not fit, and names the largest part of it."""
    needed = sum(needs.values())
    if needed > limit:
        part = max(needs, key=lambda name: needs[name])
        raise PurerlError(
            f"this takes at least {text(needed)} of memory, {text(needs[part])} of it for {part}, and {text(limit)} "
            f"are free: lower {fewer}"
        )


def _limit(config: Any) -> int:
    """Free bytes of the devices, and of the host as well if the config keeps a buffer there."""
    kinds = configs.field_types(type(config))
    on_host = any(kind == offload.Memory and getattr(config, name) == "host" for name, kind in kinds.items())
    return free_memory() + (host_memory() if on_host and jax.default_backend() != "cpu" else 0)


def _observation_bytes(spec: EnvSpec) -> int:
    return math.prod(spec.observation_shape) * np.dtype(spec.observation_dtype).itemsize


def _environment_bytes(plan: Plan, spec: EnvSpec) -> int:
    """Of one environment: its state in the graph, or its two observations in a pool, and the inputs of the agent."""
    family, env_id = registry.environment(plan.env)
    if registry.is_host(family):
        return 2 * _observation_bytes(spec)
    state = jax.eval_shape(family.make(env_id, plan.options).reset, jax.random.key(0))
    return _bytes_of(state)


def _agent_bytes(plan: Plan, spec: EnvSpec) -> int:
    """Of the agent's State of one seed; 0 if its shapes are too large to be computed with, which the loop reports."""
    config = plan.config.replace(**dict.fromkeys(configs.traced_fields(type(plan.config)), 0.0))
    try:
        state = jax.eval_shape(
            lambda key: registry.agent(plan.agent).init(configs.traced(config), spec, key), jax.random.key(0)
        )
    except (OverflowError, MemoryError):
        return 0
    return _bytes_of(state)


def _bytes_of(tree: Any) -> int:
    """Bytes of the arrays in a tree of shapes; keys are small, and are not counted."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


# --- what is free ----------------------------------------------------------------------------------------------------


def free_memory() -> int:
    """Free bytes: on the devices if they have their own memory, otherwise on this machine."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in s for s in stats):
        return sum(s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats)
    return host_memory()


def host_memory() -> int:
    """Free bytes of this machine, or of the container that this process runs in."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for most, used, cache in _GROUPS:
        try:
            limit, current = (int(Path("/sys/fs/cgroup", name).read_text()) for name in (most, used))
            fields = dict(line.split() for line in Path("/sys/fs/cgroup", cache).read_text().splitlines())
        except (OSError, ValueError):  # no such group, or its limit is "max"
            continue
        free = min(free, max(0, limit - current + int(fields.get("inactive_file", 0))))
    return free


# --- amounts ---------------------------------------------------------------------------------------------------------


def parse_bytes(text: str) -> int:
    """Bytes of "800MB", "8GB", "8GiB" or a plain number. Raises PurerlError for anything else."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
    number = text.strip().upper().rstrip("KMGTIB ")
    unit = text.strip().upper()[len(number) :].strip()
    try:
        size = float(number) * units[unit]
    except (ValueError, KeyError):
        raise PurerlError(f"{shown(text)} is not an amount of memory: write 800MB or 8GB") from None
    if not 0 < size < math.inf:
        raise PurerlError(f"an amount of memory of {shown(text)}: it must be positive")
    return int(size)


def text(size: int) -> str:
    """An amount of memory in words."""
    for unit, name in ((1e21, "ZB"), (1e18, "EB"), (1e15, "PB"), (1e12, "TB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
