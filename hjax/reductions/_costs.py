"""The costs c(x, y) that a reduction runs over."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..hamiltonians import Quadratic


class Cost(eqx.Module):
    """A cost between one query `(d,)` and one atom `(d,)`.

    Any callable module `(x, y) -> scalar` can be passed as `cost=`; its array leaves are
    differentiable. The subclasses here are the ones with a fast form.
    """

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "d"], y: Float[Array, "d"]) -> Float[Array, ""]:
        """c(x, y)."""


class SquaredEuclidean(Cost):
    """`c(x, y) = scale |x - y|^2`; Hopf-Cole at time t has scale = 1/(4t).

    **Arguments:** `scale`: a positive number. **Raises:** `ValueError` if it is not positive.

    >>> import jax.numpy as jnp, hjax
    >>> float(hjax.SquaredEuclidean(0.5)(jnp.array([0.0, 3.0]), jnp.array([1.0, 1.0])))
    2.5
    """

    scale: Array

    def __init__(self, scale: ArrayLike = 1.0):
        self.scale = _checks.positive_scalar("scale", scale)

    def __call__(self, x: Float[Array, "d"], y: Float[Array, "d"]) -> Float[Array, ""]:
        """scale |x - y|^2."""
        return self.scale.astype(x.dtype) * jnp.sum((x - y) ** 2)


class Mahalanobis(Cost):
    """`c(x, y) = scale (x - y)^T A^-1 (x - y)`, the cost of the Hamiltonian p^T A p.

    **Arguments:** `metric`: A, as for `Quadratic`: `(d,)` positive, or `(d, d)` symmetric positive
    definite (the covariance in statistics). `scale`: a positive number; 1/(4t) for time t.

    **Raises:** `ValueError` as `Quadratic` does, and if scale is not positive.

    >>> import jax.numpy as jnp, hjax
    >>> cost = hjax.Mahalanobis(jnp.array([1.0, 4.0]), scale=0.25)
    >>> float(cost(jnp.array([2.0, 2.0]), jnp.zeros(2)))
    1.25
    """

    hamiltonian: Quadratic
    scale: Array

    def __init__(self, metric: ArrayLike, scale: ArrayLike = 1.0):
        self.hamiltonian = Quadratic(metric)
        self.scale = _checks.positive_scalar("scale", scale)

    def __call__(self, x: Float[Array, "d"], y: Float[Array, "d"]) -> Float[Array, ""]:
        """Scale times the squared Mahalanobis distance."""
        return self.scale.astype(x.dtype) * 4 * self.hamiltonian.lagrangian(x - y)


class Bilinear(Cost):
    """`c(x, y) = -x.y`, the cost of a log-sum-exp layer and of dot-product attention.

    >>> import jax.numpy as jnp, hjax
    >>> float(hjax.Bilinear()(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])))
    -11.0
    """

    def __call__(self, x: Float[Array, "d"], y: Float[Array, "d"]) -> Float[Array, ""]:
        """-x.y."""
        return -jnp.dot(x, y, precision="highest")


def quadratic_cost(hamiltonian: Quadratic, t: ArrayLike) -> SquaredEuclidean | Mahalanobis:
    """The cost of a quadratic Hamiltonian at time t, in the form that the reductions run fastest."""
    scale = 1 / (4 * _checks.positive_scalar("t", t))
    metric = hamiltonian.metric
    if metric is None:
        return SquaredEuclidean(scale)
    if metric.ndim == 0:
        return SquaredEuclidean(scale / metric)
    return Mahalanobis(metric, scale)


def check_cost(cost: object, dimension: int) -> None:
    """Raise `ValueError` unless `cost` can be called and fits the dimension."""
    if not callable(cost):
        raise ValueError(
            f"cost is {type(cost).__name__}; pass hjax.SquaredEuclidean(scale), "
            f"hjax.Mahalanobis(metric, scale), hjax.Bilinear() or a module (x, y) -> scalar."
        )
    if isinstance(cost, Mahalanobis):
        cost.hamiltonian.require_dimension(dimension)


__all__ = ["Bilinear", "Cost", "Mahalanobis", "SquaredEuclidean", "check_cost", "quadratic_cost"]
