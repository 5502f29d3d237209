"""Presets of P3O and of A2C, its baseline."""

from __future__ import annotations

from purerl.experiments.presets.value_based import FIRST_PAPER, PLAYS_ON
from purerl.registry import Preset

# The paper's protocol of Atari: no sticky actions, up to 30 no-ops, a lost life is a termination, signs of rewards.
_ATARI = {**FIRST_PAPER, "noop_max": 30}
_PAPER = "Fakoor et al. 2019, supplement; 28M steps; the replay holds whole stacks of frames, 24 GB a seed; "
_SMALL = {"network": "mlp", "hidden": (64, 64), "share_torso": False, "time_limit_is_terminal": False}
# 16 steps and lambda 0.95, as P3O has them.
_MATCHED = {"rollout_length": 16, "gae_lambda": 0.95}
_REPLAY = {"replay_size": 10_000, "learning_starts": 1_000}

PRESETS: dict[str, Preset] = {
    "atari": Preset(
        default_for=("atari/*",),
        steps=28_000_000,
        source=_PAPER + PLAYS_ON,
        config={"network": "nature", "reward_clip": 1.0},
        env=_ATARI,
    ),
    "minatar": Preset(
        default_for=("*-MinAtar",),
        steps=2_000_000,
        source="purerl's own, not tuned: the paper's constants with two layers of 64 and a replay of 160,000 steps",
        config={**_SMALL, **_REPLAY, "activation": "relu"},
    ),
    "classic": Preset(
        default_for=("*",),
        steps=500_000,
        source="purerl's own, not tuned: as minatar, with the tanh layers of the authors' code for classic control",
        config={**_SMALL, **_REPLAY},
    ),
}
A2C_PRESETS: dict[str, Preset] = {
    "atari": Preset(
        default_for=("atari/*",),
        steps=28_000_000,
        source="Fakoor et al. 2019, supplement: 16 x 5, n-step returns; " + PLAYS_ON,
        config={"network": "nature", "reward_clip": 1.0},
        env=_ATARI,
    ),
    "atari-matched": Preset(
        steps=28_000_000,
        source="atari with P3O's 16 steps and GAE; " + PLAYS_ON,
        config={"network": "nature", "reward_clip": 1.0, **_MATCHED},
        env=_ATARI,
    ),
    "minatar": Preset(
        default_for=("*-MinAtar",),
        steps=2_000_000,
        source="p3o's minatar without its replay",
        config={**_SMALL, **_MATCHED, "activation": "relu"},
    ),
    "classic": Preset(
        default_for=("*",),
        steps=500_000,
        source="p3o's classic without its replay",
        config={**_SMALL, **_MATCHED},
    ),
}
