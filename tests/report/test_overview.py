"""overview: what runs and sweeps are, how far they are and how well they do."""

import json

import pytest

from purerl.report import overview
from purerl.runs import files, lock


def of(folder):
    """{name: entry} of what is under a folder."""
    listed, others, damaged = overview.entries(folder)
    assert not others and not damaged
    return {entry.path.name: entry for entry in listed}


def test_finished_stopped_running_and_diverged(tmp_path, write_run):
    rows = [[1.0, 2.0]] * 4
    write_run(tmp_path / "finished", rows, finals=[3.0, 5.0])
    write_run(tmp_path / "stopped", rows, steps=1000)
    running = write_run(tmp_path / "running", rows, steps=1000)
    write_run(tmp_path / "diverged", rows, finals=[3.0, 5.0])
    summary = json.loads((tmp_path / "diverged" / "summary.json").read_text())
    files.write_json(tmp_path / "diverged" / "summary.json", summary | {"diverged_seeds": [1]})
    with lock.hold(running):
        found = of(tmp_path)
    assert {name: entry.status for name, entry in found.items()} == {
        "finished": "finished",
        "stopped": "stopped",
        "running": "running",
        "diverged": "diverged: 1 of 2 seeds",
    }
    assert of(tmp_path)["running"].status == "stopped"
    assert (found["stopped"].done, found["stopped"].planned) == (400, 1000)
    assert (found["finished"].final, found["finished"].seeds) == (4.0, 2)


def test_a_run_that_diverged_before_its_end(tmp_path, write_run):
    write_run(tmp_path / "run", [[1.0]], steps=1000, metrics={"diverged": True})
    assert of(tmp_path)["run"].status == "diverged"


def test_the_final_return_is_that_of_the_last_tenth_and_the_best_that_of_the_best(tmp_path, write_run):
    values = [[float(min(i, 20 - i)), 0.0] for i in range(1, 21)]  # up to 10 and down again; two rows are a tenth
    folder = write_run(tmp_path / "run", values)
    entry = of(tmp_path)["run"]
    assert entry.final == pytest.approx((0.5 + 0) / 2)  # rows 19 and 20 have 1 and 0
    assert entry.best == pytest.approx((9.5 + 0) / 2)  # rows 9 and 10, or 11 and 12
    files.write_json(folder / "summary.json", {"steps": 2000, "final_return": {"per_seed": [40.0, None]}})
    entry = of(tmp_path)["run"]
    assert (entry.final, entry.best) == (40.0, 40.0)


def test_no_episode_has_ended(tmp_path, write_run):
    write_run(tmp_path / "run", [[None, None]])
    (write_run(tmp_path / "empty", [[1.0]], steps=50) / "metrics.jsonl").unlink()
    found = of(tmp_path)
    assert (found["run"].final, found["run"].best) == (None, None)
    assert (found["empty"].done, found["empty"].final, found["empty"].status) == (0, None, "stopped")


def test_what_differs_is_said_among_runs_of_one_preset(tmp_path, write_run):
    write_run(tmp_path / "a", [[1.0]])
    write_run(tmp_path / "b", [[1.0]], config={"learning_rate": 0.5, "hidden": [64, 64]})
    write_run(tmp_path / "c", [[1.0]], preset="other", config={"learning_rate": 7.0})
    found = of(tmp_path)
    assert [found[name].differs for name in "abc"] == ["learning_rate 0.001", "learning_rate 0.5", ""]


def test_a_sweep_is_one_row_and_its_cells_if_it_is_the_folder(tmp_path, write_sweep):
    rates = [{"learning_rate": rate} for rate in (0.1, 0.2, 0.3)]
    folder = write_sweep(tmp_path / "sweep", rates)
    entry = of(tmp_path)["sweep"]
    assert (entry.status, entry.final, entry.best, entry.seeds, entry.done) == ("finished", 12.0, 12.0, 2, 300)
    assert entry.differs == "3 settings, best 002: learning_rate 0.3"
    cells = of(folder)
    assert [cell.differs for cell in cells.values()] == [f"learning_rate {rate}" for rate in (0.1, 0.2, 0.3)]
    (folder / "cells" / "002" / "summary.json").unlink()
    assert of(tmp_path)["sweep"].status == "stopped, 2 of 3 settings"
    with lock.hold(folder):
        assert of(tmp_path)["sweep"].status == "running, 2 of 3 settings"
        assert [cell.status for cell in of(folder).values()] == ["finished", "finished", "running"]


def test_strange_and_damaged_folders_are_named(tmp_path, write_run, write_sweep):
    write_run(tmp_path / "good", [[1.0]])
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (write_run(tmp_path / "bad", [[1.0]]) / "metrics.jsonl").write_text("[]\n")
    (write_sweep(tmp_path / "sweep", [{"clip": 0.1}]) / "sweep.json").write_text('{"cells": [1]}')
    (tmp_path / "link").symlink_to(tmp_path / "good")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    listed, others, damaged = overview.entries(tmp_path)
    assert [entry.path.name for entry in listed] == ["good"] and [path.name for path in others] == ["notes"]
    assert {path.name for path in damaged} == {"bad", "sweep", "foreign"}
