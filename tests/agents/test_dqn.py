"""DQN and Rainbow as agents: Pro is one field, resume is exact with a full replay, lanes equal single runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import registry, rng
from purerl.errors import PurerlError
from purerl.loops import in_graph
from purerl.runs.plan import make_plan
from purerl.runs.train import train
from purerl.runs.trainer import Trainer
from purerl.types import Clock

CARTPOLE = "gymnax/CartPole-v1"


class Killed(Exception):
    pass


def same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(rng.as_words(x), rng.as_words(y)), a, b)


@pytest.fixture
def advanced(tiny_config):
    """(agent, iterations, seeds=1, first=0, lanes="auto", **config) -> the RunState of these seeds."""

    def advanced(agent, iterations, seeds=1, first=0, lanes="auto", **config):
        environment = registry.environment(CARTPOLE)[0].make("CartPole-v1")
        loop, config = in_graph.InGraphLoop(registry.agent(agent), environment, lanes), tiny_config(agent, **config)
        state = loop.init(config, rng.seed_keys(first, seeds))
        return loop.advance(config, state, 0, 100, iterations)[0]

    return advanced


def test_resume_is_exact_with_a_full_replay(tiny, tmp_path, monkeypatch):
    """Of rainbow, whose replay and priorities hold all that dqn's does."""

    def run(folder, **kwargs):
        config = tiny("rainbow")
        return train(
            "rainbow", CARTPOLE, seeds=2, steps=8 * 24, out=folder, config=config, quiet=True, log_every=1, **kwargs
        )

    whole = run(tmp_path / "whole")
    advance = Trainer._advance

    def stopping(trainer, state, stop):
        if trainer.iteration == 13:  # the ring of 64 has wrapped, and the next copy is not due
            raise Killed
        return advance(trainer, state, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", stopping)
        with pytest.raises(Killed):
            run(tmp_path / "cut", checkpoint_seconds=0)
    resumed = run(tmp_path / "cut", resume=True)
    same_bits(whole.state, resumed.state)
    assert int(whole.state.agent.optimizer[1][0].count[0]) == (8 * 24 - 32) // 4


def test_lane_is_the_solo_run(advanced):
    """To rounding. Where lanes take turns it is to the bit: test_lanes, over a whole run."""
    lanes, solo = advanced("rainbow", 10, seeds=3, lanes="vmap"), advanced("rainbow", 10, first=2, lanes="vmap")
    pairs = list(zip(*(jax.tree.leaves(s.agent.params) for s in (lanes, solo)), strict=True))
    assert max(np.abs(a[1] - b[0]).max() for a, b in pairs) > 1e-2  # a neighbour is another run
    for a, b in pairs:
        np.testing.assert_allclose(a[2], b[0], rtol=1e-7, atol=1e-5)


def test_an_infinite_coefficient_is_the_base_agent_bit_for_bit(advanced):
    """Check 3: over more than 100 gradient steps."""
    pro = advanced("dqn", 60, proximal_coefficient=float("inf"))
    zero = advanced("dqn", 60, proximal_coefficient=float("inf"), proximal="penalty", penalty_coefficient=0.0)
    near = advanced("dqn", 60, proximal_coefficient=0.1)
    same_bits(pro.agent.params, zero.agent.params)
    kernel = lambda s: s.agent.params["params"]["dense0"]["kernel"]  # noqa: E731
    assert not np.allclose(kernel(pro), kernel(near), atol=1e-5)


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_the_coefficient_can_be_swept_by_lanes(how, advanced):
    lanes = advanced("dqn", 20, seeds=2, lanes=how, proximal_coefficient=np.array([0.1, np.inf], np.float32))
    for lane, coefficient in enumerate((0.1, float("inf"))):
        solo = advanced("dqn", 20, first=lane, lanes=how, proximal_coefficient=coefficient)
        for a, b in zip(*(jax.tree.leaves(s.agent.params) for s in (lanes, solo)), strict=True):
            np.testing.assert_allclose(a[lane], b[0], atol=1e-5)


def test_evaluation_does_not_touch_training(tiny, tmp_path):
    def run(name, **kwargs):
        return train("dqn", CARTPOLE, steps=160, out=tmp_path / name, config=tiny("dqn"), quiet=True, **kwargs)

    plain, evaluated = run("plain"), run("evaluated", eval_every=40, eval_episodes=1)
    same_bits(plain.state, evaluated.state)
    text = (tmp_path / "evaluated" / "metrics.jsonl").read_text()
    rows = [line for line in text.splitlines() if '"evaluation_return": null' not in line]
    assert len(rows) == 4


EARLY = {"num_envs": 4, "rollout_length": 1, "num_steps": 3, "train_period": 4, "target_period": 32}


@pytest.mark.parametrize("agent", ["dqn", "rainbow"])
def test_learning_that_starts_too_early_is_named(agent):
    sizes = EARLY | {"num_envs": 512, "train_period": 512, "target_period": 512, "replay_size": 5120}
    with pytest.raises(PurerlError, match=r"learning_starts = 1000 is before .* it must be at least 1536"):
        make_plan(agent, CARTPOLE, steps=5120, config=sizes | {"learning_starts": 1000})
    make_plan(agent, CARTPOLE, steps=5120, config=sizes | {"learning_starts": 1536})


@pytest.mark.parametrize("agent", ["dqn", "rainbow"])
def test_the_smallest_start_of_learning_works(agent, advanced):
    """The fourth iteration learns from the only row of each environment with a complete window: no NaN."""
    state = advanced(agent, 4, **EARLY, learning_starts=12).agent
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    kernels = [p["params"]["dense0"]["kernel"] for p in (state.params, state.target_params)]
    assert not np.array_equal(*kernels)  # it did learn: the target still is the first network
    if agent == "rainbow":
        items = np.asarray(jax.vmap(lambda p: p.items)(state.priorities)[0]).reshape(4, -1)
        assert (items[:, 1:] == 0).all() and (items[:, 0] > 0).any() and np.isfinite(items).all()


def test_nothing_is_learned_from_rows_that_all_end_in_time_outs(tiny_config, specs, make_rollout):
    """Every priority is 0 then, and 0 / 0 must not reach the parameters."""
    agent, config = registry.agent("rainbow"), tiny_config("rainbow", learning_starts=0)
    state = agent.init(config, specs.vector, jax.random.key(0))
    rollout = make_rollout(specs.vector, 4, 2, truncated=jnp.ones((4, 2), bool))
    clock = Clock(jnp.int32(0), jnp.int32(10))
    after, _ = jax.jit(agent.update, static_argnums=1)(config, specs.vector, state, rollout, jax.random.key(1), clock)
    same_bits(state.params, after.params)


def test_names_differ_by_a_field_alone():
    plan, base = (
        make_plan(name, CARTPOLE, preset="full-rainbow", steps=100, config={"network": "mlp"})
        for name in ("rainbow-pro", "rainbow")
    )
    assert plan.config.replace(proximal_coefficient=float("inf")) == base.config
    assert plan.config.proximal_coefficient == 0.05


def test_continuous_actions_are_refused():
    with pytest.raises(PurerlError, match="discrete actions"):
        make_plan("dqn", "gymnax/Pendulum-v1")
