"""The Trainer: advances a program of one run or several, and keeps their folders, checkpoints and metric rows."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import configs, registry
from purerl.errors import Interrupted, PurerlError
from purerl.loops import host, in_graph, lanes, sums
from purerl.runs import files, interrupts, progress, provenance, run_folder, sinks
from purerl.runs.best import Best
from purerl.runs.divergence import ADVICE, named
from purerl.runs.evaluation import Evaluations
from purerl.runs.filming import Videos
from purerl.runs.logs import Logged
from purerl.runs.plan import Plan, record_resumption, seed_keys
from purerl.runs.recording import Recording
from purerl.runs.saving import Period, Saving
from purerl.runs.summary import summarize
from purerl.runs.timing import Budget, Timing
from purerl.types import RunState

# How long a program trains before it looks whether it was asked to stop.
PIECE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Member:
    """A run among those that one program trains: its plan, the folder that holds it, and what else it logs to."""

    plan: Plan
    folder: Path
    logged: Logged = dataclasses.field(default_factory=Logged)


def make_loop(the_plan: Plan) -> in_graph.InGraphLoop | host.HostLoop:
    """The loop that suits the environment: in the graph, or on a pool on the host."""
    agent, devices = registry.agent(the_plan.agent), the_plan.devices_per_seed
    family, env_id = registry.environment(the_plan.env)
    if not registry.is_host(family):
        return in_graph.InGraphLoop(agent, family.make(env_id, the_plan.options), the_plan.lanes, devices)
    num_envs = the_plan.config.num_envs
    groups = 2 if num_envs % 2 == 0 else 1
    pool = family.make_pool(env_id, the_plan.options, the_plan.seeds, num_envs, groups)
    return host.HostLoop(agent, pool, the_plan.lanes, devices)


# The last loop of `shared_loop`, and what it is for.
_shared: tuple[Any, tuple[Any, ...], in_graph.InGraphLoop] | None = None


def shared_loop(the_plan: Plan) -> in_graph.InGraphLoop | host.HostLoop:
    """As `make_loop`; the last loop again if it is for the same functions, game, options, lanes and devices.

    A run then neither traces nor loads its program again if one with the same static fields came before it. Variants of
    an agent have the same functions.
    """
    global _shared
    agent, (family, env_id) = registry.agent(the_plan.agent), registry.environment(the_plan.env)
    if registry.is_host(family):
        return make_loop(the_plan)
    functions = agent._replace(name="", defaults={})
    kind = (functions, id(family), env_id, the_plan.options, the_plan.lanes, the_plan.devices_per_seed)
    if _shared is None or _shared[1] != kind:
        _shared = family, kind, make_loop(the_plan)  # the family is held, so that no other gets its id
    return _shared[2]


def forget_shared_loop() -> None:
    """For functions that may not do what they did when they were traced."""
    global _shared
    _shared = None


def close(loop: in_graph.InGraphLoop | host.HostLoop) -> None:
    """Closes the pool of a host loop."""
    pool = getattr(loop, "pool", None)
    if pool is not None:
        pool.close()


class Trainer:
    """Advances what one program holds, one run or several side by side, from row to row: metrics, checkpoints, stops.

    Args:
      the_plan: of the whole program: its lanes are the seeds of all members in order, and perhaps more, which only fill
        up the devices.
      members: the runs, whose folders and config.json exist.
      loop: from `make_loop(the_plan)`.
      checkpoints: folder of the program's checkpoints.
      resume: continue from the newest of them, if there is any.
      label: what the progress bar says.
      resumed_by: the command that continues an interrupted run.
      recording: how often rows are written and checkpoints made.
      quiet: as in `train`.
      evaluations, videos: None for none. Videos are of the only member.
      stop_at_nan: whether NaN or infinity in a lane ends the program with a PurerlError; if not, the rows of such a
        lane say {"diverged": true}.
      until: the iteration to stop at, where each member's state is saved in its own folder; None for the end. Nothing
        else differs from a program that goes on: schedules see the whole length.
      joined_at: the iteration of the members' own checkpoints, from which a program without checkpoints goes on.
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
        recording: Recording,
        evaluations: Evaluations | None = None,
        videos: Videos | None = None,
        quiet: bool = False,
        stop_at_nan: bool = True,
        until: int | None = None,
        joined_at: int = 0,
    ):
        self.plan, self.members, self.loop, self.resume, self.quiet = the_plan, list(members), loop, resume, quiet
        self.until, self.joined_at = the_plan.iterations if until is None else until, joined_at
        self.evaluations, self.videos = evaluations, videos
        self.label, self.resumed_by, self.stop_at_nan = label, resumed_by, stop_at_nan
        self.log_every = recording.log_every or max(1, the_plan.iterations // 200)
        self.checkpoint_seconds = recording.checkpoint_seconds
        num_seeds = len(the_plan.seeds)
        num_lanes = loop.num_lanes(num_seeds)
        self.config, self.keys = lanes.pad(configs.traced(the_plan.config), seed_keys(the_plan), num_lanes)
        self.saving = Saving(checkpoints, loop, self.config, num_seeds, num_lanes, stop_at_nan=stop_at_nan)
        self.timing = Timing()
        self.iteration, self.piece, self.period, self.longest = 0, 1, Period(0, None), []
        ends = np.cumsum([len(member.plan.seeds) for member in self.members])
        self.lanes = [
            slice(int(end) - len(member.plan.seeds), int(end)) for member, end in zip(members, ends, strict=True)
        ]
        runs = [(member.plan, member.folder, own) for member, own in zip(self.members, self.lanes, strict=True)]
        self.best = Best(runs, loop.agent.acting, the_plan.steps) if recording.keep_best else None
        self.budget = Budget(recording.hours, self.timing, self._passes, self._playing) if recording.hours else None

    def run(self) -> tuple[list[dict[str, Any]], RunState]:
        """Trains to the end: (each member's summary, which its summary.json holds too, last RunState of all seeds).

        There are no summaries if it stops at `until`.

        Raises:
          PurerlError: NaN or infinity, a full disk, a broken checkpoint.
          Interrupted (a KeyboardInterrupt): Ctrl-C, SIGTERM or SIGHUP, after everything has been saved.
        """
        try:
            with interrupts.deferred() as stop, self.saving.checkpoints:
                state = self._train(self._begin(), stop)
                return self._finish(state), self.saving.of_seeds(state)
        finally:
            self.timing.watch.stop()

    def _begin(self) -> RunState:
        """The state to continue from."""
        state = self.loop.init(self.config, self.keys)
        if self.resume:
            if self.joined_at and self.saving.checkpoints.latest() is None:
                folders = [member.folder / run_folder.CHECKPOINTS for member in self.members]
                self.iteration, state, metadata, period = self.saving.join(state, folders, self.lanes, self.joined_at)
            else:
                self.iteration, state, metadata, period = self.saving.restore(state)
            self.period = period or Period(self.iteration, None)
            self.timing.earlier |= {name: metadata[name] for name in self.timing.earlier if name in metadata}
            self.longest = metadata.get("longest_periods") or []
        jax.block_until_ready(state)
        if self.resume:
            for member in self.members:
                sinks.truncate_rows(member.folder / run_folder.METRICS, self.iteration)
            if self.best is not None:
                self.best.resume(state)
            if self.videos is not None:
                self.videos.remove_after(self.iteration * self.plan.steps_per_iteration)
            record_resumption([(member.folder, member.plan) for member in self.members], self.iteration)
        return state

    def _train(self, state: RunState, stop: interrupts.Stop) -> RunState:
        """All log periods that are left: rows to the sinks, checkpoints when they are due."""
        saved_at, began = time.perf_counter(), self.iteration
        if self.budget is not None:
            self.budget.begin(self.longest)
        with contextlib.ExitStack() as stack:
            writers = [self._open_sinks(stack, member) for member in self.members]
            bar = stack.enter_context(
                progress.Progress(self.plan.steps, self.label, enabled=False if self.quiet else None)
            )
            over = self._is_over()
            if over and self.iteration < self.until and not self.quiet:
                progress.note("the run has used up its hours: to train on, ask for more --hours")
            while not over:
                state = self._advance(state, stop)
                self._look_for_folders()
                whole = self.iteration == self._end_of_period()
                if whole:
                    rows = self._rows(state)
                    if self.best is not None:
                        self.best.update(rows, state)
                    for own, of_member in zip(self.lanes, writers, strict=True):
                        for writer in of_member:
                            writer.write(rows[own])
                    self._show(bar, rows)
                    self._film(state)
                    if self.budget is not None:
                        self.budget.note(max(began, self.period.began), self.iteration)
                over = whole and self._is_over()
                due = time.perf_counter() - saved_at >= self.checkpoint_seconds
                if stop or (whole and (due or over)):
                    if self.best is not None:
                        self.best.save(self.iteration)
                    period = None if whole or self.period.sums is None else self.period  # None: nothing is summed yet
                    self.saving.save(self.iteration, state, self.plan, self._spent(), period)
                    saved_at = time.perf_counter()
                if stop and not over:
                    saved = f"stopped and saved at iteration {self.iteration}"
                    raise Interrupted(f"{saved}; continue with: {self.resumed_by}", stop.signal)
        return state

    def _is_over(self) -> bool:
        """Whether the run is as long as asked, or has no time for another log period. Asked between two of them."""
        if self.iteration >= self.until or self.budget is None or self.iteration == 0:
            return self.iteration >= self.until
        under_way = self.iteration < self._end_of_period()  # a log period of an earlier session
        end = self._end_of_period() if under_way else min(self.iteration + self.log_every, self.until)
        return not self.budget.fits(self.iteration, end)

    def _passes(self, first: int, end: int) -> float:
        """How many passes over rollouts the iterations first to end - 1 make, by the agent's own account."""
        passes = self.loop.agent.passes
        if passes is None:
            return end - first
        return sum(passes(self.plan.config, iteration, self.plan.iterations) for iteration in range(first, end))

    def _playing(self) -> float:
        """Seconds that the loop has waited for games on the host."""
        return getattr(self.loop, "seconds", {}).get("environment", 0.0)

    def _spent(self) -> dict[str, Any]:
        """The times in the metadata of a checkpoint."""
        return self.timing.spent() | ({} if self.budget is None else {"longest_periods": self.budget.longest()})

    def _film(self, state: RunState) -> None:
        """Writes a video if one is due: before the checkpoint, so that a run that continues from it lacks none."""
        if self.videos is not None:
            before, now = (one * self.plan.steps_per_iteration for one in (self.period.began, self.iteration))
            self.videos.write(self.saving.of_seeds(state), before, now)

    def _look_for_folders(self) -> None:
        """Raises PurerlError if a folder is gone: an open file lives on without a name, and takes rows for nothing."""
        for member in self.members:
            if not (member.folder / run_folder.CONFIG).exists():
                raise PurerlError(f"{member.folder} was removed or renamed while the run wrote into it: train again")

    def _open_sinks(self, stack: contextlib.ExitStack, member: Member) -> list[sinks.Sink]:
        logged = member.logged
        opened = sinks.open_sinks(["jsonl", *logged.log], member.folder, member.plan.to_dict(), logged.wandb)
        for sink in opened:
            stack.callback(sink.close)
        return opened

    def _show(self, bar: progress.Progress, rows: list[dict[str, Any]]) -> None:
        returns = [row["episode_return"] for row in rows if row["episode_return"] is not None]
        step = self.iteration * self.plan.steps_per_iteration
        bar.update(step, rows[0]["steps_per_second"], float(np.mean(returns)) if returns else None)

    def _finish(self, state: RunState) -> list[dict[str, Any]]:
        """Leaves each member's folder as if it had been trained alone; its summary, unless it is to go on later."""
        if self.until < self.plan.iterations:
            for member, own in zip(self.members, self.lanes, strict=True):
                folder = member.folder / run_folder.CHECKPOINTS
                self.saving.save_member(folder, self.iteration, state, own, member.plan, self._spent())
            return []
        measured = {
            "iterations": self.iteration,
            **self.timing.measured(),
            **({} if len(self.members) == 1 else {"runs_in_program": len(self.members)}),
            **({"host_loop_seconds": self.loop.seconds} if hasattr(self.loop, "seconds") else {}),
            **provenance.peak_memory_bytes(),
            **provenance.environment_report(),
        }
        if self.iteration < self.plan.iterations:
            measured |= {"planned_steps": self.plan.steps, "ended_after_hours": round(self.timing.wall / 3600, 4)}
        summaries = [
            summarize(
                self._as_trained(member.plan),
                member.folder,
                measured | ({} if self.best is None else {"best": self.best.marks(own)}),
                self.saving.diverged_seeds(member.plan, own),
            )
            for member, own in zip(self.members, self.lanes, strict=True)
        ]
        for member, own, summary in zip(self.members, self.lanes, summaries, strict=True):
            folder = member.folder / run_folder.CHECKPOINTS
            self.saving.save_member(folder, self.iteration, state, own, member.plan, self._spent())
            files.write_json(member.folder / run_folder.SUMMARY, summary)
        return summaries

    def _as_trained(self, plan: Plan) -> Plan:
        """A member's plan with the steps that it has been trained for, which may be fewer if time was limited."""
        if self.iteration >= self.plan.iterations:
            return plan
        return dataclasses.replace(plan, steps=self.iteration * plan.steps_per_iteration, asked_steps=None)

    def _end_of_period(self) -> int:
        return min(max(self.period.began + self.log_every, self.iteration), self.until)

    def _advance(self, state: RunState, stop: interrupts.Stop) -> RunState:
        """Trains to the end of the log period, or until it is asked to stop: in pieces of some seconds, the first of a
        process of one iteration, so that a long period can be stopped in its midst.
        """
        if self.iteration >= self._end_of_period():
            self.period = Period(self.iteration, None)
        while self.iteration < self._end_of_period() and not (stop and not stop.at_once):
            if stop:
                raise Interrupted("interrupted before anything was trained", stop.signal)
            count = min(self.piece, self._end_of_period() - self.iteration)
            before, compiled_before = time.perf_counter(), self.timing.watch.seconds
            state, self.period.sums = self.loop.advance_on(
                self.config, state, self.period.sums, self.iteration, self.plan.iterations, count
            )
            seconds = time.perf_counter() - before - (self.timing.watch.seconds - compiled_before)
            self.iteration += count
            self.period.seconds += seconds
            self.piece = max(1, min(4 * self.piece, int(count * PIECE_SECONDS / max(seconds, 1e-6))))
            stop.at_once = False
        return state

    def _rows(self, state: RunState) -> list[dict[str, Any]]:
        """A row for each seed, of the log period that has ended."""
        found, seconds = sums.read(self.period.sums), self.period.seconds
        num_seeds = self.lanes[-1].stop
        count = self.iteration - self.period.began
        steps = count * self.plan.steps_per_iteration * num_seeds
        self.timing.add(seconds, steps)
        now = self.iteration * self.plan.steps_per_iteration
        shared = {"iteration": self.iteration, "step": now}
        pace = {
            "wall_time": round(self.timing.wall, 3),
            "steps_per_second": round(steps / max(seconds, 1e-9), 1),
        }
        rows = [
            {
                **shared,
                "seed": seed,
                **pace,
                "episodes": int(found["episode_return"].count[lane]),
                **{name: _mean(metric, lane) for name, metric in found.items()},
            }
            for lane, seed in enumerate(self.plan.seeds[:num_seeds])
        ]
        self._look_for_nan(rows, state)
        if self.evaluations is not None:
            before_step = now - count * self.plan.steps_per_iteration
            returns = self.evaluations.returns(self.saving.of_seeds(state), before_step, now)
            rows = [row | {"evaluation_return": value} for row, value in zip(rows, returns, strict=False)]
        return rows

    def _look_for_nan(self, rows: list[dict[str, Any]], state: RunState) -> None:
        """Marks the rows of diverged lanes, or raises PurerlError: what is NaN or infinite, of which seed, and when."""
        for lane, row in enumerate(rows):
            for name, value in list(row.items()):
                if not isinstance(value, float) or np.isfinite(value):
                    continue
                if not self.stop_at_nan:
                    row["diverged"] = True
                    continue
                leaves = self.saving.look(self.saving.of_seeds(state)).get(lane)
                learned = f"and so is {named(leaves)}" if leaves else "while its parameters are finite"
                raise PurerlError(
                    f"{name} of seed {row['seed']} is {value} at step {row['step']} (iteration {row['iteration']}), "
                    f"{learned}; {self.saving.kept()}. {ADVICE}"
                )


def _mean(metric: Any, lane: int) -> float | None:
    count = float(metric.count[lane])
    return float(metric.total[lane]) / count if count else None
