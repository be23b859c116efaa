"""The closed forms are the derivatives of the value, and the value solves the equation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

from .cases import EPS, METRICS, autodiff, closed_forms, data, dense_metric, queries, solution

NAMES = ("gradient", "hessian", "laplacian", "time_derivative")


def assert_closed_forms_are_derivatives(u: hjax.Solution, x: jax.Array, t: jax.Array, rtol: float) -> None:
    for name, got, want in zip(NAMES, closed_forms()(u, x, t), autodiff()(u, x, t), strict=True):
        scale = 1 + np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("kind", ["HopfCole", "HopfLax"])
def test_closed_forms_equal_autodiff_of_the_value(double, kind, metric):
    u = solution(kind, metric, normalize=kind == "HopfCole", weighted=True)
    assert_closed_forms_are_derivatives(u, *queries(), rtol=1e-12)


@pytest.mark.parametrize("kind", ["HopfCole", "HopfLax"])
def test_closed_forms_equal_autodiff_in_single_precision(kind):
    assert_closed_forms_are_derivatives(solution(kind, "matrix"), *queries(), rtol=1e-5)


def test_the_hessian_by_rows_in_twenty_dimensions_equals_autodiff(double):
    u = hjax.HopfCole(data(520, 20), 1.0, normalize=True)
    x, t = queries(2, 20)
    got = eqx.filter_jit(lambda u, x: u.hessian(x, 2.0))(u, x)
    want = eqx.filter_jit(lambda u, x: jax.vmap(lambda x: jax.hessian(u)(x, 2.0))(x))(u, x)
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_coordinates_far_from_the_origin_cost_no_digits_in_the_derivatives(double):
    near = solution("HopfCole", "matrix")
    shift = 2.0**14
    # Multiples of 2^-20, so that the shift is exact.
    y = jnp.round(near.data.points * 2**20) / 2**20
    x, t = queries()
    x = jnp.round(x * 2**20) / 2**20
    near = hjax.HopfCole(hjax.InitialData(y, near.data.values), EPS, near.hamiltonian)
    far = hjax.HopfCole(hjax.InitialData(y + shift, near.data.values), EPS, near.hamiltonian)
    for name, a, b in zip(NAMES, closed_forms()(near, x, t), closed_forms()(far, x + shift, t), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12, err_msg=name)


residual = eqx.filter_jit(lambda u, x, t: u.residual(x, t))


@pytest.mark.parametrize("metric", list(METRICS))
def test_the_normalised_value_solves_the_viscous_equation(double, metric):
    x, t = queries(40)
    assert np.abs(residual(solution("HopfCole", metric, normalize=True, weighted=True), x, t)).max() < 1e-10


@pytest.mark.parametrize("metric", ["identity", "matrix"])
def test_without_the_prefactor_the_residual_is_minus_d_eps_over_two_t(double, metric):
    x, t = queries(40)
    np.testing.assert_allclose(residual(solution("HopfCole", metric), x, t), -3 * EPS / (2 * t), atol=1e-10)


def test_with_isotropic_viscosity_the_anisotropic_value_solves_nothing(double):
    u = solution("HopfCole", "matrix", normalize=True)
    x, t = queries(40)
    a = dense_metric("matrix")
    p, hessian, laplacian, rate = (np.asarray(z) for z in closed_forms()(u, x, t))
    transport = np.asarray(rate) + np.einsum("mi,ij,mj->m", p, a, p)
    assert np.abs(transport - EPS * np.einsum("ij,mij->m", a, hessian)).max() < 1e-10
    assert np.abs(transport - EPS * laplacian).max() > 0.1


@pytest.mark.parametrize("metric", ["identity", "matrix"])
def test_hopf_lax_solves_the_inviscid_equation_away_from_shocks(double, metric):
    x, t = queries(40)
    assert np.abs(residual(solution("HopfLax", metric), x, t)).max() < 1e-10


def test_the_residual_in_single_precision_is_rounding():
    x, t = queries(40)
    assert np.abs(residual(solution("HopfCole", "matrix", normalize=True), x, t)).max() < 1e-3


@pytest.mark.parametrize("kind", ["HopfCole", "HopfLax"])
def test_gradients_flow_through_a_solution_into_data_eps_and_metric(double, kind):
    """d/ds u(x, t; data + s direction), against central differences."""
    u = solution(kind, "matrix", weighted=kind == "HopfCole")
    x, t = queries(1)

    def total(u: hjax.Solution) -> jax.Array:
        return jnp.sum(u(x, t)) + jnp.sum(jnp.sin(u.gradient(x, t)))

    arrays, static = eqx.partition(u, eqx.is_inexact_array)
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), arrays)
    # A symmetric direction keeps the metric a metric.
    direction = eqx.tree_at(lambda u: u.hamiltonian.metric, direction, replace_fn=lambda a: (a + a.T) / 8)

    @jax.jit
    def along(s: jax.Array) -> jax.Array:
        return total(eqx.combine(jax.tree.map(lambda a, b: a + s * b, arrays, direction), static))

    h = 1e-5
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), (along(h) - along(-h)) / (2 * h), rtol=1e-7)
