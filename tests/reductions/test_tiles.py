"""The table of tile sizes: the rows of other devices give the numbers of the CPU's, here on the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

M, N = 9000, 2500  # more than one tile of every row of the table


@pytest.mark.parametrize(("device", "d"), [pytest.param("gpu", 2, marks=pytest.mark.slow), ("tpu", 17)])
def test_sizes_of_other_devices_give_the_same_numbers(monkeypatch, device, d):
    random = np.random.default_rng(d)
    x, y = (jnp.asarray(random.normal(size=(n, d)), jnp.float32) for n in (M, N))
    g = jnp.abs(y).sum(axis=1)

    def run(x, y, g):
        soft = hjax.softmin(x, y, g, eps=0.5, payload=y, implementation="streaming")
        return soft.value.sum() + jnp.sum(soft.mean**2), (*soft, hjax.hardmin(x, y, g).index)

    def everything():
        jax.clear_caches()
        described = hjax.which_implementation(x, y, g, eps=0.5).reason
        return described, jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))(x, y, g)

    here, wanted = everything()
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    there, got = everything()
    monkeypatch.undo()
    jax.clear_caches()
    assert here != there
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(b).max())
