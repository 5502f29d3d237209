"""The charts of a report: axes, and the shapes of an SVG of 1000 x 1000 units that is scaled to the page's width.

The text around the SVG (ticks, legend) is HTML, so that it keeps its size on a phone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from purerl.report import colours
from purerl.report.curves import POINTS, Curve, Run, number, random_play, read_curve
from purerl.report.plots import LABELS, MOST_SEED_LINES, RETURNS
from purerl.report.wording import MINUS, compact
from purerl.runs.sinks import COORDINATES

MAIN_METRICS = RETURNS
MOST_OTHER_METRICS, SMALL_POINTS = 40, 80
COLOURS, DASHES = 7, 3  # in the style sheet; `palette_style` has the colours of more runs


# --- axes ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a chart: its low and high end, and the ticks between them."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, values: np.ndarray | float) -> np.ndarray | float:
        """Position on the axis: 0 is the low end, 1 the high end."""
        return (values - self.low) / (self.high - self.low)

    @property
    def decimals(self) -> int:
        """Decimals of the ticks' labels."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else self.high - self.low
        return max(0, -math.floor(math.log10(step) + 1e-9))


def axis(low: float, high: float, count: int) -> Axis:
    """An axis with about `count` ticks at round numbers."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(nice for nice in (1, 2, 5, 10) if nice * unit >= 0.75 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(tick * step for tick in range(first, last + 1)))


def axis_around(low: float, high: float, count: int) -> Axis:
    """An axis with some room around the values; it starts at 0 if `low` is positive and below 40% of `high`."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    room = 0.05 * (high - low)
    return axis(0.0 if 0 <= low < 0.4 * high else low - room, high + room, count)


# --- charts ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tick:
    """A label at a percentage of an axis, from the left or from the top."""

    percent: float
    label: str


@dataclasses.dataclass(frozen=True)
class Shape:
    """A path of the SVG.

    Attributes:
      kind: "line", "line dot", "band", "seed", or "mark" for random play.
      look: the classes of its colour and its dashes.
      run: the index of its run in the chart; None for shapes that the script does not read.
      path: the path's `d`, which contains only numbers.
    """

    kind: str
    look: str
    run: int | None
    path: str


@dataclasses.dataclass(frozen=True)
class LegendItem:
    """A run in the legend; `curve` is None if it has none."""

    run: int
    look: str
    name: str
    curve: Curve | None


@dataclasses.dataclass(frozen=True)
class Chart:
    """A metric of all runs of an environment.

    Attributes:
      title: the metric's label.
      about: what lines and bands mean.
      small: whether it is one of many small charts, without intervals in the legend.
      many: whether there are so many runs that their bands would hide the lines.
      head: the fields whose values the legend shows; "" if its names say it.
      x, y: the axes.
      x_ticks, y_ticks: the labels of the axes.
      shapes: the drawn shapes.
      legend: the runs.
    """

    title: str
    about: str
    small: bool
    many: bool
    head: str
    x: Axis
    y: Axis
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    shapes: list[Shape]
    legend: list[LegendItem]

    @property
    def gutter(self) -> int:
        """Characters of the longest label on the left."""
        return max((len(tick.label) for tick in self.y_ticks), default=1)


def other_metrics(group: Sequence[Run]) -> list[str]:
    """Names of the numbers in the rows, without the main metrics and the columns that identify a row."""
    found = {
        name
        for run in group
        for rows in run.rows.values()
        for row in rows
        for name, value in row.items()
        if number(value) is not None
    }
    return sorted(found - {*COORDINATES, *MAIN_METRICS, "wall_time"})[:MOST_OTHER_METRICS]


def chart(
    metric: str,
    group: Sequence[Run],
    names: Sequence[str],
    head: str = "",
    single: bool = False,
    small: bool = False,
) -> Chart | None:
    """A metric of all runs of an environment; None if no run has it.

    Args:
      metric: its name in the rows.
      group: the runs; their order sets their colours.
      names: their names in the legend.
      head: what the names are values of.
      single: whether the lines of up to ten seeds are drawn as well.
      small: whether it is one of many small charts.
    """
    found = [read_curve(run, metric, SMALL_POINTS if small else POINTS) for run in group]
    curves = [curve for curve in found if curve is not None]
    if not curves:
        return None
    with_seeds = single and 1 < len(curves[0].seeds) <= MOST_SEED_LINES
    shown = [y for c in curves for y in (c.low, c.middle, c.high, *(c.seeds if with_seeds else []))]
    mark = random_play(run.config for run in group) if metric in MAIN_METRICS else None
    shown += [] if mark is None else [np.array([mark])]
    start, end = min(min(c.x.min() for c in curves), 0), max(c.x.max() for c in curves)
    ticks = 3 if small else 5
    x = axis(float(start), float(end if end > start else start + 1), ticks)
    y = axis_around(min(float(v.min()) for v in shown), max(float(v.max()) for v in shown), ticks)
    many, decimals = len(group) > COLOURS, 0 if small else 1
    shapes = [] if mark is None else [Shape("mark", "", None, f"M0 {1000 * (1 - y.share(mark)):.1f}H1000")]
    shapes += [
        shape
        for place, curve in enumerate(found)
        if curve is not None
        for shape in _shapes(_look(place, many), place, curve, x, y, decimals, with_seeds, not (many and small))
    ]
    title = LABELS.get(metric, metric.replace("_", " "))
    return Chart(
        title=title[:1].upper() + title[1:],
        about=_about(curves) + ("" if mark is None else f", dotted: random play {mark:.3g}".replace("-", MINUS)),
        small=small,
        many=many,
        head=head,
        x=x,
        y=y,
        x_ticks=[Tick(100 * x.share(tick), compact(tick)) for tick in x.ticks],
        y_ticks=[Tick(100 * (1 - y.share(tick)), _tick_label(tick, y.decimals)) for tick in y.ticks],
        shapes=shapes,
        # Every run gets an episode return after some time; other metrics may not exist for its agent.
        legend=[
            LegendItem(place, _look(place, many), name, curve)
            for place, (name, curve) in enumerate(zip(names, found, strict=True))
            if curve is not None or metric == MAIN_METRICS[0]
        ],
    )


def _shapes(
    look: str, place: int, curve: Curve, x: Axis, y: Axis, decimals: int, with_seeds: bool, with_band: bool
) -> list[Shape]:
    """A run's shapes, from back to front."""

    def path(steps: np.ndarray, values: np.ndarray) -> str:
        units = 1000 * x.share(steps), 1000 * (1 - y.share(values))
        across, down = (np.char.mod(f"%.{decimals}f", part) for part in units)
        return "M" + "L".join(f"{a} {d}" for a, d in zip(across, down, strict=True))

    shapes = []
    dot = len(curve.x) == 1  # a line of length 0 with round ends is a dot
    if with_seeds:
        shapes += [Shape("seed", look, None, path(curve.x, seed)) for seed in curve.seeds]
    if len(curve.seeds) > 1 and with_band and not dot:
        outline = path(np.append(curve.x, curve.x[::-1]), np.append(curve.low, curve.high[::-1]))
        shapes.append(Shape("band", look, place, f"{outline}Z"))
    line = path(curve.x, curve.middle)
    return [*shapes, Shape("line dot", look, place, f"{line}h0") if dot else Shape("line", look, place, line)]


def _look(place: int, many: bool) -> str:
    return f"c{place} d{place % DASHES if many else 0}"


def palette_style(count: int) -> str:
    """The style sheet's colours for the runs of an environment if they are more than COLOURS, in both schemes."""
    if count <= COLOURS:
        return ""
    light, dark = colours.palette(count), colours.palette(count, colours.ON_DARK)

    def variables(palette: Sequence[str]) -> str:
        return f":root {{ {' '.join(f'--c{place}: {colour};' for place, colour in enumerate(palette))} }}"

    classes = "\n".join(f".c{place} {{ --colour: var(--c{place}); }}" for place in range(COLOURS, count))
    return f"{variables(light)}\n@media (prefers-color-scheme: dark) {{ {variables(dark)} }}\n{classes}\n"


def _tick_label(value: float, decimals: int) -> str:
    if decimals > 4:
        return f"{value:.1e}".replace("-", MINUS) if value else "0"
    if abs(value) >= 10_000:
        return compact(value).replace("-", MINUS)
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def _about(curves: Sequence[Curve]) -> str:
    """What lines and bands mean, such as "IQM of 8 seeds, 95% band, mean of 4 rows"."""
    counts = sorted({len(curve.seeds) for curve in curves})
    windows = sorted({curve.window for curve in curves})
    parts = ["1 seed"] if counts == [1] else [f"IQM of {_span(counts)} seeds", "95% band"]
    if windows[-1] > 1:
        parts.append(f"mean of {_span(windows)} rows")
    return ", ".join(parts)


def _span(numbers: Sequence[int]) -> str:
    """The lowest and the highest of sorted numbers: "4", or "4 to 8"."""
    return " to ".join(map(str, sorted({numbers[0], numbers[-1]})))
