"""Theorem 3.1 (Maslov dequantization) and Remark 3.2 (ReLU)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._oracles import DIGITS, exact, exact_softmax, mpmath
from ._table import Evidence, Verdict, check


def soft_sum(a: np.ndarray, eps: float) -> np.ndarray:
    """The sum `a_1 (+)_eps a_2 (+)_eps ... = eps log sum_j exp(a_j/eps)` over the last axis, by hjax.

    A soft-min over atoms in one place: no cost but their values.
    """
    here = jnp.zeros((a.shape[-1], 1))

    @jax.jit
    @jax.vmap
    def rows(row: Array) -> Array:
        return hjax.softmin(here[0], here, -row, eps=eps).value

    return -np.asarray(rows(jnp.asarray(a.reshape(-1, a.shape[-1])))).reshape(a.shape[:-1])


@check(
    "3.1.a",
    "For every eps > 0, s -> eps log s is a semiring isomorphism of (R_>0, +, x) onto (R, (+)_eps, +).",
    expected=Verdict.HOLDS,
)
def isomorphism() -> Evidence:
    """Axioms and homomorphism at 50 digits, and hjax's own (+)_eps against the image of the sum."""
    rng = np.random.default_rng(31)
    eps, triples = 0.3, rng.uniform(-2, 2, (50, 3))
    with mpmath.workdps(DIGITS):
        e, wrong = mpmath.mpf(eps), mpmath.mpf(eps) * (1 + mpmath.mpf("1e-30"))

        def plus(a, b):
            # The form with the maximum removed; the image of the sum below is the definition.
            return max(a, b) + e * mpmath.log1p(mpmath.exp(-abs(a - b) / e))

        errors, control = [], []
        for a, b, c in exact(triples):
            r, s = mpmath.exp(a / e), mpmath.exp(b / e)
            errors += [
                plus(plus(a, b), c) - plus(a, plus(b, c)),
                plus(a, b) - plus(b, a),
                c + plus(a, b) - plus(c + a, c + b),
                e * mpmath.log(r + s) - plus(a, b),
                e * mpmath.log(r * s) - (a + b),
                mpmath.exp(plus(a, b) / e) / (r + s) - 1,
            ]
            control.append(abs(wrong * mpmath.log(r + s) - plus(a, b)))
        worst, seen = max(abs(v) for v in errors), max(control)
        image = np.array([float(e * mpmath.log(sum(mpmath.exp(v / e) for v in row))) for row in exact(triples)])
    ours = np.abs(soft_sum(triples, eps) - image).max()
    figure = (
        f"worst axiom error {float(worst):.1e} at {DIGITS} digits (control: eps off by 1e-30 gives "
        f"{float(seen):.1e}); hjax in float64 {ours:.1e}"
    )
    return Evidence(bool(worst < 1e-45 and seen > 1e-32 and ours < 1e-14), figure)


@check(
    "3.1.b",
    "0 < a (+)_eps b - max(a, b) = eps log(1 + e^(-|a-b|/eps)) <= eps log 2, with equality at a = b only.",
    expected=Verdict.HOLDS,
)
def dequantization_gap() -> Evidence:
    """The gap on a grid of differences that contains 0, against 50 digits."""
    eps, differences = 0.3, np.linspace(-3, 3, 121)
    pairs = np.stack([differences + 0.7, np.full_like(differences, 0.7)], axis=1)
    gap = soft_sum(pairs, eps) - pairs.max(axis=1)
    with mpmath.workdps(DIGITS):
        formula = [eps * mpmath.log1p(mpmath.exp(-abs(v) / mpmath.mpf(eps))) for v in exact(differences)]
    err = np.abs(gap - np.array(formula, dtype=float)).max()
    top, where = gap.max(), differences[gap.argmax()]
    strict = np.sort(gap)[-2] < top - 1e-3
    figure = f"sup gap {top:.6f} = eps log 2 = {eps * np.log(2):.6f}, at a - b = {where:.0f}; formula err {err:.1e}"
    attained = abs(top - eps * np.log(2)) < 1e-12 and abs(where) < 1e-12
    return Evidence(bool(err < 1e-12 and gap.min() > 0 and attained and strict), figure)


@check(
    "3.1.c",
    "As eps -> 0 the map eps log tends to a homomorphism onto the tropical semiring; corrected: the operations "
    "converge, and images of families s_eps = e^(v/eps) with them, but the map itself tends to 0.",
    expected=Verdict.CORRECTED,
)
def limit_of_the_map() -> Evidence:
    """Images of fixed numbers (n = n times 1, a soft sum of n zeros) shrink; families add up to the maximum."""
    temperatures = [1e-1, 1e-2, 1e-3, 1e-4]
    images = np.array([[soft_sum(np.zeros(n), eps) for n in (2, 3, 10)] for eps in temperatures])
    collapse = images[-1].max()
    rng = np.random.default_rng(33)
    families = np.concatenate([rng.uniform(-2, 2, (30, 2)), [[0.4, 0.4]]])
    ratios = []
    for eps in temperatures:
        gap = soft_sum(families, eps) - families.max(axis=1)
        ratios.append((gap.min() / eps, gap.max() / (eps * np.log(2))))
    lowest, highest = min(r[0] for r in ratios), max(r[1] for r in ratios)
    figure = (
        f"eps log(2, 3, 10) at eps = 1e-3: {', '.join(f'{v:.1e}' for v in images[2])}, all -> 0; "
        f"v (+)_eps w - max(v, w) <= {highest:.6f} eps log 2 for families"
    )
    return Evidence(
        holds=not collapse < 1e-3,
        corrected=bool(lowest > -1e-10 and abs(highest - 1) < 1e-9),
        figure=figure,
    )


@check(
    "3.2",
    "Softplus is the two-row layer with rows 0 and 1, ReLU its limit with sup error eps log 2 at 0; ReLU obeys "
    "the Hopf-Lax identity with atoms (0, 2t) and values (0, -t).",
    expected=Verdict.HOLDS,
)
def relu() -> Evidence:
    """Layer against 50-digit softplus, and ReLU read off `HopfLax`."""
    z = np.linspace(-3, 3, 61)
    ratios, errors = [], []
    for eps in (0.5, 0.1, 0.01):
        layer = hjax.nn.LSELayer.from_arrays(jnp.array([[0.0], [1.0]]), jnp.zeros(2), eps=eps)
        softplus = np.asarray(jax.vmap(layer)(z[:, None]))
        oracle = np.array([float(exact_softmax(np.array([0.0, v]), eps)) for v in z])
        errors.append(np.abs(softplus - oracle).max())
        excess = softplus - np.maximum(z, 0)
        ratios.append(excess.max() / (eps * np.log(2)) if excess.argmax() == 30 else np.nan)
    inviscid = []
    for t in (0.3, 1.0, 4.0):
        u = hjax.HopfLax(hjax.InitialData(jnp.array([[0.0], [2 * t]]), jnp.array([0.0, -t])))
        relu = z**2 / (4 * t) - np.asarray(u(z[:, None], t))
        inviscid.append(np.abs(relu - np.maximum(z, 0)).max())
    figure = (
        f"sup|softplus_eps - ReLU|/(eps log 2) = {', '.join(f'{r:.6f}' for r in ratios)}, softplus err "
        f"{max(errors):.1e}; Hopf-Lax form of ReLU err {max(inviscid):.1e}"
    )
    sup = np.abs(np.array(ratios) - 1).max()
    return Evidence(bool(sup < 1e-12 and max(errors) < 1e-14 and max(inviscid) < 1e-12), figure)
