from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from . import _rows, activations
from ._description import Description

_KINDS = {
    "sigmoid": (activations.sigmoid, activations.softplus),
    "tanh": (activations.tanh, activations.log_cosh),
}


class LSEGate(eqx.Module):
    """A gate `s((W x + b)/eps)`: the slope of a log-sum-exp of two neurons, one pair per output.

    "sigmoid" is the derivative of `softplus_eps`, with values in (0, 1): the gates of an LSTM. "tanh" is that of
    `eps log 2 cosh(z/eps)`, with values in (-1, 1): its candidate. Each is the Gibbs mean over its two rows. As
    eps -> 0 a gate becomes a step (0 or 1, -1 or 1): a switch, which is no max-plus operation.

    One sample in, `(in_size,)`; use `jax.vmap` for batches.

    **Arguments:** `in_size`, `out_size`: d and k. `eps`: temperature, positive. `kind`: "sigmoid" or "tanh".
    `key`: random key for W ~ N(0, 1/d); b starts at 0.

    **Raises:** `ValueError` for sizes below one, eps <= 0, another kind, or an input of another shape or dtype.

    **Error:** absolute, a few ulp of 1, times |z|/eps. **Cost:** O(k d) a sample.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Remark 5.5, eq. 31; Table 6.

    >>> import jax, jax.numpy as jnp, hjax
    >>> gate = hjax.nn.LSEGate(3, 2, eps=1.0, key=jax.random.key(0))
    >>> gate(jnp.zeros(3)).tolist()
    [0.5, 0.5]
    """

    weight: Float[Array, "k d"]
    bias: Float[Array, "k"]
    eps: Array
    in_size: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)
    kind: Literal["sigmoid", "tanh"] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        eps: ArrayLike,
        kind: Literal["sigmoid", "tanh"] = "sigmoid",
        key: PRNGKeyArray,
    ):
        if kind not in _KINDS:
            raise ValueError(f"kind is {kind!r}; pass one of {sorted(_KINDS)}.")
        self.in_size, self.out_size = _rows.size("in_size", in_size), _rows.size("out_size", out_size)
        self.kind = kind
        self.eps = _checks.positive_scalar("eps", eps)
        self.weight = _rows.random_rows((), out_size, in_size, key)
        self.bias = jnp.zeros(out_size)

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, "k"]:
        """The gates' values, `(out_size,)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        return _KINDS[self.kind][0](self._pre_activation(x), self.eps)

    def potential(self, x: ArrayLike) -> Float[Array, "k"]:
        """The log-sum-exps whose slopes in z = W x + b the gates are, `(out_size,)`."""
        return _KINDS[self.kind][1](self._pre_activation(x), self.eps)

    def describe(self) -> Description:
        """The equation whose slope each gate is."""
        return Description(
            model="LSEGate",
            equation=f"each gate: with z = W x + b, {activations.describe(self.kind).equation}",
            hamiltonian="p^2",
            eps=float(self.eps),
            gauge="any time t > 0: the slope does not change",
            atoms=f"{activations.describe(self.kind).atoms}; the inputs move z",
            status="exact",
        )

    def _pre_activation(self, x: ArrayLike) -> Array:
        sample = _rows.sample(x, (self.in_size,), "gate")
        return jnp.matmul(self.weight, sample, precision=jax.lax.Precision.HIGHEST) + self.bias
