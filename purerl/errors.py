"""The one exception that users are meant to see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PurerlError(Exception):
    """A problem the user can mend: one line that says what is wrong and names the fix.

    The command line prints the line and exits with code 2; nothing has been written when it is raised for bad input.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the closest of `known`, or "" when nothing is close."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not matches:
        folded = {other.lower(): other for other in known}
        matches = [folded[m] for m in difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)]
    return f" Did you mean '{matches[0]}'?" if matches else ""
