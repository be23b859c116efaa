"""What is known of keys and of pairs before they are compared: masks, shifts and slopes as initial values g."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .. import _checks


class InitialValues(NamedTuple):
    """`g_ij = keys_j - pairs_ij + slopes |i - j|`, each per head (h = H) or for all (h = 1), or None for nothing."""

    keys: Float[Array, "h N"] | None
    pairs: Float[Array, "h M N"] | None
    slopes: Float[Array, "H"] | None

    @property
    def axes(self) -> list[int | None]:
        """For `jax.vmap` over heads: which of the three have an axis of heads."""
        return [None if a is None or len(a) == 1 else 0 for a in self]

    def shared(self) -> "InitialValues":
        """The same, without the axis of what is the same for all heads."""
        return InitialValues(*(a[0] if a is not None and len(a) == 1 else a for a in self))

    def row(self, head: int, position: int | None, n: int, causal: bool) -> Float[Array, "N"]:
        """The initial values `(N,)` of one query of one head, +inf for keys that it does not see.

        **Raises:** `ValueError` for no position where the values depend on it, or one that does not exist.
        """
        keys, pairs, slopes = (None if a is None else a[head % len(a)] for a in self)
        g = jnp.zeros(n) if keys is None else keys
        if pairs is None and slopes is None and not causal:
            return g
        if position is None:
            raise ValueError("here every query has initial values of its own; pass position=i for the query in row i.")
        rows = n if pairs is None else len(pairs)
        if not 0 <= position < rows:
            raise ValueError(f"position is {position}; pass a row from 0 to {rows - 1}.")
        index = jnp.arange(n)
        g = g if pairs is None else g - pairs[position]
        g = g if slopes is None else g + slopes * jnp.abs(index - position)
        return jnp.where(index > position, jnp.inf, g) if causal else g


def initial_values(
    mask: Any, shift: Any, slopes: np.ndarray | None, num_heads: int, rows: int | None, n: int
) -> InitialValues:
    """Validate a mask and a shift of `rows` queries (None for any number) and n keys, and put them together."""
    given: dict[str, Array] = {}
    if mask is not None:
        allowed = jnp.asarray(mask)
        if allowed.dtype != bool:
            raise ValueError(
                f"mask has dtype {allowed.dtype}, but True or False is wanted; for numbers added to q.k pass shift=."
            )
        given["mask"] = jnp.where(allowed, 0.0, -jnp.inf)
    if shift is not None:
        given["shift"] = _checks.floating("shift", shift)
        _checks.no_nan("shift", given["shift"])
        if _checks.is_concrete(shift) and np.isposinf(np.asarray(shift)).any():
            raise ValueError("shift contains +inf; only -inf is allowed, and forbids a pair.")
    keys = pairs = None
    for name, array in given.items():
        full = array.reshape((1,) * (3 - array.ndim) + array.shape) if 0 < array.ndim < 3 else array
        if full.ndim != 3 or len(full) not in (1, num_heads) or full.shape[2] != n or not _fits(full.shape[1], rows):
            wanted = "T_q" if rows is None else rows
            raise ValueError(
                f"{name} has shape {array.shape}; pass ({n},) for keys, ({wanted}, {n}) for pairs, or "
                f"({num_heads}, {wanted}, {n}) for pairs in each head."
            )
        if full.shape[1] == 1:
            keys = -full[:, 0] if keys is None else keys - full[:, 0]
        else:
            pairs = full if pairs is None else pairs + full
    return InitialValues(keys, pairs, None if slopes is None else jnp.asarray(slopes, float))


def _fits(rows: int, wanted: int | None) -> bool:
    return rows == 1 or wanted is None or rows == wanted
