"""Writes metric rows: always to a JSONL file, and on request to TensorBoard or Weights & Biases.

A sink has `write(rows)` and `close()`. A row is one log period of one seed:
    {"iteration": 12, "step": 98304, "seed": 0, "wall_time": 3.2, "episode_return": 11.2 or None, "episodes": 25, ...}
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from purerl.errors import PurerlError, nearest, needs
from purerl.runs import files, run_folder
from purerl.runs.logs import WandbNames

# Optional sinks: the package that each needs.
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
# Columns that identify a row and are not measurements.
COORDINATES = ("iteration", "step", "seed")


class Sink(Protocol):
    """A destination of metric rows."""

    def write(self, rows: list[dict]) -> None:
        """Writes the rows of one log period, one per seed."""

    def close(self) -> None:
        """Flushes and closes. Safe to call twice."""


def check_sinks(names: Sequence[str]) -> None:
    """Raises PurerlError for an unknown sink, or if a sink's package is missing. Writes nothing."""
    for name in names:
        if name == "jsonl":
            continue
        if name not in PACKAGES:
            known = ["jsonl", *PACKAGES]
            raise PurerlError(f"unknown sink '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
        _import(name)


def open_sinks(
    names: Sequence[str], folder: str | os.PathLike, config: dict, wandb: WandbNames | None = None
) -> list[Sink]:
    """Opens the run's JSONL file and the named sinks ("tensorboard", "wandb"; "jsonl" is always open).

    To resume a run, call truncate_rows first: TensorBoard then hides its own events after the last remaining row.

    Args:
      names: names of sinks.
      folder: the run's folder.
      config: the run's config, shown in W&B; it has the run's "seeds".
      wandb: names of the W&B runs, for the sink "wandb".

    Raises PurerlError as check_sinks, or if a file cannot be written; sinks that are already open are closed.
    """
    check_sinks(names)
    folder = Path(folder)
    opened: list[Sink] = []
    try:
        opened.append(JsonlSink(folder / run_folder.METRICS))
        for name in dict.fromkeys(names):
            if name == "tensorboard":
                steps = [row["step"] for row in read_rows(folder / run_folder.METRICS) if "step" in row]
                opened.append(TensorBoardSink(folder / run_folder.TENSORBOARD, max(steps) + 1 if steps else None))
            elif name == "wandb":
                opened.append(WandbSink(wandb, config, folder))
    except BaseException:
        for sink in opened:
            sink.close()
        raise
    return opened


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise needs(f"--log {name}", PACKAGES[name]) from error


# --- JSONL -----------------------------------------------------------------------------------------------------------


class JsonlSink:
    """Appends rows to a file, one JSON object per line; NaN and infinity are written as null.

    All rows of a `write` go to the operating system in one call, so a kill leaves at most one partial line. A partial
    line left by an earlier process is removed on opening. If a write fails (a full disk), the file is truncated to its
    previous size and PurerlError is raised.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = Path(path)
        with files.writing(self._path):
            self._handle: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                self._repair_last_line()
            except BaseException:
                self.close()
                raise

    def _repair_last_line(self) -> None:
        size = os.fstat(self._handle).st_size
        if size == 0 or os.pread(self._handle, 1, size - 1) == b"\n":
            return
        whole = b"".join(_whole_lines(files.read_bytes(self._path)))
        if len(whole) > size:  # only its line break was missing
            os.write(self._handle, b"\n")
        else:
            os.ftruncate(self._handle, len(whole))

    def write(self, rows: list[dict]) -> None:
        """Appends the rows. Raises PurerlError if the disk is full or the sink is closed."""
        if self._handle is None:
            raise PurerlError(f"the metrics file {self._path} is closed; open a new JsonlSink")
        data = "".join(files.to_json(row) + "\n" for row in rows).encode()
        with files.writing(self._path):
            before = os.fstat(self._handle).st_size
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
            except OSError:
                if os.fstat(self._handle).st_size > before:
                    os.ftruncate(self._handle, before)
                raise

    def close(self) -> None:
        """Closes the file. Safe to call twice."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def read_rows(path: str | os.PathLike) -> list[dict]:
    """The rows of a JSONL file, without a partial last line. Raises PurerlError if it is missing or not metric rows."""
    lines = _whole_lines(files.read_bytes(path))
    return [_parse_row(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def truncate_rows(path: str | os.PathLike, iteration: int) -> int:
    """Drops the rows after `iteration`, which a resumed run writes again; returns how many.

    A missing file has no rows. The file is replaced atomically, and is not changed if no row is dropped.
    """
    path = Path(path)
    if not path.exists():
        return 0
    lines = _whole_lines(files.read_bytes(path))
    rows = [_parse_row(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]
    kept = [line for line, row in zip(lines, rows, strict=True) if row.get("iteration", iteration) <= iteration]
    if len(kept) < len(lines):
        files.write_file(path, b"".join(kept))
    return len(lines) - len(kept)


def _whole_lines(data: bytes) -> list[bytes]:
    """The lines, each with its line break. A last line without one counts only if it is a whole JSON object."""
    *lines, rest = data.split(b"\n")
    lines = [line + b"\n" for line in lines]
    try:
        if rest:
            _parse_row(rest, "the last line")
            lines.append(rest + b"\n")
    except PurerlError:
        pass
    return lines


def _parse_row(line: bytes, where: str) -> dict:
    row = files.parse_json(line, where)
    if not isinstance(row, dict):
        raise PurerlError(f"{where} is not a metrics row; it was not written by purerl")
    for name in COORDINATES:
        if type(row.get(name, 0)) is not int:
            its = "steps are" if name == "step" else f"{name} is"
            raise PurerlError(f"{where} is not a metrics row: its {its} not an integer; it was not written by purerl")
    return row


# --- TensorBoard -----------------------------------------------------------------------------------------------------


class TensorBoardSink:
    """Writes every number of a row as a scalar at its environment step, one TensorBoard run `seed_<k>` per seed.

    A thread of tensorboardX writes the files about a second later.

    `purge_step`: TensorBoard hides the events of earlier processes from this step on; None hides nothing.
    """

    def __init__(self, folder: str | os.PathLike, purge_step: int | None = None):
        self._package = _import("tensorboard")
        self._folder = Path(folder)
        self._purge_step = purge_step
        self._writers: dict[int, Any] = {}

    def write(self, rows: list[dict]) -> None:
        """Adds the rows' scalars, without None and NaN. Raises PurerlError on a failed write."""
        with files.writing(self._folder):
            for row in rows:
                writer = self._writer(int(row["seed"]))
                for name, value in _measurements(row).items():
                    writer.add_scalar(name, value, int(row["step"]))
            for writer in self._writers.values():
                writer.flush()

    def _writer(self, seed: int) -> Any:
        if seed not in self._writers:
            folder = str(self._folder / f"seed_{seed}")
            self._writers[seed] = self._package.SummaryWriter(folder, purge_step=self._purge_step, flush_secs=1)
        return self._writers[seed]

    def close(self) -> None:
        """Flushes and closes the event files. Safe to call twice."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def _measurements(row: dict) -> dict[str, float]:
    """The numbers of a row that are measurements."""
    row = files.parse_json(files.to_json(row), "a metrics row")  # arrays to numbers, NaN to None, as in the JSONL file
    return {
        name: float(value)
        for name, value in row.items()
        if name not in COORDINATES and isinstance(value, int | float) and not isinstance(value, bool)
    }


# --- Weights & Biases ------------------------------------------------------------------------------------------------


class WandbSink:
    """Logs to W&B: one W&B run for each seed, all in one group, so that W&B draws their mean and their spread.

    W&B's environment variables work; WANDB_MODE=offline keeps everything on this machine. A resumed run continues its
    W&B runs: their ids are in `names`, and W&B ignores rows of iterations that it has already.

    Args:
      names: of the W&B runs.
      config: shown in W&B, with "seed" in place of "seeds".
      folder: W&B's own files are in <folder>/wandb.

    Raises:
      PurerlError: W&B did not start.
    """

    def __init__(self, names: WandbNames, config: dict, folder: str | os.PathLike | None = None):
        self._package, self._names, self._folder = _import("wandb"), names, folder
        self._closed, self._runs = False, {}
        seeds = config["seeds"]
        shown = files.parse_json(
            files.to_json({name: v for name, v in config.items() if name != "seeds"}), "the config"
        )
        try:
            for seed in seeds:
                self._runs[seed] = self._open(seed, shown, alone=len(seeds) == 1)
        except Exception as error:  # W&B raises errors of many kinds: no key, no network, no permission
            self.close()
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise PurerlError(f"W&B did not start ({reason}): run `wandb login`, or set WANDB_MODE=offline") from error

    def _open(self, seed: int, config: dict, alone: bool) -> Any:
        names = self._names
        # One run speaks for all of them, and measures the machine.
        settings = {"silent": True, "console": "off", "x_disable_stats": True} if self._runs else {}
        run = self._package.init(
            project=names.project,
            entity=names.entity,
            group=names.group,
            job_type=names.job_type,
            name=names.name if alone else f"{names.name}/seed_{seed}",
            id=f"{names.id}-{seed}",
            resume="allow",
            config=config | {"seed": seed},
            allow_val_change=True,  # a resumed run may have a new length
            dir=None if self._folder is None else str(self._folder),
            reinit="create_new",  # beside the other seeds' runs, and any run of the user's own
            settings=settings,
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def write(self, rows: list[dict]) -> None:
        """Logs each row to its seed's W&B run, at its environment step. Raises PurerlError once closed."""
        if self._closed:
            raise PurerlError("the W&B runs are closed; open a new WandbSink")
        for row in rows:
            coordinates = {name: int(row[name]) for name in ("step", "iteration") if name in row}
            self._runs[int(row["seed"])].log(coordinates | _measurements(row), step=coordinates.get("iteration"))

    def close(self) -> None:
        """Finishes the W&B runs. Safe to call twice."""
        self._closed = True
        while self._runs:
            self._runs.popitem()[1].finish()
