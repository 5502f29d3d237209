"""Films an agent that plays: of a finished run (`purerl video`), and during training (`--video-every`)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import arguments, registry
from purerl.errors import PurerlError
from purerl.loops import collect, compilation, play, sharding
from purerl.runs import estimates, files, ownership, run_folder, videos
from purerl.runs.evaluation import Player, open_for_evaluation
from purerl.runs.plan import Plan
from purerl.runs.recording import Recording
from purerl.types import PyTree, RunState

FRAMES_PER_SECOND = 15.0


def first_seed(plan: Plan, agent_state: PyTree) -> tuple[Plan, PyTree]:
    """Selects the first seed: the plan of that seed alone, and its State [1, ...]."""
    return plan_of_first_seed(plan), sharding.take(agent_state, slice(1))


def plan_of_first_seed(plan: Plan) -> Plan:
    """The plan of the first seed alone."""
    config = jax.tree.map(lambda x: np.asarray(x)[:1] if np.ndim(x) else x, plan.config)
    return dataclasses.replace(plan, seeds=plan.seeds[:1], config=config)


def film(
    folder: str | Path,
    *,
    steps: int,
    greedy: bool = False,
    seed: int = 0,
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    best: bool = False,
) -> tuple[list[np.ndarray], list[float]]:
    """Plays one environment with the agent of a run's first seed.

    Args:
      folder: the run folder.
      steps: how many steps to play, at least 1.
      greedy, seed, env, env_options, best: as in `evaluate`.

    Returns:
      as `Camera.film`.

    Raises:
      PurerlError: as in `evaluate` and `Camera.film`.
    """
    arguments.in_range("steps", steps, 1, 2**31 - 1)
    arguments.in_range("seed", seed, 0, 2**31 - 1)
    compilation.enable_cache()
    _, plan, state, _ = open_for_evaluation(Path(folder), env, env_options, best, slice(1))
    plan, state = first_seed(plan, state)
    return Camera(plan, steps, greedy).film(state, seed)


class Camera:
    """Films agents of one plan. It compiles once.

    Args:
      plan: of one seed.
      steps: how many steps a film shows.
      greedy: as in `Player`.

    Raises:
      PurerlError: the frames do not fit into the memory.
    """

    def __init__(self, plan: Plan, steps: int, greedy: bool = False):
        estimates.check_evaluation(plan, 1, 1, frames=steps)
        self._plan, self._steps = plan, steps
        self._player = Player(plan, num_envs=1, greedy=greedy, observations=True)

    def film(self, agent_state: PyTree, seed: int = 0) -> tuple[list[np.ndarray], list[float]]:
        """Plays one environment.

        Args:
          agent_state, seed: as in `Player.play`.

        Returns:
          The pictures (see `Player.picture`) of the steps, before each of them, and the returns of the episodes that
          ended in them.

        Raises:
          PurerlError: the frames do not fit into the memory, or a renderer gives no picture.
        """
        pictures: list[np.ndarray] = []
        returns, running = [], 0.0
        with contextlib.closing(self._player.play(agent_state, seed)) as blocks:
            for block, t in self._take(blocks):
                pictures.append(self._player.picture(block, 0, t, 0))
                if len(pictures) == 1:
                    estimates.check_frames(self._plan, self._steps, pictures[0].nbytes)
                if pictures[-1].shape != pictures[0].shape:
                    shapes = f"{list(pictures[0].shape)} and {list(pictures[-1].shape)}"
                    raise PurerlError(
                        f"the pictures of {self._plan.env} have different shapes, {shapes}: draw one size"
                    )
                running += float(block.reward[0, t, 0])
                if block.done[0, t, 0]:
                    returns.append(running)
                    running = 0.0
        return pictures, returns

    def _take(self, blocks: Iterator[play.Block]) -> Iterator[tuple[play.Block, int]]:
        """The blocks of the steps, and each step's place in its block."""
        left = self._steps
        for block in blocks:
            for t in range(min(left, block.done.shape[1])):
                yield block, t
            left -= block.done.shape[1]
            if left <= 0:
                return


# --- during training -------------------------------------------------------------------------------------------------


def path_of(folder: Path, step: int) -> Path:
    """Where a run keeps the video of a step of its training."""
    return folder / run_folder.FIGURES / f"video-{step}.gif"


class Videos:
    """Films the first seed's agent during its training, each time from the same first observation.

    Args:
      the_plan: the run's plan.
      folder: the run folder.
      every: environment steps of each seed between videos.
      steps: how many steps a video shows.

    Raises:
      PurerlError: the frames do not fit into the memory.
    """

    def __init__(self, the_plan: Plan, folder: Path, every: int, steps: int):
        self._agent, self._folder, self._every = registry.agent(the_plan.agent), folder, every
        self._camera = Camera(plan_of_first_seed(the_plan), steps)

    def write(self, state: RunState, before: int, now: int) -> None:
        """Writes the video of step `now`, if one is due since the last row at step `before`.

        Args:
          state: of the seeds, [S, ...].

        Raises:
          PurerlError: a full disk or no permission, and as `Camera.film`.
        """
        if now // self._every == before // self._every:
            return
        agent_state = sharding.take(collect.acting_part(self._agent, state.agent), slice(1))
        pictures, _ = self._camera.film(agent_state)
        videos.write_episode(pictures, path_of(self._folder, now), FRAMES_PER_SECOND)

    def remove_after(self, step: int) -> None:
        """Removes the videos of later steps, which a resumed run trains again. Raises PurerlError where it may not."""
        folder = self._folder / run_folder.FIGURES
        with files.writing(folder):
            for made_at, path in ownership.videos_of_training(folder).items():
                if made_at > step and path.is_file():
                    path.unlink()


def make_videos(the_plan: Plan, folder: Path, recording: Recording) -> Videos | None:
    """The videos of a run's recording; None if there are none. Raises PurerlError as `Videos`."""
    if not recording.video_every:
        return None
    return Videos(the_plan, folder, recording.video_every, recording.video_steps)
