"""A Plan: everything that determines a run's results, resolved from names, presets and overrides, and checked."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from purerl import arguments, configs, registry, rng
from purerl.errors import PurerlError, nearest, shown
from purerl.loops import sharding
from purerl.loops.lanes import Lanes, resolve
from purerl.loops.sharding import DevicesPerSeed
from purerl.runs import files, progress, provenance, run_folder, schemas, user_modules
from purerl.runs.user_modules import Import


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that determines a run's results, resolved and checked.

    Attributes:
      agent, env, preset: names.
      config: the agent's Config, plain Python values.
      options: the environment family's Options.
      seeds: one per lane of the vmapped run. In the plan of a whole program a seed can appear in several lanes, each
        with another setting.
      steps: environment steps of each seed, a whole number of iterations.
      lanes: how the seeds run on their device, see `loops.lanes`.
      devices_per_seed: over how many devices each seed is spread.
      imports: the user's own modules that the run needs.
      asked_steps: the steps before they were rounded up; None if they were whole iterations.
    """

    agent: str
    env: str
    preset: str
    config: Any
    options: Any
    seeds: tuple[int, ...]
    steps: int
    lanes: Lanes = "auto"
    devices_per_seed: int = 1
    imports: tuple[Import, ...] = ()
    asked_steps: int | None = None

    def __post_init__(self):
        configs.check_per_seed(self.config, len(self.seeds))

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one seed in one iteration."""
        return self.config.num_envs * self.config.rollout_length

    @property
    def iterations(self) -> int:
        """Updates in the whole run."""
        return self.steps // self.steps_per_iteration

    def with_env(self, env: str) -> Plan:
        """The plan in another environment; the options that both families have keep their values.

        Raises PurerlError for an unknown environment, or one that cannot be played with these values.
        """
        family, env_id = registry.environment(env)
        known = configs.field_types(family.Options)
        values = {name: value for name, value in configs.to_dict(self.options).items() if name in known}
        options = configs.build(family.Options, values, env)
        return dataclasses.replace(self, env=f"{env.partition('/')[0]}/{env_id}", options=options)

    def with_steps(self, steps: int) -> Plan:
        """The plan with another length, rounded up to whole iterations.

        Raises PurerlError if it is less than 1, or more than a run can count.
        """
        if steps < 1:
            raise PurerlError(f"steps = {steps} must be at least 1")
        iterations = -(-steps // self.steps_per_iteration)
        _check_length(steps, iterations, self.config)
        whole = iterations * self.steps_per_iteration
        return dataclasses.replace(self, steps=whole, asked_steps=None if whole == steps else steps)

    def to_dict(self) -> dict[str, Any]:
        """The part of config.json that `from_dict` reads back."""
        return {
            "agent": self.agent,
            "env": self.env,
            "preset": self.preset,
            "seeds": list(self.seeds),
            "steps": self.steps,
            "lanes": self.lanes,
            "devices_per_seed": self.devices_per_seed,
            "config": configs.to_dict(self.config),
            "env_options": configs.to_dict(self.options),
            "imports": [one.to_dict() for one in self.imports],
            **({} if self.asked_steps is None else {"asked_steps": self.asked_steps}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """The plan in a run folder's config.json; imports the user's modules that it needs.

        Raises PurerlError if it contains unknown names, or if a module cannot be imported.
        """
        schemas.check_plan(values)
        try:
            imports = user_modules.restore(user_modules.read(values.get("imports", [])))
            family, _ = registry.environment(values["env"])
            return cls(
                agent=values["agent"],
                env=values["env"],
                preset=values["preset"],
                config=configs.from_dict(registry.agent(values["agent"]).Config, values["config"], values["agent"]),
                options=configs.from_dict(family.Options, values["env_options"], values["env"]),
                seeds=tuple(values["seeds"]),
                steps=values["steps"],
                lanes=values.get("lanes", "vmap"),
                devices_per_seed=values.get("devices_per_seed", 1),
                imports=imports,
                asked_steps=None if values.get("asked_steps") is None else int(values["asked_steps"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PurerlError(
                f"the run's config.json is damaged or of another purerl version ({type(error).__name__}: {error}): "
                "train again"
            ) from error


@arguments.checked
def make_plan(
    agent: str,
    env: str,
    *,
    preset: str | None = None,
    seeds: int = 1,
    seed: int = 0,
    steps: int | None = None,
    config: dict[str, Any] | None = None,
    env_options: dict[str, Any] | None = None,
    lanes: Lanes = "auto",
    devices_per_seed: DevicesPerSeed = "auto",
) -> Plan:
    """Resolves names, preset and overrides, and checks them.

    Args:
      agent: registered agent, e.g. "ppg".
      env: "family/id", e.g. "procgen/coinrun".
      preset: named settings; None chooses the environment's default.
      seeds: how many seeds are trained together: seed, seed + 1, ...
      seed: the first seed.
      steps: environment steps of each seed, rounded up to whole iterations; None takes the preset's.
      config: config fields that replace the preset's.
      env_options: environment options that replace the preset's.
      lanes: how seeds share a device. "map": one after the other, each with the program of a run with one seed, and so
        with bit-identical results. "vmap": in one batch. "auto": map on CPUs, where it is faster, and vmap on
        accelerators.
      devices_per_seed: over how many devices (on a CPU: cores) each seed is spread; its results are then those of one
        device but for rounding. "auto": all of them for a network on images whose seeds do not have a device each.

    Raises:
      PurerlError: an unknown name or field, or sizes that do not fit together.
    """
    return settings(agent, env, preset).plan(
        seeds=seeds,
        seed=seed,
        steps=steps,
        config=config,
        env_options=env_options,
        lanes=lanes,
        devices_per_seed=devices_per_seed,
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The defaults of an agent on an environment under a preset; a user's own values replace them. From `settings`.

    Attributes:
      agent, env, preset: names, as in a Plan.
      chosen: the preset.
      config_values, option_values: the values from agent and preset, {field: value}.
    """

    agent: str
    env: str
    preset: str
    chosen: registry.Preset
    config_values: dict[str, Any]
    option_values: dict[str, Any]

    def named(self, config: dict[str, Any] | None) -> dict[str, Any]:
        """Config fields under their own names, with aliases resolved."""
        return configs.renamed(registry.agent(self.agent).Config, config or {}, self.agent)

    def config(self, values: dict[str, Any] | None = None) -> Any:
        """The agent's Config, with a user's values. Raises PurerlError for invalid values."""
        return configs.build(registry.agent(self.agent).Config, self.config_values | self.named(values), self.agent)

    def options(self, values: dict[str, Any] | None = None) -> Any:
        """The environment's Options, with a user's values. Raises PurerlError for invalid values."""
        family, _ = registry.environment(self.env)
        return configs.build(family.Options, self.option_values | (values or {}), self.env)

    def plan(
        self,
        *,
        seeds: int = 1,
        seed: int = 0,
        steps: int | None = None,
        config: dict[str, Any] | None = None,
        env_options: dict[str, Any] | None = None,
        lanes: Lanes = "auto",
        devices_per_seed: DevicesPerSeed = "auto",
    ) -> Plan:
        """The Plan with a user's values. Arguments and errors as in `make_plan`."""
        arguments.in_range("seeds", seeds, high=2**20)
        arguments.in_range("steps", self.chosen.steps if steps is None else steps, high=2**62)
        options, built = self.options(env_options), self.config(config)
        steps = self.chosen.steps if steps is None else steps
        if seeds < 1 or steps < 1:
            raise PurerlError(f"seeds = {seeds} and steps = {steps} must be at least 1")
        if not 0 <= seed <= 2**31 - 1 - seeds:
            raise PurerlError(f"seed = {seed} must be from 0 to {2**31 - 1 - seeds}")
        if built.num_envs < 1 or built.rollout_length < 1:
            raise PurerlError("num_envs and rollout_length must be at least 1")
        family, env_id = registry.environment(self.env)
        getattr(family, "check_training", lambda id, options: None)(env_id, options)
        if lanes not in typing.get_args(Lanes):
            known = typing.get_args(Lanes)
            raise PurerlError(f"unknown lanes '{lanes}'.{nearest(str(lanes), known)} Known: {', '.join(known)}")
        found, spec = registry.agent(self.agent), registry.env_spec(self.env, options)
        found.check(built, spec)
        if isinstance(devices_per_seed, str) and devices_per_seed != "auto":
            raise PurerlError(f"devices_per_seed = {shown(devices_per_seed)} must be auto or a number")
        if devices_per_seed != "auto":
            arguments.in_range("devices_per_seed", devices_per_seed, 1)
        devices = sharding.resolve(
            devices_per_seed, found, spec, built.num_envs, seeds, lanes, registry.is_host(family)
        )
        parts = [
            ("agent", self.agent),
            ("environment", self.env.partition("/")[0]),
            ("preset", f"{self.agent}/{self.preset}"),
        ]
        return Plan(
            agent=self.agent,
            env=self.env,
            preset=self.preset,
            config=built,
            options=options,
            seeds=tuple(range(seed, seed + seeds)),
            steps=steps,
            lanes=lanes,
            devices_per_seed=devices,
            imports=user_modules.needed(parts),
        ).with_steps(steps)


def _check_length(steps: int, iterations: int, config: Any) -> None:
    """Raises PurerlError for more steps of each environment than an int32 holds: the clock, the length of an episode,
    a game's own step counter and the steps that random numbers are drawn for are all less than that.
    """
    most = (2**31 - 1) // config.rollout_length
    if iterations > most:
        raise PurerlError(
            f"steps = {steps:,} is too long: a run counts up to 2**31 - 1 steps of each environment, so with "
            f"num_envs = {config.num_envs} and rollout_length = {config.rollout_length} it has at most "
            f"{most * config.num_envs * config.rollout_length:,} steps"
        )


def rounding(the_plan: Plan) -> str | None:
    """What to tell a user whose steps were rounded up by more than a tenth; None if they were not."""
    asked = the_plan.asked_steps
    if asked is None or the_plan.steps <= 1.1 * asked:
        return None
    return (
        f"{the_plan.steps:,} steps instead of {asked:,}: a run is a whole number of iterations of num_envs x "
        f"rollout_length = {the_plan.steps_per_iteration:,} steps"
    )


def settings(agent: str, env: str, preset: str | None = None) -> Settings:
    """The settings of a preset for an agent and an environment. Raises PurerlError for unknown names."""
    found = registry.agent(agent)
    family, env_id = registry.environment(env)
    env = f"{env.partition('/')[0]}/{env_id}"
    preset, chosen = registry.preset(agent, preset, env)
    known = configs.field_types(family.Options)
    named = [configs.renamed(found.Config, values, agent) for values in (found.defaults, chosen.config)]
    options = {name: value for name, value in chosen.env.items() if name in known}
    return Settings(agent, env, preset, chosen, named[0] | named[1], options)


def seed_keys(the_plan: Plan) -> jax.Array:
    """Typed base keys [S] of the plan's seeds."""
    return rng.keys_of(the_plan.seeds)


def with_lanes(the_plan: Plan) -> Plan:
    """The plan with "auto" lanes resolved for this machine's devices. A run records this and resumes with it."""
    return dataclasses.replace(the_plan, lanes=resolve(the_plan.lanes))


def header(the_plan: Plan) -> dict[str, Any]:
    """The content of a run's config.json."""
    return the_plan.to_dict() | {"protocol": _protocol(the_plan), "environment": provenance.environment_report()}


def update_header(folder: Path, the_plan: Plan) -> None:
    """Updates the length in a run's config.json, which may change when it is resumed."""
    stored, now = run_folder.load(folder)["config"], the_plan.to_dict()
    if stored["steps"] != now["steps"]:
        length = {name: now.get(name) for name in ("steps", "asked_steps") if name in stored or name in now}
        files.write_json(folder / run_folder.CONFIG, stored | length)


def record_resumption(runs: Sequence[tuple[Path, Plan]], iteration: int) -> None:
    """Notes with what each run goes on, if it is not what it was made with.

    config.json then has the user's modules as they are now, and one more entry in "resumed": {"iteration": where it
    goes on, "changed": {what: [before, now]}}. The screen says it in one line. A finished run does not go on.

    Args:
      runs: (folder, plan) of each.
      iteration: that has been restored.
    """
    report, said = provenance.environment_report(), {}
    for folder, the_plan in runs:
        if iteration >= the_plan.iterations:
            continue
        stored, imports = run_folder.load(folder)["config"], the_plan.to_dict()["imports"]
        before = provenance.entries(stored.get("resumed"))
        changed = provenance.differences(stored.get("environment"), report, before)
        modules = user_modules.changed(stored.get("imports", []), imports)
        said |= changed
        entry = {"iteration": iteration, "changed": changed | modules}
        new = {"resumed": [*before, entry]} if entry["changed"] else {}
        new |= {"imports": imports} if stored.get("imports", []) != imports else {}
        if new:
            files.write_json(folder / run_folder.CONFIG, stored | new)
    if said:
        listed = ", ".join(f"{name} {now} (was {was})" for name, (was, now) in said.items())
        progress.note(f"resumed at iteration {iteration} with {listed}; results may differ from a run without a break")


def difference(before: Plan, now: Plan) -> tuple[str, str] | None:
    """(what, how) of the first difference between two plans that affects the results; None if there is none."""
    one, other = before.to_dict(), now.to_dict()
    for name in ("agent", "env", "seeds", "steps", "config", "env_options"):
        if one[name] != other[name]:
            return name, _difference(one[name], other[name])
    return None


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, dict):
        changed = [name for name in before | now if before.get(name) != now.get(name)]
        return "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed)
    return f"was {before}, is {now}"


def _protocol(the_plan: Plan) -> dict[str, Any]:
    """The settings that a reader must know before comparing results."""
    return {
        "time_limit_is_terminal": getattr(the_plan.config, "time_limit_is_terminal", None),
        "returns": "raw, undiscounted, unclipped, of the acting (sampling) policy in training",
        "steps": "environment steps of one seed",
    }
