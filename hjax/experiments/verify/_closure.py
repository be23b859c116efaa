"""Propositions H.1 and H.2: what compositions of log-sum-exp layers reach, and which are one layer again."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import optimize, sparse

import hjax
from hjax.nn import activations

from ._oracles import DIGITS, exact, exact_softmax, mpmath, soft_minimum
from ._table import Evidence, Verdict, check


def _max_of_min(f: Callable[[np.ndarray], np.ndarray], knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and biases of the units -min_j whose maximum of minima `max_i min_j` interpolates f at the knots.

    Unit i takes the minimum over the chords above chord i on its own interval: there the chord itself.
    """
    pieces, values = len(knots) - 1, f(knots)
    slopes = np.diff(values) / np.diff(knots)
    offsets = values[:-1] - slopes * knots[:-1]
    ends = slopes[:, None, None] * np.stack([knots[:-1], knots[1:]]) + offsets[:, None, None]  # (chord, end, unit)
    own = np.stack([values[:-1], values[1:]])
    above = (ends >= own - 1e-12).all(axis=1).T
    rows = np.broadcast_to(-slopes[:, None], (pieces, pieces, 1))
    return rows, np.where(above, -offsets, -np.inf)


def _sine(x: np.ndarray) -> np.ndarray:
    return np.sin(4 * x)


def _tent(x: np.ndarray) -> np.ndarray:
    return -np.abs(x)


@check(
    "H.1",
    "Two layers with signed outer rows approximate any continuous function on a compact set, to the error of a "
    "piecewise affine one plus eps (log N_1 + log N_2); one layer is convex, and does not.",
    expected=Verdict.HOLDS,
)
def universality() -> Evidence:
    """hjax's networks for sin 4x against numpy's sine and interpolation; for one layer a linear program (HiGHS)."""
    x, errors, ratios, err = np.linspace(-1, 1, 401), [], [], 0.0

    @jax.jit
    def network(rows: Array, biases: Array, eps: float) -> Array:
        minima = hjax.nn.LSELayer.from_arrays(rows, biases, eps=eps)
        count = len(biases)
        maximum = hjax.nn.LSELayer.from_arrays(-jnp.eye(count)[None], jnp.zeros((1, count)), eps=eps)
        return jax.vmap(hjax.nn.LSENetwork.from_layers([minima, maximum], jnp.ones(1)))(x[:, None])

    for f, pieces, eps in ((_sine, 8, 5e-3), (_sine, 64, 5e-5), (_tent, 8, 1e-3)):
        knots = np.linspace(-1, 1, pieces + 1)
        rows, biases = _max_of_min(f, knots)
        reached = np.asarray(network(rows, biases, eps))
        minima = soft_minimum(-(rows[:, :, 0] * x[:, None, None] + biases), eps)
        err = max(err, np.abs(reached + soft_minimum(-minima, eps)).max())
        errors.append(np.abs(reached - f(x)).max())
        affine = np.abs(np.interp(x, knots, f(knots)) - f(x)).max()
        ratios.append(errors[-1] / (affine + 2 * eps * math.log(pieces)))
    # The best convex function for -|x|: minimise s over values v with |v + |x|| <= s and v'' >= 0 on a grid.
    n, target = 21, _tent(np.linspace(-1, 1, 21))
    bend = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(n - 2, n)).toarray()  # pyright: ignore
    ones, eye = np.ones((n, 1)), np.eye(n)
    rows = np.block([[eye, -ones], [-eye, -ones], [-bend, np.zeros((n - 2, 1))]])
    limits = np.concatenate([target, -target, np.zeros(n - 2)])
    cost = np.append(np.zeros(n), 1.0)
    convex = optimize.linprog(cost, A_ub=rows, b_ub=limits, bounds=(None, None), method="highs").fun
    figure = (
        f"sin 4x: sup err {errors[0]:.1e}, {errors[1]:.1e} with 8, 64 pieces; -|x|: {errors[2]:.1e}; at most "
        f"{max(ratios):.2f} of the bound; convex functions reach {convex:.3f} at best for -|x| (LP); max-min in "
        f"numpy {err:.0e}"
    )
    reached = errors[1] < 3e-3 and errors[2] < 5e-3 and max(ratios) < 1
    return Evidence(bool(reached and err < 1e-12 and abs(convex - 0.5) < 1e-9), figure)


@check(
    "H.2",
    "Log-sum-exp layers are closed under affine inputs and composition; corrected: under affine inputs (W A, b + W c), "
    "and under composition with nonnegative whole outer rows, at the price of the product of the widths.",
    expected=Verdict.CORRECTED,
)
def closure() -> Evidence:
    """One hjax layer for each composition that is one, against numpy or 50 digits; -softplus is concave."""
    rng, eps = np.random.default_rng(620), 0.3
    weight, bias = rng.normal(size=(6, 3)), rng.normal(size=6)
    matrix, shift, x = rng.normal(size=(3, 2)), rng.normal(size=3), rng.normal(size=2)
    with mpmath.workdps(DIGITS):
        inputs = exact(matrix) @ exact(x) + exact(shift)
        exactly = float(exact_softmax(exact(weight) @ inputs + exact(bias), eps))

    # Inner units of three rows each; an outer row with exponents m is a product of sums, so a sum of products.
    inner, offsets = rng.normal(size=(2, 3, 2)), rng.normal(size=(2, 3))
    outer, constants = np.array([[1, 0], [0, 1], [1, 1], [2, 0]]), rng.normal(size=4)
    rows, biases = [], []
    for powers, constant in zip(outer, constants, strict=True):
        factors = [unit for unit, power in enumerate(powers) for _ in range(power)]
        for chosen in itertools.product(range(3), repeat=len(factors)):
            rows.append(sum(inner[u, j] for u, j in zip(factors, chosen, strict=True)))
            biases.append(constant + sum(offsets[u, j] for u, j in zip(factors, chosen, strict=True)))
    queries = rng.normal(size=(20, 2))

    @jax.jit
    def measured() -> tuple[Array, ...]:
        affine = hjax.nn.LSELayer.from_arrays(weight @ matrix, bias + weight @ shift, eps=eps)
        one = hjax.nn.LSELayer.from_arrays(np.array(rows), np.array(biases), eps=eps)
        below = hjax.nn.LSELayer.from_arrays(inner, offsets, eps=eps)
        above = hjax.nn.LSELayer.from_arrays(outer[None].astype(float), constants[None], eps=eps)
        network = hjax.nn.LSENetwork.from_layers([below, above], jnp.ones(1))
        bend = jax.grad(jax.grad(lambda z: -activations.softplus(z, eps)))(0.0)
        return affine(x), jax.vmap(one)(queries), jax.vmap(network)(queries), bend

    ours = [np.asarray(v) for v in measured()]
    hidden = np.stack([-soft_minimum(-(queries @ w.T + b), eps) for w, b in zip(inner, offsets, strict=True)], axis=1)
    oracle = -soft_minimum(-(hidden @ outer.T + constants), eps)
    err, expanded, composed = (np.abs(a - b).max() for a, b in zip(ours, (exactly, oracle, oracle), strict=False))
    bend = float(ours[-1])
    figure = (
        f"affine input: err {err:.1e}; outer row -1: f'' = {bend:.4f} = -1/(4 eps) < 0, while a layer is convex; outer "
        f"rows of whole numbers: one layer of {len(rows)} rows, err {expanded:.1e} (composed {composed:.1e})"
    )
    concave = bend < 0 and abs(bend + 1 / (4 * eps)) < 1e-12
    return Evidence(holds=not concave, corrected=bool(max(err, expanded, composed) < 1e-13), figure=figure)
