"""One seed on several devices: the results of one device but for rounding, in the graph and on the host; resumed."""

from __future__ import annotations

import json
import os

import jax
import numpy as np
import pytest

import purerl
from purerl import registry
from purerl.errors import PurerlError
from purerl.loops import sharding
from purerl.types import EnvSpec

FRAMES = {"num_envs": 8, "rollout_length": 8, "num_minibatches": 2, "channels": (4,)}
PPG = {"policy_iterations": 2, "auxiliary_epochs": 1, "auxiliary_minibatches": 2}
CARTPOLE = {"num_envs": 8, "rollout_length": 16, "num_minibatches": 2, "hidden": (8,)}
DQN = {
    "num_envs": 8,
    "rollout_length": 8,
    "train_period": 8,
    "target_period": 64,
    "batch_size": 16,
    "learning_starts": 64,
    "replay_size": 256,
}
RUNS = {
    "ppo": ("ppo", "gymnax/CartPole-v1", CARTPOLE, 2),
    "recurrent": ("ppo", "gymnax/CartPole-v1", CARTPOLE | {"recurrent": "gru", "recurrent_size": 8}, 1),
    "ppg-frames": ("ppg", "procgen-jax/maze", FRAMES | PPG, 1),
    "dqn": ("dqn", "gymnax/CartPole-v1", DQN, 1),
    "pqn": ("pqn", "gymnax/CartPole-v1", CARTPOLE, 2),
    "ppg-host": ("ppg", "procgen/coinrun", FRAMES | PPG, 1),
    "ppo-host": ("ppo", "procgen/coinrun", FRAMES, 2),
}


def trained(name, out, devices, iterations=4, **how):
    agent, env, config, seeds = RUNS[name]
    if "procgen" in env:
        pytest.importorskip("cffi", reason="procgen is not installed")
    steps = iterations * config["num_envs"] * config["rollout_length"]
    # With the default epsilon, Adam makes whole steps of the rounding of gradients near zero.
    steady = {"optimizer_epsilon" if agent in ("dqn", "pqn") else "adam_epsilon": 1e-2}
    return purerl.train(
        agent, env, seeds=seeds, steps=steps, config=config | steady, out=out, quiet=True, log_every=1,
        random_episodes=0, devices_per_seed=devices, **how,
    )  # fmt: skip


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("wall_time", "steps_per_second")} for line in lines]


def assert_same_rows(one, other):
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_allclose(
                np.array(a[key], float), np.array(b[key], float), rtol=1e-3, atol=1e-5, err_msg=key
            )


@pytest.mark.parametrize("name", [name for name in RUNS if name != "ppg-host"])
def test_two_devices_learn_what_one_learns(name, tmp_path):
    one, two = (trained(name, tmp_path / str(devices), devices) for devices in (1, 2))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one.state.agent.params),
        jax.tree.leaves(two.state.agent.params),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6, err_msg=jax.tree_util.keystr(path))
    assert_same_rows(one.folder, two.folder)
    seen = jax.tree.leaves(two.state.inputs)[0].sharding
    assert seen.spec[:2] == (None, "environments") and seen.num_devices == 2
    assert jax.tree.leaves(two.state.agent.params)[0].sharding.is_fully_replicated


def test_the_auxiliary_buffer_is_spread(tmp_path):
    run = trained("ppg-frames", tmp_path / "run", 2, iterations=1)
    buffer = run.state.agent.segments.observation  # [S, N_pi, N, T, ...]
    assert [shard.data.shape[2] for shard in buffer.addressable_shards] == [4, 4]


@pytest.mark.same_bits
def test_resumes_to_the_bit(tmp_path):
    whole = trained("ppg-host", tmp_path / "whole", 2)
    trained("ppg-host", tmp_path / "broken", 2, iterations=3)
    broken = purerl.resume(tmp_path / "broken", steps=4 * 64, quiet=True)
    assert json.loads((broken.folder / "config.json").read_text())["devices_per_seed"] == 2
    for a, b in zip(jax.tree.leaves(whole.state.agent), jax.tree.leaves(broken.state.agent), strict=True):
        np.testing.assert_array_equal(a, b)


def test_four_devices_by_the_command_line(run_cli, tmp_path):
    one = trained("ppo", tmp_path / "one", 1)
    fields = " ".join(f"--{k.replace('_', '-')} {v[0] if isinstance(v, tuple) else v}" for k, v in CARTPOLE.items())
    done = run_cli(
        *f"train ppo gymnax/CartPole-v1 --seeds 2 --steps 512 {fields} --adam-epsilon 1e-2 --log-every 1".split(),
        *f"--random-episodes 0 --quiet --devices-per-seed 4 --out {tmp_path}/four".split(),
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )
    assert done.code == 0, done.stderr
    assert_same_rows(one.folder, tmp_path / "four")


def test_a_device_may_wait_for_longer_than_xla_lets_it(monkeypatch):
    """XLA's limit of 40 seconds, after which it ends the process, is lifted where commands and `train` start JAX."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    sharding.one_cpu_device_per_core()
    assert os.environ["XLA_FLAGS"].endswith("=2 --xla_cpu_collective_call_terminate_timeout_seconds=86400")
    own = "--xla_cpu_collective_call_terminate_timeout_seconds=5"
    monkeypatch.setenv("XLA_FLAGS", own)
    sharding.one_cpu_device_per_core()
    assert os.environ["XLA_FLAGS"] == own


IMAGES = EnvSpec("x/images", (64, 64, 3), "uint8", 4)
VECTORS = EnvSpec("x/vectors", (64 * 64,), "float32", 4)


@pytest.mark.parametrize(
    ("agent", "spec", "num_envs", "seeds", "on_host", "expected"),
    [
        ("ppo", IMAGES, 8, 1, False, 2),
        ("ppo", IMAGES, 8, 1, True, 2),
        ("ppo", IMAGES, 8, 2, True, 2),  # the seeds take turns on all devices
        ("ppo", IMAGES, 8, 2, False, 1),  # each seed has a device of its own
        ("ppo", IMAGES, 7, 1, True, 1),
        ("ppo", VECTORS, 8, 1, False, 1),
        ("dqn", IMAGES, 8, 1, True, 1),  # it has not said that it can
    ],
)
def test_auto(agent, spec, num_envs, seeds, on_host, expected):
    assert jax.device_count() == 2
    found = sharding.resolve("auto", registry.agent(agent), spec, num_envs, seeds, "map", on_host)
    assert found == expected


def test_more_devices_than_there_are(tmp_path):
    with pytest.raises(PurerlError, match="devices_per_seed = 3, and JAX has 2 devices: use fewer, or set XLA_FLAGS"):
        trained("ppo", tmp_path / "run", 3)
    with pytest.raises(PurerlError, match="devices_per_seed"):
        trained("ppo", tmp_path / "run", 0)
    assert not (tmp_path / "run").exists()
