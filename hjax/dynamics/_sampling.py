"""From noise to atoms: the probability-flow equation of a `HopfCole` solution, and samples by it or by an SDE.

The density obeys `phi_t = eps tr(A D^2 phi) = -div(phi v)` with `v = -eps A grad log phi = A grad u`: the flow
`x' = A grad u(x, t)` carries phi(., t0) to phi(., t1), and run backwards phi(., t1) to phi(., t0). It moves at half
the speed of the characteristics, `x' = dH/dp = 2 A grad u`. Those, backwards, are the drift of the SDE that reverses
the noise: `dx = sqrt(2 eps) A^(1/2) dW` has the time reversal `dx = 2 eps A grad log phi dr + sqrt(2 eps) A^(1/2) dW
= -2 A grad u dr + ...` in the reversed clock r = t1 - t.

Both are stiff at t = 0: `2t A grad u = x - E[y | x]`, so the velocity is a bounded number over t. In tau = log t

    dx/dtau = (x - E[y | x])/2        and, with tau' = -log t,   dx = -(x - E[y | x]) dtau' + sqrt(2 eps t) A^(1/2) dW,

which is not, and is what diffrax is given; in the coordinates `z = A^(-1/2) (x - middle of the atoms)`, where A = 1.
"""

import math
from typing import Any, Literal, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from ..initial_data import InitialData
from ..reductions import Bilinear, gibbs_weights
from ..solutions import HopfCole
from ._scores import log_density, present_values, require_hopf_cole

_SDE_STEPS = 256
_ODE_STEPS = 4096


class Transported(NamedTuple):
    """`points (..., d)` at the end of the flow, and `log_density (...,)` there, or None if it was not asked for."""

    points: Float[Array, "*batch d"]
    log_density: Float[Array, "*batch"] | None


def probability_flow(
    u: HopfCole,
    x: ArrayLike,
    *,
    t0: ArrayLike,
    t1: ArrayLike,
    forward: bool = False,
    density: bool = False,
    steps: int | None = None,
    tolerance: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
    max_steps: int = _ODE_STEPS,
) -> Transported:
    """Follow `x' = A grad u(x, t)` from t1 down to t0: noise to atoms, without randomness, density to density.

    If x has the density phi(., t1) of the atoms with noise N(0, 2 eps t1 A), the result has phi(., t0). Derivation:
    `phi_t = eps div(A grad phi) = -div(phi A grad u)`, as `grad phi = -phi grad u/eps`. In one dimension the flow keeps
    the order, so it is the map between the quantiles of both mixtures. Along it
    `d/dt log phi(x(t), t) = -tr(A D^2 u)`, by which the log-density follows.

    **Arguments:**

    - `u`: a `HopfCole` with any metric. `x`: `(..., d)`, at time t1 (at t0 if `forward`).
    - `t0`, `t1`: times, 0 < t0 < t1. `forward`: from t0 up to t1, which turns data into noise.
    - `density`: whether to follow the log-density as well, from its exact value at the start.
    - `steps`: a number of steps of equal ratio in t; None for steps that adapt, alike for the whole batch, to
      `tolerance`: of |x - middle| relative, and of the noise sqrt(2 eps t0) (of 1 for the log-density) absolute;
      default the root of an ulp, 3.5e-4 in float32 and 1.5e-8 in float64.
    - `solver`: any ODE solver of diffrax; default `diffrax.Tsit5()`. `max_steps`: before it gives up.

    **Returns:** `Transported(points, log_density)`.

    **Raises:** `ValueError` if u is no `HopfCole`, for t0 <= 0, t1 <= t0, or a wrong shape of x; the error of diffrax
    if `max_steps` do not suffice.

    **Error:** the solver's. Between two atoms the flow parts: errors there grow by exp of the gap over the noise. The
    divergence is a variance by moments, with an error of `(diam/noise)^2` ulp.

    **Cost:** one reduction a stage, O(M N d); memory O(M + N). Time in log t: t0 = 1e-6 t1 costs about twice 1e-3 t1.

    **Good values:** t1 with sqrt(2 eps t1) a few diameters of the atoms; t0 with sqrt(2 eps t0) what may stay as noise.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix B; Y. Song et al., Score-based generative
    modeling through stochastic differential equations (2021), section 4.3.

    >>> import jax.numpy as jnp, hjax
    >>> u = hjax.HopfCole(hjax.InitialData(jnp.array([[1.0]]), jnp.zeros(1)), eps=0.5)
    >>> end = hjax.dynamics.probability_flow(u, jnp.array([3.0]), t0=0.01, t1=1.0)
    >>> round(float(end.points[0]), 3)
    1.2
    """
    require_hopf_cole(u)
    t0, t1 = _interval(t0, t1)
    start = t1 if not forward else t0
    result = jax.eval_shape(lambda x: u(x, start), x)  # as strict with x as u is
    points = jnp.asarray(x, result.dtype)
    flat = points.reshape(-1, u.data.dimension)
    origin, standard = _standardised(u)
    z = u.hamiltonian.whiten(flat - origin).astype(points.dtype)
    logs = log_density(u, flat, start) if density else None
    end, logs = _follow(standard, z, logs, (t0, t1), forward, steps, tolerance, solver, max_steps)
    moved = (origin + _unwhiten(u, end)).reshape(points.shape)
    return Transported(moved, None if logs is None else logs.reshape(result.shape))


def sample(
    u: HopfCole,
    number: int,
    *,
    t0: ArrayLike,
    t1: ArrayLike,
    key: PRNGKeyArray,
    method: Literal["ode", "sde"] = "ode",
    start: Literal["mixture", "gaussian"] = "mixture",
    steps: int | None = None,
    tolerance: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
) -> Float[Array, "number d"]:
    """Samples of the atoms with a little noise, N(0, 2 eps t0 A), made from much noise by the score.

    "ode" runs `probability_flow` from t1 to t0; "sde" the reversed diffusion, in the clock r = t1 - t
    `dx = 2 eps A grad log phi dr + sqrt(2 eps) A^(1/2) dW`, whose drift `-2 A grad u` is the velocity of the
    characteristics, backwards. Both have the density phi(., t0) if they start from phi(., t1).

    **Arguments:**

    - `u`: a `HopfCole` with any metric. `number`: how many.
    - `t0`, `t1`: times, 0 < t0 < t1. `key`: a random key.
    - `method`: "ode" or "sde".
    - `start`: "mixture", exact draws of phi(., t1), or "gaussian", of the normal distribution with the same mean
      and covariance, which phi(., t1) tends to and which knows no atom.
    - `steps`: of equal ratio in t; None: "ode" adapts to `tolerance` (as `probability_flow`), "sde" takes 256.
    - `solver`: of diffrax; default `Tsit5` and, of strong order 1.5 where the noise does not depend on x, `ShARK`.

    **Returns:** `(number, d)`.

    **Raises:** `ValueError` as `probability_flow`, for another method or start, number < 1, all atoms absent, or a
    tolerance for "sde".

    **Error:** "gaussian" starts with a bias that falls like `(diam^2/(2 eps t1))^(3/2)` (squared, where the atoms lie
    symmetrically); the steps of "sde" with one of second order in `log(t1/t0)/steps`.

    **Cost:** one reduction a stage, two stages a step of "sde"; memory O(number + N), and d^2 for "gaussian".

    **Good values:** as for `probability_flow`; 100 to 500 steps for "sde".

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix B; B. Anderson, Reverse-time diffusion
    equation models (1982).

    >>> import jax, jax.numpy as jnp, hjax
    >>> u = hjax.HopfCole(hjax.InitialData(jnp.array([[-1.0], [1.0]]), jnp.zeros(2)), eps=0.5)
    >>> x = hjax.dynamics.sample(u, 100, t0=1e-6, t1=10.0, key=jax.random.key(0), method="sde")
    >>> x.shape, bool((jnp.abs(jnp.abs(x) - 1) < 0.01).all())
    ((100, 1), True)
    """
    require_hopf_cole(u)
    present_values(u)
    t0, t1 = _interval(t0, t1)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"number is {number!r}; pass a whole number of at least 1.")
    for name, given, known in (("method", method, ("ode", "sde")), ("start", start, ("mixture", "gaussian"))):
        if given not in known:
            raise ValueError(f"{name} is {given!r}; pass one of {list(known)}.")
    if method == "sde" and tolerance is not None:
        raise ValueError(f"tolerance is {tolerance} for method='sde', which takes fixed steps; pass steps=256 instead.")
    origin, standard = _standardised(u)
    first, noise = jax.random.split(key)
    z = _START[start](standard, number, t1, first)
    if method == "ode":
        z, _ = _follow(standard, z, None, (t0, t1), False, steps, tolerance, solver, _ODE_STEPS)
    else:
        z = _diffuse(standard, z, (t0, t1), _SDE_STEPS if steps is None else steps, solver, noise)
    return origin + _unwhiten(u, z)


@eqx.filter_jit
def _follow(
    standard: HopfCole,
    z: Array,
    logs: Array | None,
    times: tuple[Array, Array],
    forward: bool,
    steps: int | None,
    tolerance: float | None,
    solver: diffrax.AbstractSolver | None,
    max_steps: int,
) -> tuple[Array, Array | None]:
    """The flow and the log-density along it, between the logarithms of two times."""
    dtype, d = z.dtype, z.shape[1]
    w = standard.data.points
    payload = w if logs is None else jnp.concatenate([w, jnp.sum(w * w, axis=1, keepdims=True)], axis=1)
    # Log-densities in this unit, so that one absolute tolerance does for both parts of the state.
    unit = jnp.sqrt(2 * standard.eps * times[0]).astype(dtype)

    def rate(tau: Any, state: tuple[Array, Array | None], args: tuple[HopfCole, Array, Array]) -> Any:
        (z, logs), (standard, payload, unit), t = state, args, jnp.exp(tau)
        mean = standard.expectation(z, t, payload)
        velocity = (z - mean[:, :d]) / 2
        if logs is None:
            return velocity, None
        # -t tr(A D^2 u) = Var/(4 t eps) - d/2, by the trace of the Hessian in the coordinates z.
        variance = mean[:, d] - jnp.sum(mean[:, :d] ** 2, axis=1)
        return velocity, unit * (variance / (4 * t * standard.eps) - d / 2).astype(dtype)

    low, high = (jnp.log(t).astype(dtype) for t in times)
    begin, end = (low, high) if forward else (high, low)
    controller, limit = _steps(begin, end, steps, tolerance, unit, max_steps)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rate),
        diffrax.Tsit5() if solver is None else solver,
        begin,
        end,
        None,
        (z, None if logs is None else unit * logs),
        (standard, payload, unit),
        stepsize_controller=controller,
        max_steps=limit,
    )
    assert solution.ys is not None
    z, logs = solution.ys
    return z[-1], None if logs is None else logs[-1] / unit


@eqx.filter_jit
def _diffuse(
    standard: HopfCole,
    z: Array,
    times: tuple[Array, Array],
    steps: int,
    solver: diffrax.AbstractSolver | None,
    key: PRNGKeyArray,
) -> Array:
    """The reversed diffusion in tau' = -log t."""
    dtype = z.dtype
    begin, end = (-jnp.log(t).astype(dtype) for t in reversed(times))

    def drift(tau: Any, z: Array, standard: HopfCole) -> Array:
        return standard.expectation(z, jnp.exp(-tau), standard.data.points) - z

    def diffusion(tau: Any, z: Array, standard: HopfCole) -> lineax.DiagonalLinearOperator:
        width = jnp.sqrt(2 * standard.eps * jnp.exp(-tau)).astype(dtype)
        return lineax.DiagonalLinearOperator(jnp.full(z.shape, width))

    controller, limit = _steps(begin, end, steps, None, standard.eps, _ODE_STEPS)
    path = diffrax.VirtualBrownianTree(
        begin,
        end,
        tol=(end - begin) / (2 * steps),
        shape=jax.ShapeDtypeStruct(z.shape, dtype),
        key=key,
        levy_area=diffrax.SpaceTimeLevyArea,
    )
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)),
        diffrax.ShARK() if solver is None else solver,
        begin,
        end,
        None,
        z,
        standard,
        stepsize_controller=controller,
        max_steps=limit,
    )
    assert solution.ys is not None
    return solution.ys[-1]


def _steps(
    begin: Array, end: Array, steps: int | None, tolerance: float | None, unit: Array, max_steps: int
) -> tuple[diffrax.AbstractStepSizeController, int]:
    """The controller, and the limit on its steps, for a number of steps or a tolerance."""
    if steps is not None:
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(f"steps is {steps!r}; pass a whole number of at least 1, or None.")
        if tolerance is not None:
            raise ValueError(f"steps={steps} and tolerance={tolerance} contradict each other; pass one of them.")
        return diffrax.StepTo(jnp.linspace(begin, end, steps + 1)), steps
    accuracy = math.sqrt(jnp.finfo(begin.dtype).eps) if tolerance is None else tolerance
    if not accuracy > 0:
        raise ValueError(f"tolerance is {tolerance}; pass a positive number, for example 1e-4.")

    def norm(error: tuple[Array, Array | None]) -> Array:
        # Of the worst sample, not of their mean: each keeps the tolerance, however many there are.
        z, logs = error
        largest = jnp.max(jnp.sqrt(jnp.mean(z * z, axis=1)))
        return largest if logs is None else jnp.maximum(largest, jnp.max(jnp.abs(logs)))

    return diffrax.PIDController(rtol=accuracy, atol=accuracy * unit, norm=norm), max_steps


def _standardised(u: HopfCole) -> tuple[Float[Array, "d"], HopfCole]:
    """The middle o of the atoms, and the solution with A = 1 on atoms `A^(-1/2) (y - o)`."""
    values = u.effective_values()
    points = u.data.points
    # Absent atoms, wherever they are, do not count.
    points = jnp.where((values < jnp.inf)[:, None], points, points[jnp.argmin(values)])
    origin = lax.stop_gradient((jnp.min(points, axis=0) + jnp.max(points, axis=0)) / 2)
    whitened = u.hamiltonian.whiten(points - origin).astype(points.dtype)
    return origin, HopfCole(InitialData(whitened, values.astype(points.dtype)), u.eps)


def _unwhiten(u: HopfCole, z: Array) -> Array:
    """L z, of which `whiten` is the inverse."""
    metric = u.hamiltonian.metric
    if metric is None or metric.ndim < 2:
        return z if metric is None else (jnp.sqrt(metric) * z).astype(z.dtype)
    return jnp.matmul(z, u.hamiltonian.factor(z.shape[1]).T.astype(z.dtype), precision="highest")


def _mixture(standard: HopfCole, number: int, t: Array, key: PRNGKeyArray) -> Array:
    """Exact draws: an atom by its weight, and noise."""
    which, noise = jax.random.split(key)
    w = standard.data.points
    # By the distribution function: O(number + N) memory, which the Gumbel trick would not keep to.
    chosen = jax.random.choice(which, w.shape[0], (number,), p=_atom_weights(standard))
    width = jnp.sqrt(2 * standard.eps * t).astype(w.dtype)
    return w[chosen] + width * jax.random.normal(noise, (number, w.shape[1]), w.dtype)


def _gaussian(standard: HopfCole, number: int, t: Array, key: PRNGKeyArray) -> Array:
    """Draws of the normal distribution with the mixture's mean and covariance."""
    w, p = standard.data.points, _atom_weights(standard)
    d = w.shape[1]
    mean = jnp.matmul(p, w, precision="highest")
    centred = jnp.sqrt(p)[:, None] * (w - mean)
    covariance = jnp.matmul(centred.T, centred, precision="highest")
    root = jnp.linalg.cholesky(covariance + (2 * standard.eps * t).astype(w.dtype) * jnp.eye(d, dtype=w.dtype))
    return mean + jnp.matmul(jax.random.normal(key, (number, d), w.dtype), root.T, precision="highest")


_START = {"mixture": _mixture, "gaussian": _gaussian}


def _atom_weights(standard: HopfCole) -> Float[Array, "N"]:
    """The weights of the atoms, `w_j exp(-g_j/eps)` over their sum: those of a query to which all cost the same."""
    atoms = jnp.zeros((standard.data.size, 1), standard.data.points.dtype)
    return gibbs_weights(atoms[0], atoms, standard.data.values, eps=standard.eps, cost=Bilinear())


def _interval(t0: ArrayLike, t1: ArrayLike) -> tuple[Array, Array]:
    low, high = _checks.positive_scalar("t0", t0), _checks.positive_scalar("t1", t1)
    if _checks.is_concrete(low) and _checks.is_concrete(high):
        if not np.asarray(low) < np.asarray(high):
            raise ValueError(f"t0 = {low} and t1 = {high}, but t0 < t1 is wanted: the noise is less at t0; swap them.")
        return low, high
    return low, eqx.error_if(high, ~(low < high), "t0 < t1 is wanted: the noise is less at t0; swap them.")
