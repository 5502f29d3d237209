"""Builds and checks configs from names and plain values, for the command line, presets, Python calls and run folders.

jax is imported only where a config becomes arrays, so that the command line can read flags without it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Container, Mapping, Sequence
from typing import Any

from purerl.errors import PurerlError, nearest

# Aliases of fields: letters from papers, former names. They are followed until the dataclass has the name.
ALIASES = {
    "gamma": "discount",
    "lr": "learning_rate",
    "lambda": "gae_lambda",
    "trace_decay": "gae_lambda",
}
_KINDS = {int: "an integer", float: "a number"}


def flag(default: Any, help: str, metavar: str | None = None, shown: str | None = None) -> Any:
    """A dataclass field with its help text, the name of its value, and the default that the help shows."""
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar, "shown": shown})


def field_types(cls: type) -> dict[str, Any]:
    """{field: its type} of a config or options dataclass."""
    return typing.get_type_hints(cls)


# --- names -----------------------------------------------------------------------------------------------------------


def field_name(name: str, known: Container[str]) -> str:
    """The name in `known` for a name or an alias; the name itself if there is none."""
    found, seen = name, set()
    while found not in known and found in ALIASES and found not in seen:
        seen.add(found)
        found = ALIASES[found]
    return found if found in known else name


def renamed(cls: type, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The values under the fields' own names. Raises PurerlError if a field is named twice, in two spellings."""
    known, spelled = field_types(cls), {}
    for name in values:
        field = field_name(name, known)
        if field in spelled:
            raise PurerlError(f"{what}: '{spelled[field]}' and '{name}' are the same field: give it once")
        spelled[field] = name
    return {field: values[name] for field, name in spelled.items()}


# --- values ----------------------------------------------------------------------------------------------------------


def from_text(kind: Any, text: str) -> Any:
    """Parses a text into a value of a field's type; the values of a tuple are joined by x, as in 64x64.

    Raises ValueError with a message such as "'x' is not a number".
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        choices = {str(choice): choice for choice in inner}
        if text not in choices:
            raise ValueError(f"'{text}' is not a choice.{nearest(text, choices)} Choices: {', '.join(choices)}")
        return choices[text]
    if origin is tuple:
        return from_words(kind, text.split("x"))
    if origin in (typing.Union, types.UnionType):
        if type(None) in inner and text == "None":
            return None
        return _first_that_fits([one for one in inner if one is not type(None)], text)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"'{text}' is not true or false")
        return text.lower() == "true"
    if kind not in (int, float, str):
        raise ValueError(f"'{text}' cannot be read: a field of type {kind} has no text form")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"'{text}' is not {_KINDS[kind]}") from None


def from_words(kind: Any, words: Sequence[str]) -> Any:
    """Parses the words after a flag: one word per value, several for a tuple."""
    if typing.get_origin(kind) is not tuple:
        return from_text(kind, words[0])
    inner = typing.get_args(kind)
    if inner[-1] is ...:
        return tuple(from_text(inner[0], word) for word in words)
    if len(words) != len(inner):
        raise ValueError(f"'{' '.join(words)}' must be {len(inner)} values")
    return tuple(from_text(one, word) for one, word in zip(inner, words, strict=True))


def _first_that_fits(kinds: Sequence[Any], text: str) -> Any:
    for kind in kinds[:-1]:
        try:
            return from_text(kind, text)
        except ValueError:
            continue
    return from_text(kinds[-1], text)


def build(cls: type, values: Mapping[str, Any], what: str) -> Any:
    """Creates a config or options dataclass, with `values` instead of its defaults.

    Args:
      cls: the dataclass.
      values: {field: value}; lists become tuples, and ALIASES are resolved.
      what: its name in errors, e.g. "ppo".

    Raises:
      PurerlError: an unknown field (with the nearest name), a value of a wrong type, an unknown choice.
    """
    known = field_types(cls)
    checked = {}
    for name, value in renamed(cls, values, what).items():
        if name not in known:
            raise PurerlError(f"{what} has no field '{name}'.{nearest(name, known)} Fields: {', '.join(sorted(known))}")
        checked[name] = _checked(what, name, known[name], value)
    return cls(**checked)


def _checked(what: str, name: str, kind: Any, value: Any) -> Any:
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in choices:
            close = nearest(str(value), map(str, choices))
            known = ", ".join(map(str, choices))
            raise PurerlError(f"{what}: {name} = {value!r} is not a choice.{close} Choices: {known}")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)) or not all(isinstance(v, choices[0]) for v in value):
            raise PurerlError(f"{what}: {name} = {value!r} must be a sequence of {choices[0].__name__}")
        return tuple(value)
    if kind is float and _is_number(value):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise PurerlError(f"{what}: {name} = {value} must not be negative")
        return value
    if kind in (bool, str) and isinstance(value, kind):
        return value
    wanted = (_KINDS | {bool: "True or False", str: "text"}).get(kind, kind)
    raise PurerlError(f"{what}: {name} = {value!r} must be {wanted}")


def _is_number(value: Any) -> bool:
    """Whether the value is a Python number, or an array with one value per seed of a sweep; NaN is not allowed."""
    if isinstance(value, bool):
        return False
    if isinstance(value, (int, float)):
        return not math.isnan(value)
    return hasattr(value, "ndim") and hasattr(value, "dtype")


# --- configs in programs and files -----------------------------------------------------------------------------------


def traced_fields(cls: type) -> list[str]:
    """The fields of a config that are arrays in the compiled program, so that they can hold one value per seed."""
    return [field.name for field in dataclasses.fields(cls) if field.metadata.get("pytree_node", True)]


def traced(config: Any) -> Any:
    """The config with its traced fields as float32 arrays, ready for the compiled program."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)


def to_dict(config: Any) -> dict[str, Any]:
    """{field: plain value} of a config or options dataclass, for JSON (inf becomes the string "inf")."""
    return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type, values: dict[str, Any], what: str) -> Any:
    """The inverse of `to_dict`, which also reads fields under their former names."""
    return build(cls, from_plain(cls, values), what)


def from_plain(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """{field: value} for `build`, from the values that `plain` made of them."""
    import numpy as np

    kinds = field_types(cls)

    def restored(name: str, value: Any) -> Any:
        if kinds.get(field_name(name, kinds)) is not float:
            return value
        if isinstance(value, list):  # one value per seed
            return np.asarray([restored(name, one) for one in value], np.float32)
        return float(value) if value in ("inf", "-inf") else value

    return {name: restored(name, value) for name, value in values.items()}


def plain(value: Any) -> Any:
    """Converts a field's value for JSON and `from_dict`: arrays to lists, inf to "inf"."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
