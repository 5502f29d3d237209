"""Which files purerl may delete: those that it writes itself, and only in folders that it has marked.

    purerl.json     {"purerl": "run", "format": 1}: the marker of a folder, with its kind

`remove` deletes files under the names that purerl gives them. Everything else in the folder stays, and is returned.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from purerl.errors import PurerlError
from purerl.runs import files, lock

MARKER, FORMAT = "purerl.json", 1
RUN, SWEEP, PROGRAM, FIGURES, CHALLENGE = "run", "sweep", "program", "figures", "challenge"
# The files of each kind of folder. A folder's record, which says what it holds, is deleted last.
_RECORD = {RUN: "config.json", SWEEP: "sweep.json", PROGRAM: "program.json", CHALLENGE: "challenge.json"}
_FILES = {
    RUN: (
        *("metrics.jsonl", "summary.json", "eval.json", "report.html"),
        *("figures/return.png", "figures/video.gif", "figures/video.mp4"),
        "tensorboard/seed_*/events.out.tfevents.*",
    ),
    SWEEP: ("table.csv", "ranking.csv", "pruned.csv", "report.html", "figures/sweep.png", "figures/return.png"),
    PROGRAM: (),
    CHALLENGE: ("score.json",),
}
_FOLDERS = {
    RUN: ("tensorboard/seed_*", "tensorboard", "figures", "checkpoints", "best"),
    SWEEP: ("cells", "programs", "figures"),
    PROGRAM: ("checkpoints",),
    CHALLENGE: ("cells", "programs"),
}
# Folders of the kind on the right are inside those on the left.
_CELLS = (("cells/*", RUN), ("programs/*", PROGRAM))
_INSIDE = {SWEEP: _CELLS, CHALLENGE: _CELLS}
# Figures of a run with such a name are its own: videos during training, with their step.
_VIDEO = re.compile(r"video-([0-9]+)\.gif")
_SHOWN = 5


# --- the marker ------------------------------------------------------------------------------------------------------


def mark(folder: Path, kind: str, **more: Any) -> None:
    """Writes the marker of a folder. Raises PurerlError on a full disk or without permission."""
    files.write_json(folder / MARKER, {"purerl": kind, "format": FORMAT, **more})


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a folder, or None for a folder without one.

    Raises PurerlError if a file with the marker's name was not written by purerl, or by a later version.
    """
    path = folder / MARKER
    if not os.path.lexists(path):
        return None
    found = files.read_json(path)
    if not isinstance(found, dict) or found.get("purerl") not in (RUN, SWEEP, PROGRAM, FIGURES, CHALLENGE):
        raise PurerlError(f"{path} was not written by purerl; choose another folder (--out)")
    if found.get("format") != FORMAT:
        raise PurerlError(f"{path} is of format {found.get('format')}, not {FORMAT}: use the purerl that wrote it")
    return found


def is_marked(folder: Path, kind: str) -> bool:
    """Whether the folder has a marker of that kind. Raises PurerlError as `read_marker`."""
    found = read_marker(folder)
    return found is not None and found["purerl"] == kind


def holds(folder: Path, kind: str) -> bool:
    """Whether the record of a folder of that kind (config.json, ...) is in it, as is or without a marker."""
    with files.reading(folder):
        return (folder / _RECORD[kind]).is_file()


def check(folder: Path, kind: str, names: Iterable[str]) -> None:
    """Raises PurerlError for a folder that must not be overwritten: it has no marker of that kind, or one of `names` in
    it is a link, which purerl does not make.
    """
    if not is_marked(folder, kind):
        raise PurerlError(
            f"{folder} has no {MARKER} that says that purerl wrote it: remove it yourself, or choose another --out"
        )
    for name in names:
        if (folder / name).is_symlink():
            raise PurerlError(f"{folder / name} is a link, not purerl's own: remove it, or choose another --out")


def videos_of_training(figures: Path) -> dict[int, Path]:
    """{step: video} of those that a run has made in its folder of figures while it trained, in the order of steps."""
    found = {path: _VIDEO.fullmatch(path.name) for path in figures.glob("video-*.gif")}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


# --- removing --------------------------------------------------------------------------------------------------------


def remove(folder: Path, kind: str, keep_record: bool = False) -> list[Path]:
    """Deletes what purerl wrote into a marked folder; returns what stays, because purerl did not write it.

    The marker and the record (config.json, ...) are deleted last, so that a kill leaves a folder that still counts as
    purerl's. Folders that become empty are removed. Links are not followed.

    Args:
      folder: the folder.
      kind: RUN, SWEEP, PROGRAM or CHALLENGE.
      keep_record: whether the record, the marker and the folder itself stay, to be replaced by the caller.

    Raises:
      PurerlError: the folder has no marker of that kind; nothing is deleted then.
    """
    check(folder, kind, ())
    with files.writing(folder):
        for pattern, inner in _INSIDE.get(kind, ()):
            for path in folder.glob(pattern):
                if path.is_dir() and not path.is_symlink() and is_marked(path, inner):
                    remove(path, inner)
        for name in ("checkpoints", "best"):
            _remove_checkpoints(folder / name)
        for path in (one for pattern in _files_of(folder, kind) for one in folder.glob(pattern)):
            if (path.is_symlink() or path.is_file()) and _is_inside(path, folder):
                path.unlink()
        for temporary in folder.glob(".*.purerl-tmp"):  # of a process that was killed while it wrote
            temporary.unlink()
        _remove_empty(path for pattern in _FOLDERS[kind] for path in folder.glob(pattern))
        stays = _others(folder, kind)
        if not keep_record:
            (folder / _RECORD[kind]).unlink(missing_ok=True)
            (folder / MARKER).unlink()
            _remove_empty([folder])
    return stays


def _others(folder: Path, kind: str) -> list[Path]:
    """What else is in a folder, and in those folders in it that purerl makes."""
    ours = {path for pattern in _FOLDERS[kind] for path in folder.glob(pattern) if not path.is_symlink()}
    found = [path for parent in (folder, *ours) for path in parent.iterdir() if path not in ours]
    return sorted(path for path in found if path.name not in (_RECORD[kind], MARKER, lock.NAME))


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is there without a link on the way."""
    return not any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(folder) and parent != folder)


def name_the_rest(folder: Path, stays: list[Path]) -> str:
    """One line about the files that `remove` left in a folder."""
    shown = ", ".join(str(path.relative_to(folder)) for path in stays[:_SHOWN])
    more = f" and {len(stays) - _SHOWN} more" if len(stays) > _SHOWN else ""
    return f"kept in {folder}, because purerl did not write it: {shown}{more}"


def _files_of(folder: Path, kind: str) -> list[str]:
    """The patterns of a folder's files. `purerl plot --y NAME` names its figure after a metric, and videos during
    training have the step in their name.
    """
    patterns = list(_FILES[kind])
    if kind == RUN:
        patterns += [f"figures/{path.name}" for path in videos_of_training(folder / "figures").values()]
    with (
        contextlib.suppress(OSError, PurerlError, ValueError, TypeError, AttributeError),
        open(folder / "metrics.jsonl", "rb") as rows,
    ):
        row = files.parse_json(rows.readline(), "the first row")
        patterns += [f"figures/{name}.png" for name in row if name.isidentifier()]
    return patterns


def _remove_checkpoints(folder: Path) -> None:
    from purerl.runs import checkpoint  # imports jax, which a report does without

    if not folder.is_dir() or folder.is_symlink():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and checkpoint.is_checkpoint(path):
            shutil.rmtree(path)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes those folders that are empty, in this order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
