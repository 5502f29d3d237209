"""The run folder: who may write into it, what it holds, and how its JSON files get there whole.

    config.json     the whole config and environment_report(), written once, before anything else
    metrics.jsonl   one row per log period and seed (see sinks)
    summary.json    written at the end
    eval.json       written by `purerl eval`
    checkpoints/    figures/    tensorboard/

Every file is written beside its place and then moved there, so that a kill or a full disk leaves the old file or the
new one, never half a file. Nothing is ever unpickled. jax is imported only inside the two functions that ask for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

from purerl.errors import PurerlError, nearest
from purerl.runs import files

CONFIG, METRICS, SUMMARY, EVALUATION = "config.json", "metrics.jsonl", "summary.json", "eval.json"
CHECKPOINTS, FIGURES, TENSORBOARD, REPORT = "checkpoints", "figures", "tensorboard", "report.html"
# What purerl writes into a run folder, and so all that --overwrite may remove.
OWNED = (CONFIG, METRICS, SUMMARY, EVALUATION, CHECKPOINTS, FIGURES, TENSORBOARD, REPORT)
# A config.json without these is somebody else's (many tools use that file name).
REQUIRED_KEYS = ("agent", "env", "seeds")


# --- the folder ------------------------------------------------------------------------------------------------------


def create(folder: str | os.PathLike, config: dict, resume: bool = False, overwrite: bool = False) -> Path:
    """Makes the folder of a run, with its config.json, and returns it.

    With `resume` a run must be there already, and nothing is touched. With `overwrite` the files of the run that is
    there are removed first, but only those in OWNED. Otherwise a folder that holds a run is refused. If anything fails,
    folders that were made here are gone again.

    Raises:
      PurerlError: one of the above, files in the way that are not purerl's, a full disk, no permission.
      TypeError: config holds something JSON cannot (nothing has been written then).
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
                _remove_outputs(folder)
            files.write_json(folder / CONFIG, config)
        except BaseException:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise
    return folder


def check(folder: str | os.PathLike, resume: bool = False, overwrite: bool = False) -> bool:
    """Whether the folder holds a run. Raises PurerlError if that does not go with `resume` and `overwrite`."""
    if resume and overwrite:
        raise PurerlError("--resume goes on with a run and --overwrite deletes it: choose one of them")
    found = holds_run(folder)
    if resume and not found:
        raise PurerlError(f"there is no run to resume in {folder}; leave out --resume to start one")
    if found and not resume and not overwrite:
        raise PurerlError(
            f"{folder} already holds a run: --resume goes on, --overwrite deletes it, another --out leaves it"
        )
    return found


def holds_run(folder: str | os.PathLike) -> bool:
    """Whether a run's config.json is in the folder (which need not exist).

    Raises PurerlError if the folder holds a file under one of purerl's names that purerl did not write, so that it is
    neither mixed with a run's files nor deleted by a later --overwrite.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if path.is_file():
        if not _is_config(files.read_json(path)):
            raise PurerlError(f"{path} was not written by purerl; choose another folder (--out)")
        return True
    strangers = [name for name in OWNED if os.path.lexists(folder / name)]
    if strangers:
        raise PurerlError(f"{folder} is no run, but has its own '{strangers[0]}'; choose another folder (--out)")
    return False


def load(folder: str | os.PathLike) -> dict[str, dict | None]:
    """Reads a run folder: {"config": dict, "summary": dict, or None while the run has not ended}.

    Raises PurerlError for a folder that does not exist or is no run, and for damaged files.
    """
    folder = Path(folder)
    with files.reading(folder):
        if not folder.is_dir():
            there = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
            raise PurerlError(f"there is no run folder {folder}.{nearest(folder.name, there)}")
        if not (folder / CONFIG).is_file():
            inside = [p.parent.name for p in sorted(folder.glob(f"*/{CONFIG}"))]
            hint = f" (name one run in it, such as {folder / inside[0]})" if inside else ""
            raise PurerlError(f"{folder} is no run folder: it has no {CONFIG}{hint}")
    config = files.read_json(folder / CONFIG)
    if not _is_config(config):
        raise PurerlError(f"{folder} is no run folder: its {CONFIG} was not written by purerl")
    summary = files.read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else None
    if summary is not None and not isinstance(summary, dict):
        raise PurerlError(f"{folder / SUMMARY} is damaged; delete it to go on without it")
    return {"config": config, "summary": summary}


def _is_config(config: Any) -> bool:
    return isinstance(config, dict) and all(key in config for key in REQUIRED_KEYS)


def _make_folders(folder: Path) -> list[Path]:
    """Makes the folder and its missing parents; returns those made, deepest first."""
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


def _remove_outputs(folder: Path) -> None:
    """Removes a run's outputs. Its config.json stays until the new one takes its place, so that a kill in between
    leaves a folder that is still known to hold a run. A link is removed, never what it points to."""
    for name in OWNED:
        path = folder / name
        if name == CONFIG or not os.path.lexists(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for left_over in folder.glob(".*.purerl-tmp"):  # of a process that was killed while it wrote
        left_over.unlink()
