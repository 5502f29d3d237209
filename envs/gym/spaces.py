"""What a gymnasium environment's spaces are to an agent: one array of observations, discrete or continuous actions.

Nothing here imports jax, because the worker processes import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from purerl.errors import PurerlError


@dataclasses.dataclass(frozen=True)
class Observations:
    """How observations become arrays.

    Attributes:
      shape, dtype: of one array.
      convert: observation -> array of that shape; it need not have that dtype.
    """

    shape: tuple[int, ...]
    dtype: str
    convert: Callable[[Any], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Actions:
    """How an agent's actions become those of the environment.

    Attributes:
      num_actions: number of discrete actions; 0 for continuous actions.
      low, high: bounds of each dimension of a continuous action, a vector; () for discrete actions.
      convert: int32 [] or float32 [D] -> the environment's action, within its bounds.
    """

    num_actions: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    convert: Callable[[Any], Any]


def observations(name: str, space: gymnasium.Space) -> Observations:
    """The arrays of an observation space.

    uint8 stays uint8, all other numbers become float32. Discrete and MultiDiscrete observations become one-hot vectors,
    and a single number becomes a vector of one.

    Args:
      name: "family/id", for errors.
      space: the environment's observation space.

    Raises:
      PurerlError: any other space, such as Dict or Tuple.
    """
    if isinstance(space, spaces.Box) and space.dtype.kind in "fiub":
        shape = tuple(map(int, space.shape)) or (1,)
        dtype = "uint8" if space.dtype == np.uint8 else "float32"
        return Observations(shape, dtype, lambda x: np.asarray(x).reshape(shape))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        shape = tuple(map(int, spaces.flatten_space(space).shape))
        return Observations(shape, "float32", lambda x: spaces.flatten(space, x))
    raise PurerlError(
        f"{name} has {type(space).__name__} observations, and an agent sees one array: flatten them with "
        "gymnasium.wrappers.FlattenObservation in a function of your own (--env.wrapper my_file:wrap)"
    )


def actions(name: str, space: gymnasium.Space) -> Actions:
    """The actions of an action space: Discrete, or a Box of floats of any shape, which becomes a vector.

    Continuous actions are clipped to the bounds of their dimension.

    Args:
      name: "family/id", for errors.
      space: the environment's action space.

    Raises:
      PurerlError: any other space, such as MultiDiscrete, Dict or Tuple.
    """
    if isinstance(space, spaces.Discrete):
        start, kind = int(space.start), space.dtype.type
        return Actions(int(space.n), (), (), lambda action: kind(start + int(action)))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and np.prod(space.shape) > 0:
        low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
        shape, dtype = space.shape, space.dtype

        def clipped(action: np.ndarray) -> np.ndarray:
            return np.clip(np.asarray(action, dtype).reshape(shape), space.low, space.high)

        return Actions(0, tuple(low.tolist()), tuple(high.tolist()), clipped)
    what = f"Box of {space.dtype}" if isinstance(space, spaces.Box) else type(space).__name__
    raise PurerlError(
        f"{name} has {what} actions; only Discrete and Box of floats are supported: convert them with a "
        "gymnasium.ActionWrapper in a function of your own (--env.wrapper my_file:wrap)"
    )
