"""The protocol with the rejax process, and the environment's cache, without network: a stand-in plays rejax."""

import sys
import textwrap

import pytest

from purerl.errors import PurerlError
from purerl.experiments.benchmarks import baselines
from purerl.experiments.benchmarks.baselines import Rejax, baseline_environment

STAND_IN = """
    import json, sys
    print(json.dumps({"compile_seconds": 1.0, "arguments": sys.argv[1:]}), flush=True)
    for n, line in enumerate(sys.stdin):
        if float(line) < 0:
            sys.exit("Traceback\\nValueError: no such thing\\n")
        print(json.dumps({"steps": n, "steps_per_second": float(line)}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(STAND_IN))
    monkeypatch.setattr(baselines, "_SCRIPT", script)


def test_measurements_come_from_one_process(stand_in):
    with Rejax("dqn", num_seeds=8, num_envs=10, activation="tanh", python=sys.executable) as rejax:
        assert rejax.info["compile_seconds"] == 1.0
        assert rejax.info["arguments"] == ["--algorithm=dqn", "--num-seeds=8", "--num-envs=10", "--activation=tanh"]
        rows = [rejax.measure(2.5) for _ in range(3)]
        assert rows == [{"steps": n, "steps_per_second": 2.5} for n in range(3)]
    rejax.close()
    with pytest.raises(PurerlError, match="closed"):
        rejax.measure()


def test_a_process_that_ends_says_why(stand_in, tmp_path):
    with Rejax("ppo", python=sys.executable) as rejax:
        for _ in range(2):
            with pytest.raises(PurerlError, match="rejax process ended: ValueError: no such thing"):
                rejax.measure(-1)
    (tmp_path / "script.py").write_text("raise SystemExit(3)")
    with pytest.raises(PurerlError, match="exit code 3"):
        Rejax("ppo", python=sys.executable)


def test_the_environment_is_made_once_and_never_half(tmp_path, monkeypatch):
    calls = []

    def run(*command):
        calls.append([str(part) for part in command])
        if "venv" in calls[-1]:
            (folder / "bin").mkdir(parents=True)
            (folder / "bin" / "python").touch()
            (folder / "pyvenv.cfg").touch()
        return "no network" if fails(calls[-1]) else ""

    folder = tmp_path / "environment"
    monkeypatch.setattr(baselines, "_run", run)
    fails = lambda command: "pip" in command  # noqa: E731
    with pytest.raises(PurerlError, match="no network"):
        baseline_environment(folder)
    assert not folder.exists()

    monkeypatch.setattr(baselines, "version", lambda name: "99.0")
    fails = lambda command: "pip" in command and command[-1].endswith("==99.0")  # noqa: E731
    assert baseline_environment(folder) == folder / "bin" / "python"  # with the jax that is known to work
    assert (folder / "complete").read_text().endswith(f"=={baselines.KNOWN_JAX}\n")
    made = len(calls)
    assert baseline_environment(folder) == folder / "bin" / "python"
    assert len(calls) == made

    monkeypatch.setenv("PURERL_CACHE", str(tmp_path / "cache"))
    assert baselines.cache_folder() == tmp_path / "cache" / "baselines"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(PurerlError, match="not a virtual environment"):
        baseline_environment(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
