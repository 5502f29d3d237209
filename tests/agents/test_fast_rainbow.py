"""Rainbow with the parts of "Beyond the Rainbow" as an agent: lanes, exact resume, the saved policy, exploration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl import configs, rng
from purerl.agents import rainbow
from purerl.errors import PurerlError
from purerl.runs.plan import make_plan
from purerl.runs.trainer import Trainer
from purerl.types import Clock, EnvSpec, Inputs

BREAKOUT, PRO = "gymnax/Breakout-MinAtar", "rainbow-pro"
PARTS = {
    "atoms": 0,
    "quantiles": 3,
    "target_quantiles": 4,
    "acting_quantiles": 5,
    "munchausen": True,
    "double": False,
    "noisy": False,  # its noise is compared with numpy in test_whole_updates_dqn.py
    "separate_streams": True,
    "network": "impala",
    "channels": (2,),
    "features": 4,
    "spectral_norm": True,
    "max_pool": 2,
}
SPEC = EnvSpec("test/vector", (3,), "float32", 4)


def leaves(tree):
    return [np.asarray(rng.as_words(x)) for x in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """(name of its folder, **arguments) -> a run on Breakout that makes 27 gradient steps, its lanes vmapped."""
    parent = tmp_path_factory.mktemp("runs")

    def run(name, **arguments):
        how = {"config": tiny("rainbow", **PARTS), "lanes": "vmap", "quiet": True, "log_every": 1}
        return purerl.train("rainbow", BREAKOUT, steps=8 * 17, out=parent / name, **how | arguments)

    return run


@pytest.fixture(scope="module")
def whole(run):
    """Seeds 5 and 6."""
    return run("whole", seeds=2, seed=5)


def test_a_lane_is_its_solo_run(run, whole):
    """To rounding: 27 steps of 1e-3. The vectors of the power iteration have moved since the target was copied."""
    alone = run("alone", seed=6)
    pairs = list(zip(*(leaves(r.state.agent.params) for r in (whole, alone)), strict=True))
    assert max(np.abs(mine[0] - other[0]).max() for mine, other in pairs) > 1e-2  # a neighbour is another run
    for mine, other in pairs:
        np.testing.assert_allclose(mine[1], other[0], atol=1e-4)
    online, target = (leaves(p["spectral"]) for p in (whole.state.agent.params, whole.state.agent.target_params))
    assert len(online) == 4 and all((a != b).any() for a, b in zip(online, target, strict=True))


def test_resume_is_exact(run, whole, monkeypatch):
    """After a stop with a replay that has wrapped, between two copies of the target."""
    advance = Trainer._advance

    def stopping(trainer, state, stop):
        if trainer.iteration == 11:
            raise KeyError("stop")
        return advance(trainer, state, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", stopping)
        with pytest.raises(KeyError):
            run("cut", seeds=2, seed=5, checkpoint_seconds=0)
    resumed = run("cut", seeds=2, seed=5, resume=True)
    for a, b in zip(leaves(whole.state), leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_saved_policy_plays_with_the_saved_vectors(whole):
    """With 500 quantiles it takes the action whose mean of 500 others is the best, but for near ties."""
    policy = purerl.load_policy(whole.folder, seed=6)
    policy = dataclasses.replace(policy, config=policy.config.replace(acting_quantiles=500, epsilon_evaluation=0.0))
    params = jax.tree.map(lambda x: x[1], whole.state.agent.params)
    for a, b in zip(leaves(policy.state.params), leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    random = np.random.default_rng(0)
    observations = jnp.asarray(random.random((200, *policy.spec.observation_shape)) < 0.3)
    taus = jnp.asarray(random.random((200, 500)), jnp.float32)
    out = jax.jit(rainbow.network(policy.config, policy.spec).apply)(params, observations, None, taus)
    q = np.asarray(jnp.mean(out, axis=-1))
    best, ordered = q.argmax(-1), np.sort(q, axis=-1)
    clear = ordered[:, -1] - ordered[:, -2] > np.median(ordered[:, -1] - ordered[:, -2])
    actions = jax.jit(jax.vmap(policy))(observations, jax.random.split(jax.random.key(1), 200))
    np.testing.assert_array_equal(actions[clear], best[clear])
    assert clear.sum() == 100 and len(np.unique(best[clear])) > 1


def test_pro_is_one_field(tiny):
    """The parts are fields of rainbow-pro as well."""
    base, pro = (make_plan(name, BREAKOUT, steps=100, config=tiny("rainbow", **PARTS)) for name in ("rainbow", PRO))
    assert base.config == pro.config and pro.agent == PRO


def test_acting_averages_as_many_quantiles_as_asked():
    """Actions with one quantile change with the key, those with many hardly do; epsilon is 0 in both."""
    found = {}
    for count in (1, 400):
        config = configs.traced(
            rainbow.Config(
                atoms=0, quantiles=2, acting_quantiles=count, network="mlp", hidden=(8,), epsilon_initial=0.0,
                epsilon_final=0.0,
            )
        )  # fmt: skip
        state = rainbow.init(config, SPEC, jax.random.key(0))
        inputs = Inputs.at_start(SPEC, jnp.ones((300, 3)))
        keys, clock = jax.random.split(jax.random.key(1), 300), Clock(jnp.int32(0), jnp.int32(10))
        act = jax.jit(rainbow.act, static_argnums=(1, 3, 7))
        actions, _, _ = act(config, SPEC, state, (), inputs, keys, clock, True)
        found[count] = np.mean(actions != np.bincount(actions).argmax())
    assert found[1] > 0.2 and found[400] < 0.05, found


def test_epsilon_ends():
    """Epsilon 0.5 until 40 transitions, which are 4 iterations of 10, then 0."""
    config = rainbow.Config(num_envs=10, rollout_length=1, epsilon_initial=0.5, epsilon_zero_after=40.0)
    found = [float(rainbow.epsilon(config, Clock(jnp.int32(i), jnp.int32(9)), True)) for i in range(6)]
    assert found == [0.5, 0.5, 0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantiles": 8}, "set atoms to 0"),
        ({"munchausen": True}, "set atoms to 0"),
        ({"munchausen": True, "atoms": 0, "double": True}, "no best action for double"),
        ({"spectral_norm": True}, "not for network mlp"),
        ({"max_pool": 6}, "not for network mlp"),
    ],
)
def test_impossible_parts_are_refused(fields, message):
    with pytest.raises(PurerlError, match=message):
        rainbow.check(rainbow.Config(**fields), SPEC)
