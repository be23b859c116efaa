"""Every Hamiltonian is convex-dual to its Lagrangian. A new one adds a line to REGISTRY."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import minimize

import hjax

from .. import tolerances

_ROOT = np.array([[1.5, 0.0, 0.0], [0.3, 0.8, 0.0], [-0.4, 0.2, 0.6]])
METRICS = {"identity": None, "number": 2.5, "diagonal": np.array([0.5, 1.0, 3.0]), "matrix": _ROOT @ _ROOT.T}


class Case(NamedTuple):
    build: Callable[[], hjax.Hamiltonian]
    limit: float = np.inf  # the speed beyond which L is infinite
    strict: bool = True  # whether L is strictly convex


REGISTRY = {
    **{f"Quadratic, {name}": Case(lambda m=m: hjax.Quadratic(m)) for name, m in METRICS.items()},
    **{f"Power, {a}": Case(lambda a=a: hjax.Power(a)) for a in (1.25, 2, 4.0)},
    "Relativistic": Case(lambda: hjax.Relativistic(1.5), limit=1.0),
    "Eikonal": Case(lambda: hjax.Eikonal(0.8), limit=0.8, strict=False),
}


def _velocity(case: Case, w: jax.Array) -> jax.Array:
    """All of space onto the ball of possible velocities (less a rounding error), its boundary at finite w."""
    if np.isinf(case.limit):
        return w
    length = jnp.linalg.norm(w)
    return (1 - 1e-12) * case.limit * jnp.sin(length) / length * w


def _dense(metric: object) -> np.ndarray:
    if metric is None:
        return np.eye(3)
    array = np.asarray(metric, float)
    return array if array.ndim == 2 else np.diag(np.broadcast_to(array, 3))


@pytest.mark.parametrize("name", list(REGISTRY))
def test_lagrangian_is_the_supremum_of_p_v_minus_h(double, name):
    hamiltonian = REGISTRY[name].build()
    h, dh = eqx.filter_jit(hamiltonian), eqx.filter_jit(jax.grad(hamiltonian.__call__))
    for w in np.random.default_rng(0).normal(size=(4, 3)):
        v = np.asarray(_velocity(REGISTRY[name], jnp.asarray(w)))
        found = minimize(
            lambda p, v=v: float(h(p)) - p @ v,
            np.zeros(3),
            jac=lambda p, v=v: np.asarray(dh(p)) - v,
            tol=1e-12,
        )
        np.testing.assert_allclose(hamiltonian.lagrangian(jnp.asarray(v)), -found.fun, rtol=1e-9)


@pytest.mark.parametrize("name", list(REGISTRY))
def test_hamiltonian_is_the_supremum_of_p_v_minus_l(double, name):
    hamiltonian = REGISTRY[name].build()

    @eqx.filter_jit
    def negative(w: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
        def function(w: jax.Array) -> jax.Array:
            v = _velocity(REGISTRY[name], w)
            return hamiltonian.lagrangian(v) - p @ v

        return jax.value_and_grad(function)(w)

    for p in np.random.default_rng(1).normal(size=(4, 3)):
        start = np.full(3, 0.1)  # off zero, where a direction is not defined
        found = minimize(lambda w, p=p: tuple(np.asarray(a) for a in negative(w, p)), start, jac=True, tol=1e-12)
        np.testing.assert_allclose(hamiltonian(jnp.asarray(p)), -found.fun, rtol=1e-9)


@pytest.mark.parametrize("name", list(REGISTRY))
def test_cost_is_the_least_action_over_broken_paths(double, name):
    """A straight line beats any path through random midpoints, and costs exactly `cost`."""
    hamiltonian, limit, strict = REGISTRY[name].build(), REGISTRY[name].limit, REGISTRY[name].strict
    rng = np.random.default_rng(2)
    x, y, t = rng.normal(size=3), rng.normal(size=3), 0.7
    if np.isfinite(limit):
        x = y + 0.5 * limit * t * (x - y) / np.linalg.norm(x - y)
    times = np.linspace(0, t, 6)
    line = y + (x - y) * (times / t)[:, None]

    def action(path: np.ndarray) -> float:
        velocity = np.diff(path, axis=0) / np.diff(times)[:, None]
        return float(np.sum(np.asarray(hamiltonian.lagrangian(jnp.asarray(velocity))) * np.diff(times)))

    cost = float(hamiltonian.cost(jnp.asarray(x), jnp.asarray(y), t))
    np.testing.assert_allclose(action(line), cost, rtol=1e-12)
    for size in [0.1, 0.01] * 10:
        bent = line.copy()
        bent[1:-1] += size * rng.normal(size=(4, 3))
        assert action(bent) > cost if strict else action(bent) >= cost


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


def test_power_of_two_is_the_quadratic_with_its_derivatives(double):
    p = jnp.asarray(np.vstack([np.random.default_rng(4).normal(size=(5, 3)), np.zeros((1, 3))]))
    power, quadratic = hjax.Power(2), hjax.Quadratic()
    for ours, theirs in ((power, quadratic), (power.lagrangian, quadratic.lagrangian)):
        for derivative in (lambda f: f, jax.grad, jax.hessian):
            got, want = (jax.jit(jax.vmap(derivative(lambda p, f=f: f(p))))(p) for f in (ours, theirs))
            np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


def _exact(name: str, p: np.ndarray, parameter: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """H(p) and L(p) to 50 digits."""
    with mpmath.workdps(50):
        m, length = mpmath.mpf(float(parameter)), mpmath.norm([mpmath.mpf(float(c)) for c in p])
        if name == "Power":
            return length**m, (m - 1) * (length / m) ** (m / (m - 1))
        if name == "Relativistic":
            return mpmath.sqrt(length**2 + m**2), -m * mpmath.sqrt(1 - length**2) if length <= 1 else mpmath.inf
        return m * length, mpmath.mpf(0) if length <= m else mpmath.inf


BUILD = {"Power": hjax.Power, "Relativistic": hjax.Relativistic, "Eikonal": hjax.Eikonal}
PARAMETERS = [("Power", 1.25), ("Power", 2.0), ("Power", 4.0), ("Relativistic", 1.5), ("Eikonal", 0.75)]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_values_are_those_of_mpmath_at_every_length(precision, name, parameter):
    hamiltonian = BUILD[name](parameter)
    direction = np.array([0.6, -0.48, 0.64])
    for length in (0.0, 1e-30, 1e-12, 1e-3, 0.5, 0.74, 0.9, 1.5, 40.0, 1e8, 1e25):
        p = (length * direction).astype(precision)
        for got, want in zip((hamiltonian(p), hamiltonian.lagrangian(p)), _exact(name, p, parameter), strict=True):
            assert got.dtype == precision
            if 0 < abs(want) < np.finfo(precision).tiny:
                continue  # held at zero
            want = np.inf if want > float(np.finfo(precision).max) ** 0.9 else float(want)
            np.testing.assert_allclose(got, want, rtol=5 * tolerances.of(precision).rtol)


def test_the_limits_of_speed_are_exact_where_the_numbers_are():
    v = jnp.array([[3.0, 4.0], [3.0, np.nextafter(np.float32(4), np.float32(5))], [2.0, 2.0]])
    assert hjax.Eikonal(5).lagrangian(v).tolist() == [0.0, np.inf, 0.0]
    assert hjax.Eikonal(7).lagrangian(jnp.array([2.0, 3.0, 6.0])) == 0
    v = jnp.array([[0.0, 1.0], [np.nextafter(np.float32(1), np.float32(2)), 0.0]])
    assert hjax.Relativistic(2).lagrangian(v).tolist() == [0.0, np.inf]


@pytest.mark.parametrize(("name", "parameter"), [p for p in PARAMETERS if p[1] != 2])
def test_derivatives_are_finite_and_those_of_finite_differences(precision, name, parameter):
    """To second order in p, v and the parameter: finite at zero, at and beyond the limit; exact in between."""
    limit = {"Relativistic": 1.0, "Eikonal": parameter}.get(name, 1.0)
    # The last of these is on the limit to the last bit.
    points = np.array([[0, 0], [1e-20, 0], [0.3, 0.4], [3.0, 4.0], [1e8, 0], [-1e30, 0], [0, limit]]).astype(precision)

    def both(parameter: jax.Array, p: jax.Array) -> jax.Array:
        hamiltonian = BUILD[name](parameter)
        values = jnp.stack([hamiltonian(p), hamiltonian.lagrangian(p)])
        return jnp.where(jnp.isinf(values), 0, values)

    def derivatives(parameter: jax.Array, p: jax.Array) -> tuple:
        first = jax.jacrev(both, argnums=(0, 1))
        return first(parameter, p), jax.jacfwd(first, argnums=(0, 1))(parameter, p)

    given = jnp.asarray(parameter, precision)
    got = jax.jit(jax.vmap(derivatives, in_axes=(None, 0)))(given, points)
    for leaf in jax.tree.leaves(got):
        assert np.isfinite(leaf).all()
    if precision == np.float64:
        check_grads(jax.jit(both), (given, jnp.asarray(points[2])), order=1, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", list(BUILD))
def test_nan_is_not_hidden(name):
    hamiltonian = BUILD[name](2.0)
    v = jnp.array([jnp.nan, 5.0])
    assert np.isnan(hamiltonian(v))
    assert np.isnan(hamiltonian.lagrangian(v))
    assert np.isnan(hamiltonian.cost(v, jnp.zeros(2), 1.0))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: hjax.Power(1), "exponent must be greater than 1 and finite, got 1; pass exponent > 1"),
        (lambda: hjax.Power(np.inf), "exponent must be greater than 1 and finite, got inf"),
        (lambda: hjax.Power(np.ones(2)), r"exponent must be one number, got shape \(2,\)"),
        (lambda: hjax.Power("two"), "exponent"),
        (lambda: hjax.Relativistic(0.0), "mass must be positive and finite, got 0"),
        (lambda: hjax.Relativistic(np.nan), "mass must be positive and finite, got nan"),
        (lambda: hjax.Eikonal(-1.0), "speed must be positive and finite, got -1"),
        (lambda: hjax.Eikonal(None), "speed must be an array of real numbers"),
    ],
)
def test_a_bad_parameter_is_refused_with_a_reason(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_a_traced_exponent_of_one_or_less_raises_at_run_time():
    run = jax.jit(lambda a: hjax.Power(a)(jnp.ones(2)))
    run(1.5)
    with pytest.raises((RuntimeError, ValueError), match="exponent must be greater than 1"):
        jax.block_until_ready(run(1.0))
