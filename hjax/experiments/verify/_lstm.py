"""Remark 5.5: the LSTM as steps of equation 31, its gates as slopes of solutions, and its cold limit."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import special

import hjax

from ._oracles import complex_step
from ._table import Evidence, Verdict, check


def _rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of four cells on three inputs."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(16, 7)), rng.normal(size=16)


def _cell(
    weight: np.ndarray, bias: np.ndarray, c: np.ndarray, h: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The LSTM's cell, written out."""
    f, i, o, g = np.split(weight @ np.concatenate([h, x]) + bias, 4)
    c = special.expit(f) * c + special.expit(i) * np.tanh(g)
    return c, special.expit(o) * np.tanh(c)


@check(
    "5.5.a",
    "The LSTM's step is the Euler step of length 1 of equation 31; corrected: Euler's step of both components misses "
    "h, the semi-implicit one (the new c in h) is the cell.",
    expected=Verdict.CORRECTED,
)
def semi_implicit_step() -> Evidence:
    """Steps made of jax's gradients of hjax's Hamiltonian, and hjax's cell, against numpy's cell on random states."""
    weight, bias = _rows(550)
    rng = np.random.default_rng(551)
    c, h, x = rng.normal(size=(20, 4)), np.tanh(rng.normal(size=(20, 4))), rng.normal(size=(20, 3))
    network = hjax.nn.LSTM.from_arrays(weight, bias)

    def rates(c: Array, h: Array, x: Array) -> tuple[Array, Array]:
        momentum = jnp.ones_like(c), jnp.ones_like(h)
        return jax.grad(network.hamiltonian, argnums=1)((c, h), momentum, x)

    @jax.jit
    @jax.vmap
    def steps(c: Array, h: Array, x: Array) -> tuple[Array, ...]:
        dc, dh = rates(c, h, x)
        _, later = rates(c + dc, h, x)
        return c + dc, h + dh, h + later, *network.step((c, h), x)

    euler_c, euler_h, implicit_h, step_c, step_h = (np.asarray(a) for a in steps(c, h, x))
    cells = [_cell(weight, bias, *row) for row in zip(c, h, x, strict=True)]
    want_c, want_h = (np.array(part) for part in zip(*cells, strict=True))
    missed = np.abs(euler_h - want_h).max()
    memory = np.abs(euler_c - want_c).max()
    hit = max(np.abs(implicit_h - want_h).max(), np.abs(step_h - want_h).max(), np.abs(step_c - want_c).max())
    figure = f"Euler step of both: c err {memory:.0e}, h err {missed:.2f}; semi-implicit, and hjax's cell, {hit:.0e}"
    return Evidence(holds=not missed > 0.01, corrected=bool(max(memory, hit) < 1e-14), figure=figure)


@check(
    "5.5.b",
    "The gates are slopes of log-sum-exps of two neurons: sigmoid(z/eps) = d/dz eps log(1 + e^(z/eps)), tanh(z/eps) = "
    "d/dz eps log(e^(z/eps) + e^(-z/eps)).",
    expected=Verdict.HOLDS,
)
def gates_as_slopes() -> Evidence:
    """The gates of `LSTM` against complex steps of numpy's log-sum-exps, at three temperatures."""
    weight, bias = _rows(552)
    x = np.random.default_rng(553).normal(size=7)
    z = weight @ x + bias
    errors: dict[str, list[float]] = {"sigmoid": [], "tanh": []}
    for eps in (0.3, 1.0, 3.0):
        network = hjax.nn.LSTM.from_arrays(weight, bias, eps=eps)

        def softplus(v: np.ndarray, eps: float = eps) -> np.ndarray:
            return eps * np.log(1 + np.exp(v / eps))

        def log_cosh(v: np.ndarray, eps: float = eps) -> np.ndarray:
            return eps * np.log(np.exp(v / eps) + np.exp(-v / eps))

        for name, gate, potential, part in (
            ("sigmoid", network.gates, softplus, z[:12]),
            ("tanh", network.candidate, log_cosh, z[12:]),
        ):
            slopes = complex_step(potential, part, np.ones_like(part))
            errors[name].append(float(np.abs(np.asarray(gate(x)) - slopes).max()))
            errors[name].append(float(np.abs(np.asarray(gate.potential(x)) - potential(part)).max()))
    figure = ", ".join(f"{name} and its potential err {max(err):.1e}" for name, err in errors.items())
    return Evidence(bool(max(max(err) for err in errors.values()) < 1e-13), figure)


# Even rows and odd biases: on integers no gate is undecided.
_INTEGER_ROWS = [[2, 0, -2, 0], [0, 2, 0, -2], [0, 0, 0, 4], [0, 0, 2, 2], [0, 0, -2, -2], [2, 0, 0, 0], [2, 2, 2, 0],
                 [-2, 0, 0, 2]]  # fmt: skip
_INTEGER_BIAS = [1, 3, 1, -1, 5, 7, 1, -1]


def _automaton(inputs: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """c' = f c + i g, h' = o sign(c'), in Python's integers: the states of two cells."""
    c, h = [0, 0], [0, 0]
    memories, outputs = [[0, 0]], [[0, 0]]
    for x in inputs:
        scores = [sum(w * v for w, v in zip(row, h + x, strict=True)) for row in _INTEGER_ROWS]
        on = [score + b > 0 for score, b in zip(scores, _INTEGER_BIAS, strict=True)]
        c = [(c[j] if on[j] else 0) + ((1 if on[6 + j] else -1) if on[2 + j] else 0) for j in range(2)]
        h = [((c[j] > 0) - (c[j] < 0)) if on[4 + j] else 0 for j in range(2)]
        memories.append(c)
        outputs.append(h)
    return memories, outputs


@check(
    "5.5.c",
    "As eps -> 0 the LSTM becomes a max-plus system; corrected: a switched affine automaton, c' = f c + i g with f, i "
    "in {0, 1} and g = +-1.",
    expected=Verdict.CORRECTED,
)
def switched_automaton() -> Evidence:
    """`LSTM` at small eps and its `tropical()` against Python's integers; a reset against adding 1 to the state."""
    x = np.random.default_rng(554).integers(-3, 4, size=(300, 2))
    memories, outputs = _automaton(x.tolist())

    @jax.jit
    def states(eps: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        network = hjax.nn.LSTM.from_arrays(np.array(_INTEGER_ROWS), np.array(_INTEGER_BIAS), eps=eps)
        return network.states(x.astype(float)), network.tropical().states(x)

    distances = {}
    hard: float = np.inf
    for eps in (0.1, 0.05, 0.001):
        (_, h), (hard_c, hard_h) = states(eps)
        distances[eps] = float(np.abs(np.asarray(h) - outputs).max())
        hard = float(max(np.abs(np.asarray(hard_c) - memories).max(), np.abs(np.asarray(hard_h) - outputs).max()))

    network = hjax.nn.LSTM.from_arrays(np.array(_INTEGER_ROWS), np.array(_INTEGER_BIAS), eps=0.001)
    step = jax.jit(lambda c, x: network.step((c, jnp.zeros(2)), x)[0])
    reset = np.array([3.0, 0.0])  # f = 0 in the first cell
    moved = float(step(np.array([5.0, 0.0]), reset)[0] - step(np.array([4.0, 0.0]), reset)[0])
    figure = (
        f"300 steps: hard network from Python's integers {hard:.0f} (|c| up to {np.abs(memories).max()}), outputs at "
        f"eps = {', '.join(f'{e:g}: {d:.0e}' for e, d in distances.items())}; c -> c + 1 before a reset moves c' by "
        f"{moved:.0f}, a max-plus map by 1"
    )
    exact = hard == 0 and distances[0.001] == 0 and distances[0.1] > distances[0.05] > 0
    return Evidence(holds=not abs(moved - 1) > 0.5, corrected=exact, figure=figure)
