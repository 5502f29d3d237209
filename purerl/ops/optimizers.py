"""Optimizers whose constants are traced config fields, so that they can be swept without compiling again."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from purerl.errors import PurerlError
from purerl.types import Array, Clock, PyTree

AdamName = Literal["adam", "adam-tensorflow"]
ValueOptimizerName = Literal["adam", "adam-tensorflow", "rmsprop"]


def annealed(learning_rate: Array | float, clock: Clock, final: Array | float = 0.0) -> Array:
    """A learning rate that goes linearly to `final` over the run."""
    return final + (learning_rate - final) * (1 - clock.fraction_done())


def adam(
    learning_rate: Array | float,
    *,
    epsilon: Array | float = 1e-8,
    max_grad_norm: Array | float = float("inf"),
    max_grad_value: Array | float | None = None,
    form: AdamName = "adam",
) -> optax.GradientTransformation:
    """Adam on gradients clipped to a global norm (inf for none), in optax's form or in TensorFlow 1's."""
    return optax.chain(clip_by_global_norm(max_grad_norm, max_grad_value), _ADAMS[form](learning_rate, epsilon))


def clip_by_global_norm(
    max_norm: Array | float, max_value: Array | float | None = None
) -> optax.GradientTransformation:
    """Scales gradients whose global norm is larger than `max_norm` down to it; inf for no clipping.

    With a `max_value` each number is clipped to +-max_value before that. Without it, the results are those of
    `optax.clip_by_global_norm`. But the derivatives of optax's function are NaN if the norm is 0 or `max_norm` is inf,
    and here they are finite.
    """

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        if max_value is not None:
            updates = jax.tree.map(lambda x: jnp.clip(x, -max_value, max_value), updates)
        squares = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(updates))
        within = jnp.sqrt(squares) < max_norm
        norm, limit = jnp.sqrt(jnp.where(within, 1.0, squares)), jnp.where(within, 1.0, max_norm)
        return jax.tree.map(lambda x: jnp.where(within, x, x / norm * limit), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _root(square: Array) -> Array:
    """The square root, with derivative 0 at 0: a parameter without gradient must not make a meta-gradient NaN."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def optax_adam(learning_rate: Array | float, epsilon: Array | float) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1): `optax.adam`, but with finite derivatives at zero gradients."""
    decay_first, decay_second = 0.9, 0.999
    like = optax.scale_by_adam(decay_first, decay_second)

    def update(updates: PyTree, state: optax.ScaleByAdamState, params: PyTree = None) -> Any:
        _, state = like.update(updates, state, params)
        first = optax.tree.bias_correction(state.mu, decay_first, state.count)
        second = optax.tree.bias_correction(state.nu, decay_second, state.count)
        return jax.tree.map(lambda m, v: m / (_root(v) + epsilon), first, second), state

    scale = optax.GradientTransformation(like.init, update)
    return optax.chain(scale, optax.scale_by_learning_rate(learning_rate))


def radam(
    learning_rate: Array | float, *, epsilon: Array | float = 1e-8, max_grad_norm: Array | float = float("inf")
) -> optax.GradientTransformation:
    """Rectified Adam on gradients clipped to a global norm: `optax.radam`, but with finite derivatives.

    See "On the Variance of the Adaptive Learning Rate and Beyond" by Liu et al. (https://arxiv.org/abs/1908.03265),
    algorithm 2. Its first steps, as long as the second moment has seen too few gradients to be trusted, are momentum
    without an adaptive step size. They are those with rho <= 5, as in optax and PyTorch (4 in the paper).
    """
    decay_first, decay_second, threshold = 0.9, 0.999, 5.0
    like = optax.scale_by_adam(decay_first, decay_second)
    rho_limit = 2 / (1 - decay_second) - 1

    def update(updates: PyTree, state: optax.ScaleByAdamState, params: PyTree = None) -> Any:
        _, state = like.update(updates, state, params)
        first = optax.tree.bias_correction(state.mu, decay_first, state.count)
        second = optax.tree.bias_correction(state.nu, decay_second, state.count)
        steps = state.count.astype(jnp.float32)
        power = decay_second**steps
        rho = rho_limit - 2 * steps * power / (1 - power)
        trusted = rho >= threshold
        rho = jnp.where(trusted, rho, threshold)  # so that the root below is real
        share = (rho - 4) * (rho - 2) * rho_limit / ((rho_limit - 4) * (rho_limit - 2) * rho)
        rectified = lambda m, v: jnp.where(trusted, jnp.sqrt(share) * m / (_root(v) + epsilon), m)  # noqa: E731
        return jax.tree.map(rectified, first, second), state

    scale = optax.GradientTransformation(like.init, update)
    return optax.chain(clip_by_global_norm(max_grad_norm), scale, optax.scale_by_learning_rate(learning_rate))


def centered_rmsprop(
    learning_rate: Array | float, decay: Array | float = 0.95, epsilon: Array | float = 1e-5
) -> optax.GradientTransformation:
    """RMSProp of TensorFlow 1, which trained DQN: centred, epsilon inside the root, mean square that starts at 1."""
    return optax.rmsprop(learning_rate, decay=decay, eps=epsilon, centered=True, eps_in_sqrt=True, initial_scale=1.0)


def rmsprop(
    learning_rate: Array | float,
    *,
    decay: Array | float = 0.99,
    epsilon: Array | float = 1e-5,
    max_grad_norm: Array | float = float("inf"),
) -> optax.GradientTransformation:
    """RMSProp in PyTorch's form, which trained A2C, on gradients clipped to a global norm: g / (sqrt(v) + epsilon).

    It is not centred, and the mean square v starts at 0, without a bias correction.
    """
    like = optax.scale_by_rms(0.9)

    def update(updates: PyTree, state: optax.ScaleByRmsState, params: PyTree = None) -> Any:
        square = jax.tree.map(lambda v, g: decay * v + (1 - decay) * jnp.square(g), state.nu, updates)
        return jax.tree.map(lambda g, v: g / (_root(v) + epsilon), updates, square), state._replace(nu=square)

    scale = optax.GradientTransformation(like.init, update)
    return optax.chain(clip_by_global_norm(max_grad_norm), scale, optax.scale_by_learning_rate(learning_rate))


def tensorflow_adam(learning_rate: Array | float, epsilon: Array | float) -> optax.GradientTransformation:
    """Adam of TensorFlow 1, which trained the published Rainbow, and PPO on Procgen.

    Epsilon is added to the root of the raw second moment, before the bias correction ("epsilon hat" of Kingma and Ba
    2015, section 2). So it has far more effect in the first thousand steps.
    """
    decay_first, decay_second = 0.9, 0.999
    like = optax.scale_by_adam(decay_first, decay_second)

    def update(updates: PyTree, state: optax.ScaleByAdamState, params: PyTree = None) -> Any:
        _, state = like.update(updates, state, params)
        steps = state.count.astype(jnp.float32)
        rate = -learning_rate * jnp.sqrt(1 - decay_second**steps) / (1 - decay_first**steps)
        return jax.tree.map(lambda m, v: rate * m / (_root(v) + epsilon), state.mu, state.nu), state

    return optax.GradientTransformation(like.init, update)


_ADAMS = {"adam": optax_adam, "adam-tensorflow": tensorflow_adam}


def for_parts(optimizer: optax.GradientTransformation, part: str) -> optax.GradientTransformation:
    """An optimizer with one state for the parameters under params[part] and one for all others.

    Each state has its own moments, count and gradient norm. A state is {"part": ..., "rest": ...}.
    """

    def split(tree: PyTree) -> tuple[PyTree, PyTree]:
        inner = tree["params"]
        return {part: inner[part]}, {name: x for name, x in inner.items() if name != part}

    def init(params: PyTree) -> dict[str, Any]:
        of_part, rest = split(params)
        return {"part": optimizer.init(of_part), "rest": optimizer.init(rest)}

    def update(updates: PyTree, state: dict[str, Any], params: PyTree = None) -> tuple[PyTree, dict[str, Any]]:
        (part_updates, rest_updates), (of_part, rest) = split(updates), split(params)
        part_updates, part_state = optimizer.update(part_updates, state["part"], of_part)
        rest_updates, rest_state = optimizer.update(rest_updates, state["rest"], rest)
        return {"params": {**rest_updates, **part_updates}}, {"part": part_state, "rest": rest_state}

    return optax.GradientTransformation(init, update)


def proximal_pull(fraction: Array | float) -> optax.GradientTransformationExtraArgs:
    """Pulls every parameter a fraction of the way to an anchor, after any optimizer: w + delta + m (anchor - w).

    One gradient step of the proximal iteration of "Proximal Iteration for Deep Reinforcement Learning" by Asadi et al.
    2022 (https://arxiv.org/abs/2112.05848): w <- (1 - a / c) w + (a / c) theta - a grad h(w), where the anchor theta is
    the target network, a the step size and c the proximal coefficient, so m = a / c. It is decoupled: the pull is
    neither in the loss nor in the optimizer's moments, and it starts from the old w. m = 0 (c = inf) changes nothing.

    Args:
      fraction: m, in [0, 1], [].

    Returns:
      a transformation for the end of an `optax.chain`; its `update` takes the parameters, and `anchor=` with the same
      structure.
    """

    def update(updates: PyTree, state: Any, params: PyTree = None, *, anchor: PyTree = None, **_: Any) -> Any:
        if params is None or anchor is None:
            raise PurerlError("proximal_pull needs params and anchor=, the parameters that it pulls towards: pass both")
        pulled = jax.tree.map(lambda d, w, theta: d + fraction * (theta - w), updates, params, anchor)
        return pulled, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def proximal_penalty(coefficient: Array | float, params: PyTree, anchor: PyTree) -> Array:
    """The coupled ablation of `proximal_pull`: coefficient / 2 |w - anchor|^2 over all leaves, to add to a loss."""
    squares = jax.tree.map(lambda w, theta: ((w - jax.lax.stop_gradient(theta)) ** 2).sum(), params, anchor)
    return 0.5 * coefficient * sum(jax.tree.leaves(squares))


def value_optimizer(
    name: ValueOptimizerName,
    learning_rate: Array | float,
    *,
    epsilon: Array | float,
    max_grad_norm: Array | float = float("inf"),
    proximal_coefficient: Array | float = float("inf"),
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of the DQN family, on gradients clipped to a global norm, then the proximal pull.

    Args:
      name: "adam", "adam-tensorflow" (see `tensorflow_adam`) or "rmsprop" (see `centered_rmsprop`).
      learning_rate: a, step size.
      epsilon: the optimizer's epsilon.
      max_grad_norm: inf for no clipping.
      proximal_coefficient: c of `proximal_pull`, whose m is a / c; inf for no pull.

    Returns:
      a transformation whose `update` takes the parameters, and `anchor=`, the target parameters.
    """
    base = {
        **_ADAMS,
        "rmsprop": lambda rate, epsilon: centered_rmsprop(rate, epsilon=epsilon),
    }[name](learning_rate, epsilon)
    return optax.chain(clip_by_global_norm(max_grad_norm), base, proximal_pull(learning_rate / proximal_coefficient))
