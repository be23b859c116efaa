"""Pruned at the size it is made for: real blocks, real tiles, against NumPy in float64 and a k-d tree.

That its numbers are those of every other implementation on small problems is `test_implementations`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

import hjax

# The fewest points from which sums are pruned.
N = 32_768
ROWS = np.random.default_rng(0).choice(N, 200, replace=False)
SCALE = 0.5


def smooth(d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(d)
    x, y = (random.random((N, d)).astype(np.float32) for _ in range(2))
    return x, y, np.sin(5 * y).sum(axis=1).astype(np.float32)


def clustered(d: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(d)
    centres = random.random((64, d))
    x, y = (centres[random.integers(0, 64, N)] + spread * random.normal(size=(N, d)) for _ in range(2))
    return x.astype(np.float32), y.astype(np.float32), np.zeros(N, np.float32)


def exact(x, y, g, eps: float, scale: float = SCALE):
    """Value and mean of y at `ROWS`."""
    x, y, g = (np.asarray(a, np.float64) for a in (x, y, g))
    values, means = [], []
    for row in ROWS:
        cost = scale * ((x[row] - y) ** 2).sum(-1) + g
        weights = np.exp(-(cost - cost.min()) / eps)
        values.append(cost.min() - eps * np.log(weights.sum()))
        means.append(weights @ y / weights.sum())
    return np.array(values), np.array(means)


@jax.jit
@functools.partial(jax.grad, argnums=(0, 1, 2, 3), has_aux=True)
def slopes_and_value(x, y, g, eps):
    u = hjax.softmin(x, y, g, eps=eps, cost=hjax.SquaredEuclidean(SCALE), implementation="pruned").value
    return jnp.sum(u), u


def fraction(x, y, g, eps, tolerance=None):
    cost = hjax.SquaredEuclidean(SCALE)
    return float(hjax.evaluated_fraction(x, y, g, eps=eps, cost=cost, tolerance=tolerance))


@pytest.mark.slow
@pytest.mark.parametrize("eps", [1e-3, 10.0])
def test_values_and_slopes_where_nearly_all_or_nothing_is_skipped(eps: float):
    x, y, g = smooth(2)
    share = fraction(x, y, g, eps)
    assert share < 0.05 if eps < 1 else share == 1
    (slope, atoms, heights, temperature), u = slopes_and_value(x, y, g, jnp.float32(eps))
    value, mean = exact(x, y, g, eps)
    scale = 3 + eps * np.log(N)
    np.testing.assert_allclose(u[ROWS], value, atol=8 * 2.0**-23 * scale, rtol=0)
    weight_error = 16 * 2.0**-23 * (1 + scale / eps)
    np.testing.assert_allclose(slope[ROWS], 2 * SCALE * (x[ROWS] - mean), atol=weight_error, rtol=0)
    # Every query's weights sum to one, and what pulls the queries pushes the atoms.
    np.testing.assert_allclose(np.sum(np.asarray(heights, np.float64)), N, rtol=weight_error)
    np.testing.assert_allclose(
        np.asarray(atoms, np.float64).sum(0), -np.asarray(slope, np.float64).sum(0), atol=N * weight_error
    )
    assert np.isfinite(temperature)


@pytest.mark.slow
def test_a_tolerance_is_kept_and_skips_more():
    x, y, g = smooth(2)
    eps, shares = 1e-3, []
    for tolerance in (None, 1e-3):
        shares.append(fraction(x, y, g, eps, tolerance))
        if tolerance:
            cost = hjax.SquaredEuclidean(SCALE)
            u = hjax.softmin(x, y, g, eps=eps, cost=cost, implementation="pruned", tolerance=tolerance).value
            error = np.abs(u[ROWS] - exact(x, y, g, eps)[0]).max()
            assert error <= tolerance + 3e-6
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0]


@pytest.mark.parametrize(("d", "spread"), [(3, 0.03), pytest.param(20, 0.01, marks=pytest.mark.slow)])
def test_the_nearest_atom_is_that_of_a_tree(d: int, spread: float):
    x, y, g = clustered(d, spread)
    value, index = hjax.hardmin(x, y, g, implementation="pruned")
    distance, wanted = cKDTree(y.astype(np.float64)).query(x.astype(np.float64))
    # Another index only where rounding cannot tell the two apart.
    assert np.mean(np.asarray(index) != wanted) < 2e-3
    chosen = ((x.astype(np.float64) - y[index]) ** 2).sum(-1)
    np.testing.assert_allclose(chosen, distance**2, rtol=1e-6 * max(1, d / 3), atol=0)
    np.testing.assert_allclose(value, chosen, rtol=1e-5, atol=1e-12)


def test_with_weights_and_ties_the_least_index_wins():
    random = np.random.default_rng(5)
    # A lattice in float32 without rounding: ties everywhere, each place taken about eight times.
    x, y = (random.integers(0, 64, (N, 2)).astype(np.float32) for _ in range(2))
    g = random.integers(0, 40, N).astype(np.float32)
    value, index = hjax.hardmin(x, y, g, implementation="pruned")
    cost = ((x[ROWS, None] - y) ** 2).sum(-1) + g
    np.testing.assert_array_equal(value[ROWS], cost.min(axis=1))
    np.testing.assert_array_equal(index[ROWS], cost.argmin(axis=1))


def test_two_runs_agree_to_the_last_bit():
    x, y, g = smooth(2)
    first, second = (slopes_and_value(x, y, g, jnp.float32(1e-3)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_coordinates_far_from_the_origin_prune_as_well():
    # Coordinates on a grid of 2^-10, exact at both places.
    x, y, g = (np.round(a * 1024) / 1024 for a in smooth(2))
    u, moved = (slopes_and_value(x + s, y + s, g, jnp.float32(1e-3))[1] for s in (np.float32(0), np.float32(4096)))
    np.testing.assert_allclose(u, moved, atol=4e-6, rtol=0)
    assert fraction(x + np.float32(4096), y + np.float32(4096), g, 1e-3) < 0.1


@pytest.mark.slow
def test_the_tiles_looked_at_are_the_share_evaluated_and_hold_the_weights():
    x, y, g = smooth(2)
    cost = hjax.SquaredEuclidean(SCALE)
    tiles = hjax.reductions.evaluated_tiles(x, y, g, eps=1e-3, cost=cost)
    assert np.mean(tiles.evaluated) == pytest.approx(fraction(x, y, g, 1e-3), rel=1e-6)
    assert sorted(set(np.ravel(tiles.queries))) == sorted(set(np.ravel(tiles.atoms))) == list(range(N))
    query = tiles.queries[40, 3]
    cost = SCALE * ((x[query].astype(np.float64) - y) ** 2).sum(-1) + g
    weights = np.exp(-(cost - cost.min()) / 1e-3)
    seen = np.unique(tiles.atoms[np.flatnonzero(tiles.evaluated[40])])
    assert weights[seen].sum() == pytest.approx(weights.sum(), rel=1e-9)
    assert len(seen) < N / 4


def test_there_are_no_tiles_to_show_where_nothing_is_pruned():
    with pytest.raises(ValueError, match="nothing is pruned for M = 3"):
        hjax.reductions.evaluated_tiles(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(3), eps=1.0)
