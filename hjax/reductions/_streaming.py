"""Streaming: tiles of queries against tiles of atoms, nothing larger than a tile ever in memory.

The idea. A soft-min needs the least cost of each query (to scale by) and then additive sums:

    mu_i = min_j q_ij        z_i = sum_j 2^(kappa (mu_i - q_ij))        s_i = sum_j 2^(...) payload_j

with `q = (c + heights)/scale` in the cost's own units, so that the min pass has no multiplication by
1/eps, and `kappa = scale log2(e)/eps`. Then `value = base + scale mu - eps log(2) log2(z)`.

Derivatives. The result does not depend on mu, so mu is a constant to autodiff, and what is
differentiated is a scan whose carry is only *added to*, with each tile's body under `jax.checkpoint`
(the carry left outside of it: it is no residual) and each block of queries under one more. Plain JAX
autodiff then gives every mode and order with O(M + N) memory: the backward pass recomputes each tile.

A tile is laid out with its queries as the last, contiguous axis, in one of three forms:

- `_Columns`, d <= 8: atoms are scalars in an unrolled loop over one long vector of queries; the cost is
  built coordinate by coordinate from *differences*, so nothing cancels far from the origin. The
  fastest for values.
- `_Product`: an (atoms, queries) tile. For d <= 8 its costs are the same differences; beyond, one
  matrix product on a centred cloud, with a rounding error of a few ulp of the squared diameter. Its
  derivative is two matrix products either way: the form that every derivative runs in.
- `_Pairwise`: any other cost, called on a tile of pairs.

A `_Product` with d > 8 takes minimum and sums in one go, with a running rescale (one matrix product
instead of two). That, like the unrolled loop, is not what autodiff sees: one `custom_jvp` says
"differentiate the additive sums of the `_Product` form instead".
"""

import abc
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from ._costs import Bilinear, Mahalanobis, SquaredEuclidean
from ._exp2 import exp2
from ._problem import Problem, cost_at, far

# Tile sizes. Columns: a block of 5,120 float32 queries is 20 KiB a coordinate, so that block, running
# minimum and sums stay in the L1 and L2 caches; unrolling amortises the loop, and its limit is
# compile time, which grows with (atoms per step) x (d + p). Tiles: 512 x 1,024 float32 is 2 MiB.
_COLUMN_QUERIES = 5120
_COLUMN_OPERATIONS = 192
_TILE_QUERIES = 1024
_TILE_ATOMS = 512
_LARGEST_DIFFERENCE_DIMENSION = 8
_LARGEST_COLUMN_PAYLOAD = 16
_FEWEST_COLUMN_QUERIES = 32


class _Queries(NamedTuple):
    """One block of queries."""

    points: Float[Array, "d B"]
    index: Int[Array, "B"]


class _Atoms(NamedTuple):
    """One tile of atoms. An absent or padding atom has a height that no real cost reaches."""

    points: Float[Array, "n d"]
    heights: Float[Array, "n"]
    payload: Float[Array, "p n"]
    index: Int[Array, "n"]


class _Piece(NamedTuple):
    """Numbers of a block of queries for one atom, `(B,)`, or for a tile of them, `(n, B)`."""

    numbers: Array
    payload: Array
    index: Array


class _Form(eqx.Module):
    """How a tile computes its costs; the passes below are the same for all forms."""

    query_block: eqx.AbstractVar[int]
    atom_block: eqx.AbstractVar[int]

    @abc.abstractmethod
    def costs(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        """The costs q."""

    @abc.abstractmethod
    def exponents(self, queries: _Queries, atoms: _Atoms, mu: Array, kappa: Array) -> Iterator[_Piece]:
        """kappa (mu - q), the binary logarithms of the weights."""


class _Columns(_Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    squared: bool = eqx.field(static=True)  # |x - y|^2, else -x.y

    def costs(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        for j in range(atoms.heights.shape[0]):
            q = atoms.heights[j]
            for x, y in zip(queries.points, atoms.points[j], strict=True):
                q = q + (x - y) * (x - y) if self.squared else q - x * y
            yield _Piece(q, atoms.payload[:, j], atoms.index[j])

    def exponents(self, queries: _Queries, atoms: _Atoms, mu: Array, kappa: Array) -> Iterator[_Piece]:
        for q, payload, j in self.costs(queries, atoms):
            yield _Piece(kappa * (mu - q), payload, j)


class _Product(_Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    squared: bool = eqx.field(static=True)

    def costs(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        q = _product_costs(self.squared, queries.points, atoms.points, atoms.heights)
        yield _Piece(q, atoms.payload, atoms.index[:, None])

    def exponents(self, queries: _Queries, atoms: _Atoms, mu: Array, kappa: Array) -> Iterator[_Piece]:
        arrays = queries.points, atoms.points, atoms.heights, mu, kappa
        # The barrier, and its transpose in a backward pass, keeps XLA from computing the exponential
        # once for every product that reads it.
        exponents = lax.optimization_barrier(_product_exponents(self.squared, *arrays))
        yield _Piece(exponents, atoms.payload, atoms.index[:, None])


class _Pairwise(_Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    cost: Callable[[Array, Array], Array]

    def costs(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        pairs = jax.vmap(lambda y: jax.vmap(lambda x: self.cost(x, y), in_axes=1)(queries.points))
        q = pairs(atoms.points) + atoms.heights[:, None]
        yield _Piece(q, atoms.payload, atoms.index[:, None])

    def exponents(self, queries: _Queries, atoms: _Atoms, mu: Array, kappa: Array) -> Iterator[_Piece]:
        for q, payload, j in self.costs(queries, atoms):
            yield _Piece(_floored(kappa * (mu - q)), payload, j)


def _floored(exponents: Array) -> Array:
    """Far below the smallest number, but finite: an absent atom's -1e30/eps is no factor for a derivative."""
    return jnp.maximum(exponents, 2.0 * float(jnp.finfo(exponents.dtype).minexp))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _product_costs(squared: bool, x: Array, points: Array, heights: Array) -> Float[Array, "n B"]:
    if not squared:
        return heights[:, None] - _product(points, x)
    q = heights[:, None]
    for k in range(points.shape[1]):
        difference = x[k] - points[:, k, None]
        q = q + difference * difference
    return q


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _product_exponents(
    squared: bool,
    x: Float[Array, "d B"],
    points: Float[Array, "n d"],
    heights: Float[Array, "n"],
    mu: Float[Array, "B"],
    kappa: Float[Array, ""],
) -> Float[Array, "n B"]:
    """kappa (mu_i - q_ij), floored."""
    return _floored(kappa * (mu - _product_costs(squared, x, points, heights)))


@functools.partial(_product_exponents.defjvp, symbolic_zeros=True)
def _product_exponents_jvp(squared: bool, primals: Any, tangents: Any) -> Any:
    # With -d|x - y|^2 = 2 (y_c - x_c).dx + 2 (x_c - y_c).dy, where x_c = x - c for any c, and
    # d(x.y) = y.dx + x.dy, the change of all exponents is two matrix products, (n, d+1) by (d+1, B), and
    # so is what autodiff makes of it in a backward pass; differentiating the loop over coordinates
    # would sum over all queries once for each. c in the middle of the tile keeps the products small.
    x, points, heights, mu, kappa = primals
    dx, dpoints, dheights, dmu, dkappa = tangents
    exponents = _product_exponents(squared, *primals)
    factor = 1
    if squared:
        factor, centre = 2, _middle(points)
        x, points = x - centre[:, None], points - centre
    change = jnp.zeros_like(exponents)
    if _moves(dx) or _moves(dmu):
        dx, dmu = _dense_tangent(dx, x), _dense_tangent(dmu, mu)
        own = dmu - factor * jnp.sum(x * dx, axis=0) if squared else dmu
        rows = jnp.concatenate([factor * dx, own[None]])
        ones = jnp.ones_like(points[:, :1])
        change += _product(jnp.concatenate([points, ones], axis=1), kappa * rows)
    if _moves(dpoints) or _moves(dheights):
        dpoints, dheights = _dense_tangent(dpoints, points), _dense_tangent(dheights, heights)
        own = dheights + factor * jnp.sum(points * dpoints, axis=1) if squared else dheights
        columns = jnp.concatenate([factor * dpoints, -own[:, None]], axis=1)
        change += _product(columns, kappa * jnp.concatenate([x, jnp.ones_like(x[:1])]))
    if _moves(dkappa):
        change += exponents * (dkappa / kappa)
    return exponents, change


def _moves(tangent: Any) -> bool:
    return not isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _dense_tangent(tangent: Any, primal: Array) -> Array:
    return tangent if _moves(tangent) else jnp.zeros_like(primal)


class _Plan(NamedTuple):
    """A problem in a form's own coordinates: `c + heights = scale (q + offset_i)`."""

    form: _Form
    slope: _Form  # the form that is differentiated
    x: Float[Array, "M d"]
    atoms: _Atoms
    scale: Float[Array, ""]
    offset: Float[Array, "M"] | None


def softmin(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """Value and Gibbs means; O(M + N) memory, derivatives of every order included."""
    plan = _plan(problem)
    kappa = plan.scale * math.log2(math.e) / problem.eps
    if isinstance(plan.form, _Pairwise):
        # The cost may close over anything, traced values too, so no rule can name its inputs.
        mu = _minimum(plan.form, problem.causal, plan.x, plan.atoms)
        z, s = _sums(plan.form, problem.causal, plan.x, plan.atoms, kappa, mu)
    else:
        forms = plan.form, plan.slope, problem.causal
        mu, z, s = _minimum_and_sums(*forms, plan.x, *plan.atoms[:3], kappa)
    some = mu < far(mu.dtype) / 2
    mu = lax.stop_gradient(mu)
    least = mu if plan.offset is None else mu + plan.offset
    value = problem.base + plan.scale * least - problem.eps * math.log(2) * jnp.log2(z)
    # A query that sees no atom has its weights spread over absent ones: no mean, no derivative.
    return jnp.where(some, value, jnp.inf), jnp.where(some[:, None], s / z[:, None], 0)


def argmin(problem: Problem) -> Int[Array, "M"]:
    """The first index of the least cost."""
    plan = _plan(problem)

    def step(carry: tuple[Array, Array], queries: _Queries, atoms: _Atoms) -> tuple[Array, Array]:
        least, index = carry
        for q, _, j in _seen_costs(plan.form, problem.causal, queries, atoms):
            q = lax.stop_gradient(q)
            if q.ndim == 2:
                row = jnp.argmin(q, axis=0)
                q, j = jnp.take_along_axis(q, row[None], axis=0)[0], j[row, 0]
            index = jnp.where(q < least, j, index)
            least = jnp.minimum(q, least)
        return least, index

    def block(queries: _Queries) -> Int[Array, "B"]:
        start = jnp.full(queries.index.shape, jnp.inf, plan.x.dtype), jnp.zeros_like(queries.index)
        return _scan_atoms(plan.form, plan.atoms, step, start, queries)[1]

    return _map_queries(plan.form, plan.x, block)


def spread(problem: Problem, index: Int[Array, "M"]) -> tuple[Float[Array, "M"], Float[Array, "M"]]:
    """Mass and energy of all atoms but `index`, relative to it: the entropy's two ingredients."""
    plan = _plan(problem)
    kappa = plan.scale * math.log2(math.e) / problem.eps
    least = cost_at(problem, index) / plan.scale
    mu = least if plan.offset is None else least - plan.offset

    def tile(queries: _Queries, atoms: _Atoms, mu: Array, index: Array, kappa: Array) -> tuple[Array, Array]:
        mass = energy = jnp.zeros_like(mu)
        for q, _, j in _seen_costs(plan.form, problem.causal, queries, atoms):
            # Below the smallest normal number `exp2` is held there, and an excess of 1e4 or an absent
            # atom's 1e30 times that is not nothing: such atoms are left out.
            excess = kappa * (q - mu)
            others = (index != j) & (excess < -float(jnp.finfo(q.dtype).minexp))
            excess = jnp.where(others, excess, 0)
            weights = jnp.where(others, exp2(-excess), 0)
            mass, energy = mass + _total(weights), energy + _total(weights * excess)
        return mass, energy

    def block(queries: _Queries, mu: Array, index: Array) -> tuple[Array, Array]:
        def step(carry: tuple[Array, Array], queries: _Queries, atoms: _Atoms) -> tuple[Array, Array]:
            return _plus(carry, jax.checkpoint(tile)(queries, atoms, mu, index, kappa))

        start = jnp.zeros_like(mu), jnp.zeros_like(mu)
        return _scan_atoms(plan.form, plan.atoms, step, start, queries)

    mass, energy = _map_queries(plan.form, plan.x, block, mu, index)
    return mass, energy * math.log(2)


def describe(problem: Problem) -> str:
    """The form and the tile sizes that this problem would run with, in words."""
    form = _plan(problem).form
    if isinstance(form, _Pairwise):
        kind = "the given cost on pairs"
    elif isinstance(form, _Product) and not form.squared:
        kind = "matrix products"
    else:
        kind = "coordinate by coordinate"
    return f"{kind}, tiles of {form.query_block} queries x {form.atom_block} atoms"


def _plan(problem: Problem) -> _Plan:
    m, n, d = problem.shape
    cost, x, y, heights = problem.cost, problem.x, problem.y, problem.heights
    channels = problem.payload.shape[1]
    squared = isinstance(cost, SquaredEuclidean | Mahalanobis)
    scale, offset = jnp.ones((), x.dtype), None
    if squared:
        scale = cost.scale.astype(x.dtype)
        heights = heights / scale
    differences = squared and d <= _LARGEST_DIFFERENCE_DIMENSION
    if squared and (not differences or isinstance(cost, Mahalanobis)):
        # Exact algebra for any centre, and exact arithmetic for one that the cloud is close to.
        centre = _middle(y)
        x, y = x - centre, y - centre
        if isinstance(cost, Mahalanobis):
            x, y = cost.hamiltonian.whiten(x), cost.hamiltonian.whiten(y)
    if squared and not differences:
        offset, heights = jnp.sum(x * x, axis=1), heights + jnp.sum(y * y, axis=1)
        x = 2 * x
    tile = _even(m, _TILE_QUERIES, 16), min(n, _TILE_ATOMS)
    if squared or isinstance(cost, Bilinear):
        form = slope = _Product(*tile, squared=differences)
        few = m < _FEWEST_COLUMN_QUERIES or channels > _LARGEST_COLUMN_PAYLOAD
        if d <= _LARGEST_DIFFERENCE_DIMENSION and not few:
            unroll = min(64, max(8, _COLUMN_OPERATIONS // (2 + d + channels)))
            form = _Columns(_even(m, _COLUMN_QUERIES, 16), min(n, unroll), differences)
    else:
        form = slope = _Pairwise(*tile, cost)
    heights = jnp.where(problem.present, heights, far(x.dtype))
    return _Plan(form, slope, x, _indexed(y, heights, problem.payload.T), scale, offset)


def _middle(points: Float[Array, "n d"]) -> Float[Array, "d"]:
    """The middle of the box around the points: unlike a mean, the same number however XLA reorders it.

    It is subtracted in two places that must agree to the last bit, and XLA may compute it in each.
    """
    return lax.stop_gradient((jnp.min(points, axis=0) + jnp.max(points, axis=0)) / 2)


def _even(count: int, largest: int, multiple: int) -> int:
    """A block size of about `largest` at most that splits `count` evenly, up to rounding."""
    blocks = max(1, -(-count // largest))
    size = -(-count // blocks)
    return max(1, size) if blocks == 1 else -(-size // multiple) * multiple


def _indexed(points: Array, heights: Array, payload: Array) -> _Atoms:
    return _Atoms(points, heights, payload, jnp.arange(heights.shape[0], dtype=jnp.int32))


# The passes over all pairs.


class _Sums(NamedTuple):
    """Sums of the weights `(B,)`, and of the payload under them: p vectors, or one `(p, B)` array."""

    z: Float[Array, "B"]
    s: tuple[Array, ...]


def _minimum(form: _Form, causal: bool, x: Array, atoms: _Atoms) -> Float[Array, "M"]:
    def step(least: Array, queries: _Queries, atoms: _Atoms) -> Array:
        for q, _, _ in _seen_costs(form, causal, queries, atoms):
            q = lax.stop_gradient(q)  # here, so that the scan carries no tangents to begin with
            least = jnp.minimum(least, q if q.ndim == 1 else jnp.min(q, axis=0))
        return least

    def block(queries: _Queries) -> Float[Array, "B"]:
        start = jnp.full(queries.index.shape, jnp.inf, x.dtype)
        return _scan_atoms(form, atoms, step, start, queries)

    return _map_queries(form, x, block)


def _sums(
    form: _Form, causal: bool, x: Array, atoms: _Atoms, kappa: Array, mu: Array
) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """z and s given any stabiliser mu; only additive carries, so that autodiff stays O(M + N)."""

    def tile(queries: _Queries, atoms: _Atoms, mu: Array, kappa: Array) -> _Sums:
        sums = _no_sums(form, mu, atoms)
        for exponents, payload, j in form.exponents(queries, atoms, mu, kappa):
            if causal:
                exponents = jnp.where(j <= queries.index, exponents, -far(mu.dtype))
            sums = _plus(sums, _weighted(exp2(exponents), payload))
        return sums

    def block(queries: _Queries, mu: Array) -> _Sums:
        def step(sums: _Sums, queries: _Queries, atoms: _Atoms) -> _Sums:
            return _plus(sums, jax.checkpoint(tile)(queries, atoms, mu, kappa))

        return _scan_atoms(form, atoms, step, _no_sums(form, mu, atoms), queries)

    return _gather(form, _map_queries(form, x, block, mu))


def _running_sums(
    form: _Form, causal: bool, x: Array, atoms: _Atoms, kappa: Array
) -> tuple[Float[Array, "M"], Float[Array, "M"], Float[Array, "M p"]]:
    """mu, z and s in one pass, rescaling the sums whenever the minimum falls: not for autodiff."""

    def step(carry: tuple[Array, _Sums], queries: _Queries, atoms: _Atoms) -> tuple[Array, _Sums]:
        mu, sums = carry
        for q, payload, _ in _seen_costs(form, causal, queries, atoms):
            lower = jnp.minimum(mu, jnp.min(q, axis=0))
            shrink = exp2(kappa * (lower - mu))
            scaled = jax.tree.map(lambda a, shrink=shrink: a * shrink, sums)
            mu, sums = lower, _plus(scaled, _weighted(exp2(kappa * (lower - q)), payload))
        return mu, sums

    def block(queries: _Queries) -> tuple[Array, _Sums]:
        start = jnp.full(queries.index.shape, far(x.dtype), x.dtype)
        return _scan_atoms(form, atoms, step, (start, _no_sums(form, start, atoms)), queries)

    mu, sums = _map_queries(form, x, block)
    return mu, *_gather(form, sums)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _minimum_and_sums(
    form: _Form,
    slope: _Form,
    causal: bool,
    x: Array,
    points: Array,
    heights: Array,
    payload: Array,
    kappa: Array,
) -> tuple[Float[Array, "M"], Float[Array, "M"], Float[Array, "M p"]]:
    """mu, z and s in the fastest way for `form`; differentiated as `_sums` in the form `slope`."""
    del slope
    atoms = _indexed(points, heights, payload)
    if isinstance(form, _Product):
        return _running_sums(form, causal, x, atoms, kappa)
    mu = _minimum(form, causal, x, atoms)
    return mu, *_sums(form, causal, x, atoms, kappa, mu)


@functools.partial(_minimum_and_sums.defjvp, symbolic_zeros=True)
def _minimum_and_sums_jvp(form: _Form, slope: _Form, causal: bool, primals: Any, tangents: Any) -> Any:
    # z and s as functions of their inputs at a fixed mu: the same numbers, differentiable tile by tile.
    mu, z, s = _minimum_and_sums(form, slope, causal, *primals)
    mu = lax.stop_gradient(mu)
    moving = [_moves(tangent) for tangent in tangents]

    def sums(*moved: Array) -> tuple[Array, Array]:
        given = iter(moved)
        x, points, heights, payload, kappa = (
            next(given) if moves else primal for moves, primal in zip(moving, primals, strict=True)
        )
        return _sums(slope, causal, x, _indexed(points, heights, payload), kappa, mu)

    moved, directions = (
        tuple(a for a, moves in zip(arrays, moving, strict=True) if moves) for arrays in (primals, tangents)
    )
    dz, ds = jax.jvp(sums, moved, directions)[1]
    return (mu, z, s), (jnp.zeros_like(mu), dz, ds)


# What the passes are made of.


def _seen_costs(form: _Form, causal: bool, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
    """Costs, with atoms that a query may not see moved out of reach."""
    for q, payload, j in form.costs(queries, atoms):
        yield _Piece(jnp.where(j <= queries.index, q, far(q.dtype)) if causal else q, payload, j)


def _total(weights: Array) -> Float[Array, "B"]:
    return weights if weights.ndim == 1 else jnp.sum(weights, axis=0)


def _weighted(weights: Array, payload: Array) -> _Sums:
    if weights.ndim == 1:
        return _Sums(weights, tuple(weights * value for value in payload))
    return _Sums(_total(weights), (_product(payload, weights),) if payload.shape[0] else ())


def _no_sums(form: _Form, like: Float[Array, "B"], atoms: _Atoms) -> _Sums:
    channels, zero = atoms.payload.shape[0], jnp.zeros_like(like)
    if isinstance(form, _Columns):
        return _Sums(zero, (zero,) * channels)
    return _Sums(zero, (jnp.zeros((channels, *like.shape), like.dtype),) if channels else ())


def _gather(form: _Form, sums: _Sums) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    if not sums.s:
        return sums.z, jnp.zeros((*sums.z.shape, 0), sums.z.dtype)
    return sums.z, jnp.stack(sums.s, axis=1) if isinstance(form, _Columns) else sums.s[0].T


def _plus(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _scan_atoms(form: _Form, atoms: _Atoms, step: Any, start: Any, queries: _Queries) -> Any:
    """Fold `step` over tiles of atoms; the last tile is filled up with atoms out of reach."""
    n, size = atoms.heights.shape[0], form.atom_block
    tiles = -(-n // size)
    if tiles == 1:
        return step(start, queries, atoms)
    fill = (0, tiles * size - n)
    index = jnp.arange(tiles * size, dtype=jnp.int32)
    heights = jnp.where(index < n, jnp.pad(atoms.heights, fill), far(atoms.heights.dtype))
    payload = jnp.pad(atoms.payload, [(0, 0), fill])
    tiled = _Atoms(
        # Filled with a copy of a real atom, on which any cost that worked so far works.
        points=jnp.pad(atoms.points, [fill, (0, 0)], mode="edge").reshape(tiles, size, -1),
        heights=heights.reshape(tiles, size),
        payload=jnp.moveaxis(payload.reshape(-1, tiles, size), 1, 0),
        index=index.reshape(tiles, size),
    )
    return lax.scan(lambda carry, tile: (step(carry, queries, tile), None), start, tiled)[0]


def _map_queries(form: _Form, x: Float[Array, "M d"], block: Any, *per_query: Array) -> Any:
    """Run `block` over blocks of queries, one after another, recomputing each in a backward pass.

    Its results have the queries last, `(..., B)`, and so has what this returns, `(..., M)`.
    """
    m, size = x.shape[0], form.query_block
    blocks = -(-m // size)

    @jax.checkpoint
    def one(operands: tuple[Array, ...]) -> Any:
        points, index, *rest = operands
        return block(_Queries(points.T, index), *rest)

    operands = (x, jnp.arange(m, dtype=jnp.int32), *per_query)
    if blocks == 1:
        return one(operands)
    fill = (0, blocks * size - m)
    padded = [jnp.pad(a, [fill] + [(0, 0)] * (a.ndim - 1), mode="edge") for a in operands]
    result = lax.map(one, tuple(a.reshape(blocks, size, *a.shape[1:]) for a in padded))
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], blocks * size)[..., :m], result)
