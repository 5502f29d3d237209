"""How often a run writes rows, saves, evaluates and films, which leaves the training as it is; and when it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from purerl import arguments, configs
from purerl.configs import flag
from purerl.errors import PurerlError


@dataclasses.dataclass(frozen=True)
class Recording:
    """How often a run writes, saves, evaluates and films. The fields are flags of `purerl train`, and those before
    `video_every` of `purerl sweep`, too.

    Attributes:
      log_every: iterations in one row of metrics; 0 for about 200 rows a run.
      checkpoint_seconds: wall time between checkpoints; 0 saves with every row.
      eval_every: environment steps of each seed between evaluations, written in the rows of metrics; 0 for none.
      eval_episodes: episodes of every environment in each evaluation.
      random_episodes: episodes of random play, measured before a run trains: the mark that its curve must rise above.
      keep_best: whether to keep the parameters with the best smoothed training return beside the newest (see `best`).
      hours: wall time after which the run ends, between two rows; 0 for no limit. It counts all sessions of a run, with
        compilation. The run ends before it if the next log period would not fit any more (see `timing.Budget`).
      eval_env_options: environment options of the evaluations that replace those of training; the flags `--eval-env.*`.
      video_every: environment steps of each seed between videos of the first seed's agent; 0 for none.
      video_steps: steps that each of these videos shows.

    Raises:
      PurerlError: an invalid number, or evaluation options without evaluations.
    """

    log_every: int = flag(0, "iterations in one row of metrics", "N", "(default: 0, for about 200 rows a run)")
    checkpoint_seconds: float = flag(300.0, "wall time between checkpoints; 0 saves with every row", "S", low=0.0)
    eval_every: int = flag(
        0, "environment steps of each seed between evaluations", "N", "(default: 0, for none)", high=2**62
    )
    eval_episodes: int = flag(10, "episodes per environment in each evaluation", "N")
    random_episodes: int = flag(
        32, "episodes of random play, measured before training and drawn beside the curve", "N", low=0, high=2**20
    )
    keep_best: bool = flag(
        False, "keep the parameters with the best smoothed training return, for purerl eval and video --best"
    )
    hours: float = flag(0.0, "end in time for this many hours of wall time; 0 for no limit", "H", low=0.0)
    eval_env_options: dict[str, Any] | None = dataclasses.field(default=None, metadata={"flag": False})
    video_every: int = dataclasses.field(default=0, metadata={"flag": False})
    video_steps: int = dataclasses.field(default=150, metadata={"flag": False})

    def __post_init__(self):
        for name in ("checkpoint_seconds", "hours"):
            if getattr(self, name) != getattr(self, name):  # NaN
                raise PurerlError(f"{name} = nan must be finite and not negative")
        configs.check_fields(self)
        arguments.fitting("eval_env_options", dict[str, Any] | None, self.eval_env_options)
        for name, low, high in (("video_every", 0, 2**62), ("video_steps", 1, 2**31 - 1)):
            arguments.fitting(name, int, getattr(self, name))
            arguments.in_range(name, getattr(self, name), low, high)
        if self.eval_every and self.eval_episodes < 1:
            raise PurerlError(
                f"eval_every = {self.eval_every} and eval_episodes = {self.eval_episodes} must be at least 1"
            )
        if self.eval_env_options and not self.eval_every:
            raise PurerlError("there are evaluation options (--eval-env.*) but no evaluations: set eval_every as well")

    def to_dict(self) -> dict[str, Any]:
        """{field: value}, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recording:
        """Creates a Recording from a dict, which may contain other keys."""
        arguments.fitting("recording", Mapping, values)
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})
