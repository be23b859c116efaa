"""Denoising in closed form: what a `HopfCole` solution says of its atoms with Gaussian noise on them.

The atoms stand for the measure `mu = sum_j w_j exp(-g_j/eps) delta(y_j)`. Hopf-Cole's `phi = exp(-u/eps)` is mu after
the heat flow `phi_t = eps tr(A D^2 phi)`: the density of `x = y + noise` with noise ~ N(0, 2 eps t A), times the mass
of mu. So the gradient of u is a score, and its Gibbs weights are the posterior of the atom that x came from.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..reductions import Bilinear, softmin
from ..solutions import HopfCole


def score(u: HopfCole, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch d"]:
    """The score `grad log phi(x, t) = -grad u(x, t)/eps` of the atoms with noise N(0, 2 eps t A).

    It points to where the density rises: `A^-1 (E[y | x] - x)/(2 eps t)`, and grows like `1/sqrt(t)` near the atoms.

    The noise is that of a variance-exploding schedule, `sigma^2 = 2 eps t`. For a variance-preserving one,
    `x = alpha y + sqrt(1 - alpha^2) noise`, rescale: the score is `score(u, x/alpha, t)/alpha` at
    `t = (1 - alpha^2)/(2 eps alpha^2)`; the example does it for one atom, where it is `(alpha y - x)/(1 - alpha^2)`.

    **Arguments:** `u`: a `HopfCole`, normalised or not, with any metric A. `x`: `(..., d)`. `t`: a positive number, or
    an array that broadcasts against the batch.

    **Returns:** `(..., d)`.

    **Raises:** `ValueError` if u is no `HopfCole` (at eps = 0 there is no noise), t <= 0, or for a wrong shape of x.

    **Error:** that of `u.gradient` over eps: a few ulp of `diam/(2 eps t)`. **Cost:** one reduction, O(M N d) time and
    O(M + N) memory.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix B, score matching.

    >>> import jax.numpy as jnp, hjax
    >>> u = hjax.HopfCole(hjax.InitialData(jnp.array([[2.0]]), jnp.zeros(1)), eps=0.1)
    >>> x, alpha = jnp.array([0.4]), 0.5
    >>> t = (1 - alpha**2) / (2 * u.eps * alpha**2)
    >>> round(float(hjax.dynamics.score(u, x / alpha, t)[0] / alpha), 5), round((alpha * 2.0 - 0.4) / (1 - alpha**2), 5)
    (0.8, 0.8)
    """
    require_hopf_cole(u)
    return -u.gradient(x, t) / u.eps


def denoise(u: HopfCole, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch d"]:
    """Tweedie's formula, the posterior mean of the atom behind x: `E[y | x] = x - 2t A grad u = x + 2 eps t A score`.

    The best estimate of y in mean square when `x = y + N(0, 2 eps t A)`. It is computed as what it is, the Gibbs
    mean of the atoms, which stays in their convex hull where the difference would cancel.

    **Arguments, Raises:** as `score`. **Returns:** `(..., d)`.

    **Error:** the error of the weights (a few ulp of cost over eps, at most one) times the atoms' diameter.
    **Cost:** one reduction, O(M N d) time and O(M + N) memory.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix B; holds for noise of variance 2 eps t.

    >>> import jax.numpy as jnp, hjax
    >>> u = hjax.HopfCole(hjax.InitialData(jnp.array([[-1.0], [1.0]]), jnp.zeros(2)), eps=0.5)
    >>> x = jnp.array([0.7])
    >>> bool(jnp.allclose(hjax.dynamics.denoise(u, x, 1.0), jnp.tanh(x)))
    True
    """
    require_hopf_cole(u)
    return u.expectation(x, t, u.data.points)


def log_density(u: HopfCole, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch"]:
    """`log phi(x, t) - log phi's mass`: the log-density of the mixture of N(y_j, 2 eps t A), which integrates to one.

    The components have weights proportional to `w_j exp(-g_j/eps)`; `normalize` of u makes no difference.

    **Arguments, Raises:** as `score`, and if all atoms are absent. **Returns:** `(...,)`.

    **Error:** a few ulp of the largest cost that carries weight, over eps. **Cost:** one reduction, and one over the
    atoms alone.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 4.1, eq. 3, and Appendix B.

    >>> import jax.numpy as jnp, hjax
    >>> u = hjax.HopfCole(hjax.InitialData(jnp.zeros((1, 1)), jnp.array([3.0])), eps=0.5)
    >>> round(float(hjax.dynamics.log_density(u, jnp.zeros(1), 1.0)), 4), round(-0.5 * math.log(2 * math.pi), 4)
    (-0.9189, -0.9189)
    """
    require_hopf_cole(u)
    values = present_values(u)
    atoms = jnp.zeros((u.data.size, 1), values.dtype)
    # -eps log of the mass: the soft-min of the values alone.
    mass = softmin(atoms[0], atoms, values, eps=u.eps, cost=Bilinear()).value
    d = u.data.dimension
    value = eqx.tree_at(lambda v: v.normalize, u, False)(x, t)
    # Not through the prefactor of `normalize`, which is multiplied by eps: one rounding of a large number less.
    spread = d * jnp.log(4 * math.pi * u.eps * jnp.asarray(t, value.dtype)) + u.hamiltonian.log_determinant(d)
    return (mass - value) / u.eps - (spread / 2).astype(value.dtype)


def flow_matching_velocity(u: HopfCole, x: ArrayLike, s: ArrayLike, *, sigma: ArrayLike = 1.0) -> Array:
    """`v(x, s) = E[y - z | x_s = x] = (E[y | x_s = x] - x)/(1 - s)` on the path `x_s = (1 - s) z + s y`.

    The exact answer to the regression of flow matching on the atoms, `min_v E |v(x_s, s) - (y - z)|^2` with
    z ~ N(0, sigma^2 A) independent of y: the flow `x' = v(x, s)` carries the noise at s = 0 to the atoms as s -> 1.
    A network that attains it has learned the training set by heart, which is why it is of use as a target to compare
    with. `x_s/s = y + noise` with noise of covariance `(sigma (1 - s)/s)^2 A`, so E[y | x_s = x] is `denoise` at
    `x/s` and at the time with `2 eps t = (sigma (1 - s)/s)^2`; at s = 0 it is the mean of the atoms.

    **Arguments:** `u`: a `HopfCole`. `x`: `(..., d)`. `s`: a number in [0, 1), or an array that broadcasts against
    the batch. `sigma`: width of the noise, positive.

    **Returns:** `(..., d)`.

    **Raises:** `ValueError` if u is no `HopfCole`, s lies outside [0, 1), sigma <= 0, or for a wrong shape of x.

    **Error:** as `denoise`, and a few ulp of |x|, both divided by 1 - s. **Cost:** that of `denoise`.

    **Good values:** sigma of the spread of the atoms.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix B, flow matching; Y. Lipman et al., Flow
    matching for generative modeling (2023), Theorem 1.

    >>> import jax.numpy as jnp, hjax
    >>> u = hjax.HopfCole(hjax.InitialData(jnp.array([[-1.0], [3.0]]), jnp.zeros(2)), eps=0.5)
    >>> velocity = hjax.dynamics.flow_matching_velocity(u, jnp.array([[0.0], [0.5]]), 0.0)
    >>> velocity.round(3).tolist()
    [[1.0], [0.5]]
    """
    require_hopf_cole(u)
    points = _checks.floating("x", x)
    sigma = _checks.positive_scalar("sigma", sigma)
    part = _fraction(s).astype(points.dtype)
    # The mean moves by O(s) away from s = 0, so below one ulp it is that at s = 0.
    floored = jnp.maximum(part, jnp.finfo(part.dtype).eps)
    time = (sigma * (1 - floored) / floored) ** 2 / (2 * u.eps)
    by_row = part[..., None] if part.ndim else part
    scale = floored[..., None] if part.ndim else floored
    return (denoise(u, points / scale, time.astype(points.dtype)) - points) / (1 - by_row)


def require_hopf_cole(u: object) -> None:
    """Raise `ValueError` unless u is a `HopfCole`."""
    if not isinstance(u, HopfCole):
        raise ValueError(
            f"u is {getattr(u, '__name__', type(u).__name__)}, but a score is that of noise of variance 2 eps t; pass "
            f"hjax.HopfCole(data, eps)."
        )


def present_values(u: HopfCole) -> Float[Array, "N"]:
    """The values with the log-weights folded in, or a `ValueError` if they leave no atom."""
    values = u.effective_values()
    if _checks.is_concrete(values) and np.isposinf(np.asarray(values)).all():
        raise ValueError("all atoms of u are absent (values of +inf), which leaves no measure; pass a finite value.")
    return values


def _fraction(s: ArrayLike) -> Array:
    part = _checks.floating("s", s, integers=True)
    known = s if isinstance(s, int | float | np.ndarray | np.generic) else part
    if _checks.is_concrete(known):
        numbers = np.asarray(known)
        if not np.all((numbers >= 0) & (numbers < 1)):
            raise ValueError(
                f"s must lie in [0, 1), got {numbers}; the path ends at the atoms at s = 1, where the velocity is "
                f"not defined, so stop before it, for example at s = 0.99."
            )
        return part
    return eqx.error_if(part, ~((part >= 0) & (part < 1)), "s must lie in [0, 1); stop before 1, at 0.99 for example.")
