"""Spectral normalization of convolutions: the kernel divided by an estimate of its largest singular value.

See "Spectral Normalization for Generative Adversarial Networks" by Miyato et al. 2018
(https://arxiv.org/abs/1802.05957), algorithm 1. The kernel [h, w, in, out] is a matrix W [h w in, out].

The vector u of the power iteration is a variable of the collection "spectral", beside "params". A network reads it;
an agent calls `power_iteration` after each step of its optimizer, once. So acting, the target network, checkpoints and
lanes all use stored vectors, and a forward pass changes nothing. (PyTorch iterates in every forward pass of training.)
u gets no gradient, so an optimizer that steps on all variables leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from purerl.nn.convolution import convolution
from purerl.types import Array, PyTree

COLLECTION = "spectral"
_FIRST_ITERATIONS = 15  # as in torch.nn.utils.parametrizations.spectral_norm
_SMALLEST = 1e-12  # a norm is at least this, as there


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), _SMALLEST)


def _matrix(kernel: Array) -> Array:
    return kernel.reshape(-1, kernel.shape[-1])


def iterated(kernel: Array, u: Array) -> Array:
    """One turn of the power iteration: kernel [h, w, in, out] and u [out] to a unit vector [out]."""
    w = _matrix(kernel)
    return _unit(w.T @ _unit(w @ u))


def singular_value(kernel: Array, u: Array) -> Array:
    """The estimate v^T W u [] with v = W u / |W u|, for kernel [h, w, in, out] and u [out].

    Its gradient is v u^T: both vectors count as constants.
    """
    w, u = _matrix(kernel), jax.lax.stop_gradient(u)
    v = jax.lax.stop_gradient(_unit(w @ u))
    return jnp.maximum(v @ (w @ u), _SMALLEST)


def power_iteration(variables: PyTree) -> PyTree:
    """The variables of a network after one turn of the power iteration of every normalized convolution.

    Variables without spectral normalization stay as they are.
    """
    if COLLECTION not in variables:
        return variables
    params, vectors = (traverse_util.flatten_dict(variables[name]) for name in ("params", COLLECTION))
    found = {path: iterated(params[*path[:-1], "kernel"], u) for path, u in vectors.items()}
    return {**variables, COLLECTION: traverse_util.unflatten_dict(found)}


class SpectralConv(nn.Module):
    """A convolution of stride 1 with a normalized kernel: images [B, H, W, C] to [B, H, W, features].

    Attributes:
      features: channels of the output.
      size: height and width of the kernel.
      kernel_init, bias_init: initializers.
      dtype: of the arithmetic; the singular value is computed in float32.
    """

    features: int
    size: tuple[int, int]
    kernel_init: Callable[..., Array]
    bias_init: Callable[..., Array]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (*self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)

        def first() -> Array:
            u = _unit(jax.random.normal(self.make_rng("params"), (self.features,), jnp.float32))
            for _ in range(_FIRST_ITERATIONS):
                u = iterated(kernel, u)
            return u

        u = self.variable(COLLECTION, "u", first).value
        kernel = kernel / singular_value(kernel, u)
        out = convolution(x.astype(self.dtype), kernel.astype(self.dtype), (1, 1), "SAME")
        return out + bias.astype(self.dtype).reshape(1, 1, 1, -1)
