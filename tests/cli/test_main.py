"""The command line: valid words, the error line for bad input, and that bad input writes no files.

Most of it runs in this process; what only a process can show (start-up, signals, pipes, exit codes) in one of its own.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from PIL import Image

from purerl import configs, registry
from purerl.cli import flags, main
from purerl.cli.training import Which
from purerl.errors import PurerlError
from purerl.runs import train as training
from purerl.runs.logs import Logging
from purerl.runs.plan import make_plan
from purerl.runs.recording import Recording
from purerl.runs.train import train

TINY = "--num-envs 4 --rollout-length 16 --num-minibatches 2 --num-epochs 1 --hidden 8"
CARTPOLE = "train ppo gymnax/CartPole-v1"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Every test starts in a folder of its own, where `runs/` would be made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def run(line: str) -> int:
    return main.main(line.split())


def refused(capsys, line: str, *parts: str) -> str:
    """Runs a command that must fail as bad input does: code 2, one line with these parts on stderr, stdout empty."""
    assert run(line) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1 and said.err.startswith("purerl: error: "), said.err
    for part in parts:
        assert part in said.err, said.err
    return said.err


# --- help and lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "--help", "-h", "help"])
def test_the_overview_names_every_command(capsys, line):
    assert run(line) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {command} " in said for command in main.COMMANDS)


def test_version(capsys):
    from importlib.metadata import version

    assert run("--version") == 0
    assert capsys.readouterr().out == f"purerl {version('purerl')}\n"


def test_help_of_training_shows_all_fields_with_the_presets_values(capsys):
    assert run(f"{CARTPOLE} --help") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    config = registry.agent("ppo").Config
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in said
        assert " ".join(field.metadata["help"].split()) in said
    assert "--num-envs INT parallel environments per seed (default: 16)" in said  # ppo's own default is 64
    assert "--clip-values, --no-clip-values" in said
    assert "--env.max-steps INT" in said and "Time limit of an episode" in said
    assert "--resume continue" in said and "--no-resume" not in said
    assert run(f"{CARTPOLE} --preset minatar --help") == 0
    assert "(default: 0.005)" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("train --help", "--checkpoint-seconds"),
        ("train ppg --help", "--policy-iterations"),
        ("eval --help", "--episodes"),
        ("video --help", "--frames-per-second"),
        ("plot --help", "--smooth"),
        ("list --help", "presets [AGENT]"),
        ("doctor --help", "usage: purerl doctor"),
    ],
)
def test_every_command_has_a_help(capsys, line, part):
    assert run(line) == 0
    assert part in capsys.readouterr().out


def test_lists(capsys):
    assert run("list agents") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == registry.agent_names()
    papers = {line.split()[0]: line for line in said}
    assert "arXiv 1707.06347" in papers["ppo"]
    assert "arXiv 2112.05848" in papers["dqn-pro"] and "arXiv 2112.05848" in papers["rainbow-pro"]
    assert run("list envs probe") == 0
    assert capsys.readouterr().out.splitlines() == [f"probe/{name}" for name in registry.family("probe").names()]
    assert run("list envs") == 0
    assert {"gymnax/CartPole-v1", "procgen/coinrun", "probe/policy"} <= set(capsys.readouterr().out.splitlines())
    assert run("list presets ppg") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said] == [["ppg", name] for name in registry.presets_of("ppg")]


def test_doctor_and_bench_pass_on(monkeypatch):
    import types

    from purerl.cli import doctor

    monkeypatch.setattr(doctor, "main", lambda: 7)
    assert run("doctor") == 7
    bench = types.SimpleNamespace(main=lambda words: 8 if words == ["--only", "pool"] else 1)
    monkeypatch.setitem(sys.modules, "purerl.experiments.benchmarks.commands", bench)
    assert run("bench --only pool") == 8


# --- start-up --------------------------------------------------------------------------------------------------------


LIGHT = (["--help"], ["list", "agents"], ["list", "presets"])


def test_import_and_help_do_not_wait_for_jax():
    """Nothing that takes time to import is imported: `purerl --help` is a matter of a tenth of a second."""
    heavy = "{'jax', 'flax', 'numpy', 'tyro', 'rich', 'matplotlib'} & sys.modules.keys()"
    listing = "from purerl.cli.main import main; assert main({words}) == 0"
    for code in ["import purerl"] + [listing.format(words=words) for words in LIGHT]:
        command = [sys.executable, "-c", f"import sys; {code}; assert not {heavy}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_the_package_offers_its_names():
    import purerl
    from purerl import types
    from purerl.runs import evaluation

    assert purerl.train is train and purerl.make_plan is make_plan
    assert purerl.evaluate is evaluation.evaluate
    for name in ("Preset", "register_agent", "register_family", "register_figure", "register_preset"):
        assert getattr(purerl, name) is getattr(registry, name)
    for name in ["Agent", "Clock", "EnvSpec", "Environment", "Metric", "Rollout", "TimeStep", "static", "traced"]:
        assert getattr(purerl, name) is getattr(types, name)
    assert purerl.PurerlError is PurerlError
    assert purerl.__version__.count(".") == 2
    assert set(purerl.__all__) <= set(dir(purerl))
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = purerl.trane


# --- what the words mean ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Calls of train_plan, which does nothing: a list of (plan, recording, logging, keyword arguments)."""
    calls = []

    def note(plan, recording, logging, **kwargs):
        calls.append((plan, recording, logging, kwargs))
        return SimpleNamespace(folder="nothing")

    monkeypatch.setattr(training, "train_plan", note)
    return calls


def test_nothing_given_is_nothing_overridden(asked):
    assert run(CARTPOLE) == 0
    assert asked == [
        (make_plan("ppo", "gymnax/CartPole-v1"), Recording(), Logging(), {"new_length": False, "new_devices": False})
    ]


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ("--learning-rate 1e-3 --num-envs 8", {"learning_rate": 1e-3, "num_envs": 8}),
        ("--learning_rate=1e-3 --num_envs=8", {"learning_rate": 1e-3, "num_envs": 8}),
        ("--num-envs 16", {"num_envs": 16}),  # the preset's own value: given all the same
        ("--num-envs 8 --num-envs 4", {"num_envs": 4}),
        ("--dtype bfloat16", {"dtype": "bfloat16"}),
        ("--hidden 32 16", {"hidden": (32, 16)}),
        ("--hidden=32", {"hidden": (32,)}),
        ("--clip-values", {"clip_values": True}),
        ("--no-clip-values", {"clip_values": False}),
        ("--no_clip_values --clip_values", {"clip_values": True}),
        ("--max-grad-norm inf", {"max_grad_norm": math.inf}),
        ("--discount 1", {"discount": 1.0}),
        ("--entropy-coefficient -0.5", {"entropy_coefficient": -0.5}),
        ("--gamma .9 --lr 1e-2 --lambda=.8", {"discount": 0.9, "learning_rate": 1e-2, "gae_lambda": 0.8}),
        ("--trace-decay .8", {"gae_lambda": 0.8}),
        ("--gae-lambda .8 --discount .5 --gamma .9", {"gae_lambda": 0.8, "discount": 0.9}),
    ],
)
def test_fields_of_the_agent(asked, words, config):
    assert run(f"{CARTPOLE} {words}") == 0
    assert asked[0][0] == make_plan("ppo", "gymnax/CartPole-v1", config=config)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--env.num-levels 200 --env.start_level=5", {"num_levels": 200, "start_level": 5}),
        ("--env.distribution-mode easy", {"distribution_mode": "easy"}),
        ("--env.no-use-backgrounds", {"use_backgrounds": False}),
        ("--env.paint-vel-info", {"paint_vel_info": True}),
    ],
)
def test_options_of_the_environment(asked, words, options):
    assert run(f"train ppg procgen/coinrun --preset quick {words}") == 0
    assert asked[0][0] == make_plan("ppg", "procgen/coinrun", preset="quick", env_options=options)


def test_options_of_the_evaluations_environment(asked):
    line = "train ppg procgen/coinrun --env.num-levels 200 --eval-every 8192 --eval-env.num-levels 0"
    assert run(line) == 0
    assert asked[0][0].options.num_levels == 200
    assert asked[0][1] == Recording(eval_every=8192, eval_env_options={"num_levels": 0})


def test_the_commands_own_flags(asked):
    line = "train --seeds 2 ppo --quiet gymnax/CartPole-v1 --seed 5 --steps 1000 --out x --resume --overwrite"
    line += " --log tensorboard wandb --wandb-project p --wandb-entity e --wandb-name n"
    assert run(f"{line} --log-every 3 --checkpoint-seconds 1.5 --preset classic --devices-per-seed 1") == 0
    plan = make_plan("ppo", "gymnax/CartPole-v1", preset="classic", seeds=2, seed=5, steps=1000)
    kwargs = {"quiet": True, "out": "x", "resume": True, "overwrite": True, "new_length": True}
    kwargs |= {"new_devices": True}
    recording = Recording(log_every=3, checkpoint_seconds=1.5)
    assert asked == [(plan, recording, Logging(("tensorboard", "wandb"), "p", "e", "n"), kwargs)]


def test_flags_before_the_names(asked):
    assert run("train --preset=classic --log tensorboard ppo gymnax/CartPole-v1 --learning-rate 1e-2") == 0
    plan = make_plan("ppo", "gymnax/CartPole-v1", preset="classic", config={"learning_rate": 1e-2})
    assert asked == [(plan, Recording(), Logging(("tensorboard",)), {"new_length": False, "new_devices": False})]


def test_an_agent_without_help_texts():
    @dataclasses.dataclass
    class Mine:
        beta: float = 0.5

    (given,) = flags.parse([flags.Group(Mine, Mine(), "mine")], ["--beta", "2"], "purerl train mine x", "")
    assert given == {"beta": 2.0}


def test_a_field_with_the_name_of_a_flag_is_refused():
    @dataclasses.dataclass
    class Mine:
        seed: int = 0

    general = flags.Group(Which, Which())
    with pytest.raises(PurerlError, match="field 'seed' of mine has the name of another flag"):
        flags.parse([general, flags.Group(Mine, Mine(), "mine")], [], "purerl train mine x", "")


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("trian", ["unknown command 'trian'", "'train'"]),
        ("ppo gymnax/CartPole-v1", ["unknown command 'ppo'", "purerl train ppo ENV"]),
        ("train", ["missing AGENT and ENV", "purerl train AGENT ENV"]),
        ("train ppo", ["missing ENV"]),
        ("train pppo gymnax/CartPole-v1", ["unknown agent 'pppo'", "Did you mean 'ppo'?"]),
        ("train pppo --help", ["unknown agent 'pppo'", "Did you mean 'ppo'?"]),
        ("train ppo gymnax/CartPol-v1 --help", ["'gymnax/CartPol-v1'", "'gymnax/CartPole-v1'"]),
        ("train gymnax/CartPole-v1 ppo", ["the agent comes before the environment", "train ppo gymnax/CartPole-v1"]),
        ("train gymnax/CartPole-v1", ["the agent comes before the environment", "train AGENT gymnax/CartPole-v1"]),
        ("train ppo CartPole-v1", ["Did you mean 'gymnax/CartPole-v1' or 'gym/CartPole-v1'?"]),
        ("train ppo gymnx/CartPole-v1", ["family 'gymnx'", "Did you mean 'gymnax'?"]),
        ("train ppo procgen/coinrum", ["'procgen/coinrum'", "Did you mean 'procgen/coinrun'?"]),
        (f"{CARTPOLE} --preset clasic", ["no preset 'clasic'", "Did you mean 'classic'?"]),
        (f"{CARTPOLE} --preset", ["--preset needs a value"]),
        (f"{CARTPOLE} --learnin-rate 1", ["unknown flag '--learnin-rate'", "Did you mean '--learning-rate'?"]),
        (f"{CARTPOLE} --learnin_rate=1", ["unknown flag '--learnin_rate'", "Did you mean '--learning-rate'?"]),
        (f"{CARTPOLE} --policy-iterations 3", ["unknown flag '--policy-iterations'"]),  # it is ppg's
        (f"{CARTPOLE} --max-steps 3", ["unknown flag '--max-steps'", "Did you mean '--env.max-steps'?"]),
        (f"{CARTPOLE} --env.max-stps 3", ["unknown flag '--env.max-stps'", "Did you mean '--env.max-steps'?"]),
        (f"{CARTPOLE} --env.paint-vel-info 1", ["unknown flag '--env.paint-vel-info'"]),  # it is Procgen's
        (f"{CARTPOLE} -n 3", ["unknown flag '-n'"]),
        ("plot x --lr 3", ["unknown flag '--lr'. (purerl plot"]),  # which is not nearly --log or --y
        (f"{CARTPOLE} --eval-every 64 --eval-episodes 0", ["eval_every = 64 and eval_episodes = 0 must be"]),
        (f"{CARTPOLE} --eval-env.max-steps 3", ["no evaluations: set eval_every as well"]),
        (f"{CARTPOLE} --checkpoint-seconds nan", ["checkpoint_seconds = nan must be finite"]),
        (f"{CARTPOLE} --log-every -1", ["log_every = -1 must not be negative"]),
        (f"{CARTPOLE} extra", ["unexpected 'extra'"]),
        ("train --sede 1 ppo gymnax/CartPole-v1", ["'--sede' before AGENT and ENV", "Did you mean '--seed'?"]),
        ("train --learning-rate 1 ppo x", ["'--learning-rate' before AGENT and ENV, which come first"]),
        (f"{CARTPOLE} --num-envs", ["--num-envs needs a value"]),
        (f"{CARTPOLE} --num-envs --quiet", ["--num-envs needs a value"]),
        (f"{CARTPOLE} --num-envs 8 4", ["unexpected '4' after --num-envs 8"]),
        (f"{CARTPOLE} --num-envs 8.5", ["--num-envs: '8.5' is not an integer"]),
        (f"{CARTPOLE} --num-envs=", ["--num-envs: '' is not an integer"]),
        (f"{CARTPOLE} --learning-rate fast", ["--learning-rate: 'fast' is not a number"]),
        (f"{CARTPOLE} --learning-rate nan", ["learning_rate = nan must be a number"]),
        (f"{CARTPOLE} --hidden 64 x", ["--hidden", "'x'"]),
        (f"{CARTPOLE} --clip-values True", ["--clip-values takes no value: write --clip-values or --no-clip-values"]),
        (f"{CARTPOLE} --no-clip-values=1", ["--no-clip-values takes no value"]),
        (f"{CARTPOLE} --dtype float61", ["--dtype: 'float61' is not a choice", "Choices: float32, bfloat16"]),
        (f"{CARTPOLE} --env.max-steps x", ["--env.max-steps: 'x' is not an integer"]),
        (f"{CARTPOLE} --wandb-project mine", ["--wandb-project needs --log wandb: add it, or leave"]),
        (f"{CARTPOLE} --log tensorbord", ["--log: 'tensorbord' is not a choice", "Did you mean 'tensorboard'?"]),
        (f"{CARTPOLE} --num-envs -8", ["num_envs = -8"]),
        (f"{CARTPOLE} --num-envs 0", ["num_envs"]),
        (f"{CARTPOLE} --seeds 0", ["seeds = 0"]),
        (f"{CARTPOLE} --seed -1", ["seed = -1"]),
        (f"{CARTPOLE} --steps 0", ["steps = 0"]),
        (f"{CARTPOLE} --num-minibatches 7", ["num_minibatches", "7"]),
        (f"{CARTPOLE} --network impala", ["network 'impala'"]),
        (f"{CARTPOLE} --env.max-steps -3", ["max_steps = -3"]),
        (f"{CARTPOLE} --resume", ["there is no run to resume", "runs/ppo-gymnax-CartPole-v1-classic-seed0"]),
        (f"{CARTPOLE} --resume --overwrite --out x", ["--resume continues a run", "choose one of them"]),
        ("train ppo procgen/coinrun --env.start-level 3", ["start_level=3", "num_levels"]),
        ("train ppo procgen/coinrun --env.distribution-mode eazy", ["'eazy'", "Did you mean 'easy'?"]),
        ("train ppo procgen/coinrun --env.distribution-mode memory", ["coinrun has no distribution_mode 'memory'"]),
        ("eval", ["missing DIR"]),
        ("eval nothing", ["no run folder nothing"]),
        ("video nothing", ["no run folder nothing"]),
        ("plot", ["missing DIR"]),
        ("plot nothing", ["no run folder nothing"]),
        ("plot nothing --out x.jpg", ["'.jpg'", ".png"]),
        ("list", ["list what?"]),
        ("list agent", ["'agent'", "Did you mean 'agents'?"]),
        ("list agents ppo", ["unexpected 'ppo'"]),
        ("list envs gymnx", ["Did you mean 'gymnax'?"]),
        ("train ppo dmlab/Rooms", ["unknown environment family 'dmlab'. Known: "]),
        ("train --lr 1 ppo gymnax/CartPole-v1", ["'--lr' before AGENT and ENV", "ENV. (purerl train --help)"]),
        ("list presets pppg", ["unknown agent 'pppg'", "Did you mean 'ppg'?"]),
        ("doctor --fix", ["unknown flag '--fix'"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, empty_folder, line, parts):
    refused(capsys, line, *parts)
    assert list(empty_folder.iterdir()) == []


def test_a_missing_extra_is_named_before_anything_is_written(capsys, empty_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    refused(capsys, f"{CARTPOLE} --log tensorboard", "--log tensorboard needs tensorboardX: pip install tensorboardX")
    assert list(empty_folder.iterdir()) == []


def test_a_file_in_the_way_of_the_run_folder(capsys, empty_folder):
    (empty_folder / "file").write_text("mine")
    refused(capsys, f"{CARTPOLE} --out file/run", "file/run", "--out")
    refused(capsys, f"{CARTPOLE} --out file", "file", "--out")
    assert (empty_folder / "file").read_text() == "mine" and len(list(empty_folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (errno.ENOSPC, ["No space left", "runs/x", "free some space"]),
        (errno.EACCES, ["Permission denied", "runs/x", "--out"]),
        (errno.EIO, ["Input/output error", "runs/x"]),
    ],
)
def test_what_the_operating_system_refuses_is_one_line(capsys, monkeypatch, number, parts):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), "runs/x")

    monkeypatch.setattr(training, "train_plan", fail)
    refused(capsys, CARTPOLE, *parts)


def test_running_out_of_memory_is_one_line(capsys, monkeypatch):
    import jax

    def fail(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate\n 99 bytes.")

    monkeypatch.setattr(training, "train_plan", fail)
    refused(capsys, CARTPOLE, "out of memory", "--num-envs")


def test_a_bug_is_not_hidden(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(training, "train_plan", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run(CARTPOLE)


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        (int, "3", 3),
        (float, "inf", math.inf),
        (bool, "True", True),
        (str, "None", "None"),
        (int | None, "None", None),
        (int | float, "2.5", 2.5),
        (Literal[1, 2], "2", 2),
        (tuple[int, ...], "64 32", (64, 32)),
        (tuple[int, str], "64 x", (64, "x")),
    ],
)
def test_words_become_values_of_a_fields_type(kind, words, value):
    assert configs.from_words(kind, words.split()) == value


@pytest.mark.parametrize(
    ("kind", "words", "line"),
    [
        (bool, "yes", "'yes' is not true or false"),
        (int | None, "x", "'x' is not an integer"),
        (tuple[int, int], "1 2 3", "'1 2 3' must be 2 values"),
        (tuple[int, ...], "1 x", "'x' is not an integer"),
        (dict, "1", "'1' cannot be read: a field of type <class 'dict'> has no text form"),
    ],
)
def test_words_that_are_no_value_of_it(kind, words, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        configs.from_words(kind, words.split())


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(f"{CARTPOLE} {TINY} --steps 128 --out {folder} --quiet") == 0
    return folder


@pytest.fixture
def copied(finished, empty_folder):
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(finished, empty_folder / "run"))


def test_a_run_from_the_command_line(run_cli, empty_folder):
    done = run_cli(*f"{CARTPOLE} {TINY} --steps 100 --seeds 2 --seed 3".split())
    assert done.code == 0, done.stderr
    changes = "num_envs_4-rollout_length_16-num_epochs_1-num_minibatches_2-hidden_8"
    folder = empty_folder / "runs" / f"ppo-gymnax-CartPole-v1-classic-{changes}-seed3to4"
    assert str(folder.relative_to(empty_folder)) in done.stdout
    summary = json.loads((folder / "summary.json").read_text())
    # rounded up to whole iterations of 4 x 16
    assert (summary["agent"], summary["seeds"], summary["steps"]) == ("ppo", [3, 4], 128)
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["hidden"] == [8] and config["config"]["learning_rate"] == 1e-3  # the preset's
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints", "config.json", "figures", "metrics.jsonl", "purerl.json", "summary.json"
    }  # fmt: skip
    assert (folder / "figures" / "return.png").stat().st_size > 1000


def test_a_folder_with_a_run_is_refused_and_not_touched(capsys, copied):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    refused(capsys, f"{CARTPOLE} {TINY} --steps 128 --out {copied}", "already holds a run", "--resume", "--overwrite")
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_resume_goes_on_and_overwrite_begins_again(capsys, copied):
    assert run(f"{CARTPOLE} {TINY} --steps 256 --out {copied} --quiet --resume") == 0
    summary = json.loads((copied / "summary.json").read_text())
    assert summary["steps"] == 256
    assert run(f"{CARTPOLE} {TINY} --steps 64 --out {copied} --quiet --overwrite") == 0
    assert json.loads((copied / "summary.json").read_text())["steps"] == 64
    assert len((copied / "metrics.jsonl").read_text().splitlines()) == 1


def test_resume_with_another_config_is_refused(capsys, copied):
    line = f"{CARTPOLE} {TINY} --steps 128 --out {copied} --resume --learning-rate 0.5"
    refused(capsys, line, "--resume", "learning_rate was 0.001, is 0.5")


def damage(folder: Path, name: str) -> None:
    """Cuts the largest file of the run's checkpoint in half, or puts another run's configuration in its place."""
    if name == "truncated":
        largest = max((path for path in (folder / "checkpoints").rglob("*") if path.is_file()), key=os.path.getsize)
        largest.write_bytes(largest.read_bytes()[: os.path.getsize(largest) // 2])
    elif name == "foreign":
        config = json.loads((folder / "config.json").read_text())
        config["config"]["hidden"] = [16]
        (folder / "config.json").write_text(json.dumps(config))
    elif name == "none":
        shutil.rmtree(folder / "checkpoints")
    elif name == "config":
        config = json.loads((folder / "config.json").read_text())
        del config["preset"]
        (folder / "config.json").write_text(json.dumps(config))
    elif name == "not json":
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("truncated", "is damaged"),
        ("foreign", "of another run"),
        ("none", "no checkpoint"),
        ("config", "config.json is damaged or of another purerl"),
        ("not json", "config.json"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "video"])
def test_broken_runs_are_one_line(capsys, copied, command, name, part):
    damage(copied, name)
    before = sorted(copied.rglob("*"))
    refused(capsys, f"{command} {copied}", part)
    assert sorted(copied.rglob("*")) == before


def test_resuming_from_a_truncated_checkpoint_is_one_line(capsys, copied):
    damage(copied, "truncated")
    refused(capsys, f"{CARTPOLE} {TINY} --steps 256 --out {copied} --resume", "is damaged")


def test_eval_prints_a_table_and_writes_json(capsys, copied):
    assert run(f"eval {copied} --episodes 2 --num-envs 3 --greedy --env.max-steps 5") == 0
    said = capsys.readouterr().out
    result = json.loads((copied / "eval.json").read_text())
    assert result["return"]["mean"] == 5 and result["greedy"] is True and result["per_seed"][0]["episodes"] == 6
    assert "greedy actions" in said and str(copied / "eval.json") in said and "max_steps 5" in said
    refused(capsys, f"eval {copied} --episodes 0", "episodes = 0")
    refused(capsys, f"eval {copied} --learning-rate 1", "unknown flag '--learning-rate'")
    refused(capsys, f"eval {copied} --max-steps 1 --quiet", "ended only", "raise --max-steps")


def test_video_writes_a_gif(capsys, copied):
    assert run(f"video {copied} --seconds 2 --frames-per-second 10 --out v.gif") == 0
    assert "wrote v.gif: 20 steps" in capsys.readouterr().out
    with Image.open("v.gif") as video:
        assert video.size == (300, 200) and 1 < video.n_frames <= 20  # frames that are equal become one
    refused(capsys, f"video {copied} --steps 3 --seconds 1", "--steps and --seconds")
    refused(capsys, f"video {copied} --out v.avi", "'.avi'")


def test_plot_says_where_the_figure_is(capsys, copied, empty_folder):
    assert run(f"plot {copied}") == 0
    assert capsys.readouterr().out.strip() == str(copied / "figures" / "return.png")
    assert run(f"plot {copied} {copied} --y episode_length") == 0
    assert capsys.readouterr().out.strip() == "episode_length.png"
    assert (empty_folder / "episode_length.png").stat().st_size > 1000
    refused(capsys, f"plot {copied} --y episode_retrun", "Did you mean 'episode_return'?")


# --- interrupts and pipes --------------------------------------------------------------------------------------------


def start(*words: object, **kwargs) -> subprocess.Popen:
    command = [sys.executable, "-m", "purerl", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def test_an_interrupt_before_training_is_130(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_plan", interrupt)
    assert run(CARTPOLE) == 130
    assert capsys.readouterr().err == "purerl: interrupted\n"


def test_a_closed_pipe_is_no_error():
    with start("list", "presets") as process:
        process.stdout.close()  # before it has written, as `head` may
        assert process.stderr.read() == ""
    assert process.returncode == 141
