"""purerl: reinforcement learning that lives on the accelerator.

    import purerl
    run = purerl.train("ppo", "gymnax/CartPole-v1", seeds=4)
    print(run.summary["final_return"])

Names are imported at their first use, so that `import purerl` and the command line do not wait for jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from purerl.errors import PurerlError

if TYPE_CHECKING:
    from purerl.registry import Preset, register_agent, register_family, register_figure, register_preset
    from purerl.rng import seed_keys
    from purerl.runs.evaluation import evaluate
    from purerl.runs.functions import load_policy, make_train
    from purerl.runs.plan import make_plan
    from purerl.runs.resume import resume
    from purerl.runs.sweeps import sweep
    from purerl.runs.tables import load_runs
    from purerl.runs.train import train
    from purerl.types import (
        Agent,
        Clock,
        Environment,
        EnvSpec,
        Inputs,
        Metric,
        Rollout,
        RunState,
        TimeStep,
        static,
        traced,
    )

    __version__: str

_NAMES = {
    "purerl.registry": ("Preset", "register_agent", "register_family", "register_figure", "register_preset"),
    "purerl.rng": ("seed_keys",),
    "purerl.runs.evaluation": ("evaluate",),
    "purerl.runs.functions": ("load_policy", "make_train"),
    "purerl.runs.plan": ("make_plan",),
    "purerl.runs.resume": ("resume",),
    "purerl.runs.sweeps": ("sweep",),
    "purerl.runs.tables": ("load_runs",),
    "purerl.runs.train": ("train",),
    "purerl.types": (
        *("Agent", "Clock", "EnvSpec", "Environment", "Inputs", "Metric", "Rollout", "RunState", "TimeStep"),
        *("static", "traced"),
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Agent",
    "Clock",
    "EnvSpec",
    "Environment",
    "Inputs",
    "Metric",
    "Preset",
    "PurerlError",
    "Rollout",
    "RunState",
    "TimeStep",
    "evaluate",
    "load_policy",
    "load_runs",
    "make_plan",
    "make_train",
    "register_agent",
    "register_family",
    "register_figure",
    "register_preset",
    "resume",
    "seed_keys",
    "static",
    "sweep",
    "traced",
    "train",
]


if not TYPE_CHECKING:  # a type checker would believe that every name exists

    def __getattr__(name: str) -> Any:
        """Imports a name of `_HOMES` at its first use; `__version__` is the version of the installed distribution."""
        if name == "__version__":
            from importlib.metadata import version

            value = version("purerl")
        elif name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'purerl' has no attribute '{name}'")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
