"""Level banks: levels, stills and sprites of a game, taken once from the installed library and kept in one file.

A bank is an .npz of plain arrays, without pickle, in the folder "levels" of purerl's cache, where compiled programs are
kept too. Its header says what it holds and where it is from. A bank that is missing is built at its first use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import sys
import tempfile
import time
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from purerl import cache
from purerl.envs import procgen
from purerl.envs.procgen_jax import bigfish, chaser, coinrun, frames, fruitbot, heist, leaper, maze, miner, starpilot
from purerl.envs.procgen_jax.states import LibraryState, parse
from purerl.errors import PurerlError

FORMAT = 3
NUM_ALL_LEVELS = 2**31 - 1  # the levels that the library plays with num_levels 0: 0 to 2^31 - 2
GAMES: dict[str, types.ModuleType] = {
    "maze": maze,
    "miner": miner,
    "chaser": chaser,
    "heist": heist,
    "fruitbot": fruitbot,
    "bigfish": bigfish,
    "leaper": leaper,
    "starpilot": starpilot,
    "coinrun": coinrun,
}

# Games that are drawn together; one more than frames.NUM_BACKGROUNDS, which photographs of sprites need.
_BATCH = 1 + frames.NUM_BACKGROUNDS
_LINE_PERIOD_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Request:
    """What a bank holds.

    Attributes:
      game: its id.
      options: of procgen, with a finite number of levels unless `drawn` is set.
      pictures: whether stills and sprites belong to it.
      drawn: so many levels drawn from all levels, instead of those of the options; 0 for those of the options.
    """

    game: str
    options: procgen.Options
    pictures: bool = True
    drawn: int = 0

    @property
    def levels(self) -> tuple[int, int]:
        """(first level, number of levels); the first is 0 if levels are drawn."""
        if self.drawn:
            return 0, self.drawn
        flags = procgen.library_flags(self.game, self.options, 0, 1, "")
        return int(flags["start_level"]), int(flags["num_levels"])

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the levels, in the order of the bank's rows.

        Drawn ones are those that a game of the library would play whose generator of levels was seeded with 0, so a
        bank of fewer levels is the beginning of one of more.
        """
        first, number = self.levels
        if not self.drawn:
            return range(first, first + number)
        words = np.random.RandomState(0).randint(0, 2**32, number, dtype=np.uint32)
        return (words % np.uint32(NUM_ALL_LEVELS)).tolist()

    def header(self) -> dict[str, Any]:
        """What the bank's file must say of itself."""
        first, number = self.levels
        looks = ("use_backgrounds", "use_monochrome_assets", "restrict_themes")
        looks = looks if self.pictures else GAMES[self.game].SHAPED_BY
        mode = self.options.distribution_mode
        return {
            "format": FORMAT,
            "game": self.game,
            "distribution_mode": "hard" if mode == "exploration" else mode,
            "start_level": first,
            "num_levels": number,
            "pictures": {name: getattr(self.options, name) for name in looks},
            "library": _library(),
            **({"drawn_from": "all levels"} if self.drawn else {}),
        }

    def path(self) -> Path:
        """Where the bank is cached."""
        header = self.header()
        mark = zlib.crc32(json.dumps(header, sort_keys=True).encode())
        first, number = self.levels
        kind = "frames" if self.pictures else "rules"
        which = f"{number}of-all" if self.drawn else f"{first}to{first + number - 1}"
        return folder() / f"{self.game}-{header['distribution_mode']}-{which}-{kind}-{mark:08x}.npz"


def folder() -> Path:
    """Where banks are kept, beside the compiled programs."""
    return cache.folder("levels")


def _library() -> str:
    """The installed library and its version."""
    for name in ("procgen-mirror", "procgen"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return "procgen of unknown version"


# --- reading and writing ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def bank(request: Request) -> dict[str, Any]:
    """The arrays of a bank, from its file, or built now; a Sprite is one value.

    Raises PurerlError if the file is damaged, or the library is needed and not installed.
    """
    path = request.path()
    if not path.exists():
        arrays = build(request)
        try:
            write(path, request, arrays)
        except OSError as error:
            print(
                f"purerl: the levels are not kept: {path}: {error.strerror or error} ($PURERL_CACHE names another "
                "folder)",
                file=sys.stderr,
            )
        return _joined(arrays)
    return _joined(read(path, request))


def write(path: Path, request: Request, arrays: dict[str, np.ndarray]) -> None:
    """Writes a bank's file, at once or not at all."""
    header = request.header() | {"checksum": _checksum(arrays)}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            np.savez(file, header=text, **arrays)
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)


def read(path: Path, request: Request) -> dict[str, np.ndarray]:
    """The arrays of a bank's file. Raises PurerlError if it is damaged or holds something else."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # np.load leaves damaged files open
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        checksum = header.pop("checksum")
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for damaged files
        if isinstance(error, OSError) and error.errno:
            raise
        raise PurerlError(f"the level bank {path} is damaged or is none: delete it, and it is built again") from None
    if header != request.header():
        wrong = sorted(name for name in request.header() if header.get(name) != request.header()[name])
        raise PurerlError(
            f"the level bank {path} is of other levels or another version ({', '.join(wrong)}): delete it, and it is "
            "built again"
        )
    if checksum != _checksum(arrays):
        raise PurerlError(f"the level bank {path} is damaged (its checksum differs): delete it, and it is built again")
    return arrays


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    """Of names, shapes, dtypes and bytes."""
    found = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found = zlib.crc32(array, zlib.crc32(f"{name} {array.shape} {array.dtype}".encode(), found))
    return found


def _split(name: str, sprite: frames.Sprite | frames.Layers | np.ndarray) -> dict[str, np.ndarray]:
    if isinstance(sprite, np.ndarray):
        return {name: sprite}
    return {f"{name}.{field}": array for field, array in sprite._asdict().items()}


def _joined(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays of a file, with those of each Sprite or Layers together again."""
    found: dict[str, Any] = {name: array for name, array in arrays.items() if "." not in name}
    for name in {name.partition(".")[0] for name in arrays if "." in name}:
        kind = frames.Sprite if f"{name}.corner" in arrays else frames.Layers
        found[name] = kind(*(arrays[f"{name}.{field}"] for field in kind._fields))
    return found


# --- building --------------------------------------------------------------------------------------------------------


def build(request: Request, quiet: bool = False) -> dict[str, np.ndarray]:
    """Takes the levels, and the pictures, from the installed library; a progress bar on stderr unless `quiet`."""
    numbers, game = request.numbers, GAMES[request.game]
    painter = frames.Painter(request.game, request.options, _BATCH)
    try:
        rows: list[dict[str, np.ndarray]] = []
        with _progress(f"levels of {request.game}", len(numbers), quiet) as advance:
            for batch, states in _first_states(painter, numbers):
                found = [game.level(state) for state in states]
                if request.pictures:
                    for name, change in game.STILLS.items():
                        for row, frame in zip(found, _stills(painter, change, states), strict=True):
                            row[name] = frame
                rows += found[: len(batch)]
                advance(len(rows))
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        if request.pictures:
            camera = frames.Camera(painter, states[0], game.SPACE, arrays)
            for name, sprite in game.sprites(camera).items():
                arrays |= _split(name, sprite)
        return arrays
    finally:
        painter.close()


def _first_states(
    painter: frames.Painter, numbers: Sequence[int]
) -> Iterator[tuple[Sequence[int], list[LibraryState]]]:
    """(levels, _BATCH states at their start) of some levels at a time; the last level fills the last batch."""
    for start in range(0, len(numbers), _BATCH):
        batch = numbers[start : start + _BATCH]
        yield batch, painter.at_levels([batch[min(i, len(batch) - 1)] for i in range(_BATCH)])


def _stills(painter: frames.Painter, change: Callable[[LibraryState], None], states: list[LibraryState]) -> np.ndarray:
    """The levels' frames after a change, uint8 [_BATCH, 64, 64, 3]."""
    scenes = [parse(state.to_bytes()) for state in states]
    for scene in scenes:
        change(scene)
    return painter.draw(scenes)


@contextlib.contextmanager
def _progress(label: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, and elsewhere a line about every ten seconds: call it with what is done."""
    if quiet or not sys.stderr.isatty():
        said = time.monotonic()

        def line(done: int) -> None:
            nonlocal said
            if not quiet and time.monotonic() - said >= _LINE_PERIOD_SECONDS:
                print(f"purerl: {label}: {done:,} of {total:,}", file=sys.stderr, flush=True)
                said = time.monotonic()

        yield line
        return
    from rich.console import Console

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
