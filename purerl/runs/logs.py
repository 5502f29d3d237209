"""Where the metrics of a run go in addition to metrics.jsonl, and the names of its W&B runs.

`Logging` holds the flags. `Logged` is what a folder keeps of them, so that a resumed run logs to the same place:
config.json has {"log": ["wandb"], "wandb": {"project": ..., "entity": ..., "group": ..., "name": ..., "id": ...}}.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from purerl.configs import flag
from purerl.errors import PurerlError
from purerl.runs import files, run_folder, schemas

PROJECT = "purerl"  # of W&B, where nothing else is asked for


@dataclasses.dataclass(frozen=True)
class WandbNames:
    """The names of a run's W&B runs, one for each seed.

    Attributes:
      project, entity: where they are; None for W&B's default entity.
      group: that they are in.
      name: shown in W&B; with several seeds, that of seed k is <name>/seed_<k>.
      id: identifies them within the project: that of seed k is <id>-<k>.
      job_type: of them; a sweep's runs have one for each cell.
    """

    project: str
    entity: str | None
    group: str
    name: str
    id: str
    job_type: str = "train"

    def of_cell(self, cell: str) -> WandbNames:
        """Those of one cell of a sweep, in the same group."""
        return dataclasses.replace(self, name=f"{self.name}/{cell}", id=_new_id(), job_type=f"cell {cell}")


@dataclasses.dataclass(frozen=True)
class Logged:
    """What a run logs to in addition to metrics.jsonl.

    Attributes:
      log: names of sinks.
      wandb: names of its W&B runs; None without W&B.
    """

    log: tuple[str, ...] = ()
    wandb: WandbNames | None = None

    def to_dict(self) -> dict[str, Any]:
        """{"log": names, "wandb": names of W&B}, for JSON; without W&B only the first."""
        return {"log": list(self.log)} | ({} if self.wandb is None else {"wandb": dataclasses.asdict(self.wandb)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: object) -> Logged:
        """Reads a dict, which may contain other keys. Raises PurerlError, which names the file, if it is damaged."""
        found = values.get("wandb")
        if found is not None:
            schemas.check(found, schemas.WANDB, where, 'start again, or remove its "wandb"')
            found = WandbNames(**{field.name: found[field.name] for field in dataclasses.fields(WandbNames)})
        return cls(tuple(values.get("log") or ()), found)

    def of_cell(self, cell: str) -> Logged:
        """That of one cell of a sweep."""
        return dataclasses.replace(self, wandb=None if self.wandb is None else self.wandb.of_cell(cell))


@dataclasses.dataclass(frozen=True)
class Logging:
    """Where metrics go in addition to metrics.jsonl. The fields are flags of `purerl train` and `purerl sweep`.

    Attributes:
      log: names of sinks.
      wandb_project, wandb_entity, wandb_name: of the W&B runs; None for W&B's environment variables, and without them
        for "purerl", the user's default entity, and the folder's name.

    Raises:
      PurerlError: names for W&B, but no W&B among the sinks.
    """

    log: tuple[Literal["tensorboard", "wandb"], ...] = flag(
        (), "where to write metrics in addition to metrics.jsonl", "{tensorboard,wandb}", "(default: nowhere)"
    )
    wandb_project: str | None = flag(None, "project of the W&B runs", "NAME", "(default: $WANDB_PROJECT, or purerl)")
    wandb_entity: str | None = flag(
        None, "user or team of the W&B runs", "NAME", "(default: $WANDB_ENTITY, or W&B's own default)"
    )
    wandb_name: str | None = flag(
        None, "name of the W&B run, and of the group of its seeds", "NAME", "(default: $WANDB_NAME, or the folder's)"
    )

    @classmethod
    def of(cls, log: Sequence[str], project: str | None, entity: str | None, name: str | None) -> Logging:
        """Logging to sinks with these names, which `sinks.check_sinks` checks."""
        return cls(tuple(log), project, entity, name)  # pyright: ignore[reportArgumentType]

    def __post_init__(self):
        for name, value in self._names().items():
            if value is not None and "wandb" not in self.log:
                shown = f"--{name.replace('_', '-')}"
                raise PurerlError(f"{shown} needs --log wandb: add it, or leave {shown} out")
            if value == "":
                raise PurerlError(f"{name} = '' must not be empty; None is the default")

    def _names(self) -> dict[str, str | None]:
        names = ("wandb_project", "wandb_entity", "wandb_name")
        return {name: getattr(self, name) for name in names}

    def begin(self, folder: Path) -> Logged:
        """What a new run or sweep in a folder logs to. Reads W&B's environment variables."""
        if "wandb" not in self.log:
            return Logged(tuple(self.log))
        name = self.wandb_name or os.environ.get("WANDB_NAME") or folder.resolve().name
        names = WandbNames(
            project=self.wandb_project or os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=self.wandb_entity or os.environ.get("WANDB_ENTITY") or None,
            group=os.environ.get("WANDB_RUN_GROUP") or name,
            name=name,
            id=_new_id(),
        )
        return Logged(tuple(self.log), names)

    def resume(self, stored: Logged, folder: Path) -> Logged:
        """What a resumed run logs to: the same W&B runs as before. Raises PurerlError if other names are asked for."""
        if "wandb" not in self.log:
            return Logged(tuple(self.log))
        if stored.wandb is None:
            return self.begin(folder)
        for name, asked in self._names().items():
            before = getattr(stored.wandb, name.removeprefix("wandb_"))
            if asked is not None and asked != before:
                raise PurerlError(
                    f"--resume: {name} was {before}, is {asked}: leave it out, since W&B runs keep their names"
                )
        return Logged(tuple(self.log), stored.wandb)


def stored_in(folder: Path) -> Logged:
    """What the run in a folder logs to."""
    return Logged.from_dict(run_folder.load(folder)["config"], folder / run_folder.CONFIG)


def remember(folder: Path, logged: Logged) -> None:
    """Writes into a run's config.json what the run logs to from now on."""
    stored = run_folder.load(folder)["config"]
    if stored | logged.to_dict() != stored:
        files.write_json(folder / run_folder.CONFIG, stored | logged.to_dict())


def _new_id() -> str:
    return secrets.token_hex(4)
