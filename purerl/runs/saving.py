"""Saving a training program and restoring it: learning state, environments and pool together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl.loops import host, in_graph
from purerl.loops import lanes as lane_ways
from purerl.runs import checkpoint
from purerl.runs.plan import Plan
from purerl.types import Pool, RunState


class Saving:
    """The checkpoints of one program.

    A program may have more lanes than seeds, so that all devices have as many. Checkpoints hold the seeds' lanes only:
    a run can be resumed on a machine with another number of devices.

    Args:
      folder: of the checkpoints.
      loop: the program's loop.
      config: the program's config, its traced fields arrays of all lanes.
      num_seeds, num_lanes: of the program.
    """

    def __init__(
        self, folder: Path, loop: in_graph.InGraphLoop | host.HostLoop, config: Any, num_seeds: int, num_lanes: int
    ):
        self.checkpoints = checkpoint.Checkpoints(folder)
        self._loop, self._config, self._num_seeds, self._num_lanes = loop, config, num_seeds, num_lanes

    def of_seeds(self, state: RunState) -> RunState:
        """The lanes of the seeds, without those that only fill up the devices."""
        return state if self._num_seeds == self._num_lanes else jax.tree.map(lambda x: x[: self._num_seeds], state)

    def save(self, iteration: int, state: RunState, plan: Plan, spent: dict[str, float]) -> None:
        """Saves the whole program. Raises PurerlError as `Checkpoints.save`."""
        tree = {"run": self.of_seeds(state), "pool": self._pool_state()}
        self.checkpoints.save(iteration, tree, {"plan": plan.to_dict()} | spent)

    def save_member(
        self, folder: Path, iteration: int, state: RunState, lanes: slice, plan: Plan, spent: dict[str, float]
    ) -> None:
        """Saves one run of the program in its own folder, as if it had been trained alone."""
        if folder.absolute() == self.checkpoints.folder:
            return  # the run is the program
        tree = {"run": jax.tree.map(lambda x: x[lanes], state), "pool": self._pool_state(lanes)}
        with checkpoint.Checkpoints(folder) as checkpoints:
            checkpoints.save(iteration, tree, {"plan": plan.to_dict()} | spent)

    def restore(self, state: RunState) -> tuple[int, RunState, dict[str, Any]]:
        """(iteration, RunState, metadata) of the newest checkpoint; `state`, a fresh one, if there is none.

        A pool that cannot be restored begins new episodes. Raises PurerlError as `Checkpoints.restore`.
        """
        if self.checkpoints.latest() is None:
            return 0, state, {}
        pool_template = self._pool_state()
        if pool_template is not None:
            pool_template = {name: checkpoint.AnyShape(x.dtype) for name, x in pool_template.items()}
        template = {"run": self.of_seeds(state), "pool": pool_template}
        iteration, tree, metadata = self.checkpoints.restore(template)
        state = self._loop.placed(lane_ways.pad_state(tree["run"], self._num_lanes))
        if tree["pool"] is not None:
            self._loop.pool.restore(tree["pool"])
            if not self._loop.pool.resumes_exactly:
                state = self._loop.restarted(self._config, state, iteration)
        return iteration, state, metadata

    def _pool_state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray] | None:
        pool: Pool | None = getattr(self._loop, "pool", None)
        return None if pool is None else pool.state(lanes)
