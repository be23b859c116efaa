"""Proposition 5.2: residual networks as characteristics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

import hjax

from ._table import Evidence, Verdict, check


@check(
    "5.2",
    "Residual steps x + h F(x, theta_k) tend to the characteristics of H = p.F at order h, and Hamilton's co-state "
    "p' = -(dF/dx)^T p is (dx_T/dx_0)^-T p_0.",
    expected=Verdict.HOLDS,
)
def residual_network() -> Evidence:
    """`hjax.nn.ResNet` of growing depth, and `solve_characteristics`, against scipy's flow of NumPy's field."""
    rng = np.random.default_rng(52)
    start, momentum, count = np.array([0.5, -0.3]), np.array([1.0, 0.7]), 4
    network = hjax.nn.ResNet(2, 6, count, key=jax.random.key(52))
    blocks = network.blocks
    inner, outer = (np.asarray(w, float) for w in (blocks.gate.weight, blocks.weight))
    shifts = np.asarray(blocks.gate.bias, float), np.asarray(blocks.bias, float)
    directions = rng.normal(size=(2, 2))

    def field(t: float, x: np.ndarray) -> np.ndarray:
        place = min(t * count, count - 1)
        k = min(int(place), count - 2)
        s = place - k
        w, b, v, c = ((1 - s) * a[k] + s * a[k + 1] for a in (inner, shifts[0], outer, shifts[1]))
        return v @ np.tanh(w @ x + b) + c

    def flow(x: np.ndarray) -> np.ndarray:
        for k in range(count):  # theta(t) has corners, which scipy is not to step over
            ends = (k / count, (k + 1) / count)
            x = integrate.solve_ivp(field, ends, x, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
        return x

    end = flow(start)
    factors = np.array([32, 64, 128, 256])
    gaps = [np.abs(np.asarray(network.refine(int(f), "linear")(jnp.asarray(start))) - end).max() for f in factors]
    order = -float(np.polyfit(np.log(factors), np.log(gaps), 1)[0])

    hamiltonian = network.to_ode("linear").hamiltonian
    followed: Any = hjax.dynamics.solve_characteristics(hamiltonian, jnp.asarray(start), jnp.asarray(momentum), t1=1.0)
    x, p, _ = followed.ys
    h = 1e-5
    moved = np.stack([(flow(start + h * e) - flow(start - h * e)) / (2 * h) for e in directions], axis=1)
    jacobian = moved @ np.linalg.inv(directions.T)
    place = float(np.abs(np.asarray(x[-1]) - end).max())
    costate = float(np.abs(np.asarray(p[-1]) - np.linalg.solve(jacobian.T, momentum)).max())
    figure = (
        f"order of ResNet's steps {order:.3f}; solve_characteristics from scipy's flow {place:.1e}; co-state from "
        f"(dx_T/dx_0)^-T p_0 by differences of that flow {costate:.1e}"
    )
    return Evidence(bool(abs(order - 1) < 0.05 and place < 1e-7 and costate < 1e-6), figure)
