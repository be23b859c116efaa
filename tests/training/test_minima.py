"""L-BFGS and the convex problem at fixed atoms, against SciPy and against 50 digits of nothing but the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import hjax
from hjax.training import fit_fixed_support, fit_many, polish

EPS, D, N, SAMPLES = 0.3, 2, 12, 60


def problem():
    rng = np.random.default_rng(0)
    rows, x = rng.normal(size=(N, D)), rng.normal(size=(SAMPLES, D))
    q = rng.dirichlet(np.ones(N), SAMPLES)
    return rows, x, q


def objective(b, rows, x, q, eps=EPS):
    a = x @ rows.T
    p = scipy.special.softmax((a + b) / eps, axis=1)
    f = eps * scipy.special.logsumexp((a + b) / eps, axis=1)
    return np.mean(f - np.sum(q * (a + b), axis=1)), (p - q).mean(0)


def test_two_starts_and_scipy_reach_the_same_optimum(double):
    rows, x, q = problem()
    want = scipy.optimize.minimize(
        objective, np.zeros(N), (rows, x, q), jac=True, method="BFGS", options={"gtol": 1e-12}
    )
    for seed in range(2):
        start = 3 * np.random.default_rng(seed).normal(size=N)
        layer = hjax.nn.LSELayer.from_arrays(rows, start, eps=EPS)
        found = fit_fixed_support(layer, x, q)
        assert found.status == "finished", found.status
        assert 0 <= found.gap + 1e-13 < 1e-11
        assert found.objective == pytest.approx(want.fun, abs=1e-12)
        best = want.x - q.mean(0) @ want.x
        np.testing.assert_allclose(found.model.bias, best, atol=1e-8)
        np.testing.assert_array_equal(found.model.weight, rows)


def test_the_gap_bounds_what_is_missing(double):
    rows, x, q = problem()
    layer = hjax.nn.LSELayer.from_arrays(rows, np.zeros(N), eps=EPS)
    best = fit_fixed_support(layer, x, q).objective
    for steps in (1, 3, 6):
        early = fit_fixed_support(layer, x, q, steps=steps)
        assert 1e-9 < early.objective - best <= early.gap
        assert "gradient is still" in early.status


def test_a_solution_is_fitted_as_entropic_transport(double):
    """At the optimum the atoms' mean weights are the targets: the marginal of the transport plan."""
    rng = np.random.default_rng(1)
    y, x, share = rng.normal(size=(N, D)), rng.normal(size=(SAMPLES, D)), rng.dirichlet(np.ones(N))
    weights = rng.normal(size=N)
    u = hjax.HopfCole(hjax.InitialData(y, np.zeros(N), weights), EPS)
    found = fit_fixed_support(u, x, share, t=0.7)
    np.testing.assert_allclose(found.model.weights(x, 0.7).mean(0), share, atol=1e-12)
    assert found.gap < 1e-11
    np.testing.assert_array_equal(found.model.data.log_weights, weights)
    cost = ((x[:, None] - y) ** 2).sum(-1) / 2.8
    plan, scale = np.exp(-cost / EPS), np.ones(N)
    for _ in range(5000):
        rows = 1 / (plan @ scale)
        scale = share / (plan.T @ rows / SAMPLES)
    np.testing.assert_allclose(found.model.weights(x, 0.7), rows[:, None] * plan * scale, atol=1e-10)


def test_labels_are_one_hot_targets_and_absent_atoms_stay_absent(double):
    rows, x, _ = problem()
    labels = np.arange(SAMPLES) % (N - 1)
    bias = np.where(np.arange(N) == N - 1, -np.inf, 0)
    layer = hjax.nn.LSELayer.from_arrays(rows, bias, eps=EPS)
    one, other = (fit_fixed_support(layer, x, q) for q in (labels, np.eye(N)[labels]))
    np.testing.assert_allclose(one.model.bias, other.model.bias, atol=1e-9)
    assert one.model.bias[N - 1] == -np.inf
    assert one.objective == pytest.approx(other.objective, abs=1e-13)


def test_a_convex_loss_of_ones_own(double):
    rows, x, _ = problem()
    y = np.random.default_rng(2).normal(size=SAMPLES)
    shares = np.full(N, 0.4 / N)

    def loss(f, y):
        return jax.nn.softplus(f - y)

    def value(b):
        a = x @ rows.T + b
        f = EPS * scipy.special.logsumexp(a / EPS, axis=1)
        p = scipy.special.softmax(a / EPS, axis=1)
        return np.mean(np.logaddexp(0, f - y)) - shares @ b, (scipy.special.expit(f - y)[:, None] * p).mean(0) - shares

    want = scipy.optimize.minimize(value, np.zeros(N), jac=True, method="BFGS", options={"gtol": 1e-12})
    layer = hjax.nn.LSELayer.from_arrays(rows, np.ones(N), eps=EPS)
    found = fit_fixed_support(layer, x, y, loss=loss, shares=shares)
    assert found.gap is None
    assert found.objective == pytest.approx(want.fun, abs=1e-12)
    np.testing.assert_allclose(found.model.bias, want.x, atol=1e-7)


MISTAKES = {
    "no distribution": ({"targets": np.ones(N)}, "must be distributions"),
    "an atom without a share": ({"targets": np.zeros(SAMPLES, int)}, "atom 1 is present but no target"),
    "labels beyond the atoms": ({"targets": np.full(SAMPLES, N)}, "go from 12 to 12"),
    "targets of another shape": ({"targets": np.ones((3, 3))}, "targets has shape"),
    "samples of another dimension": ({"x": np.ones((3, D + 1))}, "x has shape"),
    "a square": ({"targets": np.zeros(SAMPLES), "loss": lambda f, y: (f - y) ** 2, "steps": 3}, "not convex in b"),
    "a solution without a time": (
        {"model": hjax.HopfCole(hjax.InitialData(np.zeros((N, D)), np.zeros(N)), 1.0)},
        "pass t=1.0",
    ),
    "a network": ({"model": hjax.nn.LSELayer(D, 2, 3, eps=1.0, key=jax.random.key(0))}, r"pass layer.unit\(i\)"),
    "another model": ({"model": hjax.Quadratic()}, "the model is a Quadratic"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_by_one_sentence(mistake):
    given, message = MISTAKES[mistake]
    rows, x, q = (a.astype(np.float32) for a in problem())
    arguments = {"model": hjax.nn.LSELayer.from_arrays(rows, np.zeros(N, np.float32), eps=EPS), "x": x, "targets": q}
    with pytest.raises(ValueError, match=message) as caught:
        fit_fixed_support(**(arguments | given))
    assert "\n" not in str(caught.value)


def test_polishing_an_ensemble_ends_where_scipy_does(double):
    """Values at 6 atoms, fitted from below: the atoms are where the teacher's are, so the optimum is known."""
    x = np.linspace(-2, 2, 80)[:, None]
    teacher = hjax.HopfCole(hjax.InitialData(np.linspace(-2, 2, 6)[:, None], np.abs(np.linspace(-2, 2, 6))), 0.3)
    y = teacher(x, 1.0)

    def make(key, eps):
        g = jax.random.normal(key, (6,))
        return hjax.HopfCole(hjax.InitialData(jnp.linspace(-2, 2, 6)[:, None], g), eps)

    def loss(u, x, y):
        return jnp.mean((u(x, 1.0) - y) ** 2)

    rough = fit_many(make, (x, y), keys=2, eps=[0.3, 0.5], steps=100, loss=loss)
    fits = polish(rough, (x, y), loss=loss, steps=300)
    assert fits.shape == (2, 2)
    assert (fits.metrics["loss"] <= rough.metrics["loss"]).all()
    assert (fits.metrics["loss"][:, 0] < 1e-7).all()

    def numpy_loss(p):
        c = (x - p[:6]) ** 2 / 4 + p[6:]
        return np.mean((-0.5 * scipy.special.logsumexp(-c / 0.5, axis=1) - y) ** 2)

    start = np.concatenate([rough[0, 1].model.data.points[:, 0], rough[0, 1].model.data.values])
    want = scipy.optimize.minimize(numpy_loss, start, method="L-BFGS-B", options={"maxiter": 300, "maxfun": 10**5})
    assert fits.metrics["loss"][0, 1] < 1.1 * want.fun
