"""PPO end to end on Procgen's games: in the graph, and on the library's games on the host."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

from purerl.experiments.benchmarks.measured import Measured

# IMPALA's time is the network's, whatever the game: a second game would show nothing more.
GAMES = {"mlp": ("maze", "miner"), "impala": ("maze",)}
# (network, {what learns: (family, its observation option; None where there is no choice)}).
SIDES: dict[str, dict[str, tuple[str, str | None]]] = {
    "mlp": {
        "graph_symbolic": ("procgen-jax", "symbolic"),
        "graph_frames": ("procgen-jax", "frames"),
        "host_frames": ("procgen", None),
    },
    "impala": {"graph_frames": ("procgen-jax", "frames"), "host_frames": ("procgen", None)},
}
# Steps of each game between updates. A step costs IMPALA a hundred times as much, so its iterations are shorter;
# an MLP on frames takes ten times as long as on planes.
ROLLOUTS = {"mlp": {64: 64, 1024: 4}, "impala": {64: 16, 1024: 1}}
ABOUT = {
    "graph_symbolic": "procgen-jax/GAME, observation symbolic: planes of cells, which the library does not show",
    "graph_frames": "procgen-jax/GAME, observation frames: the library's own 64x64x3 pixels",
    "host_frames": "procgen/GAME, the library on its threads, 64x64x3 pixels",
    "mlp": "one MLP of 64-64 units, shared by policy and value; its first layer is as wide as what it sees: 675 (maze) "
    "or 700 (miner) numbers of planes, 12,288 of a frame",
    "impala": "the network of preset procgen-easy, shared by policy and value",
    "same": "preset procgen-easy (3 epochs, 8 minibatches, Adam), levels 0 to 199, easy; only rollouts are shorter",
    "symbolic_over_host": "graph_symbolic / host_frames: another observation, so a smaller first layer too",
    "frames_over_host": "graph_frames / host_frames: everything is the same but where the game runs",
    "symbolic_over_library": "graph_symbolic / random play of the library alone: no learner on it can be faster",
}


def end_to_end(
    alone: dict[str, Any], repeats: int, seconds: float, num_levels: int = 200, quick: bool = False
) -> dict[str, Any]:
    """Steps per second of PPO with 64 and 1,024 games of each seed, 1 and 8 seeds: medians of all sides' turns.

    Ctrl-C ends it with what it has: the part `cut_off` names the row that is missing first.

    Args:
      alone: what `procgen_in_graph.speed` found in this process.
      repeats, seconds: turns of each side, and about how long one is; never less than an iteration.
      num_levels: of the games.
      quick: only 64 games and 1 seed.
    """
    found: dict[str, Any] = {"about": ABOUT}
    sizes = ((64, 1),) if quick else ((64, 1), (64, 8), (1024, 1), (1024, 8))
    for network, games in GAMES.items():
        for game, (num_envs, seeds) in itertools.product(games, sizes):
            name = f"{network}_{game}_{num_envs}_games_{seeds}_seeds"
            try:
                row = found[name] = _turns(network, game, num_envs, seeds, num_levels, repeats, seconds)
            except KeyboardInterrupt:
                return found | {"cut_off": name}
            if "graph_symbolic" in SIDES[network]:
                library = alone[f"{game}_{num_envs}_games"]["library_steps_per_second"]
                row["symbolic_over_library"] = round(row["graph_symbolic_steps_per_second"] / library, 2)
    return found


def _turns(
    network: str, game: str, num_envs: int, seeds: int, num_levels: int, repeats: int, seconds: float
) -> dict[str, Any]:
    """One row: the sides of a network, taking turns."""
    config = {"num_envs": num_envs, "rollout_length": ROLLOUTS[network][num_envs]}
    config |= {"network": network, "hidden": (64, 64)}
    runs: dict[str, Measured] = {}
    try:
        for side, (family, observation) in SIDES[network].items():
            options = {"num_levels": num_levels} | ({} if observation is None else {"observation": observation})
            runs[side] = Measured(
                "ppo", f"{family}/{game}", seeds, preset="procgen-easy", config=config, env_options=options
            )
        lengths = {side: run.iterations_for(seconds) for side, run in runs.items()}
        turns = [
            {side: run.measure(lengths[side])["steps_per_second"] for side, run in runs.items()} for _ in range(repeats)
        ]
    finally:
        for run in runs.values():
            run.close()
    row: dict[str, Any] = {
        f"{side}_steps_per_second": round(statistics.median(turn[side] for turn in turns), 1) for side in runs
    }
    for side in runs:
        if side != "host_frames":
            ratio = statistics.median(turn[side] / turn["host_frames"] for turn in turns)
            row[f"{side.removeprefix('graph_')}_over_host"] = round(ratio, 2)
    row["rollout_length"] = config["rollout_length"]
    return row
