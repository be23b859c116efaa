"""Kernel regression against scikit-learn's kernels, and the heat flow it is."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import hjax

from .. import tolerances

N, D, BANDWIDTH = 12, 2, 0.6
batch = eqx.filter_jit(lambda regressor, x: jax.vmap(regressor)(x))


def data() -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=s), float) for s in ((N, D), (N,), (9, D)))


def kernel(x, y) -> np.ndarray:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    return pairwise.rbf_kernel(np.asarray(x, float), np.asarray(y, float), gamma=1 / (2 * BANDWIDTH**2))


def test_the_average_is_that_of_nadaraya_and_watson(precision):
    points, values, x = data()
    k = kernel(x, points)
    got = batch(hjax.nn.KernelRegressor(points, values, bandwidth=BANDWIDTH), x)
    # Weights carry the rounding of |x - y|^2/s^2 relatively.
    atol = 64 * tolerances.of(precision).atol
    np.testing.assert_allclose(got, k @ np.asarray(values) / k.sum(1), atol=atol)


def test_a_kernel_machine_of_both_signs_is_kernel_ridge_regression(double):
    """The coefficients that scikit-learn fits, two outputs; and the two heat solutions of which it is a difference."""
    ridge = pytest.importorskip("sklearn.kernel_ridge")
    points, values, x = data()
    targets = np.stack([values, np.sin(values)], axis=1)
    fitted = ridge.KernelRidge(alpha=1e-2, kernel="rbf", gamma=1 / (2 * BANDWIDTH**2)).fit(points, targets)
    assert (fitted.dual_coef_.min(0) < 0).all()
    machine = hjax.nn.KernelRegressor(points, jnp.asarray(fitted.dual_coef_), bandwidth=BANDWIDTH, kind="sum")
    np.testing.assert_allclose(batch(machine, x), fitted.predict(x), atol=1e-12)
    for t in (0.2, 3.0):
        positive, negative = machine.to_solutions(t, output=1)
        eps = BANDWIDTH**2 / (2 * t)
        assert float(positive.eps) == pytest.approx(eps)
        difference = np.exp(-np.asarray(positive(x, t)) / eps) - np.exp(-np.asarray(negative(x, t)) / eps)
        np.testing.assert_allclose(difference, fitted.predict(x)[:, 1], atol=1e-12)


def test_positive_coefficients_leave_no_negative_part(double):
    points, values, x = data()
    machine = hjax.nn.KernelRegressor(points, jnp.abs(values), bandwidth=BANDWIDTH, kind="sum")
    positive, negative = machine.to_solutions(0.5)
    assert np.isposinf(np.asarray(negative(x, 0.5))).all()
    want = kernel(x, points) @ np.abs(np.asarray(values))
    np.testing.assert_allclose(np.exp(-np.asarray(positive(x, 0.5)) / BANDWIDTH**2), want, rtol=1e-12)


def test_a_narrow_kernel_is_the_nearest_neighbour(double):
    neighbours = pytest.importorskip("sklearn.neighbors")
    points, values, x = data()
    want = neighbours.KNeighborsRegressor(1).fit(points, values).predict(x)
    regressor = hjax.nn.KernelRegressor(points, values, bandwidth=1e-3)
    np.testing.assert_allclose(batch(regressor, x), want, atol=1e-12)
    np.testing.assert_array_equal(jax.vmap(regressor.nearest)(x), want)


def test_far_away_the_average_stays_a_number():
    points, values, _ = data()
    regressor = hjax.nn.KernelRegressor(points, values, bandwidth=0.01)
    far = float(regressor(jnp.array([40.0, 40.0])))
    assert float(values.min()) <= far <= float(values.max())


def test_derivatives_in_points_values_bandwidth_and_input(double):
    points, values, x = data()

    @jax.jit
    def both(points, values, bandwidth, x):
        kinds = [hjax.nn.KernelRegressor(points, values, bandwidth=bandwidth, kind=k) for k in ("average", "sum")]
        return [regressor(x) for regressor in kinds]

    check_grads(both, (points, values, jnp.asarray(BANDWIDTH), x[0]), order=1, modes=("rev",))


def test_its_reading():
    points, values, _ = data()
    for kind, words in (("average", "Gibbs mean"), ("sum", "u_-")):
        reading = hjax.nn.KernelRegressor(points, values, bandwidth=0.5, kind=kind).describe()
        assert reading.status == "exact"
        assert words in reading.equation
        assert "2 t eps = s^2 = 0.25" in reading.gauge


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda p, v: hjax.nn.KernelRegressor(p, v, bandwidth=0.0), "bandwidth must be positive"),
        (lambda p, v: hjax.nn.KernelRegressor(p, v, bandwidth=1.0, kind="mean"), "kind is 'mean'"),
        (lambda p, v: hjax.nn.KernelRegressor(p, v[:3], bandwidth=1.0), r"values has shape \(3,\)"),
        (lambda p, v: hjax.nn.KernelRegressor(p, v[:, None, None], bandwidth=1.0), r"values has shape .*\(N, p\)"),
        (lambda p, v: hjax.nn.KernelRegressor(p[:, 0], v, bandwidth=1.0), "points has shape"),
        (lambda p, v: hjax.nn.KernelRegressor(p, v * jnp.nan, bandwidth=1.0), "values contains NaN"),
        (lambda p, v: hjax.nn.KernelRegressor(p, v, bandwidth=1.0)(p), r"jax\.vmap\(regressor\)"),
        (lambda p, v: hjax.nn.KernelRegressor(p, v, bandwidth=1.0).to_solutions(0.0), "t must be positive"),
        (lambda p, v: hjax.nn.KernelRegressor(p, v, bandwidth=1.0).to_solutions(1.0, 1), "index is 1"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    points, values, _ = data()
    with pytest.raises(ValueError, match=words):
        wrong(points, values)
