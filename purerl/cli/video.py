"""`purerl video`: plays the trained agent of a run and writes what it saw as a video."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from purerl.errors import PurerlError
from purerl.loops import compilation
from purerl.report import videos
from purerl.runs import run_folder
from purerl.runs.evaluation import Block, Player, first_seed, open_for_evaluation


def record(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    steps: int = 300,
    frames_per_second: float = 15.0,
    greedy: bool = False,
    seed: int = 0,
    env_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes a video of one environment, played by the agent of a run's first seed.

    Args:
      folder: of the run.
      out: the video, .gif or .mp4; None for <folder>/figures/video.gif.
      steps: how many steps to show, one frame each.
      frames_per_second: of the video.
      greedy, seed, env_options: as in `evaluate`.

    Returns:
      {"path": of the video, "steps": its frames, "returns": [those of the episodes that ended in it]}.

    Raises:
      PurerlError: as `evaluate`, or the video cannot be written.
    """
    path = Path(folder) / run_folder.FIGURES / "video.gif" if out is None else Path(out)
    if steps < 1:
        raise PurerlError(f"a video of {steps} steps; use 1 or more")
    videos.check(path, frames_per_second)  # before playing, which takes a while
    observations, returns = film(folder, steps=steps, greedy=greedy, seed=seed, env_options=env_options)
    videos.write_episode(observations, path, frames_per_second)
    return {"path": str(path), "steps": steps, "returns": returns}


# --- playing ---------------------------------------------------------------------------------------------------------


def film(
    folder: str | Path,
    *,
    steps: int,
    greedy: bool = False,
    seed: int = 0,
    env_options: dict[str, Any] | None = None,
) -> tuple[list[np.ndarray], list[float]]:
    """Plays one environment with the agent of a run's first seed.

    Args:
      folder: of the run.
      steps: how many steps to play, at least 1.
      greedy, seed, env_options: as in `evaluate`.

    Returns:
      The `steps` observations that the agent acted on, and the returns of the episodes that ended meanwhile.

    Raises:
      PurerlError: as `evaluate`.
    """
    compilation.enable_cache()
    _, plan, state, _ = open_for_evaluation(Path(folder), env_options)
    plan, state = first_seed(plan, state)
    player = Player(plan, num_envs=1, greedy=greedy, observations=True)
    observations: list[np.ndarray] = []
    returns, running = [], 0.0
    with contextlib.closing(player.play(state, seed)) as blocks:
        for observation, reward, done in itertools.islice(_steps(blocks), steps):
            observations.append(np.array(observation))
            running += reward
            if done:
                returns.append(running)
                running = 0.0
    return observations, returns


def _steps(blocks: Iterable[Block]) -> Iterator[tuple[np.ndarray, float, bool]]:
    """(observation, reward, done) of each step of the only environment, without those that only reset it."""
    for block in blocks:
        for t in range(block.done.shape[1]):
            if block.valid is None or block.valid[0, t, 0]:
                yield block.observation[0, t, 0], float(block.reward[0, t, 0]), bool(block.done[0, t, 0])
