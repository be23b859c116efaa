from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, PRNGKeyArray

from ..hamiltonians import Quadratic
from ..reductions import Bilinear, HardMin, hardmin
from ..solutions import HopfLax
from . import _rows
from ._description import Description


class MaxPlusLayer(eqx.Module):
    """The max-plus layer `f(x) = max_j W_j.x + b_j`, which is a Hopf-Lax solve: an LSE layer at eps = 0.

    Convex and piecewise affine; its gradient in x is the row that wins, in (W, b) that of this row alone, and
    where rows tie the first of them counts. With `y_j = 2t A W_j`, `g_j = -b_j - t W_j^T A W_j` it is
    `x^T A^-1 x/(4t) - u(x, t)` with `HopfLax`, whose ridges are the facets of a power diagram.

    One sample in, `(in_size,)`; use `jax.vmap` for batches.

    **Arguments:**

    - `in_size`: d.
    - `out_size`: "scalar" for f: R^d -> R, or the number k of outputs, each a maximum over its own `width` rows.
    - `width`: N, the number of rows per output.
    - `key`: random key for W ~ N(0, 1/d); b starts at 0.

    **Raises:** `ValueError` for sizes below one, or an input of another shape or integer dtype.

    **Error:** a few ulp of `max |W_j| |x| + |b_j|`. **Cost:** O(k N d) a sample, derivatives O(k d).

    **Good values:** train at eps > 0 and harden with `LSELayer.tropical()`: here rows that never win do not learn.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 5.1, eqs 9, 10, 27.

    >>> import jax, jax.numpy as jnp, hjax
    >>> layer = hjax.nn.MaxPlusLayer.from_arrays(jnp.array([[0.0], [1.0]]), jnp.array([0.5, 0.0]))
    >>> [float(layer(jnp.array([z]))) for z in (-2.0, 3.0)], float(jax.grad(layer)(jnp.array([3.0]))[0])
    ([0.5, 3.0], 1.0)
    """

    weight: Float[Array, "N d"] | Float[Array, "k N d"]
    bias: Float[Array, "N"] | Float[Array, "k N"]
    in_size: int = eqx.field(static=True)
    out_size: int | Literal["scalar"] = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __init__(self, in_size: int, out_size: int | Literal["scalar"], width: int, *, key: PRNGKeyArray):
        lead = _rows.lead(out_size)
        self.in_size, self.width = _rows.size("in_size", in_size), _rows.size("width", width)
        self.out_size = out_size
        self.weight = _rows.random_rows(lead, width, in_size, key)
        self.bias = jnp.zeros((*lead, width))

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, ""] | Float[Array, "k"]:
        """f(x), a scalar or `(out_size,)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        return -self._hardmin(x).value

    def winner(self, x: ArrayLike) -> Int[Array, ""] | Int[Array, "k"]:
        """The index of the row that attains the maximum: which affine piece, which cell of the power diagram."""
        return self._hardmin(x).index

    def to_solution(self, t: ArrayLike, hamiltonian: Quadratic | None = None) -> HopfLax:
        """The solution u with `f(x) = x^T A^-1 x/(4t) - u(x, t)` at this t: see `LSELayer.to_solution`."""
        _rows.check_scalar(self.out_size)
        chosen = Quadratic() if hamiltonian is None else hamiltonian
        return HopfLax(_rows.to_data(self.weight, self.bias, t, chosen), chosen)

    @classmethod
    def from_solution(cls, u: HopfLax, t: ArrayLike) -> "MaxPlusLayer":
        """The layer with `f(x) = x^T A^-1 x/(4t) - u(x, t)`.

        **Raises:** `ValueError` if u is no `HopfLax` or t <= 0.
        """
        if not isinstance(u, HopfLax):
            raise ValueError(
                f"u is {type(u).__name__}, but only a HopfLax solution is a max-plus layer; pass hjax.HopfLax(data)."
            )
        values, weights = u.data.values, u.data.log_weights
        if weights is not None:
            values = jnp.where(weights > -jnp.inf, values, jnp.inf)
        return cls.from_arrays(*_rows.from_data(u.data.points, values, t, u.hamiltonian))

    @classmethod
    def from_arrays(cls, weight: ArrayLike, bias: ArrayLike) -> "MaxPlusLayer":
        """A layer with the given rows and biases, of one output or several: see `LSELayer.from_arrays`."""
        rows, offsets = _rows.given_rows(weight, bias)
        layer = eqx.filter_eval_shape(lambda: cls(*_rows.sizes(rows), key=jax.random.key(0)))
        return eqx.tree_at(lambda module: (module.weight, module.bias), layer, (rows, offsets))

    def unit(self, index: int) -> "MaxPlusLayer":
        """The scalar layer of output `index` of a layer with several."""
        if self.out_size == "scalar":
            return self
        index = _rows.check_output(index, self.out_size)
        return self.from_arrays(self.weight[index], self.bias[index])

    def describe(self) -> Description:
        """The equation that the layer solves: an identity, for every t and every metric A."""
        return Description(
            model="MaxPlusLayer",
            equation=f"f(x) = x^T A^-1 x/(4t) - u(x, t){_rows.each(self.out_size)}, "
            "with the viscosity solution of u_t + grad u^T A grad u = 0",
            hamiltonian="p^T A p; |p|^2 at A = I",
            eps=0.0,
            gauge=_rows.GAUGE,
            atoms=f"{self.width} rows: y_j = 2t A W_j, g_j = -b_j - t W_j^T A W_j",
            status="exact",
        )

    def _hardmin(self, x: ArrayLike) -> HardMin:
        sample = _rows.sample(x, (self.in_size,), "layer")

        def output(weight: Array, bias: Array) -> HardMin:
            return hardmin(sample, weight, -bias, cost=Bilinear())

        if self.out_size == "scalar":
            return output(self.weight, self.bias)
        return jax.vmap(output)(self.weight, self.bias)
