"""Plays any in-graph environment through the host pool protocol.

It tests the host bridge: the same environment must give the same run in the graph and through a pool. It can also step
a JAX environment by hand. It is not fast: use the in-graph loop for speed.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rng
from purerl.envs.pool_guard import PoolGuard
from purerl.errors import PurerlError
from purerl.types import Environment, TimeStep


class HostedPool:
    """A `types.Pool` of an in-graph environment, with the same random numbers as the in-graph loop.

    Environment n of a seed is reset with key n of at(stream(base, "reset"), 0), and takes its g-th step (from 0) with
    key n of at(stream(base, "environment"), g), for any number of groups. One with a `begin` gets the seed of the key.

    Args:
      environment: the environment, unbatched.
      keys: typed base keys [S], one for each seed.
      num_envs: N, environments of each seed.
      num_groups: G, must divide N.

    Raises PurerlError for sizes that do not fit.
    """

    resumes_exactly = True

    def __init__(self, environment: Environment, keys: jax.Array, num_envs: int, num_groups: int = 1):
        if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
            raise PurerlError("a hosted pool needs typed base keys of shape [seeds]: use purerl.rng.seed_keys")
        self.spec = environment.spec
        self.num_seeds = keys.shape[0]
        self.num_envs = num_envs
        self.num_groups = num_groups
        self._guard = PoolGuard(self, self.spec, self.num_seeds, num_envs, num_groups)
        self._keys = keys
        self._steps = np.zeros(num_groups, np.int64)
        self._environment = environment
        self._first = [np.uint32(group * self._guard.group_size) for group in range(num_groups)]
        started = [_reset(environment, num_envs, self._guard.group_size, keys, first) for first in self._first]
        self._states = [states for states, _ in started]
        self._observations = [observations for _, observations in started]
        self._coming: list[Any] = [None] * num_groups

    def reset(self, group: int) -> np.ndarray:
        """First observations of a group [S, N / G, ...]; after `restore`, those to act on next."""
        self._guard.reset(group)
        return np.asarray(self._observations[group])

    def send(self, group: int, actions: np.ndarray) -> None:
        """Starts stepping a group with actions [S, N / G, ...]."""
        actions = self._guard.send(group, actions)
        count = np.uint32(self._steps[group] % 2**32)
        # JAX may alias the caller's array and run later, but the caller may overwrite it as soon as this returns.
        actions = actions.copy()
        self._coming[group] = _step(
            self._environment, self._keys, self._first[group], count, self._states[group], actions
        )

    def recv(self, group: int) -> TimeStep:
        """Waits for a group's step and returns its TimeStep of numpy arrays [S, N / G, ...]."""
        self._guard.recv(group)
        self._states[group], step = self._coming[group]
        self._observations[group] = step.observation
        self._steps[group] += 1
        self._coming[group] = None
        return jax.device_get(step)

    def state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray]:
        """Everything needed to continue exactly.

        These are the leaves [S, N, ...] of the environment's state (keys as their data), the observations, and the
        number of steps of each group.
        """
        self._guard.rest("state()")
        return {
            "identity": np.frombuffer(self.spec.name.encode(), np.uint8),
            "steps": self._steps.copy(),
            **{name: np.concatenate(groups, axis=1)[lanes] for name, groups in self._pieces().items()},
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Loads a result of `state`. Raises PurerlError if it comes from a pool of another environment or shape."""
        self._guard.rest("restore()")
        state = {name: np.asarray(array) for name, array in state.items()}
        mine = self.state()
        identity = state.get("identity", np.zeros(0, np.uint8)).tobytes()
        if identity != mine["identity"].tobytes():
            raise PurerlError(
                f"this state belongs to {identity.decode(errors='replace')!r}, not to {self.spec.name}: "
                "restore it in a pool of that environment"
            )
        if state.keys() != mine.keys():
            raise PurerlError(f"this state of {self.spec.name} was saved by another version of it: start a new run")
        for name, array in state.items():
            if (array.shape, array.dtype) != (mine[name].shape, mine[name].dtype):
                raise PurerlError(
                    f"this state of {self.spec.name} comes from a pool of another shape: its {name} is "
                    f"{array.dtype}{list(array.shape)}, this pool's {mine[name].dtype}{list(mine[name].shape)}"
                )
        pieces = {name: np.split(state[name], self.num_groups, axis=1) for name in self._pieces()}
        for group in range(self.num_groups):
            leaves, structure = jax.tree.flatten(self._states[group])
            loaded = [_like(leaf, pieces[f"state_{i}"][group]) for i, leaf in enumerate(leaves)]
            self._states[group] = jax.tree.unflatten(structure, loaded)
            self._observations[group] = _like(self._observations[group], pieces["observation"][group])
        self._steps = state["steps"].copy()
        self._guard.rewind()

    def close(self) -> None:
        """Frees the environments. Safe to call twice."""
        if self._guard.close():
            self._states, self._observations, self._coming = [], [], []

    def __enter__(self) -> HostedPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _pieces(self) -> dict[str, list[np.ndarray]]:
        """All arrays of shape [S, N / G, ...], by name, for each group."""
        pieces: dict[str, list[np.ndarray]] = {"observation": [np.asarray(o) for o in self._observations]}
        for states in self._states:
            for i, leaf in enumerate(jax.tree.leaves(states)):
                is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                plain = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
                pieces.setdefault(f"state_{i}", []).append(plain)
        return pieces


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _reset(
    environment: Environment, num_envs: int, size: int, keys: jax.Array, first: jax.Array
) -> tuple[Any, jax.Array]:
    """(states, observations) [S, size, ...] of environments first .. first + size - 1 of each of the keys [S]."""

    def reset_seed(key: jax.Array):
        if environment.begin is not None:
            begun = environment.begin(rng.seed_of(key), num_envs)
            return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), begun)
        return jax.vmap(environment.reset)(rng.per_environment(rng.at(rng.stream(key, "reset"), 0), size, first))

    return jax.vmap(reset_seed)(keys)


@functools.partial(jax.jit, static_argnums=0)
def _step(
    environment: Environment, keys: jax.Array, first: jax.Array, count: jax.Array, states: Any, actions: jax.Array
) -> tuple[Any, TimeStep]:
    """The count-th step of states [S, M, ...] with actions [S, M, ...]: (states, TimeStep)."""

    def step_seed(key: jax.Array, states: Any, actions: jax.Array):
        step_keys = rng.per_environment(rng.at(rng.stream(key, "environment"), count), actions.shape[0], first)
        return environment.step_all(step_keys, states, actions)

    return jax.vmap(step_seed)(keys, states, actions)


def _like(leaf: jax.Array, plain: np.ndarray) -> jax.Array:
    """Converts `plain` to the array type of `leaf`: typed keys from their data, other arrays unchanged."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.array(plain), impl=jax.random.key_impl(leaf))
    return jnp.array(plain)
