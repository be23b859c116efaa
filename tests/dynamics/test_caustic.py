"""Caustic times against closed forms, scipy's minima and scipy's integrators; the first shock to 1e-8."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize

import hjax
from hjax.dynamics import StormerVerlet, caustic_time, first_shock

ERROR = {"float64": 1e-9, "float32": 3e-5}


class Mixture(eqx.Module):
    """A line of functions, in one compiled program."""

    weights: jax.Array

    def __call__(self, y):
        (z,) = y
        parts = [jnp.sin(z), jnp.exp(-(z**2)) * jnp.cos(2 * z), -jnp.log(jnp.cosh(1.5 * z + 0.4)), z**4 + z**2]
        return self.weights @ jnp.stack(parts)


def bump_curvature(y):
    e, c, s = np.exp(-(y**2)), np.cos(2 * y), np.sin(2 * y)
    return e * ((4 * y**2 - 2) * c + 8 * y * s - 4 * c)


# g'' in NumPy of the first three, and where to look.
LINES = [
    (lambda y: -np.sin(y), (0.3, 3.0)),
    (bump_curvature, (-1.0, 1.0)),
    (lambda y: -(1.5**2) / np.cosh(1.5 * y + 0.4) ** 2, (-1.5, 1.0)),
]


def test_the_first_shock_on_a_line_is_minus_one_over_twice_the_least_curvature(double):
    for (curvature, ends), weights in zip(LINES, np.eye(4)[:3], strict=True):
        g = Mixture(jnp.asarray(weights))
        least = optimize.minimize_scalar(curvature, bounds=ends, method="bounded", options={"xatol": 1e-10})
        shock = first_shock(hjax.Quadratic(), g, jnp.linspace(*ends, 9)[:, None], t1=4.0)
        assert abs(float(shock.time) + 1 / (2 * least.fun)) < 1e-8
        assert abs(float(shock.start[0]) - least.x) < 1e-4
        slope = jax.grad(g)(shock.start)
        np.testing.assert_allclose(shock.position, shock.start + 2 * shock.time * slope, atol=1e-9)
        np.testing.assert_allclose(shock.value, g(shock.start) + shock.time * slope[0] ** 2, atol=1e-9)
        np.testing.assert_allclose(shock.momentum, slope, atol=1e-12)
    convex = first_shock(hjax.Quadratic(), Mixture(jnp.eye(4)[3]), jnp.linspace(-1, 1, 9)[:, None], t1=4.0)
    assert convex.time == np.inf
    assert np.isfinite(convex.position).all()


@pytest.mark.slow
def test_in_the_plane_it_is_that_of_the_least_eigenvalue(double):
    """Two wells of curvature, found by scipy's Nelder-Mead on NumPy's eigenvalues."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])

    def g(y):
        z = turn @ y
        return jnp.cos(z[0]) + 0.6 * jnp.cos(1.7 * z[1] + 0.3 * z[0])

    def least_eigenvalue(y):
        z = turn @ y
        a, b = -np.cos(z[0]), -0.6 * np.cos(1.7 * z[1] + 0.3 * z[0])
        k = np.array([0.3, 1.7])
        return np.linalg.eigvalsh(np.diag([a, 0]) + b * np.outer(k, k))[0]

    options = {"xatol": 1e-9, "fatol": 1e-13}
    best = optimize.minimize(least_eigenvalue, turn.T @ [0.1, 0.1], method="Nelder-Mead", options=options).fun
    axis = jnp.linspace(-1, 1, 4)
    starts = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert abs(float(first_shock(hjax.Quadratic(), g, starts, t1=2.0).time) + 1 / (2 * best)) < 1e-8


@pytest.mark.slow
def test_for_another_hamiltonian_of_p_alone(double):
    """`-1/(H''(g') g'')` for H = sqrt(p^2 + 1), by scipy."""

    def time(y):
        return -1 / ((1 + np.cos(y) ** 2) ** -1.5 * -np.sin(y)) if np.sin(y) > 0 else np.inf

    exact = optimize.minimize_scalar(time, bounds=(0.5, 2.5), method="bounded", options={"xatol": 1e-10})
    starts = jnp.linspace(0.4, 2.7, 8)[:, None]
    shock = first_shock(hjax.Relativistic(1.0), lambda y: jnp.sin(y[0]), starts, t1=9.0)
    assert abs(float(shock.time) - exact.fun) < 1e-8


@pytest.mark.slow
def test_the_caustic_of_an_anharmonic_well_against_scipy(double):
    """H neither of p alone nor quadratic: scipy integrates x, p, dx, dp and finds the zero of dx by its own event."""

    def rates(t, y):
        x, p, dx, dp = y
        return [2 * p * (1 + 0.2 * x**2), -0.4 * x * p**2 - 4 * x**3, 2 * dp * (1 + 0.2 * x**2) + 0.8 * p * x * dx,
                -0.4 * dx * p**2 - 0.8 * x * p * dp - 12 * x**2 * dx]  # fmt: skip

    def focus(t, y):
        return y[2]

    focus.terminal = True

    def g(y):
        return 0.3 * jnp.sin(y[0])

    @jax.jit
    def found(x):
        return caustic_time(lambda x, p, t: jnp.sum((1 + 0.2 * x**2) * p**2 + x**4), g, x, t1=30.0)

    ours = jax.vmap(found)(jnp.array([[0.4], [-1.1], [2.0]]))
    for i, x in enumerate((0.4, -1.1, 2.0)):
        start = [x, 0.3 * np.cos(x), 1.0, -0.3 * np.sin(x)]
        tight = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-13}
        exact = integrate.solve_ivp(rates, (0, 30), start, events=focus, **tight)
        assert abs(float(ours.time[i]) - exact.t_events[0][0]) < 1e-8
        np.testing.assert_allclose(ours.position[i], exact.y_events[0][0, 0], atol=1e-8)


def test_a_lens_and_two_zeros_in_one_step_are_seen(precision):
    """The determinant touches zero there, or has passed it twice; metrics and a spring have closed forms too."""
    found = jax.jit(lambda h, slopes, x: caustic_time(h, lambda y: y @ slopes @ y / 2, x, t1=50.0))
    x = jnp.array([0.3, -0.4], precision)
    unit = hjax.Quadratic(jnp.eye(2, dtype=precision))
    for slopes, time in (
        (-np.eye(2), 0.5),
        (np.diag([-1.0, -0.9]), 0.5),
        (np.diag([2.0, -0.02]), 25.0),
        (np.diag([2.0, 0.3]), np.inf),
        (np.diag([0.0, 0.0]), np.inf),
    ):
        lens = found(unit, jnp.asarray(slopes, precision), x)
        np.testing.assert_allclose(lens.time, time, rtol=ERROR[precision.name])
        assert lens.time.dtype == precision
    metric, slopes = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[0.2, -0.7], [-0.7, -0.1]])
    exact = -1 / (2 * np.linalg.eigvals(metric @ slopes).real.min())
    lens = found(hjax.Quadratic(jnp.asarray(metric, precision)), jnp.asarray(slopes, precision), x)
    np.testing.assert_allclose(lens.time, exact, rtol=ERROR[precision.name])


def test_a_spring_focuses_whatever_the_data(double):
    """x'' = -4 w^2 x: dx = cos 2wt + (g''/w) sin 2wt."""
    w = 1.3

    def spring(x, p, t):
        return jnp.sum(p**2) + w**2 * jnp.sum(x**2)

    slopes = jnp.array([[0.2, 0.1], [0.1, -0.4]])
    starts = jnp.array([[0.3, -0.7], [0.0, 0.0]])
    found = jax.jit(
        jax.vmap(lambda x, sign: caustic_time(spring, lambda y: sign * y @ slopes @ y / 2, x, t1=20.0), in_axes=(0, 0))
    )(starts, jnp.array([1.0, -1.0]))
    least = np.linalg.eigvalsh(np.asarray(slopes, float))[[0, 1]] * [1, -1]
    np.testing.assert_allclose(found.time, np.arctan2(w, -least) / (2 * w), rtol=5e-9)


@pytest.mark.slow
def test_the_time_is_differentiable_in_the_start_and_in_the_data(double):
    def time(x, k):
        return caustic_time(hjax.Quadratic(), lambda y: jnp.sin(k * y[0]), x[None], t1=5.0).time

    # t = 1/(2 k^2 sin kx)
    x, k = 0.7, 1.2
    s, c = np.sin(k * x), np.cos(k * x)
    got = jax.jit(jax.grad(time, argnums=(0, 1)))(jnp.array(x), jnp.array(k))
    np.testing.assert_allclose(got, [-c / (2 * k * s**2), -1 / (k**3 * s) - x * c / (2 * k**2 * s**2)], rtol=1e-7)


def test_a_field_has_no_caustic(double):
    field = hjax.Advection(lambda x, t: -5 * jnp.tanh(x))
    assert caustic_time(field, lambda y: -jnp.sum(y**2), jnp.ones(2), t1=3.0).time == np.inf


POINT = np.ones(2, np.float32)


def hill(y):
    return -jnp.sum(y**2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: caustic_time(hjax.Quadratic(), hill, np.ones((3, 2), np.float32), t1=1.0), r"x0 is \(3, 2\), but one"),
        (lambda: caustic_time(hjax.Quadratic(), lambda y: y, POINT, t1=1.0), r"g makes \(2,\) of a point \(2,\)"),
        (lambda: caustic_time(hjax.Quadratic(), hill, np.array([1, 2]), t1=1.0), "x0 has dtype int"),
        (lambda: caustic_time(hjax.Quadratic(), hill, POINT, t1=0.0), "t1 must be later than t0"),
        (lambda: caustic_time(lambda x, p, t: p, hill, POINT, t1=1.0), "must return one number"),
        (
            lambda: caustic_time(hjax.Quadratic(), hill, POINT, t1=1.0, solver=StormerVerlet(), dt0=0.1),
            "StormerVerlet steps x and p in turn, not their variations",
        ),
        (lambda: caustic_time(hjax.Quadratic(), hill, POINT, t1=1.0, solver=diffrax.Euler()), "pass dt0"),
        (lambda: first_shock(hjax.Quadratic(), hill, POINT, t1=1.0), r"starts has shape \(2,\), but \(N, d\)"),
        (
            lambda: first_shock(hjax.Quadratic(), hill, np.full((2, 2), np.nan, np.float32), t1=1.0),
            "starts contains NaN",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_hamiltonian_that_is_not_convex_is_an_error_when_it_runs():
    with pytest.raises(Exception, match="not convex in p at this start"):
        caustic_time(lambda x, p, t: p[0] ** 2 - p[1] ** 2, hill, POINT, t1=1.0)
