"""What networks with a clock share: sequences of inputs, which interval a time lies in, and inputs held constant."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, PyTree

from .. import _checks
from ._evolution import Evolution, Flow


def positive_number(name: str, value: Any) -> float:
    """A length of time as a Python number (a part of a network's structure, not an array), or a `ValueError`."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}; pass a positive number such as 1.0.")
    return float(value)


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


def joined(
    given: ArrayLike, drive: ArrayLike, state_size: int, in_size: int, *, integers: bool = False
) -> Float[Array, "n+m"]:
    """[h, x]: what the rows of a recurrent network act on."""
    x = _checks.floating("the input", drive, integers=integers)
    if x.shape != (in_size,):
        raise ValueError(
            f"the input has shape {x.shape}, but one input of shape ({in_size},) is wanted; a whole sequence goes "
            f"through the network itself."
        )
    return jnp.concatenate([state(given, state_size, "h"), x])


def recurrent_rows(weight: ArrayLike, bias: ArrayLike, parts: int) -> tuple[Float[Array, "k n+m"], Float[Array, "k"]]:
    """Rows `(parts n, n + m)` on [h, x] and their biases, of one dtype, or a `ValueError`."""
    rows, offsets = _checks.floating("weight", weight, integers=True), _checks.floating("bias", bias, integers=True)
    n, rest = divmod(offsets.shape[0] if offsets.ndim == 1 else 0, parts)
    if rest or not n or rows.ndim != 2 or len(rows) != parts * n or rows.shape[1] <= n:
        times = "" if parts == 1 else str(parts)
        raise ValueError(
            f"weight has shape {rows.shape} and bias {offsets.shape}, but ({times}n, n + m) and ({times}n,) are wanted "
            f"for a state of n and inputs of m numbers; put the columns of the state before those of the input."
        )
    dtype = jnp.result_type(rows, offsets)
    return rows.astype(dtype), offsets.astype(dtype)


def run(network: Evolution, x: ArrayLike, given: Any) -> PyTree[Array]:
    """The states s_1 ... s_T of a sequence, from a given state or the network's own first."""
    first = network.initial_state(x)
    if given is not None:
        if jax.tree.structure(given) != jax.tree.structure(first):
            raise ValueError(
                f"state is {jax.tree.structure(given)}, but {jax.tree.structure(first)} is wanted; start from "
                f"initial_state(x)."
            )
        first = jax.tree.map(lambda own, s: state(s, own.shape[0]).astype(own.dtype), first, given)

    def step(s: PyTree[Array], drive: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
        following = network.step(s, drive)
        return following, following

    return jax.lax.scan(step, first, network.drives(x))[1]


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
    hold = positive_number("hold", hold)
    return Flow(HeldInputs(network, inputs, hold), 0.0, inputs.shape[0] * hold)
