"""Speeds that a GPU day measures: PPG on Procgen, seeds on MinAtar, Rainbow on Atari, replays."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from typing import Any

import jax

from purerl.experiments.benchmarks import replays
from purerl.experiments.benchmarks.accelerator_parts import Part, Scale, device_memory, fitting, rates, require
from purerl.experiments.benchmarks.measured import Measured

PROCGEN, MINATAR, ATARI = "procgen/starpilot", "gymnax/Breakout-MinAtar", "atari/Pong"


def parts(scale: Scale) -> list[Part]:
    """Those of all groups, in their order."""
    found = [
        Part(f"procgen/ppg-{architecture}-{dtype}", 120, functools.partial(ppg_procgen, architecture, dtype))
        for architecture, dtype in scale.networks
    ]
    # The larger numbers of seeds come last in each agent, so that what does not fit into memory costs least.
    found += [
        Part(f"seeds/{agent}-{seeds}", 20 + seeds / 40, functools.partial(minatar_seeds, agent, seeds))
        for agent in scale.agents
        for seeds in scale.seeds
    ]
    found.append(Part("atari/rainbow-pong", 90, rainbow_atari))
    found += [Part(f"replay/{items}", 15, functools.partial(replay, items)) for items in scale.replays]
    return found


def ppg_procgen(architecture: str, dtype: str, scale: Scale) -> dict[str, Any]:
    """PPG on easy starpilot with 64 environments: steps per second of a whole cycle, and where its wall time goes.

    A whole cycle (32 policy iterations and the auxiliary phase) would take minutes. So some policy iterations are
    timed, then the iteration with the auxiliary phase, and a cycle is put together of both.
    """
    require(PROCGEN)
    config = {**scale.procgen, "architecture": architecture, "dtype": dtype}
    with contextlib.closing(Measured("ppg", PROCGEN, 1, preset="procgen-easy", config=config)) as run:
        policy = _spent(run, scale.policy_iterations)
        run.iteration = run.cycle - 1
        auxiliary = _spent(run, 1)
    share = (run.cycle - 1) / scale.policy_iterations
    cycle = {place: share * policy[place] + auxiliary[place] for place in policy}
    wall = sum(cycle.values())
    return {
        "steps_per_second": round(run.cycle * run.steps_per_iteration / wall, 1),
        "policy_iteration_seconds": round(sum(policy.values()) / scale.policy_iterations, 4),
        "auxiliary_iteration_seconds": round(sum(auxiliary.values()), 4),
        "policy_iterations_in_a_cycle": run.cycle,
        "share_of_wall_time": {place: round(spent / wall, 4) for place, spent in cycle.items()},
    }


def _spent(run: Measured, iterations: int) -> dict[str, float]:
    """Where the wall time of some iterations goes, in seconds."""
    before = dict(run.loop.seconds)
    run.advance(iterations)
    return {place: run.loop.seconds[place] - before[place] for place in before}


def minatar_seeds(agent: str, seeds: int, scale: Scale) -> dict[str, Any]:
    """An agent on Breakout-MinAtar in the graph by its preset minatar, learning: steps per second of all seeds."""
    run = Measured(agent, MINATAR, seeds, preset="minatar", config=fitting(agent, scale.minatar))
    run.advance(run.learning_starts)
    found = rates(run, scale)
    return {
        "steps_per_second": round(statistics.median(found), 1),
        "turns": len(found),
        "state_bytes": _bytes(run.state),
        "lanes": run.loop.lanes,
    }


def rainbow_atari(scale: Scale) -> dict[str, Any]:
    """Rainbow on Pong with a replay of a million frames on the device: steps per second, and the device's memory."""
    require(ATARI)
    before = device_memory()
    run = Measured("rainbow", ATARI, 1, preset=scale.atari_preset, config=dict(scale.atari))
    with contextlib.closing(run):
        started = time.perf_counter()
        run.advance(run.learning_starts)
        filled = time.perf_counter() - started
        seconds, found = dict(run.loop.seconds), rates(run, scale)
        spent = {place: run.loop.seconds[place] - seconds[place] for place in seconds}
        after = device_memory()
    return {
        "steps_per_second": round(statistics.median(found), 1),
        "state_bytes": _bytes(run.state),
        "device_bytes_of_the_run": after["bytes_in_use"] - before["bytes_in_use"] if after and before else None,
        "device_memory": after or "this device does not count its memory",
        "seconds_before_learning": round(filled, 2),
        "share_of_wall_time": {place: round(one / sum(spent.values()), 4) for place, one in spent.items()},
    }


def replay(items: int, scale: Scale) -> dict[str, Any]:
    """Prioritized replay, a cycle of add 8, draw 32 and change 32: all in one compiled loop, and one call a cycle."""
    how = {"seconds": scale.seconds, "repeats": scale.repeats}
    return {
        "cycles_per_second_in_a_loop": round(replays.cycles_per_second(items, True, **how), 1),
        "cycles_per_second_by_calls": round(replays.cycles_per_second(items, False, **how), 1),
    }


def _bytes(state: Any) -> int:
    """Of all arrays of a state."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
