from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from ..hamiltonians import Quadratic
from ..reductions import Bilinear, softmin
from ..solutions import HopfCole
from . import _rows
from ._description import Description
from ._max_plus import MaxPlusLayer


class LSELayer(eqx.Module):
    """The log-sum-exp layer `f(x) = eps log sum_j exp((W_j.x + b_j)/eps)`, which is a Hopf-Cole solve.

    For any time t and metric A its weights are initial data: `y_j = 2t A W_j`, `g_j = -b_j - t W_j^T A W_j`,
    and `f(x) = x^T A^-1 x/(4t) - u(x, t)` with the `HopfCole` solution u on those atoms. The forward pass
    is the same reduction that the solution runs. f is convex, its gradient the Gibbs mean of the rows W_j,
    and `eps -> 0` gives the max-plus layer `max_j W_j.x + b_j`.

    One sample in, `(in_size,)`; use `jax.vmap` for batches.

    **Arguments:**

    - `in_size`: d.
    - `out_size`: "scalar" for f: R^d -> R, or the number k of outputs, each an LSE of its own `width` rows.
    - `width`: N, the number of rows (neurons, atoms) per output.
    - `eps`: temperature, positive.
    - `key`: random key for W ~ N(0, 1/d); b starts at `-eps log N`, which makes f(0) = 0.

    **Raises:** `ValueError` for sizes below one, eps <= 0, or an input of another shape or integer dtype.

    **Cost:** O(k N d) a sample; under `jax.vmap` that of one reduction of all samples, without an M x N
    matrix where that is large.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 4.1, eqs 4, 5, 22-26.

    >>> import jax, jax.numpy as jnp, hjax
    >>> layer = hjax.nn.LSELayer(2, "scalar", width=16, eps=0.1, key=jax.random.key(0))
    >>> u, x = layer.to_solution(t=0.5), jnp.array([0.3, -0.4])
    >>> bool(jnp.allclose(layer(x), x @ x / (4 * 0.5) - u(x, 0.5), atol=1e-5))
    True
    """

    weight: Float[Array, "N d"] | Float[Array, "k N d"]
    bias: Float[Array, "N"] | Float[Array, "k N"]
    eps: Array
    in_size: int = eqx.field(static=True)
    out_size: int | Literal["scalar"] = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int | Literal["scalar"],
        width: int,
        *,
        eps: ArrayLike,
        key: PRNGKeyArray,
    ):
        lead = _rows.lead(out_size)
        self.in_size, self.width = _rows.size("in_size", in_size), _rows.size("width", width)
        self.out_size = out_size
        self.eps = _checks.positive_scalar("eps", eps)
        self.weight = _rows.random_rows(lead, width, in_size, key)
        self.bias = jnp.broadcast_to(-self.eps * jnp.log(float(width)), (*lead, width))

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, ""] | Float[Array, "k"]:
        """f(x), a scalar or `(out_size,)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        sample = _rows.sample(x, (self.in_size,), "layer")

        def output(weight: Array, bias: Array) -> Array:
            return -softmin(sample, weight, -bias, eps=self.eps, cost=Bilinear()).value

        if self.out_size == "scalar":
            return output(self.weight, self.bias)
        return jax.vmap(output)(self.weight, self.bias)

    def to_solution(self, t: ArrayLike, hamiltonian: Quadratic | None = None) -> HopfCole:
        """The solution u with `f(x) = x^T A^-1 x/(4t) - u(x, t)` at this t: the layer read as a PDE.

        t and A are a gauge: every choice is an exact reading of the same f (theory: Gauge freedom).

        **Raises:** `ValueError` for t <= 0, and for a layer with several outputs: take one with `unit(i)`.
        """
        _rows.check_scalar(self.out_size)
        chosen = Quadratic() if hamiltonian is None else hamiltonian
        return HopfCole(_rows.to_data(self.weight, self.bias, t, chosen), self.eps, chosen)

    @classmethod
    def from_solution(cls, u: HopfCole, t: ArrayLike) -> "LSELayer":
        """The layer with `f(x) = x^T A^-1 x/(4t) - u(x, t)`.

        Its rows are `W_j = A^-1 y_j/(2t)`, its biases `b_j = -g_j - y_j.W_j/2`.
        Quadrature weights and the prefactor of `normalize=True` go into the biases.

        **Raises:** `ValueError` if u is no `HopfCole` or t <= 0.

        **Error:** b_j holds |y_j|^2/(4t), so f is good to a few ulp of `max |W_j| |x| + |b_j|`: for atoms far
        from the origin move them there first.
        """
        if not isinstance(u, HopfCole):
            raise ValueError(
                f"u is {type(u).__name__}, but only a HopfCole solution is an LSE layer; pass hjax.HopfCole(data, eps)."
            )
        weight, bias = _rows.from_data(u.data.points, u.effective_values(), t, u.hamiltonian)
        return cls.from_arrays(weight, bias - u.log_normalisation(t), eps=u.eps)

    @classmethod
    def from_arrays(cls, weight: ArrayLike, bias: ArrayLike, *, eps: ArrayLike) -> "LSELayer":
        """A layer with the given rows and biases: `(N, d)`, `(N,)` for a scalar, `(k, N, d)`, `(k, N)` for k outputs.

        A bias of `-inf` marks an absent row.
        """
        rows, offsets = _rows.given_rows(weight, bias)
        # Only the shape of a layer: no random rows are drawn that would be replaced.
        layer = eqx.filter_eval_shape(lambda: cls(*_rows.sizes(rows), eps=1.0, key=jax.random.key(0)))
        arrays = rows, offsets, _checks.positive_scalar("eps", eps)
        return eqx.tree_at(lambda module: (module.weight, module.bias, module.eps), layer, arrays)

    def unit(self, index: int) -> "LSELayer":
        """The scalar layer of output `index` of a layer with several."""
        if self.out_size == "scalar":
            return self
        index = _rows.check_output(index, self.out_size)
        return self.from_arrays(self.weight[index], self.bias[index], eps=self.eps)

    def tropical(self) -> MaxPlusLayer:
        """The limit eps -> 0 at these rows and biases: `0 <= f(x) - f.tropical()(x) <= eps log N`."""
        return MaxPlusLayer.from_arrays(self.weight, self.bias)

    def describe(self) -> Description:
        """The equation that the layer solves: an identity, for every t and every metric A."""
        return Description(
            model="LSELayer",
            equation=f"f(x) = x^T A^-1 x/(4t) - u(x, t){_rows.each(self.out_size)}, "
            "with u_t + grad u^T A grad u = eps tr(A D^2 u) (u with the heat kernel's prefactor)",
            hamiltonian="p^T A p; |p|^2 at A = I",
            eps=float(self.eps),
            gauge=_rows.GAUGE,
            atoms=f"{self.width} rows: y_j = 2t A W_j, g_j = -b_j - t W_j^T A W_j",
            status="exact",
        )
