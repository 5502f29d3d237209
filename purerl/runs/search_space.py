"""The settings of a sweep: grids and random settings, from text or Python values."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from purerl import arguments, configs, registry
from purerl.errors import PurerlError, nearest, shown

ENVIRONMENT = "env."
# Of one sweep: each is a run with a folder of its own.
MOST_SETTINGS = 100_000


# --- settings --------------------------------------------------------------------------------------------------------


def settings_of(
    agent: str,
    env: str,
    grid: Mapping[str, Sequence[Any]] | str | None,
    random: Mapping[str, Any] | str | None,
    samples: int | None,
    search_seed: int,
) -> list[dict[str, Any]]:
    """Every cell's {field: value}, in order. Raises PurerlError for fields and values that cannot be swept."""
    if (grid is None) == (random is None):
        raise PurerlError(
            'give the fields to sweep: a grid, --grid "learning_rate=1e-4,5e-4", or --random with --samples'
        )
    if grid is not None:
        if samples is not None:
            raise PurerlError("--samples belongs to --random; leave it out: a grid trains all its combinations")
        values = parse_grid(grid, agent, env) if isinstance(grid, str) else _renamed(grid, agent, env)
        for name, of_name in values.items():
            of_name = (
                [] if isinstance(of_name, str) or not isinstance(of_name, Sequence | np.ndarray) else list(of_name)
            )
            if not of_name or len({repr(value) for value in of_name}) < len(of_name):
                raise PurerlError(
                    f"the grid of {name} must be a sequence of different values, not {shown(values[name])}"
                )
            values[name] = [value.item() if isinstance(value, np.generic) else value for value in of_name]
        arguments.in_range("the number of settings", math.prod(map(len, values.values())), high=MOST_SETTINGS)
        return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    if samples is not None:
        arguments.in_range("samples", samples, high=MOST_SETTINGS)
    arguments.in_range("search_seed", search_seed, 0)
    if samples is None or samples < 1:
        raise PurerlError("--random needs --samples, the number of settings to draw (at least 1)")
    chosen = laws(agent, env, random)
    draw = np.random.default_rng(search_seed)
    kinds = fields(agent, env)
    return [{name: _drawn(draw, name, law, kinds[name]) for name, law in chosen.items()} for _ in range(samples)]


def laws(agent: str, env: str, random: Mapping[str, Any] | str) -> dict[str, Any]:
    """{field: (kind, *arguments)} of random settings, from either form."""
    return parse_random(random, agent, env) if isinstance(random, str) else _renamed(random, agent, env)


def laws_of(
    agent: str, env: str, grid: Mapping[str, Sequence[Any]] | str | None, random: Mapping[str, Any] | str | None
) -> dict[str, str]:
    """{field: how its values were chosen}: "grid", "log", "uniform" or "choice". Arguments as in `settings_of`."""
    if grid is not None:
        values = parse_grid(grid, agent, env) if isinstance(grid, str) else _renamed(grid, agent, env)
        return dict.fromkeys(values, "grid")
    return {name: str(law[0]) for name, law in laws(agent, env, random).items()}


def fields(agent: str, env: str) -> dict[str, Any]:
    """{name: type} of all fields that can be swept."""
    options = registry.environment(env)[0].Options
    found = dict(configs.field_types(registry.agent(agent).Config))
    return found | {ENVIRONMENT + name: kind for name, kind in configs.field_types(options).items()}


def _field(name: str, agent: str, known: Mapping[str, Any]) -> str:
    """The field for a name in a sweep: hyphens may replace underscores, and `configs.ALIASES` are known."""
    spelled = configs.field_name(name.strip().lstrip("-").replace("-", "_"), known)
    if spelled not in known:
        close = nearest(spelled, known) or nearest(ENVIRONMENT + spelled, known)
        raise PurerlError(
            f"{agent} has no field {shown(name.strip())} to sweep.{close} Fields: {', '.join(sorted(known))}"
        )
    return spelled


def _renamed(values: Mapping[str, Any], agent: str, env: str) -> dict[str, Any]:
    known = fields(agent, env)
    found = {_field(name, agent, known): value for name, value in values.items()}
    if len(found) < len(values) or not found:
        raise PurerlError("there is nothing to sweep" if not found else "a field is named twice in the sweep")
    return found


def _named_parts(text: str, agent: str, env: str) -> dict[str, str]:
    """Splits "a=...;b=..." into {field: text after the "="}."""
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    for name, equals, value in pairs:
        if not equals or not value.strip():
            raise PurerlError(
                f'{shown(name)} has no values: write a sweep as "learning_rate=1e-4,5e-4;discount=.99,.999"'
            )
    if len({name.strip() for name, _, _ in pairs}) < len(pairs):
        raise PurerlError("a field is named twice in the sweep: give all its values in one place")
    return _renamed({name: value for name, _, value in pairs}, agent, env)


def parse_grid(text: str, agent: str, env: str) -> dict[str, list[Any]]:
    """Parses "learning_rate=1e-4,5e-4;discount=.99,.999" into {field: values}.

    Values of a tuple are joined by x, as in 64x64. Raises PurerlError for unknown fields and values of a wrong type.
    """
    kinds = fields(agent, env)
    parts = _named_parts(text, agent, env)
    return {name: [_value(name, word, kinds[name]) for word in values.split(",")] for name, values in parts.items()}


def parse_random(text: str, agent: str, env: str) -> dict[str, tuple[Any, ...]]:
    """Parses "learning_rate=log(1e-5,1e-2);num_envs=choice(16,32)" into {field: (kind, *arguments)}.

    Raises PurerlError for unknown fields and kinds, and for values of a wrong type.
    """
    kinds = fields(agent, env)
    found: dict[str, tuple[Any, ...]] = {}
    for name, law in _named_parts(text, agent, env).items():
        match = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", law)
        if not match:
            raise PurerlError(f"{name}={shown(law.strip())}: write log(LOW,HIGH), uniform(LOW,HIGH) or choice(A,B,...)")
        found[name] = (match[1], *(_value(name, word, kinds[name]) for word in match[2].split(",")))
    return found


def _value(name: str, word: str, kind: Any) -> Any:
    """Parses a word of the command line into a value of a field's type. Raises PurerlError."""
    try:
        return configs.from_text(kind, word.strip())
    except ValueError as error:
        raise PurerlError(f"{name}: {error}") from None


def _drawn(draw: np.random.Generator, name: str, law: Any, kind: Any) -> Any:
    if not isinstance(law, tuple | list) or len(law) < 2 or str(law[0]) not in ("log", "uniform", "choice"):
        raise PurerlError(
            f"{name}: {shown(law)} is not a distribution: use log(low, high), uniform(low, high) or choice(...)"
        )
    which, *bounds = law
    if which == "choice":
        return bounds[int(draw.integers(len(bounds)))]
    numbers = [b for b in bounds if isinstance(b, int | float) and abs(b) < configs.LARGEST_NUMBER]
    if kind not in (int, float) or len(numbers) != 2 or len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise PurerlError(f"{name}: {which} needs two numbers, the lower first; use choice(...) for other types")
    low, high = bounds
    if which == "log":
        if low <= 0:
            raise PurerlError(f"{name}: log needs positive bounds, not {low}")
        value = math.exp(draw.uniform(math.log(low), math.log(high)))
    else:
        value = draw.uniform(low, high)
    return round(value) if kind is int else float(f"{value:.6g}")
