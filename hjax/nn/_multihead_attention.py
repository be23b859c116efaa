import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from ..initial_data import InitialData
from ..reductions import Bilinear
from ..solutions import HopfCole, HopfLax
from . import _positions, _rows
from ._attend import attend, same_length, sequence, temperature
from ._description import Description
from ._initial_values import InitialValues, initial_values
from ._kv_cache import KVCache


class MultiheadAttention(eqx.Module):
    """Dot-product attention `o_i = sum_j p_ij v_j` with logits `(q_i.k_j - g_ij)/eps`, in every head a Hopf-Cole solve.

    A head's keys are the atoms `y_j = 2t k_j` with initial values `g_j = -t |k_j|^2`; its output is the derivative of
    that solution in the initial data, along the values: `o(q) = d/ds u(q, t; g + s v)` at s = 0, exactly. The
    heads' outputs, side by side, go through a linear layer. Memory grows with T, not with T^2.

    What is known of a pair of positions is a change of g: an absent key (padding) has `g_j = +inf`, an additive bias
    of a pair is `g_ij = -shift_ij`, a new initial datum for every query (theory H.13). With eps = 0 a query takes the
    value of the key with the largest `q.k_j - g_ij`; queries and keys then have no derivative.

    One sequence in, `(T, size)`; use `jax.vmap` for batches.

    **Arguments:**

    - `num_heads`: H. `query_size`: width of the queries. `key_size`, `value_size`, `output_size`: by default the same.
    - `head_size`: d, by default query_size / num_heads.
    - `eps`: temperature, positive, 0 for hard attention; by default sqrt(head_size).
    - `causal`: whether query i sees keys j <= i only.
    - `positions`: None; "rotary", which turns queries and keys by their positions (RoPE); or "slopes", which
      charges `slope_h |i - j|` (ALiBi).
    - `use_bias`: whether the four linear layers have biases.
    - `key`: random key.

    **Raises:** `ValueError` for sizes that do not fit, eps < 0, unknown positions.

    **Error:** that of `hjax.softmin`. **Cost:** O(H T_q T_k d) time. Up to 512 keys one dense matrix per head; from
    there on tiles, O(T) memory, derivatives included: 32,768 tokens and a head of 64 take 120 MB for a gradient.
    A (T_q, T_k) mask or shift is that large itself. It, and slopes, run pair by pair at about half the speed.

    **Good values:** a shift that is the same for all queries as `(T_k,)` or `(H, 1, T_k)`, not written out in pairs.
    `eps` is a leaf that gradients reach: partition it off unless it shall be trained.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), eqs 6-7, Theorem 4.2, Propositions H.9, H.13.

    >>> import jax, jax.numpy as jnp, hjax
    >>> attention = hjax.nn.MultiheadAttention(2, 8, positions="rotary", key=jax.random.key(0))
    >>> tokens = jax.random.normal(jax.random.key(1), (5, 8))
    >>> attention(tokens).shape
    (5, 8)
    >>> query, key_, value = attention.project(tokens)
    >>> u = attention.to_solution(tokens, head=1)
    >>> mean = u.expectation(query[1], 0.5, value[1])
    >>> bool(jnp.allclose(mean, attention.heads(tokens)[1], atol=1e-5))
    True
    """

    query_projection: eqx.nn.Linear
    key_projection: eqx.nn.Linear
    value_projection: eqx.nn.Linear
    output_projection: eqx.nn.Linear
    eps: Array | None  # None in the hard limit
    num_heads: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)
    positions: _positions.Positions = eqx.field(static=True)

    def __init__(
        self,
        num_heads: int,
        query_size: int,
        *,
        key_size: int | None = None,
        value_size: int | None = None,
        output_size: int | None = None,
        head_size: int | None = None,
        eps: ArrayLike | None = None,
        causal: bool = False,
        positions: _positions.Positions = None,
        use_bias: bool = True,
        key: PRNGKeyArray,
    ):
        self.num_heads = _rows.size("num_heads", num_heads)
        size = _rows.size("query_size", query_size)
        if head_size is None and size % num_heads:
            raise ValueError(
                f"query_size {size} does not split over {num_heads} heads; pass a multiple, or head_size=."
            )
        head_size = size // num_heads if head_size is None else _rows.size("head_size", head_size)
        _positions.checked(positions, head_size)
        self.causal, self.positions = bool(causal), positions
        self.eps = temperature(math.sqrt(head_size) if eps is None else eps)
        given = {"key_size": key_size, "value_size": value_size, "output_size": output_size}
        sizes = [size, *(size if s is None else _rows.size(name, s) for name, s in given.items())]
        inner, keys = num_heads * head_size, jax.random.split(key, 4)
        self.query_projection, self.key_projection, self.value_projection = (
            eqx.nn.Linear(s, inner, use_bias, key=k) for s, k in zip(sizes[:3], keys[:3], strict=True)
        )
        self.output_projection = eqx.nn.Linear(inner, sizes[3], use_bias, key=keys[3])

    def __call__(
        self,
        query: ArrayLike,
        key_: ArrayLike | None = None,
        value: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        shift: ArrayLike | None = None,
        key: Any = None,
    ) -> Float[Array, "T_q output"]:
        """The outputs `(T_q, output_size)`.

        - `query`: `(T_q, query_size)`. `key_`: `(T_k, key_size)`, by default the queries (self-attention). `value`:
          `(T_k, value_size)`, by default key_.
        - `mask`: True where a query may look: `(T_k,)` for keys that are present; `(T_q, T_k)` or `(H, T_q, T_k)`.
        - `shift`: added to q.k, so in the logits it is `shift/eps`; -inf forbids a pair. `(T_k,)`, `(T_q, T_k)` or
          `(H, T_q, T_k)`; `(H, 1, T_k)` takes O(H T_k) memory.

        Axes of length 1 are broadcast. A query that may look nowhere gets a head output of 0. `key` is ignored.
        """
        del key
        heads = self.heads(query, key_, value, mask=mask, shift=shift)
        joined = jnp.moveaxis(heads, 0, 1).reshape(heads.shape[1], -1)
        return jax.vmap(self.output_projection)(joined)

    def heads(
        self,
        query: ArrayLike,
        key_: ArrayLike | None = None,
        value: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        shift: ArrayLike | None = None,
    ) -> Float[Array, "H T_q p"]:
        """What each head returns, `(H, T_q, head_size)`, before the output projection; arguments as for a call."""
        queries, keys, values = self.project(query, key_, value)
        if self.causal:
            same_length(("query", queries[0]), ("key_", keys[0]))
        known = initial_values(mask, shift, self._slopes, self.num_heads, queries.shape[1], keys.shape[1])

        def head(query: Array, key: Array, value: Array, known: InitialValues) -> Array:
            g, shift, slope = known
            rule: dict[str, Any] = {"eps": self.eps, "cost": Bilinear(), "causal": self.causal}
            return attend(query, key, value, g, slope=slope, shift=shift, **rule)[0]

        if self.num_heads == 1:  # an axis of length one would cost copies
            return head(queries[0], keys[0], values[0], known.shared())[None]
        axes = (0, 0, 0, InitialValues(*known.axes))  # pyright: ignore[reportArgumentType]
        return jax.vmap(head, in_axes=axes)(queries, keys, values, known.shared())

    def project(
        self, query: ArrayLike, key_: ArrayLike | None = None, value: ArrayLike | None = None
    ) -> tuple[Float[Array, "H T_q d"], Float[Array, "H T_k d"], Float[Array, "H T_k p"]]:
        """Queries, keys and values of all heads, turned by their positions if rotary: points, atoms and payload."""
        queries = sequence("query", query, self._size(self.query_projection))
        keys = sequence("key_", queries if key_ is None else key_, self._size(self.key_projection))
        values = sequence("value", keys if value is None else value, self._size(self.value_projection))
        same_length(("value", values), ("key_", keys))
        return self._project(queries, keys, values, 0, max(len(queries), len(keys)))

    def empty_cache(self, capacity: int, dtype: Any = None) -> KVCache:
        """A `KVCache` for `decode`, with room for this many tokens."""
        size = self._head_size
        return KVCache(
            self.num_heads, capacity, size, size, self.key_projection.weight.dtype if dtype is None else dtype
        )

    def decode(self, token: ArrayLike, cache: KVCache) -> tuple[Float[Array, "output"], KVCache]:
        """One token `(size,)` of causal self-attention: its output, and the cache with its key and value.

        Token by token the same numbers as the call on the whole sequence, O(capacity d) each.
        """
        if not self.causal:
            raise ValueError("this attention is not causal, so earlier outputs would change; make it with causal=True.")
        query, size = _checks.floating("token", token)[None], self._size(self.query_projection)
        if query.shape != (1, size):
            raise ValueError(f"token has shape {query.shape[1:]}, but one token of shape ({size},) is wanted.")
        at = cache.length
        query, new_key, new_value = self._project(query, query, query, at, cache.capacity)
        cache = cache.append(new_key, new_value)
        # A query at position i: g_j = slope |i - j| for the keys so far, which are all that is seen.
        g = jnp.where(cache.present, 0.0, jnp.inf)
        if self._slopes is not None:
            g = g + jnp.asarray(self._slopes, float)[:, None] * jnp.abs(at - jnp.arange(cache.capacity))

        def head(query: Array, key: Array, value: Array, g: Array) -> Array:
            # For one query the matrix of costs is a row, as long as the keys.
            return attend(query, key, value, g, eps=self.eps, cost=Bilinear(), implementation="dense")[0][0]

        axes = (0, 0, 0, None if g.ndim == 1 else 0)
        outputs = jax.vmap(head, in_axes=axes)(query, cache.key, cache.value, g)
        return self.output_projection(outputs.reshape(-1)), cache

    def to_solution(
        self,
        key_: ArrayLike,
        *,
        head: int = 0,
        t: ArrayLike = 0.5,
        mask: ArrayLike | None = None,
        shift: ArrayLike | None = None,
        position: int | None = None,
    ) -> HopfCole | HopfLax:
        """The solution that a head's queries read: `log Z(q) = (|q|^2/(4t) - u(q, t))/eps`, for any t (a gauge).

        Its points are the queries of `project`, its `expectation(q, t, values)` the output; for eps = 0 a `HopfLax`.

        - `key_`, `mask`, `shift`: as in the call.
        - `position`: which query, where g depends on it: causal, slopes, or a mask or shift of pairs.

        **Raises:** `ValueError` without a position where one is needed, and for a head that does not exist.
        """
        _rows.check_output(head, self.num_heads)
        t = _checks.positive_scalar("t", t)
        inputs = sequence("key_", key_, self._size(self.key_projection))
        n = len(inputs)
        keys = self._points(self.key_projection, inputs, 0, n)[head]
        known = initial_values(mask, shift, self._slopes, self.num_heads, None, n)
        heights = known.row(head, position, n, self.causal).astype(keys.dtype)
        data = InitialData(2 * t * keys, heights - t * jnp.sum(keys * keys, axis=1))
        return HopfLax(data) if self.eps is None else HopfCole(data, self.eps)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Any],
        num_heads: int,
        *,
        eps: ArrayLike | None = None,
        causal: bool = False,
        positions: _positions.Positions = None,
    ) -> "MultiheadAttention":
        """The weights of a `torch.nn.MultiheadAttention`, from its `state_dict()` or arrays of the same names.

        **Raises:** `ValueError` for a missing array, and for `bias_k`, `bias_v`, which this layer does not have.
        """
        arrays = {name: jnp.asarray(np.asarray(value)) for name, value in state.items()}
        if unknown := {"bias_k", "bias_v"} & set(arrays):
            raise ValueError(f"{sorted(unknown)} are extra keys that this layer lacks; use add_bias_kv=False.")
        names = (
            ["in_proj_weight"] if "in_proj_weight" in arrays else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        )
        if missing := {*names, "out_proj.weight"} - set(arrays):
            raise ValueError(f"{sorted(missing)} missing; pass torch.nn.MultiheadAttention(...).state_dict().")
        joined = len(names) == 1
        query, key, value = jnp.split(arrays[names[0]], 3) if joined else [arrays[name] for name in names]
        out, use_bias = arrays["out_proj.weight"], "in_proj_bias" in arrays
        layer = cls(
            num_heads,
            query.shape[1],
            key_size=key.shape[1],
            value_size=value.shape[1],
            output_size=out.shape[0],
            eps=eps,
            causal=causal,
            positions=positions,
            use_bias=use_bias,
            key=jax.random.key(0),
        )
        new = [query, key, value, out]
        if use_bias:
            new += [*jnp.split(arrays["in_proj_bias"], 3), arrays["out_proj.bias"]]
        return eqx.tree_at(lambda m: [*(p.weight for p in m._all), *(p.bias for p in m._all if use_bias)], layer, new)

    def describe(self) -> Description:
        """The equation each head solves: exact; the projections around it are linear."""
        positions = {
            None: "",
            "rotary": "; atoms turned by their positions, |k_j| and g unchanged",
            "slopes": "; g_ij = g_j + slope |i - j|, a new problem for every query",
        }[self.positions]
        hard = self.eps is None
        return Description(
            model="MultiheadAttention",
            equation="u_t + |grad u|^2 = 0 (Hopf-Lax); a head's output is the value at the minimiser"
            if hard
            else "u_t + |grad u|^2 = eps Lap u; a head's output is d/ds u(q, t; g + s v) at s = 0",
            hamiltonian="|p|^2",
            eps=0.0 if self.eps is None else float(self.eps),
            gauge="any time t > 0: another reading (y, g, u) of the same outputs",
            atoms=f"keys of {self.num_heads} heads: y_j = 2t k_j, g_j = -t |k_j|^2{positions}"
            + ("; keys after the query are absent" if self.causal else ""),
            status="exact",
        )

    @property
    def _all(self) -> tuple[eqx.nn.Linear, ...]:
        return self.query_projection, self.key_projection, self.value_projection, self.output_projection

    @property
    def _head_size(self) -> int:
        return int(self.key_projection.out_features) // self.num_heads

    @staticmethod
    def _size(projection: eqx.nn.Linear) -> int:
        return int(projection.in_features)

    @property
    def _slopes(self) -> np.ndarray | None:
        return _positions.slopes(self.num_heads, self._head_size) if self.positions == "slopes" else None

    def _project(
        self, query: Array, key_: Array, value: Array, start: Array | int, limit: int
    ) -> tuple[Array, Array, Array]:
        values = self._split(jax.vmap(self.value_projection)(value))
        return (
            self._points(self.query_projection, query, start, limit),
            self._points(self.key_projection, key_, start, limit),
            values,
        )

    def _points(self, projection: eqx.nn.Linear, inputs: Array, start: Array | int, limit: int) -> Array:
        points = self._split(jax.vmap(projection)(inputs))
        if self.positions != "rotary":
            return points
        return _positions.rotate(points, start + jnp.arange(len(inputs)), limit)

    def _split(self, joined: Float[Array, "T Hd"]) -> Float[Array, "H T d"]:
        return jnp.moveaxis(joined.reshape(len(joined), self.num_heads, -1), 1, 0)
