"""The exception for errors that users can fix."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from typing import Any

MOST_CHARACTERS = 80  # of a user's value in a message


class PurerlError(Exception):
    """An error that the user can fix: one line that says what is wrong and names the fix.

    The command line prints this line and exits with code 2. If it is raised for bad input, nothing has been written.
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP, after everything has been saved; its text says how to continue.

    Attributes:
      signal: the signal's number. The command line exits with code 128 + signal, as shells do.
    """

    def __init__(self, text: str = "interrupted", signal: int = signal.SIGINT):
        super().__init__(text)
        self.signal = int(signal)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns " Did you mean 'x'?" for the closest of `known`, or "" if none has a similarity of at least `cutoff`."""
    known = list(known)
    if len(name) > MOST_CHARACTERS:
        return ""  # no name is that long, and the search would take seconds
    matches = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    if not matches:
        folded = {other.lower(): other for other in known}
        matches = [folded[m] for m in difflib.get_close_matches(name.lower(), folded, n=1, cutoff=cutoff)]
    return f" Did you mean '{matches[0]}'?" if matches else ""


def needs(what: str, packages: str) -> PurerlError:
    """The error for `what`, which needs packages that are not installed; pip's command names them, since purerl's
    extras need purerl itself from an index.
    """
    return PurerlError(f"{what} needs {packages}: pip install {packages}")


def shown(value: Any) -> str:
    """A value of a user for a message: its repr on one line, cut to MOST_CHARACTERS."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # such as an integer of more digits than Python converts
        text = f"a {type(value).__name__}"
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
