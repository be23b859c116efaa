"""A model taken apart: what is trained, what is held, and its temperature."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array


class Structure(eqx.Module):
    """All of a model but its arrays, and whether its temperatures are trained (through their logarithms)."""

    rest: Any
    train_eps: bool = eqx.field(static=True)

    def model(self, params: Any, frozen: Any, eps: Array | None) -> Any:
        """The model, at temperature `eps` if that is given."""
        if self.train_eps:
            params = at_eps(jnp.exp, params)
        whole = eqx.combine(params, frozen, self.rest)
        return whole if eps is None else with_eps(whole, eps)


def take_apart(model: Any, trainable: Any, train_eps: bool) -> tuple[Any, Any, Structure]:
    """`(params, frozen, structure)`; by default every floating array but the temperatures is trained."""
    chosen = eqx.is_inexact_array if trainable is None else trainable
    try:
        wanted, _ = eqx.partition(model, chosen)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "trainable does not fit the model; pass a function of a leaf, or True and False in the model's own "
            "structure, for example by eqx.tree_at."
        ) from error
    wanted = eqx.filter(wanted, eqx.is_inexact_array)
    if not train_eps:
        wanted = at_eps(lambda _: None, wanted)
    elif not eps_leaves(wanted):
        raise ValueError(f"train_eps=True, but {type(model).__name__} has no trainable field eps; leave it out.")
    if not jax.tree.leaves(wanted):
        raise ValueError(f"nothing in {type(model).__name__} is trainable; pass trainable=eqx.is_inexact_array.")
    # By place, not by value: an array that occurs twice may be trained in one of its places.
    mask = jax.tree.map(lambda leaf: leaf is not None, wanted, is_leaf=lambda leaf: leaf is None)
    params, held = eqx.partition(model, mask)
    # Not weakly typed: that is not kept in a file, and nothing here wants it.
    params = jax.tree.map(lambda a: jnp.asarray(a, a.dtype), params)
    frozen, rest = eqx.partition(held, eqx.is_array)
    return at_eps(jnp.log, params) if train_eps else params, frozen, Structure(rest, train_eps)


def at_eps(change: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with `change` applied to every leaf that is a field named eps."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: change(leaf) if _is_eps(path) else leaf, tree)


def with_eps(model: Any, eps: Array) -> Any:
    """The model with every temperature set to `eps`."""
    return at_eps(lambda old: jnp.broadcast_to(jnp.asarray(eps, old.dtype), old.shape), model)


def eps_leaves(tree: Any) -> list[Any]:
    """All leaves that are a field named eps."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if _is_eps(path)]


def _is_eps(path: Any) -> bool:
    return bool(path) and getattr(path[-1], "name", None) == "eps"
