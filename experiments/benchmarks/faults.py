"""A storm of kills and signals over runs, a sweep and a figure: nothing is lost, no bit differs, nothing is left over.

Each target is trained once in one go. Then it is trained again and again under the storm: killed or signalled at random
moments, and continued with `purerl resume` (a figure: with its own command) until it is finished. Each time it must end
with the same states and rows of metrics, bit for bit.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from purerl.errors import PurerlError
from purerl.runs import run_folder, sinks
from purerl.runs.checkpoint import Checkpoints

PPO = "--num-envs 8 --rollout-length 32 --num-minibatches 2 --hidden 32 32"
RAINBOW = "--preset minatar --num-envs 4 --learning-starts 400 --replay-size 4000 --batch-size 16"
PPG = (
    "--preset quick --num-envs 8 --rollout-length 16 --policy-iterations 2 --auxiliary-epochs 1"
    " --auxiliary-minibatches 2 --env.num-levels 10 --steps 8192 --log-every 2 --checkpoint-seconds 0.3"
)
# Says on stdout when purerl listens for signals: before that, Python itself starts, and a signal meets no code of ours.
# Whoever starts this in the background of a script has it ignore signals, and the processes that it starts as well.
LISTENS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from purerl.cli import start
from purerl.runs import interrupts
interrupts.watch()
print("listens", flush=True)
sys.exit(start.main())
"""
# Columns that differ from run to run.
_TIMES = ("wall_time", "steps_per_second")
_LEFT_OVERS = ("**/.*purerl-tmp", "**/.saving-*", "**/.deleting-*", "**/.purerl-lock", "**/programs/*")
_COUNTS = ("kills", "terms", "early", "trained", "lost", "different", "tracebacks", "wrong_codes", "left_over")
_LIMIT = 120  # seconds that a process may take to end after a signal


@dataclasses.dataclass(frozen=True)
class Target:
    """What is trained.

    Attributes:
      name: its name in the result.
      begin: the command line that begins it.
      kills, terms, early: how many SIGKILLs, SIGTERMs, and Ctrl-Cs in the first seconds it gets.
    """

    name: str
    begin: str
    kills: int
    terms: int
    early: int

    @property
    def is_figure(self) -> bool:
        """Whether it is a figure, whose own command continues it."""
        return self.begin.startswith("figure")

    def command(self, folder: Path, resume: bool) -> list[str]:
        """The command line that begins or continues it in a folder."""
        if self.is_figure:
            words = [*self.begin.split(), "--folder", str(folder)]
        elif resume:
            words = ["resume", str(folder)]
        else:
            words = [*self.begin.split(), "--out", str(folder)]
        return [sys.executable, "-c", LISTENS, *words, "--quiet"]


_OFTEN = "--log-every 10 --checkpoint-seconds 0.3"
TARGETS = (
    Target("ppo run", f"train ppo gymnax/CartPole-v1 {PPO} --seeds 2 --steps 1500000 {_OFTEN}", 30, 12, 12),
    Target("rainbow run", f"train rainbow gymnax/Breakout-MinAtar {RAINBOW} --steps 24000 {_OFTEN}", 25, 10, 8),
    Target(
        "ppg run on Procgen",
        f"train ppg procgen/coinrun {PPG}",
        25,
        10,
        8,
    ),
    Target(
        "ppo sweep",
        f"sweep ppo gymnax/CartPole-v1 {PPO} --grid learning_rate=1e-3,3e-3;num_epochs=2,4 --steps 400000 {_OFTEN}",
        15,
        6,
        8,
    ),
    Target("figure", "figure run ppg/single-network --scale smoke", 5, 2, 4),
)


def storm(share: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """The storm over all targets; `share` of its faults.

    Returns:
      {"targets": {name: counts}, "total": counts}, with counts of
        kills, terms, early: SIGKILLs, SIGTERMs and Ctrl-Cs in the first seconds, which met a living process;
        trained: how often the target was finished under the storm, and compared;
        lost: continued runs that did not continue, or from an earlier iteration than was saved;
        different: leaves of the final state, and rows of metrics, that differ from those of the run in one go;
        tracebacks: processes that printed one, or more than one line on stderr;
        wrong_codes: processes whose exit code was not that of their signal;
        left_over: temporary files, locks and folders of programs at an end.
    """
    chance = random.Random(seed)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for target in TARGETS:
            folder = Path(temporary) / target.name.replace(" ", "-")
            folder.mkdir()
            results[target.name] = _Storm(target, folder, chance).blow(share)
            print(target.name, results[target.name], file=sys.stderr, flush=True)
    total = {name: sum(counts[name] for counts in results.values()) for name in _COUNTS}
    return {"targets": results, "total": total}


class _Storm:
    """The storm over one target, in `folder`."""

    def __init__(self, target: Target, folder: Path, chance: random.Random):
        self.target, self.whole, self.parts, self.chance = target, folder / "whole", folder / "parts", chance
        self.counts = collections.Counter(dict.fromkeys(_COUNTS, 0))
        self.examples: list[str] = []

    def blow(self, share: float) -> dict[str, Any]:
        """The counts, the seconds that it took, and examples of what went wrong."""
        began = time.monotonic()
        faults = [signal.SIGKILL] * round(share * self.target.kills) + [signal.SIGTERM] * round(
            share * self.target.terms
        )
        self.chance.shuffle(faults)
        if not self._to_the_end(self.whole):
            raise PurerlError(f"{self.target.name} does not run at all: {self.examples[-1]}")
        for _ in range(round(share * self.target.early)):
            self._early(self.chance.uniform(0.0, 5.0))
        for fault in faults:
            while not self._met(fault):  # it was finished before the fault
                self._compare()
        if self._to_the_end(self.parts):
            self._compare()
        return {**self.counts, "seconds": round(time.monotonic() - began, 1), "examples": self.examples[:5]}

    def _start(self, folder: Path) -> subprocess.Popen:
        record = next((name for name in ("config.json", "sweep.json") if (folder / name).exists()), None)
        words = self.target.command(folder, resume=record is not None)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()
        return process

    def _to_the_end(self, folder: Path) -> bool:
        """Trains to the end; whether it got there."""
        with self._start(folder) as process:
            _, said = process.communicate()
        if process.returncode:
            self._count("lost", f"exit code {process.returncode}: {said}")
        return process.returncode == 0

    def _met(self, fault: signal.Signals) -> bool:
        """Starts or continues the run and sends the fault at some moment; False if the run was finished before."""
        saved = _newest_iterations(self.parts)
        with self._start(self.parts) as process:
            try:
                _, said = process.communicate(timeout=self.chance.uniform(1.0, 9.0))
                if process.returncode:
                    self._count("lost", f"exit code {process.returncode}: {said}")
                return False
            except subprocess.TimeoutExpired:
                process.send_signal(fault)
            _, said = process.communicate(timeout=_LIMIT)
        if process.returncode == 0:
            return False
        self.counts["kills" if fault == signal.SIGKILL else "terms"] += 1
        if fault == signal.SIGKILL:
            self._expect(process.returncode == -fault, "wrong_codes", f"{process.returncode}: {said}")
            self._expect("Traceback" not in said, "tracebacks", said)
        else:
            self._expect(process.returncode == 128 + fault, "wrong_codes", f"{process.returncode}: {said}")
            self._expect(said.startswith("purerl: ") and said.count("\n") == 1, "tracebacks", said)
        now = _newest_iterations(self.parts)
        behind = [name for name, iteration in saved.items() if now.get(name, iteration) < iteration]
        self._expect(not behind, "lost", f"{behind} went back from {saved} to {now}")
        return True

    def _early(self, moment: float) -> None:
        """Ctrl-C so many seconds after purerl's first line."""
        folder = self.parts.with_name("early")
        with self._start(folder) as process:
            time.sleep(moment)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=_LIMIT)
        self.counts["early"] += 1
        self._expect(process.returncode == 128 + signal.SIGINT, "wrong_codes", f"{moment:.2f}: {process.returncode}")
        self._expect(said.startswith("purerl: ") and said.count("\n") == 1, "tracebacks", f"{moment:.2f} s: {said}")
        left = [path for pattern in _LEFT_OVERS[:-1] for path in folder.glob(pattern)]
        started = folder.exists() and not self.target.is_figure and "continue with" not in said
        self._expect(not left and not started, "left_over", f"{moment:.2f} s: {left or folder}; {said}")
        shutil.rmtree(folder, ignore_errors=True)

    def _compare(self) -> None:
        """Compares the finished run with that in one go, and removes it."""
        self.counts["trained"] += 1
        runs = [path.parent.relative_to(self.whole) for path in sorted(self.whole.glob("**/config.json"))]
        for run in runs:
            whole, parts = (_content(folder / run) for folder in (self.whole, self.parts))
            differ = [name for name in whole | parts if not _equal(whole.get(name), parts.get(name))]
            self.counts["different"] += len(differ)
            if differ:
                self.examples.append(f"{run}: {differ[:5]}")
        left = [str(path) for pattern in _LEFT_OVERS for path in self.parts.glob(pattern)]
        self._expect(not left, "left_over", f"{left}")
        shutil.rmtree(self.parts)

    def _expect(self, holds: bool, name: str, example: str) -> None:
        if not holds:
            self._count(name, example)

    def _count(self, name: str, example: str) -> None:
        self.counts[name] += 1
        self.examples.append(f"{name}: {example[-300:]}")


def _newest_iterations(folder: Path) -> dict[str, int]:
    """{folder of checkpoints: iteration of the newest}."""
    found: dict[str, int] = {}
    for path in folder.glob("**/checkpoints"):
        newest = Checkpoints(path).latest()
        if newest is not None:
            found[str(path.relative_to(folder))] = newest
    return found


def _content(folder: Path) -> dict[str, Any]:
    """The leaves of a run's final state, and its rows without times."""
    with Checkpoints(folder / run_folder.CHECKPOINTS) as checkpoints:
        leaves: dict[str, Any] = dict(checkpoints.read_arrays())
    rows = sinks.read_rows(folder / run_folder.METRICS)
    for number, row in enumerate(rows):
        leaves[f"row {number}"] = {name: value for name, value in row.items() if name not in _TIMES}
    return leaves


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and one == other
