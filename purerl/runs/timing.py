"""What a training program spends: wall time, compile time, and steps per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from purerl.loops import compilation

# How much longer than before a pass over a rollout may take in a log period that makes more of them than any so far.
MARGIN = 1.5


class Timing:
    """Counts from its creation on, beside what earlier sessions of the same run spent.

    Attributes:
      earlier: {"train_seconds", "compile_seconds"} of the sessions before this one.
      watch: of this session's compilations.
    """

    def __init__(self) -> None:
        self.earlier = {"train_seconds": 0.0, "compile_seconds": 0.0}
        self.watch = compilation.CompileWatch()
        self._started = time.perf_counter()
        self._rates: list[tuple[float, int]] = []

    @property
    def wall(self) -> float:
        """Seconds of all sessions, compilation included."""
        return sum(self.earlier.values()) + time.perf_counter() - self._started

    def spent(self) -> dict[str, float]:
        """{"train_seconds", "compile_seconds"} of all sessions."""
        compiling = self.watch.seconds
        training = time.perf_counter() - self._started - compiling
        return {
            "train_seconds": self.earlier["train_seconds"] + training,
            "compile_seconds": self.earlier["compile_seconds"] + compiling,
        }

    def add(self, seconds: float, steps: int) -> None:
        """Notes a log period: its seconds without compilation, and the environment steps of all seeds in it."""
        self._rates.append((seconds, steps))

    def measured(self) -> dict[str, Any]:
        """Compile time, training time and speed, as summary.json holds them."""
        # The first period of a process warms caches and threads up; the later ones show the steady speed.
        steady = self._rates[1:] or self._rates
        seconds, steps = map(sum, zip(*steady, strict=True)) if steady else (0.0, 0)
        spent = {name: round(value, 3) for name, value in self.spent().items()}
        return {
            "compile_seconds": spent["compile_seconds"],
            "compiled_programs": self.watch.programs,
            "compilation_cache_hits": self.watch.cache_hits,
            "train_seconds": spent["train_seconds"],
            "steps_per_second": round(steps / seconds, 1) if seconds else None,
        }


class Budget:
    """Wall time that a program may take, in hours: all sessions, compilation and evaluations included.

    A log period begins only if it fits. It is expected to take as long as the longest one so far which made as many
    passes over rollouts, or a few more. If none did, as before the first of several long phases, the one with the most
    passes is all there is to judge by: its time without the games' is scaled up by the passes, and by MARGIN.

    Args:
      hours: how many.
      timing: of the program.
      passes: (first, end) -> the passes over rollouts that iterations first to end - 1 make.
      playing: -> seconds that the session has spent in waiting for games so far.
    """

    def __init__(
        self,
        hours: float,
        timing: Timing,
        passes: Callable[[int, int], float],
        playing: Callable[[], float] = float,
    ):
        self._seconds, self._timing, self._passes, self._playing = 3600 * hours, timing, passes, playing
        self._longest: dict[float, tuple[float, float]] = {}  # {passes: (seconds, those without playing)}
        self._last = (0.0, 0.0)

    def begin(self, earlier: Sequence[Mapping[str, float]] = ()) -> None:
        """Begins a session, with what `longest` gave in the one before. Call it before the first log period."""
        self._longest = {one["passes"]: (one["seconds"], one["learning"]) for one in earlier}
        self._last = self._now()

    def _now(self) -> tuple[float, float]:
        """Seconds so far, and those without playing; both without compilation: the next period needs none again."""
        seconds = self._timing.wall - self._timing.watch.seconds
        return seconds, seconds - self._playing()

    def note(self, first: int, end: int) -> None:
        """Notes that iterations first to end - 1 have been trained since the last call, or since `begin`."""
        now, passes = self._now(), self._passes(first, end)
        longest, learning = self._longest.get(passes, (0.0, 0.0))
        self._longest[passes] = max(longest, now[0] - self._last[0]), max(learning, now[1] - self._last[1])
        self._last = now

    def fits(self, first: int, end: int) -> bool:
        """Whether there is time for the iterations first to end - 1."""
        return self._timing.wall + self._expected(self._passes(first, end)) <= self._seconds

    def _expected(self, passes: float) -> float:
        """Seconds of a log period with so many passes; 0 if nothing has been trained yet."""
        if not self._longest:
            return 0.0
        most = max(self._longest)
        seconds, learning = self._longest[min((one for one in self._longest if one >= passes), default=most)]
        more = passes / most - 1 if most > 0 else 0.0
        return seconds + MARGIN * learning * max(0.0, more)

    def longest(self) -> list[dict[str, float]]:
        """The longest log period with each number of passes, for a checkpoint."""
        return [
            {"passes": passes, "seconds": seconds, "learning": learning}
            for passes, (seconds, learning) in self._longest.items()
        ]
