"""Reads and writes JSON files atomically, with errors that name the fix.

Every file is written under a temporary name and then renamed, so that a kill or a full disk leaves the old file or the
new one, never a partial file. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from purerl.errors import PurerlError
from purerl.runs import interrupts

# --- files -----------------------------------------------------------------------------------------------------------


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as JSON (see to_json) atomically. Raises PurerlError on a full disk or without permission."""
    write_file(path, (to_json(value, indent=2) + "\n").encode())


def write_file(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path` atomically; it is on disk when this returns. Raises PurerlError as write_json does."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.purerl-tmp")

    def remove_temporary() -> None:
        with contextlib.suppress(OSError):
            temporary.unlink()

    with writing(path), interrupts.cleaning_up(remove_temporary):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            remove_temporary()
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable. On file systems that cannot do this, the rename is still atomic."""
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
    """The value of a JSON text. NaN and Infinity, which are not JSON, become None. `where` names it in the error."""
    try:
        return json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise PurerlError(f"{where} is damaged or not JSON ({error}); it was not written by purerl") from error


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text of nested dicts, sequences, dataclasses, paths, numbers and (numpy or jax) arrays.

    NaN and infinity become null, because JSON cannot hold them. Raises TypeError, naming the place, for other types.
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
        return "a file or folder with this name is in the way; remove it or choose another folder (--out)"
    return f"{error.strerror or error}; choose another folder (--out)"
