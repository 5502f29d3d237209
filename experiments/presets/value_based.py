"""Settings that the presets of the DQN family share."""

from __future__ import annotations

import dataclasses

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
# MinAtar's own network and sizes (Young and Tian 2019), with Dopamine's optimizer constants at MinAtar's step size.
MINATAR = {
    "num_envs": 8,
    "rollout_length": 1,
    "network": "minatar",
    "replay_size": 100_000,
    "learning_starts": 5_000,
    "target_period": 1_000,
    "epsilon_decay_steps": 100_000.0,
    "learning_rate": 2.5e-4,
}
# Ours: as minatar, but with the MLP of the other MinAtar presets, which is ten times as fast on a CPU.
MINATAR_SMALL = {**MINATAR, "network": "mlp", "hidden": (64, 64), "learning_rate": 5e-4}
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


def pro_presets(presets: dict[str, Preset], coefficients: dict[str, float]) -> dict[str, Preset]:
    """The presets of a Pro agent: those of its base, with another proximal coefficient in some."""
    changed = {
        name: dataclasses.replace(presets[name], config={**presets[name].config, "proximal_coefficient": coefficient})
        for name, coefficient in coefficients.items()
    }
    return {**presets, **changed}
