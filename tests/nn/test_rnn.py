"""Recurrent networks against a NumPy loop, torch's, and the differential equation whose unit Euler steps they are."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

from .. import tolerances


def _arrays(in_size=3, size=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, size + in_size)), rng.normal(size=size), rng.normal(size=(6, in_size))


def _loop(weight, bias, x, eps, h):
    states = []
    for value in x:
        h = np.tanh((weight @ np.concatenate([h, value]) + bias) / eps)
        states.append(h)
    return np.array(states)


def test_it_is_a_loop_of_tanh(precision):
    weight, bias, x = _arrays()
    network = hjax.nn.RNN.from_arrays(weight, bias, eps=0.5)
    assert (network.in_size, network.state_size) == (3, 4)
    start = np.array([0.5, -0.2, 0.1, 0.9])
    run = eqx.filter_jit(lambda n, x, s: (n(x), n(x, s)))
    zero, other = run(network, jnp.asarray(x, precision), jnp.asarray(start, precision))
    assert zero.dtype == other.dtype == precision
    # Rounding grows by |W|/eps a step where tanh is steep.
    np.testing.assert_allclose(zero, _loop(weight, bias, x, 0.5, np.zeros(4)), atol=500 * tolerances.of(precision).atol)
    np.testing.assert_allclose(other, _loop(weight, bias, x, 0.5, start), atol=500 * tolerances.of(precision).atol)


def test_it_is_torch_s(double):
    torch = pytest.importorskip("torch")
    weight, bias, x = _arrays(seed=1)
    other = torch.nn.RNN(3, 4).double()
    with torch.no_grad():
        other.weight_hh_l0.copy_(torch.from_numpy(weight[:, :4]))
        other.weight_ih_l0.copy_(torch.from_numpy(weight[:, 4:]))
        other.bias_hh_l0.copy_(torch.from_numpy(bias))
        other.bias_ih_l0.zero_()
    network = hjax.nn.RNN.from_arrays(weight, bias)
    x_torch = torch.from_numpy(x).requires_grad_(True)
    output, _ = other(x_torch)
    np.testing.assert_allclose(network(jnp.asarray(x)), output.detach().numpy(), atol=1e-14)
    output[-1].cos().sum().backward()
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.cos(network(x)[-1]))))(jnp.asarray(x))
    np.testing.assert_allclose(gradient, x_torch.grad.numpy(), atol=1e-13)
    result = hjax.dynamics.costate(network, jnp.asarray(x), lambda h: jnp.sum(jnp.cos(h)))
    want = np.concatenate([other.weight_hh_l0.grad.numpy(), other.weight_ih_l0.grad.numpy()], axis=1)
    np.testing.assert_allclose(result.gradient.gate.weight, want, atol=1e-13)


def test_the_unit_step_of_its_equation_is_the_network_and_the_exact_flow_is_not(double):
    weight, bias, x = _arrays(seed=2)
    network = hjax.nn.RNN.from_arrays(weight, bias)
    flow = network.to_ode(jnp.asarray(x))
    assert (flow.t0, flow.t1) == (0.0, 6.0)

    @eqx.filter_jit
    def solve(flow, solver, dt0, **options):
        term = diffrax.ODETerm(lambda t, y, _: flow.field(y, t))
        y0 = network.initial_state(x)
        return diffrax.diffeqsolve(term, solver, flow.t0, flow.t1, dt0, y0, **options).ys[0]

    unit, fine = solve(flow, diffrax.Euler(), 1.0), solve(flow, diffrax.Midpoint(), 2.0**-5)
    want = network(jnp.asarray(x))[-1]
    np.testing.assert_allclose(unit, want, atol=1e-15)
    assert np.abs(np.asarray(fine) - want).max() > 0.1
    # An input is held as long as it is told.
    slow = network.to_ode(jnp.asarray(x), hold=2.0)
    assert slow.t1 == 12.0
    state = jnp.full(4, 0.3)
    np.testing.assert_allclose(slow.field(state, 3.0), network.field(state, x[1]), atol=1e-15)


def test_its_flow_goes_through_a_file(tmp_path):
    weight, bias, x = _arrays()
    flow = hjax.nn.RNN.from_arrays(weight, bias).to_ode(jnp.asarray(x), hold=0.5)
    hjax.save(tmp_path / "flow", flow)
    assert eqx.tree_equal(hjax.load(tmp_path / "flow"), flow)


def test_a_cold_network_is_of_signs(double):
    weight, bias, x = _arrays(seed=3)
    network = hjax.nn.RNN.from_arrays(weight, bias, eps=1e-9)
    h = np.zeros(4)
    for value, got in zip(x, np.asarray(network(jnp.asarray(x))), strict=True):
        h = np.sign(weight @ np.concatenate([h, value]) + bias)
        np.testing.assert_array_equal(got, h)


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda n: hjax.nn.RNN(0, 3, key=KEY), "in_size is 0"),
        (lambda n: hjax.nn.RNN(2, -1, key=KEY), "state_size is -1"),
        (lambda n: hjax.nn.RNN(2, 3, eps=-1.0, key=KEY), "eps must be positive"),
        (lambda n: n(jnp.zeros((0, 2))), r"x has shape \(0, 2\), but a sequence of T >= 1 inputs, \(T, 2\)"),
        (lambda n: n(jnp.zeros(5)), r"x has shape \(5,\).*x\[:, None\]"),
        (lambda n: n(jnp.zeros((4, 5, 2))), r"jax\.vmap\(rnn\)\(x\)"),
        (lambda n: n(jnp.zeros((5, 2), int)), "dtype int"),
        (lambda n: n(jnp.zeros((5, 2)), jnp.zeros(4)), r"state has shape \(4,\), but \(3,\)"),
        (lambda n: n(jnp.zeros((5, 2)), (jnp.zeros(3), jnp.zeros(3))), "but PyTreeDef.* is wanted"),
        (lambda n: n.field(jnp.zeros(2), jnp.zeros(3)), r"h has shape \(2,\), but \(3,\)|the input has shape \(3,\)"),
        (lambda n: n.to_ode(jnp.zeros((5, 2)), hold=0.0), r"hold is 0\.0"),
        (lambda n: hjax.nn.RNN.from_arrays(np.zeros((3, 3)), np.zeros(3)), r"weight has shape \(3, 3\) and bias"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(hjax.nn.RNN.from_arrays(jnp.zeros((3, 5)), jnp.zeros(3)))
