"""Scores and samplers against mixtures of normal distributions written in mpmath, numpy and scipy."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import optimize, stats

import hjax
from hjax import dynamics

from .. import tolerances

METRICS = {
    "identity": (None, np.eye(2)),
    "scalar": (0.6, 0.6 * np.eye(2)),
    "diagonal": (np.array([0.5, 2.0]), np.diag([0.5, 2.0])),
    "full": (np.array([[1.0, 0.4], [0.4, 0.5]]), np.array([[1.0, 0.4], [0.4, 0.5]])),
}


def atoms(dtype=np.float64, n=7, d=2, seed=0):
    rng = np.random.default_rng(seed)
    y, g, w = rng.normal(size=(n, d)), rng.normal(size=n) / 2, rng.normal(size=n) / 3
    g[3] = np.inf
    return y.astype(dtype), g.astype(dtype), w.astype(dtype)


def solution(y, g, w, eps, metric=None, normalize=False):
    metric = None if metric is None else jnp.asarray(metric, y.dtype)
    return hjax.HopfCole(hjax.InitialData(y, g, w), eps, hjax.Quadratic(metric), normalize)


@eqx.filter_jit
def readings(u, x, t):
    return dynamics.score(u, x, t), dynamics.denoise(u, x, t), dynamics.log_density(u, x, t)


class Mixture:
    """The density of y + N(0, 2 eps t A), in numpy."""

    def __init__(self, y, g, w, eps, matrix):
        mass = np.exp(w - g / eps)
        self.y, self.p, self.eps, self.matrix = np.asarray(y, float), mass / mass.sum(), eps, matrix

    def parts(self, x, t):
        covariance = 2 * self.eps * t * self.matrix
        return np.stack(
            [p * stats.multivariate_normal(y, covariance).pdf(x) for p, y in zip(self.p, self.y, strict=True)], -1
        )

    def log_density(self, x, t):
        return np.log(self.parts(x, t).sum(-1))

    def posterior_mean(self, x, t):
        parts = self.parts(x, t)
        return parts @ self.y / parts.sum(-1, keepdims=True)


def line(seed=1, n=5):
    """Atoms on a line, their solution, the mixture's distribution function and quantiles."""
    rng = np.random.default_rng(seed)
    y, g, eps = rng.normal(size=(n, 1)), rng.normal(size=n) / 2, 0.4
    u = hjax.HopfCole(hjax.InitialData(y, g), eps)
    p = np.exp(-g / eps) / np.exp(-g / eps).sum()

    def cdf(x, t):
        return stats.norm.cdf(np.asarray(x)[..., None], y[:, 0], np.sqrt(2 * eps * t)) @ p

    def quantile(q, t):
        return np.array([optimize.brentq(lambda x, v: cdf(x, t) - v, -60, 60, args=(v,), xtol=1e-14) for v in q])

    return u, y, p, cdf, quantile


@pytest.mark.parametrize("name", ["full", *(pytest.param(n, marks=pytest.mark.slow) for n in METRICS if n != "full")])
def test_score_denoiser_and_density_are_those_of_the_mixture(precision, name):
    metric, matrix = METRICS[name]
    y, g, w = atoms(precision)
    eps, t = 0.3, 0.7
    mixture = Mixture(y, g, w, eps, matrix)
    x = np.random.default_rng(1).normal(size=(4, 3, 2)).astype(precision)
    for normalize in (False, True):
        u = solution(y, g, w, eps, metric, normalize)
        score, mean, logs = readings(u, x, t)
        bound = 8 * tolerances.weight_error(precision, 10.0, eps)
        np.testing.assert_allclose(logs, mixture.log_density(x, t), atol=bound)
        np.testing.assert_allclose(mean, mixture.posterior_mean(x, t), atol=bound)
        step = 1e-5
        slopes = [
            (mixture.log_density(x + step * e, t) - mixture.log_density(x - step * e, t)) / (2 * step)
            for e in np.eye(2)
        ]
        np.testing.assert_allclose(score, np.stack(slopes, -1), atol=max(1e-8, 8 * bound))
        assert score.dtype == mean.dtype == logs.dtype == precision


def test_the_score_to_all_digits(double):
    y, g, eps, t, x = np.array([[-1.0], [0.5], [2.0]]), np.array([0.1, 0.0, -0.3]), 1e-3, 0.2, 0.61
    u = hjax.HopfCole(hjax.InitialData(y, g), eps)
    with mpmath.workdps(40):

        def log_density(s):
            terms = [
                mpmath.exp(-(mpmath.mpf(v) + (s - mpmath.mpf(a)) ** 2 / (4 * t)) / eps)
                for a, v in zip(y[:, 0], g, strict=True)
            ]
            mass = sum(mpmath.exp(-mpmath.mpf(v) / eps) for v in g)
            return mpmath.log(sum(terms) / mass / mpmath.sqrt(4 * mpmath.pi * eps * t))

        value, slope = float(log_density(mpmath.mpf(x))), float(mpmath.diff(log_density, mpmath.mpf(x)))
    at = jnp.array([x])
    assert float(dynamics.log_density(u, at, t)) == pytest.approx(value, rel=1e-13)
    assert float(dynamics.score(u, at, t)[0]) == pytest.approx(slope, rel=1e-11)


@pytest.mark.slow
def test_many_times_and_their_derivatives(double):
    y, g, w = atoms()
    u, x = solution(y, g, w, 0.3), np.random.default_rng(2).normal(size=(3, 2))
    t = np.array([0.2, 0.5, 1.0])
    mixture = Mixture(y, g, w, 0.3, np.eye(2))
    one_by_one = [mixture.log_density(a, b) for a, b in zip(x, t, strict=True)]
    np.testing.assert_allclose(dynamics.log_density(u, x, t), one_by_one, rtol=1e-12)
    # The score is a gradient, and so is what it costs the density to move its atoms.
    slopes = jax.vmap(jax.grad(lambda x, t: dynamics.log_density(u, x, t)))(jnp.asarray(x), jnp.asarray(t))
    np.testing.assert_allclose(dynamics.score(u, x, t), slopes, rtol=1e-10)


def test_the_velocity_of_flow_matching_moves_the_density_of_the_path(double):
    u, y, p, _, _ = line()
    sigma, step = 1.3, 1e-4

    def density(x, s):
        return stats.norm.pdf(x[:, None], s * y[:, 0], sigma * (1 - s)) @ p

    x = np.linspace(-3, 3, 41)
    velocity = jax.jit(lambda x, s: dynamics.flow_matching_velocity(u, x[:, None], s, sigma=sigma)[:, 0])
    for s in (0.0, 0.3, 0.8):
        # Differences of fourth order; s = 0 is the middle of a path that goes on to negative s.
        points = [-2, -1, 1, 2]
        weights = np.array([1, -8, 8, -1]) / (12 * step)
        rate = sum(c * density(x, s + k * step) for k, c in zip(points, weights, strict=True))
        flux = sum(
            c * density(x + k * step, s) * velocity(x + k * step, s) for k, c in zip(points, weights, strict=True)
        )
        assert np.abs(rate).max() > 0.05
        np.testing.assert_allclose(rate + flux, 0, atol=1e-7)


@pytest.mark.parametrize("name", [pytest.param("identity", marks=pytest.mark.slow), "full"])
def test_the_velocity_of_flow_matching_is_the_regression_on_pairs(double, name):
    metric, matrix = METRICS[name]
    y, g, w = atoms()
    u, sigma, s = solution(y, g, w, 0.3, metric), 0.8, 0.45
    p = np.exp(w - g / 0.3) / np.exp(w - g / 0.3).sum()
    rng = np.random.default_rng(3)
    z = sigma * rng.normal(size=(40_000, 2)) @ np.linalg.cholesky(matrix).T
    chosen = y[rng.choice(len(y), size=len(z), p=p)]
    x, target = (1 - s) * z + s * chosen, chosen - z
    left = target - np.asarray(eqx.filter_jit(dynamics.flow_matching_velocity)(u, x, s, sigma=sigma))
    # What is left is orthogonal to all functions of x; here to some, within four standard errors.
    for test in (np.ones(len(x)), x[:, 0], x[:, 1], np.sin(3 * x[:, 0]), np.cos(x @ [2, 1])):
        products = left * test[:, None]
        error = products.std(axis=0) / np.sqrt(len(x))
        assert (np.abs(products.mean(axis=0)) < 4 * error).all()
    assert (target.var(axis=0) > 1.2 * left.var(axis=0)).all()


def test_the_velocity_of_flow_matching_per_query_and_at_the_ends(precision):
    u, y, p, _, _ = line()
    x = np.array([[0.3], [-0.7], [1.1]]).astype(precision)
    u = jax.tree.map(lambda a: a.astype(precision) if eqx.is_array(a) else a, u)
    s = np.array([0.0, 1e-5, 0.9]).astype(precision)
    together = dynamics.flow_matching_velocity(u, x, s)
    apart = [dynamics.flow_matching_velocity(u, a, b) for a, b in zip(x, s, strict=True)]
    np.testing.assert_allclose(together, apart, rtol=8 * tolerances.of(precision).rtol)
    np.testing.assert_allclose(together[0], p @ y - x[0], atol=16 * tolerances.of(precision).atol)
    # Near the end there is one atom to come from, at x - 0.001 here: the noise was y + 1.
    end = dynamics.flow_matching_velocity(u, y[1] + 0.001 * np.ones(1), 0.999)
    np.testing.assert_allclose(end, -1, atol=1e-3 if precision == np.float32 else 1e-9)


def test_the_flow_is_the_map_of_quantiles_and_carries_the_density(double):
    u, _, _, _, quantile = line()
    t0, t1 = 0.003, 4.0
    q = np.linspace(0.02, 0.98, 13)
    start, end = quantile(q, t1), quantile(q, t0)
    down = dynamics.probability_flow(u, start[:, None], t0=t0, t1=t1, density=True, tolerance=1e-9)
    np.testing.assert_allclose(down.points[:, 0], end, atol=2e-7)
    mixture = Mixture(u.data.points, u.data.values, 0.0, 0.4, np.eye(1))
    np.testing.assert_allclose(down.log_density, mixture.log_density(down.points, t0), atol=1e-6)
    up = dynamics.probability_flow(u, end[:, None], t0=t0, t1=t1, forward=True)
    np.testing.assert_allclose(up.points[:, 0], start, atol=1e-6)
    assert up.log_density is None


@pytest.mark.slow
def test_fixed_steps_have_the_order_of_their_solver(double):
    u, _, _, _, quantile = line()
    t0, t1 = 0.05, 4.0
    start, end = quantile(np.array([0.2, 0.6, 0.9]), t1), quantile(np.array([0.2, 0.6, 0.9]), t0)

    def error(steps, solver):
        points, _ = dynamics.probability_flow(u, start[:, None], t0=t0, t1=t1, steps=steps, solver=solver)
        return np.abs(points[:, 0] - end).max()

    coarse, fine = error(60, diffrax.Heun()), error(240, diffrax.Heun())
    assert 1.8 < np.log(coarse / fine) / np.log(4) < 2.2


def test_the_density_along_the_flow_is_that_of_the_mixture(precision):
    metric, matrix = METRICS["full" if precision == np.float32 else "diagonal"]
    y, g, w = atoms(precision)
    # Far from the origin: the middle of the atoms is taken out first.
    shift = np.array([30.0, -20.0], precision)
    u = solution(y + shift, g, w, 0.3, metric)
    x = np.random.default_rng(4).normal(size=(2, 3, 2)).astype(precision) * 2 + shift
    end = dynamics.probability_flow(u, x, t0=0.05, t1=2.0, density=True)
    assert end.points.shape == (2, 3, 2)
    assert end.log_density.dtype == precision
    mixture = Mixture(y + shift, g, w, 0.3, matrix)
    bound = 0.02 if precision == np.float32 else 1e-6
    np.testing.assert_allclose(end.log_density, mixture.log_density(np.asarray(end.points, float), 0.05), atol=bound)


@pytest.mark.parametrize("method", ["ode", "sde"])
def test_samples_have_the_distribution_of_the_mixture(method):
    u, _, _, cdf, _ = line()
    steps = 64 if method == "ode" else 128
    for start, t1 in (("mixture", 1.0), ("gaussian", 400.0)):
        x = dynamics.sample(u, 4000, t0=0.02, t1=t1, key=jax.random.key(5), method=method, start=start, steps=steps)
        # A right sampler fails this once in a thousand keys, and this is one key.
        assert stats.kstest(np.asarray(x[:, 0], float), lambda x: cdf(x, 0.02)).pvalue > 1e-3
    # A wrong one is told: without the flow, at half the noise.
    assert stats.kstest(np.asarray(x[:, 0], float), lambda x: cdf(x, 0.2)).pvalue < 1e-6


@pytest.mark.slow
def test_the_diffusion_has_the_moments_of_the_mixture():
    metric, matrix = METRICS["full"]
    y, g, w = atoms(np.float32)
    u, number, t0 = solution(y, g, w, 0.3, metric), 20_000, 0.1
    x = np.asarray(dynamics.sample(u, number, t0=t0, t1=2.0, key=jax.random.key(6), method="sde", steps=64), float)
    p = np.exp(w - g / 0.3) / np.exp(w - g / 0.3).sum()
    mean = p @ y
    covariance = (y - mean).T @ np.diag(p) @ (y - mean) + 2 * 0.3 * t0 * matrix
    assert (np.abs(x.mean(axis=0) - mean) < 4 * np.sqrt(np.diag(covariance) / number)).all()
    for i, j in ((0, 0), (0, 1), (1, 1)):
        products = (x - mean)[:, i] * (x - mean)[:, j]
        error, noise = products.std() / np.sqrt(number), 2 * 0.3 * t0 * matrix[i, j]
        assert abs(products.mean() - covariance[i, j]) < 4 * error
        # Which would show that the noise at the end is missing.
        assert 4 * error < noise


@pytest.mark.slow
def test_derivatives_go_through_the_flow(double):
    u, _, _, _, _ = line()

    def end(values, x):
        moved = eqx.tree_at(lambda u: u.data.values, u, values)
        return dynamics.probability_flow(moved, x, t0=0.1, t1=2.0, tolerance=1e-9).points[0, 0]

    x, direction, step = jnp.array([[0.8]]), jnp.array([1.0, -0.5, 0.3, 0.0, 0.2]), 1e-4
    along = jax.grad(end)(u.data.values, x) @ direction
    values = u.data.values
    differences = (end(values + step * direction, x) - end(values - step * direction, x)) / (2 * step)
    assert float(along) == pytest.approx(float(differences), rel=1e-5)
    assert abs(float(along)) > 0.01


@pytest.mark.slow
def test_memory_stays_linear():
    y = jnp.zeros((100_000, 3))
    u = hjax.HopfCole(hjax.InitialData(y, jnp.zeros(100_000)), 0.1)
    x = jax.ShapeDtypeStruct((10_000, 3), jnp.float32)

    def all_of_them(x):
        drawn = dynamics.sample(u, 10_000, t0=0.1, t1=1.0, key=jax.random.key(0), method="sde", steps=4)
        flow = dynamics.probability_flow(u, x, t0=0.1, t1=1.0, density=True, steps=4)
        return dynamics.score(u, x, 1.0), dynamics.flow_matching_velocity(u, x, 0.5), flow.points, drawn

    memory = jax.jit(all_of_them).lower(x).compile().memory_analysis()
    # One matrix of queries by atoms would be 4 GB.
    assert memory.temp_size_in_bytes < 6e7


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda u, x: dynamics.score(hjax.HopfLax(u.data), x, 1.0), "u is HopfLax, .* pass hjax.HopfCole"),
        (lambda u, x: dynamics.denoise(u, x, 0.0), "t must be positive"),
        (lambda u, x: dynamics.score(u, x[:, 0], 1.0), "x has shape"),
        (lambda u, x: dynamics.flow_matching_velocity(u, x, 1.0), r"s must lie in \[0, 1\), got 1.0"),
        (lambda u, x: dynamics.flow_matching_velocity(u, x, -0.1), r"s must lie in \[0, 1\)"),
        (lambda u, x: dynamics.flow_matching_velocity(u, x, 0.5, sigma=0.0), "sigma must be positive"),
        (lambda u, x: dynamics.probability_flow(u, x, t0=0.0, t1=1.0), "t0 must be positive"),
        (lambda u, x: dynamics.probability_flow(u, x, t0=1.0, t1=1.0), "t0 < t1 is wanted"),
        (lambda u, x: dynamics.probability_flow(u, x[:, :1], t0=0.1, t1=1.0), "x has shape"),
        (lambda u, x: dynamics.probability_flow(u, x, t0=0.1, t1=1.0, steps=0), "steps is 0"),
        (lambda u, x: dynamics.probability_flow(u, x, t0=0.1, t1=1.0, tolerance=-1.0), "tolerance is -1.0"),
        (lambda u, x: dynamics.sample(u, 0, t0=0.1, t1=1.0, key=jax.random.key(0)), "number is 0"),
        (lambda u, x: dynamics.sample(u, 5, t0=2.0, t1=1.0, key=jax.random.key(0)), "t0 < t1 is wanted"),
        (lambda u, x: dynamics.sample(u, 5, t0=0.1, t1=1.0, key=jax.random.key(0), method="mcmc"), "method is 'mcmc'"),
        (lambda u, x: dynamics.sample(u, 5, t0=0.1, t1=1.0, key=jax.random.key(0), start="zero"), "start is 'zero'"),
        (
            lambda u, x: dynamics.sample(u, 5, t0=0.1, t1=1.0, key=jax.random.key(0), method="sde", tolerance=0.1),
            "takes fixed steps",
        ),
        (
            lambda u, x: dynamics.log_density(hjax.HopfCole(hjax.InitialData(x, jnp.full(3, jnp.inf)), 0.1), x, 1.0),
            "all atoms of u are absent",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    x = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=words):
        wrong(hjax.HopfCole(hjax.InitialData(x, jnp.zeros(3)), 0.1), x)


def test_traced_times_are_checked_as_they_run():
    u, x = hjax.HopfCole(hjax.InitialData(jnp.zeros((1, 1)), jnp.zeros(1)), 0.1), jnp.zeros((1, 1))
    with pytest.raises(Exception, match="stop before 1"):
        jax.block_until_ready(eqx.filter_jit(dynamics.flow_matching_velocity)(u, x, jnp.array(1.5)))
    with pytest.raises(Exception, match="t0 < t1 is wanted"):
        jax.block_until_ready(eqx.filter_jit(lambda t: dynamics.probability_flow(u, x, t0=t, t1=1.0))(jnp.array(2.0)))
