"""`purerl list runs`: a table of all runs, best first, and never a traceback."""

import subprocess
import sys

import pytest

from purerl.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(capsys, line=""):
    """[[cell, ...], ...] of what the command prints, and the lines after the tables."""
    assert main.main(["list", "runs", *line.split()]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def names(text):
    """The first words of the lines, without the heads of tables."""
    words = [line.split()[0] for line in text.splitlines() if line.strip()]
    return [word for word in words if word not in ("name", "final:")]


@pytest.fixture
def runs(here, write_run, write_sweep):
    """runs/ with three runs in two environments and a sweep."""
    write_run(here / "runs" / "low", [[1.0, 2.0]], finals=[1.0, 2.0])
    write_run(here / "runs" / "high", [[30.0, 50.0]], finals=[30.0, 50.0], config={"learning_rate": 0.5})
    write_run(here / "runs" / "other", [[5.0]], steps=200, env="probe/policy")
    write_sweep(here / "runs" / "sweep", [{"learning_rate": rate} for rate in (0.1, 0.2)])
    return here / "runs"


def test_best_first_within_an_environment(runs, capsys):
    said = listed(capsys)
    assert names(said) == ["gymnax/CartPole-v1", "high", "sweep", "low", "probe/policy", "other"]
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "finished" in lines["high"] and " 40 " in lines["high"] and "learning_rate 0.5" in lines["high"]
    assert "stopped" in lines["other"] and "100 of 200" in lines["other"]
    assert "2 settings, best 001: learning_rate 0.2" in lines["sweep"]
    assert listed(capsys, "runs") == said


@pytest.mark.parametrize(
    ("sort", "order"), [("name", "high low sweep"), ("steps", "sweep high low"), ("best", "high sweep low")]
)
def test_other_orders(runs, capsys, sort, order):
    found = names(listed(capsys, f"--sort {sort}"))
    assert [name for name in found if name in order.split()] == order.split()


def test_the_cells_of_a_sweep(runs, capsys):
    found = listed(capsys, "runs/sweep")
    assert names(found) == ["gymnax/CartPole-v1", "cells/001", "cells/000"]


def test_what_is_no_run_is_named_in_a_line(runs, capsys, write_run):
    (runs / "notes").mkdir()
    (write_run(runs / "bad", [[1.0]]) / "summary.json").write_text("[")
    said = listed(capsys)
    assert "neither run nor sweep: notes\n" in said
    (line,) = [line for line in said.splitlines() if line.startswith("left out: bad: ")]
    assert "summary.json" in line and "high" in names(said)


def test_bad_input_is_one_line(here, capsys):
    for line, part in (
        ("", "there is no folder runs here"),
        ("nowhere", "there is no folder nowhere"),
        (". extra", "unexpected 'extra'"),
        (". --sort fast", "'fast' is not a choice"),
        (". --srot name", "Did you mean '--sort'?"),
    ):
        assert main.main(["list", "runs", *line.split()]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and part in said.err, said.err
    assert main.main(["list", "runs", "."]) == 0 and capsys.readouterr().out == "no run in .\n"
    assert main.main(["list", "rums"]) == 2 and "Did you mean 'runs'?" in capsys.readouterr().err


def test_names_from_files_are_visible_lines(here, capsys, write_run):
    write_run(here / "runs" / "odd", [[1.0]], agent="a\x1b[31m\nb[bold]", env="[red]\x07e", preset=["x"])
    said = listed(capsys)
    assert "\x1b" not in said and "\x07" not in said and "b[bold]" in said and "[red]?e" in said


def test_it_does_not_start_jax(runs):
    code = "from purerl.cli.main import main; assert main(['list', 'runs']) == 0"
    code = f"import sys; {code}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
