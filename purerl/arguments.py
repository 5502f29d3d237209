"""Checks the arguments of public functions against their annotations, before anything is done with them."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from purerl.errors import PurerlError, shown

F = TypeVar("F", bound=Callable[..., Any])
_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    type(None): "None",
    collections.abc.Mapping: "a dict with names as keys",
    collections.abc.Callable: "a function",
}


def checked(function: F) -> F:
    """Makes a function raise PurerlError, which names the argument, where a value does not fit its annotation.

    Annotations that this module does not know, such as Any, accept everything. numpy's numbers become Python's.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PurerlError(f"{function.__name__}: {error}{_where_fields_go(signature, kwargs)}") from error
        for name, value in bound.arguments.items():
            if signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = fitting(f"{function.__name__}: {name}", _hints(function)[name], value)
        return function(*bound.args, **bound.kwargs)

    return typing.cast(F, call)


def _where_fields_go(signature: inspect.Signature, kwargs: Mapping[str, Any]) -> str:
    """What to do with unknown arguments of a function that takes an agent's fields as `config`."""
    unknown = [name for name in kwargs if name not in signature.parameters]
    if not unknown or "config" not in signature.parameters:
        return ""
    return f"; fields of the agent belong into config: config={{'{unknown[0]}': ...}}"


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return collections.defaultdict(lambda: Any, typing.get_type_hints(function))


def fitting(what: str, kind: Any, value: Any) -> Any:
    """The value, as an annotation `kind` wants it. Raises PurerlError, which begins with `what`, if it does not fit."""
    found = _converted(kind, value)
    if found is _NO:
        raise PurerlError(f"{what} = {shown(value)} must be {_wanted(kind)}")
    return found


def in_range(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises PurerlError unless low <= value <= high (which NaN is never)."""
    if low <= value <= high:
        return
    if value < low:
        raise PurerlError(f"{name} = {shown(value)} must be at least {low}")
    raise PurerlError(f"{name} = {shown(value)} must be {f'at most {high}' if value > high else 'a number'}")


# What `_converted` returns for a value that does not fit.
_NO = object()


def _converted(kind: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if Path in inner and value == "":  # an empty path would be the current folder
            return _NO
        return next((found for one in inner if (found := _converted(one, value)) is not _NO), _NO)
    if origin is typing.Literal:
        return value if any(isinstance(value, type(choice)) for choice in inner) else _NO
    if origin in (int, float, bool, str, type(None), Path):
        return _plain(origin, value)
    if origin is dict or origin is collections.abc.Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            return _NO
        of_values = inner[1] if len(inner) == 2 else Any
        return _NO if any(_converted(of_values, one) is _NO for one in value.values()) else value
    if origin is collections.abc.Sequence:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            return _NO
        values = [_converted(inner[0] if inner else Any, one) for one in value]
        return _NO if any(one is _NO for one in values) else value
    if origin is collections.abc.Callable:
        return value if callable(value) else _NO
    return value


def _plain(kind: type, value: Any) -> Any:
    if kind is bool:
        return bool(value) if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool") else _NO
    if isinstance(value, bool):
        return _NO
    if kind is int:
        return int(value) if isinstance(value, numbers.Integral) else _NO
    if kind is float:
        return _as_float(value) if isinstance(value, numbers.Real) else _NO
    if kind in (str, Path):
        text = os.fspath(value) if kind is Path and isinstance(value, os.PathLike) else value
        return value if isinstance(text, str) and "\0" not in text else _NO
    return value if isinstance(value, kind) else _NO


def _as_float(value: numbers.Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer such as 10**400
        return math.inf if value > 0 else -math.inf


def _wanted(kind: Any) -> str:
    """What an annotation wants, in words: "text or None"."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_wanted(one) for one in inner))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is collections.abc.Sequence:
        return "a sequence" + (f" of {_wanted(inner[0])}" if inner and inner[0] is not Any else "")
    if origin is dict:
        origin = collections.abc.Mapping
    if origin is collections.abc.Mapping and len(inner) == 2 and inner[1] is not Any:
        return f"a dict from names to {_wanted(inner[1])}"
    return _WORDS.get(origin, getattr(origin, "__name__", str(origin)))
