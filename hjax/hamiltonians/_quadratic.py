import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ._hamiltonian import Hamiltonian


class Quadratic(Hamiltonian):
    """The quadratic Hamiltonian `H(p) = p^T A p`, the class for which Hopf-Cole is exact.

    Its dual is `L(v) = v^T A^-1 v / 4`, so the cost is `(x-y)^T A^-1 (x-y) / (4t)`, and the viscosity
    that keeps `u_t + H(grad u) = eps tr(A D^2 u)` linear under `phi = exp(-u/eps)` is anisotropic too.

    **Arguments:** `metric`: A, one of None (the identity), a positive number, a `(d,)` positive
    diagonal, or a `(d, d)` symmetric positive definite matrix.

    **Raises:** `ValueError` if a concrete metric is not positive (definite), not symmetric, or not of
    one of these shapes. Inside `jit` a metric that is not positive definite gives NaN.

    **Cost:** applying A or A^-1 is O(d) or, for a matrix, O(d^2) after an O(d^3) factorisation.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 4.4, eqs 8 and 34.

    >>> import jax.numpy as jnp, hjax
    >>> hamiltonian = hjax.Quadratic(metric=jnp.array([1.0, 4.0]))
    >>> float(hamiltonian(jnp.array([1.0, 1.0]))), float(hamiltonian.lagrangian(jnp.array([2.0, 4.0])))
    (5.0, 2.0)
    """

    metric: Array | None

    def __init__(self, metric: ArrayLike | None = None):
        if metric is None:
            self.metric = None
            return
        array = _checks.floating("metric", metric, integers=True)
        if array.ndim > 2 or array.size == 0 or (array.ndim == 2 and array.shape[0] != array.shape[1]):
            raise ValueError(
                f"metric has shape {array.shape}; pass None, a positive number, a (d,) diagonal or a "
                f"(d, d) symmetric positive definite matrix."
            )
        if _checks.is_concrete(array):
            _require_positive_definite(np.asarray(array))
        self.metric = array

    def __call__(self, p: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """H(p) = p^T A p."""
        return jnp.sum(p * self.apply(p), axis=-1)

    def lagrangian(self, v: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """L(v) = v^T A^-1 v / 4."""
        return jnp.sum(v * self.solve(v), axis=-1) / 4

    def apply(self, p: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """A p."""
        if self.metric is None:
            return p
        if self.metric.ndim < 2:
            return self.metric * p
        return jnp.matmul(p, self.metric.T, precision="highest")

    def solve(self, v: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """A^-1 v."""
        if self.metric is None:
            return v
        if self.metric.ndim < 2:
            return v / self.metric
        flat = v.reshape(-1, v.shape[-1])
        return jsl.cho_solve((jnp.linalg.cholesky(self.metric), True), flat.T).T.reshape(v.shape)

    def whiten(self, v: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """L^-1 v for a root A = L L^T: `|whiten(v)|^2 = v^T A^-1 v`."""
        if self.metric is None:
            return v
        if self.metric.ndim < 2:
            return v / jnp.sqrt(self.metric)
        flat = v.reshape(-1, v.shape[-1])
        root = jnp.linalg.cholesky(self.metric)
        return jsl.solve_triangular(root, flat.T, lower=True).T.reshape(v.shape)

    def factor(self, dimension: int) -> Float[Array, "d d"]:
        """A square root L with A = L L^T, as a matrix: the directions of the viscosity tr(L^T D^2u L)."""
        if self.metric is None:
            return jnp.eye(dimension)
        if self.metric.ndim < 2:
            return jnp.diag(jnp.broadcast_to(jnp.sqrt(self.metric), (dimension,)))
        return jnp.linalg.cholesky(self.metric)

    def log_determinant(self, dimension: int) -> Float[Array, ""]:
        """log det A in d dimensions."""
        if self.metric is None:
            return jnp.zeros(())
        if self.metric.ndim < 2:
            return jnp.sum(jnp.broadcast_to(jnp.log(self.metric), (dimension,)))
        return 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(self.metric))))

    def require_dimension(self, dimension: int) -> None:
        """Raise `ValueError` unless this metric acts on `dimension` coordinates."""
        if self.metric is not None and self.metric.ndim > 0 and self.metric.shape[0] != dimension:
            raise ValueError(
                f"the metric has shape {self.metric.shape}, but the points have {dimension} "
                f"coordinates; pass Quadratic(metric) of shape ({dimension},) or "
                f"({dimension}, {dimension})."
            )


def _require_positive_definite(metric: np.ndarray) -> None:
    wanted = "pass a symmetric positive definite matrix, for example L @ L.T + delta * eye(d)."
    if not np.all(np.isfinite(metric)):
        raise ValueError(f"metric contains NaN or infinity; {wanted}")
    if metric.ndim < 2:
        if not np.all(metric > 0):
            raise ValueError(f"metric must be positive, got its smallest entry {metric.min()}.")
        return
    tolerance = 8 * np.finfo(metric.dtype).eps * np.abs(metric).max()
    if np.abs(metric - metric.T).max() > tolerance:
        raise ValueError(f"metric is not symmetric; {wanted}")
    if np.linalg.eigvalsh(metric).min() <= tolerance:
        raise ValueError(
            f"metric is not positive definite (smallest eigenvalue {np.linalg.eigvalsh(metric).min():.3g}); {wanted}"
        )
