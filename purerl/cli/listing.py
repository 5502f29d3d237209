"""The command `purerl list`: agents, environments, presets and runs, without importing jax where that is possible."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from purerl import registry
from purerl.cli import flags
from purerl.errors import PurerlError, nearest

USAGE = "purerl list agents | purerl list envs [FAMILY] | purerl list presets [AGENT] | purerl list runs [DIR]"
_GAP = 2  # spaces between columns


def main(words: list[str]) -> int:
    """Runs `purerl list`."""
    if words[:1] == ["runs"]:
        from purerl.cli import listing_runs

        return listing_runs.main(words[1:])
    if flags.wants_help(words):
        print(
            f"usage: {USAGE}\n\n  --import FILE   a Python file or module of your own, whose names are listed as well\n"
            "\npurerl list runs --help shows its own flags."
        )
        return 0
    if not words or len(words) > 2:
        raise PurerlError(f"list what? {USAGE}")
    what, which = words[0], words[1] if len(words) > 1 else None
    lists = {"agents": _agents, "envs": _envs, "presets": _presets}
    if what not in lists:
        raise PurerlError(f"there is no list of '{what}'.{nearest(what, [*lists, 'runs'])} Usage: {USAGE}")
    if what == "agents" and which is not None:
        raise PurerlError(f"unexpected '{which}': purerl list agents")
    print_columns(lists[what](which), right=(2,) if what == "presets" else ())
    return 0


def print_columns(rows: list[list[str]], right: tuple[int, ...] = ()) -> None:
    """Prints rows of text in columns that are as wide as their longest text; the last one is not filled up.

    Args:
      rows: of equal length.
      right: the columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print((" " * _GAP).join(cells).rstrip())


def _agents(_: str | None) -> list[list[str]]:
    return [[name, _first_line(registry.agent_module(name))] for name in registry.agent_names()]


def _first_line(module: str) -> str:
    """The first line of a module's docstring, read without importing the module (and jax with it); "" for none."""
    spec = find_spec(module)
    if spec is None or not spec.origin:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.partition("\n")[0]


def _envs(family: str | None) -> list[list[str]]:
    rows = []
    for name in registry.family_names() if family is None else [family]:
        found = registry.family(name)
        about = getattr(found, "about", lambda env_id: "")
        rows += [[f"{name}/{env_id}", about(env_id)] for env_id in found.names()]
    return rows


def _presets(agent: str | None) -> list[list[str]]:
    if agent is not None:
        registry.agent(agent)  # raises for an unknown name, but not for an agent without presets
    return [
        [name, preset, f"{chosen.steps:,} steps", chosen.source]
        for name in (registry.preset_agents() if agent is None else [agent])
        for preset, chosen in registry.presets_of(name).items()
    ]
