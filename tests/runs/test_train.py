"""Whole runs: resume is exact, a kill loses nothing, NaN and infinity stop a run, files record what happened."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from purerl import configs, registry, rng
from purerl.errors import PurerlError
from purerl.loops import host, in_graph
from purerl.runs import sinks, trainer
from purerl.runs.plan import Plan
from purerl.runs.summary import final_returns
from purerl.runs.train import train
from purerl.runs.trainer import Trainer

CARTPOLE = "gymnax/CartPole-v1"


@pytest.fixture(scope="module")
def config_of(tiny):
    """(agent, **fields) -> the fields of its config; PPG's auxiliary phases come every fourth iteration."""
    more = {"ppg": {"policy_iterations": 4, "auxiliary_epochs": 6}}
    return lambda agent, **fields: tiny(agent, **more.get(agent, {}) | fields)


@pytest.fixture(scope="module")
def run(config_of):
    """(agent, folder, iterations, env=CARTPOLE, config={}, named=agent, **kwargs) -> the Run of a quiet training."""

    def run(agent, folder, iterations, env=CARTPOLE, config=None, named=None, **kwargs):
        config = config_of(agent, **(config or {}))
        steps = iterations * config["num_envs"] * config["rollout_length"]
        kwargs = {"quiet": True, "log_every": 1} | kwargs
        return train(named or agent, env, steps=steps, out=folder, config=config, **kwargs)

    return run


def as_numpy(tree):
    return jax.tree.map(lambda x: np.asarray(rng.as_words(x)), tree)


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, as_numpy(a), as_numpy(b))


class Stopping:
    """Makes a run stop after an iteration, as a kill between two rows would: nothing is saved after it."""

    def __init__(self, monkeypatch, iteration):
        advance = Trainer._advance

        def stopping(trainer, state, stop):
            if trainer.iteration == iteration:
                raise Killed
            return advance(trainer, state, stop)

        monkeypatch.setattr(Trainer, "_advance", stopping)


class Killed(Exception):
    pass


def stopped_run(run, monkeypatch, iteration, *args, **kwargs):
    """A run that is killed after an iteration."""
    with monkeypatch.context() as patch:
        Stopping(patch, iteration)
        with pytest.raises(Killed):
            run(*args, **kwargs)


def test_resume_in_graph_is_exact(tmp_path, monkeypatch, run):
    """run(6) == run(3) + kill + resume + run(3), bit for bit, in the middle of a PPG cycle, annealing included."""
    kwargs = {"seeds": 2, "config": {"anneal_learning_rate": True}, "checkpoint_seconds": 0}
    whole = run("ppg", tmp_path / "whole", 6, **kwargs)
    stopped_run(run, monkeypatch, 3, "ppg", tmp_path / "parts", 6, **kwargs)
    resumed = run("ppg", tmp_path / "parts", 6, resume=True, **kwargs)
    assert_same_bits(whole.state, resumed.state)
    rows = [sinks.read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for row in (row for half in rows for row in half):
        del row["wall_time"], row["steps_per_second"]
    assert rows[0] == rows[1]


def test_resume_on_procgen_is_exact(tmp_path, monkeypatch, run):
    """The same with real games: levels, RNGs and frames continue where they were."""
    pytest.importorskip("cffi", reason="procgen is not installed")
    config = {"network": "mlp", "hidden": (8,), "policy_iterations": 2, "auxiliary_epochs": 1}
    kwargs = {"env": "procgen/coinrun", "seeds": 2, "checkpoint_seconds": 0, "preset": "procgen-easy", "config": config}
    whole = run("ppg", tmp_path / "whole", 4, **kwargs)
    stopped_run(run, monkeypatch, 2, "ppg", tmp_path / "parts", 4, **kwargs)
    resumed = run("ppg", tmp_path / "parts", 4, resume=True, **kwargs)
    assert_same_bits(whole.state, resumed.state)


@pytest.mark.parametrize("env", ["gymnax/CartPole-v1", "procgen/coinrun"])
def test_a_stop_within_a_log_period_saves_its_sums(env, tmp_path, monkeypatch, run):
    """A stop between two rows, then one in the middle of a row: it is saved there, and rows are as without a stop."""
    kwargs = {"seeds": 3, "log_every": 4, "env": env}
    if env.startswith("procgen"):
        pytest.importorskip("cffi", reason="procgen is not installed")
        kwargs |= {"preset": "procgen-easy", "config": {"network": "mlp", "hidden": (8,)}, "seeds": 2}
    whole = run("ppo", tmp_path / "whole", 8, **kwargs)
    monkeypatch.setattr(trainer, "PIECE_SECONDS", 0.0)  # pieces of one iteration

    def stopped(owner, name, at, **more):
        """A run that is asked to stop at the second call of a method."""
        method, calls = getattr(owner, name), iter(range(100))

        def interrupted(*args):
            if next(calls) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return method(*args)

        said = f"stopped and saved at iteration {at}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=said):
            patch.setattr(owner, name, interrupted)
            run("ppo", tmp_path / "parts", 8, **kwargs, **more)

    stopped(trainer.Trainer, "_advance", 4)
    stopped(loop_class(env), "advance_on", 6, resume=True)
    resumed = run("ppo", tmp_path / "parts", 8, resume=True, **kwargs)
    assert_same_bits(whole.state, resumed.state)
    rows = [sinks.read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for row in (row for half in rows for row in half):
        del row["wall_time"], row["steps_per_second"]
    assert len(rows[0]) == 2 * kwargs["seeds"] and rows[0] == rows[1]


def loop_class(env):
    return host.HostLoop if env.startswith("procgen") else in_graph.InGraphLoop


def flags_of_tests():
    """What makes a process compile as the tests do, on as many devices."""
    flags = os.environ["PURERL_TESTS_COMMAND_XLA_FLAGS"]
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={jax.device_count()}"}


def test_a_killed_process_can_be_resumed(tmp_path, run, config_of):
    """SIGKILL at some moment of a run that saves with every row; what is left loads and finishes."""
    # Not annealed, because the runs below are planned to be shorter than the killed one.
    steady = config_of("ppo", anneal_learning_rate=False)
    script = (
        "import purerl, sys; purerl.train('ppo', 'gymnax/CartPole-v1', steps=64 * 4000, out=sys.argv[1], quiet=True,"
        f"log_every=1, checkpoint_seconds=0, config={steady!r})"
    )
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=os.environ | flags_of_tests())
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(folder.glob("checkpoints/[0-9]*"))) < 2:
        time.sleep(0.05)
    time.sleep(0.37)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed_at = max(row["iteration"] for row in sinks.read_rows(folder / "metrics.jsonl"))
    resumed = run("ppo", folder, killed_at + 3, resume=True, config=steady)
    rows = sinks.read_rows(folder / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == list(range(1, killed_at + 4))
    whole = run("ppo", tmp_path / "whole", killed_at + 3, config=steady)
    assert_same_bits(whole.state.agent.params, resumed.state.agent.params)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch, run):
    agent = registry.agent("ppo")

    def poisoned(config, spec, state, rollout, key, clock):
        state, metrics = agent.update(config, spec, state, rollout, key, clock)
        bad = clock.iteration >= 3
        return state, {n: m.replace(total=jax.numpy.where(bad, np.nan, m.total)) for n, m in metrics.items()}

    monkeypatch.setitem(registry._agents, "poisoned", agent._replace(name="poisoned", update=poisoned))
    with pytest.raises(
        PurerlError, match=r"at step 256 \(iteration 4\), while .* finite; the checkpoint of iteration 3 is kept"
    ):
        run("ppo", tmp_path / "run", 6, named="poisoned", checkpoint_seconds=0)


def test_summary_has_what_it_promises(tmp_path, run):
    summary = run("ppo", tmp_path / "run", 2, seeds=2).summary
    on_disk = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert on_disk == json.loads(json.dumps(summary))
    promised = "agent env preset seeds steps compile_seconds train_seconds steps_per_second final_return"
    promised += " peak_memory_bytes device versions git_commit"
    assert set(promised.split()) <= set(summary)
    assert set(summary["final_return"]) >= {"iqm", "mean", "per_seed"}
    assert summary["compile_seconds"] > 0.1
    header = json.loads((tmp_path / "run" / "config.json").read_text())
    assert header["protocol"]["time_limit_is_terminal"] is False
    assert Plan.from_dict(header).config == configs.from_dict(registry.agent("ppo").Config, header["config"], "ppo")
    assert not (tmp_path / "run" / "figures").exists()  # the command line draws


def test_final_returns_are_of_the_last_tenth():
    rows = [
        {"seed": 0, "step": 80, "episode_return": 100.0, "episodes": 50},
        {"seed": 0, "step": 95, "episode_return": 1.0, "episodes": 1},
        {"seed": 0, "step": 100, "episode_return": 4.0, "episodes": 2},
        {"seed": 1, "step": 100, "episode_return": None, "episodes": 0},
    ]
    assert final_returns(rows, (0, 1), 100) == [3.0, None]


def test_resume_refuses_another_config(tmp_path, run):
    run("ppo", tmp_path / "run", 2)
    with pytest.raises(PurerlError, match=r"config differs .* learning_rate was .*, is 0.5"):
        run("ppo", tmp_path / "run", 2, resume=True, config={"learning_rate": 0.5})


def test_a_longer_run_continues_a_finished_one(tmp_path, run):
    whole = run("ppo", tmp_path / "whole", 4, config={"anneal_learning_rate": False})
    run("ppo", tmp_path / "parts", 2, config={"anneal_learning_rate": False})
    parts = run("ppo", tmp_path / "parts", 4, resume=True, config={"anneal_learning_rate": False})
    assert_same_bits(whole.state.agent.params, parts.state.agent.params)


def test_a_second_start_uses_the_compilation_cache(tmp_path, run, config_of):
    """In two processes with a cache folder of their own, the second compiles nothing that took a fifth of a second."""
    script = (
        "import purerl, sys, json; run = purerl.train('ppo', 'gymnax/CartPole-v1', steps=64, out=sys.argv[1],"
        "quiet=True,"
        f"config={config_of('ppo')!r}); print(json.dumps(run.summary))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | flags_of_tests()
    environment["PURERL_CACHE"] = str(tmp_path / "cache")

    def summary(name):
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    first, second = summary("first"), summary("second")
    assert first["compilation_cache_hits"] == 0
    assert second["compilation_cache_hits"] >= 1
    assert second["compile_seconds"] < first["compile_seconds"]


@pytest.mark.same_bits
@pytest.mark.parametrize("env", [CARTPOLE, "procgen/bigfish"])
def test_auxiliary_buffer_in_host_memory_gives_the_same_run_and_resumes(tmp_path, env, monkeypatch, run):
    config = {"network": "mlp", "hidden": (8,)}
    on_device = run("ppg", tmp_path / "device", 8, env, seeds=2, config=config)
    config |= {"auxiliary_memory": "host"}
    with monkeypatch.context() as patch:
        Stopping(patch, 6)
        with pytest.raises(Killed):
            run("ppg", tmp_path / "host", 8, env, seeds=2, config=config, checkpoint_seconds=0)
    on_host = run("ppg", tmp_path / "host", 8, env, seeds=2, config=config, resume=True)
    assert on_host.state.agent.segments.observation.sharding.memory_kind == "pinned_host"
    assert_same_bits(on_device.state, on_host.state)
