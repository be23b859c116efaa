"""Input validation shared by every room: one clear sentence each, said once.

Concrete values are checked in Python and raise `ValueError` before any tracing. Values that are
traced (inside `jit`, `grad`, `vmap`) are checked at run time by `equinox.error_if`, and only where
a wrong number would otherwise go unnoticed: a negative time or temperature gives a finite answer.
"""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def is_concrete(value: object) -> bool:
    """Whether the numbers in `value` can be looked at now."""
    if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
        return False
    # Of an array that is spread over several processes, each holds a part only.
    return not isinstance(value, jax.Array) or value.is_fully_addressable or value.is_fully_replicated


def floating(name: str, value: ArrayLike, *, integers: bool = False) -> Array:
    """`value` as a real floating-point array, or a `ValueError` that names it; `integers` are converted if allowed."""
    try:
        array = value if isinstance(value, jax.Array) else jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array of real numbers, got {type(value).__name__}; "
            f"pass for example jnp.asarray({name}, float)."
        ) from error
    if integers and jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(float)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} has dtype {array.dtype}, but a floating-point array is wanted; pass {name}.astype(float)."
        )
    return array


def same_dtype(arrays: dict[str, Array | None]) -> dict[str, Array | None]:
    """All arrays cast to their common dtype; absent ones stay None."""
    dtype = jnp.result_type(*[a.dtype for a in arrays.values() if a is not None])
    return {k: None if a is None else a.astype(dtype) for k, a in arrays.items()}


def positive(name: str, value: ArrayLike, *, above: int = 0) -> Array:
    """`value` as a finite floating array above a bound: checked now if concrete, at run time if traced."""
    array = floating(name, value, integers=True)
    message = f"{name} must be {f'greater than {above}' if above else 'positive'} and finite"
    # Inside `jit`, newer versions of jax trace even the array of a plain number.
    known = value if isinstance(value, int | float | np.ndarray | np.generic) else array
    if is_concrete(known):
        numbers = np.asarray(known)
        if not np.all((numbers > above) & np.isfinite(numbers)):
            raise ValueError(f"{message}, got {numbers}; pass {name} > {above}.")
        return array
    return eqx.error_if(array, ~((array > above) & jnp.isfinite(array)), f"{message}; pass {name} > {above}.")


def positive_scalar(name: str, value: ArrayLike, *, above: int = 0) -> Array:
    """`positive`, and of shape ()."""
    shape = floating(name, value, integers=True).shape
    if shape != ():
        raise ValueError(f"{name} must be one number, got shape {shape}; for many of them use jax.vmap over {name}.")
    return positive(name, value, above=above)


def no_nan(name: str, array: Array | None) -> None:
    """Reject NaN in concrete arrays; traced ones carry their NaN into the result, in plain sight."""
    if array is not None and is_concrete(array) and np.isnan(np.asarray(array)).any():
        where = np.argwhere(np.isnan(np.asarray(array)))[0].tolist()
        raise ValueError(f"{name} contains NaN (first at index {where}); drop those rows before the call.")


def atoms(points: Array, values: Array, names: tuple[str, str]) -> None:
    """Points `(N, d)` and one value per point, N >= 1."""
    if points.ndim != 2:
        raise ValueError(
            f"{names[0]} has shape {points.shape}, but (N, d) is wanted; for points on a line pass {names[0]}[:, None]."
        )
    if points.shape[0] == 0 or points.shape[1] == 0:
        raise ValueError(f"{names[0]} has shape {points.shape}: at least one atom in at least one dimension is wanted.")
    if values.shape != points.shape[:1]:
        raise ValueError(
            f"{names[1]} has shape {values.shape}, but one number per atom is wanted: "
            f"{points.shape[:1]} to match {names[0]}."
        )
