"""Types: pyright finds no mistake in the public API, and follows `import purerl` from anywhere, as mypy does.

basedpyright is used, whose checks are pyright's in its mode "basic": its wheel holds the program, while pyright's own
downloads it at the first run.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import purerl

ROOT = Path(__file__).resolve().parents[1]
AGAIN = "run README's installation line again: this environment's was made by an older version"
# A script of a user, outside of the repository. `reveal_type` shows what a checker knows.
OUTSIDE = """
import purerl
from purerl.agents import ppo
from purerl.envs.procgen_jax import maze
from purerl.experiments.presets.ppo import PRESETS
from purerl.ops import losses

train = purerl.make_train("ppo", "gymnax/CartPole-v1", steps=1_000)
run = purerl.train("ppo", "gymnax/CartPole-v1", seeds=2, steps=1_000)
reveal_type(purerl.train)
reveal_type(ppo.init)
reveal_type(run.summary)
reveal_type(maze)
reveal_type(train.config)
"""


def check(folder: Path, include: list[str]) -> list[dict[str, Any]]:
    """What pyright says about some files."""
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed")
    settings = {"include": include, "typeCheckingMode": "basic", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] >= len(include)
    return found["generalDiagnostics"]


def public_files() -> list[str]:
    """purerl/__init__.py, and the modules that its names come from."""
    modules = ["purerl", "purerl.errors", *purerl._NAMES]
    return [str(Path(sys.modules[name].__file__ or "").resolve()) for name in map(_imported, modules)]


def _imported(name: str) -> str:
    importlib.import_module(name)
    return name


def test_pyright_is_content_with_the_public_api_and_follows_it_from_outside(tmp_path):
    (tmp_path / "outside.py").write_text(OUTSIDE)
    (tmp_path / "wrong.py").write_text("import purerl\npurerl.seed_keys('zero', 3)\npurerl.no_such_name\n")
    found = check(tmp_path, ["outside.py", "wrong.py", *public_files()])
    outside = [one for one in found if Path(one["file"]).name == "outside.py"]
    missing = [one["message"] for one in outside if "could not be resolved" in one["message"]]
    assert not missing, f"{missing}: {AGAIN}"
    assert [one["message"] for one in outside if one["severity"] == "error"] == []
    known = [one["message"] for one in outside if one["message"].startswith("Type of")]
    assert len(known) == 5 and not [message for message in known if "Unknown" in message], known
    wrong = {one["rule"] for one in found if Path(one["file"]).name == "wrong.py" and one["severity"] == "error"}
    assert wrong == {"reportArgumentType", "reportAttributeAccessIssue"}
    errors = [
        f"{Path(one['file']).name}:{one['range']['start']['line'] + 1}: {one['message']}"
        for one in found
        if one["severity"] == "error" and Path(one["file"]).is_relative_to(ROOT)
    ]
    assert not errors, "\n".join(errors)
