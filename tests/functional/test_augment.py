"""Random changes of an image, against the same in plain numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.functional import augment

KEYS = 400
SHAPES = [((5, 4), np.uint8), ((5, 4), np.float32), ((4, 6, 3), np.uint8)]
shapes = pytest.mark.parametrize(("shape", "dtype"), SHAPES)


def image_of(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 256, shape) / (1 if dtype == np.uint8 else 256)).astype(dtype)


def over_keys(function, *images):
    """The results of a function (*images, key) for many keys, on the host."""
    keys = jax.random.split(jax.random.PRNGKey(3), KEYS)
    mapped = jax.jit(jax.vmap(function, in_axes=(*[None] * len(images), 0)))
    return jax.device_get(mapped(*map(jnp.asarray, images), keys))


def windows(padded, shape, most):
    places = np.ndindex(2 * most + 1, 2 * most + 1)
    return [padded[i : i + shape[0], j : j + shape[1]] for i, j in places]


def moved(image, most):
    return windows(
        np.pad(image, [(most, most)] * 2 + [(0, 0)] * (image.ndim - 2)), image.shape, most
    )


def cut_out(image, most):
    border = [(most, most)] * 2 + [(0, 0)] * (image.ndim - 2)
    return windows(np.pad(image, border, mode="reflect"), image.shape, most)


def flipped(image):
    return [image, image[:, ::-1]]


def with_holes(image, size):
    results = []
    for row, column in np.ndindex(*image.shape[:2]):
        holed, top, left = image.copy(), row - size // 2, column - size // 2
        holed[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
        results.append(holed)
    return results


CHANGES = {  # the function, its argument, and all that may come out
    "shift": (augment.shift, (1,), moved),
    "crop": (augment.crop, (2,), cut_out),
    "flip": (augment.flip, (), flipped),
    "cutout": (augment.cutout, (2,), with_holes),
    "a larger cutout": (augment.cutout, (3,), with_holes),
}


@shapes
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_occurs_about_equally_often_and_no_other(name, shape, dtype):
    function, arguments, all_of = CHANGES[name]
    image = image_of(shape, dtype)
    results = over_keys(lambda image, key: function(image, key, *arguments), image)
    assert results.dtype == dtype
    possible = [each.tobytes() for each in all_of(image, *arguments)]
    counts = dict.fromkeys(possible, 0)
    for result in results:
        counts[result.tobytes()] += 1
    for each, count in counts.items():
        assert count >= 0.2 * KEYS * possible.count(each) / len(possible)


@shapes
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_is_the_mean_with_a_share_from_its_distribution(alpha, shape, dtype):
    one, other = image_of(shape, dtype), image_of(shape, dtype, 1)
    mixed, shares = over_keys(lambda *rest: augment.mixup(*rest, alpha), one, other)
    assert mixed.dtype == dtype
    assert shares.dtype == np.float32
    share = shares.astype(np.float64).reshape(-1, *[1] * len(shape))
    expected = share * one + (1 - share) * other
    if dtype == np.uint8:
        np.testing.assert_array_equal(mixed, np.round(expected))
    else:
        np.testing.assert_allclose(mixed, expected, rtol=1e-6)
    sigma = np.sqrt(1 / (8 * alpha + 4))  # of Beta(alpha, alpha)
    assert abs(np.mean(shares) - 0.5) < 4 * sigma / np.sqrt(KEYS)
    assert np.std(shares) == pytest.approx(sigma, rel=0.15)


def test_the_table_of_shares_has_the_quantiles_of_the_distribution():
    for alpha in (0.05, 0.2, 1.0, 4.0, 10.0):
        table = augment._beta_quantiles(alpha) / 256
        grid = np.array([26.5, 77.5, 128.5, 180.5, 230.5], np.float32) / 256
        below = np.searchsorted(table, grid) / len(table)
        exact = jax.scipy.special.betainc(np.float32(alpha), np.float32(alpha), grid)
        np.testing.assert_allclose(below, exact, atol=0.005)


def test_a_border_as_large_as_the_image_is_refused():
    crop = partial(augment.crop, jnp.zeros((4, 9)), jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="a border smaller than"):
        crop(4)
    assert crop(3).shape == (4, 9)
