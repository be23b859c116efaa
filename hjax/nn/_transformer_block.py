from typing import Any

import equinox as eqx
import jax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from . import _rows
from ._attend import sequence
from ._description import Description
from ._kv_cache import KVCache
from ._lse_layer import LSELayer
from ._multihead_attention import MultiheadAttention
from ._positions import Positions


class TransformerBlock(eqx.Module):
    """A pre-norm transformer block with log-sum-exp units, `X' = X + A(LN X)`, `Y = X' + W_2 phi(LN X')`.

    A is `MultiheadAttention`, every head an exact solve whose atoms are the tokens; the units
    `phi_i = eps log sum_j exp((W_ij.x + b_ij)/eps)` are an `LSELayer` of `hidden` outputs with `rows` rows each, every
    unit an exact solve whose atoms are weights. The two residual sums are Euler steps of a flow of tokens, which is an
    analogy, not an identity. With two rows a unit is affine + softplus_eps; as eps -> 0 it tends to a maximum.

    One sequence in, `(T, size)`, and out; use `jax.vmap` for batches.

    **Arguments:**

    - `size`: width of a token. `num_heads`: heads, which divide it.
    - `hidden`: units, by default 4 size. `rows`: rows of each.
    - `eps`: temperature of the units, positive. `attention_eps`: of the attention, by default sqrt(size / num_heads).
    - `causal`, `positions`: as in `MultiheadAttention`.
    - `key`: random key.

    **Raises:** `ValueError` for sizes that do not fit, temperatures that are not positive, unknown positions.

    **Cost:** that of the attention, and O(T size hidden (rows + 1)); memory O(T hidden). No dropout.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition H.9.

    >>> import jax, jax.numpy as jnp, hjax
    >>> block = hjax.nn.TransformerBlock(8, 2, causal=True, key=jax.random.key(0))
    >>> block(jnp.ones((5, 8))).shape
    (5, 8)
    """

    attention_norm: eqx.nn.LayerNorm
    attention: MultiheadAttention
    units_norm: eqx.nn.LayerNorm
    units: LSELayer
    output: eqx.nn.Linear

    def __init__(
        self,
        size: int,
        num_heads: int,
        *,
        hidden: int | None = None,
        rows: int = 2,
        eps: ArrayLike = 1.0,
        attention_eps: ArrayLike | None = None,
        causal: bool = False,
        positions: Positions = None,
        key: PRNGKeyArray,
    ):
        size = _rows.size("size", size)
        hidden = 4 * size if hidden is None else _rows.size("hidden", hidden)
        rows = _rows.size("rows", rows)
        keys = jax.random.split(key, 3)
        self.attention = MultiheadAttention(
            num_heads, size, eps=attention_eps, causal=causal, positions=positions, key=keys[0]
        )
        self.units = LSELayer(size, hidden, rows, eps=eps, key=keys[1])
        self.output = eqx.nn.Linear(hidden, size, key=keys[2])
        self.attention_norm, self.units_norm = eqx.nn.LayerNorm(size), eqx.nn.LayerNorm(size)

    def __call__(
        self, tokens: ArrayLike, *, mask: ArrayLike | None = None, shift: ArrayLike | None = None, key: Any = None
    ) -> Float[Array, "T size"]:
        """The tokens after the block; `mask` and `shift` go to the attention. `key` is ignored."""
        del key
        state = sequence("tokens", tokens, self.units.in_size)
        state = state + self.attention(jax.vmap(self.attention_norm)(state), mask=mask, shift=shift)
        return state + jax.vmap(self._feed_forward)(state)

    def decode(self, token: ArrayLike, cache: KVCache) -> tuple[Float[Array, "size"], KVCache]:
        """One token `(size,)` of a causal block, and the attention's cache with it; see `KVCache`."""
        state = _rows.sample(token, (self.units.in_size,), "block.decode")
        update, cache = self.attention.decode(self.attention_norm(state), cache)
        state = state + update
        return state + self._feed_forward(state), cache

    def describe(self) -> Description:
        """What is exact (heads and units) and what is not (the residual steps)."""
        return Description(
            model="TransformerBlock",
            equation="none as a whole: two explicit Euler steps, of attention and of log-sum-exp units",
            hamiltonian="|p|^2 in each head and each unit",
            eps=None,
            gauge="one time t for each head and each unit: the block does not depend on them",
            atoms="the tokens' keys (attention) and the rows of the units",
            status="structural",
            parts=(self.attention.describe(), self.units.describe()),
        )

    def _feed_forward(self, token: Float[Array, "size"]) -> Float[Array, "size"]:
        return self.output(self.units(self.units_norm(token)))
