"""Figures: each can be run, drawn and verified; a stop and a restart give the same results; files alone draw it."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from purerl import configs, registry, statistics
from purerl.envs import procgen
from purerl.envs.procgen_scores import mean_normalized_return
from purerl.errors import PurerlError
from purerl.experiments.figures import commands, dqn_pro, ppg, published, pull_or_step_size
from purerl.runs import programs
from purerl.runs.plan import make_plan
from purerl.runs.trainer import Trainer

FIGURES = registry.figures()
ROOT = Path(__file__).parents[2]
RECORDED = sorted((ROOT / "experiments" / "results" / "figures").glob("*/*.json"))


def plan_of(cell):
    return make_plan(
        cell.agent, cell.env, preset=cell.preset, seeds=cell.seeds, steps=cell.steps, config=cell.config,
        env_options=cell.env_options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """All figures at smoke scale, in one folder, through the command."""
    pytest.importorskip("cffi", reason="procgen is not installed")
    pytest.importorskip("ale_py", reason="ale-py is not installed")
    folder = tmp_path_factory.mktemp("figures")
    assert commands.main(["run", "all", "--folder", str(folder), "--quiet"]) == 0
    return folder


# --- what is declared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", commands.SCALES)
@pytest.mark.parametrize("name", FIGURES)
def test_cells_can_be_trained_and_have_names_of_their_own(name, scale):
    declared = FIGURES[name].cells(scale)
    assert FIGURES[name].protocol[scale] and FIGURES[name].paper
    assert len({cell.name for cell in declared}) == len(declared)
    for cell in declared[:40]:
        plan_of(cell)


@pytest.mark.parametrize("scale", commands.SCALES)
def test_cells_of_one_name_are_one_run(scale):
    """Figures of a scale share folders, so a name must say all that decides the numbers."""
    found = {}
    for figure in FIGURES.values():
        for cell in figure.cells(scale):
            assert found.setdefault(cell.name, cell) == cell


@pytest.mark.parametrize("scale", commands.SCALES)
def test_sample_reuse_varies_one_field_at_a_time(scale):
    """As published: E_V (and all else) stays what it is in PPG while E_pi is varied."""
    figure, found = FIGURES["ppg/sample-reuse"], set()
    ppgs = [cell for cell in FIGURES["ppg/sample-efficiency"].cells(scale) if cell.name.startswith("ppg")]
    unchanged = {cell.env: plan_of(cell).config for cell in ppgs}
    for cell in figure.cells(scale):
        one, other = configs.to_dict(plan_of(cell).config), configs.to_dict(unchanged[cell.env])
        differs = {name for name in one if one[name] != other[name]}
        assert len(differs) <= 1, cell.name
        found |= differs
    assert found == ({"policy_epochs"} if scale == "smoke" else set(ppg.REUSE[scale]))
    value_epochs = configs.to_dict(next(iter(unchanged.values())))["value_epochs"]
    assert f"with E_V = {value_epochs} throughout" in figure.protocol[scale]


@pytest.mark.parametrize("scale", commands.SCALES)
def test_generalization_is_tested_beyond_the_training_levels(scale):
    """Played for real: no test level is a training level, and all others can come up."""
    figure = FIGURES["procgen/generalization"]
    cell = figure.cells(scale)[0]
    levels = cell.env_options["num_levels"]
    assert f"from {levels} on" in figure.protocol[scale]
    pytest.importorskip("cffi", reason="procgen is not installed")
    options = dataclasses.replace(plan_of(cell).options, **cell.eval_env_options)
    with procgen.make_pool("coinrun", options, [0], 64, 1) as pool:
        played = pool.level_seeds(0)
    assert played.min() >= levels and played.max() > 2**31 * 0.9
    first = dataclasses.replace(options, num_levels=1)
    with procgen.make_pool("coinrun", first, [0], 1, 1) as pool:
        assert pool.level_seeds(0).item() == levels


def test_published_numbers_agree_with_each_other():
    """Counts, medians and means that are published beside the tables follow from the tables."""
    for i, base in enumerate(("dqn", "rainbow")):
        bars = np.array([bar[i] for bar in published.PRO_BARS.values()])
        assert len(bars) == 55 and (bars > 0).sum() == published.PRO_GAMES_IMPROVED[base]
        assert np.median(bars) == (9.3, 6.8)[i]
    for i, agent in enumerate(("ppo", "dual", "detach")):
        returns = {game: row[i] for game, row in published.PPG_RETURNS.items()}
        assert mean_normalized_return(returns, "hard") == pytest.approx(published.PPG_MEAN_NORMALIZED[agent], abs=3e-3)


def test_improvement_by_hand():
    """Pro 300, base 200, random 100, human 250: 100 * 100 / (250 - 100); a loss divides by the Pro's own score."""
    assert dqn_pro.improvement(300, 200, 100, 250) == pytest.approx(200 / 3)
    assert dqn_pro.improvement(200, 300, 100, 150) == pytest.approx(-100)
    assert dqn_pro.improvement(300, 200, None, None) == pytest.approx(50)
    assert np.isnan(dqn_pro.improvement(1, 0, None, None))


def test_the_deciding_experiment_is_the_one_of_the_protocol():
    """Two games, a gradient step per transition, 2,000 between targets, 4M steps, 10 seeds; the slow arms drift as far
    as Pro does: 0.744, 0.571 and 0.367 of 2.5e-4.
    """
    cells = pull_or_step_size.FIGURE.cells("paper")
    assert len(cells) == 20 and {(cell.seeds, cell.steps) for cell in cells} == {(10, 4_000_000)}
    assert {cell.env for cell in cells} == {"gymnax/Breakout-MinAtar", "gymnax/SpaceInvaders-MinAtar"}
    configs_of = [plan_of(cell).config for cell in cells[:10]]
    assert {config.train_period for config in configs_of} == {1}
    assert [config.target_period for config in configs_of] == [2_000] * 7 + [1_000, 4_000, 8_000]
    assert [config.proximal_coefficient for config in configs_of] == [np.inf, 0.8, 0.4, 0.2] + [np.inf] * 6
    rates = [config.learning_rate / 2.5e-4 for config in configs_of]
    assert rates == pytest.approx([1.0] * 4 + [0.7435, 0.5708, 0.3673] + [1.0] * 3, abs=2e-4)


def test_a_pull_that_only_slows_down_is_told_from_one_that_helps():
    """c = 0.2 is above base and no better than the arm as slow; c = 0.8 is below base; c = 0.4 is level with it."""
    finals = {"c = inf": 10, "c = 0.8": 5, "c = 0.4": 10, "c = 0.2": 20, "as slow as c = 0.2": 20}
    data = {"scale": "paper", "cells": {}}
    for i, cell in enumerate(pull_or_step_size.FIGURE.cells("paper")):
        label = list(pull_or_step_size.arms("paper"))[i % 10]
        data["cells"][cell.name] = {"final_return": [finals.get(label, 1) + 0.01 * seed for seed in range(10)]}
    assert pull_or_step_size.best_without_pull(pull_or_step_size.finals(data), "paper") == "as slow as c = 0.2"
    found = {(pro, other): p for pro, other, games, p in pull_or_step_size.comparisons(data) if " and " in games}
    assert found["c = 0.2", "c = inf"] == (1, 1, 1) and found["c = 0.8", "c = inf"] == (0, 0, 0)
    value, low, high = found["c = 0.2", "as slow as c = 0.2"]
    assert value == 0.5 and low < 0.5 < high
    checks = {check.what: check.holds for check in pull_or_step_size.FIGURE.verify(data)}
    pair = "Breakout and SpaceInvaders"
    assert checks[f"P(c = 0.2 > c = inf), {pair}"] is True and checks[f"P(c = 0.8 > c = inf), {pair}"] is False
    assert checks[f"P(c = 0.2 > as slow as c = 0.2 (chosen as the best)), {pair}"] is None
    pull_or_step_size.FIGURE.draw(data)


def entry(env, finals, **config):
    return {"env": env, "final_return": finals, "config": config, "agent": "ppg", "steps": 1, "seeds": [0, 1]}


def test_returns_are_normalised_by_hand():
    small = {"scale": "small", "cells": {
        "ppo-Breakout-MinAtar": entry("gymnax/Breakout-MinAtar", [8.0, 12.0]),
        "ppg-Breakout-MinAtar": entry("gymnax/Breakout-MinAtar", [15.0, 20.0]),
    }}  # fmt: skip
    games = ppg._by_game(small, ppg._algorithm)
    found = ppg.normalized(small, games, "ppo")
    assert found["ppg"].tolist() == [[1.5], [2.0]] and found["ppo"].tolist() == [[0.8], [1.2]]
    paper = {"scale": "paper", "cells": {"ppg-bigfish": entry("procgen/bigfish", [10.0, 30.0])}}
    games = ppg._by_game(paper, ppg._algorithm)
    assert ppg.normalized(paper, games, "ppo")["ppg"].tolist() == [[0.25], [0.75]]  # of 0 to 40 in hard mode


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_smoke_figures_are_drawn_and_verified_from_their_files(name, smoke, tmp_path, capsys):
    """The JSON alone is enough, as on a clone with committed results; what is drawn does not change."""
    figure = FIGURES[name]
    path = commands.path_of(figure, "smoke", smoke)
    copied = tmp_path / "smoke" / path.name
    copied.parent.mkdir()
    shutil.copyfile(path, copied)
    for command in ("render", "verify"):
        assert commands.main([command, name, "--scale", "smoke", "--folder", str(tmp_path)]) == 0
    assert copied.with_suffix(".png").read_bytes() == path.with_suffix(".png").read_bytes()
    said = capsys.readouterr().out
    assert figure.protocol["smoke"] in said and figure.paper in said
    assert len(figure.verify(json.loads(path.read_text()))) > 0
    data = json.loads(path.read_text())
    assert {name: len(cell["final_return"]) for name, cell in data["cells"].items()} == {
        cell.name: cell.seeds for cell in figure.cells("smoke")
    }


def test_finished_cells_are_not_run_again(smoke, monkeypatch):
    monkeypatch.setattr(programs, "train_program", lambda *_, **__: pytest.fail("a finished cell was trained again"))
    assert commands.main(["run", "dqn-pro/bars", "--folder", str(smoke)]) == 0


def test_cut_short_and_continued_says_the_same(smoke, tmp_path, monkeypatch):
    """Against an uninterrupted run of this figure alone: beside others its cells would share other programs."""
    figure = FIGURES["dqn-pro/pull-or-step-size"]

    class Killed(Exception):
        pass

    advance, calls = Trainer._advance, iter(range(1_000))

    def failing(*args):
        if next(calls) == 80:  # in the second of two programs, each of 63 iterations
            raise Killed
        return advance(*args)

    parts, in_one_go = tmp_path / "parts", tmp_path / "whole"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "_advance", failing)
        commands.run([figure], "smoke", parts, quiet=True)
    assert not commands.path_of(figure, "smoke", parts).exists()
    for folder in (parts, in_one_go):
        commands.run([figure], "smoke", folder, quiet=True)
    mine, whole = (json.loads(commands.path_of(figure, "smoke", f).read_text())["cells"] for f in (parts, in_one_go))
    assert [cell["curves"] for cell in mine.values()] == [cell["curves"] for cell in whole.values()]
    assert [cell["final_return"] for cell in mine.values()] == [cell["final_return"] for cell in whole.values()]


def test_the_same_cells_in_another_plan_are_refused(smoke, tmp_path, monkeypatch):
    shutil.copytree(
        smoke / "smoke" / "cells" / "ppo-Breakout-MinAtar", tmp_path / "smoke" / "cells" / "ppo-Breakout-MinAtar"
    )
    monkeypatch.setattr(ppg, "_TINY", ppg._TINY | {"num_envs": 4})
    with pytest.raises(PurerlError, match="holds another run: config num_envs was 8, is 4"):
        commands.run([FIGURES["ppg/sample-efficiency"]], "smoke", tmp_path)


@pytest.mark.parametrize(
    "words, line",
    [
        (["render", "dqn-pro/bars"], "purerl figure run dqn-pro/bars --scale smoke"),
        (["run", "dqn-pro/bar"], "Did you mean 'dqn-pro/bars'"),
        (["run"], "which figure"),
        (["draw", "all"], "invalid choice"),
        (["run", "all", "--scale", "large"], "invalid choice"),
    ],
)
def test_bad_input_gets_one_line(words, line, tmp_path):
    with pytest.raises(PurerlError, match=line):
        commands.main([*words, "--folder", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_damaged_results_are_refused(tmp_path):
    path = commands.path_of(FIGURES["dqn-pro/bars"], "smoke", tmp_path)
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(PurerlError, match="damaged"):
        commands.main(["verify", "dqn-pro/bars", "--folder", str(tmp_path)])


def test_cost_counts_what_would_be_run(capsys, monkeypatch):
    """Two architectures of 1,024 steps and two seeds: one kind."""
    monkeypatch.setattr(commands, "PROBE_SECONDS", 0.2)
    assert commands.main(["cost", "ppg/single-network", "--scale", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "4,096" in said and "hours in total" in said


@pytest.mark.parametrize("scale", commands.SCALES)
def test_every_probe_of_a_cost_is_a_possible_run(scale):
    """The sizes that a probe makes smaller still divide each other, for all figures."""
    for name, figure in FIGURES.items():
        for cell in (cells[0] for cells in commands.kinds(figure, scale).values()):
            config = plan_of(cell).config
            fewer = commands.probe_config(config)
            assert fewer["num_envs"] <= config.num_envs, name
            plan_of(dataclasses.replace(cell, config=cell.config | fewer))


def test_probability_of_improvement_is_the_engines():
    ours, base = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0])
    assert statistics.probability_of_improvement(ours, base) == pytest.approx((0 + 0.5 + 1) / 3)


# --- what is recorded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_figure_holds_the_cells_that_are_declared_and_its_drawing(path):
    data = json.loads(path.read_text())
    figure = FIGURES[data["figure"]]
    declared = {cell.name: (cell.agent, cell.env, cell.preset, cell.steps) for cell in figure.cells(data["scale"])}
    kept = {name: (cell["agent"], cell["env"], cell["preset"]) for name, cell in data["cells"].items()}
    assert kept == {name: cell[:3] for name, cell in declared.items()}
    assert all(cell["steps"] >= declared[name][3] for name, cell in data["cells"].items())
    assert not data["environment"]["git_dirty"] and figure.verify(data)
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_the_recorded_pairs_of_the_dqn_family_have_intervals():
    data = json.loads((ROOT / "experiments/results/figures/small/dqn-pro-learning-curves.json").read_text())
    pairs = dqn_pro.pairs(data)
    assert len(pairs) == 10
    for (game, base), (value, low, high) in pairs.items():
        assert 0 <= low <= value <= high <= 1 and low < high
        assert f"{value:.2f} ({low:.2f} to {high:.2f})" in next(
            line for line in dqn_pro.table(data).splitlines() if line.startswith(f"| {game} ")
        ), base
