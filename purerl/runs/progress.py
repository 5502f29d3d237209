"""What a run shows on the screen: notes and a progress bar during training (stderr), a table at the end (stdout)."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from purerl.runs import run_folder

LINE_PERIOD_SECONDS = 10.0
FRAME_PERIOD_SECONDS = 0.1


def note(line: str) -> None:
    """Says something on stderr that a user should know: one line."""
    print(f"purerl: note: {line}", file=sys.stderr, flush=True)


class Progress:
    """A progress bar on a terminal; elsewhere (a CI log, a file) one plain line about every ten seconds.

    It uses no thread and redraws only inside `update`, so it never takes the Python interpreter from a host loop.

    Args:
      total_steps: environment steps of the whole run.
      label: shown first, such as "ppo gymnax/CartPole-v1".
      enabled: None draws the bar if stderr is a terminal; True always draws it; False shows nothing.
    """

    def __init__(self, total_steps: int, label: str, enabled: bool | None = None):
        self._total = int(total_steps)
        self._label = label
        self._return: float | None = None
        self._bar: RichProgress | None = None
        self._silent = enabled is False
        self._began: tuple[float, int] | None = None  # time and step of the first update
        self._shown_at = -math.inf
        self._hidden: str | None = None  # the newest line, until it is printed
        if enabled or (enabled is None and sys.stderr.isatty()):
            self._bar = _bar()
            self._task = self._bar.add_task("", total=self._total, label=label, facts="compiling")
            self._bar.start()
            self._bar.refresh()

    def update(self, step: int, steps_per_second: float | None = None, episode_return: float | None = None) -> None:
        """Shows the progress of the run.

        The time left is computed from the updates themselves, so neither seeds nor compilation can distort it.

        Args:
          step: environment steps done, including those before a resume.
          steps_per_second: the current speed (of all seeds together), only shown; None if not known yet.
          episode_return: newest return; None or NaN (no episode ended) keeps the last one.
        """
        if self._silent:
            return
        if episode_return is not None and math.isfinite(episode_return):
            self._return = float(episode_return)
        now = time.monotonic()
        facts = _facts(steps_per_second, self._return, self._seconds_left(step, now))
        if self._bar is not None:
            self._bar.update(self._task, completed=step, facts=facts)
            if now - self._shown_at >= FRAME_PERIOD_SECONDS or step >= self._total:
                self._bar.refresh()
                self._shown_at = now
            return
        percent = 100 * step / max(self._total, 1)
        self._hidden = f"{self._label}: {step:,} / {self._total:,} steps ({percent:.1f}%), {facts}"
        if now - self._shown_at >= LINE_PERIOD_SECONDS:
            self._print_hidden()
            self._shown_at = now

    def _seconds_left(self, step: int, now: float) -> float | None:
        """Seconds until the end; None while the speed is unknown."""
        if self._began is None:
            self._began = now, step
        seconds, steps = now - self._began[0], step - self._began[1]
        left = max(self._total - step, 0)
        return left * seconds / steps if steps > 0 else 0.0 if left == 0 else None

    def _print_hidden(self) -> None:
        if self._hidden is not None:
            print(self._hidden, file=sys.stderr, flush=True)
            self._hidden = None

    def close(self) -> None:
        """Leaves the last state on the screen. Safe to call twice."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()
            self._bar = None
            self._silent = True
        self._print_hidden()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _bar() -> RichProgress:
    return RichProgress(
        TextColumn("{task.fields[label]}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        console=Console(stderr=True),
        auto_refresh=False,
        expand=True,
    )


def _facts(steps_per_second: float | None, episode_return: float | None, seconds_left: float | None) -> str:
    """ "41k steps/s, return 11.2, 0:03:12 left", each "-" while it is not known."""
    speed = "-" if steps_per_second is None or not math.isfinite(steps_per_second) else compact(steps_per_second)
    shown = "-" if episode_return is None else f"{episode_return:.4g}"
    left = "-" if seconds_left is None else clock_time(seconds_left)
    return f"{speed} steps/s, return {shown}, {left} left"


def compact(number: float) -> str:
    """Formats a number in few characters: 950, 41.2k, 25M, 1.2G."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:  # so that 999.9k is 1M, not 1e+03k
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.0f}"


def clock_time(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def summary_table(summary: dict[str, Any]) -> None:
    """Prints a run's summary.json to stdout: a table, and below it the paths, each on its own line for copying.

    Args:
      summary: as in summary.json, with "folder", and optionally "figure" and "files" (more paths). Missing values and
        None are not shown.
    """
    console = Console(highlight=False, soft_wrap=False)
    table = Table(show_header=False, title_justify="left", title=Text(_title(summary), style="bold"))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _summary_rows(summary):
        table.add_row(Text(name), Text(value))
    console.print(table)
    for name, path in _summary_paths(summary):
        console.print(Text(f"{name}: {path}"), soft_wrap=True)


def _title(summary: dict[str, Any]) -> str:
    preset = run_folder.shown_preset(summary)
    return f"{summary.get('agent', '?')} on {summary.get('env', '?')}" + (f" ({preset})" if preset else "")


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []

    def add(name: str, value: Any, form: str = "{}") -> None:
        if value is not None:
            rows.append((name, form.format(value)))

    seeds = summary.get("seeds")
    add("seeds", ", ".join(map(str, seeds)) if isinstance(seeds, list | tuple) else seeds)
    add("steps per seed", summary.get("steps"), "{:,}")
    add("compile time", summary.get("compile_seconds"), "{:.1f} s")
    add("training time", summary.get("train_seconds"), "{:.1f} s")
    total = ", all seeds" if isinstance(seeds, list | tuple) and len(seeds) > 1 else ""
    add("speed", summary.get("steps_per_second"), "{:,.0f} steps/s" + total)
    final = summary.get("final_return") or {}
    add("final return, IQM", final.get("iqm"), "{:.4g}")
    add("final return, mean", final.get("mean"), "{:.4g}")
    per_seed = final.get("per_seed")
    if per_seed:
        add("final return, per seed", ", ".join("-" if r is None else f"{r:.4g}" for r in per_seed))
    add("random play, mean", (summary.get("random_return") or {}).get("mean"), "{:.4g}")
    peak = summary.get("peak_memory_bytes")
    add(f"peak memory{_of(summary)}", None if peak is None else f"{peak / 2**20:,.0f} MiB")
    device = summary.get("device")
    add("device", f"{device['count']} x {device['kind']}" if isinstance(device, dict) else device)
    return rows


def _of(summary: dict[str, Any]) -> str:
    return f" ({summary['peak_memory_of']})" if summary.get("peak_memory_of") else ""


def _summary_paths(summary: dict[str, Any]) -> list[tuple[str, str]]:
    named = [(name, summary.get(key)) for name, key in (("run folder", "folder"), ("figure", "figure"))]
    return [(name, str(path)) for name, path in (*named, *(("file", p) for p in summary.get("files") or ())) if path]
