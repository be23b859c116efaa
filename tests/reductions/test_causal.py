"""Causal reductions over many tiles and blocks: what lies later is neither seen nor guessed from, and costs no time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax


def definition(x, y, g, payload, eps, i):
    """Value and mean of query i, over atoms 0 ... i, in float64."""
    cost = ((x[i].astype(float) - y[: i + 1]) ** 2).sum(1) + g[: i + 1]
    weights = np.exp(-(cost - cost.min()) / eps)
    return cost.min() - eps * np.log(weights.sum()), weights @ payload[: i + 1] / weights.sum(), int(cost.argmin())


@pytest.mark.parametrize("d", [2, 12])
def test_a_guess_from_a_sample_looks_at_no_later_atom(d):
    """All queries stand where only later atoms are near: with those for a stabiliser, every weight would vanish."""
    n, eps = 6000, 1e-2
    rng = np.random.default_rng(0)
    y = rng.uniform(size=(n, d)).astype(np.float32)
    y[n // 2 :: 5] += 3
    x, g = np.full((n, d), 3.5, np.float32), rng.normal(size=n).astype(np.float32)
    value, mean = hjax.softmin(x, y, g, eps=eps, payload=y, causal=True)
    for i in (0, 1, 20, 300, n // 2 - 1, n // 2, n - 1):
        want, want_mean, _ = definition(x, y, g, y, eps, i)
        np.testing.assert_allclose(value[i], want, rtol=3e-6)
        np.testing.assert_allclose(mean[i], want_mean, atol=2e-3)


def test_heads_over_several_blocks_are_the_definition_with_its_derivatives(double):
    """6,000 queries are three blocks; the vmap is that of attention over its heads."""
    n, d, eps = 6000, 9, 0.7
    rng = np.random.default_rng(1)
    x, y, v = (rng.normal(size=(2, n, d)) for _ in range(3))
    rows, signs = np.array([0, 3, 700, 2600, 5999]), rng.normal(size=(2, 5, d))

    def reduced(x, y, v):
        return jax.vmap(lambda x, y, v: hjax.softmin(x, y, jnp.zeros(n), eps=eps, payload=v, causal=True))(x, y, v)

    def total(x, y, v):
        value, mean = reduced(x, y, v)
        return jnp.sum(signs[..., 0] * value[:, rows]) + jnp.sum(signs * mean[:, rows])

    got, slopes = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(x, y, v)
    value, mean = jax.jit(reduced)(x, y, v)
    wanted = 0.0
    for h in range(2):
        for k, i in enumerate(rows):
            want, want_mean, _ = definition(x[h], y[h], np.zeros(n), v[h], eps, i)
            np.testing.assert_allclose(value[h, i], want, rtol=1e-12)
            np.testing.assert_allclose(mean[h, i], want_mean, rtol=1e-11, atol=1e-12)
            wanted += signs[h, k, 0] * want + signs[h, k] @ want_mean
    np.testing.assert_allclose(got, wanted, rtol=1e-11)

    def moved(which, step):
        given = [x[0], y[0], v[0]]
        given[which] = given[which] + step
        found = [definition(*given[:2], np.zeros(n), given[2], eps, i) for i in rows]
        return sum(signs[0, k, 0] * f[0] + signs[0, k] @ f[1] for k, f in enumerate(found))

    for which in range(3):
        way = rng.normal(size=(n, d))
        difference = (moved(which, 1e-5 * way) - moved(which, -1e-5 * way)) / 2e-5
        np.testing.assert_allclose(np.vdot(slopes[which][0], way), difference, rtol=1e-6)
