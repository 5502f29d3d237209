"""`purerl bench`: what is fast, measured side by side in one run, as JSON (medians of several repeats).

| name          | measures                                                                                           |
| ppo-minatar   | PPO on Breakout-MinAtar against rejax 0.1.3 (its environment is made first), 1 and 8 seeds         |
| pure-train    | the same as a pure function: jit(vmap(train)) of ours and of rejax, on one device and on all       |
| dqn-cartpole  | DQN on CartPole against rejax 0.1.3, 1 and 8 seeds                                                 |
| td3-pendulum  | TD3 on Pendulum against rejax 0.1.3, 1 and 8 seeds                                                 |
| ppo-craftax   | PPO on Craftax against a plain jitted loop of the network and sizes of Craftax's own baseline      |
| run-keeping   | what the rows of metrics cost, with progress and checkpoints: a run with 200 rows and with one     |
| lanes         | 8 seeds, lanes one after the other (map) against one batch (vmap): PPO, PPG, DQN and Rainbow       |
| minatar-seeds | Rainbow on Breakout-MinAtar: how steps/s grow with 1, 4, 16 and 64 seeds                           |
| impala        | IMPALA's network on frames, training and acting, against PyTorch (its environment, of 6 GB, first)  |
| procgen-pool  | the Procgen pool with frames landing on the device, against bare libenv                            |
| procgen-jax   | Procgen's games in the graph against the library: random play, and PPO end to end, with frames and |
|               | symbolic (45 minutes; --quick: some minutes)                                                        |
| procgen-jax-exactness | not a speed: 330,000 steps of each game of both, all compared (about an hour)              |
| atari-pool    | the Atari pool with frames landing on the device, against bare ale-py                              |
| gym-pool      | the gymnasium pool with observations landing on the device, against gymnasium's AsyncVectorEnv     |
|               | and SyncVectorEnv: Hopper, HalfCheetah, CartPole                                                   |
| ppg-procgen   | PPG on Procgen end to end: steps/s, and where the wall time goes                                   |
| rainbow-atari | Rainbow on Atari end to end: steps/s, and where the wall time goes                                 |
| sweep         | 8 learning rates x 8 seeds of PPO in one program, against 64 processes (a quarter of an hour)      |
| memory        | how the memory of Procgen's games grows, of the library alone and of the pool (a few minutes)      |
| replay        | prioritized replay, add 8 + draw 32 + change 32, against flashbax, at 10k and 1M items             |
| accelerator   | all of a GPU within --minutes 25: updates against the CPU, resuming, PPG on Procgen, 1 to 1024     |
|               | seeds, Rainbow on Atari, replays, variants; alone on the line, with options of its own             |
| faults        | not a speed: 180 kills and signals, and whether anything is lost or differs (half an hour)         |
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from purerl import registry, rng
from purerl.errors import PurerlError, nearest
from purerl.experiments.benchmarks import (
    accelerator,
    baselines,
    craftax,
    faults,
    impala,
    pools,
    procgen_in_graph,
    procgen_ppo,
    replays,
)
from purerl.experiments.benchmarks import memory as memory_of_games
from purerl.experiments.benchmarks import sweep as sweep_of_64
from purerl.experiments.benchmarks.accelerator_parts import SCALES
from purerl.experiments.benchmarks.measured import Measured
from purerl.loops import sharding
from purerl.runs import files, provenance, run_folder
from purerl.runs.functions import make_train
from purerl.runs.train import train

# The sizes of the comparison: 64 environments x 128 steps, 4 epochs, 8 minibatches, two 64-64 MLPs: preset minatar.
# rejax treats a time-out as an end and does not anneal, so neither do we here.
PPO_FAIR = {"time_limit_is_terminal": True, "anneal_learning_rate": False}
# Both learn one-step returns; our preset's are of three steps.
DQN_FAIR = {"num_steps": 1, "time_limit_is_terminal": True}


# A step of the critics for every step of the four environments, one of the actor for every two, as in rejax.
TD3_FAIR = {
    "num_envs": 4,
    "rollout_length": 1,
    "train_period": 4,
    "policy_delay": 2,
    "batch_size": 256,
    "hidden": (64, 64),
    "replay_size": 10_000,
    "learning_starts": 1_000,
    "time_limit_is_terminal": True,
}


class PureTrain(Measured):
    """`jax.jit(jax.vmap(train))`, as a user of `purerl.make_train` writes it, some iterations a call; `spread` puts an
    equal share of the keys on each device.
    """

    cycle, learning_starts, iterations_per_call = 4, 4, 4

    def __init__(self, agent: str, env: str, seeds: int, preset: str, config: dict[str, Any], spread: bool):
        train = make_train(agent, env, preset=preset, steps=10**9, **config)
        self.steps_per_iteration = train.config.num_envs * train.config.rollout_length * seeds
        keys = rng.seed_keys(0, seeds)
        self.state = jax.jit(jax.vmap(train.init))(sharding.place(keys, sharding.seed_mesh(seeds)) if spread else keys)
        self._train = jax.jit(jax.vmap(lambda s: train.run(s, iterations=self.iterations_per_call)), donate_argnums=0)
        started = time.perf_counter()
        self.advance(self.iterations_per_call)
        self.first_seconds = time.perf_counter() - started

    def advance(self, iterations: int) -> None:
        """Trains and waits for the end of it; whole calls."""
        for _ in range(iterations // self.iterations_per_call):
            self.state, curves = self._train(self.state)
            jax.block_until_ready(curves)


def ppo_minatar(repeats: int, seconds: float) -> dict[str, Any]:
    """PPO on Breakout-MinAtar, ours and rejax 0.1.3 taking turns."""
    ours = {"agent": "ppo", "env": "gymnax/Breakout-MinAtar", "preset": "minatar", "config": PPO_FAIR}
    return {"target_ratio": 1.3} | _against_rejax(ours, {"algorithm": "ppo"}, repeats, seconds)


def pure_train(repeats: int, seconds: float) -> dict[str, Any]:
    """`jax.jit(jax.vmap(train))` of `purerl.make_train` and of rejax 0.1.3 taking turns, both as their users write it:
    PPO on Breakout-MinAtar, one program on one device, and with the keys of 8 seeds spread over all devices.
    """
    ours = {"agent": "ppo", "env": "gymnax/Breakout-MinAtar", "preset": "minatar", "config": PPO_FAIR}
    result = {"target_ratio": {"seeds_1": 1.3, "seeds_8": 1.7}}
    result |= _against_rejax(ours | {"spread": False}, {"algorithm": "ppo"}, repeats, seconds, make=PureTrain)
    theirs = {"algorithm": "ppo", "devices": jax.device_count()}
    spread = _against_rejax(ours | {"spread": True}, theirs, repeats, seconds, make=PureTrain, numbers=(8,))
    return result | {"seeds_8_on_all_devices": spread["seeds_8"]}


def dqn_cartpole(repeats: int, seconds: float) -> dict[str, Any]:
    """DQN on CartPole, ours and rejax 0.1.3 taking turns: 10 environments, one gradient step of 128 transitions for
    every 10 steps, an MLP of 120-84, a replay of 10 thousand.
    """
    ours = {"agent": "dqn", "env": "gymnax/CartPole-v1", "preset": "classic", "config": DQN_FAIR}
    theirs = {"algorithm": "dqn", "num_envs": 10, "num_steps": 1, "num_epochs": 1, "iterations_per_call": 2000}
    return {"target_ratio": {"seeds_1": 2, "seeds_8": 4}} | _against_rejax(ours, theirs, repeats, seconds)


def td3_pendulum(repeats: int, seconds: float) -> dict[str, Any]:
    """TD3 on Pendulum, ours and rejax 0.1.3 taking turns: 4 environments, one gradient step of the critics on 256
    transitions for every 4, of the actor for every 8, MLPs of 64-64, a replay of 10 thousand.
    """
    ours = {"agent": "td3", "env": "gymnax/Pendulum-v1", "preset": "classic", "config": TD3_FAIR}
    theirs = {"algorithm": "td3", "num_envs": 4, "num_steps": 1, "num_epochs": 1, "batch_size": 256}
    theirs["iterations_per_call"] = 4000
    return {"target_ratio": {"seeds_1": 1.3, "seeds_8": 1.3}} | _against_rejax(ours, theirs, repeats, seconds)


def _against_rejax(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    repeats: int,
    seconds: float,
    make: Callable[..., Measured] = Measured,
    numbers: Sequence[int] = (1, 8),
) -> dict[str, Any]:
    """Some numbers of seeds of both; the ratio is the median of each repeat's own."""
    result: dict[str, Any] = {"config": ours["config"]}
    for seeds in numbers:
        run = make(seeds=seeds, **ours)
        run.advance(run.learning_starts)
        iterations = run.iterations_for(seconds)
        with baselines.Rejax(num_seeds=seeds, **theirs) as rejax:
            pairs = [(run.measure(iterations), rejax.measure(seconds)) for _ in range(repeats)]
        mine, other = zip(*pairs, strict=True)
        result[f"seeds_{seeds}"] = {
            "purerl_steps_per_second": _median(row["steps_per_second"] for row in mine),
            "purerl_steps_per_cpu_second": _median(row["steps_per_cpu_second"] for row in mine),
            "purerl_compile_and_first_iteration_seconds": round(run.first_seconds, 2),
            "rejax_steps_per_second": _median(row["steps_per_second"] for row in other),
            "rejax_steps_per_cpu_second": _median(row["steps"] / row["cpu_seconds"] for row in other),
            "rejax_compile_seconds": _median(row["compile_seconds"] for row in other),
            "ratio": _median((a["steps_per_second"] / b["steps_per_second"] for a, b in pairs), 3),
        }
    return result


def run_keeping(repeats: int, seconds: float) -> dict[str, Any]:
    """`purerl.train` at its default settings (about 200 rows of metrics, each with a line of progress, and checkpoints)
    against the same run with a single row, taking turns: the share of the time that rows take.
    """
    cases = {"ppo": ("gymnax/Breakout-MinAtar", "minatar"), "dqn": ("gymnax/CartPole-v1", "classic")}
    result: dict[str, Any] = {}
    for agent, (env, preset) in cases.items():
        alone = Measured(agent, env, 1, preset=preset)
        alone.advance(alone.learning_starts)
        iterations = alone.learning_starts + alone.iterations_for(seconds)
        steps = iterations * alone.steps_per_iteration

        def trained(log_every: int) -> tuple[float, int]:
            """Seconds of a run, compiling left out, and its number of rows."""
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                run = train(
                    agent,  # noqa: B023 (called within this turn)
                    env,  # noqa: B023
                    preset=preset,  # noqa: B023
                    steps=steps,  # noqa: B023
                    log_every=log_every,
                    random_episodes=0,
                    out=Path(folder) / "run",
                )
                rows = (run.folder / run_folder.METRICS).read_text().splitlines()
                return run.summary["train_seconds"], len(rows)

        pairs = [(trained(iterations)[0], *trained(0)) for _ in range(repeats)]
        result[agent] = {
            "steps": steps,
            "rows": pairs[0][2],
            "seconds_with_one_row": _median((one for one, _, _ in pairs), 3),
            "seconds": _median((many for _, many, _ in pairs), 3),
            "share_of_rows": _median((1 - one / many for one, many, _ in pairs), 4),
        }
    return {"target_share": 0.01} | result


def lanes(repeats: int, seconds: float) -> dict[str, Any]:
    """Eight seeds of each agent by `--lanes map` and by `--lanes vmap`, taking turns, and one seed beside them."""
    cases = {
        "ppo": ("gymnax/Breakout-MinAtar", "minatar"),
        "ppg": ("gymnax/Breakout-MinAtar", "minatar"),
        "dqn": ("gymnax/CartPole-v1", "classic"),
        "rainbow": ("gymnax/Breakout-MinAtar", "minatar-small"),
    }
    result: dict[str, Any] = {}
    for agent, (env, preset) in cases.items():
        ways = {"map": (8, "map"), "vmap": (8, "vmap"), "one_seed": (1, "map")}
        runs = {way: Measured(agent, env, n, preset=preset, lanes=how) for way, (n, how) in ways.items()}
        for run in runs.values():
            run.advance(run.learning_starts)
        lengths = {way: run.iterations_for(seconds) for way, run in runs.items()}
        rows = [
            {way: run.measure(lengths[way])["steps_per_second"] for way, run in runs.items()} for _ in range(repeats)
        ]
        result[agent] = {f"{way}_steps_per_second": _median(row[way] for row in rows) for way in runs} | {
            "map_over_vmap": _median((row["map"] / row["vmap"] for row in rows), 3),
        }
    return result


def minatar_seeds(repeats: int, seconds: float) -> dict[str, Any]:
    """Rainbow on Breakout-MinAtar with 1, 4, 16 and 64 seeds: how the steps of all seeds together grow. On a
    CPU with the small network of preset minatar-small.
    """
    preset = "minatar-small" if jax.default_backend() == "cpu" else "minatar"
    result: dict[str, Any] = {"preset": preset}
    for seeds in (1, 4, 16, 64):
        run = Measured("rainbow", "gymnax/Breakout-MinAtar", seeds, preset=preset)
        run.advance(run.learning_starts)
        iterations = run.iterations_for(seconds)
        rate = _median(run.measure(iterations)["steps_per_second"] for _ in range(repeats))
        result[f"seeds_{seeds}"] = {
            "steps_per_second": rate,
            "times_one_seed": round(rate / result.get("seeds_1", {"steps_per_second": rate})["steps_per_second"], 2),
            "compile_and_first_iteration_seconds": round(run.first_seconds, 2),
        }
    return result


def procgen_pool(repeats: int, seconds: float) -> dict[str, Any]:
    """See `pools.procgen_pool`."""
    return {"target_ratio": 0.95} | pools.procgen_pool(seconds, repeats)


def procgen_jax(repeats: int, seconds: float, quick: bool = False) -> dict[str, Any]:
    """See `procgen_in_graph.speed` and `procgen_ppo.end_to_end`."""
    if quick:
        repeats, seconds = 1, min(seconds, 0.5)
    environment = procgen_in_graph.speed(seconds, repeats)
    return {
        "target_ratio_of_symbolic_ppo": 10,
        "environment": environment,
        "ppo": procgen_ppo.end_to_end(environment, min(repeats, 3), seconds, quick=quick),
    }


def procgen_jax_exactness(repeats: int, seconds: float, games: Sequence[str] | None = None) -> dict[str, Any]:
    """See `procgen_in_graph.exactness`; its length is fixed."""
    return procgen_in_graph.exactness(games=games)


def atari_pool(repeats: int, seconds: float) -> dict[str, Any]:
    """See `pools.atari_pool`."""
    return {"target_ratio": 0.95} | pools.atari_pool(seconds, repeats)


def gym_pool(repeats: int, seconds: float) -> dict[str, Any]:
    """See `pools.gym_pool`."""
    return pools.gym_pool(seconds, repeats)


def ppg_procgen(repeats: int, seconds: float) -> dict[str, Any]:
    """PPG on procgen/starpilot (easy) in whole cycles, auxiliary phase included.

    On an accelerator: the easy preset (64 environments, IMPALA), dual and detach, float32 and bfloat16. On a CPU, where
    that takes minutes an iteration: the quick preset. `host_share` is the wall time spent neither waiting for games nor
    for the device.
    """
    on_cpu = jax.default_backend() == "cpu"
    cases = {"quick": ("quick", {})}
    if not on_cpu:
        cases = {
            f"{architecture}_{dtype}": ("procgen-easy", {"architecture": architecture, "dtype": dtype})
            for architecture in ("detach", "dual")
            for dtype in ("float32", "bfloat16")
        }
    result: dict[str, Any] = {"target_host_share": 0.05, "target_steps_per_second_on_h100_detach": 10_000}
    for name, (preset, config) in cases.items():
        with contextlib.closing(Measured("ppg", "procgen/starpilot", 1, preset=preset, config=config)) as run:
            run.advance(run.cycle - 1)
            result[name] = _where_time_goes(run, run.cycle, repeats)
    return result


def rainbow_atari(repeats: int, seconds: float) -> dict[str, Any]:
    """Rainbow on atari/Pong, learning: on an accelerator Dopamine's sizes with 8 environments and a replay of a million
    frames; on a CPU the quick preset.
    """
    preset, config = "quick", {}
    if jax.default_backend() != "cpu":
        preset, config = "dopamine", {"num_envs": 8, "learning_starts": 20_000}
    result: dict[str, Any] = {"target_host_share": 0.05, "preset": preset, "config": config}
    with contextlib.closing(Measured("rainbow", "atari/Pong", 1, preset=preset, config=config)) as run:
        run.advance(run.learning_starts)
        return result | _where_time_goes(run, run.iterations_for(seconds), repeats)


def _where_time_goes(run: Measured, iterations: int, repeats: int) -> dict[str, Any]:
    """Speed of a run on host games, and the shares of wall time of `HostLoop.seconds`."""
    before = dict(run.loop.seconds)
    rows = [run.measure(iterations) for _ in range(repeats)]
    spent = {place: run.loop.seconds[place] - before[place] for place in before}
    return {
        "steps_per_second": _median(row["steps_per_second"] for row in rows),
        "compile_and_first_iteration_seconds": round(run.first_seconds, 2),
        "share_of_wall_time": {place: round(s / sum(spent.values()), 4) for place, s in spent.items()},
        "host_share": round(spent["host"] / sum(spent.values()), 4),
    }


def replay(repeats: int, seconds: float) -> dict[str, Any]:
    """See `replays.replay_cycles`."""
    targets = {"target_ratio_at_1m": 20, "target_slowdown": 1.5}
    return targets | replays.replay_cycles(seconds, repeats)


def sweep(repeats: int, seconds: float) -> dict[str, Any]:
    """See `sweep.sweep_64`; its length is fixed."""
    return sweep_of_64.sweep_64()


def storm(repeats: int, seconds: float) -> dict[str, Any]:
    """See `faults.storm`; its length is fixed."""
    return faults.storm()


def memory(repeats: int, seconds: float) -> dict[str, Any]:
    """See `memory.procgen_memory`; its length is fixed."""
    return memory_of_games.procgen_memory()


BENCHMARKS = {
    "ppo-minatar": ppo_minatar,
    "pure-train": pure_train,
    "dqn-cartpole": dqn_cartpole,
    "td3-pendulum": td3_pendulum,
    "ppo-craftax": craftax.ppo_craftax,
    "run-keeping": run_keeping,
    "lanes": lanes,
    "minatar-seeds": minatar_seeds,
    "impala": impala.impala,
    "procgen-pool": procgen_pool,
    "procgen-jax": procgen_jax,
    "procgen-jax-exactness": procgen_jax_exactness,
    "atari-pool": atari_pool,
    "gym-pool": gym_pool,
    "ppg-procgen": ppg_procgen,
    "rainbow-atari": rainbow_atari,
    "sweep": sweep,
    "replay": replay,
    "memory": memory,
    "faults": storm,
}
# Benchmarks that have a small size: they take `quick`.
QUICK = ("procgen-jax",)
# It has a budget and options of its own, and a file that it goes on with: it is not one of several.
ALONE = "accelerator"
_OF_ALONE = ("minutes", "parts", "resume", "scale")
# Benchmarks of which single games can be run: they take `games`.
OF_GAMES = ("procgen-jax-exactness",)


def _median(values: Any, digits: int = 1) -> float:
    return round(statistics.median(values), digits)


def _refuse(message: str) -> None:
    raise PurerlError(f"{message} (purerl bench --help)")


def _add_options_of_alone(parser: argparse.ArgumentParser) -> None:
    """The options of `accelerator`; None where they are not given."""
    group = parser.add_argument_group(ALONE)
    about = f"budget; a part that would not fit is skipped (default {accelerator.MINUTES:g})"
    group.add_argument("--minutes", type=float, help=about)
    groups = ", ".join(dict.fromkeys(part.group for part in accelerator.all_parts(SCALES["full"])))
    about = f"PART,PART: these alone, by name, pattern or group ({groups})"
    group.add_argument("--parts", type=lambda names: names.split(","), help=about)
    about = f"keep the parts that --out (default {accelerator.OUT}) has from the same commit and device"
    group.add_argument("--resume", action="store_true", default=None, help=about)
    group.add_argument("--scale", choices=list(SCALES), help="tiny: a rehearsal on a CPU (default full)")


def main(argv: Sequence[str]) -> int:
    """Runs the named benchmarks (all but `accelerator` if none is named), prints JSON, and writes it to --out."""
    parser = argparse.ArgumentParser(
        prog="purerl bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*BENCHMARKS, ALONE]))
    parser.add_argument("--repeats", type=int, default=5, help="repeats to take the median of (default 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one repeat (default 5)")
    parser.add_argument("--quick", action="store_true", help=f"a small size, for {', '.join(QUICK)}")
    parser.add_argument("--games", type=lambda names: names.split(","), help=f"GAME,GAME: for {', '.join(OF_GAMES)}")
    _add_options_of_alone(parser)
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.error = _refuse  # one line and exit code 2, like all commands of purerl
    arguments = parser.parse_args(argv)
    known = [*BENCHMARKS, ALONE]
    for name in arguments.names:
        if name not in known:
            raise PurerlError(f"unknown benchmark '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
    if arguments.repeats < 1 or not 0 < arguments.seconds < 10**6:
        raise PurerlError("--repeats must be at least 1 and --seconds positive")
    names = arguments.names or list(BENCHMARKS)
    options = {"quick": arguments.quick, "games": arguments.games}
    for option, of_those in (("quick", QUICK), ("games", OF_GAMES)):
        others = [name for name in names if name not in of_those]
        if options[option] and others:
            raise PurerlError(f"--{option} is for {', '.join(of_those)} and not for {', '.join(others)}: leave it out")
    for game in arguments.games or ():
        registry.environment(f"procgen-jax/{game}")
    small = {name: value for name, value in options.items() if value}
    if ALONE in names and len(names) > 1:
        raise PurerlError(f"{ALONE} has a budget of its own: run it alone, purerl bench {ALONE}")
    for option in _OF_ALONE:
        if ALONE not in names and getattr(arguments, option) is not None:
            raise PurerlError(f"--{option} is for {ALONE} and not for {', '.join(names)}: leave it out")
    sharding.one_cpu_device_per_core()
    report = provenance.environment_report() | {"load_before": os.getloadavg()[0]}
    if names == [ALONE]:
        return accelerator.main(arguments, report)
    for name in names:
        report[name] = BENCHMARKS[name](arguments.repeats, arguments.seconds, **small)
        if arguments.out:  # after each one, so that a long bench that is cut short keeps what it has
            files.write_json(arguments.out, report)
    print(json.dumps(report, indent=2))
    return 0
