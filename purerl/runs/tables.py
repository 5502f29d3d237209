"""All runs under a folder as one table: `purerl.load_runs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purerl import arguments
from purerl.errors import PurerlError
from purerl.runs import collection, differences, run_folder, schemas, sinks

# The first columns; the settings that differ and the metrics follow.
FIRST = ("run", "agent", "env", "preset", "seed", "iteration", "step")


class RunTable:
    """A table of equally long columns: one row for each run, seed and logged step.

    table["episode_return"] is a column, an array [rows]; `table.columns` are their names. Numbers that are missing are
    NaN, other missing values None. `table.rows()` gives dicts, and `table.to_pandas()` a DataFrame.

    Attributes:
      settings: {run: all its settings}, those that are the same in all runs included.
      left_out: {folder: why it could not be read}.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], settings: dict[str, dict[str, Any]], left_out: dict[str, str]):
        names = list(dict.fromkeys((*FIRST, *(name for row in rows for name in row))))
        self._columns = {name: _column([row.get(name) for row in rows]) for name in names}
        self.settings, self.left_out = settings, left_out

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns)

    def __len__(self) -> int:
        return len(self._columns["run"])

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise PurerlError(f"the table has no column {name!r}. Columns: {', '.join(self._columns)}")
        return self._columns[name]

    def __repr__(self) -> str:
        return f"RunTable({len(self.settings)} runs, {len(self)} rows, columns {', '.join(self._columns)})"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, {column: value}, with Python's own numbers."""
        lists = [column.tolist() for column in self._columns.values()]
        for values in zip(*lists, strict=True):
            yield dict(zip(self._columns, values, strict=True))

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame. Raises PurerlError if pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise PurerlError("to_pandas needs pandas: pip install pandas, or use the table's columns") from error
        return pandas.DataFrame(dict(self._columns))


@arguments.checked
def load_runs(folder: str | Path = "runs") -> RunTable:
    """Reads all runs under a folder into one table: a row for each run (or sweep's cell), seed and logged step.

        table = purerl.load_runs("runs/my-sweep")
        for rate in sorted(set(table["learning_rate"])):
            mine = table["learning_rate"] == rate
            print(rate, table["episode_return"][mine][-1])

    The columns are "run" (its path below the folder), "agent", "env", "preset", "seed", "iteration", "step", the
    settings that differ between the runs, and the metrics in metrics.jsonl. A setting with the name of a metric is
    "config.<name>". `table.settings[run]` has all settings. Folders that are damaged are left out and named in
    `table.left_out`.

    Args:
      folder: a folder with runs and sweeps below it, or one of them.

    Raises:
      PurerlError: there is no such folder, or no run that can be read.
    """
    folder = Path(folder)
    found = collection.find(folder)
    left_out: dict[str, str] = {}
    runs: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for path in [*found.runs, *(cell for sweep in found.sweeps for cell in _cells(sweep, left_out))]:
        try:
            runs[_name(path, folder)] = _read(path)
        except PurerlError as error:
            left_out[str(path)] = str(error)
    if not runs:
        why = f" that can be read ({next(iter(left_out.values()))})" if left_out else ""
        raise PurerlError(f"there is no run under {folder}{why}")
    settings = {name: differences.settings(config) for name, (config, _) in runs.items()}
    metrics = {name for _, rows in runs.values() for row in rows for name in row}
    columns = [name for name in differences.differing(list(settings.values())) if name not in (*FIRST, "seeds")]
    rows = []
    for name, (config, logged) in runs.items():
        first = {"run": name} | {key: config.get(key) for key in differences.IDENTITY}
        first |= {f"config.{key}" if key in metrics else key: _value(settings[name].get(key)) for key in columns}
        first |= {"diverged": False} if "diverged" in metrics else {}  # only the rows of diverged seeds have it
        rows += [first | row for row in logged]
    return RunTable(rows, settings, left_out)


def _cells(sweep: Path, left_out: dict[str, str]) -> list[Path]:
    try:
        return collection.cells(sweep)
    except PurerlError as error:
        left_out[str(sweep)] = str(error)
        return []


def _name(path: Path, folder: Path) -> str:
    """A run's path below the folder; its own name if it is the folder."""
    return path.resolve().name if path == folder else path.relative_to(folder).as_posix()


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(config.json, metric rows) of a run; [] before its first row."""
    config = run_folder.load(path)["config"]
    metrics = path / run_folder.METRICS
    rows = sinks.read_rows(metrics) if metrics.is_file() else []
    schemas.check_rows(rows, metrics)
    return config, rows


def _value(value: Any) -> Any:
    """A setting as a value of a column: lists as text, such as 64x64."""
    return differences.short(value) if isinstance(value, list | dict) else value


def _column(values: list[Any]) -> np.ndarray:
    """An array of values: bool, int64 or float64 (with NaN for missing ones), and objects for all else."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return np.array(values, bool)
    if kinds == {int} and all(abs(value) < 2**63 for value in values):
        return np.array(values, np.int64)
    if kinds and kinds <= {int, float, type(None)} and kinds != {type(None)}:
        known = [value is not None and abs(value) < schemas.MOST for value in values]
        return np.array([value if is_known else np.nan for value, is_known in zip(values, known, strict=True)], float)
    column = np.empty(len(values), object)
    for place, value in enumerate(values):
        column[place] = value
    return column
