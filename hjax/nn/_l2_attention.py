from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..initial_data import InitialData
from ..reductions import SquaredEuclidean
from ..solutions import HopfCole, HopfLax
from ._attend import AttentionState, attend, same_length, sequence, temperature
from ._description import Description


class L2Attention(eqx.Module):
    """Attention by distance, `o(q) = sum_j p_j v_j` with logits `-(|q - k_j|^2/(4t) + g_j)/eps`: a Hopf-Cole solve.

    With `u(q, t; g)` the `HopfCole` solution whose atoms are the keys, with initial values g (zero by default):

    - `o(q) = d/ds u(q, t; g + s v)` at s = 0: the derivative in the *initial data*, along the values;
    - `log Z(q) = -u(q, t; g)/eps`: the partition function is exp(-u/eps);
    - only for values that are the keys it is a gradient in space: `o(q) = q - 2t grad u(q, t)`, the mean shift.

    Dot-product attention at temperature eps is this with `t = 1/2` and `g_j = -|k_j|^2/2`. As `eps -> 0` each
    query takes the value of its nearest key (for g = 0); `eps=0` does. Self-attention with keys = queries then is the
    identity: tokens cluster at finite eps only (theory H.10).

    No parameters but eps and t. One sequence in; use `jax.vmap` for batches.

    **Arguments:**

    - `eps`: temperature = viscosity, positive, or 0 for the hard limit. sqrt(d) with t = 1/2 is the usual scale.
    - `t`: time, positive.

    **Raises:** `ValueError` for eps < 0, t <= 0, and inputs of wrong shapes or integer dtype.

    **Error:** of the output, a few ulp of max |v| times (1 + |u|/eps). **Cost:** O(T_q T_k d) time and O(T_q + T_k)
    memory, derivatives included.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 4.2 (in its corrected form, A).

    >>> import jax, jax.numpy as jnp, hjax
    >>> query, key_, value = (jax.random.normal(jax.random.key(i), (5, 2)) for i in range(3))
    >>> attention = hjax.nn.L2Attention(eps=0.5)
    >>> u = attention.to_solution(key_)
    >>> bool(jnp.allclose(attention.state(query, key_, value).log_partition, -u(query, 0.5) / 0.5, atol=1e-5))
    True
    """

    eps: Array | None  # None in the hard limit
    t: Array

    def __init__(self, *, eps: ArrayLike, t: ArrayLike = 0.5):
        self.eps = temperature(eps)
        self.t = _checks.positive_scalar("t", t)

    def __call__(
        self,
        query: ArrayLike,
        key_: ArrayLike,
        value: ArrayLike,
        g: ArrayLike | None = None,
        *,
        causal: bool = False,
        key: Any = None,
    ) -> Float[Array, "T_q p"]:
        """The outputs `(T_q, p)` for queries `(T_q, d)`, keys `(T_k, d)` and values `(T_k, p)`.

        `g (T_k,)`: initial values of the keys, `+inf` for one that is absent (padding). `causal`: query i sees keys
        j <= i; then T_q = T_k. `key` is ignored. A query that sees no key gets 0.
        """
        del key
        return self._attend(query, key_, value, g, causal)[0]

    def state(
        self,
        query: ArrayLike,
        key_: ArrayLike,
        value: ArrayLike,
        g: ArrayLike | None = None,
        *,
        causal: bool = False,
    ) -> AttentionState:
        """Outputs and log Z = -u/eps; states over disjoint keys, of the same queries, `merge`."""
        if self.eps is None:
            raise ValueError("eps is 0, where log Z = -u/eps has no limit; read u itself from to_solution(key_).")
        output, u = self._attend(query, key_, value, g, causal)
        return AttentionState(output, -u / self.eps.astype(u.dtype))

    def to_solution(self, key_: ArrayLike, g: ArrayLike | None = None) -> HopfCole | HopfLax:
        """The solution u whose atoms are the keys; at `(q, self.t)` it is the attention's -eps log Z.

        For eps = 0 it is the `HopfLax` solution. The gradient of `to_solution(key_, g)(q, self.t)` in g, contracted
        with the values, is the output.
        """
        keys = sequence("key_", key_)
        data = InitialData(keys, jnp.zeros(keys.shape[:1], keys.dtype) if g is None else g)
        return HopfLax(data) if self.eps is None else HopfCole(data, self.eps)

    def describe(self) -> Description:
        """The equation it solves: exact for every query."""
        return Description(
            model="L2Attention",
            equation="u_t + |grad u|^2 = eps Lap u; output = d/ds u(q, t; g + s v) at s = 0, log Z = -u(q, t; g)/eps"
            if self.eps is not None
            else "u_t + |grad u|^2 = 0 (Hopf-Lax); output = the value at the minimiser",
            hamiltonian="|p|^2",
            eps=0.0 if self.eps is None else float(self.eps),
            gauge=f"t = {float(self.t):g}, a parameter: it scales the distances",
            atoms="the keys, with initial values g",
            status="exact",
        )

    def _attend(self, query: Any, key_: Any, value: Any, g: Any, causal: bool) -> tuple[Array, Array]:
        keys = sequence("key_", key_)
        queries, values = sequence("query", query, keys.shape[1]), sequence("value", value)
        same_length(("value", values), ("key_", keys))
        if causal:
            same_length(("query", queries), ("key_", keys))
        heights = None if g is None else _checks.floating("g", g)
        cost = SquaredEuclidean(1 / (4 * self.t))
        return attend(queries, keys, values, heights, eps=self.eps, cost=cost, causal=causal)
