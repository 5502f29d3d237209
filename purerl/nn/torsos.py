"""Torsos (flax linen): observations to features.

All modules take any number of leading batch axes: [..., *observation_shape] to [..., features]. They compute in `dtype`
and keep float32 parameters. Observations have the environment's dtype: uint8 is divided by 255, only here; all other
dtypes (bool, integers, floats) are cast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp

from purerl.errors import PurerlError, nearest
from purerl.nn.adaptive_pooling import adaptive_max_pool
from purerl.nn.convolution import for_linen
from purerl.nn.initializers import RESIDUAL_SCALE, InitializerName, bias_init, kernel_init
from purerl.nn.layers import ActivationName, DTypeName, PoolingName, flat_batch, images, max_pool, to_float
from purerl.nn.spectral_norm import SpectralConv
from purerl.types import Array, EnvSpec

TorsoName = Literal["auto", "impala", "impoola", "nature", "dopamine", "minatar", "mlp"]
NormalizationName = Literal["none", "layer"]


# --- Torsos ----------------------------------------------------------------------------------------------------------


def _features(
    x: Array,
    batch: tuple[int, ...],
    hidden: int,
    initializer: InitializerName,
    dtype: Any,
    context: Array | None = None,
    dropout: float = 0.0,
    normalization: NormalizationName = "none",
) -> Array:
    """The end of an image torso: images [B, H, W, C] flattened (or their means [B, C]) and the context after them, then
    a dense layer with a normalization, a ReLU and dropout, [*batch, hidden]; without that layer if `hidden` is 0. It is
    called inside of a module, which has the layer.
    """
    x = x.reshape(x.shape[0], -1)
    if context is not None:
        x = jnp.concatenate([x, context.reshape(x.shape[0], -1).astype(x.dtype)], axis=-1)
    if not hidden:
        return x.reshape(*batch, -1)
    x = nn.Dense(
        hidden,
        dtype=dtype,
        kernel_init=kernel_init(initializer, 1.4),
        bias_init=bias_init(initializer, x.shape[-1]),
        name="dense",
    )(x)
    x = _normalized(x, normalization, "dense_normalization")
    return _dropped(nn.relu(x), dropout).reshape(*batch, hidden)


def _normalized(x: Array, normalization: NormalizationName, name: str) -> Array:
    """The outputs of a layer [..., C], as they are or normalized over C with a learned scale and offset ("layer", Ba et
    al. 2016, arXiv 1607.06450). Images are normalized pixel by pixel, as in the code of PQN. It is called inside of a
    module, which has the layer.
    """
    return x if normalization == "none" else nn.LayerNorm(dtype=x.dtype, name=name)(x)


def _dropped(x: Array, rate: float, whole_channels: bool = False) -> Array:
    """Dropout of features [B, F], or of whole channels of images [B, H, W, C]; with rate 0 it needs no random key."""
    if not rate:
        return x
    return nn.Dropout(rate, broadcast_dims=(1, 2) if whole_channels else (), deterministic=False)(x)


class ImpalaCNN(nn.Module):
    """The large network of "IMPALA" by Espeholt et al. (https://arxiv.org/abs/1802.01561), 15 convolutions and no LSTM,
    as used on Procgen by Cobbe et al. 2020 (https://arxiv.org/abs/1912.01588). Images [..., H, W, C] to [..., hidden].

    Images of 64x64x3 need 622,144 parameters, 524,544 of them in the dense layer; 106,048 and 8,448 with `mean_pool`.

    Attributes:
      channels: of the stacks.
      hidden: width of the dense layer; 0 for none: the features are then the flattened images, or their means.
      frames_first: whether observations are stacked frames [..., K, H, W].
      initializer: "normed" (PPG code: 1.0 where a stack begins, 0.639 in residual blocks, 1.4 dense); see
        `kernel_init` for the others.
      pooling: border of the max-pooling, see `max_pool`.
      dtype: of the arithmetic.
      mean_pool: the dense layer sees the mean of each channel instead of the flattened images, as in "Impoola" by
        Trumpp et al. 2025 (https://arxiv.org/abs/2503.05546). The mean follows the last ReLU, as in their code.
      dropout: share of the channels dropped after the pooling of each stack, and of the features.
      normalization: "layer" for layer normalization after every convolution and before the features' ReLU.
      spectral_norm: spectral normalization of the convolutions in the residual blocks, as in "Beyond the Rainbow" by
        Clark et al. 2024 (https://arxiv.org/abs/2411.03820, table D6).
      max_pool: the last images are pooled to this size, see `adaptive_max_pool`; 0 for no pooling.
    """

    channels: tuple[int, ...] = (16, 32, 32)
    hidden: int = 256
    initializer: InitializerName = "normed"
    pooling: PoolingName = "torch"
    dtype: Any = jnp.float32
    frames_first: bool = False
    mean_pool: bool = False
    dropout: float = 0.0
    normalization: NormalizationName = "none"
    spectral_norm: bool = False
    max_pool: int = 0

    @nn.compact
    def __call__(self, observation: Array, context: Array | None = None) -> Array:
        plain = functools.partial(nn.Conv, conv_general_dilated=for_linen)
        residual = SpectralConv if self.spectral_norm else plain

        def convolution(x: Array, channels: int, scale: float, name: str, kind: Any = plain) -> Array:
            x = kind(
                channels,
                (3, 3),
                dtype=self.dtype,
                kernel_init=kernel_init(self.initializer, scale),
                bias_init=bias_init(self.initializer, 9 * x.shape[-1]),
                name=name,
            )(x)
            return _normalized(x, self.normalization, f"{name}_normalization")

        x, batch = flat_batch(images(observation, self.dtype, self.frames_first), 3)
        for s, channels in enumerate(self.channels):
            x = convolution(x, channels, 1.0, f"stack{s}")
            x = _dropped(max_pool(x, self.pooling), self.dropout, whole_channels=True)
            for b in range(2):
                y = convolution(nn.relu(x), channels, RESIDUAL_SCALE, f"stack{s}_block{b}_0", residual)
                y = convolution(nn.relu(y), channels, RESIDUAL_SCALE, f"stack{s}_block{b}_1", residual)
                x = x + y
        x = nn.relu(x)
        if self.max_pool:
            x = adaptive_max_pool(x, self.max_pool)
        if self.mean_pool:
            x = jnp.mean(x, axis=(1, 2))
        return _features(x, batch, self.hidden, self.initializer, self.dtype, context, self.dropout, self.normalization)


# IMPALA's network whose last images are averaged: features do not depend on where something is, and most of the weights
# are gone.
ImpoolaCNN = functools.partial(ImpalaCNN, mean_pool=True)


class PlainCNN(nn.Module):
    """Convolutions, each followed by a ReLU, then a dense layer. Images [..., H, W, C] to [..., hidden].

    Attributes:
      layers: (channels, size, stride) of each convolution.
      hidden: width of the dense layer; 0 for none: the features are then the flattened images.
      padding: "VALID" for none, or "SAME".
      frames_first: whether observations are stacked frames [..., K, H, W].
      initializer: "normed" is 1.0 for convolutions, 1.4 dense; see `kernel_init` for the others.
      dtype: of the arithmetic.
      dropout: share of the channels dropped after each convolution, and of the features.
      normalization: "layer" for layer normalization before every ReLU.
      max_pool: the last images are pooled to this size, see `adaptive_max_pool`; 0 for no pooling.
    """

    layers: tuple[tuple[int, int, int], ...]
    hidden: int
    initializer: InitializerName = "orthogonal"
    dtype: Any = jnp.float32
    padding: Literal["VALID", "SAME"] = "VALID"
    frames_first: bool = False
    dropout: float = 0.0
    normalization: NormalizationName = "none"
    max_pool: int = 0

    @nn.compact
    def __call__(self, observation: Array, context: Array | None = None) -> Array:
        x, batch = flat_batch(images(observation, self.dtype, self.frames_first), 3)
        for i, (channels, size, stride) in enumerate(self.layers):
            x = nn.Conv(
                channels,
                (size, size),
                (stride, stride),
                self.padding,
                dtype=self.dtype,
                kernel_init=kernel_init(self.initializer, 1.0),
                bias_init=bias_init(self.initializer, size * size * x.shape[-1]),
                conv_general_dilated=for_linen,
                name=f"convolution{i}",
            )(x)
            x = nn.relu(_normalized(x, self.normalization, f"normalization{i}"))
            x = _dropped(x, self.dropout, whole_channels=True)
        if self.max_pool:
            x = adaptive_max_pool(x, self.max_pool)
        return _features(x, batch, self.hidden, self.initializer, self.dtype, context, self.dropout, self.normalization)


# The network of "Human-level control through deep reinforcement learning" (Mnih et al. 2015), fast on large images.
NatureCNN = functools.partial(PlainCNN, layers=((32, 8, 4), (64, 4, 2), (64, 3, 1)), hidden=512)
# The network of Dopamine's DQN and Rainbow results: the same, but padded, so 7744 features instead of 3136.
DopamineCNN = functools.partial(NatureCNN, padding="SAME")
# The network of "MinAtar" (Young and Tian 2019, https://arxiv.org/abs/1903.03176).
MinAtarCNN = functools.partial(PlainCNN, layers=((16, 3, 1),), hidden=128)


class MLP(nn.Module):
    """Dense layers on flattened observations: [..., *shape] to [..., hidden[-1]].

    They work on one batch axis, because XLA's CPU products are slower with more: a gradient step of PPG on 64-64 MLPs
    took up to 1.4 times as long.

    Attributes:
      hidden: widths.
      activation: "tanh" or "relu", after every layer.
      observation_rank: number of axes to flatten.
      initializer: "orthogonal", "glorot" or "normed" (1.4).
      dtype: of the arithmetic.
      dropout: share of each layer's units dropped.
      normalization: "layer" for layer normalization before every activation.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: ActivationName = "tanh"
    observation_rank: int = 1
    initializer: InitializerName = "orthogonal"
    dtype: Any = jnp.float32
    dropout: float = 0.0
    normalization: NormalizationName = "none"

    def setup(self) -> None:
        for i, width in enumerate(self.hidden):
            if self.normalization == "layer":
                setattr(self, f"normalization{i}", nn.LayerNorm(dtype=self.dtype))
            dense = nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init(self.initializer, 1.4))
            setattr(self, f"dense{i}", dense)
            setattr(self, f"dropout{i}", nn.Dropout(self.dropout, deterministic=not self.dropout))

    def __call__(self, observation: Array, context: Array | None = None) -> Array:
        x, batch = self.flatten(observation, context)
        return self.rest(self.layer(x, 0)).reshape(*batch, self.hidden[-1])

    def flatten(self, observation: Array, context: Array | None = None) -> tuple[Array, tuple[int, ...]]:
        """Observations [..., *shape], followed by a context [..., D], as vectors [B, size]; and their leading axes."""
        x, batch = flat_batch(to_float(observation, self.dtype), self.observation_rank)
        x = x.reshape(x.shape[0], -1)
        if context is not None:
            x = jnp.concatenate([x, context.reshape(x.shape[0], -1).astype(x.dtype)], axis=-1)
        return x, batch

    def activate(self, x: Array) -> Array:
        """The activation function."""
        return {"tanh": jnp.tanh, "relu": nn.relu}[self.activation](x)

    def layer(self, x: Array, i: int) -> Array:
        """Layer i of [B, F]: a product, the normalization if there is one, the activation, dropout."""
        x = getattr(self, f"dense{i}")(x)
        if self.normalization == "layer":
            x = getattr(self, f"normalization{i}")(x)
        return getattr(self, f"dropout{i}")(self.activate(x))

    def rest(self, x: Array) -> Array:
        """All layers after the first."""
        for i in range(1, len(self.hidden)):
            x = self.layer(x, i)
        return x


class TorsoPair(nn.Module):
    """Two torsos of one kind with separate weights: [..., *shape] to two arrays of features [..., F].

    The first layers of two MLPs read the same observations, so they are computed as one matrix product of twice the
    width. A small network on a wide observation spends most of its time there.

    Attributes:
      make: the result of `make_torso`.
      names: names of the two torsos in the parameters.
    """

    make: Callable[..., nn.Module]
    names: tuple[str, str]

    @nn.compact
    def __call__(self, observation: Array, context: Array | None = None) -> tuple[Array, Array]:
        first, second = (self.make(name=name) for name in self.names)
        if self.is_initializing() or not isinstance(first, MLP) or first.dropout or first.normalization != "none":
            return first(observation, context), second(observation, context)
        weights = [module.variables["params"] for module in (first, second)]
        kernel, bias = (jnp.concatenate([w["dense0"][part] for w in weights], axis=-1) for part in ("kernel", "bias"))
        x, batch = first.flatten(observation, context)
        both = first.activate(x @ kernel.astype(first.dtype) + bias.astype(first.dtype)[None])
        halves = first.rest(both[:, : first.hidden[0]]), second.rest(both[:, first.hidden[0] :])
        return tuple(x.reshape(*batch, x.shape[-1]) for x in halves)


# --- Choosing --------------------------------------------------------------------------------------------------------


def make_torso(
    name: TorsoName,
    spec: EnvSpec,
    *,
    initializer: InitializerName = "orthogonal",
    pooling: PoolingName = "torch",
    channels: tuple[int, ...] = (16, 32, 32),
    hidden: tuple[int, ...] = (64, 64),
    activation: ActivationName = "tanh",
    dtype: DTypeName = "float32",
    features: int = 0,
    dropout: float = 0.0,
    normalization: NormalizationName = "none",
    spectral_norm: bool = False,
    max_pool: int = 0,
) -> Callable[..., nn.Module]:
    """Chooses the torso for an environment; the result is a function that creates the module.

    Args:
      name: "auto" takes "impala" for uint8 images of 32 pixels and more, "minatar" for other images (3 axes), or "mlp".
      spec: the environment.
      initializer: for all layers; "torch" is not for "mlp".
      pooling: for "impala" and "impoola".
      channels: of the stacks of "impala" and "impoola".
      hidden: widths of "mlp".
      activation: of "mlp".
      dtype: of the arithmetic.
      features: width of the dense layer that ends the other torsos; 0 for the published one.
      dropout: share of channels, units and features that are dropped; 0 for none. The module needs the random keys
        "dropout" then.
      normalization: "layer" for layer normalization in every layer.
      spectral_norm: spectral normalization in the residual blocks of "impala" and "impoola".
      max_pool: size to which the last images are pooled; 0 for no pooling. Not for "mlp".

    Returns:
      a function (name=None) -> flax module, which takes observations [..., *shape] and, if wanted, a context [..., D]
      (such as the previous action) that joins the input of the first dense layer.

    Raises:
      PurerlError: unknown names, or a torso that does not fit the observations.
    """
    _check_name("network", name, TorsoName)
    name = resolve_torso(name, spec)
    _check_name("initializer", initializer, InitializerName)
    if name == "mlp" and initializer == "torch":
        raise PurerlError("network 'mlp' does not know initializer 'torch': use orthogonal, glorot or normed")
    _check_name("pooling", pooling, PoolingName)
    _check_name("activation", activation, ActivationName)
    _check_name("dtype", dtype, DTypeName)
    _check_name("normalization", normalization, NormalizationName)
    if not all(width > 0 for width in (*hidden, *channels)) or not channels or not hidden:
        raise PurerlError(f"layers need at least one unit, not hidden {hidden} or channels {channels}")
    if spectral_norm and name not in ("impala", "impoola"):
        raise PurerlError(f"spectral_norm is for the residual blocks of impala and impoola, not for network {name}")
    if max_pool and name in ("mlp", "impoola"):
        raise PurerlError(f"max_pool is for images that become features, not for network {name}: set it to 0")
    common = {"initializer": initializer, "dtype": jnp.dtype(dtype)}
    common |= {"dropout": dropout, "normalization": normalization}
    images = common | {"frames_first": spec.stacked_frames > 1, "max_pool": max_pool}
    images |= {"hidden": features} if features else {}
    if name in ("impala", "impoola"):
        make = ImpalaCNN if name == "impala" else ImpoolaCNN
        return functools.partial(make, channels=channels, pooling=pooling, spectral_norm=spectral_norm, **images)
    if name in ("nature", "dopamine"):
        return functools.partial(NatureCNN if name == "nature" else DopamineCNN, **images)
    if name == "minatar":
        return functools.partial(MinAtarCNN, **images)
    return functools.partial(
        MLP, hidden=hidden, activation=activation, observation_rank=len(spec.observation_shape), **common
    )


def _check_name(what: str, name: str, names: Any) -> None:
    if name not in get_args(names):
        known = get_args(names)
        raise PurerlError(f"unknown {what} '{name}'.{nearest(str(name), known)} Known: {', '.join(known)}")


def resolve_torso(name: TorsoName, spec: EnvSpec) -> TorsoName:
    """Resolves "auto" to a torso name for an environment.

    Raises PurerlError if the torso's convolutions do not fit the observations.
    """
    shape = spec.observation_shape
    size = (shape[1:] if spec.stacked_frames > 1 else shape[:2]) if len(shape) == 3 else (0,)
    smallest = min(size)
    if name == "auto":
        if smallest >= 32 and spec.observation_dtype == "uint8":
            return "impala"
        return "minatar" if smallest >= 3 else "mlp"
    needed = {"impala": 8, "impoola": 8, "nature": 36, "dopamine": 8, "minatar": 3, "mlp": 0}[name]
    if smallest < needed:
        fitting = "minatar or mlp" if smallest >= 3 and name != "minatar" else "mlp"
        raise PurerlError(
            f"network '{name}' needs images of at least {needed}x{needed} pixels, but {spec.name} shows "
            f"{spec.observation_shape}; use network {fitting}, or auto"
        )
    return name
