"""Sprites drawn in tiles against the same drawn whole, one after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs.procgen_jax import sampling, tiles, turning

VIEW = sampling.View(*(np.float32(x) for x in (4, 16, 0, 0)))


def pictures(random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Three small pictures as `sampling.read` gives them."""
    sizes = np.array([[5, 7], [12, 12], [3, 20]], np.int32)
    table = np.zeros((3, 21, 21, 4), np.uint8)
    table[..., 3] = 255
    for picture, (height, width) in zip(table, sizes, strict=True):
        behind = random.choice([0, 255, 100], (height, width, 1))
        colour = random.rand(height, width, 3) * (256 - behind)
        picture[:height, :width] = np.concatenate([colour, behind], axis=-1).astype(np.uint8)
    return table, sizes


def test_tiles_are_whole_sprites_in_their_order():
    random, number = np.random.RandomState(0), 12
    looks = pictures(random)
    frame = jnp.asarray(random.randint(0, 256, (64, 64, 3)).astype(np.uint8))

    @jax.jit
    def both(boxes, kinds, order, there):
        found = tiles.Sprites(boxes, kinds, jnp.zeros(number), order, there)
        drawn = tiles.draw(frame, looks, VIEW, found, number * tiles.number(40, 40))
        first = jnp.argsort(order)
        whole = sampling.draw_boxes(frame, looks, VIEW, boxes[first], kinds[first], there[first], 10.0)
        return drawn, whole

    for _ in range(30):
        place, radii = random.uniform(-3, 19, (number, 2)), random.choice([0.4, 1.1, 2.3, 5.0], (number, 2))
        boxes = jnp.asarray(np.concatenate([place, radii], axis=1), jnp.float32)
        kinds, order = jnp.asarray(random.randint(0, 3, number), jnp.int32), random.permutation(number)
        drawn, whole = both(boxes, kinds, jnp.asarray(order, jnp.int32), jnp.asarray(random.rand(number) < 0.8))
        np.testing.assert_array_equal(drawn, whole)
        assert (np.asarray(drawn) != np.asarray(frame)).any()


def test_a_turned_sprite_fits_into_a_tile():
    """At the angles of a table that another drawing function takes; float32 radians give their degrees back."""
    random = np.random.RandomState(1)
    looks = pictures(random)
    angles = np.array([90.0, -90.0, 37.5, 135.0, -150.0, 180.00001])
    radians = (angles * np.pi / 180).astype(np.float32)
    degrees = (radians * np.float32(180) / np.float32(np.pi)).astype(float)
    assert degrees[:2].tolist() == [90, -90]
    sprite = turning.Sprite(np.float32(0.5), degrees, pictures=3)
    frame = jnp.asarray(random.randint(0, 256, (64, 64, 3)).astype(np.uint8))

    @jax.jit
    def both(place, angle, kind):
        box = jnp.concatenate([place, jnp.full(2, 0.5)])[None]
        found = tiles.Sprites(box, kind[None], jnp.asarray(radians)[angle][None], kind[None], jnp.ones(1, bool))
        drawn = tiles.draw(frame, looks, VIEW, found, 1)
        return drawn, turning.draw(frame, looks, sprite, VIEW, place, angle, kind)

    for trial in range(60):
        place = jnp.asarray(random.uniform(0, 16, 2), jnp.float32)
        drawn, whole = both(place, jnp.int32(trial % len(angles)), jnp.int32(trial % 3))
        np.testing.assert_array_equal(drawn, whole)


def test_degrees_are_rounded_as_in_the_library():
    radians = np.random.RandomState(0).uniform(-5, 5, 1_000).astype(np.float32)
    expected = radians * np.float32(180) / np.float32(np.pi)
    np.testing.assert_array_equal(jax.jit(tiles.in_degrees)(radians), expected)
    reciprocal = radians * np.float32(180) * (np.float32(1) / np.float32(np.pi))
    assert (reciprocal != expected).mean() > 0.1
