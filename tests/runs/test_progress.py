"""progress: a bar on a real terminal, plain lines elsewhere, and the final table."""

import os
import pty
import subprocess
import sys
import types

import pytest

from purerl.runs import progress

SUMMARY = {
    "agent": "ppg",
    "env": "procgen/coinrun",
    "preset": "quick",
    "seeds": [0, 1],
    "steps": 1_000_000,
    "compile_seconds": 12.34,
    "train_seconds": 100.0,
    "steps_per_second": 41234.5,
    "final_return": {"iqm": 7.5, "mean": 7.25, "per_seed": [7.0, None]},
    "peak_memory_bytes": 512 * 2**20,
    "peak_memory_of": "process",
    "device": {"kind": "cpu", "backend": "cpu", "count": 1},
    "folder": "/runs/" + "long-name-" * 12,
    "figure": "/runs/x/figures/return.png",
}


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told otherwise."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_plain_lines_about_every_ten_seconds(capsys, clock):
    with progress.Progress(1000, "ppo [x] gymnax/CartPole-v1") as bar:
        for step, later in ((100, 4), (200, 4), (400, 0)):
            bar.update(step, 41234.0, 11.234 if step == 100 else None)
            clock[0] += later
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "ppo [x] gymnax/CartPole-v1: 100 / 1,000 steps (10.0%), 41.2k steps/s, return 11.23, - left",
        # 300 steps in 8 seconds since the first update: 600 more take 16. The last state is never left unsaid.
        "ppo [x] gymnax/CartPole-v1: 400 / 1,000 steps (40.0%), 41.2k steps/s, return 11.23, 0:00:16 left",
    ]


def test_a_line_when_ten_seconds_have_passed(capsys, clock):
    bar = progress.Progress(1000, "x")
    for step in (100, 200, 300):
        bar.update(step)
        clock[0] += 10
    assert len(capsys.readouterr().err.splitlines()) == 3
    bar.close()
    bar.close()
    assert capsys.readouterr().err == ""  # nothing new to say


def test_what_is_not_known_is_a_dash(capsys, clock):
    with progress.Progress(0, "x") as bar:
        bar.update(0, float("nan"), float("nan"))
    assert capsys.readouterr().err == "x: 0 / 0 steps (0.0%), - steps/s, return -, 0:00:00 left\n"


def test_time_left_after_a_resume(capsys, clock):
    """It counts what this process did: 90% were done before, 5% took it 60 seconds, so 60 more are left."""
    bar = progress.Progress(1000, "x")
    bar.update(900)
    clock[0] += 60
    bar.update(950)
    assert "0:01:00 left" in capsys.readouterr().err.splitlines()[-1]


def test_silent(capsys):
    with progress.Progress(10, "x", enabled=False) as bar:
        bar.update(5, 1.0, 1.0)
    assert capsys.readouterr() == ("", "")


ON_A_TERMINAL = """
from purerl.runs.progress import Progress
with Progress(2_000_000, "ppo [x] gymnax/CartPole-v1") as bar:
    bar.update(1_000_000, 41234.0, 11.234)
    bar.update(2_000_000, 41234.0, None)
"""


def on_a_terminal(script):
    """(stdout, stderr) of a Python process whose stderr is a real terminal of 120 columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    command = [sys.executable, "-W", "error", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return out, shown.decode()


def test_a_bar_on_a_real_terminal():
    out, shown = on_a_terminal(ON_A_TERMINAL)
    assert out == ""  # the screen's business is stderr
    for part in ("ppo [x] gymnax/CartPole-v1", "100%", "━━", "41.2k steps/s", "return 11.23", "0:00:00 left", "\x1b["):
        assert part in shown
    assert "compiling" in shown.split("100%")[0]
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (999.6, "1k"), (41234, "41.2k"), (999_900, "1M"), (25e6, "25M"), (1.2e9, "1.2G")],
)
def test_compact(number, text):
    assert progress.compact(number) == text


def test_clock_time():
    assert [progress.clock_time(s) for s in (0, 59.6, 3600 * 27 + 61)] == ["0:00:00", "0:01:00", "27:01:01"]


def test_summary_table(capsys):
    progress.summary_table(SUMMARY)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].strip() == "ppg on procgen/coinrun (quick)" and lines[0].startswith("ppg")  # at the left edge
    for name, value in {
        "seeds": "0, 1",
        "steps per seed": "1,000,000",
        "compile time": "12.3 s",
        "training time": "100.0 s",
        "speed": "41,234 steps/s, all seeds",
        "final return, IQM": "7.5",
        "final return, mean": "7.25",
        "final return, per seed": "7, -",
        "peak memory (process)": "512 MiB",
        "device": "1 x cpu",
    }.items():
        assert any(name in line and value in line for line in lines), name
    # Paths stand on one line each, however long, to be copied.
    assert f"run folder: {SUMMARY['folder']}" in lines and f"figure: {SUMMARY['figure']}" in lines


def test_summary_table_of_an_unfinished_summary(capsys):
    progress.summary_table({"agent": "ppo", "env": "e", "steps": None, "final_return": {"iqm": None, "per_seed": []}})
    out = capsys.readouterr().out
    assert "ppo on e" in out and "None" not in out and "final" not in out


def test_summary_table_where_only_ascii_can_be_printed():
    script = "from purerl.runs.progress import summary_table; summary_table({'agent': 'ppo', 'env': 'e', 'steps': 5})"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0 and b"steps per seed" in done.stdout, done.stderr
