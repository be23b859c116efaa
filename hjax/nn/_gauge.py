"""The three canonical fixings of the gauge t of a layer (theory: Gauge freedom in t).

A layer's function, weights of attribution, gradient and entropy do not depend on the t it is read at; the
atoms, their values and u do. Each function here picks a t by a principle of its own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from .. import _checks
from ..solutions import HopfCole


class InformationGauge(NamedTuple):
    """The chosen `t`, the mean attribution `entropy` there, and whether it is an `interior` maximum."""

    t: float
    entropy: float
    interior: bool


class GeneralizationGauge(NamedTuple):
    """The matched pair of temperature `eps` and time `t`."""

    eps: float
    t: float


def data_scale_gauge(x: ArrayLike, eps: ArrayLike) -> Float[Array, ""]:
    """t = sigma^2/(2 eps): the heat kernel's variance 2 eps t equals the data's variance per coordinate.

    **Arguments:** `x`: data `(M, d)`, M >= 2. `eps`: temperature of the layer.
    **Raises:** `ValueError` for other shapes, constant data or eps <= 0.
    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Gauge freedom, fixing (i).

    >>> import jax.numpy as jnp, hjax
    >>> float(hjax.nn.data_scale_gauge(jnp.array([[-1.0], [1.0]]), eps=0.25))
    2.0
    """
    points = _checks.floating("x", x)
    if points.ndim != 2 or points.shape[0] < 2:
        raise ValueError(f"x has shape {points.shape}; data (M, d) with M >= 2 is wanted.")
    variance = jnp.mean(jnp.var(points, axis=0))
    if _checks.is_concrete(variance) and not variance > 0:
        raise ValueError("the data in x do not vary, so they set no scale; pass t yourself.")
    return variance / (2 * _checks.positive_scalar("eps", eps))


def information_gauge(u: HopfCole, x: ArrayLike, *, lower: float = 1e-3, upper: float = 1e4) -> InformationGauge:
    """t = argmax of the mean attribution entropy over x, at fixed atoms and values (y, g).

    It needs a solution, not a layer: at a layer's fixed (W, b) the entropy does not depend on t, so nothing
    could be maximised. Moving t at fixed (y, g) changes the layer: `LSELayer.from_solution(u, t)` is a new
    function for every t.

    **Arguments:** `u`: a `HopfCole` solution. `x`: queries `(M, d)`. `lower`, `upper`: the times searched,
    on a logarithmic scale (64 nodes, then a bounded Brent search around the best one).

    **Returns:** `InformationGauge(t, entropy, interior)`; `interior` is False if the maximum is an end of
    the interval, and then t says nothing but that.

    **Raises:** `ValueError` unless 0 < lower < upper. Not for use inside `jit`.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Gauge freedom, fixing (ii), as corrected.

    >>> import jax.numpy as jnp, hjax
    >>> data = hjax.InitialData(jnp.array([[-1.0], [1.0]]), jnp.array([0.0, 0.2]))
    >>> gauge = hjax.nn.information_gauge(hjax.HopfCole(data, eps=0.1), jnp.array([[0.4], [0.5]]))
    >>> gauge.interior, round(gauge.t, 1)
    (True, 2.3)
    """
    if not isinstance(u, HopfCole):
        raise ValueError(
            f"u is {type(u).__name__}; the information gauge holds atoms and values fixed, so pass a "
            f"HopfCole solution, for example layer.to_solution(t)."
        )
    if not 0 < lower < upper:
        raise ValueError(f"the times [{lower}, {upper}] are empty; pass 0 < lower < upper.")
    points = _checks.floating("x", x)
    entropy = jax.jit(lambda log_t: jnp.mean(u.entropy(points, jnp.exp(log_t))))
    nodes = np.linspace(np.log(lower), np.log(upper), 64)
    values = np.array([float(entropy(node)) for node in nodes])
    best = int(values.argmax())
    bounds = nodes[max(best - 1, 0)], nodes[min(best + 1, nodes.size - 1)]
    found: Any = minimize_scalar(lambda s: -float(entropy(s)), bounds=bounds, method="bounded")
    interior = 0 < best < nodes.size - 1
    return InformationGauge(float(np.exp(found.x)), -float(found.fun), interior)


def generalization_gauge(width: int, dimension: int) -> GeneralizationGauge:
    """eps = t = N^(-1/d): the largest temperature and time that keep the approximation rate N^(-1/d).

    A scale rather than an optimum: no term of the bound penalises a smaller eps (theory 8.1.b).

    **Arguments:** `width`: N. `dimension`: d. **Raises:** `ValueError` if either is below one.
    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Gauge freedom, fixing (iii); Theorem 8.1.

    >>> import hjax
    >>> hjax.nn.generalization_gauge(100, 2)
    GeneralizationGauge(eps=0.1, t=0.1)
    """
    if width < 1 or dimension < 1:
        raise ValueError(f"width {width} and dimension {dimension} must both be at least 1.")
    scale = width ** (-1 / dimension)
    return GeneralizationGauge(scale, scale)
