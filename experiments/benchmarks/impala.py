"""IMPALA's network on Procgen's frames, samples a second, against PyTorch: gradient steps of PPO, and acting.

Both sides take minibatches of 256 frames (64 x 64 x 3, uint8) out of 2,048 by shuffled indices, and compute in float32:
the same network of 626,256 parameters, PPO's loss, the gradient clipped to a norm, Adam. PyTorch runs in both of its
memory formats; the faster one is what we compare with.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from purerl.agents import ppo
from purerl.experiments.benchmarks.baselines import Torch
from purerl.loops import sharding
from purerl.ops import advantages, minibatches
from purerl.types import EnvSpec

SPEC = EnvSpec("bench/frames", (64, 64, 3), "uint8", 15)
SAMPLES, BATCH = 2048, 256
CONFIG = ppo.Config(num_minibatches=SAMPLES // BATCH)


class Learner:
    """Our side: compiled passes over the samples, on some devices."""

    def __init__(self, devices: int, samples: int = SAMPLES, batch: int = BATCH):
        draw = np.random.default_rng(0)
        frames = draw.integers(0, 255, (samples, *SPEC.observation_shape), dtype=np.uint8)
        numbers = lambda: draw.normal(size=samples).astype(np.float32)  # noqa: E731
        data = advantages.ActorCriticBatch(
            inputs=frames,
            action=draw.integers(0, 15, samples).astype(np.int32),
            log_prob=numbers() * 0.01 - 2.7,
            value=numbers(),
            advantage=numbers(),
            value_target=numbers(),
            distinct_share=None,
        )
        params = ppo.network(CONFIG, SPEC).init(jax.random.key(0), frames[:1])
        self.samples, self.parameters = samples, sum(x.size for x in jax.tree.leaves(params))
        optimizer = ppo.adam(CONFIG)
        mesh = sharding.seed_mesh(1, devices)

        def train(carry: Any, data: Any, key: Any) -> Any:
            def step(carry: Any, indices: Any) -> Any:
                params, moments = carry
                minibatch = minibatches.take(data, indices)
                gradients, terms = jax.grad(ppo.loss, argnums=2, has_aux=True)(CONFIG, SPEC, params, minibatch)
                updates, moments = optimizer.update(gradients, moments, params)
                return (optax.apply_updates(params, updates), moments), terms

            sizes = {"num_items": samples, "num_minibatches": samples // batch, "num_epochs": 1}
            return minibatches.shuffled_epochs(step, carry, key, **sizes)[0]

        def act(carry: Any, data: Any, key: Any) -> Any:
            groups = minibatches.permutation(key, samples).reshape(-1, batch)
            seen = lambda indices: ppo.network(CONFIG, SPEC).apply(carry[0], minibatches.take(data, indices).inputs)  # noqa: E731
            return jax.lax.map(lambda indices: jnp.argmax(seen(indices)[0], axis=-1), groups)

        def compiled(function: Any) -> Any:
            whole = {"in_specs": PartitionSpec(), "out_specs": PartitionSpec(), "axis_names": {sharding.AXIS}}
            return jax.jit(jax.shard_map(function, mesh=mesh, check_vma=False, **whole))

        whole = sharding.of_seeds(mesh)
        self._train, self._act = compiled(train), compiled(act)
        self._carry, self._data = jax.device_put(((params, optimizer.init(params)), data), whole)
        self._keys = iter(jax.device_put(jax.random.split(jax.random.key(1), 10_000), whole))
        self.measure(0.0)

    def measure(self, seconds: float) -> dict[str, float]:
        """Samples a second of both, for at least so long each."""
        found = {}
        for name in ("train", "act"):
            done, started = 0, time.perf_counter()
            while not done or time.perf_counter() - started < seconds:
                self._advance(name)
                done += self.samples
            found[name] = done / (time.perf_counter() - started)
        return found

    def _advance(self, name: str) -> None:
        key = next(self._keys)
        if name == "train":
            self._carry = jax.block_until_ready(self._train(self._carry, self._data, key))
        else:
            jax.block_until_ready(self._act(self._carry, self._data, key))


def impala(repeats: int, seconds: float) -> dict[str, Any]:
    """Ours on one device and on all, and PyTorch in both memory formats, taking turns."""
    with contextlib.ExitStack() as stack:
        torches = {
            name: stack.enter_context(Torch(batch_size=BATCH, channels_last=int(name == "torch-channels-last")))
            for name in ("torch", "torch-channels-last")
        }
        ours = {f"purerl-{n}-devices": Learner(n) for n in sorted({1, jax.device_count()})}
        assert all(one.parameters == other.info["parameters"] for one in ours.values() for other in torches.values())
        sides = ours | torches
        turns = [{name: side.measure(seconds) for name, side in sides.items()} for _ in range(repeats)]
    result: dict[str, Any] = {
        "samples": SAMPLES,
        "batch_size": BATCH,
        "target_ratio": 1.1,
        "torch": torches["torch"].info,
    }
    best = list(ours)[-1]
    for what in ("train", "act"):
        result[what] = {name: round(statistics.median(turn[name][what] for turn in turns), 1) for name in sides}
        for name in torches:
            ratio = statistics.median(turn[best][what] / turn[name][what] for turn in turns)
            result[what][f"ratio_to_{name}"] = round(ratio, 2)
    return result
