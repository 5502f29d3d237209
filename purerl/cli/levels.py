"""`purerl levels`: takes the levels of a host's games once, for the same games written in JAX."""

from __future__ import annotations

import dataclasses
from typing import Any

from purerl import registry
from purerl.cli import flags
from purerl.cli.flags import Group, flag
from purerl.errors import PurerlError

USAGE = "purerl levels build ENV [--num-levels N --start-level K ...]"


@dataclasses.dataclass
class _Build:
    overwrite: bool = flag(False, "build the bank again if it is there")
    quiet: bool = flag(False, "no progress bar")


def main(words: list[str]) -> int:
    """Runs `purerl levels`."""
    about = "Takes a game's levels, and the pictures of its frames, from the installed library into the cache."
    if not words or words[0] != "build":
        if words and flags.wants_help(words):
            flags.parse([Group(_Build, _Build())], words, "purerl levels build ENV", about)
        raise PurerlError(f"what with the levels? {USAGE}")
    general = Group(_Build, _Build())
    found, rest = flags.positionals(words[1:], ("ENV",), [general], "purerl levels build")
    flags.require(found, ("ENV",), words, "purerl levels build")
    if not found:
        about += " `purerl levels build ENV --help` shows the options of the environment as well."
        flags.parse([general], rest, "purerl levels build ENV", about)
    family, env_id = _family(found[0])
    options = Group(family.Options, family.Options(), "env", about="Options of the environment.")
    own, given = flags.parse([general, options], rest, f"purerl levels build {found[0]}", about)
    path, number = family.build_levels(env_id, family.Options(**given), **own)
    print(f"{path}: {number:,} levels, {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def _family(name: str) -> tuple[Any, str]:
    """(family with banks of levels, id) of "family/id"; the family of the host's games may be named as well."""
    asked, _, env_id = name.partition("/")
    with_banks = {}
    for known in registry.family_names():
        family = registry.family(known)
        if hasattr(family, "build_levels"):
            with_banks |= {known: known, family.LEVELS_OF: known}
    if asked not in with_banks:
        registry.environment(name)
        raise PurerlError(f"the levels of {asked} need no bank: those with banks are {', '.join(sorted(with_banks))}")
    return registry.environment(f"{with_banks[asked]}/{env_id}")
