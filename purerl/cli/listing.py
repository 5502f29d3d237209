"""The command `purerl list`: agents, environments and presets, found without importing jax where that is possible."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from purerl import registry
from purerl.cli import flags
from purerl.errors import PurerlError, nearest


def main(words: list[str]) -> int:
    """Runs `purerl list`."""
    usage = "purerl list agents | purerl list envs [FAMILY] | purerl list presets [AGENT]"
    if flags.wants_help(words):
        print(
            f"usage: {usage}\n\n  --import FILE   a Python file or module of your own, whose names are listed as well"
        )
        return 0
    if not words or len(words) > 2:
        raise PurerlError(f"list what? {usage}")
    what, which = words[0], words[1] if len(words) > 1 else None
    lists = {"agents": _list_agents, "envs": _list_envs, "presets": _list_presets}
    if what not in lists:
        raise PurerlError(f"there is no list of '{what}'.{nearest(what, lists)} Usage: {usage}")
    if what == "agents" and which is not None:
        raise PurerlError(f"unexpected '{which}': purerl list agents")
    lists[what](which)
    return 0


def _list_agents(_: str | None) -> None:
    for name in registry.agent_names():
        print(f"{name:12}{_first_line(registry.agent_module(name))}".rstrip())


def _first_line(module: str) -> str:
    """The first line of a module's docstring, read without importing the module (and jax with it); "" for none."""
    spec = find_spec(module)
    if spec is None or not spec.origin:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.partition("\n")[0]


def _list_envs(family: str | None) -> None:
    for name in registry.family_names() if family is None else [family]:
        found = registry.family(name)
        about = getattr(found, "about", lambda env_id: "")
        for env_id in found.names():
            print(f"{name}/{env_id:20} {about(env_id)}".rstrip())


def _list_presets(agent: str | None) -> None:
    if agent is not None:
        registry.agent(agent)  # raises for an unknown name, but not for an agent without presets
    for name in registry.preset_agents() if agent is None else [agent]:
        for preset, chosen in registry.presets_of(name).items():
            print(f"{name:12}{preset:16}{chosen.steps:>12,} steps  {chosen.source}")
