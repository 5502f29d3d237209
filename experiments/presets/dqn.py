"""Presets of DQN and DQN Pro."""

from __future__ import annotations

from purerl.experiments.presets.value_based import (
    CLASSIC,
    FIRST_PAPER,
    MINATAR,
    MINATAR_SMALL,
    NATURE,
    PLAYS_ON,
    QUICK,
    pro_presets,
)
from purerl.registry import Preset

PRESETS: dict[str, Preset] = {
    "dopamine": Preset(
        default_for=("atari/*",),
        steps=50_000_000,
        source="Dopamine's JAX DQN: Adam, squared error, sticky actions, 200 iterations of 250k steps",
        config={"network": "dopamine"},
    ),
    "pro-paper": Preset(
        steps=30_000_000,
        source="Dopamine's TensorFlow DQN in the authors' first-paper regime; which optimizer they used is unverified; "
        + PLAYS_ON,
        config=NATURE,
        env=FIRST_PAPER,
    ),
    "nature": Preset(
        steps=50_000_000,
        source=f"Dopamine's dqn_nature.gin, after Mnih et al. 2015; {PLAYS_ON}",
        config={
            **NATURE,
            "learning_starts": 50_000,
            "target_period": 10_000,
            "epsilon_decay_steps": 1_000_000.0,
            "epsilon_final": 0.1,
            "epsilon_evaluation": 0.05,
        },
        env=FIRST_PAPER,
    ),
    "minatar": Preset(
        default_for=("*-MinAtar",),
        steps=1_000_000,
        source="Young and Tian 2019: network, sizes, a gradient step per frame, final epsilon 0.1 (but Dopamine's "
        "Adam and squared error, 8 environments, no sticky actions, a fifth of the frames)",
        config=MINATAR,
    ),
    "minatar-small": Preset(
        steps=1_000_000,
        source="purerl's own: minatar with a 64-64 MLP and a quarter of the gradient steps, for CPUs",
        config=MINATAR_SMALL,
    ),
    "classic": Preset(
        default_for=("*",), steps=200_000, source="purerl's own, for CartPole and similar control tasks", config=CLASSIC
    ),
    "quick": Preset(
        steps=16_000,
        source="purerl's own: the whole algorithm at small scale, minutes on two CPU cores",
        config=QUICK,
    ),
}

PRO_PRESETS = pro_presets(PRESETS)
