"""What every test runs under: two virtual CPU devices, no rank promotion, no writing outside temporary folders."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# pytest-xdist's workers inherit what the first process wrote below: the user's own flags travel beside it.
_XLA_FLAGS = os.environ.setdefault("PURERL_TESTS_XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))

# All of this must be in place before the first `import jax`.
os.environ["XLA_FLAGS"] = f"{_XLA_FLAGS} --xla_force_host_platform_device_count=2".strip()
# One compilation cache for all runs of the session, in its processes and their subprocesses, and never the user's own.
if "PURERL_TESTS_CACHE" not in os.environ:
    os.environ["PURERL_TESTS_CACHE"] = tempfile.mkdtemp(prefix="purerl-tests-")
    atexit.register(shutil.rmtree, os.environ["PURERL_TESTS_CACHE"], ignore_errors=True)
os.environ["PURERL_CACHE"] = os.environ["PURERL_TESTS_CACHE"]
# Most tests compile for longer than they run: the marker `optimized` is for those that do not.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["MPLBACKEND"] = "agg"

import jax  # noqa: E402

# gymnax and optax do not survive jax_numpy_dtype_promotion="strict": see the fixture below.
jax.config.update("jax_numpy_rank_promotion", "raise")
_DISABLE_OPTIMIZATIONS = jax.config.read("jax_disable_most_optimizations")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
        pytest.skip("needs an accelerator, and JAX has none here")
    optimized = item.get_closest_marker("optimized") is not None
    jax.config.update("jax_disable_most_optimizations", _DISABLE_OPTIMIZATIONS and not optimized)


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
        # The command sees the devices that a user's would see.
        if "XLA_FLAGS" not in (env or {}):
            environment.pop("XLA_FLAGS")
            if _XLA_FLAGS:
                environment["XLA_FLAGS"] = _XLA_FLAGS
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
