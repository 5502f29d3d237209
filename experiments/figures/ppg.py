"""Figures of PPG (Cobbe et al. 2020b, arXiv 2009.04416) and of Procgen's generalization protocol (Cobbe et al. 2020).

At the paper's scale, returns are normalised with Procgen's constants. MinAtar has no such constants. There, a return is
divided by PPO's mean on the same game (or shown raw if there is no PPO), and published numbers are shown but not used
for verdicts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from purerl import statistics
from purerl.envs import procgen_scores
from purerl.experiments.figures import published
from purerl.experiments.figures.commands import Cell, Check, Figure
from purerl.experiments.figures.parts import chance, draw_curves, legend, panels, summary, text
from purerl.report import plots

PAPER = "Cobbe et al. 2020b, arXiv 2009.04416"
MINATAR = (
    "Asterix",
    "Breakout",
    "Freeway",
    "SpaceInvaders",
)  # no Seaquest: a tenth of the others' speed
ARCHITECTURES = {scale: ("dual", "detach", "shared") for scale in ("small", "paper")} | {"smoke": ("dual", "detach")}
# The published grid, reduced for each scale. One field is varied at a time, and all others keep PPG's values. This also
# holds for E_V if E_pi is varied: the value function is trained as before, with its own Adam if E_pi differs.
REUSE = {
    "smoke": {"policy_epochs": (1, 2), "auxiliary_epochs": (1,), "policy_iterations": (2,)},  # two programs
    "small": {"policy_epochs": (1, 2, 4, 8), "auxiliary_epochs": (0, 1, 2, 6), "policy_iterations": (2, 8, 32)},
    "paper": {name: tuple(values) for name, values in published.PPG_SAMPLE_REUSE.items()},
}
VALUE_EPOCHS = {"smoke": 1, "small": 4, "paper": 1}  # E_V of the presets (and of _TINY_PPG)
LETTERS = {"policy_epochs": "E_pi", "auxiliary_epochs": "E_aux", "policy_iterations": "N_pi"}
_TINY = {"num_envs": 8, "rollout_length": 16, "num_minibatches": 2, "hidden": (16,)}
_TINY_PPG = {**_TINY, "policy_iterations": 2, "policy_epochs": 1, "value_epochs": 1, "auxiliary_epochs": 1}
_TINY_PPG |= {"auxiliary_minibatches": 2}
_PROTOCOL = {
    "smoke": "MinAtar, tiny networks, 1,024 steps, 2 seeds: shows that it works, the numbers mean nothing",
    "small": "MinAtar, preset minatar (two MLPs of 64-64), 1M steps, 8 seeds; the paper: Procgen, hard, unlimited "
    "levels, 100M steps, IMPALA, 3 seeds",
    "paper": "Procgen, hard, unlimited levels, 100M steps, 3 seeds, preset procgen-hard",
}
_REUSE_PROTOCOL = {
    scale: f"{protocol}; E_pi, E_aux and N_pi are varied one at a time, with E_V = {VALUE_EPOCHS[scale]} throughout"
    for scale, protocol in _PROTOCOL.items()
}


def _cell(agent: str, game: str, scale: str, **config: Any) -> Cell:
    """A cell of one game; its name contains the differences from the preset."""
    changes = [f"{LETTERS.get(key, key)}-{value}" for key, value in config.items() if key != "value_epochs"]
    if scale == "paper":
        name = "-".join([agent, game, *changes])
        # PPO as in PPG's paper: a shared network and three epochs, without an auxiliary phase.
        base = {"architecture": "shared", "policy_epochs": 3, "value_epochs": 3, "auxiliary_epochs": 0}
        chosen = {**(base if agent == "ppo" else {}), **config}
        return Cell(name, "ppg", f"procgen/{game}", "procgen-hard", 3, 100_000_000, config=chosen)
    name = "-".join([agent, game, "MinAtar", *changes])
    tiny = {} if scale == "small" else _TINY if agent == "ppo" else _TINY_PPG
    seeds, steps = (8, 1_000_000) if scale == "small" else (2, 1_024)
    return Cell(name, agent, f"gymnax/{game}-MinAtar", "minatar", seeds, steps, config={**tiny, **config})


def _games(scale: str) -> tuple[str, ...]:
    return {"smoke": MINATAR[1:2], "small": MINATAR, "paper": procgen_scores.GAMES}[scale]


def _sample_efficiency(scale: str) -> list[Cell]:
    return [_cell(agent, game, scale) for game in _games(scale) for agent in ("ppo", "ppg")]


def _single_network(scale: str) -> list[Cell]:
    """PPG is the architecture "dual"; its cells are shared with the other figures."""
    return [
        _cell("ppg", game, scale, **({} if architecture == "dual" else {"architecture": architecture}))
        for game in _games(scale)
        for architecture in ARCHITECTURES[scale]
    ]


def _sample_reuse(scale: str) -> list[Cell]:
    games = procgen_scores.GAMES if scale == "paper" else ("Breakout",)
    found = {}
    for game in games:
        for name, values in REUSE[scale].items():
            for value in values:
                also = {"value_epochs": VALUE_EPOCHS[scale]} if name == "policy_epochs" else {}
                cell = _cell("ppg", game, scale, **{name: value}, **also)
                found[cell.name] = cell
    return list(found.values())


# --- reading ---------------------------------------------------------------------------------------------------------


def _game(entry: dict[str, Any]) -> str:
    return entry["env"].partition("/")[2].removesuffix("-MinAtar")


def _by_game(data: dict[str, Any], label: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """{game: {label(cell's name, entry): entry}}."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, entry in data["cells"].items():
        found.setdefault(_game(entry), {})[label(name, entry)] = entry
    return found


def _algorithm(name: str, _: dict[str, Any]) -> str:
    return name.partition("-")[0]


def _architecture(_: str, entry: dict[str, Any]) -> str:
    return entry["config"].get("architecture", "dual")


def _finals(entry: dict[str, Any]) -> np.ndarray:
    return np.array([np.nan if x is None else x for x in entry["final_return"]], np.float64)


def normalized(data: dict[str, Any], games: dict[str, dict[str, dict[str, Any]]], base: str) -> dict[str, np.ndarray]:
    """{label: scores [runs, games]}: Procgen's normalised return, or on MinAtar the return over the base's mean."""
    found: dict[str, list[np.ndarray]] = {}
    for game, entries in games.items():
        for label, entry in entries.items():
            finals = _finals(entry)
            if data["scale"] == "paper":
                score = procgen_scores.normalized_return(game, "hard", finals)
            else:
                score = finals / _finals(entries[base]).mean()
            found.setdefault(label, []).append(score)
    return {label: np.stack(columns, axis=1) for label, columns in found.items()}


def _mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean over games of the mean over runs, 95% stratified bootstrap interval)."""
    return statistics.aggregates(values)["mean"] if np.isfinite(values).all() else (float("nan"),) * 3


# --- sample efficiency and single network ----------------------------------------------------------------------------


def _draw_games(data: dict[str, Any], label: Any) -> Drawing:
    games = _by_game(data, label)
    drawing, axes = panels(list(games))
    for one, entries in zip(axes, games.values(), strict=True):
        draw_curves(one, entries, "episode_return")
    return drawing


def games(data: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{game: {"ppo", "ppg": final returns [S]}}."""
    return _finals_by_game(data, _algorithm)


def architectures(data: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{game: {"dual", "detach", "shared": final returns [S]}}."""
    return _finals_by_game(data, _architecture)


def _finals_by_game(data: dict[str, Any], label: Any) -> dict[str, dict[str, np.ndarray]]:
    return {game: {name: _finals(one) for name, one in of.items()} for game, of in _by_game(data, label).items()}


def over_ppo(data: dict[str, Any]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """{"ppg": {"iqm", "mean": of the return over PPO's mean on the same game, over games and runs, with interval}}."""
    found = normalized(data, _by_game(data, _algorithm), "ppo")
    return {label: statistics.aggregates(values) for label, values in found.items()}


def over_dual(data: dict[str, Any]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """{architecture: the same over two networks}."""
    found = normalized(data, _by_game(data, _architecture), "dual")
    return {label: statistics.aggregates(values) for label, values in found.items()}


def _verify_games(data: dict[str, Any], label: Any, base: str, names: dict[str, str]) -> list[Check]:
    """Compares the normalised mean of each label, and the returns of each game, with the published ones."""
    games = _by_game(data, label)
    paper = data["scale"] == "paper"
    unit = "normalised return" if paper else f"return over that of {base}"
    checks = []
    for of_label, values in normalized(data, games, base).items():
        mean = _mean_interval(values)
        wanted = published.PPG_MEAN_NORMALIZED.get(names.get(of_label, of_label))
        # The published spread of the mean of three seeds over 16 games is about 0.02.
        holds = bool(abs(mean[0] - wanted) <= 0.04) if paper and wanted else None
        expected = f"{wanted} (Procgen's normalised return)" if wanted else "-"
        checks.append(Check(f"mean {unit}, {of_label}", text(mean), expected, holds))
    columns = {"ppo": 0, "ppg": 1, "dual": 1, "detach": 2}
    for game, entries in games.items():
        for of_label, entry in entries.items():
            known = published.PPG_RETURNS.get(game) if of_label in columns else None
            expected = f"{known[columns[of_label]]}" if known else "-"
            checks.append(
                Check(f"final return, {game}, {of_label}", text(summary(entry["final_return"])), expected, None)
            )
    for game, entries in games.items():
        for of_label in list(entries)[1:] if not paper else []:
            ours, theirs = _finals(entries[of_label]), _finals(entries[base])
            if np.isfinite(ours).all() and np.isfinite(theirs).all():
                checks.append(Check(f"P({of_label} > {base}), {game}", text(chance(ours, theirs)), "-", None))
    return checks


# --- sample reuse ----------------------------------------------------------------------------------------------------


def reuse(data: dict[str, Any]) -> dict[str, dict[int, tuple[float, float, float]]]:
    """{field: {value: mean normalised return (Procgen), or IQM of the return (one game), with its interval}}."""
    found: dict[str, dict[int, list[np.ndarray]]] = {}
    for entry in data["cells"].values():
        for field in LETTERS:
            values = REUSE[data["scale"]][field]
            others = {other for other in LETTERS if other != field and other in _changed(data, entry)}
            if field in _changed(data, entry) and not others and entry["config"][field] in values:
                finals = _finals(entry)
                if data["scale"] == "paper":
                    finals = procgen_scores.normalized_return(_game(entry), "hard", finals)
                found.setdefault(field, {}).setdefault(entry["config"][field], []).append(finals)
    paper = data["scale"] == "paper"
    return {
        field: {
            value: _mean_interval(np.stack(columns, axis=1)) if paper else summary(np.concatenate(columns).tolist())
            for value, columns in sorted(of_field.items())
        }
        for field, of_field in found.items()
    }


def best_reuse(found: dict[str, dict[int, Any]]) -> dict[str, int]:
    """{field: the value with the highest return}, of `reuse` or of the published returns."""
    return {field: max(values, key=lambda value: np.ravel(values[value])[0]) for field, values in found.items()}


def _changed(data: dict[str, Any], entry: dict[str, Any]) -> set[str]:
    """The changed fields of a cell, from its name."""
    name = next(name for name, other in data["cells"].items() if other is entry)
    return {field for field, letter in LETTERS.items() if f"-{letter}-" in name}


def _draw_reuse(data: dict[str, Any]) -> Drawing:
    found = reuse(data)
    titles = {"policy_epochs": f"policy epochs E_pi, with E_V = {VALUE_EPOCHS[data['scale']]}"}
    titles |= {"auxiliary_epochs": "auxiliary epochs E_aux"}
    titles |= {"policy_iterations": "policy phases before an auxiliary phase, N_pi"}
    drawing, axes = panels([titles[field] for field in found])
    for one, (field, of_field) in zip(axes, found.items(), strict=True):
        middle, low, high = (np.array(column) for column in zip(*of_field.values(), strict=True))
        places = range(len(of_field))
        spread = [middle - low, high - middle]
        one.errorbar(places, middle, spread, fmt="o-", color=plots.COLOURS[0], capsize=3, label="measured")
        y = "episode_return"
        if data["scale"] == "paper":
            wanted = [published.PPG_SAMPLE_REUSE[field][value] for value in of_field]
            one.plot(places, wanted, "s--", color=plots.COLOURS[1], label="published (1 seed)")
            y = "mean normalised return"
        plots.dress(one, LETTERS[field], y)
        one.set_xlabel("")
        one.set_xticks(places, [str(value) for value in of_field])
        legend(one)
    return drawing


def _verify_reuse(data: dict[str, Any]) -> list[Check]:
    checks = []
    for field, of_field in reuse(data).items():
        for value, interval in of_field.items():
            wanted = published.PPG_SAMPLE_REUSE[field].get(value)
            holds = bool(abs(interval[0] - wanted) <= 0.06) if data["scale"] == "paper" and wanted else None
            expected = f"{wanted} (Procgen, 1 seed)" if wanted else "-"
            checks.append(Check(f"{LETTERS[field]} = {value}", text(interval), expected, holds))
    return checks


# --- generalization --------------------------------------------------------------------------------------------------


def _generalization_cells(scale: str) -> list[Cell]:
    if scale == "paper":
        how: dict[str, Any] = {"seeds": 3, "steps": 25_000_000, "eval_every": 1_000_000, "eval_episodes": 10}
        return [_generalization("ppo", game, "procgen-easy", 200, **how) for game in procgen_scores.GAMES]
    if scale == "small":
        how = {"seeds": 1, "steps": 1_000_000, "eval_every": 100_000, "eval_episodes": 3}
        return [_generalization("ppg", "coinrun", "quick", 200, **how)]
    tiny = {**_TINY_PPG, "network": "mlp"}
    how = {"seeds": 1, "steps": 512, "eval_every": 512, "eval_episodes": 1, "config": tiny}
    return [_generalization("ppg", "coinrun", "quick", 10, **how)]


def _generalization(agent: str, game: str, preset: str, levels: int, **how: Any) -> Cell:
    """A cell that trains on levels 0 to levels - 1, and tests on all levels after them."""
    from purerl.envs import procgen

    return Cell(
        name=f"{agent}-{game}-{levels}-levels",
        agent=agent,
        env=f"procgen/{game}",
        preset=preset,
        env_options={"num_levels": levels},
        eval_env_options={"start_level": levels, "num_levels": procgen.NUM_LEVELS - levels},
        **how,
    )


def _draw_generalization(data: dict[str, Any]) -> Drawing:
    drawing, axes = panels([_game(entry) for entry in data["cells"].values()])
    for one, entry in zip(axes, data["cells"].values(), strict=True):
        levels = entry["env_options"]["num_levels"]
        beyond = entry["eval_env_options"].get("start_level")
        tested = f"levels from {beyond} on" if beyond else "all levels"
        for colour, (metric, label) in zip(
            plots.COLOURS,
            (("episode_return", f"train, {levels} levels"), ("evaluation_return", f"test, {tested}")),
            strict=False,
        ):
            curve = entry["curves"][metric]
            if curve:
                marker = "o" if len(curve["step"]) < 15 else ""
                one.plot(curve["step"], curve["iqm"], color=colour, linewidth=2, label=label, marker=marker)
                one.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
        plots.dress(one, "step", "episode_return")
        legend(one)
    return drawing


def _verify_generalization(data: dict[str, Any]) -> list[Check]:
    paper = data["scale"] == "paper"
    known = {metric: procgen_scores.PPO_PUBLISHED[f"easy-200-{split}-25m"] for metric, split in _SPLITS.items()}
    checks, finals = [], {metric: {} for metric in _SPLITS}
    for entry in data["cells"].values():
        for metric, split in _SPLITS.items():
            curve = entry["curves"][metric]
            value = curve["iqm"][-1] if curve else float("nan")
            finals[metric][_game(entry)] = value
            wanted = known[metric].returns[_game(entry)][0]
            expected = f"{wanted} (PPO, 200 levels, 25M steps)"
            checks.append(Check(f"last {split} return, {_game(entry)}", f"{value:.3g}", expected, None))
    for metric, split in _SPLITS.items() if paper else ():
        mean, wanted = procgen_scores.mean_normalized_return(finals[metric], "easy"), known[metric].mean_normalized
        checks.append(Check(f"mean normalised {split} return", f"{mean:.3f}", f"{wanted}", abs(mean - wanted) <= 0.04))
    return checks


_SPLITS = {"episode_return": "train", "evaluation_return": "test"}


FIGURES = (
    Figure(
        name="ppg/sample-efficiency",
        paper=PAPER,
        about="PPG against PPO, IQM with 95% band",
        cells=_sample_efficiency,
        protocol=_PROTOCOL,
        draw=lambda data: _draw_games(data, _algorithm),
        verify=lambda data: _verify_games(data, _algorithm, "ppo", {"ppg": "dual"}),
    ),
    Figure(
        name="ppg/sample-reuse",
        paper=PAPER,
        about="how often a sample is used: E_pi (E_V fixed), E_aux and N_pi, IQM with 95% interval",
        cells=_sample_reuse,
        protocol=_REUSE_PROTOCOL,
        draw=_draw_reuse,
        verify=_verify_reuse,
        metrics=(),
    ),
    Figure(
        name="ppg/single-network",
        paper=PAPER,
        about="two networks, one with a detached value head, one shared, IQM with 95% band",
        cells=_single_network,
        protocol=_PROTOCOL,
        draw=lambda data: _draw_games(data, _architecture),
        verify=lambda data: _verify_games(data, _architecture, "dual", {}),
    ),
    Figure(
        name="procgen/generalization",
        paper="Cobbe et al. 2020, arXiv 1912.01588",
        about="returns on the training levels and on levels beyond them, IQM with 95% band",
        cells=_generalization_cells,
        protocol={
            "smoke": "coinrun, 10 levels, a tiny network, 512 steps: shows that it works, the numbers mean nothing; "
            "test: levels from 10 on",
            "small": "coinrun, PPG preset quick, easy mode, 200 levels, 1M steps, 1 seed; test: all levels but those, "
            "from 200 on; the paper: 16 games, PPO, IMPALA, 25M steps, 3 seeds",
            "paper": "PPO preset procgen-easy, 200 levels, 25M steps, 3 seeds; test: all levels but those, from 200 "
            "on, sampling policy (published: all levels, of which the training levels are one in ten million)",
        },
        draw=_draw_generalization,
        verify=_verify_generalization,
        metrics=tuple(_SPLITS),
    ),
)
