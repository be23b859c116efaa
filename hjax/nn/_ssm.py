import math
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from . import _rows, _sequence
from ._description import Description
from ._evolution import Evolution, Flow
from ._generators import (
    HIGHEST,
    DenseGenerator,
    DiagonalGenerator,
    Discretization,
    Matrix,
    Transition,
    initial_matrix,
    normal_eigenvalues,
    powers,
)

Structure = Literal["diagonal", "dense"]
Initialization = Literal["s4d_lin", "s4d_inv", "hippo"]
Method = Literal["parallel", "sequential"]


class SSM(Evolution):
    """The state-space model `s' = A s + B x`, `y = C s + D x`, on inputs that are held for one step each.

    One state is driven by all inputs and read by all outputs (as in S5, not one system per channel as in S4). Under
    the zero-order hold a step is the exact flow, `s_{k+1} = e^(A h) s_k + A^-1 (e^(A h) - I) B x_k`, whatever A and the
    step size h, not an Euler step of it; `y_k = C s_{k+1} + D x_k` reads the state at the end of the step. The
    Hamiltonian is `H(s, p, x) = p . (A s + B x)`: linear in p, so without Legendre dual, and there is no viscosity.

    A "diagonal" A has n/2 complex eigenvalues and their conjugates. The state is real all the same, `(n,)`: the n/2
    real parts, then the imaginary parts, so that C reads `2 Re(c z)` and co-states need no complex rules. A "dense" A
    is any with A + A^T negative definite. Both are stable whatever the parameters: real parts are -exp(.).

    One sample in, a sequence `(T, in_size)`; use `jax.vmap` for batches.

    **Arguments:**

    - `in_size`, `out_size`, `state_size`: d, q and n; n is even, but for a dense HiPPO.
    - `structure`: of A, "diagonal" or "dense".
    - `discretization`: "zero_order_hold" (exact) or "bilinear" (`(I - A h/2)^-1 (I + A h/2)`, to O(h^2)).
    - `initialization`: of A at scale one: "s4d_lin" (-1/2 + i pi j), "s4d_inv", or "hippo" (HiPPO-LegS; of it a
      diagonal A takes the normal part).
    - `dt_min`, `dt_max`: the range of the time scales, in units per step: every mode of a diagonal A, and its inputs,
      are that much faster than at scale one, drawn log-uniformly; a dense A by their geometric mean. A mode remembers
      about 2/dt steps.
    - `step_size`: h, a number, 1: A and B count time in steps. With another the same system is sampled at another
      rate.
    - `key`: random key for rows of B ~ N(0, 1/d) (all ones for one input), C ~ N(0, 1) (over sqrt(n) if dense) and
      D ~ N(0, 1/d).

    **Raises:** `ValueError` for sizes below one, an odd state, an unknown word, dt_min > dt_max, or inputs or a state
    of another shape or dtype.

    **Error:** a few ulp of `sum |C| |A_bar^k B_bar| |x|`, and the phase of A_bar^k, k ulp.

    **Cost:** in parallel over time, in chunks of L = 128/sqrt(d q) steps as matrix products, O(T (n (d + q) + L d q)),
    or T n^2/L more for a dense A, after n^3; memory for values and gradients O(T (d + q) + T n/L). The recurrence is
    O(T n (n + d + q)). `python -m benchmarks.scan` measures both.

    **Good values:** "s4d_lin" or "s4d_inv", `state_size` 16 to 64, 1/dt_max to 1/dt_min the lags that matter; one layer
    is linear: put a nonlinear layer after it.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition 5.4 (b). The initializations: Gu et al.,
    On the parameterization and initialization of diagonal state space models (2022).

    >>> import jax, jax.numpy as jnp, hjax
    >>> ssm = hjax.nn.SSM(1, 1, 16, key=jax.random.key(0))
    >>> x = jnp.sin(jnp.arange(100.0))[:, None]
    >>> ssm(x).shape, bool(jnp.allclose(ssm(x), ssm(x, method="sequential"), atol=1e-4))
    ((100, 1), True)
    """

    generator: DiagonalGenerator | DenseGenerator
    input_weight: Float[Array, "n d"]
    output_weight: Float[Array, "q n"]
    feedthrough: Float[Array, "q d"]
    in_size: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    discretization: Discretization = eqx.field(static=True)
    step_size: float = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        state_size: int,
        *,
        structure: Structure = "diagonal",
        discretization: Discretization = "zero_order_hold",
        initialization: Initialization = "s4d_lin",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        step_size: float = 1.0,
        key: PRNGKeyArray,
    ):
        check_word("structure", structure, Structure)
        check_word("initialization", initialization, Initialization)
        self.discretization = check_word("discretization", discretization, Discretization)
        self.in_size, self.out_size = _rows.size("in_size", in_size), _rows.size("out_size", out_size)
        self.state_size = _rows.size("state_size", state_size)
        if state_size % 2 and (structure, initialization) != ("dense", "hippo"):
            raise ValueError(
                f"state_size is {state_size}; pass an even number, as eigenvalues come in conjugate pairs."
            )
        low, high = time_scales(dt_min, dt_max)
        self.step_size = _sequence.positive_number("step_size", step_size)
        keys = jax.random.split(key, 4)
        weight = jnp.ones((state_size, 1))
        if in_size > 1:
            weight = _rows.random_rows((), state_size, in_size, keys[0])
        self.output_weight = jax.random.normal(keys[1], (out_size, state_size))
        if structure == "diagonal":
            modes = jnp.asarray(normal_eigenvalues(initialization, state_size))
            scales = jax.random.uniform(keys[3], modes.shape, minval=low, maxval=high)
            self.generator = DiagonalGenerator.of(modes, scales)
        else:
            matrix = jnp.asarray(initial_matrix(initialization, state_size), float)
            self.generator = DenseGenerator.of(matrix, jnp.asarray((low + high) / 2))
            self.output_weight /= math.sqrt(state_size)
            if initialization == "hippo":
                weight = weight * jnp.sqrt(2 * jnp.arange(float(state_size)) + 1)[:, None]
        self.input_weight = weight
        self.feedthrough = _rows.random_rows((), out_size, in_size, keys[2])

    @classmethod
    def from_arrays(
        cls,
        A: ArrayLike,
        B: ArrayLike,
        C: ArrayLike,
        D: ArrayLike | None = None,
        *,
        discretization: Discretization = "zero_order_hold",
        step_size: float = 1.0,
    ) -> "SSM":
        """The model of given matrices: dense of A `(n, n)`, diagonal of eigenvalues A `(m,)`, n = 2m.

        **Arguments:** `A`: real `(n, n)` with A + A^T negative definite, or `(m,)` with negative real parts, one
        of each conjugate pair. `B`: `(n, d)`, or complex `(m, d)`. `C`: `(q, n)`, or complex `(q, m)` for the
        output `2 Re(C z)`. `D`: `(q, d)`, zero if left out.

        **Raises:** `ValueError` for other shapes, or an unstable A.
        """
        a, b, c = (jnp.asarray(v) for v in (A, B, C))
        diagonal = a.ndim == 1
        if diagonal:
            b, c = jnp.concatenate([b.real, b.imag]), jnp.concatenate([2 * c.real, -2 * c.imag], axis=-1)
        size = (2 if diagonal else 1) * (a.shape[0] if a.ndim else 0)
        fits = b.ndim == c.ndim == 2 and a.shape in ((size // 2,), (size, size))
        if not fits or not size or b.shape[0] != size or c.shape[1] != size or 0 in (b.shape[1], c.shape[0]):
            raise ValueError(
                f"A, B, C have shapes {jnp.shape(A)}, {jnp.shape(B)}, {jnp.shape(C)}, but (n, n), (n, d), (q, n) are "
                f"wanted, or (m,), (m, d), (q, m) for eigenvalues."
            )
        through = jnp.zeros((c.shape[0], b.shape[1])) if D is None else _checks.floating("D", D, integers=True)
        if through.shape != (c.shape[0], b.shape[1]):
            raise ValueError(
                f"D has shape {through.shape}, but {(c.shape[0], b.shape[1])} is wanted: outputs by inputs."
            )
        if not diagonal:
            a = _checks.floating("A", a, integers=True)
        kinds = [v.dtype for v in (a.real, b, c)] + ([] if D is None else [through.dtype])
        dtype = jnp.result_type(*kinds, jnp.float32)
        for name, array in (("A", a), ("B", b), ("C", c), ("D", through)):
            _checks.no_nan(name, array)
        if diagonal:
            modes = jax.lax.complex(a.real.astype(dtype), a.imag.astype(dtype))
            generator = DiagonalGenerator.of(modes, jnp.zeros(a.shape, dtype))
        else:
            generator = DenseGenerator.of(a.astype(dtype), jnp.zeros((), dtype))
        # Only the shape of a model: no random rows are drawn that would be replaced.
        sizes, options = (b.shape[1], c.shape[0], size), {"discretization": discretization, "step_size": step_size}
        model = eqx.filter_eval_shape(
            lambda: cls(*sizes, structure="dense", initialization="hippo", **options, key=jax.random.key(0))
        )
        arrays = generator, b.astype(dtype), c.astype(dtype), through.astype(dtype)
        return eqx.tree_at(lambda m: (m.generator, m.input_weight, m.output_weight, m.feedthrough), model, arrays)

    @property
    def state_matrix(self) -> Float[Array, "n n"]:
        """A, real."""
        return self.generator.matrix

    @property
    def input_matrix(self) -> Float[Array, "n d"]:
        """B: the rows `input_weight`, each in the time scale of its mode."""
        return self.generator.scale[..., None] * self.input_weight

    def discretized(self) -> tuple[Float[Array, "n n"], Float[Array, "n d"]]:
        """The matrices A_bar, B_bar of a step, `s_{k+1} = A_bar s_k + B_bar x_k`."""
        transition, weight = self._discretize()
        return transition.apply(jnp.eye(self.state_size, dtype=weight.dtype)).T, weight

    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        method: Method = "parallel",
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "T q"]:
        """The outputs y of the inputs x `(T, in_size)`, `(T, out_size)`, from `state` or from rest.

        **Arguments:** `method`: "parallel" over time, or "sequential", the recurrence step by step: the same numbers
        to rounding. `key` is ignored, as in `LSEGate`.
        """
        del key
        check_word("method", method, Method)
        first = self.initial_state(x)
        if state is not None:
            first = _sequence.state(state, self.state_size).astype(first.dtype)
        drives = self.drives(x).astype(first.dtype)
        transition, weight = self._discretize()
        arguments = transition, weight, self.output_weight, self.feedthrough, drives, first
        return _sequential(*arguments) if method == "sequential" else _parallel(*arguments)

    def initial_state(self, x: ArrayLike) -> Float[Array, "n"]:
        """Zeros."""
        return jnp.zeros(self.state_size, _sequence.common_dtype(self.drives(x), self))

    def drives(self, x: ArrayLike) -> Float[Array, "T d"]:
        """The inputs."""
        return _sequence.sequence(x, self.in_size, "ssm")

    def step(self, state: Float[Array, "n"], drive: Float[Array, "d"]) -> Float[Array, "n"]:
        """A_bar s + B_bar x: the state one step later."""
        transition, weight = self._discretize()
        return transition.apply(_sequence.state(state, self.state_size)) + jnp.matmul(weight, drive, precision=HIGHEST)

    def output(self, state: Float[Array, "n"], drive: Float[Array, "d"]) -> Float[Array, "q"]:
        """C s + D x, of the state after a step and the input during it."""
        return jnp.matmul(self.output_weight, state, precision=HIGHEST) + jnp.matmul(
            self.feedthrough, drive, precision=HIGHEST
        )

    def field(self, state: Float[Array, "n"], at: Any) -> Float[Array, "n"]:
        """F(s, x) = A s + B x, at the input x."""
        drive = _checks.floating("the input", at, integers=True)
        return self.generator.apply(_sequence.state(state, self.state_size)) + jnp.matmul(
            self.input_matrix, drive, precision=HIGHEST
        )

    def to_ode(self, x: ArrayLike) -> Flow:
        """The differential equation `s' = A s + B x(t)` on [0, T h], each input held for a step h.

        Its solution at k h is s_k of the zero-order hold.
        """
        return _sequence.held(self, self.drives(x), self.step_size)

    def describe(self) -> Description:
        """What differential equation a step solves, and how well."""
        exact = self.discretization == "zero_order_hold"
        how = "exactly, for inputs held over the step" if exact else "to O(h^2), by the trapezoidal rule"
        return Description(
            model="SSM",
            equation=f"s' = A s + B x, y = C s + D x; a step h = {self.step_size:g} solves it {how}: a characteristic "
            "of the linear transport v_t + (A s + B x) . grad v = 0",
            hamiltonian="p . (A s + B x): linear in p, without Legendre dual",
            eps=None,
            gauge="coordinates of the state; no viscosity, which an ordinary differential equation has not",
            atoms="none: the state is a point, not a function",
            status="structural",
        )

    def _discretize(self) -> tuple[Any, Float[Array, "n d"]]:
        return self.generator.discretize(self.input_matrix, self.step_size, self.discretization)


def _sequential(transition: Transition, b: Array, c: Array, d: Array, x: Array, first: Array) -> Float[Array, "T q"]:
    def step(state: Array, drive: Array) -> tuple[Array, Array]:
        state = transition.apply(state) + jnp.matmul(b, drive, precision=HIGHEST)
        return state, jnp.matmul(c, state, precision=HIGHEST) + jnp.matmul(d, drive, precision=HIGHEST)

    return jax.lax.scan(step, first, x)[1]


def _parallel(transition: Transition, b: Array, c: Array, d: Array, x: Array, first: Array) -> Float[Array, "T q"]:
    """Chunks of L steps: their outputs from rest and their last states are matrix products of their inputs.

    `y_i = sum_{j<=i} C A^(i-j) B x_j + D x_i + C A^(i+1) s`, with s the state before the chunk, and those follow a
    recurrence of T/L steps.
    """
    (steps, inputs), outputs, size = x.shape, c.shape[0], b.shape[0]
    length = _chunk_length(steps, inputs, outputs, isinstance(transition, Matrix))
    chunks = -(-steps // length)
    cut = jnp.pad(x, ((0, chunks * length - steps), (0, 0))).reshape(chunks, length * inputs)
    into, whole = powers(transition, b.T, length)  # A^l B
    back = transition.transpose()
    out, _ = powers(back, back.apply(c), length)  # C A^(l + 1)
    ends = jnp.matmul(cut, into[::-1].reshape(length * inputs, size), precision=HIGHEST)
    ends = ends.at[0].add(whole.apply(first))
    before = jnp.concatenate([first[None], whole.run(ends)[:-1]])
    response = jnp.matmul(into, c.T, precision=HIGHEST).at[0].add(d.T)
    lag = np.arange(length)[None, :] - np.arange(length)[:, None]
    kernel = jnp.where(lag[:, :, None, None] >= 0, response[np.maximum(lag, 0)], 0)
    kernel = kernel.swapaxes(1, 2).reshape(length * inputs, length * outputs)
    y = jnp.matmul(cut, kernel, precision=HIGHEST)
    y += jnp.matmul(before, out.reshape(length * outputs, size).T, precision=HIGHEST)
    return y.reshape(chunks * length, outputs)[:steps]


def _chunk_length(steps: int, inputs: int, outputs: int, dense: bool) -> int:
    """A power of two: 128 for one input and output, where products within a chunk cost what those with the state do.

    With as many inputs and outputs as states it does not pay, and the recurrence of the states runs over all steps;
    a dense one has no other way to be parallel.
    """
    length = 128 / math.sqrt(inputs * outputs)
    length = 1 if length < 4 else 2 ** int(math.log2(length))
    return min(max(length, 8 if dense else 1), 2 ** math.ceil(math.log2(steps)))


def time_scales(dt_min: float, dt_max: float) -> tuple[float, float]:
    """The logarithms of a range of time scales, or a `ValueError`."""
    low, high = (_sequence.positive_number(n, v) for n, v in (("dt_min", dt_min), ("dt_max", dt_max)))
    if low > high:
        raise ValueError(f"dt_min is {low:g} and dt_max is {high:g}; pass dt_min <= dt_max.")
    return math.log(low), math.log(high)


def check_word(name: str, given: Any, words: Any) -> Any:
    """The given word if it is one of a `Literal`'s, or a `ValueError`."""
    if given not in get_args(words):
        raise ValueError(f"{name} is {given!r}; pass one of {sorted(get_args(words))}.")
    return given
