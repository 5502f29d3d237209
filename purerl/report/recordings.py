"""Embeds the videos of run folders in a report."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from purerl.report.curves import Run
from purerl.runs import files, ownership, run_folder

MOST_BYTES = 8 * 2**20  # of all videos in one page
MOST_OF_TRAINING = 4  # videos during the training of a run in one page


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
      step: of the training that it shows; None for others.
    """

    run: Run
    name: str
    media_type: str
    size: int
    base64: str | None
    step: int | None = None


def recordings(runs: Sequence[Run]) -> list[Recording]:
    """The videos in the runs' folders; those that are too large for a page have no content.

    Of the videos during a training there are at most MOST_OF_TRAINING: the first, the newest, and some between them.

    Raises:
      PurerlError: one cannot be read.
    """
    room, found = MOST_BYTES, []
    for run in runs:
        for step, path in _videos(run.folder / run_folder.FIGURES):
            kind, size = KINDS[path.suffix.lower()], path.stat().st_size
            if size > room:
                found.append(Recording(run, path.name, kind.media_type, size, None, step))
                continue
            with files.reading(path):
                data = path.read_bytes()
            if data[kind.offset : kind.offset + len(kind.mark)] == kind.mark:
                room -= size
                found.append(Recording(run, path.name, kind.media_type, size, base64.b64encode(data).decode(), step))
    return found


def _videos(folder: Path) -> Iterator[tuple[int | None, Path]]:
    """(step of the training or None, file with the suffix of a video): those of the training come last, by their steps.

    Links are left out: a link could point to any private file of the user, and the page would then contain it.
    """
    with files.reading(folder):
        there = folder.is_dir() and not folder.is_symlink()
        steps = {path: step for step, path in ownership.videos_of_training(folder).items()} if there else {}
        paths = sorted(folder.iterdir()) if there else []
    others = [(None, path) for path in paths if path not in steps]
    for step, path in [*others, *_some([(step, path) for path, step in steps.items()])]:
        if path.suffix.lower() in KINDS and not path.is_symlink() and path.is_file():
            yield step, path


def _some(found: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """MOST_OF_TRAINING of them, evenly spaced, the first and the last among them."""
    if len(found) <= MOST_OF_TRAINING:
        return found
    return [found[i * (len(found) - 1) // (MOST_OF_TRAINING - 1)] for i in range(MOST_OF_TRAINING)]
