import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..initial_data import InitialData
from ..reductions import SoftMin, SquaredEuclidean, hardmin, softmin
from ..solutions import HopfCole
from . import _rows
from ._description import Description


class KernelRegressor(eqx.Module):
    """Regression with a Gaussian kernel `k_j(x) = exp(-|x - x_j|^2/(2 s^2))`, read as a heat flow with `2 t eps = s^2`.

    - `kind="average"`, Nadaraya-Watson: `sum_j k_j(x) v_j / sum_j k_j(x)`, the Gibbs mean of the values, at g = 0. It
      stays within the range of the values; as s -> 0 it takes the value of the nearest point (`nearest`).
    - `kind="sum"`, a kernel machine: `sum_j k_j(x) v_j`, the heat solution phi = exp(-u/eps). For coefficients of both
      signs it is a difference phi_+ - phi_- of two solutions, which `to_solutions` returns.

    Both are one reduction: the value gives the sum of the k_j, the mean the average.

    One sample in, `(d,)`; use `jax.vmap` for batches.

    **Arguments:**

    - `points`: x_j, `(N, d)`.
    - `values`: v_j, `(N,)` or `(N, p)`: targets for "average", coefficients for "sum".
    - `bandwidth`: s, positive, in the unit of the points.
    - `kind`: "average" or "sum".

    **Raises:** `ValueError` for other shapes, NaN, integer arrays, bandwidth <= 0 or another kind.

    **Error:** a few ulp of max |v_j| times |x - x_j|^2/s^2 at the points that carry weight. **Cost:** O(N d) a sample.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix C; F.1 with g = 0.

    >>> import jax.numpy as jnp, hjax
    >>> points, targets = jnp.array([[0.0], [1.0]]), jnp.array([2.0, 4.0])
    >>> regressor = hjax.nn.KernelRegressor(points, targets, bandwidth=0.5)
    >>> float(regressor(jnp.array([0.5]))), float(regressor.nearest(jnp.array([0.8])))
    (3.0, 4.0)
    """

    points: Float[Array, "N d"]
    values: Float[Array, "N"] | Float[Array, "N p"]
    bandwidth: Array
    kind: str = eqx.field(static=True)

    def __init__(self, points: ArrayLike, values: ArrayLike, *, bandwidth: ArrayLike, kind: str = "average"):
        if kind not in ("average", "sum"):
            raise ValueError(f"kind is {kind!r}; pass 'average' (Nadaraya-Watson) or 'sum' (a kernel machine).")
        x, v = _checks.floating("points", points), _checks.floating("values", values)
        if v.ndim not in (1, 2):
            raise ValueError(f"values has shape {v.shape}; pass one number (N,) or p numbers (N, p) per point.")
        _checks.atoms(x, v if v.ndim == 1 else v[:, 0] if v.shape[1] else v, ("points", "values"))
        for name, array in (("points", x), ("values", v)):
            _checks.no_nan(name, array)
        dtype = jnp.result_type(x, v)
        self.points, self.values, self.kind = x.astype(dtype), v.astype(dtype), kind
        self.bandwidth = _checks.positive_scalar("bandwidth", bandwidth)

    def __call__(self, x: ArrayLike, *, key: Array | None = None) -> Float[Array, ""] | Float[Array, "p"]:
        """The average or the sum at x, a scalar or `(p,)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        columns = self.values if self.values.ndim == 2 else self.values[:, None]
        value, mean = self._gibbs(x, columns)
        assert mean is not None  # a payload was passed
        total = 1 if self.kind == "average" else jnp.exp(-value / self._eps())
        return (total * mean).reshape(self.values.shape[1:])

    def nearest(self, x: ArrayLike) -> Float[Array, ""] | Float[Array, "p"]:
        """The value of the nearest point, the limit of "average" as the bandwidth tends to zero (ties: the first)."""
        sample = _rows.sample(x, self.points.shape[1:], "regressor.nearest")
        index = hardmin(sample, self.points, jnp.zeros_like(self.points[:, 0])).index
        return jnp.take(self.values, index, axis=0)

    def to_solutions(self, t: ArrayLike, output: int = 0) -> tuple[HopfCole, HopfCole]:
        """The solutions (u_+, u_-) at this t, with `sum_j k_j v_j = exp(-u_+/eps) - exp(-u_-/eps)`, `eps = s^2/(2t)`.

        Their data are `g_j = -eps log |v_j|` on the atoms with coefficients of their sign; all others are absent (if
        there is none, u is `+inf`). For "average" the solution with g = 0 is `HopfCole(InitialData(points, 0), eps)`,
        and the regressor its `expectation` of the values.

        **Raises:** `ValueError` for t <= 0 or an output that is not there.
        """
        t = _checks.positive_scalar("t", t)
        columns = self.values if self.values.ndim == 2 else self.values[:, None]
        coefficients = columns[:, _rows.check_output(output, columns.shape[1])]
        eps = self.bandwidth**2 / (2 * t)

        def solution(part: Array) -> HopfCole:
            present = part > 0
            values = jnp.where(present, -eps * jnp.log(jnp.where(present, part, 1)), jnp.inf)
            return HopfCole(InitialData(self.points, values.astype(self.points.dtype)), eps)

        return solution(coefficients), solution(-coefficients)

    def describe(self) -> Description:
        """The equation whose solution, or Gibbs mean, the regressor is."""
        of = {
            "average": "the Gibbs mean of the values under u, with",
            "sum": "exp(-u_+/eps) - exp(-u_-/eps), one for coefficients of each sign, both with",
        }[self.kind]
        values = {"average": "g = 0; the values are a payload", "sum": "g_j = -eps log |v_j|"}[self.kind]
        return Description(
            model="KernelRegressor",
            equation=f"{of} u_t + |grad u|^2 = eps Lap u (u with the heat kernel's prefactor)",
            hamiltonian="|p|^2",
            eps=None,
            gauge=f"any t and eps with 2 t eps = s^2 = {float(self.bandwidth) ** 2:g}: the regressor does not change",
            atoms=f"the {self.points.shape[0]} points, with {values}",
            status="exact",
        )

    def _eps(self) -> Array:
        # The gauge t = 1/2, where eps is the kernel's variance.
        return (self.bandwidth**2).astype(self.points.dtype)

    def _gibbs(self, x: ArrayLike, payload: Array) -> SoftMin:
        sample = _rows.sample(x, self.points.shape[1:], "regressor")
        zeros = jnp.zeros_like(self.points[:, 0])
        return softmin(sample, self.points, zeros, eps=self._eps(), cost=SquaredEuclidean(0.5), payload=payload)
