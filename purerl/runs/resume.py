"""Continues a run or a sweep from its folder alone: `purerl.resume`, the command `purerl resume`."""

from __future__ import annotations

from pathlib import Path

from purerl import arguments
from purerl.errors import PurerlError
from purerl.loops import sharding
from purerl.runs import ownership, run_folder, sweeps, user_modules
from purerl.runs.logs import Logging
from purerl.runs.plan import Plan
from purerl.runs.recording import Recording
from purerl.runs.sweeps import Sweep
from purerl.runs.train import Run, train_plan


@arguments.checked
def resume(folder: str | Path, *, steps: int | None = None, quiet: bool = False) -> Run | Sweep:
    """Continues the run or the sweep in a folder as it was begun: what was asked for is read from the folder.

    Args:
      folder: its folder.
      steps: a new length of a run; None keeps its own.
      quiet: as in `train`.

    Returns:
      the finished Run or Sweep.

    Raises:
      PurerlError: a folder without a run or a sweep, one of a challenge (which the command continues), and as `train`
        and `sweep`.
      KeyboardInterrupt: Ctrl-C, after everything has been saved.
    """
    folder = Path(folder)
    if ownership.holds(folder, ownership.CHALLENGE):
        raise PurerlError(f"{folder} holds a challenge: the command line continues it, with purerl resume {folder}")
    if sweeps.holds_sweep(folder):
        if steps is not None:
            raise PurerlError("--steps: the runs of a sweep keep their length; leave it out")
        return sweeps.resume(folder, quiet=quiet)
    user_modules.refuse_while_importing("purerl.resume")
    user_modules.restore_from(folder / run_folder.CONFIG)
    stored = run_folder.load(folder)["config"]
    sharding.one_cpu_device_per_core()
    the_plan = Plan.from_dict(stored)
    if steps is not None:
        the_plan = the_plan.with_steps(steps)
    recording, logging = Recording.from_dict(stored.get("recording", {})), Logging(tuple(stored.get("log", ())))
    how = {"out": folder, "resume": True, "quiet": quiet}
    return train_plan(the_plan, recording, logging, **how, new_length=steps is not None)
