"""Whether a device computes what the CPU computes: updates of all agents, resuming, lanes, and the two loops.

Everything is float32 without TF32 (`matmul_precision="highest"`). Two float32 programs round differently, so numbers
are compared with a tolerance; only a resumed run must have the very bits, with deterministic operations.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import configs, registry, rng
from purerl.envs.hosted import HostedPool
from purerl.errors import PurerlError
from purerl.experiments.benchmarks.accelerator_parts import SCALES, Lacking, Part, Scale, fitting
from purerl.loops import collect, host, in_graph
from purerl.loops.train import init_run_state, learn
from purerl.runs.plan import Plan, make_plan
from purerl.runs.train import train as train_run
from purerl.types import Agent, Clock, Environment, PyTree

ENVIRONMENT = "gymnax/Breakout-MinAtar"
# For agents that need continuous actions.
CONTINUOUS = "gymnax/Pendulum-v1"
# Largest relative differences that count as rounding: of parameters, each relative to the largest of its array; of how
# far an update moved them, in the same way; and of metrics. Two compilations of PPO's, DQN's and Rainbow's update for
# one CPU, with XLA's optimizations and without, differed by 5e-6, 2e-5 and 7e-7. TF32 rounds some thousand times as
# coarsely.
TOLERANCE = {"parameters": 1e-3, "change": 1e-2, "metrics": 1e-3}
# Metrics that are nearly zero are the difference of larger numbers: they are compared with this instead.
SMALLEST_METRIC = 0.1
_TOTAL = 1_000_000  # iterations of the whole run, for schedules


def parts(scale: Scale) -> list[Part]:
    """All of them; every registered agent is one, those of `--import` too."""
    found = [
        Part(f"correctness/agent-{name}", 30, functools.partial(agent_against_cpu, name))
        for name in registry.agent_names()
    ]
    found += [Part(f"correctness/resume-{name}", 60, functools.partial(resumed, name)) for name in scale.resumed]
    return [*found, Part("correctness/lanes", 60, lanes), Part("correctness/host-loop", 40, host_loop)]


# --- differences -----------------------------------------------------------------------------------------------------


def largest_difference(found: PyTree, expected: PyTree) -> float:
    """The largest of max|a - b| / max|b| over the arrays of two trees; infinity where one has NaN or infinity."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    differences = []
    for a, b in ((np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs):
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf")
        scale = np.abs(b).max(initial=0.0)
        distance = np.abs(a - b).max(initial=0.0)
        differences.append(distance / scale if scale else float(distance > 0))
    return float(max(differences, default=0.0))


def same_bits(one: PyTree, other: PyTree) -> bool:
    """Whether two trees of arrays are equal bit for bit (a NaN equals the same NaN)."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def compared(found: dict[str, float]) -> dict[str, Any]:
    """{"passed": whether all are within TOLERANCE, and for each {its name: difference}}."""
    return {"passed": all(value <= TOLERANCE[name] for name, value in found.items()), **found}


def _moved(after: PyTree, before: PyTree) -> PyTree:
    """How far parameters moved, as float64."""
    return jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), after, before)


# --- agents ----------------------------------------------------------------------------------------------------------


def plan_of(agent: str, scale: Scale) -> Plan:
    """The plan in which an agent is compared: with discrete actions if it takes them, else with continuous ones."""
    config = fitting(agent, scale.correctness)
    try:
        return make_plan(agent, ENVIRONMENT, config=config)
    except PurerlError:
        return make_plan(agent, CONTINUOUS, config=config)


@functools.cache
def _programs(init: Any, act: Any, update: Any, init_memory: Any, env: str) -> tuple[Any, Any, Any]:
    """Jitted (begin, walk, learn) of an agent's functions, so that variants of an agent share what is compiled."""
    agent = Agent("", object, lambda config, spec: None, init, act, update, init_memory)
    environment = _environment(env)

    def walk(config: Any, state: Any, clock: Clock) -> Any:
        return collect.collect(
            agent, environment, config, state, clock, length=config.rollout_length, iteration=clock.iteration
        )

    return (
        jax.jit(lambda config, key: init_run_state(agent, environment, config, key)),
        jax.jit(walk),
        jax.jit(lambda *args: learn(agent, environment.spec, *args)),
    )


def compared_iteration(config: Any) -> int:
    """The first iteration that does everything: the agent learns, and a cycle of phases ends with it."""
    cycle = getattr(config, "policy_iterations", 1) + getattr(config, "skip_iterations", 0)
    starts = -(-getattr(config, "learning_starts", 0) // (config.num_envs * config.rollout_length))
    return -(-(starts + 1) // cycle) * cycle - 1 + (cycle if starts else 0)


def agent_against_cpu(name: str, scale: Scale) -> dict[str, Any]:
    """One update of an agent on the device and on the CPU, from the same state and the same rollout.

    The CPU trains up to there. What is compared is the parameters after the update, how far it moved them, and its
    metrics, the losses among them.
    """
    return compared(update_differences(name, scale, cpu(), jax.devices()[0]))


def update_differences(name: str, scale: Scale, reference: Any, device: Any, **other: Any) -> dict[str, float]:
    """{"parameters", "change", "metrics": largest relative difference} of one update on two devices; `other` are config
    fields that the device alone has.
    """
    # Committed to the reference, so that the CPU computes what comes before.
    the_plan = plan_of(name, scale)
    config = jax.device_put(configs.traced(the_plan.config), reference)
    key = jax.device_put(rng.seed_keys(0, 1)[0], reference)
    agent, last = registry.agent(name), compared_iteration(config)
    begin, walk, learn_from = _programs(agent.init, agent.act, agent.update, agent.init_memory, the_plan.env)
    with jax.default_device(reference):
        state = begin(config, key)
        for i in range(last):
            state, rollout = walk(config, state, _clock(i))
            state, _ = learn_from(config, state, rollout, _clock(i))
        state, rollout = walk(config, state, _clock(last))
    arguments = (config, state, rollout, _clock(last))
    ends = []
    for place, fields in ((reference, {}), (device, other)):
        placed = jax.device_put(arguments, place)
        with jax.default_device(place):
            ends.append(jax.device_get(learn_from(placed[0].replace(**fields), *placed[1:])))
    (expected, metrics), (found, its_metrics) = ends
    before = jax.device_get(state.agent.params)
    return {
        "parameters": largest_difference(found.agent.params, expected.agent.params),
        "change": largest_difference(_moved(found.agent.params, before), _moved(expected.agent.params, before)),
        "metrics": max(_metric_difference(its_metrics[key], metrics[key]) for key in metrics),
    }


def cpu() -> Any:
    """JAX's CPU, which it has beside an accelerator. Raises Lacking where JAX_PLATFORMS leaves it out."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        raise Lacking(f"JAX has no CPU to compare with: add it to JAX_PLATFORMS ({error})") from error


def _clock(iteration: int) -> Clock:
    return Clock(np.int32(iteration), np.int32(_TOTAL))


def _metric_difference(found: Any, expected: Any) -> float:
    """|a - b| / |b| of the means of two Metrics."""
    a, b = (float(metric.total) / max(float(metric.count), 1.0) for metric in (found, expected))
    return abs(a - b) / max(abs(b), SMALLEST_METRIC) if np.isfinite([a, b]).all() else float("inf")


# --- lanes and loops -------------------------------------------------------------------------------------------------


def lanes(scale: Scale) -> dict[str, Any]:
    """PPO: several seeds by vmap, by map, and the last of them alone, after two iterations."""
    config, keys = configs.traced(plan_of("ppo", scale).config), rng.seed_keys(0, scale.lanes)
    by_map, by_vmap = (_trained(_loop_in_graph(way), config, keys) for way in ("map", "vmap"))
    solo = _trained(_loop_in_graph("map"), config, keys[-1:])
    differences = {"map": _differences(by_map, solo), "vmap": _differences(by_vmap, solo)}
    worst = compared({name: max(one[name] for one in differences.values()) for name in solo})
    # On a GPU two programs may be given other kernels: the bits are told, and do not decide.
    return worst | {"map_has_the_bits_of_solo": same_bits(by_map, solo), "against_solo": differences}


def host_loop(scale: Scale) -> dict[str, Any]:
    """PPO on one environment, stepped in the graph and through a pool of the host: the same update, two iterations."""
    config, keys = configs.traced(plan_of("ppo", scale).config), rng.seed_keys(0, 1)
    in_the_graph = _trained(_loop_in_graph("map"), config, keys)
    with HostedPool(_environment(), keys, config.num_envs, num_groups=2) as pool:
        on_the_host = _trained(host.HostLoop(registry.agent("ppo"), pool, "map"), config, keys)
    return compared(_differences(on_the_host, in_the_graph))


@functools.cache
def _environment(env: str = ENVIRONMENT) -> Environment:
    family, env_id = registry.environment(env)
    return family.make(env_id, family.Options())


@functools.cache
def _loop_in_graph(way: Any) -> in_graph.InGraphLoop:
    """Shared, so that a program is compiled once."""
    return in_graph.InGraphLoop(registry.agent("ppo"), _environment(), way)


def _trained(loop: Any, config: Any, keys: Any) -> dict[str, PyTree]:
    """{"parameters": of the last seed after two iterations, "change": how far they moved}, in numpy."""

    def last_lane(state: Any) -> PyTree:
        return jax.tree.map(lambda x: np.array(x[-1]), state.agent.params)

    state = loop.init(config, keys)
    before = last_lane(state)  # a copy: `advance` takes the state's memory
    after = last_lane(loop.advance(config, state, 0, _TOTAL, 2)[0])
    return {"parameters": after, "change": _moved(after, before)}


def _differences(found: dict[str, PyTree], expected: dict[str, PyTree]) -> dict[str, float]:
    """The largest relative difference of each entry of `_trained`."""
    return {name: largest_difference(found[name], expected[name]) for name in expected}


# --- resuming --------------------------------------------------------------------------------------------------------


def resumed(name: str, scale: Scale) -> dict[str, Any]:
    """A run that was saved half way and resumed, against one that was not: all of the last state, bit for bit.

    In a process of its own, because XLA reads the flag for deterministic operations when it starts.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    # This process holds most of the device's memory already.
    environment = os.environ | {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    chosen = next(key for key, one in SCALES.items() if one is scale)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, folder, name, chosen]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise PurerlError(f"the resumed run failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _resume(folder: Path, name: str, scale: Scale) -> dict[str, Any]:
    """What the process of `resumed` finds."""
    the_plan = plan_of(name, scale)
    half = compared_iteration(the_plan.config) + 1
    how = {"config": fitting(name, scale.correctness), "quiet": True, "random_episodes": 0}

    def train(out: str, iterations: int, **more: Any) -> Any:
        steps = iterations * the_plan.steps_per_iteration
        return train_run(name, ENVIRONMENT, steps=steps, out=folder / out, **how, **more).state

    whole = train("whole", 2 * half)
    train("parts", half)
    ends = [list(map(rng.as_words, jax.tree.leaves(state))) for state in (train("parts", 2 * half, resume=True), whole)]
    return {"passed": same_bits(*ends), "iterations": 2 * half, "saved_at": half, "arrays": len(ends[0])}


if __name__ == "__main__":
    print(json.dumps(_resume(Path(sys.argv[1]), sys.argv[2], SCALES[sys.argv[3]])))
