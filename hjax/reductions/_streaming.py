"""Streaming: tiles of queries against tiles of atoms, nothing larger than a tile ever in memory.

The idea. A soft-min needs the least cost of each query (to scale by) and then additive sums:

    mu_i = min_j q_ij        z_i = sum_j 2^(kappa (mu_i - q_ij))        s_i = sum_j 2^(...) payload_j

with `q = (c + heights)/scale` and `kappa = scale log2(e)/eps`. Then `value = base + scale mu - eps log(2) log2(z)`.

Derivatives. The result does not depend on mu, so mu is a constant to autodiff, and what is
differentiated is a scan whose carry is only *added to*, with each tile's body under `jax.checkpoint`
(the carry left outside of it: it is no residual) and each block of queries under one more. Plain JAX
autodiff then gives every mode and order with O(M + N) memory: the backward pass recomputes each tile.

One pass. Values take minimum and sums in one go: in the `Product` form of `_tiles` with a running rescale (one
matrix product instead of two), in `Columns` with a stabiliser that a sample of the atoms has guessed. Neither
is what autodiff sees: one `custom_jvp` says "differentiate the additive sums of the slope form instead".
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from ._exp2 import exp2
from ._problem import Problem, cost_at, far, is_moving
from ._tiles import (
    Atoms,
    Form,
    Pairwise,
    Plan,
    Product,
    Queries,
    Sums,
    gathered,
    indexed,
    is_rough,
    no_sums,
    plan_of,
    plus,
    seen_costs,
    tile_spread,
    tile_sums,
    weighted,
)

# A sample of the atoms, at least 256 and one in 16, stands in for the minimum pass. Sums up to 2^100 have no
# clipped term; up to 2^20 they leave their inverse squares and cubes, which higher derivatives hold, above
# underflow; exponents up to 2^12 keep a weight's rounding error below 1e-3 even when two programs round the
# same cost differently.
_SAMPLE = 256
_SAMPLED_SHARE = 16
_FEWEST_GUESSED = 2048
_LARGEST_GUESSED_SUM = 2.0**100
_LARGEST_STABILISED_SUM = 2.0**20
_LARGEST_GUESSED_EXPONENT = 2.0**12


def softmin(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """Value and Gibbs means; O(M + N) memory, derivatives of every order included."""
    return gibbs(problem, *least_and_sums(problem))


def gibbs(
    problem: Problem, least: Float[Array, "M"], z: Float[Array, "M"], s: Float[Array, "M p"]
) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """Value and means from the sums of the weights, and of the payload under them, relative to a least cost q."""
    some = ~(least >= far(least.dtype) / 2)  # NaN is not nothing: it must show
    value = problem.base + plan_of(problem).scale * least - problem.eps * math.log(2) * jnp.log2(z)
    # A query that sees no atom has its weights spread over absent ones: no mean, no derivative.
    return jnp.where(some, value, jnp.inf), jnp.where(some[:, None], s / z[:, None], 0)


def least_and_sums(problem: Problem) -> tuple[Float[Array, "M"], Float[Array, "M"], Float[Array, "M p"]]:
    """About the least cost q of each query, and the sums relative to it."""

    def by(plan: Plan) -> tuple[Array, Array, Array]:
        kappa = plan.scale * math.log2(math.e) / problem.eps
        if isinstance(plan.form, Pairwise):
            # The cost may close over anything, traced values too, so no rule can name its inputs.
            mu = _minimum(plan.form, problem.causal, plan.x, plan.atoms)
            return lax.stop_gradient(mu), *_sums(plan.form, problem.causal, plan.x, plan.atoms, kappa, mu)
        forms = plan.form, plan.slope, problem.causal
        mu, z, s = minimum_and_sums(*forms, plan.x, *plan.atoms[:3], kappa)
        mu = lax.stop_gradient(mu)
        return mu if plan.offset is None else mu + plan.offset, z, s

    return _in_fit_form(problem, by)


def argmin(problem: Problem) -> Int[Array, "M"]:
    """The first index of the least cost."""

    def by(plan: Plan) -> Int[Array, "M"]:
        def step(carry: tuple[Array, Array], queries: Queries, atoms: Atoms) -> tuple[Array, Array]:
            least, index = carry
            for q, _, j in seen_costs(plan.form, problem.causal, queries, atoms):
                q = lax.stop_gradient(q)
                if q.ndim == 2:
                    row = jnp.argmin(q, axis=0)
                    q, j = jnp.take_along_axis(q, row[None], axis=0)[0], j[row, 0]
                lower = q < least
                if isinstance(plan.form, Pairwise):
                    # NaN counts as least, so that the value shows it.
                    lower |= jnp.isnan(q) & ~jnp.isnan(least)
                index = jnp.where(lower, j, index)
                least = jnp.minimum(q, least)
            return least, index

        def block(queries: Queries) -> Int[Array, "B"]:
            start = jnp.full(queries.index.shape, jnp.inf, plan.x.dtype), jnp.zeros_like(queries.index)
            return _scan_atoms(plan.form, plan.atoms, step, start, queries)[1]

        return _map_queries(plan.form, plan.x, block)

    return _in_fit_form(problem, by)


def spread(problem: Problem, index: Int[Array, "M"]) -> tuple[Float[Array, "M"], Float[Array, "M"]]:
    """Mass and energy of all atoms but `index`, relative to it: the entropy's two ingredients."""

    def by(plan: Plan) -> tuple[Array, Array]:
        kappa = plan.scale * math.log2(math.e) / problem.eps
        least = cost_at(problem, index) / plan.scale
        # Where nothing is in reach there is no weight, whatever it is relative to.
        least = jnp.where(least == jnp.inf, 0, least)
        mu = least if plan.offset is None else least - plan.offset
        tile = functools.partial(tile_spread, plan.form, problem.causal)

        def block(queries: Queries, mu: Array, index: Array) -> tuple[Array, Array]:
            def step(carry: tuple[Array, Array], queries: Queries, atoms: Atoms) -> tuple[Array, Array]:
                return plus(carry, jax.checkpoint(tile)(queries, atoms, mu, index, kappa))

            start = jnp.zeros_like(mu), jnp.zeros_like(mu)
            return _scan_atoms(plan.form, plan.atoms, step, start, queries)

        mass, energy = _map_queries(plan.form, plan.x, block, mu, index)
        mass = jnp.where(jnp.isnan(mu), mu, mass)  # no atom counts relative to NaN, which must show
        return mass, energy * math.log(2)

    return _in_fit_form(problem, by)


def _in_fit_form(problem: Problem, by: Callable[[Plan], Any]) -> Any:
    """`by` the fastest plan, or where its costs would be too rough for this eps, by one of differences."""
    plan = plan_of(problem)
    if plan.offset is None:
        return by(plan)
    rough = is_rough(plan, plan.scale * math.log2(math.e) / problem.eps)
    return lax.cond(rough, lambda: by(plan_of(problem, differences=True)), lambda: by(plan))


def describe(problem: Problem) -> str:
    """The form and the tile sizes that this problem would run with, in words."""
    form = plan_of(problem).form
    if isinstance(form, Pairwise):
        kind = "the given cost on pairs"
    elif isinstance(form, Product) and not form.squared:
        kind = "matrix products"
    else:
        kind = "coordinate by coordinate"
    return f"{kind}, tiles of {form.query_block} queries x {form.atom_block} atoms"


def _lower(form: Form, causal: bool, least: Array, queries: Queries, atoms: Atoms) -> Array:
    def lower() -> Array:
        lower = least
        for q, _, _ in seen_costs(form, causal, queries, atoms):
            q = lax.stop_gradient(q)  # here, so that a scan carries no tangents to begin with
            lower = jnp.minimum(lower, q if q.ndim == 1 else jnp.min(q, axis=0))
        return lower

    return _unless_later(causal, queries, atoms, lower, least)


def _unless_later(causal: bool, queries: Queries, atoms: Atoms, then: Callable[[], Any], otherwise: Any) -> Any:
    """`then()`, or, if no query may see any of these atoms, what it would change nothing of."""
    if not causal:
        return then()
    return lax.cond(atoms.index[0] <= queries.index[-1], then, lambda: otherwise)


def _tile_sums(form: Form, causal: bool, queries: Queries, atoms: Atoms, mu: Array, kappa: Array) -> Sums:
    def then() -> Sums:
        return tile_sums(form, causal, queries, atoms, mu, kappa)

    return _unless_later(causal, queries, atoms, then, no_sums(form, mu, atoms))


def _minimum(form: Form, causal: bool, x: Array, atoms: Atoms) -> Float[Array, "M"]:
    def block(queries: Queries) -> Float[Array, "B"]:
        start = jnp.full(queries.index.shape, jnp.inf, x.dtype)
        return _scan_atoms(form, atoms, functools.partial(_lower, form, causal), start, queries)

    return _map_queries(form, x, block)


def _sums(
    form: Form, causal: bool, x: Array, atoms: Atoms, kappa: Array, mu: Array
) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
    """z and s given any stabiliser mu; only additive carries, so that autodiff stays O(M + N)."""
    tile = functools.partial(_tile_sums, form, causal)

    def block(queries: Queries, mu: Array) -> Sums:
        def step(sums: Sums, queries: Queries, atoms: Atoms) -> Sums:
            return plus(sums, jax.checkpoint(tile)(queries, atoms, mu, kappa))

        return _scan_atoms(form, atoms, step, no_sums(form, mu, atoms), queries)

    return gathered(form, _map_queries(form, x, block, mu))


def _guessed_sums(
    form: Form, causal: bool, x: Array, atoms: Atoms, kappa: Array
) -> tuple[Float[Array, "M"], Float[Array, "M"], Float[Array, "M p"]]:
    """mu, z and s in one pass where a sample of the atoms comes near enough to the minimum, else in two.

    Any mu near the minimum will do as a stabiliser. "Near" is read off the sums: an atom far below the
    sample makes them large, or infinite. Not for autodiff.
    """
    n = atoms.heights.shape[0]
    stride = n // max(_SAMPLE, n // _SAMPLED_SHARE)
    sample = jax.tree.map(lambda a: a[::stride], atoms._replace(payload=atoms.payload.T))
    sample = sample._replace(payload=sample.payload.T)

    def block(queries: Queries) -> tuple[Array, Sums]:
        def least(atoms: Atoms) -> Array:
            start = jnp.full(queries.index.shape, far(x.dtype), x.dtype)
            return _scan_atoms(form, atoms, functools.partial(_lower, form, causal), start, queries)

        def sums_at(mu: Array) -> Sums:
            def step(sums: Sums, queries: Queries, atoms: Atoms) -> Sums:
                return plus(sums, _tile_sums(form, causal, queries, atoms, mu, kappa))

            return _scan_atoms(form, atoms, step, no_sums(form, mu, atoms), queries)

        def turn(state: tuple[Array, Array, Array, Sums]) -> tuple[Array, Array, Array, Sums]:
            guessed, _, mu, _ = state
            _, mu = lax.while_loop(lambda state: ~state[0], lambda _: (jnp.asarray(True), least(atoms)), (guessed, mu))
            sums = sums_at(mu)
            near = [jnp.all(jnp.abs(a) < _LARGEST_GUESSED_SUM) for a in (sums.z, *sums.s)]
            # The true minimum always ends it.
            return jnp.asarray(False), functools.reduce(jnp.logical_and, near) | ~guessed, mu, sums

        # Loops of at most one turn, and of two, not `cond`: under vmap that would do everything, and each
        # pass would be compiled twice.
        mu = least(sample)
        guessed = jnp.all(kappa * jnp.abs(mu) < _LARGEST_GUESSED_EXPONENT)
        start = guessed, jnp.asarray(False), mu, no_sums(form, mu, atoms)
        _, _, mu, sums = lax.while_loop(lambda state: ~state[1], turn, start)
        # The minimum is known better now. The factor is that of the rounded change, and so belongs to it.
        lower = jnp.where(sums.z > _LARGEST_STABILISED_SUM, mu - jnp.log2(sums.z) / kappa, mu)
        factor = exp2(kappa * (lower - mu))
        return lower, jax.tree.map(lambda a: a * factor, sums)

    mu, sums = _map_queries(form, x, block)
    return mu, *gathered(form, sums)


def _running_sums(
    form: Form, causal: bool, x: Array, atoms: Atoms, kappa: Array
) -> tuple[Float[Array, "M"], Float[Array, "M"], Float[Array, "M p"]]:
    """mu, z and s in one pass, rescaling the sums whenever the minimum falls: not for autodiff."""

    def step(carry: tuple[Array, Sums], queries: Queries, atoms: Atoms) -> tuple[Array, Sums]:
        def then() -> tuple[Array, Sums]:
            mu, sums = carry
            for q, payload, _ in seen_costs(form, causal, queries, atoms):
                lower = jnp.minimum(mu, jnp.min(q, axis=0))
                shrink = exp2(kappa * (lower - mu))
                scaled = jax.tree.map(lambda a, shrink=shrink: a * shrink, sums)
                mu, sums = lower, plus(scaled, weighted(exp2(kappa * (lower - q)), payload))
            return mu, sums

        return _unless_later(causal, queries, atoms, then, carry)

    def block(queries: Queries) -> tuple[Array, Sums]:
        start = jnp.full(queries.index.shape, far(x.dtype), x.dtype)
        return _scan_atoms(form, atoms, step, (start, no_sums(form, start, atoms)), queries)

    mu, sums = _map_queries(form, x, block)
    return mu, *gathered(form, sums)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def minimum_and_sums(
    form: Form,
    slope: Form,
    causal: bool,
    x: Array,
    points: Array,
    heights: Array,
    payload: Array,
    kappa: Array,
) -> tuple[Float[Array, "M"], Float[Array, "M"], Float[Array, "M p"]]:
    """mu, z and s in the fastest way for `form`; differentiated as `_sums` in the form `slope`."""
    del slope
    atoms = indexed(points, heights, payload)
    if isinstance(form, Product):
        return _running_sums(form, causal, x, atoms, kappa)
    if heights.shape[0] >= _FEWEST_GUESSED:
        return _guessed_sums(form, causal, x, atoms, kappa)
    mu = _minimum(form, causal, x, atoms)
    return mu, *_sums(form, causal, x, atoms, kappa, mu)


@functools.partial(minimum_and_sums.defjvp, symbolic_zeros=True)
def _minimum_and_sums_jvp(form: Form, slope: Form, causal: bool, primals: Any, tangents: Any) -> Any:
    # z and s as functions of their inputs at a fixed mu: the same numbers, differentiable tile by tile.
    mu, z, s = minimum_and_sums(form, slope, causal, *primals)
    mu = lax.stop_gradient(mu)
    moving = [is_moving(tangent) for tangent in tangents]

    def sums(*moved: Array) -> tuple[Array, Array]:
        given = iter(moved)
        x, points, heights, payload, kappa = (
            next(given) if moves else primal for moves, primal in zip(moving, primals, strict=True)
        )
        return _sums(slope, causal, x, indexed(points, heights, payload), kappa, mu)

    moved, directions = (
        tuple(a for a, moves in zip(arrays, moving, strict=True) if moves) for arrays in (primals, tangents)
    )
    dz, ds = jax.jvp(sums, moved, directions)[1]
    return (mu, z, s), (jnp.zeros_like(mu), dz, ds)


def _scan_atoms(form: Form, atoms: Atoms, step: Any, start: Any, queries: Queries) -> Any:
    """Fold `step` over tiles of atoms; the last tile is filled up with atoms out of reach."""
    n, size = atoms.heights.shape[0], form.atom_block
    tiles = -(-n // size)
    if tiles == 1:
        return step(start, queries, atoms)
    fill = (0, tiles * size - n)
    heights = jnp.pad(atoms.heights, fill, constant_values=far(atoms.heights.dtype))
    # Of a sample, the places in the whole: a causal query looks at them.
    index = jnp.pad(atoms.index, fill, constant_values=jnp.iinfo(jnp.int32).max)
    payload = jnp.pad(atoms.payload, [(0, 0), fill])
    tiled = Atoms(
        # Filled with a copy of a real atom, on which any cost that worked so far works.
        points=jnp.pad(atoms.points, [fill, (0, 0)], mode="edge").reshape(tiles, size, -1),
        heights=heights.reshape(tiles, size),
        payload=jnp.moveaxis(payload.reshape(-1, tiles, size), 1, 0),
        index=index.reshape(tiles, size),
    )
    return lax.scan(lambda carry, tile: (step(carry, queries, tile), None), start, tiled)[0]


def _map_queries(form: Form, x: Float[Array, "M d"], block: Any, *per_query: Array) -> Any:
    """Run `block` over blocks of queries, one after another, recomputing each in a backward pass.

    Its results have the queries last, `(..., B)`, and so has what this returns, `(..., M)`.
    """
    m, size = x.shape[0], form.query_block
    blocks = -(-m // size)

    @jax.checkpoint
    def one(operands: tuple[Array, ...]) -> Any:
        points, index, *rest = operands
        return block(Queries(points.T, index), *rest)

    operands = (x, jnp.arange(m, dtype=jnp.int32), *per_query)
    if blocks == 1:
        return one(operands)
    fill = (0, blocks * size - m)
    padded = [jnp.pad(a, [fill] + [(0, 0)] * (a.ndim - 1), mode="edge") for a in operands]
    result = lax.map(one, tuple(a.reshape(blocks, size, *a.shape[1:]) for a in padded))
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], blocks * size)[..., :m], result)
