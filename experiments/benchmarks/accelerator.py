"""`purerl bench accelerator`: all that is to be known of a GPU, in the half hour that it is there for.

Parts are measured in a fixed order: correctness first, then speeds, then variants. Each is in the file as soon as it
has ended, so that a run that is cut off loses the part under way alone. A part that would not fit into the rest of the
budget is skipped, and named; `--resume` measures what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import gc
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from purerl.errors import PurerlError, nearest
from purerl.experiments.benchmarks import accelerator_correctness, accelerator_speed, accelerator_variants
from purerl.experiments.benchmarks.accelerator_parts import SCALES, Lacking, Part, Scale, one_line
from purerl.loops import compilation
from purerl.runs import files, progress

OUT = "accelerator.json"
MINUTES = 25.0
# What others say of other machines: for the eye, not measured here.
_SOURCE = "figures collected in purerl's own issue about accelerators; not checked against the originals"
ELSEWHERE = [
    {"what": "CleanRL, PPO on Procgen", "steps_per_second": [3_200, 3_900]},
    {"what": "OpenAI, PPO on Procgen, one process", "steps_per_second": [4_563]},
    {"what": "EnvPool with JAX, PPO on Procgen (derived)", "steps_per_second": [25_000]},
]
DONE, FAILED, SKIPPED, CUT_OFF = "done", "failed", "skipped", "cut off"
_HEADLINE, _WIDTH = 3, 120  # numbers of a part that the table shows; its least width

Entries = dict[str, dict[str, Any]]


def all_parts(scale: Scale) -> list[Part]:
    """Every part, in the order in which they are measured."""
    return [*accelerator_correctness.parts(scale), *accelerator_speed.parts(scale), *accelerator_variants.PARTS]


def chosen(parts: Sequence[Part], asked: Iterable[str]) -> list[Part]:
    """The parts that are asked for: by name, by group, or by a pattern such as "seeds/ppo-*"; all if nothing is asked.

    Raises PurerlError for what chooses none.
    """
    asked = list(asked)
    for one in asked:
        if not any(_is_asked(part, one) for part in parts):
            groups = list(dict.fromkeys(part.group for part in parts))
            hint = nearest(one, [*groups, *(part.name for part in parts)])
            raise PurerlError(f"--parts: there is no part '{one}'.{hint} Groups: {', '.join(groups)}")
    return [part for part in parts if not asked or any(_is_asked(part, one) for one in asked)]


def _is_asked(part: Part, asked: str) -> bool:
    return asked in (part.name, part.group) or fnmatch.fnmatchcase(part.name, asked)


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(
    parts: Sequence[Part],
    scale: Scale,
    entries: Entries,
    save: Callable[[], None],
    minutes: float,
    say: Callable[[str], None] = progress.note,
) -> None:
    """Measures all parts that `entries` lacks and that fit into the minutes, and puts them there.

    Args:
      parts: in their order.
      entries: {name of a part: its entry}; those that are done stay.
      save: called after each part.
      minutes: the budget. A part that has begun is not stopped.
      say: gets a line for each part.

    Raises:
      KeyboardInterrupt: Ctrl-C, after what has been found is saved; the part under way is marked.
    """
    began = time.perf_counter()
    for number, part in enumerate(parts, 1):
        if entries.get(part.name, {}).get("status") == DONE:
            continue
        left = 60 * minutes - (time.perf_counter() - began)
        declared = scale.cost * part.seconds
        if declared > left:
            why = f"it declares {declared:.1f} s and {max(left, 0):.1f} s are left"
            entries[part.name] = {"status": SKIPPED, "reason": why}
            say(f"{part.name}: skipped, {why}")
            continue
        say(f"{part.name} ({number} of {len(parts)}, about {declared:.0f} s)")
        entries[part.name] = {"status": CUT_OFF, "declared_seconds": declared}
        try:
            entries[part.name] |= _entry(part, scale)
        finally:
            save()
        if entries[part.name]["status"] != DONE:
            say(f"{part.name}: {entries[part.name]['status']}, {entries[part.name]['reason']}")
    save()


def _entry(part: Part, scale: Scale) -> dict[str, Any]:
    """What a part found, or why it found nothing; with its seconds."""
    watch, began = compilation.CompileWatch(), time.perf_counter()
    try:
        found = {"status": DONE, "found": part.measure(scale)}
    except Lacking as error:
        found = {"status": SKIPPED, "reason": one_line(error)}
    except Exception as error:  # memory is too small, the compiler refuses: the day goes on
        found = {"status": FAILED, "reason": one_line(error)}
    finally:
        watch.stop()
        if jax.default_backend() != "cpu":  # a device's memory is free once no array holds it; a CPU's is large
            gc.collect()
    spent = {"seconds": time.perf_counter() - began, "compile_seconds": watch.seconds}
    counts = {"compiled_programs": watch.programs, "from_compilation_cache": watch.cache_hits}
    return found | {name: round(value, 2) for name, value in spent.items()} | counts


# --- the file --------------------------------------------------------------------------------------------------------


def made_with(report: dict[str, Any], scale: str) -> dict[str, Any]:
    """What must be equal for parts to stand in one file: the code, the device and the scale.

    Args:
      report: from `provenance.environment_report`.
      scale: its name.
    """
    is_commit = report["git_commit"] and report["git_dirty"] is False
    code = {"git_commit": report["git_commit"]} if is_commit else {"sources_sha256": _digest_of_sources()}
    return {**code, "device": report["device"], "scale": scale}


def _digest_of_sources() -> str:
    """Of purerl's own files, for a checkout with changes and for an installation without one."""
    digest = hashlib.sha256()
    for package in ("purerl", "purerl.agents", "purerl.envs", "purerl.experiments"):  # each in a folder of its own
        folder = Path(importlib.util.find_spec(package).origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def earlier(out: Path, same: dict[str, Any], resume: bool) -> Entries:
    """The finished parts of the file, if they are to be kept; a file whose parts are not is renamed, never replaced."""
    if not out.exists():
        return {}
    if resume:
        # A file that cannot be read is set aside too: it may hold the only numbers of a device that is gone.
        with contextlib.suppress(PurerlError, AttributeError, KeyError, TypeError):
            stored = files.read_json(out)["accelerator"]
            if stored["made_with"] == same:
                return {name: one for name, one in stored["parts"].items() if one["status"] == DONE}
    aside = next(path for i in range(1, 10**6) if not (path := out.with_name(f"{out.stem}-before-{i}.json")).exists())
    out.rename(aside)
    why = "it is of another commit, device or scale" if resume else "--resume would go on with it"
    progress.note(f"{out} is now {aside.name}: {why}")
    return {}


def main(arguments: argparse.Namespace, report: dict[str, Any]) -> int:
    """Runs the command: measures, prints a table on stderr and the JSON on stdout; 1 if a correctness part has failed.

    Args:
      arguments: minutes, parts, resume, scale and out; None for defaults.
      report: what the results are made with.
    """
    name = arguments.scale or "full"
    minutes = MINUTES if arguments.minutes is None else arguments.minutes
    scale, out = SCALES[name], arguments.out or Path(OUT)
    if not minutes > 0:
        raise PurerlError("--minutes must be positive")
    parts = chosen(all_parts(scale), arguments.parts or ())
    if name == "full" and jax.default_backend() == "cpu":
        raise PurerlError("JAX sees no accelerator here (purerl doctor). To rehearse on a CPU: --scale tiny")
    files.check_name(out)
    compilation.enable_cache()
    same = made_with(report, name)
    entries = earlier(out, same, bool(arguments.resume))
    content = report | {"accelerator": {"made_with": same, "published_elsewhere": _elsewhere(), "parts": entries}}
    try:
        measure(parts, scale, entries, lambda: files.write_json(out, content), minutes)
    finally:
        print_table(entries)
        progress.note(f"file: {out}")
    print(json.dumps(content, indent=2))
    return int(any(one["status"] == FAILED or _passed(one) is False for one in entries.values()))


def _elsewhere() -> list[dict[str, Any]]:
    return [{**one, "label": "published elsewhere", "source": _SOURCE} for one in ELSEWHERE]


# --- the table -------------------------------------------------------------------------------------------------------


def print_table(entries: Entries) -> None:
    """The parts with their first numbers, and what others have published, on stderr."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("part", "state", "found", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for name, entry in entries.items():
        state = {True: "passed", False: "NOT PASSED", None: entry["status"]}[_passed(entry)]
        table.add_row(*map(Text, (name, state, headline(entry), str(entry.get("seconds", "")))))
    for one in _elsewhere():
        rates = " to ".join(f"{rate:,}" for rate in one["steps_per_second"])
        table.add_row(*map(Text, (one["what"], one["label"], f"steps_per_second {rates}", "")))
    console = Console(stderr=True, highlight=False)
    console.width = max(console.width, _WIDTH)
    console.print(table)


def headline(entry: dict[str, Any]) -> str:
    """The first numbers of an entry, or why it has none."""
    found = entry.get("found")
    if found is None:
        return entry.get("reason", "")
    return ", ".join(f"{name} {_shown(value)}" for name, value in list(_numbers(found))[:_HEADLINE])


def _numbers(found: dict[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """(name, number) of all numbers in nested dicts, in their order."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{before}{name} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield before + name, value


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _passed(entry: dict[str, Any]) -> bool | None:
    """Of a correctness part; None of all others."""
    return entry.get("found", {}).get("passed")
