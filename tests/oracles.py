"""Independent answers: mpmath at 50 digits, a naive float64 twin, brute-force Hopf-Lax in numpy."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

DIGITS = 50


def exact(array: Any) -> np.ndarray:
    """The same numbers as 50-digit ones, in a numpy object array (exactly: a float is a fraction)."""
    wide = np.asarray(array).astype(np.float64)
    return np.frompyfunc(lambda v: mpmath.mpf(float(v)), 1, 1)(wide)


def squared(scale: float = 1.0) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`scale |x - y|^2` from one query to all atoms."""
    s = mpmath.mpf(float(scale))
    return lambda x, y: s * ((x - y) ** 2).sum(axis=-1)


def mahalanobis(metric: np.ndarray, scale: float = 1.0) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`scale (x - y)^T A^-1 (x - y)`; the inverse is mpmath's own."""
    s, a = mpmath.mpf(float(scale)), np.asarray(metric, np.float64)
    a = np.diag(a) if a.ndim == 1 else a
    with mpmath.workdps(DIGITS):
        inverse = mpmath.inverse(mpmath.matrix(a.tolist()))
    inverse = np.array(inverse.tolist(), dtype=object).reshape(a.shape)
    return lambda x, y: s * (((x - y) @ inverse) * (x - y)).sum(axis=-1)


def bilinear(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`-x.y`."""
    return -(y * x).sum(axis=-1)


class Exact(NamedTuple):
    """A soft-min at one query, to 50 digits, as object arrays; `scale` is the natural scale of u, a float."""

    value: Any
    weights: np.ndarray
    entropy: Any
    hardmin: Any
    scale: float

    def mean(self, payload: np.ndarray) -> np.ndarray:
        return (self.weights[:, None] * payload).sum(axis=0)


def costs(x: np.ndarray, y: np.ndarray, cost: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """c(x, y_j) for one query, to 50 digits."""
    with mpmath.workdps(DIGITS):
        return cost(exact(x), exact(y))


def softmin(cost: np.ndarray, g: np.ndarray, eps: float) -> Exact:
    """Value, weights, entropy and hard-min from the exact costs to every atom; at least one is present."""
    with mpmath.workdps(DIGITS):
        e, present = mpmath.mpf(float(eps)), np.isfinite(g)
        total = cost[present] + exact(g[present])
        least = min(total)
        excess = (total - least) / e
        boltzmann = np.array([mpmath.exp(-z) for z in excess], dtype=object)
        partition = boltzmann.sum()
        weights = np.array([mpmath.mpf(0)] * len(g), dtype=object)
        weights[present] = boltzmann / partition
        value = least - e * mpmath.log(partition)
        # S = log Z + E[excess]; written for the heaviest atom apart, it keeps its digits when tiny.
        first = int(np.argmin(total))
        others = np.delete(boltzmann, first)
        mass = others.sum() if others.size else mpmath.mpf(0)
        energy = (others * np.delete(excess, first)).sum() if others.size else mpmath.mpf(0)
        entropy = mpmath.log1p(mass) + energy / (1 + mass)
        carry = np.array([bool(z < 60) for z in excess])
        offset = exact(g[present]).min()
        terms = [abs(value), abs(offset), e * mpmath.log(len(total) + 1)]
        terms += [
            max(abs(c) + abs(h - offset) for c, h in zip(cost[present][carry], exact(g[present])[carry], strict=True))
        ]
        return Exact(value, weights, entropy, least, float(max(terms)))


def naive(
    x: Any, y: Any, g: Any, eps: Any, cost: Callable, payload: Any, *, present: Sequence[bool], causal: bool
) -> tuple[jax.Array, jax.Array]:
    """Value and mean by the textbook expression on the present atoms alone; differentiable."""
    keep = np.flatnonzero(present)
    y, g, payload = y[keep], g[keep], payload[keep]
    matrix = jax.vmap(lambda a: jax.vmap(lambda b: cost(a, b))(y))(x) + g
    seen = np.ones(matrix.shape, bool)
    if causal:
        seen = keep[None, :] <= np.arange(x.shape[0])[:, None]
    some = seen.any(axis=1)
    logits = jnp.where(seen, -matrix / eps, -jnp.inf)
    logits = jnp.where(some[:, None], logits, 0.0)
    value = jnp.where(some, -eps * jax.scipy.special.logsumexp(logits, axis=1), jnp.inf)
    mean = jnp.where(some[:, None], jax.nn.softmax(logits, axis=1) @ payload, 0.0)
    return value, mean


def hopf_lax(x: np.ndarray, y: np.ndarray, g: np.ndarray, t: float, inverse: np.ndarray | None = None):
    """min_j g_j + (x-y_j)^T A^-1 (x-y_j)/(4t) and the minimiser, by brute force in numpy float64."""
    difference = x[:, None, :] - y[None, :, :]
    right = difference if inverse is None else difference @ inverse
    matrix = (difference * right).sum(-1) / (4 * t) + g
    return matrix.min(axis=1), matrix.argmin(axis=1)
