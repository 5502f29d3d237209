"""Runs on Procgen beside published curves, step by step: what `purerl figure verify` prints.

A run is an entry of a figure's JSON (see `figures.commands`): nothing here needs JAX or a game. Published numbers are
shown at whatever steps a run has reached, and every difference between the protocols is named. None is judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from purerl import registry
from purerl.experiments.published import curves
from purerl.experiments.published.curves import Curve, spread

FAMILIES = ("procgen", "procgen-jax")
MILESTONES = tuple(n * 1_000_000 for n in (1, 2, 4, 8, 16, 25, 50, 100, 200))
METRICS = {"train": "episode_return", "test": "evaluation_return"}
_ENVIRONMENTS = {"easy": 64, "hard": 256}  # of the published runs
_LIMITED = {"easy": 200, "hard": 500}
_MANY = 10_000  # from this number on, levels stand for all levels
_SHOWN = 3
HEADER = ("run", "split", "step", "measured", "published", "whose")


@dataclasses.dataclass(frozen=True)
class Row:
    """A measured return beside a published one: the run's name, the split and the step; the rest as text."""

    run: str
    split: str
    step: int
    measured: str
    published: str
    source: str

    def cells(self) -> tuple[str, ...]:
        """The columns of a table, as in HEADER."""
        return (self.run, self.split, f"{self.step:,}", self.measured, self.published, self.source)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a run was trained, as far as it decides what it can be compared with."""

    agent: str
    game: str
    mode: str
    levels: int
    config: Mapping[str, Any]
    options: Mapping[str, Any]
    tested: Mapping[str, Any] | None

    @property
    def all_levels(self) -> bool:
        """Whether the training levels are all levels, or so many that they stand for them."""
        return self.levels == 0 or self.levels >= _MANY

    @property
    def published_levels(self) -> int:
        """The number of training levels of the published runs to compare with."""
        return 0 if self.all_levels else _LIMITED[self.mode]


def protocol(entry: Mapping[str, Any]) -> Protocol | None:
    """The protocol of an entry; None for another environment, or a mode without published curves."""
    family, _, game = entry["env"].partition("/")
    if family not in FAMILIES:
        return None
    preset = registry.presets_of(entry["agent"]).get(entry["preset"])
    options = {**(preset.env if preset else {}), **(entry.get("env_options") or {})}
    config = {**(preset.config if preset else {}), **entry["config"]}
    mode = options.get("distribution_mode", "hard")
    if mode not in _LIMITED:
        return None
    levels = 0 if options.get("drawn_levels") else int(options.get("num_levels", 200 if family == "procgen-jax" else 0))
    return Protocol(entry["agent"], game, mode, levels, config, options, entry.get("eval_env_options"))


def published_curves(of: Protocol, split: str) -> list[Curve]:
    """The curves to show beside a run, the nearest protocol first."""
    found = []
    if of.mode == "hard" and of.all_levels:
        setting = curves.setting_of(of.config) if of.agent == "ppg" else "ppo"
        # An agent that nobody has published is shown beside both.
        for name in dict.fromkeys([setting or "ppg", "ppo"]):
            found.append(curves.find(name, "hard", 0, split, of.game, curves.PPG_SOURCE))
    found.append(curves.find("ppo", of.mode, of.published_levels, split, of.game, curves.PPO_SOURCE))
    return [curve for curve in found if curve is not None]


def steps_to_show(reached: float, first: float) -> list[int]:
    """The milestones that a run has reached, from its first point on, and the last step if it is well beyond them."""
    found = [step for step in MILESTONES if first <= step <= reached]
    if not found or reached > 1.1 * found[-1]:
        found.append(int(reached))
    return found


def rows(name: str, entry: Mapping[str, Any]) -> list[Row]:
    """A run's returns beside the published ones, [] if there is nothing to show."""
    of = protocol(entry)
    if of is None:
        return []
    found = []
    for split, metric in METRICS.items():
        curve = entry["curves"].get(metric)
        if not curve or not curve["step"] or (split == "test" and of.published_levels == 0):
            continue
        for step in steps_to_show(curve["step"][-1], curve["step"][0]):
            middle, low, high = (float(np.interp(step, curve["step"], curve[key])) for key in ("iqm", "low", "high"))
            measured = f"{middle:.3g}" + (f" ({low:.3g} to {high:.3g})" if low < high else "")
            for one in published_curves(of, split):
                values = one.at(step)
                if values is not None:
                    label = f"{_algorithm(one)}, {one.source}"
                    found.append(Row(name, split, step, measured, _published(*spread(values), len(values)), label))
            known = curves.cleanrl().get((of.agent, of.game))
            if known and known[0] == step and of.mode == "easy" and of.all_levels:
                label = f"{of.agent.upper()}, {curves.CLEANRL}"
                found.append(Row(name, split, step, measured, f"{known[1]:.3g} +- {known[2]:.3g}", label))
    return found


def _algorithm(curve: Curve) -> str:
    name = {"ppo": "PPO", "ppg": "PPG"}.get(curve.setting, f"PPG {curve.setting}")
    levels = f"{curve.num_levels} levels" if curve.num_levels else "all levels"
    return f"{name} {curve.distribution_mode} {levels}"


def _published(mean: float, deviation: float | None, runs: int) -> str:
    return f"{mean:.3g} (1 run)" if deviation is None else f"{mean:.3g} +- {deviation:.2g} ({runs} runs)"


# --- differences of protocol -----------------------------------------------------------------------------------------


def differences(entry: Mapping[str, Any]) -> list[str]:
    """How a run's protocol differs from that of the published runs, each in a few words."""
    of = protocol(entry)
    if of is None:
        return []
    found, setting = [], curves.setting_of(of.config)
    if of.agent not in ("ppo", "ppg"):
        found.append(f"{of.agent} here, PPO{' and PPG' if of.mode == 'hard' else ''} published")
    elif of.agent == "ppg" and of.mode == "easy":
        found.append("PPG here, PPO published" + (" (CleanRL's PPG after 25M steps aside)" if of.all_levels else ""))
    elif of.agent == "ppg" and setting is None:
        found.append("PPG here with other epochs or networks than any published run")
    network = of.config.get("network", "auto")
    if network not in ("auto", "impala"):
        found.append(f"network {network} here, IMPALA published")
    if of.options.get("observation", "frames") != "frames":
        found.append(f"{of.options['observation']} observations here, frames published")
    num_envs = of.config.get("num_envs", _ENVIRONMENTS[of.mode])
    if num_envs != _ENVIRONMENTS[of.mode]:
        found.append(f"{num_envs} environments here, {_ENVIRONMENTS[of.mode]} published")
    if of.levels != of.published_levels:
        wanted = f"{of.published_levels} levels" if of.published_levels else "all levels"
        found.append(f"{of.levels:,} training levels here, {wanted} published")
    start = (of.tested or {}).get("start_level")
    if start and not of.all_levels:
        found.append(f"tested on levels from {start:,} on, published: on all levels")
    return found


def report(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines that `purerl figure verify` prints about some runs; [] if none of them is on Procgen."""
    here = {name: entry for name, entry in entries.items() if protocol(entry) is not None}
    if not here:
        return []
    found = [row for name, entry in here.items() for row in rows(name, entry)]
    lines = ["step by step, beside published learning curves (mean +- standard deviation over runs):"]
    if found:
        lines += table(HEADER, [row.cells() for row in found])
    else:
        lines.append("  no run has reached the first published point: 781,250 steps in easy mode, 1,250,000 in hard")
    by_text: dict[str, list[str]] = {}
    for name, entry in here.items():
        for text in differences(entry):
            by_text.setdefault(text, []).append(name)
    lines += [f"  differs: {text}{_which(names, here)}" for text, names in by_text.items()]
    lines.append(
        "  in all: published are the last 100 episodes of each worker, on procgen 0.9.2 (PPO) or 0.10.4 (PPG); "
        "measured are the episodes that end in a row of metrics, smoothed (IQM over seeds, 95% interval)"
    )
    return lines


def _which(names: Sequence[str], everything: Mapping[str, Any]) -> str:
    """ " (these runs)", or "" for all of them."""
    if len(names) == len(everything):
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f" ({', '.join(names[:_SHOWN])}{more})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text, columns aligned on the left."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  " + "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)
    ]
