"""Settings that the presets of ppo and ppg share."""

from __future__ import annotations

# Two 64-64 MLPs on the flattened planes, large step sizes annealed to zero: fast, with high returns on MinAtar.
MINATAR = {
    "num_envs": 64,
    "rollout_length": 128,
    "num_minibatches": 8,
    "network": "mlp",
    "activation": "relu",
    "initializer": "orthogonal",
    "time_limit_is_terminal": False,
    "anneal_learning_rate": True,
    "learning_rate": 5e-3,
    "discount": 0.99,
}
CLASSIC = {
    "num_envs": 16,
    "rollout_length": 128,
    "network": "mlp",
    "initializer": "orthogonal",
    "time_limit_is_terminal": False,
    "anneal_learning_rate": True,
    "learning_rate": 1e-3,
    "discount": 0.99,
}
# Planes of cells instead of frames, so that a small network on two CPU cores plays Procgen's 25M steps in minutes; the
# rest is as published.
PROCGEN_SYMBOLIC = {
    "num_envs": 64,
    "rollout_length": 256,
    "network": "mlp",
    "hidden": (64, 64),
    "activation": "relu",
    "initializer": "orthogonal",
}
# MichaelTMatthews/Craftax_Baselines, the defaults that ppo.py and ppo_rnn.py share. A time-out is an end there.
CRAFTAX = {
    "num_envs": 1024,
    "rollout_length": 64,
    "num_epochs": 4,
    "num_minibatches": 8,
    "network": "mlp",
    "initializer": "orthogonal",
    "scale_rewards": "none",
    "reward_clip": float("inf"),
    "time_limit_is_terminal": True,
    "anneal_learning_rate": True,
    "learning_rate": 2e-4,
    "adam_epsilon": 1e-5,
    "max_grad_norm": 1.0,
    "discount": 0.99,
    "gae_lambda": 0.8,
    "clip": 0.2,
    "value_clip": 0.2,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
}
