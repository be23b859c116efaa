"""The definition: build the matrix of all costs and reduce it. The oracle for everything else.

The matrix has one row an atom, N x M: a sum over rows is one of long vectors, which a CPU does twice as fast.
Derivatives are autodiff's, but for values whose costs are scalar products of few coordinates.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from ._costs import Bilinear, SquaredEuclidean
from ._problem import Problem, cost_at, far, is_moving

_UNROLLED = 16
_FEW_ATOMS, _FEW_COORDINATES = 4, 8
# Up to so many columns a matrix product waits for memory, and its derivative too.
_THIN = 4
_TEMPERATURES = 1000  # exp(-1000) is zero in double precision too


def softmin(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """Value and Gibbs means; O(M N) memory."""
    if _is_few(problem):
        return _softmin_of_few(problem)
    sums = _sums(problem)
    if isinstance(problem.cost, Bilinear) and not problem.causal and problem.x.shape[1] <= _THIN:
        value = problem.base + _value_of_products(*problem[:4], problem.eps)
    else:
        value = _value(problem, sums)
    mean = _product(sums.weights.T, problem.payload) / sums.total[:, None]
    return value, mean


class _Sums(NamedTuple):
    """Least costs `(M,)`, weights relative to them `(N, M)`, and their sums, 1 where nothing is seen."""

    lowest: Float[Array, "M"]
    weights: Float[Array, "N M"]
    total: Float[Array, "M"]


def _sums(problem: Problem) -> _Sums:
    costs = _costs(problem)
    lowest = lax.stop_gradient(jnp.min(costs, axis=0))
    weights = _weights(problem, costs, lowest)
    return _Sums(lowest, weights, jnp.where(_seen(lowest), weights.sum(axis=0), 1))


def _value(problem: Problem, sums: _Sums) -> Float[Array, "M"]:
    value = problem.base + sums.lowest - problem.eps * jnp.log(sums.total)
    return jnp.where(_seen(sums.lowest), value, jnp.inf)


@jax.custom_jvp
def _value_of_products(
    x: Float[Array, "M d"],
    y: Float[Array, "N d"],
    heights: Float[Array, "N"],
    present: Bool[Array, "N"],
    eps: Float[Array, ""],
) -> Float[Array, "M"]:
    """The value where costs are scalar products of few coordinates: what an `LSELayer` differentiates every step."""
    problem = _of_products(x, y, heights, present, eps)
    return _value(problem, _sums(problem))


def _of_products(x: Array, y: Array, heights: Array, present: Array, eps: Array) -> Problem:
    base, payload = jnp.zeros((), x.dtype), jnp.zeros((y.shape[0], 0), y.dtype)
    return Problem(x, y, heights, present, base, eps, Bilinear(), payload, False, None)


@functools.partial(_value_of_products.defjvp, symbolic_zeros=True)
def _value_of_products_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # The change of a value is the Gibbs mean of the changes of the costs, here d + 1 products with the weights as they
    # are: a backward pass only reads them, where autodiff of a matrix of costs first writes another one, of the
    # weights times what comes from behind. With more coordinates the products themselves are what takes time.
    x, y, heights, *_ = primals
    dx, dy, dheights, _, deps = tangents
    problem = _of_products(*primals)
    sums = _sums(problem)
    value = _value(problem, sums)
    change = jnp.zeros_like(value)
    if is_moving(dy) or is_moving(dheights):
        dy, dheights = (t if is_moving(t) else jnp.zeros_like(a) for t, a in ((dy, y), (dheights, heights)))
        dheights = jnp.where(problem.present, dheights, 0)
        along = _product(dy.T, sums.weights)
        change += _product(dheights, sums.weights) - jnp.sum(along * x.T, axis=0)
    if is_moving(dx):
        change -= jnp.sum(_product(sums.weights.T, y) * dx, axis=1)
    if is_moving(deps):
        costs = _costs(problem)
        above = jnp.where(_seen(costs), costs - sums.lowest, 0)
        change -= deps * (sums.total * jnp.log(sums.total) + jnp.sum(sums.weights * above, axis=0) / problem.eps)
    return value, jnp.where(_seen(sums.lowest), change / sums.total, 0)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _is_few(problem: Problem) -> bool:
    _, n, d = problem.shape
    known = isinstance(problem.cost, SquaredEuclidean | Bilinear) and not problem.causal
    return known and n <= _FEW_ATOMS and 0 < n * d <= _FEW_COORDINATES and problem.payload.shape[1] <= _FEW_ATOMS


def _softmin_of_few(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """The same atom by atom: no matrix, so all of it, a gate of a network say, becomes one loop over the queries."""
    assert isinstance(problem.cost, SquaredEuclidean | Bilinear)  # as `_is_few` says
    heights = _heights(problem)
    costs = [_coordinatewise(problem.cost, problem.x, y) + h for y, h in zip(problem.y, heights, strict=True)]
    lowest = lax.stop_gradient(functools.reduce(jnp.minimum, costs))
    weights = [_weights(problem, c, lowest) for c in costs]
    some = _seen(lowest)
    total = jnp.where(some, functools.reduce(jnp.add, weights), 1)
    value = jnp.where(some, problem.base + lowest - problem.eps * jnp.log(total), jnp.inf)
    sums = [
        functools.reduce(jnp.add, [w * v for w, v in zip(weights, channel, strict=True)])
        for channel in problem.payload.T
    ]
    return value, jnp.stack([s / total for s in sums], axis=1) if sums else jnp.zeros((*value.shape, 0), value.dtype)


def _coordinatewise(
    cost: SquaredEuclidean | Bilinear, x: Float[Array, "M d"], y: Float[Array, "*N d"]
) -> Float[Array, "*N M"]:
    """Costs of one atom or of several, as sums over coordinates of long vectors."""
    pairs = [(x[:, k], y[..., k, None]) for k in range(x.shape[1])]
    if isinstance(cost, SquaredEuclidean):
        return cost.scale.astype(x.dtype) * functools.reduce(jnp.add, [(a - b) ** 2 for a, b in pairs])
    return -functools.reduce(jnp.add, [a * b for a, b in pairs])


def argmin(problem: Problem) -> Int[Array, "M"]:
    """The first index of the least cost."""
    costs = _costs(problem)
    # Where none is seen, all are alike: the first.
    return jnp.argmin(jnp.where(_seen(costs), costs, far(costs.dtype)), axis=0).astype(jnp.int32)


def spread(problem: Problem, index: Int[Array, "M"]) -> tuple[Float[Array, "M"], Float[Array, "M"]]:
    """Mass and energy of all atoms but `index`, relative to it: the entropy's two ingredients."""
    costs = _costs(problem)
    seen = _seen(costs)
    others = seen & (jnp.arange(costs.shape[0])[:, None] != index)
    least = jnp.where(seen.any(axis=0), cost_at(problem, index), 0)
    excess = jnp.where(others, costs - least, 0) / problem.eps
    weights = jnp.where(others, jnp.exp(-excess), 0)
    return weights.sum(axis=0), (weights * excess).sum(axis=0)


def weights(problem: Problem) -> Float[Array, "M N"]:
    """The Gibbs weights themselves: rows sum to one, or are zero where every atom is absent."""
    costs = _costs(problem)
    lowest = lax.stop_gradient(jnp.min(costs, axis=0))
    unnormalised = _weights(problem, costs, lowest)
    return (unnormalised / jnp.where(_seen(lowest), unnormalised.sum(axis=0), 1)).T


def _weights(problem: Problem, costs: Float[Array, "*N M"], lowest: Float[Array, "M"]) -> Float[Array, "*N M"]:
    # What is not seen is so many temperatures away that its weight is zero, but no more: times a weight or over a
    # small eps that is still a number, for derivatives of every order.
    out_of_sight = _TEMPERATURES * lax.stop_gradient(problem.eps)
    return jnp.exp(jnp.where(_seen(costs), costs - lowest, out_of_sight) * (-1 / problem.eps))


def _costs(problem: Problem) -> Float[Array, "N M"]:
    """Costs with the heights, far for atoms that are absent, out of reach, or later than a causal query."""
    costs = _pairs(problem.cost, problem.x, problem.y)
    if not isinstance(problem.cost, SquaredEuclidean | Bilinear):
        costs = jnp.where(costs == jnp.inf, far(costs.dtype), costs)
    costs = costs + _heights(problem)[:, None]
    return jnp.where(jnp.triu(jnp.ones(costs.shape, bool)), costs, far(costs.dtype)) if problem.causal else costs


def _heights(problem: Problem) -> Float[Array, "N"]:
    return jnp.where(problem.present, problem.heights, far(problem.heights.dtype))


def _seen(costs: Float[Array, "..."]) -> Bool[Array, "..."]:
    return ~(costs >= far(costs.dtype) / 2)  # NaN is not nothing: it must show


def _pairs(
    cost: Callable[[Array, Array], Array], x: Float[Array, "M d"], y: Float[Array, "N d"]
) -> Float[Array, "N M"]:
    if isinstance(cost, SquaredEuclidean) and 0 < x.shape[1] <= _UNROLLED:
        # Two to five times as fast as pair by pair.
        return _coordinatewise(cost, x, y)
    if isinstance(cost, Bilinear):
        # One product, said as such: of two nested `vmap`s of a dot a CPU makes one of half the speed.
        return _product(-y, x.T)
    return jax.vmap(lambda y: jax.vmap(lambda x: cost(x, y))(x))(y)
