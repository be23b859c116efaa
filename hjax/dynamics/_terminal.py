"""What a loss, or a momentum in its place, says of the final state."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from .. import _checks


def loss_and_momentum(terminal: Any, final: PyTree[Array]) -> tuple[Array | None, PyTree[Array]]:
    """The loss and its gradient in the final state; a momentum as it is, in the state's dtype."""
    if callable(terminal):
        loss: Any = jax.vjp(terminal, final)
        value, pull = loss
        require_scalar("terminal", value)
        return value, pull(jnp.ones_like(value))[0]
    same = jax.tree.structure(terminal) == jax.tree.structure(final)
    shapes = [jnp.shape(a) for a in jax.tree.leaves(terminal)]
    wanted = [a.shape for a in jax.tree.leaves(final)]
    if not same or shapes != wanted:
        raise ValueError(
            f"terminal is a momentum of shapes {shapes}, but the final state has {wanted}; pass one like it, or a "
            f"scalar function of the final state."
        )
    return None, jax.tree.map(lambda p, s: _checks.floating("terminal", p).astype(s.dtype), terminal, final)


def require_scalar(name: str, value: Any) -> None:
    """Refuse what is no single number."""
    if getattr(value, "shape", None) != ():
        found = getattr(value, "shape", type(value).__name__)
        raise ValueError(f"{name} returns {found}, but a number of shape () is wanted; end it with jnp.sum(...).")
