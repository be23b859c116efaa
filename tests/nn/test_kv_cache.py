"""Decoding token by token, in a scan, gives what full causal attention gives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

from .. import tolerances

KEY = jax.random.key(0)
ROWS, SIZE = 7, 8


def tokens() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, SIZE)), float)


def attention(**given) -> hjax.nn.MultiheadAttention:
    return hjax.nn.MultiheadAttention(2, SIZE, causal=True, key=KEY, **given)


@eqx.filter_jit
def decoded(made, cache, inputs):
    def step(cache, token):
        out, cache = made.decode(token, cache)
        return cache, out

    cache, outputs = jax.lax.scan(step, cache, inputs)
    return outputs, cache


@pytest.mark.parametrize("positions", [None, "rotary", "slopes"])
def test_decoding_is_full_attention_token_by_token(precision, positions):
    made, x = attention(positions=positions), tokens()
    outputs, cache = decoded(made, made.empty_cache(10), x)
    want = eqx.filter_jit(made)(x)
    np.testing.assert_allclose(outputs, want, atol=20 * tolerances.of(precision).atol)
    assert int(cache.length) == ROWS
    assert np.array_equal(cache.present, np.arange(10) < ROWS)


def test_a_prompt_can_be_put_in_at_once(double):
    made, x = attention(positions="rotary"), tokens()
    cache = made.empty_cache(ROWS).append(*made.project(x[:4])[1:])
    outputs, _ = decoded(made, cache, x[4:])
    np.testing.assert_allclose(outputs, eqx.filter_jit(made)(x)[4:], atol=1e-13)


def test_hard_attention_decodes_too(double):
    made, x = attention(eps=0), tokens()
    outputs, _ = decoded(made, made.empty_cache(ROWS), x)
    np.testing.assert_allclose(outputs, eqx.filter_jit(made)(x), atol=1e-13)


def test_a_full_cache_says_so_when_run():
    made = attention()
    with pytest.raises(Exception, match="capacity 3 is full"):
        jax.block_until_ready(decoded(made, made.empty_cache(3), tokens())[0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: attention().empty_cache(0), "capacity is 0"),
        (lambda: attention().empty_cache(2).append(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 4))), "capacity 2 is full"),
        (lambda: attention().empty_cache(2).append(jnp.zeros((2, 4)), jnp.zeros((2, 4))), r"\(2, n, 4\)"),
        (lambda: attention().decode(tokens(), attention().empty_cache(2)), r"token has shape \(7, 8\).*\(8,\)"),
        (
            lambda: hjax.nn.MultiheadAttention(2, SIZE, key=KEY).decode(tokens()[0], attention().empty_cache(2)),
            "not causal",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
