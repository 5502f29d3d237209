"""Shared checks of all host pools: sizes, actions, and the order of calls."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from purerl.errors import PurerlError
from purerl.types import EnvSpec


class PoolGuard:
    """Checks a pool's sizes, its actions and the order of its calls, so that every pool raises the same errors.

    Each group is fresh (not yet stepped), at rest, or stepping. Every method raises PurerlError if it is called in the
    wrong order.
    """

    def __init__(self, spec: EnvSpec, num_seeds: int, num_envs: int, num_groups: int):
        for name, size in (("num_seeds", num_seeds), ("num_envs", num_envs), ("num_groups", num_groups)):
            if size < 1:
                raise PurerlError(f"{name} must be at least 1, not {size}")
        if num_envs % num_groups:
            raise PurerlError(
                f"num_envs={num_envs} cannot be split into num_groups={num_groups} equal groups; "
                f"use num_groups=1 or a multiple of {num_groups} environments"
            )
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
        """Marks the pool as closed; returns whether it was still open."""
        was_open, self._closed = not self._closed, True
        return was_open

    def _check_open(self) -> None:
        if self._closed:
            raise PurerlError(f"the pool of {self._name} is closed: create a new one")

    def _check_group(self, group: int) -> None:
        self._check_open()
        if not 0 <= group < self.num_groups:
            raise PurerlError(f"{self._name} has no group {group}: its groups are 0 to {self.num_groups - 1}")


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
