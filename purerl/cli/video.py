"""Records a video of a trained agent."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from purerl.errors import PurerlError
from purerl.loops import compilation
from purerl.report import videos
from purerl.runs import run_folder
from purerl.runs.evaluation import Player, first_seed, open_for_evaluation

# --- videos ----------------------------------------------------------------------------------------------------------


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
    folder = Path(folder)
    path = folder / run_folder.FIGURES / "video.gif" if out is None else Path(out)
    if path.suffix.lower() not in videos.FORMATS:  # before playing for a while
        raise PurerlError(f"cannot write a '{path.suffix}' video ({path}); use {' or '.join(videos.FORMATS)}")
    if path.suffix.lower() == ".mp4" and videos.find_ffmpeg() is None:
        raise PurerlError("an MP4 needs ffmpeg: pip install imageio-ffmpeg, or write a .gif instead")
    if steps < 1:
        raise PurerlError(f"a video of {steps} steps; use 1 or more")
    compilation.enable_cache()
    plan, state = first_seed(*open_for_evaluation(folder, env_options)[1:3])
    frames: list[np.ndarray] = []
    returns, running = [], 0.0
    player = Player(plan, num_envs=1, greedy=greedy, observations=True)
    with contextlib.closing(player.play(state, seed)) as blocks:
        for block in blocks:
            for t in range(block.done.shape[1]):
                frames.append(videos.observation_to_frame(block.observation[0, t, 0]))
                running += float(block.reward[0, t, 0])
                if block.done[0, t, 0]:
                    returns.append(running)
                    running = 0.0
                if len(frames) == steps:
                    break
            if len(frames) == steps:
                break
    videos.write_video(np.stack(frames), path, frames_per_second)
    return {"path": str(path), "steps": steps, "returns": returns}
