"""Theorems 4.3 and 4.4: which Hamiltonians a log-sum-exp layer solves exactly."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import linalg

import hjax

from ._oracles import DIGITS, exact, exact_softmax, mpmath, residual
from ._table import Evidence, Verdict, check


def _atoms(seed: int, count: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dimension)), rng.normal(size=count)


def _queries(seed: int, count: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Random x and times at which a time unit of order one is neither early nor late."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dimension)), rng.uniform(0.3, 1.5, count)


# Written with operators only, so that they take jax arrays and 50-digit arrays alike.
_HAMILTONIANS = {
    "|p|^2": lambda p: (p * p).sum(),
    "|p|^4": lambda p: (p * p).sum() ** 2,
    "p1 p2": lambda p: p[0] * p[1],
}


@check(
    "4.3.a",
    "With u = -eps log phi, for any phi > 0 and H: u_t + H(grad u) - eps lap u = -(eps/phi)(phi_t - eps lap phi - "
    "(phi/eps)(H(grad u) - |grad u|^2)); the reaction term vanishes for every phi only if H = |p|^2.",
    expected=Verdict.HOLDS,
)
def reaction_term() -> Evidence:
    """Left: autodiff of a soft-min plus a wave (no solution of anything). Right: phi differentiated by mpmath."""
    eps, (points, values), (x, t) = 0.4, _atoms(431, 5, 2), _queries(432, 12, 2)
    u = hjax.HopfCole(hjax.InitialData(points, values), eps)

    def value(x: Array, t: Array) -> Array:
        return u(x, 2 * t) + 0.3 * jnp.sin(x[0] + 2 * x[1] + t)

    y, g, e = exact(points), exact(values), mpmath.mpf(eps)

    def phi(a, b, t):
        cost = ((np.array([a, b], dtype=object) - y) ** 2).sum(axis=1) / (8 * t)
        wave = mpmath.mpf(0.3) * mpmath.sin(a + 2 * b + t)
        return sum(mpmath.exp(-v / e) for v in g + cost) * mpmath.exp(-wave / e)

    right: dict[str, list] = {name: [] for name in _HAMILTONIANS}
    reaction: dict[str, list] = {name: [] for name in _HAMILTONIANS}
    with mpmath.workdps(DIGITS):
        for (a, b), s in zip(exact(x), exact(t), strict=True):
            orders = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0))
            here, p1, p2, rate, c1, c2 = (mpmath.diff(phi, (a, b, s), order) for order in orders)
            momentum = -e / here * np.array([p1, p2], dtype=object)
            for name, hamiltonian in _HAMILTONIANS.items():
                term = here / e * (hamiltonian(momentum) - (momentum * momentum).sum())
                right[name].append(float(-e / here * (rate - e * (c1 + c2) - term)))
                reaction[name].append(abs(float(term / here)))
    err = 0.0
    for name, hamiltonian in _HAMILTONIANS.items():
        left = residual(value, x, t, lambda x, p, hamiltonian=hamiltonian: hamiltonian(p), eps * np.eye(2))
        err = max(err, np.max(np.abs(left - right[name]) / (1 + np.abs(left))))
    sizes = {name: max(v) for name, v in reaction.items()}
    figure = (
        f"identity err {err:.1e}, d=2, for H = {', '.join(_HAMILTONIANS)}; reaction/phi up to "
        f"{', '.join(f'{v:.2g}' for v in sizes.values())}"
    )
    others = min(size for name, size in sizes.items() if name != "|p|^2")
    return Evidence(bool(err < 1e-11 and sizes["|p|^2"] < 1e-30 and others > 0.1), figure)


@check(
    "4.3.b",
    "Of the Hamiltonians, only H = |p|^2 is exactly solvable by a log-sum-exp layer.",
    expected=Verdict.FAILS,
)
def drift() -> Evidence:
    """Counterexample H = |p|^2 + beta.p + c: the same solution on atoms y_j + beta t, less c t."""
    eps, (points, values), (x, t) = 0.4, _atoms(433, 10, 2), _queries(434, 100, 2)
    beta, c = np.array([0.8, -0.5]), 0.7

    def drifted(t: Array) -> hjax.HopfCole:
        return hjax.HopfCole(hjax.InitialData(points + beta * t, values), eps, normalize=True)

    def hamiltonian(x: Array, p: Array) -> Array:
        return jnp.sum(p * p) + jnp.dot(beta, p) + c

    still = hjax.HopfCole(hjax.InitialData(points, values), eps, normalize=True)
    res, control = (
        np.abs(residual(value, x, t, hamiltonian, eps * np.eye(2))).max()
        for value in (lambda x, t: drifted(t)(x, t) - c * t, lambda x, t: still(x, t))
    )
    layer = jax.vmap(hjax.nn.LSELayer.from_solution(drifted(jnp.asarray(0.9)), 0.9))(x)
    err = np.abs(np.asarray(layer) - ((x**2).sum(1) / 3.6 - np.asarray(drifted(jnp.asarray(0.9))(x, 0.9)))).max()
    figure = (
        f"H = |p|^2 + b.p + c is exact with atoms y_j + b t: residual {res:.1e} (atoms at rest: {control:.2f}), and "
        f"a layer still: {err:.1e}"
    )
    return Evidence(holds=not (res < 1e-11 and control > 0.1 and err < 1e-11), figure=figure)


class _Mehler(hjax.Cost):
    """The oscillator's action `(w/2)((|x|^2 + |y|^2) coth 2wt - 2 x.y/sinh 2wt)`."""

    frequency: float
    t: Array

    def __call__(self, x: Array, y: Array) -> Array:
        angle = 2 * self.frequency * self.t
        squares = (jnp.sum(x * x) + jnp.sum(y * y)) / jnp.tanh(angle)
        return self.frequency / 2 * (squares - 2 * jnp.sum(x * y) / jnp.sinh(angle))


@check(
    "4.3.c",
    "No Hamiltonian that depends on x is exactly solvable by a log-sum-exp layer.",
    expected=Verdict.FAILS,
)
def oscillator() -> Evidence:
    """Counterexample H = |p|^2 - w^2 |x|^2: Mehler's kernel, a soft-min with a cost of its own."""
    eps, w, d, (points, values), (x, t) = 0.4, 0.9, 2, _atoms(435, 10, 2), _queries(436, 100, 2)

    def value(x: Array, t: Array) -> Array:
        prefactor = d * eps / 2 * jnp.log(2 * jnp.pi * eps * jnp.sinh(2 * w * t) / w)
        return hjax.softmin(x, points, values, eps=eps, cost=_Mehler(w, t)).value + prefactor

    def hamiltonian(x: Array, p: Array) -> Array:
        return jnp.sum(p * p) - w**2 * jnp.sum(x * x)

    res = np.abs(residual(value, x, t, hamiltonian, eps * np.eye(d))).max()
    control = np.abs(residual(value, x, t, lambda x, p: jnp.sum(p * p), eps * np.eye(d))).max()
    # Expand the square: what is left is a layer with rows w y_j/sinh(2wt).
    angle, prefactor = 2 * w * 0.9, d * eps / 2 * np.log(2 * np.pi * eps * np.sinh(1.8 * w) / w)
    bias = -values - w / 2 / np.tanh(angle) * (points**2).sum(1)
    layer = hjax.nn.LSELayer.from_arrays(w * points / np.sinh(angle), bias, eps=eps)
    f = w / 2 / np.tanh(angle) * (x**2).sum(1) - (np.asarray(value(jnp.asarray(x), jnp.asarray(0.9))) - prefactor)
    err = np.abs(np.asarray(jax.vmap(layer)(x)) - f).max()
    figure = (
        f"H = |p|^2 - w^2|x|^2 is exact with Mehler's kernel: residual {res:.1e} (without the "
        f"potential {control:.2f}), "
        f"and a layer with W_j = w y_j/sinh 2wt: {err:.1e}"
    )
    return Evidence(holds=not (res < 1e-11 and control > 0.1 and err < 1e-11), figure=figure)


@check(
    "4.3.d",
    "Outside the Hamiltonians quadratic in (x, p) the identity breaks: the layer does not solve H = |p|^4.",
    expected=Verdict.HOLDS,
)
def quartic() -> Evidence:
    """The residual of the Hopf-Cole value for |p|^4, and for |p|^2 at the same points."""
    eps, (points, values), (x, t) = 0.4, _atoms(437, 10, 2), _queries(438, 100, 2)
    u = hjax.HopfCole(hjax.InitialData(points, values), eps, normalize=True)
    quartic, quadratic = (
        np.abs(residual(u, x, t, lambda x, p, k=k: jnp.sum(p * p) ** k, eps * np.eye(2))).max() for k in (2, 1)
    )
    figure = f"residual for |p|^4: {quartic:.2f}, for |p|^2 at the same points: {quadratic:.1e}"
    return Evidence(bool(quartic > 1 and quadratic < 1e-11), figure)


@check(
    "4.4",
    "With W_j = A^-1 y_j/(2t), b_j = -g_j - y_j^T A^-1 y_j/(4t): f = x^T A^-1 x/(4t) - u_A, and u_A with its prefactor "
    "solves u_t + grad u^T A grad u = eps tr(A D^2 u); the viscosity must be eps A.",
    expected=Verdict.HOLDS,
)
def anisotropic() -> Evidence:
    """Layer against 50 digits on Cholesky distances; the residual with A, and with the identity instead."""
    eps, d, (points, values), (x, t) = 0.3, 3, _atoms(44, 12, 3), _queries(441, 60, 3)
    root = np.tril(np.random.default_rng(442).normal(size=(d, d)))
    metric = root @ root.T + 0.3 * np.eye(d)
    data, hamiltonian = hjax.InitialData(points, values), hjax.Quadratic(metric)
    layer = hjax.nn.LSELayer.from_solution(hjax.HopfCole(data, eps, hamiltonian), 0.7)
    factor = linalg.cholesky(metric, lower=True)
    white_x, white_y = (linalg.solve_triangular(factor, v.T, lower=True).T for v in (x, points))
    oracle = []
    for row in white_x:
        cost = values + ((row - white_y) ** 2).sum(axis=1) / 2.8
        oracle.append((row**2).sum() / 2.8 + float(exact_softmax(-cost, eps)))
    scale = 1 + np.abs(oracle).max()
    err = np.abs(np.asarray(jax.vmap(layer)(x)) - oracle).max() / scale
    u = hjax.HopfCole(data, eps, hamiltonian, normalize=True)

    def kinetic(x: Array, p: Array) -> Array:
        return p @ metric @ p

    res, isotropic = (np.abs(residual(u, x, t, kinetic, eps * v)).max() for v in (metric, np.eye(d)))
    figure = (
        f"f = x^T A^-1 x/4t - u_A err {err:.1e}; residual with eps tr(A D^2 u) {res:.1e}, with eps "
        f"lap u {isotropic:.2f}"
    )
    return Evidence(bool(err < 1e-12 and res < 1e-11 and isotropic > 0.05), figure)
