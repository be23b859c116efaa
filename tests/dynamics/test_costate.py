"""The co-state recursion against automatic differentiation, complex steps of a NumPy network, and a printed rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

from .. import tolerances
from ..nn.test_evolution import EVOLUTIONS, made

costate = hjax.dynamics.costate


def _loss(state):
    """A scalar of a state that weighs all of its entries differently."""
    leaves = jnp.concatenate([a.ravel() for a in jax.tree.leaves(state)])
    return jnp.sum(jnp.cos(leaves) * jnp.arange(1, leaves.size + 1))


def _running(state, k):
    return sum(jnp.sum(a**2) for a in jax.tree.leaves(state)) * (1 + k) / 10


def _plain(network, x, shifts):
    """The loss, with each state shifted: its gradient in shift k is that of the tail of the network, p_k."""

    def step(carry, at):
        state, total = carry
        shift, drive, k = at
        state = jax.tree.map(jnp.add, state, shift)
        return (network.step(state, drive), total + _running(state, k)), None

    before, last = (jax.tree.map(lambda a, part=part: a[part], shifts) for part in (slice(None, -1), -1))
    start = network.initial_state(x), jnp.zeros(())
    drives = network.drives(x)
    count = jax.tree.leaves(before)[0].shape[0]
    (state, total), _ = jax.lax.scan(step, start, (before, drives, jnp.arange(count)))
    return total + _loss(jax.tree.map(jnp.add, state, last))


def _close(one, other, atol):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol * max(1.0, float(np.abs(b).max())), rtol=0)


@pytest.mark.parametrize("name", EVOLUTIONS)
def test_it_is_automatic_differentiation_to_rounding(double, name):
    network, x = made(name)

    @eqx.filter_jit
    def both(network, x):
        result = costate(network, x, _loss, running=_running)
        shifts = jax.tree.map(jnp.zeros_like, result.states)
        value, (momenta, gradient) = eqx.filter_value_and_grad(lambda both: _plain(both[1], x, both[0]))(
            (shifts, network)
        )
        return result, value, momenta, gradient

    result, value, momenta, gradient = both(network, x)
    np.testing.assert_allclose(result.value, value, rtol=1e-14)
    _close(result.momenta, momenta, 1e-14)
    _close(result.gradient, gradient, 1e-14)
    assert max(float(jnp.abs(a).max()) for a in jax.tree.leaves(result.momenta)) > 0.1


def _resnet(horizon):
    """A network of random numbers that nothing is compiled for."""
    shapes = eqx.filter_eval_shape(lambda: hjax.nn.ResNet(2, 3, 3, horizon=horizon, key=jax.random.key(0)))
    rng = np.random.default_rng(5)
    network = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), shapes)
    return eqx.tree_at(lambda n: n.blocks.gate.eps, network, jnp.full(3, 0.5))


def _numpy_network(parameters, x, eps, h):
    """Terminal and running loss of a tanh ResNet in NumPy, for complex numbers too."""
    total = 0.0
    for k, (w, b, v, c) in enumerate(zip(*parameters, strict=True)):
        total = total + np.sum(x**2) * (1 + k) / 10
        x = x + h * (v @ np.tanh((w @ x + b) / eps) + c)
    return total + np.sum(np.cos(x) * np.arange(1, len(x) + 1))


def test_it_is_the_complex_step_derivative_of_a_numpy_network(double):
    network = _resnet(1.5)
    x = np.array([0.7, -0.2])
    result = eqx.filter_jit(lambda n, x: costate(n, x, _loss, running=_running))(network, jnp.asarray(x))

    def parts(n):
        return n.blocks.gate.weight, n.blocks.gate.bias, n.blocks.weight, n.blocks.bias

    parameters = [np.asarray(p) for p in parts(network)]
    np.testing.assert_allclose(result.value, _numpy_network(parameters, x, 0.5, 0.5), rtol=1e-14)
    for i, (p, gradient) in enumerate(zip(parameters, parts(result.gradient), strict=True)):
        for place in np.ndindex(p.shape):
            moved = [q.astype(complex) for q in parameters]
            moved[i][place] += 1e-30j
            np.testing.assert_allclose(gradient[place], _numpy_network(moved, x, 0.5, 0.5).imag / 1e-30, atol=1e-14)
    for j in range(2):
        moved = x.astype(complex)
        moved[j] += 1e-30j
        want = _numpy_network(parameters, moved, 0.5, 0.5).imag / 1e-30
        np.testing.assert_allclose(result.momenta[0][j], want, atol=1e-14)


def test_the_recursion_of_the_paper_line_by_line(double):
    """p_k = p_{k+1} + h (dF/dx)^T p_{k+1} and dl/dtheta_k = h dH/dtheta(x_k, p_{k+1}), tanh's derivatives by hand."""
    network = _resnet(1.0)
    terminal = jnp.array([0.3, -1.1])
    x = jnp.array([0.7, -0.2])
    result = eqx.filter_jit(costate)(network, x, terminal)
    assert result.value is None
    np.testing.assert_array_equal(result.momenta[-1], terminal)
    p, h = np.asarray(terminal), 1 / 3
    for k in (2, 1, 0):
        block, state = network.block(k), np.asarray(result.states[k])
        w, b, v = (np.asarray(a) for a in (block.gate.weight, block.gate.bias, block.weight))
        s = np.tanh((w @ state + b) / 0.5)
        inner = (v.T @ p) * (1 - s**2) / 0.5
        np.testing.assert_allclose(result.gradient.blocks.weight[k], h * np.outer(p, s), atol=1e-15)
        np.testing.assert_allclose(result.gradient.blocks.bias[k], h * p, atol=1e-15)
        np.testing.assert_allclose(result.gradient.blocks.gate.weight[k], h * np.outer(inner, state), atol=1e-15)
        p = p + h * w.T @ inner
        np.testing.assert_allclose(result.momenta[k], p, atol=1e-15)


def test_a_batch_is_many_samples(precision):
    rng = np.random.default_rng(0)
    network = hjax.nn.RNN.from_arrays(rng.normal(size=(3, 5)), rng.normal(size=3))
    xs = jnp.asarray(rng.normal(size=(2, 5, 2)), precision)

    @eqx.filter_jit
    def both(network, xs):
        return jax.vmap(lambda x: costate(network, x, _loss))(xs), [costate(network, x, _loss) for x in xs]

    batch, each = both(network, xs)
    for i, want in enumerate(each):
        assert want.gradient.gate.weight.dtype == precision
        _close(jax.tree.map(lambda a, i=i: a[i], batch), want, 16 * tolerances.of(precision).atol)


def test_its_memory_is_one_state_a_step():
    steps, network = 1000, hjax.nn.LSTM.from_arrays(jnp.ones((128, 40)), jnp.ones(128))
    params, rest = eqx.partition(network, eqx.is_inexact_array)

    def gradient(params, x):
        return costate(eqx.combine(params, rest), x, _loss).gradient

    compiled = jax.jit(gradient).lower(params, jax.ShapeDtypeStruct((steps, 8), jnp.float32)).compile()
    # Automatic differentiation keeps 24 times the state (c, h) of each step.
    assert compiled.memory_analysis().temp_size_in_bytes <= 1.5 * steps * (4 * 2 * 32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((jnp.sum, jnp.zeros(2), jnp.sum), "model is function; pass an hjax.nn.Evolution"),
        ((None, jnp.zeros(2), lambda s: s), r"terminal returns \(2,\), but a number"),
        ((None, jnp.zeros(2), jnp.zeros(3)), r"terminal is a momentum of shapes \[\(3,\)\], .* \[\(2,\)\]"),
        ((None, jnp.zeros(2), (jnp.zeros(2), jnp.zeros(2))), "terminal is a momentum of shapes"),
        ((None, jnp.zeros(3), jnp.sum), r"x has shape \(3,\)"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(arguments, words):
    model, x, terminal = arguments
    model = model or _resnet(1.0)
    with pytest.raises(ValueError, match=words):
        costate(model, x, terminal)


def test_options_and_running_costs_are_refused_where_they_do_not_fit():
    network = _resnet(1.0)
    with pytest.raises(ValueError, match=r"\['solver'\] are no options of a discrete recursion"):
        costate(network, jnp.zeros(2), jnp.sum, solver=None)
    with pytest.raises(ValueError, match=r"running returns \(2,\), but a number"):
        costate(network, jnp.zeros(2), jnp.sum, running=lambda s, k: s)
