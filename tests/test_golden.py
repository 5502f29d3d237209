"""Golden runs: a few updates of every agent, on every kind of environment, must keep giving the same numbers.

`python tests/test_golden.py` records them again (tests/data/golden.json); a commit that does so says what changed and
why. Each run is kept as its metric rows and as fingerprints of its parameters, seed by seed. Another machine rounds
otherwise, so the comparison has a tolerance; PURERL_GOLDEN=exact asks for the very bits, for a rebuild on one machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parent / "data" / "golden.json"
EXACT = os.environ.get("PURERL_GOLDEN") == "exact"
pytestmark = [pytest.mark.same_bits] if EXACT else []
RELATIVE, ABSOLUTE = 2e-3, 2e-4
NOT_COMPARED = ("wall_time", "steps_per_second")

GYMNAX, PROCGEN, ATARI = "gymnax/Breakout-MinAtar", "procgen/coinrun", "atari/Pong"
PENDULUM = "gymnax/Pendulum-v1"
_PPO = {
    "num_envs": 8,
    "rollout_length": 16,
    "num_minibatches": 4,
    "num_epochs": 2,
    "hidden": (16, 16),
    "learning_rate": 1e-3,
}
_PPG = {
    "num_envs": 8,
    "rollout_length": 16,
    "num_minibatches": 4,
    "policy_iterations": 2,
    "auxiliary_epochs": 2,
    "auxiliary_minibatches": 4,
    "hidden": (16, 16),
    "learning_rate": 1e-3,
}
# With the default one, Adam makes whole steps of the rounding of gradients near zero, which differs by machine.
_STEADY = {"adam_epsilon": 1e-4}
_DQN = {
    "num_envs": 4,
    "rollout_length": 4,
    "train_period": 4,
    "batch_size": 16,
    "replay_size": 256,
    "learning_starts": 32,
    "target_period": 32,
    "num_steps": 3,
    "epsilon_decay_steps": 64.0,
    "epsilon_final": 0.01,
    "network": "mlp",
    "hidden": (16,),
    "learning_rate": 1e-3,
}
_PQN = {"num_envs": 8, "rollout_length": 16, "num_minibatches": 4, "optimizer_epsilon": 1e-4, "network": "minatar"}
_A2C = {"num_envs": 4, "rollout_length": 8, "hidden": (16, 16), "optimizer_epsilon": 1e-3}
_P3O = _A2C | {"replay_size": 32, "learning_starts": 16}
_TD3 = {
    "num_envs": 4,
    "rollout_length": 4,
    "train_period": 4,
    "batch_size": 16,
    "replay_size": 128,
    "learning_starts": 32,
    "hidden": (16, 16),
    "learning_rate": 1e-3,
    "adam_epsilon": 1e-4,
}
_FULL = {"double": True, "dueling": True, "noisy": True, "atoms": 11}
_PIXELS = {"network": "nature", "num_envs": 4}
# name: (agent, environment, updates, config)
RUNS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "ppo": ("ppo", GYMNAX, 4, _PPO),
    "ppg-dual": ("ppg", GYMNAX, 5, _PPG | _STEADY),
    "ppg-detach": ("ppg", GYMNAX, 4, _PPG | _STEADY | {"architecture": "detach"}),
    "ppg-shared": ("ppg", GYMNAX, 4, _PPG | _STEADY | {"architecture": "shared"}),
    "ppg-kl": ("ppg", GYMNAX, 4, _PPG | _STEADY | {"objective": "kl"}),
    "ppg-two-optimizers": ("ppg", GYMNAX, 4, _PPG | _STEADY | {"policy_epochs": 2, "value_epochs": 1}),
    "dqn": ("dqn", GYMNAX, 12, _DQN | {"double": True}),
    "dqn-pro": ("dqn-pro", GYMNAX, 12, _DQN | {"proximal_coefficient": 0.1}),
    "rainbow": ("rainbow", GYMNAX, 12, _DQN | _FULL),
    "rainbow-pro": ("rainbow-pro", GYMNAX, 12, _DQN | {"proximal_coefficient": 0.1}),
    "a2c": ("a2c", GYMNAX, 4, _A2C),
    "p3o": ("p3o", GYMNAX, 6, _P3O),
    "pqn": ("pqn", GYMNAX, 4, _PQN),
    "td3": ("td3", PENDULUM, 12, _TD3),
    "ppo-procgen": ("ppo", PROCGEN, 2, _PPO | _PIXELS | {"optimizer": "adam"}),
    "ppg-procgen": ("ppg", PROCGEN, 2, _PPG | _PIXELS | {"architecture": "detach", "adam_epsilon": 1e-4}),
    "dqn-atari": ("dqn", ATARI, 6, _DQN | {"network": "nature"}),
    "rainbow-atari": ("rainbow", ATARI, 6, _DQN | {"network": "nature"}),
}
SWEEP = "ppo-sweep"


def fingerprint(params: Any, lane: int) -> dict[str, Any]:
    """Of one seed's parameters: the checksum of their bits, and numbers that change a little when they do."""
    import jax

    leaves = [np.asarray(leaf[lane], np.float64) for leaf in jax.tree.leaves(params)]
    flat = np.concatenate([leaf.ravel() for leaf in leaves])
    bits = b"".join(np.asarray(leaf[lane]).tobytes() for leaf in jax.tree.leaves(params))
    directions = np.random.default_rng(0).standard_normal((4, flat.size)) / np.sqrt(flat.size)
    return {
        "sha256": hashlib.sha256(bits).hexdigest()[:16],
        "size": int(flat.size),
        "norm": float(np.linalg.norm(flat)),
        "projections": [float(p) for p in directions @ flat],
    }


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The metric rows of a run, without what the clock on the wall says."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in NOT_COMPARED} for row in rows]


def train(name: str, folder: Path) -> dict[str, Any]:
    """Trains one of RUNS with two seeds."""
    import purerl

    agent, env, updates, config = RUNS[name]
    steps = updates * config["num_envs"] * config["rollout_length"]
    run = purerl.train(
        agent, env, seeds=2, seed=3, steps=steps, config=config, out=folder, log_every=2, lanes="vmap", quiet=True
    )
    return {
        "rows": rows_of(folder),
        "params": [fingerprint(run.state.agent.params, lane) for lane in range(2)],
    }


def train_sweep(folder: Path) -> dict[str, Any]:
    """A sweep of two traced fields, two values each."""
    import purerl
    from purerl.runs.policy import open_run

    config = {name: value for name, value in _PPO.items() if name != "learning_rate"}
    purerl.sweep(
        "ppo", GYMNAX, grid="learning_rate=1e-4,1e-3;discount=.9,.99", seeds=2, seed=3, steps=512, config=config,
        out=folder, log_every=2, lanes="vmap", quiet=True,
    )  # fmt: skip
    found = {"rows": [], "params": []}
    for cell in sorted((folder / "cells").iterdir()):
        params = open_run(cell)[4]().params
        found["rows"] += rows_of(cell)
        found["params"] += [fingerprint(params, lane) for lane in range(2)]
    return found


def difference(before: Any, now: Any, where: str = "") -> list[str]:
    """Where two recorded runs differ by more than the tolerance (or at all, for PURERL_GOLDEN=exact)."""
    if isinstance(before, dict) and isinstance(now, dict):
        if before.keys() != now.keys():
            return [f"{where} has {sorted(now)}, had {sorted(before)}"]
        skipped = () if EXACT else ("sha256",)
        return [
            line for key in before if key not in skipped for line in difference(before[key], now[key], f"{where}.{key}")
        ]
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return [f"{where} has {len(now)} entries, had {len(before)}"]
        pairs = enumerate(zip(before, now, strict=True))
        return [line for i, (one, other) in pairs for line in difference(one, other, f"{where}[{i}]")]
    if isinstance(before, float) and isinstance(now, float | int) and not EXACT:
        same = bool(np.isclose(now, before, rtol=RELATIVE, atol=ABSOLUTE))
    else:
        same = before == now
    return [] if same else [f"{where} is {now!r}, was {before!r}"]


@pytest.mark.parametrize("name", [*RUNS, SWEEP])
def test_golden_run(name: str, tmp_path: Path) -> None:
    if name.endswith("procgen"):
        pytest.importorskip("cffi", reason="procgen is not installed")
    if name.endswith("atari"):
        pytest.importorskip("ale_py", reason="ale-py is not installed")
    recorded = json.loads(FILE.read_text())
    now = train_sweep(tmp_path / "run") if name == SWEEP else train(name, tmp_path / "run")
    assert not difference(recorded[name], json.loads(json.dumps(now)), name)


def record(names: list[str]) -> None:
    """Records the golden runs of these names again (all, if no names are given)."""
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in names or [*RUNS, SWEEP]:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = train_sweep(Path(folder, "run")) if name == SWEEP else train(name, Path(folder, "run"))
        print(name, found[name]["params"][0])
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    import importlib.util

    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).parent / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # the tests' own devices and compiler flags
    record(sys.argv[1:])
