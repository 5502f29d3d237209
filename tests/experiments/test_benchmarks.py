"""The measurements of a benchmark."""

import pytest

from purerl.errors import PurerlError
from purerl.experiments.benchmarks import commands


def test_ppg_is_measured_in_whole_cycles():
    config = {"num_envs": 4, "rollout_length": 8, "num_minibatches": 1, "policy_iterations": 3}
    config |= {"auxiliary_epochs": 1, "auxiliary_minibatches": 1, "network": "mlp", "hidden": (8,)}
    run = commands.Measured("ppg", "gymnax/CartPole-v1", 1, preset="classic", config=config)
    assert run.cycle == 3
    assert run.iterations_for(1e-6) == 3
    assert run.iterations_for(0.1) % 3 == 0


def test_only_some_have_a_quick_size():
    with pytest.raises(PurerlError, match="--quick is for procgen-jax and not for replay"):
        commands.main(["procgen-jax", "replay", "--quick"])


def test_single_games_are_known_and_for_their_benchmark():
    with pytest.raises(PurerlError, match="--games is for procgen-jax-exactness and not for replay"):
        commands.main(["replay", "--games", "maze"])
    with pytest.raises(PurerlError, match="mazes"):
        commands.main(["procgen-jax-exactness", "--games", "maze,mazes"])
