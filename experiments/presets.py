"""Named settings of each agent: config fields, environment options and run length. `--preset` and flags lie over them.

A preset is data. Its `source` says where the numbers come from.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from purerl.errors import PurerlError, nearest


@dataclasses.dataclass(frozen=True)
class Preset:
    """Config fields and environment options that differ from the defaults, length in environment steps, source."""

    steps: int
    source: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    env: dict[str, Any] = dataclasses.field(default_factory=dict)


# Two 64-64 MLPs on the flattened planes, large steps annealed to zero: cheap, and strong on MinAtar.
_MINATAR = {
    "num_envs": 64,
    "rollout_length": 128,
    "num_minibatches": 8,
    "network": "mlp",
    "activation": "relu",
    "initializer": "orthogonal",
    "time_limit_is_terminal": False,
    "anneal_learning_rate": True,
    "learning_rate": 5e-3,
    "discount": 0.99,
}
_CLASSIC = {
    "num_envs": 16,
    "rollout_length": 128,
    "network": "mlp",
    "initializer": "orthogonal",
    "time_limit_is_terminal": False,
    "anneal_learning_rate": True,
    "learning_rate": 1e-3,
    "discount": 0.99,
}

PRESETS: dict[str, dict[str, Preset]] = {
    "ppo": {
        "procgen-easy": Preset(
            steps=25_000_000,
            source="Cobbe et al. 2020, released code, easy mode; --env.num-levels 200 for the generalization protocol",
            env={"distribution_mode": "easy"},
        ),
        "procgen-hard": Preset(
            steps=200_000_000,
            source="Cobbe et al. 2020, released code, hard mode (4 workers of 64 environments as one batch of 256)",
            config={"num_envs": 256},
            env={"distribution_mode": "hard"},
        ),
        "minatar": Preset(
            steps=2_000_000,
            source="the PPO settings common for MinAtar in JAX: 64 x 128, 4 epochs, 8 minibatches",
            config={**_MINATAR, "num_epochs": 4, "share_torso": False, "scale_rewards": "none"},
        ),
        "classic": Preset(
            steps=500_000,
            source="ours, for CartPole and games of its size",
            config={
                **_CLASSIC,
                "num_epochs": 4,
                "num_minibatches": 4,
                "share_torso": False,
                "scale_rewards": "per-step",
            },
        ),
    },
    "ppg": {
        "procgen-hard": Preset(
            steps=100_000_000,
            source="Cobbe et al. 2020b, appendix A and released code: the published runs",
            env={"distribution_mode": "hard"},
        ),
        "procgen-easy": Preset(
            steps=25_000_000,
            source="as procgen-hard with one worker of 64 environments: four times as many auxiliary steps a frame",
            config={"num_envs": 64},
            env={"distribution_mode": "easy"},
        ),
        "minatar": Preset(
            steps=2_000_000,
            source="ours: the MinAtar settings of ppo, N_pi = 8 rollouts of 64 x 128",
            config={
                **_MINATAR,
                "policy_iterations": 8,
                "policy_epochs": 4,
                "value_epochs": 4,
                "auxiliary_epochs": 2,
                "auxiliary_minibatches": 8,
                "max_grad_norm": 0.5,
                "auxiliary_learning_rate": 1e-3,
                "value_coefficient": 0.5,
            },
        ),
        "classic": Preset(
            steps=500_000,
            source="ours, for CartPole and games of its size",
            config={
                **_CLASSIC,
                "policy_iterations": 8,
                "policy_epochs": 4,
                "value_epochs": 4,
                "auxiliary_epochs": 2,
                "num_minibatches": 4,
                "auxiliary_minibatches": 4,
                "max_grad_norm": 0.5,
                "auxiliary_learning_rate": 1e-3,
            },
        ),
        "quick": Preset(
            steps=100_000,
            source="ours: the whole algorithm on a small network, to see a learning curve on two CPU cores in minutes",
            config={
                "num_envs": 64,
                "rollout_length": 64,
                "policy_iterations": 4,
                "auxiliary_epochs": 2,
                "network": "nature",
                "architecture": "detach",
                "learning_rate": 5e-4,
            },
            env={"distribution_mode": "easy"},
        ),
    },
}


def find(agent: str, preset: str | None, env: str) -> tuple[str, Preset]:
    """(name, preset) of an agent, the one that suits the environment if `preset` is None.

    Raises PurerlError, with the nearest name, if there is none.
    """
    known = PRESETS.get(agent, {})
    if preset is None:
        family, _, env_id = env.partition("/")
        preset = {"procgen": "procgen-easy"}.get(family, "minatar" if env_id.endswith("-MinAtar") else "classic")
        return (preset, known[preset]) if preset in known else ("none", Preset(steps=1_000_000, source="defaults"))
    if preset not in known:
        raise PurerlError(
            f"{agent} has no preset '{preset}'.{nearest(preset, known)} Known: {', '.join(known)} (purerl list presets)"
        )
    return preset, known[preset]
