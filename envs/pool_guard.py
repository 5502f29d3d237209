"""Shared checks of all host pools: sizes, seeds, actions, the order of calls, and the process that calls."""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from purerl.errors import PurerlError
from purerl.types import EnvSpec

INT32_MAX = 2**31 - 1  # the libraries' integers are int32

# The pools of this process, and after a fork those of its parent: see `_keep_inherited`.
_POOLS: weakref.WeakSet[Any] = weakref.WeakSet()


class PoolGuard:
    """Checks a pool's sizes, its actions and the order of its calls, so that every pool raises the same errors.

    Each group is fresh (not yet stepped), at rest, or stepping. Every method raises PurerlError if it is called in the
    wrong order, or in another process than the one that made the pool: a fork copies no threads, so a step would never
    end there.

    Args:
      pool: the pool whose calls are checked. A child process never frees what it inherits of it.
      spec: of its environments.
      num_seeds, num_envs, num_groups: its sizes.
    """

    def __init__(self, pool: Any, spec: EnvSpec, num_seeds: int, num_envs: int, num_groups: int):
        for name, size in (("num_seeds", num_seeds), ("num_envs", num_envs), ("num_groups", num_groups)):
            if type(size) is not int:
                raise PurerlError(f"{name} must be an integer, not {size!r}")
            if size < 1:
                raise PurerlError(f"{name} must be at least 1, not {size}")
        if num_envs % num_groups:
            raise PurerlError(
                f"num_envs={num_envs} cannot be split into num_groups={num_groups} equal groups; "
                f"use num_groups=1 or a multiple of {num_groups} environments"
            )
        _check_memory(spec, num_seeds, num_envs)
        self._process, self._this_process = (
            os.getpid(),
            os.getpid,
        )  # kept, since `close` may come after this module's end
        _POOLS.add(pool)
        self.num_groups = num_groups
        self.group_size = num_envs // num_groups
        self._shape = (num_seeds, self.group_size, *spec.action_shape)
        self._num_actions = spec.num_actions
        self._dtype = np.dtype(np.int32 if spec.num_actions else np.float32)
        self._name = spec.name
        self._fresh = [True] * num_groups
        self._stepping = [False] * num_groups
        self._closed = False

    def reset(self, group: int) -> None:
        """Checks a request for a group's first observations."""
        self._check_group(group)
        if not self._fresh[group]:
            raise PurerlError(
                f"group {group} of {self._name} has been stepped: reset only gives the first observations, and "
                "environments reset themselves at an episode's end; create a new pool to start again"
            )

    def send(self, group: int, actions: Any) -> np.ndarray:
        """Checks the start of a group's step; returns `actions` [S, N / G, ...] as a checked numpy array."""
        self._check_group(group)
        if self._stepping[group]:
            raise PurerlError(f"group {group} of {self._name} is already stepping: call recv({group}) before send")
        actions = np.asarray(actions)
        if actions.shape != self._shape:
            raise PurerlError(
                f"actions of {self._name} must have the shape {self._shape} = [seeds, environments of a group, ...], "
                f"not {actions.shape}"
            )
        if actions.dtype != self._dtype:
            raise PurerlError(
                f"actions of {self._name} must be {self._dtype}, not {actions.dtype}: "
                f"pass actions.astype('{self._dtype}')"
            )
        if self._num_actions and not 0 <= actions.min() <= actions.max() < self._num_actions:
            raise PurerlError(
                f"actions of {self._name} must lie in [0, {self._num_actions}), "
                f"not in [{actions.min()}, {actions.max()}]"
            )
        if not self._num_actions and not np.isfinite(actions).all():
            raise PurerlError(f"actions of {self._name} hold NaN or infinity, as those of a diverged network do")
        self._fresh[group] = False
        self._stepping[group] = True
        return actions

    def recv(self, group: int) -> None:
        """Checks that a group is stepping, and marks it as at rest."""
        self._check_group(group)
        if not self._stepping[group]:
            raise PurerlError(f"group {group} of {self._name} is not stepping: call send({group}, actions) before recv")
        self._stepping[group] = False

    def rest(self, what: str, group: int | None = None) -> None:
        """Checks that a group, or every group if None, is at rest before the call `what`."""
        self._check_open() if group is None else self._check_group(group)
        for waiting in range(self.num_groups) if group is None else [group]:
            if self._stepping[waiting]:
                raise PurerlError(f"group {waiting} of {self._name} is stepping: call recv({waiting}) before {what}")

    def rewind(self) -> None:
        """Marks all groups as fresh, after a restored state."""
        self._fresh = [True] * self.num_groups

    def close(self) -> bool:
        """Marks the pool as closed; returns whether there is something to free: never in a child process."""
        was_open, self._closed = not self._closed, True
        return was_open and self._process == self._this_process()

    def __reduce__(self) -> Any:
        raise PurerlError(f"the pool of {self._name} cannot be copied or sent to another process: create it there")

    def _check_open(self) -> None:
        if self._process != os.getpid():
            raise PurerlError(
                f"the pool of {self._name} belongs to process {self._process}, of which this is a fork without its "
                "threads: start processes with multiprocessing's 'spawn', and create the pool there"
            )
        if self._closed:
            raise PurerlError(f"the pool of {self._name} is closed: create a new one")

    def _check_group(self, group: int) -> None:
        self._check_open()
        if not 0 <= group < self.num_groups:
            raise PurerlError(f"{self._name} has no group {group}: its groups are 0 to {self.num_groups - 1}")


def checked_seeds(seeds: Sequence[Any]) -> list[int]:
    """The seeds as Python integers. Raises PurerlError for any that is not an integer in [0, 2**31)."""
    return [whole("every seed", seed.item() if isinstance(seed, np.generic) else seed) for seed in seeds]


def whole(name: str, value: Any, least: int = 0, most: int = INT32_MAX) -> int:
    """Returns `value` if it is a Python integer in [least, most]; else raises PurerlError that names it `name`."""
    if type(value) is not int or not least <= value <= most:
        raise PurerlError(f"{name} must be an integer in [{least}, {most}], not {value!r}")
    return value


def _check_memory(spec: EnvSpec, num_seeds: int, num_envs: int) -> None:
    """Raises PurerlError if one observation of each environment is larger than the machine's memory."""
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = num_seeds * num_envs * math.prod(spec.observation_shape) * np.dtype(spec.observation_dtype).itemsize
    if size > memory:
        raise PurerlError(
            f"one observation of {num_seeds} x {num_envs} environments of {spec.name} takes {size / 1e9:,.0f} GB, and "
            f"this machine has {memory / 1e9:,.0f} GB: lower num_envs"
        )


def _keep_inherited() -> None:
    """Makes the parent's pools immortal in a child process.

    To free them there would wait for threads that exist only in the parent. A list of them would be cleared at the
    child's end, so their reference counts are raised.
    """
    for pool in _POOLS:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(pool))


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork either
    os.register_at_fork(after_in_child=_keep_inherited)


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
