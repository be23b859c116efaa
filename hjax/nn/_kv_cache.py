import equinox as eqx
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from .. import _checks
from . import _rows


class KVCache(eqx.Module):
    """The keys and values seen so far, in buffers of fixed capacity: the atoms that a new query needs, all of them.

    Decoding adds an atom a token: `g_j` is 0 up to `length` and +inf (absent) behind, so the same program runs at
    every length and the cache can be the carry of `lax.scan`. A token costs O(capacity d): a new query is a new
    point of the solution, to be read off all atoms. The O(d) update by a measure's extension holds for a
    *fixed* query only (theory H.11); that one is `AttentionState.merge`.

    Made by `MultiheadAttention.empty_cache(capacity)`, used by `MultiheadAttention.decode(token, cache)`. To start
    from a prompt, `cache.append(*attention.project(prompt)[1:])`.

    **Arguments:** `num_heads`, `capacity`, `key_size`, `value_size`: whole numbers; `dtype` of the buffers.

    **Raises:** `ValueError` for sizes below one, and when more is appended than fits (at run time where traced).

    >>> import jax, jax.numpy as jnp, hjax
    >>> attention = hjax.nn.MultiheadAttention(2, 8, causal=True, key=jax.random.key(0))
    >>> tokens = jax.random.normal(jax.random.key(1), (5, 8))
    >>> step = lambda cache, token: attention.decode(token, cache)[::-1]
    >>> cache, outputs = jax.lax.scan(step, attention.empty_cache(16), tokens)
    >>> int(cache.length), bool(jnp.allclose(outputs, attention(tokens), atol=1e-5))
    (5, True)
    """

    key: Float[Array, "H capacity d"]
    value: Float[Array, "H capacity p"]
    length: Int[Array, ""]

    def __init__(
        self,
        num_heads: int,
        capacity: int,
        key_size: int,
        value_size: int,
        dtype: jnp.dtype | None = None,
    ):
        sizes = {"num_heads": num_heads, "capacity": capacity, "key_size": key_size, "value_size": value_size}
        for name, size in sizes.items():
            _rows.size(name, size)
        self.key = jnp.zeros((num_heads, capacity, key_size), dtype)
        self.value = jnp.zeros((num_heads, capacity, value_size), dtype)
        self.length = jnp.zeros((), jnp.int32)

    @property
    def capacity(self) -> int:
        """How many keys fit."""
        return self.key.shape[1]

    @property
    def present(self) -> Bool[Array, "capacity"]:
        """Which slots hold a key."""
        return jnp.arange(self.capacity) < self.length

    def append(self, key: ArrayLike, value: ArrayLike) -> "KVCache":
        """The cache with n more keys `(H, n, d)` and values `(H, n, p)` behind those it has."""
        keys, values = _checks.floating("key", key), _checks.floating("value", value)
        (heads, _, d), p = self.key.shape, self.value.shape[2]
        n = keys.shape[1] if keys.ndim == 3 else 0
        if n == 0 or keys.shape != (heads, n, d) or values.shape != (heads, n, p):
            raise ValueError(
                f"key and value have shapes {keys.shape} and {values.shape}; pass one row per new token and head, "
                f"({heads}, n, {d}) and ({heads}, n, {p})."
            )
        message = f"a KVCache of capacity {self.capacity} is full; make a larger one with empty_cache(capacity)."
        length = self.length
        if n > self.capacity or (_checks.is_concrete(length) and int(length) + n > self.capacity):
            raise ValueError(message)
        if not _checks.is_concrete(length):
            length = eqx.error_if(length, length + n > self.capacity, message)
        start = (jnp.zeros_like(length), length, jnp.zeros_like(length))  # of one dtype, in 64-bit mode too
        buffers = (
            lax.dynamic_update_slice(self.key, keys.astype(self.key.dtype), start),
            lax.dynamic_update_slice(self.value, values.astype(self.value.dtype), start),
            length + n,
        )
        return eqx.tree_at(lambda cache: (cache.key, cache.value, cache.length), self, buffers)
