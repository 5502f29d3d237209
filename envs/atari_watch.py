"""Ends a wait for an Atari step that would never end.

If a worker thread of ale-py's vector environment throws, it keeps the exception for `recv`, but never counts the game's
result. `recv` first waits for all results, so it waits for ever, in C++, where not even Ctrl-C reaches it. Sending
another step supplies the missing results, and `recv` then raises the exception.
"""

from __future__ import annotations

import os
import threading
from typing import Any, NamedTuple

import numpy as np

_TASKS = "/proc/self/task"
_LOOKS = 5  # in a row that find every thread asleep, before a wait counts as dead
_BLIND_LOOKS = 300  # the same where threads cannot be observed (there is no /proc)


class Wait(NamedTuple):
    """A `recv` in progress.

    Attributes:
      games: the vector environment.
      threads: its workers and the thread that waits, as `thread_ids` names them; empty if they are not known.
    """

    games: Any
    threads: frozenset[str]


class Watch:
    """A thread that looks at a pool's waiting `recv` now and then, and wakes it if its workers have all gone to sleep.

    Setting `wait` before a `recv`, and None after it, is all that a step pays for it.

    Args:
      seconds: between two looks.

    Attributes:
      wait: the `recv` in progress, if any.
    """

    def __init__(self, seconds: float = 1.0):
        self.wait: Wait | None = None
        self._seconds = seconds
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="purerl-atari-watch", daemon=True).start()

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()

    def _run(self) -> None:
        last_wait, last_times, looks = None, None, 0
        while not self._closed.wait(self._seconds):
            wait = self.wait
            times = _times_asleep(wait.threads) if wait else None
            unchanged = times is not None and wait is last_wait and times == last_times
            looks = looks + 1 if unchanged else 0
            last_wait, last_times = wait, times
            if wait and looks == (_LOOKS if times else _BLIND_LOOKS):
                wait.games.send(np.zeros(wait.games.num_envs, np.int32))


def thread_ids() -> set[str]:
    """The threads of this process; empty where the system does not list them."""
    try:
        return set(os.listdir(_TASKS))
    except OSError:
        return set()


def _times_asleep(threads: frozenset[str]) -> list[str] | None:
    """The processor times of the threads if all of them sleep, else None; empty if they cannot be observed."""
    times = []
    for thread in sorted(threads):
        try:
            with open(f"{_TASKS}/{thread}/stat") as file:
                state, *numbers = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if state != "S":
            return None
        times.append(f"{thread}: {numbers[10]} + {numbers[11]}")  # ticks in user and in system mode
    return times
