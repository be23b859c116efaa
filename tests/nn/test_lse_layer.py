"""A log-sum-exp layer is a Hopf-Cole solve: both sides against 50 digits, never against each other's formula."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import hjax

from .. import oracles, tolerances

_ROOT = np.array([[1.2, 0.0], [0.3, 0.8]])
METRICS = {"identity": None, "diagonal": np.array([0.5, 2.0]), "matrix": _ROOT @ _ROOT.T}
EPS, D, N = 0.25, 2, 9


def layer(out_size="scalar", *, eps: float = EPS) -> hjax.nn.LSELayer:
    made = hjax.nn.LSELayer(D, out_size, N, eps=eps, key=jax.random.key(0))
    noise = jax.random.normal(jax.random.key(1), made.bias.shape) / 2
    return eqx.tree_at(lambda m: m.bias, made, made.bias + noise)


def samples(m: int = 4) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(m, D)), float)


batch = eqx.filter_jit(lambda made, x: jax.vmap(made)(x))
value = eqx.filter_jit(lambda u, x, t: u(x, t))
reading = eqx.filter_jit(lambda u, x, t: (u(x, t), u.gradient(x, t), u.entropy(x, t)))


def exact_layer(made: hjax.nn.LSELayer, x: np.ndarray) -> oracles.Exact:
    """-f(x) as a soft-min of the affine functions -(W x + b), at 50 digits."""
    return oracles.softmin(oracles.costs(x, made.weight, oracles.bilinear), -np.asarray(made.bias), float(made.eps))


def test_the_forward_pass_is_its_formula_at_fifty_digits(precision):
    made = layer()
    got = batch(made, samples())
    for i, x in enumerate(np.asarray(samples())):
        oracle = exact_layer(made, x)
        assert abs(float(got[i]) + float(oracle.value)) <= tolerances.value_error(precision, oracle.scale)


@pytest.mark.parametrize("t", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("normalize", [False, True])
def test_the_layer_of_a_solution_is_its_quadratic_minus_its_value(precision, t, metric, normalize):
    """f and u each against mpmath, from (y, g, log w) alone: f = x^T A^-1 x/(4t) - u."""
    rng = np.random.default_rng(1)
    data = hjax.InitialData(*(jnp.asarray(rng.normal(size=s), float) for s in ((N, D), (N,), (N,))))
    a = METRICS[metric]
    u = hjax.HopfCole(data, EPS, hjax.Quadratic(None if a is None else jnp.asarray(a, float)), normalize)
    made = hjax.nn.LSELayer.from_solution(u, t)
    a = np.eye(D) if a is None else np.asarray(a if a.ndim == 2 else np.diag(a), precision)
    quadratic = oracles.mahalanobis(a, 1.0)
    # Weights and biases are rounded once at |y|^2/(4t): that is what f is promised relative to.
    y = np.asarray(data.points, float)
    roundoff = np.abs(made.bias).max() + np.abs(np.einsum("ni,ij,nj->n", y, np.linalg.inv(a), y)).max() / t
    with mpmath.workdps(oracles.DIGITS):
        time, eps = mpmath.mpf(float(np.asarray(t, precision))), mpmath.mpf(float(np.asarray(EPS, precision)))
        g = oracles.exact(data.values) - eps * oracles.exact(data.log_weights)
        if normalize:
            determinant = mpmath.det(mpmath.matrix(a.astype(float).tolist()))
            g = g + eps / 2 * (D * mpmath.log(4 * mpmath.pi * eps * time) + mpmath.log(determinant))
        layers, solutions = batch(made, samples()), value(u, samples(), jnp.asarray(t))
        for i, x in enumerate(np.asarray(samples())):
            cost = quadratic(oracles.exact(x), oracles.exact(data.points)) / (4 * time)
            exact = -eps * mpmath.log(sum(mpmath.exp(-(c + h) / eps) for c, h in zip(cost, g, strict=True)))
            half = quadratic(oracles.exact(x), oracles.exact(np.zeros((1, D))))[0] / (4 * time)
            scale = float(abs(exact) + half) + roundoff + float(max(abs(h) for h in g))
            allowed = tolerances.value_error(precision, 2 * scale)
            assert abs(float(solutions[i]) - float(exact)) <= allowed
            assert abs(float(layers[i]) - float(half - exact)) <= allowed


@pytest.mark.parametrize("metric", list(METRICS))
def test_to_solution_and_back_returns_the_layer(double, metric):
    made = layer()
    a = METRICS[metric]
    back = hjax.nn.LSELayer.from_solution(made.to_solution(0.7, hjax.Quadratic(a)), 0.7)
    np.testing.assert_allclose(back.weight, made.weight, rtol=1e-13)
    np.testing.assert_allclose(back.bias, made.bias, rtol=0, atol=1e-13)
    assert back.eps == made.eps


def test_from_solution_and_back_returns_the_atoms(double):
    rng = np.random.default_rng(1)
    data = hjax.InitialData(rng.normal(size=(N, D)), rng.normal(size=N))
    u = hjax.HopfCole(data, EPS, hjax.Quadratic(METRICS["matrix"]))
    back = hjax.nn.LSELayer.from_solution(u, 0.7).to_solution(0.7, u.hamiltonian)
    np.testing.assert_allclose(back.data.points, data.points, rtol=1e-12)
    np.testing.assert_allclose(back.data.values, data.values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", list(METRICS))
def test_every_gauge_reads_the_same_function_gradient_and_entropy(double, metric):
    """f, grad f and S from the solution at t = .1, 1, 10 against the layer's own, at 50 digits."""
    made, x = layer(), samples()
    inverse = np.eye(D) if METRICS[metric] is None else np.linalg.inv(
        METRICS[metric] if METRICS[metric].ndim == 2 else np.diag(METRICS[metric])
    )  # fmt: skip
    exact = [exact_layer(made, a) for a in np.asarray(x)]
    entropy = [float(e.entropy) for e in exact]
    gradient = [(e.weights[:, None] * oracles.exact(made.weight)).sum(0).astype(float) for e in exact]
    for t in (0.1, 1.0, 10.0):
        u = made.to_solution(t, hjax.Quadratic(METRICS[metric]))
        got, slope, spread = reading(u, x, jnp.asarray(t))
        half = np.einsum("mi,ij,mj->m", x, inverse, x) / (4 * t)
        np.testing.assert_allclose(half - got, [-float(e.value) for e in exact], atol=1e-12)
        np.testing.assert_allclose(x @ inverse / (2 * t) - slope, gradient, atol=1e-12)
        np.testing.assert_allclose(spread, entropy, rtol=1e-11)


def test_the_gradient_is_the_gibbs_mean_of_the_rows(precision):
    made, x = layer(), samples()
    got = jax.jit(jax.vmap(jax.grad(made.__call__)))(x)
    for i, a in enumerate(np.asarray(x)):
        oracle = exact_layer(made, a)
        want = (oracle.weights[:, None] * oracles.exact(made.weight)).sum(0).astype(float)
        np.testing.assert_allclose(got[i], want, atol=4 * tolerances.weight_error(precision, oracle.scale, EPS))


def test_softplus_is_a_layer_of_two_rows(precision):
    for eps in (1.0, 0.1, 1e-3):
        softplus = hjax.nn.LSELayer.from_arrays(jnp.array([[0.0], [1.0]]), jnp.zeros(2), eps=eps)
        z = np.linspace(-3, 3, 13)
        got = batch(softplus, jnp.asarray(z, float)[:, None])
        np.testing.assert_allclose(got, eps * np.logaddexp(0, z / eps), atol=8 * tolerances.of(precision).atol)
        assert float(got[6]) == pytest.approx(eps * np.log(2), rel=1e-6)
    cold = hjax.nn.LSELayer.from_arrays(jnp.array([[0.0], [1.0]]), jnp.zeros(2), eps=1e-8)
    np.testing.assert_allclose(batch(cold, jnp.asarray(z, float)[:, None]), np.maximum(z, 0), atol=1e-6)


def test_several_outputs_are_several_layers(double):
    made, x = layer(3), samples()
    got = batch(made, x)
    assert got.shape == (4, 3)
    for k in range(3):
        np.testing.assert_allclose(got[:, k], batch(made.unit(k), x), rtol=1e-12)
        t = 0.6
        u = made.unit(k).to_solution(t)
        np.testing.assert_allclose(got[:, k], (x**2).sum(-1) / (4 * t) - value(u, x, jnp.asarray(t)), atol=1e-12)
    np.testing.assert_array_equal(made.unit(-1).weight, made.unit(2).weight)
    assert layer().unit(0).out_size == "scalar"


def test_a_new_layer_is_zero_at_the_origin_and_draws_from_its_key():
    made = hjax.nn.LSELayer(3, 2, 64, eps=0.5, key=jax.random.key(0))
    np.testing.assert_allclose(made(jnp.zeros(3)), 0, atol=1e-6)
    other = hjax.nn.LSELayer(3, 2, 64, eps=0.5, key=jax.random.key(1))
    assert np.any(made.weight != other.weight)
    assert np.asarray(made.weight).var() == pytest.approx(1 / 3, rel=0.2)


def test_filter_grad_reaches_weights_biases_and_eps(double):
    made, x = layer(), samples()

    def loss(made: hjax.nn.LSELayer) -> jax.Array:
        return jnp.sum(jax.vmap(made)(x))

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(made)
    exact = [exact_layer(made, a) for a in np.asarray(x)]
    weights = np.array([e.weights.astype(float) for e in exact])
    np.testing.assert_allclose(gradient.bias, weights.sum(0), atol=1e-13)
    np.testing.assert_allclose(gradient.weight, weights.T @ x, atol=1e-13)
    np.testing.assert_allclose(gradient.eps, sum(float(e.entropy) for e in exact), rtol=1e-12)


def test_a_layer_sits_in_a_sequential():
    made = layer(3)
    network = eqx.nn.Sequential([made, eqx.nn.Linear(3, 1, key=jax.random.key(2))])
    assert network(jnp.zeros(2), key=jax.random.key(3)).shape == (1,)


def test_an_absent_row_does_not_count():
    made = layer()
    rows, biases = jnp.vstack([made.weight, 1e3 * jnp.ones((1, D))]), jnp.append(made.bias, -jnp.inf)
    padded = hjax.nn.LSELayer.from_arrays(rows, biases, eps=EPS)
    x = samples()
    np.testing.assert_allclose(batch(padded, x), batch(made, x), rtol=1e-6)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(jax.vmap(m)(x))))(padded)
    assert np.isfinite(gradient.weight).all()
    assert not np.any(gradient.weight[-1])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.LSELayer(0, "scalar", 4, eps=1.0, key=jax.random.key(0)), "in_size is 0"),
        (lambda: hjax.nn.LSELayer(2, 0, 4, eps=1.0, key=jax.random.key(0)), "out_size is 0"),
        (lambda: hjax.nn.LSELayer(2, "vector", 4, eps=1.0, key=jax.random.key(0)), "out_size is 'vector'"),
        (lambda: hjax.nn.LSELayer(2, "scalar", 2.5, eps=1.0, key=jax.random.key(0)), "width is 2.5"),
        (lambda: hjax.nn.LSELayer(2, "scalar", 4, eps=0.0, key=jax.random.key(0)), "eps must be positive"),
        (lambda: layer()(jnp.zeros(3)), r"x has shape \(3,\).*\(2,\)"),
        (lambda: layer()(jnp.zeros((5, 2))), r"x has shape \(5, 2\).*jax\.vmap\(layer\)"),
        (lambda: layer()(jnp.zeros(2, int)), "x has dtype int"),
        (lambda: layer().to_solution(0.0), "t must be positive"),
        (lambda: layer(3).to_solution(1.0), r"3 outputs.*unit\(i\)"),
        (lambda: layer(3).unit(3), "index is 3"),
        (lambda: layer().to_solution(1.0, hjax.Quadratic(np.ones(3))), r"\(3,\).*2 coordinates"),
        (lambda: hjax.nn.LSELayer.from_solution(layer(), 1.0), "u is LSELayer.*HopfCole"),
        (lambda: hjax.nn.LSELayer.from_solution(layer().to_solution(1.0), -1.0), "t must be positive"),
        (
            lambda: hjax.nn.LSELayer.from_arrays(jnp.zeros((3, 2)), jnp.zeros(2), eps=1.0),
            r"bias has shape \(2,\)",
        ),
        (
            lambda: hjax.nn.LSELayer.from_arrays(jnp.zeros((3, 2)), jnp.full(3, jnp.nan), eps=1.0),
            "bias contains NaN",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
