"""`on_grid` against SciPy's distance transforms, brute force in float64, mpmath and the FFT."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import Array
from scipy import ndimage

import hjax

from .. import tolerances

RANDOM = np.random.default_rng(3)


class Quartic(eqx.Module):
    stiffness: Array

    def __call__(self, x: Array, y: Array) -> Array:
        return self.stiffness * (x - y) ** 4


def uneven(n: int, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).uniform(0.1, 1.0, n)) / n


def costs_between(axes: list, one_dimensional) -> np.ndarray:
    """All pairs, in float64, grid points in C order."""
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    return sum(one_dimensional(k, points[:, None, k], points[None, :, k]) for k in range(len(axes)))


def brute_soft(costs: np.ndarray, g: np.ndarray, eps: float) -> np.ndarray:
    total = costs + g.ravel()
    least = total.min(axis=1, keepdims=True)
    return (least[:, 0] - eps * np.log(np.exp(-(total - least) / eps).sum(axis=1))).reshape(g.shape)


@pytest.mark.parametrize("shape", [(57, 40), (13, 1, 21), (70,)])
@pytest.mark.parametrize("share", [0.5, 0.02])
def test_indicator_data_give_scipys_squared_distance_transform(shape, share):
    mask = np.random.default_rng(1).random(shape) > share
    mask.flat[3] = False
    sampling = [0.5, 2.0, 1.25][: len(shape)]
    axes = [np.arange(n, dtype=np.float32) * s for n, s in zip(shape, sampling, strict=True)]
    got = hjax.on_grid(np.where(mask, np.inf, 0).astype(np.float32), axes, eps=None)
    np.testing.assert_allclose(got, ndimage.distance_transform_edt(mask, sampling=sampling) ** 2, rtol=1e-6)


@functools.cache
def one_dimensional_costs(name: str, dtype: np.dtype) -> tuple:
    """The cost for hjax and its formula; one object each, so that all temperatures share a program."""
    metric = np.array([0.5, 2.0])
    return {
        "squared": (hjax.SquaredEuclidean(3.0), lambda k, x, y: 3.0 * (x - y) ** 2),
        "quartic": (Quartic(jnp.asarray(40.0, dtype)), lambda k, x, y: 40.0 * (x - y) ** 4),
        "absolute": (lambda x, y: 2 * jnp.abs(x - y), lambda k, x, y: 2 * np.abs(x - y)),
        "asymmetric": (lambda x, y: jnp.exp(x - y) - (x - y), lambda k, x, y: np.exp(x - y) - (x - y)),
        "metric": (hjax.Mahalanobis(metric.astype(dtype)), lambda k, x, y: (x - y) ** 2 / metric[k]),
    }[name]


@pytest.mark.parametrize("name", ["squared", "quartic", "absolute", "asymmetric", "metric"])
@pytest.mark.parametrize("eps", [None, 1e-8, 1e-2, 1.0, 1e6])
def test_any_convex_cost_on_uneven_axes_agrees_with_brute_force(precision, name, eps):
    axes = [uneven(23), uneven(17, 1) + 5.0]
    g = np.random.default_rng(2).normal(size=(23, 17)) + 100.0
    g[np.random.default_rng(3).random(g.shape) < 0.2] = np.inf
    cost, exact = one_dimensional_costs(name, precision)
    low, placed = g.astype(precision), [a.astype(precision) for a in axes]
    held = [a.astype(np.float64) for a in placed]
    costs = costs_between(held, exact)
    got = hjax.on_grid(low, placed, eps=eps, cost=cost)
    assert got.dtype == precision
    g = low.astype(np.float64)
    want = (costs + g.ravel()).min(axis=1).reshape(g.shape) if eps is None else brute_soft(costs, g, eps)
    scale = 100 + 10 * (eps or 0)
    np.testing.assert_allclose(got, want, rtol=0, atol=2 * tolerances.value_error(precision, scale))


def test_every_tile_width_gives_the_same_sums(double):
    """At 2,048 points an eps from 1e-6 to 10 goes through all widths; SciPy sums the kernel directly."""
    x = np.linspace(0, 1, 1100)
    g = np.sin(9 * x)
    for eps in (10.0, 1e-2, 1e-3, 1e-4, 1e-6):
        want = brute_soft((x[:, None] - x) ** 2, g, eps)
        np.testing.assert_allclose(hjax.on_grid(g, [x], eps=eps), want, rtol=0, atol=1e-13 * (1 + 7 * eps))


def test_small_temperatures_agree_with_mpmath(double):
    x, g = uneven(9), np.linspace(0, 1e-7, 9)
    eps = 1e-8
    with mpmath.workdps(60):
        for i, got in enumerate(hjax.on_grid(g, [x], eps=eps)):
            terms = [
                mpmath.exp(-((mpmath.mpf(x[i]) - y) ** 2 + h) / mpmath.mpf(eps)) for y, h in zip(x, g, strict=True)
            ]
            assert abs(float(-eps * mpmath.log(mpmath.fsum(terms))) - got) < 1e-21


@pytest.mark.parametrize("eps", [None, 0.02, 2.0])
def test_periodic_axes_see_their_images(double, eps):
    x = np.arange(40) / 40
    g = np.sin(2 * np.pi * x)[:, None] + np.cos(2 * np.pi * x[:30] * 40 / 30)
    images = 1 if eps is None else 8
    got = hjax.on_grid(g, [x, x[:30]], eps=eps, period=[1.0, None], images=images)
    shifts = np.arange(-images, images + 1)
    first = (x[:, None, None] - x[:, None] + shifts) ** 2
    second = (x[:30, None] - x[:30]) ** 2
    total = first[:, None, :, None, :] + second[None, :, None, :, None] + g[None, None, :, :, None]
    least = total.min(axis=(2, 3, 4))
    want = least
    if eps is not None:
        want = least - eps * np.log(np.exp(-(total - least[..., None, None, None]) / eps).sum(axis=(2, 3, 4)))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


def test_a_moderate_temperature_on_a_periodic_grid_is_the_fft_heat_convolution(double):
    n, eps = 64, 0.05
    x = np.arange(n) / n
    g = np.sin(2 * np.pi * x)[:, None] * np.cos(2 * np.pi * x)
    kernel = sum(np.exp(-((x + k) ** 2) / eps) for k in range(-6, 7))
    spectrum = np.fft.fft2(np.exp(-g / eps)) * np.fft.fft2(np.outer(kernel, kernel))
    want = -eps * np.log(np.fft.ifft2(spectrum).real)
    np.testing.assert_allclose(hjax.on_grid(g, [x, x], eps=eps, period=1.0, images=6), want, atol=1e-12)


def test_the_numbers_are_those_of_softmin_and_hardmin_on_the_points():
    axes = [np.linspace(0, 1, 30).astype(np.float32), np.linspace(0, 2, 20).astype(np.float32)]
    g = RANDOM.normal(size=(30, 20)).astype(np.float32)
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    soft = hjax.softmin(points, points, g.ravel(), eps=0.1).value.reshape(g.shape)
    hard = hjax.hardmin(points, points, g.ravel()).value.reshape(g.shape)
    np.testing.assert_allclose(hjax.on_grid(g, axes, eps=0.1), soft, rtol=0, atol=3e-6)
    np.testing.assert_allclose(hjax.on_grid(g, axes, eps=None), hard, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    "eps", [None, pytest.param(0.3, marks=pytest.mark.slow), pytest.param(1e-3, marks=pytest.mark.slow)]
)
def test_derivatives_in_every_input_agree_with_dense_autodiff(double, eps):
    axes = [jnp.asarray(uneven(20)), jnp.asarray(uneven(6, 1))]
    g = jnp.asarray(np.random.default_rng(5).normal(size=(20, 6))).at[2, 3].set(jnp.inf)
    inputs = g, axes, jnp.asarray(2.0), jnp.asarray(1.0 if eps is None else eps)

    def ours(g, axes, scale, temperature):
        u = hjax.on_grid(g, axes, eps=None if eps is None else temperature, cost=hjax.SquaredEuclidean(scale))
        return jnp.sum(jnp.sin(u))

    def dense(g, axes, scale, temperature):
        points = jnp.stack([a.ravel() for a in jnp.meshgrid(*axes, indexing="ij")], axis=1)
        # Without the absent atom: dense autodiff would divide its infinity by the temperature.
        there = np.flatnonzero(np.arange(g.size) != 2 * 6 + 3)
        total = scale * jnp.sum((points[:, None] - points[there]) ** 2, axis=-1) + g.ravel()[there]
        if eps is None:
            return jnp.sum(jnp.sin(jnp.min(total, axis=1)))
        return jnp.sum(jnp.sin(-temperature * jax.nn.logsumexp(-total / temperature, axis=1)))

    def both(f):
        slope = jax.grad(f, argnums=(0, 1, 2, 3))
        along = jax.tree.map(lambda a: jnp.where(jnp.isinf(a), 0.0, jnp.cos(jnp.where(jnp.isinf(a), 0, a))), inputs)
        return jax.jit(lambda *a: (slope(*a), jax.jvp(slope, a, along)[1]))(*inputs)

    (first, second), (want, want_second) = both(ours), both(dense)
    tolerance = {None: 1e-12, 0.3: 1e-11, 1e-3: 1e-6}[eps]
    for a, b in zip(jax.tree.leaves((first, second)), jax.tree.leaves((want, want_second)), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * (1 + np.abs(b).max()))


def test_parameters_of_a_users_cost_receive_their_gradient(double):
    x, g = uneven(12), np.random.default_rng(6).normal(size=12)

    def total(stiffness):
        return jnp.sum(hjax.on_grid(g, [x], eps=0.2, cost=Quartic(stiffness)))

    step = 1e-6
    slope = (total(jnp.asarray(3.0 + step)) - total(jnp.asarray(3.0 - step))) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(3.0)), slope, rtol=1e-6)


def test_value_and_gradient_need_memory_for_a_few_grids_only():
    n = 512

    def value(g, x, eps):
        return jnp.sum(hjax.on_grid(g, [x, x], eps=eps))

    shapes = jax.ShapeDtypeStruct((n, n), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2))).lower(*shapes, 0.1).compile()
    # One pass with all its costs written out would hold n^3 numbers, 512 MiB.
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * 4 * n * n


def test_vmap_over_data_and_temperatures_equals_a_loop():
    x, g = uneven(30).astype(np.float32), RANDOM.normal(size=(3, 30)).astype(np.float32)
    eps = jnp.array([1e-4, 0.1, 5.0])
    got = jax.vmap(lambda g, eps: hjax.on_grid(g, [x], eps=eps))(jnp.asarray(g), eps)
    want = np.stack([hjax.on_grid(a, [x], eps=e) for a, e in zip(g, eps, strict=True)])
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_results_are_the_same_bits_every_time():
    x, g = uneven(300).astype(np.float32), RANDOM.normal(size=(300, 40)).astype(np.float32)
    runs = [np.asarray(hjax.on_grid(g, [x, x[:40]], eps=e)).tobytes() for e in (None, None, 0.01, 0.01)]
    assert runs[0] == runs[1]
    assert runs[2] == runs[3]


@pytest.mark.parametrize("eps", [None, 0.5])
def test_nothing_present_gives_inf_and_zero_derivatives(eps):
    x, g = jnp.arange(4.0), jnp.full((4, 4), jnp.inf)
    value, slope = jax.value_and_grad(
        lambda x: jnp.sum(jnp.where(jnp.isinf(u := hjax.on_grid(g, [x, x], eps=eps)), 0, u)), argnums=0
    )(x)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)
    assert np.isposinf(hjax.on_grid(g, [x, x], eps=eps)).all()


G, X = np.zeros((3, 4), np.float32), [np.arange(3.0, dtype=np.float32), np.arange(4.0, dtype=np.float32)]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((G, X[:1]), {}, "one array of coordinates"),
        ((G, X[::-1]), {}, "is wanted to match g"),
        ((G, [X[0][::-1], X[1]]), {}, "does not increase"),
        ((G.astype(int), X), {}, "floating-point"),
        ((np.full_like(G, np.nan), X), {}, "NaN"),
        ((np.full_like(G, -np.inf), X), {}, "-inf"),
        ((G[:0], [X[0][:0], X[1]]), {}, "every n_k >= 1"),
        ((G, X), {"eps": -1.0}, "eps must be positive"),
        ((G, X), {"cost": hjax.Mahalanobis(np.eye(2) + 0.1)}, "full metric"),
        ((G, X), {"cost": [hjax.SquaredEuclidean(1.0)] * 3}, "one for all axes"),
        ((G, X), {"cost": 3.0}, "pass hjax.SquaredEuclidean"),
        ((G, X), {"period": 2.5}, "period greater than the span"),
        ((G, X), {"period": [5.0]}, "one for all axes"),
        ((G, X), {"period": 5.0, "images": 0}, "at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_clear_sentence(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        hjax.on_grid(*arguments, **({"eps": 1.0} | options))
