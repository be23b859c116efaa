"""Streaming: tiles of queries against tiles of atoms, nothing larger than a tile ever in memory.

The idea. A soft-min needs the least cost of each query (to scale by) and then additive sums:

    mu_i = min_j q_ij        z_i = sum_j 2^(kappa (mu_i - q_ij))        s_i = sum_j 2^(...) payload_j

with `q = (c + heights)/scale` in the cost's own units, so that the min pass has no multiplication by
1/eps, and `kappa = scale log2(e)/eps`. Then `value = base + scale mu - eps log(2) log2(z)`.

Derivatives. The result does not depend on mu, so mu is a constant to autodiff, and what is
differentiated is a scan whose carry is only *added to*, with each tile's body under `jax.checkpoint`
(the carry left outside of it: it is no residual) and each block of queries under one more. Plain JAX
autodiff then gives every mode and order with O(M + N) memory: the backward pass recomputes each tile.

Four forms of a tile:

- `_Columns`, d <= 8: a block of queries is the vector axis, atoms are scalars in an unrolled loop, and the
  cost is built coordinate by coordinate from *differences*: no cancellation far from the origin.
- `_Affine`, d > 8: one matrix product per tile, `q = bias_j - x_i.y_j`, after centring the cloud; the
  rounding error of q is a few ulp of the squared diameter of the cloud.
- `_Differences`, d <= 8 with few queries or many payload channels: the same differences on a 2-D tile.
- `_Pairwise`: any other cost, called on a tile of pairs.

For `_Affine` a forward pass does min and sums in one go with a running rescale (one matrix product
instead of two); its derivative rule says "differentiate the additive form instead".
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
# compile time, which grows with (atoms per step) x (d + p). Tiles: 1,024 x 512 float32 is 2 MiB.
_COLUMN_QUERIES = 5120
_COLUMN_OPERATIONS = 192
_TILE_QUERIES = 1024
_TILE_ATOMS = 512
_LARGEST_COLUMN_DIMENSION = 8
_LARGEST_COLUMN_PAYLOAD = 16
_FEWEST_COLUMN_QUERIES = 32


class _Queries(NamedTuple):
    """One block of queries; `points` is (d, B) for columns and (B, d) for tiles."""

    points: Float[Array, "..."]
    index: Int[Array, "B"]


class _Atoms(NamedTuple):
    """One tile of atoms. An absent or padding atom has a height that no real cost reaches."""

    points: Float[Array, "n d"]
    heights: Float[Array, "n"]
    payload: Float[Array, "n p"]
    index: Int[Array, "n"]


class _Piece(NamedTuple):
    """Costs of a block of queries to one atom, `(B,)`, or to a tile of them, `(B, n)`."""

    costs: Array
    payload: Array
    index: Array


class _Form(eqx.Module):
    """How a tile computes its costs; the passes below are the same for all forms."""

    query_block: eqx.AbstractVar[int]
    atom_block: eqx.AbstractVar[int]

    @abc.abstractmethod
    def pieces(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        """Costs q of these queries to these atoms."""


class _Columns(_Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    squared: bool = eqx.field(static=True)  # |x - y|^2, else -x.y

    def pieces(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        for j in range(atoms.heights.shape[0]):
            q = atoms.heights[j]
            for k in range(atoms.points.shape[1]):
                q = _add_coordinate(q, queries.points[k], atoms.points[j, k], self.squared)
            yield _Piece(q, atoms.payload[j], atoms.index[j])


class _Differences(_Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    squared: bool = eqx.field(static=True)

    def pieces(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        q = atoms.heights
        for k in range(atoms.points.shape[1]):
            q = _add_coordinate(q, queries.points[:, k, None], atoms.points[:, k], self.squared)
        yield _Piece(q, atoms.payload, atoms.index)


class _Affine(_Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)

    def pieces(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        product = jnp.matmul(queries.points, atoms.points.T, precision="highest")
        yield _Piece(atoms.heights - product, atoms.payload, atoms.index)


class _Pairwise(_Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    cost: Callable[[Array, Array], Array]

    def pieces(self, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
        pairs = jax.vmap(lambda x: jax.vmap(lambda y: self.cost(x, y))(atoms.points))
        yield _Piece(pairs(queries.points) + atoms.heights, atoms.payload, atoms.index)


def _add_coordinate(q: Array, x: Array, y: Array, squared: bool) -> Array:
    return q + (x - y) * (x - y) if squared else q - x * y


class _Plan(NamedTuple):
    """A problem in a form's own coordinates: `c + heights = scale (q + offset_i)`."""

    form: _Form
    x: Float[Array, "M d"]
    atoms: _Atoms
    scale: Float[Array, ""]
    offset: Float[Array, "M"] | None


def softmin(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """Value and Gibbs means; O(M + N) memory, derivatives of every order included."""
    plan = _plan(problem)
    kappa = plan.scale * math.log2(math.e) / problem.eps
    if isinstance(plan.form, _Affine):
        points = (plan.x, plan.atoms.points, plan.atoms.heights, plan.atoms.payload, kappa)
        mu, z, s = _online(plan.form, problem.causal, *points)
    else:
        mu = _minimum(plan, problem.causal)
        z, s = _sums(plan.form, problem.causal, plan.x, plan.atoms, kappa, mu)
    some = mu < far(mu.dtype) / 2
    least = mu if plan.offset is None else mu + plan.offset
    value = problem.base + plan.scale * least - problem.eps * math.log(2) * jnp.log2(z)
    # A query that sees no atom has its weights spread over absent ones: no mean, no derivative.
    return jnp.where(some, value, jnp.inf), jnp.where(some[:, None], s / z[:, None], 0)


def argmin(problem: Problem) -> Int[Array, "M"]:
    """The first index of the least cost."""
    plan = _plan(problem)

    def step(carry: tuple[Array, Array], queries: _Queries, atoms: _Atoms) -> tuple[Array, Array]:
        least, index = carry
        for q, _, j in _seen(plan.form, problem.causal, queries, atoms):
            q = lax.stop_gradient(q)
            if q.ndim == 2:
                column = jnp.argmin(q, axis=1)
                q, j = jnp.take_along_axis(q, column[:, None], axis=1)[:, 0], j[column]
            index = jnp.where(q < least, j, index)
            least = jnp.minimum(q, least)
        return least, index

    def block(queries: _Queries) -> Int[Array, "B"]:
        start = _filled(queries, jnp.inf, plan.x.dtype), jnp.zeros_like(queries.index)
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
        for q, _, j in _seen(plan.form, problem.causal, queries, atoms):
            # Absent atoms are far, and far times a weight of 2^-126 is not nothing.
            others = (_against(index, q) != j) & (q < far(q.dtype) / 2)
            excess = jnp.where(others, kappa * (q - _against(mu, q)), 0)
            weights = jnp.where(others, exp2(-excess), 0)
            mass, energy = mass + _total(weights), energy + _total(weights * excess)
        return mass, energy

    def block(queries: _Queries, mu: Array, index: Array) -> tuple[Array, Array]:
        def step(carry: tuple[Array, Array], queries: _Queries, atoms: _Atoms) -> tuple[Array, Array]:
            return _plus(carry, jax.checkpoint(tile)(queries, atoms, mu, index, kappa))

        zero = _filled(queries, 0, mu.dtype)
        return _scan_atoms(plan.form, plan.atoms, step, (zero, zero), queries)

    mass, energy = _map_queries(plan.form, plan.x, block, mu, index)
    return mass, energy * math.log(2)


def describe(problem: Problem) -> str:
    """The form and the tile sizes that this problem would run with, in words."""
    form = _plan(problem).form
    kind = {
        _Columns: "differences coordinate by coordinate",
        _Differences: "differences coordinate by coordinate",
        _Affine: "one matrix product a tile",
    }.get(type(form), "the given cost on tiles of pairs")
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
    if squared and (d > _LARGEST_COLUMN_DIMENSION or isinstance(cost, Mahalanobis)):
        # Exact algebra for any centre, and exact arithmetic for one that the cloud is close to.
        count = jnp.maximum(jnp.sum(problem.present), 1).astype(y.dtype)
        centre = lax.stop_gradient(jnp.sum(jnp.where(problem.present[:, None], y, 0), 0) / count)
        x, y = x - centre, y - centre
        if isinstance(cost, Mahalanobis):
            x, y = cost.hamiltonian.whiten(x), cost.hamiltonian.whiten(y)
    tile = _even(m, _TILE_QUERIES, 16), min(n, _TILE_ATOMS)
    if not (squared or isinstance(cost, Bilinear)):
        form = _Pairwise(*tile, cost)
    elif d > _LARGEST_COLUMN_DIMENSION:
        form = _Affine(*tile)
        if squared:
            offset, heights = jnp.sum(x * x, axis=1), heights + jnp.sum(y * y, axis=1)
            x = 2 * x
    elif m < _FEWEST_COLUMN_QUERIES or channels > _LARGEST_COLUMN_PAYLOAD:
        form = _Differences(*tile, squared)
    else:
        unroll = min(64, max(8, _COLUMN_OPERATIONS // (2 + d + channels)))
        form = _Columns(_even(m, _COLUMN_QUERIES, 16), min(n, unroll), squared)
    heights = jnp.where(problem.present, heights, far(x.dtype))
    atoms = _Atoms(y, heights, problem.payload, jnp.arange(n, dtype=jnp.int32))
    return _Plan(form, x, atoms, scale, offset)


def _even(count: int, largest: int, multiple: int) -> int:
    """A block size of about `largest` at most that splits `count` evenly, up to rounding."""
    blocks = -(-count // largest)
    size = -(-count // blocks)
    return size if blocks == 1 else -(-size // multiple) * multiple


# The three passes.


def _minimum(plan: _Plan, causal: bool) -> Float[Array, "M"]:
    def step(least: Array, queries: _Queries, atoms: _Atoms) -> Array:
        for q, _, _ in _seen(plan.form, causal, queries, atoms):
            q = lax.stop_gradient(q)  # here, so that the scan carries no tangents to begin with
            least = jnp.minimum(least, q if q.ndim == 1 else jnp.min(q, axis=1))
        return least

    def block(queries: _Queries) -> Float[Array, "B"]:
        start = _filled(queries, jnp.inf, plan.x.dtype)
        return _scan_atoms(plan.form, plan.atoms, step, start, queries)

    return _map_queries(plan.form, plan.x, block)


def _sums(
    form: _Form, causal: bool, x: Array, atoms: _Atoms, kappa: Array, mu: Array
) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """z and s given any stabiliser mu; only additive carries, so that autodiff stays O(M + N)."""

    def tile(queries: _Queries, atoms: _Atoms, mu: Array, kappa: Array) -> _Sums:
        sums = _no_sums(form, mu, atoms)
        for q, payload, _ in _seen(form, causal, queries, atoms):
            weights = exp2(kappa * (_against(mu, q) - q))
            sums = _plus(sums, _Sums(_total(weights), _weigh(weights, payload)))
        return sums

    def block(queries: _Queries, mu: Array) -> _Sums:
        def step(sums: _Sums, queries: _Queries, atoms: _Atoms) -> _Sums:
            return _plus(sums, jax.checkpoint(tile)(queries, atoms, mu, kappa))

        return _scan_atoms(form, atoms, step, _no_sums(form, mu, atoms), queries)

    sums = _map_queries(form, x, block, mu)
    return sums.z, _gather(form, sums, atoms.payload.shape[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _online(
    form: _Form, causal: bool, x: Array, points: Array, heights: Array, payload: Array, kappa: Array
) -> tuple[Float[Array, "M"], Float[Array, "M"], Float[Array, "M p"]]:
    """mu, z and s in one pass, rescaling the sums whenever the minimum falls."""
    atoms = _Atoms(points, heights, payload, jnp.arange(heights.shape[0], dtype=jnp.int32))

    def step(carry: tuple[Array, _Sums], queries: _Queries, atoms: _Atoms) -> tuple[Array, _Sums]:
        mu, sums = carry
        for q, payload, _ in _seen(form, causal, queries, atoms):
            lower = jnp.minimum(mu, jnp.min(q, axis=1))
            shrink = exp2(kappa * (lower - mu))
            weights = exp2(kappa * (lower[:, None] - q))
            scaled = _Sums(sums.z * shrink, tuple(c * shrink[:, None] for c in sums.s))
            mu, sums = lower, _plus(scaled, _Sums(_total(weights), _weigh(weights, payload)))
        return mu, sums

    def block(queries: _Queries) -> tuple[Array, _Sums]:
        start = _filled(queries, far(x.dtype), x.dtype)
        return _scan_atoms(form, atoms, step, (start, _no_sums(form, start, atoms)), queries)

    mu, sums = _map_queries(form, x, block)
    return mu, sums.z, _gather(form, sums, atoms.payload.shape[1])


@functools.partial(_online.defjvp, symbolic_zeros=True)
def _online_jvp(form: _Form, causal: bool, primals: Any, tangents: Any) -> Any:
    # z and s as functions of their inputs at a fixed mu: the same numbers, differentiable tile by tile.
    mu, z, s = _online(form, causal, *primals)
    mu = lax.stop_gradient(mu)
    moving = [not isinstance(t, jax.custom_derivatives.SymbolicZero) for t in tangents]

    def sums(*moved: Array) -> tuple[Array, Array]:
        given = iter(moved)
        x, points, heights, payload, kappa = (
            next(given) if moves else lax.stop_gradient(primal)
            for moves, primal in zip(moving, primals, strict=True)
        )
        index = jnp.arange(heights.shape[0], dtype=jnp.int32)
        return _sums(form, causal, x, _Atoms(points, heights, payload, index), kappa, mu)

    chosen = [[a for a, moves in zip(b, moving, strict=True) if moves] for b in (primals, tangents)]
    dz, ds = jax.jvp(sums, *map(tuple, chosen))[1]
    return (mu, z, s), (jnp.zeros_like(mu), dz, ds)


# What the passes are made of.


class _Sums(NamedTuple):
    """Sum of weights `(B,)`, and of weighted payload: p vectors for columns, one `(B, p)` for tiles."""

    z: Array
    s: tuple[Array, ...]


def _no_sums(form: _Form, like: Float[Array, "B"], atoms: _Atoms) -> _Sums:
    channels = atoms.payload.shape[1]
    zero = jnp.zeros_like(like)
    if isinstance(form, _Columns):
        return _Sums(zero, (zero,) * channels)
    return _Sums(zero, (jnp.zeros((*like.shape, channels), like.dtype),) if channels else ())


def _weigh(weights: Array, payload: Array) -> tuple[Array, ...]:
    if weights.ndim == 1:
        return tuple(weights * payload[c] for c in range(payload.shape[0]))
    if payload.shape[1] == 0:
        return ()
    return (jnp.matmul(weights, payload, precision="highest"),)


def _gather(form: _Form, sums: _Sums, channels: int) -> Float[Array, "M p"]:
    if channels == 0:
        return jnp.zeros((*sums.z.shape, 0), sums.z.dtype)
    return jnp.stack(sums.s, axis=1) if isinstance(form, _Columns) else sums.s[0]


def _total(weights: Array) -> Float[Array, "B"]:
    return weights if weights.ndim == 1 else jnp.sum(weights, axis=1)


def _against(per_query: Float[Array, "B"], q: Array) -> Array:
    return per_query if q.ndim == 1 else per_query[:, None]


def _plus(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _filled(queries: _Queries, value: float, dtype: Any) -> Float[Array, "B"]:
    return jnp.full(queries.index.shape, value, dtype)


def _seen(form: _Form, causal: bool, queries: _Queries, atoms: _Atoms) -> Iterator[_Piece]:
    """The pieces of a tile, with atoms that a query may not see moved out of reach."""
    for q, payload, j in form.pieces(queries, atoms):
        if causal:
            q = jnp.where(j <= _against(queries.index, q), q, far(q.dtype))
        yield _Piece(q, payload, j)


def _scan_atoms(form: _Form, atoms: _Atoms, step: Any, start: Any, queries: _Queries) -> Any:
    """Fold `step` over tiles of atoms; the last tile is filled up with atoms out of reach."""
    n, size = atoms.heights.shape[0], form.atom_block
    tiles = -(-n // size)
    if tiles == 1:
        return step(start, queries, atoms)
    padding = tiles * size - n
    padded = jax.tree.map(lambda a: jnp.pad(a, [(0, padding)] + [(0, 0)] * (a.ndim - 1), mode="edge"), atoms)
    if padding:
        reach = jnp.arange(tiles * size) < n
        padded = padded._replace(
            heights=jnp.where(reach, padded.heights, far(padded.heights.dtype)),
            index=jnp.arange(tiles * size, dtype=jnp.int32),
        )
    tiled = jax.tree.map(lambda a: a.reshape(tiles, size, *a.shape[1:]), padded)
    return lax.scan(lambda carry, tile: (step(carry, queries, tile), None), start, tiled)[0]


def _map_queries(form: _Form, x: Float[Array, "M d"], block: Any, *per_query: Array) -> Any:
    """Run `block` over blocks of queries, one after another, recomputing each in a backward pass."""
    m, size = x.shape[0], form.query_block
    blocks = -(-m // size)

    def one(operands: tuple[Array, ...]) -> Any:
        points, index, *rest = operands
        points = points.T if isinstance(form, _Columns) else points
        return block(_Queries(points, index), *rest)

    operands = (x, jnp.arange(m, dtype=jnp.int32), *per_query)
    if blocks == 1:
        return jax.checkpoint(one)(operands)
    padding = blocks * size - m
    padded = tuple(
        jnp.pad(a, [(0, padding)] + [(0, 0)] * (a.ndim - 1), mode="edge").reshape(blocks, size, *a.shape[1:])
        for a in operands
    )
    result = lax.map(jax.checkpoint(one), padded)
    return jax.tree.map(lambda a: a.reshape(blocks * size, *a.shape[2:])[:m], result)
