"""Class probabilities against scipy, as a gradient, and boundaries that no temperature moves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import hjax

from .. import tolerances

log_probabilities = eqx.filter_jit(lambda model, x: jax.vmap(model.log_probabilities)(x))
predict = eqx.filter_jit(lambda model, x: jax.vmap(model.predict)(x))


def make(eps: float = 0.3, classes: int = 5) -> hjax.nn.Classifier:
    return hjax.nn.Classifier(eqx.nn.Identity(), 3, classes, eps=eps, key=jax.random.key(0))


def samples(m: int = 50) -> jax.Array:
    return jnp.asarray(3 * np.random.default_rng(0).normal(size=(m, 3)), float)


def scores(model: hjax.nn.Classifier, x) -> np.ndarray:
    return np.asarray(x, float) @ np.asarray(model.weight, float).T + np.asarray(model.bias, float)


def test_log_probabilities_are_scipys(precision):
    model, x = make(), samples()
    a = scores(model, x) / float(model.eps)
    tolerance = 4 * tolerances.of(precision).rtol
    np.testing.assert_allclose(
        log_probabilities(model, x), special.log_softmax(a, axis=1), atol=tolerance * np.abs(a).max()
    )


def test_a_sure_class_keeps_the_digits_of_the_rest():
    """log P of the winner is -log(1 + e^-8), far below one ulp of its score, at scores of 1e4."""
    model = hjax.nn.Classifier.of_scores(lambda x: x, eps=1.0)
    got = log_probabilities(model, jnp.array([[1e4, 1e4 - 8.0]]))[0]
    np.testing.assert_allclose(got, [-np.log1p(np.exp(-8.0)), -8.0 - np.log1p(np.exp(-8.0))], rtol=1e-3)


def test_probabilities_are_the_gradient_of_the_potential(double):
    """In the scores, by autodiff of the reduction, against scipy; and the potential against logsumexp."""
    model = hjax.nn.Classifier.of_scores(lambda a: a, eps=0.3)
    a = jnp.asarray(np.random.default_rng(1).normal(size=5))
    value, gradient = jax.jit(jax.value_and_grad(model.potential))(a)
    probabilities = np.exp(log_probabilities(model, a[None])[0])
    assert float(value) == pytest.approx(0.3 * special.logsumexp(np.asarray(a) / 0.3), rel=1e-14)
    np.testing.assert_allclose(gradient, special.softmax(np.asarray(a) / 0.3), atol=1e-15)
    np.testing.assert_allclose(probabilities, special.softmax(np.asarray(a) / 0.3), atol=1e-15)


def test_boundaries_are_the_same_at_every_temperature(double):
    """App C: argmax and the faces between classes do not move with eps; the confidence does."""
    x = samples(400)
    base = make(1.0)
    want = scores(base, x).argmax(1)
    confidence = []
    for eps in (0.01, 0.3, 10.0):
        model = eqx.tree_at(lambda m: m.eps, base, jnp.asarray(eps))
        np.testing.assert_array_equal(predict(model, x), want)
        log_p = np.asarray(log_probabilities(model, x))
        np.testing.assert_array_equal(log_p.argmax(1), want)
        confidence.append(np.exp(log_p.max(1)).mean())
    assert confidence[0] > confidence[1] > confidence[2]
    # A point on the face of classes 0 and 1: equal probabilities at every eps.
    w, b = np.asarray(base.weight), np.asarray(base.bias)
    normal = w[0] - w[1]
    face = np.ones(3) - normal * (normal @ np.ones(3) + b[0] - b[1]) / (normal @ normal)
    for eps in (0.05, 5.0):
        model = eqx.tree_at(lambda m: m.eps, base, jnp.asarray(eps))
        log_p = np.asarray(log_probabilities(model, face[None]))[0]
        assert log_p[0] == pytest.approx(log_p[1], abs=1e-12 / eps)


def test_the_loss_and_its_gradient(double):
    """d/da of -log P(label) is (P - one-hot)/eps, through a body that is an LSE network."""
    body = hjax.nn.LSENetwork(3, 4, (3,), 2, eps=0.5, key=jax.random.key(1))
    model = hjax.nn.Classifier(body, 4, 5, eps=0.5, key=jax.random.key(0))
    x = samples(1)[0]

    def losses(m):
        return m.cross_entropy(x, 2), (m(x), m.probabilities(x))

    (loss, (logits, probabilities)), gradient = eqx.filter_jit(eqx.filter_value_and_grad(losses, has_aux=True))(model)
    a = np.asarray(logits)
    assert float(loss) == pytest.approx(-special.log_softmax(a)[2], rel=1e-13)
    np.testing.assert_allclose(gradient.bias, (special.softmax(a) - np.eye(5)[2]) / 0.5, atol=1e-13)
    assert np.abs(gradient.body.raw_layers[0].weight).max() > 0
    np.testing.assert_allclose(probabilities, special.softmax(a), rtol=1e-13)
    features = np.asarray(eqx.filter_jit(body)(x))
    np.testing.assert_allclose(a, np.asarray(model.weight) @ features / 0.5, rtol=1e-12)
    assert [p.model for p in model.describe().parts] == ["LSENetwork"]


def test_its_reading():
    assert "Boundaries do not move with eps" in make().describe().equation
    assert make().describe().parts == ()
    assert "W = I" in hjax.nn.Classifier.of_scores(lambda x: x, eps=1.0).describe().equation


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda key: hjax.nn.Classifier("body", 3, 5, eps=1.0, key=key), "body is str"),
        (lambda key: hjax.nn.Classifier(abs, 3, 0, eps=1.0, key=key), "classes is 0"),
        (lambda key: hjax.nn.Classifier(abs, 3, 5, eps=0.0, key=key), "eps must be positive"),
        (lambda key: make()(jnp.zeros((7, 3))), r"the body returned shape \(7, 3\).*\(3,\).*jax\.vmap"),
        (lambda key: hjax.nn.Classifier.of_scores(abs, eps=1.0)(jnp.zeros(())), r"\(classes,\)"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(jax.random.key(0))
