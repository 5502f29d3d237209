"""What every test runs under (two virtual CPU devices, no rank promotion, no writing outside temporary folders), and
the specs, configs and rollouts that several of them build on.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

# pytest-xdist's workers inherit what the first process wrote below: the user's own flags travel beside it.
_XLA_FLAGS = os.environ.setdefault("PURERL_TESTS_XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))

# All of this must be in place before the first `import jax`.
_TWO_DEVICES = "--xla_force_host_platform_device_count=2 --xla_cpu_collective_call_terminate_timeout_seconds=86400"
os.environ["XLA_FLAGS"] = f"{_XLA_FLAGS} {_TWO_DEVICES}".strip()
# One compilation cache for all runs of the session, in its processes and their subprocesses, and never the user's own.
if "PURERL_TESTS_CACHE" not in os.environ:
    os.environ["PURERL_TESTS_CACHE"] = tempfile.mkdtemp(prefix="purerl-tests-")
    atexit.register(shutil.rmtree, os.environ["PURERL_TESTS_CACHE"], ignore_errors=True)
os.environ["PURERL_CACHE"] = os.environ["PURERL_TESTS_CACHE"]
# Most tests compile for longer than they run: the marker `optimized` is for those that do not.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["MPLBACKEND"] = "agg"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax._src import compiler  # noqa: E402

from purerl import configs, registry  # noqa: E402
from purerl.runs import files, ownership, run_folder, sinks  # noqa: E402
from purerl.types import EnvSpec, Inputs, Rollout  # noqa: E402

# gymnax and optax do not survive jax_numpy_dtype_promotion="strict": see the fixture below.
jax.config.update("jax_numpy_rank_promotion", "raise")
_DISABLE_OPTIMIZATIONS = jax.config.read("jax_disable_most_optimizations")


# XLA's older code generator for CPUs takes little more than half the time. But the bits of a function then depend on
# the program around it. Parts compiled side by side are more work in all, and pytest-xdist has the other cores busy.
# jaxlib 0.10 has these options; JAX has no public way to choose them after the start.
_IN_ONE_PART = {"xla_cpu_parallel_codegen_split_count": 1}
_QUICK = {"xla_cpu_use_fusion_emitters": False}
_HAS_OPTIONS = importlib.metadata.version("jaxlib").startswith("0.10.")
_quick: dict[str, bool | int] = {}
_get_compile_options = compiler.get_compile_options


def _quick_compile_options(*args: Any, env_options_overrides: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return _get_compile_options(*args, env_options_overrides=_quick | (env_options_overrides or {}), **kwargs)


compiler.get_compile_options = _quick_compile_options


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
        pytest.skip("needs an accelerator, and JAX has none here")
    optimized = item.get_closest_marker("optimized") is not None
    jax.config.update("jax_disable_most_optimizations", _DISABLE_OPTIMIZATIONS and not optimized)
    if "purerl.runs.trainer" in sys.modules:  # no test runs the programs of another one's settings
        sys.modules["purerl.runs.trainer"].forget_shared_loop()
    _quick.clear()
    if _HAS_OPTIONS and not optimized:
        _quick.update(_IN_ONE_PART if item.get_closest_marker("same_bits") else _IN_ONE_PART | _QUICK)
    # What tests give to the commands that they start, which see the devices that a user's would see.
    own = " ".join(f"--{name}={value}".lower() for name, value in _quick.items())
    os.environ["PURERL_TESTS_COMMAND_XLA_FLAGS"] = f"{_XLA_FLAGS} {own}".strip()


# The files that take longest begin first, so that no process is left alone with one of them at the end.
_LONGEST = (
    "test_docs",
    "test_figures",
    "test_bench_accelerator",
    "test_learning",
    "test_train",
    "test_lanes",
    "test_golden",
    "test_procgen_jax",
)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # pytest-xdist would begin with the files of many small tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


# Nothing that is imported by now is garbage ever, and traces make many objects that stay.
gc.freeze()
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def no_leftovers() -> Iterator[None]:
    """Frees what a file of tests has compiled. All of the suite's programs together take six gigabytes in each process,
    and the garbage collector would look at them again and again.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """No implicit dtype promotion within the test: for code of our own that calls neither gymnax nor optax."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def rank_promotion() -> Iterator[None]:
    """Allows implicit rank promotion within the test, for oracles that need it (flashbax's prioritised buffer does)."""
    with jax.numpy_rank_promotion("allow"):
        yield


# --- what agents are tested on ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def specs() -> SimpleNamespace:
    """Environments that are nothing but a spec."""
    return SimpleNamespace(
        vector=EnvSpec("test/vector", (3,), "float32", 4),
        continuous=EnvSpec("test/continuous", (3,), "float32", 0, action_shape=(2,)),
        two_actions=EnvSpec("test/two", (3,), "float32", 2),
        procgen=EnvSpec("test/procgen", (64, 64, 3), "uint8", 15, shows_final_observation=False),
        atari=EnvSpec("test/atari", (4, 84, 84), "uint8", 4, stacked_frames=4),
    )


_TINY: dict[str, dict[str, Any]] = {
    "ppo": {"num_envs": 4, "rollout_length": 16, "num_minibatches": 2},
    "ppg": {
        "num_envs": 4,
        "rollout_length": 16,
        "num_minibatches": 2,
        "policy_iterations": 2,
        "auxiliary_epochs": 2,
        "auxiliary_minibatches": 2,
    },
    "dqn": {
        "num_envs": 2,
        "rollout_length": 4,
        "train_period": 4,
        "batch_size": 8,
        "replay_size": 64,
        "learning_starts": 32,
        "target_period": 16,
        "network": "mlp",
        "hidden": (8,),
        "learning_rate": 1e-3,
        "proximal_coefficient": 0.1,
    },
}
_TINY["pqn"] = {"num_envs": 4, "rollout_length": 16, "num_minibatches": 2, "network": "mlp", "hidden": (8,)}
_TINY["a2c"] = {"num_envs": 4, "rollout_length": 8, "network": "mlp", "hidden": (8,)}
_TINY["p3o"] = _TINY["a2c"] | {"replay_size": 64, "learning_starts": 16, "sample_multiplier": 2}
_TINY["td3"] = {
    "num_envs": 2,
    "rollout_length": 4,
    "train_period": 4,
    "policy_delay": 3,
    "batch_size": 8,
    "replay_size": 64,
    "learning_starts": 32,
    "hidden": (8,),
    "learning_rate": 1e-3,
}
_TINY["mql"] = {
    "num_envs": 2,
    "rollout_length": 4,
    "train_period": 4,
    "batch_size": 8,
    "replay_size": 64,
    "learning_starts": 40,
    "history_length": 4,
    "context_size": 3,
    "hidden": (8,),
    "new_task_steps": 2,
    "replay_steps": 4,
    "replay_batches": 2,
    "snapshot_size": 32,
}
_TINY["rainbow"] = _TINY["dqn"] | {"double": True, "dueling": True, "noisy": True, "uniform_mix": 0.1}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., dict[str, Any]]:
    """(agent, **fields) -> the fields of a config that learns in a moment, `fields` over them."""
    return lambda agent, **fields: _TINY[agent] | fields


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """The same as a config, its traced fields arrays."""
    return lambda agent, **fields: configs.traced(registry.agent(agent).Config(**_TINY[agent] | fields))


@pytest.fixture(scope="session")
def make_rollout() -> Callable[..., Rollout]:
    """(spec, num_steps, num_envs, **fields) -> a Rollout of zeros in which no episode ends and whose final observations
    are hidden, with `fields` in their places. `last_observation` is what `last` shows.
    """

    def make(spec: EnvSpec, num_steps: int, num_envs: int, last_observation: Any = None, **fields: Any) -> Rollout:
        shape = (num_steps, num_envs)
        values = {
            "observation": jnp.zeros((*shape, *spec.observation_shape), spec.observation_dtype),
            "action": jnp.zeros((*shape, *spec.action_shape), jnp.int32 if spec.num_actions else jnp.float32),
            "reward": jnp.zeros(shape),
            "terminated": jnp.zeros(shape, bool),
            "truncated": jnp.zeros(shape, bool),
            "final_observation": None,
            "extras": None,
        } | fields
        values.setdefault("first", Inputs.at_start(spec, values["observation"][0]))
        if "last" not in values:
            shown = jnp.zeros_like(values["observation"][0]) if last_observation is None else last_observation
            done = values["terminated"][-1] | values["truncated"][-1]
            values["last"] = Inputs.after(shown, values["action"][-1], values["reward"][-1], done)
        return Rollout(**values)

    return make


# --- run folders -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """(folder, values [P, S], finals=None, metrics=None, **record) -> a run folder, written by the engine's own code.

    `values` are the returns in each row, 100 steps apart; `finals` the final returns of a finished run; `metrics` other
    columns of all rows; `record` fields of config.json.
    """

    def write(
        folder: Path, values: Any, finals: Any = None, metrics: dict[str, Any] | None = None, **record: Any
    ) -> Path:
        seeds = list(range(len(values[0])))
        config = {"agent": "ppo", "env": "gymnax/CartPole-v1", "preset": "classic", "seeds": seeds}
        config |= {"steps": 100 * len(values), "config": {"learning_rate": 0.001, "hidden": [64, 64]}}
        run_folder.create(folder, config | {"env_options": {"max_steps": 0}} | record)
        with contextlib.closing(sinks.JsonlSink(folder / run_folder.METRICS)) as sink:
            for i, returns in enumerate(values):
                row = {"iteration": i + 1, "step": 100 * (i + 1), "episodes": 4, **(metrics or {})}
                sink.write([row | {"seed": seed, "episode_return": value} for seed, value in enumerate(returns)])
        if finals is not None:
            final = {"per_seed": list(finals), "definition": "mean of the last episodes"}
            summary = {"seeds": seeds, "steps": 100 * len(values), "final_return": final, "diverged_seeds": []}
            files.write_json(folder / run_folder.SUMMARY, summary)
        return folder

    return write


@pytest.fixture(scope="session")
def write_sweep(write_run: Callable[..., Path]) -> Callable[..., Path]:
    """(folder, cells, seeds=2, **record) -> a finished sweep over {field: value} cells, whose returns end at the cell's
    number plus 10; `record` are fields of sweep.json.
    """

    def write(folder: Path, cells: list[dict[str, Any]], seeds: int = 2, **record: Any) -> Path:
        folder.mkdir(parents=True)
        ownership.mark(folder, ownership.SWEEP)
        asked = {"agent": "ppo", "env": "gymnax/CartPole-v1", "preset": "classic", "seeds": list(range(seeds))}
        files.write_json(folder / "sweep.json", asked | {"steps": 300, "cells": cells} | record)
        for i, cell in enumerate(cells):
            values = [[float(i + row)] * seeds for row in (0, 5, 10)]
            fields = {"config": {"learning_rate": 0.001, "hidden": [64, 64]} | cell}
            write_run(folder / "cells" / f"{i:03d}", values, values[-1], **fields)
        return folder

    return write


# --- the command line ------------------------------------------------------------------------------------------------


class CliResult(NamedTuple):
    """What a command left."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., CliResult]:
    """Runs `python -m purerl ARGUMENTS` in a subprocess and returns (code, stdout, stderr).

    Keyword arguments: cwd (default: the test's temporary folder), env (added to the environment), timeout (seconds).
    """

    def run(
        *arguments: object, cwd: Path = tmp_path, env: dict[str, str] | None = None, timeout: float = 600
    ) -> CliResult:
        environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1", "PYTHONFAULTHANDLER": "1"} | (env or {})
        if "XLA_FLAGS" not in (env or {}):
            environment["XLA_FLAGS"] = environment["PURERL_TESTS_COMMAND_XLA_FLAGS"]
        done = subprocess.run(
            [sys.executable, "-m", "purerl", *map(str, arguments)],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return CliResult(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def browser():
    """A Chromium; the test is skipped where there is none."""
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    if found.CHROME is None or shutil.which("bash") is None:
        pytest.skip("there is no chromium or chrome on PATH")
    opened = found.Browser()
    yield opened
    opened.close()
