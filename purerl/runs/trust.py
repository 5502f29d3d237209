"""Checks of a folder that somebody else may have made, before anything in it is read or written.

docs/security.md says what is trusted and what is not. A run folder may itself be a link, or lie below one. What is
refused is a link inside of it that leads out of it, and anything that is neither a file nor a folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from purerl.errors import PurerlError
from purerl.runs import files


def check_folder(folder: str | os.PathLike, names: Iterable[str], shallow: Iterable[str] = ()) -> None:
    """Checks what stands under `names` in a folder, with everything below, and the hidden files beside it.

    Args:
      folder: it need not exist.
      names: the files and folders that purerl reads or writes there; others are not looked at.
      shallow: those of them whose inner folders are checked on their own, when they are opened.

    Raises PurerlError, which names the path, for a link that leads out of the folder, and for a device, a pipe or a
    socket.
    """
    with files.reading(folder):
        root = os.path.realpath(folder)
        hidden = [entry for entry in _list(root) if os.path.basename(entry).startswith(".")]
        for path in hidden:
            _check(path, root, folder)
        for name in names:
            for path in _tree(os.path.join(root, name), deep=name not in shallow):
                _check(path, root, folder)


def _list(folder: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # what cannot be looked at cannot be used either
        return []


def _tree(path: str, deep: bool) -> Iterator[str]:
    """A path and what lies below it. A path comes before its contents: a bad link is found before it is followed."""
    yield path
    waiting, seen = [path], set()
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in seen or not os.path.isdir(real):
            continue
        seen.add(real)
        for inner in _list(real):
            yield inner
            if deep:
                waiting.append(inner)


def _check(path: str, root: str, folder: str | os.PathLike) -> None:
    try:
        mode = os.lstat(path).st_mode
        shown = os.path.join(folder, os.path.relpath(path, root))
        if stat.S_ISLNK(mode):
            target = os.path.realpath(path)
            if not is_inside(target, root):
                raise PurerlError(
                    f"{shown} is a link that leads out of the folder, to {target}: remove it, or put a copy there"
                )
            mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # removed in the meantime, or not there yet
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise PurerlError(f"{shown} is {files.kind_of(mode)}, not a file or a folder: remove it")


def is_inside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Whether a path lies in a folder (or is it), with all links followed."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, root]) == root


def member_folder(program: Path, name: str, allowed: Iterable[Path]) -> Path:
    """The run folder of a cell that a program.json names.

    Args:
      program: the folder of the program.
      name: the cell's folder, relative to it.
      allowed: folders that may contain it, or be it.

    Raises PurerlError if it lies in none of them.
    """
    path = Path(os.path.normpath(program / name))
    if os.path.isabs(name) or not any(is_inside(path, one) for one in allowed):
        raise PurerlError(
            f"{program / 'program.json'} names the folder {path}, which is not one of its own: remove {program}, and "
            "the cells begin again"
        )
    return path


def file_name(name: str) -> bool:
    """Whether a name in an index is that of a file below its folder: no absolute path, and no "..", "." or ""."""
    return "\0" not in name and "\\" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


# --- code ------------------------------------------------------------------------------------------------------------

# A run's config.json has these keys, and a sweep's and a challenge's records these.
_RECORDS = {
    "config.json": ("agent", "env", "seeds"),
    "sweep.json": ("agent", "env", "cells"),
    "challenge.json": ("agent", "track", "games"),
}


def check_code(path: str | os.PathLike, folder: Path | None = None) -> None:
    """Raises PurerlError if a Python file, which a run's record names, came with a run: its folder could be anybody's.

    Files elsewhere were on this machine before, so the user has put them there.

    Args:
      path: of the file.
      folder: of the record, if it is not a run's or a sweep's (which are found by their own records).
    """
    if not os.path.isabs(path):
        raise PurerlError(f"this run needs the Python file {path}, and does not say where it is: add --import FILE")
    inside = [folder] if folder is not None and is_inside(path, folder) else []
    parents = Path(os.path.realpath(path)).parents
    inside += [one for one in parents if any(_is_record(one / name, keys) for name, keys in _RECORDS.items())]
    if inside:
        raise PurerlError(
            f"this run would import {path}, which came with the run in {inside[0]}: read that file, and if you trust "
            f"it, add --import {path}"
        )


def _is_record(path: Path, keys: Iterable[str]) -> bool:
    """Whether a file is the record of a run or a sweep."""
    try:
        found = files.read_json(path)
    except PurerlError:
        return False
    return isinstance(found, dict) and all(key in found for key in keys)
