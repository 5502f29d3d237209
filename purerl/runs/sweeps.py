"""Sweeps over config fields: `sweep(agent, env, grid=...)`, the command `purerl sweep`.

Cell: one setting of a sweep, trained with all its seeds in one run folder. `programs.run` trains the cells in as few
programs as their static fields and the memory allow. A sweep's folder:

    purerl.json         the marker: purerl wrote this folder (see ownership)
    sweep.json          what was asked for, and every cell's values
    cells/<cell>/       the run folders
    table.csv           one row for each cell and seed
    ranking.csv         one row for each cell, best first, with intervals
    pruned.csv          one row for each cell that a search has stopped early
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purerl import arguments, configs, registry
from purerl import statistics as stats
from purerl.errors import PurerlError
from purerl.loops import sharding
from purerl.loops.lanes import Lanes
from purerl.loops.sharding import DevicesPerSeed
from purerl.runs import (
    adaptive,
    estimates,
    evaluation,
    files,
    ownership,
    programs,
    progress,
    provenance,
    run_folder,
    schemas,
    sinks,
    trust,
    user_modules,
)
from purerl.runs.collection import CELLS, SWEEP
from purerl.runs.logs import Logged, Logging
from purerl.runs.names import default_sweep_folder
from purerl.runs.plan import Plan, Settings, rounding, settings
from purerl.runs.recording import Recording
from purerl.runs.search_space import ENVIRONMENT, laws_of, settings_of

TABLE, RANKING, PRUNED, PROGRAMS = "table.csv", "ranking.csv", "pruned.csv", "programs"
OWNED = (SWEEP, TABLE, RANKING, PRUNED, CELLS, PROGRAMS, run_folder.FIGURES, run_folder.REPORT)
# The columns of a ranking in addition to the swept fields.
RANKED = ("rank", "cell", "iqm", "low", "high", "mean", "seeds", "diverged")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
      folder: its folder.
      table: one row for each cell and seed: "cell", the swept fields, "seed", "steps", "final_return" (mean of the
        episodes that end in the last tenth of the run; None without any), "mean_return" (of all its episodes),
        "evaluation_return" (of the last evaluation; None without any), "diverged" (a loss became NaN or infinity).
      ranking: one row for each cell, highest interquartile mean of the final return first: "rank", "cell", the swept
        fields, "iqm", "low" and "high" (95% bootstrap interval), "mean", "seeds" (number of seeds with a final return),
        "diverged" (number of diverged seeds).
      pruned: one row for each setting that a search with rungs has stopped early: "cell", the swept fields, "steps" and
        "iqm" when it was stopped. They are not in the table nor in the ranking.
    """

    folder: Path
    table: list[dict[str, Any]]
    ranking: list[dict[str, Any]]
    pruned: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@arguments.checked
def sweep(
    agent: str,
    env: str,
    *,
    grid: Mapping[str, Any] | str | None = None,
    random: Mapping[str, Any] | str | None = None,
    samples: int | None = None,
    search_seed: int = 0,
    sampler: adaptive.Sampler = "random",
    rungs: int = 1,
    batch: int = adaptive.BATCH,
    preset: str | None = None,
    seeds: int = 1,
    seed: int = 0,
    steps: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    config: dict[str, Any] | None = None,
    env_options: dict[str, Any] | None = None,
    lanes: Lanes = "auto",
    devices_per_seed: DevicesPerSeed = "auto",
    max_memory: int | str | None = None,
    cells_per_program: int | None = None,
    engine: programs.Engine = "local",
    log: Sequence[str] = (),
    wandb_project: str | None = None,
    wandb_entity: str | None = None,
    wandb_name: str | None = None,
    log_every: int = 0,
    checkpoint_seconds: float = 300.0,
    eval_every: int = 0,
    eval_episodes: int = 10,
    eval_env_options: dict[str, Any] | None = None,
    random_episodes: int = 32,
    keep_best: bool = False,
    hours: float = 0.0,
    quiet: bool = False,
) -> Sweep:
    """Trains an agent at every setting of a grid, or at random settings, with the same seeds for each.

    Traced fields (learning rate, discount, ...) are vmapped together with the seeds. Each combination of static fields
    and environment options is a separate program. Each lane equals `purerl.train` with that setting and seed, up to
    float rounding.

    Args:
      agent, env, preset, seeds, seed, steps, config, env_options, lanes, devices_per_seed: as in `purerl.train`; the
        swept fields replace their values. In the graph the default is one device for each seed, of which a sweep has
        enough.
      grid: {field: values}, or text as on the command line, "learning_rate=1e-4,5e-4;gamma=.99,.999". Environment
        options are named "env.num_levels".
      random: {field: (kind, *arguments)}, or text, "learning_rate=log(1e-5,1e-2);clip=uniform(.1,.3);
        num_envs=choice(16,32)": log-uniform and uniform numbers between two bounds (integers for integer fields), or
        one of several values.
      samples: how many random settings.
      search_seed: seed of the random settings.
      sampler: "tpe" draws them from the results of earlier ones, with Optuna, one batch after the other.
      rungs: how often the runs of a batch are compared. With 3, they stop at a ninth and at a third of the steps, and
        the best third goes on.
      batch: settings that are drawn and trained together, with "tpe" or rungs.
      out: the sweep's folder; None for runs/sweep-<agent>-<env>-<preset>-over-<fields>, see `names`.
      resume: continue the sweep in `out`.
      overwrite: replace it.
      max_memory, cells_per_program, engine: as in `programs.run`; memory also as text, "8GB".
      log_every, checkpoint_seconds, eval_every, eval_episodes, eval_env_options, random_episodes, quiet: as in
        `purerl.train`.
      keep_best, hours: as in `purerl.train`, for each program of the sweep.
      log, wandb_project, wandb_entity, wandb_name: as in `purerl.train`, for each cell; all are in one W&B group, with
        a job type for each cell.

    Raises:
      PurerlError: bad input (nothing is written then), another sweep in the folder, a full disk.
      KeyboardInterrupt: Ctrl-C, after everything has been saved.
    """
    user_modules.refuse_while_importing("purerl.sweep")
    sharding.one_cpu_device_per_core()
    if resume and out is not None:
        user_modules.restore_from(Path(out) / SWEEP)
    recording = Recording(
        log_every=log_every,
        checkpoint_seconds=checkpoint_seconds,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        eval_env_options=eval_env_options,
        random_episodes=random_episodes,
        keep_best=keep_best,
        hours=hours,
    )
    logging = Logging.of(log, wandb_project, wandb_entity, wandb_name)
    sinks.check_sinks(logging.log)
    search = adaptive.search_of(agent, env, random, samples, search_seed, sampler, rungs, batch)
    if search is None or grid is not None:
        tried = settings_of(agent, env, grid, random, samples, search_seed)
    else:
        tried = adaptive.propose(search, agent, env, [], [])
    memory = estimates.parse_bytes(max_memory) if isinstance(max_memory, str) else max_memory
    if devices_per_seed == "auto" and not registry.is_host(registry.environment(env)[0]):
        devices_per_seed = 1
    which = {"seeds": seeds, "seed": seed, "steps": steps, "lanes": lanes, "devices_per_seed": devices_per_seed}
    plans_of = functools.partial(
        _planned, settings(agent, env, preset), config=config or {}, env_options=env_options or {}, which=which
    )
    planned = plans_of(tried)
    evaluation.make_evaluations(planned[0], recording)
    programs.check(planned, engine)
    if search is not None:
        if recording.hours:
            raise PurerlError(
                "--hours does not go with --sampler or --rungs: a run that ended early is no result to learn from"
            )
        for one in planned:
            adaptive.rung_iterations(one, recording, search.rungs)
    first = planned[0]
    folder = Path(out) if out is not None else default_sweep_folder(first, tried[0])
    cells = [{name: configs.plain(value) for name, value in setting.items()} for setting in tried]
    asked = {
        "agent": first.agent,
        "env": first.env,
        "preset": first.preset,
        "seeds": list(first.seeds),
        "steps": steps,
        **{name: value for name, value in recording.to_dict().items() if name.startswith("eval_")},
        **({"cells": cells} if search is None else {"search": search.to_dict()}),
        "config": {name: value for name, value in configs.to_dict(first.config).items() if name not in tried[0]},
        "env_options": {
            name: value for name, value in configs.to_dict(first.options).items() if ENVIRONMENT + name not in tried[0]
        },
    }
    if not quiet and (line := rounding(first)):
        progress.note(line)
    how = {"max_memory": memory, "cells_per_program": cells_per_program, "engine": engine}
    _check(folder, asked, resume, overwrite)
    if not resume:
        programs.check_sizes(_cells(folder, planned, recording), memory, cells_per_program)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_folder.held(folder))
        if resume:
            _update_imports(folder)
            stored = Logged.from_dict(load(folder).get("how", {}).get("logged", {}), folder / SWEEP)
            logged = logging.resume(stored, folder)
        else:
            logged = logging.begin(folder)
            learned = functools.partial(_has_rows, folder)
            stack.enter_context(run_folder.undone_if_nothing_is_learned(folder, ownership.SWEEP, learned))
            imports = [one.to_dict() for one in first.imports]
            also = {
                "imports": imports,
                "how": how
                | {
                    "lanes": lanes,
                    "devices_per_seed": first.devices_per_seed,
                    "recording": recording.to_dict(),
                    "logged": logged.to_dict(),
                },
            }
            also["laws"] = laws_of(agent, env, grid, random)
            _begin(folder, {"cells": cells} | asked | also, overwrite)
        return _train(folder, plans_of, search, recording, logged, quiet=quiet, **how)


def resume(folder: str | Path, *, quiet: bool = False) -> Sweep:
    """Continues the sweep in a folder as it was begun. Errors as in `sweep`."""
    user_modules.refuse_while_importing("purerl.resume")
    sharding.one_cpu_device_per_core()
    folder = Path(folder)
    user_modules.restore_from(folder / SWEEP)
    stored = load(folder)
    try:
        base = settings(stored["agent"], stored["env"], stored["preset"])
        config = configs.from_plain(type(base.config()), stored["config"])
        search = adaptive.Search.from_dict(stored["search"], folder / SWEEP) if stored.get("search") else None
        how, seeds = schemas.check(stored["how"], schemas.HOW, folder / SWEEP, "start the sweep again"), stored["seeds"]
        how = dict(how)
        recording = Recording.from_dict(how.pop("recording"))
        logged = Logged.from_dict(how.pop("logged", None) or {}, folder / SWEEP)
        which = {"seeds": len(seeds), "seed": seeds[0], "steps": stored["steps"]}
        which |= {"lanes": how.pop("lanes"), "devices_per_seed": how.pop("devices_per_seed", None) or 1}
        plans_of = functools.partial(_planned, base, config=config, env_options=stored["env_options"], which=which)
        planned = plans_of(stored["cells"])
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise PurerlError(
            f"{folder / SWEEP} is damaged or of another purerl version ({type(error).__name__}: {error}): "
            "continue with the command that began the sweep, and --resume"
        ) from error
    programs.check(planned, how["engine"])
    with run_folder.held(folder):
        _update_imports(folder)
        return _train(folder, plans_of, search, recording, logged, quiet=quiet, **how)


def _planned(
    base: Settings,
    tried: Sequence[dict[str, Any]],
    config: dict[str, Any],
    env_options: dict[str, Any],
    which: dict[str, Any],
) -> list[Plan]:
    """The plan of each setting in `tried`, whose values replace those of `config` and `env_options`; as they are, or as
    they are stored.
    """
    planned = []
    for setting in tried:
        setting = configs.from_plain(type(base.config()), setting)
        options = {name.removeprefix(ENVIRONMENT): v for name, v in setting.items() if name.startswith(ENVIRONMENT)}
        fields = {name: value for name, value in setting.items() if not name.startswith(ENVIRONMENT)}
        planned.append(base.plan(config=base.named(config) | fields, env_options=env_options | options, **which))
    return planned


def _train(
    folder: Path,
    plans_of: Callable[[Sequence[dict[str, Any]]], list[Plan]],
    search: adaptive.Search | None,
    recording: Recording,
    logged: Logged,
    **how: Any,
) -> Sweep:
    """Trains the cells of a sweep that are left."""
    how["resumed_by"] = f"purerl resume {shlex.quote(str(folder))}"
    if search is not None:
        adaptive.run(folder, search, plans_of, recording, logged, **how)
    else:
        cells = _cells(folder, plans_of(load(folder)["cells"]), recording, logged)
        programs.run(cells, folder / PROGRAMS, **how)
    return collect(folder)


def _cells(
    folder: Path, planned: Sequence[Plan], recording: Recording, logged: Logged | None = None
) -> list[programs.Cell]:
    """The cells of a sweep, each with a folder of its own."""
    logged = logged or Logged()
    names = [adaptive.cell_name(i, len(planned)) for i in range(len(planned))]
    return [
        programs.Cell(plan, folder / CELLS / name, recording, logged.of_cell(name))
        for name, plan in zip(names, planned, strict=True)
    ]


def holds_sweep(folder: Path) -> bool:
    """Whether a sweep's sweep.json is in the folder."""
    with files.reading(folder):
        return (folder / SWEEP).is_file()


def _check(folder: Path, asked: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Raises PurerlError if a sweep in the folder conflicts with `resume` and `overwrite`, or is another one."""
    if resume and overwrite:
        raise PurerlError("--resume continues a sweep and --overwrite deletes it: choose one of them")
    trust.check_folder(folder, OWNED, shallow=[CELLS])
    if not holds_sweep(folder):
        if resume:
            raise PurerlError(f"there is no sweep to resume in {folder}; leave out --resume to start one")
        foreign = [name for name in OWNED if (folder / name).exists()]
        if foreign and ownership.read_marker(folder) is None and not run_folder.holds_run(folder):
            raise PurerlError(f"{folder} is not a sweep, but has its own '{foreign[0]}'; choose another folder (--out)")
        run_folder.check(folder)  # a sweep must not be written into a run folder
    elif overwrite:
        ownership.check(folder, ownership.SWEEP, OWNED)
    elif not resume:
        raise PurerlError(
            f"{folder} already holds a sweep: --resume continues it, --overwrite deletes it, another --out keeps it"
        )
    else:
        stored = load(folder)
        for name in asked:
            if stored.get(name) != files.parse_json(files.to_json(asked[name]), name):
                raise PurerlError(f"--resume: {name} differs from the sweep in {folder}; use its original value")


def _update_imports(folder: Path) -> None:
    """Notes in a resumed sweep that the user's modules have changed."""
    stored = load(folder)
    now = [one.to_dict() for one in user_modules.restore(user_modules.read(stored.get("imports", [])))]
    if stored.get("imports", []) != now:
        files.write_json(folder / SWEEP, stored | {"imports": now})


def _begin(folder: Path, content: dict[str, Any], overwrite: bool) -> None:
    """Writes the marker and the sweep.json of a new sweep, in place of an old one with `overwrite`."""
    if overwrite and holds_sweep(folder):
        stays = ownership.remove(folder, ownership.SWEEP, keep_record=True)
        if stays:
            print(f"purerl: {ownership.name_the_rest(folder, stays)}", file=sys.stderr)
    else:
        ownership.mark(folder, ownership.SWEEP)
    files.write_json(folder / SWEEP, content | {"environment": provenance.environment_report()})


def _has_rows(folder: Path) -> bool:
    """Whether any of a sweep's cells has written metrics."""
    return any(run_folder.has_rows(cell) for cell in folder.glob(f"{CELLS}/*"))


def load(folder: str | Path) -> dict[str, Any]:
    """The sweep.json of a folder. Raises PurerlError if it holds no sweep."""
    folder = Path(folder)
    trust.check_folder(folder, OWNED, shallow=[CELLS])
    if not (folder / SWEEP).is_file():
        raise PurerlError(f"{folder} is not a sweep folder: it has no {SWEEP}")
    found = files.read_json(folder / SWEEP)
    if not isinstance(found, dict) or not isinstance(found.get("cells"), list):
        raise PurerlError(f"{folder / SWEEP} is damaged or was not written by purerl")
    schemas.check(found, schemas.SWEEP, folder / SWEEP, "start the sweep again")
    if len({tuple(setting) for setting in found["cells"]}) != 1:
        raise PurerlError(f"{folder / SWEEP} is damaged (its cells have no fields in common): start the sweep again")
    return found


# --- results ---------------------------------------------------------------------------------------------------------


def collect(folder: str | Path) -> Sweep:
    """Reads a sweep's finished cells and writes table.csv and ranking.csv.

    Raises PurerlError if the folder holds no sweep or no finished cell.
    """
    folder = Path(folder)
    stored = load(folder)
    settings, search = stored["cells"], stored.get("search") or {}
    table, ranking, pruned = [], [], []
    for i, setting in enumerate(settings):
        name = adaptive.cell_name(i, search.get("samples", len(settings)))
        cell = folder / CELLS / name
        if not (cell / run_folder.SUMMARY).is_file():
            pruned += [{"cell": name, **setting, **found} for found in adaptive.pruned(cell)] if search else []
            continue
        rows = _rows(cell, {"cell": name, **setting})
        table += rows
        ranking.append(_ranked(rows, {"cell": name, **setting}))
    if not table:
        raise PurerlError(f"no cell of the sweep in {folder} is finished: continue with --resume")
    ranking.sort(key=lambda row: -math.inf if row["iqm"] is None else row["iqm"], reverse=True)
    ranking = [{"rank": i + 1, **row} for i, row in enumerate(ranking)]
    _write_csv(folder / TABLE, table)
    _write_csv(folder / RANKING, ranking)
    if pruned:
        _write_csv(folder / PRUNED, pruned)
    return Sweep(folder, table, ranking, pruned)


def _rows(cell: Path, names: dict[str, Any]) -> list[dict[str, Any]]:
    """The table's rows of a cell."""
    summary = run_folder.load(cell)["summary"]
    finals = schemas.final_returns(summary, cell / run_folder.SUMMARY)
    of_seed: dict[int, list[dict[str, Any]]] = {seed: [] for seed in summary["seeds"]}
    found = sinks.read_rows(cell / run_folder.METRICS)
    schemas.check_rows(found, cell / run_folder.METRICS)
    for row in found:
        of_seed.setdefault(row["seed"], []).append(row)
    rows = []
    for seed, final in zip(summary["seeds"], finals, strict=True):
        ended = [row for row in of_seed[seed] if row.get("episodes") and row.get("episode_return") is not None]
        counts = [row["episodes"] for row in ended]
        mean = float(np.average([row["episode_return"] for row in ended], weights=counts)) if ended else None
        evaluated = [r["evaluation_return"] for r in of_seed[seed] if r.get("evaluation_return") is not None]
        rows.append(
            names
            | {
                "seed": seed,
                "steps": summary["steps"],
                "final_return": final,
                "mean_return": mean,
                "evaluation_return": evaluated[-1] if evaluated else None,
                "diverged": seed in summary.get("diverged_seeds", []),
            }
        )
    return rows


def _ranked(rows: Sequence[dict[str, Any]], names: dict[str, Any]) -> dict[str, Any]:
    """The ranking's row of a cell, without its rank."""
    finals = np.array([row["final_return"] for row in rows if row["final_return"] is not None])
    low, high = stats.stratified_bootstrap_interval(finals) if len(finals) else (None, None)
    return names | {
        "iqm": float(stats.interquartile_mean(finals)) if len(finals) else None,
        "low": low,
        "high": high,
        "mean": float(np.mean(finals)) if len(finals) else None,
        "seeds": len(finals),
        "diverged": sum(row["diverged"] for row in rows),
    }


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a table as CSV. None is an empty field, and numbers keep their full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # A damaged record may hold half a character, which UTF-8 has not.
    files.write_file(path, text.getvalue().encode(errors="backslashreplace"))
