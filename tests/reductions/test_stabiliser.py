"""The single streaming pass: whatever its sample of the atoms misses, the numbers are the same.

Clouds of more than 2,048 atoms guess the stabiliser from a sample. Here the one atom that matters stands
where no sample looks, at depths that exercise every way out.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

N, MISSED = 4096, 1237  # an odd index: no stride of a sample reaches it
EPS = 0.125


@jax.jit
def moments(x, y, g, payload):
    def total(x):
        result = hjax.softmin(x, y, g, eps=EPS, payload=payload, implementation="streaming")
        return jnp.sum(result.value), result

    slope, (u, mean) = jax.grad(total, has_aux=True)(x)
    product = jax.jvp(lambda x: jax.grad(total, has_aux=True)(x)[0], (x,), (jnp.ones_like(x),))[1]
    return u, mean, slope, product


def exact(x, y, g, eps, payload):
    """Value, mean, gradient in x, and Hessian times (1, ..., 1), by NumPy in float64."""
    x, y, g, payload = (np.asarray(a, np.float64) for a in (x, y, g, payload))
    cost = ((x[:, None] - y) ** 2).sum(-1) + g
    least = cost.min(axis=1)
    weights = np.exp(-(cost - least[:, None]) / eps)
    z = weights.sum(axis=1)
    weights /= z[:, None]
    mean = weights @ y
    covariance = weights @ (y * y.sum(axis=1, keepdims=True)) - mean * mean.sum(axis=1, keepdims=True)
    return least - eps * np.log(z), weights @ payload, 2 * (x - mean), 2 - 4 / eps * covariance


# In powers of two below the sampled atoms: none to speak of, repaired after the pass, and passed again.
@pytest.mark.parametrize("depth", [0, 15, 60, 90, 110, 1000])
@pytest.mark.parametrize("channel", [1.0, 1e30])
def test_an_atom_that_the_sample_misses(depth: int, channel: float):
    random = np.random.default_rng(depth)
    x, y = (random.normal(size=(n, 2)).astype(np.float32) for n in (300, N))
    g = np.zeros(N, np.float32)
    g[MISSED] = -depth * EPS * np.log(2)
    payload = channel * random.normal(size=(N, 1)).astype(np.float32)
    u, mean, slope, product = moments(x, y, g, payload)
    wanted = exact(x, y, g, EPS, payload)
    scale = np.abs(g).max() + 16
    np.testing.assert_allclose(u, wanted[0], atol=8 * 2.0**-23 * scale, rtol=0)
    weight_error = 16 * 2.0**-23 * (1 + scale / EPS)
    np.testing.assert_allclose(mean, wanted[1], atol=channel * weight_error * 4, rtol=0)
    np.testing.assert_allclose(slope, wanted[2], atol=weight_error * 16, rtol=0)
    np.testing.assert_allclose(product, wanted[3], atol=weight_error * 64 / EPS, rtol=0)


def test_exponents_too_large_for_a_guess():
    random = np.random.default_rng(3)
    x, y = (random.normal(size=(n, 1)).astype(np.float32) for n in (100, N))
    g = (1e3 * np.sin(3 * y[:, 0])).astype(np.float32)
    payload = np.asarray(y)
    u, mean = hjax.softmin(x, y, g, eps=1e-2, payload=payload, implementation="streaming")
    wanted = exact(x, y, g, 1e-2, payload)
    np.testing.assert_allclose(u, wanted[0], atol=2e-3, rtol=0)  # 8 ulp of the natural scale, 1e3
    np.testing.assert_allclose(mean, wanted[1], atol=0.05, rtol=0)
    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in (x, y, g, payload)]
        u, mean = hjax.softmin(*wide[:3], eps=1e-2, payload=wide[3], implementation="streaming")
    np.testing.assert_allclose(u, wanted[0], rtol=1e-13)
    np.testing.assert_allclose(mean, wanted[1], atol=1e-9, rtol=0)
