"""Retrieval against a loop in numpy; the energy against the solution, whose gradient a step follows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

from .. import tolerances

N, D, EPS = 6, 4, 0.8


def patterns() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(N, D)), float)


def memory(eps: float = EPS, steps: int = 1) -> hjax.nn.HopfieldLayer:
    return hjax.nn.HopfieldLayer.from_patterns(patterns(), eps=eps, steps=steps)


def starts(m: int = 20) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(m, D)), float)


retrieve = eqx.filter_jit(lambda made, x: jax.vmap(made)(x))
energies = eqx.filter_jit(lambda made, x: jax.vmap(made.energy)(x))


def test_retrieval_is_its_formula_step_by_step(precision):
    y, x = np.asarray(patterns(), np.float64), np.asarray(starts(), np.float64)
    for _ in range(3):
        weights = np.exp(x @ y.T / EPS)
        x = weights @ y / weights.sum(1, keepdims=True)
    atol = 40 * tolerances.of(precision).atol
    np.testing.assert_allclose(retrieve(memory(steps=3), starts()), x, atol=atol)
    assert hjax.nn.HopfieldLayer(D, N, eps=1, key=jax.random.key(0))(starts()[0]).shape == (D,)


def test_the_energy_is_the_solution_and_a_step_follows_its_gradient(double):
    made, x = memory(), starts()
    u = made.to_solution()
    np.testing.assert_allclose(energies(made, x), u(x, 0.5), atol=1e-13)
    np.testing.assert_allclose(retrieve(made, x), x - u.gradient(x, 0.5), atol=1e-13)
    np.testing.assert_allclose(retrieve(made, x), x - jax.jit(jax.vmap(jax.grad(made.energy)))(x), atol=1e-13)


@pytest.mark.parametrize("eps", [0, 0.05, EPS, 10.0])
def test_no_step_raises_the_energy(double, eps):
    made, x = memory(eps), starts()
    before = energies(made, x)
    for _ in range(10):
        x = retrieve(made, x)
        after = energies(made, x)
        assert np.all(after <= before + 1e-13)
        before = after


def test_a_cold_memory_returns_the_pattern_next_to_a_noisy_copy(double):
    rng = np.random.default_rng(2)
    stored = rng.choice([-1.0, 1.0], size=(30, 64))
    made = hjax.nn.HopfieldLayer.from_patterns(jnp.asarray(stored), eps=1.0)
    noisy = stored * np.where(rng.random(stored.shape) < 0.1, -1, 1)
    got = np.asarray(retrieve(made, jnp.asarray(noisy)))
    products = noisy @ stored.T
    gap = np.diag(products) - np.where(np.eye(30, dtype=bool), -np.inf, products).max(1)
    assert gap.min() > 0
    bound = 29 * np.exp(-gap) * 2 * np.sqrt(64)  # H.12, and any two patterns are at most 2 sqrt(d) apart
    assert np.all(np.linalg.norm(got - stored, axis=1) <= bound)
    hard = hjax.nn.HopfieldLayer.from_patterns(jnp.asarray(stored), eps=0)
    np.testing.assert_array_equal(retrieve(hard, jnp.asarray(noisy)), stored)
    assert isinstance(hard.to_solution(), hjax.HopfLax)


def test_a_hot_memory_returns_the_mean(double):
    np.testing.assert_allclose(retrieve(memory(1e9), starts()), np.tile(patterns().mean(0), (20, 1)), atol=1e-8)


def test_it_says_what_it_solves():
    assert memory().describe().status == "exact"
    assert memory(0).describe().eps == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.HopfieldLayer(0, 2, eps=1.0, key=jax.random.key(0)), "in_size is 0"),
        (lambda: hjax.nn.HopfieldLayer(2, 2, eps=1.0, steps=0, key=jax.random.key(0)), "steps is 0"),
        (lambda: hjax.nn.HopfieldLayer(2, 2, eps=-1.0, key=jax.random.key(0)), "eps must be positive"),
        (lambda: hjax.nn.HopfieldLayer.from_patterns(jnp.zeros(3), eps=1.0), r"patterns has shape \(3,\)"),
        (lambda: hjax.nn.HopfieldLayer.from_patterns(jnp.zeros((3, 0)), eps=1.0), r"patterns has shape \(3, 0\)"),
        (lambda: hjax.nn.HopfieldLayer.from_patterns(jnp.full((3, 2), jnp.nan), eps=1.0), "patterns contains NaN"),
        (lambda: memory()(jnp.zeros((2, D))), r"x has shape \(2, 4\).*jax\.vmap\(layer\)"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
