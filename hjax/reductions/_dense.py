"""The definition: build the matrix of all costs and reduce it. The oracle for everything else.

The matrix has one row an atom, N x M: a sum over rows is one of long vectors, which a CPU does twice as fast.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from ._costs import Bilinear, SquaredEuclidean
from ._problem import Problem, cost_at, far

_UNROLLED = 16
_FEW_ATOMS, _FEW_COORDINATES = 4, 8


def softmin(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """Value and Gibbs means; O(M N) memory."""
    if _is_few(problem):
        return _softmin_of_few(problem)
    costs, seen = _costs(problem)
    some = seen.any(axis=0)
    lowest = lax.stop_gradient(jnp.min(costs, axis=0))
    weights = _weights(problem, costs, seen, lowest)
    total = jnp.where(some, weights.sum(axis=0), 1)
    value = problem.base + lowest - problem.eps * jnp.log(total)
    mean = jnp.matmul(weights.T, problem.payload, precision="highest") / total[:, None]
    return jnp.where(some, value, jnp.inf), mean


def _is_few(problem: Problem) -> bool:
    _, n, d = problem.shape
    known = isinstance(problem.cost, SquaredEuclidean | Bilinear) and not problem.causal
    return known and n <= _FEW_ATOMS and 0 < n * d <= _FEW_COORDINATES and problem.payload.shape[1] <= _FEW_ATOMS


def _softmin_of_few(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """The same atom by atom: no matrix, so all of it, a gate of a network say, becomes one loop over the queries."""
    assert isinstance(problem.cost, SquaredEuclidean | Bilinear)  # as `_is_few` says
    costs = [_coordinatewise(problem.cost, problem.x, y) + h for y, h in zip(problem.y, problem.heights, strict=True)]
    seen = [present & (c != jnp.inf) for present, c in zip(problem.present, costs, strict=True)]
    costs = [jnp.where(s, c, far(c.dtype)) for s, c in zip(seen, costs, strict=True)]
    lowest = lax.stop_gradient(functools.reduce(jnp.minimum, costs))
    weights = [_weights(problem, c, s, lowest) for c, s in zip(costs, seen, strict=True)]
    some = functools.reduce(jnp.logical_or, seen)
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
    return jnp.argmin(_costs(problem)[0], axis=0).astype(jnp.int32)


def spread(problem: Problem, index: Int[Array, "M"]) -> tuple[Float[Array, "M"], Float[Array, "M"]]:
    """Mass and energy of all atoms but `index`, relative to it: the entropy's two ingredients."""
    costs, seen = _costs(problem)
    others = seen & (jnp.arange(costs.shape[0])[:, None] != index)
    least = jnp.where(seen.any(axis=0), cost_at(problem, index), 0)
    excess = jnp.where(others, costs - least, 0) / problem.eps
    weights = jnp.where(others, jnp.exp(-excess), 0)
    return weights.sum(axis=0), (weights * excess).sum(axis=0)


def weights(problem: Problem) -> Float[Array, "M N"]:
    """The Gibbs weights themselves: rows sum to one, or are zero where every atom is absent."""
    costs, seen = _costs(problem)
    unnormalised = _weights(problem, costs, seen, lax.stop_gradient(jnp.min(costs, axis=0)))
    return (unnormalised / jnp.where(seen.any(axis=0), unnormalised.sum(axis=0), 1)).T


def _weights(
    problem: Problem, costs: Float[Array, "*N M"], seen: Bool[Array, "*N M"], lowest: Float[Array, "M"]
) -> Float[Array, "*N M"]:
    # Twice `where`: what is not seen has a number for a cost that, over a small eps, is no factor for a derivative.
    return jnp.where(seen, jnp.exp(jnp.where(seen, costs - lowest, 0) * (-1 / problem.eps)), 0)


def _costs(problem: Problem) -> tuple[Float[Array, "N M"], Bool[Array, "N M"]]:
    """Costs, and which atoms are seen: those that are present, in reach, and not later than a causal query."""
    costs = _pairs(problem.cost, problem.x, problem.y)
    seen = problem.present[:, None] & (costs != jnp.inf)
    if problem.causal:
        seen = seen & jnp.triu(jnp.ones(costs.shape, bool))
    return jnp.where(seen, costs + problem.heights[:, None], far(costs.dtype)), seen


def _pairs(
    cost: Callable[[Array, Array], Array], x: Float[Array, "M d"], y: Float[Array, "N d"]
) -> Float[Array, "N M"]:
    if isinstance(cost, SquaredEuclidean) and 0 < x.shape[1] <= _UNROLLED:
        # Two to five times as fast as pair by pair.
        return _coordinatewise(cost, x, y)
    if isinstance(cost, Bilinear):
        # One product, said as such: of two nested `vmap`s of a dot a CPU makes one of half the speed.
        return -jnp.matmul(y, x.T, precision="highest")
    return jax.vmap(lambda y: jax.vmap(lambda x: cost(x, y))(x))(y)
