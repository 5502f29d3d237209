"""What the parts of `purerl bench accelerator` share: what a part is, and the one table of all sizes."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from purerl import configs, registry
from purerl.errors import PurerlError
from purerl.experiments.benchmarks.measured import Measured


class Lacking(Exception):
    """A part needs what this machine does not have; its text says what."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement, which is written down as soon as it ends.

    Attributes:
      name: "group/row".
      seconds: declared cost at the scale "full", compiling included; the budget goes by it. Guessed, not measured.
      measure: the scale -> what was found, its headline numbers first.
    """

    name: str
    seconds: float
    measure: Callable[[Scale], dict[str, Any]]

    @property
    def group(self) -> str:
        """What --parts can choose together."""
        return self.name.partition("/")[0]


@dataclasses.dataclass(frozen=True)
class Scale:
    """All sizes of the parts.

    Attributes:
      cost: what a part costs here, as a share of what it declares.
      seconds, repeats: about how long a timed turn is, and how many there are at most.
      correctness: fields of every agent that is compared; those that its Config lacks are left out.
      lanes: seeds of the comparison of vmap, map and solo.
      resumed: agents that are stopped and resumed.
      procgen, policy_iterations: config of PPG on Procgen over its preset, and how many policy iterations are timed.
      networks: (architecture, dtype) of PPG on Procgen.
      agents, seeds, minatar: who learns on MinAtar, numbers of seeds, and config over the preset, where the agent has
        the field.
      atari_preset, atari: of Rainbow on Atari.
      replays: items of the replays.
      convolutions: seeds, batch and side of the images, and the network's channels and features.
      advantages: (T, N) of the rollouts whose advantages are estimated.
      frames: side of the random frames in PPG's auxiliary buffer, and its config.
    """

    cost: float
    seconds: float
    repeats: int
    correctness: Mapping[str, Any]
    lanes: int
    resumed: tuple[str, ...]
    procgen: Mapping[str, Any]
    policy_iterations: int
    networks: tuple[tuple[str, str], ...]
    agents: tuple[str, ...]
    seeds: tuple[int, ...]
    minatar: Mapping[str, Any]
    atari_preset: str
    atari: Mapping[str, Any]
    replays: tuple[int, ...]
    convolutions: Mapping[str, Any]
    advantages: tuple[tuple[int, int], ...]
    frames: tuple[int, Mapping[str, Any]]


# What each agent is compared with: everything of an update happens, auxiliary phases and target copies included. With
# the default epsilon, Adam makes whole steps of the rounding of gradients near zero.
_COMPARED = {
    **{"num_envs": 8, "rollout_length": 16, "num_epochs": 2, "num_minibatches": 2},
    **{"skip_iterations": 0, "policy_iterations": 2, "auxiliary_epochs": 2, "auxiliary_minibatches": 2},
    **{"train_period": 16, "batch_size": 16, "replay_size": 1024, "learning_starts": 256, "target_period": 256},
    **{"learning_rate": 1e-3, "anneal_learning_rate": False, "adam_epsilon": 1e-4, "optimizer_epsilon": 1e-4},
    "matmul_precision": "highest",
}
_FRAMES = {"architecture": "detach", "num_envs": 64, "rollout_length": 256, "policy_iterations": 4}
_TINY = {"network": "mlp", "hidden": (8,)}
_TINY_PPG = {
    **{"num_envs": 4, "rollout_length": 4, "num_minibatches": 1, "policy_iterations": 2},
    **{"auxiliary_epochs": 1, "auxiliary_minibatches": 1},
}
_TINY_REPLAY = {
    **{"num_envs": 4, "rollout_length": 4, "train_period": 16, "batch_size": 4, "replay_size": 128},
    **{"learning_starts": 32, "target_period": 64},
}

SCALES: dict[str, Scale] = {
    "full": Scale(
        cost=1.0,
        seconds=2.0,
        repeats=3,
        correctness=_COMPARED | {"network": "impala"},
        lanes=4,
        resumed=("ppg", "rainbow"),
        procgen={},
        policy_iterations=4,
        networks=tuple(itertools.product(("detach", "dual"), ("float32", "bfloat16"))),
        agents=("ppo", "dqn", "rainbow", "ppg"),
        seeds=(1, 4, 16, 64, 256, 1024),
        minatar={},
        atari_preset="dopamine",
        atari={"num_envs": 8, "replay_size": 1_000_000, "learning_starts": 8_000},
        replays=(10_000, 1_000_000),
        convolutions={"seeds": 8, "batch": 256, "side": 64, "channels": (16, 32, 32), "features": 256},
        advantages=((256, 64), (128, 65_536)),
        frames=(64, _FRAMES | {"auxiliary_epochs": 2}),
    ),
    # The rehearsal: the same code on a CPU core in a minute.
    "tiny": Scale(
        cost=0.01,
        seconds=0.01,
        repeats=2,
        correctness=_COMPARED | _TINY | {"num_envs": 4, "rollout_length": 8, "train_period": 8, "learning_starts": 64},
        lanes=2,
        resumed=("ppo",),
        procgen=_TINY | _TINY_PPG,
        policy_iterations=1,
        networks=(("dual", "bfloat16"),),
        agents=("dqn", "ppg"),
        seeds=(2,),
        minatar=_TINY | _TINY_REPLAY | _TINY_PPG,
        atari_preset="quick",
        atari=_TINY | _TINY_REPLAY | {"atoms": 5},
        replays=(64, 128),
        convolutions={"seeds": 2, "batch": 4, "side": 8, "channels": (2,), "features": 4},
        advantages=((8, 4),),
        frames=(8, _TINY | _TINY_PPG),
    ),
}


def fitting(agent: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose fields an agent's Config has."""
    known = configs.field_types(registry.agent(agent).Config)
    return {name: value for name, value in values.items() if name in known}


def require(environment: str) -> None:
    """Raises Lacking if the library of "family/id" is not installed."""
    try:
        registry.environment(environment)
        registry.env_spec(environment)
    except PurerlError as error:
        raise Lacking(str(error)) from error


def rates(run: Measured, scale: Scale) -> list[float]:
    """Steps per second of some turns; fewer than the scale says where one is much longer than it should be."""
    iterations, found, started = run.iterations_for(scale.seconds), [], time.perf_counter()
    while len(found) < scale.repeats and (not found or time.perf_counter() - started < 3 * scale.seconds):
        found.append(run.measure(iterations)["steps_per_second"])
    return found


def timed(function: Callable[..., Any], *arguments: Any, seconds: float, repeats: int) -> float:
    """Calls per second of a jitted function that has been called before: the median of some turns."""

    def rate(calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            out = function(*arguments)
        jax.block_until_ready(out)
        return calls / (time.perf_counter() - started)

    calls = max(1, round(rate(1) * seconds))
    return statistics.median(rate(calls) for _ in range(repeats))


def device_memory() -> dict[str, int]:
    """Bytes that the first device counts: in use, their peak in this process, the limit; {} if it counts none."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {name: int(stats[name]) for name in ("bytes_in_use", "peak_bytes_in_use", "bytes_limit") if name in stats}


def one_line(error: BaseException) -> str:
    """An error as one short line."""
    text = " ".join(str(error).split())
    return text[:300] if isinstance(error, Lacking) else f"{type(error).__name__}: {text}"[:300]
