"""Remarks H.10 to H.13: clustering of tokens, updates of a cache, attention sinks, positional encodings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._attention import dot_attention
from ._oracles import DIGITS, exact, gibbs_mean, mpmath, squared_distances
from ._table import Evidence, Verdict, check


@check("H.10", "As eps -> 0, self-attention clusters the tokens.", expected=Verdict.FAILS)
def clustering() -> Evidence:
    """L2 self-attention with K = Q = V: the identity at small eps, a mean shift that clusters at finite eps."""
    tokens = np.random.default_rng(100).normal(size=(12, 4))

    def layer(x: np.ndarray, eps: float) -> np.ndarray:
        return np.asarray(hjax.softmin(x, x, np.zeros(len(x)), eps=eps, payload=x).mean)

    still = np.abs(layer(tokens, 1e-3) - tokens).max()
    shifted, oracle = tokens, tokens
    for _ in range(30):
        shifted = layer(shifted, 4.0)
        oracle = gibbs_mean(squared_distances(oracle, oracle), 4.0, oracle)
    spread, err = np.ptp(shifted, axis=0).max(), np.abs(shifted - oracle).max()
    nearest = squared_distances(tokens, tokens).argmin(axis=1)
    figure = (
        f"K = Q = V, eps = 1e-3: |out - X| = {still:.0e}, each token is its own nearest key; spread "
        f"{np.ptp(tokens, axis=0).max():.1f} -> {spread:.1e} in 30 layers at eps = 4 (mean shift in numpy {err:.0e})"
    )
    own = bool((nearest == np.arange(12)).all())
    return Evidence(holds=not (own and still < 1e-12 and spread < 1e-6 and err < 1e-12), figure=figure)


@check(
    "H.11",
    "A cache (o, log Z) decodes in O(d) a token: o' = (1 - w) o + w v, log Z' = log Z + softplus(l - log Z), "
    "w = sigmoid(l - log Z); corrected: for a fixed query only.",
    expected=Verdict.CORRECTED,
)
def cache_update() -> Evidence:
    """Eleven of hjax's keys merged with the twelfth, against 50-digit attention to all; then with another query."""
    rng = np.random.default_rng(110)
    q, keys, values = rng.normal(size=(2, 4)), rng.normal(size=(12, 4)), rng.normal(size=(12, 3))
    eps = 2.0
    with mpmath.workdps(DIGITS):
        weights = np.frompyfunc(mpmath.exp, 1, 1)(exact(q) @ exact(keys).T / eps)
        total = weights.sum(axis=1)
        outputs = np.array(weights @ exact(values) / total[:, None], dtype=float)
        logs = np.array([mpmath.log(v) for v in total], dtype=float)
    value, output = hjax.softmin(q, keys[:11], np.zeros(11), eps=eps, cost=hjax.Bilinear(), payload=values[:11])
    log_sums, output = -np.asarray(value) / eps, np.asarray(output)

    def merged(old: int, new: int) -> tuple[np.ndarray, float]:
        """The state of the query `old`, updated with the logit of the query `new`."""
        logit = q[new] @ keys[11] / eps
        w = 1 / (1 + math.exp(log_sums[old] - logit))
        return (1 - w) * output[old] + w * values[11], log_sums[old] + math.log1p(math.exp(logit - log_sums[old]))

    same, log_sum = merged(0, 0)
    err = max(np.abs(same - outputs[0]).max(), abs(log_sum - logs[0]))
    reused = np.abs(merged(0, 1)[0] - outputs[1]).max()
    figure = f"fixed query: err {err:.1e}; the old query's (o, log Z) reused for a new query errs by {reused:.2f}"
    return Evidence(holds=not reused > 0.1, corrected=bool(err < 1e-14), figure=figure)


@check(
    "H.12",
    "With a sink s whose logit is Delta above all others, 1 - p_s <= (n-1) e^(-Delta/eps) and |o - v_s| <= (n-1) "
    "e^(-Delta/eps) max|v_j - v_s|; the first is attained as Delta/eps -> infinity.",
    expected=Verdict.HOLDS,
)
def sink() -> Evidence:
    """Random logits, and the extreme case: all others equally far. The mass is a payload, not 1 - p_s."""
    rng, n, eps = np.random.default_rng(120), 12, 0.5
    values = rng.normal(size=(n, 3))
    payload = np.concatenate([np.arange(n)[:, None] > 0, values], axis=1)

    def ratios(logits: np.ndarray) -> tuple[float, float, float]:
        # The sink is key 0; a soft-min in one place, with the logits as values.
        here = np.zeros((n, 1))
        mean = np.asarray(hjax.softmin(here[0], here, -logits, eps=eps, payload=payload).mean)
        bound = (n - 1) * math.exp(-(logits[0] - logits[1:].max()) / eps)
        with mpmath.workdps(DIGITS):
            weights = [mpmath.exp((v - logits[0]) / eps) for v in exact(logits)]
            oracle = float(sum(weights[1:]) / sum(weights))
        reach = np.linalg.norm(values - values[0], axis=1).max()
        return mean[0] / bound, np.linalg.norm(mean[1:] - values[0]) / (bound * reach), abs(mean[0] / oracle - 1)

    drawn, extreme = [], []
    for gap in (0.1, 1.0, 5.0):
        for _ in range(10):
            logits = rng.normal(size=n)
            logits[0] = logits[1:].max() + gap
            drawn.append(ratios(logits))
        extreme.append(ratios(np.array([gap] + (n - 1) * [0.0])))
    worst, err = np.max(drawn, axis=0)[:2], np.max(drawn + extreme, axis=0)[2]
    attained = [1 - row[0] for row in extreme]
    figure = (
        f"worst ratio to the bound: mass {worst[0]:.3f}, output {worst[1]:.3f}; equal gaps Delta/eps = 0.2, 2, 10: 1 - "
        f"{', '.join(f'{v:.1e}' for v in attained)}; mass within {err:.0e} of 50 digits"
    )
    within = worst.min() > 0 and worst.max() < 1 and 0 < attained[-1] < 1e-3
    return Evidence(bool(within and err < 1e-12), figure)


@check(
    "H.13",
    "Additive positional encodings shift the initial data of each query's problem, g_j -> g_j - eps beta_ij; rotary "
    "ones turn the atoms, leave |k_j| and with it g unchanged, and their logits depend on j - i only.",
    expected=Verdict.HOLDS,
)
def positions() -> Evidence:
    """hjax with shifted values, against numpy with added encodings; with rotation matrices, against complex phases."""
    rng, n, d, eps = np.random.default_rng(130), 12, 4, 2.0
    q, keys, codes, values = (rng.normal(size=(n, m)) for m in (d, d, d, 3))
    added = gibbs_mean(-((q + codes) @ (keys + codes).T), eps, values)
    beta = (q @ codes.T + codes @ keys.T + codes @ codes.T) / eps

    @jax.jit
    @jax.vmap
    def attend(x: Array, g: Array) -> Array:
        mean = hjax.softmin(x, jnp.asarray(keys), g, eps=eps, cost=hjax.Bilinear(), payload=values).mean
        assert mean is not None  # a payload was passed
        return mean

    additive = np.abs(np.asarray(attend(q, -eps * beta)) - added).max()
    moves = np.ptp(eps * beta, axis=0).max()

    # Pairs of coordinates as complex numbers: a rotation by the angle i w is a product with e^(i w sqrt(-1)).
    rates = np.array([1.0, 0.1])

    def phases(x: np.ndarray, first: int) -> np.ndarray:
        return (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * rates * (first + np.arange(n))[:, None])

    logits = np.real(phases(q, 0) @ phases(keys, 0).conj().T)
    rotary = gibbs_mean(-logits, eps, values)

    def turned(x: np.ndarray, first: int) -> np.ndarray:
        angles = rates * (first + np.arange(n))[:, None]
        out = np.empty_like(x)
        out[:, 0::2] = np.cos(angles) * x[:, 0::2] - np.sin(angles) * x[:, 1::2]
        out[:, 1::2] = np.sin(angles) * x[:, 0::2] + np.cos(angles) * x[:, 1::2]
        return out

    ours = [dot_attention(turned(q, first), turned(keys, first), values, eps) for first in (0, 7)]
    err = np.abs(ours[0] - rotary).max()
    shift = np.abs(ours[1] - ours[0]).max()
    lone = np.abs(dot_attention(turned(q, 7), turned(keys, 0), values, eps) - ours[0]).max()
    norms = np.abs((turned(keys, 7) ** 2).sum(axis=1) - (keys**2).sum(axis=1)).max()
    figure = (
        f"additive: err {additive:.1e}, values that differ by up to {moves:.1f} between queries; rotary: err "
        f"{err:.1e}, moved by 7 {shift:.1e} (queries alone: {lone:.2f}), |R k|^2 - |k|^2 = {norms:.0e}"
    )
    exactly = max(additive, err, shift, norms) < 1e-13
    return Evidence(bool(exactly and moves > 0.1 and lone > 0.1), figure)
