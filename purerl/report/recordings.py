"""Embeds the videos of run folders in a report."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from purerl.report.curves import Run
from purerl.runs import files, run_folder

MOST_BYTES = 8 * 2**20  # of all videos in one page


@dataclasses.dataclass(frozen=True)
class Kind:
    """A video format: its media type, and the bytes at `offset` that identify it."""

    media_type: str
    offset: int
    mark: bytes


KINDS = {".gif": Kind("image/gif", 0, b"GIF8"), ".mp4": Kind("video/mp4", 4, b"ftyp")}


@dataclasses.dataclass(frozen=True)
class Recording:
    """A video of a run.

    Attributes:
      run: the run.
      name: the file's name.
      media_type: such as "image/gif".
      size: in bytes.
      base64: its content; None if it is too large for the page.
    """

    run: Run
    name: str
    media_type: str
    size: int
    base64: str | None


def recordings(runs: Sequence[Run]) -> list[Recording]:
    """The videos in the runs' folders; those that are too large for a page have no content.

    Raises:
      PurerlError: one cannot be read.
    """
    room, found = MOST_BYTES, []
    for run in runs:
        for path in _videos(run.folder / run_folder.FIGURES):
            kind, size = KINDS[path.suffix.lower()], path.stat().st_size
            if size > room:
                found.append(Recording(run, path.name, kind.media_type, size, None))
                continue
            with files.reading(path):
                data = path.read_bytes()
            if data[kind.offset : kind.offset + len(kind.mark)] == kind.mark:
                room -= size
                found.append(Recording(run, path.name, kind.media_type, size, base64.b64encode(data).decode()))
    return found


def _videos(folder: Path) -> Iterator[Path]:
    """Files with the suffix of a video.

    Links are left out: a link could point to any private file of the user, and the page would then contain it.
    """
    with files.reading(folder):
        paths = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    for path in paths:
        if path.suffix.lower() in KINDS and not path.is_symlink() and path.is_file():
            yield path
