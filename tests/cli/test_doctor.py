"""purerl doctor: what it finds, and what it says when something is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import jax
import pytest

from purerl import registry
from purerl.cli import doctor, main
from purerl.cli.doctor import Check

PACKAGES = {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "gymnax", "numpy"}
CORE = PACKAGES | {"python", "purerl", "devices", "gymnax/*"}


@pytest.fixture(scope="module")
def healthy() -> dict[str, Check]:
    """What is found here, by name."""
    return {check.name: check for check in doctor.diagnose()}


@pytest.fixture
def no_games(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the environments out: they take seconds to compile."""
    monkeypatch.setattr(doctor, "_families", lambda: [])


def find(name: str) -> Check:
    return next(check for check in doctor.diagnose() if check.name == name)


def test_the_core_works_here(healthy: dict[str, Check]):
    assert healthy.keys() >= CORE
    for name in CORE:
        assert healthy[name].ok and healthy[name].core, healthy[name]
    assert healthy["jax"].detail == jax.__version__
    assert f"{jax.default_backend()}: {jax.device_count()} x" in healthy["devices"].detail
    assert "CartPole-v1 takes a step" in healthy["gymnax/*"].detail


def test_every_registered_family_is_tried(healthy: dict[str, Check]):
    assert {f"{family}/*" for family in registry.family_names()} <= healthy.keys()


def test_only_what_is_broken_has_a_fix(healthy: dict[str, Check]):
    assert all(bool(check.fix) != check.ok for check in healthy.values())


@pytest.mark.skipif(importlib.util.find_spec("procgen") is None, reason="procgen is not installed")
def test_procgen_steps_coinrun(healthy: dict[str, Check]):
    check = healthy["procgen/*"]
    assert check.ok and not check.core and check.detail == "16 ids; coinrun takes a step"


def test_a_missing_host_library_is_no_fault_of_the_core(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "family_names", lambda: ["procgen"])
    monkeypatch.setattr(registry, "environment", broken)
    (check,) = doctor._families()
    assert (check.ok, check.core) == (False, False) and "--no-deps procgen-mirror" in check.fix


def broken(name: str):
    raise ValueError("something is off\nsecond line")


def test_all_is_well_prints_and_exits_0(no_games, capsys: pytest.CaptureFixture[str]):
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    assert jax.__version__ in printed and "The core works." in printed


def test_a_broken_core_exits_1_and_says_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(registry, "environment", broken)
    assert doctor.main() == 1
    printed = capsys.readouterr().out
    assert "BROKEN" in printed and "ValueError: something is off" in printed and "second line" not in printed
    assert "fix: pip install --no-deps -r requirements.txt -e ." in printed
    assert "Broken: gymnax/*." in printed


def test_missing_packages(no_games, monkeypatch: pytest.MonkeyPatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("optax", "ale-py"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = {check.name: check for check in doctor.diagnose()}
    assert (checks["optax"].ok, checks["optax"].core) == (False, True)
    atari = checks["extra: atari"]
    assert (atari.ok, atari.core, atari.fix) == (False, False, 'pip install "ale-py>=0.11.2"  # GPL-2.0')


def test_versions_that_are_too_old_or_too_new(no_games, monkeypatch: pytest.MonkeyPatch):
    real = importlib.metadata.version
    others = {"jax": "0.4.30", "pandas": "3.0.1"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: others.get(name) or real(name))
    checks = {check.name: check for check in doctor.diagnose()}
    assert not checks["jax"].ok and "0.4.30 is installed, and purerl needs jax>=" in checks["jax"].detail
    figures = checks["extra: figures"]
    assert not figures.ok and "pandas 3.0.1 (not pandas" in figures.detail
    assert figures.fix.startswith('pip install "pandas') and "rliable" not in figures.fix


def test_without_rich_it_still_speaks(no_games, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def no_rich(checks: list[Check]):
        raise ImportError

    monkeypatch.setattr(doctor, "_print_table", no_rich)
    assert doctor.main() == 0
    assert f"jax: {jax.__version__}" in capsys.readouterr().out


@pytest.mark.parametrize(("driver", "extra"), [("580.65.06", "cuda13"), ("575.51.03", "cuda12"), ("", "cuda12")])
def test_an_idle_gpu_gets_the_line_that_fits_its_driver(monkeypatch: pytest.MonkeyPatch, driver: str, extra: str):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(doctor, "_nvidia_cards", lambda: [("NVIDIA X", driver)])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    check = doctor._accelerator()
    assert (check.ok, check.core, check.fix) == (False, False, f'pip install "jax[{extra}]"')


@pytest.mark.parametrize(("variable", "value"), [("JAX_PLATFORMS", "cpu"), ("CUDA_VISIBLE_DEVICES", "")])
def test_a_gpu_hidden_by_a_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(doctor, "_nvidia_cards", lambda: [("NVIDIA X", "580.65.06")])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv(variable, value)
    assert doctor._accelerator().fix == f"unset {variable}"


def test_no_gpu_is_no_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(doctor, "_nvidia_cards", lambda: [])
    assert doctor._accelerator().ok


def test_nvidia_smi_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.65.06'\necho 'NVIDIA H200, 580.65.06'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor._nvidia_cards() == [("NVIDIA H200", "580.65.06")] * 2
    fake.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert doctor._nvidia_cards() == []


def test_a_cache_that_cannot_be_written(no_games, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("PURERL_CACHE", str(tmp_path / "file"))
    saved = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        check = find("compilation cache")
    finally:
        jax.config.update("jax_compilation_cache_dir", saved)
    assert (check.ok, check.core) == (False, False) and "PURERL_CACHE" in check.fix


def test_a_full_disk(no_games, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_FREE_BYTES", 2**80)
    check = find("current folder")
    assert not check.ok and "too little" in check.detail


def test_it_leaves_nothing_behind(no_games, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    doctor.diagnose()
    assert not list(tmp_path.iterdir())


def test_the_command(healthy: dict[str, Check], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """.ci/run calls it as a process of its own."""
    monkeypatch.setattr(doctor, "diagnose", lambda: list(healthy.values()))
    assert main.main(["doctor"]) == 0
    assert "The core works." in capsys.readouterr().out
