"""Draws a sweep: the final return over the swept fields."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from purerl.report import plots
from purerl.runs import files

# Values that span more than this are drawn on a logarithmic axis.
WIDE = 20.0
MOST_BARS = 24


def draw(ranking: Sequence[dict[str, Any]], fields: Sequence[str], out: Path) -> Path:
    """Writes the figure of a sweep's ranking.

    If one number was swept, the figure shows the interquartile mean over that number, with its 95% interval. If a
    number and another field were swept, it has one line per value of the other field. Otherwise it lists the best
    settings.

    Args:
      ranking: rows of `sweeps.Sweep.ranking`.
      fields: the names of the swept fields.
      out: the figure's file, a PNG.

    Returns:
      The path of the figure.

    Raises:
      PurerlError: the figure cannot be written.
    """
    known = [row for row in ranking if row["iqm"] is not None]
    numeric = [name for name in fields if all(_is_number(row[name]) for row in ranking)]
    numeric = [name for name in numeric if len({row[name] for row in ranking}) > 1]
    numeric.sort(key=lambda name: len({row[name] for row in ranking}), reverse=True)
    others = [name for name in fields if name not in numeric[:1]]
    groups = list(dict.fromkeys(tuple(str(row[name]) for name in others) for row in _in_order(ranking, others)))
    over = numeric[0] if numeric and len(others) <= 1 and len(groups) <= len(plots.COLOURS) else None
    repeated = over is not None and len({(row[over], *(str(row[n]) for n in others)) for row in known}) < len(known)
    rows = 1 if over and not repeated else len(known[:MOST_BARS])
    figure = Figure(figsize=(plots.WIDTH, 4.2 if over and not repeated else 1.4 + 0.34 * max(rows, 1)))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    if over and not repeated:
        _draw_lines(axes, known, over, others, groups)
    else:
        _draw_list(axes, known[:MOST_BARS], fields)
    counts = sorted({row["seeds"] for row in known})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0]) if counts else "no"
    axes.set_title(f"IQM of the final return over {seeds} seeds, 95% interval", fontsize=plots.SMALL_POINTS, loc="left")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=200, facecolor="white")
    with files.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(out, data.getvalue())
    return out


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_order(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: [(0, row[n], "") if _is_number(row[n]) else (1, 0, str(row[n])) for n in names])


def _draw_lines(
    axes: Axes, rows: Sequence[dict[str, Any]], over: str, others: Sequence[str], groups: Sequence[tuple[str, ...]]
) -> None:
    for colour, group in zip(plots.COLOURS, groups, strict=False):
        mine = [row for row in _in_order(rows, [over]) if tuple(str(row[name]) for name in others) == group]
        if mine:
            label = ", ".join(f"{name} {value}" for name, value in zip(others, group, strict=True))
            middle = [row["iqm"] for row in mine]
            spread = [[row["iqm"] - row["low"] for row in mine], [row["high"] - row["iqm"] for row in mine]]
            axes.errorbar(
                [row[over] for row in mine], middle, spread, fmt="o-", color=colour, capsize=3, label=label or None
            )
    plots.dress(axes, over, "episode_return")
    values = sorted({row[over] for row in rows})
    if values and values[0] > 0 and values[-1] / values[0] >= WIDE:
        axes.set_xscale("log")
    if 0 < len(values) <= 8:
        axes.set_xticks(values, [f"{value:g}" for value in values], rotation=30 if len(values) > 5 else 0)
        axes.minorticks_off()
    if others:
        axes.legend(frameon=False, fontsize=plots.SMALL_POINTS)


def _draw_list(axes: Axes, rows: Sequence[dict[str, Any]], fields: Sequence[str]) -> None:
    for place, row in enumerate(rows):
        spread = [[row["iqm"] - row["low"]], [row["high"] - row["iqm"]]]
        axes.errorbar(row["iqm"], -place, xerr=spread, fmt="o", color=plots.COLOURS[0], capsize=3)
    plots.dress(axes, "episode_return", "")
    labels = [", ".join(_short(row[name]) for name in fields) for row in rows]
    axes.set_yticks([-place for place in range(len(rows))], labels, fontsize=plots.SMALL_POINTS)
    axes.set_ylabel(", ".join(fields), fontsize=plots.SMALL_POINTS)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
