from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from . import _rows, _sequence
from ._description import Description
from ._evolution import Evolution, Flow
from ._gate import LSEGate


class RNN(Evolution):
    """The recurrent network `h_{k+1} = tanh_eps(W h_k + U x_k + b)`: unit Euler steps of `h' = -h + tanh_eps(...)`.

    Each step is `h + F(h, x)` with `F(h, x) = -h + tanh_eps(W h + U x + b)`, an identity; the Hamiltonian is
    `H(h, p, x) = p . F(h, x)`. The step is 1, which is not small: the network and the differential equation behind it
    (`to_ode`) differ by O(1). The hyperbolic tangent is an `LSEGate`, the slope of a log-sum-exp.

    One sample in, a sequence `(T, in_size)`; use `jax.vmap` for batches.

    **Arguments:** `in_size`, `state_size`: m and n. `eps`: temperature, positive; as eps -> 0 the state is of -1 and 1.
    `key`: random key for the rows (W, U) ~ N(0, 1/(n + m)); b starts at 0.

    **Raises:** `ValueError` for sizes below one, eps <= 0, no input at all, or inputs or a state of another shape or
    dtype.

    **Error:** a few ulp of 1 each step, times |z|/eps. **Cost:** O(T n (n + m)); O(T n) memory for a gradient.

    **Good values:** states that need memory over many steps want an `LSTM`.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition 5.4 (a).

    >>> import jax, jax.numpy as jnp, hjax
    >>> network = hjax.nn.RNN(3, 4, key=jax.random.key(0))
    >>> x = jnp.ones((5, 3))
    >>> h = network.states(x)
    >>> network(x).shape, bool(jnp.allclose(h[3], h[2] + network.field(h[2], x[2]), atol=1e-6))
    ((5, 4), True)
    """

    gate: LSEGate
    in_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, state_size: int, *, eps: ArrayLike = 1.0, key: PRNGKeyArray):
        self.in_size, self.state_size = _rows.size("in_size", in_size), _rows.size("state_size", state_size)
        self.gate = LSEGate(state_size + in_size, state_size, eps=eps, kind="tanh", key=key)

    @classmethod
    def from_arrays(cls, weight: ArrayLike, bias: ArrayLike, *, eps: ArrayLike = 1.0) -> "RNN":
        """The network with the rows (W, U), `(n, n + m)`, state before input, and the bias `(n,)`."""
        rows, offsets = _sequence.recurrent_rows(weight, bias, 1)
        size = len(offsets)
        network = eqx.filter_eval_shape(lambda: cls(rows.shape[1] - size, size, key=jax.random.key(0)))
        arrays = rows, offsets, _checks.positive_scalar("eps", eps)
        return eqx.tree_at(lambda n: (n.gate.weight, n.gate.bias, n.gate.eps), network, arrays)

    def __call__(
        self, x: ArrayLike, state: ArrayLike | None = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "T n"]:
        """h_1, ..., h_T, `(T, state_size)`, from `state` or from zeros. `key` is ignored, as in `LSEGate`."""
        del key
        return _sequence.run(self, x, state)

    def initial_state(self, x: ArrayLike) -> Float[Array, "n"]:
        """Zeros."""
        return jnp.zeros(self.state_size, _sequence.common_dtype(self.drives(x), self))

    def drives(self, x: ArrayLike) -> Float[Array, "T m"]:
        """The inputs."""
        return _sequence.sequence(x, self.in_size, "rnn")

    def step(self, state: Float[Array, "n"], drive: Float[Array, "m"]) -> Float[Array, "n"]:
        """tanh_eps(W h + U x + b)."""
        return self.gate(_sequence.joined(state, drive, self.state_size, self.in_size))

    def field(self, state: Float[Array, "n"], at: Any) -> Float[Array, "n"]:
        """F(h, x) = -h + tanh_eps(W h + U x + b), at the input x."""
        return self.step(state, at) - state

    def to_ode(self, x: ArrayLike, hold: float = 1.0) -> Flow:
        """The differential equation `h' = F(h, x(t))` on [0, T hold], each input held for `hold` units of time.

        Euler's method with step 1 at `hold=1` is the network itself.
        """
        return _sequence.held(self, self.drives(x), hold)

    def describe(self) -> Description:
        """Of what each step is Euler's, and with what step."""
        return Description(
            model="RNN",
            equation="h_{k+1} = h_k + F(h_k, x_k), F = -h + tanh_eps(W h + U x + b): the algebra is exact, but the "
            "step is 1, so h' = F is not approximated",
            hamiltonian="p . (-h + tanh_eps(W h + U x + b)): linear in p, without Legendre dual",
            eps=None,
            gauge="none: no viscosity, so no Hopf-Cole reading of the whole",
            atoms="those of the gates",
            status="structural",
            parts=(self.gate.describe(),),
        )
