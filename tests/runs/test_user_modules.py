"""Own agents and environments: every command knows a file of `--import`, and the run needs it in later commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import purerl
from purerl import registry
from purerl.cli import main
from purerl.errors import PurerlError
from purerl.runs import user_modules
from purerl.runs.plan import Plan, make_plan

TINY = "--num-envs 4 --rollout-length 8 --num-minibatches 2 --num-epochs 1 --hidden 8 --quiet"
CONFIG = {"num_envs": 4, "rollout_length": 8, "num_minibatches": 2, "num_epochs": 1, "hidden": (8,)}
# ppo and the probe environments under names of their own, with a neighbour and a dataclass that looks itself up.
AGENT = '''"""Mine (a test)."""
from __future__ import annotations

import dataclasses

import purerl
from my_numbers import STEPS
from purerl import registry


@dataclasses.dataclass
class Numbers:
    steps: int = STEPS


purerl.register_agent("mine", registry.agent("ppo")._replace(name="mine"))
purerl.register_preset("mine", "short", purerl.Preset(Numbers().steps, "a test", default_for=("*",)))
purerl.register_family("my-games", registry.family("probe"))
'''


@pytest.fixture(autouse=True)
def own_process(tmp_path, monkeypatch):
    """Every test has a folder, and what it imports and registers is gone after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "120")
    before = set(sys.modules)
    yield
    forget()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def forget() -> None:
    """As in a new process: nothing is registered, none of the users' modules is loaded."""
    for kind, name in list(registry._origins):
        module = registry.origin(kind, name)
        registry.forget(module)
        if module != "__main__":
            sys.modules.pop(module, None)
    sys.modules.pop("my_numbers", None)
    user_modules._asked.clear()
    user_modules._noted.clear()


@pytest.fixture
def files(tmp_path):
    """The folder of my_agent.py, which is not the working folder."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "my_agent.py").write_text(AGENT)
    (folder / "my_numbers.py").write_text("STEPS = 64\n")
    return folder


def run(line: str) -> int:
    forget()
    return main.main(line.split())


def refused(capsys, line: str, *parts: str) -> None:
    capsys.readouterr()
    assert run(line) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("purerl: error: "), said.err
    for part in parts:
        assert part in said.err, said.err


def stored(folder: Path) -> list[dict]:
    return json.loads((folder / "config.json").read_text())["imports"]


# --- importing -------------------------------------------------------------------------------------------------------


def test_a_file_is_imported_once_with_its_neighbours(files):
    name = user_modules.load("code/my_agent.py")
    assert name == user_modules.load(str(files / "my_agent.py")) == "my_agent"
    assert sys.modules["my_agent"].Numbers() == sys.modules["my_agent"].Numbers(64)
    assert registry.agent("mine").name == "mine" and registry.preset("mine", None, "a/b")[1].steps == 64
    assert registry.agent_module("mine") == "my_agent"
    assert user_modules.load("json") == "json"  # a module by its name


def test_a_file_with_the_name_of_another_module_takes_nothing_away(tmp_path):
    (tmp_path / "secrets.py").write_text("mine = 1\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secrets.py").write_text("mine = 2\n")
    (tmp_path / "two-words.py").write_text("mine = 3\n")
    names = [user_modules.load(file) for file in ("secrets.py", "other/secrets.py", "two-words.py")]
    assert [sys.modules[name].mine for name in names] == [1, 2, 3]
    assert len({*names, "secrets"}) == 4


def test_a_file_of_a_package_may_import_relatively(tmp_path):
    package = tmp_path / "my_package" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "values.py").write_text("A = 1\n")
    (package / "mine.py").write_text("from .values import A\n")
    assert user_modules.load("my_package/inner/mine.py") == "my_package.inner.mine"
    assert user_modules.load("my_package.inner.mine") == "my_package.inner.mine"


@pytest.mark.parametrize(
    ("text", "what", "parts"),
    [
        (None, "my_agnt.py", ["--import my_agnt.py: there is no such file", "Did you mean 'my_agent.py'?"]),
        (None, "nothing", ["no module of that name is installed", "--import my_file.py"]),
        (None, "./code", ["this is a folder"]),
        ("1 / 0", "bad.py", ["--import bad.py: ZeroDivisionError: division by zero (bad.py, line 1)"]),
        ("x = (", "bad.py", ["SyntaxError", "bad.py, line 1"]),
        ("import no_such_thing", "bad.py", ["ModuleNotFoundError: No module named 'no_such_thing' (bad.py, line 1)"]),
        ("raise SystemExit(3)", "bad.py", ["SystemExit: 3"]),
        ("from purerl import registry as r\nr.register_agent('ppo', r.agent('ppo'))", "bad.py", ["'ppo' is taken"]),
        ("import purerl\npurerl.train('ppo', 'probe/constant')", "bad.py", ["calls purerl.train", "__name__"]),
        ("import purerl\npurerl.sweep('ppo', 'probe/constant', grid='clip=1')", "bad.py", ["calls purerl.sweep"]),
    ],
)
def test_what_cannot_be_imported_gets_one_line(capsys, tmp_path, files, text, what, parts):
    shutil.copy(files / "my_agent.py", tmp_path)
    shutil.copy(files / "my_numbers.py", tmp_path)
    if text:
        (tmp_path / what).write_text(text + "\n")
    refused(capsys, f"list agents --import {what}", *parts)
    assert not (tmp_path / "runs").exists() and "bad" not in sys.modules


def test_what_a_failed_import_registered_is_forgotten(files):
    path = files / "my_agent.py"
    path.write_text(AGENT + "1 / 0\n")
    with pytest.raises(PurerlError, match="division"):
        user_modules.load(str(path))
    path.write_text(AGENT)
    assert user_modules.load(str(path)) == "my_agent"


def test_a_module_may_register_its_own_names_again_and_no_others(files):
    user_modules.load("code/my_agent.py")
    exec(AGENT, sys.modules["my_agent"].__dict__)  # as a notebook's cell that is run twice
    (files / "other.py").write_text(AGENT)
    with pytest.raises(PurerlError, match=r"--import code/other\.py: the agent name 'mine' is taken"):
        user_modules.load("code/other.py")
    assert registry.origin("agent", "mine") == "my_agent"


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_flag_may_stand_anywhere(capsys, files):
    imported = "--import code/my_agent.py"
    for line in (f"{imported} list agents", f"list {imported} agents", "list agents --import=code/my_agent.py"):
        assert run(line) == 0
        assert "mine Mine (a test)." in " ".join(capsys.readouterr().out.split())
    assert run(f"list envs my-games {imported}") == 0
    assert "my-games/constant" in capsys.readouterr().out
    assert run(f"list presets mine {imported}") == 0
    assert "short" in capsys.readouterr().out
    assert run(f"train mine my-games/constant --help {imported}") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "for 64 steps a seed. Preset short" in said and "--import FILE" in said
    refused(capsys, "list agents --import", "--import needs a Python file or a module's name")
    refused(capsys, "list agents --import --help", "--import needs a Python file")


def test_a_name_that_was_not_imported_says_so(capsys, tmp_path):
    refused(capsys, "train mine probe/constant", "unknown agent 'mine'", "add --import my_file.py")
    refused(capsys, "train ppo my-games/constant", "unknown environment family", "add --import my_file.py")
    refused(capsys, "sweep mine probe/constant --grid clip=1 --engine ray", "unknown agent 'mine'", "--import")
    assert list(tmp_path.iterdir()) == []


def test_a_run_knows_its_imports_ever_after(run_cli, capsys, files, tmp_path):
    """In processes of their own: train, eval, resume after a change; then all the others in this one."""
    words = f"train mine my-games/constant {TINY} --steps 64".split()
    done = run_cli(*words, "--import", "code/my_agent.py")
    assert done.code == 0, done.stderr
    (folder,) = (tmp_path / "runs").glob("mine-my-games-constant-short-*seed0")
    (one,) = stored(folder)
    registers = ["agent mine", "preset mine/short", "environment my-games"]
    assert (one["what"], one["module"], one["registers"]) == ("code/my_agent.py", "my_agent", registers)
    assert Path(one["path"]) == files / "my_agent.py" and len(one["sha256"]) == 64 and one["previous"] == []

    done = run_cli("eval", folder, "--episodes", 1, "--quiet", cwd=files)
    assert done.code == 0 and done.stderr == "", done.stderr

    (files / "my_agent.py").write_text(AGENT + "# changed\n")
    done = run_cli(*f"train mine my-games/constant {TINY} --steps 128 --resume".split())
    assert done.code == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "my_agent.py has changed since the run was made" in done.stderr
    (now,) = stored(folder)
    assert now["sha256"] != one["sha256"] and now["what"] == "code/my_agent.py"
    assert now["previous"] == [{"sha256": one["sha256"], "git_commit": None, "git_dirty": None}]
    assert json.loads((folder / "summary.json").read_text())["steps"] == 128

    capsys.readouterr()
    assert (
        run(f"video {folder} --steps 2") == 0 and run(f"plot {folder} {folder}") == 0 and run(f"report {folder}") == 0
    )
    assert capsys.readouterr().err == ""
    files.rename(tmp_path / "moved")
    refused(
        capsys, f"eval {folder}", "this run needs code/my_agent.py", "no longer exists", "--import NEW_PATH/my_agent"
    )
    assert run(f"plot {folder}") == 0  # which needs no agent
    assert run(f"eval {folder} --episodes 1 --quiet --import moved/my_agent.py") == 0
    Path("moved/my_agent.py").rename("moved/another_name.py")
    assert run(f"eval {folder} --episodes 1 --quiet --import moved/another_name.py") == 0
    line = f"train mine my-games/constant {TINY} --steps 192 --resume --import moved/another_name.py"
    assert run(line) == 0
    assert [Path(one["path"]) for one in stored(folder)] == [tmp_path / "moved" / "another_name.py"]


def test_the_repository_of_a_file_is_recorded(files):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -q -m one"):
        subprocess.run(["git", "-C", str(files), *words.split()], check=True, capture_output=True)
    user_modules.import_all(["code/my_agent.py"])
    (one,) = make_plan("ppo", "probe/constant").imports  # asked for, whether it is used or not
    assert len(one.git_commit) == 40 and one.git_dirty is False


def test_sweeps_and_figures_programs_import_again(capsys, files, tmp_path, monkeypatch):
    from purerl.runs import programs, sweeps

    with monkeypatch.context() as patch:
        patch.setattr(programs, "train_program", lambda *_, **__: None)
        patch.setattr(sweeps, "_has_rows", lambda folder: True)  # otherwise nothing would be left of the sweep
        line = f"sweep mine my-games/constant {TINY} --grid num_epochs=1,2 --out s"
        assert run(f"{line} --import code/my_agent.py") == 2  # nothing was trained, so there is no table
    assert "no cell of the sweep" in capsys.readouterr().err
    program = json.loads((tmp_path / "s" / "programs" / "0000" / "program.json").read_text())
    assert program["cells"][0]["plan"]["imports"][0]["what"] == "code/my_agent.py"
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["imports"][0]["module"] == "my_agent"
    forget()
    programs.train_program(tmp_path / "s" / "programs" / "0000")  # as a worker of Ray's does
    assert stored(tmp_path / "s" / "cells" / "000")[0]["module"] == "my_agent"
    assert run(f"{line} --resume") == 0
    assert (tmp_path / "s" / "table.csv").exists()


FIGURE = """
import purerl
from purerl.experiments.figures import commands, parts


def draw(data):
    drawing, axes = parts.panels(["mine"])
    parts.draw_curves(next(axes), data["cells"], "episode_return")
    return drawing


def cells(scale):
    return [commands.Cell("one", "mine", "my-games/constant", "short", 1, 64, config=CONFIG)]


def verify(data):
    return []


protocol = {scale: "a test" for scale in commands.SCALES}
purerl.register_figure("my/figure", commands.Figure("my/figure", "none", "a test", cells, protocol, draw, verify))
"""


def test_a_figure_of_my_own(capsys, files, tmp_path):
    (files / "my_agent.py").write_text(f"{AGENT}\nCONFIG = {CONFIG!r}\n{FIGURE}")
    assert run("figure run my/figure --folder f --quiet --import code/my_agent.py") == 0
    assert run("figure render my/figure --folder f") == 0  # which imports it again
    assert "my-figure.png" in capsys.readouterr().out
    refused(capsys, "figure render my/figure --folder elsewhere", "unknown figure", "add --import my_file.py")


# --- scripts ---------------------------------------------------------------------------------------------------------

TRAIN = f'purerl.train("mine", "my-games/constant", config={CONFIG!r}, out="r", quiet=True)\n'
SWEEP = 'purerl.sweep("mine", "my-games/constant", grid="clip=.1,.2", out="s", engine="ray", quiet=True)\n'


def script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    return subprocess.run([sys.executable, "script.py"], cwd=folder, env=os.environ, capture_output=True, text=True)


def test_a_script_that_imports_its_agent(capsys, files):
    done = script(files, f"import purerl, my_agent\n{TRAIN}")
    assert done.returncode == 0, done.stderr
    (one,) = stored(files / "r")
    assert (one["what"], Path(one["path"])) == ("my_agent.py", files / "my_agent.py")
    assert run("eval code/r --episodes 1 --quiet") == 0


def test_a_script_that_registers_its_agent_itself_is_never_run_again(capsys, files):
    pytest.importorskip("ray", reason="ray is not installed")
    ray = f"try:\n    {SWEEP}except purerl.PurerlError as error:\n    print(error)\n"
    done = script(files, f"{AGENT}\n{TRAIN}{ray}")
    assert done.returncode == 0, done.stderr
    assert "which Ray's workers cannot import" in done.stdout and "a separate file" in done.stdout
    assert not (files / "s").exists()
    (one,) = stored(files / "r")
    assert (one["what"], Path(one["path"]).name) == ("main script, not importable", "script.py")
    refused(capsys, "eval code/r", "agent mine", "the script", "is not run again", "add --import FILE")
    refused(capsys, "eval code/r --import code/script.py", "calls purerl.train while it is imported")
    assert run("eval code/r --episodes 1 --quiet --import code/my_agent.py") == 0


# --- what an agent gives back ----------------------------------------------------------------------------------------


def broken(change):
    ppo = registry.agent("ppo")

    def update(*args):
        return change(*ppo.update(*args))

    return ppo._replace(name="broken", update=update)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda s, m: (s, m | {"gap": m["policy_loss"].total}),
            ["metric 'gap'", "an array of shape ()"],
        ),
        (lambda s, m: (s, m | {"gap": 1.0}), ["metric 'gap'", "a float", "Metric.of(gap)"]),
        (lambda s, m: (s, m | {"gap": m["policy_loss"].replace(total=s.params)}), ["metric 'gap'", "two numbers"]),
        (lambda s, m: (s, m | {"step": m["policy_loss"]}), ["metric 'step'", "rename it"]),
        (lambda s, m: (s, list(m)), ["{name: Metric}", "a list"]),
        (lambda s, m: s, ["(State, metrics)"]),
        (lambda s, m: (s.replace(params=None), m), ["same structure as init"]),
    ],
)
def test_an_agent_that_gives_back_what_no_loop_can_take(tmp_path, change, parts):
    purerl.register_agent("broken", broken(change))
    with pytest.raises(PurerlError) as error:
        purerl.train("broken", "probe/constant", config=CONFIG, steps=64, quiet=True)
    assert all(part in str(error.value) for part in ["agent 'broken'", *parts]), error.value
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_changes_its_shape(tmp_path):
    import jax

    grown = lambda s, m: (s.replace(params=jax.tree.map(lambda x: x[None], s.params)), m)  # noqa: E731
    purerl.register_agent("broken", broken(grown))
    with pytest.raises(PurerlError, match=r"must keep shapes and dtypes: State\.params.* is float32\[1, "):
        purerl.sweep("broken", "probe/constant", grid="clip=.1", config=CONFIG, out=tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda action, memory: (action.astype("float32"), memory), ["actions of act", "int32[4]", "are float32[4]"]),
        (lambda action, memory: (action[:, None], memory), ["one for each of 4 environments", "are int32[4, 1]"]),
        (lambda action, memory: (0, memory), ["int32[4]", "are a int"]),
        (lambda action, memory: (action, action), ["act must return a memory of the same structure"]),
    ],
)
def test_actions_and_memory_that_no_environment_can_take(tmp_path, change, parts):
    ppo = registry.agent("ppo")

    def act(*args):
        action, memory, extras = ppo.act(*args)
        return *change(action, memory), extras

    purerl.register_agent("broken", ppo._replace(name="broken", act=act))
    with pytest.raises(PurerlError) as error:
        purerl.train("broken", "probe/constant", config=CONFIG, steps=64, quiet=True)
    assert all(part in str(error.value) for part in ["agent 'broken'", *parts]), error.value
    assert list(tmp_path.iterdir()) == []


CONFIG_OF = """
import flax, purerl
from purerl import registry, static, traced
from typing import Literal
@flax.struct.dataclass
class Config:
    rollout_length: int = static(16)
    {field}
purerl.register_agent({name!r}, registry.agent("ppo")._replace(name="mine", Config=Config))
"""


@pytest.mark.parametrize(
    ("field", "name", "parts"),
    [
        (
            "num_envs: int = static(16); hidden: tuple = static((64,))",
            "mine",
            ["hidden is annotated tuple", "tuple[int"],
        ),
        ("num_envs: int = static(16); rate: dict = static(None)", "mine", ["rate is annotated dict"]),
        ("num_envs: int = static(16); rate: float = 0.1", "mine", ["write the field rate as", "purerl.traced(...)"]),
        ("rate: float = traced(0.1)", "mine", ["needs the field num_envs"]),
        ("num_envs: int = traced(16)", "mine", ["needs the field num_envs"]),
        ("num_envs: int = static(16)", "other", ["got the Agent 'mine'", "same name"]),
    ],
)
def test_a_config_that_no_run_could_keep_is_refused(capsys, tmp_path, field, name, parts):
    (tmp_path / "mine.py").write_text(CONFIG_OF.format(field=field, name=name))
    refused(capsys, "list agents --import mine.py", *parts)


def test_all_kinds_of_fields_that_can_be_kept():
    from purerl import configs

    field = 'num_envs: int = static(1); a: tuple[int, ...] | None = static(None); b: Literal["x"] = static("x")'
    found = {}
    exec(CONFIG_OF.format(field=field, name="mine").partition("purerl.register")[0], found)
    configs.check_class(found["Config"], "Config")
    for name in registry.agent_names():
        if registry.is_own(name):
            configs.check_class(registry.agent(name).Config, name)


def test_an_exception_names_the_line_of_the_users_file(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import purerl\nfrom purerl import registry\nppo = registry.agent('ppo')\n"
        "def update(config, spec, state, rollout, key, clock):\n"
        "    if rollout.reward.mean() > 0:\n        pass\n"
        "purerl.register_agent('mine', ppo._replace(name='mine', update=update))\n"
    )
    with pytest.raises(Exception) as error:
        run("train mine probe/constant --import mine.py --num-envs 4 --num-minibatches 2 --steps 64 --quiet")
    (note,) = [note for note in error.value.__notes__ if note.startswith("purerl: ")]
    assert note.startswith("purerl: raised by mine.py, line 5, in update; it is compiled: use jnp.where"), note


def test_fields_of_the_agent_belong_into_config():
    with pytest.raises(PurerlError, match=r"'learning_rate'; fields of the agent belong into config: config="):
        purerl.train("ppo", "probe/constant", learning_rate=1e-3)


def test_the_check_suits_games_on_the_host():
    pytest.importorskip("cffi", reason="procgen is not installed")
    from purerl.runs.agent_checks import check_agent

    purerl.register_agent("broken", broken(lambda s, m: (s, m | {"gap": 1.0})))
    plan = make_plan("broken", "procgen/coinrun", config={"network": "nature", "num_envs": 4, "num_minibatches": 2})
    with pytest.raises(PurerlError, match="metric 'gap'"):
        check_agent(plan)


def test_plans_of_older_runs_have_no_imports():
    values = make_plan("ppo", "probe/constant").to_dict()
    del values["imports"]
    assert Plan.from_dict(values).imports == ()
    with pytest.raises(PurerlError, match="damaged"):
        Plan.from_dict(values | {"imports": [{"unknown": 1}]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"act": lambda config, spec, state, observation, keys, clock, explore: None},
            "act must take .*memory, inputs",
        ),
        ({"update": lambda config, spec, state, rollout, key: None}, "update must take .*key, clock"),
        ({"act": lambda config, spec, state, memory, inputs, keys, clock, explore: (keys, None)}, "act must return"),
    ],
)
def test_an_agent_of_another_signature_is_told_so(changes, message):
    import types

    from purerl import registry
    from purerl.errors import PurerlError
    from purerl.runs import agent_checks
    from purerl.runs.plan import make_plan

    agent = registry.agent("ppo")._replace(name="changed", **changes)
    plan = make_plan("ppo", "gymnax/CartPole-v1")
    spec = registry.env_spec(plan.env, plan.options)
    patched = types.SimpleNamespace(agent=lambda name: agent)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PurerlError, match=message):
        patch.setattr(agent_checks, "registry", patched)
        agent_checks._trace.__wrapped__("changed", agent.update, spec, False, plan.config)
