"""An ensemble on several devices: each trains its own members, and they tell each other nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Names of the ensemble's axes, in the places where an array has them.
Places = tuple[str | None, ...]


def over_devices(
    mesh: Mesh | None,
    name: str | None,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    places: Sequence[Any],
    out: Any,
) -> Any:
    """`function(*arguments)`, the members along the axis `name` shared among the devices; None: as it is.

    `places` of each argument, and `out` of the results, say which axes of the ensemble their leaves have; those of
    the first have all. A number of members that the devices do not divide is filled up with copies of the last one.
    """
    if mesh is None or name is None:
        return function(*arguments)
    parts = mesh.shape[name]
    size = jax.tree.leaves(arguments[0])[0].shape[places[0].index(name)]
    given = [
        _changed(name, lambda a, axis: _filled(a, axis, parts), where, argument)
        for where, argument in zip(places, arguments, strict=True)
    ]
    specs = tuple(_specs(name, where) for where in places)
    found = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_specs(name, out), check_vma=False)(*given)
    if not size % parts:
        return found
    found = _changed(name, lambda a, axis: lax.slice_in_dim(a, 0, size, axis=axis), out, found)
    return lax.with_sharding_constraint(found, NamedSharding(mesh, P()))  # not evenly: all of it everywhere


def _is_places(node: Any) -> bool:
    return isinstance(node, tuple) and all(name is None or isinstance(name, str) for name in node)


def _specs(name: str, places: Any) -> Any:
    return jax.tree.map(lambda names: P(*(n if n == name else None for n in names)), places, is_leaf=_is_places)


def _changed(name: str, change: Callable[[Array, int], Any], places: Any, tree: Any) -> Any:
    """`change(array, axis)` of all arrays that have the axis `name`."""

    def one(names: Places, part: Any) -> Any:
        return part if name not in names else jax.tree.map(lambda a: change(a, names.index(name)), part)

    return jax.tree.map(one, places, tree, is_leaf=_is_places)


def _filled(array: Array, axis: int, parts: int) -> Array:
    size = array.shape[axis]
    last = lax.slice_in_dim(array, size - 1, size, axis=axis)
    return jnp.concatenate([array] + [last] * (-size % parts), axis=axis)
