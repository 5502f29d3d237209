"""The deciding experiment of DQN Pro: is it the pull that helps, or only that the network changes more slowly?

MinAtar, one gradient step per transition, 2,000 gradient steps between target networks as on Atari. The arms of a game:

- base: DQN with MinAtar's step size (c = inf).
- Pro with c = 0.8, 0.4 and 0.2, which leave 0.74, 0.57 and 0.37 of a constant drift after a target period.
- for each c, DQN with a step size smaller by just that share: as slow as Pro under a constant drift, without the pull.
- DQN with half, twice and four times as many steps between target networks.

If Pro beats base, but not the arms that are as slow, then slowness is what helps. Results are recorded whatever they
say: for each c the probability that a run of Pro is above one of base, of the arm as slow, and of the best arm without
pull.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawing

from purerl import statistics
from purerl.experiments.figures.commands import Cell, Check, Figure
from purerl.experiments.figures.parts import draw_intervals, panels, summary, text
from purerl.experiments.presets import value_based
from purerl.report import plots

GAMES = ("Breakout", "SpaceInvaders")
COEFFICIENTS = (0.8, 0.4, 0.2)
BASE = "c = inf"


class Scale(NamedTuple):
    """What differs between the scales; `config` are the fields that all arms share."""

    games: tuple[str, ...]
    coefficients: tuple[float, ...]
    periods: tuple[float, ...]
    preset: str
    seeds: int
    steps: int
    config: dict[str, Any]


_ONE_STEP_PER_TRANSITION = {"train_period": 1, "target_period": 2_000, "learning_rate": 2.5e-4, "epsilon_final": 0.1}
_TINY = {"hidden": (16,), "learning_starts": 200, "replay_size": 1_000, "target_period": 48}
SCALES = {
    "smoke": Scale(GAMES[:1], (0.2,), (), "minatar-small", 2, 500, _ONE_STEP_PER_TRANSITION | _TINY),
    "small": Scale(GAMES[:1], COEFFICIENTS, (0.5, 2, 4), "minatar-small", 5, 300_000, _ONE_STEP_PER_TRANSITION),
    "paper": Scale(GAMES, COEFFICIENTS, (0.5, 2, 4), "minatar", 10, 4_000_000, _ONE_STEP_PER_TRANSITION),
}


# --- arms ------------------------------------------------------------------------------------------------------------


def arms(scale: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """{label: (agent, changed config fields)} of each game."""
    shared = SCALES[scale].config
    found: dict[str, tuple[str, dict[str, Any]]] = {BASE: ("dqn", {})}
    for c in SCALES[scale].coefficients:
        found[_pro(c)] = ("dqn-pro", {"proximal_coefficient": c})
    for c in SCALES[scale].coefficients:
        found[_as_slow(c)] = ("dqn", {"learning_rate": slower_rate(shared, c)})
    for factor in SCALES[scale].periods:
        found[_period(factor)] = ("dqn", {"target_period": int(factor * shared["target_period"])})
    return found


def slower_rate(config: dict[str, Any], coefficient: float) -> float:
    """The learning rate with which DQN drifts as far in a target period as DQN Pro with this c."""
    return float(f"{config['learning_rate'] * value_based.drift_left_by(config, coefficient):.4g}")


def _pro(c: float) -> str:
    return f"c = {c:g}"


def _as_slow(c: float) -> str:
    return f"as slow as c = {c:g}"


def _period(factor: float) -> str:
    return f"{factor:g} x target period"


def _cells(scale: str) -> list[Cell]:
    one = SCALES[scale]
    return [
        Cell(
            name="-".join(["one-step", agent, game, "MinAtar", *(f"{field}-{x:g}" for field, x in changed.items())]),
            agent=agent,
            env=f"gymnax/{game}-MinAtar",
            preset=one.preset,
            seeds=one.seeds,
            steps=one.steps,
            config=one.config | changed,
        )
        for game in one.games
        for agent, changed in arms(scale).values()
    ]


def finals(data: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{label: {game: final returns [seeds]}}; NaN for a seed without one."""
    entries = {cell.name: data["cells"][cell.name] for cell in _cells(data["scale"])}
    found: dict[str, dict[str, np.ndarray]] = {label: {} for label in arms(data["scale"])}
    names = iter(entries)
    for game in SCALES[data["scale"]].games:
        for of_games in found.values():
            returns = entries[next(names)]["final_return"]
            of_games[game] = np.array([np.nan if x is None else x for x in returns], np.float64)
    return found


# --- results ---------------------------------------------------------------------------------------------------------


def improvement(ours: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """P(ours > base) over the games that both have, with its 95% interval; NaN if a run has no final return."""
    pair = [np.stack([of_games[game] for game in ours], axis=1) for of_games in (ours, base)]
    value = float(statistics.probability_of_improvement(*pair))
    if np.isnan(value):
        return (value,) * 3
    return (value, *statistics.probability_of_improvement_interval(*pair))


def best_without_pull(found: dict[str, dict[str, np.ndarray]], scale: str) -> str:
    """The arm without pull that is most often above base, over all games."""
    base = np.stack(list(found[BASE].values()), axis=1)

    def score(label: str) -> float:
        return float(statistics.probability_of_improvement(np.stack(list(found[label].values()), axis=1), base))

    return max((label for label, (agent, _) in arms(scale).items() if agent == "dqn"), key=score)


def comparisons(data: dict[str, Any]) -> list[tuple[str, str, str, tuple[float, float, float]]]:
    """(Pro arm, compared arm, games, P(Pro > compared arm) with its interval)."""
    found, scale, rows = finals(data), data["scale"], []
    games = SCALES[scale].games
    best = best_without_pull(found, scale)
    for c in SCALES[scale].coefficients:
        for other in dict.fromkeys((BASE, _as_slow(c), best)):
            for chosen in [games, *([(game,) for game in games] if len(games) > 1 else [])]:
                pair = [{game: found[label][game] for game in chosen} for label in (_pro(c), other)]
                rows.append((_pro(c), other, " and ".join(chosen), improvement(*pair)))
    return rows


def _verify(data: dict[str, Any]) -> list[Check]:
    """Every arm's return, and every comparison. At the paper's scale an interval on one side of 1/2 is a verdict."""
    scale, checks = data["scale"], []
    config = SCALES[scale].config
    for label, of_games in finals(data).items():
        left = value_based.drift_left_by(config, float(label.removeprefix("c = "))) if label.startswith("c = ") else 1.0
        note = f", leaves {left:.2f} of a drift" if left < 1 else ""
        for game, returns in of_games.items():
            checks.append(Check(f"{game}, {label}{note}", text(summary(returns.tolist())), "-", None))
    best = best_without_pull(finals(data), scale)
    for pro, other, games, (value, low, high) in comparisons(data):
        chosen = " (chosen as the best)" if other == best else ""
        holds = None
        if scale == "paper" and (low > 0.5 or high < 0.5):
            holds = low > 0.5
        checks.append(
            Check(f"P({pro} > {other}{chosen}), {games}", text((value, low, high)), "above 0.5 if it helps", holds)
        )
    return checks


# --- drawing ---------------------------------------------------------------------------------------------------------


def _draw(data: dict[str, Any]) -> Drawing:
    """A panel of final returns for each game, and one of the comparisons over all games."""
    found, games = finals(data), SCALES[data["scale"]].games
    pooled = [row for row in comparisons(data) if row[2] == " and ".join(games)]
    pulled = [label for label, (agent, _) in arms(data["scale"]).items() if agent == "dqn-pro"]
    height = 1.0 + 0.24 * max(len(found), len(pooled))
    drawing, axes = panels([*games, "P(Pro > other), 95% interval"], height=height)
    for one, game in zip(axes, games, strict=False):
        intervals = [summary(of_games[game].tolist()) for of_games in found.values()]
        draw_intervals(one, list(found), intervals, "final return (IQM, 95% interval)", pulled)
    one = drawing.axes[-1]
    draw_intervals(one, [f"{pro} > {other}" for pro, other, _, _ in pooled], [row[3] for row in pooled], "probability")
    one.axvline(0.5, color=plots.INK, linewidth=0.8)
    one.set_xlim(0, 1)
    return drawing


FIGURE = Figure(
    name="dqn-pro/pull-or-step-size",
    paper="Asadi et al. 2022, arXiv 2112.05848",
    about="DQN Pro against DQN that is as slow without the pull: smaller steps, other target periods",
    cells=_cells,
    protocol={
        "smoke": "MinAtar, a tiny MLP, 500 steps, 2 seeds: shows that it works, the numbers mean nothing",
        "small": "Breakout-MinAtar, preset minatar-small with a gradient step per transition, 2,000 between targets "
        "and step size 2.5e-4, 300,000 steps, 5 seeds: too short and too small a network for a verdict",
        "paper": "MinAtar, preset minatar (Young and Tian 2019; no sticky actions) with 2,000 gradient steps between "
        "targets, 4M steps, 10 seeds, training returns; the best arm without pull is chosen after the fact, which "
        "favours it",
    },
    draw=_draw,
    verify=_verify,
    metrics=("episode_return", "target_distance"),
)
