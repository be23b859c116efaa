"""`jax.vmap` over single queries is one call with many of them.

Networks take one sample and are batched by `jax.vmap`. Left to itself that makes M problems of one query each:
sums run along the shortest axis, no tile is ever full, and nobody knows how many queries there are when an
implementation is chosen. So where the innermost transformation is a `vmap` that only queries feel, its axis becomes
part of the queries' own; one that the atoms feel (an ensemble, the outputs of a layer) is left as it is, and the next
one outwards looked at. All this happens while JAX traces; what it then differentiates or compiles is an ordinary call.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from ._costs import Bilinear, Mahalanobis, SquaredEuclidean
from ._problem import Problem

# Of others nobody knows whether they hold values of the surrounding transformation.
_OWN_COSTS = (SquaredEuclidean, Mahalanobis, Bilinear)
# A function of queries (*members, M, d) and of whatever else there is, to arrays (*members, M, ...).
Reduction = Callable[[Array, Any], Any]


def together(function: Callable[[Problem], Any], problem: Problem) -> Any:
    """`function(problem)`, whose results have M rows, for all queries of the surrounding `vmap`s at once."""
    if problem.causal or type(problem.cost) not in _OWN_COSTS:
        return function(problem)
    rest, static = eqx.partition(problem._replace(x=jnp.zeros(0)), eqx.is_array)

    def reduce(x: Array, rest: Any) -> Any:
        return function(eqx.combine(rest, static)._replace(x=x))

    return _reduced(reduce, problem.x, rest, 0, 0)


def _reduced(reduce: Reduction, x: Array, rest: Any, of_x: int, of_all: int) -> Any:
    """`reduce(x, rest)`; `of_x` axes of members stand in front of the queries in x, `of_all` in the results."""
    if not _is_vmapped(x, rest):
        return reduce(x, rest)
    call = custom_vmap(reduce)

    @call.def_vmap
    def batched(size: int, which: Any, x: Array, rest: Any) -> tuple[Any, Any]:
        x_too, others = which
        if x_too and not any(jax.tree.leaves(others)):
            every = jnp.moveaxis(x, 0, of_x)
            lead, m, d = every.shape[:of_x], every.shape[-2], every.shape[-1]
            found = _reduced(reduce, every.reshape(*lead, size * m, d), rest, of_x, of_all)
            found = _apart(found, of_all, (size, m))
        else:
            axes = 0 if x_too else None, jax.tree.map(lambda b: 0 if b else None, others)
            found = _reduced(jax.vmap(reduce, in_axes=axes), x, rest, of_x + x_too, of_all + 1)
        return found, jax.tree.map(lambda _: True, found)

    return call(x, rest)


def _is_vmapped(x: Array, rest: Any) -> bool:
    """Whether x is a batch of some `vmap`, and the innermost transformation of all arguments a `vmap` too.

    `custom_vmap` has no derivatives in reverse: it must only be called where it is resolved on the spot. JAX shows
    the innermost transformation in the type of what an operation returns, but exports no class to compare it with.
    """
    if type(x).__name__ != "BatchTracer":
        return False
    numbers = [a for a in jax.tree.leaves((x, rest)) if jnp.issubdtype(a.dtype, jnp.floating)]
    return type(_of_all(numbers)).__name__ == "BatchTracer"


@functools.partial(jax.jit, static_argnums=(1, 2))
def _apart(found: Any, axis: int, sizes: tuple[int, int]) -> Any:
    """The axis of all queries as two, of which the first goes to the front."""

    def apart(a: Array) -> Array:
        return jnp.moveaxis(a.reshape(*a.shape[:axis], *sizes, *a.shape[axis + 1 :]), axis, 0)

    return jax.tree.map(apart, found)


@jax.jit  # One operation instead of three for each.
def _of_all(numbers: list[Array]) -> Array:
    return sum((a.reshape(-1)[:0].sum() for a in numbers), jnp.zeros(()))
