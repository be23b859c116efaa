"""Appendix A: the dictionary with quantum mechanics in imaginary time."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import hjax

from ._table import Evidence, Verdict, check


@check(
    "A",
    "The dictionary eps = hbar, m = 1/2: phi = e^(-u/eps) obeys Schroedinger's equation in imaginary time, -hbar phi_t "
    "= -hbar^2/(2m) lap phi, it is the sum over paths, and the least action m|x - y|^2/(2t) is |x - y|^2/(4t).",
    expected=Verdict.HOLDS,
)
def quantum_dictionary() -> Evidence:
    """A product of short-time kernels on NumPy's grid, a residual by differences, and the action of a free particle."""
    hbar, mass, t, steps = 0.3, 0.5, 0.4, 16
    grid, h = np.linspace(-8, 8, 801, retstep=True)
    g = 0.4 * np.cos(grid)
    u = hjax.HopfCole(hjax.InitialData(grid[:, None], g, np.full(grid.size, np.log(h))), eps=hbar, normalize=True)
    middle = np.abs(grid) < 3

    # Paths of 16 free steps, each weighted by e^(-action/hbar) with the normalisation of quantum mechanics.
    dt = t / steps
    action = mass * (grid[:, None] - grid) ** 2 / (2 * dt)
    kernel = np.sqrt(mass / (2 * np.pi * hbar * dt)) * np.exp(-action / hbar) * h
    paths = np.exp(-g / hbar)
    for _ in range(steps):
        paths = kernel @ paths

    def wave(x: np.ndarray, t: float) -> np.ndarray:
        return np.exp(-np.asarray(u(x[:, None], t)) / hbar)

    x = grid[middle][::20]
    summed = np.abs(wave(grid[middle], t) / paths[middle] - 1).max()
    s = 2e-3
    weights = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60
    seconds = np.array([2, -27, 270, -490, 270, -27, 2]) / 180
    offsets = s * np.arange(-3, 4)
    rate = sum(w * wave(x, t + o) for w, o in zip(weights, offsets, strict=True)) / s
    curvature = sum(w * wave(x + o, t) for w, o in zip(seconds, offsets, strict=True)) / s**2
    residual = np.abs(-hbar * rate + hbar**2 / (2 * mass) * curvature).max() / np.abs(hbar * rate).max()

    rng = np.random.default_rng(1)
    x0, x1 = rng.normal(size=(2, 3))
    momentum = mass * (x1 - x0) / t
    free = hjax.Quadratic(1 / (2 * mass))
    followed: Any = hjax.dynamics.solve_characteristics(free, jnp.asarray(x0), jnp.asarray(momentum), t1=t)
    end, _, paid = followed.ys
    least = mass * ((x1 - x0) ** 2).sum() / (2 * t)
    reached = float(np.abs(np.asarray(end[-1]) - x1).max())
    gap = max(
        reached,
        abs(float(paid[-1]) - least),
        abs(float(hjax.Quadratic().cost(jnp.asarray(x1), jnp.asarray(x0), t)) - least),
    )
    figure = (
        f"phi from a sum over paths of {steps} steps {summed:.1e}; Schroedinger's equation in imaginary time "
        f"{residual:.1e}; action of the free particle from m|x - y|^2/2t = |x - y|^2/4t {gap:.1e}"
    )
    return Evidence(bool(summed < 1e-9 and residual < 1e-7 and gap < 1e-9), figure)
