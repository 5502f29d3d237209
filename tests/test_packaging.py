"""What is installed, and what must never be committed."""

from __future__ import annotations

import base64
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import purerl

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {"purerl": "purerl", "agents": "purerl/agents", "envs": "purerl/envs", "experiments": "purerl/experiments"}
PYTHONS = ("3.11", "3.12")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, since a build leaves extra folders."""
    source = tmp_path_factory.mktemp("source")
    for folder in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The file list of the wheel."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.iterdir()
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def tracked_files() -> dict[str, str]:
    """Path -> text of each text file that is in git, or would be after `git add -A`."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if b"\0" not in data:
                files[name] = data.decode()
    return files


def pins() -> dict[str, list[Requirement]]:
    """Canonical name -> the lines of requirements.txt about it."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def declared(*extras: str) -> list[Requirement]:
    """The requirements of pyproject.toml and of these extras."""
    lines = list(PYPROJECT["project"]["dependencies"])
    for extra in extras:
        lines += PYPROJECT["project"]["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def test_wheel_installs_purerl_and_nothing_else_at_the_top(wheel: list[str]):
    version = PYPROJECT["project"]["version"]
    assert {name.partition("/")[0] for name in wheel} == {"purerl", f"purerl-{version}.dist-info"}


def test_wheel_holds_every_module_the_templates_the_published_data_and_no_other_file(
    wheel: list[str],
):
    expected = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in PACKAGES.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    templates = {f"purerl/report/templates/{path.name}" for path in (ROOT / "purerl/report/templates").iterdir()}
    assert {path.rpartition(".")[2] for path in templates} == {"html", "css", "js"}
    data = {f"purerl/experiments/published/{path.name}" for path in (ROOT / "experiments/published").glob("*.[cm]*")}
    assert {path.rpartition(".")[2] for path in data} == {"csv", "md"}
    expected |= {*templates, *data, "purerl/py.typed"}
    assert {name for name in wheel if ".dist-info/" not in name} == expected


def test_wheel_carries_the_license_and_the_command(wheel: list[str]):
    names = [name.partition(".dist-info/")[2] for name in wheel]
    assert "licenses/LICENSE" in names
    assert "entry_points.txt" in names


def test_an_editable_wheel_shows_type_checkers_the_package_as_it_is_installed(source: Path, tmp_path: Path):
    line = "import sys; from purerl import build; print(build.build_editable(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", line, tmp_path], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    lines = content["purerl_typing.pth"].decode().splitlines()
    package = Path(lines[0]) / "purerl"
    assert package == source / "build" / "typing" / "purerl" and len(lines) == 2
    for path in ("py.typed", "__init__.py", "ops/losses.py", "agents/ppo.py", "envs/procgen_jax/maze.py"):
        assert (package / path).is_file(), path
    assert (package / "agents").resolve() == source / "agents"
    (source / "agents" / "new.py").touch()
    assert (package / "agents" / "new.py").exists()
    (record,) = (content[name].decode() for name in content if name.endswith("/RECORD"))
    listed = {row.split(",")[0]: row.split(",")[1] for row in record.splitlines()}
    assert set(listed) == set(content)
    for name, value in listed.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content[name]).digest()).decode().rstrip("=")
        assert value in ("", f"sha256={digest}"), name


def test_python_imports_the_files_where_they_are():
    """Not through the links for type checkers, so that tracebacks name the files that one edits."""
    assert Path(purerl.__file__).parts[-3:] != ("typing", "purerl", "__init__.py")
    assert "/build/typing/" not in str(importlib.import_module("purerl.agents.ppo").__file__)


def test_versions_agree():
    if not hasattr(purerl, "__version__"):
        pytest.skip("purerl has no __version__")
    assert purerl.__version__ == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("python", PYTHONS)
def test_requirements_pin_all_that_is_declared(python: str):
    pinned = pins()
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    environment |= {"platform_machine": "x86_64", "os_name": "posix"}
    for requirement in declared("procgen", "atari", "mujoco", "tensorboard", "video", "figures", "dev", "docs"):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            lines = pinned.get(canonicalize_name(requirement.name), [])
            valid = [line for line in lines if line.marker is None or line.marker.evaluate(environment)]
            assert len(valid) == 1, f"{requirement.name} is pinned {len(valid)} times for Python {python}"
            (pin,) = valid[0].specifier
            assert pin.operator == "==" and requirement.specifier.contains(pin.version, prereleases=True), valid[0]


def test_requirements_hold_pins_alone():
    for lines in pins().values():
        for line in lines:
            assert line.url is None and not line.extras and [s.operator for s in line.specifier] == ["=="], line


def test_requirements_leave_gym_and_pygame_out():
    assert {"gym", "gym3", "pygame"}.isdisjoint(pins())


def test_uv_overrides_what_procgen_and_craftax_ask_for():
    names = [Requirement(line).name for line in PYPROJECT["tool"]["uv"]["override-dependencies"]]
    assert names == ["numpy", "gym", "gym3", "pygame"]


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"(?<![\w.~})-])/(?:root|home|Users|work|opt|workspace)/\w", id="machine-path"),
        pytest.param(r"(?:pypi|pythonhosted|npmjs|debian|anaconda)\.org", id="registry-host"),
        pytest.param(r"-{2}(?:extra-)?index-url|-{2}find-links|file:/{2}", id="registry-option"),
    ],
)
def test_no_tracked_file_names_this_machine_or_a_registry(pattern: str):
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_files().items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


def test_no_lock_file_is_tracked():
    assert "uv.lock" not in tracked_files()
