"""Which tiles of atoms can matter to which blocks of queries, decided from bounding boxes at run time.

Atoms stand in tiles, tiles in stacks. A block of queries looks at the boxes of all stacks, then at the
tiles of those stacks that may matter: a lower bound on every cost between the two boxes is compared with
the block's limit. The bounds hold in spite of rounding, so a tile that is left out provably does not matter.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

STACK = 64
# Coordinates up to which a bound is a loop over them, without an array of pairs of boxes by coordinates.
_UNROLLED = 8


class Boxes(NamedTuple):
    """Bounding boxes, and the least height of the atoms inside (zero for queries, +inf for none)."""

    low: Float[Array, "*k d"]
    high: Float[Array, "*k d"]
    height: Float[Array, "*k"]


class Selection(NamedTuple):
    """Blocks of queries with their limits, and the two levels of atoms."""

    blocks: Boxes
    limit: Float[Array, "b"]
    tiles: Boxes
    stacks: Boxes
    counts: Int[Array, "b"]  # tiles that each block will look at
    order: Int[Array, "b"]  # of blocks, by these counts


def boxes(
    points: Float[Array, "k n d"], heights: Float[Array, "k n"] | None = None, present: Bool[Array, "k n"] | None = None
) -> Boxes:
    """The box around each row of points that are present."""
    if present is None:
        low, high = jnp.min(points, axis=1), jnp.max(points, axis=1)
    else:
        low = jnp.min(jnp.where(present[..., None], points, jnp.inf), axis=1)
        high = jnp.max(jnp.where(present[..., None], points, -jnp.inf), axis=1)
    if heights is None or present is None:
        return Boxes(low, high, jnp.zeros_like(low[:, 0]))
    return _without_empty(Boxes(low, high, jnp.min(jnp.where(present, heights, jnp.inf), axis=1)))


def stacked(tiles: Boxes) -> tuple[Boxes, Boxes]:
    """Tiles filled up with empty ones to whole stacks, and the boxes of the stacks."""
    count = tiles.height.shape[0]
    fill = -count % STACK
    low, high = (jnp.pad(a, [(0, fill), (0, 0)]) for a in (tiles.low, tiles.high))
    height = jnp.pad(tiles.height, (0, fill), constant_values=jnp.inf)
    filled = Boxes(low, high, height)
    rows = jax.tree.map(lambda a: a.reshape(-1, STACK, *a.shape[1:]), filled)
    empty = jnp.isinf(rows.height)[..., None]
    stacks = Boxes(
        jnp.min(jnp.where(empty, jnp.inf, rows.low), axis=1),
        jnp.max(jnp.where(empty, -jnp.inf, rows.high), axis=1),
        jnp.min(rows.height, axis=1),
    )
    return filled, _without_empty(stacks)


def _without_empty(given: Boxes) -> Boxes:
    # An empty box is a point with a height that no limit reaches: its bounds are +inf, never NaN.
    empty = jnp.isinf(given.height)[:, None]
    return given._replace(low=jnp.where(empty, 0, given.low), high=jnp.where(empty, 0, given.high))


def lower_bound(squared: bool, queries: Boxes, atoms: Boxes) -> Float[Array, "..."]:
    """A number no larger than any `|x - y|^2 + h`, or `h - x.y`, with x and y in these boxes."""

    def one(lowest: Array, highest: Array, low: Array, high: Array) -> tuple[Array, Array]:
        if squared:
            gap = jnp.maximum(jnp.maximum(low - highest, lowest - high), 0)
            return gap * gap, gap * gap
        products = lowest * low, lowest * high, highest * low, highest * high
        sizes = [jnp.abs(product) for product in products]
        return -functools.reduce(jnp.maximum, products), functools.reduce(jnp.maximum, sizes)

    bound, size = _over_coordinates(one, queries.low, queries.high, atoms.low, atoms.high)
    return bound + atoms.height - _rounding(atoms) * (size + jnp.abs(atoms.height))


def upper_bound(
    squared: bool, queries: Boxes, points: Float[Array, "... d"], heights: Float[Array, "..."]
) -> Float[Array, "..."]:
    """A number no smaller than any `|x - y|^2 + h`, or `h - x.y`, with x in a box and y the given atom."""

    def one(lowest: Array, highest: Array, point: Array) -> tuple[Array, Array]:
        if squared:
            reach = jnp.maximum(jnp.abs(highest - point), jnp.abs(point - lowest))
            return reach * reach, reach * reach
        products = lowest * point, highest * point
        return -jnp.minimum(*products), jnp.maximum(*[jnp.abs(product) for product in products])

    bound, size = _over_coordinates(one, queries.low, queries.high, points)
    return bound + heights + _rounding(queries) * (size + jnp.abs(heights))


def _over_coordinates(one: Callable[..., tuple[Array, Array]], *arrays: Array) -> tuple[Array, Array]:
    d = arrays[0].shape[-1]
    if d > _UNROLLED:
        bound, size = one(*arrays)
        return jnp.sum(bound, axis=-1), jnp.sum(size, axis=-1)
    terms = [one(*(a[..., k] for a in arrays)) for k in range(d)]
    bound, size = terms[0]
    for more, larger in terms[1:]:
        bound, size = bound + more, size + larger
    return bound, size


def _rounding(given: Boxes) -> float:
    # Each of d squares has a few roundings of its own, and their sum d more.
    return (8 + 2 * given.low.shape[-1]) * float(jnp.finfo(given.low.dtype).eps)


def _against(blocks: Boxes) -> Boxes:
    """With an axis for the atoms' boxes that they are compared with."""
    return jax.tree.map(lambda a: a[:, None], blocks)


def best_tiles(
    squared: bool, blocks: Boxes, tiles: Boxes, stacks: Boxes, points: Array, heights: Array, count: int
) -> Int[Array, "b count"]:
    """Tiles that are likely to hold the least costs of a block: where to look first.

    `points` and `heights` are one good atom of each tile.
    """
    near = lower_bound(squared, _against(blocks), stacks)
    chosen = lax.top_k(-near, min(count, near.shape[1]))[1]
    tile = (chosen[..., None] * STACK + jnp.arange(STACK)).reshape(chosen.shape[0], -1)
    reach = upper_bound(squared, _against(blocks), points[tile], heights[tile])
    reach = jnp.where(jnp.isinf(tiles.height[tile]), jnp.inf, reach)
    best = lax.top_k(-reach, min(count, reach.shape[1]))[1]
    return jnp.take_along_axis(tile, best, axis=1).astype(jnp.int32)


def candidates(
    squared: bool, blocks: Boxes, limit: Float[Array, "b"], tiles: Boxes, stacks: Boxes
) -> tuple[Int[Array, "b t"], Int[Array, "b"]]:
    """Of each block, the tiles whose lower bound is within its limit, and how many they are."""
    rows, many = blocks.height.shape[0], tiles.height.shape[0]
    near = lower_bound(squared, _against(blocks), stacks) <= limit[:, None]
    first, stack_count = _append(jnp.zeros((rows, near.shape[1]), jnp.int32), jnp.zeros(rows, jnp.int32), near)
    row = jnp.arange(STACK, dtype=jnp.int32)

    def look(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        r, lists, counts = state
        tile = first[:, r, None] * STACK + row
        bound = lower_bound(squared, _against(blocks), jax.tree.map(lambda a: a[tile], tiles))
        keep = (bound <= limit[:, None]) & (r < stack_count)[:, None]
        return r + 1, *_append(lists, counts, keep, tile)

    start = jnp.int32(0), jnp.zeros((rows, many), jnp.int32), jnp.zeros(rows, jnp.int32)
    last = jnp.max(stack_count)
    _, lists, counts = lax.while_loop(lambda state: state[0] < last, look, start)
    return lists, counts


def _append(lists: Array, counts: Array, keep: Bool[Array, "b k"], items: Array | None = None) -> tuple[Array, Array]:
    """Write the kept items of each row behind those that are there; items default to their own place."""
    if items is None:
        items = jnp.broadcast_to(jnp.arange(keep.shape[1], dtype=jnp.int32), keep.shape)
    place = counts[:, None] + jnp.cumsum(keep, axis=1, dtype=jnp.int32) - 1
    place = jnp.where(keep, place, lists.shape[1])
    lists = lists.at[jnp.arange(lists.shape[0])[:, None], place].set(items, mode="drop")
    return lists, counts + jnp.sum(keep, axis=1, dtype=jnp.int32)


def select(
    squared: bool, group: int, blocks: Boxes, limit: Float[Array, "b"], tiles: Boxes, stacks: Boxes
) -> Selection:
    """For each block, the tiles whose lower bound is within its limit."""

    def count(given: tuple[Boxes, Array]) -> Array:
        return candidates(squared, *given, tiles, stacks)[1]

    counts = by_groups(count, group, (blocks, limit))
    # Blocks go side by side with others of about as many tiles, as a group is done with its longest list.
    return Selection(blocks, limit, tiles, stacks, counts, jnp.argsort(counts).astype(jnp.int32))


def reached(squared: bool, selection: Selection) -> Bool[Array, "b t"]:
    """All blocks against all tiles: who looks at whom, written out."""
    bound = lower_bound(squared, _against(selection.blocks), selection.tiles)
    return bound <= selection.limit[:, None]


def walk(squared: bool, selection: Selection, group: int, step: Any, common: Any, own: Any, operands: Any) -> Any:
    """Fold `step` over every block and each of its selected tiles, `group` blocks side by side.

    `step(common, own, operands, tile, active) -> (common, own)` sees the tile number of each block of the
    group, and which blocks still have one: others must be left as they are. `own` and `operands` have one
    row a block, `common` is carried through. Returns (common, own).
    """
    order = selection.order
    blocked = jax.tree.map(lambda a: a[order], (selection.blocks, selection.limit, own, operands))
    (blocks, limit, own, operands), real = _grouped(group, blocked)

    def one(common: Any, given: Any) -> tuple[Any, Any]:
        blocks, limit, own, operands, real = given
        limit = jnp.where(real, limit, -jnp.inf)
        lists, counts = candidates(squared, blocks, limit, selection.tiles, selection.stacks)

        def look(state: Any) -> Any:
            r, common, own = state
            active = r < counts
            tile = jnp.where(active, lists[:, r], 0)
            return r + 1, *step(common, own, operands, tile, active)

        last = jnp.max(counts)
        state = lax.while_loop(lambda state: state[0] < last, look, (jnp.int32(0), common, own))
        return state[1:]

    common, own = lax.scan(one, common, (blocks, limit, own, operands, real))
    back = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
    return common, jax.tree.map(lambda a: _joined(a)[back], own)


def by_groups(function: Callable[[Any], Any], group: int, blocked: Any) -> Any:
    """`function` of `group` rows at a time."""
    count = jax.tree.leaves(blocked)[0].shape[0]
    results = lax.map(function, _grouped(group, blocked)[0])
    return jax.tree.map(lambda a: _joined(a)[:count], results)


def _grouped(group: int, blocked: Any) -> tuple[Any, Bool[Array, "k group"]]:
    """Rows in groups, the last filled up with copies, and which are no copies."""
    count = jax.tree.leaves(blocked)[0].shape[0]
    group = min(group, count)
    fill = -count % group

    def grouped(a: Array) -> Array:
        filled = jnp.pad(a, [(0, fill)] + [(0, 0)] * (a.ndim - 1), mode="edge")
        return filled.reshape((count + fill) // group, group, *a.shape[1:])

    return jax.tree.map(grouped, blocked), grouped(jnp.arange(count)) == jnp.arange(count + fill).reshape(-1, group)


def _joined(a: Array) -> Array:
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
