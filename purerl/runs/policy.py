"""Opens a trained run, to act with its agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from purerl import configs, registry, rng
from purerl.errors import PurerlError
from purerl.loops import lanes
from purerl.runs import checkpoint, progress, run_folder, schemas
from purerl.runs.best import EPISODES
from purerl.runs.plan import Plan, seed_keys
from purerl.runs.saving import told
from purerl.types import Agent, EnvSpec


def open_run(
    folder: str | Path, best: bool = False, needed: slice = slice(None), whole_state: bool = False
) -> tuple[Plan, Agent, EnvSpec, Any, Callable[[], Any]]:
    """Opens a run folder: (plan, agent, spec, traced config, load).

    load() reads the fields of the agent's State [S, ...] that `act` needs; the other fields are None. It says on stderr
    which seeds have diverged. With `best` it reads the best ones instead of the newest, which the run must have kept.

    Args:
      folder: the run folder.
      best: whether to read the best parameters (see `best`).
      needed: the lanes of the seeds that must have best parameters.
      whole_state: whether load() reads all fields, the replay and the optimizer too.

    Raises:
      PurerlError: a folder that holds no run or no checkpoint, or lacks the best parameters of one of these seeds.
    """
    folder = Path(folder)
    the_plan = Plan.from_dict(run_folder.load(folder)["config"])
    if best:
        _check_best(folder, the_plan.seeds[needed])
    agent = registry.agent(the_plan.agent)
    spec = registry.env_spec(the_plan.env, the_plan.options)
    config = configs.traced(the_plan.config)

    def load() -> Any:
        initial = lanes.in_turn(lambda c, key: agent.init(c, spec, rng.init_key(key)))
        template = jax.eval_shape(initial, config, seed_keys(the_plan))
        with checkpoint.Checkpoints(folder / (run_folder.BEST if best else run_folder.CHECKPOINTS)) as saved:
            _, metadata = saved.read_metadata()
            schemas.check_metadata(metadata, saved.folder)
            marks = metadata.get("diverged")
            if marks:
                progress.note(f"the checkpoint in {folder} is not good: {told(marks)}")
            if whole_state:
                return saved.restore_part("run/agent", template)
            parts = {name: saved.restore_part(f"run/agent/{name}", getattr(template, name)) for name in agent.acting}
        return template.replace(**{f.name: parts.get(f.name) for f in dataclasses.fields(template)})

    return the_plan, agent, spec, config, load


def best_marks(folder: Path) -> list[dict[str, Any]]:
    """[{"seed", "step", "return"}] of a run's best parameters; None for those of a seed that has none, and [] of a run
    without any. Raises PurerlError if they are damaged.
    """
    seeds = run_folder.load(folder)["config"]["seeds"]
    with checkpoint.Checkpoints(folder / run_folder.BEST) as saved:
        if saved.latest() is None:
            return []
        return schemas.check_best(saved.read_metadata()[1], len(seeds), saved.folder)


def _check_best(folder: Path, seeds: Sequence[int]) -> None:
    """Raises PurerlError if a run has not kept the best parameters of one of these seeds."""
    steps = {mark["seed"]: mark.get("step") for mark in best_marks(folder)}
    missing = [seed for seed in seeds if steps.get(seed) is None]
    if missing:
        whose = f" of seed {missing[0]}" if any(step is not None for step in steps.values()) else ""
        raise PurerlError(
            f"{folder} has no best parameters{whose}: train with --keep-best, beyond an eighth of its steps and "
            f"{EPISODES} episodes of a seed; or leave --best out, for the newest ones"
        )
