"""Command-line flags from dataclasses.

The names and the number of values are checked here, so that a slip gets one line with the nearest name; tyro then turns
the words into values and writes the help. Hyphens and underscores are the same in a flag's name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Sequence
from typing import Annotated, Any

from purerl.errors import PurerlError, nearest


def flag(default: Any, help: str, metavar: str | None = None, shown: str | None = None) -> Any:
    """A dataclass field with its help text, the name of its value, and the default that the help shows."""
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar, "shown": shown})


@dataclasses.dataclass(frozen=True)
class Group:
    """Flags that the help shows together.

    Attributes:
      cls: a dataclass, one flag for each field. Help texts are in its metadata (as `flag` and `types.static` put them
        there), or else in its docstring, where tyro finds them.
      defaults: an instance, whose values the help shows.
      title: of the help's section; "" for the section "options".
      prefix: of the flags' names: "", or "env." for `--env.num-levels`.
      about: one line over the section.
    """

    cls: type
    defaults: Any
    title: str = ""
    prefix: str = ""
    about: str = ""


@dataclasses.dataclass
class _Everywhere:
    """What the command line takes out of the words before any command sees them, for the help alone."""

    import_: tuple[str, ...] = flag(
        (), "a Python file (or a module) that registers agents, environments or presets", "FILE", "(may be repeated)"
    )


class _Flag(typing.NamedTuple):
    """Where a flag belongs: index of its group, its field, and the field's type."""

    group: int
    field: str
    kind: Any


def parse(groups: Sequence[Group], words: Sequence[str], command: str, about: str) -> list[dict[str, Any]]:
    """The values that the user gave, {field: value} for each group.

    Args:
      groups: the flags that there are.
      words: of the command line, without positional ones.
      command: as in the help's first line, e.g. "purerl train ppo gymnax/CartPole-v1".
      about: what the command does, for the help.

    Raises:
      PurerlError: an unknown flag, a missing or superfluous value, a value of another type.
      SystemExit: with code 0, after --help has been printed.
    """
    import tyro

    known = _known(groups)
    given = [] if wants_help(words) else _check(known, words, command)
    if wants_help(words):
        groups = [*groups, Group(_Everywhere, _Everywhere(), "your own code")]
    # Words are turned into values in one go, so a flag given twice counts once, with its last value.
    sections = {f"group{i}": _section(group) for i, group in enumerate(groups) if dataclasses.fields(group.cls)}
    root = dataclasses.make_dataclass("Flags", [(name, kind) for name, (kind, _) in sections.items()])
    defaults = root(**{name: value for name, (_, value) in sections.items()})
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            values = tyro.cli(root, prog=command, description=about, args=list(words), default=defaults)
    except SystemExit as done:
        if not done.code:
            raise
        raise PurerlError(f"{_one_line(errors.getvalue())} ({command} --help)") from None
    found: list[dict[str, Any]] = [{} for _ in groups]
    for one in given:
        found[one.group][one.field] = getattr(getattr(values, f"group{one.group}"), one.field)
    return found


def wants_help(words: Sequence[str]) -> bool:
    """Whether -h or --help is among the words."""
    return "-h" in words or "--help" in words


def positionals(words: Sequence[str], names: Sequence[str], group: Group, command: str) -> tuple[list[str], list[str]]:
    """Takes the words that are no flags from the front: (those found, the other words).

    Flags of `group` may stand before and between them. A last name that ends in "..." takes all that there are.

    Fewer may be there: see `require`. Raises PurerlError for a flag before them that is not of the group.
    """
    known = _known([group])
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
            raise PurerlError(f"unknown flag '{words[i]}'{first}.{_nearest(name, known)} ({command} --help)")
        kind = known[name].kind if name in known else bool
        arity = 1 if _arity(kind) is None else _arity(kind)  # of any number, the first: the others could be positional
        i, start = i + 1 + (0 if "=" in words[i] else arity), i
        rest += words[start:i]
    return found, rest + list(words[i:])


def require(found: Sequence[str], names: Sequence[str], words: Sequence[str], command: str) -> None:
    """Raises PurerlError if positional words are missing, unless --help is asked for."""
    missing = names[len(found) :]
    if missing and not wants_help(words):
        raise PurerlError(f"missing {' and '.join(missing)}: {command} {' '.join(names)} ({command} --help)")


def take(words: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """(the other words, the values) of a flag `--name VALUE` that may stand anywhere, any number of times.

    Raises PurerlError where its value is missing.
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
    """The last value of the flag `--name` among the words; None if it is not there."""
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
        for field in dataclasses.fields(group.cls):
            name, kind = field.name.replace("_", "-"), types[field.name]
            for spelling in (name, f"no-{name}") if kind is bool and _has_both_forms(group) else (name,):
                if group.prefix + spelling in known:
                    owner = group.title or group.cls.__name__
                    raise PurerlError(f"field '{field.name}' of {owner} has the name of another flag; rename it")
                known[group.prefix + spelling] = _Flag(index, field.name, kind)
    return known


def _has_both_forms(group: Group) -> bool:
    """Whether switches are written --x and --no-x. A command's own are all off by default: --x is enough."""
    return bool(group.title or group.prefix)


def _name(word: str) -> str | None:
    """The name in "--name", "--name=value" or "-n", with hyphens; None if the word is no flag (but, say, "-1")."""
    if not re.match(r"--?[A-Za-z]", word) or re.fullmatch(r"-(inf|nan)", word):
        return None
    return word.partition("=")[0].lstrip("-").replace("_", "-")


def _arity(kind: Any) -> int | None:
    """How many values a flag of that type takes; None for any number."""
    return 0 if kind is bool else None if typing.get_origin(kind) is tuple else 1


def _nearest(name: str, known: dict[str, _Flag]) -> str:
    if f"env.{name}" in known:
        return f" Did you mean '--env.{name}'?"
    return nearest(f"--{name}", [f"--{other}" for other in known])


def _check(known: dict[str, _Flag], words: Sequence[str], command: str) -> list[_Flag]:
    """The flags that are given. Raises PurerlError for unknown ones, and for values missing or too many."""
    given, i, rest = [], 0, f"({command} --help lists all flags)"
    while i < len(words):
        name = _name(words[i])
        if name is None:
            raise PurerlError(f"unexpected '{words[i]}' {rest}")
        if name not in known:
            raise PurerlError(f"unknown flag '{words[i].partition('=')[0]}'.{_nearest(name, known)} {rest}")
        written, equals, _ = words[i].partition("=")
        end = i + 1
        while end < len(words) and _name(words[end]) is None:
            end += 1
        values, arity = end - i - 1 + bool(equals), _arity(known[name].kind)
        if arity == 0 and values:
            raise PurerlError(f"{written} takes no value: {_switch(name, known)} {rest}")
        if arity == 1 and values == 0:
            raise PurerlError(f"{written} needs a value {rest}")
        if arity == 1 and values > 1:
            raise PurerlError(f"unexpected '{words[end - 1]}' after {' '.join(words[i : end - 1])} {rest}")
        for value in [words[i].partition("=")[2]] if equals else words[i + 1 : end]:
            refusal = _refusal(known[name].kind, value)
            if refusal:
                raise PurerlError(f"{written}: '{value}' {refusal} {rest}")
        given.append(known[name])
        i = end
    return given


def _refusal(kind: Any, value: str) -> str | None:
    """Why a word is no value of that type; None if it is one, or if only tyro can tell."""
    origin, inner = typing.get_origin(kind), [one for one in typing.get_args(kind) if one not in (type(None), ...)]
    if origin is typing.Literal:
        names = [str(choice) for choice in inner]
        return None if value in names else f"is no choice.{nearest(value, names)} Choices: {', '.join(names)}"
    if origin is not None:  # a tuple's entries, "or None"
        return _refusal(inner[0], value) if len(inner) == 1 else None
    if kind not in (int, float):
        return None
    try:
        kind(value)
    except ValueError:
        return f"is not a {'whole ' if kind is int else ''}number"
    return None


def _switch(name: str, known: dict[str, _Flag]) -> str:
    """How to write a switch: both its forms, on first."""
    forms = [f"--{other}" for other, one in known.items() if one == known[name]]
    return f"write {' or '.join(forms)}"


# --- what tyro is given, and what it says ----------------------------------------------------------------------------


def _section(group: Group) -> tuple[Any, Any]:
    """(type, default) of a group's part of tyro's root dataclass."""
    import tyro

    name = group.prefix.rstrip(".") or group.title
    about = tyro.conf.arg(name=name, help=group.about or None)
    if group.prefix and not any("help" in field.metadata for field in dataclasses.fields(group.cls)):
        return Annotated[group.cls, about], group.defaults
    types = typing.get_type_hints(group.cls)
    described = dataclasses.make_dataclass(
        group.cls.__name__,
        [
            (field.name, Annotated[types[field.name], _told(field, prefixed=bool(group.prefix))])
            for field in dataclasses.fields(group.cls)
        ],
    )
    if not _has_both_forms(group):
        described = tyro.conf.configure(tyro.conf.FlagCreatePairsOff)(described)
    values = {field.name: getattr(group.defaults, field.name) for field in dataclasses.fields(group.cls)}
    return Annotated[described, about], described(**values)


def _told(field: dataclasses.Field, prefixed: bool) -> Any:
    """What tyro should know of a field: the texts in its metadata, and whether its flag has the section's prefix."""
    import tyro

    return tyro.conf.arg(
        name=field.name.rstrip("_"),
        help=field.metadata.get("help") or None,
        metavar=field.metadata.get("metavar"),
        help_behavior_hint=field.metadata.get("shown"),
        prefix_name=prefixed,
    )


def _one_line(box: str) -> str:
    """The message inside the box that tyro draws around an error, whether with Unicode or without."""
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    box = re.sub(r"^╭─ (.*?) ─*╮$", r"\1\n---", box, flags=re.MULTILINE)
    title, *sections = re.split(r"^[ │]*[-─]{3,}[ │]*$", box, flags=re.MULTILINE)
    message = " ".join((sections[0] if sections else title).replace("│", " ").split())
    return message or "the command line could not be read"
