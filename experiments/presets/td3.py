"""Presets of TD3."""

from __future__ import annotations

from purerl.experiments.presets.ppo import MUJOCO
from purerl.registry import Preset

PRESETS: dict[str, Preset] = {
    "mujoco": Preset(
        steps=1_000_000,
        default_for=MUJOCO,
        source="the authors' released code, second version: 256-256, Adam 3e-4, batches of 256, 25k random steps",
    ),
    "td3-2018": Preset(
        steps=1_000_000,
        source="Fujimoto et al. 2018, appendix C: 400-300, Adam 1e-3, batches of 100, 10k random steps (there 1k "
        "for all but HalfCheetah and Ant)",
        config={"hidden": (400, 300), "learning_rate": 1e-3, "batch_size": 100, "learning_starts": 10_000},
    ),
    "classic": Preset(
        steps=20_000,
        default_for=("*",),
        source="purerl's own, for Pendulum and similar control tasks: small networks, a gradient step for every two "
        "transitions",
        config={
            "num_envs": 4,
            "rollout_length": 1,
            "train_period": 2,
            "hidden": (64, 64),
            "batch_size": 128,
            "replay_size": 20_000,
            "learning_starts": 1_000,
            "learning_rate": 1e-3,
        },
    ),
}
