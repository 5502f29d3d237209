"""TD3 as an agent: actions within the bounds, exact resume in both loops, a policy that plays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purerl
from purerl import rng
from purerl.agents import td3
from purerl.errors import PurerlError
from purerl.runs.plan import make_plan
from purerl.runs.trainer import Trainer
from purerl.types import Clock, EnvSpec, Inputs

PENDULUM = "gymnax/Pendulum-v1"
# Bounds that are neither symmetric nor equal, so that their middle and their range both count.
SPEC = EnvSpec("test/bounds", (3,), "float32", 0, action_shape=(2,), action_low=(-2.0, -1.0), action_high=(1.0, 4.0))
CENTRE, SCALE = np.array([-0.5, 1.5]), np.array([1.5, 2.5])


def test_actions_are_random_first_then_noisy_and_always_within_the_bounds(tiny_config):
    config = tiny_config("td3", learning_starts=80)
    state = td3.init(config, SPEC, jax.random.key(0))
    inputs = Inputs.at_start(SPEC, jnp.ones((4000, 3)))
    keys = rng.per_environment(jax.random.key(1), 4000)

    def acted(iteration, explore=True):
        clock = Clock(jnp.int32(iteration), jnp.int32(100))
        return np.asarray(td3.act(config, SPEC, state, (), inputs, keys, clock, explore)[0])

    first, later, greedy = acted(9), acted(10), acted(10, explore=False)
    for actions in (first, later, greedy):
        assert (actions >= SPEC.action_low).all() and (actions <= SPEC.action_high).all()
    np.testing.assert_allclose(first.mean(0), CENTRE, atol=0.1)
    np.testing.assert_allclose(first.std(0), 2 * SCALE / np.sqrt(12), rtol=0.03)
    assert (greedy == greedy[0]).all()
    inside = (later > SPEC.action_low) & (later < SPEC.action_high)
    noise = ((later - greedy) / (0.1 * SCALE))[inside.all(1)]  # in units of half of the range
    assert len(noise) > 3900 and np.abs(noise.mean(0)).max() < 0.06
    np.testing.assert_allclose(noise.std(0), 1, rtol=0.04)


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(PurerlError, match="continuous actions, and those of gymnax/CartPole-v1 are discrete"):
        make_plan("td3", "gymnax/CartPole-v1")
    endless = EnvSpec("test/endless", (3,), "float32", 0, action_shape=(1,), action_high=float("inf"))
    with pytest.raises(PurerlError, match="finite bounds"):
        td3.check(td3.Config(), endless)


class Killed(Exception):
    pass


@pytest.mark.same_bits
@pytest.mark.parametrize("env", [PENDULUM, "gym/Pendulum-v1"])
def test_a_resumed_run_has_the_same_bits(env, tiny, tmp_path, monkeypatch):
    """With a replay that has wrapped, and in the middle of the actor's delay; then its policy plays."""

    def run(folder, **kwargs):
        how = {"steps": 8 * 14, "config": tiny("td3"), "quiet": True, "log_every": 1, "random_episodes": 0}
        return purerl.train("td3", env, seeds=2, out=folder, **how, **kwargs)

    whole, advance = run(tmp_path / "whole"), Trainer._advance

    def stopping(trainer, state, stop):
        if trainer.iteration == 11:
            raise Killed
        return advance(trainer, state, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", stopping)
        with pytest.raises(Killed):
            run(tmp_path / "cut", checkpoint_seconds=0)
    resumed = run(tmp_path / "cut", resume=True)
    for a, b in zip(jax.tree.leaves(whole.state.agent), jax.tree.leaves(resumed.state.agent), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(optax.tree_utils.tree_get(whole.state.agent.critic_optimizer, "count")[0]) == 2 * (14 - 4)
    policy = purerl.load_policy(tmp_path / "cut", seed=1)
    action = jax.jit(policy)(jnp.array([1.0, 0.0, 0.5]), jax.random.key(0))
    assert action.shape == (1,) and abs(float(action[0])) <= 2
