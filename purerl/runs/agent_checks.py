"""Checks the shapes that a user's own agent returns, before anything is written or trained."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purerl import configs, registry
from purerl.errors import PurerlError
from purerl.loops.train import init_run_state, iterate
from purerl.runs.plan import Plan
from purerl.types import Agent, Clock, Environment, EnvSpec, Metric, PyTree, TimeStep

# Columns of metrics.jsonl that no agent's metric may replace.
COLUMNS = ("iteration", "step", "seed", "wall_time", "steps_per_second", "episodes", "episode_return", "episode_length")
COLUMNS += ("evaluation_return", "diverged")


def check_agent(the_plan: Plan) -> None:
    """Traces one iteration of a user's agent, without running it. purerl's own agents have tests for this.

    Raises PurerlError for metrics that are not `types.Metric`, for actions that are not what the environment takes, and
    for a State or memory that does not keep its shapes. The training loop reports all other errors, because it sees the
    real environment.
    """
    if registry.is_own(the_plan.agent):
        return
    agent, (family, _) = registry.agent(the_plan.agent), registry.environment(the_plan.env)
    # Only shapes are checked, and these fields may hold one value per seed.
    config = the_plan.config.replace(**dict.fromkeys(configs.traced_fields(type(the_plan.config)), 0.0))
    spec = registry.env_spec(the_plan.env, the_plan.options)
    _trace(the_plan.agent, agent.update, spec, registry.is_host(family), config)


@functools.lru_cache(maxsize=32)
def _trace(name: str, update: Callable[..., Any], spec: EnvSpec, on_host: bool, config: Any) -> None:
    def checked(config: Any, spec: EnvSpec, state: PyTree, *rest: Any) -> Any:
        found = update(config, spec, state, *rest)
        if not isinstance(found, tuple) or len(found) != 2:
            raise PurerlError(f"agent '{name}': update must return (State, metrics), not {_kind(found)}")
        check_kept(name, "update", "State", state, found[0])
        check_metrics(name, found[1])
        return found

    def acting(*args: Any) -> Any:
        found = act(*args)
        if not isinstance(found, tuple) or len(found) != 3:
            raise PurerlError(f"agent '{name}': act must return (action, memory, extras), not {_kind(found)}")
        memory, inputs = args[3], args[4]
        check_action(name, spec, found[0], len(inputs.is_first))
        check_kept(name, "act", "memory", memory, found[1])
        return found

    act = registry.agent(name).act
    check_signature(name, "act", act, ("config", "spec", "state", "memory", "inputs", "keys", "clock", "explore"))
    check_signature(name, "update", update, ("config", "spec", "state", "rollout", "key", "clock"))
    agent: Agent = registry.agent(name)._replace(act=acting, update=checked)
    environment = _stand_in(spec, on_host)

    def iteration(config: Any, key: Any, clock: Clock) -> Any:
        return iterate(agent, environment, config, init_run_state(agent, environment, config, key), clock)

    try:
        config = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), config)
        jax.eval_shape(iteration, config, jax.random.key(0), Clock(jnp.int32(0), jnp.int32(1)))
    except PurerlError:
        raise
    except Exception:
        return  # the stand-in may not fit the agent; the loop then fails with the user's own lines in its traceback


def _stand_in(spec: EnvSpec, on_host: bool) -> Environment:
    """An environment of zeros with the shapes of a real one."""

    def observation() -> jax.Array:
        return jnp.zeros(spec.observation_shape, spec.observation_dtype)

    def step(key: Any, state: Any, action: Any) -> tuple[Any, TimeStep]:
        no = jnp.zeros((), bool)
        final = observation() if spec.shows_final_observation else None
        life_lost = no if on_host else None
        return state, TimeStep(observation(), jnp.float32(0), no, no, final, life_lost)

    return Environment(spec, lambda key: (jnp.int32(0), observation()), step)


def check_signature(agent: str, name: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    """Raises PurerlError unless a function of an agent can be called with these arguments, in this order."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise PurerlError(f"agent '{agent}': {name} must take ({', '.join(arguments)}): {error}") from error


def check_metrics(agent: str, metrics: Any) -> None:
    """Raises PurerlError unless the metrics that an update returned are {name: Metric of two numbers}."""
    if not isinstance(metrics, dict):
        raise PurerlError(
            f"agent '{agent}': the metrics of update must be a dict {{name: Metric}}, not {_kind(metrics)}"
        )
    for name, metric in metrics.items():
        if not isinstance(metric, Metric):
            raise PurerlError(
                f"agent '{agent}': the metric '{name}' of update is {_kind(metric)}, not a Metric: write "
                f"Metric.of({name}) (from purerl import Metric)"
            )
        if any(getattr(number, "shape", None) != () for number in (metric.total, metric.count)):
            raise PurerlError(
                f"agent '{agent}': the metric '{name}' of update must hold two numbers, total and count: "
                "Metric.of(values) computes them from an array"
            )
        if name in COLUMNS:
            raise PurerlError(f"agent '{agent}': the metric '{name}' has the name of a built-in column; rename it")


def check_action(agent: str, spec: EnvSpec, action: Any, num_envs: int) -> None:
    """Raises PurerlError unless an action is one for each of `num_envs` environments, as the EnvSpec wants it."""
    wanted, found = f"{spec.action_dtype}{[num_envs, *spec.action_shape]}", _described(action)
    if not isinstance(action, jax.Array) or found != wanted:
        raise PurerlError(
            f"agent '{agent}': the actions of act must be {wanted} on {spec.name}, one for each of {num_envs} "
            f"environments, and are {found if isinstance(action, jax.Array) else _kind(action)}"
        )


def check_kept(agent: str, function: str, what: str, before: PyTree, after: PyTree) -> None:
    """Raises PurerlError unless a function keeps the type, structure, shapes and dtypes of State or memory."""
    old, new = (jax.tree_util.tree_flatten_with_path(tree) for tree in (before, after))
    if old[1] != new[1]:
        raise PurerlError(
            f"agent '{agent}': {function} must return a {what} of the same structure as init's: {_short(new[1])} is "
            f"not {_short(old[1])}"
        )
    for (path, x), (_, y) in zip(old[0], new[0], strict=True):
        was, now = _described(x), _described(y)
        if was != now:
            where = jax.tree_util.keystr(path)
            raise PurerlError(
                f"agent '{agent}': {function} must keep shapes and dtypes: {what}{where} was {was}, is {now}"
            )


def _described(array: Any) -> str:
    """Such as float32[16, 4]."""
    return f"{jnp.result_type(array)}{list(jnp.shape(array))}"


def _kind(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, jax.Array) else f"a {type(value).__name__}"


def _short(structure: Any) -> str:
    text = str(structure).removeprefix("PyTreeDef(").removesuffix(")")
    return text if len(text) < 200 else f"{text[:200]}..."
