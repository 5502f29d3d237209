"""The CPU form of convolutions against JAX's own, alone, vmapped over kernels, and inside a loop."""

import jax
import numpy as np
import pytest
from jax import lax

from purerl.nn import convolution as module
from purerl.nn.convolution import convolution

CASES = [
    # size, in, out, kernel, stride, padding
    (9, 3, 4, 3, 1, "SAME"),
    (8, 2, 5, 3, 2, "SAME"),
    (20, 3, 4, 8, 4, "VALID"),
    (18, 3, 4, 3, 1, "SAME"),
    (17, 2, 5, 3, 2, ((1, 2), (0, 1))),
    (11, 4, 3, 4, 2, "VALID"),
    (10, 4, 3, 4, 3, "VALID"),
    (7, 2, 2, 2, 1, ((1, 2), (0, 1))),
    (17, 20, 4, 3, 1, "SAME"),  # pairs of columns, also of the images' gradient (20 to 4 channels, not 4 to 20)
    (19, 2, 3, 5, 1, ((2, 1), (2, 2))),
]


def inputs(size, channels, out, kernel, seeds=2, batch=5):
    keys = jax.random.split(jax.random.key(0), 2)
    return (
        jax.random.normal(keys[0], (seeds, batch, size, size + 1, channels)),
        jax.random.normal(keys[1], (seeds, kernel, kernel, channels, out)),
    )


def value_and_gradients(function, x, kernel):
    return jax.value_and_grad(lambda x, k: (function(x, k) ** 2).sum(), argnums=(0, 1))(x, kernel)


@pytest.mark.parametrize(("size", "channels", "out", "kernel", "stride", "padding"), CASES)
def test_values_and_gradients(size, channels, out, kernel, stride, padding):
    xs, kernels = inputs(size, channels, out, kernel)
    ours = lambda x, k: convolution(x, k, (stride, stride), padding)  # noqa: E731
    theirs = lambda x, k: lax.conv_general_dilated(  # noqa: E731
        x, k, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    compare = lambda a, b: jax.tree.map(  # noqa: E731
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-3), a, b
    )
    compare(value_and_gradients(ours, xs[0], kernels[0]), value_and_gradients(theirs, xs[0], kernels[0]))
    batched = jax.vmap(lambda x, k: value_and_gradients(ours, x, k))(xs, kernels)
    compare(batched, jax.vmap(lambda x, k: value_and_gradients(theirs, x, k))(xs, kernels))
    _, looped = jax.jit(lambda x, k: lax.scan(lambda c, row: (c, value_and_gradients(ours, *row)), 0, (x, k)))(
        xs, kernels
    )
    compare(looped, batched)


def test_gradient_in_parts_of_the_batch(monkeypatch):
    """48 images in parts of 16, and 37 in one part, since no part of at least 8 images divides them."""
    monkeypatch.setattr(module, "_PART", 16 * 17 * 18 * 4)
    for batch, parts in ((48, 3), (37, 1)):
        xs, kernels = inputs(17, 3, 4, 3, seeds=1, batch=batch)
        ours = jax.grad(lambda k, x=xs[0]: (convolution(x, k, (1, 1), "SAME") ** 2).sum())
        theirs = jax.grad(
            lambda k, x=xs[0]: (
                lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) ** 2
            ).sum()
        )
        np.testing.assert_allclose(ours(kernels[0]), theirs(kernels[0]), rtol=1e-4, atol=1e-3)
        assert ("length=3" in str(jax.make_jaxpr(ours)(kernels[0]))) == (parts == 3)
