"""The activations of Table 6: what each solves, at every temperature eps.

    activation        eps -> 0     what it is
    relu(z)           itself       the Hopf-Lax solution with two atoms: max(0, z)
    softplus(z)       relu         the Hopf-Cole solution with the same two atoms: eps log(1 + e^(z/eps))
    sigmoid(z)        step         the Gibbs mean of (0, 1): d/dz softplus
    tanh(z)           sign         the Gibbs mean of (-1, 1): d/dz eps log(2 cosh(z/eps))
    silu(z)           relu         the Gibbs mean energy z sigmoid(z): (1 - eps d/d eps) softplus
    gelu(z)           relu         z Phi(z/eps): (1 - eps d/d eps) heat_relu, the heat flow of relu

Only the first two are -u + quadratic of a Hamilton-Jacobi equation; the next two are gradients of one (Burgers'
variable), the last two what `mean_energy`, one operator, makes of a potential. All act element by element on arrays
of any shape. `eps` is a positive number, for `gelu` and `heat_relu` the standard deviation of the Gaussian; at
eps = 1 they are the functions that `jax.nn` has under these names.

**Error:** absolute: a few ulp of max(|z|, eps), of 1 for sigmoid and tanh, which keep their relative error where they
tend to zero at -infinity (sigmoid) and lose it at zero (tanh).

**Reference:** Hamilton-Jacobi theory of deep learning (2026), Table 6, Remark 3.2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..reductions import Bilinear, SoftMin, hardmin, softmin
from ._description import Description

_STEP = (0.0, 1.0)
_SIGN = (-1.0, 1.0)


def relu(z: ArrayLike) -> Float[Array, "..."]:
    """`max(0, z)`: Hopf-Lax with two atoms; its derivative at 0 is 0, that of the first row.

    >>> import jax.numpy as jnp, hjax
    >>> hjax.nn.activations.relu(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    queries, atoms = _two_rows(z, _STEP)
    return 0 - hardmin(queries, atoms, jnp.zeros_like(atoms[:, 0]), cost=Bilinear()).value  # no -0.0


def softplus(z: ArrayLike, eps: ArrayLike = 1.0) -> Float[Array, "..."]:
    """`eps log(1 + exp(z/eps))`: Hopf-Cole with two atoms; `0 < softplus - relu <= eps log 2`.

    >>> import jax.numpy as jnp, hjax
    >>> round(float(hjax.nn.activations.softplus(jnp.array(0.0), eps=0.5)), 4)
    0.3466
    """
    return -_gibbs(z, eps, _STEP).value


def sigmoid(z: ArrayLike, eps: ArrayLike = 1.0) -> Float[Array, "..."]:
    """`1/(1 + exp(-z/eps))`: the Gibbs weight of the second atom, the derivative of `softplus`.

    >>> import jax.numpy as jnp, hjax
    >>> round(float(hjax.nn.activations.sigmoid(jnp.array(1.0))), 4)
    0.7311
    """
    return _mean(z, eps, _STEP)


def tanh(z: ArrayLike, eps: ArrayLike = 1.0) -> Float[Array, "..."]:
    """`tanh(z/eps)`: the difference of two Gibbs weights, the derivative of `log_cosh`.

    >>> import jax.numpy as jnp, hjax
    >>> round(float(hjax.nn.activations.tanh(jnp.array(1.0))), 4)
    0.7616
    """
    return _mean(z, eps, _SIGN)


def log_cosh(z: ArrayLike, eps: ArrayLike = 1.0) -> Float[Array, "..."]:
    """`eps log(2 cosh(z/eps))`: Hopf-Cole with the atoms of `tanh`, its antiderivative; |z| as eps -> 0.

    >>> import jax.numpy as jnp, hjax
    >>> round(float(hjax.nn.activations.log_cosh(jnp.array(0.0))), 4)
    0.6931
    """
    return -_gibbs(z, eps, _SIGN).value


def silu(z: ArrayLike, eps: ArrayLike = 1.0) -> Float[Array, "..."]:
    """`z sigmoid(z/eps)`: the Gibbs mean of the energies (0, z), which is `mean_energy(softplus)`.

    >>> import jax.numpy as jnp, hjax
    >>> round(float(hjax.nn.activations.silu(jnp.array(1.0))), 4)
    0.7311
    """
    return _checks.floating("z", z) * sigmoid(z, eps)


def gelu(z: ArrayLike, eps: ArrayLike = 1.0) -> Float[Array, "..."]:
    """`z Phi(z/eps)`, Phi the normal distribution function: `mean_energy(heat_relu)`. The exact GELU, not tanh's.

    >>> import jax.numpy as jnp, hjax
    >>> round(float(hjax.nn.activations.gelu(jnp.array(1.0))), 4)
    0.8413
    """
    values = _checks.floating("z", z)
    return values * jax.scipy.special.ndtr(values / _temperature(eps, values))


def heat_relu(z: ArrayLike, eps: ArrayLike = 1.0) -> Float[Array, "..."]:
    """`(relu * N(0, eps^2))(z) = z Phi(z/eps) + eps phi(z/eps)`: relu after the heat flow of variance eps^2.

    A solution of the linear heat equation, not of a Hamilton-Jacobi one; `heat_relu - relu <= 0.4 eps`.

    >>> import jax.numpy as jnp, hjax
    >>> round(float(hjax.nn.activations.heat_relu(jnp.array(0.0))), 4)
    0.3989
    """
    values = _checks.floating("z", z)
    scale = _temperature(eps, values)
    return gelu(values, scale) + scale * jax.scipy.stats.norm.pdf(values / scale)


def mean_energy(potential: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """`(1 - eps d/d eps) F` of a potential F(z, eps): a free energy without its entropy.

    Of `F = eps log sum_j exp(a_j/eps)` it is the Gibbs mean of the a_j. It turns `softplus` into `silu` and
    `heat_relu` into `gelu`, the two rows that Table 6 leaves open.

    **Arguments:** `potential`: `(z, eps) -> F`, differentiable in eps. **Returns:** a function of (z, eps).

    **Error:** F and its derivative cancel where the mean energy is small: absolute, a few ulp of F. `silu` and
    `gelu` themselves are written without it.

    >>> import jax.numpy as jnp, hjax
    >>> from hjax.nn import activations
    >>> z = jnp.linspace(-3.0, 3.0, 7)
    >>> bool(jnp.allclose(activations.mean_energy(activations.softplus)(z, 0.5), activations.silu(z, 0.5), atol=1e-6))
    True
    """

    def energy(z: ArrayLike, eps: ArrayLike = 1.0) -> Array:
        values = _checks.floating("z", z)
        scale = _temperature(eps, values)
        value, slope = jax.jvp(lambda s: potential(values, s), (scale,), (jnp.ones_like(scale),))
        return value - scale * slope

    return energy


def describe(activation: str | Callable[..., Array], eps: float = 1.0) -> Description:
    """The row of Table 6 of an activation, given as the function or its name.

    **Raises:** `ValueError` for another one.

    >>> import hjax
    >>> hjax.nn.activations.describe("silu", eps=0.1).equation
    'the Gibbs mean energy (1 - eps d/d eps) softplus: what a solution gives, not one itself'
    """
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", repr(activation))
    if name not in _TABLE:
        raise ValueError(f"activation is {name!r}; pass one of {sorted(_TABLE)}.")
    equation, hamiltonian, atoms = _TABLE[name]
    return Description(
        model=name,
        equation=equation,
        hamiltonian=hamiltonian,
        eps=0.0 if name == "relu" else float(eps),
        gauge="none: the heat flow's variance eps^2 is fixed" if hamiltonian == _HEAT else "any time t > 0",
        atoms=atoms,
        status="exact",
    )


_ZERO_ONE = "rows 0 and 1 without bias: y = (0, 2t), g = (0, -t)"
_PLUS_MINUS = "rows -1 and 1 without bias: y = (-2t, 2t), g = (-t, -t)"
_HEAT = "none: a linear heat flow"
_HJ = "z^2/(4t) - u(z, t), with u_t + u_z^2 = eps u_zz (u with the heat kernel's prefactor)"
_BURGERS = "the slope of a solution (its Burgers variable), not a solution: d/dz of "
_ENERGY = "the Gibbs mean energy (1 - eps d/d eps) "
_TABLE = {
    "relu": ("z^2/(4t) - u(z, t), with the viscosity solution of u_t + u_z^2 = 0: Hopf-Lax only", "p^2", _ZERO_ONE),
    "softplus": (_HJ, "p^2", _ZERO_ONE),
    "log_cosh": (_HJ, "p^2", _PLUS_MINUS),
    "sigmoid": (_BURGERS + "softplus", "p^2", _ZERO_ONE),
    "tanh": (_BURGERS + "log_cosh", "p^2", _PLUS_MINUS),
    "silu": (_ENERGY + "softplus: what a solution gives, not one itself", "p^2", _ZERO_ONE),
    "heat_relu": ("v_s = v_zz/2 at s = eps^2, from v = relu: a heat flow, no Hamilton-Jacobi equation", _HEAT, "relu"),
    "gelu": ("(1 - eps d/d eps) heat_relu: the operator of silu on a heat flow, not a solution", _HEAT, "relu"),
}  # fmt: skip


def _temperature(eps: ArrayLike, values: Array) -> Array:
    return _checks.positive_scalar("eps", eps).astype(values.dtype)


def _two_rows(z: ArrayLike, rows: tuple[float, float]) -> tuple[Array, Array]:
    values = _checks.floating("z", z)
    return values[..., None], jnp.array(rows, values.dtype)[:, None]


def _gibbs(z: ArrayLike, eps: ArrayLike, rows: tuple[float, float]) -> SoftMin:
    # The payload is the row itself, so that the Gibbs mean is the slope.
    queries, atoms = _two_rows(z, rows)
    zeros = jnp.zeros_like(atoms[:, 0])
    return softmin(queries, atoms, zeros, eps=_temperature(eps, queries), cost=Bilinear(), payload=atoms)


def _mean(z: ArrayLike, eps: ArrayLike, rows: tuple[float, float]) -> Array:
    mean = _gibbs(z, eps, rows).mean
    assert mean is not None  # a payload was passed
    return mean[..., 0]
