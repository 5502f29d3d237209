"""Cells: each equals its own single run, for any packing into programs, and also after a kill and a restart."""

import jax
import numpy as np
import pytest

from purerl import configs
from purerl.errors import PurerlError
from purerl.runs import checkpoint, estimates, files, programs, run_folder, sinks
from purerl.runs.plan import make_plan, seed_keys
from purerl.runs.policy import open_run
from purerl.runs.programs import Cell
from purerl.runs.recording import Recording
from purerl.runs.saving import Saving
from purerl.runs.train import train
from purerl.runs.trainer import Trainer

RATES = (1e-3, 3e-3, 1e-2)
UPDATES = 4
STEPS = UPDATES * 64


@pytest.fixture(scope="module")
def cartpole(tiny):
    """(config={}, **kwargs) -> a Plan of three seeds on CartPole."""

    def cartpole(config=None, **kwargs):
        how = {"seeds": 3, "steps": STEPS} | kwargs
        return make_plan("ppo", "gymnax/CartPole-v1", **how, config=tiny("ppo", **(config or {})))

    return cartpole


EVERY_ROW = Recording(log_every=1)


@pytest.fixture(scope="module")
def run_cells(cartpole):
    """(folder, recording) -> cells that were run: three learning rates at one epoch and one rate at two, in two
    programs of 9 and of 3 lanes.
    """

    def run_cells(folder, recording=EVERY_ROW):
        plans = {f"{rate}": cartpole(config={"learning_rate": rate, "num_epochs": 1}) for rate in RATES}
        plans["epochs"] = cartpole(config={"num_epochs": 2})
        found = [Cell(plan, folder / name, recording) for name, plan in plans.items()]
        programs.run(found, folder / "work", quiet=True)
        return found

    return run_cells


def params_of(folder):
    _, _, _, _, load = open_run(folder)
    return load().params


def rows_of(folder):
    rows = sinks.read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in ("wall_time", "steps_per_second")} for row in rows]


@pytest.fixture(scope="module")
def finished(run_cells, tmp_path_factory):
    """Cells that were trained without a break."""
    return run_cells(tmp_path_factory.mktemp("finished"))


def test_a_cell_is_its_solo_run(finished, tmp_path, tiny):
    """The same parameters up to rounding, the same episodes, and a run folder that can be gone on with."""
    for cell in finished[3:]:
        config = tiny("ppo", **{name: getattr(cell.plan.config, name) for name in ("learning_rate", "num_epochs")})
        solo = train(
            "ppo", "gymnax/CartPole-v1", seeds=3, steps=STEPS, config=config, out=tmp_path / cell.folder.name,
            log_every=1, quiet=True,
        )  # fmt: skip
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params_of(cell.folder), solo.state.agent.params
        )
        mine, theirs = rows_of(cell.folder), rows_of(solo.folder)
        assert [row["episode_return"] for row in mine] == [row["episode_return"] for row in theirs]
        assert run_folder.load(cell.folder)["config"].keys() == run_folder.load(solo.folder)["config"].keys()
        assert run_folder.load(cell.folder)["summary"]["seeds"] == [0, 1, 2]
        assert not (cell.folder.parent / "work" / "0000").exists()


def test_a_finished_cell_goes_on_as_an_ordinary_run(finished, tmp_path, cartpole, tiny):
    """`purerl train --resume` with more steps: optimizer and environments are in the cell's own checkpoint."""
    steady = {"anneal_learning_rate": False}
    cell = Cell(cartpole(config=steady), tmp_path / "cell")
    programs.run(
        [cell, Cell(cartpole(config=steady | {"clip": 0.3}), tmp_path / "other")], tmp_path / "work", quiet=True
    )
    kwargs = {"seeds": 3, "config": tiny("ppo", **steady), "quiet": True}
    longer = train("ppo", "gymnax/CartPole-v1", out=cell.folder, steps=2 * STEPS, resume=True, **kwargs)
    whole = train("ppo", "gymnax/CartPole-v1", out=tmp_path / "whole", steps=2 * STEPS, **kwargs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), longer.state.agent.params, whole.state.agent.params
    )


class Killed(Exception):
    pass


def stop(patch, owner, name, after):
    """Makes the function fail instead of being called for the (after + 1)th time."""
    original, calls = getattr(owner, name), iter(range(10**6))

    def failing(*args, **kwargs):
        if next(calls) == after:
            raise Killed
        return original(*args, **kwargs)

    patch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    "owner, name, after",
    [
        (Trainer, "_advance", 2),  # during the first program
        (Trainer, "_advance", UPDATES + 1),  # during the second program
        (Saving, "save_member", 1),  # while the first one's cells are written
        (run_folder, "create", 2),  # while its folders are made
        (programs, "_remove", 0),  # when all of its cells are finished
    ],
)
def test_cut_short_and_continued_is_the_same(owner, name, after, finished, tmp_path, monkeypatch, run_cells):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop(patch, owner, name, after)
        run_cells(tmp_path, Recording(log_every=1, checkpoint_seconds=0))
    for mine, whole in zip(run_cells(tmp_path, Recording(log_every=1, checkpoint_seconds=0)), finished, strict=True):
        assert rows_of(mine.folder) == rows_of(whole.folder)
        jax.tree.map(np.testing.assert_array_equal, params_of(mine.folder), params_of(whole.folder))
    assert list((tmp_path / "work").iterdir()) == []


def test_finished_cells_are_not_trained_again(finished, monkeypatch, run_cells):
    monkeypatch.setattr(programs, "train_program", lambda *_, **__: pytest.fail("a finished cell was trained again"))
    run_cells(finished[0].folder.parent)


def test_a_folder_of_another_run_is_refused(finished, tmp_path, cartpole):
    other = Cell(cartpole(config={"learning_rate": 0.5, "num_epochs": 1}), finished[0].folder)
    with pytest.raises(PurerlError, match=r"holds another run: config learning_rate was 0.001, is 0.5"):
        programs.run([other], tmp_path)
    with pytest.raises(PurerlError, match="same folder"):
        programs.run([finished[0], finished[0]], tmp_path)


def test_lanes_are_filled_up_to_the_devices(cartpole):
    assert jax.device_count() == 2
    plans = [cartpole(config={"learning_rate": rate}) for rate in RATES]
    assert programs._lanes(plans[0], 9) == 10
    assert programs._lanes(plans[0], 1) == 1
    merged = programs.together(plans, 10, programs._varying(plans))
    assert merged.seeds == (0, 1, 2) * 3 + (2,)
    assert merged.config.learning_rate.tolist() == np.float32(np.repeat([*RATES, RATES[-1]], [3, 3, 3, 1])).tolist()
    assert merged.config.clip == plans[0].config.clip


def test_memory_decides_the_number_of_programs(tmp_path, cartpole):
    plans = [cartpole(seeds=2, config={"learning_rate": rate}) for rate in np.linspace(1e-4, 1e-2, 8).tolist()]
    group = [Cell(plan, tmp_path / str(i)) for i, plan in enumerate(plans)]
    whole = programs.together(plans, 16, ["learning_rate"])
    need = programs.shared_loop(whole).program_bytes(configs.traced(whole.config), seed_keys(whole))
    state = jax.eval_shape(programs.shared_loop(whole)._init, configs.traced(whole.config), seed_keys(whole))
    assert need > sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.agent))
    assert programs._most_that_fit(group, ["learning_rate"], need) == 8
    assert programs._most_that_fit(group, ["learning_rate"], need // 2) == 4
    with pytest.raises(PurerlError, match=r"one cell of 2 seeds takes .* fewer --seeds"):
        programs._most_that_fit(group, ["learning_rate"], need // 9)
    paths = programs._pack(group, tmp_path / "work", need // 3, None)
    packed = [files.read_json(path / programs.PROGRAM) for path in paths]
    assert [len(program["cells"]) for program in packed] == [2, 2, 2, 2]
    assert [program["lanes"] for program in packed] == [4] * 4


def test_programs_of_one_shape_compile_once(tmp_path, cartpole):
    """Four cells as two programs of two: the second takes the first one's executables."""
    config = {"hidden": (24,)}
    found = [
        Cell(cartpole(seeds=2, config=config | {"learning_rate": rate}), tmp_path / f"{rate}") for rate in (*RATES, 0.1)
    ]
    programs.run(found, tmp_path / "work", cells_per_program=2, quiet=True)
    compiled = [run_folder.load(cell.folder)["summary"]["compiled_programs"] for cell in found]
    assert compiled[0] == compiled[1] > 0
    assert compiled[2] == compiled[3] == 0


def test_a_lane_that_diverges_leaves_the_others_alone(tmp_path, cartpole, tiny):
    """A learning rate of 1e38 makes the loss no number; train() refuses that, a cell says so in its rows."""
    found = [Cell(cartpole(config={"learning_rate": rate}), tmp_path / f"{rate}", EVERY_ROW) for rate in (1e-3, 1e38)]
    programs.run(found, tmp_path / "work", quiet=True)
    summaries = [run_folder.load(cell.folder)["summary"] for cell in found]
    assert [summary["diverged_seeds"] for summary in summaries] == [[], [0, 1, 2]]
    assert not any("diverged" in row for row in rows_of(found[0].folder))
    with pytest.raises(PurerlError, match="of seed 0 is nan"):
        train("ppo", "gymnax/CartPole-v1", steps=STEPS, config=tiny("ppo", learning_rate=1e38), out=tmp_path / "solo",
        quiet=True)  # fmt: skip


def test_evaluations_play_the_evaluation_environment(tmp_path, cartpole):
    """Episodes of the evaluation are cut at 7 steps, those of training are not."""
    how = Recording(log_every=1, eval_every=128, eval_episodes=2, eval_env_options={"max_steps": 7})
    found = [Cell(cartpole(config={"learning_rate": rate}), tmp_path / f"{rate}", how) for rate in RATES[:2]]
    programs.run(found, tmp_path / "work", quiet=True)
    played = [row["evaluation_return"] for row in rows_of(found[1].folder)]
    assert {value for value in played if value is not None} == {7.0}
    assert [value is not None for value in played] == [False] * 3 + [True] * 3 + [False] * 3 + [True] * 3
    assert max(row["episode_return"] or 0 for row in rows_of(found[1].folder)) > 7


def test_cells_on_host_games(tmp_path):
    """Two learning rates of one seed in one Procgen pool: each continues from its own checkpoint with its own levels.

    The rates are small because lanes are equal up to rounding, which large steps of Adam let change an action.
    """
    pytest.importorskip("cffi", reason="procgen is not installed")
    config = {
        "num_envs": 4,
        "rollout_length": 8,
        "num_minibatches": 2,
        "network": "mlp",
        "hidden": (8,),
        "policy_iterations": 2,
    }
    config |= {"auxiliary_epochs": 1, "auxiliary_minibatches": 2, "anneal_learning_rate": False}
    plan = lambda rate: make_plan(  # noqa: E731
        "ppg", "procgen/coinrun", steps=64, seeds=2, preset="quick", config=config | {"learning_rate": rate}
    )
    found = [Cell(plan(rate), tmp_path / f"{rate}") for rate in (1e-6, 1e-5)]
    programs.run(found, tmp_path / "work", quiet=True)
    with checkpoint.Checkpoints(found[1].folder / "checkpoints") as saved:
        assert saved.latest() == 2
    kwargs = {"preset": "quick", "seeds": 2, "config": config | {"learning_rate": 1e-5}, "quiet": True}
    longer = train("ppg", "procgen/coinrun", out=found[1].folder, steps=128, resume=True, **kwargs)
    whole = train("ppg", "procgen/coinrun", out=tmp_path / "whole", steps=128, **kwargs)
    np.testing.assert_array_equal(longer.state.inputs.observation, whole.state.inputs.observation)
    for mine, alone in zip(*(jax.tree.leaves(run.state.agent.params) for run in (longer, whole)), strict=True):
        np.testing.assert_allclose(mine, alone, atol=1e-4)  # the two cells' differ by 3e-3
    with pytest.raises(PurerlError, match="use --cells-per-program"):
        programs.run([Cell(plan(1e-2), tmp_path / "new")], tmp_path / "work", max_memory=10**9)


@pytest.mark.parametrize(
    "text, size", [("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("800mb", 8 * 10**8), ("1000", 1000), ("2KiB", 2048)]
)
def test_amounts_of_memory(text, size):
    assert estimates.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8 apples", "-1GB", "nan", "0"])
def test_amounts_that_are_none(text):
    with pytest.raises(PurerlError, match="memory"):
        estimates.parse_bytes(text)
