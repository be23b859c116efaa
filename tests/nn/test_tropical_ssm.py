"""Max-plus systems against NumPy loops, and positive linear systems in 50 digits against their logarithms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import hjax

from .. import tolerances


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def _system(seed=0, n=4, d=2, q=3):
    rng = np.random.default_rng(seed)
    a = np.where(rng.random((n, n)) < 0.3, -np.inf, rng.normal(size=(n, n)))
    return a, rng.normal(size=(n, d)), rng.normal(size=(q, n)), rng.normal(size=(12, d))


def _max_plus(a, b, c, x):
    state, outputs = np.full(len(a), -np.inf), []
    for u in x:
        state = np.maximum((a + state).max(axis=1), (b + u).max(axis=1))
        outputs.append((c + state).max(axis=1))
    return np.array(outputs)


def _linear_in_logarithms(a, b, c, x, eps):
    """`eps log` of the outputs of the positive linear system, in 50 digits: no maximum is taken anywhere."""
    with mpmath.workdps(50):
        power = np.frompyfunc(lambda v: mpmath.exp(mpmath.mpf(float(v)) / mpmath.mpf(eps)), 1, 1)
        logarithm = np.frompyfunc(lambda v: float(mpmath.mpf(eps) * mpmath.log(v)), 1, 1)
        a, b, c, x = (power(v) for v in (a, b, c, x))
        state, outputs = np.array([mpmath.mpf(0)] * len(a)), []
        for u in x:
            state = a @ state + b @ u
            outputs.append(logarithm(c @ state))
    return np.array(outputs, float)


def test_the_hard_system_is_a_numpy_loop_of_maxima(precision):
    a, b, c, x = (v.astype(precision) for v in _system())
    system = hjax.nn.TropicalSSM.from_arrays(a, b, c)
    got = eqx.filter_jit(lambda s, x: s(x))(system, x)
    assert got.dtype == precision
    np.testing.assert_allclose(got, _max_plus(a, b, c, x), atol=4 * tolerances.of(precision).atol)
    # Integers are added and compared without rounding.
    whole = [np.round(3 * v) for v in _system(seed=1)]
    system = hjax.nn.TropicalSSM.from_arrays(*whole[:3])
    np.testing.assert_array_equal(
        eqx.filter_jit(lambda s, x: s(x))(system, whole[3].astype(precision)), _max_plus(*whole)
    )


def test_a_positive_system_in_logarithms_tends_to_the_max_plus_system(double):
    """Exact at each eps, and 0 <= Y_eps - Y_0 <= k eps log(n + d) + eps log n, which falls with eps."""
    a, b, c, x = _system()
    n, d = b.shape
    hard, run, gaps = _max_plus(a, b, c, x), eqx.filter_jit(lambda s, x: s(x)), []
    for eps in (0.3, 0.03, 0.003):
        soft = np.asarray(run(hjax.nn.TropicalSSM.from_arrays(a, b, c, eps=eps), x))
        exact = _linear_in_logarithms(a, b, c, x, eps)
        np.testing.assert_allclose(soft, exact, atol=1e-13)
        bound = eps * (np.arange(1, 13)[:, None] * np.log(n + d) + np.log(n))
        assert ((soft - hard > -1e-13) & (soft - hard <= bound)).all()
        gaps.append((soft - hard).max())
        system = hjax.nn.TropicalSSM.from_arrays(a, b, c, eps=eps)
        np.testing.assert_allclose(run(system.tropical(), x), hard, atol=1e-13)
    assert gaps[0] > 0.05
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]


def test_a_positive_linear_system_is_its_logarithm(precision):
    """In plain numbers: NumPy's recurrence of nonnegative matrices, zeros included."""
    rng, eps = np.random.default_rng(3), 0.2
    a, b, c, x = (rng.uniform(size=s).astype(precision) for s in ((3, 3), (3, 2), (1, 3), (9, 2)))
    a[0, 1] = b[2, 0] = x[3, 1] = 0
    state, want = np.zeros(3), []
    for u in x.astype(float):
        state = a @ state + b @ u
        want.append(c @ state)
    system = hjax.nn.TropicalSSM.from_positive(a, b, c, eps=eps)
    with np.errstate(divide="ignore"):
        got = eqx.filter_jit(lambda s, x: s(x))(system, eps * np.log(x))
    np.testing.assert_allclose(np.exp(got / eps), want, rtol=64 * tolerances.of(precision).rtol)


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_gradients_are_differences_of_a_numpy_loop(double, eps):
    """With absent arrows, whose derivative is zero, and at rest; a maximum passes its derivative to the winner."""
    a, b, c, x = _system()
    system = hjax.nn.TropicalSSM.from_arrays(a, b, c, eps=eps)
    weights = _normal(12, 3, seed=5)
    slopes = eqx.filter_jit(eqx.filter_grad(lambda s: jnp.sum(weights * s(x))))(system)

    def value(arrays):
        if not eps:
            return np.sum(weights * _max_plus(*arrays, x))
        state, total = np.full(4, -np.inf), 0.0
        for w, u in zip(weights, x, strict=True):
            both = np.concatenate([arrays[0] + state, arrays[1] + u], axis=1) / eps
            state = eps * np.log(np.exp(both).sum(axis=1))
            total += w @ (eps * np.log(np.exp((arrays[2] + state) / eps).sum(axis=1)))
        return total

    for i, slope in enumerate((slopes.state_weight, slopes.input_weight, slopes.output_weight)):
        for place in np.ndindex(slope.shape):
            arrays = [[v.copy() for v in (a, b, c)] for _ in range(2)]
            arrays[0][i][place] += 1e-6
            arrays[1][i][place] -= 1e-6
            difference = (value(arrays[0]) - value(arrays[1])) / 2e-6
            np.testing.assert_allclose(slope[place], difference, atol=1e-7)
    np.testing.assert_array_equal(slopes.start, np.zeros(4))


def test_adding_a_number_to_inputs_and_state_adds_it_to_outputs(double):
    """Max-plus linearity, which a switch has not (theory.md 5.5.c)."""
    x = jnp.asarray(_normal(7, 2))
    for eps in (0.0, 0.5):
        system = hjax.nn.TropicalSSM(2, 3, 4, eps=eps, key=jax.random.key(0))
        run = eqx.filter_jit(lambda s, x, start: s(x, start))
        base, moved = run(system, x, jnp.zeros(4)), run(system, x + 2.5, jnp.full(4, 2.5))
        np.testing.assert_allclose(moved, base + 2.5, atol=1e-13)
        assert system.describe().eps == eps


def test_the_memory_of_a_gradient_holds_states_and_no_sums():
    steps, n = 2_000, 32
    params, rest = eqx.partition(hjax.nn.TropicalSSM(4, 4, n, eps=0.1, key=jax.random.key(0)), eqx.is_array)

    def loss(params, x):
        return jnp.mean(eqx.combine(params, rest)(x) ** 2)

    x = jax.ShapeDtypeStruct((steps, 4), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * steps * n * 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.TropicalSSM(1, 1, 0, key=jax.random.key(0)), "state_size is 0"),
        (lambda: hjax.nn.TropicalSSM(1, 1, 2, eps=-0.1, key=jax.random.key(0)), "eps must be positive"),
        (lambda: hjax.nn.TropicalSSM(1, 1, 2, key=jax.random.key(0))(jnp.zeros(3)), r"pass x\[:, None\]"),
        (
            lambda: hjax.nn.TropicalSSM.from_arrays([[0.0]], [[0.0], [1.0]], [[0.0]]),
            r"\(2, 1\), \(1, 1\), but \(n, n\)",
        ),
        (lambda: hjax.nn.TropicalSSM.from_arrays([[np.inf]], [[0.0]], [[0.0]]), r"A contains \+inf"),
        (lambda: hjax.nn.TropicalSSM.from_arrays([[0.0]], [[np.nan]], [[0.0]]), "B contains NaN"),
        (lambda: hjax.nn.TropicalSSM.from_positive([[1.0]], [[1.0]], [[1.0]], eps=0.0), "eps must be positive"),
        (
            lambda: hjax.nn.TropicalSSM.from_positive([[0.5, -0.25], [0, 1]], [[1], [1]], [[1, 1]], eps=1.0),
            r"A has the negative entry -0.25 at \[0, 1\]: a signed system has no logarithm and no max-plus limit",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_a_signed_state_space_model_has_no_logarithm():
    model = hjax.nn.SSM(1, 1, 4, dt_min=1.0, dt_max=1.0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="no max-plus limit"):
        hjax.nn.TropicalSSM.from_positive(*model.discretized(), model.output_weight, eps=0.1)
