"""What a training program spends: wall time, compile time, and steps per second."""

from __future__ import annotations

import time
from typing import Any

from purerl.loops import compilation


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

    Args:
      hours: how many.
      timing: of the program.
    """

    def __init__(self, hours: float, timing: Timing):
        self._seconds, self._timing = 3600 * hours, timing
        self._longest, self._last = 0.0, timing.wall - timing.watch.seconds

    def is_spent(self) -> bool:
        """Whether a log period as long as the longest so far would not fit any more. To be asked after each period."""
        now = self._timing.wall - self._timing.watch.seconds  # the next period compiles nothing again
        self._longest, self._last = max(self._longest, now - self._last), now
        return self._timing.wall + self._longest > self._seconds
