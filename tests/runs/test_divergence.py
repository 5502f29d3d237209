"""A checkpoint is good or it says which lanes are not: NaN and infinity are found before anything is saved."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

import purerl
from purerl import registry
from purerl.errors import PurerlError
from purerl.runs import checkpoint, programs, run_folder, sinks
from purerl.runs.divergence import Divergence, learned, named
from purerl.runs.evaluation import evaluate
from purerl.runs.plan import make_plan
from purerl.runs.recording import Recording
from purerl.runs.train import train
from purerl.types import Agent, EnvSpec, traced

CARTPOLE = "gymnax/CartPole-v1"
UPDATES, STEPS = 4, 4 * 64  # of 4 environments x 16 steps


@pytest.fixture
def poisoned(monkeypatch):
    """(field, iteration) registers "poisoned": PPO whose update of that iteration puts infinity into a field of its
    State where learning_rate is over 0.1. That update's metrics are finite.
    """
    ppo = registry.agent("ppo")

    def register(field, iteration):
        def update(config, spec, state, rollout, key, clock):
            state, metrics = ppo.update(config, spec, state, rollout, key, clock)
            bad = (clock.iteration == iteration) & (config.learning_rate > 0.1)
            part = jax.tree.map(
                lambda x: jnp.where(bad, jnp.inf, x) if jnp.issubdtype(x.dtype, jnp.floating) else x,
                getattr(state, field),
            )
            return state.replace(**{field: part}), metrics

        agent = ppo._replace(name="poisoned", update=update, defaults={"learning_rate": 0.5})
        monkeypatch.setitem(registry._agents, "poisoned", agent)

    return register


def run(folder, tiny, **kwargs):
    how = {"steps": STEPS, "config": tiny("ppo", learning_rate=0.5, anneal_learning_rate=False)} | kwargs
    return train("poisoned", CARTPOLE, out=folder, quiet=True, log_every=1, checkpoint_seconds=0, **how)


@pytest.mark.parametrize(("field", "leaf"), [("params", "params.params."), ("optimizer", "optimizer.")])
@pytest.mark.parametrize("iteration", [2, UPDATES - 1])
def test_infinite_parameters_are_not_saved(field, leaf, iteration, poisoned, tmp_path, tiny):
    """In the midst of a run, and in its very last update, which no metric shows."""
    poisoned(field, iteration)
    message = rf"^{leaf}\S+ and \d+ other arrays of the agent of seed 6 became NaN or infinite by iteration "
    message += rf"{iteration + 1}, which is not saved; the checkpoint of iteration {iteration} is kept\. "
    with pytest.raises(PurerlError, match=message) as error:
        run(tmp_path / "run", tiny, seed=6)
    assert "\n" not in str(error.value) and "learning_rate" not in str(error.value)
    with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints") as saved:
        assert saved.latest() == iteration
        assert "diverged" not in saved.read_metadata()[1]
    policy = purerl.load_policy(tmp_path / "run")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(policy.state.params))
    # From the good checkpoint it goes on, and meets the same end.
    with pytest.raises(PurerlError, match=message):
        run(tmp_path / "run", tiny, seed=6, resume=True)
    assert sinks.read_rows(tmp_path / "run" / "metrics.jsonl")[-1]["iteration"] == iteration + 1


def test_a_metric_that_is_nan_says_whether_parameters_are_too(poisoned, tmp_path, tiny):
    poisoned("params", 1)
    message = (
        r"of seed 0 is \S+ at step 256 \(iteration 4\), and so is params\.\S+ and \d+ other arrays of the agent; no "
    )
    with pytest.raises(PurerlError, match=message + "checkpoint was made yet"):
        how = {"steps": 512, "config": tiny("ppo", learning_rate=0.5)}
        train("poisoned", CARTPOLE, out=tmp_path / "run", quiet=True, log_every=4, **how)


def test_a_diverged_lane_of_a_program_is_marked_and_the_others_go_on(poisoned, tmp_path, tiny, capsys):
    """No row shows its last update; still the summary, the checkpoint, eval and resume say which seeds it is."""
    poisoned("params", UPDATES - 1)
    kwargs = {"seeds": 2, "seed": 3, "steps": STEPS}
    plans = {
        name: make_plan(
            "poisoned", CARTPOLE, config=tiny("ppo", learning_rate=rate, anneal_learning_rate=False), **kwargs
        )
        for name, rate in (("good", 1e-3), ("bad", 0.5))
    }
    how = Recording(log_every=1, checkpoint_seconds=0)
    cells = [programs.Cell(plan, tmp_path / name, how) for name, plan in plans.items()]
    programs.run(cells, tmp_path / "work", quiet=True)
    found = {name: run_folder.load(tmp_path / name)["summary"]["diverged_seeds"] for name in plans}
    assert found == {"good": [], "bad": [3, 4]}
    metadata = {}
    for name in plans:
        with checkpoint.Checkpoints(tmp_path / name / "checkpoints") as saved:
            metadata[name] = saved.read_metadata()[1]
    assert "diverged" not in metadata["good"]
    assert [(mark["lane"], mark["seed"]) for mark in metadata["bad"]["diverged"]] == [(0, 3), (1, 4)]
    assert metadata["bad"]["diverged"][0]["leaf"].startswith("params.params.")

    purerl.load_policy(tmp_path / "good")
    assert capsys.readouterr().err == ""
    evaluate(tmp_path / "bad", episodes=1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "seed 3 diverged: params.params." in said and "seed 4 diverged" in said
    config = tiny("ppo", learning_rate=0.5, anneal_learning_rate=False)
    with pytest.raises(PurerlError, match=r"cannot be continued: seed 3 diverged: params\.\S+ .* in another folder"):
        run(tmp_path / "bad", tiny, resume=True, **kwargs | {"steps": 2 * STEPS, "config": config})


def test_a_program_that_was_killed_before_its_summaries_still_knows(poisoned, tmp_path, tiny, monkeypatch):
    """The lanes are in the program's own checkpoint."""
    poisoned("params", UPDATES - 1)
    plan = make_plan("poisoned", CARTPOLE, config=tiny("ppo", learning_rate=0.5), steps=STEPS, seed=3)
    cells = [programs.Cell(plan, tmp_path / "cell")]

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("purerl.runs.trainer.summarize", killed)
        programs.run(cells, tmp_path / "work", quiet=True)
    programs.run(cells, tmp_path / "work", quiet=True)
    assert run_folder.load(tmp_path / "cell")["summary"]["diverged_seeds"] == [3]


# --- what is looked at -----------------------------------------------------------------------------------------------


@struct.dataclass
class Config:
    rate: float = traced(0.1)


@struct.dataclass
class State:
    weights: dict
    target_params: dict
    opt_state: tuple
    replay: jax.Array
    steps: jax.Array


def init(config, spec, key):
    weights = {"w": jax.random.normal(key, (3, 2)), "n": jnp.int32(3)}
    plateau = optax.contrib.reduce_on_plateau()  # its best value so far begins as infinity
    state = plateau.init({"w": weights["w"]}), optax.adam(0.1).init({"w": weights["w"]})
    return State(weights, {"w": weights["w"]}, state, jnp.full((100,), -jnp.inf), jnp.int32(0))


AGENT = Agent("mine", Config, None, init, None, None, acting=("weights",))
SPEC = EnvSpec("test/none", (2,), "float32", 2)


@pytest.fixture(scope="module")
def looking():
    """(Divergence of three lanes, their State, their keys)."""
    config, keys = Config(rate=jnp.arange(3.0)), jax.random.split(jax.random.key(0), 3)
    return Divergence(AGENT, SPEC, config), jax.vmap(lambda key: init(config, SPEC, key))(keys), keys


def test_what_may_be_infinite_is_let_be(looking):
    """A replay, and what was infinite at the start; whole numbers cannot be."""
    divergence, state, keys = looking
    assert divergence.find(state, keys) == {}
    names = set(learned(AGENT, state))
    assert {"weights.w", "target_params.w"} < names and not {"weights.n", "replay", "steps"} & names
    assert any(name.startswith("opt_state.") and "best_value" in name for name in names)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["weights", "target_params", "opt_state"])
def test_one_number_in_one_lane_is_found(field, value, looking):
    divergence, state, keys = looking

    def spoil(path, x):
        spoils = jnp.issubdtype(x.dtype, jnp.floating) and x.ndim == 3
        return x.at[1, 2, 0].set(value) if spoils and ".nu" not in jax.tree_util.keystr(path) else x

    part = jax.tree_util.tree_map_with_path(spoil, getattr(state, field))
    ((lane, leaves),) = divergence.find(state.replace(**{field: part}), keys).items()
    assert lane == 1 and len(leaves) == 1 and leaves[0].startswith(field) and leaves[0].endswith("w")


def test_leaves_in_words():
    assert named(["a.b"]) == "a.b"
    assert named(["a.b", "c"]) == "a.b and 1 other array of the agent"
    assert named(["a.b", "c", "d"]) == "a.b and 2 other arrays of the agent"
