"""purerl: reinforcement learning that lives on the accelerator.

    import purerl
    run = purerl.train("ppo", "gymnax/CartPole-v1", seeds=4)
    print(run.summary["final_return"])

Names are imported when they are first used, so that `import purerl` and the command line do not wait for jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from purerl.errors import PurerlError

if TYPE_CHECKING:
    from purerl.registry import register_agent, register_family
    from purerl.runs.evaluation import evaluate
    from purerl.runs.plan import make_plan
    from purerl.runs.sweeps import sweep
    from purerl.runs.train import train

_HOMES = {
    "evaluate": "purerl.runs.evaluation",
    "make_plan": "purerl.runs.plan",
    "register_agent": "purerl.registry",
    "register_family": "purerl.registry",
    "sweep": "purerl.runs.sweeps",
    "train": "purerl.runs.train",
}

__all__ = ["PurerlError", "evaluate", "make_plan", "register_agent", "register_family", "sweep", "train"]


def __getattr__(name: str) -> Any:
    """Imports one of `_HOMES` at its first use; `__version__` is that of the installed distribution."""
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
