"""One process at a time writes into a folder.

The lock is the operating system's, on the file `.purerl-lock`, and it is freed when its process ends, however it ends.
It also holds between machines that share a file system, if that file system has locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from purerl.errors import PurerlError
from purerl.runs import files, interrupts

NAME = ".purerl-lock"
# A sweep's cell is two folders below the sweep.
_LEVELS = 2
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# {real path of a lock file: the process that holds it, this one or the one that it was forked from}. Locks are per
# process, so this is what a second thread meets.
_held: dict[str, int] = {}


@contextlib.contextmanager
def hold(folder: str | os.PathLike, *, inside_others: bool = False) -> Iterator[None]:
    """Holds the lock of an existing folder within the block.

    Args:
      folder: a run's, sweep's, program's or figures' folder.
      inside_others: whether another process may hold a folder above it: a sweep's workers train inside a sweep.

    Raises:
      PurerlError: another process (or thread) holds it or, unless `inside_others`, a folder above it. One line with the
        holder's process id and machine.
    """
    folder = Path(folder).resolve()
    if not inside_others:
        for parent in folder.parents[:_LEVELS]:
            refuse_if_held(parent)
    path = folder / NAME
    with files.writing(path):
        handle = _acquire(path)
    _held[str(path)] = os.getpid()

    def release() -> None:
        if _held.get(str(path)) == os.getpid():
            del _held[str(path)]
            if _is(handle, path):
                path.unlink()
            os.close(handle)

    try:
        with interrupts.cleaning_up(release):
            yield
    finally:
        release()


def refuse_if_held(folder: Path) -> None:
    """Raises PurerlError if another process holds the folder's lock."""
    path = folder.resolve() / NAME
    if _held.get(str(path)) == os.getpid() or not path.exists():
        return
    with contextlib.suppress(FileNotFoundError, PermissionError):
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _lock(handle, path)
        finally:
            os.close(handle)


def is_held(folder: str | os.PathLike) -> bool:
    """Whether a process, this one included, writes into the folder, or into a sweep that it is a cell of."""
    folder = Path(folder).resolve()
    for place in (folder, *folder.parents[:_LEVELS]):
        if str(place / NAME) in _held:
            return True
        try:
            refuse_if_held(place)
        except PurerlError:
            return True
        except OSError:  # something else has the name of a lock
            continue
    return False


def _acquire(path: Path) -> int:
    """The open, locked lock file."""
    if _held.get(str(path)) == os.getpid():
        raise PurerlError(_in_use(path))
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            _lock(handle, path)
            if _is(handle, path):  # its last holder may have removed the file since it was opened
                os.ftruncate(handle, 0)
                os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise PurerlError(_in_use(path)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(f"purerl: {path.parent}: this file system has no locks; start no second process here", file=sys.stderr)


def _is(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at the path."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _in_use(path: Path) -> str:
    """The line of a folder in use. Nobody reads a lock file that this process holds: closing it would free the lock."""
    holder = f"process {os.getpid()} (this one)"
    if _held.get(str(path)) != os.getpid():
        holder = "another process"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_bytes()[:1000])
            holder = f"process {int(found['pid'])} on {found['host']}"
    return f"{path.parent} is in use by {holder}: wait until it ends, stop it, or choose another --out"
