"""Ways to compute the same thing, side by side on one device: which one purerl should take there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl import configs, registry, rng
from purerl.buffers import offload
from purerl.experiments.benchmarks.accelerator_correctness import largest_difference
from purerl.experiments.benchmarks.accelerator_parts import Part, Scale, device_memory, one_line, timed
from purerl.loops.in_graph import InGraphLoop
from purerl.nn import convolution
from purerl.nn.torsos import ImpalaCNN
from purerl.ops import returns
from purerl.types import Array, Environment, EnvSpec, TimeStep

PARTS = [
    Part("variants/convolutions", 90, lambda scale: convolutions(scale)),
    Part("variants/advantages", 20, lambda scale: advantages(scale)),
    Part("variants/auxiliary-memory", 150, lambda scale: auxiliary_memory(scale)),
]


def _each(ways: dict[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """What each way found; one that fails (for memory, say) does not take the others with it."""
    found: dict[str, Any] = {}
    for name, way in ways.items():
        try:
            found[name] = way()
        except Exception as error:
            found[name] = {"failed": one_line(error)}
    return found


# --- convolutions ----------------------------------------------------------------------------------------------------


def convolutions(scale: Scale) -> dict[str, Any]:
    """The gradient of IMPALA's network for several seeds, each with its own parameters and images.

    - vmap: the convolutions of all seeds in one batch, which XLA sees as grouped convolutions.
    - map: one seed after the other.
    - products: the convolutions written as matrix products of patches, which vmap turns into batched products.
    - one_seed: map of a single seed, for what a seed costs alone.

    Differences are relative to map, and have the rounding of TF32 where the device uses it.
    """
    sizes = scale.convolutions
    seeds, shape = sizes["seeds"], (sizes["batch"], sizes["side"], sizes["side"], 3)
    network = ImpalaCNN(sizes["channels"], sizes["features"])
    images = jax.random.randint(jax.random.key(1), (seeds, *shape), 0, 256, jnp.int32).astype(jnp.uint8)
    params = jax.jit(jax.vmap(lambda key: network.init(key, images[0, :1])))(jax.random.split(jax.random.key(0), seeds))

    def gradient(params: Any, images: Array) -> Any:
        return jax.grad(lambda p: jnp.mean(jnp.square(network.apply(p, images))))(params)

    def by_products(params: Any, images: Array) -> Any:
        with nn.intercept_methods(_as_products):
            return gradient(params, images)

    def in_turn(params: Any, images: Array) -> Any:
        return jax.lax.map(lambda one: gradient(*one), (params, images))

    by_map: list[Any] = []  # empty if that way failed

    def way(function: Callable[..., Any], count: int, is_reference: bool = False) -> dict[str, Any]:
        arguments = jax.tree.map(lambda x: x[:count], (params, images))
        function = jax.jit(function)
        out = jax.device_get(function(*arguments))
        by_map.extend([out] if is_reference else [])
        rate = timed(function, *arguments, seconds=scale.seconds, repeats=scale.repeats)
        found: dict[str, Any] = {"images_per_second": round(rate * count * sizes["batch"], 1)}
        if by_map and count == seeds:
            found["difference_from_map"] = largest_difference(out, by_map[0])
        return found

    ways = {
        "map": lambda: way(in_turn, seeds, is_reference=True),
        "vmap": lambda: way(jax.vmap(gradient), seeds),
        "products": lambda: way(jax.vmap(by_products), seeds),
        "one_seed": lambda: way(in_turn, 1),
    }
    return _each(ways) | {"seeds": seeds, "images": list(shape)}


def _as_products(following: Callable[..., Any], arguments: Any, keywords: Any, context: Any) -> Any:
    """Computes the 3 x 3 convolutions of flax modules as matrix products, and leaves all other methods alone."""
    module = context.module
    if not isinstance(module, nn.Conv) or context.method_name != "__call__":
        return following(*arguments, **keywords)
    kernel, bias = (module.get_variable("params", name) for name in ("kernel", "bias"))
    border = (kernel.shape[0] // 2,) * 2  # the padding SAME of an odd kernel
    return convolution.of_patches(arguments[0], kernel, (1, 1), (border, border)) + bias.reshape(1, 1, 1, -1)


# --- advantages ------------------------------------------------------------------------------------------------------


def advantages(scale: Scale) -> dict[str, Any]:
    """Generalized advantage estimation by `lax.scan`, which purerl has, and by `lax.associative_scan`: rollouts [T, N].

    The second does twice the work in log T steps instead of T.
    """
    found: dict[str, Any] = {}
    for length, num_envs in scale.advantages:
        keys = jax.random.split(jax.random.key(0), 4)
        reward, value, value_next = (jax.random.normal(key, (length, num_envs)) for key in keys[:3])
        done = jax.random.bernoulli(keys[3], 0.01, (length, num_envs))
        arguments = (reward, value, value_next, done, done)
        ways = {"scan": returns.generalized_advantage_estimation, "associative_scan": associative_advantages}
        jitted = {name: jax.jit(functools.partial(way, discount=0.99, gae_lambda=0.95)) for name, way in ways.items()}
        ends = {name: jax.device_get(way(*arguments)) for name, way in jitted.items()}
        how = {"seconds": scale.seconds, "repeats": scale.repeats}
        row = {f"{name}_per_second": round(timed(way, *arguments, **how), 1) for name, way in jitted.items()}
        row["difference"] = largest_difference(ends["associative_scan"], ends["scan"])
        found[f"{length}_x_{num_envs}"] = row
    return found


def associative_advantages(
    reward_t: Array,
    value_tm1: Array,
    value_t: Array,
    terminated_t: Array,
    done_t: Array,
    discount: float,
    gae_lambda: float,
) -> Array:
    """`returns.generalized_advantage_estimation` as a prefix sum of linear maps A_t = delta_t + decay_t A_{t+1}."""
    delta_t = reward_t + discount * jnp.where(terminated_t, 0.0, value_t) - value_tm1
    decay_t = jnp.where(done_t, 0.0, discount * gae_lambda)

    def after(later: Any, earlier: Any) -> Any:
        return later[0] * earlier[0], earlier[1] + earlier[0] * later[1]

    return jax.lax.associative_scan(after, (decay_t, delta_t), reverse=True)[1]


# --- the memory of PPG's auxiliary buffer ----------------------------------------------------------------------------


def auxiliary_memory(scale: Scale) -> dict[str, Any]:
    """PPG in the graph on random frames, its auxiliary buffer in the device's memory and in the host's (pinned).

    Whole cycles, auxiliary phase included, so with few policy iterations its share is larger than in the paper.
    """
    side, fields = scale.frames
    return _each({memory: functools.partial(_ppg_with, memory, side, fields, scale) for memory in ("device", "host")})


def _ppg_with(memory: offload.Memory, side: int, fields: Any, scale: Scale) -> dict[str, Any]:
    agent = registry.agent("ppg")
    config = configs.build(agent.Config, {**fields, "auxiliary_memory": memory}, "ppg")
    environment = random_frames(side)
    agent.check(config, environment.spec)
    loop, traced = InGraphLoop(agent, environment), configs.traced(config)
    state, cycle, iteration = loop.init(traced, rng.seed_keys(0, 1)), config.policy_iterations, 0

    def advance() -> None:
        nonlocal state, iteration
        state, _ = loop.advance(traced, state, iteration, 10**6, cycle)  # waits for the end
        iteration += cycle

    advance()
    rate = timed(advance, seconds=scale.seconds, repeats=scale.repeats)
    buffer = state.agent.segments.observation
    return {
        "steps_per_second": round(rate * cycle * config.num_envs * config.rollout_length, 1),
        "memory_kind": buffer.sharding.memory_kind,
        "buffer_bytes": buffer.nbytes,
        "device_memory": device_memory() or "this device does not count its memory",
    }


def random_frames(side: int) -> Environment:
    """Random uint8 images [side, side, 3], which compress and predict nothing; it never ends. The state is ()."""
    spec = EnvSpec("bench/frames", (side, side, 3), "uint8", 15, shows_final_observation=False)

    def frame(key: Array) -> Array:
        return jax.random.bits(key, spec.observation_shape, jnp.uint8)

    def step(key: Array, state: tuple[()], action: Array) -> tuple[tuple[()], TimeStep]:
        no = jnp.zeros((), bool)
        return (), TimeStep(frame(key), jnp.float32(action == 0), no, no, None)

    return Environment(spec, lambda key: ((), frame(key)), step)
