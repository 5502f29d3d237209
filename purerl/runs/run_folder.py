"""The run folder: its files, and the checks before writing into it.

    purerl.json     the marker: purerl wrote this folder, and may delete its own files in it (see ownership)
    config.json     the whole config and environment_report(), written before anything else
    metrics.jsonl   one row per log period and seed (see sinks)
    summary.json    written at the end
    eval.json       written by `purerl eval`
    checkpoints/    figures/    tensorboard/
    best/           with --keep-best (see best)
    .purerl-lock    while a process writes into the folder (see lock)

Every file is written under a temporary name and then renamed, so that a kill or a full disk leaves the old file or the
new one, never a partial file. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from purerl.errors import PurerlError, nearest
from purerl.runs import files, interrupts, lock, ownership, trust

CONFIG, METRICS, SUMMARY, EVALUATION = "config.json", "metrics.jsonl", "summary.json", "eval.json"
ADAPTATION = "adapt.json"
CHECKPOINTS, FIGURES, TENSORBOARD, REPORT = "checkpoints", "figures", "tensorboard", "report.html"
BEST = "best"
# The names that purerl uses in a run folder. If one of them exists without a config.json, it belongs to somebody else.
OWNED = (CONFIG, METRICS, SUMMARY, EVALUATION, ADAPTATION, CHECKPOINTS, BEST, FIGURES, TENSORBOARD, REPORT)
# A config.json without these keys is not purerl's (many tools use that file name).
REQUIRED_KEYS = ("agent", "env", "seeds")


# --- the folder ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(folder: str | os.PathLike) -> Iterator[Path]:
    """Holds a folder for this process within the block, and creates it first if it is missing.

    Folders that were created here are removed again if they are empty at the end, also if a signal ends the process.

    Raises PurerlError if another process writes into the folder, on a full disk, or without permission.
    """
    folder = Path(folder)
    with files.writing(folder):
        made = _make_folders(folder)

    def remove_empty() -> None:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()

    try:
        with interrupts.cleaning_up(remove_empty), lock.hold(folder):
            yield folder
    finally:
        remove_empty()


@contextlib.contextmanager
def undone_if_nothing_is_learned(folder: Path, kind: str, has_rows: Callable[[], bool]) -> Iterator[None]:
    """Removes a new folder's files again if the block fails, or if a signal ends the process, before the first row of
    metrics: nothing is lost then, and the same command works again.
    """

    def undo() -> None:
        if ownership.is_marked(folder, kind) and not has_rows():
            ownership.remove(folder, kind)

    try:
        with interrupts.cleaning_up(undo):
            yield
    except BaseException:
        with contextlib.suppress(PurerlError, OSError):
            undo()
        raise


def has_rows(folder: Path) -> bool:
    """Whether a run has written metrics."""
    path = folder / METRICS
    return path.is_file() and path.stat().st_size > 0


def create(folder: str | os.PathLike, config: dict, resume: bool = False, overwrite: bool = False) -> Path:
    """Creates the folder of a run, with its marker and its config.json, and returns it.

    With `resume`, the folder must already hold a run, and nothing is changed. With `overwrite`, purerl's own files of
    the old run are removed first; the others stay, and a line on stderr names them. Otherwise a folder that holds a run
    is an error. After an error, folders that were created here are removed.

    Raises:
      PurerlError: one of the above, existing files that are not purerl's, a full disk, no permission.
      TypeError: config contains a value that JSON cannot hold (nothing is written then).
    """
    folder = Path(folder)
    with files.writing(folder):
        found = check(folder, resume, overwrite)
        if resume:
            return folder
        files.to_json(config)  # fails before anything is removed or written
        made = _make_folders(folder)
        try:
            if found:
                stays = ownership.remove(folder, ownership.RUN, keep_record=True)
                if stays:
                    print(f"purerl: {ownership.name_the_rest(folder, stays)}", file=sys.stderr)
            else:
                ownership.mark(folder, ownership.RUN)
            files.write_json(folder / CONFIG, config)
        except BaseException:
            if not found:
                with contextlib.suppress(OSError):
                    (folder / ownership.MARKER).unlink(missing_ok=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise
    return folder


def check(folder: str | os.PathLike, resume: bool = False, overwrite: bool = False) -> bool:
    """Whether the folder holds a run. Raises PurerlError if that conflicts with `resume` and `overwrite`."""
    if resume and overwrite:
        raise PurerlError("--resume continues a run and --overwrite deletes it: choose one of them")
    folder = Path(folder)
    found = holds_run(folder)
    if resume and not found:
        raise PurerlError(f"there is no run to resume in {folder}{_instead(folder)}; leave out --resume to start one")
    if found and not resume and not overwrite:
        raise PurerlError(
            f"{folder} already holds a run: --resume continues it, --overwrite deletes it, another --out keeps it"
        )
    if found and overwrite:
        ownership.check(folder, ownership.RUN, OWNED)
    return found


def _instead(folder: Path) -> str:
    """The run beside a folder whose name is nearest, for a message: default names contain the settings."""
    with files.reading(folder.parent):
        there = [path.parent.name for path in folder.parent.glob(f"*/{CONFIG}")]
    return nearest(folder.name, there).replace(" Did you mean '", " (or was it '", 1).replace("'?", "'?)", 1)


def holds_run(folder: str | os.PathLike) -> bool:
    """Whether a run's config.json is in the folder (which need not exist).

    Raises PurerlError if a file has one of purerl's names but was not written by purerl. It would otherwise be mixed
    with a run's files, or deleted by a later --overwrite.
    """
    folder = Path(folder)
    trust.check_folder(folder, OWNED)
    path = folder / CONFIG
    if path.is_file():
        if not _is_config(files.read_json(path)):
            raise PurerlError(f"{path} was not written by purerl; choose another folder (--out)")
        return True
    other = ownership.read_marker(folder) if folder.is_dir() else None
    if other is not None and other["purerl"] != ownership.RUN:
        raise PurerlError(f"{folder} holds a {other['purerl']} of purerl, not a run; choose another folder (--out)")
    foreign = [name for name in OWNED if os.path.lexists(folder / name)]
    if foreign:
        raise PurerlError(f"{folder} is not a run, but has its own '{foreign[0]}'; choose another folder (--out)")
    return False


def load(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads a run folder: {"config": dict, "summary": dict, or None if the run is not finished}.

    Raises PurerlError for a folder that does not exist or holds no run, and for damaged files.
    """
    folder = Path(folder)
    trust.check_folder(folder, OWNED)
    with files.reading(folder):
        if not folder.is_dir():
            there = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
            raise PurerlError(f"there is no run folder {folder}.{nearest(folder.name, there)}")
        if not (folder / CONFIG).is_file():
            inside = sorted([*folder.glob(f"*/{CONFIG}"), *folder.glob(f"cells/*/{CONFIG}")])  # a sweep's are in cells/
            hint = f" (name one run in it, such as {inside[0].parent})" if inside else ""
            raise PurerlError(f"{folder} is not a run folder: it has no {CONFIG}{hint}")
    config = files.read_json(folder / CONFIG)
    if not _is_config(config):
        raise PurerlError(f"{folder} is not a run folder: its {CONFIG} was not written by purerl")
    summary = files.read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else None
    if summary is not None and not isinstance(summary, dict):
        raise PurerlError(f"{folder / SUMMARY} is damaged; delete it to continue without it")
    return {"config": config, "summary": summary}


def shown_preset(record: dict[str, Any]) -> str:
    """The preset's name in a config.json or summary.json, as titles show it: "" for an agent's own defaults."""
    name = str(record.get("preset") or "")
    return "" if name == "none" else name


def _is_config(config: Any) -> bool:
    return isinstance(config, dict) and all(key in config for key in REQUIRED_KEYS)


def _make_folders(folder: Path) -> list[Path]:
    """Creates the folder and its missing parents; returns the created ones, deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.insert(0, path)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    return made
