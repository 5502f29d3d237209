"""Presets of PQN: the settings of the authors' code, mttga/purejaxql at 92897f5 (purejaxql/config/alg)."""

from __future__ import annotations

from purerl.experiments.presets.value_based import FIRST_PAPER, PLAYS_ON
from purerl.registry import Preset

PRESETS: dict[str, Preset] = {
    "atari": Preset(
        default_for=("atari/*",),
        steps=10_000_000,
        source="pqn_atari.yaml: 10M steps, no sticky actions, up to 30 no-ops, clipped rewards, a lost life is a "
        f"termination; {PLAYS_ON}",
        config={
            "network": "nature",
            "learning_rate": 2.5e-4,
            "anneal_learning_rate": False,
            "epsilon_final": 0.001,
            "reward_clip": 1.0,
        },
        env={**FIRST_PAPER, "noop_max": 30},
    ),
    "minatar": Preset(
        default_for=("*-MinAtar",),
        steps=10_000_000,
        source="pqn_minatar.yaml and pqn_minatar.py: 128 x 32, 2 epochs, 32 minibatches, observations divided by 255",
        config={"network": "minatar", "observation_scale": 1 / 255},
    ),
    "minatar-small": Preset(
        steps=1_000_000,
        source="purerl's own, not tuned: minatar with two layers of 64, a quarter of the environments and minibatches, "
        "for CPUs",
        config={"num_envs": 32, "num_minibatches": 8, "network": "mlp", "hidden": (64, 64)},
    ),
    "classic": Preset(
        default_for=("*",),
        steps=500_000,
        source="pqn_cartpole.yaml: 32 x 64, 4 epochs, 16 minibatches, lambda 0.95, rewards times 0.1",
        config={
            "num_envs": 32,
            "rollout_length": 64,
            "num_epochs": 4,
            "num_minibatches": 16,
            "network": "mlp",
            "hidden": (256, 256),
            "initializer": "lecun",
            "learning_rate": 1e-4,
            "trace_decay": 0.95,
            "reward_scale": 0.1,
            "epsilon_final": 0.2,
            "epsilon_decay_fraction": 0.2,
        },
    ),
}
