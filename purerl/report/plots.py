"""Draws learning curves as figures, only from run folders (config.json and metrics.jsonl).

Figures use matplotlib's Agg canvas and never pyplot, so they need no display and no global state. All sizes and colours
are set here, so that a figure does not depend on the user's matplotlibrc.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from purerl.errors import PurerlError, nearest, shown
from purerl.report import colours
from purerl.report.curves import number, random_play
from purerl.runs import collection, differences, files, run_folder
from purerl.runs.sinks import read_rows
from purerl.statistics import bootstrap_band, interquartile_mean, running_mean, to_common_grid

COLOURS, DASHES = colours.COLOURS, colours.DASHES
MOST_SEED_LINES = 10
MOST_LEGEND_COLUMNS, ONE_COLUMN = 3, 8  # more labels than that share the legend's lines, if they are short
LABELS = {
    "step": "environment steps",
    "iteration": "iterations",
    "wall_time": "wall time [s]",
    "episode_return": "episode return [raw reward]",
    "episode_length": "episode length [steps]",
    "episodes": "episodes ended per row",
    "steps_per_second": "speed [steps/s]",
}
# Of these, random play has a mark.
RETURNS = ("episode_return", "evaluation_return")
# Formats by file suffix.
FORMATS = (".png", ".pdf", ".svg")
INK, PALE = "#222222", "#DDDDDD"
# On a phone, 6 inches are 390 pixels wide; 13 points are then about as large as the phone's own small text.
WIDTH, AXES_HEIGHT = 6.0, 3.6
TITLE_CHARACTERS, LABEL_CHARACTERS, DESCRIPTION_CHARACTERS = 46, 60, 68
TEXT_POINTS, SMALL_POINTS = 13, 11


class NoCurve(PurerlError):
    """A run that has nothing to draw yet."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """The curves of a run's seeds on a common grid.

    Attributes:
      config: the run's config.json.
      folder: the run folder.
      x: [P] grid.
      seeds: [S, P] values.
      window: number of rows that each value averages.
    """

    config: dict
    folder: Path
    x: np.ndarray
    seeds: np.ndarray
    window: int


def plot_run(folder: str | os.PathLike) -> Path:
    """Draws a run's return over its environment steps into <folder>/figures/return.png.

    Args:
      folder: the run folder.

    Returns:
      The path of the figure.

    Raises:
      PurerlError: as `plot_runs`.
    """
    return plot_runs([folder], Path(folder) / run_folder.FIGURES / "return.png")


def plot_runs(
    folders: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    x: str = "step",
    y: str = "episode_return",
    smooth: int | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Path:
    """Draws one line per run: the interquartile mean over its seeds, with a 95% bootstrap band.

    Up to ten seeds are also drawn as thin lines. A line covers only the x that all seeds have. The legend says what
    differs between the runs. The cells of a sweep that have no curve yet are left out, which stderr says.

    Args:
      folders: run folders, and sweep folders for all their cells.
      out: the figure's file, .png, .pdf or .svg; missing parent folders are created.
      x, y: names in the rows of metrics.jsonl.
      smooth: number of rows that each point averages, up to its own row (weighted by their episodes if y is an episode
        statistic); None takes a fiftieth of the rows, 1 does not smooth.
      labels: the runs' names in the legend; None for what differs.
      title: None for what the runs have in common.

    Returns:
      The path of the figure.

    Raises:
      PurerlError: a folder is not a run folder or has no rows, no row has x or y, an unknown figure format, another
        number of labels than of runs, a failed write.
    """
    out = Path(out)
    if out.suffix.lower() not in FORMATS:
        raise PurerlError(f"cannot draw a '{out.suffix}' figure ({out}); use one of {', '.join(FORMATS)}")
    if not folders:
        raise PurerlError("there is nothing to draw; name at least one run folder")
    if smooth is not None and smooth < 1:
        raise PurerlError(f"cannot smooth over {smooth} rows; use 1 or more")
    curves = _read_curves(folders, x, y, smooth)
    if labels is not None and len(labels) != len(curves):
        raise PurerlError(f"{len(labels)} labels for {len(curves)} runs: give one label for each run")
    figure = draw(curves, x, y, labels, title)
    data = image(figure, out.suffix[1:].lower())
    with files.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(out, data)
    return out


def image(figure: Figure, format: str) -> bytes:
    """A figure as the content of a file. Characters that the font lacks are drawn as boxes, without a warning."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(data, format=format, dpi=200, facecolor="white")
    return data.getvalue()


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_curves(folders: Sequence[str | os.PathLike], x: str, y: str, smooth: int | None) -> list[Curve]:
    """The curves of run folders, and of the cells of sweep folders that have one."""
    curves, without = [], []
    for folder in folders:
        if not collection.is_sweep(folder):
            curves.append(read_curve(folder, x, y, smooth))
            continue
        for cell in collection.expand([folder]):
            try:
                curves.append(read_curve(cell, x, y, smooth))
            except NoCurve as error:
                without.append((cell, error))
    if not curves:
        raise without[0][1]
    if without:
        what = "1 run" if len(without) == 1 else f"{len(without)} runs"
        print(f"purerl: note: left out {what} without a curve yet, such as {without[0][0]}", file=sys.stderr)
    return curves


def read_curve(folder: str | os.PathLike, x: str, y: str, smooth: int | None = None) -> Curve:
    """Reads the curves of a run's seeds, smooths them and interpolates them to a common grid.

    Args:
      folder: the run folder.
      x, y, smooth: as in `plot_runs`.

    Returns:
      The curves.

    Raises:
      PurerlError: as `plot_runs`; the seeds have no x in common.
    """
    folder = Path(folder)
    config = run_folder.load(folder)["config"]
    path = folder / run_folder.METRICS
    rows = read_rows(path) if path.exists() else []
    if not rows:
        raise NoCurve(f"the run in {folder} has no metrics yet; train it for at least one log period")
    names = {name for row in rows for name in row}
    for name in (x, y):
        if name not in names:
            known = ", ".join(sorted(names))
            raise PurerlError(f"no row of {path} has {shown(name)}.{nearest(name, names)} Known: {known}")
    points = [row for row in rows if _is_number(row.get(x)) and _is_number(row.get(y))]
    seeds = sorted({row.get("seed", 0) for row in rows})
    by_seed = [[row for row in points if row.get("seed", 0) == seed] for seed in seeds]
    if not all(by_seed):
        raise NoCurve(f"some seed of the run in {folder} has no '{y}' yet; train it for longer")
    window = smooth or max(1, round(len(rows) / len(seeds) / 50))
    try:
        grid, values = to_common_grid([_seed_curve(seed_rows, x, y, window) for seed_rows in by_seed])
    except ValueError as error:
        raise NoCurve(f"the seeds in {folder} have no '{x}' in common yet; train for longer") from error
    return Curve(config, folder, grid, values, window)


def _seed_curve(rows: list[dict], x: str, y: str, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(x [P], smoothed y [P]) of one seed."""
    weights = None
    if y.startswith("episode_") and all((number(row.get("episodes")) or 0) > 0 for row in rows):
        weights = np.array([row["episodes"] for row in rows], np.float64)
    values, window = np.array([row[y] for row in rows], np.float64), min(window, len(rows))
    return np.array([row[x] for row in rows], np.float64), running_mean(values, window, weights)


def _is_number(value: object) -> bool:
    return number(value) is not None


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw(
    curves: Sequence[Curve], x: str, y: str, labels: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Draws curves into a figure, with space for the title above the axes and for the legend below them.

    Args:
      curves: one per run.
      x, y: names of metrics, for the axes.
      labels, title: as in `plot_runs`.

    Returns:
      The figure, not saved yet.
    """
    common, different = name_curves(curves)
    title_lines = textwrap.wrap(_visible(title or common), TITLE_CHARACTERS)
    head, labels = _columns(curves, different) if labels is None else ("", [_visible(label) for label in labels])
    label_lines = [textwrap.fill(label, LABEL_CHARACTERS) for label in labels] if len(curves) > 1 else []
    columns = _legend_columns(label_lines)
    rows = -(-sum(label.count("\n") + 1 for label in label_lines) // columns) + head.count("\n") + bool(head)
    mark = random_play(curve.config for curve in curves) if y in RETURNS else None
    description = textwrap.wrap(_describe(curves, mark), DESCRIPTION_CHARACTERS)
    header = 0.28 * len(title_lines) + 0.4 + 0.2 * (len(description) - 1)
    footer = 0.24 * rows + (0.1 if label_lines else 0)
    height = header + AXES_HEIGHT + footer
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", rect=(0, footer / height, 1, 1 - (header + footer) / height))
    axes = figure.add_subplot()
    palette = colours.palette(len(curves))
    for index, curve in enumerate(curves):
        _draw_curve(axes, curve, palette[index], colours.dashes(index, len(curves)), beside=len(curves) - 1)
    if mark is not None:
        axes.axhline(mark, color=INK, linewidth=1.2, linestyle=":", alpha=0.6, zorder=0)
    dress(axes, x, y)
    write_header(figure, "\n".join(title_lines), "\n".join(description))
    if label_lines:
        _add_legend(figure, axes, label_lines, columns, head)
    return figure


def _columns(curves: Sequence[Curve], labels: list[str]) -> tuple[str, list[str]]:
    """(the legend's head, its labels): for many runs the head names the fields, and the labels are their values."""
    head, labels = shared_head([curve.config for curve in curves], labels)
    return textwrap.fill(_visible(head), LABEL_CHARACTERS), [_visible(label) for label in labels]


def shared_head(configs: Sequence[dict], labels: list[str]) -> tuple[str, list[str]]:
    """(the names of the fields that differ, the runs' values of them) for many runs; ("", labels) for others.

    Args:
      configs: the runs' config.json.
      labels: from `differences.labels`.
    """
    found = differences.columns(configs) if len(configs) > ONE_COLUMN else None
    return ("", labels) if found is None or len(found[0]) == 1 else (", ".join(found[0]), found[1])


def _legend_columns(labels: Sequence[str]) -> int:
    """Columns of the legend: one for a few labels, or long ones; up to three for many."""
    if len(labels) <= ONE_COLUMN:
        return 1
    longest = max(map(len, labels)) + 8  # with the line, and the room between columns
    return max(1, min(MOST_LEGEND_COLUMNS, (LABEL_CHARACTERS + 8) // longest))


def _draw_curve(axes: Axes, curve: Curve, colour: str, dashes: str | tuple, beside: int) -> None:
    """Draws a run; the more runs are beside it, the fainter are its seeds and its band, which would hide the others."""
    count, many = len(curve.seeds), beside >= len(COLOURS)
    marker = "o" if len(curve.x) == 1 else ""  # a line of one point is invisible
    if 1 < count <= MOST_SEED_LINES and not many:
        alpha = 0.2 if beside else 0.35
        axes.plot(curve.x, curve.seeds.T, color=colour, linewidth=0.7, alpha=alpha, marker=marker)
    if count > 1:
        low, high = bootstrap_band(curve.seeds)
        axes.fill_between(curve.x, low, high, color=colour, alpha=0.05 if many else 0.18, linewidth=0)
    middle, width = interquartile_mean(curve.seeds, axis=0), 1.5 if many else 2.2
    axes.plot(curve.x, middle, color=colour, linewidth=width, linestyle=dashes, marker=marker, label="middle")


def dress(axes: Axes, x: str, y: str) -> None:
    """Sets the labels, ticks, grid and frame that all figures here share.

    Args:
      axes: to change.
      x, y: names of metrics.
    """
    style = {"fontsize": TEXT_POINTS, "color": INK, "parse_math": False}
    axes.set_xlabel(_visible(_axis_label(x)), **style)
    axes.set_ylabel(_visible(_axis_label(y)), **style)
    for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
        if name in ("step", "iteration", "steps_per_second"):
            axis.set_major_formatter(EngFormatter(sep=""))
    axes.locator_params(axis="x", nbins=6)
    axes.locator_params(axis="y", nbins=6)
    axes.tick_params(labelsize=TEXT_POINTS, labelcolor=INK, color=PALE, length=4)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    if x in ("step", "iteration", "wall_time"):
        axes.set_xlim(left=0)


def _axis_label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def write_header(figure: Figure, title: str, description: str) -> None:
    """Writes the title above the axes, and below it, in small letters, what the lines or points mean."""
    inch = 1 / figure.get_figheight()
    style = {"x": 0.02, "verticalalignment": "top", "parse_math": False}
    figure.text(y=1 - 0.1 * inch, s=title, fontsize=TEXT_POINTS + 1, fontweight="bold", color=INK, **style)
    below = 0.15 + 0.28 * (title.count("\n") + 1)
    figure.text(y=1 - below * inch, s=description, fontsize=SMALL_POINTS, color="#666666", **style)


def _add_legend(figure: Figure, axes: Axes, labels: Sequence[str], columns: int, head: str) -> None:
    lines = [line for line in axes.get_lines() if line.get_label() == "middle"]
    style = {"fontsize": SMALL_POINTS, "frameon": False, "labelcolor": INK, "borderpad": 0.2, "columnspacing": 1.2}
    legend = figure.legend(lines, labels, loc="lower left", ncols=columns, **style)
    legend.set_title(head, {"size": SMALL_POINTS})
    legend.set_alignment("left")
    legend.set_in_layout(False)  # its space is already reserved
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)


def name_curves(curves: Sequence[Curve]) -> tuple[str, list[str]]:
    """Splits the names of runs: what they have in common becomes the title, what differs the labels.

    Runs with the same agent, preset and environment are labelled with the settings that differ.

    Args:
      curves: one per run.

    Returns:
      The title, and one label per curve.
    """
    configs = [curve.config for curve in curves]
    title = differences.joined(differences.common(configs)) or f"{len(curves)} runs"
    labels = differences.labels(configs, [curve.folder.resolve().name for curve in curves])
    return _visible(title), [_visible(label) for label in labels]


def _visible(text: str) -> str:
    """A name from a file that can be drawn: at most 200 visible characters, others as question marks."""
    return "".join(character if character.isprintable() else "?" for character in text[:200])


def _describe(curves: Sequence[Curve], mark: float | None) -> str:
    """What the lines and bands mean, such as "IQM of 8 seeds, 95% bootstrap band, smoothed over 4 rows"."""
    counts = sorted({len(curve.seeds) for curve in curves})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = ["1 seed"] if counts == [1] else [f"IQM of {seeds} seeds", "95% bootstrap band"]
    windows = sorted({curve.window for curve in curves})
    if windows[-1] > 1:
        rows = str(windows[0]) if len(windows) == 1 else f"{windows[0]} to {windows[-1]}"
        parts.append(f"smoothed over {rows} rows")
    if mark is not None:
        parts.append(f"dotted: random play {mark:.3g}")
    return ", ".join(parts)
