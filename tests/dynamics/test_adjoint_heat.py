"""Equation 33 against sums in numpy, complex steps through (W, b), and automatic differentiation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import hjax
from hjax import dynamics

from .. import tolerances

STEP = 1e-30


def case(seed=0, n=9, m=12, d=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=n), rng.normal(size=(m, d)), rng.normal(size=m)


def numpy_layer(w, b, x, eps):
    scores = x @ w.T + b
    top = scores.real.max(axis=1, keepdims=True)
    return top[:, 0] + eps * np.log(np.exp((scores - top) / eps).sum(axis=1))


def complex_steps(loss, at):
    out = np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        moved = at.astype(complex)
        moved[index] += 1j * STEP
        out[index] = loss(moved).imag / STEP
    return out


def test_a_layer_by_complex_steps_through_its_weights_and_biases(double):
    w, b, x, targets = case()
    eps = 0.3
    layer = hjax.nn.LSELayer.from_arrays(w, b, eps=eps)

    def loss(w, b, eps=eps):
        return np.mean((numpy_layer(w, b, x, eps) - targets) ** 2)

    result = dynamics.costate(layer, x, lambda f: jnp.mean((f - targets) ** 2))
    assert float(result.value) == pytest.approx(loss(w, b), rel=1e-13)
    np.testing.assert_allclose(result.gradient.bias, complex_steps(lambda b: loss(w, b), b), atol=1e-14)
    np.testing.assert_allclose(result.gradient.weight, complex_steps(lambda w: loss(w, b), w), atol=1e-14)
    assert float(result.gradient.eps) == pytest.approx(loss(w, b, eps + 1j * STEP).imag / STEP, rel=1e-11)
    slopes = 2 * (numpy_layer(w, b, x, eps) - targets) / len(x)
    np.testing.assert_allclose(result.momenta[1], -slopes, atol=1e-14)
    # The same by hand, at any gauge.
    at_t = dynamics.adjoint_heat(layer.to_solution(0.4), x, slopes, 0.4)
    for g in (dynamics.adjoint_heat(layer, x, slopes), at_t, result.momenta[0]):
        np.testing.assert_allclose(g, -result.gradient.bias, atol=1e-13)
    # Nothing is lost on the way: both ends hold the same sum.
    np.testing.assert_allclose(result.momenta[0].sum(), result.momenta[1].sum(), rtol=1e-12)


@pytest.mark.parametrize("metric", [None, "full"])
def test_a_solution_by_complex_steps_and_every_leaf_by_autodiff(double, metric):
    y, g, x, targets = case(1)
    eps, t = 0.3, 0.6
    matrix = np.eye(2) if metric is None else np.array([[1.0, 0.4], [0.4, 0.5]])
    inverse = np.linalg.inv(matrix)
    data = hjax.InitialData(y, g, np.linspace(-1, 1, 9))
    u = hjax.HopfCole(data, eps, hjax.Quadratic(None if metric is None else matrix), normalize=True)

    def loss(y, g):
        gaps = x[:, None] - y
        costs = g - eps * np.linspace(-1, 1, 9) + np.einsum("ijk,kl,ijl->ij", gaps, inverse, gaps) / (4 * t)
        least = costs.real.min(axis=1, keepdims=True)
        value = least[:, 0] - eps * np.log(np.exp((least - costs) / eps).sum(axis=1))
        value = value + eps / 2 * np.log((4 * np.pi * eps * t) ** 2 * np.linalg.det(matrix))
        return np.mean((np.einsum("ik,kl,il->i", x, inverse, x) / (4 * t) - value - targets) ** 2)

    def outer(f):
        return jnp.mean((f - targets) ** 2)

    @eqx.filter_jit
    def both(u):
        def whole(u):
            return outer(u.hamiltonian.lagrangian(jnp.asarray(x)) / t - u(x, t))

        return dynamics.costate(u, x, outer, t=t), eqx.filter_grad(whole)(u)

    result, gradient = both(u)
    np.testing.assert_allclose(result.gradient.data.values, complex_steps(lambda g: loss(y, g), g), atol=1e-13)
    np.testing.assert_allclose(result.gradient.data.points, complex_steps(lambda y: loss(y, g), y), atol=1e-13)
    assert jax.tree.structure(result.gradient) == jax.tree.structure(gradient)
    for ours, theirs in zip(jax.tree.leaves(result.gradient), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_cold_and_far_away_to_all_digits(double):
    y, g, x, slopes = case(2, n=6, m=5)
    eps, t, far = 1e-4, 0.5, 1000.0
    g[2] = np.inf
    points, samples, values = y + far, x + far, 1e6 + g / 100
    u = hjax.HopfCole(hjax.InitialData(points, values), eps)
    ours = dynamics.adjoint_heat(u, samples, slopes, t)
    with mpmath.workdps(60):
        want = np.zeros(6, object)
        for i in range(5):
            costs = []
            for point, value in zip(points, values, strict=True):
                squares = [(mpmath.mpf(a) - mpmath.mpf(b)) ** 2 for a, b in zip(samples[i], point, strict=True)]
                costs.append(mpmath.mpf(value) + sum(squares) / (4 * t))
            weights = [mpmath.exp(-c / eps) for c in costs]
            want -= np.array([w / sum(weights) for w in weights], object) * slopes[i]
    # An offset of 1e6 costs ten of sixteen digits, and eps four more: what is left of the weights.
    np.testing.assert_allclose(np.asarray(ours), want.astype(float), atol=3e-5)
    assert ours[2] == 0
    near = dynamics.adjoint_heat(hjax.HopfCole(hjax.InitialData(y, g / 100), eps), x, slopes, t)
    np.testing.assert_allclose(near, want.astype(float), atol=2e-8)


def test_single_precision_and_one_sample_over_many(precision):
    y, g, x, slopes = (a.astype(precision) for a in case(3, n=40, m=700))
    u = hjax.HopfCole(hjax.InitialData(y, g), 0.05)
    costs = g.astype(float) + ((x[:, None].astype(float) - y) ** 2).sum(-1) / 2
    weights = np.exp((costs.min(axis=1, keepdims=True) - costs) / 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    ours = jax.jit(lambda x, s: dynamics.adjoint_heat(u, x, s, 0.5))(x, slopes)
    assert ours.dtype == precision
    bound = 2 * tolerances.weight_error(precision, costs.max(), 0.05) * (np.abs(slopes) @ weights).max()
    np.testing.assert_allclose(ours, -(slopes.astype(float) @ weights), atol=bound)


@pytest.mark.slow
def test_memory_stays_linear():
    shapes = [(50_000, 3), (50_000,), (40_000, 3), (40_000,)]

    def pulled(y, g, x, slopes):
        return dynamics.costate(hjax.HopfCole(hjax.InitialData(y, g), 0.1), x, slopes, t=1.0).gradient.data

    arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    # One matrix would be 8 GB.
    assert jax.jit(pulled).lower(*arguments).compile().memory_analysis().temp_size_in_bytes < 6e7


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda f, u, x, r: dynamics.adjoint_heat(u, x, r), "pass the time"),
        (lambda f, u, x, r: dynamics.adjoint_heat(u, x, r, 0.0), "t must be positive"),
        (lambda f, u, x, r: dynamics.adjoint_heat(f, x, r, 1.0), "it is a gauge"),
        (lambda f, u, x, r: dynamics.adjoint_heat(f, x[0], r), r"pass x\[None\]"),
        (lambda f, u, x, r: dynamics.adjoint_heat(f, x, r[:2]), "one derivative"),
        (lambda f, u, x, r: dynamics.adjoint_heat(hjax.HopfLax(u.data), x, r, 1.0), "model is HopfLax"),
        (
            lambda f, u, x, r: dynamics.adjoint_heat(hjax.nn.LSELayer(2, 3, 4, eps=1.0, key=jax.random.key(0)), x, r),
            r"layer\.unit\(i\)",
        ),
        (lambda f, u, x, r: dynamics.costate(f, x, r, running=lambda s, k: 0.0), "nothing is paid"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    y, g, x, residuals = case()
    layer = hjax.nn.LSELayer.from_arrays(jnp.asarray(y), jnp.asarray(g), eps=0.3)
    with pytest.raises(ValueError, match=words):
        wrong(layer, layer.to_solution(1.0), jnp.asarray(x), jnp.asarray(residuals))
