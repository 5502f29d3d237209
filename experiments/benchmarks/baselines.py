"""The other libraries that `purerl bench` measures beside purerl, each in a virtual environment of its own.

rejax 0.1.3 needs gymnax 0.0.9, purerl a later one, and PyTorch brings its own threads; so their side runs in another
process, which starts once and then trains whenever it is asked to. That lets a benchmark take turns on a machine whose
speed drifts:

    with Rejax("ppo", num_seeds=8) as rejax:
        for _ in range(5):
            ours.append(measure_ours())
            theirs.append(rejax.measure())

Between measurements the process waits for a line on its standard input and takes no processor time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from purerl import cache
from purerl.errors import PurerlError

REJAX = ("rejax==0.1.3", "gymnax==0.0.9")
KNOWN_JAX = "0.10.2"  # the jax that this comparison was first made with
_SMOKE_TEST = """
import jax, rejax
jax.eval_shape(rejax.PPO.create(env="Breakout-MinAtar").train, jax.random.PRNGKey(0))
"""
_SCRIPT = Path(__file__).with_name("baseline_rejax.py")
# The version that was measured first; where the index does not have it, the newest one.
TORCH = (("torch==2.14.1", "numpy"), ("torch", "numpy"))
_TORCH_SMOKE_TEST = "import torch; torch.zeros(1).sum().item()"
_TORCH_SCRIPT = Path(__file__).with_name("baseline_torch.py")


def cache_folder() -> Path:
    """Where the virtual environments are."""
    return cache.folder("baselines")


def baseline_environment(folder: str | os.PathLike | None = None) -> Path:
    """Returns the Python of a virtual environment with rejax 0.1.3, gymnax 0.0.9 and our jax, made at the first call.

    Where rejax does not run with our jax, it gets KNOWN_JAX; the measurements say which. On a machine whose jax has a
    CUDA plugin, the environment gets the same plugin. Only `python -m venv` and pip are used; making it takes a minute
    and 1 GB of disk.

    Args:
      folder: of the environment; by default one below `cache_folder()`, named after the versions.

    Raises:
      PurerlError: it cannot be made (no network, no disk space, ...). Nothing half-made is used later.
    """
    ours = version("jax")
    folder = cache_folder() / f"rejax-0.1.3-jax{ours}-{_python()}" if folder is None else Path(folder)
    choices = [(*REJAX, f"jax{_accelerator_extra()}=={jax}") for jax in dict.fromkeys((ours, KNOWN_JAX))]
    return _environment("rejax", folder, choices, _SMOKE_TEST)


def torch_environment() -> Path:
    """Returns the Python of a virtual environment with PyTorch, made at the first call: some minutes and 6 GB of disk,
    because the wheel on the package index brings CUDA. Errors as in `baseline_environment`.
    """
    return _environment("torch", cache_folder() / f"torch-{_python()}", TORCH, _TORCH_SMOKE_TEST)


def _python() -> str:
    return f"py{sys.version_info.major}.{sys.version_info.minor}"


def _environment(name: str, folder: Path, choices: Sequence[Sequence[str]], smoke_test: str) -> Path:
    """Makes the environment with the first requirements that work; a marker file, written last, says that it is
    complete.
    """
    python, marker = folder / "bin" / "python", folder / "complete"
    if marker.exists() and python.exists():
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise PurerlError(f"{folder} is not a virtual environment: choose a folder that is new or empty for {name}")
    failure = ""
    for requirements in choices:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"making the environment for {name} in {folder} (once, minutes) ...", file=sys.stderr, flush=True)
        failure = _run(sys.executable, "-m", "venv", folder)
        failure = failure or _run(python, "-m", "pip", "install", "--quiet", *requirements)
        failure = failure or _run(python, "-W", "ignore", "-c", smoke_test)
        if not failure:
            marker.write_text(" ".join(requirements) + "\n")
            return python
    shutil.rmtree(folder, ignore_errors=True)
    raise PurerlError(f"cannot make the environment for {name} in {folder}: {failure}. Is the package index in reach?")


def _accelerator_extra() -> str:
    """The extra of jax that this Python's jax was installed with: "[cuda12]", "[cuda13]" or ""."""
    for extra in ("cuda13", "cuda12"):
        try:
            version(f"jax-{extra}-plugin")
            return f"[{extra}]"
        except PackageNotFoundError:
            continue
    return ""


def _run(*command: Any) -> str:
    """Runs a command; returns "" or the last line of what it said when it failed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=_clean_environment())
    return _last_line(done.stderr + done.stdout, done.returncode) if done.returncode else ""


def _last_line(text: str, code: int | None) -> str:
    """The last line that says something, or the exit code."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {code}"


def _clean_environment() -> dict[str, str]:
    """Our environment variables without those that would let our packages or warning filters into the other Python."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    # It must not take all of an accelerator's memory, which it shares with our side.
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | kept


class Peer:
    """Another library in a process of its own: a context manager.

    Args:
      name: of the library, for errors.
      python: of the environment with it.
      script: what the process runs, one of the `baseline_*.py` here.
      options: flags of the script.

    Attributes:
      info: dict: sizes, versions, compile_seconds, as the process reported them.
    """

    def __init__(self, name: str, python: str | os.PathLike, script: Path, options: Mapping[str, Any]):
        self._name = name
        options = {name.replace("_", "-"): value for name, value in options.items()}
        command = [str(python), str(script), *(f"--{k}={v}" for k, v in options.items())]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`close` closes it)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_clean_environment(),
        )
        try:
            self.info = self._answer()
        except BaseException:
            self.close()
            raise

    def measure(self, seconds: float = 5.0) -> dict:
        """What the process measures in at least `seconds`, see its script. PurerlError if the process failed."""
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended: `_answer` finds out why
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process. Safe to call twice."""
        if self._process.stdout.closed:
            return
        self._process.kill()  # it holds nothing that would have to be put away
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _answer(self) -> dict:
        """The next line of the process."""
        line = "" if self._process.stdout.closed else self._process.stdout.readline()
        if line:
            return json.loads(line)
        if self._process.stdout.closed:
            raise PurerlError(f"the {self._name} process is closed: open another")
        code = self._process.wait()
        self._errors.seek(0)
        raise PurerlError(f"the {self._name} process ended: {_last_line(self._errors.read(), code)}")


class Rejax(Peer):
    """One of rejax's algorithms.

    PPO trains on Breakout-MinAtar with two MLPs of 64-64, actor and critic, on the flattened 10 x 10 x 4 observation;
    DQN on CartPole with one of 120-84, without double Q-learning; TD3 on Pendulum with an actor and two critics of
    64-64. All in float32. It measures {steps, train_seconds, steps_per_second, compile_seconds, cpu_seconds}, steps
    counted over all seeds.

    Args:
      algorithm: "ppo", "dqn" or "td3".
      num_seeds: agents trained side by side in one vmapped program.
      python: of the environment with rejax; by default `baseline_environment()`.
      options: the sizes, see `baseline_rejax.py --help` (activation is a function of flax.linen: purerl's presets have
        relu, rejax's own default is swish).
    """

    def __init__(self, algorithm: str, num_seeds: int = 1, python: str | os.PathLike | None = None, **options: Any):
        options = {"algorithm": algorithm, "num_seeds": num_seeds} | options
        super().__init__("rejax", python or baseline_environment(), _SCRIPT, options)


class Torch(Peer):
    """IMPALA's network in PyTorch with PPO's loss, see `baseline_torch.py`, whose flags are the options."""

    def __init__(self, python: str | os.PathLike | None = None, **options: Any):
        super().__init__("torch", python or torch_environment(), _TORCH_SCRIPT, options)
