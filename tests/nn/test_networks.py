"""Networks: parameter counts, initial weights, pooling, input scaling, leading axes, dtypes and what is refused."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from purerl.errors import PurerlError
from purerl.nn import heads, initializers, layers, q_network, torsos
from purerl.ops.distributions import CATEGORICAL, GaussianParameters
from purerl.types import EnvSpec

pytestmark = pytest.mark.usefixtures("strict_dtypes")
with_and_without_jit = pytest.mark.parametrize("compiled", [jax.jit, lambda f: f], ids=["jit", "eager"])
both_poolings = pytest.mark.parametrize("pooling", ["torch", "tensorflow"])

PROCGEN = EnvSpec("procgen/coinrun", (64, 64, 3), "uint8", 15)
MINATAR = EnvSpec("gymnax/Breakout-MinAtar", (10, 10, 4), "bool", 3)
CARTPOLE = EnvSpec("gymnax/CartPole-v1", (4,), "float32", 2)
PENDULUM = EnvSpec("gymnax/Pendulum-v1", (3,), "float32", 0, action_shape=(2,))


class ActorCritic(nn.Module):
    """A torso with both heads."""

    spec: EnvSpec
    torso: nn.Module
    initializer: str

    @nn.compact
    def __call__(self, observation):
        features = self.torso(observation)
        policy = heads.PolicyHead(self.spec, self.initializer, name="policy")(features)
        return policy, heads.ValueHead(self.initializer, name="value")(features)


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


def frames(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (*shape, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def impala():
    """(network, params) with the initial weights of the PPG code. Small tests share them: compiling is slow."""
    network = ActorCritic(PROCGEN, torsos.make_torso("impala", PROCGEN, initializer="normed")(), "normed")
    return network, jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.uint8))


def test_parameter_counts(impala):
    _, params = impala
    assert count(params["params"]["torso"]) == 622_144
    assert count(params) == 626_256
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


def test_normed_initial_weights(impala):
    _, params = impala
    params = params["params"]
    stems = {f"stack{s}": 1.0 for s in range(3)}
    blocks = {f"stack{s}_block{b}_{i}": 0.638943 for s in range(3) for b in range(2) for i in range(2)}
    assert set(params["torso"]) == {*stems, *blocks, "dense"}
    for name, scale in {**stems, **blocks, "dense": 1.4}.items():
        kernel = np.asarray(params["torso"][name]["kernel"], np.float64)
        lengths = np.sqrt((kernel.reshape(-1, kernel.shape[-1]) ** 2).sum(0))
        np.testing.assert_allclose(lengths, scale, atol=1e-5, err_msg=name)
    for name in ("policy", "value"):
        np.testing.assert_allclose(np.linalg.norm(params[name]["dense"]["kernel"], axis=0), 0.1, atol=1e-5)
    biases = [x for path, x in jax.tree.leaves_with_path(params) if path[-1].key == "bias"]
    assert len(biases) == 18
    for bias in biases:
        np.testing.assert_array_equal(bias, 0.0)


def test_initial_policy_is_nearly_uniform(impala):
    network, params = impala
    logits, value = jax.jit(network.apply)(params, frames((4,)))
    assert logits.shape == (4, 15) and value.shape == (4,)
    np.testing.assert_allclose(CATEGORICAL.entropy(logits), math.log(15), atol=0.01)


@with_and_without_jit
def test_normed_directions_are_random(compiled):
    kernel = compiled(lambda key: initializers.normed(2.0)(key, (3, 3, 8, 32)))(jax.random.key(0)).reshape(-1, 32)
    np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=0), 2.0, rtol=1e-5)
    cosines = np.asarray(kernel.T @ kernel) / 4.0 - np.eye(32)
    assert abs(cosines).max() < 0.6 and abs(kernel.mean()) < 0.01


def test_baselines_initial_weights():
    network = ActorCritic(PROCGEN, torsos.ImpalaCNN((16,), initializer="glorot", pooling="tensorflow"), "glorot")
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8))["params"]
    # Uniform within +-sqrt(6 / (fan in + fan out)).
    fans = {"stack0": 9 * 3 + 9 * 16, "stack0_block1_1": 9 * 16 + 9 * 16, "dense": 4 * 4 * 16 + 256}
    for name, fan in fans.items():
        kernel, limit = np.asarray(params["torso"][name]["kernel"]), math.sqrt(6 / fan)
        assert 0.9 * limit < abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.std(), limit / math.sqrt(3), rtol=0.1)
    policy, value = np.asarray(params["policy"]["dense"]["kernel"]), np.asarray(params["value"]["dense"]["kernel"])
    np.testing.assert_allclose(policy.T @ policy, 1e-4 * np.eye(15), atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(value), 1.0, rtol=1e-5)


def test_orthogonal_initial_weights():
    params = jax.jit(torsos.MLP(hidden=(64, 32)).init)(jax.random.key(0), jnp.zeros(8))["params"]
    first, second = np.asarray(params["dense0"]["kernel"]), np.asarray(params["dense1"]["kernel"])
    np.testing.assert_allclose(first @ first.T, 2 * np.eye(8), atol=1e-5)
    np.testing.assert_allclose(second.T @ second, 2 * np.eye(32), atol=1e-5)


@functools.partial(jax.jit, static_argnums=2)
def pool_and_pull(x, gradient, pooling):
    """(pooled when only evaluated, pooled when differentiated, gradient of x)."""
    pooled, pull = jax.vjp(lambda x: layers.max_pool(x, pooling), x)
    return layers.max_pool(x, pooling), pooled, pull(gradient)[0]


@with_and_without_jit
def test_pooling_of_a_ramp(compiled):
    ramp = jnp.broadcast_to(jnp.arange(64.0)[None, :, None, None], (1, 64, 64, 2))
    for axes in ((0, 1, 2, 3), (0, 2, 1, 3)):
        x = ramp.transpose(axes)
        torch = compiled(lambda x: layers.max_pool(x, "torch"))(x).transpose(axes)
        tensorflow = compiled(lambda x: layers.max_pool(x, "tensorflow"))(x).transpose(axes)
        assert torch.shape == tensorflow.shape == (1, 32, 32, 2)
        np.testing.assert_array_equal(torch[0, :, 5, 1], 2 * np.arange(32) + 1)
        np.testing.assert_array_equal(tensorflow[0, :, 5, 1], np.minimum(2 * np.arange(32) + 2, 63))


def slow_max_pool(x, gradient, pooling):
    """(pooled, gradient of x), window by window. The first maximum takes the gradient."""
    batch, height, width, channels = x.shape
    out = [(n + 1) // 2 for n in (height, width)]
    before = [1 if pooling == "torch" or n % 2 else 0 for n in (height, width)]
    pooled, d_x = np.zeros((batch, *out, channels), x.dtype), np.zeros_like(x)
    for b, i, j, c in np.ndindex(pooled.shape):
        window = [
            (row, column)
            for row in range(2 * i - before[0], 2 * i - before[0] + 3)
            for column in range(2 * j - before[1], 2 * j - before[1] + 3)
            if 0 <= row < height and 0 <= column < width
        ]
        best = max(window, key=lambda at: x[b, at[0], at[1], c])
        pooled[b, i, j, c] = x[b, best[0], best[1], c]
        d_x[b, best[0], best[1], c] += gradient[b, i, j, c]
    return pooled, d_x


@both_poolings
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4), (8, 8), (9, 9)])
@pytest.mark.parametrize("ties", [False, True])
def test_pooling_and_its_gradient_equal_the_definition(pooling, size, ties):
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 1, (2, *size, 3)) if ties else rng.normal(size=(2, *size, 3)) - 3.0
    x = x.astype(np.float32)
    gradient = rng.normal(size=(2, (size[0] + 1) // 2, (size[1] + 1) // 2, 3)).astype(np.float32)
    pooled, d_x = slow_max_pool(x, gradient, pooling)
    evaluated, differentiated, pulled = pool_and_pull(jnp.asarray(x), jnp.asarray(gradient), pooling)
    np.testing.assert_array_equal(evaluated, pooled)
    np.testing.assert_array_equal(differentiated, pooled)
    np.testing.assert_allclose(pulled, d_x, rtol=1e-6, atol=1e-6)


@jax.jit
def xla_pool_and_pull(x, gradient):
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    pooled, pull = jax.vjp(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "SAME"), x)
    return pooled, pull(gradient)[0]


def test_pooling_equals_xla():
    x = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    gradient = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    pooled, d_x = xla_pool_and_pull(x, gradient)
    _, same, same_d_x = pool_and_pull(x, gradient, "tensorflow")
    np.testing.assert_array_equal(same, pooled)
    np.testing.assert_allclose(same_d_x, d_x, rtol=1e-5, atol=1e-6)


def test_pooling_can_be_vmapped_and_keeps_its_dtype():
    x = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 4)).astype(jnp.bfloat16)
    gradient = jnp.ones((3, 2, 3, 3, 4), jnp.bfloat16)
    together = jax.vmap(lambda x, g: pool_and_pull(x, g, "torch"))(x, gradient)
    assert all(part.dtype == jnp.bfloat16 for part in together)
    for i in range(3):
        for part, alone in zip(together, pool_and_pull(x[i], gradient[i], "torch"), strict=True):
            np.testing.assert_array_equal(part[i], alone)


@both_poolings
def test_images_shrink_by_half_in_each_stack(pooling):
    network = torsos.ImpalaCNN(pooling=pooling)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(network.init, key, images)
    _, seen = jax.eval_shape(lambda p, x: network.apply(p, x, capture_intermediates=True), params, images)
    seen = {name: call["__call__"][0].shape for name, call in seen["intermediates"].items() if name != "__call__"}
    assert [seen[f"stack{s}"][1:3] for s in range(3)] == [(64, 64), (32, 32), (16, 16)]
    assert [seen[f"stack{s}_block0_0"][1:3] for s in range(3)] == [(32, 32), (16, 16), (8, 8)]
    assert params["params"]["dense"]["kernel"].shape == (8 * 8 * 32, 256)


def test_impala_equals_a_spelled_out_network():
    """The order of operations, on one small network."""
    network = torsos.ImpalaCNN(channels=(4, 6), hidden=8)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8))
    params = jax.jit(network.init)(jax.random.key(0), images)
    # Biases are 0 at first, which would hide a missing one; negative ones make every ReLU count.
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype) if x.ndim == 1 else x, params)

    def relu(x):
        return jnp.maximum(x, 0.0)

    @jax.jit
    def spelled_out(p, images):
        def convolution(x, name):
            numbers = ("NHWC", "HWIO", "NHWC")
            out = lax.conv_general_dilated(x, p[name]["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
            return out + p[name]["bias"].reshape(1, 1, 1, -1)

        x = images.astype(jnp.float32) / 255
        for s in range(2):
            x = layers.max_pool(convolution(x, f"stack{s}"), "torch")
            for b in range(2):
                x = x + convolution(relu(convolution(relu(x), f"stack{s}_block{b}_0")), f"stack{s}_block{b}_1")
        return relu(relu(x.reshape(2, -1)) @ p["dense"]["kernel"] + p["dense"]["bias"].reshape(1, -1))

    expected = spelled_out(params["params"], images)
    assert float(jnp.abs(expected).max()) > 0.1
    np.testing.assert_allclose(jax.jit(network.apply)(params, images), expected, rtol=1e-5, atol=1e-5)


def sizes(network, shape):
    """The number of parameters of each layer, for uint8 images of a shape; nothing is computed."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(network.init, key, jax.ShapeDtypeStruct((1, *shape), jnp.uint8))["params"]
    return {name: sum(math.prod(x.shape) for x in jax.tree.leaves(layer)) for name, layer in params.items()}


def test_impoola_averages_the_images_before_the_dense_layer():
    """The mean of what impala flattens, with the same convolutions."""
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8))
    spec = dataclasses.replace(PROCGEN, observation_shape=(16, 16, 3))
    network = torsos.make_torso("impoola", spec, channels=(4, 6))(hidden=8)
    params = jax.jit(network.init)(jax.random.key(0), images)
    dense = params["params"]["dense"] | {"bias": jnp.linspace(-0.5, 0.5, 8)}
    params = {"params": params["params"] | {"dense": dense}}
    without = {"params": {name: x for name, x in params["params"].items() if name != "dense"}}
    flat = jax.jit(torsos.ImpalaCNN((4, 6), hidden=0).apply)(without, images)
    means = flat.reshape(2, 3, 4 * 4, 6).mean(2)
    expected = jnp.maximum(jnp.einsum("tnf,fh->tnh", means, dense["kernel"]) + dense["bias"].reshape(1, 1, -1), 0)
    found = jax.jit(network.apply)(params, images)
    assert found.shape == (2, 3, 8) and (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(network.clone(hidden=0).apply)(without, images), means, rtol=1e-5, atol=1e-6)


def test_parameter_counts_of_impoola():
    found = sizes(torsos.make_torso("impoola", PROCGEN)(), (64, 64, 3))
    assert found["dense"] == (32 + 1) * 256 and sum(found.values()) == 106_048
    # Its convolutions are those of impala, and their number does not depend on the images' size.
    impala = sizes(torsos.make_torso("impala", PROCGEN)(), (64, 64, 3))
    assert found | {"dense": 524_544} == impala and sum(impala.values()) == 622_144
    assert sizes(torsos.make_torso("impoola", PROCGEN)(), (128, 96, 3)) == found
    wide = sizes(torsos.make_torso("impoola", PROCGEN, channels=(32, 64, 64))(), (64, 64, 3))
    assert sum(wide.values()) == 388_736 + (64 + 1) * 256
    action_values = sizes(q_network.QNetwork(PROCGEN, "impoola"), (64, 64, 3))
    assert action_values == {"torso": 97_600, "dense0": 33 * 256, "value": 257 * 15}


def test_parameter_counts_of_the_procgen_winners():
    """NeurIPS 2020: 2,496,849 parameters of the generalization track's winner, 1,368,208 of the other's."""
    wide = torsos.ImpalaCNN((32, 64, 64), hidden=512)
    assert sum(sizes(wide, (64, 64, 9)).values()) == 2_488_128
    with_heads = sum(sizes(ActorCritic(PROCGEN, wide, "normed"), (64, 64, 9)).values())
    assert with_heads + 513 == 2_496_849  # the auxiliary value head is missing
    torso = sum(sizes(torsos.make_torso("impala", PROCGEN, channels=(32, 48, 64))(), (64, 64, 6)).values())
    # It reads the last of 15 actions before and after its dense layer.
    assert torso + 15 * 256 + (256 + 15 + 1) * (15 + 1) == 1_368_208


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_to_float(dtype):
    scaled = layers.to_float(jnp.array([0, 51, 255], jnp.uint8), dtype)
    assert scaled.dtype == dtype
    np.testing.assert_allclose(
        scaled.astype(jnp.float32), [0.0, 0.2, 1.0], rtol=1e-6 if dtype == jnp.float32 else 0.004
    )
    assert float(scaled[2]) == 1.0
    # Only uint8 is scaled.
    for same in (jnp.array([0.0, 255.0]), jnp.array([0, 255], jnp.int32)):
        np.testing.assert_array_equal(layers.to_float(same, dtype), jnp.array([0, 255], dtype))
    np.testing.assert_array_equal(layers.to_float(jnp.array([False, True]), dtype), jnp.array([0, 1], dtype))


@pytest.mark.parametrize("stacked", [2, 3])
def test_differences_of_frames(stacked):
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 4, stacked, 3), np.uint8)
    x = layers.to_float(jnp.asarray(frames.reshape(2, 5, 4, 4, -1)), jnp.float32)
    found = np.asarray(layers.with_differences(x)).reshape(2, 5, 4, 4, 2 * stacked - 1, 3)
    np.testing.assert_array_equal(found[..., :stacked, :], np.asarray(x).reshape(frames.shape))
    signed = frames.astype(np.float64)
    for k in range(stacked - 1):  # the previous frame minus the current one
        expected = (signed[..., k, :] - signed[..., k + 1, :]) / 255
        np.testing.assert_allclose(found[..., stacked + k, :], expected, atol=1e-6)
    assert found.min() < -0.5 and found.min() >= -1 and found.max() <= 1


@pytest.mark.parametrize(("name", "shape"), [("impala", (8, 8, 3)), ("minatar", (10, 10, 3)), ("mlp", (4, 3))])
def test_uint8_is_scaled_exactly_once(name, shape):
    spec = EnvSpec("x/y", shape, "uint8", 2)
    torso = torsos.make_torso(name, spec, channels=(2, 2, 2))()
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8))
    params = jax.jit(torso.init)(jax.random.key(0), images)
    apply = jax.jit(torso.apply)
    out, same = apply(params, images), apply(params, images.astype(jnp.float32) / 255)
    np.testing.assert_allclose(out, same, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(out - apply(params, images.astype(jnp.float32))).max()) > 0.1


@pytest.mark.parametrize(
    ("name", "spec", "features", "parameters"),
    [
        (
            "nature",
            PROCGEN,
            512,
            (8 * 8 * 3 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64 + (16 * 64 + 1) * 512,
        ),
        ("minatar", MINATAR, 128, (3 * 3 * 4 + 1) * 16 + (8 * 8 * 16 + 1) * 128),
        ("mlp", MINATAR, 64, (400 + 1) * 64 + 65 * 64),
        ("mlp", CARTPOLE, 64, 5 * 64 + 65 * 64),
    ],
)
def test_torsos_take_any_leading_axes(name, spec, features, parameters):
    torso = torsos.make_torso(name, spec)()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 2, (2, 3, *spec.observation_shape)), spec.observation_dtype)
    params = jax.jit(torso.init)(jax.random.key(0), x)
    assert count(params) == parameters
    apply = jax.jit(torso.apply)
    out = apply(params, x)
    assert out.shape == (2, 3, features) and out.dtype == jnp.float32
    np.testing.assert_allclose(apply(params, x[1, 2]), out[1, 2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(params, x[:, 0]), out[:, 0], rtol=1e-5, atol=1e-6)


def test_impala_takes_any_leading_axes(impala):
    network, params = impala
    images = frames((2, 3))
    logits, value = jax.jit(network.apply)(params, images)
    assert logits.shape == (2, 3, 15) and value.shape == (2, 3)
    one = jax.jit(network.apply)(params, images[1, 2])
    np.testing.assert_allclose(one[0], logits[1, 2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one[1], value[1, 2], rtol=1e-4, atol=1e-5)


def test_bfloat16_arithmetic_with_float32_parameters_and_outputs(impala):
    network, params = impala
    narrow = ActorCritic(PROCGEN, torsos.make_torso("impala", PROCGEN, dtype="bfloat16")(), "normed")
    images = frames((4,))
    logits, value = jax.jit(narrow.apply)(params, images)
    wide_logits, wide_value = jax.jit(network.apply)(params, images)
    assert logits.dtype == value.dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(jax.eval_shape(narrow.init, jax.random.key(0), images)))
    torso = jax.eval_shape(narrow.torso.apply, {"params": params["params"]["torso"]}, images)
    assert torso.dtype == jnp.bfloat16
    np.testing.assert_allclose(logits, wide_logits, atol=0.02)
    assert not np.array_equal(logits, wide_logits)
    np.testing.assert_allclose(value, wide_value, atol=0.02)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_mlp_equals_matrix_products(activation):
    network = torsos.MLP(hidden=(5, 4), activation=activation, observation_rank=2)
    x = jax.random.normal(jax.random.key(0), (3, 2, 2))
    params = jax.tree.map(lambda x: x + 0.1 if x.ndim == 1 else x, jax.jit(network.init)(jax.random.key(1), x))
    y = np.asarray(x).reshape(3, 4)
    for name in ("dense0", "dense1"):
        y = y @ np.asarray(params["params"][name]["kernel"]) + np.asarray(params["params"][name]["bias"])
        y = np.tanh(y) if activation == "tanh" else np.maximum(y, 0)
    np.testing.assert_allclose(network.apply(params, x), y, rtol=1e-5, atol=1e-6)


def test_continuous_policy_head():
    head = heads.PolicyHead(PENDULUM)
    features = jax.random.normal(jax.random.key(0), (4, 3, 8)).astype(jnp.bfloat16)
    params = jax.jit(head.init)(jax.random.key(1), features)
    out = jax.jit(head.apply)(params, features)
    assert isinstance(out, GaussianParameters)
    assert out.mean.shape == out.log_std.shape == (4, 3, 2)
    assert out.mean.dtype == out.log_std.dtype == jnp.float32
    np.testing.assert_array_equal(out.log_std, 0.0)
    assert params["params"]["log_std"].shape == (2,)
    # It does not depend on the features, and it learns.
    gradient = jax.grad(lambda p: head.apply(p, features).log_std.sum())(params)["params"]
    np.testing.assert_array_equal(gradient["log_std"], 12.0)
    np.testing.assert_array_equal(gradient["dense"]["kernel"], 0.0)


@pytest.mark.parametrize(
    ("shape", "dtype", "torso"),
    [
        ((64, 64, 3), "uint8", torsos.ImpalaCNN),
        ((32, 40, 4), "uint8", torsos.ImpalaCNN),
        ((31, 40, 4), "uint8", torsos.PlainCNN),
        ((64, 64, 3), "float32", torsos.PlainCNN),
        ((10, 10, 4), "bool", torsos.PlainCNN),
        ((2, 10, 4), "float32", torsos.MLP),
        ((64, 64), "uint8", torsos.MLP),
        ((4,), "float32", torsos.MLP),
        ((), "int32", torsos.MLP),
    ],
)
def test_auto(shape, dtype, torso):
    made = torsos.make_torso("auto", EnvSpec("x/y", shape, dtype, 2))()
    assert type(made) is torso
    if torso is torsos.PlainCNN:
        assert made == torsos.MinAtarCNN(dtype=jnp.dtype("float32"))
    x = jnp.zeros((2, *shape), dtype)
    assert jax.eval_shape(lambda: made.init_with_output(jax.random.key(0), x)[0]).shape[0] == 2


@pytest.mark.parametrize(
    ("spec", "choice", "message"),
    [
        (
            MINATAR,
            {"name": "nature"},
            r"needs images of at least 36x36 pixels.*\(10, 10, 4\); use network minatar or mlp",
        ),
        (CARTPOLE, {"name": "impala"}, r"gymnax/CartPole-v1 shows \(4,\); use network mlp, or auto"),
        (CARTPOLE, {"name": "minatar"}, "use network mlp, or auto"),
        (PROCGEN, {"name": "impalla"}, "unknown network 'impalla'. Did you mean 'impala'?"),
        (PROCGEN, {"initializer": "norm"}, "unknown initializer 'norm'. Did you mean 'normed'?"),
        (PROCGEN, {"pooling": "pytorch"}, "Did you mean 'torch'?"),
        (PROCGEN, {"dtype": "float16"}, "unknown dtype 'float16'"),
        (CARTPOLE, {"activation": "gelu"}, "unknown activation 'gelu'"),
        (CARTPOLE, {"hidden": (64, 0)}, r"at least one unit, not hidden \(64, 0\)"),
        (PROCGEN, {"channels": ()}, "at least one unit"),
    ],
)
def test_impossible_choices_are_refused(spec, choice, message):
    with pytest.raises(PurerlError, match=message.replace("?", r"\?")):
        torsos.make_torso(**{"name": "auto", "spec": spec, **choice})


def test_smallest_images_fit():
    for name, size in (("nature", 36), ("impala", 8), ("impoola", 8), ("minatar", 3)):
        spec = dataclasses.replace(PROCGEN, observation_shape=(size, size, 3))
        torso = torsos.make_torso(name, spec)()
        jax.eval_shape(torso.init, jax.random.key(0), jnp.zeros((1, size, size, 3), jnp.uint8))
        with pytest.raises(PurerlError):
            torsos.make_torso(name, dataclasses.replace(spec, observation_shape=(size - 1, size, 3)))
