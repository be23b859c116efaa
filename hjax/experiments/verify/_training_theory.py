"""Appendix D: mean-field particles, convexity in the biases, and the tangent kernel."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import optimize

import hjax

from ._oracles import DIGITS, complex_step, exact, gibbs_mean, mpmath, soft_minimum
from ._table import Evidence, Verdict, check


@check(
    "D.1",
    "N dL/dtheta_j is the gradient at theta_j of the first variation of the mean-field risk, and N particles are "
    "within N^(-1/d) of the mean field; corrected: within N^(-1/2), in every d.",
    expected=Verdict.CORRECTED,
)
def mean_field() -> Evidence:
    """Autodiff of hjax's layer against variations of numpy's risk; f_N for normal particles against a closed form."""
    rng, eps, width = np.random.default_rng(400), 0.7, 6
    weight, bias = rng.normal(size=(width, 3)), rng.normal(size=width)
    x, targets = rng.normal(size=(16, 3)), rng.normal(size=16)

    @jax.jit
    def gradient(weight: Array, bias: Array) -> tuple[Array, Array]:
        def risk(weight: Array, bias: Array) -> Array:
            f = jax.vmap(hjax.nn.LSELayer.from_arrays(weight, bias, eps=eps))(x)
            return jnp.mean((f - eps * math.log(width) - targets) ** 2) / 2

        return jax.grad(risk, argnums=(0, 1))(weight, bias)

    logits = x @ weight.T + bias

    def first_variation(particle: np.ndarray) -> float:
        """d/ds of the risk of (1 - s) rho + s delta at s = 0, by a complex step in s."""
        there = np.exp((x @ particle[:-1] + particle[-1]) / eps)

        def risk(s: np.ndarray) -> np.ndarray:
            mass = (1 - s) * np.exp(logits / eps).mean(axis=1) + s * there
            return np.mean((eps * np.log(mass) - targets) ** 2) / 2

        return float(complex_step(risk, np.array(0.0), np.array(1.0)))

    ours = width * np.concatenate([np.asarray(v).reshape(width, -1) for v in gradient(weight, bias)], axis=1)
    oracle, h = np.empty_like(ours), 1e-3
    for i, particle in enumerate(np.concatenate([weight, bias[:, None]], axis=1)):
        for k, axis in enumerate(h * np.eye(4)):
            near = first_variation(particle + axis) - first_variation(particle - axis)
            far = first_variation(particle + 2 * axis) - first_variation(particle - 2 * axis)
            oracle[i, k] = (8 * near - far) / (12 * h)
    err = np.abs(ours / oracle - 1).max()

    # For W ~ N(0, s^2 I) and b ~ N(0, r^2) the mean field is (s^2 |x|^2 + r^2)/(2 eps). Absent rows
    # and unused coordinates let one program serve every N and d.
    counts, slopes, most = (64, 512, 4096), {}, 4096

    @jax.jit
    @jax.vmap
    def value(weight: Array, bias: Array) -> Array:
        return hjax.nn.LSELayer.from_arrays(weight, bias, eps=1.0)(jnp.full(4, 0.5))

    for d in (1, 4):
        errors = []
        for count in counts:
            rows, offsets = 0.7 * rng.normal(size=(64, most, 4)), 0.5 * rng.normal(size=(64, most))
            rows[:, :, d:], offsets[:, count:] = 0, -np.inf
            field = (0.49 * d * 0.25 + 0.25) / 2
            f = np.asarray(value(rows, offsets)) - math.log(count)
            errors.append(np.sqrt(np.mean((f - field) ** 2)))
        slopes[d] = float(np.polyfit(np.log(counts), np.log(errors), 1)[0])
    figure = (
        f"N dL/dtheta_j from the gradient of the first variation: relative err {err:.1e}; |f_N - f_rho| falls like "
        f"{', '.join(f'N^{s:.2f} (d={d}; -1/d = {-1 / d:.2f})' for d, s in slopes.items())}"
    )
    refuted = min(abs(s + 1 / d) for d, s in slopes.items()) > 0.15
    sampling = max(abs(s + 0.5) for s in slopes.values()) < 0.1
    return Evidence(holds=not refuted, corrected=bool(sampling and err < 1e-7), figure=figure)


_EPS, _INPUTS, _WIDTH = 0.5, 5, 6


@functools.cache
def _fixed_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that stay, inputs, and the logits without biases."""
    rng = np.random.default_rng(410)
    weight, x = rng.normal(size=(_WIDTH, 2)), rng.normal(size=(_INPUTS, 2))
    return weight, x, x @ weight.T


def _layer_at_inputs(bias: Array) -> Array:
    weight, x, _ = _fixed_rows()
    return jax.vmap(hjax.nn.LSELayer.from_arrays(weight, bias, eps=_EPS))(x)


def _logistic(bias: Array, label: Array) -> Array:
    """Mean of log(1 + e^(-label F_i(b))): increasing in F for label -1, decreasing for +1."""
    return jnp.mean(jnp.log1p(jnp.exp(-label * _layer_at_inputs(bias))))


def _logistic_oracle(bias: np.ndarray, label: float) -> np.ndarray:
    f = -soft_minimum(-(bias[..., None, :] + _fixed_rows()[2]), _EPS)
    return np.log1p(np.exp(-label * f)).mean(axis=-1)


def _midpoint_excess() -> tuple[dict[float, float], float]:
    """Per label the worst L((b + c)/2) - (L(b) + L(c))/2 over random pairs, positive if L is not convex; the error."""
    rng = np.random.default_rng(411)
    b, c = 3 * rng.normal(size=(2, 2000, _WIDTH))
    ends = np.concatenate([b, c, (b + c) / 2])
    batched, excess, err = jax.jit(jax.vmap(_logistic, in_axes=(0, None))), {}, 0.0
    for label in (-1.0, 1.0):
        losses = np.asarray(batched(ends, label))
        first, last, middle = losses.reshape(3, 2000)
        excess[label] = float((middle - (first + last) / 2).max())
        err = max(err, float(np.abs(losses - _logistic_oracle(ends, label)).max()))
    return excess, err


@check(
    "D.2.a",
    "With the rows fixed and a convex non-decreasing loss, the risk is convex in the biases.",
    expected=Verdict.HOLDS,
)
def convex_in_biases() -> Evidence:
    """hjax's Hessian against l'' p p^T + l' (diag p - p p^T)/eps in numpy, its least eigenvalue, and midpoints."""
    biases = np.random.default_rng(412).normal(size=(20, _WIDTH))
    hessians = np.asarray(jax.jit(jax.vmap(jax.hessian(_logistic), in_axes=(0, None)))(biases, -1.0))
    costs = -(biases[:, None, :] + _fixed_rows()[2])
    p, f = gibbs_mean(costs, _EPS, np.eye(_WIDTH)), -soft_minimum(costs, _EPS)
    slope = (1 / (1 + np.exp(-f)))[..., None, None]
    outer = p[..., :, None] * p[..., None, :]
    oracle = (slope * (1 - slope) * outer + slope * (p[..., None] * np.eye(_WIDTH) - outer) / _EPS).mean(axis=1)
    err, least = np.abs(hessians - oracle).max(), np.linalg.eigvalsh(hessians).min()
    excess, value = _midpoint_excess()
    figure = (
        f"log(1 + e^F): least Hessian eigenvalue {least:.1e} over 20 b, Hessian err {err:.1e}; worst "
        f"midpoint excess {excess[-1]:.1e} over 2000 pairs, loss err {value:.1e}"
    )
    return Evidence(bool(least > 1e-5 and excess[-1] < 0 and err < 1e-13 and value < 1e-13), figure)


@check("D.2.b", "The logistic loss is convex in the biases for both labels.", expected=Verdict.FAILS)
def logistic_label() -> Evidence:
    """Counterexample: label +1, where log(1 + e^(-F)) decreases in F."""
    excess, err = _midpoint_excess()
    figure = f"midpoint excess {excess[1]:.2f} > 0 for label +1 ({excess[-1]:.1e} for label -1); loss err {err:.1e}"
    return Evidence(holds=not (excess[1] > 0.1 and excess[-1] < 0 and err < 1e-13), figure=figure)


@check(
    "D.2.c",
    "So every minimum is global; corrected: a strictly increasing loss has none (all dL/db_j > 0), but F(b) - q.b, the "
    "cross-entropy over atoms, is convex and has a minimizer.",
    expected=Verdict.CORRECTED,
)
def no_minimizer() -> Evidence:
    """hjax's gradient and limit of the loss; the cross-entropy minimized on hjax's and on numpy's side."""
    biases = np.random.default_rng(412).normal(size=(20, _WIDTH))
    biases[:2] = np.array([[0.0], [-50.0]])
    losses, slopes = jax.jit(jax.vmap(jax.value_and_grad(_logistic), in_axes=(0, None)))(biases, -1.0)
    oracle = [[complex_step(lambda b: _logistic_oracle(b, -1.0), b, e) for e in np.eye(_WIDTH)] for b in biases]
    err, least = np.abs(np.asarray(slopes) - oracle).max(), float(slopes[2:].min())
    start, end = float(losses[0]), float(losses[1])

    rng = np.random.default_rng(413)
    # Labels are weights over atoms that some biases come near, so that the minimum is not at infinity.
    targets = rng.dirichlet(np.full(_WIDTH, 2.0), _INPUTS)
    logits = _fixed_rows()[2]
    entropy = jax.jit(jax.value_and_grad(lambda b: jnp.mean(_layer_at_inputs(b)) - jnp.mean(targets @ b)))

    def with_numpy(b: np.ndarray) -> tuple[float, np.ndarray]:
        value = np.mean(-soft_minimum(-(b + logits), _EPS) - targets @ b)
        return float(value), (gibbs_mean(-(b + logits), _EPS, np.eye(_WIDTH)) - targets).mean(axis=0)

    def with_hjax(b: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = entropy(b)
        return float(value), np.asarray(slope)

    found = [
        optimize.minimize(program, 3 * rng.normal(size=_WIDTH), jac=True, method="BFGS", options={"gtol": 1e-9})
        for program in (with_hjax, with_hjax, with_numpy)
    ]
    spread, stationary = np.ptp([f.fun for f in found]), np.abs(with_numpy(found[0].x)[1]).max()
    figure = (
        f"log(1 + e^F): dL/db_j >= {least:.1e}, err {err:.1e}; L = {start:.2f} -> {end:.0e} as b -> -50; "
        f"cross-entropy: minimum from three starts, one in numpy, to {spread:.0e}, gradient there {stationary:.0e}"
    )
    none = least > 0 and end < 1e-15
    corrected = err < 1e-13 and spread < 1e-12 and stationary < 1e-7
    return Evidence(holds=not none, corrected=bool(corrected), figure=figure)


def _kernels(inputs: Sequence[np.ndarray], temperatures: Sequence[float]) -> list[np.ndarray]:
    """Spectra of J J^T, ascending, J the derivatives of hjax's layer at the inputs in its biases, by autodiff."""

    @jax.jit
    def tangents(z: Array, eps: Array) -> Array:
        def values(bias: Array) -> Array:
            return jax.vmap(hjax.nn.LSELayer.from_arrays(_ROWS, bias, eps=eps))(z)

        return jax.jacobian(values)(jnp.zeros(len(_ROWS)))

    found = (np.asarray(tangents(z, eps)) for z, eps in zip(inputs, temperatures, strict=True))
    return [np.linalg.eigvalsh(p @ p.T) for p in found]


def _exact_spectrum(z: np.ndarray, eps: float) -> list[float]:
    """Eigenvalues of P P^T, ascending, for the Gibbs weights P in 50 digits: relatively accurate down to 1e-40."""
    with mpmath.workdps(DIGITS):
        weights = np.frompyfunc(mpmath.exp, 1, 1)(exact(z) @ exact(_ROWS).T / mpmath.mpf(eps))
        p = weights / weights.sum(axis=1, keepdims=True)
        return [float(v) for v in mpmath.eigsy(mpmath.matrix((p @ p.T).tolist()), eigvals_only=True)]


_LINE = np.linspace(-1, 1, 10)[:, None]
_ROWS = np.random.default_rng(430).uniform(-2, 2, (20, 1))


@check(
    "D.3.a",
    "The tangent kernel of the biases, K_ik = p(x_i).p(x_k), is positive definite for distinct inputs and N >= n rows "
    "in general position.",
    expected=Verdict.HOLDS,
)
def tangent_kernel() -> Evidence:
    """Least eigenvalue in 50 digits; hjax's kernel, from autodiff, where it is above float64."""
    spectra = {eps: _exact_spectrum(_LINE, eps) for eps in (1.0, 0.05)}
    ours = dict(zip(spectra, _kernels(2 * [_LINE], list(spectra)), strict=True))
    err = max(np.abs(ours[eps] - spectrum).max() for eps, spectrum in spectra.items())
    least = {eps: spectrum[0] for eps, spectrum in spectra.items()}
    resolved = abs(ours[0.05][0] / least[0.05] - 1)
    figure = (
        f"n = 10, N = 20: least eigenvalue {least[1.0]:.1e} at eps = 1 (below float64, so no usable rate), "
        f"{least[0.05]:.1e} at eps = 0.05; hjax's kernel within {err:.0e}, its least one at eps = 0.05 to "
        f"{resolved:.0e}"
    )
    return Evidence(bool(0 < least[1.0] < 1e-16 and least[0.05] > 0 and err < 1e-14 and resolved < 1e-2), figure)


@check(
    "D.3.b",
    "With a positive definite tangent kernel, gradient descent on the squared error reaches zero.",
    expected=Verdict.FAILS,
)
def convexity_floor() -> Evidence:
    """Targets (0, 1, 0) on a line: hjax's best error, convex regression, and the linearized model."""
    x, targets, eps = np.array([[-1.0], [0.0], [1.0]]), np.array([0.0, 1.0, 0.0]), 0.1
    weight = np.random.default_rng(431).uniform(-1, 1, (50, 1))

    def values(b: Array) -> Array:
        return jax.vmap(hjax.nn.LSELayer.from_arrays(weight, b, eps=eps))(x)

    @jax.jit
    @jax.value_and_grad
    def risk(b: Array) -> Array:
        return jnp.mean((values(b) - targets) ** 2)

    def program(b: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = risk(b)
        return float(value), np.asarray(slope)

    best = optimize.minimize(
        program, np.zeros(50), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10}
    ).fun
    # Convex functions on three points: a line plus a nonnegative multiple of the hinge at 0.
    line = np.concatenate([np.ones((3, 1)), -np.ones((3, 1)), x, -x, np.maximum(x, 0)], axis=1)
    floor = optimize.nnls(line, targets)[1] ** 2 / 3
    p = gibbs_mean(-(x @ weight.T), eps, np.eye(50))
    tangents = np.asarray(jax.jit(jax.jacobian(values))(jnp.zeros(50)))
    kernel, err = tangents @ tangents.T, np.abs(tangents - p).max()
    spectrum = np.linalg.eigvalsh(kernel)
    steps = np.linalg.matrix_power(np.eye(3) - kernel / spectrum[-1], 10**5)
    linear = np.abs(steps @ targets).max()
    figure = (
        f"targets (0, 1, 0), N = 50, least eigenvalue of K {spectrum[0]:.1e}: best MSE {best:.5f}, convex regression "
        f"{floor:.5f} = 2/9; the linearized model ends at residual {linear:.0e}; tangents err {err:.0e}"
    )
    stuck = best > floor - 1e-9 and best < floor + 1e-3 and abs(floor - 2 / 9) < 1e-9
    return Evidence(holds=not (stuck and spectrum[0] > 1e-4 and linear < 1e-6 and err < 1e-14), figure=figure)


@check(
    "D.4",
    "With frozen lower layers all this applies unchanged; corrected: if their features are injective on the data.",
    expected=Verdict.CORRECTED,
)
def frozen_features() -> Evidence:
    """Features by an even layer, which confuses x and -x, and by a strictly increasing one."""

    @jax.jit
    def lower(weight: Array) -> Array:
        return jax.vmap(hjax.nn.LSELayer.from_arrays(weight, jnp.zeros(2), eps=0.2))(_LINE)[:, None]

    features = [np.asarray(lower(np.array(rows))) for rows in ([[-1.0], [1.0]], [[0.5], [1.0]])]
    ours = _kernels(features, [0.05, 0.05])
    exactly = [_exact_spectrum(z, 0.05) for z in features]
    err = max(np.abs(a - b).max() for a, b in zip(ours, exactly, strict=True))
    rank, least = int((ours[0] > 1e-14).sum()), exactly[1][0]
    figure = (
        f"even features: rank of K {rank} of 10, least eigenvalue {abs(ours[0][0]):.0e}; increasing features: least "
        f"eigenvalue {least:.1e} in 50 digits; hjax's kernel within {err:.0e}"
    )
    return Evidence(holds=not rank <= 5, corrected=bool(least > 1e-8 and err < 1e-14), figure=figure)
