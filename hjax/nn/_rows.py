"""What layers of affine rows share: their sizes, their one sample, and the dictionary rows <-> atoms."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .. import _checks
from ..hamiltonians import Quadratic
from ..initial_data import InitialData

GAUGE = "any time t > 0 and any positive definite A: another reading (y, g, u) of the same function f"


def size(name: str, value: object) -> int:
    """A whole number of at least one, or a `ValueError` that names it."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; pass a whole number of at least 1.")
    return value


def lead(out_size: int | Literal["scalar"]) -> tuple[int, ...]:
    """The leading axes of a layer's arrays: one per output, none for a scalar."""
    return () if out_size == "scalar" else (size("out_size", out_size),)


def sample(x: ArrayLike, shape: tuple[int, ...], model: str) -> Array:
    """One floating sample of this shape, or a `ValueError` that says how to pass a batch."""
    given = _checks.floating("x", x)
    if given.shape != shape:
        raise ValueError(
            f"x has shape {given.shape}, but one sample of shape {shape} is wanted; "
            f"for a batch use jax.vmap({model})(x)."
        )
    return given


def check_output(index: int, out_size: int) -> int:
    """An index into `out_size` outputs, or a `ValueError`."""
    if not -out_size <= index < out_size:
        raise ValueError(f"index is {index}, but this layer has {out_size} outputs.")
    return index


def check_scalar(out_size: int | Literal["scalar"]) -> None:
    """Raise `ValueError` for a layer of several outputs, which has several solutions."""
    if out_size != "scalar":
        raise ValueError(
            f"this layer has {out_size} outputs, each with a solution of its own; "
            f"pass one of them, layer.unit(i).to_solution(t)."
        )


def given_rows(weight: ArrayLike, bias: ArrayLike) -> tuple[Array, Array]:
    """Rows `(N, d)` or `(k, N, d)` and biases `(N,)` or `(k, N)` of one dtype; `-inf` marks an absent row."""
    rows, offsets = _checks.floating("weight", weight), _checks.floating("bias", bias)
    if rows.ndim == 3 and rows.shape[0] and rows.shape[:2] == offsets.shape:
        _checks.atoms(rows[0], offsets[0], ("weight", "bias"))
    else:
        _checks.atoms(rows, offsets, ("weight", "bias"))
    for name, array in (("weight", rows), ("bias", offsets)):
        _checks.no_nan(name, array)
    dtype = jnp.result_type(rows, offsets)
    return rows.astype(dtype), offsets.astype(dtype)


def sizes(rows: Array) -> tuple[int, int | Literal["scalar"], int]:
    """(in_size, out_size, width) of rows `(N, d)` or `(k, N, d)`."""
    return rows.shape[-1], rows.shape[0] if rows.ndim == 3 else "scalar", rows.shape[-2]


def to_data(weight: Array, bias: Array, t: ArrayLike, hamiltonian: Quadratic) -> InitialData:
    """`y_j = 2t A W_j`, `g_j = -b_j - t W_j^T A W_j`."""
    t = _checks.positive_scalar("t", t)
    hamiltonian.require_dimension(weight.shape[1])
    scaled = hamiltonian.apply(weight)
    return InitialData(2 * t * scaled, -bias - t * jnp.sum(weight * scaled, axis=1))


def from_data(points: Array, values: Array, t: ArrayLike, hamiltonian: Quadratic) -> tuple[Array, Array]:
    """`W_j = A^-1 y_j/(2t)`, `b_j = -g_j - y_j.W_j/2`."""
    weight = hamiltonian.solve(points) / (2 * _checks.positive_scalar("t", t))
    return weight, -values - jnp.sum(points * weight, axis=1) / 2


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def random_rows(lead: tuple[int, ...], width: int, in_size: int, key: Array) -> Array:
    """W ~ N(0, 1/d)."""
    return jax.random.normal(key, (*lead, width, in_size)) / jnp.sqrt(float(in_size))


def each(out_size: int | Literal["scalar"]) -> str:
    """Words for a layer of several outputs."""
    return "" if out_size == "scalar" else f", for each of {out_size} outputs"
