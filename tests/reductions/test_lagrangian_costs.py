"""Costs of Hamiltonians: against NumPy in float64, finite differences, SciPy's k-d tree; atoms out of reach."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy.spatial import cKDTree

import hjax
from hjax.reductions import gibbs_entropy, gibbs_weights

from .. import tolerances
from .test_memory import MEGABYTE, temporaries

BUILD = {"Power": hjax.Power, "Relativistic": hjax.Relativistic, "Eikonal": hjax.Eikonal}
PARAMETER = {"Power": 4.0, "Relativistic": 1.5, "Eikonal": 0.9}
IMPLEMENTATIONS = ["dense", "streaming"]
# What is dense about derivatives does not depend on the Hamiltonian.
DERIVATIVES = [("Relativistic", "dense"), ("Relativistic", "streaming"), ("Power", "streaming")]


def lagrangian(name: str, v: np.ndarray, parameter: float) -> np.ndarray:
    """L by its textbook formula."""
    square = np.square(v).sum(-1)
    if name == "Power":
        return (parameter - 1) * (np.sqrt(square) / parameter) ** (parameter / (parameter - 1))
    if name == "Relativistic":
        return np.where(square <= 1, -parameter * np.sqrt(np.maximum(1 - square, 0)), np.inf)
    return np.where(square <= parameter**2, 0, np.inf)


class Inputs(NamedTuple):
    """All differentiable inputs; the parameter is the Hamiltonian's own."""

    x: Any
    y: Any
    g: Any
    payload: Any
    eps: Any
    parameter: Any
    t: Any


def inputs(name: str, m: int, n: int, d: int = 2, eps: float = 0.3) -> Inputs:
    """Some queries that stand on an atom, one (the last) that nothing reaches, two absent atoms, one far away."""
    rng = np.random.default_rng(n)
    x, y, g = rng.normal(size=(m, d)), rng.normal(size=(n, d)), rng.normal(size=n)
    x[0], x[-1], y[-1], g[:2] = y[2], 50.0, -70.0, np.inf
    return Inputs(x, y, g, rng.normal(size=(n, 2)), eps, PARAMETER[name], 0.7)


def cast(given: Inputs, dtype: Any) -> Inputs:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), given)


class Answer(NamedTuple):
    value: Any
    mean: Any
    hard: Any
    index: Any
    entropy: Any


def brute(name: str, a: Inputs) -> Answer:
    """Everything by the definition, in NumPy."""
    costs = a.t * lagrangian(name, (a.x[:, None] - a.y) / a.t, a.parameter) + a.g
    hard = costs.min(axis=1)
    none = np.isinf(hard)
    weights = np.exp(-(costs - np.where(none, 0, hard)[:, None]) / a.eps)
    total = np.where(none, 1, weights.sum(axis=1))
    gibbs = weights / total[:, None]
    entropy = -np.sum(gibbs * np.log(np.where(gibbs > 0, gibbs, 1)), axis=1)
    value = hard - a.eps * np.log(total)
    return Answer(value, gibbs @ a.payload, hard, costs.argmin(axis=1), entropy)


def ours(name: str, implementation: str | None, a: Inputs) -> Answer:
    cost = hjax.LagrangianCost(BUILD[name](a.parameter), a.t)
    common = {"cost": cost, "implementation": implementation}
    soft = hjax.softmin(a.x, a.y, a.g, eps=a.eps, payload=a.payload, **common)
    hard = hjax.hardmin(a.x, a.y, a.g, **common)
    return Answer(*soft, *hard, gibbs_entropy(a.x, a.y, a.g, eps=a.eps, **common))


def functional(answer: Answer) -> Any:
    """One number that depends on all that is finite."""
    xp = np if isinstance(answer.value, np.ndarray) else jnp
    finite = [xp.where(xp.isinf(a), 0, a) for a in (answer.value, answer.hard)]
    entropy = xp.sum(xp.cos(answer.entropy))
    return xp.sum(xp.sin(finite[0])) + xp.sum(xp.cos(finite[1])) + xp.sum(xp.sin(answer.mean)) + entropy


@functools.cache
def program(name: str, implementation: str) -> Callable[[Inputs, Inputs], tuple[Inputs, Inputs, Answer]]:
    """The gradient of the functional in all inputs, its derivative along a direction, and the answer."""

    def gradient(a: Inputs) -> tuple[Inputs, Answer]:
        def total(a: Inputs) -> tuple[Array, Answer]:
            answer = ours(name, implementation, a)
            return functional(answer), answer

        return jax.grad(total, has_aux=True)(a)

    return jax.jit(lambda a, v: jax.jvp(gradient, (a,), (v,), has_aux=True))


def direction(given: Inputs) -> Inputs:
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda a: rng.normal(size=np.shape(a)), given)


@pytest.mark.parametrize(("name", "implementation"), DERIVATIVES)
def test_values_and_derivatives_are_those_of_the_definition(double, name, implementation):
    given = inputs(name, 9, 520)  # two tiles of atoms
    v = direction(given)
    run = program(name, implementation)
    slope, _, got = run(cast(given, double), cast(v, double))
    want = brute(name, given)
    for ours_, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours_, theirs, rtol=1e-12, atol=1e-13)
    if name != "Power":
        assert got.value[-1] == got.hard[-1] == np.inf
        assert got.index[-1] == got.entropy[-1] == 0
        assert not np.any(got.mean[-1])

    # Finite differences of the definition: along one direction in all inputs, and in each number alone.
    def moved(h: float, v: Inputs) -> Any:
        present = np.isfinite(given.g)
        v = v._replace(g=np.where(present, v.g, 0))
        return functional(brute(name, jax.tree.map(lambda a, b: np.asarray(a + h * b), given, v)))

    still = jax.tree.map(np.zeros_like, v)
    alone = [still._replace(**{field: np.ones(())}) for field in ("eps", "parameter", "t")]
    for way in (v, *alone):
        difference = (moved(1e-5, way) - moved(-1e-5, way)) / 2e-5
        exact = sum(np.vdot(p, q) for p, q in zip(jax.tree.leaves(slope), jax.tree.leaves(way), strict=True))
        np.testing.assert_allclose(exact, difference, rtol=1e-6, atol=1e-6)

    # The second derivatives: differences of the first, off the atom on which the power 4/3 has none.
    given, h = given._replace(x=given.x + 0.01), 1e-6
    minus, here, plus = (
        run(cast(jax.tree.map(lambda a, b, s=s: a + s * b, given, v), double), cast(v, double)) for s in (-h, 0, h)
    )
    for second, after, before in zip(*map(jax.tree.leaves, (here[1], plus[0], minus[0])), strict=True):
        np.testing.assert_allclose(second, (after - before) / (2 * h), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "implementation"), DERIVATIVES)
@pytest.mark.parametrize("eps", [1e-8, 0.3, 1e6])
def test_no_derivative_is_nan_at_any_temperature_and_pairs_out_of_reach_have_none(double, name, implementation, eps):
    given = cast(inputs(name, 9, 520, eps=eps), double)
    slope, curvature, got = program(name, implementation)(given, jax.tree.map(jnp.ones_like, given))
    for leaf in jax.tree.leaves((slope, curvature)):
        assert np.isfinite(leaf).all()
    assert not np.isnan(got.value).any()
    if name == "Power":
        return
    for part in (slope, curvature):
        assert not np.any(part.x[-1])
        for atom in (0, 1, -1):
            assert not np.any(part.y[atom])
            assert not np.any(part.g[atom])
            assert not np.any(part.payload[atom])


@pytest.mark.parametrize("name", ["Power", "Relativistic"])
def test_single_precision_stays_single_and_accurate(name):
    given = cast(inputs(name, 9, 40), np.float32)
    got = jax.jit(functools.partial(ours, name, "streaming"))(given)
    want = brute(name, jax.tree.map(lambda a: np.asarray(a, np.float64), given))
    scale = 1 + np.abs(want.value[np.isfinite(want.value)]).max()
    for ours_, theirs in ((got.value, want.value), (got.hard, want.hard)):
        assert ours_.dtype == np.float32
        # The root at the light cone has an error of its own.
        np.testing.assert_allclose(ours_, theirs, rtol=0, atol=4 * tolerances.value_error(np.float32, scale))


def test_an_eikonal_minimum_is_the_least_value_within_a_ball():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(size=(400, 2)).astype(np.float32), rng.uniform(size=(3000, 2)).astype(np.float32)
    g = rng.normal(size=3000).astype(np.float32)
    g[rng.random(3000) < 0.5] = np.inf
    speed, t = 0.25, 0.125
    near = cKDTree(y.astype(float)).query_ball_point(x.astype(float), speed * t)
    want = [min((g[j] for j in found), default=np.inf) for found in near]
    value, index = hjax.hardmin(x, y, g, cost=hjax.LagrangianCost(hjax.Eikonal(speed), t))
    np.testing.assert_allclose(value, want, rtol=0, atol=tolerances.value_error(np.float32, 4))
    reached = np.isfinite(want)
    assert 0 < reached.sum() < 400
    np.testing.assert_array_equal(g[index[reached]], np.asarray(want)[reached])
    assert not np.any(index[~reached])


def test_power_of_two_is_the_squared_euclidean_cost(double):
    given = cast(inputs("Power", 9, 520), double)

    @jax.jit
    def run(cost: hjax.Cost) -> hjax.SoftMin:
        return hjax.softmin(given.x, given.y, given.g, eps=0.3, cost=cost, payload=given.payload)

    got, want = run(hjax.LagrangianCost(hjax.Power(2), 0.7)), run(hjax.SquaredEuclidean(1 / 2.8))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("metric", [None, 2.5, np.array([[2.0, 0.5], [0.5, 1.0]])])
def test_a_quadratic_hamiltonian_takes_the_fast_form(metric):
    given = cast(inputs("Power", 9, 40), np.float32)
    cost = hjax.LagrangianCost(hjax.Quadratic(metric), 0.7)
    matrix = 1.0 if metric is None else metric
    fast = hjax.Mahalanobis(matrix, 1 / 2.8) if np.ndim(matrix) else hjax.SquaredEuclidean(1 / (2.8 * matrix))
    many = jax.ShapeDtypeStruct((10_000, 2), np.float32)
    values = jax.ShapeDtypeStruct((10_000,), np.float32)
    assert "coordinate by coordinate" in hjax.which_implementation(many, many, values, cost=cost).reason
    got, want = (hjax.hardmin(given.x, given.y, given.g, cost=c).value for c in (cost, fast))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    by_pairs = jax.vmap(cost)(given.x, given.y[:9])
    np.testing.assert_allclose(by_pairs, jax.vmap(fast)(given.x, given.y[:9]), rtol=1e-5)


class Wall(eqx.Module):
    """A user's cost that ends in a wall."""

    width: Array

    def __call__(self, x: Array, y: Array) -> Array:
        length = jnp.abs(x - y).sum()
        return jnp.where(length < self.width, jnp.sin(self.width * length), jnp.inf)


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "pruned"])
def test_a_causal_query_sees_what_is_in_reach_and_not_later(double, implementation):
    rng = np.random.default_rng(1)
    y, g, width = rng.normal(size=(30, 2)), rng.normal(size=30), 1.3
    length = np.abs(y[:, None] - y).sum(-1)
    costs = np.where((length < width) & np.tri(30, dtype=bool), np.sin(width * length), np.inf) + g
    run = functools.partial(hjax.softmin, eps=0.2, cost=Wall(jnp.asarray(width)), implementation=implementation)
    got = run(y, y, g, causal=True).value
    np.testing.assert_allclose(got, -0.2 * np.log(np.exp(-costs / 0.2).sum(axis=1)), rtol=1e-12)


def test_weights_written_out_vanish_out_of_reach():
    y, g = jnp.arange(4.0)[:, None], jnp.array([jnp.inf, 0.0, 0.0, 0.0])
    cost = hjax.LagrangianCost(hjax.Eikonal(1.0), 1.0)
    weights = gibbs_weights(jnp.array([[1.5], [9.0]]), y, g, eps=1.0, cost=cost)
    np.testing.assert_allclose(weights, [[0, 0.5, 0.5, 0], [0, 0, 0, 0]], atol=1e-7)


class NanAt(eqx.Module):
    place: Array

    def __call__(self, x: Array, y: Array) -> Array:
        return jnp.where((x[0] == 1) & (y[0] == self.place), jnp.nan, jnp.abs(x - y)[0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nan_is_not_hidden(implementation):
    """One pair of 3 x 520 costs NaN, in the second tile: its query shows it, the others do not."""
    x, y, g = jnp.array([[0.0], [1.0], [2.0]]), jnp.arange(520.0)[:, None], jnp.zeros(520)

    @jax.jit
    def run(place: Array) -> tuple:
        common = {"cost": NanAt(place), "implementation": implementation}
        soft = hjax.softmin(x, y, g, eps=0.5, payload=y, **common)
        return soft, hjax.hardmin(x, y, g, **common), gibbs_entropy(x, y, g, eps=0.5, **common)

    soft, hard, entropy = run(jnp.asarray(515.0))
    for result in (soft.value, soft.mean[:, 0], hard.value, entropy):
        assert np.isnan(result).tolist() == [False, True, False]
    assert hard.index.tolist() == [0, 515, 2]


def test_value_and_gradient_in_all_inputs_fit_64_megabytes():
    def value(x: Array, y: Array, g: Array, payload: Array, eps: Array, t: Array) -> Array:
        soft = hjax.softmin(x, y, g, eps=eps, cost=hjax.LagrangianCost(hjax.Power(1 + t), t), payload=payload)
        return jnp.sum(soft.value) + jnp.sum(soft.mean**2)

    # One 40,960 x 40,960 float32 matrix is 6,400 MB.
    assert temporaries(jax.value_and_grad(value, argnums=tuple(range(6))), 40_960, 3) < 64 * MEGABYTE


def test_on_a_grid_each_axis_has_the_hamiltonian_of_its_own(double):
    rng = np.random.default_rng(3)
    axes = [np.cumsum(rng.uniform(0.02, 0.3, n)) for n in (23, 17)]
    g = rng.normal(size=(23, 17))
    g[rng.random(g.shape) < 0.6] = np.inf
    g[:, 3] = g[:, -4:] = np.inf
    t, names = 0.3, ("Power", "Eikonal")
    costs = [hjax.LagrangianCost(BUILD[name](PARAMETER[name]), t) for name in names]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    steps = (points[:, None] - points)[..., None] / t
    total = sum(t * lagrangian(name, steps[:, :, k], PARAMETER[name]) for k, name in enumerate(names)) + g.ravel()
    least = total.min(axis=1)
    assert np.isinf(least).any()
    for eps in (1e-9, 0.1):
        with np.errstate(divide="ignore"):
            want = least if eps < 1e-3 else -eps * np.log(np.exp(-total / eps).sum(axis=1))
        got = hjax.on_grid(g, axes, eps=eps, cost=costs)
        np.testing.assert_allclose(got, want.reshape(g.shape), rtol=1e-12, atol=1e-12 + (eps < 1e-3) * 1e-8)


def test_one_cost_for_several_axes_is_refused_unless_it_is_their_sum():
    g, axes = np.zeros((4, 3), np.float32), [np.arange(4.0), np.arange(3.0)]
    with pytest.raises(
        ValueError, match=r"Power in 2 dimensions, which is not a sum over the axes; pass \[cost\] \* 2"
    ):
        hjax.on_grid(g, axes, eps=None, cost=hjax.LagrangianCost(hjax.Power(4), 1.0))
    quadratic = hjax.LagrangianCost(hjax.Quadratic(np.array([0.5, 2.0])), 0.25)
    g[0, 1:] = 3.0
    want = hjax.on_grid(g, axes, eps=None, cost=hjax.Mahalanobis(np.array([0.5, 2.0])))
    np.testing.assert_allclose(hjax.on_grid(g, axes, eps=None, cost=quadratic), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: hjax.LagrangianCost(hjax.Power, 1.0), "hamiltonian is Power; pass an instance"),
        (lambda: hjax.LagrangianCost(4.0, 1.0), "hamiltonian is float; pass an instance"),
        (lambda: hjax.LagrangianCost(hjax.Power(4), 0.0), "t must be positive"),
        (lambda: hjax.LagrangianCost(hjax.Power(4), np.ones(2)), r"t must be one number, got shape \(2,\)"),
        (
            lambda: hjax.hardmin(
                np.zeros(2), np.zeros((3, 2)), np.zeros(3), cost=hjax.LagrangianCost(hjax.Quadratic(np.ones(3)), 1.0)
            ),
            r"\(3,\).*2 coordinates",
        ),
    ],
)
def test_bad_input_is_answered_by_one_sentence(build, words):
    with pytest.raises(ValueError, match=words):
        build()
