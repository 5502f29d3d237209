"""`purerl video`: plays with the trained agent of a run and writes what it sees as a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from purerl import arguments
from purerl.errors import PurerlError
from purerl.runs import run_folder, videos
from purerl.runs.filming import film


def steps_of(seconds: float, frames_per_second: float) -> int:
    """How many steps a video of that length shows. Raises PurerlError for a length that no video has."""
    arguments.in_range("seconds", seconds, 0, 10**6)
    arguments.in_range("frames_per_second", frames_per_second, 0, 10**6)
    return round(seconds * frames_per_second)


@arguments.checked
def record(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    steps: int = 300,
    frames_per_second: float = 15.0,
    greedy: bool = False,
    seed: int = 0,
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    best: bool = False,
) -> dict[str, Any]:
    """Writes a video of one environment, played by the agent of a run's first seed.

    Args:
      folder: the run folder.
      out: the video, .gif or .mp4; None for <folder>/figures/video.gif.
      steps: how many steps to show, one frame each.
      frames_per_second: speed of the video.
      greedy, seed, env, env_options, best: as in `evaluate`.

    Returns:
      {"path": path of the video, "steps": number of frames, "returns": [returns of the episodes that ended in it]}.

    Raises:
      PurerlError: as in `evaluate`, or the video cannot be written.
    """
    path = Path(folder) / run_folder.FIGURES / "video.gif" if out is None else Path(out)
    if steps < 1:
        raise PurerlError(f"a video cannot have {steps} steps; use 1 or more")
    videos.check(path, frames_per_second)  # before playing, which takes some time
    which = {"greedy": greedy, "seed": seed, "env": env, "env_options": env_options, "best": best}
    pictures, returns = film(folder, steps=steps, **which)
    videos.write_episode(pictures, path, frames_per_second)
    return {"path": str(path), "steps": steps, "returns": returns}
