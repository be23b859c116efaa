"""Max-plus layers against numpy's maximum, and as the limit of LSE layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import hjax

from .. import tolerances

D, N, K = 2, 7, 3
batch = eqx.filter_jit(lambda made, x: jax.vmap(made)(x))


def layer(out_size="scalar") -> hjax.nn.MaxPlusLayer:
    rng = np.random.default_rng(0)
    lead = () if out_size == "scalar" else (out_size,)
    weight, bias = (jnp.asarray(rng.normal(size=(*lead, *s)), float) for s in ((N, D), (N,)))
    return hjax.nn.MaxPlusLayer.from_arrays(weight, bias)


def samples(m: int = 20) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(m, D)), float)


@eqx.filter_jit
def everything(made, x):
    def total(made, x):
        return jnp.sum(jax.vmap(made)(x))

    return batch(made, x), jax.vmap(made.winner)(x), eqx.filter_grad(total)(made, x), jax.grad(total, 1)(made, x)


def test_it_is_the_maximum_and_its_gradient_the_winning_row(precision):
    made, x = layer(), samples()
    value, winners, gradient, slopes = everything(made, x)
    pre = np.asarray(x) @ np.asarray(made.weight).T + np.asarray(made.bias)
    np.testing.assert_allclose(value, pre.max(-1), atol=4 * tolerances.of(precision).atol)
    np.testing.assert_array_equal(winners, pre.argmax(-1))
    np.testing.assert_array_equal(gradient.bias, np.bincount(winners, minlength=N))
    np.testing.assert_array_equal(slopes, np.asarray(made.weight)[winners])


def test_several_outputs_are_several_maxima(double):
    made, x = layer(K), samples()
    pre = np.einsum("knd,md->mkn", made.weight, x) + np.asarray(made.bias)
    np.testing.assert_allclose(batch(made, x), pre.max(-1), atol=1e-14)


@pytest.mark.parametrize("metric", [None, np.array([[1.0, 0.3], [0.3, 0.5]])])
def test_it_is_a_hopf_lax_solution_and_a_linear_program(double, metric):
    """u from the dictionary against HiGHS on the costs, f against |x|^2/4t - u, round trip back to the rows."""
    made, x, t = layer(), samples(4), 0.6
    u = made.to_solution(t, hjax.Quadratic(metric))
    inverse = np.eye(D) if metric is None else np.linalg.inv(metric)
    y, g = np.asarray(u.data.points), np.asarray(u.data.values)
    for point in np.asarray(x):
        cost = g + np.einsum("ni,ij,nj->n", point - y, inverse, point - y) / (4 * t)
        exact = linprog(cost, A_eq=np.ones((1, N)), b_eq=[1.0]).fun
        assert float(u(point, t)) == pytest.approx(exact, abs=1e-12)
        assert float(made(point)) == pytest.approx(point @ inverse @ point / (4 * t) - exact, abs=1e-12)
    back = hjax.nn.MaxPlusLayer.from_solution(u, t)
    np.testing.assert_allclose(back.weight, made.weight, rtol=1e-12)
    np.testing.assert_allclose(back.bias, made.bias, atol=1e-13)


@pytest.mark.parametrize("out_size", ["scalar", K])
def test_lse_layers_tend_to_it_from_above_within_eps_log_n(double, out_size):
    hard, x = layer(out_size), samples()
    for eps in (1.0, 0.1, 1e-3):
        soft = hjax.nn.LSELayer.from_arrays(hard.weight, hard.bias, eps=eps)
        gap = np.asarray(batch(soft, x) - batch(soft.tropical(), x))
        assert gap.min() >= -1e-14
        assert gap.max() <= eps * np.log(N) + 1e-14
    np.testing.assert_array_equal(soft.tropical().weight, hard.weight)


def test_an_absent_row_never_wins_and_absent_atoms_stay_absent():
    rows, bias = jnp.array([[0.0, 0.0], [9.0, 9.0]]), jnp.array([0.5, -jnp.inf])
    made = hjax.nn.MaxPlusLayer.from_arrays(rows, bias)
    assert float(made(jnp.ones(2))) == 0.5
    data = hjax.InitialData(jnp.eye(2), jnp.zeros(2), jnp.array([0.0, -jnp.inf]))
    assert float(hjax.nn.MaxPlusLayer.from_solution(hjax.HopfLax(data), 1.0).bias[1]) == -np.inf


def test_a_new_layer_its_units_and_its_reading():
    made = hjax.nn.MaxPlusLayer(D, K, N, key=jax.random.key(0))
    x = jnp.ones(D)
    np.testing.assert_array_equal(made(x)[1], made.unit(1)(x))
    assert made.unit(1).unit(0).out_size == "scalar"
    assert made.describe().status == "exact"
    assert made.describe().eps == 0
    assert "for each of 3 outputs" in str(made.describe())
    assert hjax.nn.LSELayer(D, K, N, eps=0.2, key=jax.random.key(0)).describe().eps == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.MaxPlusLayer(2, "scalar", 0, key=jax.random.key(0)), "width is 0"),
        (lambda: hjax.nn.MaxPlusLayer(2, "vector", 1, key=jax.random.key(0)), "out_size is 'vector'"),
        (lambda: layer()(jnp.zeros(3)), r"x has shape \(3,\)"),
        (lambda: layer(3).to_solution(1.0), r"3 outputs.*unit\(i\)"),
        (lambda: layer().to_solution(-1.0), "t must be positive"),
        (lambda: layer(3).unit(3), "index is 3"),
        (lambda: hjax.nn.MaxPlusLayer.from_solution(layer(), 1.0), "u is MaxPlusLayer.*HopfLax"),
        (lambda: hjax.nn.MaxPlusLayer.from_arrays(jnp.zeros((3, 2)), jnp.zeros(2)), r"bias has shape \(2,\)"),
        (lambda: hjax.nn.MaxPlusLayer.from_arrays(jnp.zeros((4, 3, 2)), jnp.zeros(3)), r"weight has shape \(4, 3, 2\)"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
