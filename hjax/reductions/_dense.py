"""The definition: build the M x N matrix of costs and reduce it. The oracle for everything else."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from ._problem import Problem, cost_at, far


def softmin(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """Value and Gibbs means; O(M N) memory."""
    costs, seen = _costs(problem)
    some = seen.any(axis=1)
    lowest = lax.stop_gradient(jnp.min(costs, axis=1))
    weights = _weights(problem, costs, seen, lowest[:, None])
    total = jnp.where(some, weights.sum(axis=1), 1)
    value = problem.base + lowest - problem.eps * jnp.log(total)
    mean = jnp.matmul(weights, problem.payload, precision="highest") / total[:, None]
    return jnp.where(some, value, jnp.inf), mean


def argmin(problem: Problem) -> Int[Array, "M"]:
    """The first index of the least cost."""
    return jnp.argmin(_costs(problem)[0], axis=1).astype(jnp.int32)


def spread(problem: Problem, index: Int[Array, "M"]) -> tuple[Float[Array, "M"], Float[Array, "M"]]:
    """Mass and energy of all atoms but `index`, relative to it: the entropy's two ingredients."""
    costs, seen = _costs(problem)
    others = seen & (jnp.arange(costs.shape[1]) != index[:, None])
    least = jnp.where(seen.any(axis=1), cost_at(problem, index), 0)
    excess = jnp.where(others, costs - least[:, None], 0) / problem.eps
    weights = jnp.where(others, jnp.exp(-excess), 0)
    return weights.sum(axis=1), (weights * excess).sum(axis=1)


def weights(problem: Problem) -> Float[Array, "M N"]:
    """The Gibbs weights themselves: rows sum to one, or are zero where every atom is absent."""
    costs, seen = _costs(problem)
    lowest = lax.stop_gradient(jnp.min(costs, axis=1, keepdims=True))
    unnormalised = _weights(problem, costs, seen, lowest)
    return unnormalised / jnp.where(seen.any(axis=1), unnormalised.sum(axis=1), 1)[:, None]


def _weights(
    problem: Problem, costs: Float[Array, "M N"], seen: Bool[Array, "M N"], lowest: Float[Array, "M 1"]
) -> Float[Array, "M N"]:
    # Twice `where`: what is not seen has a number for a cost that, over a small eps, is no factor for a derivative.
    return jnp.where(seen, jnp.exp(-jnp.where(seen, costs - lowest, 0) / problem.eps), 0)


def _costs(problem: Problem) -> tuple[Float[Array, "M N"], Bool[Array, "M N"]]:
    """Costs, and which atoms are seen: those that are present, in reach, and not later than a causal query."""
    costs = jax.vmap(lambda x: jax.vmap(lambda y: problem.cost(x, y))(problem.y))(problem.x)
    seen = problem.present & (costs != jnp.inf)
    if problem.causal:
        seen = seen & jnp.tril(jnp.ones(costs.shape, bool))
    return jnp.where(seen, costs + problem.heights, far(costs.dtype)), seen
