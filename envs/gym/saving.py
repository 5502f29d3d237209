"""The whole state of a gymnasium environment as plain data, so that a resumed run goes on exactly.

An environment is its wrappers and the innermost environment. Their attributes are stored: numbers, texts, arrays,
lists, dicts, random generators, MuJoCo's data, and plain Python objects of these. What does not change is left out:
functions, spaces (but not their random generators), MuJoCo's model. An attribute of any other kind, such as Box2D's
world or an emulator, cannot be stored: the environment then says so, and nothing is guessed.

A wrapper that changes MuJoCo's model from episode to episode has a method `restored()`: it is called when the wrapper's
attributes are loaded, before what it wraps is, and changes the model as it was.

The format is JSON with arrays in base64. Nothing is ever unpickled, and no class is looked up by a stored name.

Nothing here imports jax, because the worker processes import it.
"""

from __future__ import annotations

import base64
import collections
import functools
import json
import random
import sys
import types
import zlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec

# What gymnasium keeps of how an environment was made, and never changes.
_CONSTANTS = {"spec", "metadata", "_cached_spec", "_metadata", "_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs"}
_CONSTANT_TYPES = (
    type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, functools.partial,
    np.dtype, np.ufunc, EnvSpec, WrapperSpec,
)  # fmt: skip
_RENDERER = "gymnasium.envs.mujoco.mujoco_rendering"


class CannotSave(Exception):
    """The environment holds something that is not plain data, or a stored state does not fit it."""


class _Plain:
    """A class without fields of its own: instances of larger ones hold something that `vars` does not show."""


def save(env: gymnasium.Env) -> bytes:
    """The state of an environment. Raises CannotSave if it is not plain data."""
    writer = _Writer()
    layers = _layers(env)
    stored = [[type(layer).__qualname__, writer.attributes(layer, layers)] for layer in layers]
    return zlib.compress(json.dumps(stored, separators=(",", ":")).encode(), 1)


def load(env: gymnasium.Env, state: bytes) -> None:
    """Loads a result of `save` into an environment that was made in the same way.

    Raises CannotSave if it does not fit. The environment may then be in any state, and must be reset.
    """
    try:
        stored, layers, reader = json.loads(zlib.decompress(state)), _layers(env), _Reader()
        if [name for name, _ in stored] != [type(layer).__qualname__ for layer in layers]:
            raise CannotSave("it has other wrappers")
        for layer, (_, attributes) in zip(layers, stored, strict=True):
            reader.attributes(layer, attributes)
            if hasattr(type(layer), "restored"):
                layer.restored()
    except (zlib.error, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CannotSave(f"the state does not fit ({type(error).__name__}: {error})") from error


def _layers(env: gymnasium.Env) -> list[Any]:
    """The wrappers of an environment, outermost first, and the innermost environment."""
    found = [env]
    while isinstance(found[-1], gymnasium.Wrapper):
        found.append(found[-1].env)
    return found


def _is_plain_object(value: Any) -> bool:
    """Whether all that an object holds is in its `__dict__`."""
    return hasattr(value, "__dict__") and type(value).__basicsize__ <= _Plain.__basicsize__


def _mujoco() -> Any:
    """The module mujoco if something has imported it, else None."""
    return sys.modules.get("mujoco")


def model_checksum(model: Any) -> int:
    """A checksum of MuJoCo's model, which some environments change from episode to episode."""
    mujoco = _mujoco()
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return zlib.crc32(buffer)


@functools.lru_cache(maxsize=64)
def _fields_of(model: Any) -> tuple[str, ...]:
    """The arrays of MuJoCo's data whose sizes depend on the model alone; the others are computed anew in every step."""
    data = _mujoco().MjData(model)
    values = {name: getattr(data, name, None) for name in dir(data) if not name.startswith("_")}
    return tuple(name for name, value in values.items() if isinstance(value, np.ndarray) and value.size)


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _array(dtype: str, shape: list[int], text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape).copy()


class _Writer:
    """Turns values into JSON: None, numbers and texts as they are, all else into [kind, ...].

    An object that occurs again is written as a reference, so that what was one object is one object again.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice

    def attributes(self, owner: Any, layers: list[Any]) -> dict[str, Any]:
        """The changing attributes of an environment, a wrapper or another object."""
        if not _is_plain_object(owner):
            raise CannotSave(f"{type(owner).__name__} is not a plain Python class")
        found = {}
        for name, value in vars(owner).items():
            constant = name in _CONSTANTS or isinstance(value, _CONSTANT_TYPES) or type(value).__module__ == _RENDERER
            if constant or any(value is layer for layer in layers):
                continue
            try:
                found[name] = self.value(value, layers)
            except CannotSave as error:
                raise CannotSave(f"{type(owner).__name__}.{name}: {error}") from error
        return found

    def value(self, value: Any, layers: list[Any], inside: bool = False) -> Any:
        """One value as JSON; `inside` a list or the like, nothing can be changed in place."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.generic) and value.dtype.kind in "biufc":
            return ["number", value.dtype.str, _text(value)]
        if id(value) in self._seen:
            return ["again", self._seen[id(value)]]
        kind, number = self._kind(value), len(self._kept)
        if inside and kind in ("object", "space", "data", "model"):
            raise CannotSave(f"a {type(value).__module__}.{type(value).__qualname__} in a list or dict")
        self._seen[id(value)] = number
        self._kept.append(value)
        return [kind, number, *self._content(kind, value, layers)]

    @staticmethod
    def _kind(value: Any) -> str:
        mujoco = _mujoco()
        if mujoco is not None and isinstance(value, mujoco.MjData | mujoco.MjModel):
            return "data" if isinstance(value, mujoco.MjData) else "model"
        if isinstance(value, gymnasium.Space):
            return "space"
        kinds = {
            np.ndarray: "array", list: "list", tuple: "tuple", dict: "dict", collections.deque: "deque",
            np.random.Generator: "generator", np.random.RandomState: "random_state", random.Random: "random",
        }  # fmt: skip
        return kinds.get(type(value), "object")

    def _content(self, kind: str, value: Any, layers: list[Any]) -> list[Any]:
        if kind == "array":
            if value.dtype.kind not in "biufcSU":
                raise CannotSave(f"an array of {value.dtype}")
            return [value.dtype.str, list(value.shape), _text(value)]
        if kind in ("list", "tuple"):
            return [self.value(one, layers, True) for one in value]
        if kind == "dict":
            return [[self.value(one, layers, True) for one in pair] for pair in value.items()]
        if kind == "deque":
            return [value.maxlen, *(self.value(one, layers, True) for one in value)]
        if kind == "generator":
            return [self.value(value.bit_generator.state, layers)]
        if kind == "random_state":
            return [self.value(value.get_state(legacy=False), layers)]
        if kind == "random":
            return [self.value(value.getstate(), layers)]
        if kind == "space":
            return [self.value(value._np_random, layers)]
        if kind == "model":
            return [model_checksum(value)]
        if kind == "data":
            fields = {name: getattr(value, name) for name in _fields_of(value.model)}
            return [value.time, {name: [x.dtype.str, list(x.shape), _text(x)] for name, x in fields.items()}]
        if not _is_plain_object(value):
            raise CannotSave(f"a {type(value).__module__}.{type(value).__qualname__}")
        return [type(value).__qualname__, self.attributes(value, layers)]


class _Reader:
    """The inverse of `_Writer`. Objects that JSON cannot make are changed in place."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def attributes(self, owner: Any, stored: dict[str, Any]) -> None:
        """Sets the attributes of an object."""
        for name, value in stored.items():
            vars(owner)[name] = self.value(value, vars(owner).get(name))

    def value(self, stored: Any, present: Any = None) -> Any:
        """The value that was stored; `present` is what is in its place now."""
        if not isinstance(stored, list):
            return stored
        kind, number, *content = stored
        if kind == "number":
            return _array(number, [], content[0])[()]
        if kind == "again":
            return self._made[number]
        if kind in ("list", "dict"):  # made first, since they may contain themselves
            made = self._made[number] = [] if kind == "list" else {}
            if kind == "list":
                made.extend(self.value(one) for one in content)
            else:
                made.update((self.value(one), self.value(other)) for one, other in content)
            return made
        made = self._made[number] = self._value(kind, content, present)
        return made

    def _value(self, kind: str, content: list[Any], present: Any) -> Any:
        if kind == "array":
            return _array(*content)
        if kind == "tuple":
            return tuple(self.value(one) for one in content)
        if kind == "deque":
            return collections.deque((self.value(one) for one in content[1:]), content[0])
        if kind == "generator":
            state = self.value(content[0])
            if not isinstance(present, np.random.Generator):
                present = np.random.Generator(_bit_generator(state["bit_generator"]))
            present.bit_generator.state = state
            return present
        if kind == "random_state":
            made = np.random.RandomState()
            made.set_state(self.value(content[0]))
            return made
        if kind == "random":
            made = random.Random()
            made.setstate(self.value(content[0]))
            return made
        return self._changed(kind, content, present)

    def _changed(self, kind: str, content: list[Any], present: Any) -> Any:
        """`present` after a change to what was stored."""
        mujoco = _mujoco()
        if kind == "space" and isinstance(present, gymnasium.Space):
            present._np_random = self.value(content[0], present._np_random)
        elif kind == "model" and mujoco is not None and isinstance(present, mujoco.MjModel):
            if model_checksum(present) != content[0]:
                raise CannotSave("MuJoCo's model is another one")
        elif kind == "data" and mujoco is not None and isinstance(present, mujoco.MjData):
            present.time = content[0]
            for name, (dtype, shape, text) in content[1].items():
                field = getattr(present, name)
                if list(field.shape) != shape or field.dtype.str != dtype:
                    raise CannotSave(f"MuJoCo's {name} has another size")
                field[...] = _array(dtype, shape, text)
        elif kind == "object" and type(present).__qualname__ == content[0]:
            self.attributes(present, content[1])
        else:
            raise CannotSave(f"a {kind} has no counterpart")
        return present


def _bit_generator(name: str) -> Any:
    """A bit generator of numpy by its name. Raises CannotSave for any other name."""
    if name not in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
        raise CannotSave(f"{name} is not a generator of numpy")
    return getattr(np.random, name)()
