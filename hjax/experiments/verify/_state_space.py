"""Proposition 5.4 (b): state-space models as flows of a bilinear Hamiltonian; which of them have a max-plus limit."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, linalg

import hjax

from ._oracles import DIGITS, exact, mpmath
from ._table import Evidence, Verdict, check


@check(
    "5.4.b",
    "s' = A s + B x is the flow of H(s, p) = p.(A s + B x), p' = -A^T p, and a step under the zero-order hold is "
    "exact: e^(A h) s + A^-1 (e^(A h) - I) B x.",
    expected=Verdict.HOLDS,
)
def bilinear_flow() -> Evidence:
    """SciPy's integrator on derivatives of hjax's Hamiltonian, and hjax's steps, against SciPy's matrix exponential."""
    rng, n, d, h, steps = np.random.default_rng(540), 6, 2, 0.7, 5
    model = hjax.nn.SSM(d, 1, n, dt_min=0.3, dt_max=1.5, step_size=h, key=jax.random.key(540))
    a, b, x = np.asarray(model.state_matrix), np.asarray(model.input_matrix), rng.normal(size=(steps, d))
    both = linalg.expm(h * np.block([[a, b], [np.zeros((d, n + d))]]))
    backwards = linalg.expm(-h * a.T)
    slopes = jax.jit(jax.grad(model.hamiltonian, argnums=(0, 1)))

    def rates(t: float, pair: np.ndarray, u: np.ndarray) -> np.ndarray:
        of_state, of_momentum = slopes(jnp.asarray(pair[:n]), jnp.asarray(pair[n:]), jnp.asarray(u))
        return np.concatenate([of_momentum, -np.asarray(of_state)])

    momentum = rng.normal(size=n)
    pair, want, errors = np.concatenate([np.zeros(n), momentum]), [np.zeros(n)], []
    for u in x:
        pair = integrate.solve_ivp(rates, (0, h), pair, "DOP853", args=(u,), rtol=1e-11, atol=1e-12).y[:, -1]
        momentum = backwards @ momentum
        want.append(both[:n, :n] @ want[-1] + both[:n, n:] @ u)
        errors.append(np.abs(pair - np.concatenate([want[-1], momentum])).max())
    step = np.abs(np.asarray(model.states(x)) - want).max()
    euler = np.abs(np.asarray(model.field(jnp.asarray(want[-2]), jnp.asarray(x[-1]))) * h + want[-2] - want[-1]).max()
    figure = (
        f"flow of dH/dp, -dH/ds (ODE solver) from the augmented exponential {max(errors):.1e}, zero-order-hold steps "
        f"from it {step:.1e}; an Euler step {euler:.2f}"
    )
    return Evidence(holds=bool(max(errors) < 1e-8 and step < 1e-13 and euler > 0.01), figure=figure)


@check(
    "5.4.c",
    "A state-space model has a max-plus limit, S_(k+1) = (A (x) S_k) (+) (B (x) X_k); corrected: only an entrywise "
    "positive one has, in the coordinates s = exp(S/eps), A_ij = exp(a_ij/eps).",
    expected=Verdict.CORRECTED,
)
def max_plus_limit() -> Evidence:
    """The positive linear system in 50 digits, its logarithms against `TropicalSSM` at eps > 0 and at 0."""
    rng, n, d, steps = np.random.default_rng(541), 3, 2, 8
    a, b, c, x = (rng.normal(size=s) for s in ((n, n), (n, d), (1, n), (steps, d)))
    hard = np.asarray(hjax.nn.TropicalSSM.from_arrays(a, b, c)(x))
    maxima, top = [], np.full(n, -np.inf)
    for u in x:
        top = np.maximum((a + top).max(axis=1), (b + u).max(axis=1))
        maxima.append((c + top).max(axis=1))
    own, gaps, excess = float(np.abs(hard - maxima).max()), [], []
    for eps in (0.1, 0.01):
        soft = np.asarray(hjax.nn.TropicalSSM.from_arrays(a, b, c, eps=eps)(x))
        want = _logarithms(a, b, c, x, eps)
        own = max(own, float(np.abs(soft - want).max()))
        bound = eps * (np.arange(1, steps + 1) * np.log(n + d) + np.log(n))[:, None]
        gaps.append(float((want - hard).max()))
        excess.append(float(max((hard - want).max(), (want - hard - bound).max())))
    # A signed one: a rotation by a right angle takes a positive state to a negative one, whose logarithm is not real.
    signed = hjax.nn.SSM.from_arrays(np.array([-0.1 + 0.5j * np.pi]), np.ones((1, 1)), np.ones((1, 1)))
    lowest = float(np.asarray(signed.states(np.ones((4, 1)))).min())
    try:
        hjax.nn.TropicalSSM.from_positive(*signed.discretized(), signed.output_weight, eps=0.1)
        refused = False
    except ValueError:
        refused = True
    figure = (
        f"positive: hjax from 50 digits {own:.1e}, above max-plus by at most {gaps[0]:.1e}, {gaps[1]:.1e} at eps = "
        f"0.1, 0.01, within k eps log(n + d); signed: a state of {lowest:.2f} has no logarithm"
    )
    converges = own < 1e-13 and max(excess) < 1e-13 and gaps[1] < 0.2 * gaps[0]
    return Evidence(holds=not (lowest < 0 and refused), corrected=bool(converges), figure=figure)


def _logarithms(a: np.ndarray, b: np.ndarray, c: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    """`eps log` of the outputs of the linear system of exp(a/eps): no maximum is taken anywhere."""
    with mpmath.workdps(DIGITS):
        scale = mpmath.mpf(eps)
        power = np.frompyfunc(lambda v: mpmath.exp(v / scale), 1, 1)
        big_a, big_b, big_c, drives = (np.asarray(power(exact(v)), object) for v in (a, b, c, x))
        state, outputs = np.array([mpmath.mpf(0)] * len(a)), []
        for u in drives:
            state = big_a @ state + big_b @ u
            outputs.append([float(scale * mpmath.log(v)) for v in big_c @ state])
    return np.array(outputs)
