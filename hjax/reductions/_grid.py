"""All points of a tensor grid at once, one axis after another, for costs that are sums over the axes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ._costs import LagrangianCost, Mahalanobis, SquaredEuclidean, fastest_form
from ._grid_envelope import convex_crossing, envelope_index, quadratic_crossing
from ._grid_sums import line_sums
from ._problem import far

AxisCost = Callable[[Array, Array], Array]


class _SquaredDifference(eqx.Module):
    """`scale (x - y)^2` on one axis."""

    scale: Array

    def __call__(self, x: Array, y: Array) -> Array:
        return self.scale.astype(x.dtype) * (x - y) ** 2


class _OnAxis(eqx.Module):
    """A cost between points, on one axis."""

    cost: LagrangianCost

    def __call__(self, x: Array, y: Array) -> Array:
        return self.cost(x[None], y[None])


class _Finite(eqx.Module):
    """A cost with a number for what is out of reach, so that differences of it are not NaN."""

    cost: AxisCost

    def __call__(self, x: Array, y: Array) -> Array:
        value = jnp.asarray(self.cost(x, y))
        return jnp.where(value == jnp.inf, far(value.dtype), value)


def on_grid(
    g: ArrayLike,
    axes: Sequence[ArrayLike],
    *,
    eps: ArrayLike | None,
    cost: AxisCost | Sequence[AxisCost] | None = None,
    period: float | Sequence[float | None] | None = None,
    images: int = 1,
) -> Float[Array, "*n"]:
    """The soft-min, or hard-min, of a separable cost at all points of a tensor grid: Hopf-Cole, Hopf-Lax.

    `u(x_i) = -eps log sum_j exp(-(sum_k c_k(x_ik, y_jk) + g_j)/eps)` over all grid points j, the numbers that
    `softmin(points, points, g.ravel(), eps=eps)` gives, one axis at a time: O(d n^(d+1)) arithmetic in matrix
    products, or for `eps=None`, `u(x_i) = min_j sum_k c_k(x_ik, y_jk) + g_j`, O(d n^d) along lower envelopes.

    **Arguments:**

    - `g`: values `(n_1, ..., n_d)` in the unit of the cost; `+inf` marks an absent atom.
    - `axes`: d increasing coordinate arrays `(n_k,)`, evenly spaced or not.
    - `eps`: temperature, a positive number, in the unit of the cost; None for the limit `eps -> 0`.
    - `cost`: `SquaredEuclidean(scale)` (the default, with scale 1), `Mahalanobis` with a number for each axis as
      its metric, or any module `(x, y) -> scalar` of two coordinates that is a convex function of `x - y`,
      finite at 0 and perhaps `+inf` further out; one for all axes, or d of them. `LagrangianCost(hamiltonian, t)`
      is that of the Hamiltonian on one axis; as it is not a sum over several, those want a list.
    - `period`: None for free boundaries, or the period of each axis (one number for all, None within the
      sequence for a free axis). A hard-min then takes the nearest image, a soft-min sums over them.
    - `images`: how many periods to either side are looked at. 1 is right for a hard-min of a cost that grows
      with `|x - y|`, and for a soft-min once `c(1.5 period) - c(0.5 period)` is many eps.

    **Returns:** `(n_1, ..., n_d)`; `+inf` where no atom is in reach, everywhere if none is present.

    **Raises:** `ValueError` for axes that do not match g or do not increase, integer arrays, NaN or `-inf` in
    g, concrete eps <= 0, a cost that is no sum over the axes, or a period shorter than its axis.

    **Derivatives:** any order and mode in g, axes, eps and the costs' parameters (for eps=None those of the
    chosen atom), under `jit` and `vmap`, in memory O(n^d).

    **Error:** a few ulp of the costs and values that carry weight, for every pass; the convexity of a user's
    cost is not checked, and without it a hard-min may miss the least atom.

    **Cost:** a hard-min takes about the time of `scipy.ndimage.distance_transform_edt`, a soft-min a few times that
    of an FFT convolution, without its under- and overflow at small eps: `python -m benchmarks` measures both.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorems 4.1 and 5.1; P. Felzenszwalb and
    D. Huttenlocher, Distance transforms of sampled functions, Theory of Computing 8 (2012).

    >>> import jax.numpy as jnp, hjax
    >>> g = jnp.array([[0.0, jnp.inf, jnp.inf], [jnp.inf, jnp.inf, jnp.inf]])
    >>> hjax.on_grid(g, [jnp.arange(2.0), jnp.arange(3.0)], eps=None).tolist()
    [[0.0, 1.0, 4.0], [1.0, 2.0, 5.0]]
    """
    values, places = _validated(g, axes)
    costs = _axis_costs(cost, values.ndim)
    periods = _periods(period, places, images)
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    if eps is not None:
        eps = _checks.positive_scalar("eps", eps).astype(dtype)
    return _propagated(values, places, eps, costs, periods, images, dtype).astype(values.dtype)


@eqx.filter_jit
def _propagated(values: Array, places: Any, eps: Any, costs: Any, periods: Any, images: int, dtype: Any) -> Array:
    present = values != jnp.inf
    smallest = lax.stop_gradient(jnp.min(values))
    base = jnp.where(smallest == jnp.inf, 0, smallest)
    # Twice `where`: the inner one keeps inf - inf out of the derivative.
    u = jnp.where(present, jnp.where(present, values, base) - base, far(dtype)).astype(dtype)
    for k, (x, axis_cost, period) in enumerate(zip(places, costs, periods, strict=True)):
        lines = jnp.moveaxis(u, k, 0)
        flat = lines.reshape(lines.shape[0], -1)
        flat = _pass(flat, x.astype(dtype), eps, axis_cost, period, images)
        u = jnp.moveaxis(flat.reshape(lines.shape), 0, k)
    return jnp.where(u >= far(dtype) / 2, jnp.inf, u + base)


def _pass(f: Float[Array, "n L"], x: Array, eps: Any, cost: AxisCost, period: Any, images: int) -> Array:
    """One axis: the hard-min along it, and if eps is given the soft-min scaled by that."""
    y = x
    if period is not None:
        shifts = jnp.arange(-images, images + 1).astype(x.dtype) * period
        y, f = (x + shifts[:, None]).ravel(), jnp.tile(f, (2 * images + 1, 1))
    lines = f.shape[1]
    frozen_cost, frozen_x, frozen_y, frozen_f = jax.tree.map(
        lambda a: lax.stop_gradient(a) if isinstance(a, jax.Array) else a, (cost, x, y, f)
    )
    if isinstance(cost, _SquaredDifference):
        table = frozen_x, quadratic_crossing(frozen_cost.scale.astype(x.dtype), frozen_y)
    else:
        table = jnp.arange(x.shape[0], dtype=x.dtype), convex_crossing(frozen_cost, frozen_x, frozen_y)
    absent = far(f.dtype)
    index = envelope_index(*table, frozen_f, absent / 2)
    chosen = jnp.take_along_axis(f, index, axis=0)
    least = jax.vmap(lambda a, row: jax.vmap(lambda b: cost(a, b))(row))(x, y[index]) + chosen
    # A line without any atom stays out of reach, and so does a place that none of its atoms reaches.
    some = (chosen < absent / 2) & ~(least >= absent / 2)
    if eps is None:
        return jnp.where(some, least, absent)
    mu = lax.stop_gradient(jnp.where(some, least, absent))
    z = line_sums(cost, x, y, f, mu, math.log2(math.e) / eps)
    assert z.shape == (x.shape[0], lines)
    return jnp.where(some, mu - eps * math.log(2) * jnp.log2(jnp.where(some, z, 1)), absent)


def _validated(g: ArrayLike, axes: Sequence[ArrayLike]) -> tuple[Array, list[Array]]:
    values = _checks.floating("g", g)
    places = [_checks.floating(f"axes[{k}]", axis) for k, axis in enumerate(axes)]
    if values.ndim == 0 or values.size == 0:
        raise ValueError(f"g has shape {values.shape}; pass values on a grid, (n_1, ..., n_d) with every n_k >= 1.")
    if len(places) != values.ndim:
        raise ValueError(
            f"axes has {len(places)} arrays for g of shape {values.shape}; pass one array of coordinates for each "
            f"axis of g."
        )
    for k, axis in enumerate(places):
        if axis.shape != (values.shape[k],):
            raise ValueError(
                f"axes[{k}] has shape {axis.shape}, but ({values.shape[k]},) is wanted to match g of shape "
                f"{values.shape}."
            )
        if _checks.is_concrete(axis) and not np.all(np.diff(np.asarray(axis)) > 0):
            raise ValueError(f"axes[{k}] does not increase; sort it, and g along axis {k} with it.")
    _checks.no_nan("g", values)
    if _checks.is_concrete(values) and np.isneginf(np.asarray(values)).any():
        raise ValueError("g contains -inf; only +inf is allowed, and means an absent atom.")
    return values, places


def _axis_costs(cost: Any, d: int) -> list[AxisCost]:
    cost = fastest_form(cost)
    if isinstance(cost, Mahalanobis):
        metric = cost.hamiltonian.metric
        cost.hamiltonian.require_dimension(d)
        if metric is not None and metric.ndim == 2:
            raise ValueError(
                "cost has a full metric, which is not a sum over the axes; pass a diagonal one, "
                "hjax.Mahalanobis(jnp.diag(metric)), or use hjax.softmin on the points of the grid."
            )
        scales = jnp.broadcast_to(cost.scale / (1 if metric is None else metric), (d,))
        return [_SquaredDifference(scales[k]) for k in range(d)]
    if isinstance(cost, LagrangianCost) and d > 1:
        raise ValueError(
            f"cost is that of {type(cost.hamiltonian).__name__} in {d} dimensions, which is not a sum over the axes; "
            f"pass [cost] * {d} for the sum of what it is on each axis, or use hjax.softmin on the points of the grid."
        )
    several: list[Any] = list(cost) if isinstance(cost, Sequence) else [cost] * d
    if len(several) != d:
        raise ValueError(f"cost has {len(several)} entries for a grid of {d} axes; pass one for all axes, or {d}.")
    costs: list[Any] = []
    for one in map(fastest_form, several):
        if isinstance(one, Mahalanobis):
            one = _axis_costs(one, 1)[0]
        if one is None or isinstance(one, SquaredEuclidean):
            costs.append(_SquaredDifference(SquaredEuclidean().scale if one is None else one.scale))
        elif isinstance(one, LagrangianCost):
            costs.append(_Finite(_OnAxis(one)))
        elif callable(one):
            costs.append(_Finite(one))
        else:
            raise ValueError(
                f"cost is {type(one).__name__}; pass hjax.SquaredEuclidean(scale), a diagonal hjax.Mahalanobis, or a "
                f"module (x, y) -> scalar of two coordinates."
            )
    return costs


def _periods(period: Any, places: list[Array], images: int) -> list[Any]:
    d = len(places)
    if period is None:
        return [None] * d
    if images < 1:
        raise ValueError(f"images is {images}; pass at least 1, the neighbouring period on either side.")
    several = list(period) if isinstance(period, Sequence) else [period] * d
    if len(several) != d:
        raise ValueError(f"period has {len(several)} entries for a grid of {d} axes; pass one for all axes, or {d}.")
    for k, (one, axis) in enumerate(zip(several, places, strict=True)):
        if one is None or not (_checks.is_concrete(one) and _checks.is_concrete(axis)):
            continue
        extent = float(axis[-1] - axis[0])
        if not float(one) > extent:
            raise ValueError(
                f"period is {one} on axis {k}, which spans {extent}; pass a period greater than the span (the first "
                f"point comes again one period later, so it is not repeated at the end)."
            )
    return [None if one is None else _checks.positive_scalar("period", one) for one in several]
