"""Tables of recorded results in Markdown, for docs/results.md."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from purerl import configs
from purerl.runs import files
from purerl.runs.plan import Plan, make_plan

HERE = "../experiments/results"  # where the page's links to the files go


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- runs ------------------------------------------------------------------------------------------------------------


def changes(header: dict[str, Any]) -> list[str]:
    """The settings in a run's config.json that its preset, as it is today, does not have: ["recurrent gru", ...]."""
    mine = Plan.from_dict(header)
    base = make_plan(mine.agent, mine.env, preset=mine.preset)
    pairs = [(configs.to_dict(plan.config), dataclasses.asdict(plan.options)) for plan in (mine, base)]
    found = []
    for prefix, now, then in zip(("", "env."), *pairs, strict=True):
        found += [f"{prefix}{name.replace('_', '-')} {value}" for name, value in now.items() if value != then[name]]
    return found


def table(results: Path) -> str:
    """The recorded runs of a folder as a Markdown table."""
    header = ["run", "steps a seed", "seeds", "final return: IQM, mean (lowest to highest seed)", "device", "data"]
    rows = []
    for path in sorted(results.glob("*.json")):
        kept = files.read_json(path)
        if "curves" not in kept:
            continue
        summary, final = kept["summary"], kept["summary"]["final_return"]
        seeds = [x for x in final["per_seed"] if x is not None]
        device = summary["device"]
        what = ", ".join(
            [f"{summary['agent']} {summary['env']}", f"preset {summary['preset']}", *changes(kept["config"])]
        )
        rows.append(
            [
                what,
                f"{summary['steps']:,}",
                str(len(seeds)),
                f"{final['iqm']:.1f}, {final['mean']:.1f} ({min(seeds):.1f} to {max(seeds):.1f}){_random(summary)}",
                f"{device['count']} x {device['kind']}",
                f"[JSON]({HERE}/{path.name}), [curve]({HERE}/{path.stem}.png)",
            ]
        )
    return markdown(header, rows)


def _random(summary: dict[str, Any]) -> str:
    """What random play reaches, where a run's summary has it."""
    found = summary.get("random_return")
    return f"; random play {found:.1f}" if isinstance(found, int | float) else ""


# --- speed -----------------------------------------------------------------------------------------------------------


def speed_table(results: Path) -> str:
    """The benchmarks of a folder, bench-cpu-<name>.json, as a Markdown table."""
    rows = []
    for name, (what, words) in _SPEEDS.items():
        file = f"bench-cpu-{name}.json"
        measured = words(files.read_json(results / file)[name])
        rows.append([what, f"{measured} ([JSON]({HERE}/{file}))"])
    return markdown(["what", "measured"], rows)


def _against_rejax(found: dict[str, Any]) -> str:
    one, eight = found["seeds_1"], found["seeds_8"]
    return (
        f"{one['ratio']:.2f}x at 1 seed ({one['purerl_steps_per_second']:,.0f} steps/s), "
        f"{eight['ratio']:.2f}x at 8 ({eight['purerl_steps_per_second']:,.0f})"
    )


def _pure_train(found: dict[str, Any]) -> str:
    spread = found["seeds_8_on_all_devices"]
    return (
        f"{_against_rejax(found)}; with the keys of 8 spread over both devices, for both libraries, "
        f"{spread['ratio']:.2f}x ({spread['purerl_steps_per_second']:,.0f})"
    )


def _pool(found: dict[str, Any]) -> str:
    games = [game for game in found.values() if isinstance(game, dict)]
    ratios, speeds = sorted(game["ratio"] for game in games), sorted(game["pool"] for game in games)
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}; {speeds[0]:,.0f} to {speeds[-1]:,.0f} steps/s"


def _gym(found: dict[str, Any]) -> str:
    games = [game for game in found.values() if isinstance(game, dict)]
    ours = " to ".join(f"{end(game['pool'] for game in games):,.0f}" for end in (min, max))
    ratios = [", ".join(f"{game[name]:.2f}x" for game in games) for name in ("ratio", "ratio_sync")]
    return f"{ratios[0]} of Async, {ratios[1]} of Sync; {ours} steps/s"


def _replay(found: dict[str, Any]) -> str:
    loop, call = ([found[f"{kind}_items_{items}"] for items in (10_000, 1_000_000)] for kind in ("loop", "call"))
    return (
        f"in a compiled loop {loop[0]['ratio']:.2f}x at 10 thousand items, {loop[1]['ratio']:.2f}x at 1 million "
        f"({loop[1]['purerl_cycles_per_second']:,.0f} cycles/s); one jitted and donated call a cycle "
        f"{call[0]['ratio']:.2f}x and {call[1]['ratio']:.2f}x ({call[1]['purerl_cycles_per_second']:,.0f})"
    )


def _lanes(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{agent} {rates['map_over_vmap']:.2f}x ({rates['map_steps_per_second']:,.0f} steps/s)"
        for agent, rates in found.items()
        if isinstance(rates, dict)
    )


def _run_keeping(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{agent} {rates['share_of_rows']:.1%} of {rates['seconds']:.1f} s ({rates['rows']} rows)"
        for agent, rates in found.items()
        if isinstance(rates, dict)
    )


def _impala(found: dict[str, Any]) -> str:
    parts = []
    for what, words in (("train", "gradient steps"), ("act", "acting")):
        rates = found[what]
        ours = [name for name in rates if name.startswith("purerl-")]
        speeds = ", ".join(f"{rates[name]:,.0f} on {name.split('-')[1]}" for name in ours)
        parts.append(
            f"{words} {speeds} devices (samples/s): {rates['ratio_to_torch']:.2f}x of PyTorch, "
            f"{rates['ratio_to_torch-channels-last']:.2f}x of it with channels_last"
        )
    return "; ".join(parts)


_SPEEDS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "ppo-minatar": ("PPO on Breakout-MinAtar against rejax 0.1.3, same sizes, taking turns", _against_rejax),
    "pure-train": (
        "`jit(vmap(train))` of make_train against rejax 0.1.3's, PPO on Breakout-MinAtar, one device, taking turns",
        _pure_train,
    ),
    "dqn-cartpole": ("DQN on CartPole against rejax 0.1.3, same sizes, taking turns", _against_rejax),
    "td3-pendulum": ("TD3 on Pendulum against rejax 0.1.3, same sizes, taking turns", _against_rejax),
    "run-keeping": (
        "`purerl train` with about 200 rows of metrics, progress and checkpoints against the same run with one row",
        _run_keeping,
    ),
    "sweep": (
        "8 learning rates x 8 seeds of PPO on Breakout-MinAtar, 204,800 steps each: one sweep against 64 processes one "
        "after another, compiling included",
        lambda found: f"{found['ratio']:.2f}x ({found['sweep_seconds']:.0f} s, {found['processes_seconds']:.0f} s)",
    ),
    "lanes": ("8 seeds by `--lanes map` (a CPU's default) against `--lanes vmap`, taking turns", _lanes),
    "replay": ("prioritized replay, add 8 + draw 32 + change 32, against flashbax 0.1.3", _replay),
    "impala": ("IMPALA's network on Procgen's frames, batch 256, float32, against PyTorch, taking turns", _impala),
    "procgen-pool": (
        "Procgen pool, frames landing on the (CPU) device, against bare libenv with as many threads a group",
        _pool,
    ),
    "atari-pool": (
        "Atari pool, 32 games, frames landing on the (CPU) device, against bare ale-py with as many threads a group",
        _pool,
    ),
    "gym-pool": (
        "gymnasium pool, 16 environments of Hopper, HalfCheetah and CartPole, observations landing on the (CPU) "
        "device, against gymnasium's AsyncVectorEnv and SyncVectorEnv",
        _gym,
    ),
    "ppg-procgen": (
        "PPG on procgen/starpilot, preset quick, whole cycles: wall time outside games and device",
        lambda found: f"{found['quick']['host_share']:.1%} ({found['quick']['steps_per_second']:.0f} steps/s)",
    ),
    "rainbow-atari": (
        "Rainbow on atari/Pong, preset quick, learning: wall time outside games and device",
        lambda found: f"{found['host_share']:.1%} ({found['steps_per_second']:.0f} steps/s)",
    ),
}


# --- Procgen's games in the graph ------------------------------------------------------------------------------------


class Played(NamedTuple):
    """Random play of one game: steps per second of the library and in the graph, and their ratio.

    Attributes:
      game: its id.
      games: how many are played at once.
      library: steps per second.
      frames, symbolic: (steps per second, times the library's); None where they were not measured.
    """

    game: str
    games: int
    library: float
    frames: tuple[float, float] | None
    symbolic: tuple[float, float] | None


def played(found: dict[str, Any]) -> list[Played]:
    """The rows of random play in `purerl bench procgen-jax`; recorded ones may be older than its part "ppo"."""
    rows = []
    for name, row in found.get("environment", found).items():
        match = re.fullmatch(r"(\w+?)_(\d+)_games", name)
        if match:
            sides = [
                (row[f"{side}_steps_per_second"], row[f"{side}_ratio"]) if f"{side}_ratio" in row else None
                for side in ("frames", "symbolic")
            ]
            rows.append(Played(match[1], int(match[2]), row["library_steps_per_second"], *sides))
    return rows


def played_table(rows: list[Played]) -> str:
    """The rows of random play, the most games at once alone."""
    most = max(row.games for row in rows)
    header = ["game", "library", "in the graph, frames", "in the graph, symbolic"]
    return markdown(
        header,
        [
            [row.game, f"{row.library:,.0f}", *(_times(side) for side in (row.frames, row.symbolic))]
            for row in rows
            if row.games == most
        ],
    )


def _times(side: tuple[float, float] | None) -> str:
    return "-" if side is None else f"{side[0]:,.0f} ({_ratio(side[1])}x)"


def _ratio(value: float) -> str:
    """Three digits: 0.08, 0.85, 1.6, 45, 112."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


class Learned(NamedTuple):
    """PPO end to end on one game: steps per second on the library's games, and times as fast in the graph.

    Attributes:
      network: "mlp" or "impala".
      game, games, seeds: what was played; games of each seed.
      host: steps per second of PPO on the library's games.
      frames: times that with frames in the graph.
      symbolic: times that with symbolic observations; None where they were not measured.
      library: times the library alone, at random play, with symbolic observations; None where not measured.
    """

    network: str
    game: str
    games: int
    seeds: int
    host: float
    frames: float
    symbolic: float | None
    library: float | None


def learned(found: dict[str, Any]) -> list[Learned]:
    """The rows of PPO in `purerl bench procgen-jax`; none in recordings that are older than this part."""
    return list(_learned(found.get("ppo", {})))


def _learned(rows: dict[str, Any]) -> Iterator[Learned]:
    for name, row in rows.items():
        match = re.fullmatch(r"([a-z]+)_(\w+?)_(\d+)_games_(\d+)_seeds", name)
        if match:
            yield Learned(
                match[1],
                match[2],
                int(match[3]),
                int(match[4]),
                row["host_frames_steps_per_second"],
                row["frames_over_host"],
                row.get("symbolic_over_host"),
                row.get("symbolic_over_library"),
            )


def learned_table(rows: list[Learned]) -> str:
    """The rows of PPO end to end."""
    header = ["network", "game", "games a seed", "seeds", "on the library's games", "frames in the graph"]
    header += ["symbolic in the graph", "the same over the library alone"]
    return markdown(
        header,
        [
            [
                *(row.network, row.game, f"{row.games:,}", str(row.seeds), f"{row.host:,.0f}"),
                *("-" if x is None else f"{_ratio(x)}x" for x in (row.frames, row.symbolic, row.library)),
            ]
            for row in rows
        ],
    )
