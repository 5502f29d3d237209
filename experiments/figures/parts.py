"""What figures are put together from: numbers over seeds, panels, curves, intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing

from purerl import statistics
from purerl.report import plots

CAPTION_HEIGHT = 0.5


def summary(finals: Sequence[float | None]) -> tuple[float, float, float]:
    """(IQM, low, high) of final returns over seeds, 95% bootstrap interval; NaN if a seed has no final return."""
    scores = np.array([np.nan if value is None else value for value in finals], np.float64)
    if np.isnan(scores).any():
        return (float("nan"),) * 3
    return (float(statistics.interquartile_mean(scores)), *statistics.stratified_bootstrap_interval(scores))


def chance(ours: Sequence[float] | np.ndarray, base: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """(P(a run of ours is above a run of the base), low, high) of final returns over seeds, 95% bootstrap interval."""
    pair = np.array(ours, np.float64), np.array(base, np.float64)
    return (float(statistics.probability_of_improvement(*pair)), *statistics.probability_of_improvement_interval(*pair))


def text(interval: tuple[float, float, float]) -> str:
    """ "15.8 (14.8 to 18.6)" """
    return "{:.3g} ({:.3g} to {:.3g})".format(*interval)


def panels(titles: Sequence[str], height: float = 2.9) -> tuple[Drawing, Iterator[Axes]]:
    """A drawing with one panel per title, one below the other for reading on a phone; and its axes."""
    drawing = Drawing(figsize=(plots.WIDTH, height * len(titles) + CAPTION_HEIGHT))
    FigureCanvasAgg(drawing)
    drawing.set_layout_engine("constrained")
    axes = drawing.subplots(len(titles), squeeze=False)[:, 0]
    for one, title in zip(axes, titles, strict=True):
        one.set_title(title, fontsize=plots.TEXT_POINTS, loc="left", color=plots.INK)
    return drawing, iter(axes)


def draw_curves(axes: Axes, entries: dict[str, dict[str, Any]], metric: str, y: str | None = None) -> None:
    """Draws the curves of {label: entry} in one panel; an entry without the metric is left out."""
    for index, (label, entry) in enumerate(entries.items()):
        curve = entry["curves"].get(metric)
        if curve:
            colour = plots.COLOURS[index % len(plots.COLOURS)]
            marker = "o" if len(curve["step"]) == 1 else ""
            axes.plot(curve["step"], curve["iqm"], color=colour, linewidth=2, label=label, marker=marker)
            axes.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
    plots.dress(axes, "step", y or metric)
    legend(axes)


def legend(axes: Axes) -> None:
    """Adds the panel's legend, if there are any labels."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=plots.SMALL_POINTS)


def draw_intervals(
    axes: Axes,
    labels: Sequence[str],
    intervals: Sequence[tuple[float, float, float]],
    x: str,
    highlighted: Sequence[str] = (),
) -> None:
    """Draws (value, low, high) of each label as a point with its interval, the first on top; some in another colour."""
    for place, label, (value, low, high) in zip(range(len(labels))[::-1], labels, intervals, strict=True):
        errors = np.maximum([[value - low], [high - value]], 0)
        axes.errorbar(value, place, xerr=errors, fmt="o", color=plots.COLOURS[label in highlighted], capsize=3)
    plots.dress(axes, x, "")
    axes.set_yticks(range(len(labels))[::-1], labels, fontsize=plots.SMALL_POINTS)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_ylabel("")
