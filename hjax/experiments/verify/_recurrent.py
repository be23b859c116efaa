"""Proposition 5.4 (a): a recurrent network as Euler steps of a differential equation."""

import jax
import numpy as np
from scipy import integrate

import hjax

from ._table import Evidence, Verdict, check


@check(
    "5.4.a",
    "An RNN's step h -> tanh(W h + U x + b) is the Euler step of length 1 of h' = -h + tanh(W h + U x + b): an "
    "identity, with a step that is not small.",
    expected=Verdict.HOLDS,
)
def unit_euler_step() -> Evidence:
    """`RNN` against numpy's Euler steps, and against scipy's solution of the equation with the inputs held."""
    rng = np.random.default_rng(540)
    weight, bias, x, momentum = (rng.normal(size=s) for s in ((4, 7), 4, (8, 3), 4))

    def field(h: np.ndarray, value: np.ndarray) -> np.ndarray:
        return -h + np.tanh(weight @ np.concatenate([h, value]) + bias)

    network = hjax.nn.RNN.from_arrays(weight, bias)
    states = np.asarray(jax.jit(lambda x: network.states(x))(x))
    euler, exact = [np.zeros(4)], np.zeros(4)
    for value in x:
        euler.append(euler[-1] + field(euler[-1], value))
        solved = integrate.solve_ivp(lambda _, h, v=value: field(h, v), (0, 1), exact, rtol=1e-9, atol=1e-11)
        exact = solved.y[:, -1]
    rate = np.asarray(jax.jit(jax.grad(network.hamiltonian, argnums=1))(states[3], momentum, x[3]))
    err = max(np.abs(states - euler).max(), np.abs(rate - field(states[3], x[3])).max())
    distance = np.abs(states[-1] - exact).max()
    figure = f"Euler steps and dH/dp err {err:.1e}; distance to the differential equation after 8 steps {distance:.2f}"
    return Evidence(bool(err < 1e-14 and distance > 0.1), figure)
