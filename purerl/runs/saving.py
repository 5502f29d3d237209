"""Saving a training program and restoring it: learning state, environments and pool together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.errors import PurerlError
from purerl.loops import host, in_graph, sharding, sums
from purerl.loops import lanes as lane_ways
from purerl.runs import checkpoint, schemas
from purerl.runs.divergence import ADVICE, Divergence, named
from purerl.runs.plan import Plan
from purerl.types import Pool, RunState


@dataclasses.dataclass
class Period:
    """A log period that is not over.

    Attributes:
      began: the iteration that it began after.
      sums: Sums [S, ...] of its metrics so far, or their arrays from a checkpoint; None before its first piece.
      seconds: time spent on it so far, without compilation.
    """

    began: int
    sums: Any
    seconds: float = 0.0


class Saving:
    """The checkpoints of one program.

    A program may have more lanes than seeds, so that all devices have as many. Checkpoints hold the seeds' lanes only:
    a run can be resumed on a machine with another number of devices.

    Parameters and optimizer state are looked at before they are saved. A run with NaN or infinity in them is not saved,
    so its newest checkpoint is always a good one. The checkpoint of a program that goes on without its diverged lanes
    lists them in its metadata: {"diverged": [{"lane", "seed", "leaf"}]}, and so does that of each of its runs.

    Args:
      folder: of the checkpoints.
      loop: the program's loop.
      config: the program's config, its traced fields arrays of all lanes.
      num_seeds, num_lanes: of the program.
      stop_at_nan: whether NaN or infinity in a lane is an error.

    Attributes:
      diverged: {lane: names of its leaves with NaN or infinity}, in the newest checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        loop: in_graph.InGraphLoop | host.HostLoop,
        config: Any,
        num_seeds: int,
        num_lanes: int,
        *,
        stop_at_nan: bool = True,
    ):
        self.checkpoints = checkpoint.Checkpoints(folder)
        self.diverged: dict[int, list[str]] = {}
        self._stop_at_nan, self._divergence = stop_at_nan, Divergence(loop.agent, loop.spec, config)
        self._loop, self._config, self._num_seeds, self._num_lanes = loop, config, num_seeds, num_lanes

    def of_seeds(self, state: RunState) -> RunState:
        """The lanes of the seeds, without those that only fill up the devices."""
        return sharding.take(state, slice(self._num_seeds))

    def save(
        self, iteration: int, state: RunState, plan: Plan, spent: dict[str, Any], period: Period | None = None
    ) -> None:
        """Saves the whole program; with `period`, in the middle of that log period.

        Raises PurerlError as `Checkpoints.save`, and for NaN or infinity in a run.
        """
        run = self.of_seeds(state)
        self.diverged = self.look(run)
        if self.diverged and self._stop_at_nan:
            lane, leaves = next(iter(self.diverged.items()))
            raise PurerlError(
                f"{named(leaves)} of seed {plan.seeds[lane]} became NaN or infinite by iteration {iteration}, which is "
                f"not saved; {self.kept()}. {ADVICE}"
            )
        tree, metadata = {"run": run, "pool": self._pool_state()}, {"plan": plan.to_dict()} | spent | self._marks(plan)
        if period is not None:
            tree["sums"] = self.of_seeds(sums.arrays(period.sums))
            metadata["period"] = {"began": period.began, "seconds": period.seconds}
        self.checkpoints.save(iteration, tree, metadata)

    def look(self, run: RunState) -> dict[int, list[str]]:
        """{lane: names of its leaves with NaN or infinity} of the seeds' lanes."""
        return self._divergence.find(run.agent, run.key)

    def kept(self) -> str:
        """What is left of a run that must stop."""
        iteration = self.checkpoints.latest()
        return "no checkpoint was made yet" if iteration is None else f"the checkpoint of iteration {iteration} is kept"

    def diverged_seeds(self, plan: Plan, lanes: slice) -> list[int]:
        """The diverged seeds of a run of the program, in the newest checkpoint."""
        return [mark["seed"] for mark in self._marks(plan, lanes).get("diverged", [])]

    def _marks(self, plan: Plan, lanes: slice = slice(None)) -> dict[str, Any]:
        """The metadata about diverged lanes, for the checkpoint of a plan's seeds, which are in these lanes."""
        first = lanes.start or 0
        marks = [
            {"lane": lane - first, "seed": plan.seeds[lane - first], "leaf": named(leaves)}
            for lane, leaves in self.diverged.items()
            if 0 <= lane - first < len(plan.seeds)
        ]
        return {"diverged": marks} if marks else {}

    def save_member(
        self, folder: Path, iteration: int, state: RunState, lanes: slice, plan: Plan, spent: dict[str, Any]
    ) -> None:
        """Saves one run of the program in its own folder, as if it had been trained alone."""
        if folder.absolute() == self.checkpoints.folder:
            return  # the run is the program
        tree = {"run": sharding.take(state, lanes), "pool": self._pool_state(lanes)}
        with checkpoint.Checkpoints(folder) as checkpoints:
            checkpoints.save(iteration, tree, {"plan": plan.to_dict()} | spent | self._marks(plan, lanes))

    def restore(self, state: RunState) -> tuple[int, RunState, dict[str, Any], Period | None]:
        """(iteration, RunState, metadata, Period) of the newest checkpoint; `state`, a fresh one, if there is none. The
        Period is None for a checkpoint at the end of one.

        A pool that cannot be restored begins new episodes. Raises PurerlError as `Checkpoints.restore`, and for a run
        that has diverged.
        """
        if self.checkpoints.latest() is None:
            return 0, state, {}, None
        _, metadata = self.checkpoints.read_metadata()
        schemas.check_metadata(metadata, self.checkpoints.folder)
        marks = metadata.get("diverged") or []
        if marks and self._stop_at_nan:
            raise PurerlError(
                f"the checkpoint in {self.checkpoints.folder.parent} cannot be continued: {told(marks)}. Train again "
                "in another folder (--out), with other settings or without that seed"
            )
        self.diverged = {mark["lane"]: [mark["leaf"]] for mark in marks}
        template = {"run": self.of_seeds(state), "pool": self._pool_template()}
        if metadata.get("period"):
            kinds = {"total": np.float32, "rest": np.float32, "low": np.uint32, "high": np.uint32}
            template["sums"] = {name: checkpoint.AnyShape(kind) for name, kind in kinds.items()}
        iteration, tree, metadata = self.checkpoints.restore(template)
        period = None
        if metadata.get("period"):
            found = lane_ways.pad_state(tree["sums"], self._num_lanes)
            period = Period(metadata["period"]["began"], found, metadata["period"]["seconds"])
        state = self._loop.placed(lane_ways.pad_state(tree["run"], self._num_lanes))
        return iteration, self._with_pool(state, tree["pool"], iteration), metadata, period

    def join(
        self, state: RunState, folders: Sequence[Path], lanes: Sequence[slice], iteration: int
    ) -> tuple[int, RunState, dict[str, Any], None]:
        """As `restore`, but from the checkpoints that `save_member` made of the program's runs at an iteration.

        A pool can only continue the games of one run.

        Raises PurerlError as `Checkpoints.restore`.
        """
        run, parts = self.of_seeds(state), []
        for folder, own in zip(folders, lanes, strict=True):
            with checkpoint.Checkpoints(folder) as checkpoints:
                template = {"run": sharding.take(run, own), "pool": self._pool_template()}
                _, tree, metadata = checkpoints.restore(template, iteration)
            parts.append(tree["run"])
        parts = jax.device_put(parts, jax.local_devices()[0])  # each was restored where its lanes were
        joined = jax.tree.map(lambda *of_runs: jnp.concatenate(of_runs), *parts)
        state = self._loop.placed(lane_ways.pad_state(joined, self._num_lanes))
        return iteration, self._with_pool(state, tree["pool"], iteration), metadata, None

    def _pool_template(self) -> dict[str, checkpoint.AnyShape] | None:
        stored = self._pool_state()
        return None if stored is None else {name: checkpoint.AnyShape(x.dtype) for name, x in stored.items()}

    def _with_pool(self, state: RunState, stored: dict[str, np.ndarray] | None, iteration: int) -> RunState:
        """The state, after the pool has been restored; with new episodes where it cannot be."""
        if stored is None:
            return state
        self._loop.pool.restore(stored)
        return state if self._loop.pool.resumes_exactly else self._loop.restarted(self._config, state, iteration)

    def _pool_state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray] | None:
        pool: Pool | None = getattr(self._loop, "pool", None)
        return None if pool is None else pool.state(lanes)


def told(marks: Sequence[dict[str, Any]]) -> str:
    """What the metadata of a checkpoint say about its diverged lanes, in some words."""
    return "; ".join(f"seed {mark['seed']} diverged: {mark['leaf']} became NaN or infinite" for mark in marks)
