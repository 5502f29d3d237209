"""Command-line flags from dataclasses.

This module parses the words itself, so that a typing error gives one line with the nearest name; tyro writes the help.
Hyphens and underscores are equal in a flag's name, and `configs.ALIASES` are known.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Annotated, Any

from purerl import configs
from purerl.configs import flag
from purerl.errors import PurerlError, nearest, shown


@dataclasses.dataclass(frozen=True)
class Group:
    """Flags that the help shows together.

    Attributes:
      cls: a dataclass, one flag for each field (except those with {"flag": False} in the metadata). Help texts are in
        the metadata (from `configs.flag` and `types.static`), or in the docstring, where tyro finds them.
      defaults: an instance, whose values the help shows.
      title: title of the help's section; "" for the section "options".
      prefix: prefix of the flags' names: "", or "env." for `--env.num-levels`.
      about: one line above the section.
    """

    cls: type
    defaults: Any
    title: str = ""
    prefix: str = ""
    about: str = ""

    @property
    def fields(self) -> list[dataclasses.Field]:
        """The fields that are flags."""
        return [field for field in dataclasses.fields(self.cls) if field.metadata.get("flag", True)]


@dataclasses.dataclass
class _Everywhere:
    """Flags of all commands, which `main` reads first; this class is only for the help."""

    import_: tuple[str, ...] = flag(
        (), "a Python file (or a module) that registers agents, environments or presets", "FILE", "(may be repeated)"
    )


class _Flag(typing.NamedTuple):
    """The target of a flag: index of its group, its field, the field's type, and the value that a switch sets."""

    group: int
    field: str
    kind: Any
    on: bool = True


def parse(groups: Sequence[Group], words: Sequence[str], command: str, about: str) -> list[dict[str, Any]]:
    """Parses the flags of a command line; returns the user's values, {field: value} for each group.

    Args:
      groups: all known flags.
      words: the words of the command line, without positional ones.
      command: as in the help's first line, e.g. "purerl train ppo gymnax/CartPole-v1".
      about: what the command does, for the help.

    Raises:
      PurerlError: an unknown flag, a missing or extra value, a value of a wrong type.
      SystemExit: with code 0, after --help has been printed.
    """
    if wants_help(words):
        _print_help([*groups, Group(_Everywhere, _Everywhere(), "your own code")], command, about)
    known = _known(groups)
    found: list[dict[str, Any]] = [{} for _ in groups]
    i, rest = 0, f"({command} --help lists all flags)"
    while i < len(words):
        name = _name(words[i])
        if name is None:
            raise PurerlError(f"unexpected {shown(words[i])} {rest}")
        one = _find(name, known)
        written, equals, value = words[i].partition("=")
        if one is None:
            raise PurerlError(f"unknown flag {shown(written)}.{_nearest(name, known)} {rest}")
        end = i + 1
        while end < len(words) and _name(words[end]) is None:
            end += 1
        values, arity = [*([value] if equals else []), *words[i + 1 : end]], _arity(one.kind)
        if arity == 0 and values:
            raise PurerlError(f"{written} takes no value: {_switch(one, known)} {rest}")
        if arity == 1 and (not values or (one.kind in (str, str | None) and not values[0])):
            raise PurerlError(f"{written} needs a value {rest}")
        if arity == 1 and len(values) > 1:
            after = shown(" ".join(words[i : end - 1])).strip("'")
            raise PurerlError(f"unexpected {shown(words[end - 1])} after {after} {rest}")
        try:
            found[one.group][one.field] = configs.from_words(one.kind, values) if arity != 0 else one.on
        except ValueError as error:
            raise PurerlError(f"{written}: {error} {rest}") from None
        i = end
    return found


def wants_help(words: Sequence[str]) -> bool:
    """Whether -h or --help is among the words."""
    return "-h" in words or "--help" in words


def positionals(
    words: Sequence[str], names: Sequence[str], groups: Sequence[Group], command: str
) -> tuple[list[str], list[str]]:
    """Takes the positional words from the front: (positional words, other words).

    Flags of `groups` may stand before and between them. A last name that ends in "..." takes all positional words.

    There may be fewer words than names: see `require`. Raises PurerlError for an unknown flag before them.
    """
    known = _known(groups)
    endless = names[-1].endswith("...")
    found, rest, i = [], [], 0
    while i < len(words) and (endless or len(found) < len(names)):
        name = _name(words[i])
        if name is None:
            found.append(words[i])
            i += 1
            continue
        if name not in known and name not in ("h", "help"):
            first = "" if endless else f" before {' and '.join(names)}, which come first: {command} {' '.join(names)}"
            raise PurerlError(f"unknown flag {shown(words[i])}{first}.{_nearest(name, known)} ({command} --help)")
        kind = known[name].kind if name in known else bool
        arity = 1 if _arity(kind) is None else _arity(kind)  # for any number, only the first: others may be positional
        i, start = i + 1 + (0 if "=" in words[i] else arity), i
        rest += words[start:i]
    return found, rest + list(words[i:])


def require(found: Sequence[str], names: Sequence[str], words: Sequence[str], command: str) -> None:
    """Raises PurerlError if positional words are missing, unless --help is asked for."""
    missing = names[len(found) :]
    if missing and not wants_help(words):
        raise PurerlError(f"missing {' and '.join(missing)}: {command} {' '.join(names)} ({command} --help)")


def folders(words: list[str], name: str, places: str, general: Group, about: str) -> tuple[list[str], dict[str, Any]]:
    """(folders, flags given) of `purerl NAME PLACES ...`, where `places` is DIR or DIR..."""
    command = f"purerl {name}"
    found, rest = positionals(words, (places,), [general], command)
    require(found, (places,), words, command)
    (given,) = parse([general], rest, f"{command} {places}", about)
    return found, given


def environment_group(options: Any) -> Group:
    """The `--env.*` flags of a family, with `options` as their defaults."""
    return Group(type(options), options, "env", "env.", "Options of the environment.")


def take(words: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Takes a flag `--name VALUE`, which may stand anywhere and be repeated: (the other words, its values).

    Raises PurerlError if its value is missing.
    """
    rest, values, i = [], [], 0
    while i < len(words):
        if _name(words[i]) != name:
            rest.append(words[i])
            i += 1
            continue
        _, equals, value = words[i].partition("=")
        following = words[i + 1] if i + 1 < len(words) and _name(words[i + 1]) is None else ""
        if not (value or following):
            raise PurerlError(f"--{name} needs a Python file or a module's name: --{name} my_file.py")
        values.append(value if equals else following)
        i += 1 if equals else 2
    return rest, values


def is_given(words: Sequence[str], name: str) -> bool:
    """Whether the flag `--name` is among the words."""
    return any(_name(word) == name for word in words)


def value_of(words: Sequence[str], name: str) -> str | None:
    """The last value of the flag `--name` among the words; None if it is missing."""
    found = None
    for i, word in enumerate(words):
        if _name(word) == name:
            _, equals, value = word.partition("=")
            found = value if equals else (words[i + 1] if i + 1 < len(words) else None)
    return found


# --- names and numbers of values -------------------------------------------------------------------------------------


def _known(groups: Sequence[Group]) -> dict[str, _Flag]:
    """{name, without "--" and with hyphens: the flag}."""
    known: dict[str, _Flag] = {}
    for index, group in enumerate(groups):
        types = typing.get_type_hints(group.cls)
        for field in group.fields:
            name, kind = field.name.replace("_", "-"), types[field.name]
            for spelling in (name, f"no-{name}") if kind is bool and _has_both_forms(group) else (name,):
                if group.prefix + spelling in known:
                    owner = group.title or group.cls.__name__
                    raise PurerlError(f"field '{field.name}' of {owner} has the name of another flag; rename it")
                known[group.prefix + spelling] = _Flag(index, field.name, kind, on=spelling == name)
    return known


def _find(name: str, known: dict[str, _Flag]) -> _Flag | None:
    """The flag with that name or alias; None if there is none."""
    fields = {spelling.replace("-", "_"): one for spelling, one in known.items()}
    return known.get(name) or fields.get(configs.field_name(name.replace("-", "_"), fields))


def _has_both_forms(group: Group) -> bool:
    """Whether switches have the forms --x and --no-x. A command's own switches are off by default: --x is enough."""
    return bool(group.title or group.prefix)


def _name(word: str) -> str | None:
    """The name in "--name", "--name=value" or "-n", with hyphens; None if the word is not a flag (such as "-1")."""
    if not re.match(r"--?[A-Za-z]", word) or re.fullmatch(r"-(inf|nan)", word):
        return None
    return word.partition("=")[0].lstrip("-").replace("_", "-")


def _arity(kind: Any) -> int | None:
    """How many values a flag of that type takes; None for any number."""
    return 0 if kind is bool else None if typing.get_origin(kind) is tuple else 1


def _nearest(name: str, known: dict[str, _Flag]) -> str:
    if name.replace("-", "_") in configs.ALIASES:
        return ""  # an alias of a field that this agent lacks: similar names would mislead
    if f"env.{name}" in known:
        return f" Did you mean '--env.{name}'?"
    return nearest(f"--{name}", [f"--{other}" for other in known])


def _switch(flag: _Flag, known: dict[str, _Flag]) -> str:
    """The forms of a switch, "on" first."""
    forms = [f"--{name}" for name, one in known.items() if one[:2] == flag[:2]]
    return f"write {' or '.join(forms)}"


# --- help ------------------------------------------------------------------------------------------------------------


def _print_help(groups: Sequence[Group], command: str, about: str) -> typing.NoReturn:
    """Prints tyro's help of the groups, and exits."""
    import tyro

    sections = {f"group{i}": _section(group) for i, group in enumerate(groups) if group.fields}
    root = dataclasses.make_dataclass("Flags", [(name, kind) for name, (kind, _) in sections.items()])
    defaults = root(**{name: value for name, (_, value) in sections.items()})
    tyro.cli(root, prog=command, description=about, args=["--help"], default=defaults)
    raise SystemExit(0)


def _section(group: Group) -> tuple[Any, Any]:
    """(type, default) of a group's part of tyro's root dataclass."""
    import tyro

    name = group.prefix.rstrip(".") or group.title
    about = tyro.conf.arg(name=name, help=group.about or None)
    if group.prefix and not any("help" in field.metadata for field in group.fields):
        return Annotated[group.cls, about], group.defaults
    types = typing.get_type_hints(group.cls)
    described = dataclasses.make_dataclass(
        group.cls.__name__,
        [
            (field.name, Annotated[types[field.name], _told(field, prefixed=bool(group.prefix))])
            for field in group.fields
        ],
    )
    if not _has_both_forms(group):
        described = tyro.conf.configure(tyro.conf.FlagCreatePairsOff)(described)
    values = {field.name: getattr(group.defaults, field.name) for field in group.fields}
    return Annotated[described, about], described(**values)


def _told(field: dataclasses.Field, prefixed: bool) -> Any:
    """The tyro settings of a field: the texts in its metadata, and whether its flag has the section's prefix."""
    import tyro

    return tyro.conf.arg(
        name=field.name.rstrip("_"),
        help=field.metadata.get("help", "") + configs.bounds_text(field) or None,
        metavar=field.metadata.get("metavar"),
        help_behavior_hint=field.metadata.get("shown"),
        prefix_name=prefixed,
    )
