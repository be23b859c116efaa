"""Theorems E.1 and E.2: what K composed layers converge to.

Layers that pass a function, g^(k+1)_j = u^k(y_j) on a grid of spacing h, against layers that pass a point,
x -> u_t2(u_t1(x)). The continuum's u(., T) for g = |y| comes from adaptive quadrature.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._oracles import integrate_viscous
from ._table import Evidence, Verdict, check

_EPS, _T, _REACH = 0.3, 1.0, 8.0
_PLACES = (0.0, 0.5, -1.5, 2.5)


def _compiled() -> Callable[..., Array]:
    """One layer, as a function that compiles once per width."""

    @jax.jit
    def layer(x: Array, points: Array, values: Array, log_weights: Array, t: Array) -> Array:
        return hjax.HopfCole(hjax.InitialData(points, values, log_weights), _EPS, normalize=True)(x, t)

    return layer


@functools.cache
def _continuum(scale: float = 1.0) -> np.ndarray:
    """u(x, T) at the places, for g = scale |y|."""
    box = (-_REACH, _REACH)
    return np.array([integrate_viscous(lambda y: scale * abs(y), x, _T, _EPS, box, [0.0]) for x in _PLACES])


def _grid(spacing: float) -> tuple[Array, Array]:
    """Nodes -8, -8 + h, ..., 8 and their log-weights: a layer reads its predecessor at its own atoms."""
    count = round(2 * _REACH / spacing) + 1
    return jnp.linspace(-_REACH, _REACH, count)[:, None], jnp.full(count, np.log(spacing))


def _passing_functions(layer: Callable[..., Array], depth: int, spacing: float) -> float:
    """Worst error at the places of `depth` layers, each of which carries its values on the grid to the next."""
    points, log_weights = _grid(spacing)
    values, step = jnp.abs(points[:, 0]), jnp.asarray(_T / depth)
    for _ in range(depth):
        values = layer(points, points, values, log_weights, step)
    places = np.rint((np.array(_PLACES) + _REACH) / spacing).astype(int)
    return float(np.abs(np.asarray(values)[places] - _continuum()).max())


def _passing_points(layer: Callable[..., Array], spacing: float) -> float:
    """Worst error at the places of two layers for g = 2|y|, of which the second is evaluated at the first's output."""
    points, log_weights = _grid(spacing)
    values = 2 * jnp.abs(points[:, 0])
    x, half = jnp.array(_PLACES)[:, None], jnp.asarray(_T / 2)
    inner = layer(x, points, values, log_weights, half)
    outer = layer(inner[:, None], points, values, log_weights, half)
    return float(np.abs(np.asarray(outer) - _continuum(2.0)).max())


@check(
    "E.1",
    "K composed layers of width N are within C K N^(-1/d) of u(., T); corrected: if each layer passes its function to "
    "the next, with the bound K (L + h/(2 tau)) h, tau = T/K; not if it passes a point.",
    expected=Verdict.CORRECTED,
)
def depth_bound() -> Evidence:
    """Errors for K = 1, 4, 16 at two spacings over the bound, and the gap of composition by points."""
    layer = _compiled()
    errors = {(k, h): _passing_functions(layer, k, h) for h in (0.5, 0.125) for k in (1, 4, 16)}
    ratios = [err / (k * (1 + h * k / (2 * _T)) * h) for (k, h), err in errors.items()]
    gaps = [_passing_points(layer, h) for h in (0.5, 0.125)]
    figure = (
        f"function passing, K = 1, 4, 16: err {_join([errors[k, 0.5] for k in (1, 4, 16)])} at h = 0.5, "
        f"{_join([errors[k, 0.125] for k in (1, 4, 16)])} at h = 0.125, at most {max(ratios):.3f} of the bound; "
        f"point passing: gap {gaps[0]:.2f}, {gaps[1]:.2f}"
    )
    stays = gaps[1] > 0.1 and gaps[1] > 0.9 * gaps[0]
    falls = max(errors[k, 0.125] / errors[k, 0.5] for k in (1, 4, 16)) < 0.25
    return Evidence(holds=not stays, corrected=bool(min(ratios) > 0 and max(ratios) < 1 and falls), figure=figure)


@check(
    "E.2",
    "The composition tends to u(., T) exactly when K N^(-1/d) -> 0; corrected: for layers that pass functions that is "
    "sufficient, not necessary.",
    expected=Verdict.CORRECTED,
)
def depth_and_width() -> Evidence:
    """The error along K h = 1, where it falls all the same, and along K h -> 0."""
    layer = _compiled()
    fixed = [_passing_functions(layer, k, h) for k, h in ((2, 0.5), (4, 0.25), (8, 0.125))]
    vanishing = [_passing_functions(layer, k, h) for k, h in ((1, 0.5), (2, 0.125))]
    figure = (
        f"function passing along K h = 1, (K, h) = (2, .5), (4, .25), (8, .125): err {_join(fixed)}; along K h -> 0, "
        f"(1, .5), (2, .125): {_join(vanishing)}"
    )
    unnecessary = fixed[2] < 0.2 * fixed[0]
    return Evidence(holds=not unnecessary, corrected=vanishing[1] < 0.2 * vanishing[0], figure=figure)


def _join(values: list[float]) -> str:
    return ", ".join(f"{v:.1e}" for v in values)
