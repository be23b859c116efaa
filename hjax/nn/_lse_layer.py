from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from ..hamiltonians import Quadratic
from ..initial_data import InitialData
from ..reductions import Bilinear, softmin
from ..solutions import HopfCole


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

    **Cost:** O(k N d) a sample; under `jax.vmap` one matrix product and no M x N matrix for N > 512.

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
        outputs = 1 if out_size == "scalar" else out_size
        for name, size in (("in_size", in_size), ("out_size", outputs), ("width", width)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; pass a whole number of at least 1.")
        self.in_size, self.out_size, self.width = in_size, out_size, width
        self.eps = _checks.positive_scalar("eps", eps)
        lead = () if out_size == "scalar" else (out_size,)
        self.weight = jax.random.normal(key, (*lead, width, in_size)) / jnp.sqrt(float(in_size))
        self.bias = jnp.broadcast_to(-self.eps * jnp.log(float(width)), (*lead, width))

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, ""] | Float[Array, "k"]:
        """f(x), a scalar or `(out_size,)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        sample = _checks.floating("x", x)
        if sample.shape != (self.in_size,):
            raise ValueError(
                f"x has shape {sample.shape}, but one sample of shape ({self.in_size},) is wanted; "
                f"for a batch use jax.vmap(layer)(x)."
            )

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
        if self.out_size != "scalar":
            raise ValueError(
                f"this layer has {self.out_size} outputs, each with a solution of its own; "
                f"pass one of them, layer.unit(i).to_solution(t)."
            )
        t = _checks.positive_scalar("t", t)
        chosen = Quadratic() if hamiltonian is None else hamiltonian
        chosen.require_dimension(self.in_size)
        scaled = chosen.apply(self.weight)
        values = -self.bias - t * jnp.sum(self.weight * scaled, axis=1)
        return HopfCole(InitialData(2 * t * scaled, values), self.eps, chosen)

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
        t = _checks.positive_scalar("t", t)
        weight = u.hamiltonian.solve(u.data.points) / (2 * t)
        bias = -u.effective_values() - jnp.sum(u.data.points * weight, axis=1) / 2
        return cls.from_arrays(weight, bias - u.log_normalisation(t), eps=u.eps)

    @classmethod
    def from_arrays(cls, weight: ArrayLike, bias: ArrayLike, *, eps: ArrayLike) -> "LSELayer":
        """A scalar layer with the given rows `(N, d)` and biases `(N,)`; `-inf` marks an absent row."""
        rows, offsets = _checks.floating("weight", weight), _checks.floating("bias", bias)
        _checks.atoms(rows, offsets, ("weight", "bias"))
        for name, array in (("weight", rows), ("bias", offsets)):
            _checks.no_nan(name, array)
        width, in_size = rows.shape
        layer = cls(in_size, "scalar", width, eps=eps, key=jax.random.key(0))
        dtype = jnp.result_type(rows, offsets)
        arrays = rows.astype(dtype), offsets.astype(dtype)
        return eqx.tree_at(lambda module: (module.weight, module.bias), layer, arrays)

    def unit(self, index: int) -> "LSELayer":
        """The scalar layer of output `index` of a layer with several."""
        if self.out_size == "scalar":
            return self
        if not -self.out_size <= index < self.out_size:
            raise ValueError(f"index is {index}, but this layer has {self.out_size} outputs.")
        return self.from_arrays(self.weight[index], self.bias[index], eps=self.eps)
