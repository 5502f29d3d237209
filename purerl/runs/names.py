"""The default names of run and sweep folders. They contain what differs from the preset, so that two runs with
different settings do not collide.

    runs/<agent>-<env>-<preset>-<changes>-seed<k>                    changes: learning_rate_0.001-env.num_levels_200
    runs/sweep-<agent>-<env>-<preset>-<changes>-over-<fields>        fields: learning_rate-discount

A name does not depend on the order of flags, nor on the number of steps, which may change when a run is resumed. Long
names end with a digest of all changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from purerl import configs
from purerl.runs import files
from purerl.runs.plan import Plan, settings
from purerl.runs.search_space import ENVIRONMENT

MOST_CHARACTERS = 80  # of the changes in a name; file systems allow 255 in all
_DIGEST_CHARACTERS = 8


def default_folder(the_plan: Plan) -> Path:
    """runs/<agent>-<env>-<preset>-<changes>-seed<k>, or -seed<k>to<l> for several seeds."""
    first, last = the_plan.seeds[0], the_plan.seeds[-1]
    seeds = f"seed{first}" if len(the_plan.seeds) == 1 else f"seed{first}to{last}"
    return Path("runs") / "-".join([*_start(the_plan), *_joined(changes(the_plan)), seeds])


def default_sweep_folder(first: Plan, swept: Iterable[str]) -> Path:
    """runs/sweep-<agent>-<env>-<preset>-<changes>-over-<fields>.

    Args:
      first: the plan of the sweep's first cell.
      swept: the names of the swept fields.
    """
    swept = list(swept)
    fixed = {name: value for name, value in changes(first).items() if name not in swept}
    return Path("runs") / "-".join(["sweep", *_start(first), *_joined(fixed), "over", *_shortened(swept, swept)])


def changes(the_plan: Plan) -> dict[str, Any]:
    """{name: plain value} of the fields that differ from the plan's preset; options are named "env.<option>"."""
    base = settings(the_plan.agent, the_plan.env, the_plan.preset)
    found = _changed(configs.to_dict(base.config()), configs.to_dict(the_plan.config))
    options = _changed(configs.to_dict(base.options()), configs.to_dict(the_plan.options))
    return found | {f"{ENVIRONMENT}{name}": value for name, value in options.items()}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in now.items() if name not in before or before[name] != value}


def _start(the_plan: Plan) -> list[str]:
    return [the_plan.agent, the_plan.env.replace("/", "-"), the_plan.preset]


def _joined(changed: Mapping[str, Any]) -> list[str]:
    """The parts of a name for some changes, such as ["learning_rate_0.001", "hidden_64x64"]."""
    return _shortened([f"{name}_{_text(value)}" for name, value in changed.items()], changed)


def _shortened(parts: list[str], whole: Any) -> list[str]:
    """Parts of a name that are safe in file names and not too long.

    Where this loses anything, the name ends with a digest of `whole`, so that different settings keep different names.
    """
    safe = [re.sub(r"[^\w.-]+", "_", part, flags=re.ASCII) for part in parts]
    kept: list[str] = []
    while len(kept) < len(safe) and len("-".join([*kept, safe[len(kept)]])) <= MOST_CHARACTERS:
        kept.append(safe[len(kept)])
    if kept == parts:
        return kept
    digest = hashlib.sha256(files.to_json(whole).encode()).hexdigest()[:_DIGEST_CHARACTERS]
    more = len(safe) - len(kept)
    return [*kept, *([f"and_{more}_more"] if more else []), digest]


def _text(value: Any) -> str:
    """A plain value as on the command line: 0.001, 64x64, true, none."""
    if isinstance(value, list):
        return "x".join(map(_text, value)) or "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
