"""Procgen in the graph: `procgen-jax/<game>` plays the library's own levels by its own rules, written in JAX.

`family` puts a game together; `maze`, `miner`, ... hold the rules of one game each. `banks` keeps what is taken from
the library: levels and pictures. `states` reads its states, `frames` its pictures, `mersenne` is its random generator.
"""

from purerl.envs.procgen_jax.family import (
    FIX,
    LEVELS_OF,
    Options,
    about,
    build_levels,
    example,
    make,
    names,
    picture,
    score,
)

__all__ = ["FIX", "LEVELS_OF", "Options", "about", "build_levels", "example", "make", "names", "picture", "score"]
