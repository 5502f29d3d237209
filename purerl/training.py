"""One training run from names to results: `train(agent, env, ...)` and what the tools need to open a run again."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import (
    checkpoint,
    compilation,
    configs,
    host,
    in_graph,
    plots,
    progress,
    registry,
    rng,
    runs,
    sharding,
    sinks,
)
from purerl import statistics as stats
from purerl.errors import PurerlError
from purerl.types import Agent, EnvSpec, Pool, RunState

# Each seed's final return is the mean of the episodes that end in the last tenth of its steps.
FINAL_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides a run's numbers, resolved and checked.

    Attributes:
      agent, env, preset: names.
      config: the agent's Config, plain Python values.
      options: the environment family's Options.
      seeds: the seeds, one lane of the vmapped run each; a seed may come again, in lanes of other settings (`cells`).
      steps: environment steps of each seed, a whole number of iterations.
    """

    agent: str
    env: str
    preset: str
    config: Any
    options: Any
    seeds: tuple[int, ...]
    steps: int

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one seed in one iteration."""
        return self.config.num_envs * self.config.rollout_length

    @property
    def iterations(self) -> int:
        """Updates in the whole run."""
        return self.steps // self.steps_per_iteration

    def to_dict(self) -> dict[str, Any]:
        """The part of config.json that `from_dict` reads back."""
        return {
            "agent": self.agent,
            "env": self.env,
            "preset": self.preset,
            "seeds": list(self.seeds),
            "steps": self.steps,
            "config": configs.to_dict(self.config),
            "env_options": configs.to_dict(self.options),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """The plan of a run folder's config.json. Raises PurerlError if it names things this purerl does not know."""
        try:
            family, _ = registry.environment(values["env"])
            return cls(
                agent=values["agent"],
                env=values["env"],
                preset=values["preset"],
                config=configs.from_dict(registry.agent(values["agent"]).Config, values["config"], values["agent"]),
                options=configs.from_dict(family.Options, values["env_options"], values["env"]),
                seeds=tuple(values["seeds"]),
                steps=values["steps"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PurerlError(
                f"the run's config.json is damaged or of another purerl ({type(error).__name__}: {error}): train anew"
            ) from error


@dataclasses.dataclass(frozen=True)
class Member:
    """A run among those that one program trains: its plan, and the folder that holds it."""

    plan: Plan
    folder: Path


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, its summary (as in summary.json) and its last RunState [S, ...]."""

    folder: Path
    summary: dict[str, Any]
    state: RunState


def plan(
    agent: str,
    env: str,
    *,
    preset: str | None = None,
    seeds: int = 1,
    seed: int = 0,
    steps: int | None = None,
    config: dict[str, Any] | None = None,
    env_options: dict[str, Any] | None = None,
) -> Plan:
    """Resolves names, preset and overrides, and checks them.

    Args:
      agent: registered agent, e.g. "ppg".
      env: "family/id", e.g. "procgen/coinrun".
      preset: named settings; None chooses by the environment.
      seeds: how many seeds run side by side: seed, seed + 1, ...
      seed: the first seed.
      steps: environment steps of each seed, rounded up to whole iterations; None takes the preset's.
      config: config fields over the preset's.
      env_options: environment options over the preset's.

    Raises:
      PurerlError: an unknown name or field, or sizes that cannot work.
    """
    found = registry.agent(agent)
    family, env_id = registry.environment(env)
    env = f"{env.partition('/')[0]}/{env_id}"
    preset, chosen = registry.presets().find(agent, preset, env)
    known_options = configs.field_types(family.Options)
    preset_options = {name: value for name, value in chosen.env.items() if name in known_options}
    options = configs.build(family.Options, preset_options | (env_options or {}), env)
    built = configs.build(found.Config, {**found.defaults, **chosen.config, **(config or {})}, agent)
    steps = chosen.steps if steps is None else steps
    if seeds < 1 or steps < 1:
        raise PurerlError(f"seeds = {seeds} and steps = {steps} must be at least 1")
    if not 0 <= seed <= 2**31 - 1 - seeds:
        raise PurerlError(f"seed = {seed} must be from 0 to {2**31 - 1 - seeds}")
    if built.num_envs < 1 or built.rollout_length < 1:
        raise PurerlError("num_envs and rollout_length must be at least 1")
    found.check(built, registry.env_spec(env, options))
    per_iteration = built.num_envs * built.rollout_length
    return Plan(
        agent=agent,
        env=env,
        preset=preset,
        config=built,
        options=options,
        seeds=tuple(range(seed, seed + seeds)),
        steps=-(-steps // per_iteration) * per_iteration,
    )


def make_loop(the_plan: Plan) -> in_graph.InGraphLoop | host.HostLoop:
    """The loop that suits the environment: in the graph, or on a pool of host games."""
    agent = registry.agent(the_plan.agent)
    family, env_id = registry.environment(the_plan.env)
    if not registry.is_host(family):
        return in_graph.InGraphLoop(agent, family.make(env_id, the_plan.options))
    num_envs = the_plan.config.num_envs
    groups = 2 if num_envs % 2 == 0 else 1
    return host.HostLoop(agent, family.make_pool(env_id, the_plan.options, the_plan.seeds, num_envs, groups))


def seed_keys(the_plan: Plan) -> jax.Array:
    """Typed base keys [S] of the plan's seeds."""
    return rng.keys_of(the_plan.seeds)


def default_folder(the_plan: Plan) -> Path:
    """runs/<agent>-<env>-<preset>-seed<k>."""
    name = f"{the_plan.agent}-{the_plan.env.replace('/', '-')}-{the_plan.preset}-seed{the_plan.seeds[0]}"
    return Path("runs") / (name if len(the_plan.seeds) == 1 else f"{name}to{the_plan.seeds[-1]}")


def train(
    agent: str,
    env: str,
    *,
    preset: str | None = None,
    seeds: int = 1,
    seed: int = 0,
    steps: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    config: dict[str, Any] | None = None,
    env_options: dict[str, Any] | None = None,
    log: Sequence[str] = (),
    log_every: int = 0,
    checkpoint_seconds: float = 300.0,
    eval_every: int = 0,
    eval_episodes: int = 10,
    eval_env_options: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Run:
    """Trains an agent and leaves a run folder: config.json, metrics.jsonl, summary.json, checkpoints/, figures/.

    Args:
      agent, env, preset, seeds, seed, steps, config, env_options: as in `plan`.
      out: run folder; None for runs/<agent>-<env>-<preset>-seed<k>.
      resume: continue the run in `out` exactly where its last checkpoint stands.
      overwrite: replace the run in `out`.
      log: sinks beside metrics.jsonl: "tensorboard", "wandb".
      log_every: iterations in one row of metrics; 0 for about 200 rows a run. It does not change the training.
      checkpoint_seconds: wall time between checkpoints; 0 saves with every row.
      eval_every: environment steps of each seed between evaluations, at the rows of metrics (their
        `evaluation_return`); 0 for none. They play as `purerl eval` does, on environments and random numbers of their
        own: the training is the same with and without them.
      eval_episodes: episodes of every environment in each evaluation.
      eval_env_options: environment options over those of training, for these evaluations: {"num_levels": 0} for all of
        Procgen's levels.
      quiet: no progress bar and no closing table.

    Returns:
      the finished Run.

    Raises:
      PurerlError: bad input (nothing is written then), a folder that already holds a run, a broken checkpoint, a loss
        that is not a number (the last good checkpoint stays).
      KeyboardInterrupt: Ctrl-C, after the run has been saved.
    """
    if seeds > 1:
        sharding.one_cpu_device_per_core()
    the_plan = plan(
        agent, env, preset=preset, seeds=seeds, seed=seed, steps=steps, config=config, env_options=env_options
    )
    folder = Path(out) if out is not None else default_folder(the_plan)
    runs.check(folder, resume=resume, overwrite=overwrite)
    if resume:
        the_plan = _resumed_plan(the_plan, folder, steps)
    sinks.check_sinks(log)
    compilation.enable_cache()
    loop = make_loop(the_plan)
    try:
        evaluations = make_evaluations(the_plan, eval_every, eval_episodes, eval_env_options)
        runs.create(folder, header(the_plan), resume=resume, overwrite=overwrite)
        if resume and steps is not None:  # a run that is to be longer now
            stored = runs.load(folder)["config"]
            runs.write_json(folder / runs.CONFIG, stored | {"steps": the_plan.steps})
        trainer = Trainer(
            the_plan,
            [Member(the_plan, folder)],
            loop,
            folder / runs.CHECKPOINTS,
            resume=resume,
            log=log,
            log_every=log_every,
            checkpoint_seconds=checkpoint_seconds,
            evaluations=evaluations,
            quiet=quiet,
            label=f"{the_plan.agent} {the_plan.env}",
            resumed_by=f"--resume: {folder}",
        )
        (summary,), state = trainer.run()
    finally:
        close(loop)
    try:
        figure = str(plots.plot_run(folder))
    except PurerlError as error:  # a run too short to finish an episode has no curve, and is no failure
        figure = f"none: {error}"
    if not quiet:
        progress.summary_table(summary | {"figure": figure})
    return Run(folder, summary, state)


def header(the_plan: Plan) -> dict[str, Any]:
    """What a run's config.json holds."""
    return the_plan.to_dict() | {"protocol": _protocol(the_plan), "environment": runs.environment_report()}


def close(loop: in_graph.InGraphLoop | host.HostLoop) -> None:
    """Ends the games of a host loop."""
    pool = getattr(loop, "pool", None)
    if pool is not None:
        pool.close()


def make_evaluations(
    the_plan: Plan, every: int, episodes: int, env_options: dict[str, Any] | None
) -> Evaluations | None:
    """The evaluations that `train` describes; None for every = 0. Raises PurerlError for impossible numbers."""
    if every == 0:
        if env_options:
            raise PurerlError("options of the evaluation's environment without evaluations: set eval_every as well")
        return None
    options = configs.build(
        type(the_plan.options), configs.to_dict(the_plan.options) | (env_options or {}), the_plan.env
    )
    return Evaluations(dataclasses.replace(the_plan, options=options), every, episodes)


class Evaluations:
    """Evaluates an agent in the course of its training, each time with another seed.

    Args:
      the_plan: the run's, with the evaluation's own environment options.
      every: environment steps of each seed between evaluations.
      episodes: of every environment in each of them.
    """

    def __init__(self, the_plan: Plan, every: int, episodes: int):
        from purerl import evaluation

        if every < 1 or episodes < 1:
            raise PurerlError(f"eval_every = {every} and eval_episodes = {episodes} must be at least 1")
        self._plan, self._every, self._episodes = the_plan, every, episodes
        self._player = evaluation.Player(the_plan, num_envs=the_plan.config.num_envs)
        self._evaluate = evaluation.evaluate_agent

    def returns(self, state: RunState, before: int, now: int) -> list[float | None]:
        """Mean returns of each seed at step `now`, if one is due there; the row before was at step `before`."""
        number = now // self._every
        if number == before // self._every:
            return [None] * len(self._plan.seeds)
        found = self._evaluate(self._plan, state.agent, episodes=self._episodes, seed=number, player=self._player)
        return np.mean(found.returns, axis=(1, 2)).tolist()


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
        self.config = configs.traced(the_plan.config)
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
        state = self.loop.init(self.config, seed_keys(self.plan))
        if self.resume:
            state = self._restore(state)
        jax.block_until_ready(state)
        if self.resume:
            for member in self.members:
                sinks.truncate_rows(member.folder / runs.METRICS, self.iteration)
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
            own = member.folder / runs.CHECKPOINTS
            if own.absolute() != self.checkpoints.folder:
                with checkpoint.Checkpoints(own) as checkpoints:
                    self._save_lanes(checkpoints, state, lanes, member.plan)
            runs.write_json(member.folder / runs.SUMMARY, summary)
        return summaries, state

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
            returns = self.evaluations.returns(state, now - count * self.plan.steps_per_iteration, now)
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
        tree = {"run": state, "pool": self._pool_state()}
        self.checkpoints.save(self.iteration, tree, {"plan": self.plan.to_dict()} | self._spent(started))

    def _save_lanes(self, checkpoints: checkpoint.Checkpoints, state: RunState, lanes: slice, plan: Plan) -> None:
        """Saves a member's part of the finished run, as if it had been trained alone."""
        tree = {"run": jax.tree.map(lambda x: x[lanes], state), "pool": self._pool_state(lanes)}
        checkpoints.save(self.iteration, tree, {"plan": plan.to_dict()} | self.earlier)

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
        self.iteration, tree, metadata = self.checkpoints.restore({"run": state, "pool": pool_template})
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
            **runs.peak_memory_bytes(),
            **runs.environment_report(),
        }

    def _summary(self, member: Member, measured: dict[str, Any]) -> dict[str, Any]:
        rows = sinks.read_rows(member.folder / runs.METRICS)
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


def open_run(folder: str | Path) -> tuple[Plan, Agent, EnvSpec, Any, Callable[[], Any]]:
    """(plan, agent, spec, traced config, load) of a run folder; load() reads what `act` needs of the agent's
    State [S, ...], the other fields being None.

    Raises PurerlError for a folder that holds no run or no checkpoint.
    """
    folder = Path(folder)
    the_plan = Plan.from_dict(runs.load(folder)["config"])
    agent = registry.agent(the_plan.agent)
    spec = registry.env_spec(the_plan.env, the_plan.options)
    config = configs.traced(the_plan.config)

    def load() -> Any:
        initial = in_graph.over_seeds(lambda c, key: agent.init(c, spec, rng.stream(key, "init")))
        template = jax.eval_shape(initial, config, seed_keys(the_plan))
        with checkpoint.Checkpoints(folder / "checkpoints") as saved:
            parts = {name: saved.restore_part(f"run/agent/{name}", getattr(template, name)) for name in agent.acting}
        return template.replace(**{f.name: parts.get(f.name) for f in dataclasses.fields(template)})

    return the_plan, agent, spec, config, load


def _resumed_plan(asked: Plan, folder: Path, steps: int | None) -> Plan:
    """The stored plan, if what is asked for agrees with it; `--steps` alone may differ, to run longer."""
    stored = Plan.from_dict(runs.load(folder)["config"])
    differs = difference(stored, dataclasses.replace(asked, steps=stored.steps))
    if differs:
        raise PurerlError(f"--resume: {differs[0]} differs from the run in {folder}: {differs[1]}")
    return dataclasses.replace(stored, steps=asked.steps) if steps is not None else stored


def difference(before: Plan, now: Plan) -> tuple[str, str] | None:
    """(what, how) of the first thing in which two plans differ that decides a run's numbers; None if in nothing."""
    before, now = before.to_dict(), now.to_dict()
    for name in ("agent", "env", "seeds", "steps", "config", "env_options"):
        if before[name] != now[name]:
            return name, _difference(before[name], now[name])
    return None


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, dict):
        changed = [name for name in before | now if before.get(name) != now.get(name)]
        return "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed)
    return f"was {before}, is {now}"


def _protocol(the_plan: Plan) -> dict[str, Any]:
    """The switches a reader must know before comparing numbers."""
    return {
        "time_limit_is_terminal": getattr(the_plan.config, "time_limit_is_terminal", None),
        "returns": "raw, undiscounted, unclipped, of the acting (sampling) policy in training",
        "steps": "environment steps of one seed",
    }


def _mean(metric: Any, lane: int) -> float | None:
    count = float(metric.count[lane])
    return float(metric.total[lane]) / count if count else None


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()
