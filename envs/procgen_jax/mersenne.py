"""The library's random generator (std::mt19937, Matsumoto and Nishimura 1998) inside the graph, O(1) work per draw.

The textbook version renews all 624 words at once. Here each draw renews the one word that it returns: word p depends on
the words p, p + 1 and p + 397, which hold the same values at that moment either way. So the stream is the same.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from purerl.types import Array

NUM_WORDS = 624
_LAG = 397


@struct.dataclass
class Generator:
    """uint32 [624], the words; int32 [], the one that the next draw renews."""

    words: Array
    position: Array


def seeded(seed: Array) -> Generator:
    """The generator of a seed, uint32 []."""

    def following(word: Array, i: Array) -> tuple[Array, Array]:
        word = jnp.uint32(1812433253) * (word ^ (word >> 30)) + i
        return word, word

    first = jnp.asarray(seed).astype(jnp.uint32)
    _, rest = jax.lax.scan(following, first, jnp.arange(1, NUM_WORDS, dtype=jnp.uint32))
    return Generator(jnp.concatenate([first[None], rest]), jnp.zeros((), jnp.int32))


def draw(generator: Generator, where: Array | bool = True) -> tuple[Generator, Array]:
    """(generator, uint32 []): draws a word; where `where` is False the generator stays as it is."""
    words, p = generator.words, generator.position

    def word(at: Array) -> Array:
        return words.at[jnp.where(at < NUM_WORDS, at, at - NUM_WORDS)].get(mode="promise_in_bounds")

    old = word(p)
    joined = (old & jnp.uint32(0x80000000)) | (word(p + 1) & jnp.uint32(0x7FFFFFFF))
    new = word(p + _LAG) ^ (joined >> 1) ^ jnp.where(joined & 1 == 1, jnp.uint32(0x9908B0DF), jnp.uint32(0))
    words = words.at[p].set(jnp.where(where, new, old), mode="promise_in_bounds")
    after = jnp.where(p + 1 == NUM_WORDS, 0, p + 1)
    return Generator(words, jnp.where(where, after, p)), _tempered(new)


def below(word: Array, low: int, high: int) -> Array:
    """The library's randint(low, high) of a word, int32 in [low, high)."""
    return low + (word % jnp.uint32(high - low)).astype(jnp.int32)


def of_games(seed: Array, num_games: int) -> Generator:
    """The generators [num_games, ...] that choose the levels of the games of one library environment with a rand_seed.

    The library draws one number for each game, in their order, and seeds the game's generator with it.
    """
    _, seeds = jax.lax.scan(lambda generator, _: draw(generator), seeded(seed), None, length=num_games)
    return jax.vmap(seeded)(seeds)


def _tempered(word: Array) -> Array:
    word = word ^ (word >> 11)
    word = word ^ ((word << 7) & jnp.uint32(0x9D2C5680))
    word = word ^ ((word << 15) & jnp.uint32(0xEFC60000))
    return word ^ (word >> 18)
