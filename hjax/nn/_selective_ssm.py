from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from . import _rows, _sequence, activations
from ._description import Description
from ._evolution import Evolution, Flow
from ._generators import HIGHEST, mean_exponential
from ._linear_scan import linear_scan
from ._ssm import Method, check_word, time_scales


class SelectiveSSM(Evolution):
    """The state-space model whose step, B and C depend on the input: `s' = dt(x) (A s + x B(x)^T)`, `y = s C(x) + D x`.

    Every channel i has a state of its own of n numbers with `A_ij = -exp(.)`, diagonal, and a clock of its own,
    `dt_i(x) = softplus(W x + b)_i > 0`: where dt is large the state forgets and takes the input in, where it is small
    the input is passed over. B(x) and C(x), linear in x, are the same for all channels. One step is one unit of time,
    and the exact flow for an input held that long:
    `s_{k+1} = e^(dt A) s_k + A^-1 (e^(dt A) - 1) x_k B(x_k)^T`, `y_k = s_{k+1} C(x_k) + D x_k`.

    The Hamiltonian is `H(s, p, x) = p . dt(x) (A s + x B(x)^T)`: linear in s and in p, without Legendre dual. That dt
    depends on the input makes it a change of clock; no second derivative and no viscosity comes of it. The softplus is
    the log-sum-exp of two rows at eps = 1 (`activations.softplus`).

    One sample in, a sequence `(T, size)`; use `jax.vmap` for batches.

    **Arguments:**

    - `size`: d, channels in and out. `state_size`: n, of each channel.
    - `dt_min`, `dt_max`: the range of dt(0), drawn log-uniformly for each channel.
    - `key`: random key for the rows of dt, B and C, all N(0, 1/d). A_ij starts at -(j + 1), D at 1.

    **Raises:** `ValueError` for sizes below one, dt_min > dt_max, or inputs or a state of another shape or dtype.

    **Error:** a few ulp of the sums of absolute values, but an ulp of one for dt, 1e-4 of 1e-3 in single precision.

    **Cost:** O(T d n) time in 3 sqrt(T) parallel steps, memory for
    values and gradients O(T d n), fifteen times the states. On a CPU both methods run at the
    speed of memory, so neither is the faster one.

    **Good values:** `state_size` 4 to 16; a gated nonlinear block around it.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition 5.4 (b). The model: Gu, Dao, Mamba:
    linear-time sequence modeling with selective state spaces (2023), with B held exactly in place of their Euler step.

    >>> import jax, jax.numpy as jnp, hjax
    >>> ssm = hjax.nn.SelectiveSSM(3, 4, key=jax.random.key(0))
    >>> x = jnp.sin(jnp.arange(60.0)).reshape(20, 3)
    >>> ssm(x).shape, bool(jnp.allclose(ssm(x), ssm(x, method="sequential"), atol=1e-5))
    ((20, 3), True)
    """

    log_decay: Float[Array, "d n"]
    step_weight: Float[Array, "d d"]
    step_bias: Float[Array, "d"]
    input_weight: Float[Array, "n d"]
    output_weight: Float[Array, "n d"]
    feedthrough: Float[Array, "d"]
    size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    def __init__(self, size: int, state_size: int, *, dt_min: float = 1e-3, dt_max: float = 1e-1, key: PRNGKeyArray):
        self.size, self.state_size = _rows.size("size", size), _rows.size("state_size", state_size)
        low, high = time_scales(dt_min, dt_max)
        keys = jax.random.split(key, 4)
        dt = jnp.exp(jax.random.uniform(keys[0], (size,), minval=low, maxval=high))
        self.step_bias = dt + jnp.log(-jnp.expm1(-dt))  # softplus of it is dt
        self.step_weight = _rows.random_rows((), size, size, keys[1])
        self.input_weight = _rows.random_rows((), state_size, size, keys[2])
        self.output_weight = _rows.random_rows((), state_size, size, keys[3])
        self.log_decay = jnp.broadcast_to(jnp.log1p(jnp.arange(float(state_size))), (size, state_size))
        self.feedthrough = jnp.ones(size)

    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        method: Method = "parallel",
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "T d"]:
        """The outputs y of the inputs x, both `(T, size)`, from `state` or from rest.

        **Arguments:** `method`: "parallel" over time, or "sequential", the recurrence step by step: the same numbers
        to rounding. `key` is ignored, as in `LSEGate`.
        """
        del key
        check_word("method", method, Method)
        first = self.initial_state(x)
        if state is not None:
            first = self._state(state).astype(first.dtype)
        drives = self.drives(x)
        if method == "sequential":

            def step(s: Array, drive: Array) -> tuple[Array, Array]:
                following = self.step(s, drive)
                return following, self.output(following, drive)

            return jax.lax.scan(step, first, drives)[1]
        keep, taken = self._discretize(drives)
        states = linear_scan(keep, taken.at[0].add(keep[0] * first))
        return self.output(states, drives)

    def initial_state(self, x: ArrayLike) -> Float[Array, "d n"]:
        """Zeros."""
        return jnp.zeros((self.size, self.state_size), _sequence.common_dtype(self.drives(x), self))

    def drives(self, x: ArrayLike) -> Float[Array, "T d"]:
        """The inputs."""
        return _sequence.sequence(x, self.size, "ssm")

    def step(self, state: Float[Array, "d n"], drive: Float[Array, "d"]) -> Float[Array, "d n"]:
        """The state one step later."""
        keep, taken = self._discretize(drive)
        return keep * self._state(state) + taken

    def output(self, state: Float[Array, "... d n"], drive: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """S C(x) + D x, of the state after a step and the input during it."""
        read = _times(self.output_weight, drive)
        return jnp.sum(state * read[..., None, :], axis=-1) + self.feedthrough * drive

    def field(self, state: Float[Array, "d n"], at: Any) -> Float[Array, "d n"]:
        """F(s, x) = dt(x) (A s + x B(x)^T), at the input x."""
        drive = jnp.asarray(at)
        pushed = drive[:, None] * _times(self.input_weight, drive)
        return self.dt(drive)[:, None] * (-jnp.exp(self.log_decay) * self._state(state) + pushed)

    def dt(self, drive: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """softplus(W x + b): how far the clock of each channel runs during a step with the input x."""
        return activations.softplus(_times(self.step_weight, drive) + self.step_bias)

    def to_ode(self, x: ArrayLike) -> Flow:
        """The differential equation `s' = F(s, x(t))` on [0, T], each input held for one unit of time.

        Its solution at k is s_k.
        """
        return _sequence.held(self, self.drives(x), 1.0)

    def describe(self) -> Description:
        """What differential equation a step solves, and how well."""
        return Description(
            model="SelectiveSSM",
            equation="s' = dt(x) (A s + x B(x)^T), y = s C(x) + D x; a step solves it exactly for inputs held over the "
            "step: a characteristic of a linear transport, v_t + F(s, x) . grad v = 0",
            hamiltonian="p . dt(x) (A s + x B(x)^T): linear in p, without Legendre dual",
            eps=None,
            gauge="coordinates of the state; dt(x) is a clock, and no viscosity",
            atoms="none: the state is a point, not a function",
            status="structural",
            parts=(activations.describe("softplus"),),
        )

    def _discretize(self, drive: Float[Array, "... d"]) -> tuple[Float[Array, "... d n"], Float[Array, "... d n"]]:
        """e^(dt A), and (e^(dt A) - 1)/A x B(x)^T."""
        dt = self.dt(drive)
        z = -dt[..., None] * jnp.exp(self.log_decay)
        pushed = (dt * drive)[..., None] * _times(self.input_weight, drive)[..., None, :]
        return jnp.exp(z), mean_exponential(z) * pushed

    def _state(self, given: ArrayLike) -> Float[Array, "d n"]:
        state = jnp.asarray(given)
        if state.shape != (self.size, self.state_size):
            raise ValueError(
                f"state has shape {state.shape}, but {(self.size, self.state_size)} is wanted; start from "
                f"initial_state(x), and for a batch use jax.vmap."
            )
        return state


def _times(rows: Float[Array, "k d"], x: Float[Array, "... d"]) -> Float[Array, "... k"]:
    return jnp.matmul(x, rows.T, precision=HIGHEST)
