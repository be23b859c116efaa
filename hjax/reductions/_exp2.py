"""2^z for the inner loop of the sum pass.

XLA's own float32 `exp2` on the CPU has a relative error of 1.1e-6 and costs half of the sum pass. Here
z is split as k + f with k an integer and |f| <= 1/2; 2^f is a degree-6 polynomial (relative error 7.6e-8
with the rounding of its evaluation) and 2^k is added to the exponent bits. Rounding to the nearest
integer adds and subtracts 1.5 * 2^23; `reduce_precision` keeps XLA's simplifier from cancelling the two.
Below 2^-126 the result is held at 2^-126, which no sum that contains a 1 can see, and above at 2^126.

On other devices, and in float64, the hardware's or XLA's `exp2` is the better one.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float
from numpy.polynomial import Chebyshev, Polynomial

_MAGIC = 1.5 * 2.0**23
# Interpolation in the Chebyshev nodes of [-1/2, 1/2] of a slightly larger degree is truncated in
# the Chebyshev basis: within a few percent of the minimax polynomial.
_COEFFICIENTS = [
    float(c)
    for c in Chebyshev.interpolate(lambda f: 2.0**f, 14, domain=[-0.5, 0.5])
    .truncate(7)
    .convert(kind=Polynomial, domain=[-1, 1], window=[-1, 1])
    .coef
]


def exp2(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """2^z by the fastest accurate way for the dtype and the device; large z give a large number or inf."""
    if z.dtype == jnp.float32 and jax.default_backend() == "cpu":
        return _polynomial_exp2(z)
    return jnp.exp2(z)


@jax.custom_jvp
def _polynomial_exp2(z: Array) -> Array:
    z = jnp.clip(z, -126.0, 126.0)
    shifted = lax.reduce_precision(z + jnp.float32(_MAGIC), exponent_bits=8, mantissa_bits=23)
    f = z - (shifted - jnp.float32(_MAGIC))
    p = jnp.full_like(f, _COEFFICIENTS[-1])
    for c in reversed(_COEFFICIENTS[:-1]):
        p = p * f + jnp.float32(c)
    # The low bits of the shifted number are the integer k in two's complement.
    exponent = lax.shift_left(lax.bitcast_convert_type(shifted, jnp.int32), jnp.int32(23))
    return lax.bitcast_convert_type(lax.bitcast_convert_type(p, jnp.int32) + exponent, jnp.float32)


@_polynomial_exp2.defjvp
def _polynomial_exp2_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The bit operations have no derivative of their own: d 2^z = log(2) 2^z dz.
    (z,), (dz,) = primals, tangents
    value = _polynomial_exp2(z)
    return value, math.log(2.0) * value * dz
