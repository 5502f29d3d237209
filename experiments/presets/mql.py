"""Presets of MQL, and of TD3 with a context."""

from __future__ import annotations

from purerl.registry import Preset

PRESETS: dict[str, Preset] = {
    "tasks": Preset(
        steps=60_000,
        default_for=("*",),
        source="purerl's own, for point robots: small networks, and a discount of 0.9 for episodes of 20 steps",
        config={
            "num_envs": 4,
            "rollout_length": 1,
            "train_period": 1,
            "hidden": (64, 64),
            "batch_size": 128,
            "replay_size": 40_000,
            "learning_starts": 1_000,
            "history_length": 5,
            "context_size": 16,
            "snapshot_size": 8_000,
            "discount": 0.9,
        },
    ),
}
