"""The costs c(x, y) that a reduction runs over."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..hamiltonians import Hamiltonian, Quadratic


class Cost(eqx.Module):
    """A cost between one query `(d,)` and one atom `(d,)`.

    Any callable module `(x, y) -> scalar` can be passed as `cost=`; its array leaves are
    differentiable. A cost of `+inf` says that the query is out of the atom's reach. Of the subclasses here
    `SquaredEuclidean`, `Mahalanobis` and `Bilinear` have a fast form.
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


class LagrangianCost(Cost):
    """`c(x, y) = t L((x - y)/t)`, the least action from y to x in time t for any convex Hamiltonian.

    `hardmin(x, y, g, cost=LagrangianCost(hamiltonian, t))` is the Hopf-Lax formula for `u_t + H(grad u) = 0`, the
    viscosity solution with initial values g on the atoms; its gradient in x, by `jax.grad`, is the momentum. The
    `softmin` is a smoothing of it; a solution of `u_t + H(grad u) = eps Lap u` only if H is quadratic.

    Where L is `+inf`, as for `Eikonal` and `Relativistic` beyond their speed, the query is out of the atom's reach,
    which is as if the atom were absent: no weight, no derivative, and `+inf` for a query that nothing reaches.

    **Arguments:** `hamiltonian`: any `Hamiltonian`. `t`: a positive number. Both are differentiable.

    **Raises:** `ValueError` if hamiltonian is no `Hamiltonian`, or a concrete t is not positive.

    **Cost:** the Lagrangian at all M N pairs, in O(M + N) memory. For a `Quadratic(A)` the reductions take
    `SquaredEuclidean(1/(4t))` or `Mahalanobis(A, 1/(4t))` in its place: the same numbers, many times faster.

    **Reference:** L. C. Evans, Partial Differential Equations, section 3.3.

    >>> import jax.numpy as jnp, hjax
    >>> cost = hjax.LagrangianCost(hjax.Eikonal(speed=1.0), t=2.0)
    >>> y, g = jnp.array([[0.0], [1.0], [5.0]]), jnp.array([3.0, 2.0, 1.0])
    >>> u, index = hjax.hardmin(jnp.array([[-0.5], [3.5], [9.0]]), y, g, cost=cost)
    >>> u.tolist(), index.tolist()
    ([2.0, 1.0, inf], [1, 2, 0])
    """

    hamiltonian: Hamiltonian
    t: Array

    def __init__(self, hamiltonian: Hamiltonian, t: ArrayLike):
        if not isinstance(hamiltonian, Hamiltonian):
            raise ValueError(
                f"hamiltonian is {getattr(hamiltonian, '__name__', type(hamiltonian).__name__)}; pass an instance of a "
                f"Hamiltonian, for example hjax.Power(4.0)."
            )
        self.hamiltonian = hamiltonian
        self.t = _checks.positive_scalar("t", t)

    def __call__(self, x: Float[Array, "d"], y: Float[Array, "d"]) -> Float[Array, ""]:
        """T L((x - y)/t)."""
        return self.hamiltonian.cost(x, y, self.t.astype(x.dtype))


def quadratic_cost(hamiltonian: Quadratic, t: ArrayLike) -> SquaredEuclidean | Mahalanobis:
    """The cost of a quadratic Hamiltonian at time t, in the form that the reductions run fastest."""
    scale = 1 / (4 * _checks.positive_scalar("t", t))
    metric = hamiltonian.metric
    if metric is None:
        return SquaredEuclidean(scale)
    if metric.ndim == 0:
        return SquaredEuclidean(scale / metric)
    return Mahalanobis(metric, scale)


def fastest_form(cost: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """The same cost, in the form that the reductions run fastest."""
    if isinstance(cost, LagrangianCost) and isinstance(cost.hamiltonian, Quadratic):
        return quadratic_cost(cost.hamiltonian, cost.t)
    return cost


def check_cost(cost: object, dimension: int) -> None:
    """Raise `ValueError` unless `cost` can be called and fits the dimension."""
    if not callable(cost):
        raise ValueError(
            f"cost is {type(cost).__name__}; pass hjax.SquaredEuclidean(scale), "
            f"hjax.Mahalanobis(metric, scale), hjax.Bilinear() or a module (x, y) -> scalar."
        )
    if isinstance(cost, Mahalanobis):
        cost.hamiltonian.require_dimension(dimension)


__all__ = [
    "Bilinear",
    "Cost",
    "LagrangianCost",
    "Mahalanobis",
    "SquaredEuclidean",
    "check_cost",
    "fastest_form",
    "quadratic_cost",
]
