"""The Trainer: advances a program of one run or several, and keeps their folders, checkpoints and metric rows."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import configs, registry
from purerl import statistics as stats
from purerl.errors import PurerlError
from purerl.loops import compilation, host, in_graph, lanes
from purerl.runs import checkpoint, files, progress, provenance, run_folder, sinks
from purerl.runs.evaluation import Evaluations
from purerl.runs.plan import Plan, seed_keys
from purerl.types import Pool, RunState

# Each seed's final return is the mean of the episodes that end in the last tenth of its steps.
FINAL_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Member:
    """A run among those that one program trains: its plan, and the folder that holds it."""

    plan: Plan
    folder: Path


def make_loop(the_plan: Plan) -> in_graph.InGraphLoop | host.HostLoop:
    """The loop that suits the environment: in the graph, or on a pool of host games."""
    agent = registry.agent(the_plan.agent)
    family, env_id = registry.environment(the_plan.env)
    if not registry.is_host(family):
        return in_graph.InGraphLoop(agent, family.make(env_id, the_plan.options), the_plan.lanes)
    num_envs = the_plan.config.num_envs
    groups = 2 if num_envs % 2 == 0 else 1
    pool = family.make_pool(env_id, the_plan.options, the_plan.seeds, num_envs, groups)
    return host.HostLoop(agent, pool, the_plan.lanes)


def close(loop: in_graph.InGraphLoop | host.HostLoop) -> None:
    """Ends the games of a host loop."""
    pool = getattr(loop, "pool", None)
    if pool is not None:
        pool.close()


class Trainer:
    """Trains what one program holds, one run or several side by side, and keeps their folders and clocks: all of a run
    that is not learning state.

    Args:
      the_plan: of the whole program: its lanes are the seeds of all members in turn, and perhaps more that nobody looks
        at (so that they can be spread over the devices).
      members: the runs, whose folders and config.json are there.
      loop: from `make_loop(the_plan)`.
      checkpoints: folder of the program's checkpoints.
      resume: go on where the last of them stands, if there is any.
      log, log_every, checkpoint_seconds, quiet: as in `train`.
      evaluations: None for none.
      label: what the progress bar says.
      resumed_by: what a user who interrupts is told to do.
      stop_at_nan: whether a number that is none in a lane ends it all, with a PurerlError; if not, the rows of such a
        lane say {"diverged": true}.
    """

    def __init__(
        self,
        the_plan: Plan,
        members: Sequence[Member],
        loop: in_graph.InGraphLoop | host.HostLoop,
        checkpoints: Path,
        *,
        resume: bool,
        label: str,
        resumed_by: str,
        log: Sequence[str] = (),
        log_every: int = 0,
        checkpoint_seconds: float = 300.0,
        evaluations: Evaluations | None = None,
        quiet: bool = False,
        stop_at_nan: bool = True,
    ):
        self.plan, self.members, self.loop, self.resume, self.quiet = the_plan, list(members), loop, resume, quiet
        self.evaluations, self.label, self.resumed_by, self.stop_at_nan = evaluations, label, resumed_by, stop_at_nan
        self.log, self.log_every = log, log_every or max(1, the_plan.iterations // 200)
        self.checkpoint_seconds = checkpoint_seconds
        # A few lanes more where they can then be spread over all devices; nobody looks at them.
        num_seeds = len(the_plan.seeds)
        self.config, self.keys = lanes.pad(
            configs.traced(the_plan.config), seed_keys(the_plan), loop.num_lanes(num_seeds)
        )
        self.kept = slice(0, num_seeds)
        self.checkpoints = checkpoint.Checkpoints(checkpoints)
        self.watch = compilation.CompileWatch()
        self.iteration = 0
        self.earlier = {"train_seconds": 0.0, "compile_seconds": 0.0}
        self.rates: list[tuple[float, int]] = []
        self.stop_requested = False
        ends = np.cumsum([len(member.plan.seeds) for member in self.members])
        self.lanes = [
            slice(int(end) - len(member.plan.seeds), int(end)) for member, end in zip(members, ends, strict=True)
        ]

    def run(self) -> tuple[list[dict[str, Any]], RunState]:
        """Trains to the end: (each member's summary, which its summary.json holds too, last RunState of all lanes).

        Raises:
          PurerlError: a number that is none, a full disk, a broken checkpoint.
          KeyboardInterrupt: Ctrl-C, after everything has been saved.
        """
        previous = signal.signal(signal.SIGINT, self._on_interrupt) if _in_main_thread() else None
        try:
            with self.checkpoints:
                return self._run()
        finally:
            self.watch.stop()
            if previous is not None:
                signal.signal(signal.SIGINT, previous)

    def _on_interrupt(self, *_: object) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True

    def _run(self) -> tuple[list[dict[str, Any]], RunState]:
        started = time.perf_counter()
        state = self.loop.init(self.config, self.keys)
        if self.resume:
            state = self._restore(state)
        jax.block_until_ready(state)
        if self.resume:
            for member in self.members:
                sinks.truncate_rows(member.folder / run_folder.METRICS, self.iteration)
        saved_at, saved_iteration = time.perf_counter(), self.iteration
        with contextlib.ExitStack() as stack:
            writers = []
            for member in self.members:
                writers.append(sinks.open_sinks(["jsonl", *self.log], member.folder, member.plan.to_dict()))
                for writer in writers[-1]:
                    stack.callback(writer.close)
            bar = stack.enter_context(
                progress.Progress(self.plan.steps, self.label, enabled=False if self.quiet else None)
            )
            while self.iteration < self.plan.iterations:
                state, rows = self._advance(state, started)
                for lanes, of_member in zip(self.lanes, writers, strict=True):
                    for writer in of_member:
                        writer.write(rows[lanes])
                returns = [row["episode_return"] for row in rows if row["episode_return"] is not None]
                bar.update(
                    self.iteration * self.plan.steps_per_iteration,
                    rows[0]["steps_per_second"],
                    float(np.mean(returns)) if returns else None,
                )
                due = time.perf_counter() - saved_at >= self.checkpoint_seconds
                if due or self.stop_requested or self.iteration == self.plan.iterations:
                    self._save(state, started)
                    saved_at, saved_iteration = time.perf_counter(), self.iteration
                if self.stop_requested and self.iteration < self.plan.iterations:
                    print(f"Stopped and saved at iteration {saved_iteration}. Continue with {self.resumed_by}")
                    raise KeyboardInterrupt
        measured = self._measured(started)
        summaries = [self._summary(member, measured) for member in self.members]
        for member, lanes, summary in zip(self.members, self.lanes, summaries, strict=True):
            own = member.folder / run_folder.CHECKPOINTS
            if own.absolute() != self.checkpoints.folder:
                with checkpoint.Checkpoints(own) as checkpoints:
                    self._save_lanes(checkpoints, state, lanes, member.plan)
            files.write_json(member.folder / run_folder.SUMMARY, summary)
        return summaries, self._real(state)

    def _advance(self, state: RunState, started: float) -> tuple[RunState, list[dict[str, Any]]]:
        count = min(self.log_every, self.plan.iterations - self.iteration)
        before, compiled_before = time.perf_counter(), self.watch.seconds
        state, sums = self.loop.advance(self.config, state, self.iteration, self.plan.iterations, count)
        sums = jax.device_get(sums)
        seconds = time.perf_counter() - before - (self.watch.seconds - compiled_before)
        self.iteration += count
        steps = count * self.plan.steps_per_iteration * self.lanes[-1].stop
        self.rates.append((seconds, steps))
        wall = self.earlier["train_seconds"] + self.earlier["compile_seconds"] + time.perf_counter() - started
        rows = [
            {
                "iteration": self.iteration,
                "step": self.iteration * self.plan.steps_per_iteration,
                "seed": seed,
                "wall_time": round(wall, 3),
                "steps_per_second": round(steps / max(seconds, 1e-9), 1),
                "episodes": int(sums["episode_return"].count[lane]),
                **{name: _mean(metric, lane) for name, metric in sums.items()},
            }
            for lane, seed in enumerate(self.plan.seeds[: self.lanes[-1].stop])
        ]
        self._look_for_nan(rows)
        if self.evaluations is not None:
            now = rows[0]["step"]
            returns = self.evaluations.returns(self._real(state), now - count * self.plan.steps_per_iteration, now)
            rows = [row | {"evaluation_return": value} for row, value in zip(rows, returns, strict=False)]
        return state, rows

    def _look_for_nan(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for name, value in list(row.items()):
                if isinstance(value, float) and not np.isfinite(value):
                    if not self.stop_at_nan:
                        row["diverged"] = True
                        continue
                    kept = self.checkpoints.latest()
                    kept = (
                        "no checkpoint was made yet" if kept is None else f"the checkpoint of iteration {kept} is kept"
                    )
                    raise PurerlError(
                        f"{name} of seed {row['seed']} is {value} at step {row['step']} "
                        f"(iteration {row['iteration']}); "
                        f"{kept}. Try a smaller learning_rate, or --dtype float32"
                    )

    def _save(self, state: RunState, started: float) -> None:
        tree = {"run": self._real(state), "pool": self._pool_state()}
        self.checkpoints.save(self.iteration, tree, {"plan": self.plan.to_dict()} | self._spent(started))

    def _save_lanes(self, checkpoints: checkpoint.Checkpoints, state: RunState, lanes: slice, plan: Plan) -> None:
        """Saves a member's part of the finished run, as if it had been trained alone."""
        tree = {"run": jax.tree.map(lambda x: x[lanes], state), "pool": self._pool_state(lanes)}
        checkpoints.save(self.iteration, tree, {"plan": plan.to_dict()} | self.earlier)

    def _real(self, state: RunState) -> RunState:
        """The lanes of the plan's seeds, without those that only fill up the devices."""
        return state if self.keys.shape[0] == self.kept.stop else jax.tree.map(lambda x: x[self.kept], state)

    def _spent(self, started: float) -> dict[str, float]:
        """Wall time so far, of this session and those before it."""
        elapsed = time.perf_counter() - started - self.watch.seconds
        return {
            "train_seconds": self.earlier["train_seconds"] + elapsed,
            "compile_seconds": self.earlier["compile_seconds"] + self.watch.seconds,
        }

    def _pool_state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray] | None:
        pool: Pool | None = getattr(self.loop, "pool", None)
        return None if pool is None else pool.state(lanes)

    def _restore(self, state: RunState) -> RunState:
        if self.checkpoints.latest() is None:
            return state
        pool_template = self._pool_state()
        if pool_template is not None:
            pool_template = {name: checkpoint.AnyShape(x.dtype) for name, x in pool_template.items()}
        template = {"run": self._real(state), "pool": pool_template}
        self.iteration, tree, metadata = self.checkpoints.restore(template)
        tree["run"] = self.loop.placed(lanes.pad_state(tree["run"], self.keys.shape[0]))
        self.earlier = {name: metadata[name] for name in self.earlier}
        if tree["pool"] is None:
            return tree["run"]
        self.loop.pool.restore(tree["pool"])
        return (
            tree["run"]
            if self.loop.pool.resumes_exactly
            else self.loop.restarted(self.config, tree["run"], self.iteration)
        )

    def _measured(self, started: float) -> dict[str, Any]:
        """What all members have in common: speed, memory and where they ran."""
        # The first period of a process warms caches and threads up; steady state is what follows it.
        steady = self.rates[1:] or self.rates
        seconds, steps = map(sum, zip(*steady, strict=True)) if steady else (0.0, 0)
        spent = {name: round(value, 3) for name, value in self._spent(started).items()}
        return {
            "iterations": self.plan.iterations,
            "compile_seconds": spent["compile_seconds"],
            "compiled_programs": self.watch.programs,
            "compilation_cache_hits": self.watch.cache_hits,
            "train_seconds": spent["train_seconds"],
            "steps_per_second": round(steps / seconds, 1) if seconds else None,
            **({} if len(self.members) == 1 else {"runs_in_program": len(self.members)}),
            **({"host_loop_seconds": self.loop.seconds} if hasattr(self.loop, "seconds") else {}),
            **provenance.peak_memory_bytes(),
            **provenance.environment_report(),
        }

    def _summary(self, member: Member, measured: dict[str, Any]) -> dict[str, Any]:
        rows = sinks.read_rows(member.folder / run_folder.METRICS)
        finals = final_returns(rows, member.plan.seeds, member.plan.steps)
        known = [x for x in finals if x is not None]
        return {
            "agent": member.plan.agent,
            "env": member.plan.env,
            "preset": member.plan.preset,
            "seeds": list(member.plan.seeds),
            "steps": member.plan.steps,
            "final_return": {
                "iqm": float(stats.interquartile_mean(np.array(known))) if known else None,
                "mean": float(np.mean(known)) if known else None,
                "per_seed": finals,
                "definition": f"mean of the episodes ending in the last {FINAL_SHARE:.0%} of the steps",
            },
            "diverged_seeds": sorted({row["seed"] for row in rows if row.get("diverged")}),
            **measured,
            "folder": str(member.folder),
        }


def final_returns(rows: Sequence[dict[str, Any]], seeds: Sequence[int], steps: int) -> list[float | None]:
    """For each seed, the mean return of the episodes that ended in the last tenth of the run; None without any."""
    finals = []
    for seed in seeds:
        late = [
            (row["episode_return"], row["episodes"])
            for row in rows
            if row["seed"] == seed and row["step"] > (1 - FINAL_SHARE) * steps and row["episodes"]
        ]
        count = sum(n for _, n in late)
        finals.append(sum(r * n for r, n in late) / count if count else None)
    return finals


def _mean(metric: Any, lane: int) -> float | None:
    count = float(metric.count[lane])
    return float(metric.total[lane]) / count if count else None


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()
