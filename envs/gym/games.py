"""One gymnasium environment: how it is made, seeded, stepped and reset in the same step.

Nothing here imports jax, because the worker processes import it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

_LIBRARY = Path(gymnasium.__file__).parent


class Recipe(NamedTuple):
    """All that is needed to make a game, in any process.

    Attributes:
      name: "family/id".
      spec: gymnasium's EnvSpec.
      kwargs: of the environment's constructor, in addition to the registered ones.
      max_episode_steps: time limit of an episode in steps; None for the registered one.
      wrapper: environment -> environment; None for none.
      of_seed: (environment, k) -> environment of the k-th seed, where seeds play different ones; None if they do not.
    """

    name: str
    spec: Any
    kwargs: dict[str, Any]
    max_episode_steps: int | None
    wrapper: Callable[[Any], Any] | None
    of_seed: Callable[[Any, int], Any] | None = None


def make(recipe: Recipe, draws: bool = False, seed_index: int = 0) -> gymnasium.Env:
    """Makes a game of the seed of that index; `draws` is whether its pictures will be asked for."""
    kwargs = recipe.kwargs | ({"render_mode": "rgb_array"} if draws else {})
    env = gymnasium.make(recipe.spec, recipe.max_episode_steps, disable_env_checker=True, **kwargs)
    if recipe.wrapper is not None:
        env = recipe.wrapper(env)
        if not isinstance(env, gymnasium.Env):
            raise TypeError(f"the wrapper returned {type(env).__name__}, not a gymnasium.Env")
    return env if recipe.of_seed is None else recipe.of_seed(env, seed_index)


def seed_of(seed: int, game: int, steps: int) -> int:
    """The seed in [0, 2^31) that game number `game` of a seed is reset with; collisions are rare.

    `steps` is what its group has taken before: 0, or more where a resumed run begins new episodes.
    """
    return int(np.random.SeedSequence([seed, game, steps]).generate_state(1)[0] >> 1)


class Rows(NamedTuple):
    """The shared arrays of one group of M games, [M, ...]; the worker writes all but `action`."""

    action: np.ndarray
    observation: np.ndarray
    final_observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Game:
    """A game and its row in the shared arrays.

    Args:
      env: the environment.
      observed, acted: observation -> array, and action -> the environment's action.
      rows: the arrays of its group.
      row: its index there.
    """

    def __init__(self, env: gymnasium.Env, observed: Callable, acted: Callable, rows: Rows, row: int):
        self.env, self._observed, self._acted, self._rows, self._row = env, observed, acted, rows, row

    def reset(self, seed: int) -> None:
        """Starts the first episode with a seed."""
        observation, _ = self.env.reset(seed=seed)
        self._rows.observation[self._row] = self._observed(observation)

    def step(self) -> None:
        """Takes the action of its row; an episode that ends is reset at once."""
        rows, row = self._rows, self._row
        observation, reward, terminated, truncated, _ = self.env.step(self._acted(rows.action[row]))
        rows.final_observation[row] = shown = self._observed(observation)
        rows.reward[row] = reward
        rows.terminated[row] = terminated
        rows.truncated[row] = truncated and not terminated
        if terminated or truncated:
            observation, _ = self.env.reset()
            shown = self._observed(observation)
        rows.observation[row] = shown

    def picture(self) -> np.ndarray:
        """What the environment's own renderer draws, uint8 [H, W, 3]."""
        picture = self.env.render()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[-1] != 3:
            raise TypeError(f"render() with render_mode='rgb_array' returned {type(picture).__name__}, not a picture")
        return picture.astype(np.uint8)


def told(error: BaseException) -> str:
    """An error in one line, with the place of its last line outside of gymnasium."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename != __file__]
    own = [one for one in frames if not Path(one.filename).is_relative_to(_LIBRARY)] or frames
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, gymnasium.error.DependencyNotInstalled):
        return text
    return f"{type(error).__name__}: {text}{where}"
