"""Finds agents, environment families, presets and figures by name, and imports each one at its first use.

Installed packages, including purerl itself, register names with entry points (see pyproject.toml):

    purerl.agents         name = "module:AGENT", a `types.Agent`
    purerl.environments   name = "module", an environment family
    purerl.presets        agent = "module:PRESETS", {preset: Preset}
    purerl.figures        group = "module:FIGURES", figures for `purerl figure`

Your own file registers names with `register_agent`, `register_family`, `register_preset` and `register_figure`;
`--import my_file.py` makes the command line import that file (see `runs.user_modules`).

An environment family is a module (or any object) with
  Options: a frozen dataclass, the `--env.*` flags;
  names() -> list of ids;
  make(id, options) -> types.Environment, for in-graph environments;  or
  make_pool(id, options, seeds, num_envs, num_groups) -> types.Pool, for host environments, and
  spec(id, options) -> types.EnvSpec;  and optionally
  canonical(id) -> the listed id for another spelling;
  part(id) -> the family that serves an id, where some run in the graph and some on the host;
  tasks(id, options) -> arrays [K, ...] of a split, episode_length(id, options), and of_task(id, task, options) ->
    Environment, or on the host make_task_pool(id, options, seeds, num_envs) -> a Pool whose k-th seed plays the k-th
    task: for families of tasks, in which an agent can be adapted;
  check_training(id, options) -> None, raising PurerlError for options that cannot be trained with;
  score(id, options, returns) -> (name of the score, scores) or None, for raw returns [...] of an environment with a
    published normalised score;
  picture(options, observation) -> what a video shows of an observation, if not all of it;
  renderer(id, options) -> None, or render(state) -> uint8 [H, W, 3], which a video shows in place of observations: for
    in-graph environments, whose state (of one environment, its arrays those of numpy) it gets;
  DRAWS, True if make_pool takes `draws`; a pool whose `draws` is then True has pictures(group) -> uint8 [S, N / G, H,
    W, 3], which a video shows in place of observations;
  example() -> the id that `purerl doctor` tries; FIX, the command that fixes a broken installation; CORE, True
    where purerl is of no use without the family.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from purerl import arguments, configs
from purerl.errors import PurerlError, nearest, shown

if TYPE_CHECKING:  # so that `purerl list agents` does not wait for jax
    from purerl.types import Agent, EnvSpec

EntryPoint = importlib.metadata.EntryPoint


@dataclasses.dataclass(frozen=True)
class Preset:
    """Named settings of an agent. `--preset` chooses them; the user's flags and config fields replace them.

    Attributes:
      steps: environment steps of each seed.
      source: where the numbers come from, one line.
      config: config fields that differ from the agent's defaults.
      env: environment options that differ from the family's defaults; options that a family does not have are ignored.
      default_for: patterns of "family/id", such as "procgen/*", for which this preset is the default; the first
        matching preset of the agent is used.
    """

    steps: int
    source: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    env: dict[str, Any] = dataclasses.field(default_factory=dict)
    default_for: tuple[str, ...] = ()

    def __post_init__(self):
        kinds = {"steps": int, "source": str, "config": Mapping, "env": Mapping, "default_for": Sequence[str]}
        for name, kind in kinds.items():
            arguments.fitting(f"Preset: {name}", kind, getattr(self, name))


IMPORT_HINT = "defined in your own file? add --import my_file.py"

# Names that users' files and scripts registered, in addition to the entry points.
_agents: dict[str, Agent] = {}
_families: dict[str, Any] = {}
_presets: dict[str, dict[str, Preset]] = {}
_figures: dict[str, Any] = {}
# {(kind, name): the module that registered it}; kinds are "agent", "environment", "preset" (of "agent/name"), "figure".
_origins: dict[tuple[str, str], str] = {}


@functools.cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    """{name: entry point} of the group "purerl.<kind>". Raises PurerlError if two packages register one name."""
    found: dict[str, EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=f"purerl.{kind}"):
        known = found.setdefault(point.name, point)
        if known.value != point.value:
            raise PurerlError(
                f"two installed packages register '{point.name}' in the entry points purerl.{kind} ({known.value} and "
                f"{point.value}): uninstall one of them"
            )
    return found


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except AttributeError as error:
        raise PurerlError(
            f"the entry point {point.name} = {point.value} cannot be loaded ({error}): reinstall its package"
        ) from error


# --- registering -----------------------------------------------------------------------------------------------------


def register_agent(name: str, agent: Agent) -> None:
    """Registers your own agent for `purerl.train` and all tools.

    Raises PurerlError if the name is taken or is not the agent's own, or if a field of its Config is of a kind that
    cannot be read back from a run's folder.
    """
    _check_entry("agent", name, agent, ("name", "Config", "check", "init", "act", "update"), "a purerl.Agent")
    if agent.name != name:
        raise PurerlError(f"register_agent('{name}', ...) got the Agent '{agent.name}': give both the same name")
    configs.check_class(agent.Config, f"agent '{name}': Config", needs=("num_envs", "rollout_length"))
    _claim("agent", name, {*_entry_points("agents"), *_agents})
    _agents[name] = agent


def register_family(name: str, family: Any) -> None:
    """Registers your own environment family as `name/<id>`. Raises PurerlError if the name is taken."""
    _check_entry("environment", name, family, ("Options", "names"), "an environment family, with Options and names()")
    _claim("environment", name, {*_entry_points("environments"), *_families})
    _families[name] = family


def register_preset(agent: str, name: str, preset: Preset) -> None:
    """Registers named settings of an agent. Raises PurerlError if the agent already has a preset of that name."""
    arguments.fitting("register_preset: agent", str, agent)
    _check_entry("preset", name, preset, ("steps", "config", "env"), "a purerl.Preset")
    _claim("preset", f"{agent}/{name}", {f"{agent}/{known}" for known in presets_of(agent)})
    _presets.setdefault(agent, {})[name] = preset


def register_figure(name: str, figure: Any) -> None:
    """Registers a figure for `purerl figure`. Raises PurerlError if the name is taken."""
    _check_entry("figure", name, figure, ("name", "cells", "draw", "verify"), "a Figure")
    _claim("figure", name, figures())
    _figures[name] = figure


def _check_entry(kind: str, name: Any, entry: Any, has: Sequence[str], wanted: str) -> None:
    """Raises PurerlError if what is registered under a name lacks the attributes of its kind."""
    arguments.fitting(f"the name of the {kind}", str, name)
    missing = [one for one in has if not hasattr(entry, one)]
    if missing:
        raise PurerlError(f"the {kind} {shown(name)} = {shown(entry)} must be {wanted}: it has no {missing[0]}")


def _claim(kind: str, name: str, taken: Container[str]) -> None:
    """Records which module registers a name. The same module may register it again, for example a rerun notebook.

    Raises PurerlError if another module has registered the name.
    """
    module = sys._getframe(2).f_globals.get("__name__", "__main__")
    if name in taken and _origins.get((kind, name)) != module:
        by = _origins.get((kind, name), "an installed package")
        raise PurerlError(f"the {kind} name '{name}' is taken by {by}; choose another one")
    _origins[kind, name] = module


def origin(kind: str, name: str) -> str | None:
    """The module that registered a name; None for entry points and unknown names."""
    return _origins.get((kind, name))


def is_known(kind: str, name: str) -> bool:
    """Whether a name of that kind (as in `origin`) is registered or an entry point."""
    if kind == "preset":
        agent, _, preset = name.partition("/")
        return preset in presets_of(agent)
    if kind == "figure":
        return name in _figures
    known = {"agent": _agents, "environment": _families}.get(kind)
    return known is not None and (name in known or name in _entry_points(f"{kind}s"))


def modules() -> set[str]:
    """The modules that registered names of their own."""
    return set(_origins.values())


def registered_by(module: str) -> list[tuple[str, str]]:
    """The (kind, name) pairs that a module registered."""
    return [key for key, owner in _origins.items() if owner == module]


def forget(module: str) -> None:
    """Removes the names of a module whose import failed."""
    for kind, name in registered_by(module):
        owner, _, preset = name.partition("/")
        homes = {"agent": _agents, "environment": _families, "figure": _figures, "preset": _presets.get(owner, {})}
        homes[kind].pop(preset if kind == "preset" else name, None)
        del _origins[kind, name]


# --- agents ----------------------------------------------------------------------------------------------------------


def agent_names() -> list[str]:
    """All known agents, sorted."""
    return sorted({*_entry_points("agents"), *_agents})


def agent_module(name: str) -> str:
    """The module that registers an agent."""
    if name in _agents:
        return origin("agent", name) or _agents[name].update.__module__
    return _entry_points("agents")[name].module


def is_own(name: str) -> bool:
    """Whether an agent is part of purerl, not of the user or another package."""
    return name not in _agents and _entry_points("agents")[name].value.startswith("purerl.")


def agent(name: str) -> Agent:
    """The agent of that name. Raises PurerlError, with the nearest name, if there is none."""
    if name in _agents:
        return _agents[name]
    known = _entry_points("agents")
    if name not in known:
        names = agent_names()
        raise PurerlError(
            f"unknown agent '{name}'.{nearest(name, names)} Known: {', '.join(names)} (purerl list agents; "
            f"{IMPORT_HINT})"
        )
    return _load(known[name])


# --- environments ----------------------------------------------------------------------------------------------------


def family_names() -> list[str]:
    """All known environment families, sorted."""
    return sorted({*_entry_points("environments"), *_families})


def family(name: str) -> Any:
    """The environment family of that name, imported. Raises PurerlError if there is none or packages are missing."""
    if name in _families:
        return _families[name]
    known = _entry_points("environments")
    if name not in known:
        names = family_names()
        close = nearest(name, names, cutoff=0.65)  # the names are short: at 0.5, "jaxatari" would be "atari"
        raise PurerlError(
            f"unknown environment family '{name}'.{close} Known: {', '.join(names)} (purerl list envs; {IMPORT_HINT})"
        )
    return _load(known[name])


def environment(name: str) -> tuple[Any, str]:
    """(family, id) of "family/id". Raises PurerlError, with the nearest name, for unknown names."""
    family_name, slash, env_id = name.partition("/")
    if not slash or not env_id:
        families = sorted(family_names(), key=lambda one: is_host(family(one)))  # those in the graph are faster
        everything = [f"{f}/{i}" for f in families for i in family(f).names()]
        same = [repr(one) for one in everything if one.partition("/")[2] == name]
        hint = f" Did you mean {' or '.join(same)}?" if same else nearest(name, everything)
        raise PurerlError(f"unknown environment '{name}': write family/id.{hint} (purerl list envs)")
    found = family(family_name)
    env_id = getattr(found, "canonical", lambda id: id)(env_id)
    if env_id not in found.names():
        raise PurerlError(
            f"unknown environment '{name}'.{nearest(name, [f'{family_name}/{i}' for i in found.names()])} "
            f"(purerl list envs {family_name})"
        )
    return getattr(found, "part", lambda id: found)(env_id), env_id


def is_own_family(name: str) -> bool:
    """Whether a family's code is part of purerl, and so of a known version."""
    point = _entry_points("environments").get(name)
    return point is not None and point.value.startswith("purerl.")


def is_host(found: Any) -> bool:
    """Whether a family's environments run on the host (stepped through a pool) and not in the graph."""
    return hasattr(found, "make_pool")


def env_spec(name: str, options: Any = None) -> EnvSpec:
    """The EnvSpec of "family/id" under the family's options (its defaults if None)."""
    found, env_id = environment(name)
    options = found.Options() if options is None else options
    return found.spec(env_id, options) if is_host(found) else found.make(env_id, options).spec


def score(name: str, options: Any, returns: Any) -> tuple[str, Any] | None:
    """(name of the score, scores) of raw returns [...] of "family/id"; None if no score is published."""
    found, env_id = environment(name)
    return found.score(env_id, options, returns) if hasattr(found, "score") else None


# --- presets and figures ---------------------------------------------------------------------------------------------


def preset_agents() -> list[str]:
    """The agents that have presets, sorted."""
    return sorted({*_entry_points("presets"), *_presets})


def presets_of(agent: str) -> dict[str, Preset]:
    """{name: preset} of an agent."""
    point = _entry_points("presets").get(agent)
    return {**({} if point is None else _load(point)), **_presets.get(agent, {})}


def preset(agent: str, name: str | None, env: str) -> tuple[str, Preset]:
    """(name, preset) of an agent. If `name` is None: the default for "family/id", or that of the name "none".

    "none" are the agent's own defaults, unless a preset has that name: plans of agents without presets have it.

    Raises PurerlError, with the nearest name, for an unknown name.
    """
    known = presets_of(agent)
    if name is None:
        for known_name, one in known.items():
            if any(fnmatch.fnmatchcase(env, pattern) for pattern in one.default_for):
                return known_name, one
        name = "none"
    if name == "none" and name not in known:
        return name, Preset(steps=1_000_000, source="defaults")
    if name not in known:
        raise PurerlError(
            f"{agent} has no preset '{name}'.{nearest(name, known)} Known: {', '.join(known)} (purerl list presets; "
            f"{IMPORT_HINT})"
        )
    return name, known[name]


def figures() -> dict[str, Any]:
    """{name: figure} of all known figures."""
    found: dict[str, Any] = {}
    for point in _entry_points("figures").values():
        found |= {one.name: one for one in _load(point)}
    return {**found, **_figures}
