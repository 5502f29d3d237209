"""Reads and writes JSON files atomically, with errors that name the fix.

Every file is written under a temporary name and then renamed, so that a kill or a full disk leaves the old file or the
new one, never a partial file. Nothing is ever unpickled. A file may come from anybody: only regular files are opened,
up to a bounded size, so that reading neither hangs on a pipe nor fills the memory from a device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from purerl.errors import PurerlError, shown
from purerl.runs import interrupts

# The largest files that are read at once.
MOST_JSON_BYTES, MOST_BYTES = 2**28, 2**31
MOST_LEVELS = 100  # of lists and objects in a JSON file

# --- files -----------------------------------------------------------------------------------------------------------


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as JSON (see to_json) atomically. Raises PurerlError on a full disk or without permission."""
    write_file(path, (to_json(value, indent=2) + "\n").encode())


def write_file(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path` atomically; it is on disk when this returns. Raises PurerlError as write_json does."""
    path = Path(path)
    check_name(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.purerl-tmp")

    def remove_temporary() -> None:
        with contextlib.suppress(OSError):
            temporary.unlink()

    with writing(path), interrupts.cleaning_up(remove_temporary):
        try:
            temporary.unlink(missing_ok=True)  # of a killed process with the same number, or a link
            with open(temporary, "xb") as file:  # "x" never follows a link
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            remove_temporary()
            raise
        _sync_folder(path.parent)


def check_name(path: Path) -> None:
    """Raises PurerlError for a path that cannot be a file's, before there is anything to write."""
    with writing(path):
        if path.name in ("", "..") or path.is_dir():
            raise PurerlError(f"cannot write {path}: this is a folder; name a file")


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
    value = parse_json(read_bytes(path, MOST_JSON_BYTES), str(path))
    if not _is_flat(value, MOST_LEVELS):
        raise PurerlError(f"{path} is nested more than {MOST_LEVELS} levels deep; it was not written by purerl")
    return value


def _is_flat(value: Any, levels: int) -> bool:
    """Whether lists and dicts contain each other no more than `levels` times."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_flat(one, levels - 1) for one in inner if isinstance(one, dict | list))


def read_bytes(path: str | os.PathLike, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises PurerlError for anything else; it never waits."""
    with reading(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise PurerlError(f"cannot read {path}: it has {size:,} bytes, and purerl writes at most {most:,} there")
        return file.readall()


def open_regular(path: str | os.PathLike) -> io.FileIO:
    """Opens a regular file for reading, without a buffer. Raises OSError, for a pipe or a device as well.

    Opening a pipe would wait for its other end, and a device could be read for ever.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, not a file", str(path))
        return io.FileIO(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def kind_of(mode: int) -> str:
    """What a path is, by its st_mode, in words."""
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISLNK: "a link",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISBLK: "a device",
        stat.S_ISCHR: "a device",
    }
    return next((words for test, words in kinds.items() if test(mode)), "a file")


def parse_json(data: bytes | str, where: str) -> Any:
    """The value of a JSON text. NaN and infinity become None: JSON has neither. `where` names it in the error."""
    try:
        return json.loads(data, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise PurerlError(f"{where} is damaged or not JSON ({error}); it was not written by purerl") from error


def _finite(text: str) -> float | None:
    """The number of a JSON text; None for one that is too large, such as 1e999."""
    number = float(text)
    return number if math.isfinite(number) else None


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
    if hasattr(value, "__array__"):
        import numpy as np  # here, so that the help does not wait for it

        return _plain(np.asarray(value).tolist(), where)
    raise TypeError(f"{where} is a {type(value).__name__}, which cannot be written as JSON")


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns the operating system's errors inside the block into a PurerlError that names `path` and the fix."""
    try:
        yield
    except OSError as error:
        _raise_for_length(path, error, "choose another one (--out)")
        raise PurerlError(f"cannot write {path}: {_fix(error)}") from error
    except ValueError as error:
        _raise_for_name(path, error)


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """As `writing`, for reading."""
    try:
        yield
    except FileNotFoundError as error:
        raise PurerlError(f"cannot read {path}: there is no such file; check the run folder's name") from error
    except OSError as error:
        _raise_for_length(path, error, "check it")
        raise PurerlError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
    except ValueError as error:
        _raise_for_name(path, error)


def _raise_for_name(path: str | os.PathLike, error: ValueError) -> NoReturn:
    """Raises PurerlError for a path that no file can have, and any other error as it is."""
    if "embedded null" not in str(error) and not isinstance(error, UnicodeError):
        raise error
    raise PurerlError(f"{shown(str(path))} cannot be the name of a file: choose another one") from error


def _raise_for_length(path: str | os.PathLike, error: OSError, fix: str) -> None:
    """Raises PurerlError, without the whole name, for a name that the file system finds too long."""
    if error.errno == errno.ENAMETOOLONG:
        raise PurerlError(f"{shown(str(path))} is too long for the name of a file: {fix}") from error


def _fix(error: OSError) -> str:
    """What is wrong and what to do about it, for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or choose another folder (--out)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission; choose another folder (--out), or make it writable"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "a file or folder with this name is in the way; remove it or choose another folder (--out)"
    return f"{error.strerror or error}; choose another folder (--out)"
