"""Finds the runs and sweeps under a folder. Nothing here reads more than their records."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from purerl.errors import PurerlError
from purerl.runs import files, run_folder, trust

SWEEP, CELLS = "sweep.json", "cells"  # the record of a sweep, and the folder of its runs
# How deep, and how far, a folder that may be anybody's is searched.
MOST_LEVELS, MOST_FOLDERS = 5, 20_000


@dataclasses.dataclass(frozen=True)
class Found:
    """What is under a folder; links to folders are not followed.

    Attributes:
      runs: run folders that are not part of a sweep.
      sweeps: sweep folders.
      others: folders directly below that hold neither.
    """

    runs: list[Path]
    sweeps: list[Path]
    others: list[Path]

    @property
    def all_runs(self) -> list[Path]:
        """The runs, and the cells of the sweeps that have begun."""
        return [*self.runs, *(cell for sweep in self.sweeps for cell in cells(sweep))]


def find(folder: str | os.PathLike) -> Found:
    """The runs and sweeps under a folder, or the folder itself if it is one.

    Raises:
      PurerlError: there is no such folder, or it has too many folders.
    """
    folder = Path(folder)
    with files.reading(folder):
        if not folder.is_dir():
            raise PurerlError(f"there is no folder {folder}: name the folder of your runs (they are made in runs/)")
    found, left = Found([], [], []), [MOST_FOLDERS]
    if not _collect(folder, found, MOST_LEVELS, left):
        return found
    known = {path for one in (*found.runs, *found.sweeps) for path in (one, *one.parents)}
    found.others.extend(path for path in _folders(folder) if path not in known)
    return found


def _collect(folder: Path, found: Found, levels: int, left: list[int]) -> bool:
    """Adds what a folder is, or what is below it; returns whether it is neither a run nor a sweep itself."""
    left[0] -= 1
    if left[0] < 0:
        raise PurerlError(f"there are more than {MOST_FOLDERS:,} folders: name one that holds only runs")
    for name, folders in ((SWEEP, found.sweeps), (run_folder.CONFIG, found.runs)):
        with contextlib.suppress(OSError):  # a folder that cannot be looked into is neither
            if (folder / name).is_file():
                folders.append(folder)
                return False
    for inner in _folders(folder) if levels else ():
        _collect(inner, found, levels - 1, left)
    return True


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden; none if it cannot be read."""
    try:
        found = [Path(one.path) for one in os.scandir(folder) if one.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(path for path in found if not path.name.startswith("."))


def is_sweep(folder: str | os.PathLike) -> bool:
    """Whether a sweep's record is in the folder."""
    with files.reading(folder):
        return (Path(folder) / SWEEP).is_file()


def cells(sweep: str | os.PathLike) -> list[Path]:
    """The run folders of a sweep's cells that have begun, in order.

    Raises PurerlError for links that lead out of the sweep's folder.
    """
    sweep = Path(sweep)
    trust.check_folder(sweep, [SWEEP, CELLS], shallow=[CELLS])
    return [path for path in _folders(sweep / CELLS) if (path / run_folder.CONFIG).is_file()]


def expand(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """Run folders as they are, and the cells of sweep folders in their place.

    Raises PurerlError for a sweep without a cell that has begun.
    """
    found: list[Path] = []
    for folder in folders:
        inner = cells(folder) if is_sweep(folder) else [Path(folder)]
        if not inner:
            raise PurerlError(f"no run of the sweep in {folder} has begun yet: train it for a while")
        found += inner
    return found
