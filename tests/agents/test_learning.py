"""Agents learn: probe environments with known answers, then CartPole, four seeds each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import configs, in_graph, registry, rng, training
from purerl.types import Clock

PROBE = {
    "num_envs": 16,
    "rollout_length": 8,
    "network": "mlp",
    "hidden": (16,),
    "initializer": "orthogonal",
    "scale_rewards": "none",
    "time_limit_is_terminal": False,
    "learning_rate": 5e-3,
    "discount": 0.9,
    "num_minibatches": 4,
}
EXTRA = {
    "ppo": {"num_epochs": 4, "clip_values": False, "share_torso": False, "max_grad_norm": float("inf")},
    "ppg": {
        "policy_epochs": 4,
        "value_epochs": 4,
        "policy_iterations": 4,
        "auxiliary_epochs": 2,
        "auxiliary_minibatches": 4,
    },
}
SEEDS = 4


class Trained:
    """An agent after 100 updates on a probe, four seeds in one program."""

    def __init__(self, agent, probe, **overrides):
        self.agent = registry.agent(agent)
        environment = registry.environment(f"probe/{probe}")[0].make(probe)
        self.spec = environment.spec
        self.config = configs.traced(self.agent.Config(**PROBE | EXTRA[agent] | overrides))
        loop = in_graph.InGraphLoop(self.agent, environment)
        state = loop.init(self.config, rng.seed_keys(0, SEEDS))
        self.state, _ = loop.advance(self.config, state, 0, 100, 100)

    def at(self, observation):
        """(greedy action, value) of each seed at an observation."""
        keys = rng.seed_keys(0, 1)
        clock = Clock(jnp.int32(0), jnp.int32(1))
        action, extras = jax.vmap(
            lambda s: self.agent.act(self.config, self.spec, s, jnp.full((1, 1), observation), keys, clock, False)
        )(self.state.agent)
        return np.asarray(action)[:, 0], np.asarray(extras.value)[:, 0]


@pytest.mark.parametrize("agent", ["ppo", "ppg"])
@pytest.mark.parametrize(
    ("probe", "values"),
    [
        ("constant", {0.0: 1.0}),
        ("observation", {-1.0: -1.0, 1.0: 1.0}),
        ("discount", {0.0: 0.9, 1.0: 1.0}),
        ("time-limit", {0.0: 10.0}),
    ],
)
def test_values_of_probes(agent, probe, values):
    overrides = {"learning_rate": 2e-2} if probe == "time-limit" else {}
    trained = Trained(agent, probe, **overrides)
    for observation, value in values.items():
        np.testing.assert_allclose(trained.at(observation)[1], value, atol=0.05 * max(1, value))


@pytest.mark.parametrize("agent", ["ppo", "ppg"])
def test_time_limit_as_an_end(agent):
    """The same probe is worth 1 where a time-out ends the game."""
    np.testing.assert_allclose(Trained(agent, "time-limit", time_limit_is_terminal=True).at(0.0)[1], 1.0, atol=0.05)


@pytest.mark.parametrize("agent", ["ppo", "ppg"])
def test_actions_of_probes(agent):
    assert (Trained(agent, "action").at(0.0)[0] == 1).all()
    policy = Trained(agent, "policy")
    assert (policy.at(1.0)[0] == 1).all() and (policy.at(-1.0)[0] == 0).all()
    np.testing.assert_allclose(policy.at(1.0)[1], 1.0, atol=0.1)


@pytest.mark.parametrize("agent", ["ppo", "ppg"])
def test_cartpole_is_solved_by_every_seed(agent, tmp_path):
    run = training.train(agent, "gymnax/CartPole-v1", seeds=SEEDS, out=tmp_path / "run", quiet=True)
    returns = run.summary["final_return"]["per_seed"]
    assert min(returns) >= 475, returns
