"""An order of points in which neighbours in the list are neighbours in space: along Hilbert's curve.

A run of consecutive points then has a small bounding box, which is all that pruning asks of it. Hilbert's
curve and not Morton's: it makes no jumps, so that no run spans half of the domain.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

_WORD = 32
# Beyond this many coordinates a curve of 64 bits is too coarse in each of them, and follows only the
# leading principal directions.
_MOST_COORDINATES = 8
_PRINCIPAL_DIRECTIONS = 4


def coordinates_to_order_by(points: Float[Array, "N d"]) -> Float[Array, "d k"] | None:
    """The directions along which to order points of many dimensions; None for the coordinates themselves."""
    n, d = points.shape
    if d <= _MOST_COORDINATES:
        return None
    centred = points - jnp.mean(points, axis=0)
    _, directions = jnp.linalg.eigh(jnp.matmul(centred.T, centred) / n)
    return directions[:, -_PRINCIPAL_DIRECTIONS:]


def hilbert_order(
    points: Float[Array, "N d"], low: Float[Array, "d"], high: Float[Array, "d"], last: Bool[Array, "N"] | None = None
) -> Int[Array, "N"]:
    """The permutation that sorts points in the box [low, high] along Hilbert's curve, those of `last` behind.

    **Cost:** a sort of N pairs of 32-bit keys. **Reference:** J. Skilling, Programming the Hilbert curve,
    AIP Conference Proceedings 707 (2004), for the transformation of coordinates to the index on the curve.
    """
    n, d = points.shape
    bits = min(_WORD - 1, 2 * _WORD // d)
    # One cell less than a power of two, so that rounding of the largest coordinate stays inside.
    width = jnp.where(high > low, high - low, 1)
    cells = jnp.clip((points - low) / width, 0, 1) * (2.0**bits * (1 - 2.0**-20))
    key = _interleaved(_hilbert([cells[:, k].astype(jnp.uint32) for k in range(d)], bits), bits)
    if last is not None:
        key = [jnp.where(last, jnp.uint32(0xFFFFFFFF), word) for word in key]
    return lax.sort((*key, jnp.arange(n, dtype=jnp.int32)), num_keys=len(key))[-1]


def _hilbert(x: list[Array], bits: int) -> list[Array]:
    """Coordinates to the index on the curve, its bits spread over the coordinates ("transposed")."""
    x = list(x)
    for bit in range(bits - 1, 0, -1):
        here, below = jnp.uint32(1 << bit), jnp.uint32((1 << bit) - 1)
        for i in range(len(x)):
            inverted = (x[i] & here) != 0
            swapped = jnp.where(inverted, 0, (x[0] ^ x[i]) & below)
            x[0] = x[0] ^ jnp.where(inverted, below, swapped)
            if i:
                x[i] = x[i] ^ swapped
    for i in range(1, len(x)):
        x[i] = x[i] ^ x[i - 1]
    flips = jnp.zeros_like(x[0])
    for bit in range(bits - 1, 0, -1):
        flips = flips ^ jnp.where((x[-1] & jnp.uint32(1 << bit)) != 0, jnp.uint32((1 << bit) - 1), jnp.uint32(0))
    return [a ^ flips for a in x]


def _interleaved(x: list[Array], bits: int) -> list[Array]:
    """The bits of all coordinates, highest first, in as many words as they need."""
    words, used = [jnp.zeros_like(x[0])], 0
    for bit in range(bits - 1, -1, -1):
        for a in x:
            if used == _WORD:
                words, used = [*words, jnp.zeros_like(x[0])], 0
            words[-1] = (words[-1] << 1) | ((a >> bit) & 1)
            used += 1
    return words
