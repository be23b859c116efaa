"""Quadrature rules: nodes `(N, d)` and the logarithms of their weights for integrals over R^d.

Every rule approximates `integral F(y) dy` by `sum_j exp(log_weights_j) F(points_j)`. Logarithms,
because the Hopf-Cole integrand lives on the scale of `eps log`, where weights of 1e-300 matter.

Which one? `grid` for d <= 3, and uniformly accurate in eps; `gauss_hermite` for smooth data with most
mass near one place; `sobol` for d of 4 to 20 or so; `samples` for points you were given.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.special import roots_hermite
from scipy.stats import qmc

from .. import _checks

Coordinates = ArrayLike | Sequence[float]


class Rule(NamedTuple):
    """Nodes `(N, d)` and log-weights `(N,)` of a quadrature rule over R^d."""

    points: Float[Array, "N d"]
    log_weights: Float[Array, "N"]


def grid(lower: Coordinates, upper: Coordinates, shape: int | tuple[int, ...], *, endpoints: bool = False) -> Rule:
    """Tensor grid on the box `[lower, upper]`: midpoint rule, or trapezoidal with `endpoints`.

    **Arguments:** `lower`, `upper`: numbers or `(d,)`. `shape`: nodes per axis, one number for all or
    one per axis. `endpoints`: put nodes on the boundary (trapezoidal weights) instead of the middles.

    **Error:** O(h^2) in the spacing h for the viscous solution at fixed eps, and never more than
    `Lip(g + c) h sqrt(d)/2` for any eps (Theorem 7.1 iii as corrected: the bound is uniform in eps).

    **Cost:** N = prod(shape) nodes.

    >>> import hjax
    >>> hjax.quadrature.grid(0.0, 1.0, 4).points[:, 0].tolist()
    [0.125, 0.375, 0.625, 0.875]
    """
    low, high = _box(lower, upper)
    counts = (shape,) * low.size if isinstance(shape, int) else tuple(shape)
    if len(counts) != low.size or min(counts) < 1 + endpoints:
        raise ValueError(
            f"shape {shape} does not fit a box in {low.size} dimensions; pass one count of at least "
            f"{1 + endpoints} per axis."
        )
    axes, weights = [], []
    for a, b, n in zip(low, high, counts, strict=True):
        if endpoints:
            axis, weight = np.linspace(a, b, n), np.full(n, (b - a) / (n - 1))
            weight[[0, -1]] /= 2
        else:
            axis, weight = a + (b - a) * (np.arange(n) + 0.5) / n, np.full(n, (b - a) / n)
        axes.append(axis)
        weights.append(np.log(weight))
    return _tensor(axes, weights)


def gauss_hermite(count: int, dimension: int = 1, *, mean: Coordinates = 0.0, scale: Coordinates = 1.0) -> Rule:
    """Tensor Gauss-Hermite rule, exact for polynomials times the Gaussian N(mean, scale^2).

    **Arguments:** `count`: nodes per axis, 1 to 300. `mean`, `scale`: numbers or `(dimension,)`.

    **Error:** spectral if `F` is a Gaussian of about that mean and scale times a smooth function.
    **Cost:** `count ** dimension` nodes. **Good values:** 20 to 60 per axis, dimension up to 4.

    >>> import hjax
    >>> hjax.quadrature.gauss_hermite(3, 2).points.shape
    (9, 2)
    """
    if not 1 <= count <= 300:
        raise ValueError(f"count is {count}; Gauss-Hermite nodes are offered for 1 to 300 per axis.")
    nodes, _ = roots_hermite(count)
    # log(w_i exp(z_i^2)) without the underflow of w_i: the reciprocal of the sum of squares of
    # the orthonormal Hermite functions psi_0 .. psi_{n-1} at the node (Christoffel's formula).
    previous, current = np.zeros(count), math.pi**-0.25 * np.exp(-(nodes**2) / 2)
    total = current**2
    for k in range(1, count):
        previous, current = (
            current,
            (math.sqrt(2) * nodes * current - math.sqrt(k - 1) * previous) / math.sqrt(k),
        )
        total += current**2
    means = np.broadcast_to(np.asarray(mean, float), (dimension,))
    scales = np.broadcast_to(np.asarray(scale, float), (dimension,))
    if not np.all(scales > 0):
        raise ValueError(f"scale must be positive, got {scale}.")
    axes = [m + math.sqrt(2) * s * nodes for m, s in zip(means, scales, strict=True)]
    weights = [np.log(math.sqrt(2) * s) - np.log(total) for s in scales]
    return _tensor(axes, weights)


def sobol(lower: Coordinates, upper: Coordinates, count: int, *, seed: int = 0) -> Rule:
    """Scrambled Sobol points on the box `[lower, upper]` with equal weights vol/N.

    **Arguments:** `count`: N, rounded up to a power of two (the sequence is balanced only then).
    `seed`: of the scrambling; the same seed gives the same points.

    **Error:** about N^-1 (log N)^d for smooth integrands, N^-1/2 at worst; in practice set by how much
    of the box carries mass. **Good values:** N = 2^12 to 2^18, d up to 20.

    >>> import hjax
    >>> hjax.quadrature.sobol([0.0, 0.0], [1.0, 1.0], 100).points.shape
    (128, 2)
    """
    low, high = _box(lower, upper)
    if count < 1:
        raise ValueError(f"count is {count}; pass at least one point.")
    power = max(0, math.ceil(math.log2(count)))
    points = qmc.scale(qmc.Sobol(low.size, rng=seed).random_base2(power), low, high)
    n = points.shape[0]
    log_volume = np.sum(np.log(high - low))
    return _rule(points, np.full(n, log_volume - math.log(n)))


def samples(points: ArrayLike, log_density: ArrayLike) -> Rule:
    """Points drawn from a density rho, with importance weights 1/(N rho(y_j)).

    Without these weights a sum over samples does not approximate the integral of the Feynman-Kac
    formula but one tilted by rho (theory: Proposition E.4, as corrected).

    **Arguments:** `points`: `(N, d)`, independent draws. `log_density`: log rho(y_j), `(N,)`.

    **Error:** Monte Carlo, N^-1/2 in every dimension.

    >>> import jax.numpy as jnp, hjax
    >>> rule = hjax.quadrature.samples(jnp.array([[0.2], [0.7]]), jnp.zeros(2))
    >>> [round(float(w), 4) for w in rule.log_weights]
    [-0.6931, -0.6931]
    """
    y = _checks.floating("points", points)
    rho = _checks.floating("log_density", log_density)
    _checks.atoms(y, rho, ("points", "log_density"))
    return Rule(y, -rho - math.log(y.shape[0]))


def _box(lower: Coordinates, upper: Coordinates) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.broadcast_arrays(np.atleast_1d(np.asarray(lower, float)), np.atleast_1d(np.asarray(upper, float)))
    if low.ndim != 1 or not np.all(low < high) or not np.all(np.isfinite(high - low)):
        raise ValueError(f"the box [{lower}, {upper}] is empty or infinite; pass lower < upper in every axis.")
    return low, high


def _tensor(axes: list[np.ndarray], log_weights: list[np.ndarray]) -> Rule:
    points = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=-1)
    weights = sum(m.ravel() for m in np.meshgrid(*log_weights, indexing="ij"))
    return _rule(points, np.asarray(weights))


def _rule(points: np.ndarray, log_weights: np.ndarray) -> Rule:
    return Rule(jnp.asarray(points, float), jnp.asarray(log_weights, float))
