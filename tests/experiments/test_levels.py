"""Figures of training levels and held-out levels: what is declared, and what is read from rows."""

import json

import numpy as np
import pytest

from purerl import configs
from purerl.experiments.figures import commands, levels
from purerl.runs.plan import make_plan

FIGURES = {figure.name: figure for figure in levels.FIGURES}


def plan_of(cell):
    return make_plan(
        cell.agent, cell.env, preset=cell.preset, seeds=cell.seeds, steps=cell.steps, config=cell.config,
        env_options=cell.env_options,
    )  # fmt: skip


def differences(cell, other):
    one, two = configs.to_dict(plan_of(cell).config), configs.to_dict(plan_of(other).config)
    return {name: one[name] for name in one if one[name] != two[name]}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("scale", commands.SCALES)
def test_all_agents_play_the_same_game_and_test_levels_are_not_trained_on(name, scale):
    shown = {scale: [] for scale in commands.SCALES}
    for cell in FIGURES[name].cells(scale):
        options = plan_of(cell).options
        assert (options.distribution_mode, options.observation, options.start_level) == ("easy", "symbolic", 0)
        assert cell.eval_env_options["start_level"] > options.num_levels
        shown[scale].append((cell.seeds, cell.steps, cell.eval_every, cell.eval_env_options["num_levels"]))
    assert len(set(shown[scale])) == 1
    seeds, steps, _, test_levels = shown[scale][0]
    told = FIGURES[name].protocol[scale]
    assert f"{steps:,} steps" in told and f"{seeds} seed" in told and f"{test_levels:,} test levels" in told


def test_the_full_scale_is_the_papers_length_on_maze_with_four_sets_of_levels():
    cells = FIGURES["levels/generalization"].cells("paper")
    assert {(cell.steps, cell.seeds) for cell in cells} == {(25_000_000, 8)}
    sets = {(cell.agent, cell.env, cell.env_options["num_levels"]) for cell in cells}
    for agent in ("ppo", "ppg"):
        assert {n for a, env, n in sets if (a, env) == (agent, "procgen-jax/maze")} == {50, 200, 1_000, 100_000}
    assert {env for _, env, n in sets if n == 200} == {f"procgen-jax/{game}" for game in ("maze", "miner", "heist")}


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_the_arms_of_the_mechanism_differ_in_networks_and_value_epochs_alone(scale):
    """Without the auxiliary phase a sample is used as often for the value function as in PPG, or only E_V times."""
    one = levels.SCALES[scale]
    cells = [levels._cell(scale, arm.agent, "maze", one.levels, **arm.config) for arm in levels.mechanism(scale)]
    ppo, ppg, *others = cells
    assert (ppo.agent, ppg.agent) == ("ppo", "ppg")
    config = plan_of(ppg).config
    assert config.architecture == "dual" and config.auxiliary_epochs > 0
    often = config.value_epochs + config.auxiliary_epochs
    none = {"auxiliary_epochs": 0}
    assert [differences(cell, ppg) for cell in others] == [
        none,
        none | {"value_epochs": often},
        none | {"architecture": "shared"},
        none | {"architecture": "shared", "value_epochs": often},
    ]


@pytest.mark.parametrize("scale", commands.SCALES)
def test_sample_reuse_varies_one_field_at_a_time(scale):
    """As published: E_V (and all else) stays what it is in PPG while E_pi is varied."""
    ppg = levels._cell(scale, "ppg", "maze", levels.SCALES[scale].levels)
    for name, of_name in levels.reuse_arms(scale).items():
        for value, config in of_name.items():
            cell = levels._cell(scale, "ppg", "maze", levels.SCALES[scale].levels, **config)
            assert differences(cell, ppg) in ({name: value}, {}) and getattr(plan_of(cell).config, name) == value


def test_last_returns_by_hand(tmp_path):
    """Of 100 steps the rows after step 90 count: of seed 0 the evaluations 4 and 6, of seed 1 none."""
    rows = [
        {"seed": 0, "step": 90, "evaluation_return": 100.0},
        {"seed": 0, "step": 95, "evaluation_return": 4.0},
        {"seed": 0, "step": 98, "evaluation_return": None},
        {"seed": 0, "step": 100, "evaluation_return": 6.0},
        {"seed": 1, "step": 100, "evaluation_return": None},
    ]
    found = levels.last_returns({"steps": 100, "seeds": [0, 1], "final_return": {"per_seed": [7.0, None]}}, rows)
    assert found == {"train": [7.0, None], "test": [5.0, None]}


@pytest.fixture(scope="module")
def data():
    """{figure: its JSON with made-up numbers}: train 9 and test 6 of PPO, 10 and 8 of PPG. At small scale, but for the
    figure that has all sets of levels only at full scale.
    """
    found = {}
    for name, figure in FIGURES.items():
        scale = "paper" if name == "levels/generalization" else "small"
        curve = {"step": [1.0, 2.0], "iqm": [5.0, 6.0], "low": [4.0, 5.0], "high": [6.0, 7.0]}
        cells = {cell.name: {"curves": dict.fromkeys(levels.SPLITS.values(), curve)} for cell in figure.cells(scale)}
        measured = {
            cell.name: {"train": [10.0] * 8, "test": [8.0] * 8} if cell.agent == "ppg" else
            {"train": [9.0] * 8, "test": [6.0] * 7 + [None if cell.env_options["num_levels"] == 50 else 6.0]}
            for cell in figure.cells(scale)
        }  # fmt: skip
        found[name] = json.loads(json.dumps({"scale": scale, "cells": cells, "measured": measured}))
    return found


def test_gaps_stand_beside_the_published_ones(data):
    checks = {check.what: check for check in FIGURES["levels/generalization"].verify(data["levels/generalization"])}
    gap = checks["maze, 200 levels, PPO, gap"]
    assert gap.measured.startswith("3 (3 to 3)") and gap.expected.startswith("3.7 ") and gap.holds is None
    assert checks["maze, 200 levels, PPG, test"].expected.startswith("5.6 ")
    assert checks["maze, 100,000 levels, PPO, train"].expected.startswith("9.86 ")
    assert checks["maze, 1,000 levels, PPO, gap"].expected == "-"
    assert checks["maze, 50 levels, PPO, gap"].measured.startswith("nan")
    assert checks["P(PPG > PPO), maze, 200 levels, test"].measured.startswith("1 ")
    assert "P(PPG > PPO), maze, 50 levels, test" not in checks


def test_arms_and_reuse_are_read_by_hand(data):
    checks = {check.what: check for check in FIGURES["levels/mechanism"].verify(data["levels/mechanism"])}
    assert checks["P(PPO > PPG), maze, test"].measured.startswith("0 ")
    assert checks["maze, PPG, train"].measured.startswith("10 ")
    found = levels.reuse(data["levels/sample-reuse"], "test")  # 8 of maze's 5 to 10
    assert np.allclose([value for of in found.values() for interval in of.values() for value in interval], 0.6)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn(name, data):
    FIGURES[name].draw(data[name])
