"""Presets of MQL, and of TD3 with a context."""

from __future__ import annotations

from purerl.registry import Preset

PRESETS: dict[str, Preset] = {
    "tasks": Preset(
        steps=40_000,
        default_for=("*",),
        source="purerl's own, for families of small tasks: small networks, a gradient step for every two transitions",
        config={
            "num_envs": 8,
            "rollout_length": 1,
            "train_period": 2,
            "hidden": (64, 64),
            "batch_size": 128,
            "replay_size": 40_000,
            "learning_starts": 1_000,
            "history_length": 10,
            "context_size": 16,
            "snapshot_size": 8_000,
        },
    ),
}
