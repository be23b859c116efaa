import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax


def make(**given) -> hjax.nn.EncoderDecoder:
    arguments = {"bottleneck": 2, "hidden": (5, 3), "width": 4, "eps": 0.2, "key": jax.random.key(0)} | given
    return hjax.nn.EncoderDecoder(4, **arguments)


def test_it_is_the_decoder_of_the_code_and_the_decoder_mirrors_the_encoder():
    model, x = make(hidden=(3,)), jnp.ones((3, 4))

    @eqx.filter_jit
    def stages(m, x):
        code = jax.lax.optimization_barrier(jax.vmap(m.encoder)(x))
        return jax.vmap(m)(x), jax.vmap(m.decoder)(code)

    np.testing.assert_allclose(*stages(model, x), rtol=1e-5)
    deep = eqx.filter_eval_shape(make, hidden=(5, 3))
    assert [layer.out_size for layer in deep.decoder.layers] == [3, 5]
    assert eqx.filter_eval_shape(deep.encoder, x[0]).shape == (2,)


def test_it_does_not_claim_to_be_a_semigroup():
    reading = make(hidden=(3,)).describe()
    assert reading.status == "structural"
    assert "2 numbers is a point" in reading.equation
    assert [p.model for p in reading.parts] == ["LSENetwork", "LSENetwork"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: make(bottleneck=0), "bottleneck is 0"),
        (lambda: make(eps=0.0), "eps must be positive"),
        (lambda: make(hidden=(3,))(jnp.zeros((3, 4))), r"x has shape \(3, 4\)"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
