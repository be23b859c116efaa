"""Where a token stands: rotations of queries and keys, and slopes that charge for distance (theory H.13).

A rotation of atoms, `y_j -> R_j y_j`, keeps |y_j| and with it the initial values; logits depend on j - i alone.
A slope charges `slope |i - j|` for a pair: initial values g_ij that differ from query to query.
"""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

Positions = Literal["rotary", "slopes"] | None
_BASE = 10_000.0
_STRIDE = 256


def checked(positions: object, head_size: int) -> None:
    """Raise `ValueError` unless these positions can be used with heads of this size."""
    if positions not in (None, "rotary", "slopes"):
        raise ValueError(f'positions is {positions!r}; pass None, "rotary" or "slopes".')
    if positions == "rotary" and head_size % 2:
        raise ValueError(f"head_size is {head_size}, but rotary positions turn pairs of coordinates; pass an even one.")


def slopes(num_heads: int, head_size: int) -> np.ndarray:
    """Cost of one step of distance, per head: `2^(-8 (h + 1)/H)` in the logits of `eps = sqrt(head_size)`.

    Reference: O. Press, N. A. Smith, M. Lewis, Train short, test long (2022), section 3.
    """
    return math.sqrt(head_size) * 2.0 ** (-8.0 * np.arange(1, num_heads + 1) / num_heads)


def rotate(points: Float[Array, "*H T d"], positions: Int[Array, "T"], limit: int) -> Float[Array, "*H T d"]:
    """R_i x_i: coordinates k and k + d/2 turned by the angle `i base^(-2k/d)`, for positions 0 <= i < limit.

    Reference: J. Su et al., RoFormer (2021), section 3.2.
    """
    half = points.shape[-1] // 2
    cos, sin = _cos_sin(positions, limit, half)
    cos, sin = cos.astype(points.dtype), sin.astype(points.dtype)
    a, b = points[..., :half], points[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _cos_sin(positions: Int[Array, "T"], limit: int, half: int) -> tuple[Array, Array]:
    # In single precision an angle of 30,000 radians is off by 1e-3. So the coarse and the fine part of a position
    # are looked up in two small tables made in double precision, and their angles added by the addition theorem.
    frequency = _BASE ** (-np.arange(half) / half)
    fine = np.arange(_STRIDE)[:, None] * frequency
    coarse = _STRIDE * np.arange(-(-limit // _STRIDE))[:, None] * frequency
    high, low = positions // _STRIDE, positions % _STRIDE
    cos_a, sin_a = (jnp.asarray(f(coarse), float)[high] for f in (np.cos, np.sin))
    cos_b, sin_b = (jnp.asarray(f(fine), float)[low] for f in (np.cos, np.sin))
    return cos_a * cos_b - sin_a * sin_b, sin_a * cos_b + cos_a * sin_b
