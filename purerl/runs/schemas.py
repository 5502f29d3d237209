"""The fields of the JSON files in run, sweep and figure folders, and their types, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from purerl import arguments
from purerl.errors import PurerlError, shown

Number = float | None
Numbers = Sequence[Number]

# Annotations, see `arguments.fitting`. A name that ends in "?" may be missing, or None.
PLAN = {
    "agent": str,
    "env": str,
    "preset": str,
    "seeds": Sequence[int],
    "steps": int,
    "config": Mapping,
    "env_options": Mapping,
    "lanes?": str,
    "devices_per_seed?": int,
    "imports?": Sequence[Mapping],
    "asked_steps?": int,
    "random_return?": Mapping,
    "recording?": Mapping,
    "log?": Sequence[str],
    "wandb?": Mapping,
}
WANDB = {"project": str, "entity?": str, "group": str, "name": str, "id": str, "job_type": str}
METADATA = {
    "train_seconds?": float,
    "compile_seconds?": float,
    "longest_periods?": Sequence[Mapping],
    "diverged?": Sequence[Mapping],
    "period?": Mapping,
}
LONGEST = {"passes": float, "seconds": float, "learning": float}
BEST = {"seed": int, "step?": int, "return?": float}
DIVERGED = {"lane": int, "seed": int, "leaf": str}
PERIOD = {"began": int, "seconds": float}
SUMMARY = {"seeds": Sequence[int], "steps": int, "final_return": Mapping, "diverged_seeds?": Sequence[int]}
FINAL_RETURN = {"per_seed": Numbers, "definition": str}
SWEEP = {
    "agent": str,
    "env": str,
    "cells": Sequence[Mapping[str, float | str | bool | Numbers | None]],
    "imports?": Sequence[Mapping],
    "laws?": Mapping[str, str],
    "search?": Mapping,
}
PRUNED = {"iteration": int, "step": int}
SEARCH = {
    "laws": Mapping[str, Sequence],
    "samples": int,
    "sampler": str,
    "rungs": int,
    "batch": int,
    "seed": int,
}
PROGRAM = {
    "cells": Sequence[Mapping],
    "lanes": int,
    "varying": Sequence[str],
    "log_every?": int,
    "checkpoint_seconds?": float,
    "eval_every?": int,
    "eval_episodes?": int,
    "eval_env_options?": Mapping,
    "random_episodes?": int,
    "keep_best?": bool,
    "hours?": float,
    "video_every?": int,
    "video_steps?": int,
    "joined_at?": int,
    "until?": int,
}
HOW = {
    "max_memory": int | None,
    "cells_per_program": int | None,
    "engine": str,
    "lanes": str,
    "devices_per_seed?": int,
    "recording": Mapping,
    "logged?": Mapping,
}
CELL = {"folder": str, "plan": Mapping, "log?": Sequence[str], "wandb?": Mapping}
FIGURE = {"figure": str, "paper": str, "scale": str, "protocol": str, "cells": Mapping[str, Mapping]}
ENTRY = {
    "agent": str,
    "env": str,
    "preset": str,
    "config": Mapping,
    "steps": int,
    "seeds": Sequence[int],
    "final_return": Numbers,
    "curves": Mapping[str, Mapping[str, Sequence[float]] | None],
}
_MOST_SEEDS = 2**20
MOST = 1e100  # larger numbers are not measurements


def misfit(values: Any, schema: Mapping[str, Any]) -> str | None:
    """What in a JSON object is missing or of a wrong type, in words; None if it has all fields of a schema."""
    if not isinstance(values, dict):
        return f"it is {shown(values)}, not an object"
    for name, kind in schema.items():
        optional, name = name.endswith("?"), name.rstrip("?")
        if optional and values.get(name) is None:
            continue
        if name not in values:
            return f"it has no '{name}'"
        try:
            arguments.fitting(f"'{name}'", kind, values[name])
        except PurerlError as error:
            return str(error)
    return None


def check(values: Any, schema: Mapping[str, Any], where: object, fix: str) -> Any:
    """The values. Raises PurerlError, which names the file and the fix, if they do not fit the schema."""
    wrong = misfit(values, schema)
    if wrong:
        raise PurerlError(f"{where} is damaged ({wrong}): {fix}")
    return values


def check_plan(values: Any) -> None:
    """Raises PurerlError if the fields of a plan in a config.json or program.json are missing or of a wrong type."""
    wrong = misfit(values, PLAN)
    if wrong is None:
        seeds, lanes = values["seeds"], values.get("lanes", "vmap")
        if not 0 < len(seeds) <= _MOST_SEEDS or not all(0 <= seed < 2**31 for seed in seeds):
            wrong = f"'seeds' = {shown(seeds)}"
        elif not 0 < values["steps"] < 2**62:
            wrong = f"'steps' = {shown(values['steps'])}"
        elif lanes not in ("auto", "vmap", "map"):
            wrong = f"'lanes' = {shown(lanes)}"
        elif not 0 < (values.get("devices_per_seed") or 1) < 2**16:
            wrong = f"'devices_per_seed' = {shown(values['devices_per_seed'])}"
    if wrong:
        raise PurerlError(f"the run's config.json is damaged or of another purerl version ({wrong}): train again")


def check_program(values: Any, path: object) -> None:
    """Raises PurerlError if a program.json is damaged."""
    fix = f"remove {getattr(path, 'parent', path)}, and its cells begin again"
    check(values, PROGRAM, path, fix)
    for cell in values["cells"]:
        check(cell, CELL, path, fix)
        check_plan(cell["plan"])
    lanes = sum(len(cell["plan"]["seeds"]) for cell in values["cells"])
    if not 0 < lanes <= values["lanes"] <= 2 * lanes + 1024:  # a few more than the seeds, to fill up all devices
        raise PurerlError(f"{path} is damaged ('lanes' = {values['lanes']} for {lanes} seeds): {fix}")


def check_metadata(values: Any, path: object) -> None:
    """Raises PurerlError if the metadata of a checkpoint are damaged."""
    fix = "remove this checkpoint to continue from an older one, or start a new run"
    check(values, METADATA, path, fix)
    for mark in values.get("diverged") or ():
        check(mark, DIVERGED, path, fix)
    for one in values.get("longest_periods") or ():
        check(one, LONGEST, path, fix)
    if values.get("period") is not None:
        check(values["period"], PERIOD, path, fix)


def check_best(metadata: Any, num_seeds: int, path: object) -> list[dict[str, Any]]:
    """The marks of a run's best parameters, one for each seed. Raises PurerlError if they are damaged."""
    fix = "remove this folder, or start a new run"
    marks = check(metadata, {"best": Sequence[Mapping]}, path, fix)["best"]
    if len(marks) != num_seeds:
        raise PurerlError(f"{path} is damaged ({len(marks)} marks for {num_seeds} seeds): {fix}")
    return [check(mark, BEST, path, fix) for mark in marks]


def final_returns(summary: Any, path: object) -> list[float | None]:
    """The final return of each seed in a finished run's summary.json. Raises PurerlError if the file is damaged."""
    fix = "delete it, and resume the run to write it again"
    check(summary, SUMMARY, path, fix)
    found = check(summary["final_return"], FINAL_RETURN, path, fix)["per_seed"]
    too_large = [value for value in found if value is not None and not abs(value) < MOST]
    if too_large:
        raise PurerlError(f"{path} is damaged (a final return is {shown(too_large[0])}): {fix}")
    if len(found) != len(summary["seeds"]):
        raise PurerlError(f"{path} is damaged ({len(found)} final returns for {len(summary['seeds'])} seeds): {fix}")
    return found


def check_rows(rows: Sequence[dict[str, Any]], path: object) -> None:
    """Raises PurerlError if a metrics row has no seed or no step, or if a return in it is not a number."""
    for line, row in enumerate(rows, 1):
        wrong = next((name for name in ("seed", "step") if name not in row), None)
        for name in ("episodes", "episode_return", "evaluation_return"):
            value = row.get(name)
            if value is not None and (type(value) not in (int, float) or not abs(value) < MOST):
                wrong = name
        if wrong:
            raise PurerlError(
                f"{path} line {line} is not a metrics row: its '{wrong}' is {shown(row.get(wrong))}; it was not "
                "written by purerl"
            )


def check_figure(values: Any, name: str, path: object, fix: str) -> None:
    """Raises PurerlError if a figure's JSON is damaged, or of another figure."""
    check(values, FIGURE, path, fix)
    if values["figure"] != name:
        raise PurerlError(f"{path} is damaged or was not written by purerl (it is of figure {shown(values['figure'])})")
    for entry in values["cells"].values():
        check(entry, ENTRY, path, fix)
        curves = [curve for curve in entry["curves"].values() if curve is not None]
        if any(set(curve) != {"step", "iqm", "low", "high"} for curve in curves):
            raise PurerlError(f"{path} is damaged (a curve has other columns than step, iqm, low and high): {fix}")
        if any(len(set(map(len, curve.values()))) != 1 for curve in curves):
            raise PurerlError(f"{path} is damaged (the columns of a curve have different lengths): {fix}")
