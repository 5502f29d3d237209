"""Measures how the memory of Procgen's games grows while they are played: of the library alone, and of a pool."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from purerl.envs import procgen
from purerl.envs.pool_guard import usable_cores
from purerl.errors import PurerlError

GAMES = ("coinrun", "starpilot", "bigfish", "maze")
NUM_ENVS, NUM_GROUPS, ROWS, STEPS_PER_ROW = 8, 2, 8, 40_000
_OPTIONS = procgen.Options()  # hard mode, whose games have the most pictures


def procgen_memory() -> dict[str, Any]:
    """8 hard games of coinrun, starpilot, bigfish and maze, 320,000 steps of random actions, each in a new process.

    Each game of the library keeps a mirrored copy of every picture that it has used, for as long as it exists. So its
    memory grows until each game has used all of its pictures, which takes few steps if there are few games.

    Returns {game: {"library" or "pool": {"resident_mb": [9], "allocated_mb": [9]}}} and the setting: the process's
    memory at the start and after every 40,000 steps of all games together. Allocated is what malloc has handed out
    (glibc's mallinfo2): unlike resident memory, it does not count what has been freed and kept.
    """
    if not sys.platform.startswith("linux"):
        raise PurerlError("purerl bench memory reads /proc and glibc's statistics: run it on Linux")
    result: dict[str, Any] = {"num_envs": NUM_ENVS, "steps_per_row": STEPS_PER_ROW, "mode": _OPTIONS.distribution_mode}
    for game in GAMES:
        result[game] = {}
        for player in _PLAYERS:
            command = [sys.executable, "-m", __name__, game, player]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
            if done.returncode:
                raise PurerlError(f"{game} could not be measured: {done.stderr.strip().splitlines()[-1]}")
            result[game][player] = json.loads(done.stdout.splitlines()[-1])
    return result


def _library(game: str) -> Callable[[np.ndarray], None]:
    """Steps all games once with actions [N], by the library's own calls."""
    buffers = procgen.Buffers.empty((NUM_ENVS,))
    games = procgen.Games(game, _OPTIONS, 0, usable_cores(), buffers)

    def step(actions: np.ndarray) -> None:
        np.copyto(buffers.action, actions)
        games.act()
        games.observe()

    games.observe()
    return step


def _pool(game: str) -> Callable[[np.ndarray], None]:
    """Steps all games once with actions [N], group by group."""
    pool = procgen.make_pool(game, _OPTIONS, [0], NUM_ENVS, NUM_GROUPS)

    def step(actions: np.ndarray) -> None:
        for group, part in enumerate(np.split(actions[None], NUM_GROUPS, axis=1)):
            pool.send(group, part)
        for group in range(NUM_GROUPS):
            pool.recv(group)

    return step


_PLAYERS = {"library": _library, "pool": _pool}


def _rows(step: Callable[[np.ndarray], None]) -> dict[str, list[float]]:
    """Memory at the start, and after every STEPS_PER_ROW steps of all games together."""
    actions = np.random.default_rng(0)
    rows = [_memory()]
    for _ in range(ROWS):
        for _ in range(STEPS_PER_ROW // NUM_ENVS):
            step(actions.integers(0, 15, NUM_ENVS, dtype=np.int32))
        rows.append(_memory())
    return {name: [row[name] for row in rows] for name in rows[0]}


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def _memory() -> dict[str, float]:
    """{"resident_mb", "allocated_mb"} of this process."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Mallinfo
    found = libc.mallinfo2()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    allocated = found.uordblks + found.hblkhd  # small blocks, and those that are mapped one by one
    return {"resident_mb": round(resident / 1e6, 1), "allocated_mb": round(allocated / 1e6, 1)}


if __name__ == "__main__":
    print(json.dumps(_rows(_PLAYERS[sys.argv[2]](sys.argv[1]))))
