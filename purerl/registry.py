"""Finds agents and environment families by name, importing each one only when it is asked for.

An agent is a `types.Agent`. An environment family is a module (or any object) with
  Options: a frozen dataclass, the `--env.*` flags;
  names() -> list of ids;
  make(id, options) -> types.Environment, for games in the graph;  or
  make_pool(id, options, seeds, num_envs, num_groups) -> types.Pool, for games on the host, and
  spec(id, options) -> types.EnvSpec;  and, if it likes,
  canonical(id) -> the listed id that another spelling means.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from purerl.errors import PurerlError, nearest

if TYPE_CHECKING:  # `purerl list agents` must not wait for jax
    from purerl.types import Agent, EnvSpec

_agents: dict[str, str | Agent] = {
    "ppo": "purerl.agents.ppo:AGENT",
    "ppg": "purerl.agents.ppg:AGENT",
    "dqn": "purerl.agents.dqn:AGENT",
    "dqn-pro": "purerl.agents.dqn:PRO",
    "rainbow": "purerl.agents.rainbow:AGENT",
    "rainbow-pro": "purerl.agents.rainbow:PRO",
}
_families: dict[str, Any] = {
    "atari": "purerl.envs.atari",
    "gymnax": "purerl.envs.gymnax",
    "procgen": "purerl.envs.procgen",
    "probe": "purerl.envs.probe",
}


def register_agent(name: str, agent: Agent) -> None:
    """Makes an agent of your own known by name, to `purerl.train` and all tools. Raises PurerlError if it is taken."""
    if name in _agents:
        raise PurerlError(f"the agent name '{name}' is taken; choose another one")
    _agents[name] = agent


def register_family(name: str, family: Any) -> None:
    """Makes an environment family of your own known as `name/<id>`. Raises PurerlError if the name is taken."""
    if name in _families:
        raise PurerlError(f"the environment family '{name}' is taken; choose another name")
    _families[name] = family


def agent_names() -> list[str]:
    """All registered agents, sorted."""
    return sorted(_agents)


def family_names() -> list[str]:
    """All registered environment families, sorted."""
    return sorted(_families)


def module_of(name: str) -> str | None:
    """The module of an agent that comes with purerl; None for one of the user's own."""
    found = _agents.get(name)
    return found.partition(":")[0] if isinstance(found, str) else None


def agent(name: str) -> Agent:
    """The agent of that name. Raises PurerlError, with the nearest name, if there is none."""
    if name not in _agents:
        raise PurerlError(
            f"unknown agent '{name}'.{nearest(name, _agents)} Known: {', '.join(agent_names())} (purerl list agents)"
        )
    found = _agents[name]
    if not isinstance(found, str):
        return found
    module, _, attribute = found.partition(":")
    return getattr(importlib.import_module(module), attribute)


def family(name: str) -> Any:
    """The environment family of that name, imported. Raises PurerlError if there is none or packages are missing."""
    if name not in _families:
        raise PurerlError(
            f"unknown environment family '{name}'.{nearest(name, _families)} Known: {', '.join(family_names())} "
            "(purerl list envs)"
        )
    found = _families[name]
    return importlib.import_module(found) if isinstance(found, str) else found


def environment(name: str) -> tuple[Any, str]:
    """(family, id) of "family/id". Raises PurerlError, with the nearest name, for anything unknown."""
    family_name, slash, env_id = name.partition("/")
    if not slash or not env_id:
        everything = [f"{f}/{i}" for f in family_names() for i in family(f).names()]
        raise PurerlError(
            f"unknown environment '{name}': write family/id.{nearest(name, everything)} (purerl list envs)"
        )
    found = family(family_name)
    env_id = getattr(found, "canonical", lambda id: id)(env_id)
    if env_id not in found.names():
        raise PurerlError(
            f"unknown environment '{name}'.{nearest(name, [f'{family_name}/{i}' for i in found.names()])} "
            f"(purerl list envs {family_name})"
        )
    return found, env_id


def is_host(found: Any) -> bool:
    """Whether a family's games live on the host (stepped through a pool) rather than in the graph."""
    return hasattr(found, "make_pool")


def env_spec(name: str, options: Any = None) -> EnvSpec:
    """The EnvSpec of "family/id" under the family's options (its defaults if None)."""
    found, env_id = environment(name)
    options = found.Options() if options is None else options
    return found.spec(env_id, options) if is_host(found) else found.make(env_id, options).spec


def presets() -> Any:
    """The module of named settings (`find`, `PRESETS`)."""
    return importlib.import_module("purerl.experiments.presets")
