"""Presets of PPG."""

from __future__ import annotations

from purerl.experiments.presets.actor_critic import CLASSIC, MINATAR, PROCGEN_SYMBOLIC
from purerl.registry import Preset

PRESETS: dict[str, Preset] = {
    "procgen-hard": Preset(
        steps=100_000_000,
        source="Cobbe et al. 2020b, appendix A and released code: the published runs",
        env={"distribution_mode": "hard"},
    ),
    "procgen-easy": Preset(
        steps=25_000_000,
        default_for=("procgen/*", "procgen-jax/*"),
        source="procgen-hard with one worker of 64 environments, so four times as many auxiliary steps per frame",
        config={"num_envs": 64},
        env={"distribution_mode": "easy"},
    ),
    "procgen-symbolic": Preset(
        steps=25_000_000,
        source="purerl's own, not tuned: procgen-easy on planes of cells, two layers of 64, N_pi = 8, E_aux = 3",
        config={**PROCGEN_SYMBOLIC, "policy_iterations": 8, "auxiliary_epochs": 3},
        env={"distribution_mode": "easy", "observation": "symbolic"},
    ),
    "minatar": Preset(
        steps=2_000_000,
        default_for=("*-MinAtar",),
        source="purerl's own: the MinAtar settings of ppo, with N_pi = 8 rollouts of 64 x 128",
        config={
            **MINATAR,
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
        default_for=("*",),
        source="purerl's own, for CartPole and similar control tasks",
        config={
            **CLASSIC,
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
        source="purerl's own: the whole algorithm with a small network, a learning curve in minutes on two CPU cores",
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
}
