"""Buffers in either memory: the same rows come back, batched or not, and the host's stay on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.buffers import offload


@pytest.mark.parametrize("memory", ["device", "host"])
def test_rows_written_are_read(memory):
    buffer = offload.zeros(memory, (3, 4, 2), "uint8")
    row = jnp.arange(8, dtype=jnp.uint8).reshape(4, 2)
    buffer = jax.jit(lambda b, i: offload.write(memory, b, row, i))(buffer, 1)
    rows = jax.jit(lambda b, i: offload.read(memory, b, i))(buffer, jnp.array([[1, 3], [0, 3], [1, 0]]))
    np.testing.assert_array_equal(rows, [[6, 7], [0, 0], [0, 1]])
    default = jax.devices()[0].default_memory().kind
    assert rows.sharding.memory_kind == default
    assert buffer.sharding.memory_kind == (default if memory == "device" else "pinned_host")


@pytest.mark.parametrize("batched", [(True, True), (True, False), (False, True)])
def test_batched_reads_from_the_host_equal_indexing(batched):
    values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    indices = np.array([[[0, 1], [2, 3]], [[1, 1], [0, 2]]])
    buffer, chosen = (x if b else x[0] for x, b in zip((values, indices), batched, strict=True))
    put = jax.device_put(jnp.asarray(buffer), jax.memory.Space.Host)
    read = jax.vmap(lambda b, i: offload.read("host", b, i), in_axes=[0 if b else None for b in batched])
    found = jax.jit(read)(put, jnp.asarray(chosen))
    for s in range(2):
        (i, j), block = indices[s if batched[1] else 0].T, values[s if batched[0] else 0]
        np.testing.assert_array_equal(found[s], block[i, j])


def test_no_gather_or_scatter_touches_the_host_memory():
    buffer = jax.device_put(jnp.zeros((2, 3, 4)), jax.memory.Space.Host)
    read = jax.vmap(lambda b, i: offload.read("host", b, i))
    jaxpr = str(jax.make_jaxpr(read)(buffer, jnp.zeros((2, 5, 1), jnp.int32)))
    assert "dynamic_slice" in jaxpr
    assert "gather" not in jaxpr
    write = jax.vmap(lambda b, row, i: offload.write("host", b, row, i), in_axes=(0, 0, None))
    jaxpr = str(jax.make_jaxpr(write)(buffer, jnp.zeros((2, 4)), 1))
    assert "dynamic_update_slice" in jaxpr
    assert "scatter" not in jaxpr
