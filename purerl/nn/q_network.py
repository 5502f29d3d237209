"""Networks of the DQN family: action values or their distributions, with optional dueling heads and noisy layers."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl.nn import initializers, layers, torsos
from purerl.nn.quantile_embedding import QuantileEmbedding
from purerl.types import Array, EnvSpec

# Width of the dense layer after each kind of convolutions, as published.
_DENSE = {"impala": 256, "impoola": 256, "nature": 512, "dopamine": 512, "minatar": 128}


class NoisyDense(nn.Module):
    """A dense layer whose weights are a mean and a learned spread times noise: [..., P] to [..., Q].

    Factorised noise of "Noisy Networks for Exploration" by Fortunato et al. (https://arxiv.org/abs/1706.10295), eq. 9
    to 11: w = mu + sigma f(e_out) f(e_in)^T with f(x) = sign(x) sqrt(|x|). The rank-one noise is applied to inputs and
    outputs, so that every row of a batch can have its own noise at the cost of two matrix products.

    Attributes:
      features: Q.
      sigma: every sigma starts at sigma / sqrt(P) (0.5 in the paper, 0.1 in Dopamine).
      dtype: of the arithmetic.
    """

    features: int
    sigma: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, noise: Array | None) -> Array:
        """Applies the layer to [..., P]. `noise`: a key [] for all, keys [N] for x [N, ..., P], None for no noise."""
        inputs = x.shape[-1]
        bound = 1 / math.sqrt(inputs)

        def uniform(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        spread = nn.initializers.constant(self.sigma * bound)
        kernel = self.param("kernel", uniform, (inputs, self.features)).astype(self.dtype)
        bias = self.param("bias", uniform, (self.features,)).astype(self.dtype)
        kernel_sigma = self.param("kernel_sigma", spread, (inputs, self.features)).astype(self.dtype)
        bias_sigma = self.param("bias_sigma", spread, (self.features,)).astype(self.dtype)
        row = (1,) * (x.ndim - 1)
        mean = x @ kernel + bias.reshape(*row, -1)
        if noise is None:
            return mean

        def draw(key: Array) -> tuple[Array, Array]:
            normal = jax.random.normal(key, (inputs + self.features,), self.dtype)
            shaped = jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))
            return shaped[:inputs], shaped[inputs:]

        if noise.ndim == 0:
            noise_in, noise_out = (part.reshape(*row, -1) for part in draw(noise))
        else:
            rows = (len(noise), *[1] * (x.ndim - 2), -1)
            noise_in, noise_out = (part.reshape(rows) for part in jax.vmap(draw)(noise))
        return mean + ((x * noise_in) @ kernel_sigma + bias_sigma.reshape(*row, -1)) * noise_out


class QNetwork(nn.Module):
    """Observations [..., *shape] to values [..., A], or to logits [..., A, K] of their distributions, in float32.

    With fractions tau [..., N] it is an implicit quantile network (IQN): quantiles [..., A, N] of the returns. The
    embedding of the fractions joins before the last hidden layer: after the convolutions, as published.

    Attributes:
      spec: the environment; its actions are discrete.
      network: torso, see `torsos.make_torso`.
      hidden: widths of the dense layers if it is "mlp"; the other torsos have one, as published.
      activation: of the dense layers.
      initializer: for all layers that are not noisy.
      atoms: K, 0 for plain values.
      dueling: whether value and advantages have separate outputs, combined as in "Dueling Network Architectures" by
        Wang et al. (https://arxiv.org/abs/1511.06581), eq. 9, for each atom.
      separate_streams: whether each of the two has a last hidden layer of its own.
      noisy: whether all dense layers are noisy.
      sigma: see `NoisyDense`.
      dtype: of the torso's arithmetic.
      channels: of IMPALA's stacks.
      features: width of the hidden layer after convolutions; 0 for the published one.
      spectral_norm, max_pool: see `torsos.make_torso`.
    """

    spec: EnvSpec
    network: torsos.TorsoName
    hidden: tuple[int, ...] = (64, 64)
    activation: layers.ActivationName = "relu"
    initializer: initializers.InitializerName = "glorot"
    atoms: int = 0
    dueling: bool = False
    noisy: bool = False
    sigma: float = 0.1
    dtype: layers.DTypeName = "float32"
    separate_streams: bool = False
    channels: tuple[int, ...] = (16, 32, 32)
    features: int = 0
    spectral_norm: bool = False
    max_pool: int = 0

    @nn.compact
    def __call__(self, observation: Array, noise: Array | None = None, fractions: Array | None = None) -> Array:
        """Applies the network to [..., *shape] and fractions [..., N], if it is an IQN. `noise` as in `NoisyDense`;
        every layer derives its own key from it.
        """
        dtype, rank = jnp.dtype(self.dtype), len(self.spec.observation_shape)
        name = torsos.resolve_torso(self.network, self.spec)
        if name == "mlp":
            widths, x = self.hidden, layers.to_float(observation, dtype)
            x = x.reshape(*x.shape[: x.ndim - rank], -1)
        else:
            make = torsos.make_torso(
                name,
                self.spec,
                initializer=self.initializer,
                dtype=self.dtype,
                channels=self.channels,
                spectral_norm=self.spectral_norm,
                max_pool=self.max_pool,
            )
            widths, x = (self.features or _DENSE[name],), make(name="torso", hidden=0)(observation)

        def dense(x: Array, size: int, name: str, layer: int, dtype: Any) -> Array:
            if not self.noisy:
                init = initializers.kernel_init(self.initializer, 1.4)
                bias = initializers.bias_init(self.initializer, x.shape[-1])
                return nn.Dense(size, dtype=dtype, kernel_init=init, bias_init=bias, name=name)(x)
            key = noise
            if noise is not None:
                fold = lambda k: jax.random.fold_in(k, layer)  # noqa: E731
                key = fold(noise) if noise.ndim == 0 else jax.vmap(fold)(noise)
            return NoisyDense(size, self.sigma, dtype, name=name)(x, key)

        activate = {"tanh": jnp.tanh, "relu": nn.relu}[self.activation]
        number, separate = len(widths), self.dueling and self.separate_streams

        def last_hidden(x: Array, name: str, layer: int) -> Array:
            for width in widths[-1:]:
                x = activate(dense(x, width, name, layer, dtype))
            return x

        def output(x: Array, size: int, name: str, layer: int, hidden_layer: int) -> Array:
            x = last_hidden(x, f"{name}_hidden", hidden_layer) if separate else x
            return dense(x.astype(jnp.float32), size, name, layer, jnp.float32)

        for i, width in enumerate(widths[:-1]):
            x = activate(dense(x, width, f"dense{i}", i, dtype))
        if fractions is not None:
            x = QuantileEmbedding(initializer=self.initializer, dtype=dtype, name="quantile_embedding")(x, fractions)
        if not separate:
            x = last_hidden(x, f"dense{number - 1}", number - 1)
        atoms, actions = max(1, self.atoms), self.spec.num_actions
        out = output(x, actions * atoms, "advantage" if self.dueling else "value", number, number - 1)
        out = out.reshape(*out.shape[:-1], actions, atoms)
        if self.dueling:
            value = output(x, atoms, "value", number + 1, number + 2)[..., None, :]
            out = value + out - jnp.mean(out, axis=-2, keepdims=True)
        if fractions is not None:
            return jnp.swapaxes(out[..., 0], -1, -2)
        return out if self.atoms else out[..., 0]
