"""The other side of every check: nothing here calls hjax, nor a formula that hjax uses in floating point."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import integrate

try:
    import mpmath as mpmath
except ImportError:
    raise ImportError("hjax verify needs mpmath; pip install 'hjax[cli]'") from None

DIGITS = 50


def exact(array: Any) -> np.ndarray:
    """The same numbers as 50-digit ones, as an object array (exactly: a float is a fraction)."""
    return np.asarray(np.frompyfunc(lambda v: mpmath.mpf(float(v)), 1, 1)(np.asarray(array, np.float64)), object)


def exact_softmax(a: np.ndarray, eps: Any) -> Any:
    """`eps log sum_j exp(a_j/eps)` to 50 digits; mpmath has no overflow, so no maximum is removed."""
    with mpmath.workdps(DIGITS):
        eps = mpmath.mpf(eps)
        return eps * mpmath.log(sum(mpmath.exp(v / eps) for v in exact_or_same(a)))


def exact_entropy(a: np.ndarray, eps: float) -> float:
    """`-sum p log p` for p proportional to exp(a/eps), to 50 digits: cancellation costs nothing there."""
    with mpmath.workdps(DIGITS):
        weights = [mpmath.exp(v / mpmath.mpf(eps)) for v in exact_or_same(a)]
        total = sum(weights)
        return float(-sum(w / total * mpmath.log(w / total) for w in weights))


def exact_or_same(array: Any) -> np.ndarray:
    """`exact` for floats; arrays that hold 50-digit numbers already keep their digits."""
    array = np.asarray(array)
    return array if array.dtype == object else exact(array)


def residual(
    value: Callable[[Array, Array], Array],
    x: np.ndarray,
    t: np.ndarray,
    hamiltonian: Callable[[Array, Array], Array],
    viscosity: np.ndarray,
) -> np.ndarray:
    """`u_t + H(x, grad u) - tr(V D^2 u)` at x `(M, d)`, t `(M,)`, by autodiff of the value and nothing else."""

    def at(x: Array, t: Array) -> Array:
        momentum, rate = jax.grad(value, argnums=(0, 1))(x, t)
        return rate + hamiltonian(x, momentum) - jnp.sum(viscosity * jax.hessian(value)(x, t))

    return np.asarray(jax.jit(jax.vmap(at))(x, t))


def solve_viscous(u: np.ndarray, spacing: float, eps: float, duration: float) -> np.ndarray:
    """March `u_t + u_x^2 = eps u_xx` on a line: fourth-order centred differences and RK4.

    Knows no kernel. The ends are outflow (characteristics leave at 2 u_x ~ x/t), so ghost values by cubic
    extrapolation do.
    """

    def rate(u: np.ndarray) -> np.ndarray:
        for _ in range(2):
            first = 4 * u[0] - 6 * u[1] + 4 * u[2] - u[3]
            last = 4 * u[-1] - 6 * u[-2] + 4 * u[-3] - u[-4]
            u = np.concatenate([[first], u, [last]])
        a, b, c, d, e = (u[i : len(u) - 4 + i] for i in range(5))
        slope = (a - 8 * b + 8 * d - e) / (12 * spacing)
        curvature = (-a + 16 * b - 30 * c + 16 * d - e) / (12 * spacing**2)
        return eps * curvature - slope**2

    # RK4 is stable to 2.78 on the negative axis, and the curvature's spectrum ends at 16/(3 spacing^2).
    steps = math.ceil(duration / (0.4 * spacing**2 / eps))
    dt = duration / steps
    for _ in range(steps):
        k1 = rate(u)
        k2 = rate(u + dt / 2 * k1)
        k3 = rate(u + dt / 2 * k2)
        k4 = rate(u + dt * k3)
        u = u + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return u


def solve_inviscid(u: np.ndarray, spacing: float, duration: float, speed: float) -> np.ndarray:
    """March `u_t + u_x^2 = 0` on a circle by Godunov's first-order scheme; `speed` bounds |2 u_x|.

    It converges to the viscosity solution, through shocks too.
    """
    steps = math.ceil(duration * speed / (0.9 * spacing))
    dt = duration / steps
    for _ in range(steps):
        forward = (np.roll(u, -1) - u) / spacing
        backward = np.roll(forward, 1)
        u = u - dt * np.maximum(np.maximum(backward, 0) ** 2, np.minimum(forward, 0) ** 2)
    return u


def integrate_viscous(
    g: Callable[[float], float],
    x: float,
    t: float,
    eps: float,
    interval: tuple[float, float],
    breaks: Sequence[float] = (),
) -> float:
    """`-eps log integral (4 pi eps t)^(-1/2) exp(-(g(y) + (x-y)^2/(4t))/eps) dy` by adaptive quadrature.

    `breaks` are kinks of g. The rest of the pieces zoom in on the peak, which may be a thousandth of the
    interval wide; there the value of the exponent is removed.
    """

    def action(y: float) -> float:
        return g(y) + (x - y) ** 2 / (4 * t)

    nodes = np.linspace(*interval, 4001)
    peak = min([*nodes, *breaks], key=action)
    least = action(peak)
    zoom = [peak + s * width for width in (eps, math.sqrt(eps * t)) for s in (-30, -8, -2, 2, 8, 30)]
    cuts = sorted({c for c in [*interval, peak, *breaks, *zoom] if interval[0] <= c <= interval[1]})
    total = sum(
        integrate.quad(lambda y: math.exp((least - action(y)) / eps), a, b, epsabs=1e-15, epsrel=1e-12)[0]
        for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    )
    return least - eps * math.log(total) + eps / 2 * math.log(4 * math.pi * eps * t)


def soft_minimum(costs: np.ndarray, eps: float) -> np.ndarray:
    """`-eps log sum_j exp(-c_j/eps)` over the last axis, in numpy; costs may be complex, for complex steps."""
    least = np.real(costs).min(axis=-1, keepdims=True)
    return least[..., 0] - eps * np.log(np.exp((least - costs) / eps).sum(axis=-1))


def gibbs_mean(costs: np.ndarray, eps: float, payload: np.ndarray) -> np.ndarray:
    """`sum_j p_j v_j` with `p` proportional to `exp(-c/eps)`, costs `(..., N)`, payload `(N, p)`, in numpy."""
    weights = np.exp((costs.min(axis=-1, keepdims=True) - costs) / eps)
    return weights @ payload / weights.sum(axis=-1, keepdims=True)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`|x_i - y_j|^2`, `(..., M, N)`, by differences; complex points are not conjugated."""
    return ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(axis=-1)


def complex_step(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The derivative of an analytic numpy function along a direction, without cancellation."""
    step = 1e-30
    return np.imag(function(at + 1j * step * direction)) / step
