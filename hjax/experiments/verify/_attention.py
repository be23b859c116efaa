"""Attention as a soft minimum over its keys (equations 6-7), and Theorem 4.2: which gradient of u it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import linalg

import hjax

from ._oracles import (
    DIGITS,
    complex_step,
    exact,
    gibbs_mean,
    mpmath,
    soft_minimum,
    squared_distances,
)
from ._table import Evidence, Verdict, check

_QUERIES, _KEYS, _SIZE, _CHANNELS = 8, 12, 4, 3
_T = 0.5
_EPS = float(np.sqrt(_SIZE))


def _problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values, all normal."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(_QUERIES, _SIZE)), rng.normal(size=(_KEYS, _SIZE)), rng.normal(size=(_KEYS, _CHANNELS))


def l2_attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, g: np.ndarray | None = None) -> np.ndarray:
    """hjax's L2 attention at t = 1/2, eps = sqrt d: the Gibbs mean of the values under |q - k|^2/2 + g."""
    return np.asarray(hjax.nn.L2Attention(eps=_EPS, t=_T)(q, keys, values, g))


def attention_of(projections: np.ndarray, output: np.ndarray, **options: Any) -> hjax.nn.MultiheadAttention:
    """hjax's dot-product attention with these maps to queries, keys and values (3, E, E), and to the output."""
    state = {"in_proj_weight": projections.reshape(-1, projections.shape[-1]), "out_proj.weight": output}
    return hjax.nn.MultiheadAttention.from_state_dict(state, **options)


def split_heads(tokens: np.ndarray, projection: np.ndarray, heads: int) -> np.ndarray:
    """The projected tokens of each head, (heads, T, d), in numpy."""
    return np.moveaxis((tokens @ projection.T).reshape(len(tokens), heads, -1), 1, 0)


def random_attention(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twelve tokens of size eight, projections for two heads of four, and the output map."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(_KEYS, 8)), rng.normal(size=(3, 8, 8)) / 2, rng.normal(size=(8, 8))


@check(
    "eq6-7",
    "Row i of attention is the mean of the values under weights proportional to exp(q_i.k_j/eps) at eps = sqrt d, "
    "where logits of normal queries and keys have variance one; as eps -> 0 it selects the value of argmax q.k.",
    expected=Verdict.HOLDS,
)
def attention_is_a_mean() -> Evidence:
    """hjax's two-headed attention, and a head read as a solution (y = 2tk, g = -t|k|^2), against numpy's plain sums."""
    tokens, projections, out = random_attention(60)
    q, keys, values = (split_heads(tokens, projection, 2) for projection in projections)
    logits = q @ np.swapaxes(keys, 1, 2)
    oracle = gibbs_mean(-logits, _EPS, values)

    @jax.jit
    def measured(eps: float) -> tuple[Array, Array]:
        attention = attention_of(projections, out, num_heads=2, eps=eps)
        u = attention.to_solution(jnp.asarray(tokens), head=1, t=0.7)
        return attention(tokens), u.expectation(q[1], 0.7, values[1])

    def joined(heads: np.ndarray) -> np.ndarray:
        return np.concatenate(list(heads), axis=1) @ out.T

    whole, read = (np.asarray(v) for v in measured(_EPS))
    err = max(np.abs(whole - joined(oracle)).max(), np.abs(read - oracle[1]).max())
    chosen = joined(np.stack([v[best] for v, best in zip(values, logits.argmax(axis=2), strict=True)]))
    hard = np.abs(np.asarray(measured(1e-6)[0]) - chosen).max()
    rng, variances = np.random.default_rng(61), {}
    for d in (4, 16, 64):
        variances[d] = (rng.normal(size=(20_000, d)) * rng.normal(size=(20_000, d))).sum(axis=1).var() / d
    figure = (
        f"err {err:.1e} (two heads; and one as a solution, y = 2tk, g = -t|k|^2); eps = 1e-6 from the hard choice "
        f"{hard:.1e}; variance of the logits after 1/sqrt d "
        f"{', '.join(f'{v:.3f} (d={d})' for d, v in variances.items())}"
    )
    unit = max(abs(v - 1) for v in variances.values())
    return Evidence(bool(err < 1e-13 and hard < 1e-12 and unit < 0.05), figure)


@check(
    "4.2.a",
    "L2 attention is the derivative of u in its initial data, contracted with the values: o = d/ds u(q, t; g + s V) "
    "at s = 0, that is V^T grad_g u.",
    expected=Verdict.HOLDS,
)
def gradient_in_the_data() -> Evidence:
    """hjax's attention, and hjax's u differentiated in g, against complex steps of numpy's u in s."""
    q, keys, values = _problem(420)
    action = squared_distances(q, keys) / (4 * _T)
    oracle = np.stack([complex_step(lambda g: soft_minimum(g + action, _EPS), np.zeros(_KEYS), v) for v in values.T], 1)

    @jax.jit
    @jax.vmap
    def along(v: Array) -> Array:
        def value(g: Array) -> Array:
            return hjax.nn.L2Attention(eps=_EPS, t=_T).to_solution(keys, g)(q, _T)

        return jax.jvp(value, (jnp.zeros(_KEYS),), (v,))[1]

    err = np.abs(l2_attention(q, keys, values) - oracle).max()
    derivative = np.abs(np.asarray(along(values.T)).T - oracle).max()
    figure = f"attention err {err:.1e}, hjax's own derivative of u in g {derivative:.1e}, from complex steps in numpy"
    return Evidence(bool(err < 1e-14 and derivative < 1e-14), figure)


def _spatial_gradient(q: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The gradient of u in q by complex steps of numpy's u."""

    def value(q: np.ndarray) -> np.ndarray:
        return soft_minimum(squared_distances(q, keys) / (4 * _T), _EPS)

    return np.stack([complex_step(value, q, axis) for axis in np.eye(_SIZE)], axis=1)


@check(
    "4.2.b",
    "The output of attention is the spatial gradient of u; corrected: for V = K it is q - 2t grad u, and for V = K M^T "
    "+ 1 c^T it is M (q - 2t grad u) + c.",
    expected=Verdict.CORRECTED,
)
def spatial_gradient() -> Evidence:
    """hjax's attention, and the autodiff gradient of hjax's u, against complex steps of numpy's u in q."""
    q, keys, _ = _problem(421)
    rng = np.random.default_rng(422)
    matrix, offset = rng.normal(size=(_CHANNELS, _SIZE)), rng.normal(size=_CHANNELS)
    slope = _spatial_gradient(q, keys)
    u = hjax.nn.L2Attention(eps=_EPS, t=_T).to_solution(keys)
    automatic = np.asarray(jax.jit(jax.vmap(jax.grad(lambda x: u(x, _T))))(jnp.asarray(q)))
    shift, literal = q - 2 * _T * slope, np.abs(l2_attention(q, keys, keys) - slope).max()
    err = np.abs(l2_attention(q, keys, keys) - shift).max()
    affine = np.abs(l2_attention(q, keys, keys @ matrix.T + offset) - (shift @ matrix.T + offset)).max()
    own = np.abs(automatic - slope).max()
    figure = (
        f"V = K: |o - (q - 2t grad u)| = {err:.1e}, but |o - grad u| = {literal:.2f}; V = K M^T + 1 c^T: {affine:.1e}; "
        f"autodiff of hjax's u {own:.1e}"
    )
    return Evidence(holds=not literal > 0.1, corrected=bool(max(err, affine, own) < 1e-13), figure=figure)


@check(
    "4.2.c",
    "For any values V the output of attention is a function of grad_q u and of the contractions K^T V and 1^T V.",
    expected=Verdict.FAILS,
)
def generic_values() -> Evidence:
    """Counterexample: values that differ by a vector orthogonal to the span of K and 1."""
    q, keys, values = _problem(423)
    null = linalg.null_space(np.concatenate([keys, np.ones((_KEYS, 1))], axis=1).T)[:, :1]
    other = values + null
    seen = max(np.abs(keys.T @ null).max(), abs(null.sum()))
    one, two = l2_attention(q, keys, values), l2_attention(q, keys, other)
    costs = squared_distances(q, keys) / (4 * _T)
    err = max(np.abs(o - gibbs_mean(costs, _EPS, v)).max() for o, v in ((one, values), (two, other)))
    change = np.abs(one - two).max()
    figure = (
        f"V + v with K^T v = 1^T v = 0 (to {seen:.0e}) and the same grad_q u changes the output by {change:.3f}; "
        f"attention err {err:.1e}"
    )
    return Evidence(holds=not (change > 0.05 and seen < 1e-13 and err < 1e-14), figure=figure)


@check(
    "4.2.d",
    "The partition function of attention equals the solution u, and dot-product attention is L2 attention; corrected: "
    "Z equals phi = exp(-u/eps), and the two attentions agree at t = 1/2, eps = sqrt d with g_j = -|k_j|^2/2, without "
    "g only if all |k_j| are equal.",
    expected=Verdict.CORRECTED,
)
def partition_function() -> Evidence:
    """Z in 50 digits against hjax's u; L2 attention with key norms as values against numpy's dot products."""
    q, keys, values = _problem(424)
    with mpmath.workdps(DIGITS):
        distances = squared_distances(exact(q), exact(keys))
        sums = [sum(mpmath.exp(-v / (4 * mpmath.mpf(_T) * _EPS)) for v in row) for row in distances]
    partition = np.array(sums, dtype=float)
    attention = hjax.nn.L2Attention(eps=_EPS, t=_T)
    u = np.asarray(attention.to_solution(keys)(q, _T))
    log_partition = np.asarray(attention.state(q, keys, values).log_partition)
    literal = np.abs(u - partition).max()
    err = max(np.abs(v - np.log(partition)).max() for v in (-u / _EPS, log_partition))

    def oracle(keys: np.ndarray) -> np.ndarray:
        return gibbs_mean(-(q @ keys.T), _EPS, values)

    sphere = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    norms = np.abs(l2_attention(q, keys, values, -(keys**2).sum(axis=1) / 2) - oracle(keys)).max()
    without = np.abs(l2_attention(q, keys, values) - oracle(keys)).max()
    equal = np.abs(l2_attention(q, sphere, values) - oracle(sphere)).max()
    figure = (
        f"|log(Z/phi)| = {err:.1e}, |Z - u| = {literal:.2f}; dot-product from L2 attention with g = -|k|^2/2 "
        f"{norms:.1e}, without g {without:.2f}, without g on equal norms {equal:.1e}"
    )
    refuted = literal > 0.1 and without > 0.01
    return Evidence(holds=not refuted, corrected=bool(max(err, norms, equal) < 1e-13), figure=figure)
