"""Pontryagin's steps against optax on backpropagation, and against closed forms of numpy and scipy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

import hjax
from hjax import dynamics

from .. import tolerances

KEY = jax.random.key(0)


def squared(state, target):
    return jnp.sum((state - target) ** 2)


def of_both_parts(state, target):
    c, h = state
    return jnp.sum((h - target) ** 2) + jnp.sum(jnp.cos(c))


def along(state, k, target):
    return 0.1 * jnp.sum((state - target) ** 2) * (k + 1)


def curve(m=60, dtype=None):
    x = np.random.default_rng(0).normal(size=(m, 2))
    return jnp.asarray(x, dtype), jnp.asarray(np.stack([np.sin(2 * x[:, 0]) + x[:, 1], x[:, 0] * x[:, 1]], 1), dtype)


# name: a network and a batch.
def cases(dtype):
    x, y = curve(6, dtype)
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(6, 5, 2)), dtype)
    return {
        "resnet": (hjax.nn.ResNet(2, 5, 4, key=KEY), x, y, squared, None),
        "resnet, paid along": (hjax.nn.ResNet(2, 5, 4, kind="lse", eps=0.3, key=KEY), x, y, squared, along),
        "rnn": (hjax.nn.RNN(2, 2, key=KEY), inputs, y, squared, None),
        "lstm": (hjax.nn.LSTM(2, 2, key=KEY), inputs, y, of_both_parts, None),
    }


def backpropagated(model, x, y, terminal, running):
    """The mean loss in the ordinary way."""

    def one(x, y):
        states = model.states(x)
        loss = terminal(jax.tree.map(lambda s: s[-1], states), y)
        if running is not None:
            count = jax.tree.leaves(states)[0].shape[0]
            loss = loss + sum(running(jax.tree.map(lambda s, k=k: s[k], states), k, y) for k in range(count - 1))
        return loss

    return jnp.mean(jax.vmap(one)(x, y))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "lstm"])
def test_the_gradient_step_in_both_precisions(precision, name):
    check_gradient_step(precision, name)


@pytest.mark.parametrize(
    "name", ["resnet, paid along", *(pytest.param(n, marks=pytest.mark.slow) for n in ("rnn", "lstm"))]
)
def test_the_gradient_step_is_that_of_backpropagation(double, name):
    check_gradient_step(double, name)


def check_gradient_step(precision, name):
    network, x, y, terminal, running = cases(precision)[name]

    @eqx.filter_jit
    def descend(network):
        value, gradient = eqx.filter_value_and_grad(backpropagated)(network, x, y, terminal, running)
        optimizer = optax.sgd(0.3)
        updates, _ = optimizer.update(gradient, optimizer.init(eqx.filter(network, eqx.is_inexact_array)))
        return value, eqx.apply_updates(network, updates)

    value, theirs = descend(network)
    step = dynamics.pontryagin_step(
        network, (x, y), terminal, rate=0.3, running=running, trainable=eqx.is_inexact_array
    )
    bound = 16 * tolerances.of(precision, derivative=1).atol
    np.testing.assert_allclose(step.value, value, rtol=bound)
    moved = 0.0
    leaves = [jax.tree.leaves(eqx.filter(n, eqx.is_array)) for n in (step.model, theirs, network)]
    for ours, other, old in zip(*leaves, strict=True):
        np.testing.assert_allclose(ours, other, rtol=bound, atol=bound)
        assert ours.dtype == old.dtype
        moved = max(moved, float(jnp.abs(ours - old).max()))
    assert moved > 0.01
    # Temperatures are chosen, not trained.
    held = dynamics.pontryagin_step(network, (x, y), terminal, rate=0.3, running=running).model
    if name == "resnet":
        assert (held.blocks.gate.eps == network.blocks.gate.eps).all()
        assert (held.blocks.weight == step.model.blocks.weight).all()


class Linear(eqx.Module):
    weight: jax.Array

    def __init__(self, key):
        self.weight = jax.random.normal(key, (2, 2))

    def __call__(self, x):
        return self.weight @ x


def test_the_augmented_step_solves_the_problem_of_each_layer(double):
    """Blocks W x: H and its penalties are quadratic in W, and the minimum is the solution of a Sylvester equation."""
    network = hjax.nn.ResNet.from_blocks(Linear, 2, 3, key=KEY)
    x, y = (np.asarray(a) for a in curve(20))
    h, penalty = 1 / 3, 4.0
    weights = np.asarray(network.blocks.weight)
    states = [x]
    for w in weights:
        states.append(states[-1] + h * states[-1] @ w.T)
    momentum = 2 * (states[-1] - y)
    want = np.zeros_like(weights)
    for k in (2, 1, 0):
        # d/dD of mean_i h p.D x + penalty/2 h^2 (|D x|^2 + |D^T p|^2) is zero.
        s = states[k]
        slope = momentum.T @ s / 20
        change = scipy.linalg.solve_sylvester(momentum.T @ momentum / 20, s.T @ s / 20, -slope / (penalty * h))
        want[k] = weights[k] + change
        momentum = momentum + h * momentum @ weights[k]
    step = dynamics.pontryagin_step(network, (x, y), squared, method="augmented", penalty=penalty, inner_steps=200)
    np.testing.assert_allclose(step.model.blocks.weight, want, atol=1e-5)
    assert np.abs(want - weights).max() > 0.1


def losses(method, count=20, depth=6, **options):
    network, batch = hjax.nn.ResNet(2, 8, depth, key=KEY), curve()
    values = []
    for _ in range(count):
        network, value = dynamics.pontryagin_step(network, batch, squared, method=method, **options)
        values.append(float(value))
    return np.array(values)


@pytest.mark.slow
def test_without_a_penalty_the_successive_approximations_diverge(double):
    plain = losses("successive", count=4, inner_steps=10)
    assert plain[-1] > 1e3 * plain[0]
    augmented = losses("augmented", inner_steps=10, penalty=24.0)
    assert (np.diff(augmented) < 0).all()
    assert augmented[-1] < 0.35 * augmented[0]
    # The gradient's step of the best size of three does less in as many steps.
    assert augmented[-1] < min(losses("gradient", rate=rate)[-1] for rate in (0.03, 0.1, 0.3))


@pytest.mark.slow
def test_fit_trains_by_the_costate_as_by_backpropagation(double):
    x, y = curve(40)
    network = hjax.nn.ResNet(2, 6, 4, key=KEY)
    ours = dynamics.costate_loss(squared, along)

    def theirs(model, x, y):
        return backpropagated(model, x, y, squared, along)

    fits = [hjax.training.fit(network, (x, y), steps=30, batch_size=20, loss=loss, key=1) for loss in (ours, theirs)]
    # Rounding, which thirty steps of Adam amplify.
    np.testing.assert_allclose(fits[0].losses, fits[1].losses, rtol=1e3 * tolerances.of(double).rtol)
    assert fits[0].losses[-5:].mean() < 0.95 * fits[0].losses[:5].mean()
    # Scaled, and where only a part is differentiated.
    scaled = eqx.filter_jit(eqx.filter_grad(lambda n: 3 * ours(n, x, y)))(network)
    plain = eqx.filter_jit(eqx.filter_grad(lambda n: 3 * theirs(n, x, y)))(network)
    for a, b in zip(jax.tree.leaves(scaled), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=64 * tolerances.of(double).atol * float(jnp.abs(b).max()))


@pytest.mark.slow
def test_many_seeds_at_once():
    def make(key):
        return hjax.nn.ResNet(2, 4, 3, key=key)

    fits = hjax.training.fit_many(make, curve(), keys=2, steps=20, loss=dynamics.costate_loss(squared))
    assert fits.losses.shape == (2, 20)
    assert (np.asarray(fits.losses)[:, -1] < np.asarray(fits.losses)[:, 0]).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda n, b: dynamics.pontryagin_step(n, b, squared, method="adam"), "method is 'adam'"),
        (lambda n, b: dynamics.pontryagin_step(n, b, squared, method="augmented"), "penalty is None"),
        (lambda n, b: dynamics.pontryagin_step(n, b, squared, penalty=1.0), "penalty is 1.0 for method='gradient'"),
        (lambda n, b: dynamics.pontryagin_step(n, b, squared, rate=0.0), "rate must be positive"),
        (lambda n, b: dynamics.pontryagin_step(n, b, squared, inner_steps=0), "inner_steps is 0"),
        (lambda n, b: dynamics.pontryagin_step(n, b[0], squared), r"pass a tuple"),
        (lambda n, b: dynamics.pontryagin_step(n, (b[0], b[1][:3]), squared), "one row per sample"),
        (lambda n, b: dynamics.pontryagin_step(n.blocks, b, squared), "an hjax.nn.Evolution"),
        (lambda n, b: dynamics.pontryagin_step(n, b, lambda s, y: s - y), "terminal returns"),
        (lambda n, b: dynamics.costate_loss(squared)(n.blocks, *b), "an hjax.nn.Evolution"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(hjax.nn.ResNet(2, 4, 3, key=KEY), curve())
