"""Theorems E.1 and E.2: what K composed layers converge to.

Layers that pass a function, g^(k+1)_j = u^k(y_j) on a grid of spacing h, against layers that pass a point,
x -> u_t2(u_t1(x)). The continuum's u(., T) for g = |y| comes from adaptive quadrature.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._oracles import integrate_viscous
from ._table import Evidence, Verdict, check

_EPS, _T, _REACH = 0.3, 1.0, 8.0
_PLACES = (0.0, 0.5, -1.5, 2.5)


def _discrete(spacing: float, scale: float = 1.0) -> hjax.HopfCole:
    """The weighted solution for g = scale |y| on a midpoint grid."""
    rule = hjax.quadrature.grid(-_REACH, _REACH, round(2 * _REACH / spacing))
    data = hjax.InitialData(rule.points, scale * jnp.abs(rule.points[:, 0]), rule.log_weights)
    return hjax.HopfCole(data, _EPS, normalize=True)


@functools.cache
def _continuum(scale: float = 1.0) -> np.ndarray:
    """u(x, T) at the places, for g = scale |y|."""
    box = (-_REACH, _REACH)
    return np.array([integrate_viscous(lambda y: scale * abs(y), x, _T, _EPS, box, [0.0]) for x in _PLACES])


def _passing_functions(depth: int, spacing: float) -> float:
    """Worst error at the places of `depth` layers, each of which carries its values at the atoms to the next."""
    x, step = np.array(_PLACES)[:, None], _T / depth

    @jax.jit
    def deep() -> Array:
        return hjax.nn.compose(_discrete(spacing), (depth - 1) * [step])(x, step)

    return float(np.abs(np.asarray(deep()) - _continuum()).max())


def _passing_points(spacing: float) -> float:
    """Worst error at the places of two layers for g = 2|y|, of which the second is evaluated at the first's output."""
    x = np.array(_PLACES)[:, None]

    @jax.jit
    def deep() -> Array:
        u = _discrete(spacing, 2.0)
        return u(u(x, _T / 2)[:, None], _T / 2)

    return float(np.abs(np.asarray(deep()) - _continuum(2.0)).max())


@check(
    "E.1",
    "K composed layers of width N are within C K N^(-1/d) of u(., T); corrected: if each layer passes its function to "
    "the next, with the bound K (L + h/(2 tau)) h, tau = T/K; not if it passes a point.",
    expected=Verdict.CORRECTED,
)
def depth_bound() -> Evidence:
    """Errors of hjax's composition for K = 2, 16 and two spacings over the bound; the gap of passing points."""
    errors = {(k, h): _passing_functions(k, h) for k, h in ((2, 0.5), (16, 0.5), (16, 0.125))}
    ratios = [err / (k * (1 + h * k / (2 * _T)) * h) for (k, h), err in errors.items()]
    gaps = [_passing_points(h) for h in (0.5, 0.125)]
    figure = (
        f"function passing, (K, h) = (2, .5), (16, .5), (16, .125): err {_join(list(errors.values()))}, at most "
        f"{max(ratios):.3f} of the bound; point passing: gap {gaps[0]:.2f}, {gaps[1]:.2f}"
    )
    stays = gaps[1] > 0.1 and gaps[1] > 0.9 * gaps[0]
    falls = errors[16, 0.125] < 0.25 * errors[16, 0.5]
    return Evidence(holds=not stays, corrected=bool(min(ratios) > 0 and max(ratios) < 1 and falls), figure=figure)


@check(
    "E.2",
    "The composition tends to u(., T) exactly when K N^(-1/d) -> 0; corrected: for layers that pass functions that is "
    "sufficient, not necessary.",
    expected=Verdict.CORRECTED,
)
def depth_and_width() -> Evidence:
    """The error along K h = 1, where it falls all the same, and along K h -> 0."""
    fixed = [_passing_functions(k, h) for k, h in ((2, 0.5), (4, 0.25), (8, 0.125))]
    vanishing = [fixed[0], _passing_functions(3, 0.125)]
    figure = (
        f"function passing along K h = 1, (K, h) = (2, .5), (4, .25), (8, .125): err {_join(fixed)}; along K h -> 0, "
        f"(2, .5), (3, .125): {_join(vanishing)}"
    )
    unnecessary = fixed[2] < 0.2 * fixed[0]
    return Evidence(holds=not unnecessary, corrected=vanishing[1] < 0.2 * vanishing[0], figure=figure)


def _join(values: list[float]) -> str:
    return ", ".join(f"{v:.1e}" for v in values)
