"""The persistent cache, and doing without it."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from purerl.loops.compilation import CompileWatch, without_cache


@pytest.fixture
def cache(tmp_path):
    """A cache of its own that keeps everything."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    saved = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in saved.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def hits():
    """Programs that one more compilation of the same function finds in the cache."""
    watch = CompileWatch()
    jax.jit(lambda x: jnp.sin(x) * 3).lower(jax.ShapeDtypeStruct((7,), jnp.float32)).compile()
    watch.stop()
    assert watch.programs == 1
    return watch.cache_hits


def test_without_the_cache_everything_is_compiled_anew(cache):
    assert [hits(), hits()] == [0, 1]
    with without_cache():
        assert hits() == 0
    assert hits() == 1
    with pytest.raises(RuntimeError, match="as it was"), without_cache():
        raise RuntimeError("as it was")
    assert hits() == 1
