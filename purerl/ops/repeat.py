"""A loop whose length is decided as the program runs, and that reverse mode passes all the same."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl.types import Array, PyTree


def repeat(count: Array, most: int, body: Callable[[Array, PyTree], PyTree], carry: PyTree) -> PyTree:
    """`jax.lax.fori_loop(0, count, body, carry)`, with reverse-mode derivatives.

    Forwards it is that very loop: no turn is made in vain, and nothing is copied where `count` is 0. Reverse mode needs
    a loop of a known length, so for derivatives it is `most` turns, each a branch on `turn < count`.

    Args:
      count: int32 [], at most `most`; not batched under vmap, or every lane makes every turn.
      most: the most that `count` can be.
      body: (turn, carry) -> carry.
      carry: pytree.

    Returns:
      the last carry.
    """
    flat, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, carry))
    turn_type = jax.ShapeDtypeStruct((), jnp.int32)

    def flat_body(turn: Array, *leaves: Array) -> list[Array]:
        return jax.tree.leaves(body(turn, jax.tree.unflatten(treedef, leaves)))

    # What the body closes over becomes an argument, or its derivatives would be lost.
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
