"""Action distributions as functions of their parameters, which are the output of a policy head.

Everything is batched over leading axes, except `sample`, which takes one key and one set of parameters. The caller
vmaps it over one key per environment, so an environment's actions do not depend on the number of environments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from purerl.errors import PurerlError
from purerl.types import Array, EnvSpec, GaussianParameters


class Distribution(NamedTuple):
    """A family of distributions over actions.

    Attributes:
      sample: (key [], params) -> action. Unbatched.
      log_prob: (params [...], action [...]) -> float32 [...].
      entropy: params [...] -> float32 [...].
      kl: (p [...], q [...]) -> float32 [...], KL(p || q), with gradients to both.
      mode: params [...] -> the most likely action [...].
    """

    sample: Callable[[Array, Any], Array]
    log_prob: Callable[[Any, Array], Array]
    entropy: Callable[[Any], Array]
    kl: Callable[[Any, Any], Array]
    mode: Callable[[Any], Array]


def _log_softmax(logits: Array) -> Array:
    return jax.nn.log_softmax(logits.astype(jnp.float32))


def categorical_sample(key: Array, logits: Array) -> Array:
    """Draws one action, int32 [], from logits [A]."""
    chex.assert_rank(logits, 1)
    return jax.random.categorical(key, logits.astype(jnp.float32)).astype(jnp.int32)


def categorical_log_prob(logits: Array, action: Array) -> Array:
    """Log-probabilities [...] of actions [...] (integers in [0, A)) under logits [..., A]."""
    chex.assert_equal_shape([logits[..., 0], action])
    chex.assert_type(action, int)
    # As fast as a gather, and its gradient is not a scatter (slow on accelerators).
    chosen = jax.nn.one_hot(action, logits.shape[-1], dtype=jnp.bool_)
    return jnp.sum(jnp.where(chosen, _log_softmax(logits), 0.0), axis=-1)


def categorical_entropy(logits: Array) -> Array:
    """Entropies [...] of logits [..., A], in nats."""
    log_p = _log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def categorical_kl(p_logits: Array, q_logits: Array) -> Array:
    """KL(p || q) [...] of logits [..., A], summed over the actions."""
    chex.assert_equal_shape([p_logits, q_logits])
    log_p, log_q = _log_softmax(p_logits), _log_softmax(q_logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def categorical_mode(logits: Array) -> Array:
    """The most likely actions, int32 [...], of logits [..., A]; the first of equals."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _float32(params: GaussianParameters) -> tuple[Array, Array]:
    chex.assert_equal_shape([params.mean, params.log_std])
    return params.mean.astype(jnp.float32), params.log_std.astype(jnp.float32)


def gaussian_sample(key: Array, params: GaussianParameters) -> Array:
    """Draws one action, float32 [D]. It is not clipped: the environment handles its bounds."""
    mean, log_std = _float32(params)
    chex.assert_rank(mean, 1)
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, jnp.float32)


def gaussian_log_prob(params: GaussianParameters, action: Array) -> Array:
    """Log-densities [...] of actions [..., D]."""
    mean, log_std = _float32(params)
    chex.assert_equal_shape([mean, action])
    chex.assert_type(action, float)
    normal = (action.astype(jnp.float32) - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * jnp.square(normal) - log_std - 0.5 * math.log(2 * math.pi), axis=-1)


def gaussian_entropy(params: GaussianParameters) -> Array:
    """Differential entropies [...], in nats."""
    _, log_std = _float32(params)
    return jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)


def gaussian_kl(p: GaussianParameters, q: GaussianParameters) -> Array:
    """KL(p || q) [...], summed over the dimensions of the action."""
    (mean_p, log_std_p), (mean_q, log_std_q) = _float32(p), _float32(q)
    chex.assert_equal_shape([mean_p, mean_q])
    log_scale = log_std_p - log_std_q
    shift = (mean_p - mean_q) * jnp.exp(-log_std_q)
    return jnp.sum(0.5 * (jnp.expm1(2 * log_scale) + jnp.square(shift)) - log_scale, axis=-1)


def gaussian_mode(params: GaussianParameters) -> Array:
    """The means, float32 [..., D]."""
    return _float32(params)[0]


CATEGORICAL = Distribution(
    categorical_sample, categorical_log_prob, categorical_entropy, categorical_kl, categorical_mode
)
DIAGONAL_GAUSSIAN = Distribution(gaussian_sample, gaussian_log_prob, gaussian_entropy, gaussian_kl, gaussian_mode)


def for_spec(spec: EnvSpec) -> Distribution:
    """The distribution for an environment's actions.

    CATEGORICAL over logits [..., A] for discrete actions, DIAGONAL_GAUSSIAN over GaussianParameters [..., D] for
    vectors. Raises PurerlError for other actions.
    """
    if spec.num_actions:
        return CATEGORICAL
    if len(spec.action_shape) != 1:
        raise PurerlError(
            f"{spec.name}: actions of shape {spec.action_shape} are not supported; "
            "flatten them to a vector in the environment"
        )
    return DIAGONAL_GAUSSIAN
