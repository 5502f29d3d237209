"""No traceback, ever: whatever stands on the command line, in a JSON file of a run, sweep or figure folder, or in the
arguments of a public function ends in one line, and the next try finds nothing in its way.

Nothing trains here: a command that would train finds a run or a sweep in its folder, a command that would play finds no
checkpoint, and everything else is checked before that.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import io
import itertools
import json
import math
import shutil
import sys
import typing
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import purerl
from purerl import PurerlError, configs, registry
from purerl.cli import folders as folder_commands
from purerl.cli import main
from purerl.cli import training as training_commands
from purerl.experiments.figures import commands
from purerl.runs import checkpoint, estimates, files, programs, run_folder, sweeps
from purerl.runs.plan import Plan, make_plan
from purerl.runs.recording import Recording

TINY = "--num-envs 2 --rollout-length 8 --num-minibatches 2 --num-epochs 1 --hidden 4"
CARTPOLE = "ppo gymnax/CartPole-v1"
RESULTS = Path(__file__).parents[1] / "experiments" / "results" / "figures" / "small"


def deterministic(examples: int) -> settings:
    """The same examples in every run of the tests, and none of them kept on disk."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=checks)


# --- what must hold --------------------------------------------------------------------------------------------------


def command(*words: object) -> tuple[int, str]:
    """(exit code, the error line) of a command. It must be one line, and a terminal must be able to show it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how) for how in ("strict", "backslashreplace"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main([str(word) for word in words])
        err.flush()
    said = err.buffer.getvalue().decode()
    assert type(code) is int and code in (0, 2), (code, said)
    notes = [line for line in said.splitlines() if line.startswith("purerl: note: ")]
    errors = [line for line in said.splitlines() if line not in notes]
    assert len(errors) == (1 if code else 0), said
    assert all(line.startswith("purerl: error: ") and len(line) < 4000 for line in errors), said
    return code, said


def refused(*words: object) -> str:
    """The error line of a command that must fail as bad input does."""
    code, said = command(*words)
    assert code == 2, words
    return said


def only_purerl_errors(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call of the library, or the PurerlError that it raised, which must be one line."""
    try:
        return call(*args, **kwargs)
    except PurerlError as error:
        assert str(error) and "\n" not in str(error)
        return error


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A folder with a finished run, a run without a checkpoint, a finished sweep, a program and figures."""
    folder = tmp_path_factory.mktemp("bad-input")
    assert main.main(f"train {CARTPOLE} {TINY} --steps 32 --log-every 1 --quiet --out {folder}/run".split()) == 0
    shutil.copytree(folder / "run", folder / "bare")
    shutil.rmtree(folder / "bare" / "checkpoints")
    sweep = f"sweep {CARTPOLE} {TINY} --steps 32 --grid learning_rate=1e-3,1e-2 --quiet --out {folder}/sweep"
    assert main.main(sweep.split()) == 0
    plans = [make_plan(*CARTPOLE.split(), seed=seed, steps=32, config={"num_envs": 2}) for seed in (0, 1)]
    cells = [programs.Cell(plan, folder / "figure" / "cells" / str(i)) for i, plan in enumerate(plans)]
    programs._pack(cells, folder / "figure" / "programs", None, None)
    shutil.copytree(RESULTS, folder / "figures" / "small")
    return folder


@contextlib.contextmanager
def changed(path: Path, data: bytes) -> typing.Iterator[None]:
    """Another content of a file inside the block."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


# --- the command line ------------------------------------------------------------------------------------------------

NUMBERS = [
    *("0", "-0", "-1", "1", "2", "7", "1e3", "1.5", "-1.5", "nan", "-nan", "inf", "-inf", "1e400", "1e-400", "0x10"),
    *("99999999999999999999", "10000000000000000", "2147483647", "2147483648", "-2147483649", "9" * 5000, "1_000"),
    *("1e308", "1e38", "1e39", "3.5e38", "-1e39", "١٢"),
]
TEXTS = [
    *("", " ", "None", "true", "false", "x", "=", "==", ";", ",", "64x64", "x" * 5000, "..", ".", "/", "//", "a/b/c"),
    *("\ud800", "\udcff", "é", "日本", "\x00", "\x07", "a\nb", "a\rb", "{}", "%s", "{x}", "~nobody/x", "-", "--", "-1"),
    *("learning_rate=1,2", "learning_rate=log(1,2)", "hidden=choice(1x1,2)", "a=b=c", "=1", "num_envs=" + "1," * 50),
]
WORDS = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.text(max_size=20), st.integers().map(str), st.floats().map(str)
)
# These decide whether something is trained or written, and where; see the other tests.
LEFT_OUT = {"out", "resume", "overwrite", "import", "help", "quiet"}
PLACES = [
    *(CARTPOLE, "rainbow gymnax/Breakout-MinAtar", "ppg procgen/coinrun", "dqn-pro atari/Pong", "ppo probe/constant"),
]


def flags_of(command: str, agent: str, env: str) -> list[str]:
    """The names of the flags that a command has."""
    options = registry.environment(env)[0].Options
    owners = [
        (training_commands.Which, ""),
        (Recording, ""),
        (registry.agent(agent).Config, ""),
        (options, "env."),
        (options, "eval-env."),
    ]
    owners += [(training_commands.SweepFlags if command == "sweep" else training_commands.TrainFlags, "")]
    names = [prefix + field.name for cls, prefix in owners for field in dataclasses.fields(cls)]
    return [name for name in names if name not in LEFT_OUT]


@st.composite
def training(draw: Any) -> list[str]:
    """A command line that trains, with one to three flags that have any value."""
    name, place = draw(st.sampled_from(["train", "sweep"])), draw(st.sampled_from(PLACES))
    words = [name, *place.split()]
    known = flags_of(name, *place.split())
    for _ in range(draw(st.integers(1, 3))):
        flag, value = draw(st.sampled_from(known)), draw(WORDS)
        flag = flag if draw(st.booleans()) else flag.replace("_", "-")
        words += draw(st.sampled_from([[f"--{flag}", value], [f"--{flag}={value}"], [f"--no-{flag}"], [f"--{flag}"]]))
    return words


@given(training())
@deterministic(250)
@example(["train", *CARTPOLE.split(), "--steps", "99999999999999999999"])
@example(["train", *CARTPOLE.split(), "--num-envs", "10000000000000000"])
@example(["train", *CARTPOLE.split(), "--seeds", "2147483647"])
@example(["sweep", *CARTPOLE.split(), "--random", "learning_rate=log(1e-400,1)", "--samples", "1"])
@example(["sweep", *CARTPOLE.split(), "--random", "num_envs=uniform(1,1e308)", "--samples", "3"])
@example(["sweep", *CARTPOLE.split(), "--grid", ";".join(f"hidden={'1,' * 300}2" for _ in range(2))])
def test_any_flag_of_commands_that_train(folders, words):
    held = folders / ("sweep" if words[0] == "sweep" else "run")
    refused(*words, "--out", held)


OTHERS = {
    "eval": (folder_commands.EvalFlags, ["bare"]),
    "video": (folder_commands.VideoFlags, ["bare"]),
    "plot": (folder_commands.PlotFlags, ["bare"]),
    "report": (folder_commands.ReportFlags, ["bare"]),
}


@st.composite
def reading(draw: Any) -> list[str]:
    """A command line that reads folders, with up to two flags that have any value, in any order."""
    name = draw(st.sampled_from([*OTHERS, "list", "doctor", "figure", "bench", "no-command"]))
    cls = OTHERS[name][0] if name in OTHERS else main.Nothing
    known = [f.name for f in dataclasses.fields(cls) if f.name not in LEFT_OUT] + ["env.max_steps", "any"]
    parts = [[draw(st.one_of(WORDS, st.just("DIR")))] for _ in range(draw(st.integers(0, 2)))]
    parts += [[f"--{draw(st.sampled_from(known))}", draw(WORDS)] for _ in range(draw(st.integers(0, 2)))]
    return [name, *(word for part in draw(st.permutations(parts)) for word in part)]


@given(reading())
@deterministic(250)
@example(["video", "DIR", "--seconds", "nan"])
@example(["video", "DIR", "--seconds", "inf"])
@example(["video", "DIR", "--seconds", "1e308", "--frames-per-second", "1e308"])
@example(["eval", "DIR", "--episodes", "99999999999999999999"])
@example(["eval", "DIR", "--num-envs", "10000000000000000"])
@example(["plot", "DIR", "--smooth", "99999999999999999999"])
@example(["plot", "DIR", "--x", "wall_time", "--y", "$\\bad$"])
@example(["list", "envs", "\udcff"])
@example(["list", "runs", "\udcff"])
@example(["list", "runs", "DIR", "--sort", "x"])
@example(["plot", "DIR", "--labels", ",", "--title", " "])
@example(["report", "DIR", "--labels", "\x00", "--title", "\ud800"])
@example(["figure", "\ud800"])
@example(["eval", "x" * 5000])
@example(["video", "x" * 5000])
@example(["plot", "x" * 5000])
@example(["report", "x" * 5000])
@example(["list", "runs", "x" * 5000])
def test_any_flag_of_commands_that_read(folders, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    words = [str(folders / "bare") if word == "DIR" else word for word in words]
    if words == ["doctor"]:
        return  # it finds what this machine lacks
    command(*words, *(["no-benchmark"] if words[0] == "bench" else []))  # a bench runs for minutes


@given(st.lists(WORDS, max_size=4))
@deterministic(60)
@example(["list", "presets", "\x00"])
@example(["--import", "~nobody/x.py", "list", "agents"])
def test_any_words(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    command(*words)


@given(st.sampled_from(["list", "render", "verify", "run", "cost"]), st.lists(WORDS, max_size=3), WORDS)
@deterministic(60)
def test_any_words_for_figures(folders, tmp_path, monkeypatch, name, words, value):
    monkeypatch.chdir(tmp_path)
    command("figure", name, "no figure", *words, "--folder", value or "x")


@given(WORDS)
@deterministic(40)
def test_any_import(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    refused("--import", value, "train", "no-agent", "x/y")


# --- bad input that was seen -----------------------------------------------------------------------------------------

TRAIN, SWEEP = f"train {CARTPOLE}", f"sweep {CARTPOLE} --grid learning_rate=1e-3,1e-2"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (f"{TRAIN} --steps 99999999999999999999", ["steps = 99"]),
        (f"{TRAIN} --num-envs 10000000000000000", ["num_envs = 10000000000000000 must be at most 2147483647"]),
        (f"{TRAIN} --num-envs 1000000000", ["this takes at least", "are free: lower --seeds, --num-envs"]),
        (f"{TRAIN} --num-envs 2147483647", ["this takes at least", "for its rollouts"]),
        (f"{TRAIN} --seeds 100000 --hidden 4096", ["this takes at least", "for its networks and buffers"]),
        (f"{TRAIN} --seeds 2147483647", ["seeds = 2147483647 must be at most 1048576"]),
        ("train ppo procgen/coinrun --num-envs 100000000", ["this takes at least", "TB"]),
        ("train rainbow atari/Pong --replay-size 2147483640", ["this takes at least", "for its networks and buffers"]),
        (f"{TRAIN} --hidden 2147483647", ["this takes at least"]),
        (f"{TRAIN} --hidden 0", ["hidden = 0 must be at least 1"]),
        (f"{TRAIN} --log-every -1", ["log_every = -1 must not be negative"]),
        (f"{TRAIN} --checkpoint-seconds nan", ["checkpoint_seconds = nan must be finite and not negative"]),
        (f"{TRAIN} --checkpoint-seconds inf", ["checkpoint_seconds = inf must be finite"]),
        (f"{TRAIN} --checkpoint-seconds -1", ["checkpoint_seconds = -1.0 must not be negative"]),
        (f"{TRAIN} --learning-rate -1", ["learning_rate = -1.0 must not be negative"]),
        (f"{TRAIN} --learning-rate inf", ["learning_rate = inf must be finite"]),
        (f"{TRAIN} --discount 2", ["discount = 2.0 must be at most 1.0"]),
        (f"{TRAIN} --max-grad-norm 0", ["max_grad_norm = 0.0 must be above 0.0"]),
        (f"{TRAIN} --out=", ["--out needs a value"]),
        (f"{SWEEP} --search-seed -1 --random learning_rate=log(1,2)", ["--grid"]),
        (
            f"sweep {CARTPOLE} --random learning_rate=log(1,2) --samples 1 --search-seed -1",
            ["search_seed = -1 must be"],
        ),
        (f"sweep {CARTPOLE} --random learning_rate=log(1,2) --samples 9999999999", ["samples = 9999999999 must be at"]),
        (f"{SWEEP} --cells-per-program 0", ["cells_per_program = 0 must be at least 1"]),
        (f"{SWEEP} --max-memory 1KB", ["takes", "the limit is 0.0 MB", "a higher --max-memory"]),
        (f"{SWEEP} --num-envs 1000000000", ["this takes at least"]),
        ("sweep ppo procgen/coinrun --grid clip=.1,.2 --max-memory 1GB", ["--cells-per-program"]),
        (f"{SWEEP} --engine ray", ["--engine ray needs ray: pip install ray"]),
        ("eval {run} --episodes 99999999999999999999", ["episodes = 99999999999999999999 must be at most"]),
        ("eval {run} --episodes 2147483647", ["this takes at least", "for the returns of its episodes"]),
        ("eval {run} --num-envs 2000000000", ["this takes at least"]),
        ("eval {run} --seed -1", ["seed = -1 must be at least 0"]),
        ("eval {run} --out=.", ["name a file"]),
        ("video {run} --seconds nan", ["seconds = nan must be a number"]),
        ("video {run} --seconds inf", ["seconds = inf must be at most"]),
        ("video {run} --steps 2147483647", ["this takes at least", "for its frames"]),
        ("video {run} --steps 99999999999999999999", ["steps = 99999999999999999999 must be at most"]),
        ("plot {run} --smooth -1", ["cannot smooth over -1 rows"]),
    ],
)
def test_one_line_and_no_folder_in_the_way(folders, tmp_path, monkeypatch, line, parts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    words = line.format(run=folders / "run").split()
    for _ in range(2):  # the second try says the same
        said = refused(*words)
        for part in parts:
            assert part in said, said
    assert list(tmp_path.rglob("*")) == []


def test_what_fits_is_not_refused(monkeypatch):
    plan = make_plan("ppo", "gymnax/CartPole-v1", seeds=2, config={"num_envs": 64})
    needs = sum(estimates.least_bytes(plan).values())
    assert 10_000 < needs < 10**9
    estimates.check_training(plan)
    monkeypatch.setattr(estimates, "free_memory", lambda: needs - 1)
    with pytest.raises(PurerlError, match="this takes at least"):
        estimates.check_training(plan)
    monkeypatch.setattr(estimates, "free_memory", lambda: needs)
    estimates.check_training(plan)


# --- JSON files ------------------------------------------------------------------------------------------------------

VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        2**31,
        10**30,
        10**400,
        1.5,
        1e300,
        "",
        "x",
        "inf",
        "\ud800",
        [],
        [[]],
        [1, "x"],
        {},
        {"x": 1},
    ]
)


def places(value: Any, where: tuple = ()) -> list[tuple]:
    """The path to every value inside of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [where, *(place for key, one in inner for place in places(one, (*where, key)))]


def with_value(value: Any, place: tuple, new: Any, delete: bool) -> Any:
    """A JSON value with another value at a place, or with none there."""
    if not place:
        return new
    value = copy.copy(value)
    if len(place) == 1 and delete:
        del value[place[0]]
    else:
        value[place[0]] = with_value(value[place[0]], place[1:], new, delete)
    return value


@st.composite
def damage(draw: Any, text: bytes) -> bytes:
    """A JSON file in which one field is missing or different, or that is cut or has another byte."""
    kind = draw(st.sampled_from(["value", "value", "value", "delete", "delete", "cut", "byte"]))
    if kind == "cut":
        return text[: draw(st.integers(0, len(text) - 1))]
    if kind == "byte":
        at = draw(st.integers(0, len(text) - 1))
        return text[:at] + bytes([draw(st.integers(0, 255))]) + text[at + 1 :]
    value = json.loads(text)
    found = places(value)
    place = found[draw(st.integers(0, len(found) - 1))]
    return json.dumps(with_value(value, place, draw(VALUES), kind == "delete")).encode()


def read_run(folder: Path) -> None:
    """Everything that reads a run folder and neither trains nor plays for long."""
    command("report", folder, "--out", folder.parent / "page.html")
    refused("eval", folder, "--episodes", 0)
    only_purerl_errors(purerl.load_policy, folder)


@pytest.mark.parametrize(("name", "examples"), [("config.json", 80), ("summary.json", 40), ("metrics.jsonl", 40)])
def test_any_damage_of_a_runs_files(folders, name, examples):
    path = folders / "run" / name
    text = path.read_bytes()
    line = text.splitlines()[0]  # of metrics.jsonl

    @given(st.data())
    @deterministic(examples)
    def check(data):
        damaged = data.draw(damage(line) if name == "metrics.jsonl" else damage(text))
        with changed(path, damaged + text[len(line) :] if name == "metrics.jsonl" else damaged):
            read_run(folders / "run")
            if name == "metrics.jsonl":
                plan = Plan.from_dict(run_folder.load(folders / "run")["config"])
                from purerl.runs import sinks, summary

                only_purerl_errors(summary.summarize, plan, folders / "run", {})
                only_purerl_errors(sinks.read_rows, path)
                from purerl.report import plots

                only_purerl_errors(plots.read_curve, folders / "run", "step", "episode_return")

    check()


def test_any_damage_of_an_evaluation(folders):
    path = folders / "run" / "eval.json"
    assert command("eval", folders / "run", "--episodes", 1, "--env.max-steps", 3, "--quiet")[0] == 0
    text = path.read_bytes()

    @given(damage(text))
    @deterministic(60)
    def check(damaged):
        with changed(path, damaged):
            command("report", folders / "run", "--out", folders / "page.html")

    check()
    path.unlink()


def test_any_damage_of_a_checkpoints_index(folders):
    """With a right checksum, too: anybody can compute one."""
    (path,) = (folders / "run" / "checkpoints").glob("*/index.json")
    text = path.read_bytes()

    @given(damage(text), st.booleans())
    @deterministic(120)
    def check(damaged, signed):
        crc = f"{zlib.crc32(damaged):08x}".encode() if signed else path.with_name("index.json.crc32").read_bytes()
        with changed(path, damaged), changed(path.with_name("index.json.crc32"), crc):
            only_purerl_errors(purerl.load_policy, folders / "run")
            with checkpoint.Checkpoints(path.parents[1]) as saved:
                only_purerl_errors(saved.read_metadata)

    check()


@pytest.mark.parametrize(
    ("name", "examples"), [("sweep.json", 40), ("cells/000/summary.json", 60), ("cells/000/metrics.jsonl", 40)]
)
def test_any_damage_of_a_sweeps_files(folders, name, examples):
    path = folders / "sweep" / name
    text = path.read_bytes()
    line = text.splitlines()[0] if name.endswith("jsonl") else text

    @given(damage(line), st.integers(0, 15))
    @deterministic(examples)
    def check(damaged, number):
        with changed(path, damaged + text[len(line) :]):
            only_purerl_errors(sweeps.collect, folders / "sweep")
            if number > 11:
                only_purerl_errors(purerl.load_runs, folders / "sweep")
                command("list", "runs", folders / "sweep")
            if name == "sweep.json" and number == 0:
                command("resume", folders / "sweep", "--quiet")
            if name == "sweep.json" and number == 1:
                command(*f"{SWEEP} {TINY} --steps 32 --quiet --resume --out {folders}/sweep".split())

    check()


def test_any_damage_of_a_program(folders):
    work = folders / "figure" / "programs"
    (path,) = work.glob("*/program.json")

    @given(damage(path.read_bytes()))
    @deterministic(150)
    def check(damaged):
        with changed(path, damaged):
            found = only_purerl_errors(programs._unfinished_programs, work)
            if not isinstance(found, PurerlError) and found:
                program = programs._read(path.parent)
                plans = [plan for plan in found[path.parent].values()]
                only_purerl_errors(programs.together, plans, program["lanes"], program["varying"])
                only_purerl_errors(Recording.from_dict, program)

    check()


@pytest.mark.parametrize("name", ["ppg/single-network", "performance/seeds"])
def test_any_damage_of_a_figure(folders, name):
    path = folders / "figures" / "small" / f"{name.replace('/', '-')}.json"
    text = path.read_bytes()

    @given(damage(text), st.integers(0, 9))
    @deterministic(40)
    def check(damaged, number):
        with changed(path, damaged):
            found = only_purerl_errors(commands.load, registry.figures()[name], "small", folders / "figures")
            if number == 0 and not isinstance(found, PurerlError):
                command("figure", "verify", name, "--scale", "small", "--folder", folders / "figures")

    check()
    broken = json.dumps({**json.loads(text), "cells": {}, "measured": {}}).encode()
    with changed(path, broken):
        said = refused("figure", "render", name, "--scale", "small", "--folder", folders / "figures")
    assert f"purerl figure run {name}" in said


# --- Python functions ------------------------------------------------------------------------------------------------

ANYTHING = [
    object(),
    5,
    -1,
    10**30,
    1.5,
    math.nan,
    math.inf,
    "x",
    "",
    "\x00",
    "x" * 5000,
    b"x",
    None,
    True,
    [],
    [1],
    (),
]
ANYTHING += [{}, {"x": 1}, {1: 2}, {"learning_rate": "x"}, {"num_envs": np.ones(2)}, {"learning_rate": np.ones(3)}, len]
ANYTHING += [np.int64(3), np.array(["a"]), Path("x"), Path("\x00"), set(), range(3), type]
FUNCTIONS = ("train", "make_train", "make_plan", "sweep", "evaluate", "load_policy", "load_runs", "seed_keys", "resume")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_argument_of_a_public_function(folders, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    function = getattr(purerl, name)
    base = {"agent": "ppo", "env": "gymnax/CartPole-v1"}
    valid = {
        "train": base | {"out": folders / "run"},
        "make_train": base,
        "make_plan": base,
        "sweep": base | {"out": folders / "sweep", "grid": "learning_rate=1,2"},
        "evaluate": {"folder": folders / "bare"},
        "load_policy": {"folder": folders / "bare"},
        "load_runs": {"folder": folders / "bare"},
        "seed_keys": {"first_seed": 0, "num_seeds": 1},
        "resume": {"folder": "nothing"},
    }[name]
    parameters, turn = inspect.signature(function).parameters.values(), itertools.count()
    for parameter in parameters:
        if parameter.name in ("resume", "overwrite", "out") or parameter.kind is parameter.VAR_KEYWORD:
            continue
        values = ANYTHING if len(parameters) < 10 else ANYTHING[next(turn) % 4 :: 4]
        for value in values:
            only_purerl_errors(function, **valid | {parameter.name: value})
    for value in (5, object(), b"x", "\x00", ""):
        if "out" in valid:
            found = only_purerl_errors(function, **valid | {"out": value})
            assert isinstance(found, PurerlError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: purerl.train("ppo", "gymnax/CartPole-v1", seeds="2"), "train: seeds = '2' must be an integer"),
        (lambda: purerl.train(5, "gymnax/CartPole-v1"), "train: agent = 5 must be text"),
        (
            lambda: purerl.make_train("ppo", "gymnax/CartPole-v1", learning_rate="x"),
            "learning_rate = 'x' must be a number",
        ),
        (lambda: purerl.sweep("ppo", "gymnax/CartPole-v1", grid=5), "sweep: grid = 5 must be a dict"),
        (lambda: purerl.evaluate(3), "evaluate: folder = 3 must be text or a path"),
        (lambda: purerl.load_policy("x", seed=1.5), "load_policy: seed = 1.5 must be an integer or None"),
        (lambda: purerl.seed_keys(-1, 1), "first_seed = -1 must be at least 0"),
        (lambda: purerl.register_agent("mine", 5), "the agent 'mine' = 5 must be a purerl.Agent"),
        (lambda: purerl.register_family("mine", None), "must be an environment family"),
        (lambda: purerl.register_preset("ppo", "mine", {}), "must be a purerl.Preset"),
        (lambda: purerl.register_figure(5, None), "the name of the figure = 5 must be text"),
        (lambda: purerl.Preset("x", "me"), "Preset: steps = 'x' must be an integer"),
    ],
)
def test_a_wrong_type_is_named(call, line):
    with pytest.raises(PurerlError) as error:
        call()
    assert line in str(error.value)


def test_numpy_numbers_are_numbers():
    plan = make_plan("ppo", "gymnax/CartPole-v1", seeds=np.int64(2), steps=np.int32(1000), seed=np.uint8(3))
    assert plan.seeds == (3, 4) and type(plan.seeds[0]) is int
    plan = make_plan("ppo", "gymnax/CartPole-v1", seeds=2, config={"learning_rate": np.float32([1e-3, 1e-2])})
    assert len(plan.config.learning_rate) == 2
    rate = jax.make_jaxpr(
        lambda x: purerl.make_train("ppo", "gymnax/CartPole-v1", learning_rate=x).config.learning_rate
    )
    assert rate(1e-3)  # an array inside of a transformation has no value to look at


def test_bounds_are_shown_in_the_help(capsys):
    assert main.main(f"train {CARTPOLE} --help".split()) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "discount factor gamma [0 to 1]" in said and "Adam learning rate [0 or more]" in said
    assert "gradients to this global norm; inf: no clipping [above 0]" in said


def test_bounds_hold_for_every_value_of_every_seed():
    cls = registry.agent("ppo").Config
    with pytest.raises(PurerlError, match=r"ppo: discount = .* must be at most 1\.0"):
        configs.build(cls, {"discount": np.float32([0.5, 1.5])}, "ppo")
    for agent in [name for name in registry.agent_names() if registry.is_own(name)]:
        cls = registry.agent(agent).Config
        bounded = [f.name for f in dataclasses.fields(cls) if {"low", "high", "above"} & f.metadata.keys()]
        assert len(bounded) >= 15 and {"learning_rate", "discount", "num_envs", "rollout_length"} <= set(bounded)


def test_files_that_are_too_large_or_too_deep(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    path.write_text("[" * 101 + "]" * 101)
    with pytest.raises(PurerlError, match="nested more than 100 levels"):
        files.read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(PurerlError, match="damaged"):
        files.read_json(path)
    path.write_text('{"x": 1e999, "y": -Infinity}')
    assert files.read_json(path) == {"x": None, "y": None}
    monkeypatch.setattr(files, "MOST_JSON_BYTES", 10)
    with pytest.raises(PurerlError, match="28 bytes"):
        files.read_json(path)
