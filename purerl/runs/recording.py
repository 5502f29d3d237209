"""How a run is kept: how often it writes rows, saves, and evaluates. None of it changes the training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from purerl.configs import flag
from purerl.errors import PurerlError


@dataclasses.dataclass(frozen=True)
class Recording:
    """How a run is kept. The fields are flags of `purerl train` and `purerl sweep`.

    Attributes:
      log_every: iterations in one row of metrics; 0 for about 200 rows a run.
      checkpoint_seconds: wall time between checkpoints; 0 saves with every row.
      eval_every: environment steps of each seed between evaluations, at the rows of metrics; 0 for none.
      eval_episodes: episodes of every environment in each evaluation.
      eval_env_options: environment options over those of training, for the evaluations; the flags `--eval-env.*`.

    Raises:
      PurerlError: a number that cannot be, options for evaluations that there are not.
    """

    log_every: int = flag(0, "iterations in one row of metrics", "N", "(default: 0, for about 200 rows a run)")
    checkpoint_seconds: float = flag(300.0, "wall time between checkpoints; 0 saves with every row", "S")
    eval_every: int = flag(0, "environment steps of each seed between evaluations", "N", "(default: 0, for none)")
    eval_episodes: int = flag(10, "episodes of every environment in each evaluation", "N")
    eval_env_options: dict[str, Any] | None = dataclasses.field(default=None, metadata={"flag": False})

    def __post_init__(self):
        if self.log_every < 0:
            raise PurerlError(f"log_every = {self.log_every} must not be negative (0 is for about 200 rows a run)")
        if math.isnan(self.checkpoint_seconds) or self.checkpoint_seconds < 0:
            raise PurerlError(f"checkpoint_seconds = {self.checkpoint_seconds} must be a number that is not negative")
        if self.eval_every < 0 or (self.eval_every and self.eval_episodes < 1):
            raise PurerlError(
                f"eval_every = {self.eval_every} and eval_episodes = {self.eval_episodes} must be at least 1"
            )
        if self.eval_env_options and not self.eval_every:
            raise PurerlError("options of the evaluation's environment without evaluations: set eval_every as well")

    def to_dict(self) -> dict[str, Any]:
        """{field: value}, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recording:
        """Of a dict that may hold other things as well."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})
