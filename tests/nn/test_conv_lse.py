"""Convolutional LSE layers: against an explicit loop, equivariance, one initial datum for all positions (H.8)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import special

import hjax

from .. import tolerances

apply = eqx.filter_jit(lambda layer, x: layer(x))


def make(dims: int, kernel, *, stride=1, padding: str = "VALID", eps: float = 0.3) -> hjax.nn.ConvLSE:
    key = jax.random.key(0)
    return hjax.nn.ConvLSE(dims, 2, 3, kernel, 4, eps=eps, stride=stride, padding=padding, key=key)


def image(*space: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, *space)), float)


def loop(layer: hjax.nn.ConvLSE, x: np.ndarray) -> np.ndarray:
    """Position by position in float64, with padding written out."""
    x, kernel, stride = np.asarray(x, float), layer.kernel_size, layer.stride
    if layer.padding != "VALID":
        counts = [-(-n // s) for n, s in zip(x.shape[1:], stride, strict=True)]
        total = [max((c - 1) * s + k - n, 0) for c, s, k, n in zip(counts, stride, kernel, x.shape[1:], strict=True)]
        pads = [(0, 0), *((p // 2, p - p // 2) for p in total)]
        x = np.pad(x, pads, mode="wrap" if layer.padding == "CIRCULAR" else "constant")
    counts = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:], kernel, stride, strict=True)]
    weight, bias = np.asarray(layer.filters.weight, float), np.asarray(layer.filters.bias, float)
    eps, out = float(layer.filters.eps), np.empty((weight.shape[0], *counts))
    for place in np.ndindex(*counts):
        window = tuple(slice(i * s, i * s + k) for i, s, k in zip(place, stride, kernel, strict=True))
        patch = x[(slice(None), *window)].ravel()
        out[(slice(None), *place)] = eps * special.logsumexp((weight @ patch + bias) / eps, axis=1)
    return out


def test_it_is_the_loop_over_positions(precision):
    layer, x = make(2, (3, 2), stride=(2, 1), padding="SAME"), image(8, 7)
    got = apply(layer, x)
    assert got.shape == (3, 4, 7)
    np.testing.assert_allclose(got, loop(layer, x), atol=32 * tolerances.of(precision).atol)


@pytest.mark.parametrize(
    ("dims", "kernel", "stride", "padding"),
    [(1, 3, 2, "VALID"), (1, 4, 1, "CIRCULAR"), (2, 2, 2, "CIRCULAR")],
)
def test_dimensions_strides_and_paddings(double, dims, kernel, stride, padding):
    layer, x = make(dims, kernel, stride=stride, padding=padding), image(*(8, 6)[:dims])
    np.testing.assert_allclose(apply(layer, x), loop(layer, x), atol=1e-13)


def test_patches_are_those_of_jax():
    layer, x = make(2, (3, 2), stride=(2, 1), padding="SAME"), image(8, 7)
    want = lax.conv_general_dilated_patches(x[None], (3, 2), (2, 1), "SAME", precision=lax.Precision.HIGHEST)[0]
    np.testing.assert_allclose(jnp.moveaxis(layer.patches(x), -1, 0), want, atol=1e-6)


def test_a_shift_of_the_input_shifts_the_output(double):
    """H.8: exactly on a circle (by whole strides), and inside for "VALID"; zeros at the border break it."""
    x = image(8, 6)
    circular = make(2, 3, padding="CIRCULAR")
    np.testing.assert_array_equal(
        apply(circular, jnp.roll(x, (2, 3), (1, 2))), jnp.roll(apply(circular, x), (2, 3), (1, 2))
    )
    strided = make(2, 2, stride=2, padding="CIRCULAR")
    np.testing.assert_array_equal(apply(strided, jnp.roll(x, 2, 1)), jnp.roll(apply(strided, x), 1, 1))
    valid = make(2, 3)
    np.testing.assert_array_equal(apply(valid, jnp.roll(x, 1, 1))[:, 1:], apply(valid, x)[:, :-1])
    same = make(2, 3, padding="SAME")
    assert np.abs(apply(same, jnp.roll(x, 1, 1)) - jnp.roll(apply(same, x), 1, 1)).max() > 0.1


def test_all_positions_of_a_channel_share_one_solution(double):
    """z_i = |x_i|^2/4t - u(x_i, t): u from the atoms in numpy, at every position."""
    layer, x, t = make(2, 3), image(5, 5), 0.7
    patches = np.asarray(layer.patches(x)).reshape(-1, 18)
    for channel in range(3):
        data = layer.unit(channel).to_solution(t).data
        y, g = np.asarray(data.points), np.asarray(data.values)
        cost = g + ((patches[:, None] - y) ** 2).sum(-1) / (4 * t)
        u = -0.3 * special.logsumexp(-cost / 0.3, axis=1)
        want = (patches**2).sum(-1) / (4 * t) - u
        np.testing.assert_allclose(apply(layer, x)[channel].ravel(), want, atol=1e-12)


def test_the_filters_gradient_is_the_sum_over_positions_that_differ(double):
    layer, x = make(1, 3), image(7)
    weight = layer.filters.weight

    def output(weight: jax.Array) -> jax.Array:
        return eqx.tree_at(lambda m: m.filters.weight, layer, weight)(x)[0]

    each = np.asarray(jax.jit(jax.jacobian(output))(weight))[:, 0]
    # By hand: the Gibbs weights of the rows times the patch.
    patches = np.asarray(layer.patches(x))
    p = special.softmax((patches @ np.asarray(weight[0]).T + np.asarray(layer.filters.bias[0])) / 0.3, axis=1)
    np.testing.assert_allclose(each, p[:, :, None] * patches[:, None], atol=1e-13)
    total = jax.jit(jax.grad(lambda w: output(w).sum()))(weight)[0]
    np.testing.assert_allclose(total, each.sum(0), atol=1e-13)
    assert np.abs(each - each[0]).max() > 0.1


def test_the_limit_is_a_maximum_over_rows(double):
    layer, x = make(2, 2), image(5, 4)
    gap = np.asarray(apply(layer, x) - apply(layer.tropical(), x))
    assert gap.min() >= 0
    assert gap.max() <= 0.3 * np.log(4)
    assert layer.tropical().tropical().describe().eps == 0
    reading = layer.describe()
    assert (reading.status, reading.eps) == ("exact", pytest.approx(0.3))
    assert "share one solution" in reading.atoms


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: make(3, 2), "num_spatial_dims is 3; pass 1 or 2"),
        (lambda: make(2, 2, padding="FULL"), "padding is 'FULL'.*CIRCULAR"),
        (lambda: make(2, (2, 2, 2)), "kernel_size has 3 entries for 2 axes"),
        (lambda: make(2, 2, stride=0), "stride is 0"),
        (lambda: make(2, 2, eps=0.0), "eps must be positive"),
        (lambda: make(2, 2)(jnp.zeros((4, 2, 5, 5))), r"\(2, rows, columns\).*jax\.vmap"),
        (lambda: make(1, 2)(jnp.zeros((3, 5))), r"\(2, length\)"),
        (lambda: make(2, 4)(jnp.zeros((2, 3, 5))), r"smaller than the patch \(4, 4\)"),
        (lambda: make(1, 2)(jnp.zeros((2, 5), int)), "x has dtype int"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
