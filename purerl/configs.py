"""Configs from names and plain values: what the command line, presets, Python calls and run folders all go through."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.errors import PurerlError, nearest


def field_types(cls: type) -> dict[str, Any]:
    """{field: its type} of a config or options dataclass."""
    return typing.get_type_hints(cls)


def build(cls: type, values: dict[str, Any], what: str) -> Any:
    """An instance of a config or options dataclass with `values` over its defaults.

    Args:
      cls: the dataclass.
      values: {field: value}; lists are taken for tuples.
      what: how an error names it, e.g. "ppo".

    Raises:
      PurerlError: an unknown field (with the nearest name), a value of another type, a choice that is none.
    """
    types = field_types(cls)
    checked = {}
    for name, value in values.items():
        if name not in types:
            raise PurerlError(f"{what} has no field '{name}'.{nearest(name, types)} Fields: {', '.join(sorted(types))}")
        checked[name] = _checked(what, name, types[name], value)
    return cls(**checked)


def _checked(what: str, name: str, kind: Any, value: Any) -> Any:
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in choices:
            close = nearest(str(value), map(str, choices))
            known = ", ".join(map(str, choices))
            raise PurerlError(f"{what}: {name} = {value!r} is no choice.{close} Choices: {known}")
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
    kinds = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    raise PurerlError(f"{what}: {name} = {value!r} must be {kinds.get(kind, kind)}")


def _is_number(value: Any) -> bool:
    """A Python number, or an array of one value per seed for a sweep; never NaN."""
    if isinstance(value, bool):
        return False
    if isinstance(value, (int, float)):
        return not math.isnan(value)
    return hasattr(value, "ndim") and hasattr(value, "dtype")


def traced_fields(cls: type) -> list[str]:
    """The fields of a config that are arrays in the compiled program, and so can hold one value per seed."""
    return [field.name for field in dataclasses.fields(cls) if field.metadata.get("pytree_node", True)]


def traced(config: Any) -> Any:
    """The config with its traced fields as float32 arrays, ready for the compiled program."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)


def to_dict(config: Any) -> dict[str, Any]:
    """{field: plain value} of a config or options dataclass, fit for JSON (inf becomes the string "inf")."""
    return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type, values: dict[str, Any], what: str) -> Any:
    """The inverse of `to_dict`."""
    types = field_types(cls)

    def restored(name: str, value: Any) -> Any:
        if types.get(name) is not float:
            return value
        if isinstance(value, list):  # one value per seed
            return np.asarray([restored(name, one) for one in value], np.float32)
        return float(value) if value in ("inf", "-inf") else value

    return build(cls, {name: restored(name, value) for name, value in values.items()}, what)


def plain(value: Any) -> Any:
    """A field's value as JSON can hold it, and as `from_dict` reads it: arrays as lists, inf as "inf"."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
