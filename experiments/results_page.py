"""docs/results.md, made from the recorded JSON files by the template beside it: `python -m purerl.experiments.record`.

The template holds the words and no number: every number is an expression over the files, the published numbers or the
presets. Words that judge ("above", "level with") follow from the intervals, so they change with the files.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from purerl import registry
from purerl.envs import procgen_scores
from purerl.experiments import results_tables as tables
from purerl.experiments.figures import commands, dqn_pro, parts, ppg, published, pull_or_step_size
from purerl.experiments.presets import value_based
from purerl.runs import files

RESULTS = Path("experiments/results")
TEMPLATE = Path("docs/results.md.jinja")
SCALE = "small"
# Figures that the template itself describes; others that are recorded get a line with their checks.
DESCRIBED = (
    *("ppg/sample-efficiency", "ppg/single-network", "ppg/sample-reuse", "procgen/generalization"),
    *("dqn-pro/learning-curves", "dqn-pro/bars", "dqn-pro/target-distance", "dqn-pro/radar"),
    *("dqn-pro/median-human-normalized", "dqn-pro/planning-with-noise", "dqn-pro/pull-or-step-size"),
    "performance/seeds",
)
Interval = tuple[float, float, float]


def page(root: Path) -> str:
    """The text of docs/results.md.

    Args:
      root: the checkout, which holds the recorded files and the template.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"num": number, "interval": interval, "listed": listed}
    text = environment.from_string((root / TEMPLATE).read_text()).render(_names(root / RESULTS))
    return text.rstrip() + "\n"


def _names(results: Path) -> dict[str, Any]:
    """What the template can use."""
    folder = results / "figures"

    @functools.cache
    def run(name: str) -> dict[str, Any]:
        return files.read_json(results / f"{name}.json")

    @functools.cache
    def figure(name: str) -> dict[str, Any]:
        return commands.load(registry.figures()[name], SCALE, folder)

    recorded = [name for name, one in registry.figures().items() if commands.path_of(one, SCALE, folder).is_file()]
    return {
        "run": run,
        "bench": lambda name: run(f"bench-cpu-{name}")[name],
        "figure": figure,
        "links": links,
        "link": lambda name: f"[JSON]({tables.HERE}/{name}.json)",
        "recorded": recorded,
        "others": [name for name in recorded if name not in DESCRIBED],
        "verdicts": lambda name: verdicts(registry.figures()[name].verify(figure(name))),
        "checks": lambda name: registry.figures()[name].verify(figure(name)),
        "paper_cells": lambda name: registry.figures()[name].cells("paper"),
        "preset": lambda agent, name: value_based.DEFAULTS | dict(registry.presets_of(agent)[name].config),
        "devices": sorted(devices(results)),
        "tables": tables,
        "results": results,
        "summary": parts.summary,
        "chance": parts.chance,
        "sides": sides,
        "overlap": overlap,
        "infinity": math.inf,
        "ppg": ppg,
        "dqn_pro": dqn_pro,
        "pull": pull_or_step_size,
        "published": published,
        "scores": procgen_scores,
        "value_based": value_based,
    }


# --- words and numbers -----------------------------------------------------------------------------------------------


def number(value: float, spec: str = ",.0f") -> str:
    """A number in Python's format language: 15.8 of (15.83, ".1f")."""
    return format(value, spec)


def interval(found: Interval, spec: str = ".3g") -> str:
    """ "15.8 (14.8 to 18.6)" """
    return "{} ({} to {})".format(*(format(value, spec) for value in found))


def listed(items: Iterable[str]) -> str:
    """ "a, b and c", and "none" of nothing."""
    *first, last = [*items] or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def sides(found: dict[Any, Interval], middle: float = 0.5) -> dict[str, list[Any]]:
    """The names whose whole interval is above or below the middle, and those whose interval contains it ("level")."""
    result: dict[str, list[Any]] = {"above": [], "below": [], "level": []}
    for name, (_, low, high) in found.items():
        result["above" if low > middle else "below" if high < middle else "level"].append(name)
    return result


def overlap(intervals: Sequence[Interval]) -> bool:
    """Whether all intervals have a point in common."""
    return max(low for _, low, _ in intervals) <= min(high for *_, high in intervals)


def verdicts(checks: Sequence[commands.Check]) -> str:
    """How many checks of a figure hold: "8 hold, 1 does not, 2 are not judged"."""
    counts = [sum(check.holds is verdict for check in checks) for verdict in (True, False, None)]
    return "{} hold, {} do not hold, {} are not judged".format(*counts)


# --- files -----------------------------------------------------------------------------------------------------------


def links(figure: str) -> str:
    """Links to a recorded figure's drawing and numbers."""
    place = f"{tables.HERE}/figures/{SCALE}/{figure.replace('/', '-')}"
    return f"[PNG]({place}.png), [JSON]({place}.json)"


def devices(results: Path) -> set[str]:
    """The kinds of device that the recorded files were made on."""
    kept = (files.read_json(path) for path in results.rglob("*.json"))
    reports = (one.get("environment") or one.get("summary") or one for one in kept)
    return {report["device"]["kind"] for report in reports}
