"""One training run from names to results: `train(agent, env, ...)` and what the tools need to open a run again."""

from __future__ import annotations

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
      seeds: the seeds, one lane of the vmapped run each.
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
    return rng.seed_keys(the_plan.seeds[0], len(the_plan.seeds))


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
    header = the_plan.to_dict() | {"protocol": _protocol(the_plan), "environment": runs.environment_report()}
    loop = make_loop(the_plan)
    try:
        runs.create(folder, header, resume=resume, overwrite=overwrite)
        if resume and steps is not None:  # a run that is to be longer now
            stored = runs.load(folder)["config"]
            runs.write_json(folder / runs.CONFIG, stored | {"steps": the_plan.steps})
        evaluations = _Evaluations(the_plan, eval_every, eval_episodes) if eval_every else None
        return _Training(the_plan, loop, folder, resume, log, log_every, checkpoint_seconds, evaluations, quiet).run()
    finally:
        pool = getattr(loop, "pool", None)
        if pool is not None:
            pool.close()


class _Evaluations:
    """Evaluates an agent in the course of its training, each time with another seed."""

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


class _Training:
    """The state of the run that is not learning state: files, clocks, and whether the user wants to stop."""

    def __init__(self, the_plan, loop, folder, resume, log, log_every, checkpoint_seconds, evaluations, quiet):
        self.evaluations = evaluations
        self.plan, self.loop, self.folder, self.resume, self.quiet = the_plan, loop, folder, resume, quiet
        self.log_every = log_every or max(1, the_plan.iterations // 200)
        self.checkpoint_seconds = checkpoint_seconds
        self.config = configs.traced(the_plan.config)
        self.checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
        self.watch = compilation.CompileWatch()
        self.log = log
        self.iteration = 0
        self.earlier = {"train_seconds": 0.0, "compile_seconds": 0.0}
        self.rates: list[tuple[float, int]] = []
        self.stop_requested = False

    def run(self) -> Run:
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

    def _run(self) -> Run:
        started = time.perf_counter()
        state = self.loop.init(self.config, seed_keys(self.plan))
        if self.resume:
            state = self._restore(state)
        jax.block_until_ready(state)
        metrics_file = self.folder / "metrics.jsonl"
        if self.resume:
            sinks.truncate_rows(metrics_file, self.iteration)
        writers = sinks.open_sinks(["jsonl", *self.log], self.folder, self.plan.to_dict())
        label = f"{self.plan.agent} {self.plan.env}"
        saved_at, saved_iteration = time.perf_counter(), self.iteration
        try:
            with progress.Progress(self.plan.steps, label, enabled=False if self.quiet else None) as bar:
                while self.iteration < self.plan.iterations:
                    state, rows = self._advance(state, started)
                    for writer in writers:
                        writer.write(rows)
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
                        print(
                            f"Stopped and saved at iteration {saved_iteration}. Continue with --resume: {self.folder}"
                        )
                        raise KeyboardInterrupt
        finally:
            for writer in writers:
                writer.close()
        summary = self._summary(started)
        runs.write_json(self.folder / "summary.json", summary)
        try:
            figure = str(plots.plot_run(self.folder))
        except PurerlError as error:  # a run too short to finish an episode has no curve, and is no failure
            figure = f"none: {error}"
        if not self.quiet:
            progress.summary_table(summary | {"figure": figure})
        return Run(self.folder, summary, state)

    def _advance(self, state: RunState, started: float) -> tuple[RunState, list[dict[str, Any]]]:
        count = min(self.log_every, self.plan.iterations - self.iteration)
        before, compiled_before = time.perf_counter(), self.watch.seconds
        state, sums = self.loop.advance(self.config, state, self.iteration, self.plan.iterations, count)
        sums = jax.device_get(sums)
        seconds = time.perf_counter() - before - (self.watch.seconds - compiled_before)
        self.iteration += count
        steps = count * self.plan.steps_per_iteration * len(self.plan.seeds)
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
            for lane, seed in enumerate(self.plan.seeds)
        ]
        self._refuse_nan(rows)
        if self.evaluations is not None:
            now = rows[0]["step"]
            returns = self.evaluations.returns(state, now - count * self.plan.steps_per_iteration, now)
            rows = [row | {"evaluation_return": value} for row, value in zip(rows, returns, strict=True)]
        return state, rows

    def _refuse_nan(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for name, value in row.items():
                if isinstance(value, float) and not np.isfinite(value):
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
        elapsed = time.perf_counter() - started - self.watch.seconds
        self.checkpoints.save(
            self.iteration,
            tree,
            {
                "plan": self.plan.to_dict(),
                "train_seconds": self.earlier["train_seconds"] + elapsed,
                "compile_seconds": self.earlier["compile_seconds"] + self.watch.seconds,
            },
        )

    def _pool_state(self) -> dict[str, np.ndarray] | None:
        pool: Pool | None = getattr(self.loop, "pool", None)
        return None if pool is None else pool.state()

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

    def _summary(self, started: float) -> dict[str, Any]:
        rows = sinks.read_rows(self.folder / "metrics.jsonl")
        finals = final_returns(rows, self.plan.seeds, self.plan.steps)
        known = [x for x in finals if x is not None]
        # The first period of a process warms caches and threads up; steady state is what follows it.
        steady = self.rates[1:] or self.rates
        seconds, steps = map(sum, zip(*steady, strict=True)) if steady else (0.0, 0)
        compile_seconds = self.earlier["compile_seconds"] + self.watch.seconds
        elapsed = time.perf_counter() - started - self.watch.seconds
        report = runs.environment_report()
        return {
            "agent": self.plan.agent,
            "env": self.plan.env,
            "preset": self.plan.preset,
            "seeds": list(self.plan.seeds),
            "steps": self.plan.steps,
            "iterations": self.plan.iterations,
            "compile_seconds": round(compile_seconds, 3),
            "compiled_programs": self.watch.programs,
            "compilation_cache_hits": self.watch.cache_hits,
            "train_seconds": round(self.earlier["train_seconds"] + elapsed, 3),
            "steps_per_second": round(steps / seconds, 1) if seconds else None,
            "final_return": {
                "iqm": float(stats.interquartile_mean(np.array(known))) if known else None,
                "mean": float(np.mean(known)) if known else None,
                "per_seed": finals,
                "definition": f"mean of the episodes ending in the last {FINAL_SHARE:.0%} of the steps",
            },
            **({"host_loop_seconds": self.loop.seconds} if hasattr(self.loop, "seconds") else {}),
            **runs.peak_memory_bytes(),
            **report,
            "folder": str(self.folder),
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
    before, now = stored.to_dict(), asked.to_dict()
    for name in ("agent", "env", "seeds", "config", "env_options"):
        if before[name] != now[name]:
            raise PurerlError(
                f"--resume: {name} differs from the run in {folder}: {_difference(before[name], now[name])}"
            )
    return dataclasses.replace(stored, steps=asked.steps) if steps is not None else stored


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
