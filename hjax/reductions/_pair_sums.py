"""Sums over selected pairs of tiles, as one JAX primitive with derivatives of every mode and order.

    out_b = sum over the selected tiles t of f(query_b, atoms_t, shared)

Which pairs are selected is decided at run time inside a `while_loop`, and autodiff has no reverse mode for
that. But the sum is linear in the values of f, so its derivatives are sums of the same kind:

- forward: the same sum of the derivative of f at the tile, linear in the tangents;
- reverse: the transpose of f at the tile, its results added to the blocks, the tiles, or what is shared;

and as each is again this primitive, every order follows. Nothing but the inputs is ever kept: a derivative
recomputes f tile by tile, so memory stays O(M + N).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from ._selection import Selection, walk


class _Kinds(NamedTuple):
    """How many arrays belong to each block, to each tile, and to all."""

    query: int
    atom: int
    shared: int

    def split(self, arrays: Any) -> tuple[list, list, list]:
        arrays = list(arrays)
        first, second = self.query, self.query + self.atom
        return arrays[:first], arrays[first:second], arrays[second:]


class _Static(NamedTuple):
    squared: bool
    group: int
    selection: Any  # the structure of a flattened Selection

    def select(self, arrays: Any) -> tuple[Selection, list[Any]]:
        """The selection, and the arrays behind it."""
        count = self.selection.num_leaves
        return jax.tree.unflatten(self.selection, arrays[:count]), list(arrays[count:])


def pair_sums(
    tile: Callable[..., Any], selection: Selection, query: Any, atoms: Any, shared: Any, *, squared: bool, group: int
) -> Any:
    """`sum_t tile(query_b, atoms_t, shared)` for each block b over its selected tiles t.

    Leaves of `query` have one row a block, those of `atoms` one row a tile, and `tile` sees single rows. It
    must not close over traced values. Differentiable in `query`, `atoms` and `shared` to any order.
    """
    flat, kinds, tree = _flatten(query, atoms, shared)
    rows = [_row(kind, a) for kind, group_ in zip(_Kinds._fields, kinds.split(flat), strict=True) for a in group_]
    results: list[Any] = []

    def flat_tile(*arrays: Array) -> list[Array]:
        leaves, structure = jax.tree.flatten(tile(*jax.tree.unflatten(tree, arrays)))
        results.append(structure)
        return leaves

    jaxpr = jax.make_jaxpr(flat_tile)(*rows)
    chosen, structure = jax.tree.flatten(lax.stop_gradient(selection))
    static = _Static(squared, group, structure)
    outs = _Kinds(len(jaxpr.out_avals), 0, 0)
    return jax.tree.unflatten(
        results[0], pair_sums_p.bind(*chosen, *flat, jaxpr=jaxpr, kinds=kinds, outs=outs, static=static)
    )


def _flatten(query: Any, atoms: Any, shared: Any) -> tuple[list[Array], _Kinds, Any]:
    kinds = _Kinds(*(len(jax.tree.leaves(a)) for a in (query, atoms, shared)))
    flat, tree = jax.tree.flatten((query, atoms, shared))
    return flat, kinds, tree


def _row(kind: str, array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape if kind == "shared" else array.shape[1:], array.dtype)


def _rows(kinds: _Kinds, arrays: Any) -> list[jax.ShapeDtypeStruct]:
    return [_row(kind, a) for kind, some in zip(_Kinds._fields, kinds.split(arrays), strict=True) for a in some]


pair_sums_p = Primitive("pair_sums")
pair_sums_p.multiple_results = True


def _abstract(*avals: Any, jaxpr: ClosedJaxpr, kinds: _Kinds, outs: _Kinds, static: _Static) -> list[Any]:
    selection, _ = static.select(avals)
    lead = [selection.counts.shape] * outs.query + [selection.tiles.level.shape] * outs.atom + [()] * outs.shared
    return [
        jax.core.ShapedArray((*front, *aval.shape), aval.dtype)
        for front, aval in zip(lead, jaxpr.out_avals, strict=True)
    ]


def _evaluate(*arrays: Array, jaxpr: ClosedJaxpr, kinds: _Kinds, outs: _Kinds, static: _Static) -> list[Array]:
    selection, given = static.select(arrays)
    query, atoms, shared = kinds.split(given)
    axes = [0] * (kinds.query + kinds.atom) + [None] * kinds.shared
    many = jax.vmap(jaxpr_as_fun(jaxpr), in_axes=axes)

    def masked(active: Array, change: Array) -> Array:
        return jnp.where(active.reshape(-1, *[1] * (change.ndim - 1)), change, 0)

    def step(common: Any, own: Any, rows: Any, tile: Array, active: Array) -> tuple[Any, Any]:
        changes = [masked(active, c) for c in many(*rows, *(a[tile] for a in atoms), *shared)]
        to_query, to_atoms, to_shared = outs.split(changes)
        per_tile, total = common
        own = [a + c for a, c in zip(own, to_query, strict=True)]
        per_tile = [a.at[tile].add(c) for a, c in zip(per_tile, to_atoms, strict=True)]
        total = [a + jnp.sum(c, axis=0) for a, c in zip(total, to_shared, strict=True)]
        return (per_tile, total), own

    avals = _abstract(*arrays, jaxpr=jaxpr, kinds=kinds, outs=outs, static=static)
    own, per_tile, total = outs.split([jnp.zeros(a.shape, a.dtype) for a in avals])
    (per_tile, total), own = walk(static.squared, selection, static.group, step, (per_tile, total), own, query)
    return [*own, *per_tile, *total]


def _jvp(primals: Any, tangents: Any, *, jaxpr: ClosedJaxpr, kinds: _Kinds, outs: _Kinds, static: _Static) -> Any:
    out = pair_sums_p.bind(*primals, jaxpr=jaxpr, kinds=kinds, outs=outs, static=static)
    selection, given = static.select(primals)
    chosen, given = jax.tree.leaves(selection), kinds.split(given)
    moving = kinds.split(static.select(tangents)[1])
    moves = [[type(t) is not ad.Zero for t in some] for some in moving]
    changes = [[t for t, m in zip(some, ms, strict=True) if m] for some, ms in zip(moving, moves, strict=True)]
    function = jaxpr_as_fun(jaxpr)
    inner = _Kinds(*(len(a) + len(b) for a, b in zip(given, changes, strict=True)))

    def derivative(*arrays: Array) -> list[Array]:
        parts = inner.split(arrays)
        at = [a for part, some in zip(parts, given, strict=True) for a in part[: len(some)]]
        along = [a for part, some in zip(parts, given, strict=True) for a in part[len(some) :]]
        flags = [m for some in moves for m in some]

        def of_moving(*moved: Array) -> list[Array]:
            new = iter(moved)
            return function(*[next(new) if m else a for a, m in zip(at, flags, strict=True)])

        return jax.jvp(of_moving, [a for a, m in zip(at, flags, strict=True) if m], along)[1]

    arrays = [a for some, change in zip(given, changes, strict=True) for a in (*some, *change)]
    linear = jax.make_jaxpr(derivative)(*_rows(inner, arrays))
    return out, pair_sums_p.bind(*chosen, *arrays, jaxpr=linear, kinds=inner, outs=outs, static=static)


def _transpose(cts: Any, *operands: Any, jaxpr: ClosedJaxpr, kinds: _Kinds, outs: _Kinds, static: _Static) -> Any:
    selection, given = static.select(operands)
    chosen, given = jax.tree.leaves(selection), kinds.split(given)
    linear = [[ad.is_undefined_primal(a) for a in some] for some in given]
    known = [
        [a for a, is_linear in zip(s, f, strict=True) if not is_linear] for s, f in zip(given, linear, strict=True)
    ]
    avals = [
        [a.aval for a, is_linear in zip(s, f, strict=True) if is_linear] for s, f in zip(given, linear, strict=True)
    ]
    results = outs.split([ad.instantiate_zeros(ct) for ct in cts])
    inner = _Kinds(*(len(a) + len(b) for a, b in zip(known, results, strict=True)))
    back = _Kinds(*(len(a) for a in avals))
    function = jaxpr_as_fun(jaxpr)
    rows = _rows(back, [a for some in avals for a in some])

    def transposed(*arrays: Array) -> tuple[Array, ...]:
        parts = inner.split(arrays)
        held = [part[: len(some)] for part, some in zip(parts, known, strict=True)]
        cotangents = [ct for part, some in zip(parts, known, strict=True) for ct in part[len(some) :]]

        def at(*moving: Array) -> list[Array]:
            free, full = back.split(moving), []
            for some, others, flags in zip(held, free, linear, strict=True):
                a, b = iter(some), iter(others)
                full += [next(b) if is_linear else next(a) for is_linear in flags]
            return function(*full)

        return jax.linear_transpose(at, *rows)(cotangents)

    arrays = [a for some, ct in zip(known, results, strict=True) for a in (*some, *ct)]
    jaxpr = jax.make_jaxpr(transposed)(*_rows(inner, arrays))
    found = iter(pair_sums_p.bind(*chosen, *arrays, jaxpr=jaxpr, kinds=inner, outs=back, static=static))
    flags = [is_linear for some in linear for is_linear in some]
    return [None] * len(chosen) + [next(found) if is_linear else None for is_linear in flags]


def _batch(arrays: Any, dims: Any, **settings: Any) -> tuple[list[Array], list[int]]:
    # One after another, so that each element of the batch skips what it can skip.
    batched = [d is not None for d in dims]
    moved = [jnp.moveaxis(a, d, 0) for a, d, b in zip(arrays, dims, batched, strict=True) if b]

    def one(moved: list[Array]) -> list[Array]:
        some = iter(moved)
        full = [next(some) if b else a for a, b in zip(arrays, batched, strict=True)]
        return pair_sums_p.bind(*full, **settings)

    results = lax.map(one, moved)
    return results, [0] * len(results)


pair_sums_p.def_abstract_eval(_abstract)
pair_sums_p.def_impl(lambda *arrays, **settings: jax.jit(functools.partial(_evaluate, **settings))(*arrays))
ad.primitive_jvps[pair_sums_p] = _jvp
ad.primitive_transposes[pair_sums_p] = _transpose
batching.primitive_batchers[pair_sums_p] = _batch
mlir.register_lowering(pair_sums_p, mlir.lower_fun(_evaluate, multiple_results=True))
