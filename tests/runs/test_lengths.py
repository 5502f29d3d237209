"""How long a run is: what is refused, what is rounded, what a finished run keeps, and with what one goes on."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import registry, rng
from purerl.errors import PurerlError
from purerl.loops import in_graph
from purerl.ops import value_learning
from purerl.runs import provenance
from purerl.runs.plan import Plan, make_plan, rounding
from purerl.runs.train import train
from purerl.types import Clock, Metric

CARTPOLE = "gymnax/CartPole-v1"
MOST = 2**31 - 1


def contents(folder):
    """{file: (bytes, time of its last change)} of a folder."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_bits(a, b):
    def same(x, y):
        keys = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        np.testing.assert_array_equal(*((jax.random.key_data(z) if keys else z) for z in (x, y)))

    jax.tree.map(same, a, b)


@pytest.fixture(scope="module")
def config(tiny):
    """PPO with 64 steps an iteration, which does not depend on the planned length."""
    return tiny("ppo", anneal_learning_rate=False)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A run of four iterations."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return train("ppo", CARTPOLE, steps=256, out=folder, config=config, quiet=True, log_every=1)


# --- a finished run --------------------------------------------------------------------------------------------------


def test_fewer_steps_than_there_are_are_refused(finished, config):
    before = contents(finished.folder)
    with pytest.raises(PurerlError, match=r"already has 256 steps, and --steps asks for 128: ask for more, or leave"):
        train("ppo", CARTPOLE, steps=128, out=finished.folder, config=config, quiet=True, resume=True)
    assert contents(finished.folder) == before


@pytest.mark.parametrize("steps", [None, 256, 250])
def test_its_own_length_changes_nothing(steps, finished, config, capsys):
    before = contents(finished.folder)
    again = train("ppo", CARTPOLE, steps=steps, out=finished.folder, config=config, resume=True)
    assert contents(finished.folder) == before
    assert "is finished: to train on, ask for more than 256 --steps" in capsys.readouterr().err
    assert again.summary == json.loads(json.dumps(finished.summary))
    assert_same_bits(again.state, finished.state)


def test_a_shorter_plan_is_fine_while_less_is_done(config, tmp_path, monkeypatch):
    """A run that was stopped after two of eight iterations may end after three, and not after one."""

    class Killed(Exception):
        pass

    from purerl.runs.trainer import Trainer

    advance = Trainer._advance

    def stopping(trainer, state, stop):
        if trainer.iteration == 2:
            raise Killed
        return advance(trainer, state, stop)

    how = {"out": tmp_path / "run", "config": config, "quiet": True, "log_every": 1, "checkpoint_seconds": 0}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "_advance", stopping)
        train("ppo", CARTPOLE, steps=512, **how)
    with pytest.raises(PurerlError, match="already has 128 steps, and --steps asks for 64"):
        train("ppo", CARTPOLE, steps=64, resume=True, **how)
    assert train("ppo", CARTPOLE, steps=192, resume=True, **how).summary["steps"] == 192


# --- rounding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "steps", "said"), [(64, 64, False), (60, 64, False), (58, 64, True), (65, 128, True)]
)
def test_steps_rounded_up_by_more_than_a_tenth_are_told(asked, steps, said, config):
    plan = make_plan("ppo", CARTPOLE, steps=asked, config=config)
    assert plan.steps == steps and plan.asked_steps == (None if asked == steps else asked)
    assert (rounding(plan) is not None) == said
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))).asked_steps == plan.asked_steps
    if said:
        assert rounding(plan).startswith(f"{steps} steps instead of {asked}: ") and "= 64 steps" in rounding(plan)


def test_a_run_says_it_in_one_line_and_in_its_summary(config, tmp_path, capsys):
    run = train("ppo", CARTPOLE, steps=10, out=tmp_path / "run", config=config)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("purerl: note: ")]
    assert len(said) == 1 and "64 steps instead of 10" in said[0]
    assert (run.summary["steps"], run.summary["asked_steps"]) == (64, 10)
    train("ppo", CARTPOLE, steps=10, out=tmp_path / "run", config=config, overwrite=True, quiet=True)
    assert capsys.readouterr().err == ""


# --- the largest lengths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollout_length", [1, 16])
def test_what_the_counters_cannot_hold_is_refused_with_the_largest_length(rollout_length, tiny):
    most = MOST // rollout_length * rollout_length * 4
    config = tiny("ppo", rollout_length=rollout_length)
    assert make_plan("ppo", CARTPOLE, steps=most, config=config).iterations == MOST // rollout_length
    with pytest.raises(PurerlError, match=f"is too long: .* it has at most {most:,} steps"):
        make_plan("ppo", CARTPOLE, steps=most + 1, config=config)
    with pytest.raises(PurerlError, match=f"it has at most {most:,} steps"):  # as of `purerl resume --steps`
        make_plan("ppo", CARTPOLE, steps=4 * rollout_length, config=config).with_steps(most + 1)


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_the_last_iterations_of_the_longest_run_are_like_all_others(agent, tiny_config):
    """The clock, the replay's rows and the random numbers at the end of the longest run."""
    config, (family, name) = tiny_config(agent, network="mlp", hidden=(8,)), registry.environment(CARTPOLE)
    total = MOST // config.rollout_length
    loop = in_graph.InGraphLoop(registry.agent(agent), family.make(name, family.Options()))
    state = loop.init(config, rng.seed_keys(0, 1))
    rows = []
    for first in (0, total - 8):
        state, metrics = loop.advance(config, state, first, total, 8)
        rows.append({name: float(metric.mean()[0]) for name, metric in metrics.items() if metric.count[0]})
    assert all(np.isfinite(value) for value in rows[1].values()), rows[1]
    assert rows[1]["episode_length"] < 500 and "episode_return" in rows[1]


def test_a_target_period_whose_steps_cannot_be_counted_is_refused():
    how = {"num_envs": 8, "rollout_length": 4, "train_period": 2, "positive": {}}
    most = MOST // 16 * 2
    value_learning.check_periods(target_period=most, **how)
    with pytest.raises(PurerlError, match=f"target_period = {most + 2} is too long: at most {most}"):
        value_learning.check_periods(target_period=most + 2, **how)


def test_copies_of_the_longest_period_come_when_they_are_due():
    """16 gradient steps an iteration, a copy after the largest number of them; and learning that never starts."""
    owed, per_copy = 16, MOST // 16

    def steps(iteration, learning_starts=0):
        return value_learning.gradient_steps(
            lambda due_before, key, due: (due_before + due, {"one": Metric.of(jnp.float32(1))}),
            jnp.int32(0),
            jax.random.key(0),
            Clock(jnp.int32(iteration), jnp.int32(MOST)),
            transitions=32,
            train_period=2,
            target_period=per_copy * 2,
            learning_starts=learning_starts,
        )

    for iteration in (per_copy // owed - 1, per_copy // owed, per_copy - 1, MOST - 1):
        done = iteration * owed
        copies, _ = steps(iteration)
        assert copies == (done + owed) // per_copy - done // per_copy, iteration
    assert steps(MOST - 1, learning_starts=10**15)[1]["one"].count == 0


# --- with what a run goes on -----------------------------------------------------------------------------------------


def test_what_has_changed_since_is_recorded_and_said(config, tmp_path, capsys):
    how = {"out": tmp_path / "run", "config": config, "quiet": True}
    train("ppo", CARTPOLE, steps=64, **how)
    path = tmp_path / "run" / "config.json"
    header = json.loads(path.read_text())
    header["environment"]["versions"]["jax"] = "0.1.2"
    header["environment"]["device"]["kind"] = "Abacus"
    path.write_text(json.dumps(header))
    capsys.readouterr()
    train("ppo", CARTPOLE, steps=128, resume=True, **how)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"resumed at iteration 1 with jax {jax.__version__} (was 0.1.2), device " in line and "(was Abacus)" in line
    kind = jax.devices()[0].device_kind
    expected = {"iteration": 1, "changed": {"jax": ["0.1.2", jax.__version__], "device": ["Abacus", kind]}}
    stored = json.loads(path.read_text())
    assert stored["resumed"] == [expected] and stored["environment"] == header["environment"]
    # The next time nothing has changed.
    train("ppo", CARTPOLE, steps=192, resume=True, **how)
    assert capsys.readouterr().err == "" and json.loads(path.read_text())["resumed"] == [expected]


def test_differences_of_reports():
    now = provenance.environment_report()
    assert provenance.differences(now, now) == {}
    assert provenance.differences(None, now) == provenance.differences({"versions": 3}, now) == {}
    before = now | {
        "versions": now["versions"] | {"numpy": "1.0"},
        "git_commit": "abc",
        "default_matmul_precision": "high",
    }
    found = provenance.differences(before, now)
    assert found["numpy"] == ["1.0", np.__version__] and found["git_commit"] == ["abc", now["git_commit"]]
    assert found["default_matmul_precision"] == ["high", None] and len(found) == 3
    entries = provenance.entries([{"iteration": 3, "changed": found}, "damaged", {"changed": {"jax": 1}}])
    assert provenance.differences(before, now, entries) == {}
