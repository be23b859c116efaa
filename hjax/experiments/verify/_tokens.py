"""Remarks H.10 to H.13: clustering of tokens, updates of a cache, attention sinks, positional encodings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._attention import attention_of, random_attention, split_heads
from ._oracles import DIGITS, exact, gibbs_mean, mpmath, squared_distances
from ._table import Evidence, Verdict, check


@check("H.10", "As eps -> 0, self-attention clusters the tokens.", expected=Verdict.FAILS)
def clustering() -> Evidence:
    """L2 self-attention with K = Q = V: the identity at small eps, a mean shift that clusters at finite eps."""
    tokens = np.random.default_rng(100).normal(size=(12, 4))

    def layer(x: np.ndarray, eps: float) -> np.ndarray:
        return np.asarray(hjax.nn.L2Attention(eps=eps, t=0.25)(x, x, x))

    still = max(np.abs(layer(tokens, eps) - tokens).max() for eps in (1e-3, 0.0))
    shifted, oracle = tokens, tokens
    for _ in range(30):
        shifted = layer(shifted, 4.0)
        oracle = gibbs_mean(squared_distances(oracle, oracle), 4.0, oracle)
    spread, err = np.ptp(shifted, axis=0).max(), np.abs(shifted - oracle).max()
    nearest = squared_distances(tokens, tokens).argmin(axis=1)
    figure = (
        f"K = Q = V, eps = 1e-3 and 0: |out - X| = {still:.0e}, each token is its own nearest key; spread "
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
    """hjax's state of eleven keys merged with the twelfth, against 50 digits; with another query; a cache of all."""
    rng = np.random.default_rng(110)
    q, keys, values = rng.normal(size=(2, 4)), rng.normal(size=(12, 4)), rng.normal(size=(12, 3))
    with mpmath.workdps(DIGITS):
        weights = np.frompyfunc(mpmath.exp, 1, 1)(-squared_distances(exact(q), exact(keys)) / 4)
        total = weights.sum(axis=1)
        outputs = np.array(weights @ exact(values) / total[:, None], dtype=float)
        logs = np.array([mpmath.log(v) for v in total], dtype=float)

    @jax.jit
    def merged(swap: bool) -> tuple[Array, Array]:
        """The first query's state of eleven keys, merged with the twelfth key's for it or, swapped, for the second."""
        attention = hjax.nn.L2Attention(eps=2.0, t=0.5)
        old = attention.state(q[:1], keys[:11], values[:11])
        new = attention.state(jnp.where(swap, q[1:], q[:1]), keys[11:], values[11:])
        return old.merge(new)

    same, other = ([np.asarray(v)[0] for v in merged(swap)] for swap in (False, True))
    err = max(np.abs(same[0] - outputs[0]).max(), abs(same[1] - logs[0]))
    reused = np.abs(other[0] - outputs[1]).max()

    tokens, projections, out = random_attention(111)

    @jax.jit
    def decoded() -> Array:
        attention = attention_of(projections, out, num_heads=2, causal=True)

        def step(cache: hjax.nn.KVCache, token: Array) -> tuple[hjax.nn.KVCache, Array]:
            output, cache = attention.decode(token, cache)
            return cache, output

        return jax.lax.scan(step, attention.empty_cache(len(tokens)), jnp.asarray(tokens))[1]

    heads = [split_heads(tokens, projection, 2) for projection in projections]
    future = np.triu(np.full((12, 12), np.inf), 1)
    causal = gibbs_mean(future - heads[0] @ np.swapaxes(heads[1], 1, 2), 2.0, heads[2])
    all_keys = np.abs(np.asarray(decoded()) - np.concatenate(list(causal), axis=1) @ out.T).max()
    figure = (
        f"fixed query: err {err:.1e}; the old query's (o, log Z) reused for a new query errs by {reused:.2f}; decoding "
        f"from all keys and values, O(n d) a token: err {all_keys:.1e}"
    )
    return Evidence(holds=not reused > 0.1, corrected=bool(err < 1e-14 and all_keys < 1e-13), figure=figure)


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
    """hjax's shifts against numpy with added encodings; its rotations against complex phases, and moved by seven."""
    tokens, projections, out = random_attention(130)
    q, keys, values = (split_heads(tokens, projection, 2) for projection in projections)
    codes = np.random.default_rng(131).normal(size=(12, 4))
    padded = np.concatenate([np.zeros((7, 8)), tokens])

    @jax.jit
    def measured(shift: Array) -> tuple[Array, ...]:
        plain = attention_of(projections, out, num_heads=2)
        rotary = attention_of(projections, out, num_heads=2, positions="rotary")
        later = rotary.heads(padded, mask=jnp.arange(19) >= 7)[:, 7:]
        return plain.heads(tokens, shift=shift), rotary.heads(tokens), later, rotary.project(tokens)[1]

    def transposed(x: np.ndarray) -> np.ndarray:
        return np.swapaxes(x, -1, -2)

    shift = q @ codes.T + codes @ transposed(keys) + codes @ codes.T
    ours, turned, later, turned_keys = (np.asarray(v) for v in measured(shift))
    additive = np.abs(ours - gibbs_mean(-(q + codes) @ transposed(keys + codes), 2.0, values)).max()
    moves = np.ptp(shift, axis=1).max()

    # Coordinates k and k + d/2 as a complex number: a rotation by an angle is a product with its phase.
    angles = np.arange(12)[:, None] * np.array([1.0, 1e-2])
    phase = np.exp(1j * angles)
    complex_q, complex_keys = ((x[..., :2] + 1j * x[..., 2:]) * phase for x in (q, keys))
    logits = np.real(complex_q @ transposed(complex_keys.conj()))
    err = np.abs(turned - gibbs_mean(-logits, 2.0, values)).max()
    moved, differs = np.abs(later - turned).max(), np.abs(turned - gibbs_mean(-q @ transposed(keys), 2.0, values)).max()
    norms = np.abs((turned_keys**2).sum(axis=-1) - (keys**2).sum(axis=-1)).max()
    figure = (
        f"additive: err {additive:.1e}, values that differ by up to {moves:.1f} between queries; rotary: err "
        f"{err:.1e} (without rotation {differs:.2f}), moved by 7 {moved:.1e}, |R k|^2 - |k|^2 = {norms:.0e}"
    )
    exactly = max(additive, err, moved, norms) < 1e-13
    return Evidence(bool(exactly and moves > 0.1 and differs > 0.1), figure)
