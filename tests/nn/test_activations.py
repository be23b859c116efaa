"""Table 6: every activation against scipy, the two open rows against the derivative in the temperature at 30 digits."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special, stats

import hjax
from hjax.nn import activations

from .. import tolerances

Z = np.array([-30.0, -4.0, -1.0, -0.3, 0.0, 0.2, 1.0, 3.0, 30.0])
ORACLES = {
    "softplus": lambda z, eps: eps * np.logaddexp(0, z / eps),
    "log_cosh": lambda z, eps: eps * np.logaddexp(z / eps, -z / eps),
    "sigmoid": lambda z, eps: special.expit(z / eps),
    "tanh": lambda z, eps: np.tanh(z / eps),
    "silu": lambda z, eps: z * special.expit(z / eps),
    "gelu": lambda z, eps: z * stats.norm.cdf(z / eps),
    "heat_relu": lambda z, eps: z * stats.norm.cdf(z / eps) + eps * stats.norm.pdf(z / eps),
}
LIMITS = {
    "softplus": lambda z: np.maximum(z, 0),
    "log_cosh": np.abs,
    "sigmoid": lambda z: np.heaviside(z, 0.5),
    "tanh": np.sign,
    "silu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: np.maximum(z, 0),
    "heat_relu": lambda z: np.maximum(z, 0),
}
evaluate = {name: jax.jit(getattr(activations, name)) for name in ORACLES}


@pytest.mark.parametrize("name", list(ORACLES))
def test_it_is_its_formula_at_every_temperature(precision, name):
    for eps in (1.0, 0.1, 1e-3):
        z, temperature = Z.astype(precision), precision.type(eps)
        want = ORACLES[name](z.astype(float), float(temperature))
        atol = 4 * tolerances.of(precision).atol * np.maximum(1, np.abs(z))
        got = evaluate[name](jnp.asarray(z), jnp.asarray(temperature))
        assert got.dtype == precision
        np.testing.assert_array_less(np.abs(np.asarray(got, float) - want), atol + 1e-300)


@pytest.mark.parametrize("name", list(ORACLES))
def test_it_tends_to_its_limit(double, name):
    got = evaluate[name](jnp.asarray(Z), jnp.asarray(1e-3))
    np.testing.assert_allclose(got, LIMITS[name](Z), rtol=0, atol=1e-3)


def test_softplus_is_within_eps_log_2_of_relu_and_attains_it_at_zero(double):
    z = np.linspace(-3, 3, 121)
    for eps in (1.0, 0.1, 0.01):
        gap = np.asarray(activations.softplus(z, eps)) - np.asarray(activations.relu(z))
        assert gap.min() >= 0
        assert gap.max() == pytest.approx(eps * np.log(2), rel=1e-12)


def test_relu_selects_one_row(double):
    np.testing.assert_array_equal(activations.relu(Z), np.maximum(Z, 0))
    slopes = jax.vmap(jax.grad(activations.relu))(jnp.asarray(Z))
    np.testing.assert_array_equal(slopes, (Z > 0).astype(float))


def test_the_tail_of_the_sigmoid_keeps_its_digits(double):
    got = float(activations.sigmoid(jnp.array(-60.0)))
    assert got == pytest.approx(float(mpmath.exp(-60) / (1 + mpmath.exp(-60))), rel=1e-14, abs=0)


def _softplus(z, eps):
    return eps * mpmath.log(1 + mpmath.exp(mpmath.mpf(z) / eps))


def _heat(z, s):
    """relu after the Gaussian, by quadrature of its definition."""
    return mpmath.quad(lambda y: y * mpmath.npdf(y, z, s), [0, max(z, 0) + 3 * s, max(z, 0) + 12 * s])


@pytest.mark.parametrize(("name", "potential"), [("silu", _softplus), ("gelu", _heat)])
@pytest.mark.parametrize("eps", [1.0, 0.3])
def test_the_open_rows_are_one_derivative_in_the_temperature(double, name, potential, eps):
    """(1 - eps d/d eps) of softplus and of the heat flow of relu, which is written here as an integral."""
    z = (-1.3, 0.0, 0.4, 2.0)
    with mpmath.workdps(30):
        want = [potential(a, eps) - eps * mpmath.diff(lambda s, a=a: potential(a, s), eps) for a in z]
    atol = 1e-13
    np.testing.assert_allclose(evaluate[name](jnp.array(z), jnp.asarray(eps)), np.array(want, float), atol=atol)
    parent = {"silu": activations.softplus, "gelu": activations.heat_relu}[name]
    operated = jax.jit(activations.mean_energy(parent))(jnp.array(z), jnp.asarray(eps))
    np.testing.assert_allclose(operated, np.array(want, float), atol=atol)


def test_silu_is_softplus_minus_its_entropy(double):
    eps = 0.4
    p = special.expit(Z / eps)
    want = eps * np.logaddexp(0, Z / eps) - eps * (special.entr(p) + special.entr(special.expit(-Z / eps)))
    np.testing.assert_allclose(activations.silu(Z, eps), want, atol=1e-13)


def test_slopes_of_potentials(double):
    """d/dz by autodiff of the reduction, against scipy's formulas for the slope."""
    z = jnp.asarray(Z)
    for potential, slope in ((activations.softplus, ORACLES["sigmoid"]), (activations.log_cosh, ORACLES["tanh"])):
        got = jax.jit(jax.vmap(jax.grad(potential), (0, None)))(z, jnp.asarray(0.3))
        np.testing.assert_allclose(got, slope(Z, 0.3), atol=1e-14)


@pytest.mark.parametrize("name", ["log_cosh", "silu", "gelu"])
def test_derivatives_in_z_and_eps(double, name):
    check_grads(evaluate[name], (jnp.array([-0.7, 0.1, 1.2]), jnp.array(0.6)), order=2, modes=("rev",))


def test_a_sum_of_softpluses_is_one_layer_of_all_subset_sums(double):
    rng = np.random.default_rng(0)
    weight, bias, x, eps = rng.normal(size=(5, 2)), rng.normal(size=5), rng.normal(size=2), 0.3
    subsets = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    layer = hjax.nn.LSELayer.from_arrays(subsets @ weight, subsets @ bias, eps=eps)
    assert layer.width == 32
    assert float(layer(x)) == pytest.approx(float(activations.softplus(weight @ x + bias, eps).sum()), rel=1e-13)


def test_the_table_says_what_each_row_is():
    for name in (*ORACLES, "relu"):
        reading = activations.describe(name, eps=0.5)
        assert reading.model == name
        assert reading.status == "exact"
        assert reading.eps == (0.0 if name == "relu" else 0.5)
    assert "Hopf-Lax only" in activations.describe(activations.relu).equation
    for name in ("sigmoid", "tanh", "silu", "gelu"):
        assert "not" in activations.describe(name).equation
    assert "heat" in str(activations.describe("gelu"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: activations.softplus(jnp.zeros(2), 0.0), "eps must be positive"),
        (lambda: activations.gelu(jnp.zeros(2), -1.0), "eps must be positive"),
        (lambda: activations.sigmoid(jnp.zeros(2), jnp.ones(2)), "eps must be one number"),
        (lambda: activations.relu(jnp.zeros(2, int)), "z has dtype int"),
        (lambda: activations.silu("z"), "z must be an array"),
        (lambda: activations.describe("mish"), "activation is 'mish'.*softplus"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
