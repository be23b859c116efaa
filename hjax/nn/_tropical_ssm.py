from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from ..reductions import Bilinear, hardmin, softmin
from . import _rows, _sequence
from ._description import Description
from ._evolution import Evolution


class TropicalSSM(Evolution):
    """The max-plus system `S_{k+1} = (A (x) S_k) (+) (B (x) X_k)`, `Y_k = C (x) S_{k+1}`, and what it is the limit of.

    `(A (x) S)_i = max_j A_ij + S_j` and (+) is the larger of both: an event i of round k + 1 happens as soon as all it
    waits for has happened. At a temperature eps > 0 every maximum is `eps log sum exp(./eps)`, and the system is the
    linear one `s' = A s + B x`, `y = C s` with the positive matrices exp(A_ij/eps), in the logarithmic coordinates
    `S = eps log s`: exactly, for each eps. As eps -> 0 it tends to the max-plus system,
    `0 <= S_eps - S_0 <= k eps log(n + d)` after k steps, and outputs within eps log n more.

    Only positive systems have such a limit. The logarithm of a negative state does not exist, so a signed A, such as
    that of every `SSM` whose modes oscillate, has none (`from_positive` says so).

    A minimum over rows of `-(A_ij + S_j)` by `hardmin`, or `softmin`, is the whole step: a Hopf-Lax or Hopf-Cole
    solve per component. Its vector field is that of unit Euler steps, F = S_{k+1} - S_k, and H = P . F. A -inf is the
    zero of this algebra: no arrow from j to i, no input, a component of the state at rest.

    One sample in, a sequence `(T, in_size)`; use `jax.vmap` for batches.

    **Arguments:** `in_size`, `out_size`, `state_size`: d, q and n. `eps`: temperature, a positive number, or 0 for the
    max-plus system. `key`: random key for B, C ~ N(0, 1) and A ~ -|N(0, 1)|, so that the state stays bounded (it grows
    in each step by the largest mean of A around a cycle); the state starts at 0.

    **Raises:** `ValueError` for sizes below one, a negative eps, or inputs or a state of another shape or dtype.

    **Error:** a few ulp of the largest |A_ij| and |S_j| each step. **Cost:** O(T n (n + d + q)), one step after
    another; memory for values and gradients O(T (n + d + q)).

    **Good values:** train at eps > 0, then `tropical()`: at eps = 0 only the arrows that win learn.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition 5.4 (b), as corrected; Theorem 3.1.

    >>> import jax.numpy as jnp, hjax
    >>> A, B, C = jnp.array([[2.0, 5.0], [-jnp.inf, 3.0]]), jnp.array([[0.0], [1.0]]), jnp.array([[0.0, 0.0]])
    >>> system = hjax.nn.TropicalSSM.from_arrays(A, B, C)
    >>> system(jnp.array([[0.0], [4.0]])).tolist()
    [[1.0], [6.0]]
    """

    state_weight: Float[Array, "n n"]
    input_weight: Float[Array, "n d"]
    output_weight: Float[Array, "q n"]
    start: Float[Array, "n"]
    eps: Array | None
    in_size: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, out_size: int, state_size: int, *, eps: ArrayLike = 0.0, key: PRNGKeyArray):
        self.in_size, self.out_size = _rows.size("in_size", in_size), _rows.size("out_size", out_size)
        self.state_size = _rows.size("state_size", state_size)
        self.eps = _temperature(eps)
        keys = jax.random.split(key, 3)
        self.state_weight = -jnp.abs(jax.random.normal(keys[0], (state_size, state_size)))
        self.input_weight = jax.random.normal(keys[1], (state_size, in_size))
        self.output_weight = jax.random.normal(keys[2], (out_size, state_size))
        self.start = jnp.zeros(state_size)

    @classmethod
    def from_arrays(cls, A: ArrayLike, B: ArrayLike, C: ArrayLike, *, eps: ArrayLike = 0.0) -> "TropicalSSM":
        """The system of given A `(n, n)`, B `(n, d)`, C `(q, n)`, real or -inf, that starts at rest, -inf."""
        named = {"A": A, "B": B, "C": C}
        arrays = {k: _checks.floating(k, v, integers=True) for k, v in named.items()}
        a, b, c = (v.shape for v in arrays.values())
        if not (len(a) == len(b) == len(c) == 2 and a[0] == a[1] == b[0] == c[1]) or 0 in a + b + c:
            raise ValueError(f"A, B, C have shapes {a}, {b}, {c}, but (n, n), (n, d), (q, n) are wanted.")
        for name, array in arrays.items():
            _checks.no_nan(name, array)
            if _checks.is_concrete(array) and np.isposinf(np.asarray(array)).any():
                raise ValueError(f"{name} contains +inf; pass numbers, or -inf where there is no arrow.")
        dtype = jnp.result_type(*arrays.values())
        # Only the shape of a system: no random rows are drawn that would be replaced.
        system = eqx.filter_eval_shape(lambda: cls(b[1], c[0], a[0], key=jax.random.key(0)))
        weights = tuple(v.astype(dtype) for v in arrays.values())
        arrays = (*weights, jnp.full(a[0], -jnp.inf, dtype))
        system = eqx.tree_at(lambda s: (s.state_weight, s.input_weight, s.output_weight, s.start), system, arrays)
        return eqx.tree_at(lambda s: s.eps, system, _temperature(eps), is_leaf=lambda leaf: leaf is None)

    @classmethod
    def from_positive(cls, A: ArrayLike, B: ArrayLike, C: ArrayLike, *, eps: ArrayLike) -> "TropicalSSM":
        """The linear system `s' = A s + B x`, `y = C s` with entries >= 0 at this temperature, in log coordinates.

        Its inputs are `eps log x` (-inf for zero), its outputs `eps log y`; `tropical()` is the max-plus system with
        the same arrows.

        **Raises:** `ValueError` for a negative entry: a signed system has no logarithm, and no max-plus limit.

        >>> import jax.numpy as jnp, hjax
        >>> positive = hjax.nn.TropicalSSM.from_positive([[0.5]], [[2.0]], [[1.0]], eps=0.1)
        >>> y = jnp.exp(positive(0.1 * jnp.log(jnp.array([[1.0], [3.0]]))) / 0.1)
        >>> [round(float(v), 4) for v in y[:, 0]]  # 2, then 0.5 * 2 + 2 * 3
        [2.0, 7.0]
        """
        temperature = _checks.positive_scalar("eps", eps)
        logarithms = []
        for name, given in (("A", A), ("B", B), ("C", C)):
            array = _checks.floating(name, given, integers=True)
            if _checks.is_concrete(array) and (np.asarray(array) < 0).any():
                where = np.argwhere(np.asarray(array) < 0)[0].tolist()
                entry = np.asarray(array)[tuple(where)]
                raise ValueError(
                    f"{name} has the negative entry {entry:g} at {where}: a signed system has no logarithm and no "
                    f"max-plus limit; pass matrices whose entries are all >= 0."
                )
            logarithms.append(temperature.astype(array.dtype) * jnp.log(array))
        return cls.from_arrays(*logarithms, eps=temperature)

    def tropical(self) -> "TropicalSSM":
        """The limit eps -> 0 at the same A, B, C and start."""
        return self if self.eps is None else eqx.tree_at(lambda s: s.eps, self, None)

    def __call__(
        self, x: ArrayLike, state: ArrayLike | None = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "T q"]:
        """The outputs Y of the inputs X `(T, in_size)`, `(T, out_size)`, from `state` or from `start`.

        `key` is ignored, as in `LSEGate`.
        """
        del key
        first = self.initial_state(x)
        if state is not None:
            first = _sequence.state(state, self.state_size).astype(first.dtype)

        @jax.checkpoint  # a step keeps its state, not its n (n + d) sums
        def step(s: Array, drive: Array) -> tuple[Array, Array]:
            following = self.step(s, drive)
            return following, self.output(following)

        return jax.lax.scan(step, first, self.drives(x))[1]

    def initial_state(self, x: ArrayLike) -> Float[Array, "n"]:
        """`start`: rest, which is -inf = eps log 0, of a system of given arrays, else 0."""
        return self.start.astype(_sequence.common_dtype(self.drives(x), self))

    def drives(self, x: ArrayLike) -> Float[Array, "T d"]:
        """The inputs; -inf is none."""
        return _sequence.sequence(x, self.in_size, "system", integers=True)

    def step(self, state: Float[Array, "n"], drive: Float[Array, "d"]) -> Float[Array, "n"]:
        """(A (x) S) (+) (B (x) X): one reduction over the rows of both."""
        values = _sequence.joined(state, drive, self.state_size, self.in_size, integers=True)
        return self._product(jnp.concatenate([self.state_weight, self.input_weight], axis=1), values)

    def output(self, state: Float[Array, "n"]) -> Float[Array, "q"]:
        """C (x) S, of the state after a step."""
        return self._product(self.output_weight, _sequence.state(state, self.state_size))

    def field(self, state: Float[Array, "n"], at: Any) -> Float[Array, "n"]:
        """F(S, X) = (A (x) S) (+) (B (x) X) - S, at the input X; 0 where a component stays at rest."""
        following = self.step(state, at)
        still = following == state  # -inf - (-inf) is no number
        return jnp.where(still, 0, following - jnp.where(still, 0, state))

    def describe(self) -> Description:
        """What each step is."""
        eps = 0.0 if self.eps is None else float(self.eps)
        solve = (
            "hardmin: Hopf-Lax" if self.eps is None else "softmin: Hopf-Cole, a positive linear system in logarithms"
        )
        return Description(
            model="TropicalSSM",
            equation=f"S_(k+1) = (A (x) S_k) (+) (B (x) X_k), Y_k = C (x) S_(k+1); each component is one {solve}; unit "
            "Euler steps of S' = F(S, X), which are not small",
            hamiltonian="P . F(S, X): linear in P; of each component p^2, at its own gauge",
            eps=eps,
            gauge="one number added to all of S and X is added to Y",
            atoms="the rows of (A, B): values -(A_ij + S_j) and -(B_ij + X_j)",
            status="structural",
        )

    def _product(self, matrix: Float[Array, "k N"], values: Float[Array, "N"]) -> Float[Array, "k"]:
        def row(weights: Array) -> Array:
            levels = -(weights + values)
            point = jnp.zeros((1,), levels.dtype)
            atoms = jnp.zeros((levels.shape[0], 1), levels.dtype)
            if self.eps is None:
                return hardmin(point, atoms, levels, cost=Bilinear()).value
            return softmin(point, atoms, levels, eps=self.eps, cost=Bilinear()).value

        return -jax.vmap(row)(matrix)


def _temperature(eps: ArrayLike) -> Array | None:
    if isinstance(eps, int | float) and eps == 0:
        return None
    return _checks.positive_scalar("eps", eps)
