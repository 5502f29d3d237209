"""The GPU day in a box, rehearsed on a CPU at tiny sizes: nothing of it is a speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import registry
from purerl.errors import PurerlError
from purerl.experiments.benchmarks import accelerator, accelerator_correctness, accelerator_variants, commands
from purerl.experiments.benchmarks.accelerator_parts import SCALES, Lacking, Part
from purerl.runs import files

TINY = SCALES["tiny"]
REHEARSAL = ["accelerator", "--scale", "tiny"]


def parts_of(path):
    return files.read_json(path)["accelerator"]["parts"]


def killed_after_its_first_part(out: Path) -> None:
    """A rehearsal of the replays that a SIGKILL ends, when its file has the first part."""
    command = [sys.executable, "-m", "purerl", "bench", *REHEARSAL, "--parts", "replay,variants", "--out", str(out)]
    process = subprocess.Popen(command, env=os.environ.copy(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        started = time.monotonic()
        while not out.exists() and process.poll() is None and time.monotonic() - started < 300:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, said


def test_the_day_is_cut_off_and_resumed(tmp_path, capsys):
    """Everything, end to end; what was measured before the kill stays as it was."""
    out = tmp_path / "day.json"
    killed_after_its_first_part(out)
    before = parts_of(out)
    done = {name for name, one in before.items() if one["status"] == "done"}
    assert "replay/64" in done and "variants/auxiliary-memory" not in done
    assert commands.main([*REHEARSAL, "--resume", "--out", str(out)]) == 0
    found = parts_of(out)
    assert {name: found[name] for name in done} == {name: before[name] for name in done}
    agents = {f"correctness/agent-{name}" for name in registry.agent_names()}
    assert set(found) == {part.name for part in accelerator.all_parts(TINY)} and agents <= set(found)
    for name, entry in found.items():
        assert entry["status"] == "done" or "not installed" in entry["reason"], (name, entry)
        assert '"failed"' not in json.dumps(entry), (name, entry)
        assert name.partition("/")[0] != "correctness" or entry["found"]["passed"], (name, entry)
    printed, said = capsys.readouterr()
    assert json.loads(printed)["accelerator"]["parts"].keys() == found.keys()
    assert "published elsewhere" in said and "correctness/lanes" in said


def test_what_does_not_fit_is_skipped_and_named_and_what_fails_does_not_end_the_day():
    def needs_more(scale):
        raise Lacking("no games here")

    def breaks(scale):
        raise MemoryError("RESOURCE_EXHAUSTED:\n lots")

    def interrupted(scale):
        raise KeyboardInterrupt

    parts = [
        Part("a/long", 600, lambda scale: {}),
        Part("a/breaks", 1, breaks),
        Part("b/lacks", 1, needs_more),
        Part("b/works", 1, lambda scale: {"passed": True, "rate": 1234.5}),
        Part("b/interrupted", 1, interrupted),
    ]
    entries, saved = {}, []
    with pytest.raises(KeyboardInterrupt):
        accelerator.measure(parts, SCALES["full"], entries, lambda: saved.append(set(entries)), 1.0, lambda line: None)
    assert {name: one["status"] for name, one in entries.items()} == {
        **{"a/long": "skipped", "a/breaks": "failed", "b/lacks": "skipped", "b/works": "done"},
        "b/interrupted": "cut off",
    }
    assert "600.0 s" in entries["a/long"]["reason"]
    assert entries["a/breaks"]["reason"] == "MemoryError: RESOURCE_EXHAUSTED: lots"
    assert entries["b/lacks"]["reason"] == "no games here"
    assert accelerator.headline(entries["b/works"]) == "rate 1,234"
    assert saved[-1] == set(entries) and {"a/long", "a/breaks"} in saved
    # All but what is done is tried again, and now there is time.
    accelerator.measure(parts[:4], SCALES["full"], entries, lambda: None, 11.0, lambda line: None)
    assert entries["a/long"]["status"] == "done" and entries["a/breaks"]["status"] == "failed"


def test_only_parts_of_the_same_code_and_device_are_kept(tmp_path):
    out, same = tmp_path / "day.json", {"git_commit": "abc", "device": {"kind": "H200"}, "scale": "full"}
    parts = {"a/1": {"status": "done", "found": {}}, "a/2": {"status": "failed", "reason": ""}}
    files.write_json(out, {"accelerator": {"made_with": same, "parts": parts}})
    assert accelerator.earlier(out, same, resume=True) == {"a/1": parts["a/1"]}
    assert accelerator.earlier(out, same | {"git_commit": "def"}, resume=True) == {}
    assert parts_of(tmp_path / "day-before-1.json") == parts and not out.exists()
    out.write_text("{half")
    assert accelerator.earlier(out, same, resume=True) == {}
    assert (tmp_path / "day-before-2.json").read_text() == "{half"
    report = {"git_commit": "abc", "git_dirty": False, "device": same["device"]}
    assert accelerator.made_with(report, "full") == same
    assert "git_commit" not in accelerator.made_with(report | {"git_dirty": True}, "full")


def test_parts_are_chosen_by_name_group_and_pattern():
    parts = accelerator.all_parts(SCALES["full"])
    names = [part.name for part in accelerator.chosen(parts, ["replay", "seeds/ppo-*", "variants/advantages"])]
    seeds = [f"seeds/ppo-{seeds}" for seeds in (1, 4, 16, 64, 256, 1024)]
    assert names == [*seeds, "replay/10000", "replay/1000000", "variants/advantages"]
    assert list(dict.fromkeys(part.group for part in parts)) == [
        *("correctness", "procgen", "seeds", "atari", "replay", "variants"),
    ]
    with pytest.raises(PurerlError, match=r"no part 'replai'\. Did you mean 'replay'"):
        accelerator.chosen(parts, ["replai"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["accelerator", "replay"], "run it alone"),
        (["replay", "--minutes", "5"], "--minutes is for accelerator"),
        ([*REHEARSAL, "--minutes", "0"], "--minutes must be positive"),
        pytest.param(
            *(["accelerator"], "--scale tiny"),
            marks=pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator"),
        ),
    ],
)
def test_bad_input(words, line):
    with pytest.raises(PurerlError, match=line):
        commands.main(words)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator")
def test_a_day_without_an_accelerator_is_refused():
    with pytest.raises(PurerlError, match="--scale tiny"):
        commands.main(["accelerator"])


def test_coarser_arithmetic_does_not_pass():
    """The tolerance tells bfloat16 (8 bits) from float32 that rounds otherwise."""
    here = jax.devices("cpu")[0]
    found = accelerator_correctness.update_differences("dqn", TINY, here, here, dtype="bfloat16")
    assert not accelerator_correctness.compared(found)["passed"]


def test_differences_by_hand():
    a, b = {"x": np.array([1.0, -4.0]), "y": np.zeros(2)}, {"x": np.array([1.0, -4.1]), "y": np.zeros(2)}
    assert accelerator_correctness.largest_difference(a, b) == pytest.approx(0.1 / 4.1)
    assert accelerator_correctness.largest_difference(b | {"y": np.ones(2)}, b) == 1.0
    assert accelerator_correctness.largest_difference({"x": np.array([np.nan])}, {"x": np.array([np.nan])}) == np.inf
    assert accelerator_correctness.same_bits(a, a) and not accelerator_correctness.same_bits(a, b)


def test_a_convolution_of_products_is_the_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    with nn.intercept_methods(accelerator_variants._as_products):
        found = nn.Conv(4, (3, 3)).apply({"params": {"kernel": kernel, "bias": jnp.zeros(4)}}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
