"""Sharded: the same reductions with atoms and queries split over the devices of a mesh.

The idea. Each device reduces its own queries against its own atoms, by any implementation, to u_k and the mean
E_k of M queries. Soft-minima compose: with any m near the least of the u_k,

    z = sum_k exp(-(u_k - m)/eps)      u = m - eps log z      E = sum_k exp(-(u_k - m)/eps) E_k / z

so that M numbers in one minimum (which gives m) and M (p + 1) numbers in one sum are all that devices tell each
other; no atom moves. m is a constant to autodiff, as everywhere in this room. A hard-min needs the least value,
the least index that attains it, and its owner's value, through which alone derivatives flow. An entropy is
again a sum over devices once it is known which atom is the heaviest.

A device may hold absent atoms only, anywhere: what its reduction then says, NaN included, is cut off before and
behind. A minimum over devices may pass over NaN, a sum does not: the sums decide whether there is a result at
all, so that a NaN in the input stays in plain sight.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from ._api import (
    HardMin,
    SoftMin,
    gibbs_entropy,
    hardmin,
    implementation_of,
    is_module,
    result_dtype,
    softmin,
    validated,
)
from ._problem import Problem, cost_at, state

# What is split by its rows; all else is known to every device.
_ROWS = "x", "y", "g", "payload"
_NOBODY = jnp.iinfo(jnp.int32).max
# In units of eps: weights up to exp(20), of which third derivatives hold the cube, far from over- and underflow.
_LARGEST_LOSS = 20


class _Layout(NamedTuple):
    """The mesh, and the names of the axes over which atoms and queries are split."""

    mesh: Mesh
    atoms: tuple[str, ...]
    queries: tuple[str, ...]

    def parts(self, axes: tuple[str, ...]) -> int:
        return math.prod(self.mesh.shape[name] for name in axes)


def shard(
    reduction: Callable[..., Any],
    *,
    mesh: Mesh,
    atoms: str | Sequence[str] | None = None,
    queries: str | Sequence[str] | None = None,
) -> Callable[..., Any]:
    """The same reduction with its atoms and/or queries split over the devices of a mesh.

    `shard(softmin, mesh=mesh, atoms="cloud")(x, y, g, eps=..., ...)` takes what `softmin` takes and returns what
    it returns, to rounding. With the atoms split, each device holds N/k of them and sees all (its) queries; with
    the queries split, each device does its share of them alone. Arrays that nobody has placed are spread as the
    mesh wants them, those that are spread so stay where they are. Across processes (`jax.distributed`) atoms are
    global arrays, as from `jax.make_array_from_process_local_data`.

    **Arguments:**

    - `reduction`: `hjax.softmin`, `hjax.hardmin` or `hjax.reductions.gibbs_entropy`.
    - `mesh`: a `jax.sharding.Mesh`, of devices of one or of many processes.
    - `atoms`: the mesh axis, or tuple of axes, over which rows of `y`, `g` and `payload` are split.
    - `queries`: the same for the rows of `x`, flattened to `(M, d)`, and so of the results.

    M and N need not be multiples of the number of devices: absent atoms and copied queries fill up, and are cut
    off again. `implementation=None` is chosen for the shapes that one device sees.

    **Returns:** a function with the signature of `reduction`, without `causal=True`; differentiable as that
    is, to any order and in every input, and usable under `jit`, `vmap` and `grad`.

    **Raises:** `ValueError` for another reduction, no mesh, an unknown axis, an axis used twice, no axis, or
    `causal=True`; and what `reduction` raises.

    **Error:** that of `reduction`. Two runs on the same mesh agree to the last bit.

    **Cost:** with k parts of the atoms O(M N d / k) time and O(M + N/k) memory on each device. Communication:
    M numbers in a minimum and M (p + 1) in a sum for `softmin`, that sum and the derivatives in what devices
    share once more for a gradient, 3 M + 1 numbers for `hardmin`; none where only queries are split, but for
    such derivatives. A traced eps, which is checked at run time, costs one number more, and results of an M that
    does not divide are gathered to be cut off.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), eq 5: a soft-min of soft-minima is one.

    >>> import jax, jax.numpy as jnp, hjax
    >>> mesh = jax.sharding.Mesh(jax.devices(), ("cloud",))
    >>> y = jnp.array([[0.0], [1.0], [5.0]])
    >>> u, mean = hjax.shard(hjax.softmin, mesh=mesh, atoms="cloud")(
    ...     jnp.array([0.5]), y, jnp.zeros(3), eps=1.0, payload=y)
    >>> round(float(u), 4), round(float(mean[0]), 4)
    (-0.4431, 0.5)
    """
    kinds = ((softmin, _softmin), (hardmin, _hardmin), (gibbs_entropy, _gibbs_entropy))
    found = [sharded for known, sharded in kinds if reduction is known]
    if not found:
        raise ValueError(
            f"reduction is {getattr(reduction, '__name__', type(reduction).__name__)}, which hjax.shard does not "
            f"know; pass hjax.softmin, hjax.hardmin or hjax.reductions.gibbs_entropy itself."
        )
    return functools.wraps(reduction)(functools.partial(found[0], _layout(mesh, atoms, queries)))


def _layout(mesh: Any, atoms: str | Sequence[str] | None, queries: str | Sequence[str] | None) -> _Layout:
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh is {type(mesh).__name__}, but a jax.sharding.Mesh is wanted; pass for example "
            f'jax.sharding.Mesh(jax.devices(), ("cloud",)).'
        )
    names = tuple(mesh.axis_names)
    split = [_axis_names(axes) for axes in (atoms, queries)]
    for given in (*split[0], *split[1]):
        if given not in names:
            raise ValueError(f"{given!r} is not an axis of the mesh; pass one of {names}, or a tuple of them.")
    for given in {*split[0], *split[1]}:
        if (*split[0], *split[1]).count(given) > 1:
            raise ValueError(
                f"axis {given!r} is used more than once in atoms={atoms!r}, queries={queries!r}; "
                f"pass different axes, or None for one of the two."
            )
    if not any(split):
        raise ValueError(f"neither atoms nor queries is split; pass an axis of the mesh for one or both, from {names}.")
    return _Layout(mesh, split[0], split[1])


def _axis_names(axes: str | Sequence[str] | None) -> tuple[str, ...]:
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, str) or not isinstance(axes, Sequence) else tuple(axes)


def _softmin(
    layout: _Layout,
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    eps: ArrayLike,
    cost: Callable[[Array, Array], Array] | None = None,
    payload: ArrayLike | None = None,
    causal: bool = False,
    implementation: str | Sequence[str] | None = None,
    tolerance: float | None = None,
) -> SoftMin:
    if causal:
        raise ValueError("causal=True cannot be split over a mesh; call hjax.softmin itself, without hjax.shard.")
    inputs, batch = validated(x, y, g, eps, cost, payload, False, tolerance)
    value, mean = _run(_local_softmin, layout, implementation, inputs, batch)
    dtype = result_dtype(x, y, g, payload)
    return SoftMin(value.astype(dtype), None if payload is None else mean.astype(dtype))


def _hardmin(
    layout: _Layout,
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    cost: Callable[[Array, Array], Array] | None = None,
    implementation: str | Sequence[str] | None = None,
) -> HardMin:
    inputs, batch = validated(x, y, g, 1.0, cost, None, False, None)
    value, index = _run(_local_hardmin, layout, implementation, inputs, batch)
    return HardMin(value.astype(result_dtype(x, y, g)), index)


def _gibbs_entropy(
    layout: _Layout,
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    eps: ArrayLike,
    cost: Callable[[Array, Array], Array] | None = None,
    implementation: str | Sequence[str] | None = None,
) -> Float[Array, "*batch"]:
    inputs, batch = validated(x, y, g, eps, cost, None, False, None)
    (entropy,) = _run(_local_entropy, layout, implementation, inputs, batch)
    return entropy.astype(result_dtype(x, y, g))


_Local = Callable[[_Layout, Any, dict[str, Any]], tuple[Array, ...]]


def _run(
    local: _Local, layout: _Layout, implementation: Any, inputs: dict[str, Any], batch: tuple[int, ...]
) -> tuple[Array, ...]:
    named = implementation if implementation is None or isinstance(implementation, str) else tuple(implementation)
    if is_module(inputs["cost"]):
        return _compiled(local, layout, named, inputs, batch)
    # What a plain function reads from its surroundings may change: compiled for this call alone.
    return eqx.filter_jit(lambda inputs: _split(local, layout, named, inputs, batch))(inputs)


def _split(
    local: _Local, layout: _Layout, implementation: Any, inputs: dict[str, Any], batch: tuple[int, ...]
) -> tuple[Array, ...]:
    m = inputs["x"].shape[0]
    arrays, static = eqx.partition(inputs, eqx.is_array)
    split = {name: layout.queries if name == "x" else layout.atoms for name in _ROWS if inputs[name] is not None}
    specs = {name: PartitionSpec(split[name]) if split.get(name) else PartitionSpec() for name in arrays}
    arrays |= {name: _filled(name, arrays[name], layout.parts(axes)) for name, axes in split.items()}
    explicit = AxisType.Explicit in layout.mesh.axis_types
    if explicit:
        arrays = {name: _resharded(a, layout, specs[name]) for name, a in arrays.items()}

    # Without the check of what varies over which axes: loops that start from constants do not say it of their
    # carries. Derivatives then have one sum more than need be.
    @functools.partial(jax.shard_map, mesh=layout.mesh, in_specs=(specs,), out_specs=specs["x"], check_vma=False)
    def on_each_device(arrays: dict[str, Any]) -> tuple[Array, ...]:
        return local(layout, implementation, eqx.combine(arrays, static))

    results = on_each_device(arrays)
    if explicit and (len(batch) != 1 or m % layout.parts(layout.queries)):
        # A sharding that is part of an array's type does not follow it through reshapes and uneven slices.
        results = _resharded(results, layout, PartitionSpec())
    return tuple(a[:m].reshape(*batch, *a.shape[1:]) for a in results)


_compiled = eqx.filter_jit(_split)


def _filled(name: str, array: Array, parts: int) -> Array:
    """Filled up to a multiple of the number of parts: absent atoms, which stand where the last one stands."""
    n = array.shape[0]
    fill = -n % parts
    if not fill:
        return array
    more = jnp.arange(n + fill).reshape(-1, *[1] * (array.ndim - 1)) >= n
    last = jnp.inf if name == "g" else lax.stop_gradient(array[-1])
    return jnp.where(more, last, jnp.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1)))


def _resharded(tree: Any, layout: _Layout, spec: PartitionSpec) -> Any:
    return jax.tree.map(lambda a: jax.sharding.reshard(a, NamedSharding(layout.mesh, spec)), tree)


def _state(inputs: dict[str, Any]) -> Problem:
    """What one device reduces; a constant to autodiff where it has no atom."""
    some = jnp.any(inputs["g"] != jnp.inf)
    arrays, static = eqx.partition(inputs, eqx.is_array)
    return state(**eqx.combine(jax.tree.map(lambda a: jnp.where(some, a, lax.stop_gradient(a)), arrays), static))


def _local_softmin(layout: _Layout, implementation: Any, inputs: dict[str, Any]) -> tuple[Array, Array]:
    problem = _state(inputs)
    work = implementation_of(problem, implementation)
    if not layout.atoms:
        return work.softmin(problem)
    base, eps = problem.base, inputs["eps"]
    value, mean = work.softmin(problem._replace(base=jnp.zeros_like(base)))
    seen = jnp.any(problem.present) & (value != jnp.inf)
    value, mean = jnp.where(seen, value, 0), jnp.where(seen[:, None], mean, 0)
    constant = lax.stop_gradient(value)
    here = base + constant
    least = lax.pmin(jnp.where(seen, here, jnp.inf), layout.atoms)
    least = jnp.where(least < jnp.inf, least, 0)
    # What rounding took from `here` counts, or a common offset of g would cost the weights of devices their
    # digits. But where rounding is far coarser than eps it must not make all weights vanish.
    lost = jnp.clip((base - here) + constant, -_LARGEST_LOSS * eps, _LARGEST_LOSS * eps)
    excess = (value - constant) + lax.stop_gradient((here - least) + lost)
    weight = jnp.where(seen, jnp.exp(-excess / eps), 0)[:, None]
    sums = lax.psum(jnp.concatenate([weight, weight * mean], axis=1), layout.atoms)
    some = sums[:, 0] != 0
    z = jnp.where(some, sums[:, 0], 1)
    return jnp.where(some, least - eps * jnp.log(z), jnp.inf), sums[:, 1:] / z[:, None]


class _Best(NamedTuple):
    """The heaviest atom of each query among those of this device, and of all."""

    problem: Problem
    index: Int[Array, "M"]  # of this device's best, among its own atoms
    cost: Float[Array, "M"]  # of this device's best; +inf where it has none
    owns: Bool[Array, "M"]  # whether this device's best is the best of all
    winner: Int[Array, "M"]  # the best of all, among all atoms; zero where there is none
    least: Float[Array, "M"]  # its cost, with derivatives to its owner; +inf where there is none


def _best(layout: _Layout, implementation: Any, inputs: dict[str, Any]) -> _Best:
    problem = _state(inputs)
    some = jnp.any(problem.present)
    if layout.atoms:
        # One base for all, so that equal atoms have equal costs, to the last bit, on every device.
        base = lax.pmin(jnp.where(some, problem.base, jnp.inf), layout.atoms)
        base = jnp.where(base == jnp.inf, 0, base)
        g = jnp.where(problem.present, inputs["g"], base)
        problem = problem._replace(base=base, heights=g - base)
    index = implementation_of(problem, implementation, minimum=True).argmin(problem)
    cost = jnp.where(some, cost_at(problem, index), jnp.inf)
    if not layout.atoms:
        return _Best(problem, index, cost, jnp.ones(cost.shape, bool), index, cost)
    here = lax.stop_gradient(cost)
    attains = (here == lax.pmin(here, layout.atoms)) & (here < jnp.inf)
    number = index + problem.shape[1] * lax.axis_index(layout.atoms)
    winner = lax.pmin(jnp.where(attains, number, _NOBODY), layout.atoms)
    found = winner < _NOBODY
    owns = found & (number == winner)
    least = lax.psum(jnp.where(owns | jnp.isnan(here), cost, 0), layout.atoms)
    return _Best(problem, index, cost, owns, jnp.where(found, winner, 0), least + jnp.where(found, 0, jnp.inf))


def _local_hardmin(layout: _Layout, implementation: Any, inputs: dict[str, Any]) -> tuple[Array, Array]:
    # No temperature at which the rounding of a cost would be too much.
    best = _best(layout, implementation, inputs | {"eps": jnp.full_like(inputs["eps"], jnp.inf)})
    return best.problem.base + best.least, best.winner


def _local_entropy(layout: _Layout, implementation: Any, inputs: dict[str, Any]) -> tuple[Array]:
    best = _best(layout, implementation, inputs)
    mass, energy = implementation_of(best.problem, implementation).spread(best.problem, best.index)
    if layout.atoms:
        # Measured from the best of all instead of this device's own, which joins the rest unless it is that.
        seen = best.cost != jnp.inf
        excess = jnp.where(seen, jnp.where(seen, best.cost, 0) - jnp.where(seen, best.least, 0), 0) / inputs["eps"]
        weight = jnp.where(seen, jnp.exp(-excess), 0)
        mass = jnp.where(seen, jnp.where(best.owns, mass, mass + 1), 0)
        energy = jnp.where(seen, energy, 0)
        mass, energy = lax.psum(jnp.stack([weight * mass, weight * (energy + excess * mass)]), layout.atoms)
    return (jnp.log1p(mass) + energy / (1 + mass),)
