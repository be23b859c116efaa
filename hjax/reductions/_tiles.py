"""What one tile of queries against atoms computes: its costs, the exponents of its weights, its sums.

A tile is laid out with its queries as the last, contiguous axis, in one of three forms:

- `Columns`, d <= 16: atoms are scalars in an unrolled loop over one long vector of queries; the cost is
  built coordinate by coordinate from *differences*, so nothing cancels far from the origin. The
  fastest for values with a payload of two channels at most.
- `Product`: an (atoms, queries) tile. For d <= 16 its costs are the same differences; beyond, one
  matrix product on a centred cloud, with a rounding error of a few ulp of the squared diameter, unless
  `is_rough` says that this is too much: then differences again, at a third of the speed. Its derivative
  is two matrix products either way: the form that every derivative runs in.
- `Pairwise`: any other cost, called on a tile of pairs.

Costs are in the problem's own units, `q = (c + heights)/scale`, so that a minimum has no multiplication
by 1/eps, and `kappa = scale log2(e)/eps` turns them into binary exponents.
"""

import abc
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from ._costs import Bilinear, Mahalanobis, SquaredEuclidean
from ._exp2 import exp2
from ._problem import Problem, far, is_moving


class _Sizes(NamedTuple):
    """How many queries a block of columns has (none: no columns), and a tile's queries and atoms."""

    columns: int | None
    queries: int
    atoms: int


# CPU, measured. Columns: a block of 5,120 float32 queries is 20 KiB a coordinate, so that block, running
# minimum and sums stay in the L1 and L2 caches. Tiles: 512 x 1,024 float32 is 2 MiB. Halved for float64
# they are no faster: one row serves both precisions.
# GPU and TPU, reasoned and not measured: each step of a loop is a kernel of its own, so tiles are as large
# as a cache level (32 MiB of a GPU's L2, 8 MiB of a TPU's VMEM) and there are no loops over single atoms.
_SIZES = {"cpu": _Sizes(5120, 1024, 512), "gpu": _Sizes(None, 8192, 1024), "tpu": _Sizes(None, 2048, 1024)}
# Unrolling amortises the loop of columns, and its limit is compile time, which grows with (atoms per step)
# x (d + p). XLA fuses each channel of a payload apart and computes the weights again for it: from three
# channels on, a matrix product with a tile of weights is faster, ten times at 16.
_COLUMN_OPERATIONS = 192
_LARGEST_DIFFERENCE_DIMENSION = 16
_LARGEST_COLUMN_PAYLOAD = 2
_FEWEST_COLUMN_QUERIES = 32


class Queries(NamedTuple):
    """One block of queries."""

    points: Float[Array, "d B"]
    index: Int[Array, "B"]


class Atoms(NamedTuple):
    """One tile of atoms. An absent or padding atom has a height that no real cost reaches."""

    points: Float[Array, "n d"]
    heights: Float[Array, "n"]
    payload: Float[Array, "p n"]
    index: Int[Array, "n"]


class Piece(NamedTuple):
    """Numbers of a block of queries for one atom, `(B,)`, or for a tile of them, `(n, B)`."""

    numbers: Array
    payload: Array
    index: Array


class Form(eqx.Module):
    """How a tile computes its costs; the passes below are the same for all forms."""

    query_block: eqx.AbstractVar[int]
    atom_block: eqx.AbstractVar[int]

    @abc.abstractmethod
    def costs(self, queries: Queries, atoms: Atoms) -> Iterator[Piece]:
        """The costs q."""

    @abc.abstractmethod
    def exponents(self, queries: Queries, atoms: Atoms, mu: Array, kappa: Array) -> Iterator[Piece]:
        """kappa (mu - q), the binary logarithms of the weights."""


class Columns(Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    squared: bool = eqx.field(static=True)  # |x - y|^2, else -x.y

    def costs(self, queries: Queries, atoms: Atoms) -> Iterator[Piece]:
        for j in range(atoms.heights.shape[0]):
            q = atoms.heights[j]
            for x, y in zip(queries.points, atoms.points[j], strict=True):
                q = q + (x - y) * (x - y) if self.squared else q - x * y
            yield Piece(q, atoms.payload[:, j], atoms.index[j])

    def exponents(self, queries: Queries, atoms: Atoms, mu: Array, kappa: Array) -> Iterator[Piece]:
        for q, payload, j in self.costs(queries, atoms):
            yield Piece(kappa * (mu - q), payload, j)


class Product(Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    squared: bool = eqx.field(static=True)

    def costs(self, queries: Queries, atoms: Atoms) -> Iterator[Piece]:
        q = _product_costs(self.squared, queries.points, atoms.points, atoms.heights)
        yield Piece(q, atoms.payload, atoms.index[:, None])

    def exponents(self, queries: Queries, atoms: Atoms, mu: Array, kappa: Array) -> Iterator[Piece]:
        arrays = queries.points, atoms.points, atoms.heights, mu, kappa
        # The barrier, and its transpose in a backward pass, keeps XLA from computing the exponential
        # once for every product that reads it.
        exponents = lax.optimization_barrier(_product_exponents(self.squared, *arrays))
        yield Piece(exponents, atoms.payload, atoms.index[:, None])


class Pairwise(Form):
    query_block: int = eqx.field(static=True)
    atom_block: int = eqx.field(static=True)
    cost: Callable[[Array, Array], Array]

    def costs(self, queries: Queries, atoms: Atoms) -> Iterator[Piece]:
        pairs = jax.vmap(lambda y: jax.vmap(lambda x: self.cost(x, y), in_axes=1)(queries.points))
        costs = pairs(atoms.points)
        # An atom that cannot be reached is as good as absent. Like that one's, its number is finite.
        q = jnp.where(costs == jnp.inf, far(costs.dtype), costs + atoms.heights[:, None])
        yield Piece(q, atoms.payload, atoms.index[:, None])

    def exponents(self, queries: Queries, atoms: Atoms, mu: Array, kappa: Array) -> Iterator[Piece]:
        for q, payload, j in self.costs(queries, atoms):
            yield Piece(_floored(kappa * (mu - q)), payload, j)


def _floored(exponents: Array) -> Array:
    """Far below the smallest number, but finite: an absent atom's -1e30/eps is no factor for a derivative."""
    return jnp.maximum(exponents, 2.0 * float(jnp.finfo(exponents.dtype).minexp))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _product_costs(squared: bool, x: Array, points: Array, heights: Array) -> Float[Array, "n B"]:
    if not squared:
        return heights[:, None] - _product(points, x)
    q = jnp.broadcast_to(heights[:, None], (points.shape[0], x.shape[1]))

    def add(q: Array, coordinates: tuple[Array, Array]) -> Array:
        for a, b in zip(*coordinates, strict=True):
            q = q + (a - b[:, None]) ** 2
        return q

    columns, d = points.T, points.shape[1]
    if d <= _LARGEST_DIFFERENCE_DIMENSION:
        return add(q, (x, columns))
    # In pieces, as a thousand coordinates would take a minute to compile.
    fill = (0, -d % _LARGEST_DIFFERENCE_DIMENSION), (0, 0)
    x, columns = (jnp.pad(a, fill).reshape(-1, _LARGEST_DIFFERENCE_DIMENSION, a.shape[1]) for a in (x, columns))
    return lax.scan(lambda q, piece: (add(q, piece), None), q, (x, columns))[0]


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
        factor, centre = 2, middle(points)
        x, points = x - centre[:, None], points - centre
    change = jnp.zeros_like(exponents)
    if is_moving(dx) or is_moving(dmu):
        dx, dmu = _dense_tangent(dx, x), _dense_tangent(dmu, mu)
        own = dmu - factor * jnp.sum(x * dx, axis=0) if squared else dmu
        rows = jnp.concatenate([factor * dx, own[None]])
        ones = jnp.ones_like(points[:, :1])
        change += _product(jnp.concatenate([points, ones], axis=1), kappa * rows)
    if is_moving(dpoints) or is_moving(dheights):
        dpoints, dheights = _dense_tangent(dpoints, points), _dense_tangent(dheights, heights)
        own = dheights + factor * jnp.sum(points * dpoints, axis=1) if squared else dheights
        columns = jnp.concatenate([factor * dpoints, -own[:, None]], axis=1)
        change += _product(columns, kappa * jnp.concatenate([x, jnp.ones_like(x[:1])]))
    if is_moving(dkappa):
        change += exponents * (dkappa / kappa)
    return exponents, change


def _dense_tangent(tangent: Any, primal: Array) -> Array:
    return tangent if is_moving(tangent) else jnp.zeros_like(primal)


class Plan(NamedTuple):
    """A problem in a form's own coordinates: `c + heights = scale (q + offset_i)`."""

    form: Form
    slope: Form  # the form that is differentiated
    x: Float[Array, "M d"]
    atoms: Atoms
    scale: Float[Array, ""]
    offset: Float[Array, "M"] | None


@jax.custom_batching.custom_vmap
def _any(flag: Array) -> Array:
    """Of a batch, one answer for all, so that a `cond` on it remains a choice under vmap."""
    return flag


@_any.def_vmap
def _any_of_batch(_: int, __: Any, flags: Array) -> tuple[Array, bool]:
    return jnp.any(flags), False


def is_rough(plan: Plan, kappa: Array) -> Bool[Array, ""]:
    """Whether matrix products may change weights by more than their 64th part: clusters much tighter than the cloud."""
    assert plan.offset is not None
    points = plan.atoms.points
    largest = jnp.max(plan.offset, initial=0) + jnp.max(jnp.sum(points * points, axis=1))
    return _any(lax.stop_gradient(kappa * largest) * 8 * float(jnp.finfo(largest.dtype).eps) > 2.0**-6)


def plan_of(problem: Problem, differences: bool = False) -> Plan:
    """The fastest form for a problem; with `differences` the fastest that has no matrix product for a cost."""
    m, n, d = problem.shape
    cost, x, y, heights = problem.cost, problem.x, problem.y, problem.heights
    channels = problem.payload.shape[1]
    squared = isinstance(cost, SquaredEuclidean | Mahalanobis)
    scale, offset = jnp.ones((), x.dtype), None
    if squared:
        scale = cost.scale.astype(x.dtype)
        heights = heights / scale
    differences = squared and (differences or d <= _LARGEST_DIFFERENCE_DIMENSION)
    if squared and (not differences or isinstance(cost, Mahalanobis)):
        # Exact algebra for any centre, and exact arithmetic for one that the cloud is close to.
        centre = middle(y)
        x, y = x - centre, y - centre
        if isinstance(cost, Mahalanobis):
            x, y = cost.hamiltonian.whiten(x), cost.hamiltonian.whiten(y)
    if squared and not differences:
        offset, heights = jnp.sum(x * x, axis=1), heights + jnp.sum(y * y, axis=1)
        x = 2 * x
    sizes = _SIZES.get(jax.default_backend(), _SIZES["gpu"])
    tile = _even(m, sizes.queries, 16), min(n, sizes.atoms)
    if squared or isinstance(cost, Bilinear):
        form = slope = Product(*tile, squared=differences)
        few = m < _FEWEST_COLUMN_QUERIES or channels > _LARGEST_COLUMN_PAYLOAD
        if d <= _LARGEST_DIFFERENCE_DIMENSION and not few and sizes.columns:
            unroll = min(64, max(12, _COLUMN_OPERATIONS // (2 + d + channels)))
            form = Columns(_even(m, sizes.columns, 16), min(n, unroll), differences)
    else:
        form = slope = Pairwise(*tile, cost)
    heights = jnp.where(problem.present, heights, far(x.dtype))
    return Plan(form, slope, x, indexed(y, heights, problem.payload.T), scale, offset)


def middle(points: Float[Array, "n d"]) -> Float[Array, "d"]:
    """The middle of the box around the points: unlike a mean, the same number however XLA reorders it.

    It is subtracted in two places that must agree to the last bit, and XLA may compute it in each.
    """
    return lax.stop_gradient((jnp.min(points, axis=0) + jnp.max(points, axis=0)) / 2)


def _even(count: int, largest: int, multiple: int) -> int:
    """A block size of about `largest` at most that splits `count` evenly, up to rounding."""
    blocks = max(1, -(-count // largest))
    size = -(-count // blocks)
    return max(1, size) if blocks == 1 else -(-size // multiple) * multiple


def indexed(points: Array, heights: Array, payload: Array) -> Atoms:
    return Atoms(points, heights, payload, jnp.arange(heights.shape[0], dtype=jnp.int32))


class Sums(NamedTuple):
    """Sums of the weights `(B,)`, and of the payload under them: p vectors, or one `(p, B)` array."""

    z: Float[Array, "B"]
    s: tuple[Array, ...]


def seen_costs(form: Form, causal: bool, queries: Queries, atoms: Atoms) -> Iterator[Piece]:
    """Costs, with atoms that a query may not see moved out of reach."""
    for q, payload, j in form.costs(queries, atoms):
        yield Piece(jnp.where(j <= queries.index, q, far(q.dtype)) if causal else q, payload, j)


def total(weights: Array) -> Float[Array, "B"]:
    return weights if weights.ndim == 1 else jnp.sum(weights, axis=0)


def weighted(weights: Array, payload: Array) -> Sums:
    if weights.ndim == 1:
        return Sums(weights, tuple(weights * value for value in payload))
    return Sums(total(weights), (_product(payload, weights),) if payload.shape[0] else ())


def no_sums(form: Form, like: Float[Array, "B"], atoms: Atoms) -> Sums:
    channels, zero = atoms.payload.shape[0], jnp.zeros_like(like)
    if isinstance(form, Columns):
        return Sums(zero, (zero,) * channels)
    return Sums(zero, (jnp.zeros((channels, *like.shape), like.dtype),) if channels else ())


def gathered(form: Form, sums: Sums) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    if not sums.s:
        return sums.z, jnp.zeros((*sums.z.shape, 0), sums.z.dtype)
    return sums.z, jnp.stack(sums.s, axis=1) if isinstance(form, Columns) else sums.s[0].T


def plus(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


# What is added up over tiles.


def tile_sums(form: Form, causal: bool, queries: Queries, atoms: Atoms, mu: Array, kappa: Array) -> Sums:
    """The weights of a tile, `2^(kappa (mu - q))`, and the payload under them, added up over its atoms."""
    sums = no_sums(form, mu, atoms)
    for exponents, payload, j in form.exponents(queries, atoms, mu, kappa):
        if causal:
            exponents = jnp.where(j <= queries.index, exponents, -far(mu.dtype))
        sums = plus(sums, weighted(exp2(exponents), payload))
    return sums


def tile_spread(
    form: Form, causal: bool, queries: Queries, atoms: Atoms, mu: Array, index: Array, kappa: Array
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Mass and energy of a tile's atoms but `index`, relative to that one's weight at mu."""
    mass = energy = jnp.zeros_like(mu)
    for q, _, j in seen_costs(form, causal, queries, atoms):
        # Below the smallest normal number `exp2` is held there, and an excess of 1e4 or an absent
        # atom's 1e30 times that is not nothing: such atoms are left out.
        excess = kappa * (q - mu)
        others = (index != j) & (excess < -float(jnp.finfo(q.dtype).minexp))
        excess = jnp.where(others, excess, 0)
        weights = jnp.where(others, exp2(-excess), 0)
        mass, energy = mass + total(weights), energy + total(weights * excess)
    return mass, energy
