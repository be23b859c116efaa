"""The selective state-space model against a NumPy loop written from its formulas, complex steps, and diffrax."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

from .. import tolerances


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def _made(*sizes, **options):
    return eqx.filter_jit(lambda k: hjax.nn.SelectiveSSM(*sizes, **options, key=k))(jax.random.key(1))


def _numpy_outputs(leaves, x, state):
    """One channel and one state after another; complex numbers may pass."""
    log_decay, step_weight, step_bias, input_weight, output_weight, feedthrough = leaves
    state, outputs = np.array(state, np.result_type(state, *leaves)), []
    for u in x:
        z = step_weight @ u + step_bias
        dt, b, c = np.log(1 + np.exp(z)), input_weight @ u, output_weight @ u
        y = feedthrough * u
        for i in range(len(u)):
            for j in range(len(b)):
                a = -np.exp(log_decay[i, j])
                state[i, j] = np.exp(dt[i] * a) * state[i, j] + (np.exp(dt[i] * a) - 1) / a * b[j] * u[i]
                y = y + np.eye(len(u))[i] * c[j] * state[i, j]
        outputs.append(y)
    return np.array(outputs)


def test_outputs_and_gradients_of_both_methods_are_those_of_a_numpy_loop(precision):
    model, x, state = _made(3, 2), _normal(40, 3).astype(precision), _normal(3, 2, seed=1).astype(precision)
    weights = _normal(40, 3, seed=2)

    @eqx.filter_jit
    def run(model, x, state):
        def loss(both, method):
            y = both[0](*both[1:], method=method)
            return jnp.sum(weights.astype(precision) * y), y

        slopes, outputs = zip(
            *(eqx.filter_grad(loss, has_aux=True)((model, x, state), m) for m in ("parallel", "sequential")),
            strict=True,
        )
        return outputs, slopes, [model(x[:t]) for t in (1, 3)]

    outputs, slopes, short = run(model, x, state)
    leaves = [np.asarray(v, float) for v in jax.tree.leaves(model)]
    want = _numpy_outputs(leaves, x.astype(float), state.astype(float))
    atol = 16 * tolerances.of(precision).atol * np.abs(want).max()
    for got in outputs:
        np.testing.assert_allclose(got, want, atol=atol)
    rest = _numpy_outputs(leaves, x[:3].astype(float), np.zeros((3, 2)))
    for got in short:
        np.testing.assert_allclose(got, rest[: len(got)], atol=atol)
    for one, other in zip(*map(jax.tree.leaves, slopes), strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, atol=64 * tolerances.of(precision).atol * np.abs(other).max())
    if precision == np.float64:
        for i, slope in enumerate(jax.tree.leaves(slopes[0][0])):
            for place in list(np.ndindex(slope.shape))[:4]:
                moved = [v.astype(complex) for v in leaves]
                moved[i][place] += 1e-30j
                derivative = np.sum(weights * _numpy_outputs(moved, x, state)).imag / 1e-30
                np.testing.assert_allclose(slope[place], derivative, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dt", "rtol"), [(1e-3, 2e-3), (300.0, 1e-6)])
def test_steps_of_any_length_in_single_precision(dt, rtol):
    """A clock that almost stands takes in dt x B; one that runs far forgets all and holds x B/|A|."""
    model = _made(2, 3, dt_min=dt, dt_max=dt)
    model = eqx.tree_at(lambda m: m.step_weight, model, jnp.zeros((2, 2)))
    u = jnp.array([0.7, -1.3])
    state = eqx.filter_jit(lambda m: m.step(jnp.zeros((2, 3)), u))(model)
    pushed = np.outer(u, np.asarray(model.input_weight) @ u)
    want = dt * pushed if dt < 1 else pushed / np.exp(model.log_decay)
    np.testing.assert_allclose(model.dt(u), dt, rtol=rtol)
    np.testing.assert_allclose(state, want, rtol=2 * rtol)


def test_the_states_solve_the_differential_equation(double):
    model, x = _made(3, 2, dt_min=0.3, dt_max=1.5), _normal(6, 3)
    states = eqx.filter_jit(lambda m: m.states(x))(model)

    @jax.jit
    def solve(state, u):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, s, u: model.field(s, u)),
            diffrax.Tsit5(),
            0.0,
            1.0,
            None,
            state,
            u,
            stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-11),
        ).ys[-1]

    state = states[0]
    for k, u in enumerate(x):
        state = solve(state, u)
        np.testing.assert_allclose(state, states[k + 1], atol=1e-9)
    flow = model.to_ode(x)
    assert (flow.t0, flow.t1) == (0.0, 6.0)
    np.testing.assert_array_equal(flow.field(states[2], 2.5), model.field(states[2], x[2]))


def test_a_closed_clock_passes_inputs_over(double):
    """What selection is for: with a step of (almost) zero on marked inputs the state does not move."""
    model = _made(2, 4, dt_min=0.5, dt_max=0.5)
    shut = jnp.array([[0.0, -400.0], [0.0, -400.0]])
    model = eqx.tree_at(lambda m: m.step_weight, model, shut)
    x = jnp.asarray(_normal(5, 2)).at[:, 1].set(jnp.array([0.0, 0.0, 1.0, 1.0, 0.0]))
    states = eqx.filter_jit(lambda m: m.states(x))(model)
    np.testing.assert_allclose(states[4], states[2], atol=1e-15)
    assert np.abs(states[5] - states[4]).max() > 1e-3


def test_the_memory_of_a_gradient_is_linear_in_the_length():
    steps, size, state = 4_096, 8, 16
    params, rest = eqx.partition(_made(size, state), eqx.is_array)

    def loss(params, x):
        return jnp.mean(eqx.combine(params, rest)(x) ** 2)

    x = jax.ShapeDtypeStruct((steps, size), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20 * steps * size * state * 4


def test_batches(double):
    model, xs = _made(3, 2), jnp.asarray(_normal(2, 20, 3))
    batch, one = eqx.filter_jit(lambda m, xs: (jax.vmap(m)(xs), m(xs[1])))(model, xs)
    np.testing.assert_allclose(batch[1], one, atol=1e-14)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda k: hjax.nn.SelectiveSSM(0, 4, key=k), "size is 0"),
        (lambda k: hjax.nn.SelectiveSSM(2, 4.0, key=k), "state_size is 4.0"),
        (lambda k: hjax.nn.SelectiveSSM(2, 4, dt_min=-1.0, key=k), "dt_min is -1.0; pass a positive number"),
        (lambda k: hjax.nn.SelectiveSSM(2, 4, key=k)(jnp.zeros((5, 3))), r"\(T, 2\), is wanted"),
        (lambda k: hjax.nn.SelectiveSSM(2, 4, key=k)(jnp.zeros((5, 2)), jnp.zeros(2)), r"but \(2, 4\) is wanted"),
        (lambda k: hjax.nn.SelectiveSSM(2, 4, key=k)(jnp.zeros((5, 2)), method="scan"), "method is 'scan'"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(jax.random.key(0))
