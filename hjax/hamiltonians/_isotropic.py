"""Hamiltonians of the length |p| alone."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ._hamiltonian import Hamiltonian

# Of the largest number, as an exponent: a power beyond that is infinite.
_LARGEST = 0.9


class Power(Hamiltonian):
    """The power `H(p) = |p|^a` of the Euclidean norm, a > 1: characteristics run at the speed `a |p|^(a-1)`.

    Its dual is `L(v) = (a - 1) (|v|/a)^(a/(a-1))`. `Power(2)` is `Quadratic()`, in a form that reductions run
    more slowly.

    **Arguments:** `exponent`: a, a number > 1. **Shapes:** `(..., d)` to `(...)`, as for every `Hamiltonian`.

    **Raises:** `ValueError` if a concrete exponent is not above 1 or not finite; a traced one raises at run time.

    **Derivatives:** in p, v and the exponent, finite everywhere; where second ones do not exist (at p = 0 for
    a < 2, at v = 0 for a > 2) they are given as zero.

    **Error:** a few ulp, times the exponent a or a/(a-1); no square of a length over- or underflows on the way.
    Powers beyond 1e34 in single precision, 1e277 in double, are `+inf`.
    **Good values:** 1.2 to 10; near 1 and far beyond, one of H and L is close to the indicator of a ball.

    **Reference:** R. T. Rockafellar, Convex Analysis (1970), section 12.

    >>> import jax.numpy as jnp, hjax
    >>> hamiltonian = hjax.Power(4)
    >>> float(hamiltonian(jnp.array([0.0, 2.0]))), float(hamiltonian.lagrangian(jnp.array([0.0, 4.0])))
    (16.0, 3.0)
    """

    exponent: Array

    def __init__(self, exponent: ArrayLike):
        self.exponent = _checks.positive_scalar("exponent", exponent, above=1)

    def __call__(self, p: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """H(p) = |p|^a."""
        return _power(jnp.ones((), p.dtype), p, self.exponent.astype(p.dtype))

    def lagrangian(self, v: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """L(v) = (a - 1) (|v|/a)^(a/(a-1))."""
        a = self.exponent.astype(v.dtype)
        return _power(a - 1, v / a, a / (a - 1))


class Relativistic(Hamiltonian):
    """The energy `H(p) = sqrt(|p|^2 + m^2)` of a particle of mass m, where light has speed 1.

    Its dual is `L(v) = -m sqrt(1 - |v|^2)` for `|v| <= 1` and `+inf` beyond: what lies outside the light cone is
    out of reach, and its cost `+inf` counts in `hjax.softmin` and `hjax.hardmin` as an absent atom.

    **Arguments:** `mass`: m, a positive number. **Shapes:** `(..., d)` to `(...)`, as for every `Hamiltonian`.

    **Raises:** `ValueError` if a concrete mass is not positive and finite; a traced one raises at run time.

    **Derivatives:** in p, v and the mass, finite everywhere; exactly on the light cone, where the slope of L is
    infinite, and outside they are zero.

    **Error:** H a few ulp. L a few ulp of `m / sqrt(1 - |v|^2)`, and at most `m` times the root of an ulp; points
    within rounding of the light cone may fall on either side of it.

    **Reference:** L. D. Landau and E. M. Lifshitz, The Classical Theory of Fields, sections 8 and 9.

    >>> import jax.numpy as jnp, hjax
    >>> hamiltonian = hjax.Relativistic(mass=4)
    >>> float(hamiltonian(jnp.array([3.0, 0.0]))), float(hamiltonian.lagrangian(jnp.array([0.0, 2.0])))
    (5.0, inf)
    """

    mass: Array

    def __init__(self, mass: ArrayLike):
        self.mass = _checks.positive_scalar("mass", mass)

    def __call__(self, p: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """H(p) = sqrt(|p|^2 + m^2)."""
        mass = jnp.broadcast_to(self.mass.astype(p.dtype), (*p.shape[:-1], 1))
        return _length(jnp.concatenate([p, mass], axis=-1))

    def lagrangian(self, v: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """L(v) = -m sqrt(1 - |v|^2), +inf for |v| > 1."""
        square = jnp.sum(jnp.square(v), axis=-1)
        # Compared so that NaN passes through, and twice `where`, as the root has no slope at zero.
        outer = square >= 1
        inside = -self.mass.astype(v.dtype) * jnp.sqrt(jnp.where(outer, 1, 1 - square))
        return jnp.where(square > 1, jnp.inf, jnp.where(outer, 0, inside))


class Eikonal(Hamiltonian):
    """Fronts of speed s, `H(p) = s |p|`: `u_t + s |grad u| = 0`.

    Its dual is the indicator of a ball, `L(v) = 0` for `|v| <= s` and `+inf` beyond, so that Hopf-Lax is
    `u(x, t) = min g` over the ball of radius s t around x. A cost of `+inf` counts in `hjax.softmin` and
    `hjax.hardmin` as an absent atom.

    **Arguments:** `speed`: s, a positive number. **Shapes:** `(..., d)` to `(...)`, as for every `Hamiltonian`.

    **Raises:** `ValueError` if a concrete speed is not positive and finite; a traced one raises at run time.

    **Derivatives:** finite everywhere: those of H at p = 0, and all of L, are zero. A minimum over atoms then moves
    with their values only, not with the speed.

    **Error:** H a few ulp; points within rounding of the distance s t may fall on either side of it.

    **Reference:** L. C. Evans, Partial Differential Equations, section 3.3; S. Osher and J. Sethian (1988).

    >>> import jax.numpy as jnp, hjax
    >>> hamiltonian = hjax.Eikonal(speed=2)
    >>> float(hamiltonian(jnp.array([3.0, 4.0]))), hamiltonian.lagrangian(jnp.array([[0.0, 2.0], [2.0, 2.0]])).tolist()
    (10.0, [0.0, inf])
    """

    speed: Array

    def __init__(self, speed: ArrayLike):
        self.speed = _checks.positive_scalar("speed", speed)

    def __call__(self, p: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """H(p) = s |p|."""
        return self.speed.astype(p.dtype) * _length(p)

    def lagrangian(self, v: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """L(v) = 0, +inf for |v| > s."""
        length = lax.stop_gradient(_length(v))
        # Zero times the length, so that NaN passes through.
        return jnp.where(length > self.speed.astype(v.dtype), jnp.inf, 0 * length)


@jax.custom_jvp
def _length(v: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """|v|, whatever its size; its derivatives at zero are given as zero."""
    info = jnp.finfo(v.dtype)
    largest = jnp.max(jnp.abs(v), axis=-1, keepdims=True)
    # Scaled by a power of two, which rounds nothing, squares stay in range: 3, 4, 5 remains exact.
    power = lax.reduce_precision(largest, exponent_bits=int(info.nexp), mantissa_bits=0)
    scale = jnp.clip(power, 2.0 ** int(0.75 * info.minexp), 2.0 ** int(0.75 * info.maxexp))
    return scale[..., 0] * jnp.sqrt(jnp.sum(jnp.square(v * (1 / scale)), axis=-1))


@_length.defjvp
def _length_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d|v| = (v/|v|).dv; written out, as autodiff of the root would square lengths after all.
    (v,), (dv,) = primals, tangents
    return _length(v), jnp.sum(_direction(v) * dv, axis=-1)


@jax.custom_jvp
def _direction(v: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """v/|v|, and zero at zero."""
    length = _length(v)[..., None]
    return v / jnp.where(length == 0, 1, length)


@_direction.defjvp
def _direction_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d(v/|v|) = (dv - u (u.dv))/|v| with u = v/|v|: the part of dv across v.
    (v,), (dv,) = primals, tangents
    u, length = _direction(v), _length(v)[..., None]
    across = dv - u * jnp.sum(u * dv, axis=-1, keepdims=True)
    return u, across / jnp.where(length == 0, jnp.inf, length)


def _power(factor: Float[Array, ""], v: Float[Array, "*batch d"], exponent: Float[Array, ""]) -> Float[Array, "*batch"]:
    """factor |v|^exponent for exponent > 1; +inf, constant, before a derivative overflows."""
    length = _length(v)
    zero = length == 0
    beyond = length > (float(jnp.finfo(v.dtype).max) ** _LARGEST) ** (1 / exponent)
    # At zero the gradient is zero, and so is the Hessian, but for the quadratic, whose Hessian is 2 everywhere.
    at_zero = jnp.where(exponent == 2, jnp.sum(jnp.square(v), axis=-1), 0)
    power = jnp.where(zero, at_zero, jnp.where(zero | beyond, 1, length) ** exponent)
    return jnp.where(beyond, jnp.inf, factor * power)
