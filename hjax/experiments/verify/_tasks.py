"""Appendix C: classification and kernel machines as readings of the same soft minimum."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.spatial import KDTree

import hjax

from ._oracles import gibbs_mean, squared_distances
from ._table import Evidence, Verdict, check


@check(
    "C.class",
    "Class probabilities are the gradient of eps LSE in the class scores, and as eps -> 0 the decision boundaries "
    "sharpen; corrected: the boundaries are the same hyperplanes at every eps, only the confidence changes.",
    expected=Verdict.CORRECTED,
)
def classification() -> Evidence:
    """hjax's classifier, and autodiff of its potential, against numpy; argmax and ties on the hyperplanes a_j = a_k."""
    rng = np.random.default_rng(300)
    weight, bias, x = rng.normal(size=(5, 2)), rng.normal(size=5), 2 * rng.normal(size=(400, 2))
    scores = x @ weight.T + bias
    # The boundary between the two leading classes, reached from each point along the difference of their rows.
    second, first = np.argsort(scores, axis=1)[:, -2:].T
    normal = weight[first] - weight[second]
    steps = (scores.max(axis=1) - np.sort(scores, axis=1)[:, -2]) / (normal**2).sum(axis=1)
    at_boundary = (x - steps[:, None] * normal) @ weight.T + bias
    leading = at_boundary.max(axis=1) < at_boundary[np.arange(400), first] + 1e-9

    @jax.jit
    def probabilities(a: Array, eps: float) -> tuple[Array, Array, Array]:
        model = hjax.nn.Classifier.of_scores(lambda scores: scores, eps=eps)
        readings = (model.probabilities, jax.grad(model.potential), model.predict)
        probabilities, slopes, predicted = (jax.vmap(reading)(a) for reading in readings)
        return probabilities, slopes, predicted

    err, ties, agreement, confidence = 0.0, 0.0, 1.0, []
    for eps in (0.03, 0.3, 3.0, 30.0):
        p, slopes, predicted = (np.asarray(v) for v in probabilities(scores, eps))
        q = np.asarray(probabilities(at_boundary, eps)[0])
        oracle = gibbs_mean(-scores, eps, np.eye(5))
        err = max(err, np.abs(p - oracle).max(), np.abs(slopes - oracle).max())
        agreement = min(agreement, (predicted == scores.argmax(axis=1)).mean())
        agreement = min(agreement, (p.argmax(axis=1) == scores.argmax(axis=1)).mean())
        tied = np.abs(q[np.arange(400), first] - q[np.arange(400), second])[leading]
        ties = max(ties, tied.max())
        confidence.append(p.max(axis=1).mean())
    figure = (
        f"probabilities and gradient err {err:.1e}; argmax that of the scores on {agreement:.0%} at eps = .03, .3, 3, "
        f"30; on the hyperplanes |p_j - p_k| <= {ties:.1e}; mean confidence "
        f"{', '.join(f'{c:.2f}' for c in confidence)}"
    )
    still = agreement == 1 and ties < 1e-11 and leading.sum() > 100
    sharpens = confidence[0] > 0.95 and confidence[-1] < 0.3
    return Evidence(holds=not still, corrected=bool(err < 1e-13 and sharpens), figure=figure)


@check(
    "C.kernel",
    "A kernel machine sum_j a_j exp(-|x-x_j|^2/(2 s^2)) is exp(-u/eps) with 2 t eps = s^2, g = -eps log a; corrected: "
    "for a_j > 0, else a difference of two; with g = 0 it averages labels, and those of the nearest as s -> 0.",
    expected=Verdict.CORRECTED,
)
def kernel_machine() -> Evidence:
    """hjax's solution and regressors against numpy's kernel sums; labels against a k-d tree's nearest neighbour."""
    rng, eps, s = np.random.default_rng(301), 0.4, 0.7
    centres, coefficients, labels = rng.normal(size=(6, 2)), rng.uniform(0.5, 2, 6), rng.normal(size=(6, 1))
    signed = coefficients * np.array([1, 1, -1, 1, 1, 1])
    x = np.concatenate([1.5 * rng.normal(size=(60, 2)), centres])
    kernels = np.exp(-squared_distances(x, centres) / (2 * s**2))

    t = s**2 / (2 * eps)

    @jax.jit
    def measured(signed: Array, bandwidth: float) -> tuple[Array, ...]:
        data = hjax.InitialData(centres, -eps * jnp.log(coefficients))
        machine = hjax.nn.KernelRegressor(centres, signed, bandwidth=s, kind="sum")
        plus, minus = (jnp.exp(-u(x, t) / eps) for u in machine.to_solutions(t))
        averages = (hjax.nn.KernelRegressor(centres, labels, bandwidth=w) for w in (s, bandwidth))
        phi = jnp.exp(-hjax.HopfCole(data, eps)(x, t) / eps)
        return phi, plus - minus, jax.vmap(machine)(x), *(jax.vmap(average)(x) for average in averages)

    phi, difference, total, smooth, sharp = (np.asarray(v) for v in measured(jnp.asarray(signed), 1e-3))
    positive = np.abs(phi - kernels @ coefficients).max()
    both, lowest = max(np.abs(v - kernels @ signed).max() for v in (difference, total)), (kernels @ signed).min()
    average = np.abs(smooth - gibbs_mean(squared_distances(x, centres), 2 * s**2, labels)).max()
    nearest = np.abs(sharp - labels[KDTree(centres).query(x)[1]]).max()
    figure = (
        f"a > 0: err {positive:.1e}; one negative coefficient: the sum reaches {lowest:.2f}, no exp(-u/eps) does; "
        f"phi+ - phi- err {both:.1e}; averaged labels {average:.1e}, nearest label at s = 1e-3 {nearest:.1e}"
    )
    worst = max(positive, both, average, nearest)
    return Evidence(holds=not lowest < -0.1, corrected=bool(worst < 1e-13), figure=figure)
