"""Remark H.8 (convolution) and Proposition H.9 (the transformer block): the identity inside larger networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._attention import attention_of
from ._oracles import DIGITS, complex_step, exact, exact_softmax, mpmath, soft_minimum, squared_distances
from ._table import Evidence, Verdict, check


@check(
    "H.8",
    "A convolutional log-sum-exp layer is equivariant, each position is the identity 4.1 with common atoms, and by "
    "symmetry the filter's gradient is the same at all positions; corrected: only their sum is used, they differ.",
    expected=Verdict.CORRECTED,
)
def convolution() -> Evidence:
    """hjax's circular layer against numpy's soft minimum of distances, and complex steps of it."""
    rng, eps, t = np.random.default_rng(680), 0.3, 0.8
    weight, bias, signal = rng.normal(size=(5, 3)), rng.normal(size=5), rng.normal(size=16)

    def patches(signal: np.ndarray) -> np.ndarray:
        return np.stack([np.roll(signal, 1 - k) for k in range(3)], axis=1)

    @jax.jit
    def layer(weight: Array, signal: Array) -> Array:
        made = hjax.nn.ConvLSE(1, 1, 1, 3, 5, eps=eps, padding="CIRCULAR", key=jax.random.key(0))
        filters = hjax.nn.LSELayer.from_arrays(weight[None], bias[None], eps=eps)
        return eqx.tree_at(lambda module: module.filters, made, filters)(signal[None])[0]

    inputs = patches(signal)
    z = np.asarray(layer(weight, signal))
    shifted = np.abs(np.asarray(layer(weight, np.roll(signal, 4))) - np.roll(z, 4)).max()
    points, values = 2 * t * weight, -bias - t * (weight**2).sum(axis=1)
    u = soft_minimum(values + squared_distances(inputs, points) / (4 * t), eps)
    err = np.abs(z - ((inputs**2).sum(axis=1) / (4 * t) - u)).max()

    slopes = np.asarray(jax.jit(jax.jacobian(layer))(weight, signal))
    steps = [
        complex_step(lambda w: -soft_minimum(-(inputs @ w.T + bias), eps), weight, axis.reshape(5, 3))
        for axis in np.eye(15)
    ]
    own = np.abs(slopes.reshape(16, 15) - np.array(steps).T).max()
    total = np.asarray(jax.jit(jax.grad(lambda w: jnp.sum(layer(w, jnp.asarray(signal)) ** 2) / 2))(weight))
    summed = np.abs(total - np.einsum("i,ijk->jk", z, slopes)).max()
    spread = np.ptp(z[:, None, None] * slopes, axis=0).max()
    figure = (
        f"shift by 4: {shifted:.0e}; each position from |x|^2/4t - u: {err:.1e}; filter gradients differ by up to "
        f"{spread:.2f} between positions (complex steps {own:.1e}), dL/dw is their sum: {summed:.1e}"
    )
    corrected = max(shifted, err, own, summed) < 1e-13
    return Evidence(holds=not spread > 0.1, corrected=bool(corrected), figure=figure)


_TOKENS, _SIZE, _UNITS, _ROWS, _TEMPERATURE = 5, 4, 3, 4, 0.2


def _normalized(x: np.ndarray) -> np.ndarray:
    """Layer norm of 50-digit tokens, with the usual 1e-5 under the root."""
    centred = x - x.sum(axis=1, keepdims=True) / _SIZE
    variance = (centred**2).sum(axis=1, keepdims=True) / _SIZE
    return centred / (variance + mpmath.mpf(1e-5)) ** mpmath.mpf(0.5)


@check(
    "H.9",
    "In a pre-norm transformer block X' = X + Attn(LN X) W_O, Y = X' + W_2 phi(LN X') with grouped log-sum-exp units "
    "phi, attention is a Gibbs mean at eps = sqrt d and each unit is |x|^2/(4t) - u(x, t) at x = LN X'.",
    expected=Verdict.HOLDS,
)
def transformer_block() -> Evidence:
    """hjax's block, and its units read as solutions, against the block in 50 digits."""
    rng = np.random.default_rng(690)
    x, query, key, value, out = rng.normal(size=(_TOKENS, _SIZE)), *rng.normal(size=(4, _SIZE, _SIZE)) / 2
    rows, biases = rng.normal(size=(_UNITS, _ROWS, _SIZE)), rng.normal(size=(_UNITS, _ROWS))
    down = rng.normal(size=(_UNITS, _SIZE))

    with mpmath.workdps(DIGITS):
        e = exact(x)
        w = _normalized(e)
        logits = (w @ exact(query)) @ (w @ exact(key)).T / mpmath.sqrt(_SIZE)
        weights = np.frompyfunc(mpmath.exp, 1, 1)(logits)
        e = e + weights @ (w @ exact(value)) / weights.sum(axis=1, keepdims=True) @ exact(out)
        w = _normalized(e)
        units = [
            [exact_softmax(exact(rows[i]) @ token + exact(biases[i]), _TEMPERATURE) for i in range(_UNITS)]
            for token in w
        ]
        oracle = np.array(e + np.array(units, dtype=object) @ exact(down), dtype=float)
        phi, inputs = np.array(units, dtype=float), np.array(w, dtype=float)

    @jax.jit
    def measured(x: Array, inputs: Array, t: float) -> tuple[Array, Array]:
        made = hjax.nn.TransformerBlock(_SIZE, 1, hidden=_UNITS, rows=_ROWS, eps=_TEMPERATURE, key=jax.random.key(0))
        parts = (
            attention_of(np.stack([query.T, key.T, value.T]), out.T, num_heads=1),
            hjax.nn.LSELayer.from_arrays(rows, biases, eps=_TEMPERATURE),
            jnp.asarray(down.T),
            jnp.zeros(_SIZE),
        )
        block = eqx.tree_at(lambda b: (b.attention, b.units, b.output.weight, b.output.bias), made, parts)

        def read(i: int) -> Array:
            u = block.units.unit(i).to_solution(t)
            return jnp.sum(inputs**2, axis=1) / (4 * t) - u(inputs, t)

        return block(x), jnp.stack([read(i) for i in range(_UNITS)], axis=1)

    block, read = (np.asarray(v) for v in measured(jnp.asarray(x), jnp.asarray(inputs), 0.7))
    err, solved, moved = np.abs(block - oracle).max(), np.abs(read - phi).max(), np.abs(oracle - x).max()
    figure = (
        f"block err {err:.1e} from 50 digits (it moves X by {moved:.1f}); units read as |x|^2/4t - u at t = 0.7 "
        f"{solved:.1e}"
    )
    return Evidence(bool(max(err, solved) < 1e-13 and moved > 0.1), figure)
