"""Settings that the presets of the DQN family share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from purerl.registry import Preset

# The authors' configuration "first paper": no sticky actions, a lost life is a termination (DQN Pro).
FIRST_PAPER = {"repeat_action_probability": 0.0, "life_loss": "terminal"}
PLAYS_ON = "the step in which a life is lost plays its four frames (Dopamine's ends at once)"
# Dopamine's "nature" configuration of the agent and the environments.
NATURE = {
    "network": "dopamine",
    "loss": "huber",
    "optimizer": "rmsprop",
    "optimizer_epsilon": 1e-5,
    "learning_rate": 2.5e-4,
    "time_limit_is_terminal": True,
}
# MinAtar's own network and sizes (Young and Tian 2019, arXiv 1903.03176; examples/dqn.py of kenjyoung/MinAtar has
# TRAINING_FREQ 1, TARGET_NETWORK_UPDATE_FREQ 1000 in gradient steps and END_EPSILON 0.1), with Dopamine's optimizer at
# MinAtar's step size.
MINATAR = {
    "num_envs": 8,
    "rollout_length": 1,
    "train_period": 1,
    "network": "minatar",
    "replay_size": 100_000,
    "learning_starts": 5_000,
    "target_period": 1_000,
    "epsilon_decay_steps": 100_000.0,
    "epsilon_final": 0.1,
    "learning_rate": 2.5e-4,
}
# Ours: the MLP of the other MinAtar presets, ten times as fast on a CPU, a quarter of the gradient steps, Dopamine's
# final epsilon.
MINATAR_SMALL = {
    **MINATAR,
    "network": "mlp",
    "hidden": (64, 64),
    "learning_rate": 5e-4,
    "train_period": 4,
    "epsilon_final": 0.01,
}
# Ours: 7 of 8 seeds on CartPole keep a return of 500; with one-step returns they lose it repeatedly.
CLASSIC = {
    "num_envs": 10,
    "rollout_length": 1,
    "train_period": 10,
    "batch_size": 128,
    "replay_size": 10_000,
    "learning_starts": 1_000,
    "target_period": 500,
    "num_steps": 3,
    "network": "mlp",
    "hidden": (120, 84),
    "learning_rate": 5e-4,
    "optimizer_epsilon": 1e-8,
    "epsilon_decay_steps": 10_000.0,
    "epsilon_final": 0.05,
    "reward_clip": float("inf"),
}
# Real Atari in minutes on two cores: the whole algorithm runs, but learns little.
QUICK = {
    "num_envs": 8,
    "rollout_length": 4,
    "network": "nature",
    "train_period": 8,
    "replay_size": 20_000,
    "learning_starts": 2_000,
    "target_period": 2_000,
    "epsilon_decay_steps": 8_000.0,
}


# --- the proximal coefficient -----------------------------------------------------------------------------------------
# The pull of a step is m = learning_rate / c. What it does depends on K, the gradient steps between target copies: it
# leaves (1 - m)^K of a distance, and drift_left(m, K) of a constant drift. The papers' runs have m = 1.25e-3, K = 2000.

# Dopamine's, which are the defaults of both agents; a test compares them.
DEFAULTS = {"learning_rate": 6.25e-5, "train_period": 4, "target_period": 8_000}
PUBLISHED_PULL, PUBLISHED_STEPS = 1.25e-3, 2_000


def drift_left(pull: float, steps: int) -> float:
    """The share of a constant drift that is left at the end of a target period: (1 - (1 - m)^K) / (m K).

    The optimizer moves a parameter by d in each of K steps, and each step pulls it back by a fraction m of its distance
    from the target network. After K steps the distance is d (1 - (1 - m)^K) / m, without the pull it is K d.

    Args:
      pull: m = learning_rate / c, from 0 (no pull) to 1.
      steps: K, gradient steps between target copies, at least 1.

    Returns:
      the share, from 1 (the pull does nothing) down to 1 / K.
    """
    return (1 - (1 - pull) ** steps) / (pull * steps) if pull else 1.0


def steps_between_targets(config: Mapping[str, Any]) -> int:
    """K of config fields; those that are missing are Dopamine's."""
    config = DEFAULTS | dict(config)
    return config["target_period"] // config["train_period"]


def drift_left_by(config: Mapping[str, Any], coefficient: float) -> float:
    """`drift_left` of config fields with the proximal coefficient c."""
    return drift_left((DEFAULTS | dict(config))["learning_rate"] / coefficient, steps_between_targets(config))


def published_coefficient(config: Mapping[str, Any]) -> float:
    """The c with which config fields keep as much of a constant drift as the papers' runs: m K is 2.5 as there.

    So c is 0.4 x learning_rate x K: DQN Pro's published 0.2 at 2.5e-4, Rainbow Pro's 0.05 at 6.25e-5.
    """
    rate = (DEFAULTS | dict(config))["learning_rate"]
    return float(f"{rate * steps_between_targets(config) / (PUBLISHED_PULL * PUBLISHED_STEPS):.4g}")


def pro_presets(presets: dict[str, Preset]) -> dict[str, Preset]:
    """The presets of a Pro agent: those of its base, with `published_coefficient`; their sources say what it does."""
    found = {}
    for name, preset in presets.items():
        c = published_coefficient(preset.config)
        said = f"c = {c:g} leaves {drift_left_by(preset.config, c):.2f} of a constant drift after the "
        said += f"{steps_between_targets(preset.config):,} gradient steps between targets"
        config = {**preset.config, "proximal_coefficient": c}
        found[name] = dataclasses.replace(preset, config=config, source=f"{preset.source}; {said}")
    return found
