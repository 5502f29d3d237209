"""Figures of P3O (Fakoor et al. 2019, arXiv 1905.01756) on MinAtar: what its replay adds, and effective sample sizes.

The arms of `p3o/minatar`: A2C with the rollouts, the GAE and the network of P3O, which is P3O without its replay; PPO;
P3O; P3O without its KL term; and P3O with fixed constants c and lambda (as in ACER, but with nothing else of it)
instead of those that the effective sample size gives. All arms have the same number of environment steps, not of
gradient steps or hours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawing

from purerl.experiments.figures.commands import Cell, Check, Figure
from purerl.experiments.figures.parts import chance, draw_curves, draw_intervals, panels, summary, text

PAPER = "Fakoor et al. 2019, arXiv 1905.01756"
P3O, A2C, PPO, NO_KL = "P3O", "A2C, matched", "PPO", "P3O, no KL"
PUBLISHED_ESS = 0.85  # its figure 3a: "for most of training", on Atari
_EXPECTED = f"about {PUBLISHED_ESS} (Atari)"


class Scale(NamedTuple):
    """What differs between the scales. `grid` are the fixed (c, lambda) and the arm without KL, on `grid_games`."""

    games: tuple[str, ...]
    grid_games: tuple[str, ...]
    grid: tuple[tuple[float, float], ...]
    seeds: int
    grid_seeds: int
    steps: int
    config: dict[str, dict[str, Any]]


_GRID = ((0.5, 0.1), (0.5, 0.5), (1.0, 0.1), (1.0, 0.5))
_TINY = {"num_envs": 8, "rollout_length": 16, "hidden": (16,)}
_TINY_P3O = _TINY | {"replay_size": 400, "learning_starts": 16}
SCALES = {
    "smoke": Scale(
        *(("Breakout",), (), (), 2, 2, 1_024),
        {"p3o": _TINY_P3O, "a2c": _TINY, "ppo": _TINY | {"num_minibatches": 2}},
    ),
    "small": Scale(("Breakout", "SpaceInvaders"), ("Breakout",), _GRID[2:], 10, 4, 500_000, {}),
    "paper": Scale(*(("Asterix", "Breakout", "Freeway", "SpaceInvaders"),) * 2, _GRID, 10, 10, 5_000_000, {}),
}
_PROTOCOLS = {
    "smoke": "MinAtar, tiny networks, 1,024 steps, 2 seeds: shows that it works, the numbers mean nothing",
    "small": "MinAtar, presets minatar (two networks of 64-64; P3O and A2C with the paper's constants, not tuned), "
    "500,000 steps, 10 seeds; fixed c and lambda and the arm without KL on Breakout alone, 4 seeds; the paper: 49 "
    "games of Atari, 28M steps, 3 seeds",
    "paper": "MinAtar, presets minatar, 5M steps, 10 seeds; the paper: 49 games of Atari, 28M steps, 3 seeds",
}


def _fixed(clip: float, coefficient: float) -> dict[str, Any]:
    return {"ratio_clip": "fixed", "clip": clip, "kl_weight": "fixed", "kl_coefficient": coefficient}


def arms(scale: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """{label: (agent, changed config fields)}, the arms of all games first."""
    grid = {f"P3O, c = {c:g}, lambda = {weight:g}": ("p3o", _fixed(c, weight)) for c, weight in SCALES[scale].grid}
    no_kl = {NO_KL: ("p3o", {"kl_weight": "fixed", "kl_coefficient": 0.0})}
    return {P3O: ("p3o", {}), A2C: ("a2c", {}), PPO: ("ppo", {})} | no_kl | grid


def _cells(scale: str) -> list[Cell]:
    one, found = SCALES[scale], []
    for index, (agent, changed) in enumerate(arms(scale).values()):
        in_grid = index > 2
        for game in one.grid_games if in_grid else one.games:
            # Other figures have cells of PPO and another length: the name says the length.
            parts = [f"{field}-{x}" for field, x in changed.items()]
            found.append(
                Cell(
                    name="-".join([agent, game, "MinAtar", f"{one.steps}", *parts]),
                    agent=agent,
                    env=f"gymnax/{game}-MinAtar",
                    preset="minatar",
                    seeds=one.grid_seeds if in_grid else one.seeds,
                    steps=one.steps,
                    config=one.config.get(agent, {}) | changed,
                )
            )
    return found


def _replaying(scale: str) -> list[Cell]:
    return [cell for cell in _cells(scale) if cell.agent == "p3o" and "kl_weight" not in cell.config]


def finals(data: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{game: {label: final returns [seeds]}}; NaN for a seed without one."""
    one, names = SCALES[data["scale"]], iter(_cells(data["scale"]))
    found: dict[str, dict[str, np.ndarray]] = {game: {} for game in one.games}
    for index, label in enumerate(arms(data["scale"])):
        for game in one.grid_games if index > 2 else one.games:
            returns = data["cells"][next(names).name]["final_return"]
            found[game][label] = np.array([np.nan if x is None else x for x in returns], np.float64)
    return found


def _verify(data: dict[str, Any]) -> list[Check]:
    """The return of every arm, and P3O against each; an interval on one side of 1/2 is a verdict on A2C alone."""
    checks, found = [], finals(data)
    for game, returns in found.items():
        for label, of_seeds in returns.items():
            checks.append(Check(f"{game}, {label}", text(summary(of_seeds.tolist())), "-", None))
        for label, of_seeds in returns.items():
            if label != P3O:
                expected = "above 0.5" if label == A2C else "-"
                checks.append(Check(f"P(P3O > {label}), {game}", text(chance(returns[P3O], of_seeds)), expected, None))
    pooled = [np.stack([returns[label] for returns in found.values()], axis=1) for label in (P3O, A2C)]
    value, low, high = chance(*pooled)
    judged = data["scale"] != "smoke" and (low > 0.5 or high < 0.5)
    what = f"P(P3O > {A2C}), {' and '.join(found)}"
    return [*checks, Check(what, text((value, low, high)), "above 0.5", low > 0.5 if judged else None)]


def _draw(data: dict[str, Any]) -> Drawing:
    """Curves of the arms that all games have, and the final returns of all arms."""
    found, scale = finals(data), data["scale"]
    titles = [title for game in found for title in (f"{game}-MinAtar", f"{game}-MinAtar, final return")]
    drawing, axes = panels(titles, height=2.7)
    labels, names = list(arms(scale))[:3], [cell.name for cell in _cells(scale)]
    for number, returns in enumerate(found.values()):
        entries = {label: data["cells"][names[i * len(found) + number]] for i, label in enumerate(labels)}
        draw_curves(next(axes), entries, "episode_return", "return")
        intervals = [summary(of_seeds.tolist()) for of_seeds in returns.values()]
        draw_intervals(next(axes), list(returns), intervals, "final return (IQM, 95% interval)")
    return drawing


def _sizes(data: dict[str, Any]) -> dict[str, float]:
    """{game: mean over the curve of the effective sample size, of the steps that replayed}."""
    found = {}
    for entry in data["cells"].values():
        curve = entry["curves"].get("effective_sample_size")
        if curve:
            found[entry["env"].partition("/")[2]] = float(np.nanmean(np.array(curve["iqm"], np.float64)))
    return found


def _verify_sizes(data: dict[str, Any]) -> list[Check]:
    return [
        Check(f"{game}, effective sample size, mean over training", f"{size:.3f}", _EXPECTED, None)
        for game, size in _sizes(data).items()
    ] or [Check("effective sample size", "no replay step in a seed", _EXPECTED, None)]


def _draw_sizes(data: dict[str, Any]) -> Drawing:
    drawing, axes = panels(["effective sample size of the importance ratios in replay steps"])
    one = next(axes)
    entries = {entry["env"].partition("/")[2]: entry for entry in data["cells"].values()}
    draw_curves(one, entries, "effective_sample_size", "ESS / n")
    one.axhline(PUBLISHED_ESS, color="0.5", linewidth=0.8, linestyle="--")
    return drawing


FIGURES = (
    Figure(
        "p3o/minatar",
        PAPER,
        "P3O against A2C with its rollouts, PPO, and P3O with fixed constants, IQM with 95% band",
        _cells,
        _PROTOCOLS,
        _draw,
        _verify,
        metrics=("episode_return", "effective_sample_size"),
    ),
    Figure(
        "p3o/ess",
        PAPER,
        "effective sample size of P3O's replay steps over training (dashed: published, Atari), IQM with 95% band",
        _replaying,
        _PROTOCOLS,
        _draw_sizes,
        _verify_sizes,
        metrics=("episode_return", "effective_sample_size"),
    ),
)
