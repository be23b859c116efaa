import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import hjax
from hjax import quadrature

BOX = ([-1.0, 0.0], [1.0, 3.0])


def total(rule: quadrature.Rule, function) -> float:
    """The rule's integral, in numpy float64."""
    points, weights = np.asarray(rule.points, float), np.exp(np.asarray(rule.log_weights, float))
    return float(np.sum(weights * function(points)))


@pytest.mark.parametrize("endpoints", [False, True])
def test_grid_converges_to_the_integral_at_second_order(double, endpoints):
    def f(y: np.ndarray) -> np.ndarray:
        return np.exp(-y[..., 0]) * np.cos(y[..., 1])

    exact, _ = integrate.dblquad(lambda b, a: f(np.array([a, b])), -1, 1, 0, 3)
    errors = [abs(total(quadrature.grid(*BOX, n, endpoints=endpoints), f) - exact) for n in (8, 16, 32)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    # Endpoint grids have n - 1 intervals, so halving is not quite halving.
    assert ((orders > 1.85) & (orders < 2.4)).all()


@pytest.mark.parametrize("endpoints", [False, True])
def test_grid_is_exact_for_linear_functions(double, endpoints):
    rule = quadrature.grid(*BOX, (3, 5), endpoints=endpoints)
    assert rule.points.shape == (15, 2)
    np.testing.assert_allclose(total(rule, lambda y: 1 + 2 * y[:, 0] - y[:, 1]), 6 - 9, rtol=1e-13)


def test_grid_nodes_are_midpoints_or_endpoints(double):
    np.testing.assert_allclose(quadrature.grid(0, 1, 2).points[:, 0], [0.25, 0.75])
    np.testing.assert_allclose(quadrature.grid(0, 1, 3, endpoints=True).points[:, 0], [0, 0.5, 1])


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_gauss_hermite_is_exact_for_polynomials_times_its_gaussian(double, count):
    rule = quadrature.gauss_hermite(count, mean=0.5, scale=2.0)

    def gaussian(y: np.ndarray) -> np.ndarray:
        return np.exp(-(((y[:, 0] - 0.5) / 2) ** 2) / 2) / (2 * np.sqrt(2 * np.pi))

    # Moments of N(0, 1): 0 for odd k, (k-1)!! for even; exact up to degree 2 n - 1.
    for k in range(2 * count):
        wanted = 0.0 if k % 2 else float(np.prod(np.arange(k - 1, 0, -2, dtype=float)))
        got = total(rule, lambda y, k=k: gaussian(y) * ((y[:, 0] - 0.5) / 2) ** k)
        size = max(1.0, float(np.prod(np.arange(k, 0, -2, dtype=float))))
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11 * size)


def test_gauss_hermite_agrees_with_adaptive_quadrature_in_two_dimensions(double):
    rule = quadrature.gauss_hermite(24, 2, mean=[0.0, 1.0], scale=[1.0, 0.5])

    def f(y: np.ndarray) -> np.ndarray:
        return np.exp(-(y[..., 0] ** 2) / 2 - 2 * (y[..., 1] - 1) ** 2) * np.cos(y[..., 0] * y[..., 1])

    exact, _ = integrate.dblquad(lambda b, a: f(np.array([a, b])), -10, 10, -5, 7, epsabs=1e-11)
    np.testing.assert_allclose(total(rule, f), exact, atol=1e-9)


def test_gauss_hermite_log_weights_are_finite_where_the_weights_underflow(double):
    rule = quadrature.gauss_hermite(300)
    assert np.isfinite(rule.log_weights).all()
    np.testing.assert_allclose(total(rule, lambda y: np.exp(-(y[:, 0] ** 2) / 2)), np.sqrt(2 * np.pi), rtol=1e-11)


def test_sobol_fills_the_box_with_equal_weights(double):
    rule = quadrature.sobol(*BOX, 1000)
    assert rule.points.shape == (1024, 2)
    assert (rule.points >= jnp.array(BOX[0])).all()
    assert (rule.points <= jnp.array(BOX[1])).all()
    np.testing.assert_allclose(np.exp(rule.log_weights), 6 / 1024, rtol=1e-13)
    exact, _ = integrate.dblquad(lambda b, a: np.cos(a) * b**2, -1, 1, 0, 3)
    np.testing.assert_allclose(total(rule, lambda y: np.cos(y[:, 0]) * y[:, 1] ** 2), exact, rtol=5e-3)
    np.testing.assert_array_equal(rule.points, quadrature.sobol(*BOX, 1000).points)
    assert (rule.points != quadrature.sobol(*BOX, 1000, seed=1).points).any()


def test_samples_carry_importance_weights(double):
    y = np.random.default_rng(0).normal(size=(20_000, 1))
    rule = quadrature.samples(y, -(y[:, 0] ** 2) / 2 - np.log(2 * np.pi) / 2)
    # The integral of a narrower Gaussian, within five standard errors.
    got = total(rule, lambda z: np.exp(-(z[:, 0] ** 2)))
    assert abs(got - np.sqrt(np.pi)) < 5 * 0.7 / np.sqrt(20_000)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: quadrature.grid(1.0, 0.0, 3), "empty or infinite"),
        (lambda: quadrature.grid(0.0, np.inf, 3), "empty or infinite"),
        (lambda: quadrature.grid([0.0, 0.0], [1.0, 0.0], 3), "empty or infinite"),
        (lambda: quadrature.grid(0.0, 1.0, 0), "at least 1"),
        (lambda: quadrature.grid(0.0, 1.0, 1, endpoints=True), "at least 2"),
        (lambda: quadrature.grid([0.0, 0.0], [1.0, 1.0], (3,)), "does not fit"),
        (lambda: quadrature.gauss_hermite(0), "count is 0"),
        (lambda: quadrature.gauss_hermite(301), "count is 301"),
        (lambda: quadrature.gauss_hermite(3, scale=-1.0), "scale must be positive"),
        (lambda: quadrature.sobol(0.0, 1.0, 0), "count is 0"),
        (lambda: quadrature.samples(np.zeros((3, 1)), np.zeros(2)), r"log_density has shape \(2,\)"),
    ],
)
def test_a_bad_rule_is_refused_with_a_reason(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_from_function_evaluates_at_the_nodes_and_keeps_the_weights(precision):
    rule = quadrature.grid([-1.0, -1.0], [1.0, 1.0], 4)
    data = hjax.InitialData.from_function(lambda y: jnp.sum(y**2), rule)
    assert data.values.dtype == precision
    assert (data.size, data.dimension) == (16, 2)
    np.testing.assert_allclose(data.values, np.square(np.asarray(rule.points)).sum(1), rtol=1e-6)
    np.testing.assert_array_equal(data.log_weights, rule.log_weights)


def test_from_function_refuses_a_vector_valued_g():
    with pytest.raises(ValueError, match=r"g returned shape \(1,\).*\.sum\(\)"):
        hjax.InitialData.from_function(jnp.abs, quadrature.grid(-1.0, 1.0, 4))


Y, G = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((Y[:, 0], G), r"points has shape \(3,\).*points\[:, None\]"),
        ((Y, G[:2]), r"values has shape \(2,\).*\(3,\)"),
        ((Y, G, G[:2]), r"log_weights has shape \(2,\)"),
        ((Y[:0], G[:0]), "at least one atom"),
        ((Y.astype(int), G), r"points has dtype int.*points\.astype\(float\)"),
        ((Y, G.astype(int)), r"values has dtype int"),
        ((Y * np.nan, G), "points contains NaN"),
        ((Y, G * np.nan), "values contains NaN"),
        ((Y, G, G * np.nan), "log_weights contains NaN"),
        ((Y + np.inf, G), "points contains infinity"),
        ((Y, G - np.inf), "values contains -inf"),
        ((Y, G, G + np.inf), r"log_weights contains \+inf"),
    ],
)
def test_bad_data_is_refused_with_a_reason(arguments, words):
    with pytest.raises(ValueError, match=words):
        hjax.InitialData(*arguments)


def test_arrays_come_to_one_dtype(double):
    data = hjax.InitialData(Y, G.astype(np.float64), G.astype(np.float16))
    assert {a.dtype for a in jax.tree.leaves(data)} == {np.dtype("float64")}
