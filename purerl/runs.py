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
import dataclasses
import errno
import importlib.metadata
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from purerl.errors import PurerlError, nearest

CONFIG, METRICS, SUMMARY, EVALUATION = "config.json", "metrics.jsonl", "summary.json", "eval.json"
CHECKPOINTS, FIGURES, TENSORBOARD, REPORT = "checkpoints", "figures", "tensorboard", "report.html"
# What purerl writes into a run folder, and so all that --overwrite may remove.
OWNED = (CONFIG, METRICS, SUMMARY, EVALUATION, CHECKPOINTS, FIGURES, TENSORBOARD, REPORT)
# A config.json without these is somebody else's (many tools use that file name).
REQUIRED_KEYS = ("agent", "env", "seeds")
PACKAGES = (
    *("purerl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("gymnax", "procgen-mirror", "ale-py"),
)


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
    with writing(folder):
        found = check(folder, resume, overwrite)
        if resume:
            return folder
        to_json(config)  # fails before anything is removed or written
        made = _make_folders(folder)
        try:
            if found:
                _remove_outputs(folder)
            write_json(folder / CONFIG, config)
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
        if not _is_config(read_json(path)):
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
    with reading(folder):
        if not folder.is_dir():
            there = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
            raise PurerlError(f"there is no run folder {folder}.{nearest(folder.name, there)}")
        if not (folder / CONFIG).is_file():
            inside = [p.parent.name for p in sorted(folder.glob(f"*/{CONFIG}"))]
            hint = f" (name one run in it, such as {folder / inside[0]})" if inside else ""
            raise PurerlError(f"{folder} is no run folder: it has no {CONFIG}{hint}")
    config = read_json(folder / CONFIG)
    if not _is_config(config):
        raise PurerlError(f"{folder} is no run folder: its {CONFIG} was not written by purerl")
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else None
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


# --- files -----------------------------------------------------------------------------------------------------------


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as JSON (see to_json) in one atomic step. Raises PurerlError on a full disk, no permission."""
    write_file(path, (to_json(value, indent=2) + "\n").encode())


def write_file(path: str | os.PathLike, data: bytes) -> None:
    """Puts `data` at `path` in one atomic step, durable when this returns. Raises PurerlError as write_json does."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.purerl-tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable. Some file systems cannot; the rename is atomic all the same."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file. Raises PurerlError if it is missing, unreadable or not JSON."""
    path = Path(path)
    with reading(path):
        data = path.read_bytes()
    return parse_json(data, str(path))


def parse_json(data: bytes | str, where: str) -> Any:
    """The value of a JSON text; NaN and Infinity, which are not JSON, become None. `where` is for the PurerlError."""
    try:
        return json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise PurerlError(f"{where} is damaged or not JSON ({error}); it was not written by purerl") from error


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text of nested dicts, sequences, dataclasses, paths, numbers and (numpy or jax) arrays.

    NaN and infinities become null: JSON has no name for them. Raises TypeError, naming the place, for anything else.
    """
    return json.dumps(_plain(value, "value"), indent=indent, allow_nan=False)


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{where}[{i}]") for i, inner in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, np.generic | np.ndarray) or hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist(), where)
    raise TypeError(f"{where} is a {type(value).__name__}, which cannot be written as JSON")


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns the operating system's errors inside the block into a PurerlError that names `path` and the fix."""
    try:
        yield
    except OSError as error:
        raise PurerlError(f"cannot write {path}: {_fix(error)}") from error


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """As `writing`, for reading."""
    try:
        yield
    except FileNotFoundError as error:
        raise PurerlError(f"cannot read {path}: there is no such file; check the run folder's name") from error
    except OSError as error:
        raise PurerlError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error


def _fix(error: OSError) -> str:
    """What is wrong and what to do about it, for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or choose another folder (--out)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission; choose another folder (--out), or make it writable"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "a file is in the way of a folder, or the reverse; choose another folder (--out)"
    return f"{error.strerror or error}; choose another folder (--out)"


# --- what the run ran on ---------------------------------------------------------------------------------------------


def environment_report() -> dict[str, Any]:
    """What a result depends on beside the config, for config.json and summary.json.

    Returns:
      versions: {"python" and each of PACKAGES: version, or None if it is not installed};
      device: {"kind": such as "NVIDIA H200" or "cpu", "backend": "gpu", "cpu", ..., "count": devices of all processes};
      platform: operating system, processor type and C library, one line;
      cpu_count: logical cores of this machine;
      git_commit, git_dirty: of the checkout that purerl is imported from; both None if it is not in one. Dirty means
        that a tracked file differs from the commit.
    """
    import jax

    commit, dirty = _git_state(Path(__file__).resolve())
    devices = jax.devices()
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "device": {"kind": devices[0].device_kind, "backend": devices[0].platform, "count": len(devices)},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state(source: Path) -> tuple[str | None, bool | None]:
    """(commit, dirty) of the git checkout that tracks the file `source`, else (None, None): a virtual environment
    inside somebody's own repository must not pass that repository's commit off as purerl's."""
    tracked = _git(source.parent, "ls-files", "--error-unmatch", "--", source.name)
    commit = _git(source.parent, "rev-parse", "--verify", "HEAD") if tracked else None
    if not commit:
        return None, None
    changes = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints, stripped; None if it fails or there is no git."""
    # Inside a git hook, GIT_DIR and its like point at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory_bytes() -> dict[str, Any]:
    """{"peak_memory_bytes": int, "peak_memory_of": "device" or "process"}.

    The most that one of this process's devices ever held, where the devices count it (GPUs do); otherwise the most that
    the whole process ever held in the machine's own memory.
    """
    import jax

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return {"peak_memory_bytes": int(max(peaks)), "peak_memory_of": "device"}
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_bytes": int(peak), "peak_memory_of": "process"}
