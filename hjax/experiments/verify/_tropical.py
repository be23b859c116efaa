"""Theorem 5.1, the tropical collapse eps -> 0, and the opposite end eps -> infinity (Table 5)."""

import math

import jax.numpy as jnp
import numpy as np
from scipy import optimize

import hjax

from ._oracles import DIGITS, exact_softmax, integrate_viscous, mpmath, solve_inviscid
from ._table import Evidence, Verdict, check


def _problem(seed: int) -> tuple[hjax.InitialData, np.ndarray]:
    """Fifteen atoms and eight queries in the plane."""
    rng = np.random.default_rng(seed)
    return hjax.InitialData(rng.normal(size=(15, 2)), rng.normal(size=15)), rng.normal(size=(8, 2))


def _costs(data: hjax.InitialData, x: np.ndarray, t: float) -> np.ndarray:
    """`g_j + |x - y_j|^2/(4t)`, `(M, N)`, in numpy."""
    squares = ((x[:, None] - np.asarray(data.points)) ** 2).sum(axis=-1)
    return np.asarray(data.values) + squares / (4 * t)


@check(
    "5.1.a",
    "Hopf-Lax is the linear program min c.p over the simplex, with its optimum at a vertex, and equals "
    "|x|^2/(4t) - max_j(W_j.x + b_j).",
    expected=Verdict.HOLDS,
)
def linear_program() -> Evidence:
    """HiGHS on the simplex, and numpy's maximum over the layer's rows, against `HopfLax`."""
    (data, x), t = _problem(51), 0.7
    u = np.asarray(hjax.HopfLax(data)(x, t))
    programs = [optimize.linprog(c, A_eq=np.ones((1, data.size)), b_eq=[1], method="highs") for c in _costs(data, x, t)]
    support = max(int((p.x > 1e-9).sum()) for p in programs)
    layer = hjax.nn.LSELayer.from_solution(hjax.HopfCole(data, 1.0), t)
    rows = x @ np.asarray(layer.weight).T + np.asarray(layer.bias)
    program = np.abs(u - [p.fun for p in programs]).max()
    maximum = np.abs(u - ((x**2).sum(axis=1) / (4 * t) - rows.max(axis=1))).max()
    figure = (
        f"LP (HiGHS) {program:.1e}, |x|^2/4t - max(Wx + b) {maximum:.1e} from Hopf-Lax; "
        f"support of the optimum {support}"
    )
    return Evidence(bool(program < 1e-12 and maximum < 1e-12 and support == 1), figure)


@check(
    "5.1.b",
    "0 <= u_0 - u_eps <= eps log N, and u_eps = min_p c.p + eps sum p log p over the simplex.",
    expected=Verdict.HOLDS,
)
def entropic_program() -> Evidence:
    """Minimise the entropic program by BFGS in logits; any point of the simplex bounds u_eps from above."""
    (data, x), t, eps = _problem(52), 0.7, 0.3
    u = np.asarray(hjax.HopfCole(data, eps)(x, t))
    gap = np.asarray(hjax.HopfLax(data)(x, t)) - u
    excess = []
    for c, value in zip(_costs(data, x, t), u, strict=True):

        def program(z: np.ndarray, c: np.ndarray = c) -> tuple[float, np.ndarray]:
            p = np.exp(z - z.max())
            p /= p.sum()
            slope = c + eps * np.log(np.maximum(p, 1e-300))
            total = float(p @ slope)
            return total, p * (slope - total)

        found = optimize.minimize(program, np.zeros_like(c), jac=True, method="BFGS", options={"gtol": 1e-8})
        excess.append(found.fun - value)
    bound = eps * math.log(data.size)
    figure = (
        f"u_0 - u_eps in [{gap.min():.3f}, {gap.max():.3f}], eps log N = {bound:.3f}; entropic "
        f"program (BFGS) - u_eps in "
        f"[{min(excess):.1e}, {max(excess):.1e}]"
    )
    within = gap.min() > 0 and gap.max() < bound
    return Evidence(bool(within and min(excess) > -1e-12 and max(excess) < 1e-6), figure)


@check(
    "5.1.c",
    "The inviscid solution u_0 is piecewise affine, with its breakpoints at the atoms y_j.",
    expected=Verdict.FAILS,
)
def piecewise_affine() -> Evidence:
    """Second differences of `HopfLax` on two atoms at +-1, and the place of the kink for unequal ones."""
    u, h = hjax.HopfLax(hjax.InitialData(jnp.array([[-1.0], [1.0]]), jnp.zeros(2))), 1e-3
    x = np.linspace(-2, 2, 81)
    stencil = x[:, None] + h * np.array([-1, 0, 1])
    values = np.asarray(u(stencil[..., None], 1.0))
    curvature = values @ np.array([1, -2, 1]) / h**2
    layer_curvature = (stencil**2 / 4 - values) @ np.array([1, -2, 1]) / h**2
    kink = float(x[np.abs(curvature - 0.5).argmax()])
    jump, smooth = curvature.min() * h, np.abs(x) > 2 * h
    flat, affine = np.abs(curvature[smooth] - 0.5).max(), np.abs(layer_curvature[smooth]).max()

    t, y, g = 0.8, np.array([-1.0, 0.7]), np.array([0.2, -0.1])
    uneven = hjax.HopfLax(hjax.InitialData(y[:, None], g))
    low, high = -3.0, 3.0
    for _ in range(4):
        nodes = np.linspace(low, high, 101)
        first = int(np.argmax(np.asarray(uneven.minimizer(nodes[:, None], t)) == 1))
        low, high = nodes[first - 1], nodes[first]
    facet = y.mean() + 2 * t * (g[1] - g[0]) / (y[1] - y[0])
    figure = (
        f"y = +-1, g = 0, t = 1: kink at x = {kink:.3f} with jump {jump:.2f}, not at +-1; elsewhere u'' = 1/2 to "
        f"{flat:.0e} and f_0'' = 0 to {affine:.0e}; unequal g: kink {low:.4f}, power-diagram facet {facet:.4f}"
    )
    refuted = abs(kink) < 1e-12 and jump < -0.5 and flat < 1e-6 and affine < 1e-6 and abs(low - facet) < 1e-6
    return Evidence(holds=not refuted, figure=figure)


@check(
    "5.1.d",
    "|u_eps - u_0| <= C eps for Lipschitz g; corrected: the rate is (d/2) eps log(1/eps) + O(eps), attained by g = |y| "
    "at x = 0.",
    expected=Verdict.CORRECTED,
)
def vanishing_viscosity_rate() -> Evidence:
    """`HopfCole` on a fine quadrature rule against 50-digit erfc and adaptive quadrature, over four decades."""
    temperatures = [1e-1, 1e-2, 1e-3, 1e-4]
    rates, errors, adaptive, bounds = [], [], [], []
    for eps in temperatures:
        # Fifty nodes per eps, the width of exp(-|y|/eps); beyond 40 eps its mass is e^-40.
        rule = hjax.quadrature.grid(-40 * eps, 40 * eps, 4000)
        data = hjax.InitialData.from_function(lambda y: jnp.abs(y).sum(), rule)
        u = float(hjax.HopfCole(data, eps, normalize=True)(np.zeros(1), 1.0))
        with mpmath.workdps(DIGITS):
            e = mpmath.mpf(eps)
            exact = float(-e * mpmath.log(mpmath.exp(1 / e) * mpmath.erfc(1 / mpmath.sqrt(e))))
        rates.append(u / eps)
        errors.append(abs(u - exact) / eps)
        adaptive.append(abs(integrate_viscous(abs, 0.0, 1.0, eps, (-9.0, 9.0), [0.0]) - exact) / eps)
        bounds.append(1 + eps / 4 + math.log(2 / (math.e * eps)) / 2)
    growth = np.diff(rates) / math.log(10)
    err = max(*errors, *adaptive)
    figure = (
        f"g = |y|, x = 0, t = 1: (u_eps - u_0)/eps = {', '.join(f'{r:.2f}' for r in rates)} for eps "
        f"= 1e-1..1e-4, grows by "
        f"{growth[-1]:.3f} per e-fold, below the derived bound {', '.join(f'{b:.2f}' for b in bounds)}; oracles within "
        f"{err:.0e}"
    )
    sharp = abs(growth[-1] - 0.5) < 0.01 and bool(np.all(np.array(rates) < bounds))
    return Evidence(holds=not growth.min() > 0.4, corrected=bool(sharp and err < 1e-3), figure=figure)


@check(
    "5.1.e",
    "Hopf-Lax is the viscosity solution of u_t + |grad u|^2 = 0 past the first shock at t* = -1/(2 min g'').",
    expected=Verdict.HOLDS,
)
def godunov() -> Evidence:
    """Godunov's scheme to twice the shock time, on two grids, against `HopfLax` on atoms of a finer grid."""
    t, shock = 0.5, 0.25

    def g(y):
        # g'' = -2 cos 2y, so that the first characteristics cross at t* = 1/4.
        return np.cos(2 * y) / 2

    nodes = np.linspace(-2, math.pi + 2, 20_000)
    u = hjax.HopfLax(hjax.InitialData(nodes[:, None], g(nodes)))
    errors = []
    for count in (2500, 5000):
        spacing = math.pi / count
        x = spacing * np.arange(count)
        marched = solve_inviscid(g(x), spacing, t, speed=2.0)
        value = np.asarray(u(x[::5, None], t))
        errors.append(np.abs(marched[::5] - value).max())
    near = np.array([[-1e-6], [1e-6]])
    before, after = (float(np.ptp(np.asarray(u.gradient(near, s)))) for s in (0.8 * shock, t))
    figure = (
        f"Godunov to t = {t} = 2t*: err {errors[0]:.1e}, {errors[1]:.1e} (dx = "
        f"{math.pi / 2500:.1e}, {spacing:.1e}); the "
        f"gradient jumps by {after:.2f} at the shock ({before:.2f} before t*)"
    )
    order = math.log2(errors[0] / errors[1])
    return Evidence(bool(errors[1] < 1e-3 and order > 0.7 and after > 0.5 and before < 0.1), figure)


@check(
    "T5",
    "As eps -> infinity the layer is mean pooling: f - eps log N -> mean of W_j.x + b_j, with gap Var/(2 eps).",
    expected=Verdict.HOLDS,
)
def mean_pooling() -> Evidence:
    """The layer at three large temperatures against numpy's mean and variance of its pre-activations."""
    rng = np.random.default_rng(50)
    weight, bias, x = rng.normal(size=(20, 3)), rng.normal(size=20), rng.normal(size=3) / 2
    a = weight @ x + bias
    gaps = {}
    for eps in (1e1, 1e2, 1e3):
        layer = hjax.nn.LSELayer.from_arrays(weight, bias, eps=eps)
        gaps[eps] = float(layer(x)) - eps * math.log(20) - a.mean()
    ratios = [gap / (a.var() / (2 * eps)) for eps, gap in gaps.items()]
    err = abs(gaps[1e3] - float(exact_softmax(a, 1e3) - 1000 * mpmath.log(20)) + a.mean())
    figure = (
        f"gap at eps = 1e3 {gaps[1e3]:.2e}, Var/(2 eps) = {a.var() / 2e3:.2e}; ratio over eps = 10, 1e2, 1e3: "
        f"{', '.join(f'{r:.4f}' for r in ratios)}"
    )
    return Evidence(bool(abs(ratios[-1] - 1) < 1e-2 and 0 < gaps[1e3] < 1e-2 and err < 1e-10), figure)
