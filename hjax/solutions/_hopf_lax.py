import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from ..hamiltonians import Quadratic
from ..initial_data import InitialData
from ..reductions import hardmin, quadratic_cost
from ._solution import Solution, require_quadratic


class HopfLax(Solution):
    """The Hopf-Lax solution of `u_t + grad u^T A grad u = 0`: the viscosity solution, shocks and all.

    `u(x, t) = min_j g_j + (x-y_j)^T A^-1 (x-y_j)/(4t)`: the limit eps -> 0 of `HopfCole`, from above, with
    `0 <= HopfLax - HopfCole <= eps log N` on the same unweighted atoms. Between shocks (the facets of a power
    diagram) it is quadratic in x; at a shock the gradient is that of the first of the tied atoms.

    **Arguments:** `data`: `InitialData`; finite log-weights play no role, `-inf` marks an absent atom.
    `hamiltonian`: `Quadratic(metric)`.

    **Raises:** `ValueError` as `HopfCole` does.

    **Error:** rounding: a few ulp; quadrature: with atoms on a grid of spacing h, at most
    `Lip(g) dist + dist^2/(4t)` with dist <= h sqrt(d)/2, one-sided. **Cost:** O(M N d), memory O(M + N).

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 5.1, eqs 9, 10.

    >>> import jax.numpy as jnp, hjax
    >>> u = hjax.HopfLax(hjax.InitialData(jnp.array([[-1.0], [1.0]]), jnp.zeros(2)))
    >>> x = jnp.array([0.5])
    >>> float(u(x, 1.0)), float(u.gradient(x, 1.0)[0]), int(u.minimizer(x, 1.0))
    (0.0625, -0.25, 1)
    """

    data: InitialData
    hamiltonian: Quadratic

    def __init__(self, data: InitialData, hamiltonian: Quadratic | None = None):
        self.data = data
        self.hamiltonian = Quadratic() if hamiltonian is None else hamiltonian
        require_quadratic(data, self.hamiltonian, "HopfLax")

    def _moments(
        self, x: Float[Array, "M d"], t: Float[Array, ""], payload: Float[Array, "N p"]
    ) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
        cost = quadratic_cost(self.hamiltonian, t)
        value, index = hardmin(x, self.data.points, self._values(), cost=cost)
        return value, jnp.take(payload, index, axis=0)

    def weights(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch N"]:
        """One-hot weights on the minimiser, `(..., N)`."""
        return jax.nn.one_hot(self.minimizer(x, t), self.data.size, dtype=self.data.points.dtype)

    def entropy(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch"]:
        """Zero: all weight lies on one atom."""
        points, _ = self._validated(x, t)
        return jnp.zeros(points.shape[:-1], points.dtype)

    def _values(self) -> Float[Array, "N"]:
        if self.data.log_weights is None:
            return self.data.values
        return jnp.where(self.data.log_weights > -jnp.inf, self.data.values, jnp.inf)

    def _inverse_viscosity(self) -> float:
        return 0.0

    def _normalisation_rate(self, t: Float[Array, ""]) -> float:
        return 0.0
