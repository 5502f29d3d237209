"""Presets of the winners of the NeurIPS 2020 Procgen challenge, as they were and for environments without images."""

from __future__ import annotations

from typing import Any

from purerl.experiments.presets.actor_critic import CLASSIC, MINATAR, PROCGEN_SYMBOLIC
from purerl.registry import Preset

# What both of them see only in images, and sizes for one machine without an accelerator.
_NO_IMAGES: dict[str, Any] = {
    "auxiliary_augmentation": "none",
    "initializer": "orthogonal",
    "policy_iterations": 8,
    "skip_iterations": 0,
    "auxiliary_epochs": 2,
    "auxiliary_minibatches": 8,
    "reward_groups": 1,
}


def _presets(source: str) -> dict[str, Preset]:
    return {
        "procgen-easy": Preset(
            steps=8_000_000,
            default_for=("procgen/*", "procgen-jax/*"),
            source=source,
            env={"distribution_mode": "easy"},
        ),
        "procgen-symbolic": Preset(
            steps=8_000_000,
            source="purerl's own, not tuned: the agent's parts with the sizes of ppg's preset, on planes of cells",
            config={**PROCGEN_SYMBOLIC, **_NO_IMAGES},
            env={"distribution_mode": "easy", "observation": "symbolic"},
        ),
        "minatar": Preset(
            steps=2_000_000,
            default_for=("*-MinAtar",),
            source="purerl's own, not tuned: the agent's parts with the sizes of ppg's preset",
            config={**MINATAR, **_NO_IMAGES},
        ),
        "classic": Preset(
            steps=500_000,
            default_for=("*",),
            source="purerl's own, not tuned: the agent's parts with the sizes of ppg's preset",
            config={**CLASSIC, **_NO_IMAGES, "num_minibatches": 4, "auxiliary_minibatches": 4},
        ),
        "quick": Preset(
            steps=100_000,
            source="purerl's own: the agent's parts with a small network and small rollouts, minutes on two CPU cores",
            config={
                "num_envs": 64,
                "rollout_length": 64,
                "num_minibatches": 8,
                "auxiliary_minibatches": 8,
                "reward_groups": 1,
                "policy_iterations": 4,
                "skip_iterations": 0,
                "auxiliary_epochs": 2,
                "network": "nature",
            },
            env={"distribution_mode": "easy"},
        ),
    }


GENERALIZATION = _presets("Chakraborty and Tran: Dipamc77/procgen-competition, commit 19f6ab2, 8M steps in easy mode")
SAMPLE_EFFICIENCY = _presets("Gaidon and Wulfe: wulfebw/neurips2020-procgen, commit ec31191, 8M steps in easy mode")
