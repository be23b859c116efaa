"""Values, weights, entropies and limits of HopfCole and HopfLax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import hjax

from .. import oracles, tolerances
from .cases import EPS, METRICS, data, dense_metric, queries, solution

value = eqx.filter_jit(lambda u, x, t: u(x, t))


@pytest.mark.parametrize("metric", list(METRICS))
def test_hopf_cole_is_its_formula_at_fifty_digits(precision, metric):
    u = solution("HopfCole", metric, weighted=True, normalize=True)
    x, t = queries(3)
    got = value(u, x, t)
    a = dense_metric(metric)
    for i in range(3):
        costs = oracles.costs(x[i], u.data.points, oracles.mahalanobis(a, 1 / (4 * float(t[i]))))
        g = np.asarray(u.data.values, float) - EPS * np.asarray(u.data.log_weights, float)
        oracle = oracles.softmin(costs, g, EPS)
        prefactor = EPS / 2 * (3 * np.log(4 * np.pi * EPS * float(t[i])) + np.linalg.slogdet(a)[1])
        allowed = tolerances.value_error(precision, 4 * (oracle.scale + abs(prefactor)))
        assert abs(float(got[i]) - float(oracle.value) - prefactor) < allowed


@pytest.mark.parametrize("metric", list(METRICS))
def test_hopf_lax_is_a_brute_force_minimum(double, metric):
    u = solution("HopfLax", metric, weighted=True)
    x, _ = queries(20)
    inverse = np.linalg.inv(dense_metric(metric))
    want, index = oracles.hopf_lax(np.asarray(x), np.asarray(u.data.points), np.asarray(u.data.values), 0.4, inverse)
    np.testing.assert_allclose(u(x, 0.4), want, rtol=1e-12)
    np.testing.assert_array_equal(u.minimizer(x, 0.4), index)


def test_hopf_lax_on_an_indicator_is_the_squared_distance_transform(double):
    """min over a set of |x - y|^2/(4t): scipy's Euclidean distance transform knows it by another algorithm."""
    rng = np.random.default_rng(0)
    inside = rng.random((24, 17)) < 0.03
    pixels = np.argwhere(np.ones_like(inside)).astype(float)
    u = hjax.HopfLax(hjax.InitialData(pixels, np.where(inside.ravel(), 0.0, np.inf)))
    distance = ndimage.distance_transform_edt(~inside).ravel()
    np.testing.assert_allclose(u(pixels, 0.25), distance**2, atol=1e-12)
    assert inside.ravel()[np.asarray(u.minimizer(pixels, 0.25))].all()


def test_hopf_cole_lies_below_hopf_lax_by_at_most_eps_log_n_and_tends_to_it(double):
    x, t = queries(30)
    lax = np.asarray(solution("HopfLax", "matrix")(x, t))
    gaps = np.array([
        lax - np.asarray(value(eqx.tree_at(lambda u: u.eps, solution("HopfCole", "matrix"), jnp.asarray(e)), x, t))
        for e in (1.0, 0.1, 0.01, 1e-4, 1e-8)
    ])  # fmt: skip
    assert (gaps >= -1e-13).all()
    assert (gaps <= np.array([1.0, 0.1, 0.01, 1e-4, 1e-8])[:, None] * np.log(7) + 1e-13).all()
    assert (np.diff(gaps, axis=0) <= 1e-13).all()


@pytest.mark.parametrize("kind", ["HopfCole", "HopfLax"])
def test_the_limit_holds_for_gradients_away_from_shocks(double, kind):
    x, t = queries(30)
    cold = hjax.HopfCole(data(), 1e-6)
    np.testing.assert_allclose(cold.gradient(x, t), hjax.HopfLax(data()).gradient(x, t), atol=1e-10)


def test_weights_are_a_distribution_and_the_derivative_of_the_value_in_g(double):
    u = solution("HopfCole", "matrix")
    x, t = queries()

    def of_g(g: jax.Array) -> jax.Array:
        return eqx.tree_at(lambda u: u.data.values, u, g)(x, t)

    everything = eqx.filter_jit(lambda u: (u.weights(x, t), u.entropy(x, t), u.expectation(x, t, u.data.points)))
    weights, entropy, mean = everything(u)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-14)
    np.testing.assert_allclose(weights, jax.jit(jax.jacrev(of_g))(u.data.values), atol=1e-14)
    np.testing.assert_allclose(entropy, -(weights * np.log(weights)).sum(-1), rtol=1e-11)
    np.testing.assert_allclose(mean, weights @ u.data.points, atol=1e-13)
    lax = solution("HopfLax", "matrix")
    one_hot, nothing, chosen = everything(lax)
    np.testing.assert_array_equal(one_hot.argmax(-1), lax.minimizer(x, t))
    np.testing.assert_array_equal(one_hot.sum(-1), 1)
    np.testing.assert_array_equal(nothing, 0)
    np.testing.assert_array_equal(chosen, u.data.points[one_hot.argmax(-1)])


def test_the_gradient_is_the_mean_of_the_momenta_under_the_weights(double):
    """grad u = A^-1 (x - E y)/(2t), with the weights written out."""
    u = solution("HopfCole", "matrix")
    x, t = queries()
    mean = u.weights(x, t) @ u.data.points
    want = np.linalg.solve(dense_metric("matrix"), np.asarray(x - mean).T).T / (2 * np.asarray(t)[:, None])
    np.testing.assert_allclose(u.gradient(x, t), want, atol=1e-12)


@pytest.mark.parametrize("kind", ["HopfCole", pytest.param("HopfLax", marks=pytest.mark.slow)])
def test_times_may_be_one_number_or_one_per_query_and_broadcast(double, kind):
    u = solution(kind, "diagonal")
    x, t = queries(6)
    run = eqx.filter_jit(
        lambda x, t: (
            u(x, t),
            u.gradient(x, t),
            u.hessian(x, t),
            u.residual(x, t),
            u.weights(x, t),
            u.entropy(x, t),
            u.minimizer(x, t),
        )
    )
    for name, one, each, batch, single in zip(
        ("value", "gradient", "hessian", "residual", "weights", "entropy", "minimizer"),
        run(x, 0.7),
        run(x, jnp.full(6, 0.7)),
        run(x.reshape(2, 3, 3), 0.7),
        run(x[0], 0.7),
        strict=True,
    ):
        np.testing.assert_allclose(each, one, atol=1e-11, err_msg=name)
        np.testing.assert_allclose(batch, one.reshape(2, 3, *one.shape[1:]), atol=1e-11, err_msg=name)
        np.testing.assert_allclose(single, one[0], atol=1e-11, err_msg=name)
    np.testing.assert_allclose(u(x[0], np.float32(0.7)), u(x[0], 0.7), atol=1e-6)
    grid = np.asarray(u(x.reshape(2, 3, 3), t[:3]))
    each = np.array([[float(u(x[3 * i + j], t[j])) for j in range(3)] for i in range(2)])
    np.testing.assert_allclose(grid, each, rtol=1e-12)
    np.testing.assert_allclose(u(x.reshape(2, 3, 3), t[:2, None])[1, 2], u(x[5], t[1]), rtol=1e-12)


@pytest.mark.parametrize("kind", ["HopfCole", "HopfLax"])
def test_absent_atoms_are_as_if_they_were_not_there(double, kind):
    whole, (x, t) = data(), queries()
    y = jnp.vstack([whole.points, 1e3 * whole.points])
    infinite = hjax.InitialData(y, jnp.concatenate([whole.values, jnp.full(7, jnp.inf)]))
    weightless = hjax.InitialData(y, jnp.tile(whole.values, 2), jnp.concatenate([jnp.zeros(7), jnp.full(7, -jnp.inf)]))
    build = hjax.HopfLax if kind == "HopfLax" else lambda d: hjax.HopfCole(d, EPS)
    run = eqx.filter_jit(
        lambda u: (
            u(x, t),
            u.gradient(x, t),
            u.hessian(x, t),
            u.laplacian(x, t),
            u.time_derivative(x, t),
            u.entropy(x, t),
        )
    )
    want = run(build(whole))
    for given in (infinite, weightless):
        u = build(given)
        for a, b in zip(run(u), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
        assert not np.any(u.weights(x, t)[:, 7:])
    gradient = jax.grad(lambda g: jnp.sum(build(hjax.InitialData(y, g))(x, t)))(infinite.values)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[7:])


@pytest.mark.parametrize("kind", ["HopfCole", "HopfLax"])
def test_vmap_over_solutions_equals_a_loop(double, kind):
    """A batch of initial data is a batch of solutions: filter_vmap over the module's arrays."""
    us = [
        solution(kind, "matrix"),
        eqx.tree_at(lambda u: u.data.values, solution(kind, "matrix"), jnp.arange(7.0)),
    ]
    stacked = jax.tree.map(lambda *a: jnp.stack(a) if eqx.is_array(a[0]) else a[0], *us)
    x, t = queries()
    got = eqx.filter_jit(eqx.filter_vmap(lambda u: (u(x, t), u.gradient(x, t))))(stacked)
    for k in range(2):
        np.testing.assert_allclose(got[0][k], us[k](x, t), rtol=1e-12)
        np.testing.assert_allclose(got[1][k], us[k].gradient(x, t), rtol=1e-11, atol=1e-12)


def test_heat_semigroup_u_at_t1_as_new_data_gives_u_at_t1_plus_t2(double):
    """Function passing (theory 7.1 ii): atoms on a fine grid that carry u(., t1) and quadrature weights."""
    first = hjax.HopfCole(data(5, 1), EPS, normalize=True)
    rule = hjax.quadrature.grid(-12.0, 12.0, 800)
    between = hjax.InitialData(rule.points, value(first, rule.points, 0.4), rule.log_weights)
    x = jnp.linspace(-2, 2, 21)[:, None]
    again = value(hjax.HopfCole(between, EPS, normalize=True), x, 0.7)
    np.testing.assert_allclose(again, value(first, x, 1.1), atol=1e-12)


def test_hopf_lax_semigroup_to_the_order_of_the_grid(double):
    first = hjax.HopfLax(data(5, 1))
    x = jnp.linspace(-2, 2, 21)[:, None]
    errors = []
    for n in (200, 400, 800):
        y = jnp.linspace(-6, 6, n)[:, None]
        rise = value(hjax.HopfLax(hjax.InitialData(y, value(first, y, 0.4))), x, 0.7) - value(first, x, 1.1)
        errors.append(np.abs(rise).max())
        assert (rise > -1e-12).all()  # restricting a minimum raises it
    assert np.polyfit(np.log([200, 400, 800]), np.log(errors), 1)[0] < -1.3


def test_weighted_atoms_converge_to_the_continuum_at_second_order(double):
    """Theory 7.1 iii: midpoint grid at fixed eps, against adaptive quadrature; unweighted sums do not converge."""
    from scipy.integrate import quad

    eps, t, x = 0.5, 0.3, 0.2
    integral, _ = quad(lambda y: np.exp(-(abs(y) + (x - y) ** 2 / (4 * t)) / eps), -9, 9, points=[0], epsabs=1e-14)
    want = -eps * np.log(integral / np.sqrt(4 * np.pi * eps * t))
    counts = (31, 61, 121)
    errors = []
    for n in counts:
        initial = hjax.InitialData.from_function(lambda y: jnp.abs(y[0]), hjax.quadrature.grid(-9.0, 9.0, n))
        errors.append(abs(float(value(hjax.HopfCole(initial, eps, normalize=True), jnp.array([x]), t)) - want))
    assert -2.4 < np.polyfit(np.log(counts), np.log(errors), 1)[0] < -1.7


DATA = hjax.InitialData(np.zeros((4, 2), np.float32), np.zeros(4, np.float32))
X = np.zeros((3, 2), np.float32)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.HopfCole(DATA, 0.0), "eps must be positive"),
        (lambda: hjax.HopfCole(DATA, np.ones(2)), "eps must be one number"),
        (lambda: hjax.HopfCole((X, X), 0.1), r"data is tuple.*hjax\.InitialData"),
        (lambda: hjax.HopfLax(None), r"data is NoneType.*hjax\.InitialData"),
        (lambda: hjax.HopfCole(DATA, 0.1, 2.0), r"hamiltonian is float.*hjax\.Quadratic"),
        (lambda: hjax.HopfLax(DATA)(X, 0.0), "t must be positive"),
        (lambda: hjax.HopfLax(DATA)(X, -1), "t must be positive"),
        (lambda: hjax.HopfLax(DATA)(X, np.ones(2)), r"t has shape \(2,\).*\(3,\)"),
        (lambda: hjax.HopfLax(DATA)(X[0], np.ones(2)), r"t has shape \(2,\).*\(\)"),
        (lambda: hjax.HopfLax(DATA)(X[:, :1], 1.0), r"x has shape \(3, 1\).*\(\.\.\., 2\)"),
        (lambda: hjax.HopfLax(DATA)(X.astype(int), 1.0), "x has dtype int"),
        (lambda: hjax.HopfCole(DATA, 0.1).gradient(X, 0.0), "t must be positive"),
        (lambda: hjax.HopfCole(DATA, 0.1).expectation(X, 1.0, X), r"payload has shape \(3, 2\).*N = 4"),
        (lambda: hjax.HopfCole(DATA, 0.1).expectation(X, 1.0, np.zeros(4)), "floating|payload"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_a_traced_time_that_is_not_positive_raises_at_run_time():
    with pytest.raises((RuntimeError, ValueError), match="t must be positive"):
        jax.block_until_ready(jax.jit(lambda t: hjax.HopfLax(DATA)(X, t))(-1.0))
