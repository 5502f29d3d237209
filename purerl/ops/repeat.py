"""A loop with a traced length that supports reverse-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl.types import Array, PyTree


def repeat(count: Array, most: int, body: Callable[[Array, PyTree], PyTree], carry: PyTree) -> PyTree:
    """`jax.lax.fori_loop(0, count, body, carry)`, with reverse-mode derivatives.

    Without derivatives it is exactly that loop: it runs `count` steps, and copies nothing if `count` is 0. Reverse mode
    needs a static length, so for derivatives the loop has `most` steps, each a branch on `turn < count`.

    Args:
      count: int32 [], at most `most`. It must not be batched under vmap, or every lane runs every step.
      most: the upper bound of `count`.
      body: (turn, carry) -> carry.
      carry: pytree.

    Returns:
      the last carry.
    """
    flat, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, carry))
    turn_type = jax.ShapeDtypeStruct((), jnp.int32)

    def flat_body(turn: Array, *leaves: Array) -> list[Array]:
        return jax.tree.leaves(body(turn, jax.tree.unflatten(treedef, leaves)))

    # The values that the body closes over become arguments, or their derivatives would be lost.
    closed = jax.make_jaxpr(flat_body)(turn_type, *flat)

    def turns(consts: list[Array], turn: Array, leaves: list[Array]) -> list[Array]:
        return jax.core.eval_jaxpr(closed.jaxpr, consts, turn, *leaves)

    @jax.custom_vjp
    def loop(consts: list[Array], count: Array, leaves: list[Array]) -> list[Array]:
        return jax.lax.fori_loop(0, count, lambda turn, now: turns(consts, turn, now), leaves)

    def of_known_length(consts: list[Array], count: Array, leaves: list[Array]) -> list[Array]:
        def step(now: list[Array], turn: Array) -> tuple[list[Array], None]:
            return jax.lax.cond(turn < count, lambda x: turns(consts, turn, x), lambda x: x, now), None

        return jax.lax.scan(step, leaves, jnp.arange(most, dtype=jnp.int32))[0]

    def forward(consts, count, leaves):
        return jax.vjp(of_known_length, consts, count, leaves)

    def backward(pullback, cotangents):
        return pullback(cotangents)

    loop.defvjp(forward, backward)
    return jax.tree.unflatten(treedef, loop(closed.consts, count, flat))
