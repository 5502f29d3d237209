"""The command `purerl list runs`: the runs and sweeps under a folder, best first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from purerl.cli import flags
from purerl.cli.flags import Group, flag
from purerl.errors import PurerlError

if TYPE_CHECKING:
    from purerl.report.overview import Entry

DEFAULT = "runs"
MOST_NAMED = 5  # of the folders that are not purerl's
# Columns of text into a pipe do not wrap.
PIPE_WIDTH = 1_000


@dataclasses.dataclass
class ListRunsFlags:
    """Flags of `purerl list runs`."""

    sort: Literal["final", "best", "name", "agent", "status", "steps", "newest"] = flag(
        "final", "the order within an environment: best first, by name, or newest first"
    )


def _number(value: float | None) -> float:
    return -math.inf if value is None else value


# Keys that sort entries; numbers are negative, so that the highest comes first.
_KEYS: dict[str, Callable[[Entry], Any]] = {
    "final": lambda entry: (-_number(entry.final), -_number(entry.best)),
    "best": lambda entry: -_number(entry.best),
    "name": lambda entry: str(entry.path),
    "agent": lambda entry: (entry.agent, entry.preset, -_number(entry.final)),
    "status": lambda entry: (entry.status, -_number(entry.final)),
    "steps": lambda entry: -_number(entry.done),
    "newest": lambda entry: -entry.changed,
}


def main(words: list[str]) -> int:
    """Runs `purerl list runs` with these words after it."""
    about = (
        f"Lists the runs and sweeps under a folder (default: {DEFAULT}), or the cells of a sweep, best first within "
        "each environment."
    )
    group, command = Group(ListRunsFlags, ListRunsFlags()), "purerl list runs"
    found, rest = flags.positionals(words, ("[DIR]",), [group], command)
    (given,) = flags.parse([group], rest, f"{command} [DIR]", about)
    folder = Path(found[0] if found else DEFAULT)
    if not found and not folder.is_dir():
        raise PurerlError(f"there is no folder {folder} here: name the folder of your runs, {command} DIR")
    from purerl.report import overview

    listed, others, damaged = overview.entries(folder)
    if not listed:
        print(f"no run in {folder}")
    _print(sorted(listed, key=_KEYS[given.get("sort", ListRunsFlags().sort)]), folder)
    if others:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        print(f"neither run nor sweep: {', '.join(_visible(path.name) for path in others[:MOST_NAMED])}{more}")
    for path, why in damaged.items():
        print(f"left out: {_visible(_name(path, folder))}: {_visible(' '.join(why.split()))}")
    return 0


def _print(listed: Sequence[Entry], folder: Path) -> None:
    """Prints a table for each environment."""
    if not listed:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    for env in sorted({entry.env for entry in listed}):
        mine = [entry for entry in listed if entry.env == env]
        table = Table(title=Text(_visible(env)), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("name", "agent", "preset", "status"):
            table.add_column(name, overflow="fold")
        for name in ("steps", "final", "best", "seeds"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("what differs", overflow="fold")
        for entry in mine:
            table.add_row(*(Text(_visible(text)) for text in _row(entry, folder)))
        console.print(table)
        console.print()
    console.print(
        "final: IQM over seeds of the mean return in the last tenth of the steps done; best: in the best tenth."
        " Of a sweep: its best setting."
    )


def _row(entry: Entry, folder: Path) -> list[str]:
    steps = "-" if entry.done is None else f"{entry.done:,.0f}"
    if entry.planned is not None and entry.done is not None and entry.done < entry.planned:
        steps += f" of {entry.planned:,.0f}"
    returns = ["-" if value is None else f"{value:.4g}" for value in (entry.final, entry.best)]
    name = _name(entry.path, folder)
    return [name, entry.agent, entry.preset, entry.status, steps, *returns, str(entry.seeds), entry.differs]


def _name(path: Path, folder: Path) -> str:
    """A folder's path below the listed one; its own name if it is the same."""
    return path.resolve().name if path == folder else path.relative_to(folder).as_posix()


def _visible(text: str) -> str:
    """A text from a file without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)
