"""Ctrl-C, SIGTERM and SIGHUP: training saves and stops; everything else stops at once.

In a program of the user's, `deferred` sets handlers while a run trains, and puts the earlier ones back. A second signal
raises Interrupted. Signals that the program ignores or handles itself are left alone.

The command line calls `watch` first. From then on a thread waits for the signals. It can act while the main thread is
inside a compilation, where Python runs no handlers, and where a KeyboardInterrupt can be lost or crash the process.
While nothing would be lost, and at a second signal, it cleans up and ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from purerl.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"
_SECOND_REQUEST = 0.5  # seconds after the first


class Stop:
    """A request to save and stop.

    Attributes:
      signal: number of the signal that asked for it; None while nobody has asked.
      at_once: whether nothing would be lost if the process ended now. The command line ends it then.
    """

    signal: int | None = None
    at_once: bool = True

    def __init__(self) -> None:
        self._asked_at = 0.0
        # Where output goes that nobody can see once the terminal has hung up.
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def ask(self, number: int) -> None:
        """Asks with that signal."""
        self.signal, self._asked_at = number, time.monotonic()
        if number == signal.SIGHUP:  # writing to the terminal would now fail
            for stream in self._terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)

    def __bool__(self) -> bool:
        return self.signal is not None

    def is_urgent(self) -> bool:
        """Whether a signal that comes now is a second request. The command `timeout` sends each one twice at once."""
        return bool(self) and time.monotonic() - self._asked_at > _SECOND_REQUEST


_deferring: list[Stop] = []
_cleanups: list[Callable[[], Any]] = []
_watched: list[int] = []


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
    """Within the block, a signal only sets the Stop that is returned: the block looks at it, saves and ends.

    Outside the main thread of a user's program, signals are left alone.
    """
    stop = Stop()
    earlier: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        defaults = (signal.SIG_DFL, signal.default_int_handler)
        earlier = {number: signal.getsignal(number) for number in SIGNALS}
        earlier = {n: handler for n, handler in earlier.items() if n in _watched or handler in defaults}
    _deferring.append(stop)
    try:
        for number in earlier:  # a library such as Ray may have set a handler of its own since `watch`
            signal.signal(number, _noted if number in _watched else _on_signal)
        yield stop
    finally:
        _deferring.remove(stop)
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _on_signal(number: int, _: object) -> None:
    if any(stop.is_urgent() for stop in _deferring):
        raise Interrupted(signal=number)
    _ask_all(number)


def _ask_all(number: int) -> None:
    for stop in list(_deferring):
        if not stop:
            stop.ask(number)


@contextlib.contextmanager
def cleaning_up(act: Callable[[], Any]) -> Iterator[None]:
    """If a signal ends the process within the block, `act` is called first, from another thread."""
    _cleanups.append(act)
    try:
        yield
    finally:
        _cleanups.remove(act)


def watch() -> None:
    """Takes over the signals of this process, which must be in its main thread: for the command line alone."""
    taken = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # as nohup sets it
    if _watched or not taken:
        return
    _watched.extend(taken)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_wait_for_signals, args=(reading,), name="purerl-signals", daemon=True).start()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in taken:
        signal.signal(number, _noted)
    os.register_at_fork(after_in_child=_forget)


def _noted(*_: object) -> None:
    """The handler while the thread waits: Python must have one, or it would not tell the thread."""


def _forget() -> None:
    """A forked process leaves Ctrl-C to its parent and has the default behaviour for the other signals."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _noted:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


def _wait_for_signals(reading: int) -> None:
    while True:
        for number in os.read(reading, 64):
            if number not in _watched:
                continue
            if all(stop.at_once for stop in _deferring):
                _leave(number, b"interrupted")
            if any(stop.is_urgent() for stop in _deferring):
                _leave(number, b"stopped without saving; the last checkpoint is kept")
            _ask_all(number)


def _leave(number: int, why: bytes) -> None:
    """Cleans up, says one line and ends the process."""
    for act in reversed(_cleanups):
        with contextlib.suppress(Exception):
            act()
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        os.write(2, b"purerl: " + why + b"\n")
    os._exit(128 + number)
