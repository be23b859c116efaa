"""Deep LSE networks: universality (H.1), what is not closed (H.2), convexity, and one matrix product a layer."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from scipy import special

import hjax

from .. import tolerances

batch = eqx.filter_jit(lambda network, x: jax.vmap(network)(x))


def network(**given) -> hjax.nn.LSENetwork:
    arguments = {"hidden": (5, 4), "width": 6, "eps": 0.3, "key": jax.random.key(0)} | given
    return hjax.nn.LSENetwork(3, 2, **arguments)


def samples(m: int = 10, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * np.random.default_rng(0).normal(size=(m, 3)), float)


def forward(made: hjax.nn.LSENetwork, x: np.ndarray) -> np.ndarray:
    """The same in numpy and scipy, in float64."""
    state = np.asarray(x, float)
    for layer in made.layers:
        eps, weight, bias = (np.asarray(a, float) for a in (layer.eps, layer.weight, layer.bias))
        pre = np.einsum("kni,mi->mkn", weight, state) + bias
        state = eps * special.logsumexp(pre / eps, axis=-1)
    return state @ np.asarray(made.output_weight, float).T + np.asarray(made.output_bias, float)


def test_the_forward_pass_is_its_formula(precision):
    made, x = network(eps=[0.5, 0.1]), samples()
    np.testing.assert_allclose(batch(made, x), forward(made, x), atol=64 * tolerances.of(precision).atol)


def test_the_parametrisation_of_convex_networks_is_the_exponential(double):
    made, x = network(convex=True), samples()
    np.testing.assert_allclose(batch(made, x), forward(made, x), atol=1e-13)
    np.testing.assert_array_equal(made.layers[0].weight, made.raw_layers[0].weight)
    np.testing.assert_allclose(made.layers[1].weight, np.exp(made.raw_layers[1].weight))
    np.testing.assert_allclose(made.output_weight, np.exp(made.raw_output_weight))


def test_convex_networks_are_convex_and_others_are_not(double):
    """Midpoints of 2,000 random pairs; and the same test sees that a signed network is not convex."""
    a, b = samples(4000, 3.0).reshape(2, 2000, 3)
    gaps = {}
    for convex in (True, False):
        f = network(convex=convex)
        low, high, mid = np.split(np.asarray(batch(f, jnp.concatenate([a, b, (a + b) / 2]))), 3)
        gaps[convex] = (mid - (low + high) / 2).max()
    assert gaps[True] <= 1e-12
    assert gaps[False] > 0.05


def max_min(knots: np.ndarray, values: np.ndarray, eps: float) -> hjax.nn.LSENetwork:
    """The interpolant as max_i min_j of affine functions: two hidden layers, the second with rows -e_i.

    Piece k on [x_k, x_k+1] is the minimum, around it, of the lines that lie above the interpolant there; enough are
    all lines, and for each piece those that are at least the interpolant's line on that piece.
    """
    slope = np.diff(values) / np.diff(knots)
    offset = values[:-1] - slope * knots[:-1]
    left, right = knots[:-1], knots[1:]
    above = (slope * left[:, None] + offset >= (slope * left + offset)[:, None] - 1e-12) & (
        slope * right[:, None] + offset >= (slope * right + offset)[:, None] - 1e-12
    )
    count = slope.size
    # h_i = -min_j over the lines that are above piece i on it; then max_i -h_i.
    rows = np.broadcast_to(-slope[None, :, None], (count, count, 1))
    bias = np.where(above, -offset, -np.inf)
    first = hjax.nn.LSELayer.from_arrays(rows.copy(), bias, eps=eps)
    second = hjax.nn.LSELayer.from_arrays(-np.eye(count)[None], np.zeros((1, count)), eps=eps)
    return hjax.nn.LSENetwork.from_layers([first, second], np.ones(1))


def test_a_signed_network_of_depth_two_approximates_a_function_that_is_not_convex(double):
    """H.1: the error falls with the width, by about 16 for four times the pieces and 1/16 of eps."""
    x = np.linspace(-2, 2, 801)
    errors = []
    for pieces in (8, 32):
        knots = np.linspace(-2, 2, pieces + 1)
        made, eps = max_min(knots, np.sin(4 * knots), 1 / pieces**2), 1 / pieces**2
        hard = np.interp(x, knots, np.sin(4 * knots))
        got = np.asarray(batch(made, x[:, None]))
        if pieces == 8:
            assert np.abs(batch(made.tropical(), x[:, None]) - hard).max() < 1e-12
        assert np.abs(got - hard).max() <= 2 * eps * np.log(pieces)
        errors.append(np.abs(got - np.sin(4 * x)).max())
    assert errors[1] < errors[0] / 8


def test_one_layer_is_convex_so_minus_the_modulus_is_out_of_reach(double):
    """The best of convex functions on [-1, 1] misses -|x| by 1/2 (the constant -1/2), and a sign makes it exact."""
    x = jnp.linspace(-1, 1, 101)[:, None]
    target = -np.abs(np.asarray(x)[:, 0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        layer = hjax.nn.LSELayer.from_arrays(rng.normal(size=(8, 1)), rng.normal(size=8), eps=0.1)
        values = np.asarray(batch(layer, x))
        assert np.abs(values - target).max() >= 0.5 - 1e-12
        # Chebyshev's argument itself: no shift of it can do better than half its convexity gap at -1, 0, 1.
        assert (values - target)[[0, 100]].mean() - (values - target)[50] >= 1 - 1e-12
    modulus = hjax.nn.LSELayer.from_arrays(np.array([[[1.0], [-1.0]]]), np.zeros((1, 2)), eps=1e-3)
    signed = hjax.nn.LSENetwork.from_layers([modulus], np.array([-1.0]))
    assert np.abs(batch(signed, x) - target).max() <= 1e-3 * np.log(2) + 1e-12


def test_closure_under_affine_inputs_but_not_under_composition(double):
    """H.2: W A, b + W c is a layer again; outer weight -1 gives -softplus, whose curvature -1/(4 eps) no layer has."""
    rng = np.random.default_rng(0)
    layer = hjax.nn.LSELayer.from_arrays(rng.normal(size=(6, 3)), rng.normal(size=6), eps=0.2)
    a, c, x = rng.normal(size=(3, 2)), rng.normal(size=3), rng.normal(size=2)
    composed = hjax.nn.LSELayer.from_arrays(layer.weight @ a, layer.bias + layer.weight @ c, eps=0.2)
    assert float(composed(x)) == pytest.approx(float(layer(a @ x + c)), rel=1e-13)
    softplus = hjax.nn.LSELayer.from_arrays(np.array([[[0.0], [1.0]]]), np.zeros((1, 2)), eps=0.2)
    signed = hjax.nn.LSENetwork.from_layers([softplus], np.array([-1.0]))
    f = jax.jit(jax.vmap(lambda z: signed(z[None])))
    h = 1e-3
    ends = np.asarray(f(jnp.array([-h, 0.0, h])))
    assert (ends[0] - 2 * ends[1] + ends[2]) / h**2 == pytest.approx(-1 / (4 * 0.2), rel=1e-4)


def test_the_tropical_network_is_within_the_errors_of_its_units(double):
    made, x = network(), samples(200, 3.0)
    allowed = np.zeros(3)
    for layer in made.layers:
        # What the layer below may be off by is multiplied by at most max_j |W_j|_1; each unit adds eps log N.
        allowed = np.abs(np.asarray(layer.weight)).sum(-1).max() * allowed.max() + 0.3 * np.log(6)
    allowed = np.abs(np.asarray(made.output_weight)).sum(-1) * allowed
    gap = np.abs(np.asarray(batch(made, x) - batch(made.tropical(), x)))
    assert (gap <= allowed).all()
    colder = network(eps=1e-4)
    colder = eqx.tree_at(lambda n: [s.bias for s in n.raw_layers], colder, [s.bias for s in made.raw_layers])
    assert np.abs(batch(colder, x) - batch(made.tropical(), x)).max() <= 1e-3


def test_derivatives_in_parameters_and_input(double):
    made = network(hidden=(3, 2), width=3, convex=True)
    arrays, static = eqx.partition(made, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(arrays)
    call = jax.jit(lambda flat, x: eqx.combine(unravel(flat), static)(x))
    check_grads(call, (flat, samples(1)[0]), order=1, modes=("rev",))


def test_a_batch_is_one_matrix_product_per_layer_and_no_loop():
    made = eqx.filter_eval_shape(lambda: hjax.nn.LSENetwork(50, 10, (20, 8), 16, eps=0.3, key=jax.random.key(0)))
    arrays, static = eqx.partition(made, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    # The temperatures are constants here: traced ones are checked at run time.
    eps = [jnp.asarray(0.3)] * 2
    call = jax.jit(
        lambda arrays, x: jax.vmap(
            eqx.tree_at(lambda n: [s.eps for s in n.raw_layers], eqx.combine(arrays, static), eps)
        )(x)
    )
    text = call.lower(arrays, jnp.zeros((256, 50))).as_text()
    assert "while" not in text
    sizes = re.findall(r"dot_general.*-> tensor<([0-9x]+)xf32>", text)
    # M x 1 x N for a layer of k outputs of N rows, all from one product.
    assert sorted(np.prod([int(n) for n in s.split("x")]) for s in sizes) == [256 * 10, 256 * 8 * 16, 256 * 20 * 16]


def test_its_reading_is_structural_with_exact_parts():
    reading = network().describe()
    assert (reading.status, [p.status for p in reading.parts]) == ("structural", ["exact", "exact"])
    assert "not its semigroup" in reading.equation
    assert "input-convex" in network(convex=True).describe().equation
    assert [p.eps for p in network().tropical().describe().parts] == [0, 0]
    assert "semigroup" not in network(hidden=(5,)).describe().equation
    scalar = eqx.filter_eval_shape(
        lambda: hjax.nn.LSENetwork(3, "scalar", (2,), 4, eps=0.1, key=jax.random.key(0))(jnp.zeros(3))
    )
    assert scalar.shape == ()


def _layer(in_size: int, out_size: int) -> hjax.nn.LSELayer:
    return hjax.nn.LSELayer(in_size, out_size, 2, eps=1.0, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: network(hidden=()), r"hidden is \(\)"),
        (lambda: network(hidden=4), r"hidden is 4.*\(4,\)"),
        (lambda: network(hidden=(4, 0)), "hidden is 0"),
        (lambda: network(width=(4,)), "width has 1 entries for 2 hidden layers"),
        (lambda: network(eps=[0.1, 0.2, 0.3]), "eps has 3 entries for 2 hidden layers"),
        (lambda: network(eps=-1.0), "eps must be positive"),
        (lambda: network()(jnp.zeros((5, 3))), r"jax\.vmap\(network\)"),
        (lambda: hjax.nn.LSENetwork.from_layers([_layer(3, 2)], jnp.ones(3)), "2 outputs is followed by .* 3"),
        (lambda: hjax.nn.LSENetwork.from_layers([_layer(3, 2), _layer(3, 2)], jnp.ones(2)), "followed by .* 3"),
        (lambda: hjax.nn.LSENetwork.from_layers([], jnp.ones(2)), "at least one layer"),
        (lambda: hjax.nn.LSENetwork.from_layers([_layer(3, 2)], jnp.ones(())), r"output_weight has shape \(\)"),
        (
            lambda: hjax.nn.LSENetwork.from_layers([_layer(3, 2)], jnp.ones(2), jnp.ones(1)),
            r"output_bias has shape \(1,\)",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
