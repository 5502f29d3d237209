"""Figures as commands: `purerl figure list|run|render|verify|cost [NAME] [--scale smoke|small|paper] [--folder DIR]`.

    list      the figures, their papers and what they show
    run       train the unfinished cells, then write the figure's JSON, draw it and verify it
    render    draw the figure, only from its JSON
    verify    compare measured with published numbers, only from the JSON; runs on Procgen, unfinished ones too, step by
              step with published curves (`purerl figure verify DIR`: all runs under a folder)
    cost      the cost of a scale (default: --scale paper), from a short probe on this machine

NAME is a figure, or "all". A cell is one run of a figure, with all its seeds. `run` can be stopped at any moment: the
same command continues and gives the same results. smoke takes seconds and shows that everything works; small fits two
CPU cores; paper is the full protocol.

    FOLDER/<scale>/purerl.json      the marker of a folder that purerl writes into
    FOLDER/<scale>/cells/<cell>/    run folders, shared by the figures of a scale
    FOLDER/<scale>/<figure>.json    what was measured, with versions, device and commit
    FOLDER/<scale>/<figure>.png
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Drawing

from purerl import registry
from purerl.errors import PurerlError, nearest
from purerl.experiments.figures import entries
from purerl.experiments.published import beside
from purerl.report import plots
from purerl.runs import collection, files, ownership, provenance, run_folder, schemas, trust, user_modules

SCALES = ("smoke", "small", "paper")
DOTS_PER_INCH = 110
PROBE_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a figure, with all its seeds; `name` must contain all differences from other cells of its scale."""

    name: str
    agent: str
    env: str
    preset: str
    seeds: int
    steps: int
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    env_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    eval_every: int = 0
    eval_episodes: int = 10
    eval_env_options: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Check:
    """A measured number or claim, compared with the expected one.

    Attributes:
      what: the compared quantity.
      measured, expected: as text.
      holds: the verdict; None if the protocols differ, or if there are too few seeds for a verdict.
    """

    what: str
    measured: str
    expected: str
    holds: bool | None


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a paper.

    Attributes:
      name: "group/what".
      paper: its source.
      about: what it shows, one line.
      cells: scale -> its runs.
      protocol: {scale: how it was measured, and how that differs from the paper}.
      draw: data -> the drawing.
      verify: data -> checks. `data` is the JSON's content: {"figure", "scale", "cells": {name: entry}, "measured"}.
      metrics: names in the rows, whose curves are stored.
      measure: (scale, folder of the cells) -> numbers that do not come from runs, under "measured"; None for none.
    """

    name: str
    paper: str
    about: str
    cells: Callable[[str], list[Cell]]
    protocol: dict[str, str]
    draw: Callable[[dict[str, Any]], Drawing]
    verify: Callable[[dict[str, Any]], list[Check]]
    metrics: tuple[str, ...] = ("episode_return",)
    measure: Callable[[str, Path], dict[str, Any]] | None = None


# --- running ---------------------------------------------------------------------------------------------------------


def path_of(figure: Figure, scale: str, folder: Path, suffix: str = ".json") -> Path:
    """Where a figure's JSON (or PNG) of a scale is."""
    return _file(figure.name, scale, folder, suffix)


def _file(name: str, scale: str, folder: Path, suffix: str) -> Path:
    return folder / scale / f"{name.replace('/', '-')}{suffix}"


def run(chosen: Sequence[Figure], scale: str, folder: Path, *, quiet: bool = False) -> None:
    """Trains the unfinished cells of all chosen figures together, and writes the figures' JSONs.

    Raises PurerlError if a cell's folder holds another run, and as in `programs.run`.
    """
    from purerl.runs import programs
    from purerl.runs.plan import make_plan
    from purerl.runs.recording import Recording

    check_folder(scale, folder)
    wanted = {cell.name: cell for figure in chosen for cell in figure.cells(scale)}
    programs.run(
        [
            programs.Cell(
                make_plan(
                    cell.agent,
                    cell.env,
                    preset=cell.preset,
                    seeds=cell.seeds,
                    steps=cell.steps,
                    config=cell.config,
                    env_options=cell.env_options,
                ),
                folder / scale / "cells" / cell.name,
                Recording(
                    eval_every=cell.eval_every,
                    eval_episodes=cell.eval_episodes,
                    eval_env_options=cell.eval_env_options,
                ),
            )
            for cell in wanted.values()
        ],
        folder / scale / "programs",
        quiet=quiet,
    )
    for figure in chosen:
        measured = figure.measure(scale, folder / scale / "cells") if figure.measure else None
        data = {
            "figure": figure.name,
            "paper": figure.paper,
            "scale": scale,
            "protocol": figure.protocol[scale],
            "cells": {
                cell.name: _entry(folder / scale / "cells" / cell.name, cell, figure.metrics)
                for cell in figure.cells(scale)
            },
            "measured": measured,
            "environment": provenance.environment_report(),
        }
        imports = user_modules.needed([("figure", figure.name)])
        if imports:
            data["imports"] = [one.to_dict() for one in imports]
        data = files.parse_json(files.to_json(data), figure.name)
        path = path_of(figure, scale, folder)
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_file(path, (_compact(data) + "\n").encode())


def _entry(folder: Path, cell: Cell, metrics: Sequence[str]) -> dict[str, Any]:
    """The JSON entry of a finished cell."""
    summary = run_folder.load(folder)["summary"]
    schemas.final_returns(summary, folder / run_folder.SUMMARY)
    final = summary["final_return"]
    return {
        "agent": cell.agent,
        "env": cell.env,
        "preset": cell.preset,
        "config": cell.config,
        "env_options": cell.env_options,
        "eval_env_options": cell.eval_env_options,
        "steps": summary["steps"],
        "seeds": summary["seeds"],
        "final_return": [None if value is None else float(f"{value:.5g}") for value in final["per_seed"]],
        "final_return_definition": final["definition"],
        "steps_per_second": summary["steps_per_second"],
        "curves": {name: entries.curve(folder, name) for name in metrics},
        "versions": summary["versions"],
        "device": summary["device"],
        "git_commit": summary["git_commit"],
    }


def _compact(value: Any, indent: int = 0) -> str:
    """JSON text with each list on one line."""
    if isinstance(value, dict) and value:
        inner = ",\n".join(f"{' ' * (indent + 1)}{json.dumps(k)}: {_compact(v, indent + 1)}" for k, v in value.items())
        return f"{{\n{inner}\n{' ' * indent}}}"
    return json.dumps(value)


def load(figure: Figure, scale: str, folder: Path) -> dict[str, Any]:
    """A figure's JSON. Raises PurerlError if it has not been run, or is damaged."""
    path, again = path_of(figure, scale, folder), f"purerl figure run {figure.name} --scale {scale} --folder {folder}"
    check_folder(scale, folder)
    if not path.is_file():
        raise PurerlError(f"there is no {path}: {again}")
    data = files.read_json(path)
    schemas.check_figure(data, figure.name, path, again)
    return data


def check_folder(scale: str, folder: Path) -> None:
    """Raises PurerlError for links that lead out of a scale's folder, and for devices and pipes in it."""
    here = folder / scale
    names = [path.name for path in here.glob("*") if path.suffix in (".json", ".png")] if here.is_dir() else []
    trust.check_folder(here, [*names, "cells", "programs"], shallow=["cells"])


@contextlib.contextmanager
def _undamaged(figure: Figure, scale: str, folder: Path) -> Iterator[None]:
    """Turns an error of purerl's own figures inside the block into a PurerlError: their JSON must be damaged.

    The errors of a user's own figure, which may be bugs in its code, stay as they are.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        if registry.origin("figure", figure.name) is not None:
            raise
        path = path_of(figure, scale, folder)
        raise PurerlError(
            f"{path} is damaged or of another purerl version ({type(error).__name__}: {error}): "
            f"purerl figure run {figure.name} --scale {scale} --folder {folder}"
        ) from error


def render(figure: Figure, scale: str, folder: Path) -> Path:
    """Draws a figure from its JSON; returns the PNG's path."""
    data = load(figure, scale, folder)
    with _undamaged(figure, scale, folder):
        drawing = figure.draw(data)
        drawing.suptitle(_caption(figure, data), fontsize=plots.SMALL_POINTS, color=plots.INK, x=0.02, ha="left")
        image = io.BytesIO()
        drawing.savefig(image, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    path = path_of(figure, scale, folder, ".png")
    files.write_file(path, image.getvalue())
    return path


def _caption(figure: Figure, data: dict[str, Any]) -> str:
    """The caption: the figure's content, its scale and its number of seeds."""
    seeds = sorted({len(cell["seeds"]) for cell in data["cells"].values()})
    counted = f"; {' or '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''}" if seeds else ""
    return textwrap.fill(f"{figure.name} ({data['scale']}): {figure.about}{counted}", 66)


def report(figure: Figure, scale: str, folder: Path) -> str:
    """The text that `verify` prints: the protocol, all checks, and the runs on Procgen beside published curves."""
    data = load(figure, scale, folder)
    words = {True: "holds", False: "does not hold", None: "not judged"}
    with _undamaged(figure, scale, folder):
        rows = [(c.what, c.measured, c.expected, words[c.holds]) for c in figure.verify(data)]
        curves = beside.report(data["cells"])
    lines = [f"{figure.name} ({scale}): {figure.about}", f"paper: {figure.paper}", f"protocol: {data['protocol']}"]
    lines += beside.table(("what", "measured", "published or predicted", "verdict"), rows)
    return "\n".join(lines + curves) + "\n"


def report_unfinished(figure: Figure, scale: str, folder: Path) -> str | None:
    """What can be said of a figure without its JSON: its cells that have begun, beside published curves.

    None if it has its JSON, or if there is nothing to say. Raises PurerlError for a damaged run.
    """
    if path_of(figure, scale, folder).is_file():
        return None
    check_folder(scale, folder)
    cells = {cell.name: folder / scale / "cells" / cell.name for cell in figure.cells(scale)}
    begun = {name: entries.of_run(path) for name, path in cells.items() if run_folder.has_rows(path)}
    lines = beside.report(begun)
    if not lines:
        return None
    done = f"{figure.name} ({scale}): unfinished, {len(begun)} of {len(cells)} cells have begun"
    return "\n".join([done, f"protocol: {figure.protocol[scale]}", *lines]) + "\n"


def report_runs(folder: Path) -> str:
    """A run, the runs of a sweep, or all runs under a folder, beside published curves.

    Raises PurerlError if there is none, or none on Procgen.
    """
    found = collection.find(folder).all_runs
    lines = beside.report({str(path): entries.of_run(path) for path in found if run_folder.has_rows(path)})
    if not lines:
        raise PurerlError(
            f"{folder} has no run on easy or hard Procgen that has begun: nothing to compare is published"
        )
    return "\n".join(lines) + "\n"


# --- cost ------------------------------------------------------------------------------------------------------------


def cost(figure: Figure, scale: str) -> str:
    """Cells, steps and hours of a scale; the hours come from a short probe of each kind of cell on this machine."""
    from purerl.runs.plan import make_plan

    found = kinds(figure, scale)
    if not found:
        return f"{figure.name} ({scale}): no training; minutes on this machine\n"
    rows, total = [], 0.0
    for (agent, family, preset), of_kind in found.items():
        cell = of_kind[0]
        plan = make_plan(cell.agent, cell.env, preset=cell.preset, steps=cell.steps, config=cell.config)
        steps = sum(one.steps * one.seeds for one in of_kind)
        rate = _probe(cell, plan)
        total += steps / rate / 3600
        replay = getattr(plan.config, "replay_size", 0)
        space = f"{replay:,} frames" if replay else "-"
        kind, seeds = f"{agent} {family} {preset}", sum(one.seeds for one in of_kind)
        hours = f"{steps / rate / 3600:,.1f}"
        rows.append((kind, str(len(of_kind)), str(seeds), f"{steps:,}", space, f"{rate:,.0f}", hours))
    header = ("kind", "cells", "seeds in all", "environment steps", "replay a seed", "steps/s here", "hours")
    lines = [f"{figure.name} ({scale}): {figure.protocol[scale]}", *beside.table(header, rows)]
    return "\n".join([*lines, f"{total:,.1f} hours in total, extrapolated from a short probe on this machine\n"])


def kinds(figure: Figure, scale: str) -> dict[tuple[str, str, str], list[Cell]]:
    """{(agent, environment family, preset): cells}; the first cell of each kind is probed."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in figure.cells(scale):
        found.setdefault((cell.agent, cell.env.partition("/")[0], cell.preset), []).append(cell)
    return found


def probe_config(config: Any) -> dict[str, Any]:
    """The changed fields of a probe: fewer environments and a short warm-up."""
    fewer: dict[str, Any] = {"num_envs": min(config.num_envs, 8)}
    for minibatches in ("num_minibatches", "auxiliary_minibatches"):
        if hasattr(config, minibatches):  # keep the size of minibatches
            fewer[minibatches] = max(1, getattr(config, minibatches) * fewer["num_envs"] // config.num_envs)
    if hasattr(config, "learning_starts"):
        fewer["learning_starts"] = 200
    if hasattr(config, "policy_iterations"):
        fewer["policy_iterations"] = 1  # the number of auxiliary steps per frame does not depend on it
    return fewer


def _probe(cell: Cell, plan: Any) -> float:
    """Steps per second of one seed of a cell in its learning phase."""
    from purerl.experiments.benchmarks import commands

    config = cell.config | probe_config(plan.config)
    probe = commands.Measured(cell.agent, cell.env, 1, preset=cell.preset, config=config)
    try:
        probe.advance(probe.learning_starts)
        slow = probe.first_seconds > 20
        return probe.measure(1 if slow else probe.iterations_for(PROBE_SECONDS))["steps_per_second"]
    finally:
        probe.close()


# --- commands --------------------------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    """Runs `purerl figure`; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="purerl figure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["list", "run", "render", "verify", "cost"])
    parser.add_argument("name", nargs="?", help="a figure, or all; of verify also a folder of runs")
    parser.add_argument("--scale", choices=SCALES, help="default: smoke; of cost: paper")
    parser.add_argument("--folder", type=Path, default=Path("runs/figures"), help="default: runs/figures")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.error = _refuse  # one line and exit code 2, like all commands of purerl
    given = parser.parse_args(list(words))
    scale = given.scale or ("paper" if given.command == "cost" else "smoke")
    known = registry.figures()
    if given.name not in (None, "all", *known):  # it may be the user's own figure that was run before
        user_modules.restore_from(_file(given.name, scale, given.folder, ".json"))
        known = registry.figures()
    if given.command == "list":
        width = max(map(len, known)) + 2
        for figure in known.values():
            print(f"{figure.name:{width}}{figure.about} [{figure.paper}]")
        return 0
    if given.name is None:
        raise PurerlError(f"which figure? purerl figure {given.command} NAME, or all (purerl figure list)")
    if given.command == "verify" and given.name not in known and Path(given.name).is_dir():
        print(report_runs(Path(given.name)))
        return 0
    if given.name != "all" and given.name not in known:
        raise PurerlError(
            f"unknown figure '{given.name}'.{nearest(given.name, known)} Known: {', '.join(known)} "
            f"(purerl figure list; {registry.IMPORT_HINT})"
        )
    chosen = list(known.values()) if given.name == "all" else [known[given.name]]
    if given.command in ("run", "cost"):  # the others read files, and need no JAX
        from purerl.loops import sharding

        sharding.one_cpu_device_per_core()
    if given.command == "run":
        with run_folder.held(given.folder / scale) as folder:
            _claim(folder, chosen, scale)
            run(chosen, scale, given.folder, quiet=given.quiet)
    for figure in chosen:
        if given.command == "cost":
            print(cost(figure, scale))
        if given.command in ("run", "render"):
            print(render(figure, scale, given.folder))
        if given.command in ("run", "verify"):
            print(report_unfinished(figure, scale, given.folder) or report(figure, scale, given.folder))
    return 0


def _claim(folder: Path, chosen: Sequence[Figure], scale: str) -> None:
    """Marks the folder of a scale. Raises PurerlError if a file that this run would replace is not purerl's."""
    for figure in chosen:
        path = path_of(figure, scale, folder.parent)
        image = path.with_suffix(".png")
        if os.path.lexists(path):
            try:
                load(figure, scale, folder.parent)
            except PurerlError:
                raise PurerlError(f"{path} is damaged or not purerl's: remove it, or choose another --folder") from None
        elif os.path.lexists(image):
            raise PurerlError(f"{image} was not written by purerl: remove it, or choose another --folder")
    if not ownership.is_marked(folder, ownership.FIGURES):
        ownership.mark(folder, ownership.FIGURES, scale=scale)


def _refuse(message: str) -> None:
    raise PurerlError(f"{message} (purerl figure --help)")
