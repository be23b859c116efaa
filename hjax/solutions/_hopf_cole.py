import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..hamiltonians import Quadratic
from ..initial_data import InitialData
from ..reductions import gibbs_entropy, gibbs_weights, quadratic_cost, softmin
from ._solution import Solution, require_quadratic


class HopfCole(Solution):
    """The Hopf-Cole solution of `u_t + grad u^T A grad u = eps tr(A D^2 u)`.

    `u(x, t) = -eps log sum_j w_j exp(-(g_j + (x-y_j)^T A^-1 (x-y_j)/(4t))/eps)`, a soft minimum over atoms;
    with `normalize=True` plus `(d eps/2) log(4 pi eps t) + (eps/2) log det A`, the heat kernel's prefactor, which
    makes it solve the equation exactly in (x, t). Without it the residual is the constant
    `-d eps/(2t)`. It smooths; as eps -> 0 it tends to `HopfLax`, and as eps grows, to a mean.

    **Arguments:**

    - `data`: `InitialData`. Without log-weights the atoms count alike, as the rows of a layer do; with those
      of a quadrature rule (and `normalize=True`) u converges to the solution for continuous g.
    - `eps`: viscosity = temperature, positive; in the unit of g.
    - `hamiltonian`: `Quadratic(metric)`; only quadratic ones are exact (Theorem 4.3).
    - `normalize`: whether to include the prefactor.

    **Raises:** `ValueError` for eps <= 0, another Hamiltonian, a metric of another dimension; its methods
    for a wrong shape of x, integer x, t <= 0.

    **Error:** rounding: a few ulp of the largest term in the sum; quadrature: that of the rule, see
    `hjax.quadrature`. **Cost:** O(M N d), memory O(M + N). **Good values:** eps of the order of the atoms'
    spacing or larger; below that the solution is that of the atoms, not of the function g.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 4.1 (eqs 4, 5) and 4.4 (eqs 8, 34).

    >>> import jax.numpy as jnp, hjax
    >>> data = hjax.InitialData(jnp.array([[-1.0], [1.0]]), jnp.zeros(2))
    >>> u = hjax.HopfCole(data, eps=0.1)
    >>> round(float(u(jnp.array([0.0]), 1.0)), 4), round(float(u.entropy(jnp.array([0.0]), 1.0)), 4)
    (0.1807, 0.6931)
    """

    data: InitialData
    eps: Array
    hamiltonian: Quadratic
    normalize: bool

    def __init__(
        self,
        data: InitialData,
        eps: ArrayLike,
        hamiltonian: Quadratic | None = None,
        normalize: bool = False,
    ):
        self.data = data
        self.eps = _checks.positive_scalar("eps", eps)
        self.hamiltonian = Quadratic() if hamiltonian is None else hamiltonian
        self.normalize = bool(normalize)
        require_quadratic(data, self.hamiltonian, "HopfCole")

    def _moments(
        self, x: Float[Array, "M d"], t: Float[Array, ""], payload: Float[Array, "N p"]
    ) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
        value, mean = softmin(
            x,
            self.data.points,
            self._values(),
            eps=self.eps,
            cost=quadratic_cost(self.hamiltonian, t),
            payload=payload,
        )
        assert mean is not None  # a payload was passed
        return value + self.log_normalisation(t).astype(value.dtype), mean

    def log_normalisation(self, t: ArrayLike) -> Float[Array, ""]:
        """What `normalize=True` adds to the value at time t (zero otherwise)."""
        if not self.normalize:
            return jnp.zeros(())
        d = self.data.dimension
        spread = d * jnp.log(4 * math.pi * self.eps * t)
        return self.eps / 2 * (spread + self.hamiltonian.log_determinant(d))

    def weights(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch N"]:
        """Gibbs weights p_j(x, t), summing to one: how much each atom counts at (x, t); O(M N) memory."""

        def weights(x: Array, t: Array) -> Array:
            cost = quadratic_cost(self.hamiltonian, t)
            return gibbs_weights(x, self.data.points, self._values(), eps=self.eps, cost=cost)

        return self._over(weights, x, t)

    def entropy(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch"]:
        """Entropy of the weights in nats; keeps its relative accuracy when it is 1e-12 or less."""

        def entropy(x: Array, t: Array) -> Array:
            cost = quadratic_cost(self.hamiltonian, t)
            return gibbs_entropy(x, self.data.points, self._values(), eps=self.eps, cost=cost)

        return self._over(entropy, x, t)

    def effective_values(self) -> Float[Array, "N"]:
        """g_j - eps log w_j: the values of the unweighted atoms that give the same soft-min."""
        return self._values()

    def _values(self) -> Float[Array, "N"]:
        if self.data.log_weights is None:
            return self.data.values
        present = self.data.log_weights > -jnp.inf
        weights = jnp.where(present, self.data.log_weights, 0)
        folded = self.data.values - self.eps.astype(weights.dtype) * weights
        return jnp.where(present, folded, jnp.inf)

    def _inverse_viscosity(self) -> Array:
        return 1 / self.eps

    def _normalisation_rate(self, t: Float[Array, ""]) -> Array | float:
        return self.data.dimension * self.eps / (2 * t) if self.normalize else 0.0
