"""The contracts of the loops: two loops, one update; lanes are solo runs; one compilation; chunks do not matter."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from purerl import registry, rng
from purerl.envs.hosted import HostedPool
from purerl.loops import in_graph, sharding
from purerl.loops.host import HostLoop

# Adam's epsilon is large enough that a gradient of rounding errors does not become a whole step.
COMMON = {
    "network": "mlp",
    "initializer": "orthogonal",
    "time_limit_is_terminal": False,
    "learning_rate": 1e-3,
    "adam_epsilon": 1e-5,
}
CARTPOLE = "gymnax/CartPole-v1"


def environment(max_steps=20):
    family, name = registry.environment(CARTPOLE)
    # A short time limit, so that a few updates meet both ends of games and time-outs.
    return family.make(name, family.Options(max_steps=max_steps))


@pytest.fixture
def config_of(tiny_config):
    """agent -> its config."""
    more = {"ppo": {"num_epochs": 2}, "ppg": {}}
    return lambda agent: tiny_config(agent, **more[agent] | COMMON)


@functools.cache
def in_graph_loop(agent, lanes="auto"):
    return in_graph.InGraphLoop(registry.agent(agent), environment(), lanes)


def run(loop, config, keys, iterations, chunk=None):
    """RunState [S, ...] after `iterations`, advanced `chunk` at a time, and the metrics of each chunk."""
    metrics, chunk = [], chunk or iterations
    state = loop.init(config, keys)
    for i in range(0, iterations, chunk):
        state, sums = loop.advance(config, state, i, iterations, min(chunk, iterations - i))
        metrics.append(jax.device_get(sums))
    return state, metrics


def params(state, lane=0):
    return jax.tree.map(lambda x: np.asarray(x[lane]), state.agent.params)


def assert_same(a, b, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


@pytest.mark.parametrize(("agent", "lanes", "groups"), [("ppo", "map", 2), ("ppg", "map", 1), ("ppg", "vmap", 2)])
def test_host_cartpole_equals_in_graph_cartpole(agent, lanes, groups, config_of):
    """The signature test: the same parameters after 4 updates (a cycle of auxiliary phases included), two seeds."""
    keys, config = rng.seed_keys(0, 2), config_of(agent)
    expected, expected_metrics = run(in_graph_loop(agent), config, keys, 4)
    with HostedPool(environment(), keys, num_envs=4, num_groups=groups) as pool:
        state, metrics = run(HostLoop(registry.agent(agent), pool, lanes), config, keys, 4)
    for lane in range(2):
        # Two programs round differently; a wrong key, row or flag shows in the first digit.
        assert_same(params(state, lane), params(expected, lane), rtol=0, atol=1e-5)
    assert_same(state.inputs, expected.inputs, rtol=0, atol=1e-6)
    for name in ("episode_return", "episode_length"):
        np.testing.assert_array_equal(metrics[0][name].total, expected_metrics[0][name].total)
        assert metrics[0][name].count.sum() > 0


@pytest.mark.parametrize(("lanes", "times"), [("map", 2), ("vmap", 1)])
def test_acting_on_the_host_compiles_once_for_each_place_of_its_inputs(config_of, lanes, times):
    """Once for rows from the pool, and once for the first rows of a rollout, which are on the device already. Where
    seeds are spread over devices, rows are put there, and there is one place.
    """
    compiled = []

    def listener(event, start, end, fun_name="", **_):
        if event.endswith("backend_compile_duration") and "_act_and_store" in fun_name:
            compiled.append(fun_name)

    keys = rng.seed_keys(0, 2)
    with HostedPool(environment(), keys, num_envs=4, num_groups=2) as pool:
        jax.monitoring.register_event_time_span_listener(listener)
        try:
            run(HostLoop(registry.agent("ppo"), pool, lanes), config_of("ppo"), keys, 3, chunk=1)
        finally:
            jax.monitoring.unregister_event_time_span_listener(listener)
    assert len(compiled) == times, compiled


def test_a_batched_lane_equals_the_solo_run_of_its_seed(config_of):
    """Lane i of 4 seeds is seed i to rounding, and the neighbouring seed is far away. Where lanes take turns it is to
    the bit: see test_lanes.
    """
    loop, config = in_graph_loop("ppg", "vmap"), config_of("ppg")
    together, _ = run(loop, config, rng.seed_keys(5, 4), 3)
    for lane in (0, 3):
        alone, _ = run(loop, config, rng.seed_keys(5 + lane, 1), 3)
        assert_same(params(together, lane), params(alone), rtol=0, atol=1e-5)
        for mine, its_own in zip(*(jax.tree.leaves(state.inputs) for state in (together, alone)), strict=True):
            np.testing.assert_allclose(mine[lane], its_own[0], rtol=0, atol=1e-5)
        other = (lane + 1) % 4
        assert largest_difference(params(together, other), params(alone)) > 1e-2


def test_both_ways_to_run_lanes_are_the_same_run(config_of):
    keys, config = rng.seed_keys(0, 2), config_of("ppo")
    (one, its_metrics), (other, other_metrics) = (
        run(in_graph_loop("ppo", lanes), config, keys, 3) for lanes in ("map", "vmap")
    )
    assert_same(one.agent.params, other.agent.params, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(its_metrics[0]["episode_return"].total, other_metrics[0]["episode_return"].total)
    assert (jax.default_backend() == "cpu") == (in_graph_loop("ppo").lanes == "map")


@pytest.mark.parametrize("lanes", ["map", "vmap"])
def test_chunking_changes_nothing_and_compiles_once(lanes, config_of):
    """Six iterations as 6, as 3 + 3 and as 4 + 2 are the same bits from one program."""
    agent = registry.agent("ppo")
    loop, config = in_graph.InGraphLoop(agent, environment(), lanes), config_of("ppo")
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(loop._chunk.__wrapped__, n=1)
    loop._chunk = jax.jit(traced, donate_argnums=(1, 2))
    whole, _ = run(loop, config, rng.seed_keys(0, 2), 6)
    for chunk in (3, 4):
        parts, _ = run(loop, config, rng.seed_keys(0, 2), 6, chunk=chunk)
        assert_same(params(parts), params(whole), rtol=0, atol=0)


@pytest.mark.parametrize("lanes", ["map", "vmap"])
def test_adding_seeds_compiles_one_program_whatever_their_number(lanes, config_of):
    """The traced program does not grow with the seeds: as many equations for 16 as for 4 (on two devices: one lane on
    each would not need the loop over lanes).
    """

    def count(jaxpr):
        return sum(1 + sum(map(count, jaxprs_in_params(equation.params))) for equation in jaxpr.eqns)

    def equations(num_seeds):
        loop, config = in_graph_loop("ppo", lanes), config_of("ppo")
        state = jax.eval_shape(loop._init, config, rng.seed_keys(0, num_seeds))
        i = jax.ShapeDtypeStruct((), jnp.int32)
        return count(jax.make_jaxpr(loop._from_zero)(config, state, None, i, i, i).jaxpr)

    assert equations(4) == equations(16) > 500


@pytest.mark.parametrize("lanes", ["map", "vmap"])
def test_the_agent_is_traced_once(lanes, config_of):
    """Not once more for the shapes of the metrics, and of what a loop over lanes carries: tracing takes seconds."""
    agent, traces = registry.agent("ppo"), []

    def update(*args):
        traces.append(args)
        return agent.update(*args)

    loop, config = in_graph.InGraphLoop(agent._replace(update=update), environment(), lanes), config_of("ppo")
    i = jax.ShapeDtypeStruct((), jnp.int32)
    loop._chunk.trace(config, jax.eval_shape(loop._init, config, rng.seed_keys(0, 4)), None, i, i, i)
    assert len(traces) == 1


def test_metrics_are_sums_over_the_chunk(config_of):
    _, one = run(in_graph_loop("ppo"), config_of("ppo"), rng.seed_keys(0, 2), 4)
    _, many = run(in_graph_loop("ppo"), config_of("ppo"), rng.seed_keys(0, 2), 4, chunk=1)
    for name, metric in one[0].items():
        np.testing.assert_allclose(metric.total, sum(m[name].total for m in many), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(metric.count, sum(m[name].count for m in many))


@pytest.mark.parametrize("lanes", ["map", "vmap"])
def test_traced_config_fields_can_be_vmapped_with_the_seeds(lanes, config_of):
    """Two learning rates side by side are the two runs with one of them each."""
    loop, config = in_graph_loop("ppo", lanes), config_of("ppo")
    keys = rng.seed_keys(0, 2)
    rates = jnp.array([1e-3, 3e-3])
    both = config.replace(learning_rate=rates)
    state, _ = loop.advance(both, loop.init(both, keys), 0, 2, 2)
    for lane in range(2):
        single = config.replace(learning_rate=rates[lane])
        alone, _ = loop.advance(single, loop.init(single, keys), 0, 2, 2)
        assert_same(params(state, lane), params(alone, lane), rtol=0, atol=1e-5)


@pytest.mark.parametrize("lanes", [slice(3), slice(1, 3), slice(2, 4), slice(1, 2), slice(4)])
def test_lanes_are_taken_without_a_program_of_all_devices(lanes):
    """Such a program lets the devices wait for one another, which on a busy machine has ended processes."""
    rows, keys = np.arange(12.0).reshape(4, 3), rng.seed_keys(0, 4)
    tree = sharding.place({"rows": jnp.asarray(rows), "keys": keys}, sharding.seed_mesh(4))
    assert len(tree["rows"].sharding.device_set) == 2
    found = sharding.take(tree, lanes)
    np.testing.assert_array_equal(found["rows"], rows[lanes])
    np.testing.assert_array_equal(jax.random.key_data(found["keys"]), jax.random.key_data(keys)[lanes])
    devices = {len(x.sharding.device_set) for x in jax.tree.leaves(found)}
    assert devices == {2 if lanes == slice(4) else 1}
