"""Accuracy against 50-digit arithmetic, over fourteen decades of eps and inputs chosen to hurt."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import Array

import hjax
from hjax.reductions import gibbs_entropy

from .. import oracles, tolerances
from ..conftest import enable_x64

TEMPERATURES = [float(np.float32(e)) for e in (1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6)]
ATOMS, SCALE = 40, 0.75


class Cloud(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    g: np.ndarray
    payload: np.ndarray


def cloud(kind: str, d: int, queries: int, atoms: int = ATOMS) -> Cloud:
    """Inputs that float32 holds exactly, so that both precisions share one oracle."""
    rng = np.random.default_rng(d)
    x, y, g, v = (rng.normal(size=s) for s in ((queries, d), (atoms, d), (atoms,), (atoms, 2)))
    if kind == "offset":
        x, y = x + 1e4, y + 1e4
    if kind == "spread":
        g = g * 1e6
    if kind == "absent and duplicate":
        y[1::3], g[1::3] = y[0], g[0]
        g[2::3] = np.inf
    if kind == "on the atoms":
        x[:] = y[np.arange(queries) % atoms]
    return Cloud(*(np.float32(a).astype(np.float64) for a in (x, y, g, v)))


KINDS = ["plain", "offset", "spread", "absent and duplicate", "on the atoms"]


@functools.cache
def exact(kind: str, d: int, queries: int, atoms: int) -> tuple[Cloud, list[np.ndarray], list[np.ndarray]]:
    """The inputs; per query the costs to all atoms and their gradients in x, to 50 digits."""
    given = cloud(kind, d, queries, atoms)
    with mpmath.workdps(oracles.DIGITS):
        arrows = [2 * SCALE * (oracles.exact(x) - oracles.exact(given.y)) for x in given.x]
    return given, [oracles.costs(x, given.y, oracles.squared(SCALE)) for x in given.x], arrows


@functools.cache
def program(implementation: str) -> Callable[..., Any]:
    """Everything at once: values, and gradients in x, y, g, eps and the cost's scale."""

    def run(c: Cloud, eps: Array, scale: Array) -> Any:
        def everything(c: Cloud, eps: Array, scale: Array) -> Any:
            cost, kw = hjax.SquaredEuclidean(scale), {"implementation": implementation}
            soft = hjax.softmin(c.x, c.y, c.g, eps=eps, cost=cost, payload=c.payload, **kw)
            hard = hjax.hardmin(c.x, c.y, c.g, cost=cost, **kw)
            entropy = gibbs_entropy(c.x, c.y, c.g, eps=eps, cost=cost, **kw)
            return soft.value.sum(), soft.mean.sum() + entropy.sum(), (*soft, hard.value, entropy)

        out, pullback = jax.vjp(everything, c, eps, scale)
        zero = jax.tree.map(jnp.zeros_like, out[2])
        one = jnp.ones_like(out[0])
        return out[2], pullback((one, 0 * one, zero)), pullback((0 * one, one, zero))

    return jax.jit(run)


def ratios(
    kind: str, d: int, queries: int, dtype: Any, implementation: str, eps: float, atoms: int = ATOMS
) -> dict[str, float]:
    """Error over allowed error, of every output and every gradient of the value, against 50 digits."""
    given, costs, arrows = exact(kind, d, queries, atoms)
    arrays = jax.tree.map(lambda a: jnp.asarray(a, dtype), given)
    results = program(implementation)(arrays, jnp.asarray(eps, dtype), jnp.asarray(SCALE, dtype))
    (value, mean, hard, entropy), (into, d_eps, d_scale), _ = jax.tree.map(np.asarray, results)
    # Gradients of value, mean and entropy alike must be finite: infinitely bad if they are not.
    worst = {"finite": 0.0 if all(np.isfinite(a).all() for a in jax.tree.leaves(results)) else np.inf}

    def record(name: str, got: Any, want: Any, allowed: float) -> None:
        error = np.abs(np.asarray(got, float) - np.asarray(want, float)).max(initial=0)
        ratio = float(error) / (allowed + float(np.finfo(dtype).tiny))
        worst[name] = max(worst.get(name, 0.0), ratio if np.isfinite(ratio) else np.inf)

    present = np.isfinite(given.g)
    want_y, want_g, want_eps, want_scale = np.zeros((atoms, d)), np.zeros(atoms), 0.0, 0.0
    allowed_y = allowed_g = allowed_scale = 0.0
    for i, (cost, arrow) in enumerate(zip(costs, arrows, strict=True)):
        oracle = oracles.softmin(cost, given.g, eps)
        scale = oracle.scale
        if d > 16:  # promised: a few ulp of the squared diameter of the cloud
            middle = given.y.mean(axis=0)
            reach = np.linalg.norm(given.x[i] - middle) + np.linalg.norm(given.y - middle, axis=1).max()
            scale += SCALE * reach**2
        rounding = tolerances.value_error(dtype, scale)
        error = tolerances.weight_error(dtype, scale, eps)
        record("value", value[i], oracle.value, rounding)
        record("hardmin", hard[i], oracle.hardmin, rounding)
        want_mean = oracle.mean(oracles.exact(given.payload)).astype(float)
        record("mean", mean[i], want_mean, error * np.abs(given.payload[present] - want_mean).max() + error / 10)
        if error < 0.01:
            # Below the smallest normal number times its exponent an atom's share is flushed to zero.
            flushed = atoms * 256 * float(np.finfo(dtype).tiny)
            # It lives on the atoms behind the heaviest one, so theirs are the costs whose rounding counts.
            behind = np.where(np.arange(atoms) == np.argmax(oracle.weights), 0, oracle.weights).astype(float)
            carriers = np.flatnonzero((behind > 0) & (behind >= 1e-3 * behind.sum()))
            theirs = max([float(cost[j]) + abs(given.g[j]) for j in carriers], default=0.0)
            relative = tolerances.weight_error(dtype, max(scale, theirs), eps)
            record("entropy", entropy[i], oracle.entropy, 2 * relative * float(oracle.entropy) + flushed)
        assert 0 <= entropy[i] <= np.log(atoms) * (1 + 1e-6) + 1e-12
        with mpmath.workdps(oracles.DIGITS):
            pull = oracle.weights[:, None] * arrow
            steepest = float(np.abs(arrow[present]).max())
            carried = float(max(c for c, w in zip(cost, oracle.weights, strict=True) if w > 1e-30))
            want_scale += float((oracle.weights * cost).sum()) / SCALE
        record("gradient in x", into.x[i], pull.sum(axis=0), error * steepest)
        want_y -= pull.astype(float)
        want_g += oracle.weights.astype(float)
        want_eps -= float(oracle.entropy)
        allowed_y += error * steepest
        allowed_g += error
        allowed_scale += (error * carried + rounding) / SCALE
    record("gradient in y", into.y, want_y, allowed_y)
    record("gradient in g", into.g, want_g, allowed_g)
    record("gradient in eps", d_eps, want_eps, 4 * allowed_g)
    record("gradient in scale", d_scale, want_scale, allowed_scale)
    return worst


def check(d: int, queries: int, dtype: Any, implementation: str, atoms: int = ATOMS) -> None:
    over = {
        (kind, eps, name): round(ratio, 2)
        for kind in KINDS
        for eps in TEMPERATURES
        for name, ratio in ratios(kind, d, queries, dtype, implementation, eps, atoms).items()
        if not ratio <= 1
    }
    assert not over, f"{len(over)} errors beyond the table, in units of what it allows: {over}"


# Each form of a tile; more dimensions of each are slow tests.
@pytest.mark.parametrize("d", [1, 3, 9, 32, *(pytest.param(d, marks=pytest.mark.slow) for d in (2, 8, 128))])
def test_values_and_gradients_over_fourteen_decades_of_eps(precision, d):
    check(d, 1 if d == 128 else 2, precision, "streaming")


@pytest.mark.parametrize("d", [9])
def test_the_dense_definition_keeps_the_same_promise(precision, d):
    check(d, 2, precision, "dense")


@pytest.mark.parametrize("atoms", [1, 3])
def test_a_few_atoms_one_by_one_keep_the_same_promise(precision, atoms):
    check(2, 2, precision, "dense", atoms=atoms)


@pytest.mark.slow
def test_many_queries_run_in_columns_and_keep_the_same_promise(precision):
    check(2, 33, precision, "streaming", atoms=7)


@pytest.mark.parametrize("d", [2, 9])
def test_a_single_atom_has_the_cost_as_value_and_no_entropy(precision, d):
    check(d, 1, precision, "streaming", atoms=1)


@pytest.mark.parametrize("implementation", ["dense", "streaming"])
@pytest.mark.parametrize("d", [1, 9])
@pytest.mark.parametrize("rare", [1e-6, 1e-12, 1e-30])
def test_entropy_keeps_its_relative_accuracy_when_it_is_tiny(precision, implementation, d, rare):
    y = np.zeros((3, d))
    g = np.float32([0.0, -np.log(rare) / 4, -np.log(rare) / 4]).astype(float)
    x = np.zeros((2, d))
    oracle = oracles.softmin(oracles.costs(x[0], y, oracles.squared()), g, 0.25)
    assert float(oracle.entropy) < 150 * rare
    arrays = [jnp.asarray(a, precision) for a in (x, y, g)]
    got = gibbs_entropy(*arrays, eps=0.25, implementation=implementation)
    np.testing.assert_allclose(got, float(oracle.entropy), rtol=tolerances.weight_error(precision, oracle.scale, 0.25))


# Properties, by hypothesis. One shape, so that everything compiles once.

POINTS = st.floats(-8, 8, width=32)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    x = draw(hnp.arrays(np.float64, (3, 2), elements=POINTS))
    y = draw(hnp.arrays(np.float64, (6, 2), elements=POINTS))
    g = draw(hnp.arrays(np.float64, 6, elements=st.one_of(POINTS, st.just(np.inf))))
    g[draw(st.integers(0, 5))] = draw(POINTS)  # at least one is present
    return x, y, g, 10.0 ** draw(st.floats(-8, 6))


@functools.cache
def _jitted(implementation: str) -> Callable[..., Any]:
    return jax.jit(functools.partial(hjax.softmin, implementation=implementation))


def soft(x: Any, y: Any, g: Any, eps: float) -> np.ndarray:
    with enable_x64(True):
        return np.asarray(_jitted("streaming")(x, y, g, eps=jnp.asarray(eps)).value)


def hard(x: Any, y: Any, g: Any) -> np.ndarray:
    with enable_x64(True):
        return np.asarray(_hardmin(x, y, g).value)


_hardmin = jax.jit(functools.partial(hjax.hardmin, implementation="streaming"))


def slack(*numbers: Any) -> float:
    """Rounding of a value between these and costs of up to 2 * 16^2."""
    return tolerances.value_error(np.float64, 600.0 + sum(float(np.abs(n).max()) for n in numbers))


@hypothesis.given(problems())
def test_softmin_lies_below_hardmin_by_at_most_eps_log_n(problem):
    x, y, g, eps = problem
    gap = hard(x, y, g) - soft(x, y, g, eps)
    assert (gap >= -slack(eps * 2)).all()
    assert (gap <= eps * np.log(np.isfinite(g).sum()) + slack(eps * 2)).all()


@hypothesis.given(problems())
def test_softmin_tends_to_hardmin(problem):
    x, y, g, _ = problem
    gaps = np.array([hard(x, y, g) - soft(x, y, g, eps) for eps in (1.0, 1e-2, 1e-4, 1e-8)])
    assert (np.diff(gaps, axis=0) <= slack()).all()
    assert (gaps[-1] <= 1e-8 * np.log(6) + slack()).all()


@hypothesis.given(problems(), st.floats(-1e6, 1e6))
def test_adding_a_constant_to_g_shifts_the_value(problem, constant):
    x, y, g, eps = problem
    moved = soft(x, y, g + constant, eps)
    np.testing.assert_allclose(moved, soft(x, y, g, eps) + constant, rtol=0, atol=slack(constant, eps * 2))


@hypothesis.given(problems(), st.integers(0, 5))
def test_duplicating_an_atom_lowers_the_value_by_at_most_eps_log_2(problem, j):
    x, y, g, eps = problem
    drop = soft(x, y, g, eps) - soft(x, np.vstack([y, y[j]]), np.append(g, g[j]), eps)
    assert (drop >= -slack(eps * 2)).all()
    assert (drop <= eps * np.log(2) + slack(eps * 2)).all()


@hypothesis.given(problems(), hnp.arrays(np.float64, 6, elements=st.floats(0, 8)))
def test_the_value_is_monotone_in_g(problem, rise):
    x, y, g, eps = problem
    change = soft(x, y, g + rise, eps) - soft(x, y, g, eps)
    assert (change >= -slack(eps * 2)).all()
    assert (change <= rise.max() + slack(eps * 2)).all()


@hypothesis.given(problems(), hnp.arrays(np.float64, 2, elements=st.integers(-1000, 1000)))
def test_translating_everything_changes_nothing(problem, shift):
    x, y, g, eps = problem
    # Multiples of 1/64 are exact after the shift, so the two sides have the same inputs.
    x, y = np.round(x * 64) / 64, np.round(y * 64) / 64
    np.testing.assert_allclose(soft(x + shift, y + shift, g, eps), soft(x, y, g, eps), rtol=0, atol=slack(eps * 2))


@hypothesis.given(problems(), st.permutations(range(6)))
def test_the_order_of_the_atoms_does_not_matter(problem, order):
    x, y, g, eps = problem
    np.testing.assert_allclose(
        soft(x, y[list(order)], g[list(order)], eps), soft(x, y, g, eps), rtol=0, atol=slack(eps * 2)
    )


@hypothesis.given(problems())
def test_dense_and_streaming_are_the_same_function(problem):
    x, y, g, eps = problem
    with enable_x64(True):
        dense = np.asarray(_jitted("dense")(x, y, g, eps=jnp.asarray(eps)).value)
    np.testing.assert_allclose(soft(x, y, g, eps), dense, rtol=0, atol=slack(eps * 2))
