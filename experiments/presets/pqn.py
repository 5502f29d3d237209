"""Presets of PQN: the settings of the authors' code, mttga/purejaxql at 92897f5 (purejaxql/config/alg)."""

from __future__ import annotations

from purerl.experiments.presets.value_based import FIRST_PAPER, PLAYS_ON
from purerl.registry import Preset

# What pqn_craftax.yaml and pqn_rnn_craftax.yaml share, and flax's own initializer as in the code of both.
CRAFTAX = {
    "num_envs": 1024,
    "network": "mlp",
    "hidden": (512, 512),
    "initializer": "lecun",
    "learning_rate": 3e-4,
    "max_grad_norm": 0.5,
    "epsilon_final": 0.005,
}

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
    "craftax": Preset(
        default_for=("craftax/*",),
        steps=1_000_000_000,
        source="pqn_craftax.yaml: 1024 x 1, one-step targets, two layers of 512, but layer instead of batch "
        "renormalization, and none of the observations; every episode in a world of its own (there one new world for "
        "16 environments). UNVERIFIED: no result of these settings is on the scoreboard",
        config={**CRAFTAX, "rollout_length": 1, "num_epochs": 1, "num_minibatches": 1, "trace_decay": 0.0},
    ),
    "craftax-rnn": Preset(
        steps=1_000_000_000,
        source="pqn_rnn_craftax.yaml: 1024 x 128, 4 epochs, 4 minibatches, lambda 0.5, a layer of 512, but a GRU of "
        "512 instead of an LSTM (it also sees the last reward), layer instead of batch renormalization, and none of "
        "the observations; the file has 10B steps. UNVERIFIED that the scoreboard's PQN-RNN, of 1B, has these settings",
        config={
            **CRAFTAX,
            "rollout_length": 128,
            "num_epochs": 4,
            "num_minibatches": 4,
            "trace_decay": 0.5,
            "hidden": (512,),
            "recurrent": "gru",
            "recurrent_size": 512,
        },
    ),
    "craftax-small": Preset(
        steps=10_000_000,
        source="purerl's own, not tuned: craftax-rnn without the GRU, with 64 environments and two layers of 64, for "
        "CPUs (--recurrent gru puts it back)",
        config={
            **CRAFTAX,
            "num_envs": 64,
            "rollout_length": 128,
            "num_epochs": 4,
            "num_minibatches": 4,
            "trace_decay": 0.5,
            "hidden": (64, 64),
        },
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
