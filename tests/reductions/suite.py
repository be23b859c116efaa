"""What every implementation of the reductions promises. A subclass says `implementation = "..."`, no more.

The other side is `oracles.naive`, the textbook expression on the present atoms in float64, and mpmath.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import Array
from jax.test_util import check_grads

import hjax
from hjax.reductions import gibbs_entropy, gibbs_weights

from .. import oracles, tolerances
from ..conftest import enable_x64


class Stiffness(eqx.Module):
    """A user's cost: not quadratic, with a parameter that must receive its gradient."""

    stiffness: Array

    def __call__(self, x: Array, y: Array) -> Array:
        return jnp.sum(self.stiffness * jnp.sqrt(1 + (x - y) ** 2))


class CostCase(NamedTuple):
    """How to build a cost from its parameters theta, and the same cost in mpmath."""

    theta: Callable[[int], Any]
    build: Callable[[Any], Callable[[Array, Array], Array]]
    exact: Callable[[Any], Callable[[np.ndarray, np.ndarray], np.ndarray]]


def _full_metric(d: int) -> np.ndarray:
    root = np.tril(np.random.default_rng(d).normal(size=(d, d))) / np.sqrt(d)
    return np.eye(d) + root @ root.T


def _stiffness_exact(theta: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    root = np.frompyfunc(mpmath.sqrt, 1, 1)
    return lambda x, y: (oracles.exact(theta) * root(1 + (x - y) ** 2)).sum(axis=-1)


def _closure(theta: Array) -> Callable[[Array, Array], Array]:
    return lambda x, y: jnp.sum(jnp.cosh(theta * (x - y)))


def _closure_exact(theta: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    cosh = np.frompyfunc(mpmath.cosh, 1, 1)
    return lambda x, y: cosh(oracles.exact(theta) * (x - y)).sum(axis=-1)


COSTS = {
    "SquaredEuclidean": CostCase(
        lambda d: np.float64(0.75), lambda s: hjax.SquaredEuclidean(s), lambda s: oracles.squared(s)
    ),
    "Mahalanobis diagonal": CostCase(
        lambda d: {"metric": np.linspace(0.5, 2, d), "scale": np.float64(0.75)},
        lambda s: hjax.Mahalanobis(s["metric"], s["scale"]),
        lambda s: oracles.mahalanobis(s["metric"], s["scale"]),
    ),
    "Mahalanobis full": CostCase(
        lambda d: {"metric": _full_metric(d), "scale": np.float64(0.75)},
        lambda s: hjax.Mahalanobis((s["metric"] + s["metric"].T) / 2, s["scale"]),
        lambda s: oracles.mahalanobis(s["metric"], s["scale"]),
    ),
    "Bilinear": CostCase(
        lambda d: np.zeros(0), lambda s: hjax.Bilinear(), lambda s: lambda x, y: oracles.bilinear(x, y)
    ),
    "module": CostCase(lambda d: np.linspace(0.5, 1.5, d), Stiffness, _stiffness_exact),
    "closure": CostCase(lambda d: np.linspace(0.5, 1, d), _closure, _closure_exact),
}


class Inputs(NamedTuple):
    """All differentiable inputs of a soft-min."""

    x: Any
    y: Any
    g: Any
    payload: Any
    eps: Any
    theta: Any


def inputs(m: int, n: int, d: int, p: int, cost: str, *, absent: int = 0, eps: float = 0.5) -> Inputs:
    """Random inputs that float16 holds exactly; atoms 0 and N-1 are duplicates; `absent` of them are +inf."""
    rng = np.random.default_rng(1000 * m + 10 * n + d)

    def normal(*shape: int) -> np.ndarray:
        return np.round(rng.normal(size=shape) * 64) / 64

    y, g = normal(n, d) / np.sqrt(4 ** (d > 3)), normal(n)
    y[-1], g[-1] = y[0], g[0]
    if absent:
        g[rng.permutation(n)[:absent]] = np.inf
    theta = jax.tree.map(lambda a: np.round(np.asarray(a) * 1024) / 1024, COSTS[cost].theta(d))
    return Inputs(normal(m, d) / np.sqrt(4 ** (d > 3)), y, g, normal(n, p), np.float64(eps), theta)


def cast(given: Inputs, dtype: Any) -> Inputs:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), given)


@functools.cache
def compiled(implementation: str, cost: str, causal: bool = False) -> Callable[[Inputs], Any]:
    """(value, mean, hard value, index, entropy) by one implementation, jitted once per cost."""

    def run(a: Inputs) -> Any:
        built = COSTS[cost].build(a.theta)
        soft = hjax.softmin(
            a.x,
            a.y,
            a.g,
            eps=a.eps,
            cost=built,
            payload=a.payload,
            causal=causal,
            implementation=implementation,
        )
        if causal:
            return soft
        hard = hjax.hardmin(a.x, a.y, a.g, cost=built, implementation=implementation)
        entropy = gibbs_entropy(a.x, a.y, a.g, eps=a.eps, cost=built, implementation=implementation)
        return *soft, *hard, entropy

    return jax.jit(run)


def twin(given: Inputs, cost: str, causal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    with enable_x64(True):
        wide = cast(given, np.float64)
        value, mean = oracles.naive(
            wide.x, wide.y, wide.g, wide.eps, COSTS[cost].build(wide.theta), wide.payload,
            present=np.isfinite(given.g), causal=causal,
        )  # fmt: skip
        return np.asarray(value), np.asarray(mean)


def exact_at(given: Inputs, cost: str, i: int) -> oracles.Exact:
    theta = given.theta
    return oracles.softmin(oracles.costs(given.x[i], given.y, COSTS[cost].exact(theta)), given.g, float(given.eps))


# Sizes that do and do not divide the tiles; M x N, dimension, payload channels.
SIZES = [
    (1, 1, 1, 0),
    (31, 2, 2, 1),
    (32, 3, 3, 3),
    (33, 63, 8, 17),
    (1025, 64, 9, 64),
    (1, 65, 16, 3),
    (33, 513, 64, 1),
    (31, 1025, 128, 0),
    (1025, 1025, 1, 1),
    (5130, 65, 2, 3),
]
# Each cost, at least once in either form of a tile and in either precision.
COST_CASES = [
    ("Mahalanobis diagonal", 3, "float32"),
    ("Mahalanobis full", 3, "float64"),
    ("Mahalanobis full", 9, "float32"),
    ("Bilinear", 3, "float64"),
    ("Bilinear", 9, "float32"),
    ("SquaredEuclidean", 9, "float64"),
    ("module", 3, "float32"),
    ("closure", 3, "float64"),
]


class Case(NamedTuple):
    """What a derivative test is about; hashable, so that both implementations share the twin's side."""

    m: int
    n: int
    d: int
    p: int
    cost: str = "SquaredEuclidean"
    absent: int = 0
    causal: bool = False
    second: bool = True

    def inputs(self) -> Inputs:
        given = inputs(self.m, self.n, self.d, self.p, self.cost, absent=self.absent)
        if self.causal:
            given.g[0] = 0.25  # so that every query sees an atom
        return given


def _direction(given: Inputs) -> Inputs:
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda a: rng.normal(size=np.shape(a)), given)


def _everything(function: Callable[[Inputs], Any], second: bool, reverse: bool, a: Inputs, v: Inputs) -> dict[str, Any]:
    """jvp of (value, mean); gradient of one functional of them; its Hessian times v, both ways."""
    rng = np.random.default_rng(8)
    m, p = a.x.shape[0], a.payload.shape[1]
    weights = rng.normal(size=m), rng.normal(size=(m, p))

    def functional(a: Inputs) -> Array:
        value, mean = function(a)
        # Nonlinear, so that first derivatives enter the second ones.
        return jnp.sum(jnp.sin(value) * weights[0]) + jnp.sum(jnp.cos(mean) * weights[1])

    gradient = jax.grad(functional)
    out = {"jvp": jax.jvp(function, (a,), (v,))[1]}
    if not second:
        return out | {"grad": gradient(a)}
    out["grad"], out["forward over reverse"] = jax.jvp(gradient, (a,), (v,))
    if reverse:
        out["reverse over reverse"] = jax.grad(
            lambda a: sum(jnp.vdot(p, q) for p, q in zip(jax.tree.leaves(gradient(a)), jax.tree.leaves(v), strict=True))
        )(a)
    return out


@functools.cache
def _twin_derivatives(case: Case) -> dict[str, Any]:
    given = case.inputs()
    present = np.isfinite(given.g)

    def theirs(a: Inputs) -> Any:
        return oracles.naive(
            a.x,
            a.y,
            a.g,
            a.eps,
            COSTS[case.cost].build(a.theta),
            a.payload,
            present=present,
            causal=case.causal,
        )

    with enable_x64(True):
        program = jax.jit(functools.partial(_everything, theirs, case.second, False))
        want = jax.tree.map(np.asarray, program(cast(given, np.float64), cast(_direction(given), np.float64)))
    if case.second:
        want["reverse over reverse"] = want["forward over reverse"]
    return want


class Suite:
    """Subclass this, and set `implementation`."""

    implementation: str

    def agree_with_both_oracles(self, given: Inputs, cost: str, dtype: Any) -> None:
        got = compiled(self.implementation, cost)(cast(given, dtype))
        value, mean, hard, index, entropy = (np.asarray(a) for a in got)
        assert value.dtype == mean.dtype == hard.dtype == entropy.dtype == dtype
        assert index.dtype == np.int32
        want, want_mean = twin(given, cost)
        eps = float(given.eps)
        # d > 16 is promised to a few ulp of the squared diameter, which the sum of both norms bounds.
        scale = 1 + np.abs(want).max() + 8 * self.diameter(given)
        error = tolerances.value_error(dtype, scale)
        weight = tolerances.weight_error(dtype, scale, eps)
        np.testing.assert_allclose(value, want, atol=error, rtol=0)
        np.testing.assert_allclose(mean, want_mean, atol=weight * (1 + np.abs(given.payload).max(initial=0)), rtol=0)
        n = len(given.g)
        if n * given.x.shape[1] > 5000:
            return
        for i in sorted({0, len(value) // 2, len(value) - 1}):
            oracle = exact_at(given, cost, i)
            assert abs(float(oracle.value - float(value[i]))) <= error
            assert abs(float(oracle.hardmin - float(hard[i]))) <= error
            if given.payload.shape[1]:
                np.testing.assert_allclose(
                    mean[i], oracle.mean(oracles.exact(given.payload)).astype(float), atol=4 * weight, rtol=0
                )
            np.testing.assert_allclose(entropy[i], float(oracle.entropy), rtol=4 * weight, atol=0)

    @staticmethod
    def diameter(given: Inputs) -> float:
        """A squared length that no cost term exceeds."""
        return float(np.square(given.x).sum(-1).max() + np.square(given.y).sum(-1).max())

    @pytest.mark.parametrize(("m", "n", "d", "p"), SIZES)
    def test_squared_euclidean_of_every_size_agrees_with_both_oracles(self, m, n, d, p):
        # Precisions alternate over the sizes; the costs below run in both.
        dtype = np.dtype("float32" if n <= 65 else "float64")
        given = inputs(m, n, d, p, "SquaredEuclidean", absent=n // 3)
        with enable_x64(dtype == np.float64):
            self.agree_with_both_oracles(given, "SquaredEuclidean", dtype)

    @pytest.mark.parametrize(("cost", "d", "dtype"), COST_CASES)
    def test_every_cost_agrees_with_both_oracles(self, cost, d, dtype):
        with enable_x64(dtype == "float64"):
            self.agree_with_both_oracles(inputs(33, 65, d, 1, cost, absent=5), cost, np.dtype(dtype))

    @pytest.mark.parametrize(("n", "d"), [(70, 1), (520, 9), (3, 2)])
    def test_a_causal_query_sees_no_later_atom(self, double, n, d):
        given = inputs(n, n, d, 2, "SquaredEuclidean", absent=n // 4)
        given.g[0] = np.inf  # query 0 sees no atom at all
        value, mean = compiled(self.implementation, "SquaredEuclidean", True)(cast(given, double))
        want, want_mean = twin(given, "SquaredEuclidean", causal=True)
        assert np.isposinf(value[0])
        np.testing.assert_allclose(value, want, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(mean, want_mean, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("d", [2, 9])
    def test_all_atoms_absent_gives_inf_with_zero_mean_and_zero_derivatives(self, precision, d):
        given = cast(inputs(3, 4, d, 2, "SquaredEuclidean")._replace(g=np.full(4, np.inf)), precision)

        def run(a: Inputs) -> tuple[Array, Array]:
            soft = hjax.softmin(
                a.x, a.y, a.g, eps=a.eps, cost=hjax.SquaredEuclidean(a.theta), payload=a.payload,
                implementation=self.implementation,
            )  # fmt: skip
            hard = hjax.hardmin(a.x, a.y, a.g, implementation=self.implementation)
            entropy = gibbs_entropy(a.x, a.y, a.g, eps=a.eps, implementation=self.implementation)
            finite = jnp.where(jnp.isinf(soft.value), 0, soft.value) + jnp.where(jnp.isinf(hard.value), 0, hard.value)
            return finite.sum() + soft.mean.sum() + entropy.sum(), (soft, hard, entropy)

        (_, (soft, hard, entropy)), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(given)
        assert np.isposinf(soft.value).all()
        assert np.isposinf(hard.value).all()
        assert not np.any(soft.mean)
        assert not np.any(entropy)
        assert not np.any(hard.index)
        for gradient in jax.tree.leaves(gradients):
            assert not np.any(gradient)

    @pytest.mark.parametrize("batch", [(), (3,), (2, 5), (0,), (2, 0)])
    def test_any_batch_of_queries_keeps_its_shape(self, batch):
        given = cast(inputs(10, 4, 2, 3, "SquaredEuclidean"), np.float32)
        count = int(np.prod(batch))
        x = given.x[:count].reshape(*batch, 2)
        value, mean, hard, index, entropy = compiled(self.implementation, "SquaredEuclidean")(given._replace(x=x))
        assert value.shape == hard.shape == index.shape == entropy.shape == batch
        assert mean.shape == (*batch, 3)
        want, want_mean = twin(inputs(10, 4, 2, 3, "SquaredEuclidean"), "SquaredEuclidean")
        np.testing.assert_allclose(value.ravel(), want[:count], rtol=1e-5)
        np.testing.assert_allclose(mean.reshape(-1, 3), want_mean[:count], rtol=1e-5, atol=1e-6)

    def test_the_mean_is_none_without_a_payload_and_empty_with_an_empty_one(self):
        x, y, g = np.zeros((3, 2), np.float32), np.zeros((4, 2), np.float32), np.zeros(4, np.float32)
        run = functools.partial(hjax.softmin, x, y, g, eps=0.5, implementation=self.implementation)
        assert jax.jit(run)().mean is None
        assert jax.jit(lambda: run(payload=y[:, :0]))().mean.shape == (3, 0)

    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
    def test_half_precision_inputs_accumulate_in_single_and_round_once(self, dtype):
        given = inputs(7, 40, 3, 2, "SquaredEuclidean")
        low = cast(given, dtype)
        value, mean, hard, _, _ = compiled(self.implementation, "SquaredEuclidean")(low)
        assert value.dtype == mean.dtype == hard.dtype == dtype
        # The oracle takes the inputs as the low precision holds them.
        held = jax.tree.map(lambda a: np.asarray(a).astype(np.float64), low)
        want, want_mean = twin(held, "SquaredEuclidean")
        atol, rtol = tolerances.of(dtype)
        np.testing.assert_allclose(np.asarray(value).astype(float), want, rtol=rtol, atol=1e-5)
        np.testing.assert_allclose(np.asarray(mean).astype(float), want_mean, rtol=rtol, atol=atol / 8)

    def test_single_precision_inputs_stay_single_in_an_x64_session(self, double):
        given = cast(inputs(33, 65, 2, 1, "SquaredEuclidean"), np.float32)
        value, mean, hard, _, entropy = compiled(self.implementation, "SquaredEuclidean")(given)
        assert {a.dtype for a in (value, mean, hard, entropy)} == {np.dtype("float32")}

    def test_eps_may_be_a_python_number_an_array_or_traced(self):
        given = cast(inputs(5, 6, 2, 1, "SquaredEuclidean"), np.float32)

        def run(eps: Any) -> Array:
            return hjax.softmin(given.x, given.y, given.g, eps=eps, implementation=self.implementation).value

        traced = jax.jit(run)(2.0)
        for eps in (2, 2.0, np.float32(2), jnp.asarray(2.0)):
            np.testing.assert_allclose(jax.jit(functools.partial(run, eps))(), traced, rtol=1e-6)

    def test_duplicates_of_the_least_atom_give_its_first_index(self):
        y, g = jnp.zeros((600, 1)).at[:300].set(9.0), jnp.zeros(600)
        hard = hjax.hardmin(jnp.zeros((40, 1)), y, g, implementation=self.implementation)
        np.testing.assert_array_equal(hard.index, 300)

    # Derivatives. One random functional F of value and mean, all inputs at once: grad F carries every
    # first derivative, its directional derivatives every block of the Hessian.

    def derivatives(self, given: Inputs, case: Case, dtype: Any) -> tuple[Any, Any]:
        def ours(a: Inputs) -> Any:
            soft = hjax.softmin(
                a.x, a.y, a.g, eps=a.eps, cost=COSTS[case.cost].build(a.theta), payload=a.payload,
                causal=case.causal, implementation=self.implementation,
            )  # fmt: skip
            return soft.value, soft.mean

        program = jax.jit(functools.partial(_everything, ours, case.second, True))
        got = program(cast(given, dtype), cast(_direction(given), dtype))
        return got, _twin_derivatives(case)

    def assert_derivatives(self, dtype: Any, *sizes: int, **options: Any) -> None:
        case = Case(*sizes, **options)
        given = case.inputs()
        got, want = self.derivatives(given, case, dtype)
        chex.assert_tree_all_finite(got)
        scale = (1 + self.diameter(given)) / float(given.eps)
        for name, order in (
            ("jvp", 1),
            ("grad", 1),
            ("forward over reverse", 2),
            ("reverse over reverse", 2),
        ):
            if name not in want:
                continue
            for (path, a), (_, b) in zip(
                jax.tree_util.tree_leaves_with_path(got[name]),
                jax.tree_util.tree_leaves_with_path(want[name]),
                strict=True,
            ):
                largest = 1 + np.abs(b).max(initial=0)
                error = tolerances.of(dtype, derivative=order).rtol * scale**order * largest
                np.testing.assert_allclose(a, b, atol=4 * error, rtol=0, err_msg=f"{name}{jax.tree_util.keystr(path)}")

    @pytest.mark.parametrize("cost", list(COSTS))
    def test_every_derivative_to_second_order_in_every_input(self, double, cost):
        """grad, jvp, forward over reverse, reverse over reverse under jit; the closure's array is traced too."""
        self.assert_derivatives(double, 5, 7, 3, 2, cost=cost, absent=2, second=cost != "Mahalanobis diagonal")

    @pytest.mark.parametrize("d", [3, 9])
    def test_every_derivative_to_second_order_in_single_precision(self, d):
        self.assert_derivatives(np.dtype("float32"), 5, 7, d, 2, absent=2)

    def test_second_derivatives_over_several_tiles_of_a_matrix_product(self, double):
        self.assert_derivatives(double, 5, 520, 9, 1, absent=9)

    def test_second_derivatives_in_blocks_of_many_queries(self, double):
        self.assert_derivatives(double, 33, 5, 1, 1)

    def test_first_derivatives_over_several_tiles_of_many_queries(self, precision):
        self.assert_derivatives(precision, 33, 65, 1, 1, absent=5, second=False)

    @pytest.mark.parametrize("d", [2, 9])
    def test_derivatives_of_a_causal_reduction(self, double, d):
        self.assert_derivatives(double, 6, 6, d, 1, absent=1, causal=True, second=d == 2)

    @pytest.mark.parametrize("d", [2, 9])
    def test_entropy_has_the_derivatives_of_minus_sum_p_log_p(self, double, d):
        given = cast(inputs(4, 6, d, 0, "SquaredEuclidean"), double)

        def ours(a: Inputs) -> Array:
            cost = hjax.SquaredEuclidean(a.theta)
            s = gibbs_entropy(a.x, a.y, a.g, eps=a.eps, cost=cost, implementation=self.implementation)
            return jnp.sum(jnp.sin(s))

        def theirs(a: Inputs) -> Array:
            logits = -(a.theta * jnp.sum((a.x[:, None] - a.y) ** 2, axis=-1) + a.g) / a.eps
            log_p = jax.nn.log_softmax(logits, axis=1)
            return jnp.sum(jnp.sin(-jnp.sum(jnp.exp(log_p) * log_p, axis=1)))

        def both_orders(f: Callable) -> Callable:
            direction = jax.tree.map(jnp.cos, given)
            return jax.jit(lambda a: (f(a), jax.grad(f)(a), jax.jvp(jax.grad(f), (a,), (direction,))[1]))

        chex.assert_trees_all_close(both_orders(ours)(given), both_orders(theirs)(given), rtol=1e-9, atol=1e-10)

    def test_derivatives_agree_with_finite_differences(self, double):
        given = cast(inputs(2, 3, 2, 1, "SquaredEuclidean"), double)

        def run(*a: Array) -> Any:
            b = Inputs(*a)
            cost = hjax.SquaredEuclidean(b.theta)
            return hjax.softmin(
                b.x, b.y, b.g, eps=b.eps, cost=cost, payload=b.payload, implementation=self.implementation
            )

        check_grads(jax.jit(run), tuple(given), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize(("m", "d"), [(3, 2), (33, 1), (4, 9)])
    def test_vmap_over_any_and_all_inputs_equals_a_python_loop(self, double, m, d):
        """Value, mean and gradient under jit of vmap over x, over g, over eps, and over everything."""
        base = cast(inputs(m, 5, d, 1, "SquaredEuclidean"), double)
        batched = jax.tree.map(lambda a: jnp.stack([a, a * 1.25, a * 0.75 + 0.125]), base)

        def run(a: Inputs) -> Any:
            def total(a: Inputs) -> tuple[Array, Any]:
                soft = hjax.softmin(
                    a.x, a.y, a.g, eps=a.eps, cost=hjax.SquaredEuclidean(a.theta), payload=a.payload,
                    implementation=self.implementation,
                )  # fmt: skip
                return soft.value.sum() + soft.mean.sum(), soft

            return jax.value_and_grad(total, has_aux=True)(a)

        single = jax.jit(run)
        names = Inputs._fields
        for mapped in (("x",), ("g",), ("eps",), names) if m == 3 else (names,):
            axes = Inputs(*[0 if name in mapped else None for name in names])
            given = Inputs(*[b if name in mapped else a for name, a, b in zip(names, base, batched, strict=True)])
            got = jax.jit(jax.vmap(run, in_axes=(axes,)))(given)
            for k in range(3):
                one = Inputs(*[a[k] if name in mapped else a for name, a in zip(names, given, strict=True)])
                chex.assert_trees_all_close(
                    jax.tree.map(operator.itemgetter(k), got),
                    single(one),
                    rtol=1e-11,
                    atol=1e-12,
                )

    def test_hardmin_has_the_derivatives_of_the_chosen_cost(self, double):
        given = cast(inputs(40, 70, 2, 0, "SquaredEuclidean"), double)

        def run(x: Array, y: Array, g: Array) -> Array:
            return hjax.hardmin(x, y, g, implementation=self.implementation).value.sum()

        dx, dy, dg = jax.jit(jax.grad(run, argnums=(0, 1, 2)))(given.x, given.y, given.g)
        _, index = oracles.hopf_lax(*(np.asarray(a) for a in (given.x, given.y, given.g)), 0.25)
        np.testing.assert_allclose(dx, 2 * (given.x - given.y[index]), rtol=1e-14)
        np.testing.assert_array_equal(dg, np.bincount(index, minlength=70))
        np.testing.assert_allclose(np.sum(dy, 0), -np.sum(dx, 0), rtol=1e-12)

    def test_weights_written_out_are_the_derivative_in_g(self, double):
        given = cast(inputs(4, 7, 3, 0, "SquaredEuclidean", absent=2), double)

        def value(g: Array) -> Array:
            return hjax.softmin(given.x, given.y, g, eps=0.5, implementation=self.implementation).value

        weights = jax.jit(lambda: gibbs_weights(given.x, given.y, given.g, eps=0.5))()
        np.testing.assert_allclose(weights, jax.jit(jax.jacrev(value))(given.g), atol=1e-14)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-14)

    def test_new_numbers_of_old_shapes_are_not_traced_again(self):
        chex.clear_trace_counter()

        @jax.jit
        @chex.assert_max_traces(n=1)
        def run(a: Inputs) -> Any:
            return hjax.softmin(
                a.x,
                a.y,
                a.g,
                eps=a.eps,
                cost=hjax.SquaredEuclidean(a.theta),
                implementation=self.implementation,
            )

        given = cast(inputs(5, 6, 2, 0, "SquaredEuclidean"), np.float32)
        run(given)
        run(given._replace(eps=given.eps * 2, theta=given.theta * 3, g=given.g.at[0].set(jnp.inf)))
