"""Blocks against the same arithmetic in numpy; decoding against the full pass; a task that needs attention."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

from .. import tolerances

KEY = jax.random.key(0)
SIZE, HEADS, ROWS = 8, 2, 6


def block(**given) -> hjax.nn.TransformerBlock:
    return hjax.nn.TransformerBlock(SIZE, HEADS, hidden=12, rows=3, eps=0.5, causal=True, key=KEY, **given)


def model(**given) -> hjax.nn.Transformer:
    settings = {"size": SIZE, "depth": 2, "num_heads": HEADS, "hidden": 12, "token_ids": True, "causal": True, **given}
    return hjax.nn.Transformer(11, 5, key=KEY, **settings)


def tokens() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, SIZE)), float)


def array(leaf) -> np.ndarray:
    return np.asarray(leaf, np.float64)


def normal(norm: eqx.nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + norm.eps) * array(norm.weight) + array(norm.bias)


def linear(layer: eqx.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ array(layer.weight).T + array(layer.bias)


def by_hand(made: hjax.nn.TransformerBlock, x: np.ndarray) -> np.ndarray:
    h, a = normal(made.attention_norm, x), made.attention
    query, key, value = (linear(p, h).reshape(len(x), HEADS, -1) for p in a._all[:3])
    logits = np.einsum("ihd,jhd->hij", query, key) / math.sqrt(SIZE / HEADS)
    weights = np.where(np.tri(len(x), dtype=bool), np.exp(logits), 0)
    mixed = np.einsum("hij,jhd->ihd", weights / weights.sum(2, keepdims=True), value)
    x = x + linear(a.output_projection, mixed.reshape(len(x), -1))
    h, eps = normal(made.units_norm, x), float(made.units.eps)
    affine = np.einsum("knd,td->tkn", array(made.units.weight), h) + array(made.units.bias)
    return x + linear(made.output, eps * np.log(np.exp(affine / eps).sum(2)))


def test_a_block_is_its_formula(precision):
    made, x = block(), tokens()
    got = eqx.filter_jit(made)(x)
    np.testing.assert_allclose(got, by_hand(made, np.asarray(x, np.float64)), atol=20 * tolerances.of(precision).atol)


def test_every_unit_of_a_block_is_a_solution(double):
    """H.9 (ii): phi_i(x) = |x|^2/(4t) - u_i(x, t) at x = LN(X')."""
    made, t = block(), 0.5
    x = jax.vmap(made.units_norm)(tokens())
    u = made.units.unit(3).to_solution(t)
    got = jax.jit(jax.vmap(made.units))(x)[:, 3]
    np.testing.assert_allclose(got, jnp.sum(x**2, axis=1) / (4 * t) - u(x, t), atol=1e-13)


def test_decoding_a_transformer_is_the_full_pass(double):
    made, ids = model(), jnp.array([3, 1, 4, 1, 5, 9])

    @eqx.filter_jit
    def decoded(made, cache, ids):
        return jax.lax.scan(lambda cache, token: made.decode(token, cache)[::-1], cache, ids)[1]

    full = eqx.filter_jit(made)(ids)
    assert full.shape == (6, 5)
    np.testing.assert_allclose(decoded(made, made.empty_cache(8), ids), full, atol=1e-12)


@pytest.mark.parametrize("pooled", [True, False])
def test_padding_changes_nothing(double, pooled):
    made = model(pooled=pooled, causal=False, token_ids=False, depth=1)
    call = eqx.filter_jit(lambda made, x, mask: made(x, mask=mask))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 11)))
    got, want = call(made, x, jnp.arange(7) < 4), call(made, x[:4], None)
    np.testing.assert_allclose(got if pooled else got[:4], want, atol=1e-12)
    assert np.all(np.isfinite(call(made, x, jnp.zeros(7, bool))))


def test_it_learns_what_no_token_knows_alone():
    """Whether the bits of the two marked tokens agree: a sum of functions of single tokens is no better than chance."""
    rng = np.random.default_rng(0)
    bits, order = rng.integers(0, 2, (256, 5)), np.argsort(rng.random((256, 5)), axis=1)
    marked = order < 2
    agree = (np.where(marked, bits, 0).sum(1) != 1).astype(int)
    inputs = jnp.asarray(np.stack([bits, marked], axis=2), jnp.float32)
    made = hjax.nn.Transformer(2, 2, size=16, depth=1, num_heads=2, hidden=16, pooled=True, positions=None, key=KEY)
    made = hjax.nn.Classifier.of_scores(made, eps=1.0)
    parameters, static = eqx.partition(made, eqx.is_inexact_array)

    @jax.jit
    def trained(parameters):
        def loss(parameters):
            return jnp.mean(jax.vmap(eqx.combine(parameters, static).cross_entropy)(inputs, agree))

        def step(state, _):
            parameters, moments = state
            gradient = jax.grad(loss)(parameters)
            first, second = moments
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
            second = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g * g, second, gradient)
            moved = jax.tree.map(lambda p, m, s: p - 0.01 * m / (jnp.sqrt(s) + 1e-8), parameters, first, second)
            return (moved, (first, second)), None

        zeros = jax.tree.map(jnp.zeros_like, parameters)
        (parameters, _), _ = jax.lax.scan(step, (parameters, (zeros, zeros)), None, length=100)
        return loss(parameters)

    assert trained(parameters) < 0.1 * np.log(2)


def test_it_says_what_is_exact_and_what_is_not():
    reading = model().describe()
    assert reading.status == "structural"
    assert [p.status for p in reading.parts[0].parts] == ["exact", "exact"]
    assert "MultiheadAttention (exact)" in str(reading)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.TransformerBlock(0, 2, key=KEY), "size is 0"),
        (lambda: hjax.nn.TransformerBlock(9, 2, key=KEY), "9 does not split over 2 heads"),
        (lambda: hjax.nn.TransformerBlock(8, 2, rows=0, key=KEY), "rows is 0"),
        (lambda: hjax.nn.TransformerBlock(8, 2, eps=0.0, key=KEY), "eps must be positive"),
        (lambda: model(depth=0), "depth is 0"),
        (lambda: model(positions="learned"), "positions is 'learned'"),
        (lambda: block()(jnp.zeros((3, 4))), r"tokens has shape \(3, 4\).*\(T, 8\)"),
        (lambda: model()(jnp.array([0, 11])), "tokens go from 0 to 11; pass ids from 0 to 10"),
        (lambda: model()(jnp.zeros((3, 11))), r"shape \(3, 11\) and dtype float32.*ids"),
        (lambda: model(token_ids=False)(jnp.zeros((3, 4))), r"tokens has shape \(3, 4\).*\(T, 11\)"),
        (lambda: model()(jnp.arange(4), mask=jnp.ones(3, bool)), r"mask has shape \(3,\).*\(4,\)"),
        (lambda: model(pooled=True).decode(1, model().empty_cache(4)), "pooled"),
        (lambda: model(causal=False).decode(1, model().empty_cache(4)), "not causal"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
