"""From 17 dimensions on costs are matrix products, unless their rounding would reach the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax
from hjax.reductions import gibbs_entropy
from hjax.reductions._problem import state
from hjax.reductions._tiles import is_rough, plan_of

M, N, D, WIDTH = 300, 700, 40, 1e-3
EPS = 4 * WIDTH**2


def clusters() -> tuple[np.ndarray, ...]:
    """Clusters a thousand times tighter than the cloud: squared distances of 1e-4 among norms of 40."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(8, D))
    x, y = (centres[np.arange(n) % 8] + WIDTH * random.normal(size=(n, D)) for n in (M, N))
    return tuple(a.astype(np.float32) for a in (x, y, EPS * random.normal(size=N), random.normal(size=(N, 3))))


def exact(x: np.ndarray, y: np.ndarray, g: np.ndarray, payload: np.ndarray) -> tuple[np.ndarray, ...]:
    x, y, g, payload = (a.astype(np.float64) for a in (x, y, g, payload))
    cost = ((x[:, None] - y) ** 2).sum(-1) + g
    least = cost.min(axis=1)
    weights = np.exp(-(cost - least[:, None]) / EPS)
    z = weights.sum(axis=1, keepdims=True)
    p = weights / z
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
    return least - EPS * np.log(z[:, 0]), p @ payload, entropy, 2 * (x - p @ y)


def everything(x, y, g, payload, eps, implementation):
    def total(x):
        value, mean = hjax.softmin(x, y, g, eps=eps, payload=payload, implementation=implementation)
        return value.sum(), (value, mean, gibbs_entropy(x, y, g, eps=eps, implementation=implementation))

    slope, results = jax.grad(total, has_aux=True)(x)
    return *results, slope


@pytest.mark.parametrize("implementation", ["streaming", "pruned"])
def test_clusters_much_tighter_than_the_cloud_keep_their_weights(implementation):
    given = clusters()
    got = jax.jit(everything, static_argnums=5)(*given, EPS, implementation)
    # A gradient is 2 (x - mean): it has the rounding of points, whose coordinates go up to four.
    for a, b, error in zip(got, exact(*given), (1e-4 * EPS, 1e-4, 1e-4, 16 * 2.0**-23 * 4), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=error)


def test_under_vmap_it_remains_a_choice():
    x, y, g, payload = clusters()
    many = jax.vmap(lambda x: hjax.softmin(x, y, g, eps=EPS, payload=payload, implementation="streaming"))
    batch = jnp.stack([x, x + WIDTH, x + 1])
    assert " cond[" in str(jax.make_jaxpr(many)(batch))
    value, mean = jax.jit(many)(batch)
    wanted = exact(x, y, g, payload)
    np.testing.assert_allclose(value[0], wanted[0], rtol=1e-4, atol=1e-4 * EPS)
    np.testing.assert_allclose(mean[0], wanted[1], rtol=1e-4, atol=1e-4)


def test_a_wide_cloud_is_not_rough():
    def rough(x, y, eps):
        problem = state(
            *map(jnp.asarray, (x, y, np.zeros(N, np.float32))),
            eps=jnp.float32(eps), cost=hjax.SquaredEuclidean(1.0), payload=None, causal=False, tolerance=None,
        )  # fmt: skip
        return bool(is_rough(plan_of(problem), 1.44 / problem.eps))

    x, y, _, _ = clusters()
    random = np.random.default_rng(1)
    assert rough(x, y, EPS)
    assert not rough(x, y, 1.0)
    assert not rough(*(random.normal(size=(n, D)).astype(np.float32) for n in (M, N)), 0.1)
    assert not rough(x, y, np.inf)
