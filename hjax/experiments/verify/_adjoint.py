"""Proposition E.6: the gradient of a loss in the initial data, as an adjoint heat flow."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._oracles import complex_step, soft_minimum, squared_distances
from ._table import Evidence, Verdict, check


@check(
    "E.6",
    "dL/dg_j is the adjoint heat semigroup applied to the loss's derivative, -(K_t^T l')(y_j); corrected: it is "
    "tilted, -e^(-g_j/eps) (K_t^T [l'/phi])(y_j).",
    expected=Verdict.CORRECTED,
)
def tilted_adjoint() -> Evidence:
    """hjax's co-state at the atoms against numpy's kernel sums, and against complex steps of numpy's loss."""
    rng, eps, t, d = np.random.default_rng(560), 0.3, 0.6, 2
    points, values, x, targets = (
        rng.normal(size=(10, d)),
        rng.normal(size=10),
        rng.normal(size=(20, d)),
        rng.normal(size=20),
    )

    @jax.jit
    def gradient(g: Array) -> Array:
        u = hjax.HopfCole(hjax.InitialData(points, g), eps)
        result = hjax.dynamics.costate(u, x, lambda f: jnp.mean((f - targets) ** 2) / 2, t=t)
        return result.momenta[0]

    ours = np.asarray(gradient(values))
    action = squared_distances(x, points) / (4 * t)

    def loss(g: np.ndarray) -> np.ndarray:
        f = (x**2).sum(axis=1) / (4 * t) - soft_minimum(g + action, eps)
        return np.mean((f - targets) ** 2) / 2

    steps = np.array([complex_step(loss, values, axis) for axis in np.eye(10)])
    volume = (4 * np.pi * eps * t) ** (d / 2)
    kernel = np.exp(-action / eps) / volume
    phi = kernel @ np.exp(-values / eps)
    slopes = ((x**2).sum(axis=1) / (4 * t) + eps * np.log(volume * phi) - targets) / 20
    tilted, pure = -np.exp(-values / eps) * (kernel.T @ (slopes / phi)), -kernel.T @ slopes
    err, own, missed = (np.abs(ours - v).max() for v in (tilted, steps, pure))
    figure = (
        f"costate from the tilted adjoint {err:.1e}, from complex steps {own:.1e}, from the pure one {missed:.2f} "
        f"(|dL/dg| up to {np.abs(ours).max():.2f})"
    )
    return Evidence(holds=not missed > 0.01, corrected=bool(max(err, own) < 1e-13), figure=figure)
