"""Every Hamiltonian is convex-dual to its Lagrangian. A new one adds a line to REGISTRY."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import hjax

from .. import tolerances

_ROOT = np.array([[1.5, 0.0, 0.0], [0.3, 0.8, 0.0], [-0.4, 0.2, 0.6]])
METRICS = {"identity": None, "number": 2.5, "diagonal": np.array([0.5, 1.0, 3.0]), "matrix": _ROOT @ _ROOT.T}
REGISTRY = {f"Quadratic, {name}": lambda m=m: hjax.Quadratic(m) for name, m in METRICS.items()}


def _dense(metric: object) -> np.ndarray:
    if metric is None:
        return np.eye(3)
    array = np.asarray(metric, float)
    return array if array.ndim == 2 else np.diag(np.broadcast_to(array, 3))


@pytest.mark.parametrize("name", list(REGISTRY))
def test_lagrangian_is_the_supremum_of_p_v_minus_h(double, name):
    hamiltonian = REGISTRY[name]()
    h, dh = eqx.filter_jit(hamiltonian), eqx.filter_jit(jax.grad(hamiltonian.__call__))
    for v in np.random.default_rng(0).normal(size=(4, 3)):
        found = minimize(
            lambda p, v=v: float(h(p)) - p @ v,
            np.zeros(3),
            jac=lambda p, v=v: np.asarray(dh(p)) - v,
            tol=1e-12,
        )
        np.testing.assert_allclose(hamiltonian.lagrangian(jnp.asarray(v)), -found.fun, rtol=1e-9)


@pytest.mark.parametrize("name", list(REGISTRY))
def test_hamiltonian_is_the_supremum_of_p_v_minus_l(double, name):
    hamiltonian = REGISTRY[name]()
    lagrangian, dl = (
        eqx.filter_jit(hamiltonian.lagrangian),
        eqx.filter_jit(jax.grad(lambda v: hamiltonian.lagrangian(v))),
    )
    for p in np.random.default_rng(1).normal(size=(4, 3)):
        found = minimize(
            lambda v, p=p: float(lagrangian(v)) - p @ v,
            np.zeros(3),
            jac=lambda v, p=p: np.asarray(dl(v)) - p,
            tol=1e-12,
        )
        np.testing.assert_allclose(hamiltonian(jnp.asarray(p)), -found.fun, rtol=1e-9)


@pytest.mark.parametrize("name", list(REGISTRY))
def test_cost_is_the_least_action_over_broken_paths(double, name):
    """A straight line beats any path through random midpoints, and costs exactly `cost`."""
    hamiltonian = REGISTRY[name]()
    rng = np.random.default_rng(2)
    x, y, t = rng.normal(size=3), rng.normal(size=3), 0.7
    times = np.linspace(0, t, 6)
    line = y + (x - y) * (times / t)[:, None]

    def action(path: np.ndarray) -> float:
        velocity = np.diff(path, axis=0) / np.diff(times)[:, None]
        return float(np.sum(np.asarray(hamiltonian.lagrangian(jnp.asarray(velocity))) * np.diff(times)))

    cost = float(hamiltonian.cost(jnp.asarray(x), jnp.asarray(y), t))
    np.testing.assert_allclose(action(line), cost, rtol=1e-12)
    for _ in range(20):
        bent = line.copy()
        bent[1:-1] += 0.1 * rng.normal(size=(4, 3))
        assert action(bent) > cost


@pytest.mark.parametrize("name", list(METRICS))
def test_quadratic_is_the_textbook_quadratic_form(precision, name):
    metric = _dense(METRICS[name])
    hamiltonian = hjax.Quadratic(METRICS[name])
    p, v = np.random.default_rng(3).normal(size=(2, 2, 4, 3)).astype(precision)  # batch axes (2, 4)
    rtol = 20 * tolerances.of(precision).rtol
    np.testing.assert_allclose(hamiltonian(p), np.einsum("abi,ij,abj->ab", p, metric, p), rtol=rtol)
    np.testing.assert_allclose(
        hamiltonian.lagrangian(v), np.einsum("abi,ij,abj->ab", v, np.linalg.inv(metric), v) / 4, rtol=rtol
    )
    np.testing.assert_allclose(hamiltonian.solve(hamiltonian.apply(p)), p, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(
        np.square(hamiltonian.whiten(jnp.asarray(v))).sum(-1), 4 * hamiltonian.lagrangian(v), rtol=rtol
    )
    root = hamiltonian.factor(3)
    np.testing.assert_allclose(root @ root.T, metric, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(hamiltonian.log_determinant(3), np.linalg.slogdet(metric)[1], rtol=rtol, atol=rtol)


def test_integer_metrics_and_lists_are_welcome():
    assert float(hjax.Quadratic(2)(jnp.ones(3))) == 6.0
    assert float(hjax.Quadratic([1, 2, 3])(jnp.ones(3))) == 6.0


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (0.0, "must be positive"),
        (-1.0, "must be positive"),
        (np.array([1.0, 0.0]), "must be positive"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "not positive definite"),
        (np.array([[1.0, 1.0], [1.0, 1.0]]), "not positive definite"),
        (np.ones((2, 3)), r"\(2, 3\)"),
        (np.ones((2, 2, 2)), r"\(2, 2, 2\)"),
        (np.array([1.0, np.nan]), "NaN or infinity"),
        (np.array([1.0, np.inf]), "NaN or infinity"),
        (np.array([1j, 1.0]), "complex"),
        ("identity", "metric"),
        (np.ones(0), r"\(0,\)"),
    ],
)
def test_a_bad_metric_is_refused_with_a_reason(metric, words):
    with pytest.raises(ValueError, match=words):
        hjax.Quadratic(metric)


def test_a_metric_of_another_dimension_is_refused():
    data = hjax.InitialData(np.zeros((4, 2), np.float32), np.zeros(4, np.float32))
    for solution in (lambda h: hjax.HopfCole(data, 0.1, h), lambda h: hjax.HopfLax(data, h)):
        with pytest.raises(ValueError, match=r"\(3,\).*2 coordinates"):
            solution(hjax.Quadratic(np.ones(3)))
