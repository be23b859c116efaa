"""Theorem 8.4: backpropagation as the co-state equation, and what integrator the pair is."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._oracles import complex_step
from ._table import Evidence, Verdict, check

_SIZE, _UNITS, _DEPTH = 3, 5, 6


def _network(depth: int, seed: int) -> tuple[hjax.nn.ResNet, dict[str, np.ndarray]]:
    """A residual network with biases, and its parameters as numpy arrays."""
    rng = np.random.default_rng(seed)
    draws = {
        "inner": rng.normal(size=(depth, _UNITS, _SIZE)),
        "shift": rng.normal(size=(depth, _UNITS)),
        "outer": rng.normal(size=(depth, _SIZE, _UNITS)) / 2,
        "drift": rng.normal(size=(depth, _SIZE)),
    }
    plain = hjax.nn.ResNet(_SIZE, _UNITS, depth, eps=0.7, key=jax.random.key(seed))
    network = eqx.tree_at(_parameters, plain, tuple(jnp.asarray(v) for v in draws.values()))
    return network, draws


def _parameters(network: hjax.nn.ResNet) -> tuple[Array, ...]:
    return network.blocks.gate.weight, network.blocks.gate.bias, network.blocks.weight, network.blocks.bias


def _field(
    x: np.ndarray, k: int, inner: np.ndarray, shift: np.ndarray, outer: np.ndarray, drift: np.ndarray
) -> np.ndarray:
    return outer[k] @ np.tanh((inner[k] @ x + shift[k]) / 0.7) + drift[k]


def _loss(x: np.ndarray, target: np.ndarray, first: int, depth: int, **parameters: np.ndarray) -> np.ndarray:
    """The loss at the end of Euler's steps from x_first on."""
    for k in range(first, depth):
        x = x + _field(x, k, **parameters) / depth
    return ((x - target) ** 2).sum() + np.sin(x).sum()


def _outer(target: np.ndarray) -> Callable[[Array], Array]:
    return lambda x: jnp.sum((x - target) ** 2) + jnp.sum(jnp.sin(x))


@check(
    "8.4.a",
    "Backpropagation through x_{k+1} = x_k + h F(x_k, theta_k) is the co-state equation: p_K = grad loss, "
    "p_k = p_{k+1} + h (dF/dx)(x_k)^T p_{k+1}, and p_k = dloss/dx_k.",
    expected=Verdict.HOLDS,
)
def costate_is_the_derivative() -> Evidence:
    """`costate` of a `ResNet` against complex steps of numpy's loss in every state."""
    network, draws = _network(_DEPTH, 840)
    x, target = np.random.default_rng(841).normal(size=(2, _SIZE))
    result = jax.jit(lambda x: hjax.dynamics.costate(network, x, _outer(target)))(x)
    states = np.asarray(result.states)
    err = 0.0
    for k in range(_DEPTH + 1):
        for axis, one in enumerate(np.eye(_SIZE)):
            slope = complex_step(lambda s, k=k: _loss(s, target, k, _DEPTH, **draws), states[k], one)
            err = max(err, abs(float(slope) - float(result.momenta[k, axis])))
    value = abs(float(result.value) - _loss(x, target, 0, _DEPTH, **draws))
    figure = (
        f"p_k from complex steps of the loss: {err:.1e} over {_DEPTH + 1} states (|p| up to "
        f"{np.abs(result.momenta).max():.1f}); the loss itself {value:.1e}"
    )
    return Evidence(bool(err < 1e-13 and value < 1e-13), figure)


@check(
    "8.4.b",
    "The gradient in the parameters of step k is h dH/dtheta(x_k, p_{k+1}), with H(x, p, theta) = p . F(x, theta).",
    expected=Verdict.HOLDS,
)
def gradient_is_that_of_the_hamiltonian() -> Evidence:
    """`costate`'s gradient, and autodiff of `network.hamiltonian`, against complex steps of numpy's loss."""
    network, draws = _network(_DEPTH, 842)
    x, target = np.random.default_rng(843).normal(size=(2, _SIZE))

    @jax.jit
    def both(x: Array) -> tuple[tuple[Array, ...], list[tuple[Array, ...]]]:
        result = hjax.dynamics.costate(network, x, _outer(target))
        steps = []
        for k in range(_DEPTH):
            s, p = result.states[k], result.momenta[k + 1]
            slope = eqx.filter_grad(lambda n, s=s, p=p, k=k: n.hamiltonian(s, p, (k + 0.5) * n.h) * n.h)(network)
            steps.append(_parameters(slope))
        return _parameters(result.gradient), steps

    gradient, steps = both(x)
    err, apart, largest = 0.0, 0.0, 0.0
    for index, (name, array) in enumerate(draws.items()):
        for place in np.ndindex(array.shape):
            one = np.zeros(array.shape)
            one[place] = 1.0
            slope = complex_step(lambda v, n=name: _loss(x, target, 0, _DEPTH, **{**draws, n: v}), array, one)
            err = max(err, abs(float(slope) - float(gradient[index][place])))
            apart = max(apart, abs(float(slope) - float(steps[place[0]][index][place])))
            largest = max(largest, abs(float(slope)))
    figure = (
        f"from complex steps: costate's gradient {err:.1e}, h dH/dtheta(x_k, p_k+1) {apart:.1e} (up to {largest:.1f})"
    )
    return Evidence(bool(max(err, apart) < 1e-13), figure)


@check(
    "8.4.c",
    "State and co-state together are forward Euler for (17), with p in reversed time, symplectic up to O(h^2); "
    "corrected: with the Jacobian at x_k, not x_{k+1}, they are the symplectic Euler method, exactly, at every h.",
    expected=Verdict.CORRECTED,
)
def the_pair_is_symplectic_euler() -> Evidence:
    """Central differences of hjax's map (x_0, p_0) -> (x_K, p_K); Euler in reversed time in numpy, at several h."""
    depth, d, step = 4, _SIZE, 1e-5
    network, draws = _network(depth, 844)
    x, last = np.random.default_rng(845).normal(size=(2, d))
    ends = jax.jit(lambda x, p: (lambda r: (r.states[-1], r.momenta[0]))(hjax.dynamics.costate(network, x, p)))

    def column(axis: np.ndarray) -> np.ndarray:
        moved = [np.concatenate(ends(x + s * step * axis[:d], last + s * step * axis[d:])) for s in (1, -1)]
        return (moved[0] - moved[1]) / (2 * step)

    # costate takes p_K and returns p_0; the derivative of the map from (x_0, p_0) follows by solving for dp_K.
    mixed = np.stack([column(axis) for axis in np.eye(2 * d)], axis=1)
    onward, across, back = mixed[:d, :d], mixed[d:, :d], mixed[d:, d:]
    inverse = np.linalg.inv(back)
    flow = np.block([[onward, np.zeros((d, d))], [-inverse @ across, inverse]])
    form = np.block([[np.zeros((d, d)), np.eye(d)], [-np.eye(d), np.zeros((d, d))]])
    defect = np.abs(flow.T @ form @ flow - form).max()

    def one_step(h: float) -> float:
        """How far one step of p with the Jacobian at x_1 is from the one at x_0."""
        after = x + h * _field(x, 0, **draws)
        pulled = []
        for at in (x, after):
            jacobian = np.stack([complex_step(lambda s: _field(s, 0, **draws), at, one) for one in np.eye(d)], axis=1)
            pulled.append(last + h * jacobian.T @ last)
        return float(np.abs(pulled[1] - pulled[0]).max())

    gap = one_step(1 / depth)
    order = np.log(one_step(1 / 64) / one_step(1 / 512)) / np.log(8)
    figure = (
        f"|D'JD - J| = {defect:.1e} at h = {1 / depth}; Euler in reversed time is off by {gap:.2f} in one step, "
        f"order h^{order:.2f} from h = 1/64 to 1/512"
    )
    return Evidence(holds=not gap > 0.01, corrected=bool(defect < 1e-8 and 1.9 < order < 2.1), figure=figure)
