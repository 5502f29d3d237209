"""The configuration of the runs of a report, and the differences between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from purerl.report.curves import Run, mapping
from purerl.report.wording import device, plain
from purerl.runs.differences import settings as settings_of

# Settings that have a column of their own in the table of results.
_COLUMNS = ("agent", "env", "seeds", "steps")
MOST_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Fields of several runs.

    Attributes:
      same: {field: its value in every run}.
      different: {field: its value in each run, None for a run without this field}.
    """

    same: dict[str, str]
    different: dict[str, list[str | None]]

    def __len__(self) -> int:
        return len(self.same) + len(self.different)


def settings(runs: Sequence[Run]) -> Comparison:
    """The settings of each run: agent, environment, seeds, steps, the agent's config and environment options."""
    return _compare([settings_of(run.config) for run in runs])


def protocol(runs: Sequence[Run]) -> Comparison:
    """The protocol switches."""
    return _compare([mapping(run.config.get("protocol")) for run in runs])


def facts(runs: Sequence[Run]) -> Comparison:
    """Software and hardware of the runs: commit, device, platform, versions."""
    return _compare([_facts(mapping(run.config.get("environment"))) for run in runs])


def differences(runs: Sequence[Run]) -> tuple[Comparison, int]:
    """The fields of settings and protocol that differ.

    Returns:
      The fields that all runs have with different values, and the number of fields that only some of the runs have.
    """
    found = settings(runs).different | protocol(runs).different
    shared = {name: values for name, values in found.items() if None not in values}
    return Comparison({}, shared), len(found) - len(shared)


def columns(found: Comparison) -> dict[str, list[str | None]]:
    """The settings that differ, as columns of the table of results; none if there are more than MOST_COLUMNS."""
    shown = {name: values for name, values in found.different.items() if name not in _COLUMNS}
    return shown if len(shown) <= MOST_COLUMNS else {}


def _facts(ran: dict) -> dict[str, Any]:
    commit = ran.get("git_commit")
    return {
        "commit": commit and f"{commit}{' with changes' if ran.get('git_dirty') else ''}",
        "device": device(ran.get("device")),
        "platform": ran.get("platform"),
        "cpu_count": ran.get("cpu_count"),
        **mapping(ran.get("versions")),
    }


def _compare(fields: Sequence[dict[str, Any]]) -> Comparison:
    names = dict.fromkeys(name for one in fields for name in one)
    values = {name: [plain(one[name]) if name in one else None for one in fields] for name in names}
    return Comparison(
        same={name: of_run[0] for name, of_run in values.items() if len(set(of_run)) == 1},
        different={name: of_run for name, of_run in values.items() if len(set(of_run)) > 1},
    )
