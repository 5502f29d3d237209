"""load_runs: all runs and cells under a folder as one table."""

import json
import sys

import numpy as np
import pytest

import purerl
from purerl.errors import PurerlError


@pytest.fixture
def folder(tmp_path, write_run, write_sweep):
    """Two runs, a sweep of two cells, and what is neither."""
    write_run(tmp_path / "a", [[1.0, 2.0], [3.0, None]], finals=[3.0, None], metrics={"loss": 0.5})
    write_run(tmp_path / "deep" / "b", [[5.0]], config={"learning_rate": 0.5, "hidden": [8], "clip": 0.1})
    write_sweep(tmp_path / "sweep", [{"learning_rate": 0.25}, {"learning_rate": 0.75}])
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_a_row_for_each_run_seed_and_logged_step(folder):
    table = purerl.load_runs(folder)
    assert table.columns[:7] == ["run", "agent", "env", "preset", "seed", "iteration", "step"]
    assert len(table) == 4 + 1 + 2 * 6 and len(list(table.rows())) == len(table)
    assert set(table["run"]) == {"a", "deep/b", "sweep/cells/000", "sweep/cells/001"}
    mine = table["run"] == "a"
    np.testing.assert_array_equal(table["episode_return"][mine], [1, 2, 3, np.nan])
    np.testing.assert_array_equal(table["step"][mine], [100, 100, 200, 200])
    assert table["step"].dtype == np.int64 and table["loss"].dtype == np.float64
    assert np.isnan(table["loss"][~mine]).all() and table.left_out == {}


def test_settings_that_differ_are_columns_and_all_are_kept(folder):
    table = purerl.load_runs(folder)
    cell = table["run"] == "sweep/cells/001"
    assert set(table["learning_rate"][cell]) == {0.75} and set(table["hidden"]) == {"64x64", "8"}
    assert np.isnan(table["clip"][cell]).all()
    assert "env.max_steps" not in table.columns and table.settings["a"]["env.max_steps"] == 0
    first = next(table.rows())
    assert first["run"] == "a" and first["episode_return"] == 1.0 and type(first["step"]) is int
    json.dumps(first["step"])


def test_a_sweep_and_a_run_are_folders_too(folder):
    table = purerl.load_runs(folder / "sweep")
    assert set(table["run"]) == {"cells/000", "cells/001"} and list(np.unique(table["learning_rate"])) == [0.25, 0.75]
    assert set(purerl.load_runs(folder / "a")["run"]) == {"a"}


def test_a_metric_and_a_setting_of_one_name(tmp_path, write_run):
    for rate in (0.1, 0.2):
        config = {"learning_rate": rate}
        write_run(tmp_path / str(rate), [[1.0]], metrics={"learning_rate": 9.0}, config=config)
    table = purerl.load_runs(tmp_path)
    assert set(table["learning_rate"]) == {9.0} and list(table["config.learning_rate"]) == [0.1, 0.2]


def test_diverged_rows_are_marked_in_a_column_of_their_own(tmp_path, write_run):
    write_run(tmp_path / "a", [[1.0], [2.0]])
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    (tmp_path / "a" / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [rows[0], rows[1] | {"diverged": True}])
    )
    assert purerl.load_runs(tmp_path)["diverged"].tolist() == [False, True]


def test_damaged_runs_are_left_out_and_named(folder):
    (folder / "a" / "metrics.jsonl").write_text("[1]\n")
    (folder / "sweep" / "cells" / "000" / "config.json").write_text("{")
    table = purerl.load_runs(folder)
    assert set(table["run"]) == {"deep/b", "sweep/cells/001"}
    assert [name.rpartition("/")[2] for name in table.left_out] == ["a", "000"]
    for why in table.left_out.values():
        assert "\n" not in why


def test_what_cannot_be_loaded_is_one_line(tmp_path, folder):
    with pytest.raises(PurerlError, match="there is no folder"):
        purerl.load_runs(tmp_path / "nowhere")
    with pytest.raises(PurerlError, match="there is no run under"):
        purerl.load_runs(folder / "notes")
    with pytest.raises(PurerlError, match="no column 'reward'"):
        purerl.load_runs(folder)["reward"]
    with pytest.raises(PurerlError, match="load_runs: folder"):
        purerl.load_runs(5)


def test_pandas_is_only_for_those_who_have_it(folder, monkeypatch):
    table = purerl.load_runs(folder)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PurerlError, match="pip install pandas"):
        table.to_pandas()
    monkeypatch.undo()
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = table.to_pandas()
    assert list(frame.columns) == table.columns and frame.groupby("run")["step"].max()["a"] == 200
