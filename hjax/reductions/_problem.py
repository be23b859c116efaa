"""One Gibbs reduction, stated: what every implementation is handed after validation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int


class Problem(NamedTuple):
    """`-eps log sum_j exp(-(c(x_i, y_j) + g_j)/eps)` for M queries and N atoms, and its Gibbs means.

    Absent atoms (`g_j = +inf`) are already harmless: they stand at the first present atom, with height
    and payload zero, and `present` is False. `base` is the smallest value, taken out so that a common
    offset of g costs no digits: the value of the reduction is `base` plus that with `heights`.
    """

    x: Float[Array, "M d"]
    y: Float[Array, "N d"]
    heights: Float[Array, "N"]
    present: Bool[Array, "N"]
    base: Float[Array, ""]
    eps: Float[Array, ""]
    cost: Callable[[Array, Array], Array]
    payload: Float[Array, "N p"]
    causal: bool
    tolerance: float | None  # absolute error in the value that may be made, None for that of rounding

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, N, d)."""
        return self.x.shape[0], self.y.shape[0], self.y.shape[1]


def state(
    x: Array,
    y: Array,
    g: Array,
    *,
    eps: Array,
    cost: Callable[[Array, Array], Array],
    payload: Array | None,
    causal: bool,
    tolerance: float | None,
) -> Problem:
    """Set absent atoms aside and take the smallest value out."""
    y, heights, present, base, payloads = _aside(y, g, payload)
    return Problem(x, y, heights, present, base, eps, cost, payloads, causal, tolerance)


@jax.jit  # One program, where a call outside of `jit` would compile and start a dozen.
def _aside(y: Array, g: Array, payload: Array | None) -> tuple[Array, Array, Array, Array, Array]:
    present = g != jnp.inf
    column = present[:, None]
    smallest = lax.stop_gradient(jnp.min(g))
    base = jnp.where(smallest == jnp.inf, 0, smallest)
    return (
        jnp.where(column, y, lax.stop_gradient(y[jnp.argmax(present)])),
        # Twice `where`: the inner one keeps inf - inf out of the derivative.
        jnp.where(present, jnp.where(present, g, base) - base, 0),
        present,
        base,
        jnp.zeros((y.shape[0], 0), y.dtype) if payload is None else jnp.where(column, payload, 0),
    )


def far(dtype: np.dtype) -> float:
    """A cost that no real cost reaches, finite so that differences of it are not NaN."""
    return float(jnp.finfo(dtype).max) ** 0.8


def is_moving(tangent: Any) -> bool:
    """Whether a tangent that a `custom_jvp` rule is given is not a zero that JAX knows of."""
    return not isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def cost_at(problem: Problem, index: Int[Array, "M"]) -> Float[Array, "M"]:
    """c(x_i, y_k) + heights_k at k = index_i: by differences, differentiable, O(M d); +inf, constant, out of reach."""
    chosen = jnp.take(problem.y, index, axis=0)
    costs = jax.vmap(problem.cost)(problem.x, chosen)
    return jnp.where(costs == jnp.inf, jnp.inf, costs + jnp.take(problem.heights, index))
