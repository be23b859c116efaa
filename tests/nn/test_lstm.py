"""LSTMs against a NumPy loop, torch's, equation 31 by hand, and their switched limit against integer arithmetic."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import hjax
from hjax.training import fit

from .. import tolerances


def _arrays(in_size=3, size=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4 * size, size + in_size)), rng.normal(size=4 * size), rng.normal(size=(6, in_size))


def _gates(weight, bias, h, x, eps):
    z = np.split((weight @ np.concatenate([h, x]) + bias) / eps, 4)
    return [special.expit(v) for v in z[:3]] + [np.tanh(z[3])]


def _cell(weight, bias, c, h, x, eps):
    f, i, o, g = _gates(weight, bias, h, x, eps)
    c = f * c + i * g
    return c, o * np.tanh(c / eps)


def _loop(weight, bias, x, eps, c, h):
    states = [(c, h)]
    for value in x:
        states.append(_cell(weight, bias, *states[-1], value, eps))
    return [np.array(part) for part in zip(*states, strict=True)]


def test_it_is_a_loop_of_gates(precision):
    weight, bias, x = _arrays()
    network = hjax.nn.LSTM.from_arrays(weight, bias, eps=0.5)
    assert (network.in_size, network.state_size) == (3, 4)
    start = np.array([1.5, -0.2, 0.1, 0.9]), np.array([0.5, 0.2, -0.1, -0.9])
    run = eqx.filter_jit(lambda n, x, s: (n.states(x), n(x, s)))
    (c, h), other = run(network, jnp.asarray(x, precision), tuple(jnp.asarray(s, precision) for s in start))
    assert c.dtype == h.dtype == other.dtype == precision
    atol = 500 * tolerances.of(precision).atol
    for got, want in zip((c, h), _loop(weight, bias, x, 0.5, np.zeros(4), np.zeros(4)), strict=True):
        np.testing.assert_allclose(got, want, atol=atol)
    np.testing.assert_allclose(other, _loop(weight, bias, x, 0.5, *start)[1][1:], atol=atol)


def test_it_is_torch_s(double):
    torch = pytest.importorskip("torch")
    weight, bias, x = _arrays(seed=1)
    f, i, o, g = np.split(weight, 4)
    rows, offsets = np.concatenate([i, f, g, o]), np.concatenate([np.split(bias, 4)[k] for k in (1, 0, 3, 2)])
    other = torch.nn.LSTM(3, 4).double()
    with torch.no_grad():
        other.weight_hh_l0.copy_(torch.from_numpy(rows[:, :4]))
        other.weight_ih_l0.copy_(torch.from_numpy(rows[:, 4:]))
        other.bias_hh_l0.copy_(torch.from_numpy(offsets))
        other.bias_ih_l0.zero_()
    output, (_, c) = other(torch.from_numpy(x))
    network = hjax.nn.LSTM.from_arrays(weight, bias)
    memory, states = network.states(jnp.asarray(x))
    np.testing.assert_allclose(states[1:], output.detach().numpy(), atol=1e-14)
    np.testing.assert_allclose(memory[-1], c[0].detach().numpy(), atol=1e-14)
    (output[-1].cos().sum() + c.sin().sum()).backward()
    result = hjax.dynamics.costate(network, jnp.asarray(x), lambda s: jnp.sum(jnp.sin(s[0]) + jnp.cos(s[1])))
    i, f, g, o = np.split(other.bias_hh_l0.grad.numpy(), 4)
    np.testing.assert_allclose(result.gradient.gates.bias, np.concatenate([f, i, o]), atol=1e-13)
    np.testing.assert_allclose(result.gradient.candidate.bias, g, atol=1e-13)


def test_equation_31_gives_the_cell_by_its_gradients(double):
    """H's gradient in the momenta is (f - 1) c + i g and o tanh(c) - h; in the state it is a central difference."""
    weight, bias, x = _arrays(seed=2)
    network = hjax.nn.LSTM.from_arrays(weight, bias, eps=0.8)
    rng = np.random.default_rng(3)
    c, h, p_c, p_h = rng.normal(size=(4, 4))

    @jax.jit
    def slopes(state, momentum):
        return jax.grad(network.hamiltonian, argnums=(0, 1))(state, momentum, jnp.asarray(x[0]))

    (h_c, h_h), (c_rate, h_rate) = slopes((c, h), (p_c, p_h))
    f, i, o, g = _gates(weight, bias, h, x[0], 0.8)
    np.testing.assert_allclose(c_rate, (f - 1) * c + i * g, atol=1e-14)
    np.testing.assert_allclose(h_rate, o * np.tanh(c / 0.8) - h, atol=1e-14)

    def by_hand(c, h):
        f, i, o, g = _gates(weight, bias, h, x[0], 0.8)
        return p_c @ ((f - 1) * c + i * g) + p_h @ (o * np.tanh(c / 0.8) - h)

    for k, step in enumerate(np.eye(4) * 1e-5):
        np.testing.assert_allclose(h_c[k], (by_hand(c + step, h) - by_hand(c - step, h)) / 2e-5, atol=1e-9)
        np.testing.assert_allclose(h_h[k], (by_hand(c, h + step) - by_hand(c, h - step)) / 2e-5, atol=1e-9)


def test_both_at_once_misses_the_network_and_c_first_hits_it(double):
    weight, bias, x = _arrays(seed=4)
    network = hjax.nn.LSTM.from_arrays(weight, bias)
    c, h = np.random.default_rng(5).normal(size=(2, 4))
    drive = jnp.asarray(x[0])
    want = _cell(weight, bias, c, h, x[0], 1.0)
    both = [s + v for s, v in zip((c, h), network.field((c, h), drive), strict=True)]
    np.testing.assert_allclose(both[0], want[0], atol=1e-14)
    assert np.abs(np.asarray(both[1]) - want[1]).max() > 0.1
    half = h + network.field((both[0], h), drive)[1]  # the gates see the old h, tanh the new c
    np.testing.assert_allclose(half, want[1], atol=1e-14)
    for got, wanted in zip(network.step((c, h), drive), want, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-14)


def test_its_gates_are_slopes_of_two_neurons(double):
    weight, bias, x = _arrays(seed=6)
    network, eps, d = hjax.nn.LSTM.from_arrays(weight, bias, eps=0.3), 0.3, 1e-5
    joined = np.concatenate([np.zeros(4), x[0]])
    z = weight @ joined + bias
    soft = (eps * np.logaddexp(0, (z[:12] + d) / eps) - eps * np.logaddexp(0, (z[:12] - d) / eps)) / (2 * d)
    np.testing.assert_allclose(network.gates(jnp.asarray(joined)), soft, atol=1e-9)

    def cosh(z):
        return eps * np.logaddexp(z / eps, -z / eps)

    slope = (cosh(z[12:] + d) - cosh(z[12:] - d)) / (2 * d)
    np.testing.assert_allclose(network.candidate(jnp.asarray(joined)), slope, atol=1e-9)
    np.testing.assert_allclose(network.gates.potential(jnp.asarray(joined)), eps * np.logaddexp(0, z[:12] / eps))


def test_it_starts_with_an_open_forget_gate():
    for eps in (1.0, 0.1):
        network = hjax.nn.LSTM(2, 3, eps=eps, key=jax.random.key(0))
        gates = network.gates(jnp.zeros(5))
        np.testing.assert_allclose(gates, np.repeat([special.expit(1.0), 0.5, 0.5], 3), atol=1e-6)


# f: keep unless the first input is large; i: when the second is positive; o: always but when both are; g: by h.
WEIGHT = [[2, 0, -2, 0], [0, 2, 0, -2], [0, 0, 0, 4], [0, 0, 2, 2], [0, 0, -2, -2], [2, 0, 0, 0], [2, 2, 2, 0],
          [-2, 0, 0, 2]]  # fmt: skip
BIAS = [1, 3, 1, -1, 5, 7, 1, -1]


def _automaton(weight, bias, xs):
    """The hard LSTM in Python's integers: two cells, two inputs."""
    c, h = [0, 0], [0, 0]
    states = [(list(c), list(h))]
    for x in xs:
        on = [
            sum(int(w) * v for w, v in zip(row, [*h, *x], strict=True)) + int(b) > 0
            for row, b in zip(weight, bias, strict=True)
        ]
        for j in range(2):
            kept = c[j] if on[j] else 0
            c[j] = kept + ((1 if on[6 + j] else -1) if on[2 + j] else 0)
        h = [((c[j] > 0) - (c[j] < 0)) if on[4 + j] else 0 for j in range(2)]
        states.append((list(c), list(h)))
    return states


def test_the_hard_network_is_an_integer_automaton_bit_for_bit(precision):
    xs = np.random.default_rng(8).integers(-3, 4, size=(400, 2))
    states = _automaton(WEIGHT, BIAS, xs.tolist())
    network = hjax.nn.SwitchedLSTM(WEIGHT, BIAS)
    c, h = eqx.filter_jit(lambda n, x: n.states(x))(network, jnp.asarray(xs))
    assert c.dtype == h.dtype == precision
    np.testing.assert_array_equal(c, [s[0] for s in states])
    np.testing.assert_array_equal(h, [s[1] for s in states])
    # The sequence uses what the automaton has.
    assert np.abs([s[0] for s in states]).max() > 5
    assert {v for s in states for v in s[1]} == {-1, 0, 1}
    # Biases are odd and the rest even, so no gate is undecided: cold gates round to 0 and 1.
    cold = hjax.nn.LSTM.from_arrays(WEIGHT, BIAS, eps=1e-3)
    assert cold.tropical().weight.tolist() == WEIGHT
    np.testing.assert_array_equal(cold(jnp.asarray(xs, precision)), h[1:])


def test_the_network_tends_to_its_hard_limit_exponentially(double):
    xs = jnp.asarray(np.random.default_rng(9).integers(-3, 4, size=(40, 2)), float)
    temperatures = np.array([0.2, 0.1, 0.05])
    run = eqx.filter_jit(lambda e, x: hjax.nn.LSTM.from_arrays(WEIGHT, BIAS, eps=e)(x))
    want = np.array([s[1] for s in _automaton(WEIGHT, BIAS, np.asarray(xs, int).tolist())[1:]])
    errors = np.array([np.abs(np.asarray(run(e, xs)) - want).max() for e in temperatures])
    # The gap is 1, so the error is about exp(-1/eps)/eps.
    rates = -temperatures * np.log(errors * temperatures)
    assert np.all(np.abs(rates - 1) < 0.25)


def test_a_reset_is_no_max_plus_map():
    """Max-plus maps commute with adding a constant to the state; a reset forgets it."""
    network = hjax.nn.SwitchedLSTM(np.zeros((4, 2)), np.array([-1.0, 1.0, 1.0, 1.0]))
    zero, x = jnp.zeros(1), jnp.zeros(1)
    assert [float(network.step((zero + s, zero), x)[0][0]) for s in (0.0, 1.0)] == [1.0, 1.0]


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda n: hjax.nn.LSTM(2, 0, key=KEY), "state_size is 0"),
        (lambda n: hjax.nn.LSTM(2, 3, eps=0.0, key=KEY), "eps must be positive"),
        (lambda n: n(jnp.zeros((0, 2))), r"x has shape \(0, 2\)"),
        (lambda n: n(jnp.zeros((5, 3))), r"jax\.vmap\(lstm\)"),
        (lambda n: n(jnp.zeros((5, 2), int)), "dtype int"),
        (lambda n: n(jnp.zeros((5, 2)), jnp.zeros(3)), "is wanted; start from initial_state"),
        (lambda n: n.step(jnp.zeros(3), jnp.zeros(2)), r"pass the pair \(c, h\)"),
        (lambda n: n.step((jnp.zeros(3), jnp.zeros(2)), jnp.zeros(2)), r"h has shape \(2,\), but \(3,\)"),
        (lambda n: n.step((jnp.zeros(3), jnp.zeros(3)), jnp.zeros((5, 2))), r"the input has shape \(5, 2\)"),
        (lambda n: n.tropical()(jnp.zeros((5, 3))), r"jax\.vmap\(automaton\)"),
        (lambda n: hjax.nn.SwitchedLSTM(np.zeros((6, 3)), np.zeros(6)), r"\(4n, n \+ m\) and \(4n,\) are wanted"),
        (lambda n: hjax.nn.LSTM.from_arrays(np.zeros((4, 1)), np.zeros(4)), "weight has shape"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(hjax.nn.LSTM.from_arrays(jnp.zeros((12, 5)), jnp.zeros(12)))


def _last(h):
    return h[-1]


@pytest.mark.slow
def test_it_remembers_the_first_of_twenty_signs():
    x = np.random.default_rng(0).choice([-1.0, 1.0], size=(4000, 20, 1))
    y = jnp.asarray(x[:, 0, 0] > 0, jnp.int32)
    x = jnp.asarray(x, jnp.float32)
    first, last = jax.random.split(jax.random.key(0))
    model = eqx.nn.Sequential([hjax.nn.LSTM(1, 16, key=first), eqx.nn.Lambda(_last), eqx.nn.Linear(16, 2, key=last)])
    found = fit(
        model,
        (x[:3500], y[:3500]),
        steps=500,
        loss="cross_entropy",
        optimizer=optax.adam(1e-2),
        batch_size=64,
        metrics=["accuracy"],
        evaluation=(x[3500:], y[3500:]),
    )
    assert found.finished
    assert found.metrics["accuracy"] >= 0.99
