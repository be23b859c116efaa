"""Depth (E.1, E.2): layers that pass functions solve the equation, layers that pass points do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import hjax

EPS, TIME, REACH = 0.3, 1.0, 8.0
PLACES = np.array([0.0, 0.5, -1.5, 2.5])


@functools.cache
def continuum(scale: float) -> np.ndarray:
    """u(x, T) for g = scale |y| by adaptive quadrature of the heat kernel."""

    def phi(x: float) -> float:
        def integrand(y: float) -> float:
            return np.exp(-(scale * abs(y) + (x - y) ** 2 / (4 * TIME)) / EPS) / np.sqrt(4 * np.pi * EPS * TIME)

        return integrate.quad(integrand, -40, 0, points=[x])[0] + integrate.quad(integrand, 0, 40, points=[abs(x)])[0]

    return np.array([-EPS * np.log(phi(x)) for x in PLACES])


def start(spacing: float, scale: float = 1.0) -> hjax.HopfCole:
    rule = hjax.quadrature.grid(-REACH, REACH, round(2 * REACH / spacing))
    data = hjax.InitialData.from_function(lambda y: scale * jnp.abs(y).sum(), rule)
    return hjax.HopfCole(data, EPS, normalize=True)


def error(depth: int, spacing: float) -> float:
    step = TIME / depth
    u = start(spacing) if depth == 1 else hjax.nn.compose(start(spacing), [step] * (depth - 1))
    return float(np.abs(np.asarray(u(PLACES[:, None], step)) - continuum(1.0)).max())


def test_the_error_of_passing_functions_is_within_its_bound_and_of_second_order(double):
    """Below K (L + h/(2 tau)) h everywhere (E.1); at fixed eps and depth the order is 2 on midpoints (7.1.iii.c)."""
    errors = {(k, h): error(k, h) for k, h in [(1, 0.5), (4, 0.25), (4, 0.125), (8, 0.125)]}
    for (depth, h), got in errors.items():
        assert got <= depth * (1 + h * depth / (2 * TIME)) * h
    assert np.log2(errors[4, 0.25] / errors[4, 0.125]) == pytest.approx(2, abs=0.2)
    # E.2: K h = 1 is held here, and the error falls all the same: K h -> 0 is sufficient, not necessary.
    assert errors[8, 0.125] < errors[4, 0.25] / 2


def test_passing_points_leaves_a_gap_that_no_width_closes(double):
    """7.1.ii.b: u_t2(u_t1(x)) for g = 2|y| is off by more than one at the places, at both spacings."""
    gaps = []
    for h in (0.25, 0.125):
        u = start(h, 2.0)
        inner = u(PLACES[:, None], TIME / 2)
        outer = np.asarray(u(inner[:, None], TIME / 2))
        gaps.append(np.abs(outer - continuum(2.0)).max())
    assert min(gaps) > 0.5
    assert gaps[1] == pytest.approx(gaps[0], rel=0.05)
    deep = hjax.nn.compose(start(0.125, 2.0), [TIME / 2])
    assert np.abs(np.asarray(deep(PLACES[:, None], TIME / 2)) - continuum(2.0)).max() < 0.02


def test_unequal_steps_and_derivatives_through_the_depth(double):
    """dg_j reaches u through all layers: the sum of du/dg is one, because u(g + c) = u(g) + c."""
    u = start(0.5)
    values = jax.jit(lambda times: hjax.nn.compose(u, times)(PLACES[:, None], 0.3))(jnp.array([0.2, 0.5]))
    assert np.abs(np.asarray(values) - continuum(1.0)).max() < 0.15

    @jax.jit
    @jax.grad
    def slope(g):
        moved = hjax.HopfCole(hjax.InitialData(u.data.points, g, u.data.log_weights), EPS, normalize=True)
        return hjax.nn.compose(moved, [0.2, 0.5])(jnp.array([0.5]), 0.3)

    gradient = np.asarray(slope(u.data.values))
    assert gradient.sum() == pytest.approx(1, abs=1e-12)
    assert (gradient >= 0).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda u: hjax.nn.compose(u.data, [0.1]), "u is InitialData"),
        (lambda u: hjax.nn.compose(hjax.HopfCole(u.data, EPS), [0.1]), "normalize=True"),
        (
            lambda u: hjax.nn.compose(
                hjax.HopfCole(hjax.InitialData(u.data.points, u.data.values), EPS, normalize=True), [0.1]
            ),
            "no quadrature weights",
        ),
        (lambda u: hjax.nn.compose(u, []), "at least one step"),
        (lambda u: hjax.nn.compose(u, [0.1, -0.1]), "times must be positive"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(start(2.0))
