"""Attention of one head as one reduction: Gibbs means of values, or the hard selection in the limit eps -> 0.

A query q is the point where a solution is read, a key k_j an atom, its initial value g_j, and the output the
Gibbs mean of the values v_j: the derivative of `u(q; g + s v)` in s. What depends on the pair (position i of the
query, position j of the key) makes g a g_ij, a new initial datum for every query. It enters as a cost of the
pair: positions travel as one more coordinate of queries and keys, so that no T x T array has to be built.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..reductions import Cost, hardmin, softmin


class AttentionState(NamedTuple):
    """What attention knows of a set of keys for given queries: `output (..., p)` and `log_partition (...,)`, log Z.

    States of the *same queries* over disjoint sets of keys merge to the state over all keys, in any order and
    grouping: `lax.associative_scan(AttentionState.merge, states)` works. For another query a state is of no use
    (theory H.11), which is why decoding caches keys and values, see `KVCache`.
    """

    output: Float[Array, "*batch p"]
    log_partition: Float[Array, "*batch"]

    def merge(self, other: "AttentionState") -> "AttentionState":
        """The state over both sets of keys: `Z = Z_1 + Z_2`, `o = (Z_1 o_1 + Z_2 o_2)/Z`.

        **Raises:** `ValueError` for states of different shapes. **Error:** a few ulp, whatever the sizes of log Z.

        **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition H.11 (for a fixed query).
        """
        if self.output.shape != other.output.shape or self.log_partition.shape != other.log_partition.shape:
            raise ValueError(
                f"the states have outputs {self.output.shape} and {other.output.shape}; only states of the same "
                f"queries merge, with outputs of one shape."
            )
        # Two atoms at one place with the heights -log Z: their soft-min at temperature one is -log(Z_1 + Z_2).
        here = jnp.zeros((2, 1), self.log_partition.dtype)

        def one(outputs: Array, heights: Array) -> tuple[Array, Array]:
            found = softmin(here[0], here, heights, eps=1.0, payload=outputs)
            return _mean_of(found.mean), -found.value

        outputs = jnp.stack([self.output, other.output], axis=-2)
        heights = -jnp.stack([self.log_partition, other.log_partition], axis=-1)
        flat = jax.vmap(one)(outputs.reshape(-1, *outputs.shape[-2:]), heights.reshape(-1, 2))
        return AttentionState(flat[0].reshape(self.output.shape), flat[1].reshape(self.log_partition.shape))

    @classmethod
    def empty(cls, like: "AttentionState") -> "AttentionState":
        """The state over no keys, which changes nothing it is merged with: output 0 and log Z = -inf."""
        return cls(jnp.zeros_like(like.output), jnp.full_like(like.log_partition, -jnp.inf))


class PairCost(Cost):
    """`cost(q, k) + slope |i - j| - shift[i, j]`, and +inf for j > i if causal; i and j are the last coordinates."""

    cost: Cost
    slope: Array | None
    shift: Array | None
    causal: bool = eqx.field(static=True)

    def __call__(self, x: Float[Array, "d"], y: Float[Array, "d"]) -> Float[Array, ""]:
        """The cost of a pair of points with positions."""
        cost, i, j = self.cost(x[:-1], y[:-1]), x[-1], y[-1]
        if self.slope is not None:
            cost = cost + self.slope.astype(x.dtype) * jnp.abs(i - j)
        if self.shift is not None:
            cost = cost - self.shift.astype(x.dtype)[i.astype(int), j.astype(int)]
        return jnp.where(j > i, jnp.inf, cost) if self.causal else cost


def attend(
    query: Float[Array, "M d"],
    key: Float[Array, "N d"],
    value: Float[Array, "N p"],
    g: Float[Array, "N"] | None = None,
    *,
    eps: Array | None,
    cost: Cost,
    slope: Array | None = None,
    shift: Float[Array, "M N"] | None = None,
    causal: bool = False,
    implementation: str | None = None,
) -> tuple[Float[Array, "M p"], Float[Array, "M"]]:
    """Outputs and soft-min values u of one head; with eps None the values at the hard minima, and those.

    A query that sees no key has output 0 and u = +inf.
    """
    dtype = jnp.result_type(query, key, value)
    g = jnp.zeros(key.shape[:1]) if g is None else g
    g = g.astype(jnp.promote_types(dtype, jnp.float32))
    # Positions are exact numbers in single precision, not in half.
    if slope is not None or shift is not None or (causal and eps is None):
        cost = PairCost(cost, slope, shift, causal and eps is None)
        query, key = with_positions(query), with_positions(key)
    if eps is None:
        found = hardmin(query, key, g, cost=cost, implementation=implementation)
        chosen = jnp.take(value, found.index, axis=0)
        return jnp.where(jnp.isinf(found.value)[:, None], 0, chosen).astype(dtype), found.value.astype(dtype)
    given = {"cost": cost, "payload": value, "causal": causal, "implementation": implementation}
    soft = softmin(query, key, g, eps=eps, **given)
    return _mean_of(soft.mean).astype(dtype), soft.value.astype(dtype)


def with_positions(points: Float[Array, "N d"]) -> Float[Array, "N d1"]:
    """Each point with its row number as a last coordinate, in single precision at least."""
    wide = points.astype(jnp.promote_types(points.dtype, jnp.float32))
    return jnp.concatenate([wide, jnp.arange(len(wide), dtype=wide.dtype)[:, None]], axis=1)


def temperature(eps: ArrayLike) -> Array | None:
    """Eps as an array, or None for the hard limit 0."""
    array = _checks.floating("eps", eps, integers=True)
    if _checks.is_concrete(array) and array.shape == () and float(array) == 0:
        return None
    return _checks.positive_scalar("eps", eps)


def sequence(name: str, value: ArrayLike, size: int | None = None) -> Array:
    """A sequence `(T, size)` of floating numbers, T >= 1, or a `ValueError` that names it."""
    array = _checks.floating(name, value)
    if array.ndim != 2 or 0 in array.shape or (size is not None and array.shape[1] != size):
        wanted = "size" if size is None else size
        raise ValueError(
            f"{name} has shape {array.shape}, but one sequence of shape (T, {wanted}) is wanted; "
            f"for a batch of them use jax.vmap over {name}."
        )
    return array


def same_length(first: tuple[str, Array], second: tuple[str, Array]) -> None:
    """Raise `ValueError` unless both sequences have as many rows."""
    (name, a), (other, b) = first, second
    if len(a) != len(b):
        raise ValueError(f"{name} has {len(a)} rows and {other} has {len(b)}; pass one {name} row per row of {other}.")


def _mean_of(mean: Array | None) -> Array:
    assert mean is not None  # a payload was passed
    return mean
