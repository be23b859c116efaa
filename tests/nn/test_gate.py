"""Gates against scipy's formulas, and as slopes of their potentials."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import hjax

from .. import tolerances


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_a_gate_is_its_formula_and_the_slope_of_its_potential(precision, kind):
    gate = hjax.nn.LSEGate(3, 4, eps=0.5, kind=kind, key=jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=3), float)
    z = np.asarray(gate.weight, float) @ np.asarray(x, float)
    want = special.expit(2 * z) if kind == "sigmoid" else np.tanh(2 * z)
    values, jacobian = eqx.filter_jit(lambda g, x: (g(x), jax.jacobian(g.potential)(x)))(gate, x)
    np.testing.assert_allclose(values, want, atol=8 * tolerances.of(precision).atol)
    # The potential moves with x as the gate says: d/dx = diag(gate) W.
    np.testing.assert_allclose(jacobian, want[:, None] * gate.weight, atol=16 * tolerances.of(precision).atol)


def test_a_cold_gate_is_a_switch():
    for kind, ends in (("sigmoid", {0.0, 1.0}), ("tanh", {-1.0, 1.0})):
        gate = hjax.nn.LSEGate(3, 8, eps=1e-6, kind=kind, key=jax.random.key(0))
        assert set(np.asarray(gate(jnp.ones(3))).tolist()) <= ends
        assert gate.describe().status == "exact"
        assert "not a solution" in gate.describe().equation


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda key: hjax.nn.LSEGate(3, 2, eps=1.0, kind="relu", key=key), "kind is 'relu'"),
        (lambda key: hjax.nn.LSEGate(0, 2, eps=1.0, key=key), "in_size is 0"),
        (lambda key: hjax.nn.LSEGate(3, 2, eps=-1.0, key=key), "eps must be positive"),
        (lambda key: hjax.nn.LSEGate(3, 2, eps=1.0, key=key)(jnp.zeros((5, 3))), r"jax\.vmap\(gate\)"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(jax.random.key(0))
