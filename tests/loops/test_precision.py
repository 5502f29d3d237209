"""`matmul_precision` reaches every float32 product of an agent, through every door."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

import purerl
from purerl import configs, registry, rng
from purerl.envs.hosted import HostedPool
from purerl.loops import host, in_graph, play
from purerl.runs import programs
from purerl.runs.plan import make_plan

CARTPOLE = "gymnax/CartPole-v1"
MINATAR = "gymnax/Breakout-MinAtar"
SMALL = {"num_envs": 4, "rollout_length": 8}
ON_POLICY = SMALL | {"num_minibatches": 2}
OFF_POLICY = SMALL | {"train_period": 4, "target_period": 8, "replay_size": 128, "batch_size": 4, "atoms": 5}
CONFIGS = {
    "ppo": ON_POLICY,
    "ppg": ON_POLICY | {"policy_iterations": 2, "auxiliary_minibatches": 2},
    "dqn": {name: value for name, value in OFF_POLICY.items() if name != "atoms"},
    "rainbow": OFF_POLICY,
    "a2c": SMALL,
    "p3o": SMALL | {"replay_size": 64, "learning_starts": 16},
    "pqn": ON_POLICY | {"recurrent": "gru", "recurrent_size": 4},
    "td3": SMALL | {"train_period": 4, "replay_size": 128, "batch_size": 4, "preset": "classic"},
}
# Of agents with continuous actions.
PENDULUM = {"td3": "gymnax/Pendulum-v1"}


def precisions(function, *args):
    """{primitive: the precisions that its equations ask for} of the products in a function."""
    found = {}

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if "precision" in equation.params:
                asked = equation.params["precision"]
                found.setdefault(equation.primitive.name, set()).update(asked if isinstance(asked, tuple) else [asked])
            for inner in jaxprs_in_params(equation.params):
                look(inner)

    look(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def all_highest(found):
    return bool(found) and all(asked == {jax.lax.Precision.HIGHEST} for asked in found.values())


@pytest.mark.parametrize("agent", CONFIGS)
def test_a_whole_run_has_it(agent):
    """Networks, their derivatives, and what each agent multiplies beside them; by default nothing is asked for."""
    config = {"preset": "minatar"} | CONFIGS[agent]
    make = functools.partial(purerl.make_train, agent, PENDULUM.get(agent, MINATAR), steps=64, **config)
    train = make(matmul_precision="highest")
    state = jax.eval_shape(train.init, jax.random.key(0))
    found = precisions(train.run, state)
    assert all_highest(found), found
    usual = make()
    assert {x for asked in precisions(usual.run, state).values() for x in asked} == {None}


@pytest.fixture
def parts():
    """(agent, config, environment, keys) of a small PPO at the highest precision."""
    agent, (family, name) = registry.agent("ppo"), registry.environment(CARTPOLE)
    config = configs.traced(agent.Config(**ON_POLICY, network="mlp", hidden=(8,), matmul_precision="highest"))
    return agent, config, family.make(name, family.Options()), rng.seed_keys(0, 2)


def test_kept_runs_and_evaluations_have_it(parts):
    agent, config, environment, keys = parts
    loop, i = in_graph.InGraphLoop(agent, environment), jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.eval_shape(loop._init, config, keys)
    assert all_highest(precisions(loop._chunk, config, state, None, i, i, i))
    player = play.GraphPlayer(agent, environment, config, num_envs=2, explore=True)
    begun = jax.eval_shape(player._begin, config, state.agent, keys, jnp.zeros(2, jnp.uint32))
    assert all_highest(precisions(player._block, config, begun, i))


def test_acting_and_learning_on_the_host_have_it(parts, monkeypatch):
    agent, config, environment, keys = parts
    seen = {}
    with HostedPool(environment, keys, num_envs=4) as pool:
        loop = host.HostLoop(agent, pool, "vmap")
        for name in ("_act", "_learn"):
            jitted = getattr(loop, name)

            def watched(*args, jitted=jitted, name=name):
                seen.setdefault(name, precisions(jitted, *args))
                return jitted(*args)

            setattr(loop, name, watched)
        loop.advance(config, loop.init(config, keys), 0, 1, 1)
    assert all_highest(seen["_act"]) and all_highest(seen["_learn"]), seen


def test_it_is_recorded_and_a_loaded_policy_has_it(tmp_path):
    config = ON_POLICY | {"network": "mlp", "hidden": (8,), "matmul_precision": "highest"}
    run = purerl.train("ppo", CARTPOLE, steps=32, config=config, out=tmp_path / "run", quiet=True)
    policy = purerl.load_policy(run.folder)
    assert policy.config.matmul_precision == "highest"
    assert all_highest(precisions(policy, jnp.zeros(4), jax.random.key(0)))
    assert "default_matmul_precision" in run.summary and "xla_flags" in run.summary


def test_settings_of_another_precision_are_another_program():
    plans = [make_plan("ppo", CARTPOLE, config={"matmul_precision": name}) for name in ("default", "high", "highest")]
    assert len({programs._program_of(programs.Cell(plan, "folder")) for plan in plans}) == 3
    with pytest.raises(purerl.PurerlError, match="matmul_precision = 'tf32' is not a choice"):
        make_plan("ppo", CARTPOLE, config={"matmul_precision": "tf32"})
