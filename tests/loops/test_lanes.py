"""The seeds contract: with lanes run one after the other, a lane is its solo run, bit for bit, over whole runs."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import purerl
from purerl.loops import lanes
from purerl.runs.policy import open_run

PIXELS = {"network": "nature", "num_envs": 4, "rollout_length": 16, "num_minibatches": 2}
RUNS = {
    "ppo": ("ppo", "gymnax/CartPole-v1", 50_000, {}),
    # two auxiliary phases
    "ppg": (
        "ppg",
        "gymnax/CartPole-v1",
        4 * 8 * 16,
        {"num_envs": 8, "rollout_length": 16, "num_minibatches": 4, "policy_iterations": 2, "auxiliary_minibatches": 4},
    ),
    "rainbow": (
        "rainbow",
        "gymnax/CartPole-v1",
        1_000,
        {"learning_starts": 300, "replay_size": 1020, "noisy": True, "hidden": (32,), "atoms": 11},
    ),
    "td3": (
        "td3",
        "gymnax/Pendulum-v1",
        400,
        {"learning_starts": 100, "replay_size": 200, "hidden": (16,), "batch_size": 16},
    ),
    "recurrent": (
        "ppo",
        "gymnax/CartPole-v1",
        4 * 256,
        {"recurrent": "gru", "recurrent_size": 16, "num_envs": 8, "rollout_length": 32, "num_minibatches": 2},
    ),
    "p3o": ("p3o", "gymnax/CartPole-v1", 8 * 256, {"learning_starts": 32, "replay_size": 64}),
    "pqn": ("pqn", "gymnax/CartPole-v1", 4 * 256, {"num_envs": 8, "rollout_length": 32, "num_minibatches": 2}),
    "procgen": ("ppo", "procgen/coinrun", 3 * 64, PIXELS),
}


def assert_same_bits(together, lane, alone):
    """One lane of a run, what it has learned and what it sees now, against the only one of another."""
    mine, other = (jax.tree_util.tree_leaves_with_path((r.state.agent, r.state.inputs)) for r in (together, alone))
    for (path, of_lane), (_, of_solo) in zip(mine, other, strict=True):
        np.testing.assert_array_equal(of_lane[lane], of_solo[0], err_msg=jax.tree_util.keystr(path))


# The long run as a user compiles it; for the others it would only take longer to compile.
@pytest.mark.same_bits
@pytest.mark.parametrize("name", [pytest.param("ppo", marks=pytest.mark.optimized), *[n for n in RUNS if n != "ppo"]])
def test_a_lane_is_its_solo_run(name, tmp_path):
    if name == "procgen":
        pytest.importorskip("cffi", reason="procgen is not installed")
    agent, env, steps, config = RUNS[name]
    number = 2 if name == "procgen" else 3  # an odd number on two devices: one lane only fills them up
    how = {"steps": steps, "config": config, "quiet": True, "lanes": "map"}
    together = purerl.train(agent, env, seeds=number, seed=5, out=tmp_path / "together", **how)
    assert jax.tree.leaves(together.state.agent)[0].shape[0] == number
    alone = purerl.train(agent, env, seed=6, out=tmp_path / "alone", **how)
    assert_same_bits(together, 1, alone)
    finals = [run.summary["final_return"]["per_seed"] for run in (together, alone)]
    assert finals[0][1] == finals[1][0]


@pytest.mark.same_bits
def test_a_cell_of_a_sweep_is_its_solo_run(tmp_path):
    config = {"num_envs": 8, "rollout_length": 32, "num_minibatches": 2}
    how = {"steps": 8 * 32 * 6, "quiet": True, "lanes": "map"}
    swept = purerl.sweep(
        "ppo", "gymnax/CartPole-v1", grid="learning_rate=1e-3,5e-3;discount=.9,.99", seeds=2, config=config,
        out=tmp_path / "sweep", **how,
    )  # fmt: skip
    for cell, (rate, discount) in (("003", (5e-3, 0.99)),):
        state = open_run(swept.folder / "cells" / cell)[4]()
        alone = purerl.train(
            "ppo", "gymnax/CartPole-v1", seed=1, config=config | {"learning_rate": rate, "discount": discount},
            out=tmp_path / cell, **how,
        )  # fmt: skip
        for mine, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(alone.state.agent.params), strict=True):
            np.testing.assert_array_equal(mine[1], other[0])


def test_auto_goes_by_the_device():
    assert lanes.resolve("auto") == ("map" if jax.default_backend() == "cpu" else "vmap")
    assert lanes.resolve("vmap") == "vmap"


def test_both_ways_agree_to_rounding(tmp_path):
    config = {"num_envs": 8, "rollout_length": 32, "num_minibatches": 2, "num_epochs": 1, "learning_rate": 1e-4}
    runs = [
        purerl.train(
            "ppo", "gymnax/CartPole-v1", seeds=2, steps=8 * 32 * 2, config=config, out=tmp_path / way, lanes=way,
            quiet=True,
        )
        for way in ("vmap", "map")
    ]  # fmt: skip
    for a, b in zip(*(jax.tree.leaves(run.state.agent.params) for run in runs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
