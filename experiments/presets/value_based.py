"""Settings that the presets of the DQN family share."""

from __future__ import annotations

import dataclasses

from purerl.registry import Preset

# The regime of the authors' configuration "first paper": no sticky actions, a lost life is an end (spec of DQN Pro).
FIRST_PAPER = {"repeat_action_probability": 0.0, "life_loss": "terminal"}
PLAYS_ON = "the step in which a life is lost plays its four frames (Dopamine's ends at once)"
# Dopamine's "nature" configuration of the agent and the games.
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
# Ours: as minatar, with the MLP of the other MinAtar presets, which a CPU runs ten times as fast.
MINATAR_SMALL = {**MINATAR, "network": "mlp", "hidden": (64, 64), "learning_rate": 5e-4}
# Ours: of 8 seeds on CartPole 7 stay at 500, where one-step returns lose it again and again.
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
# Real Atari in minutes on two cores: everything happens, little is learned.
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
