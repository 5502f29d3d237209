"""Draws a sweep: the final return of every cell over the swept fields."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from purerl.report import plots
from purerl.runs import files
from purerl.runs.differences import short

# Values of a grid that span more than this are drawn on a logarithmic axis, if they are positive.
WIDE = 20.0
MOST_TICKS = 8
PANEL_HEIGHT, LINES_HEIGHT = 2.5, 3.6
BEST, OTHERS, PRUNED = plots.COLOURS[1], plots.COLOURS[0], "0.5"


def draw(
    ranking: Sequence[dict[str, Any]],
    fields: Sequence[str],
    out: Path,
    title: str = "",
    laws: Mapping[str, str] | None = None,
    pruned: Sequence[dict[str, Any]] = (),
) -> Path:
    """Writes the figure of a sweep's ranking.

    A grid over one number shows the interquartile mean over that number, with its 95% interval; over a number and
    another field, one line per value of the other field. All other sweeps have a panel per field, in which each cell is
    a point, and the best one has another colour.

    Args:
      ranking: rows of `sweeps.Sweep.ranking`, best first.
      fields: the names of the swept fields.
      out: the figure's file, a PNG.
      title: what was trained: agent, preset and environment.
      laws: {field: "grid", "log", "uniform" or "choice"}, how its values were chosen. Fields that were drawn
        log-uniformly have a logarithmic axis.
      pruned: rows of `sweeps.Sweep.pruned`: crosses, at the return they had when they were stopped.

    Returns:
      The path of the figure.

    Raises:
      PurerlError: the figure cannot be written.
    """
    known, laws = [row for row in ranking if row["iqm"] is not None], laws or {}
    over, others = _line_of(ranking, fields, laws)
    figure = _panels(known, fields, laws, title, pruned) if over is None else _lines(known, over, others, laws, title)
    data = plots.image(figure, "png")
    with files.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(out, data)
    return out


def _line_of(
    ranking: Sequence[dict[str, Any]], fields: Sequence[str], laws: Mapping[str, str]
) -> tuple[str | None, list[str]]:
    """(the number that lines are drawn over, the other field if there is one); (None, []) if lines cannot show it."""
    numeric = [name for name in fields if all(_is_number(row[name]) for row in ranking)]
    numeric = [name for name in numeric if len({row[name] for row in ranking}) > 1]
    if not numeric or len(fields) > 2 or any(laws.get(name, "grid") != "grid" for name in fields):
        return None, []
    over = max(numeric, key=lambda name: len({row[name] for row in ranking}))
    others = [name for name in fields if name != over]
    places = {(row[over], *(str(row[name]) for name in others)) for row in ranking}
    fits = len(places) == len(ranking) and len(_groups(ranking, others)) <= len(plots.COLOURS)
    return (over, others) if fits else (None, [])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _groups(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The different values of some fields, in order."""
    return list(dict.fromkeys(tuple(str(row[name]) for name in names) for row in _in_order(rows, names)))


def _in_order(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: [(0, row[n], "") if _is_number(row[n]) else (1, 0, str(row[n])) for n in names])


# --- figures ---------------------------------------------------------------------------------------------------------


def _figure(rows: Sequence[dict[str, Any]], title: str, height: float, more: str = "") -> Figure:
    """An empty figure with its title, and a line that says what the points are."""
    lines = textwrap.wrap(title, plots.TITLE_CHARACTERS)
    header = 0.28 * len(lines) + 0.4
    figure = Figure(figsize=(plots.WIDTH, height + header))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, height / (height + header)))
    plots.write_header(figure, "\n".join(lines), _describe(rows) + more)
    return figure


def _describe(rows: Sequence[dict[str, Any]]) -> str:
    """What the points mean, such as "final return of 30 settings: IQM of 4 seeds, 95% interval"."""
    counts = sorted({row["seeds"] for row in rows})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0]) if counts else "no"
    means = "1 seed" if counts == [1] else f"IQM of {seeds} seeds, 95% interval"
    return f"final return of {len(rows)} setting{'' if len(rows) == 1 else 's'}: {means}"


def _lines(
    rows: Sequence[dict[str, Any]], over: str, others: Sequence[str], laws: Mapping[str, str], title: str
) -> Figure:
    """The return over one number, a line per value of the other field."""
    figure = _figure(rows, title, LINES_HEIGHT)
    axes = figure.add_subplot()
    groups = _groups(rows, others)
    for colour, group in zip(plots.COLOURS, groups, strict=False):
        mine = [row for row in _in_order(rows, [over]) if tuple(str(row[name]) for name in others) == group]
        label = ", ".join(f"{name} {short(mine[0][name])}" for name in others) if mine else ""
        _points(axes, [row[over] for row in mine], mine, colour, "o-", label)
    plots.dress(axes, over, "episode_return")
    values = sorted({row[over] for row in rows})
    _scale(axes, values, laws.get(over), MOST_TICKS)
    if others:
        legend = axes.legend(frameon=False, fontsize=plots.SMALL_POINTS)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _panels(
    rows: Sequence[dict[str, Any]],
    fields: Sequence[str],
    laws: Mapping[str, str],
    title: str,
    pruned: Sequence[dict[str, Any]] = (),
) -> Figure:
    """A panel per field, in which each setting is a point, and each pruned one a cross."""
    pruned = [row for row in pruned if row["iqm"] is not None]
    columns = 1 if len(fields) == 1 else 2
    lines = -(-len(fields) // columns)
    height = (LINES_HEIGHT if len(fields) == 1 else PANEL_HEIGHT) * lines
    figure = _figure(rows, title, height, f"; crosses: {len(pruned)} pruned" if pruned else "")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for place, (axes, field) in enumerate(zip(panels, fields, strict=False)):
        _panel(axes, rows, field, laws.get(field), pruned)
        if place % columns:
            axes.set_ylabel("")
    for axes in panels[len(fields) :]:
        axes.set_visible(False)
    return figure


def _panel(
    axes: Axes, rows: Sequence[dict[str, Any]], field: str, law: str | None, pruned: Sequence[dict[str, Any]]
) -> None:
    every = [*rows, *pruned]
    numbers = all(_is_number(row[field]) for row in every)
    words = [] if numbers else list(dict.fromkeys(short(row[field]) for row in _in_order(every, [field])))
    everywhere = [row[field] if numbers else words.index(short(row[field])) for row in every]
    places, stopped = everywhere[: len(rows)], everywhere[len(rows) :]
    axes.plot(stopped, [row["iqm"] for row in pruned], "x", color=PRUNED, markersize=4, alpha=0.7)
    _points(axes, places[1:], rows[1:], OTHERS, "o")
    _points(axes, places[:1], rows[:1], BEST, "o")  # the best one, over the others
    plots.dress(axes, field, "episode_return")
    axes.set_ylabel("episode return", fontsize=plots.SMALL_POINTS)
    axes.xaxis.label.set_fontsize(plots.SMALL_POINTS)
    axes.tick_params(labelsize=plots.SMALL_POINTS - 1)
    if numbers:
        _scale(axes, sorted(set(everywhere)), law, MOST_TICKS // 2)
        return
    axes.set_xticks(range(len(words)), words, rotation=30 if sum(map(len, words)) > 24 else 0)
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
    axes.set_xlim(-0.5, max(len(words), 1) - 0.5)


def _points(
    axes: Axes, x: Sequence[Any], rows: Sequence[dict[str, Any]], colour: str, style: str, label: str = ""
) -> None:
    """Draws the interquartile means, with the intervals of rows with several seeds."""
    middle = np.array([row["iqm"] for row in rows], float)
    spread = None
    if any(row["seeds"] > 1 for row in rows):
        spread = [middle - [row["low"] for row in rows], [row["high"] for row in rows] - middle]
    pale = style == "o"
    axes.errorbar(
        *(x, middle, spread),
        fmt=style,
        color=colour,
        markersize=5,
        capsize=0 if pale else 3,
        elinewidth=0.8 if pale else 1.5,
        alpha=0.75 if pale else 1,
        label=label or None,
    )


def _scale(axes: Axes, values: Sequence[float], law: str | None, most_ticks: int) -> None:
    """Scales the axis of some numbers, lowest first: few numbers, chosen and not drawn, are its ticks.

    It is logarithmic for numbers that were drawn so, and for positive ones that span much if they were chosen.
    """
    if values and values[0] > 0 and (law == "log" or (law != "uniform" and values[-1] / values[0] >= WIDE)):
        axes.set_xscale("log")
    if 0 < len(values) <= most_ticks and law not in ("log", "uniform"):
        axes.set_xticks(values, [f"{value:g}" for value in values], rotation=30 if len(values) > 5 else 0)
        axes.minorticks_off()
