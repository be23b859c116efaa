"""Pruned: only those tiles of atoms that can change a result, found from bounding boxes.

Queries and atoms are put in an order in which neighbours stand together, and cut into small blocks and
tiles. Each block first looks at the few tiles that are likely to hold its least costs, which bounds them
from above; then at every tile whose bounding box does not rule it out:

- for the minimum, tiles whose lower bound is not above the largest least cost in the block: exact;
- for the sums, tiles whose lower bound is within `log2(N / delta)/kappa` of it. What is left out of a sum
  z >= 1 is at most N weights of delta/N each, so u changes by `eps log(1 + delta)` at most. By default
  delta is half a unit in the last place; a `tolerance` says `delta = exp(tolerance/eps) - 1`.

The arithmetic of a tile, and so its accuracy, is that of `_tiles`; the sums and their derivatives are
`pair_sums`. With nothing to prune this is streaming with small tiles, plus a sort. With eps fixed and N
growing the tiles that matter hold a fixed share of all pairs, so the cost remains O(M N), a small multiple of it.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from . import _streaming
from ._costs import Bilinear, Mahalanobis, SquaredEuclidean
from ._order import coordinates_to_order_by, hilbert_order
from ._pair_sums import pair_sums
from ._problem import Problem, cost_at, far
from ._selection import (
    STACK,
    Boxes,
    Selection,
    best_tiles,
    boxes_of_atoms,
    boxes_of_queries,
    by_groups,
    reached,
    select,
    walk,
)
from ._tiles import (
    Atoms,
    Columns,
    Form,
    Plan,
    Product,
    Queries,
    is_moving,
    plan_of,
    tile_spread,
    tile_sums,
)

# Small enough that boxes are tight, large enough that a step of the loop over tiles is worth its cost: 32
# blocks side by side are 4,096 queries, the vector that XLA splits between cores and keeps in their caches.
BLOCK_QUERIES = 128
TILE_ATOMS = 64
GROUP = 32
# Tiles that each block looks at to bound its least costs.
_FIRST_TILES = 8
# Atoms in a run: the precision to which the minimum remembers where it was.
RUN = 16
# Ordering costs as much as 2,000 to 4,000 pairs for each point. A minimum hardly ever fails to gain from it;
# sums may, and then ordering must not cost more than a fifth of them.
PAIRS_WORTH_A_MINIMUM = 4096
PAIRS_WORTH_SUMS = 16384
# With more of the pairs than this to evaluate, large tiles are faster: derivatives run on them at twice the rate.
MOST_SELECTED = 0.5
_LARGEST_COLUMN_DIMENSION = 8


class _Layout(NamedTuple):
    """A plan with its queries and atoms in order and in rows; `rank` says where each query went."""

    plan: Plan
    queries: Int[Array, "b B"]  # the numbers of the queries in each block, the last repeated
    rank: Int[Array, "M"]
    atoms: Int[Array, "t n"]
    real: Bool[Array, "t n"]  # neither absent nor there to fill up
    blocks: Boxes
    tiles: Boxes
    stacks: Boxes


def can_prune(problem: Problem, worth: int) -> bool:
    """Whether there are bounds for this cost, and enough pairs that looking at them can pay."""
    m, n, _ = problem.shape
    bounded = isinstance(problem.cost, SquaredEuclidean | Mahalanobis | Bilinear)
    return bounded and not problem.causal and m > 0 and m * n >= worth * (m + n)


def softmin(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """Value and Gibbs means; O(M + N) memory, derivatives of every order included."""
    if not can_prune(problem, PAIRS_WORTH_SUMS):
        return _streaming.softmin(problem)
    layout = _layout(problem)
    plan = layout.plan
    kappa = plan.scale * math.log2(math.e) / problem.eps
    mu, selection, few = _selected(layout, _negligible(problem) / lax.stop_gradient(kappa))

    def some_pairs() -> tuple[Array, Array, Array]:
        atoms = _tiles(layout, *plan.atoms[:3])
        settings = {"squared": _is_squared(plan), "group": GROUP}
        z, s = pair_sums(_tile(*_forms(plan)), selection, (_rows(layout, plan.x), mu), atoms, kappa, **settings)
        return _in_order(layout, lax.stop_gradient(mu)), _in_order(layout, z), _in_order(layout, s)

    # With a bound of one there is no choice, and only half as much to compile.
    if MOST_SELECTED >= 1:
        least, z, s = some_pairs()
    else:
        least, z, s = lax.cond(few, some_pairs, lambda: _streaming.least_and_sums(problem))
    return _streaming.gibbs(problem, least, jnp.where(least < far(least.dtype) / 2, z, 1), s)


def argmin(problem: Problem) -> Int[Array, "M"]:
    """The first index of the least cost."""
    if not can_prune(problem, PAIRS_WORTH_A_MINIMUM):
        return _streaming.argmin(problem)
    layout = _layout(problem)
    first = _first(layout)
    return _in_order(layout, _index(layout, _least(layout, first, _within(layout, first.cost, 0))))


def spread(problem: Problem, index: Int[Array, "M"]) -> tuple[Float[Array, "M"], Float[Array, "M"]]:
    """Mass and energy of all atoms but `index`, relative to it: the entropy's two ingredients."""
    if not can_prune(problem, PAIRS_WORTH_SUMS):
        return _streaming.spread(problem, index)
    layout = _layout(problem)
    plan = layout.plan
    kappa = plan.scale * math.log2(math.e) / problem.eps
    least = cost_at(problem, index) / plan.scale
    mu = _in_blocks(layout, least)
    # Down to the smallest weight there is: an entropy of 1e-30 is one of those.
    bits = -float(jnp.finfo(mu.dtype).minexp)
    selection = _within(layout, lax.stop_gradient(mu), bits / lax.stop_gradient(kappa))
    form, _ = _forms(plan)

    def tile(query: Any, atoms: Atoms, kappa: Array) -> tuple[Array, Array]:
        x, mu, index = query
        return tile_spread(form, False, Queries(x, index), atoms, mu, index, kappa)

    query = _rows(layout, plan.x), mu, _in_blocks(layout, index)
    atoms = _tiles(layout, *plan.atoms[:3])
    mass, energy = pair_sums(tile, selection, query, atoms, kappa, squared=_is_squared(plan), group=GROUP)
    return _in_order(layout, mass), _in_order(layout, energy) * math.log(2)


def fraction(problem: Problem) -> Float[Array, ""]:
    """The share of all pairs that the sums of `softmin` evaluate."""
    if not can_prune(problem, PAIRS_WORTH_SUMS):
        return jnp.ones(())
    layout = _layout(problem)
    kappa = layout.plan.scale * math.log2(math.e) / problem.eps
    _, selection, few = _selected(layout, _negligible(problem) / kappa)
    return jnp.where(few, _share(layout, selection), 1)


def look(problem: Problem) -> tuple[Bool[Array, "b t"], Int[Array, "b B"], Int[Array, "t n"]]:
    """Which tiles each block of queries looks at for the sums of `softmin`; the blocks; the tiles."""
    layout = _layout(problem)
    kappa = layout.plan.scale * math.log2(math.e) / problem.eps
    _, selection, few = _selected(layout, _negligible(problem) / kappa)
    real = -(-layout.plan.atoms.heights.shape[0] // TILE_ATOMS)
    tiles = jax.tree.map(lambda a: a[:real], layout.tiles)
    return (
        ~few | reached(_is_squared(layout.plan), selection._replace(tiles=tiles)),
        layout.queries,
        layout.atoms[:real],
    )


def _selected(layout: _Layout, more: Array) -> tuple[Float[Array, "b B"], Selection, Bool[Array, ""]]:
    """Least costs, the tiles within `more` of them, and whether these are few enough to go through them."""
    first = _first(layout)
    near = _within(layout, first.cost, 0)
    few = _share(layout, near) <= MOST_SELECTED
    cost = lax.cond(few, lambda: _least(layout, first, near).cost, lambda: first.cost)
    selection = _within(layout, cost, more)
    return cost, selection, few & (_share(layout, selection) <= MOST_SELECTED)


def _share(layout: _Layout, selection: Selection) -> Float[Array, ""]:
    tiles = -(-layout.plan.atoms.heights.shape[0] // TILE_ATOMS)
    return jnp.mean(selection.counts.astype(layout.plan.x.dtype)) / tiles


def _tile(form: Form, slope: Form) -> Any:
    """The sums of a tile: fast in one form, differentiated in the other."""

    def sums(form: Form, query: tuple[Array, Array], atoms: Atoms, kappa: Array) -> tuple[Array, Array]:
        x, mu = query
        z, s = tile_sums(form, False, Queries(x, atoms.index), atoms, mu, kappa)
        return z, jnp.stack(s) if isinstance(form, Columns) and s else s[0] if s else jnp.zeros((0, *z.shape), z.dtype)

    # Flat, because a rule is told of each array whether it moves.
    @jax.custom_jvp
    def flat(x: Array, mu: Array, points: Array, heights: Array, payload: Array, index: Array, kappa: Array) -> Any:
        return sums(form, (x, mu), Atoms(points, heights, payload, index), kappa)

    @functools.partial(flat.defjvp, symbolic_zeros=True)
    def rule(primals: Any, tangents: Any) -> Any:
        moving = [is_moving(tangent) for tangent in tangents]

        def at(*moved: Array) -> Any:
            new = iter(moved)
            x, mu, *atoms, kappa = (next(new) if moves else a for moves, a in zip(moving, primals, strict=True))
            return sums(slope, (x, mu), Atoms(*atoms), kappa)

        moved, directions = ([a for a, moves in zip(b, moving, strict=True) if moves] for b in (primals, tangents))
        return flat(*primals), jax.jvp(at, moved, directions)[1]

    return lambda query, atoms, kappa: flat(*query, *atoms, kappa)


def _is_squared(plan: Plan) -> bool:
    return getattr(plan.slope, "squared", False)


def _forms(plan: Plan) -> tuple[Form, Form]:
    """The forms for values and for derivatives, in tiles of this file's size."""
    assert isinstance(plan.slope, Product)
    slope = Product(BLOCK_QUERIES, TILE_ATOMS, plan.slope.squared)
    if isinstance(plan.form, Columns) and plan.x.shape[1] <= _LARGEST_COLUMN_DIMENSION:
        return Columns(BLOCK_QUERIES, TILE_ATOMS, plan.form.squared), slope
    return slope, slope


def _layout(problem: Problem) -> _Layout:
    # Differences in any dimension: what is left of the pairs are near ones, and bounds on differences are sharp.
    plan = plan_of(problem, differences=True)
    m, n, _ = problem.shape
    present = problem.present
    x, y, heights = (lax.stop_gradient(a) for a in (plan.x, plan.atoms.points, plan.atoms.heights))
    directions = coordinates_to_order_by(y)
    ends = [a if directions is None else jnp.matmul(a, directions) for a in (x, y)]
    low = jnp.minimum(*[jnp.min(a, axis=0) for a in ends])
    high = jnp.maximum(*[jnp.max(a, axis=0) for a in ends])
    order_x, order_y = hilbert_order(ends[0], low, high), hilbert_order(ends[1], low, high, last=~present)

    fill = -m % BLOCK_QUERIES
    padded = jnp.pad(order_x, (0, fill), mode="edge")
    rank = jnp.zeros(m, jnp.int32).at[order_x].set(jnp.arange(m, dtype=jnp.int32))
    blocks = boxes_of_queries(x[padded].reshape(-1, BLOCK_QUERIES, x.shape[1]))

    fill = -n % (TILE_ATOMS * STACK)
    filled = jnp.pad(order_y, (0, fill), mode="edge")
    real = (jnp.arange(n + fill) < n) & present[filled]
    tiles, stacks = (
        boxes_of_atoms(*(a.reshape(-1, many, *a.shape[1:]) for a in (y[filled], heights[filled], real)))
        for many in (TILE_ATOMS, TILE_ATOMS * STACK)
    )
    shape = -1, TILE_ATOMS
    return _Layout(
        plan,
        padded.reshape(-1, BLOCK_QUERIES),
        rank,
        filled.reshape(shape),
        real.reshape(shape),
        blocks,
        tiles,
        stacks,
    )


def _rows(layout: _Layout, x: Float[Array, "M d"]) -> Float[Array, "b d B"]:
    return jnp.swapaxes(x[layout.queries], 1, 2)


def _tiles(layout: _Layout, points: Array, heights: Array, payload: Float[Array, "p N"]) -> Atoms:
    return Atoms(
        points=points[layout.atoms],
        heights=jnp.where(layout.real, heights[layout.atoms], far(heights.dtype)),
        payload=jnp.moveaxis(payload[:, layout.atoms], 0, 1),
        index=layout.atoms,
    )


def _in_blocks(layout: _Layout, values: Float[Array, "M"]) -> Float[Array, "b B"]:
    """Numbers of the queries, to blocks."""
    return values[layout.queries]


def _in_order(layout: _Layout, values: Array) -> Array:
    """Numbers of blocks, `(b, ..., B)`, to the queries as they were given, `(M, ...)`."""
    flat = jnp.moveaxis(values, -1, 1)
    return flat.reshape(flat.shape[0] * flat.shape[1], *flat.shape[2:])[layout.rank]


def _within(layout: _Layout, least: Float[Array, "b B"], more: Array | float) -> Selection:
    """Look at every tile that may hold a cost within `more` of a query's least."""
    limit = least + more
    limit = limit + 8 * float(jnp.finfo(limit.dtype).eps) * jnp.abs(limit)
    blocks = boxes_of_queries(lax.stop_gradient(layout.plan.x)[layout.queries], limit)
    return select(_is_squared(layout.plan), GROUP, blocks, layout.tiles, layout.stacks)


def _negligible(problem: Problem) -> Float[Array, ""] | float:
    """Binary digits below the largest weight at which all N together are less than delta."""
    n = problem.shape[1]
    rounding = math.log2(n) + jnp.finfo(problem.x.dtype).nmant + 1
    if not problem.tolerance:
        return rounding
    delta = jnp.expm1(problem.tolerance / lax.stop_gradient(problem.eps))
    return jnp.clip(math.log2(n) - jnp.log2(delta), 0, rounding)


class _Least(NamedTuple):
    """The least cost of each query, the run of atoms that holds it, and whether another run holds it too."""

    cost: Float[Array, "*b B"]
    run: Int[Array, "*b B"]
    tied: Bool[Array, "*b B"]


def _first(layout: _Layout) -> _Least:
    """Upper bounds of the least costs, from the tiles that are likely to hold them."""
    x, atoms = lax.stop_gradient((_rows(layout, layout.plan.x), _tiles(layout, *layout.plan.atoms[:3])))
    tiles, stacks = layout.tiles, layout.stacks

    def first(given: Any) -> _Least:
        x, blocks = given
        numbers = best_tiles(_is_squared(layout.plan), blocks, tiles, stacks, _FIRST_TILES)
        start = jnp.full(x[:, 0].shape, far(x.dtype), x.dtype)
        best = _Least(start, jnp.zeros(start.shape, jnp.int32), jnp.zeros(start.shape, bool))
        return lax.fori_loop(0, numbers.shape[1], lambda r, best: _lowered(layout, x, best, numbers[:, r], atoms), best)

    found = by_groups(first, GROUP, (x, layout.blocks))
    # These tiles are looked at again, and a tie of one with itself is none.
    return _Least(jnp.nextafter(found.cost, jnp.inf), found.run, jnp.zeros_like(found.tied))


def _least(layout: _Layout, first: _Least, near: Selection) -> _Least:
    """The least cost of each query, exactly, from the tiles within its upper bound."""
    x, atoms = lax.stop_gradient((_rows(layout, layout.plan.x), _tiles(layout, *layout.plan.atoms[:3])))

    def step(common: Any, best: _Least, x: Array, number: Array, active: Array) -> tuple[Any, _Least]:
        lowered = _lowered(layout, x, best, number, atoms)
        return common, jax.tree.map(lambda a, b: jnp.where(active[:, None], a, b), lowered, best)

    return walk(_is_squared(layout.plan), near, GROUP, step, (), first, x)[1]


def _lowered(layout: _Layout, x: Float[Array, "G d B"], best: _Least, number: Int[Array, "G"], atoms: Atoms) -> _Least:
    """After a look at one more tile for each block."""
    form, _ = _forms(layout.plan)

    def tile(x: Array, atoms: Atoms, number: Int[Array, ""], best: _Least) -> _Least:
        # Which atom it is would cost as much as the cost itself: remember the run, look inside at the end.
        for r, q in enumerate(_runs(form, x, atoms)):
            better = q < best.cost
            best = _Least(
                jnp.minimum(q, best.cost),
                jnp.where(better, number * (TILE_ATOMS // RUN) + r, best.run),
                jnp.where(better, False, best.tied | (q == best.cost)),
            )
        return best

    return jax.vmap(tile)(x, jax.tree.map(lambda a: a[number], atoms), number, best)


def _runs(form: Form, x: Float[Array, "d B"], atoms: Atoms) -> list[Float[Array, "B"]]:
    """The least cost within each run of a tile."""
    costs = [q for q, _, _ in form.costs(Queries(x, atoms.index), atoms)]
    if costs[0].ndim == 2:
        return list(jnp.min(costs[0].reshape(-1, RUN, x.shape[1]), axis=1))
    return [functools.reduce(jnp.minimum, costs[i : i + RUN]) for i in range(0, len(costs), RUN)]


def _index(layout: _Layout, best: _Least) -> Int[Array, "b B"]:
    """The first index, in the order that atoms were given, of the least cost."""
    squared = _is_squared(layout.plan)
    form, slope = _forms(layout.plan)
    x, atoms = lax.stop_gradient((_rows(layout, layout.plan.x), _tiles(layout, *layout.plan.atoms[:3])))
    runs = jax.tree.map(lambda a: a.reshape(-1, RUN, *a.shape[2:]), (atoms.points, atoms.heights, atoms.index))

    def inside(x: Float[Array, "d"], run: Int[Array, ""]) -> Int[Array, ""]:
        points, heights, index = (a[run] for a in runs)
        (q, _, _) = next(slope.costs(Queries(x[:, None], index[:1]), Atoms(points, heights, points.T, index)))
        return _first_of(q[:, 0], index, 0)

    index = by_groups(lambda given: jax.vmap(jax.vmap(inside, in_axes=(1, 0)))(*given), GROUP, (x, best.run))

    # Atoms are not in their own order here: where runs tie, compare indices, atom by atom.
    def step(common: Any, carry: tuple[Array, Array], x: Array, number: Array, active: Array) -> Any:
        def tile(x: Array, atoms: Atoms, least: Array, index: Array) -> tuple[Array, Array]:
            for q, _, j in form.costs(Queries(x, index), atoms):
                if q.ndim == 2:
                    q, j = jnp.min(q, axis=0), _first_of(q, j, 0)
                better = (q < least) | ((q == least) & (j < index))
                least, index = jnp.where(better, q, least), jnp.where(better, j, index)
            return least, index

        new = jax.vmap(tile)(x, jax.tree.map(lambda a: a[number], atoms), *carry)
        return common, jax.tree.map(lambda a, b: jnp.where(active[:, None], a, b), new, carry)

    tied_only = jnp.where(best.tied.any(axis=1, keepdims=True), best.cost, -far(x.dtype))
    selection = _within(layout, tied_only, 0)
    start = jnp.full_like(best.cost, far(x.dtype)), jnp.zeros_like(index)
    tied = walk(squared, selection, GROUP, step, (), start, x)[1][1]
    return jnp.where(best.tied, tied, index)


def _first_of(q: Array, index: Array, axis: int) -> Array:
    """The smallest index among the least costs along an axis."""
    least = q == jnp.min(q, axis=axis, keepdims=True)
    return jnp.min(jnp.where(least, index, jnp.iinfo(jnp.int32).max), axis=axis)
