"""Trains one run, from names to a finished run folder: `purerl.train`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from purerl import arguments
from purerl.errors import PurerlError
from purerl.loops import compilation, sharding
from purerl.loops.lanes import Lanes
from purerl.loops.sharding import DevicesPerSeed
from purerl.runs import agent_checks, estimates, logs, ownership, progress, run_folder, sinks, user_modules
from purerl.runs.checkpoint import Checkpoints
from purerl.runs.evaluation import make_evaluations
from purerl.runs.filming import make_videos
from purerl.runs.logs import Logging
from purerl.runs.names import default_folder
from purerl.runs.plan import Plan, difference, header, make_plan, rounding, update_header, with_lanes
from purerl.runs.random_play import random_return
from purerl.runs.recording import Recording
from purerl.runs.trainer import Member, Trainer, close, forget_shared_loop, shared_loop
from purerl.types import RunState


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, its summary (as in summary.json) and its last RunState [S, ...]."""

    folder: Path
    summary: dict[str, Any]
    state: RunState


@arguments.checked
def train(
    agent: str,
    env: str,
    *,
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
    video_every: int = 0,
    video_steps: int = 150,
    quiet: bool = False,
) -> Run:
    """Trains an agent and writes a run folder: config.json, metrics.jsonl, summary.json, checkpoints/.

    Args:
      agent, env, preset, seeds, seed, steps, config, env_options, lanes, devices_per_seed: as in
        `make_plan`.
      out: run folder; None for runs/<agent>-<env>-<preset>-<changes>-seed<k>, see `names`.
      resume: continue the run in `out` from its last checkpoint, with the same results as without a stop.
      overwrite: replace the run in `out`.
      log: sinks in addition to metrics.jsonl: "tensorboard", "wandb".
      wandb_project, wandb_entity, wandb_name: of the W&B runs, one for each seed; None for $WANDB_PROJECT or "purerl",
        $WANDB_ENTITY or W&B's default, $WANDB_NAME or the folder's name. The name is the group's too, if there is no
        $WANDB_RUN_GROUP.
      log_every: iterations in one row of metrics; 0 for about 200 rows a run. It does not change the training.
      checkpoint_seconds: wall time between checkpoints; 0 saves with every row.
      eval_every: environment steps of each seed between evaluations; 0 for none. The rows of metrics contain their
        `evaluation_return`. They play as `purerl eval` does, with their own environments and random numbers, so the
        training is the same with and without them.
      eval_episodes: episodes of every environment in each evaluation.
      eval_env_options: environment options of these evaluations that replace those of training: {"num_levels": 0} for
        all of Procgen's levels.
      random_episodes: episodes of random play, measured before training and drawn beside the curve; 0 for none.
      keep_best, hours: as in `Recording`.
      video_every: environment steps of each seed between videos; 0 for none. Each shows how the first seed's agent
        plays one environment then, from the same first observation, and is <out>/figures/video-<step>.gif. The training
        is the same with and without them.
      video_steps: steps that each of these videos shows.
      quiet: whether to hide the progress bar and the final table.

    Returns:
      the finished Run.

    Raises:
      PurerlError: bad input (nothing is written then), a folder that already holds a run, a damaged checkpoint, a loss
        that is NaN or infinity (the last good checkpoint stays).
      KeyboardInterrupt: Ctrl-C, after the run has been saved.
    """
    user_modules.refuse_while_importing("purerl.train")
    sharding.one_cpu_device_per_core()
    if resume and out is not None:
        user_modules.restore_from(Path(out) / run_folder.CONFIG)
    the_plan = make_plan(
        agent,
        env,
        preset=preset,
        seeds=seeds,
        seed=seed,
        steps=steps,
        config=config,
        env_options=env_options,
        lanes=lanes,
        devices_per_seed=devices_per_seed,
    )
    recording = Recording(
        log_every=log_every,
        checkpoint_seconds=checkpoint_seconds,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        eval_env_options=eval_env_options,
        random_episodes=random_episodes,
        keep_best=keep_best,
        hours=hours,
        video_every=video_every,
        video_steps=video_steps,
    )
    logging = Logging.of(log, wandb_project, wandb_entity, wandb_name)
    how = {"out": out, "resume": resume, "overwrite": overwrite, "quiet": quiet}
    return train_plan(
        the_plan, recording, logging, **how, new_length=steps is not None, new_devices=devices_per_seed != "auto"
    )


def train_plan(
    the_plan: Plan,
    recording: Recording | None = None,
    logging: Logging | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    new_length: bool = False,
    new_devices: bool = False,
) -> Run:
    """Trains a plan, as `train` does.

    Args:
      the_plan: what to train.
      recording: how often the run writes, saves, evaluates and films; None for the defaults of `train`.
      logging: where its metrics go in addition to metrics.jsonl; None for nowhere.
      out, resume, overwrite, quiet: as in `train`.
      new_length: whether a resumed run takes its length from the plan instead of keeping its own.
      new_devices: the same of its devices for each seed.
    """
    recording, logging = recording or Recording(), logging or Logging()
    folder = Path(out) if out is not None else default_folder(the_plan)
    run_folder.check(folder, resume=resume, overwrite=overwrite)
    the_plan = _resumed_plan(the_plan, folder, new_length, new_devices) if resume else with_lanes(the_plan)
    sinks.check_sinks(logging.log)
    logged = logging.resume(logs.stored_in(folder), folder) if resume else logging.begin(folder)
    estimates.check_training(the_plan)
    agent_checks.check_agent(the_plan)
    compilation.enable_cache()
    if not quiet and (line := rounding(the_plan)):
        progress.note(line)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_folder.held(folder))
        run_folder.check(folder, resume=resume, overwrite=overwrite)  # again: nobody else can change it now
        if the_plan.imports:  # the user's own functions may read what has changed since
            forget_shared_loop()
        loop = shared_loop(the_plan)
        stack.callback(close, loop)
        evaluations, videos = make_evaluations(the_plan, recording), make_videos(the_plan, folder, recording)
        if not resume:
            learned = functools.partial(run_folder.has_rows, folder)
            stack.enter_context(run_folder.undone_if_nothing_is_learned(folder, ownership.RUN, learned))
        mark = None if resume else random_return(the_plan, recording.random_episodes)
        content = header(the_plan) | {"random_return": mark, "recording": recording.to_dict()} | logged.to_dict()
        run_folder.create(folder, content, resume=resume, overwrite=overwrite)
        if resume:  # its length and the user's modules may have changed
            update_header(folder, the_plan)
            if logged.log:  # for the next `purerl resume`
                logs.remember(folder, logged)
        trainer = Trainer(
            the_plan,
            [Member(the_plan, folder, logged)],
            loop,
            folder / run_folder.CHECKPOINTS,
            resume=resume,
            recording=recording,
            evaluations=evaluations,
            videos=videos,
            quiet=quiet,
            label=f"{the_plan.agent} {the_plan.env}",
            resumed_by=f"purerl resume {shlex.quote(str(folder))}",
        )
        if resume and (summary := _finished_summary(the_plan, folder)) is not None:
            if not quiet:
                progress.note(
                    f"the run in {folder} is finished: to train on, ask for more than {the_plan.steps:,} --steps"
                )
            state = _last_state(trainer)
        else:
            (summary,), state = trainer.run()
    if not quiet:
        progress.summary_table(summary)
    return Run(folder, summary, state)


def _resumed_plan(asked: Plan, folder: Path, new_length: bool, new_devices: bool) -> Plan:
    """The stored plan, after a check that `asked` equals it; only the length may differ, down to what is done, and the
    devices, which change no more than the rounding.
    """
    stored = Plan.from_dict(run_folder.load(folder)["config"])
    if new_devices:
        stored = dataclasses.replace(stored, devices_per_seed=asked.devices_per_seed)
    differs = difference(stored, dataclasses.replace(asked, steps=stored.steps))
    if asked.lanes not in ("auto", stored.lanes):
        differs = "lanes", f"was {stored.lanes}, is {asked.lanes}"
    if differs:
        raise PurerlError(f"--resume: {differs[0]} differs from the run in {folder}: {differs[1]}")
    if not new_length:
        return stored
    done = (Checkpoints(folder / run_folder.CHECKPOINTS).latest() or 0) * stored.steps_per_iteration
    if asked.steps < done:
        raise PurerlError(
            f"--resume: the run in {folder} already has {done:,} steps, and --steps asks for {asked.steps:,}: ask for "
            "more, or leave --steps out"
        )
    return dataclasses.replace(stored, steps=asked.steps, asked_steps=asked.asked_steps)


def _finished_summary(the_plan: Plan, folder: Path) -> dict[str, Any] | None:
    """The summary.json of a run that has its whole length; None if it has not."""
    summary = run_folder.load(folder)["summary"]
    whole = summary is not None and summary.get("steps") == the_plan.steps
    done = Checkpoints(folder / run_folder.CHECKPOINTS).latest()
    return summary if whole and done == the_plan.iterations else None


def _last_state(trainer: Trainer) -> RunState:
    """The RunState [S, ...] of a finished run, read without writing anything."""
    try:
        with trainer.saving.checkpoints:
            _, state, _, _ = trainer.saving.restore(trainer.loop.init(trainer.config, trainer.keys))
            return trainer.saving.of_seeds(state)
    finally:
        trainer.timing.watch.stop()
