from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from . import _rows
from ._attend import sequence
from ._description import Description
from ._kv_cache import KVCache
from ._positions import Positions
from ._transformer_block import TransformerBlock


class Transformer(eqx.Module):
    """A stack of `TransformerBlock`s on a sequence: scores for every token, or, pooled, one set for the sequence.

    Tokens are embedded, go through `depth` blocks, are normalised, averaged if pooled, and sent through a linear
    layer. For class probabilities put it in a `Classifier.of_scores(transformer, eps=1.0)`.

    One sequence in; use `jax.vmap` for batches.

    **Arguments:**

    - `in_size`: numbers per token, or with `token_ids` the size of the vocabulary. `out_size`: scores.
    - `size`: width of the tokens inside. `depth`: blocks. `num_heads`: heads, which divide size.
    - `token_ids`: whether tokens are whole numbers from 0 to in_size - 1.
    - `pooled`: whether to return one set of scores, from the mean over the tokens that are present.
    - `causal`, `positions`, `hidden`, `rows`, `eps`, `attention_eps`: as in `TransformerBlock`.
    - `key`: random key.

    **Raises:** `ValueError` for sizes that do not fit, unknown positions, tokens of another shape or kind, ids
    outside the vocabulary.

    **Cost:** that of its blocks. Each block is compiled by itself; a gradient at depth 4 takes seconds to compile.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition H.9.

    >>> import jax, jax.numpy as jnp, hjax
    >>> model = hjax.nn.Transformer(
    ...     11, 3, size=8, depth=2, num_heads=2, token_ids=True, pooled=True, key=jax.random.key(0)
    ... )
    >>> model(jnp.array([1, 5, 10, 0])).shape
    (3,)
    """

    embedding: eqx.nn.Embedding | eqx.nn.Linear
    blocks: tuple[TransformerBlock, ...]
    norm: eqx.nn.LayerNorm
    scores: eqx.nn.Linear
    in_size: int = eqx.field(static=True)
    pooled: bool = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        size: int,
        depth: int,
        num_heads: int,
        token_ids: bool = False,
        pooled: bool = False,
        causal: bool = False,
        positions: Positions = "rotary",
        hidden: int | None = None,
        rows: int = 2,
        eps: ArrayLike = 1.0,
        attention_eps: ArrayLike | None = None,
        key: PRNGKeyArray,
    ):
        self.in_size, self.pooled = _rows.size("in_size", in_size), bool(pooled)
        out_size, depth = _rows.size("out_size", out_size), _rows.size("depth", depth)
        first, last, *keys = jax.random.split(key, 2 + depth)
        self.blocks = tuple(
            TransformerBlock(
                size,
                num_heads,
                hidden=hidden,
                rows=rows,
                eps=eps,
                attention_eps=attention_eps,
                causal=causal,
                positions=positions,
                key=k,
            )
            for k in keys
        )
        self.embedding = (eqx.nn.Embedding if token_ids else eqx.nn.Linear)(in_size, size, key=first)
        self.norm = eqx.nn.LayerNorm(size)
        self.scores = eqx.nn.Linear(size, out_size, key=last)

    def __call__(
        self, tokens: ArrayLike, *, mask: ArrayLike | None = None, key: Any = None
    ) -> Float[Array, "T out"] | Float[Array, "out"]:
        """Scores `(T, out_size)`, or `(out_size,)` if pooled, of tokens `(T, in_size)` or ids `(T,)`.

        `mask (T,)`: True for tokens that are present; nothing looks at the others. `key` is ignored.
        """
        del key
        state = jax.vmap(self.embedding)(self._checked(tokens))
        present = None if mask is None else jnp.asarray(mask)
        if present is not None and (present.dtype != bool or present.shape != state.shape[:1]):
            raise ValueError(
                f"mask has shape {present.shape} and dtype {present.dtype}; pass one True or False per token, "
                f"{state.shape[:1]}."
            )
        for block in self.blocks:
            state = block(state, mask=present)
        state = jax.vmap(self.norm)(state)
        if not self.pooled:
            return jax.vmap(self.scores)(state)
        if present is None:
            return self.scores(jnp.mean(state, axis=0))
        total = jnp.sum(jnp.where(present[:, None], state, 0), axis=0)
        return self.scores(total / jnp.maximum(jnp.sum(present), 1).astype(state.dtype))

    def empty_cache(self, capacity: int) -> tuple[KVCache, ...]:
        """A `KVCache` for every block."""
        return tuple(block.attention.empty_cache(capacity) for block in self.blocks)

    def decode(self, token: ArrayLike, cache: tuple[KVCache, ...]) -> tuple[Float[Array, "out"], tuple[KVCache, ...]]:
        """The scores after one more token, an id or `(in_size,)`, and the caches with it.

        Token by token the same scores as the call on the whole sequence; for use in `lax.scan`.

        **Raises:** `ValueError` where that cannot be: not causal, or pooled.
        """
        if self.pooled:
            raise ValueError("a pooled transformer has no scores for single tokens; make it with pooled=False.")
        state = self.embedding(self._checked(jnp.asarray(token)[None])[0])
        caches = []
        for block, old in zip(self.blocks, cache, strict=True):
            state, new = block.decode(state, old)
            caches.append(new)
        return self.scores(self.norm(state)), tuple(caches)

    def describe(self) -> Description:
        """What is exact (heads and units of the blocks) and what is not (the stack)."""
        return Description(
            model="Transformer",
            equation="none as a whole: blocks of Euler steps, each evaluating solutions at points that others made",
            hamiltonian="|p|^2 in each head and each unit",
            eps=None,
            gauge="one time t for each head and each unit: the model does not depend on them",
            atoms="the tokens' keys in every block, and the rows of its units",
            status="structural",
            parts=tuple(block.describe() for block in self.blocks),
        )

    def _checked(self, tokens: ArrayLike) -> Array:
        if not isinstance(self.embedding, eqx.nn.Embedding):
            return sequence("tokens", tokens, self.in_size)
        ids = jnp.asarray(tokens)
        if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim != 1 or not ids.size:
            raise ValueError(
                f"tokens have shape {ids.shape} and dtype {ids.dtype}, but ids, whole numbers of shape (T,), are "
                f"wanted; for a batch of sequences use jax.vmap."
            )
        if _checks.is_concrete(ids):
            known = np.asarray(ids)
            if known.min() < 0 or known.max() >= self.in_size:
                raise ValueError(
                    f"tokens go from {known.min()} to {known.max()}; pass ids from 0 to {self.in_size - 1}."
                )
        return ids
