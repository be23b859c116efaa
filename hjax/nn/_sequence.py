"""What networks with a clock share: sequences of inputs, which interval a time lies in, and inputs held constant."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, PyTree

from .. import _checks
from ._evolution import Evolution, Flow


def sequence(x: ArrayLike, in_size: int, model: str, *, integers: bool = False) -> Float[Array, "T d"]:
    """A sequence of at least one input, or a `ValueError` that says how to pass another."""
    given = _checks.floating("x", x, integers=integers)
    if given.ndim != 2 or given.shape[1] != in_size or not given.shape[0]:
        raise ValueError(
            f"x has shape {given.shape}, but a sequence of T >= 1 inputs, (T, {in_size}), is wanted; for a series of "
            f"numbers pass x[:, None], for a batch of sequences use jax.vmap({model})(x)."
        )
    return given


def state(given: ArrayLike, size: int, name: str = "state") -> Float[Array, "n"]:
    """One state vector, or a `ValueError` that names it."""
    vector = _checks.floating(name, given)
    if vector.shape != (size,):
        raise ValueError(
            f"{name} has shape {vector.shape}, but ({size},) is wanted; start from initial_state(x), and for a batch "
            f"use jax.vmap."
        )
    return vector


def common_dtype(*trees: Any) -> jnp.dtype:
    """The dtype of arithmetic among all floating arrays of the trees: a scan's state must start with it."""
    return jnp.result_type(*[a for a in jax.tree.leaves(trees) if eqx.is_inexact_array(a)])


def interval(t: Any, length: float, count: int) -> Int[Array, ""]:
    """The k with `k length <= t < (k + 1) length`, kept between 0 and count - 1.

    A solver's k-th time is `k length` only to rounding; so that it finds the interval that begins there, times
    within sqrt(ulp) of an interval's length before its end belong to the next one.
    """
    position = _checks.floating("t", t, integers=True) / length
    nudge = float(jnp.finfo(position.dtype).eps) ** 0.5
    return jnp.clip(jnp.floor(position + nudge), 0, count - 1).astype(int)


class HeldInputs(eqx.Module):
    """The field of a driven network, `F(s, x_k)` for `k hold <= t < (k + 1) hold`."""

    network: Evolution
    inputs: Float[Array, "T d"]
    hold: float = eqx.field(static=True)

    def __call__(self, state: PyTree[Array], t: Any) -> PyTree[Array]:
        """F(s, x(t))."""
        return self.network.field(state, self.inputs[interval(t, self.hold, self.inputs.shape[0])])


def held(network: Evolution, inputs: Array, hold: float) -> Flow:
    """The flow of a driven network on `[0, T hold]`, each input held for `hold` units of time."""
    _checks.positive_scalar("hold", hold)
    return Flow(HeldInputs(network, inputs, float(hold)), 0.0, inputs.shape[0] * float(hold))
