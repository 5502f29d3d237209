"""Optimizers whose constants are traced config fields, so that they can be swept without compiling again."""

from __future__ import annotations

from typing import Any

import optax

from purerl.types import Array, Clock


def annealed(config: Any, clock: Clock | None) -> Array:
    """The learning rate, going linearly to 0 over the run if `config.anneal_learning_rate`."""
    if config.anneal_learning_rate and clock is not None:
        return config.learning_rate * (1 - clock.fraction_done())
    return config.learning_rate


def adam(config: Any, clock: Clock | None = None) -> optax.GradientTransformation:
    """Adam on gradients clipped to a global norm (`config.max_grad_norm`; inf for none), step size by `annealed`."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(annealed(config, clock), eps=config.adam_epsilon),
    )
