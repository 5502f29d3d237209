"""Figures of DQN Pro (Asadi et al. 2022, arXiv 2112.05848): Pro against base on Atari, and at scale small on MinAtar.

With the pull, target networks of consecutive periods are closer together. This claim holds on Atari and MinAtar, so it
is judged at every scale. Returns of MinAtar are shown next to the published returns of Atari, but not judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from purerl import registry
from purerl.envs import atari_scores
from purerl.experiments.figures import planning_with_noise, published, pull_or_step_size
from purerl.experiments.figures.commands import Cell, Check, Figure
from purerl.experiments.figures.parts import chance, draw_curves, legend, panels, summary, text
from purerl.experiments.presets import value_based
from purerl.report import plots

PAPER = "Asadi et al. 2022, arXiv 2112.05848"
BASES = ("dqn", "rainbow")
AGENTS = ("dqn", "dqn-pro", "rainbow", "rainbow-pro")
MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
COEFFICIENTS = {
    "smoke": (0.1, 1.0),
    "small": (0.05, 0.1, 0.2, 0.5, 1.0),
    "paper": (0.1, 0.2, 0.5, 1.0),
}
# The smallest sizes that use everything: learning, target networks, both phases of epsilon.
_TINY = {"hidden": (16,), "learning_starts": 200, "replay_size": 1_000, "target_period": 48}
# The coefficient with which the recorded pairs were measured: it leaves 0.57 of a constant drift, not 0.37.
_RECORDED = {"dqn-pro": {"proximal_coefficient": 0.1}, "rainbow-pro": {"proximal_coefficient": 0.1}}
_TINY_ATARI = {"network": "mlp", "hidden": (8,), "learning_starts": 800, "replay_size": 1_600, "num_envs": 4}
_PROTOCOL = {
    "smoke": "MinAtar, a tiny MLP, 1,000 steps, 2 seeds: shows that it works, the numbers mean nothing",
    "small": "MinAtar, preset minatar-small (MLP of 64-64), 500,000 steps, 250 gradient steps between target networks, "
    "c = 0.1 unless another is named (leaves 0.57 of a constant drift, 0.37 in the paper's runs), training returns; "
    "the paper: Atari, 30M steps (120M frames), 2000 gradient steps between target networks, evaluation returns, 5 "
    "seeds",
    "paper": "Atari, preset pro-paper, 30M steps, 5 seeds, training returns (the paper: evaluation returns)",
}


def _minatar(agent: str, game: str, scale: str, seeds: int, **config: Any) -> Cell:
    """A cell on MinAtar; its name contains a swept field."""
    name = "-".join([agent, game, "MinAtar", *(f"{key}-{value:g}" for key, value in config.items())])
    small = scale == "small"
    return Cell(
        name=name,
        agent=agent,
        env=f"gymnax/{game}-MinAtar",
        preset="minatar-small",
        seeds=seeds if small else 2,
        steps=500_000 if small else 1_000,
        config={**(_RECORDED.get(agent, {}) if small else _TINY), **config},
    )


def _atari(agent: str, game: str, **config: Any) -> Cell:
    """A cell of the paper's protocol."""
    name = "-".join([agent, game, *(f"{key}-{value:g}" for key, value in config.items())])
    return Cell(name, agent, f"atari/{game}", "pro-paper", seeds=5, steps=30_000_000, config=config)


def _pairs(scale: str) -> list[Cell]:
    if scale == "paper":
        return [_atari(agent, game) for game in atari_scores.PRO_PAPER_55 for agent in AGENTS]
    games = MINATAR if scale == "small" else ("Breakout",)
    return [_minatar(agent, game, scale, seeds=10) for game in games for agent in AGENTS]


def _by_game(data: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """{game: {agent: entry}}."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in data["cells"].values():
        game = entry["env"].partition("/")[2].removesuffix("-MinAtar")
        found.setdefault(game, {})[entry["agent"]] = entry
    return found


def _is_atari(data: dict[str, Any]) -> bool:
    return all(entry["env"].startswith("atari/") for entry in data["cells"].values())


def _is_paper(data: dict[str, Any]) -> bool:
    return data["scale"] == "paper"


# --- learning curves and target distance -----------------------------------------------------------------------------


def _draw_games(data: dict[str, Any], metric: str, y: str | None = None) -> Drawing:
    games = _by_game(data)
    drawing, axes = panels(list(games))
    for one, entries in zip(axes, games.values(), strict=True):
        draw_curves(one, entries, metric, y)
    return drawing


def _verify_curves(data: dict[str, Any]) -> list[Check]:
    checks = []
    for game, entries in _by_game(data).items():
        for base in BASES:
            finals = [entries[agent]["final_return"] for agent in (base, f"{base}-pro")]
            sign = published.PRO_BARS.get(game)
            expected = f"on Atari {sign[BASES.index(base)]:+g}%" if sign else "-"
            measured = f"{text(summary(finals[0]))}, Pro {text(summary(finals[1]))}"
            checks.append(Check(f"final return, {game}, {base} and Pro", measured, expected, None))
    return checks


def _late(entry: dict[str, Any], metric: str) -> float:
    """Mean of the interquartile mean over the second half of a run."""
    curve = entry["curves"][metric]
    return float(np.mean(curve["iqm"][len(curve["iqm"]) // 2 :])) if curve else float("nan")


def distances(data: dict[str, Any]) -> dict[tuple[str, str], float]:
    """{(game, base): distance between consecutive target networks, Pro over its base, second half of a run}."""
    found = {}
    for game, entries in _by_game(data).items():
        for base in BASES:
            ours, theirs = (_late(entries[agent], "target_distance") for agent in (f"{base}-pro", base))
            found[game, base] = ours / theirs
    return found


def _verify_distance(data: dict[str, Any]) -> list[Check]:
    checks = []
    for (game, base), ratio in distances(data).items():
        holds = None if np.isnan(ratio) or data["scale"] == "smoke" else bool(ratio < 1)
        checks.append(Check(f"Pro over base, {game}, {base}", f"{ratio:.2f}", "below 1", holds))
    return checks


# --- bars ------------------------------------------------------------------------------------------------------------


def improvement(pro: float, base: float, random: float | None, human: float | None) -> float:
    """A bar in percent, as in the authors' notebook: 100 (P - B) / (max(lower of the two, Human) - Random).

    Without a human score: 100 (P - B) / |lower of the two|. NaN if the denominator is 0.
    """
    lower = min(pro, base)
    scale = abs(lower) if random is None or human is None else max(lower, human) - random
    return 100 * (pro - base) / scale if scale else float("nan")


def bars(data: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{base: {game: percent}}, from means over seeds."""
    found: dict[str, dict[str, float]] = {base: {} for base in BASES}
    for game, entries in _by_game(data).items():
        random, human = atari_scores.RANDOM_AND_HUMAN.get(game, (None, None)) if _is_atari(data) else (None, None)
        for base in BASES:
            pro, plain = (
                np.mean([np.nan if x is None else x for x in entries[agent]["final_return"]])
                for agent in (f"{base}-pro", base)
            )
            found[base][game] = improvement(float(pro), float(plain), random, human)
    return found


def _draw_bars(data: dict[str, Any]) -> Drawing:
    found = bars(data)
    count = len(found["dqn"])
    drawing, axes = panels([f"{base}-pro against {base}, means" for base in BASES], height=1.3 + 0.3 * count)
    for one, of_game in zip(axes, found.values(), strict=True):
        ordered = sorted(of_game.items(), key=lambda item: item[1])
        values = [value for _, value in ordered]
        colours = [plots.COLOURS[0] if value >= 0 else plots.COLOURS[1] for value in values]
        one.barh(range(count), values, color=colours, height=0.7)
        plots.dress(one, "improvement [%]", "")
        one.set_yticks(range(count), [game for game, _ in ordered], fontsize=plots.SMALL_POINTS)
        one.axvline(0, color=plots.INK, linewidth=0.8)
        if values and max(map(abs, values)) > 300:
            one.set_xscale("symlog", linthresh=10)
        one.set_ylabel("")
    return drawing


def _verify_bars(data: dict[str, Any]) -> list[Check]:
    checks = []
    for base, of_game in bars(data).items():
        better = sum(value > 0 for value in of_game.values())
        wanted = published.PRO_GAMES_IMPROVED[base]
        # The published count is read from a figure, in which a game without a difference can count for either side.
        holds = abs(better - wanted) <= 5 if _is_paper(data) else None
        checks.append(
            Check(f"games in which {base} Pro is better", f"{better} of {len(of_game)}", f"{wanted} of 55", holds)
        )
        for game, entries in _by_game(data).items():
            pro, plain = (entries[agent]["final_return"] for agent in (f"{base}-pro", base))
            if None not in pro + plain:
                measured = f"{of_game[game]:+.0f}%, P(Pro > base) {text(chance(pro, plain))}"
                bar = published.PRO_BARS.get(game)
                expected = f"on Atari {bar[BASES.index(base)]:+g}%" if bar else "-"
                checks.append(Check(f"{game}, {base}", measured, expected, None))
    return checks


def pairs(data: dict[str, Any]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """{(game, base): P(Pro above base) with its interval}."""
    return {
        (game, base): chance(entries[f"{base}-pro"]["final_return"], entries[base]["final_return"])
        for game, entries in _by_game(data).items()
        for base in BASES
    }


def table(data: dict[str, Any]) -> str:
    """A Markdown table with one game per row: IQM of the final return and P(Pro above base), each with its interval."""
    entry = next(iter(data["cells"].values()))
    lines = [
        f"| {entry['steps']:,} steps, {len(entry['seeds'])} seeds | dqn | dqn-pro | P(Pro > base) | rainbow "
        "| rainbow-pro | P(Pro > base) |",
        "|---|---|---|---|---|---|---|",
    ]
    for game, entries in _by_game(data).items():
        row = []
        for base in BASES:
            finals = [np.array(entries[agent]["final_return"]) for agent in (base, f"{base}-pro")]
            row += ["{:.1f} ({:.1f} to {:.1f})".format(*summary(final)) for final in finals]
            row.append("{:.2f} ({:.2f} to {:.2f})".format(*chance(finals[1], finals[0])))
        lines.append(f"| {game} | {' | '.join(row)} |")
    return "\n".join(lines)


# --- median human-normalised score -----------------------------------------------------------------------------------


def _median_cells(scale: str) -> list[Cell]:
    if scale == "paper":
        return _pairs(scale)
    games = ("Breakout",) if scale == "smoke" else ("Breakout", "Pong", "SpaceInvaders")
    cells = []
    for game in games:
        for agent in ("dqn-pro",) if scale == "smoke" else AGENTS:
            recorded = {"proximal_coefficient": 0.05} if agent.endswith("-pro") else {}
            tiny, steps = (_TINY_ATARI, 1_000) if scale == "smoke" else (recorded, 16_000)
            cells.append(Cell(f"{agent}-{game}-quick", agent, f"atari/{game}", "quick", 1, steps, config=tiny))
    return cells


def medians(data: dict[str, Any]) -> dict[str, float]:
    """{agent: median over games of the human-normalised mean over seeds}, for the games with a human score."""
    scores: dict[str, list[float]] = {}
    for game, entries in _by_game(data).items():
        if game in atari_scores.RANDOM_AND_HUMAN:
            for agent, entry in entries.items():
                final = np.mean([np.nan if x is None else x for x in entry["final_return"]])
                scores.setdefault(agent, []).append(float(atari_scores.human_normalized_score(game, final)))
    return {agent: float(np.median(values)) for agent, values in scores.items()}


def _draw_medians(data: dict[str, Any]) -> Drawing:
    drawing, axes = panels(["Median over games, 1 is human"])
    one, found = next(axes), medians(data)
    one.bar(range(len(found)), list(found.values()), color=plots.COLOURS[0], width=0.6)
    plots.dress(one, "", "human-normalised score")
    one.set_xticks(range(len(found)), list(found), fontsize=plots.SMALL_POINTS)
    one.axhline(1, color=plots.COLOURS[1], linewidth=1)
    one.set_xlabel("")
    return drawing


def _verify_medians(data: dict[str, Any]) -> list[Check]:
    checks = []
    for agent, value in medians(data).items():
        wanted = published.PRO_MEDIAN.get(agent)
        holds = bool(abs(value - wanted) <= 0.25 * wanted) if _is_paper(data) and wanted else None
        checks.append(Check(f"median, {agent}", f"{value:.2f}", f"about {wanted}" if wanted else "-", holds))
    return checks


# --- radar over c ----------------------------------------------------------------------------------------------------


def _radar_cells(scale: str) -> list[Cell]:
    if scale == "paper":
        games = published.PRO_RADAR
        return [_atari("dqn-pro", game, proximal_coefficient=c) for game in games for c in COEFFICIENTS[scale]]
    games = ("Breakout", "SpaceInvaders") if scale == "small" else ("Breakout",)
    found = [
        _minatar("dqn-pro", game, scale, seeds=6, proximal_coefficient=c) for game in games for c in COEFFICIENTS[scale]
    ]
    return found + [_minatar("dqn", game, scale, seeds=10) for game in games]


def radar(data: dict[str, Any]) -> dict[str, dict[float, tuple[float, float, float]]]:
    """{game: {c: (IQM, low, high)}}; c = inf is the base agent."""
    found: dict[str, dict[float, tuple[float, float, float]]] = {}
    for entry in data["cells"].values():
        game = entry["env"].partition("/")[2].removesuffix("-MinAtar")
        c = entry["config"].get("proximal_coefficient", np.inf)
        found.setdefault(game, {})[float(c)] = summary(entry["final_return"])
    return {game: dict(sorted(of_game.items())) for game, of_game in found.items()}


def drift_left(data: dict[str, Any]) -> dict[float, float]:
    """{c: the share of a constant drift that is left at the end of a target period}; 1 without a pull."""
    found = {}
    for entry in data["cells"].values():
        c = float(entry["config"].get("proximal_coefficient", np.inf))
        preset = registry.presets_of(entry["agent"])[entry["preset"]].config
        found[c] = value_based.drift_left_by({**preset, **entry["config"]}, c)
    return dict(sorted(found.items()))


def against_base(data: dict[str, Any]) -> dict[str, dict[float, tuple[float, float, float]]]:
    """{game: {c: P(Pro at c above base) with its interval}} of the radar's cells."""
    returns: dict[str, dict[float, list[float]]] = {}
    for entry in data["cells"].values():
        game = entry["env"].partition("/")[2].removesuffix("-MinAtar")
        c = float(entry["config"].get("proximal_coefficient", np.inf))
        returns.setdefault(game, {})[c] = entry["final_return"]
    return {game: {c: chance(of[c], of[np.inf]) for c in sorted(of) if np.isfinite(c)} for game, of in returns.items()}


def coefficient(scale: str) -> float:
    """The proximal coefficient of all Pro cells of the pairs; recorded files do not name it, it was the preset's."""
    (c,) = {cell.config["proximal_coefficient"] for cell in _pairs(scale) if cell.agent.endswith("-pro")}
    return c


def _draw_radar(data: dict[str, Any]) -> Drawing:
    """Draws six games as a radar, and fewer games as one panel each, with intervals."""
    found, left = radar(data), drift_left(data)
    if len(found) >= 5:
        return _draw_as_radar(found, left)
    drawing, axes = panels(list(found))
    for one, of_game in zip(axes, found.values(), strict=True):
        _draw_coefficients(one, of_game, left)
    return drawing


def _draw_coefficients(axes: Axes, of_game: dict[float, tuple[float, float, float]], left: dict[float, float]) -> None:
    swept = {c: value for c, value in of_game.items() if np.isfinite(c)}
    middle, low, high = (np.array(column) for column in zip(*swept.values(), strict=True))
    axes.errorbar(
        list(swept), middle, [middle - low, high - middle], fmt="o-", color=plots.COLOURS[1], capsize=3, label="dqn-pro"
    )
    if np.inf in of_game:
        base = of_game[np.inf]
        axes.axhline(base[0], color=plots.COLOURS[0], label="dqn (c = inf)")
        axes.axhspan(base[1], base[2], color=plots.COLOURS[0], alpha=0.18, linewidth=0)
    plots.dress(axes, "c (below: the share of a constant drift that is left)", "episode_return")
    axes.set_xscale("log")
    axes.set_xticks(list(swept), [f"{c:g}\n{left[c]:.2f}" for c in swept])
    axes.minorticks_off()
    legend(axes)


def _draw_as_radar(found: dict[str, dict[float, tuple[float, float, float]]], left: dict[float, float]) -> Drawing:
    drawing = Drawing(figsize=(plots.WIDTH, plots.WIDTH + 0.6))
    drawing.set_layout_engine("constrained")
    axes = drawing.add_subplot(projection="polar")
    angles = np.linspace(0, 2 * np.pi, len(found), endpoint=False)
    for colour, c in zip(plots.COLOURS, sorted({c for of_game in found.values() for c in of_game}), strict=False):
        best = {game: max(value[0] for value in of_game.values()) for game, of_game in found.items()}
        scores = [of_game[c][0] / best[game] if c in of_game else np.nan for game, of_game in found.items()]
        label = f"c = {c:g}, leaves {left[c]:.2f} of a drift"
        axes.plot([*angles, angles[0]], [*scores, scores[0]], color=colour, label=label)
    axes.set_xticks(angles, list(found))
    axes.set_title("IQM of the final return over that of the best c", fontsize=plots.SMALL_POINTS)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.1, -0.15), frameon=False, fontsize=plots.SMALL_POINTS, ncols=2)
    return drawing


def _verify_radar(data: dict[str, Any]) -> list[Check]:
    checks, left = [], drift_left(data)
    for game, of_game in radar(data).items():
        best = max(value[0] for value in of_game.values())
        for c, value in of_game.items():
            wanted = published.PRO_RADAR.get(game, {}).get(c)
            holds = None
            if _is_paper(data) and wanted is not None:
                holds = bool(value[1] / best <= wanted + 0.1 and value[2] / best >= wanted - 0.1)
            expected = f"on Atari {wanted:g} of the best c" if wanted is not None else "-"
            what = f"{game}, c = {c:g}, leaves {left[c]:.2f} of a constant drift"
            checks.append(Check(what, f"{text(value)}, {value[0] / best:.2f} of the best", expected, holds))
    return checks


# --- planning with noise ---------------------------------------------------------------------------------------------


def _measure_planning(scale: str, _: Path) -> dict[str, Any]:
    return planning_with_noise.measure(scale)


def _verify_planning(data: dict[str, Any]) -> list[Check]:
    return [Check(*row) for row in planning_with_noise.verify(data["measured"])]


def _no_cells(_: str) -> list[Cell]:
    return []


def _same(protocol: str) -> dict[str, str]:
    return dict.fromkeys(("smoke", "small", "paper"), protocol)


FIGURES = (
    Figure(
        name="dqn-pro/learning-curves",
        paper=PAPER,
        about="returns of DQN, Rainbow and their Pro versions, IQM with 95% band",
        cells=_pairs,
        protocol=_PROTOCOL,
        draw=lambda data: _draw_games(data, "episode_return"),
        verify=_verify_curves,
    ),
    Figure(
        name="dqn-pro/bars",
        paper=PAPER,
        about="improvement of Pro over its base, each game",
        cells=_pairs,
        protocol=_PROTOCOL,
        draw=_draw_bars,
        verify=_verify_bars,
        metrics=(),
    ),
    Figure(
        name="dqn-pro/median-human-normalized",
        paper=PAPER,
        about="median human-normalised score over Atari games",
        cells=_median_cells,
        protocol={
            "smoke": "Breakout, DQN Pro, a tiny network, 1,000 steps: shows that it works, the numbers mean nothing",
            "small": "3 games, preset quick (16,000 steps, 1 seed): next to no learning; the paper: 55 games, 30M "
            "steps, 5 seeds",
            "paper": _PROTOCOL["paper"],
        },
        draw=_draw_medians,
        verify=_verify_medians,
        metrics=(),
    ),
    Figure(
        name="dqn-pro/radar",
        paper=PAPER,
        about="final return of DQN Pro over the proximal coefficient c, IQM with 95% interval",
        cells=_radar_cells,
        protocol=_PROTOCOL,
        draw=_draw_radar,
        verify=_verify_radar,
        metrics=(),
    ),
    Figure(
        name="dqn-pro/target-distance",
        paper=PAPER,
        about="distance between consecutive target networks, IQM with 95% band",
        cells=_pairs,
        protocol=_PROTOCOL,
        draw=lambda data: _draw_games(data, "target_distance"),
        verify=_verify_distance,
        metrics=("target_distance",),
    ),
    pull_or_step_size.FIGURE,
    Figure(
        name="dqn-pro/planning-with-noise",
        paper=PAPER,
        about="tabular planning: what the pull buys under noise, and what it costs",
        cells=_no_cells,
        protocol=_same("an own gridworld and noise; the paper's MDP is UNVERIFIED, the predictions are our derivation"),
        draw=lambda data: planning_with_noise.draw(data["measured"]),
        verify=_verify_planning,
        measure=_measure_planning,
    ),
)
