"""`repeat`: its result equals the plain loop, and its derivatives equal those of that loop, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.ops.repeat import repeat

pytestmark = pytest.mark.usefixtures("strict_dtypes")
MOST = 5


def body(turn, carry):
    """Something that depends on the turn, with leaves of several types."""
    x, n, flag = carry
    return jnp.sin(x) * (turn.astype(jnp.float32) + 1.5) + n.astype(jnp.float32), n + turn, ~flag


CARRY = (jnp.array([0.3, -0.7]), jnp.int32(2), jnp.bool_(True))


@pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("count", range(MOST + 1))
def test_forwards_it_is_the_fori_loop(count, compiled):
    call = (lambda f: jax.jit(f)) if compiled else (lambda f: f)
    found = call(lambda n, carry: repeat(n, MOST, body, carry))(jnp.int32(count), CARRY)
    expected = call(lambda n, carry: jax.lax.fori_loop(0, n, body, carry))(jnp.int32(count), CARRY)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(CARRY)
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(CARRY)]


def test_no_turn_is_made_in_vain():
    """Forwards the program is one loop until `count`, not one of `most` turns."""
    jaxpr = str(jax.make_jaxpr(lambda n, carry: repeat(n, MOST, body, carry))(jnp.int32(1), CARRY))
    assert "while[" in jaxpr and "scan[" not in jaxpr and "cond[" not in jaxpr
    # Each turn adds to a NaN what the carry counts: turns that are not asked for would show.
    never = repeat(jnp.int32(0), MOST, lambda _, x: x + jnp.nan, jnp.ones(3))
    np.testing.assert_array_equal(never, np.ones(3))


def power(x, a, count):
    """x a^count, the base `a` closed over."""
    return repeat(count, MOST, lambda _, x: x * a, x)


@pytest.mark.parametrize("compiled", [jax.jit, lambda f: f], ids=["jit", "eager"])
@pytest.mark.parametrize("count", [0, 1, 3, MOST])
def test_the_gradient_by_hand(count, compiled):
    """d(x a^n)/dx = a^n, and d/da = n x a^(n - 1) of what the body closes over; 1 and 0 of no turn."""
    x, a = jnp.float32(1.5), jnp.float32(1.25)
    dx, da = compiled(jax.grad(power, argnums=(0, 1)))(x, a, jnp.int32(count))
    np.testing.assert_allclose(dx, 1.25**count, rtol=1e-6)
    np.testing.assert_allclose(da, count * 1.5 * 1.25 ** (count - 1), rtol=1e-6)


def test_a_turn_that_is_not_made_has_no_derivative():
    """A root of 0 would be infinite in the turns beyond `count`."""
    gradient = jax.grad(lambda x: repeat(jnp.int32(1), MOST, lambda _, x: jnp.sqrt(x) - 1.0, x))(jnp.float32(1.0))
    np.testing.assert_allclose(gradient, 0.5)


@pytest.mark.parametrize("counts", [None, [0, 2, 5]], ids=["one count", "a count each"])
def test_gradients_can_be_vmapped(counts):
    x, a = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.5, 2.0])
    count = jnp.int32(3) if counts is None else jnp.array(counts, jnp.int32)
    in_axes = (0, 0, None if counts is None else 0)
    values = jax.vmap(power, in_axes)(x, a, count)
    dx, da = jax.jit(jax.vmap(jax.grad(power, argnums=(0, 1)), in_axes))(x, a, count)
    n, x, a = np.broadcast_to(np.asarray(count), 3), np.asarray(x), np.asarray(a)
    np.testing.assert_allclose(values, x * a**n, rtol=1e-6)
    np.testing.assert_allclose(dx, a**n, rtol=1e-6)
    np.testing.assert_allclose(da, n * x * a ** (n - 1.0), rtol=1e-6)


@pytest.mark.parametrize("traced", [True, False], ids=["tracers", "constants"])
def test_bodies_may_close_over_tracers_keys_and_integers(traced):
    """Each turn draws from a typed key and takes a row by an index, both from outside the body."""

    def total(scale, key, index, count):
        def body(turn, x):
            noise = jax.random.normal(jax.random.fold_in(key, turn), (3,))
            return x + scale * noise * (1 + index[turn]).astype(jnp.float32)

        return repeat(count, MOST, body, jnp.zeros(3)).sum()

    key, index, count = jax.random.key(7), jnp.arange(MOST, dtype=jnp.int32), jnp.int32(4)
    drawn = [np.asarray(jax.random.normal(jax.random.fold_in(key, t), (3,))) for t in range(4)]
    noise = sum((1 + t) * x.sum() for t, x in enumerate(drawn))
    if traced:
        value, gradient = jax.jit(jax.value_and_grad(total))(jnp.float32(0.5), key, index, count)
    else:
        value, gradient = jax.value_and_grad(lambda scale: total(scale, key, index, count))(jnp.float32(0.5))
    np.testing.assert_allclose(value, 0.5 * noise, rtol=1e-5)
    np.testing.assert_allclose(gradient, noise, rtol=1e-5)


def test_lanes_with_keys_of_their_own():
    """vmap of grad over the keys that the body draws from."""

    def total(scale, key):
        draw = lambda turn, x: x + scale * jax.random.normal(jax.random.fold_in(key, turn))  # noqa: E731
        return repeat(jnp.int32(3), MOST, draw, jnp.float32(0))

    keys = jax.random.split(jax.random.key(0), 4)
    together = jax.jit(jax.vmap(jax.grad(total), (None, 0)))(jnp.float32(2.0), keys)
    for lane in range(4):
        draws = [float(jax.random.normal(jax.random.fold_in(keys[lane], t))) for t in range(3)]
        np.testing.assert_allclose(together[lane], sum(draws), rtol=1e-5)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_second_order(count):
    """d2(x a^n)/da2 = n (n - 1) x a^(n - 2), and d2/dx da = n a^(n - 1)."""
    x, a, n = jnp.float32(1.5), jnp.float32(1.25), jnp.int32(count)
    twice = jax.jit(jax.grad(jax.grad(power, argnums=1), argnums=1))(x, a, n)
    mixed = jax.jit(jax.grad(jax.grad(power, argnums=0), argnums=1))(x, a, n)
    np.testing.assert_allclose(twice, count * (count - 1) * 1.5 * 1.25 ** (count - 2), rtol=1e-5)
    np.testing.assert_allclose(mixed, count * 1.25 ** (count - 1), rtol=1e-5)


def test_gradients_pass_through_a_loop_in_a_loop():
    """An outer loop whose body is a repeat, as gradient steps hold one for the target network."""

    def total(x):
        inner = lambda x: repeat(jnp.int32(2), 3, lambda _, y: y * y, x)  # noqa: E731
        return repeat(jnp.int32(2), 3, lambda _, y: inner(y), x)

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.float32(1.01))
    np.testing.assert_allclose(value, 1.01**16, rtol=1e-5)
    np.testing.assert_allclose(gradient, 16 * 1.01**15, rtol=1e-5)
