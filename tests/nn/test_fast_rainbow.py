"""Network parts of "Beyond the Rainbow": spectral normalization, adaptive maximum pooling, the quantile embedding."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.errors import PurerlError
from purerl.nn import q_network, spectral_norm, torsos
from purerl.nn.adaptive_pooling import adaptive_max_pool
from purerl.nn.quantile_embedding import QuantileEmbedding
from purerl.types import EnvSpec

pytestmark = pytest.mark.usefixtures("strict_dtypes")
ATARI = EnvSpec("test/atari", (4, 84, 84), "uint8", 18, stacked_frames=4)
SMALL = EnvSpec("test/small", (10, 10, 4), "bool", 3)


def test_the_estimate_becomes_the_largest_singular_value():
    """Against numpy's decomposition; one turn is that of algorithm 1, with both vectors of length 1."""
    random = np.random.default_rng(0)
    kernel, u = random.standard_normal((3, 3, 4, 5)), random.standard_normal(5)
    u, matrix = u / np.linalg.norm(u), kernel.reshape(36, 5)
    v = matrix @ u / np.linalg.norm(matrix @ u)
    turned = matrix.T @ v / np.linalg.norm(matrix.T @ v)
    kernel, u = jnp.asarray(kernel, jnp.float32), jnp.asarray(u, jnp.float32)
    np.testing.assert_allclose(spectral_norm.iterated(kernel, u), turned, rtol=1e-4, atol=1e-6)
    value, gradients = jax.value_and_grad(spectral_norm.singular_value, (0, 1))(kernel, u)
    np.testing.assert_allclose(value, v @ matrix @ np.asarray(u), rtol=1e-5)
    np.testing.assert_allclose(gradients[0].reshape(36, 5), np.outer(v, u), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(gradients[1], 0.0)
    for _ in range(100):
        u = spectral_norm.iterated(kernel, u)
    found = spectral_norm.singular_value(kernel, u)
    np.testing.assert_allclose(found, np.linalg.svd(matrix, compute_uv=False)[0], rtol=1e-4)
    assert spectral_norm.singular_value(0 * kernel, u) > 0  # so that a kernel of zeros is not divided by 0


@pytest.fixture(scope="module")
def small():
    """A small network with every part, its variables, and observations."""
    network = q_network.QNetwork(
        SMALL, "impala", dueling=True, separate_streams=True, noisy=True, channels=(2, 3), features=8,
        spectral_norm=True, max_pool=2,
    )  # fmt: skip
    x = jnp.asarray(np.random.default_rng(1).random((4, 10, 10, 4)) < 0.5)
    variables = jax.jit(network.init)(jax.random.key(0), x, None, jnp.zeros((4, 1)))
    return network, variables, x


def test_residual_convolutions_are_normalized(small):
    """Those and no others, as in table D6 of the paper. 15 turns have found most of the largest singular values."""
    _, variables, _ = small
    vectors = flax.traverse_util.flatten_dict(variables["spectral"])
    blocks = {("torso", f"stack{s}_block{b}_{i}", "u") for s in range(2) for b in range(2) for i in range(2)}
    assert set(vectors) == blocks
    ratios = []
    for path, u in vectors.items():
        kernel = flax.traverse_util.flatten_dict(variables["params"])[*path[:-1], "kernel"]
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
        ratios.append(float(spectral_norm.singular_value(kernel, u)) / largest)
        np.testing.assert_allclose(np.linalg.norm(u), 1.0, rtol=1e-5)
    assert np.median(ratios) > 0.999 and min(ratios) > 0.8 and max(ratios) < 1.0001, ratios


def test_a_layer_divides_its_kernel():
    """So a kernel twice as large gives the same images, and a pass leaves the vector alone."""
    convolution = spectral_norm.SpectralConv(3, (3, 3), jax.nn.initializers.normal(1.0), jax.nn.initializers.zeros)
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 2))
    variables = convolution.init(jax.random.key(1), x)
    kernel, u = variables["params"]["kernel"], variables["spectral"]["u"]
    plain = jax.lax.conv_general_dilated(
        x, kernel / spectral_norm.singular_value(kernel, u), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    out, changed = convolution.apply(variables, x, mutable=["spectral"])
    np.testing.assert_allclose(out, plain, atol=1e-5)
    np.testing.assert_array_equal(changed["spectral"]["u"], u)
    doubled = {**variables, "params": {**variables["params"], "kernel": 2 * kernel}}
    np.testing.assert_allclose(convolution.apply(doubled, x), out, atol=1e-5)


def test_a_turn_of_all_vectors(small):
    """Each by its own kernel; parameters stay, and variables without vectors are returned as they are."""
    _, variables, _ = small
    moved = {**variables, "params": jax.tree.map(lambda x: x + 1, variables["params"])}
    after = spectral_norm.power_iteration(moved)
    assert after["params"] is moved["params"]
    place = lambda tree: tree["torso"]["stack1_block0_1"]  # noqa: E731
    kernel, u = place(moved["params"])["kernel"], place(moved["spectral"])["u"]
    np.testing.assert_array_equal(place(after["spectral"])["u"], spectral_norm.iterated(kernel, u))
    only = {"params": variables["params"]}
    assert spectral_norm.power_iteration(only) is only


@pytest.mark.parametrize(("height", "width", "size"), [(11, 11, 6), (12, 9, 3), (2, 3, 6), (7, 7, 7)])
def test_adaptive_pooling(height, width, size):
    """Each output is the maximum of the pixels of its window, as PyTorch documents it; 11 and 6 are Atari's."""
    x = np.random.default_rng(2).standard_normal((2, height, width, 3)).astype(np.float32)
    found = np.asarray(adaptive_max_pool(jnp.asarray(x), size))
    assert found.shape == (2, size, size, 3)
    for i in range(size):
        for j in range(size):
            rows = slice(int(np.floor(i * height / size)), int(np.ceil((i + 1) * height / size)))
            columns = slice(int(np.floor(j * width / size)), int(np.ceil((j + 1) * width / size)))
            np.testing.assert_array_equal(found[:, i, j], x[:, rows, columns].max((1, 2)))


def test_quantile_embedding():
    """Eq. 4, for features and fractions with two leading axes."""
    random = np.random.default_rng(3)
    features, taus = random.standard_normal((2, 3, 5)), random.random((2, 3, 4))
    embedding = QuantileEmbedding()
    inputs = jnp.asarray(features, jnp.float32), jnp.asarray(taus, jnp.float32)
    params = embedding.init(jax.random.key(0), *inputs)["params"]["dense"]
    params = jax.tree.map(np.asarray, params)
    cosines = np.cos(np.pi * np.arange(64) * taus[..., None])
    expected = features[:, :, None] * np.maximum(cosines @ params["kernel"] + params["bias"], 0)
    np.testing.assert_allclose(embedding.apply({"params": {"dense": params}}, *inputs), expected, atol=1e-5)


def test_quantiles_depend_on_their_own_fraction_alone(small):
    """And rows on their own noise: [B, A, N] in any order, alone or together."""
    network, variables, x = small
    apply, keys = jax.jit(network.apply), jax.random.split(jax.random.key(5), 4)
    taus = jax.random.uniform(jax.random.key(4), (4, 6))
    out = apply(variables, x, keys, taus)
    assert out.shape == (4, 3, 6) and np.std(out, axis=-1).min() > 0
    np.testing.assert_allclose(apply(variables, x, keys, taus[:, ::-1])[..., ::-1], out, atol=1e-5)
    np.testing.assert_allclose(network.apply(variables, x[1:2], keys[1], taus[1:2]), out[1:2], atol=1e-5)
    assert not np.allclose(apply(variables, x, keys[::-1], taus), out, atol=1e-3)


def test_the_published_number_of_parameters():
    """2.91 million, 2.52 of them in linear layers (figure E7 of the paper): with 18 actions, without the noise."""
    network = q_network.QNetwork(
        ATARI, "impala", dueling=True, separate_streams=True, noisy=True, channels=(32, 64, 64), features=512,
        spectral_norm=True, max_pool=6,
    )  # fmt: skip
    zeros = jnp.zeros((1, 4, 84, 84), jnp.uint8)
    shapes = jax.eval_shape(network.init, jax.random.key(0), zeros, None, jnp.zeros((1, 8)))["params"]
    sizes = {path: x.size for path, x in flax.traverse_util.flatten_dict(shapes).items() if "sigma" not in path[-1]}
    linear = sum(size for path, size in sizes.items() if path[0] != "torso")
    assert (round(sum(sizes.values()) / 1e6, 2), round(linear / 1e6, 2)) == (2.91, 2.52)
    assert shapes["quantile_embedding"]["dense"]["kernel"].shape == (64, 6 * 6 * 64)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "minatar", "spectral_norm": True}, "residual blocks of impala and impoola, not for network minatar"),
        ({"name": "mlp", "max_pool": 6}, "not for network mlp"),
        ({"name": "impoola", "max_pool": 6}, "not for network impoola"),
    ],
)
def test_impossible_parts_are_refused(choice, message):
    with pytest.raises(PurerlError, match=message):
        torsos.make_torso(spec=SMALL, **choice)
