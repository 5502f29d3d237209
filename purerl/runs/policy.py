"""Opens a trained run, to act with its agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from purerl import configs, registry, rng
from purerl.loops import lanes
from purerl.runs import checkpoint, progress, run_folder, schemas
from purerl.runs.plan import Plan, seed_keys
from purerl.runs.saving import told
from purerl.types import Agent, EnvSpec


def open_run(folder: str | Path) -> tuple[Plan, Agent, EnvSpec, Any, Callable[[], Any]]:
    """Opens a run folder: (plan, agent, spec, traced config, load).

    load() reads the fields of the agent's State [S, ...] that `act` needs; the other fields are None. It says on stderr
    which seeds have diverged.

    Raises PurerlError for a folder that holds no run or no checkpoint.
    """
    folder = Path(folder)
    the_plan = Plan.from_dict(run_folder.load(folder)["config"])
    agent = registry.agent(the_plan.agent)
    spec = registry.env_spec(the_plan.env, the_plan.options)
    config = configs.traced(the_plan.config)

    def load() -> Any:
        initial = lanes.in_turn(lambda c, key: agent.init(c, spec, rng.init_key(key)))
        template = jax.eval_shape(initial, config, seed_keys(the_plan))
        with checkpoint.Checkpoints(folder / "checkpoints") as saved:
            _, metadata = saved.read_metadata()
            schemas.check_metadata(metadata, saved.folder)
            marks = metadata.get("diverged")
            if marks:
                progress.note(f"the checkpoint in {folder} is not good: {told(marks)}")
            parts = {name: saved.restore_part(f"run/agent/{name}", getattr(template, name)) for name in agent.acting}
        return template.replace(**{f.name: parts.get(f.name) for f in dataclasses.fields(template)})

    return the_plan, agent, spec, config, load
