"""Builds and checks configs from names and plain values, for the command line, presets, Python calls and run folders.

jax is imported only where a config becomes arrays, so that the command line can read flags without it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from purerl.errors import PurerlError, nearest, shown

# Aliases of fields: letters from papers, former names. They are followed until the dataclass has the name.
ALIASES = {
    "gamma": "discount",
    "lr": "learning_rate",
    "lambda": "gae_lambda",
    "trace_decay": "gae_lambda",
}
_KINDS = {int: "an integer", float: "a number"}
# The largest values that fit into the program's int32 and float32.
LARGEST_INTEGER, LARGEST_NUMBER = 2**31 - 1, 3.4e38


def flag(default: Any, help: str, metavar: str | None = None, shown: str | None = None, **bounds: float) -> Any:
    """A dataclass field with its help text, the name of its value, the default that the help shows, and its bounds.

    The bounds are `low`, `high` and `above`, as in `types.static`.
    """
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar, "shown": shown, **bounds})


@functools.cache
def field_types(cls: type) -> Mapping[str, Any]:
    """{field: its type} of a config or options dataclass."""
    return typing.get_type_hints(cls)


def check_class(cls: type, what: str, needs: Sequence[str] = ()) -> None:
    """Raises PurerlError unless a config class can be used in programs and read back from a run's folder.

    Args:
      cls: the class.
      what: its name in errors, such as "agent 'mine': Config".
      needs: fields that it must have, made by `types.static`.
    """
    if not dataclasses.is_dataclass(cls):
        raise PurerlError(f"{what} must be a dataclass: write @flax.struct.dataclass above it")
    fields, kinds = {field.name: field for field in dataclasses.fields(cls)}, field_types(cls)
    for name in needs:
        if name not in fields or fields[name].metadata.get("pytree_node", True):
            raise PurerlError(f"{what} needs the field {name}: write {name}: int = purerl.static(16)")
    for name, field in fields.items():
        if "help" not in field.metadata:
            raise PurerlError(
                f"{what}: write the field {name} as purerl.static(...), a constant of programs, or purerl.traced(...)"
            )
        if not _can_be_read(kinds[name]):
            raise PurerlError(
                f"{what}: the field {name} is annotated {_annotation(kinds[name])}, and a run's folder could not be "
                "read again: write int, float, bool, str, tuple[int, ...], Literal[...] or several of them with |"
            )


def _can_be_read(kind: Any) -> bool:
    """Whether `_checked` knows a field's annotation."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return all(map(_can_be_read, inner))
    if origin is tuple:
        return inner[0] in (int, float, bool, str)
    return origin is typing.Literal or kind in (int, float, bool, str, type(None))


def _annotation(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


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
        if not isinstance(name, str):
            raise PurerlError(f"{what}: {shown(name)} is not the name of a field, which is text")
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
            raise ValueError(f"{shown(text)} is not a choice.{nearest(text, choices)} Choices: {', '.join(choices)}")
        return choices[text]
    if origin is tuple:
        return from_words(kind, text.split("x"))
    if origin in (typing.Union, types.UnionType):
        if type(None) in inner and text == "None":
            return None
        return _first_that_fits([one for one in inner if one is not type(None)], text)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{shown(text)} is not true or false")
        return text.lower() == "true"
    if kind not in (int, float, str):
        raise ValueError(f"{shown(text)} cannot be read: a field of type {kind} has no text form")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not {_KINDS[kind]}") from None


def from_words(kind: Any, words: Sequence[str]) -> Any:
    """Parses the words after a flag: one word per value, several for a tuple."""
    if typing.get_origin(kind) is not tuple:
        return from_text(kind, words[0])
    inner = typing.get_args(kind)
    if inner[-1] is ...:
        return tuple(from_text(inner[0], word) for word in words)
    if len(words) != len(inner):
        raise ValueError(f"{shown(' '.join(words))} must be {len(inner)} values")
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
    known, bounds = field_types(cls), {field.name: field.metadata for field in dataclasses.fields(cls)}
    checked = {}
    for name, value in renamed(cls, values, what).items():
        if name not in known:
            fields = ", ".join(sorted(known))
            raise PurerlError(f"{what} has no field {shown(name)}.{nearest(str(name), known)} Fields: {fields}")
        checked[name] = _checked(f"{what}: {name}", known[name], value, bounds[name])
    return cls(**checked)


def check_fields(instance: Any) -> None:
    """Raises PurerlError if a field of a dataclass has a value of a wrong type, or one out of its bounds."""
    kinds = field_types(type(instance))
    for field in dataclasses.fields(instance):
        if field.metadata.get("flag", True):
            _checked(field.name, kinds[field.name], getattr(instance, field.name), field.metadata)


def _checked(name: str, kind: Any, value: Any, bounds: Mapping[str, Any]) -> Any:
    """A field's value, with lists as tuples. Raises PurerlError if it is of another type, or out of bounds."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for one in inner[:-1]:
            try:
                return _checked(name, one, value, bounds)
            except PurerlError:
                continue
        return _checked(name, inner[-1], value, bounds)
    if origin is typing.Literal:
        if not any(type(value) is type(choice) and value == choice for choice in inner):
            close = nearest(str(value), map(str, inner)) if isinstance(value, str) else ""
            known = ", ".join(map(str, inner))
            raise PurerlError(f"{name} = {shown(value)} is not a choice.{close} Choices: {known}")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)) or not all(_is_a(inner[0], one) for one in value):
            raise PurerlError(f"{name} = {shown(value)} must be a sequence of {inner[0].__name__}")
        for one in value:
            _check_bounds(name, inner[0], one, bounds)
        return tuple(value)
    if kind is type(None) and value is None:
        return None
    if not _is_a(kind, value):
        wanted = (_KINDS | {bool: "True or False", str: "text"}).get(kind, kind)
        raise PurerlError(f"{name} = {shown(value)} must be {wanted}")
    _check_bounds(name, kind, value, bounds)
    return value


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a value is of a plain type; a number may be an array with one value for each seed, and is never NaN."""
    if kind is float and hasattr(value, "ndim") and hasattr(value, "dtype"):
        return value.ndim <= 1 and value.dtype.kind in "fiu" and not _any(value, lambda x: x != x)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and value == value
    return kind in (int, str) and isinstance(value, kind)


# --- bounds ----------------------------------------------------------------------------------------------------------


def _check_bounds(name: str, kind: Any, value: Any, bounds: Mapping[str, Any]) -> None:
    """Raises PurerlError for a number (or an array of them) out of its field's bounds, see `types.static`."""
    if kind not in (int, float):
        return
    low, high, above = (bounds.get(one) for one in ("low", "high", "above"))
    if kind is int:
        low, high = 0 if low is None else low, LARGEST_INTEGER if high is None else high
    bounded = low is not None or above is not None or high is not None
    if low is not None and _any(value, lambda x: x < low):
        demand = "must not be negative" if low == 0 else f"must be at least {low}"
    elif above is not None and _any(value, lambda x: x <= above):
        demand = f"must be above {above}"
    elif high is not None and _any(value, lambda x: x > high):
        demand = f"must be at most {high}"
    elif bounded and high is None and _any(value, lambda x: x == math.inf):
        demand = "must be finite"
    elif kind is float and _any(value, lambda x: (abs(x) > LARGEST_NUMBER) & (abs(x) != math.inf)):
        demand = "is too large for float32"
    else:
        return
    raise PurerlError(f"{name} = {shown(value)} {demand}")


def _any(value: Any, test: Callable[[Any], Any]) -> bool:
    """Whether a test holds for a number, or for any element of an array; False for arrays that are being traced."""
    if not hasattr(value, "ndim"):
        return bool(test(value))
    import numpy as np

    try:
        return bool(np.any(test(np.asarray(value, np.float64))))
    except TypeError:  # jax's error for an array inside of its transformations is one
        return False


def check_per_seed(config: Any, num_seeds: int) -> None:
    """Raises PurerlError for an array in a config that has not one value for each seed."""
    for name in traced_fields(type(config)):
        value = getattr(config, name)
        if getattr(value, "ndim", 0) and len(value) != num_seeds:
            raise PurerlError(f"{name} has {len(value)} values for {num_seeds} seeds: give one, or one for each seed")


def bounds_text(field: dataclasses.Field) -> str:
    """The bounds of a field for its help, such as " [0 to 1]"; "" for those that go without saying."""
    low, high, above = (field.metadata.get(one) for one in ("low", "high", "above"))
    if low is not None and high is not None and high < LARGEST_INTEGER:
        return f" [{low:g} to {high:g}]"
    if above is not None:
        return f" [above {above:g}]"
    return f" [{low:g} or more]" if isinstance(low, float) else ""


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
        return float(value) if isinstance(value, str) and value in ("inf", "-inf") else value

    return {name: restored(name, value) for name, value in values.items()}


def plain(value: Any) -> Any:
    """Converts a field's value for JSON and `from_dict`: arrays to lists, inf to "inf"."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
