"""The hard-min along one axis of a grid: which atom is least, for all lines of the grid side by side.

    index_i = argmin_j c(x_i, y_j) + f_j,        c(x, y) = L(x - y) with L convex

Two curves `c(., y_v) + f_v` and `c(., y_q) + f_q` with y_v < y_q cross once: left of it v is lower, right of
it q. So the lower envelope is a stack of atoms with the places where each takes over. Atoms come from
left to right; a new one pops those that it overtakes before they have taken over themselves. Each atom is
pushed once and popped at most once, and every line either pops or goes on to its next atom in every
step, so 2 m steps do for all lines at once (P. Felzenszwalb and D. Huttenlocher, 2012, for parabolas).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from ._problem import far

Crossing = Callable[[Array, Array, Array, Array], Array]


def envelope_index(
    places: Float[Array, "n"], crossing: Crossing, f: Float[Array, "m L"], absent: float
) -> Int[Array, "n L"]:
    """The least atom of each row. `f >= absent` marks atoms that are not there.

    `places` are increasing numbers, one a row; `crossing(v, f_v, q, f_q)` is the place from which on atom q is
    lower than atom v < q, in the same numbers.
    """
    m, lines = f.shape
    line = jnp.arange(lines, dtype=jnp.int32)
    low, high = -jnp.inf, jnp.inf

    # The top of the stack is held apart: atom, its f, and the place where it takes over.
    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        turn, q, size, atom, height, since, atoms, sinces = state
        here = jnp.minimum(q, m - 1)
        f_q = f[here, line]
        alive = q < m
        missing = f_q >= absent
        place = jnp.where(size > 0, crossing(atom, height, here, f_q), low)
        pops = alive & ~missing & (size > 0) & (place <= since)
        pushes = alive & ~missing & ~pops
        below = jnp.maximum(size - 2, 0)
        # A push writes the old top down; a pop reads it back.
        atoms = atoms.at[jnp.where(pushes, size - 1, m), line].set(atom, mode="drop")
        sinces = sinces.at[jnp.where(pushes, size - 1, m), line].set(since, mode="drop")
        lower, lower_since = atoms[below, line], sinces[below, line]
        atom = jnp.where(pushes, here, jnp.where(pops, lower, atom))
        since = jnp.where(pushes, place, jnp.where(pops, lower_since, since))
        height = jnp.where(pushes, f_q, jnp.where(pops, f[lower, line], height))
        size = size + pushes.astype(jnp.int32) - pops.astype(jnp.int32)
        return turn + 1, q + (alive & ~pops).astype(jnp.int32), size, atom, height, since, atoms, sinces

    zero = jnp.zeros(lines, jnp.int32)
    start = (
        jnp.int32(0),
        zero,
        zero,
        zero,
        jnp.zeros(lines, f.dtype),
        jnp.full(lines, low, f.dtype),
        jnp.zeros((m, lines), jnp.int32),
        jnp.full((m, lines), high, f.dtype),
    )
    _, _, size, atom, _, since, atoms, sinces = lax.while_loop(lambda state: jnp.any(state[1] < m), step, start)
    top = jnp.maximum(size - 1, 0)
    atoms, sinces = atoms.at[top, line].set(atom), sinces.at[top, line].set(since)

    # Rows from left to right: each line goes on to its next row, or to the next atom of its envelope.
    n = places.shape[0]

    def walk(state: tuple[Array, ...]) -> tuple[Array, ...]:
        row, k, index = state
        here = jnp.minimum(row, n - 1)
        after = jnp.minimum(k + 1, m - 1)
        moves = (row < n) & (k + 1 < size) & (sinces[after, line] < places[here])
        stays = (row < n) & ~moves
        index = index.at[jnp.where(stays, row, n), line].set(atoms[k, line], mode="drop")
        return row + stays.astype(jnp.int32), k + moves.astype(jnp.int32), index

    walked = lax.while_loop(lambda state: jnp.any(state[0] < n), walk, (zero, zero, jnp.zeros((n, lines), jnp.int32)))
    return walked[2]


def quadratic_crossing(scale: Array, y: Float[Array, "m"]) -> Crossing:
    """Where `scale (x - y_q)^2 + f_q` falls below `scale (x - y_v)^2 + f_v`: a place x."""

    def crossing(v: Array, f_v: Array, q: Array, f_q: Array) -> Array:
        left, right = y[v], y[q]
        width = jnp.where(right > left, right - left, 1)
        return (left + right) / 2 + (f_q - f_v) / (2 * scale * width)

    return crossing


def convex_crossing(cost: Callable[[Array, Array], Array], x: Float[Array, "n"], y: Float[Array, "m"]) -> Crossing:
    """The first row (minus a half) from which atom q is lower, by bisection; places are the row numbers.

    Where both are out of reach, at a cost of `far`, the nearer one counts as lower: the limit of ever steeper walls.
    """
    n = x.shape[0]
    pairwise = jax.vmap(cost)

    def crossing(v: Array, f_v: Array, q: Array, f_q: Array) -> Array:
        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends  # q is not lower at any row < low, and is at all rows >= high
            middle = (low + high) // 2
            at = x[jnp.minimum(middle, n - 1)]
            c_q, c_v = pairwise(at, y[q]), pairwise(at, y[v])
            neither = jnp.minimum(c_q, c_v) >= far(c_q.dtype)
            lower = jnp.where(neither, at - y[v] > y[q] - at, c_q + f_q < c_v + f_v)
            open_ = low < high
            return jnp.where(open_ & ~lower, middle + 1, low), jnp.where(open_ & lower, middle, high)

        start = jnp.zeros_like(v), jnp.full_like(v, n)
        low, _ = lax.fori_loop(0, n.bit_length(), halve, start)
        return low.astype(f_v.dtype) - 0.5

    return crossing
