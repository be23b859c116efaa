"""Which tiles of atoms can matter to which blocks of queries, decided from bounding boxes at run time.

Atoms stand in tiles, tiles in stacks. A block of queries looks at the boxes of all stacks, then at the
tiles of those stacks that may matter: a lower bound on every cost between the two boxes is compared with
what the block is looking for. The bounds hold in spite of rounding, so a tile that is left out provably
does not matter.

A box alone would not do where values are steep: the least distance and the least height of a tile are met
by different atoms, so its bound is too low by as much as the values vary, O(side). So a box carries a plane
below the heights of its atoms, a block a plane above the limits of its queries, and the least of
`|x - y|^2 + slope.y - slope.x` over both boxes is taken coordinate by coordinate, in closed form: too low by
O(side^2) only. Any slopes give valid bounds; good ones are fitted.
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
# Steps of conjugate gradients to fit a slope: exact in up to three dimensions, where pruning pays most.
_STEPS = 3


class Boxes(NamedTuple):
    """Bounding boxes of rows of points, each with a plane `level + slope.(z - middle)`.

    That of atoms is below their heights (level +inf if there are none), that of queries above the limit of
    the costs that they look for.
    """

    low: Float[Array, "*k d"]
    high: Float[Array, "*k d"]
    middle: Float[Array, "*k d"]
    slope: Float[Array, "*k d"]
    level: Float[Array, "*k"]


class Selection(NamedTuple):
    """Blocks of queries with what they look for, and the two levels of atoms."""

    blocks: Boxes
    tiles: Boxes
    stacks: Boxes
    counts: Int[Array, "b"]  # tiles that each block will look at
    order: Int[Array, "b"]  # of blocks, by these counts


def boxes_of_atoms(points: Float[Array, "k n d"], heights: Float[Array, "k n"], present: Bool[Array, "k n"]) -> Boxes:
    """The box around each row of atoms that are present, with a plane below their heights."""
    some, column = jnp.any(present, axis=1), present[..., None]
    low = jnp.min(jnp.where(column, points, jnp.inf), axis=1)
    high = jnp.max(jnp.where(column, points, -jnp.inf), axis=1)
    # An empty box is a point with a level that no limit reaches: its bounds are +inf, never NaN.
    low, high = (jnp.where(some[:, None], a, 0) for a in (low, high))
    count = jnp.maximum(jnp.sum(present, axis=1), 1)[:, None].astype(points.dtype)
    mean = jnp.sum(jnp.where(present, heights / count, 0), axis=1)
    heights = jnp.where(present, heights, mean[:, None])
    middle = low + jnp.sum(jnp.where(column, points - low[:, None], 0), axis=1) / count
    offsets = jnp.where(column, points - middle[:, None], 0)

    slope = _slope(offsets, heights - mean[:, None])
    rounding = _rounding(points)
    products = offsets * slope[:, None]
    sizes = jnp.abs(heights) + jnp.sum(jnp.abs(products), axis=2)
    level = _least(heights - jnp.sum(products, axis=2) - rounding * sizes, present)
    flat = _least(heights - rounding * jnp.abs(heights), present)
    # Where it does not follow the heights (an outlier, noise, overflow) a plane is no better than a level.
    steep = level > flat
    slope, level = jnp.where(steep[:, None], slope, 0), jnp.where(steep, level, flat)
    # What rounding can do to `lower_bound` at any point of the box.
    reach = jnp.abs(slope) * jnp.maximum(high - middle, middle - low)
    ends = jnp.maximum(jnp.abs(low), jnp.abs(high)) + jnp.abs(slope)
    unit = float(jnp.finfo(points.dtype).eps)
    level = level - jnp.sum(rounding * reach + (unit * ends) ** 2, axis=1)
    return Boxes(low, high, middle, slope, jnp.where(some, level, jnp.inf))


def boxes_of_queries(points: Float[Array, "k n d"], limits: Float[Array, "k n"] | None = None) -> Boxes:
    """The box around each row of queries, with a plane above their limits, if these are known by now."""
    if limits is None:
        low, high = jnp.min(points, axis=1), jnp.max(points, axis=1)
        return Boxes(low, high, low + (high - low) / 2, jnp.zeros_like(low), jnp.zeros_like(low[:, 0]))
    below = boxes_of_atoms(points, -limits, jnp.ones(limits.shape, bool))
    return below._replace(slope=-below.slope, level=-below.level)


def _least(values: Float[Array, "k n"], present: Bool[Array, "k n"]) -> Float[Array, "k"]:
    return jnp.min(jnp.where(present, values, jnp.inf), axis=1)


def _slope(offsets: Float[Array, "k n d"], values: Float[Array, "k n"]) -> Float[Array, "k d"]:
    """Least squares of `slope.offset = value` in each row, by conjugate gradients in units that do not overflow."""
    length = _nonzero(jnp.max(jnp.abs(offsets), axis=(1, 2)))
    height = _nonzero(jnp.max(jnp.abs(values), axis=1))
    offsets, values = offsets / length[:, None, None], values / height[:, None]

    def transposed(values: Array) -> Array:
        return jnp.sum(offsets * values[..., None], axis=1)

    residual = along = transposed(values)
    slope, size = jnp.zeros_like(residual), jnp.sum(residual**2, axis=1)
    for _ in range(min(_STEPS, offsets.shape[2])):
        image = jnp.sum(offsets * along[:, None], axis=2)
        step = (size / _nonzero(jnp.sum(image**2, axis=1)))[:, None]
        slope, residual = slope + step * along, residual - step * transposed(image)
        before, size = size, jnp.sum(residual**2, axis=1)
        along = residual + (size / _nonzero(before))[:, None] * along
    return slope * (height / length)[:, None]


def _nonzero(sizes: Array) -> Array:
    return jnp.where(sizes > 0, sizes, 1)


def lower_bound(squared: bool, queries: Boxes, atoms: Boxes) -> Float[Array, "..."]:
    """At most every `|x - y|^2 + h` (or `h - x.y`) less the limit of x, with x and y in these boxes.

    Atoms of a tile for which this is positive are beyond the limit of every query of the block.
    """
    rounding = _rounding(atoms.low)

    def least_square(xs: tuple[Array, ...], ys: tuple[Array, ...]) -> Array:
        (lowest, highest, center, limit), (low, high, middle, slope) = xs, ys
        # Convex in (x, y): the best y for free x stands half a slope off the end of the queries' box, on the
        # side that the slopes' difference says, or at an end of its own; then the best x for that y.
        y = jnp.clip(jnp.where(slope > limit, lowest, highest) - slope / 2, low, high)
        x = jnp.clip(y + limit / 2, lowest, highest)
        return (1 - rounding) * (x - y) ** 2 + slope * (y - middle) - limit * (x - center)

    def least_product(xs: tuple[Array, ...], ys: tuple[Array, ...]) -> Array:
        (lowest, highest, center, limit), (low, high, middle, slope) = xs, ys
        corners = [
            slope * (y - middle) - limit * (x - center) - (x * y + rounding * jnp.abs(x * y))
            for x in (lowest, highest)
            for y in (low, high)
        ]
        return functools.reduce(jnp.minimum, corners)

    bound = _over_coordinates(least_square if squared else least_product, queries[:4], atoms[:4])
    return bound + (atoms.level - queries.level)


def _over_coordinates(one: Callable[..., Array], xs: tuple[Array, ...], ys: tuple[Array, ...]) -> Float[Array, "..."]:
    d = xs[0].shape[-1]
    if d > _UNROLLED:
        return jnp.sum(one(xs, ys), axis=-1)
    terms = [one(*([a[..., k] for a in some] for some in (xs, ys))) for k in range(d)]
    return functools.reduce(jnp.add, terms)


def _rounding(points: Array) -> float:
    # Each of d squares has a few roundings of its own, and their sum d more.
    return (8 + 2 * points.shape[-1]) * float(jnp.finfo(points.dtype).eps)


def _against(blocks: Boxes) -> Boxes:
    """With an axis for the atoms' boxes that they are compared with."""
    return jax.tree.map(lambda a: a[:, None], blocks)


def best_tiles(squared: bool, blocks: Boxes, tiles: Boxes, stacks: Boxes, count: int) -> Int[Array, "b count"]:
    """Tiles that are likely to hold the least costs of a block: where to look first."""
    near = lower_bound(squared, _against(blocks), stacks)
    chosen = lax.top_k(-near, min(count, near.shape[1]))[1]
    tile = (chosen[..., None] * STACK + jnp.arange(STACK, dtype=jnp.int32)).reshape(chosen.shape[0], -1)
    level, middle = tiles.level[tile], tiles.middle[tile]

    def cost(xs: list[Array], ys: list[Array]) -> Array:
        return (xs[0] - ys[0]) ** 2 if squared else -xs[0] * ys[0]

    # From middle to middle: among tiles that are about as near, boxes would say which is the largest.
    costs = level + _over_coordinates(cost, (blocks.middle[:, None],), (middle,))
    best = lax.top_k(-costs, min(count, costs.shape[1]))[1]
    return jnp.take_along_axis(tile, best, axis=1).astype(jnp.int32)


def candidates(squared: bool, blocks: Boxes, tiles: Boxes, stacks: Boxes) -> tuple[Int[Array, "b t"], Int[Array, "b"]]:
    """Of each block, the tiles that may hold what it looks for, and how many they are."""
    rows, many = blocks.level.shape[0], tiles.level.shape[0]
    near = lower_bound(squared, _against(blocks), stacks) <= 0
    first, stack_count = _append(jnp.zeros((rows, near.shape[1]), jnp.int32), jnp.zeros(rows, jnp.int32), near)
    row = jnp.arange(STACK, dtype=jnp.int32)
    by_stack = jax.tree.map(lambda a: a.reshape(-1, STACK, *a.shape[1:]), tiles)

    def look(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        r, lists, counts = state
        stack = first[:, r]
        bound = lower_bound(squared, _against(blocks), jax.tree.map(lambda a: a[stack], by_stack))
        keep = (bound <= 0) & (r < stack_count)[:, None]
        return r + 1, *_append(lists, counts, keep, stack[:, None] * STACK + row)

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


def select(squared: bool, group: int, blocks: Boxes, tiles: Boxes, stacks: Boxes) -> Selection:
    """For each block, the tiles that may hold what it looks for."""
    counts = by_groups(lambda given: candidates(squared, given, tiles, stacks)[1], group, blocks)
    # Blocks go side by side with others of about as many tiles, as a group is done with its longest list.
    return Selection(blocks, tiles, stacks, counts, jnp.argsort(counts).astype(jnp.int32))


def reached(squared: bool, selection: Selection) -> Bool[Array, "b t"]:
    """All blocks against all tiles: who looks at whom, written out."""
    return lower_bound(squared, _against(selection.blocks), selection.tiles) <= 0


def walk(squared: bool, selection: Selection, group: int, step: Any, common: Any, own: Any, operands: Any) -> Any:
    """Fold `step` over every block and each of its selected tiles, `group` blocks side by side.

    `step(common, own, operands, tile, active) -> (common, own)` sees the tile number of each block of the
    group, and which blocks still have one: others must be left as they are. `own` and `operands` have one
    row a block, `common` is carried through. Returns (common, own).
    """
    order = selection.order
    blocked = jax.tree.map(lambda a: a[order], (selection.blocks, own, operands))
    (blocks, own, operands), real = _grouped(group, blocked)

    def one(common: Any, given: Any) -> tuple[Any, Any]:
        blocks, own, operands, real = given
        blocks = blocks._replace(level=jnp.where(real, blocks.level, -jnp.inf))
        lists, counts = candidates(squared, blocks, selection.tiles, selection.stacks)

        def look(state: Any) -> Any:
            r, common, own = state
            active = r < counts
            tile = jnp.where(active, lists[:, r], 0)
            return r + 1, *step(common, own, operands, tile, active)

        last = jnp.max(counts)
        state = lax.while_loop(lambda state: state[0] < last, look, (jnp.int32(0), common, own))
        return state[1:]

    common, own = lax.scan(one, common, (blocks, own, operands, real))
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
