from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from ..reductions import Bilinear, hardmin
from . import _rows, _sequence, activations
from ._description import Description
from ._evolution import Evolution, Flow
from ._gate import LSEGate

# (c, h): the memory and the output.
State = tuple[Float[Array, "n"], Float[Array, "n"]]


class LSTM(Evolution):
    """The long short-term memory, whose gates are slopes of log-sum-exps of two neurons.

    With the gates f, i, o = `sigmoid_eps(W [h, x] + b)` and the candidate g = `tanh_eps(W [h, x] + b)`,

        c_{k+1} = f * c_k + i * g,    h_{k+1} = o * tanh_eps(c_{k+1}),

    a step of length 1 of `c' = (f - 1) * c + i * g`, `h' = o * tanh_eps(c) - h`, whose Hamiltonian is equation 31,
    `H = p_c . [(f - 1) * c + i * g] + p_h . [o * tanh_eps(c) - h]`. The step is the semi-implicit one: the new c
    enters h. Euler's step of both at once takes the old c, and is another network. As eps -> 0 the gates become
    switches (`tropical()`).

    One sample in, a sequence `(T, in_size)`; use `jax.vmap` for batches. The state is the pair (c, h).

    **Arguments:** `in_size`, `state_size`: m and n. `eps`: temperature of gates, candidate and output, positive; 1 is
    the usual network. `key`: random key for the rows ~ N(0, 1/(n + m)); biases start at 0, that of the forget gate
    at eps, so that it starts at sigmoid(1).

    **Raises:** `ValueError` for sizes below one, eps <= 0, no input at all, or inputs or a state of another shape or
    dtype.

    **Error:** a few ulp of max(1, |c|) each step, times |z|/eps. **Cost:** O(4 T n (n + m)); O(T n) memory for a
    gradient.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Remark 5.5, eq. 31, as corrected.

    >>> import jax, jax.numpy as jnp, hjax
    >>> network = hjax.nn.LSTM(3, 4, key=jax.random.key(0))
    >>> x = jnp.ones((5, 3))
    >>> c, h = network.states(x)
    >>> network(x).shape, c.shape, bool((network(x) == h[1:]).all())
    ((5, 4), (6, 4), True)
    """

    gates: LSEGate
    candidate: LSEGate
    in_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, state_size: int, *, eps: ArrayLike = 1.0, key: PRNGKeyArray):
        self.in_size, self.state_size = _rows.size("in_size", in_size), _rows.size("state_size", state_size)
        rows, first, second = in_size + state_size, *jax.random.split(key)
        gates = LSEGate(rows, 3 * state_size, eps=eps, key=first)
        # A gate that starts open keeps the memory, and with it the gradient.
        self.gates = eqx.tree_at(lambda g: g.bias, gates, gates.bias.at[:state_size].set(gates.eps))
        self.candidate = LSEGate(rows, state_size, eps=eps, kind="tanh", key=second)

    @classmethod
    def from_arrays(cls, weight: ArrayLike, bias: ArrayLike, *, eps: ArrayLike = 1.0) -> "LSTM":
        """The network with given rows, `(4n, n + m)`, and biases, `(4n,)`.

        The rows are those of f, i, o and g, in this order; in each row the state comes before the input.

        **Raises:** `ValueError` for other shapes.
        """
        rows, offsets = _sequence.recurrent_rows(weight, bias, 4)
        size = len(offsets) // 4
        network = eqx.filter_eval_shape(lambda: cls(rows.shape[1] - size, size, key=jax.random.key(0)))
        eps = _checks.positive_scalar("eps", eps)
        cut = 3 * size
        return eqx.tree_at(
            lambda n: [v for g in (n.gates, n.candidate) for v in (g.weight, g.bias, g.eps)],
            network,
            [rows[:cut], offsets[:cut], eps, rows[cut:], offsets[cut:], eps],
        )

    def __call__(
        self, x: ArrayLike, state: State | None = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "T n"]:
        """h_1, ..., h_T, `(T, state_size)`, from the `state` (c, h) or from zeros. `key` is ignored."""
        del key
        return _sequence.run(self, x, state)[1]

    def initial_state(self, x: ArrayLike) -> State:
        """Zeros."""
        zeros = jnp.zeros(self.state_size, _sequence.common_dtype(self.drives(x), self))
        return zeros, zeros

    def drives(self, x: ArrayLike) -> Float[Array, "T m"]:
        """The inputs."""
        return _sequence.sequence(x, self.in_size, "lstm")

    def step(self, state: State, drive: Float[Array, "m"]) -> State:
        """The semi-implicit step: c first, then h from the new c."""
        forget, enter, leave, candidate = self._gates(state, drive)
        c = forget * state[0] + enter * candidate
        return c, leave * activations.tanh(c, self.candidate.eps)

    def field(self, state: State, at: Any) -> State:
        """((f - 1) c + i g, o tanh_eps(c) - h), at the input x: the derivatives of equation 31 in (p_c, p_h)."""
        forget, enter, leave, candidate = self._gates(state, at)
        c, h = state
        return (forget - 1) * c + enter * candidate, leave * activations.tanh(c, self.candidate.eps) - h

    def to_ode(self, x: ArrayLike, hold: float = 1.0) -> Flow:
        """The differential equation `(c, h)' = F(c, h, x(t))` on [0, T hold], each input held for `hold` units."""
        return _sequence.held(self, self.drives(x), hold)

    def tropical(self) -> "SwitchedLSTM":
        """The limit eps -> 0 at these rows and biases: the switched affine automaton, not a max-plus system."""
        weight = jnp.concatenate([self.gates.weight, self.candidate.weight])
        return SwitchedLSTM(weight, jnp.concatenate([self.gates.bias, self.candidate.bias]))

    def describe(self) -> Description:
        """Of what each step is an integrator's, which one, and with what step."""
        return Description(
            model="LSTM",
            equation="c' = (f-1) c + i g, h' = o tanh_eps(c) - h by semi-implicit steps of length 1 (the new c in h): "
            "the algebra is exact, but the step is not small",
            hamiltonian="p_c . [(f-1) c + i g] + p_h . [o tanh_eps(c) - h] (eq. 31): linear in p",
            eps=None,
            gauge="none: no viscosity, so no Hopf-Cole reading of the whole",
            atoms="those of the gates",
            status="structural",
            parts=(self.gates.describe(), self.candidate.describe()),
        )

    def _gates(self, state: State, x: ArrayLike) -> tuple[Array, Array, Array, Array]:
        joined = _sequence.joined(_memory(state, self.state_size)[1], x, self.state_size, self.in_size)
        forget, enter, leave = jnp.split(self.gates(joined), 3)
        return forget, enter, leave, self.candidate(joined)


class SwitchedLSTM(Evolution):
    """The LSTM at eps = 0, a switched affine automaton: `c' = f * c + i * g`, `h' = o * sign(c')`.

    The gates f, i, o are 1 where `W [h, x] + b > 0`, else 0; the candidate g is 1 there, else -1. Sums and selections,
    no maximum: a reset (f = 0) forgets c altogether, so the map is not max-plus linear. At integer weights, inputs
    and states every operation is exact. It is the limit of `LSTM` wherever no `W [h, x] + b` is zero; there the
    first row wins, as in `hardmin`. Its derivative in weights and inputs is zero: train an `LSTM`, then harden it with
    `tropical()`.

    **Arguments:** `weight`: `(4n, n + m)`, the rows of f, i, o and g, in each row the state before the input.
    `bias`: `(4n,)`.

    **Raises:** `ValueError` for other shapes, no input at all, or inputs or a state of another shape.

    **Error:** none on integers below 2^24 (float32) or 2^53 (float64); else that of `W [h, x] + b`, which may fall on
    the other side of zero. **Cost:** O(4 T n (n + m)).

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Remark 5.5, the limit as corrected.

    >>> import jax.numpy as jnp, hjax
    >>> weight = jnp.zeros((4, 2)).at[:, 1].set(jnp.array([-2.0, 0.0, 0.0, 2.0]))
    >>> counter = hjax.nn.SwitchedLSTM(weight, jnp.array([3.0, 1.0, 1.0, 1.0]))  # x > 1 resets, x < 0 counts down
    >>> counter.states(jnp.array([[0], [1], [0], [-1], [0], [2], [0]]))[0].ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 2.0, 3.0, 1.0, 2.0]
    """

    weight: Float[Array, "4n n+m"]
    bias: Float[Array, "4n"]
    in_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    def __init__(self, weight: ArrayLike, bias: ArrayLike):
        self.weight, self.bias = _sequence.recurrent_rows(weight, bias, 4)
        self.state_size = len(self.bias) // 4
        self.in_size = self.weight.shape[1] - self.state_size

    def __call__(
        self, x: ArrayLike, state: State | None = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "T n"]:
        """h_1, ..., h_T, `(T, state_size)`, from the `state` (c, h) or from zeros. `key` is ignored."""
        del key
        return _sequence.run(self, x, state)[1]

    def initial_state(self, x: ArrayLike) -> State:
        """Zeros."""
        zeros = jnp.zeros(self.state_size, _sequence.common_dtype(self.drives(x), self))
        return zeros, zeros

    def drives(self, x: ArrayLike) -> Float[Array, "T m"]:
        """The inputs; integers become floats."""
        return _sequence.sequence(x, self.in_size, "automaton", integers=True)

    def step(self, state: State, drive: Float[Array, "m"]) -> State:
        """c first, then h from the new c."""
        forget, enter, leave, candidate = self._gates(state, drive)
        c = forget * state[0] + enter * candidate
        return c, leave * jnp.sign(c)

    def field(self, state: State, at: Any) -> State:
        """((f - 1) c + i g, o sign(c) - h), at the input x."""
        forget, enter, leave, candidate = self._gates(state, at)
        c, h = state
        return (forget - 1) * c + enter * candidate, leave * jnp.sign(c) - h

    def describe(self) -> Description:
        """What is left of the equation at eps = 0."""
        return Description(
            model="SwitchedLSTM",
            equation="c' = f c + i g with f, i, o in {0, 1} and g = +-1: a switched affine automaton, not max-plus",
            hamiltonian="p_c . [(f-1) c + i g] + p_h . [o sign(c) - h]: linear in p, with jumps in the state",
            eps=0.0,
            gauge="none",
            atoms="none: the gates are switches",
            status="structural",
        )

    def _gates(self, state: State, x: ArrayLike) -> tuple[Array, Array, Array, Array]:
        joined = _sequence.joined(_memory(state, self.state_size)[1], x, self.state_size, self.in_size, integers=True)
        z = jnp.matmul(self.weight, joined, precision=jax.lax.Precision.HIGHEST) + self.bias
        rows = jnp.array([[0.0], [1.0]], z.dtype)
        on = hardmin(z[:, None], rows, jnp.zeros(2, z.dtype), cost=Bilinear()).index.astype(z.dtype)
        forget, enter, leave, candidate = jnp.split(on, 4)
        return forget, enter, leave, 2 * candidate - 1


def _memory(state: State, size: int) -> State:
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise ValueError(f"state is {type(state).__name__}; pass the pair (c, h) of arrays ({size},) each.")
    return _sequence.state(state[0], size, "c"), _sequence.state(state[1], size, "h")
