"""Runs of the challenge: an agent trained and scored on some games, each in a run folder of its own.

    purerl.json         the marker: purerl wrote this folder (see ownership)
    challenge.json      what was asked for
    cells/<game>/       the run folders; eval.json in them is the evaluation on all levels
    score.json          the scores

A game is a cell, trained by `programs.run` as a sweep's are. Of each run the best parameters by the training return are
scored (see `runs.best`), or the newest ones where a seed has none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purerl import arguments, configs, registry
from purerl.errors import Interrupted, PurerlError
from purerl.experiments.challenge import protocol, scoring
from purerl.experiments.challenge.scoring import Result
from purerl.runs import (
    files,
    interrupts,
    ownership,
    progress,
    provenance,
    run_folder,
    schemas,
    sinks,
    trust,
    user_modules,
)

RECORD, SCORE, CELLS, PROGRAMS = "challenge.json", "score.json", "cells", "programs"
OWNED = (RECORD, SCORE, CELLS, PROGRAMS)
_SCHEMA = {
    "track": str,
    "agent": str,
    "preset": str,
    "games": Sequence[str],
    "seeds": int,
    "seed": int,
    "steps": int,
    "hours": float,
    "episodes": int,
    "num_envs": int,
    "config": Mapping,
    "by_game?": Mapping[str, Mapping[str, float]],
    "engine?": str,
}


@dataclasses.dataclass(frozen=True)
class Challenge:
    """What to train and how to score it.

    Attributes:
      track, games: of `protocol`.
      agent, preset, config: as in a plan.
      seeds, seed: how many seeds, and the first.
      steps: environment steps of each seed in each game.
      hours: wall time for the training of each game; 0 for no limit.
      by_game: {field: {game: value}}, fields of the config that are set for each game.
      episodes, num_envs: of the evaluation: episodes of each environment, and environments of each seed.
    """

    track: str
    agent: str
    preset: str
    games: tuple[str, ...]
    seeds: int = 1
    seed: int = 0
    steps: int = protocol.STEPS
    hours: float = 0.0
    episodes: int = 2
    num_envs: int = 50
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    by_game: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        protocol.check_track(self.track)
        protocol.check_games(self.games)
        for name in ("episodes", "num_envs"):
            arguments.in_range(name, getattr(self, name), 1, 2**20)

    def plans(self) -> dict[str, Any]:
        """{game: Plan}. Raises PurerlError for unknown names, and for sizes that do not fit together."""
        from purerl.runs.plan import make_plan

        return {
            game: make_plan(
                self.agent,
                f"{protocol.FAMILY}/{game}",
                preset=self.preset,
                seeds=self.seeds,
                seed=self.seed,
                steps=self.steps,
                config=self.config | {name: of[game] for name, of in self.by_game.items() if game in of},
                env_options=protocol.training_options(self.track),
            )
            for game in self.games
        }

    def to_dict(self) -> dict[str, Any]:
        """The part of challenge.json that `load` reads back."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"config": {name: configs.plain(value) for name, value in self.config.items()}}


def load(folder: Path) -> tuple[Challenge, str]:
    """(what was asked for in a folder, its engine). Raises PurerlError if it holds no challenge, or a damaged one."""
    trust.check_folder(folder, OWNED, shallow=[CELLS])
    if not (folder / RECORD).is_file():
        raise PurerlError(f"{folder} is not a challenge's folder: it has no {RECORD} (purerl challenge run --help)")
    fix = "start the challenge again"
    found = schemas.check(files.read_json(folder / RECORD), _SCHEMA, folder / RECORD, fix)
    found |= {"by_game": found.get("by_game") or {}}  # challenges of earlier versions set nothing for each game
    values = {field.name: found[field.name] for field in dataclasses.fields(Challenge)}
    config = configs.from_plain(registry.agent(found["agent"]).Config, found["config"])
    return Challenge(**values | {"games": tuple(found["games"]), "config": config}), found.get("engine") or "local"


# --- running ---------------------------------------------------------------------------------------------------------


def run(
    asked: Challenge,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    engine: Any = "local",
    constants: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains and scores all games that are left, one after the other or spread by Ray. Returns what score.json holds.

    Args:
      asked: the challenge.
      folder: its folder.
      resume, overwrite: continue or replace the challenge in the folder.
      engine: as in `programs.run`.
      constants: of the normalised return; "" for the default ones.
      quiet: whether to hide the progress.

    Raises:
      PurerlError: bad input (nothing is written then), another challenge in the folder, a full disk.
      KeyboardInterrupt: Ctrl-C, after everything has been saved.
    """
    from purerl.runs import programs
    from purerl.runs.recording import Recording

    plans = asked.plans()
    programs.check(list(plans.values()), engine)
    _check(folder, asked, resume, overwrite)
    recording = Recording(keep_best=True, hours=asked.hours)
    cells = [programs.Cell(plan, folder / CELLS / game, recording) for game, plan in plans.items()]
    again = f"purerl challenge resume {shlex.quote(str(folder))}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_folder.held(folder))
        if not resume:
            stack.enter_context(
                run_folder.undone_if_nothing_is_learned(folder, ownership.CHALLENGE, lambda: _has_rows(folder))
            )
            _begin(folder, asked, engine, next(iter(plans.values())).imports, overwrite)
        how = {"engine": engine, "quiet": quiet, "resumed_by": again}
        # On this machine a game is scored before the next one begins, so that a stopped challenge has scores.
        parts = [cells] if engine == "ray" else [[cell] for cell in cells]
        stop = stack.enter_context(interrupts.deferred())
        for number, part in enumerate(parts, 1):
            if not quiet and len(parts) > 1 and not programs.is_finished(part[0]):
                progress.note(f"game {number} of {len(parts)}: {part[0].folder.name}")
            programs.run(part, folder / PROGRAMS, **how)
            for cell in part:
                if stop:
                    raise Interrupted(f"stopped and saved; continue with: {again}", stop.signal)
                _evaluate(asked, cell.folder, quiet)
            found = write_score(folder, constants)
    return found


def _check(folder: Path, asked: Challenge, resume: bool, overwrite: bool) -> None:
    """Raises PurerlError if what is in the folder conflicts with `resume` and `overwrite`, or is another challenge."""
    if resume and overwrite:
        raise PurerlError("--resume continues a challenge and --overwrite deletes it: choose one of them")
    trust.check_folder(folder, OWNED, shallow=[CELLS])
    if not (folder / RECORD).is_file():
        if resume:
            raise PurerlError(f"there is no challenge to resume in {folder}; leave out --resume to start one")
        marker = ownership.read_marker(folder) if folder.is_dir() else None
        foreign = [name for name in OWNED if (folder / name).exists()]
        if foreign and (marker is None or marker["purerl"] != ownership.CHALLENGE):
            raise PurerlError(f"{folder} is not a challenge, but has its own '{foreign[0]}'; choose another --out")
        of_another = marker is None or marker["purerl"] != ownership.CHALLENGE
        if of_another and run_folder.holds_run(folder):
            raise PurerlError(f"{folder} holds a run of purerl, not a challenge; choose another --out")
    elif overwrite:
        ownership.check(folder, ownership.CHALLENGE, OWNED)
    elif not resume:
        raise PurerlError(
            f"{folder} already holds a challenge: --resume continues it, --overwrite deletes it, another --out keeps it"
        )
    else:
        stored, now = load(folder)[0].to_dict(), files.parse_json(files.to_json(asked.to_dict()), RECORD)
        for name, value in files.parse_json(files.to_json(stored), RECORD).items():
            if value != now[name]:
                raise PurerlError(
                    f"--resume: {name} differs from the challenge in {folder}; use its original value, or purerl "
                    f"challenge resume {folder}"
                )


def _begin(folder: Path, asked: Challenge, engine: str, imports: Any, overwrite: bool) -> None:
    """Writes the marker and the record of a new challenge, in place of an old one with `overwrite`."""
    if overwrite and (folder / RECORD).is_file():
        stays = ownership.remove(folder, ownership.CHALLENGE, keep_record=True)
        if stays:
            print(f"purerl: {ownership.name_the_rest(folder, stays)}", file=sys.stderr)
    else:
        ownership.mark(folder, ownership.CHALLENGE)
    also = {"engine": engine, "imports": [one.to_dict() for one in imports]}
    files.write_json(folder / RECORD, asked.to_dict() | also | {"environment": provenance.environment_report()})


def _has_rows(folder: Path) -> bool:
    return any(run_folder.has_rows(cell) for cell in (folder / CELLS).glob("*"))


def resume_folder(folder: Path, *, constants: str = "", quiet: bool = False) -> dict[str, Any]:
    """Continues the challenge in a folder as it was begun. Errors as in `run`."""
    user_modules.restore_from(folder / RECORD)
    asked, engine = load(folder)
    return run(asked, folder, resume=True, engine=engine, constants=constants, quiet=quiet)


def _evaluate(asked: Challenge, cell: Path, quiet: bool) -> None:
    """Evaluates a trained game on all levels, unless its eval.json says so already."""
    from purerl.runs import evaluation, policy

    trained = run_folder.load(cell)["summary"]
    if trained is None or _evaluation(asked, cell, trained) is not None:
        return
    if not quiet:
        progress.note(f"{cell.name}: evaluating on all levels")
    marks = policy.best_marks(cell)
    best = bool(marks) and all(mark.get("step") is not None for mark in marks)
    evaluation.evaluate(
        cell, episodes=asked.episodes, num_envs=asked.num_envs, env_options=protocol.scoring_options(), best=best
    )


def _evaluation(asked: Challenge, cell: Path, trained: dict[str, Any]) -> dict[str, Any] | None:
    """The eval.json of a trained game, if it is what the challenge asks for; None if not."""
    path = cell / run_folder.EVALUATION
    if not path.is_file():
        return None
    found = files.read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("env_options"), dict):
        return None
    wanted = {"step": trained["steps"], "episodes_per_environment": asked.episodes, "num_envs": asked.num_envs}
    wanted["env"] = f"{protocol.FAMILY}/{cell.name}"
    same = all(found.get(name) == value for name, value in wanted.items())
    options = all(found["env_options"].get(name) == value for name, value in protocol.scoring_options().items())
    return found if same and options else None


# --- scoring ---------------------------------------------------------------------------------------------------------


def results(folder: Path) -> tuple[Challenge, list[Result]]:
    """What the challenge in a folder asked for, and what each game has reached."""
    asked, _ = load(folder)
    return asked, [_result(asked, folder / CELLS / game) for game in asked.games]


def _result(asked: Challenge, cell: Path) -> Result:
    if not run_folder.has_rows(cell):
        return Result(cell.name, "not begun", 0)
    done = run_folder.load(cell)["summary"]
    if done is None:
        rows = sinks.read_rows(cell / run_folder.METRICS)
        schemas.check_rows(rows, cell / run_folder.METRICS)
        from purerl.runs.summary import final_returns

        step = rows[-1]["step"]
        seeds = range(asked.seed, asked.seed + asked.seeds)
        return Result(cell.name, "training", step, _array(final_returns(rows, seeds, step)))
    training = _array(schemas.final_returns(done, cell / run_folder.SUMMARY))
    found = _evaluation(asked, cell, done)
    if found is None:
        return Result(cell.name, "trained", done["steps"], training)
    lanes = found["per_seed"]
    errors = np.array([lane["std"] / max(1, lane["episodes"] - 1) ** 0.5 for lane in lanes])
    means = _array([lane["mean"] for lane in lanes])
    return Result(cell.name, "scored", done["steps"], training, means, errors, of_best="best" in found)


def _array(values: Any) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def write_score(folder: Path, constants: str = "") -> dict[str, Any]:
    """Scores the challenge in a folder, and writes its score.json."""
    asked, found = results(folder)
    name = constants or scoring.procgen_scores.DEFAULT_CONSTANTS
    content = {"agent": asked.agent, "preset": asked.preset, "protocol": notes(asked, found)}
    content |= scoring.summary(asked.track, found, name)
    files.write_json(folder / SCORE, content)
    return content


def notes(asked: Challenge, found: list[Result]) -> list[str]:
    """How the challenge in a folder was played, and how that differs from the official protocol."""
    levels = protocol.TRACKS[asked.track]
    lines = [
        f"{asked.agent}, preset {asked.preset}, {asked.seeds} seed{'s' * (asked.seeds > 1)}; easy mode, trained on "
        f"{levels or 'all'} levels; evaluated: {asked.episodes * asked.num_envs} episodes a seed on all levels, "
        "sampled actions, the best parameters by the training return (how many episodes the organisers played is not "
        "published)"
    ]
    if asked.by_game:
        lines.append(f"set for each game, to its largest return, as the original does: {', '.join(asked.by_game)}")
    last = [one.game for one in found if one.status == "scored" and not one.of_best]
    if last:
        lines.append(f"differs: the last parameters in {', '.join(last)}: too few episodes to choose by")
    short = [one.game for one in found if one.status in ("scored", "trained") and one.step < protocol.STEPS]
    if short:
        lines.append(f"differs: fewer than the official {protocol.STEPS:,} steps in {', '.join(short)}")
    if asked.steps > protocol.STEPS * 1.1:
        lines.append(f"differs: {asked.steps:,} steps, the official length is {protocol.STEPS:,}")
    if len(asked.games) < len(protocol.GAMES):
        lines.append(f"differs: {len(asked.games)} of the 16 public games")
    if not asked.hours:
        lines.append("differs: no limit of time (--hours); the challenge allowed 2 hours a game on a V100")
    return lines


def report(folder: Path, constants: str = "") -> str:
    """The text of `purerl challenge score`."""
    asked, found = results(folder)
    lines = [f"Procgen challenge, {asked.track} track: {asked.agent}", *notes(asked, found)]
    return "\n".join(lines + scoring.lines(asked.track, found, constants or scoring.procgen_scores.DEFAULT_CONSTANTS))
