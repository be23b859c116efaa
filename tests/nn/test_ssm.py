"""State-space models against NumPy loops, SciPy's discretizations and integrators, mpmath, and two tasks."""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import linalg, signal

import hjax
from hjax.nn._generators import mean_exponential
from hjax.nn._linear_scan import linear_scan

from .. import tolerances


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def _recurrence(a, b, c, d, x, state):
    """Outputs, and all states, of a loop in NumPy."""
    outputs, states = [], [state]
    for u in x:
        state = a @ state + b @ u
        states.append(state)
        outputs.append(c @ state + d @ u)
    return np.array(outputs), np.array(states)


def _made(*sizes, key=0, **options):
    """A model, made in one compiled program."""
    return eqx.filter_jit(lambda k: hjax.nn.SSM(*sizes, **options, key=k))(jax.random.key(key))


def _matrices(model):
    parts = model.state_matrix, model.input_matrix, model.output_weight, model.feedthrough
    return tuple(np.asarray(p, float) for p in parts)


@pytest.mark.parametrize("steps", [1, 37])
@pytest.mark.parametrize("kind", ["constant", "varying", "complex"])
def test_the_linear_scan_and_its_gradient_are_two_recurrences(precision, steps, kind):
    rng = np.random.default_rng(steps)
    dtype = np.result_type(precision, np.complex64) if kind == "complex" else precision

    def draw(*shape):
        numbers = rng.normal(size=shape) + (1j * rng.normal(size=shape) if kind == "complex" else 0)
        return numbers.astype(dtype)

    a = draw(3, 2) if kind == "constant" else draw(steps, 3, 2)
    a = (a / np.maximum(1, np.abs(a))).astype(dtype)
    b, weights = draw(steps, 3, 2), draw(steps, 3, 2)

    def value(a, b):
        states = linear_scan(a, b)
        return jnp.real(jnp.sum(weights * states)), states

    (_, states), (slope_a, slope_b) = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(a, b)
    every = np.broadcast_to(a, b.shape)
    x, adjoint = np.zeros((steps + 1, 3, 2), complex), np.zeros((steps + 1, 3, 2), complex)
    for k in range(steps):
        x[k + 1] = every[k] * x[k] + b[k]
    for k in reversed(range(steps)):
        adjoint[k] = weights[k] + (every[k + 1] * adjoint[k + 1] if k + 1 < steps else 0)
    of_a = adjoint[:-1] * x[:-1]
    of_a = of_a.sum(axis=0) if kind == "constant" else of_a
    atol = 4 * tolerances.of(precision).atol * max(1, np.abs(x).max() * np.abs(adjoint).max())
    for got, want in ((states, x[1:]), (slope_a, of_a), (slope_b, adjoint[:-1])):
        np.testing.assert_allclose(got, want, atol=atol)


def test_second_derivatives_of_the_linear_scan_in_every_mode(double):
    a, b, v = (jnp.asarray(_normal(7, 2, seed=k)) / 2 for k in range(3))

    def value(scan, a):
        return jnp.sum(jnp.sin(scan(a, b * a)))

    def loop(a, b):
        states = [jnp.zeros_like(b[0])]
        for k in range(len(b)):
            states.append(a[k] * states[-1] + b[k])
        return jnp.stack(states[1:])

    want = jax.jit(jax.jvp, static_argnums=0)(jax.grad(functools.partial(value, loop)), (a,), (v,))[1]
    ours = functools.partial(value, linear_scan)
    forward = jax.jit(lambda a: jax.jvp(jax.grad(ours), (a,), (v,))[1])(a)
    reverse = jax.jit(jax.grad(lambda a: jnp.sum(jax.grad(ours)(a) * v)))(a)
    batched = jax.jit(jax.hessian(ours))(a)
    np.testing.assert_allclose(forward, want, atol=1e-14)
    np.testing.assert_allclose(reverse, want, atol=1e-14)
    np.testing.assert_allclose(jnp.einsum("ijkl,kl->ij", batched, v), want, atol=1e-14)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_mean_exponential_against_mpmath(precision, order):
    points = np.concatenate([-np.geomspace(1e-30, 1e6, 37), [0.0, -0.4999, -0.5001]])
    z = np.concatenate([points, points * (1 + 2j) / 3, 3j * points[:25]]).astype(
        np.result_type(precision, np.complex64)
    )
    slope = lambda z: mean_exponential(z)  # noqa: E731
    for _ in range(order):
        slope = jax.grad(slope, holomorphic=True)
    got = np.asarray(jax.jit(jax.vmap(slope))(jnp.asarray(z)))

    def exact(v):
        with mpmath.workdps(60):
            v = mpmath.mpc(complex(v).real, complex(v).imag)
            # Its derivatives are means of s^k e^(v s); near zero by the series, exact at 60 digits.
            if abs(v) < 1e-3:
                return complex(mpmath.nsum(lambda n: v**n / mpmath.factorial(n) / (n + order + 1), [0, 25]))
            return complex(mpmath.diff(lambda w: mpmath.expm1(w) / w, v, order) if order else mpmath.expm1(v) / v)

    want = np.array([exact(v) for v in z])
    error = np.abs(got - want) / np.abs(want)
    # Beyond the series a derivative cancels, as 1/z does against e^z/z, to a digit.
    assert error.max() < (1, 16, 64)[order] * tolerances.of(precision).rtol


@pytest.mark.parametrize("structure", ["diagonal", "dense"])
def test_the_steps_are_scipy_s_discretizations(precision, structure):
    for name, method in (("zero_order_hold", "zoh"), ("bilinear", "bilinear")):
        model = _made(
            2, 1, 10, structure=structure, discretization=name, initialization="s4d_inv", dt_max=0.5, step_size=0.7
        )
        a, b, c, d = _matrices(model)
        want_a, want_b, *_ = signal.cont2discrete((a, b, c, d), 0.7, method)
        got_a, got_b = eqx.filter_jit(lambda m: m.discretized())(model)
        np.testing.assert_allclose(got_a, want_a, atol=2 * tolerances.of(precision).atol)
        np.testing.assert_allclose(got_b, want_b, atol=2 * tolerances.of(precision).atol)


# By chunks of inputs, by the recurrence of states, and by dense matrices.
KINDS = pytest.mark.parametrize(
    ("structure", "channels"), [("diagonal", 2), pytest.param("diagonal", 40, marks=pytest.mark.slow), ("dense", 2)]
)


@KINDS
def test_the_outputs_are_a_numpy_loop_s_and_gradients_of_both_methods_agree(precision, structure, channels):
    """At lengths of one step, a few, and not a multiple of the chunk; from rest and from a state."""
    model = _made(channels, channels, 8, structure=structure, dt_max=0.5)
    x, weights = (jnp.asarray(_normal(150, channels, seed=s), float) for s in (0, 1))
    state = jnp.asarray(_normal(8, seed=2), float)

    @eqx.filter_jit
    def run(model, x, state):
        def loss(both, method):
            outputs = both[0](*both[1:], method=method)
            return jnp.sum(weights * outputs), outputs

        slopes, outputs = zip(
            *(eqx.filter_grad(loss, has_aux=True)((model, x, state), m) for m in ("parallel", "sequential")),
            strict=True,
        )
        return outputs, slopes, [model(x[:t]) for t in (1, 5)], model.discretized()

    outputs, slopes, short, (a_bar, b_bar) = run(model, x, state)
    *_, c, d = _matrices(model)
    rows, given = np.asarray(x, float), np.asarray(state, float)
    a_bar, b_bar = np.asarray(a_bar, float), np.asarray(b_bar, float)
    want, _ = _recurrence(a_bar, b_bar, c, d, rows, given)
    for got in outputs:
        np.testing.assert_allclose(got, want, atol=8 * tolerances.of(precision).atol * np.abs(want).max())
    rest, _ = _recurrence(a_bar, b_bar, c, d, rows[:5], 0 * given)
    for got in short:
        np.testing.assert_allclose(got, rest[: len(got)], atol=8 * tolerances.of(precision).atol * np.abs(rest).max())
    for one, other in zip(*map(jax.tree.leaves, slopes), strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, atol=64 * tolerances.of(precision).atol * np.abs(other).max())


def _numpy_outputs(a, b, c, d, x):
    """Zero-order hold by the exponential of [[A, B], [0, 0]], for complex steps too."""
    n, m = b.shape
    both = linalg.expm(np.block([[a, b], [np.zeros((m, n + m))]]))
    return _recurrence(both[:n, :n], both[:n, n:], c, d, x, np.zeros(n))[0]


STRUCTURES = pytest.mark.parametrize("structure", ["diagonal", pytest.param("dense", marks=pytest.mark.slow)])


@STRUCTURES
def test_gradients_are_complex_steps_of_a_numpy_model(double, structure):
    model = _made(2, 1, 4, structure=structure, dt_max=0.5)
    x = _normal(9, 2)

    def assembled(leaves):
        """The parameters of the model as matrices, written out for NumPy."""
        p, q, scale, b, c, d = leaves
        if structure == "dense":
            lower = np.tril(q, -1) + np.diag(np.exp(np.diag(q)))
            a = p - p.T - lower @ lower.T
            scales = np.exp(scale)
        else:
            a = np.block([[np.diag(-np.exp(p)), np.diag(-q)], [np.diag(q), np.diag(-np.exp(p))]])
            scales = np.exp(np.tile(scale, 2))[:, None]
        return scales * a, scales * b, c, d

    def value(leaves):
        return np.sum(np.sin(_numpy_outputs(*assembled(leaves), x)))

    @eqx.filter_jit
    def gradient(model):
        return eqx.filter_value_and_grad(lambda m: jnp.sum(jnp.sin(m(x))))(model)

    total, slopes = gradient(model)
    leaves = [np.asarray(v) for v in jax.tree.leaves(model)]
    np.testing.assert_allclose(total, value(leaves), rtol=1e-13)
    for i, slope in enumerate(jax.tree.leaves(slopes)):
        for place in np.ndindex(slope.shape):
            moved = [v.astype(complex) for v in leaves]
            moved[i][place] += 1e-30j
            np.testing.assert_allclose(slope[place], value(moved).imag / 1e-30, atol=1e-12)


def test_stiff_and_slow_modes_keep_their_digits(precision):
    modes = np.array([-1e6, -1e-9, -1e3 + 1e-3j, -1e-9 + 1e-9j, -20 + 3j])
    model = hjax.nn.SSM.from_arrays(
        modes.astype(np.result_type(precision, np.complex64)), np.ones((5, 1)), np.ones((1, 5))
    )
    dense = hjax.nn.SSM.from_arrays(np.diag(modes.real).astype(precision), np.ones((5, 1)), np.ones((1, 5)))
    (a_bar, b_bar), (dense_a, dense_b) = eqx.filter_jit(lambda *m: [v.discretized() for v in m])(model, dense)
    with mpmath.workdps(50):
        z = [mpmath.mpc(v.real, v.imag) for v in modes.astype(np.result_type(precision, np.complex64)).astype(complex)]
        held = np.array([complex(mpmath.expm1(v) / v) for v in z])
        real = np.array([float(mpmath.expm1(v.real) / v.real) for v in z])
    rtol = 4 * tolerances.of(precision).rtol
    np.testing.assert_allclose(b_bar[:5, 0], held.real, rtol=rtol)
    np.testing.assert_allclose(b_bar[5:, 0], held.imag, rtol=rtol, atol=rtol * np.abs(held).min())
    np.testing.assert_allclose(np.diag(a_bar)[:5], np.exp(modes).real, atol=rtol)
    np.testing.assert_allclose(np.diag(dense_a), np.exp(modes.real), atol=rtol)
    np.testing.assert_allclose(dense_b[:, 0], real, atol=16 * rtol)
    # A step a thousand times shorter is a thousand steps in one.
    quick = eqx.tree_at(lambda m: m.generator.log_scale, model, np.log(1e-3) * jnp.ones(5))
    power = np.linalg.matrix_power(np.asarray(quick.discretized()[0], float), 1000)
    np.testing.assert_allclose(power, a_bar, atol=1000 * rtol)


@STRUCTURES
def test_the_states_solve_the_differential_equation(double, structure):
    """scipy's lsim, scipy's integrator on NumPy's matrices, and diffrax on the flow, at a step size that is not 1."""
    model = _made(2, 1, 6, structure=structure, initialization="hippo", dt_min=0.5, dt_max=2.0, step_size=0.25)
    x, (a, b, c, d), h = _normal(8, 2), _matrices(model), 0.25
    states = np.asarray(eqx.filter_jit(lambda m: m.states(x))(model))
    _, _, held = signal.lsim((a, b, c, d), x, h * np.arange(8), interp=False)
    np.testing.assert_allclose(states[:8], held, atol=1e-13)

    @jax.jit
    def solve(field, state, t1):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            0.0,
            t1,
            None,
            state,
            stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-11),
            max_steps=20_000,
        ).ys[-1]

    # One interval after another, with x a constant of the field.
    held = jax.tree_util.Partial(lambda u, t, s, args: model.field(s, u))
    state = jnp.zeros(6)
    for k, u in enumerate(x):
        state = solve(jax.tree_util.Partial(held, u), state, h)
        np.testing.assert_allclose(state, states[k + 1], atol=1e-9)
    flow = model.to_ode(x)
    assert (flow.t0, flow.t1) == (0.0, 2.0)
    # At once: inputs change early by sqrt(ulp) of an interval, so that no rounding of times matters.
    final = solve(jax.tree_util.Partial(lambda t, s, args: flow.field(s, t)), jnp.zeros(6), flow.t1)
    np.testing.assert_allclose(final, states[-1], atol=1e-7)


def test_given_matrices_come_back_and_unstable_ones_do_not(precision):
    a = np.array([[-1.0, 2.0, 0.0], [-1.0, -0.5, 0.3], [0.0, 0.1, -2.0]], precision)
    b, c, d = _normal(3, 2).astype(precision), _normal(2, 3).astype(precision), _normal(2, 2).astype(precision)
    model = hjax.nn.SSM.from_arrays(a, b, c, d, step_size=0.5)
    for got, want in zip(_matrices(model), (a, b, c, d), strict=True):
        np.testing.assert_allclose(got, want, atol=2 * tolerances.of(precision).atol)
    # Of eigenvalues the output is 2 Re(C z), the sum over conjugate pairs.
    modes, x = np.array([-0.3 + 2j, -0.1 + 0.5j]), _normal(30, 1).astype(precision)
    weight, read = np.array([[1 + 1j], [0.5j]]), np.array([[0.3 - 2j, 1.0]])
    modes = modes.astype(np.result_type(precision, np.complex64))
    y = jax.jit(lambda *given: hjax.nn.SSM.from_arrays(*given)(x))(modes, weight, read)
    z, want = np.zeros(2, complex), []
    for u in x.astype(float):
        z = np.exp(modes) * z + (np.expm1(modes) / modes * weight[:, 0]) * u
        want.append(2 * (read @ z).real)
    np.testing.assert_allclose(y, want, atol=16 * tolerances.of(precision).atol * np.abs(want).max())


@pytest.mark.parametrize("structure", ["diagonal", "dense"])
def test_it_is_stable_whatever_the_parameters(double, structure):
    model = _made(1, 1, 6, structure=structure)
    leaves, tree = jax.tree.flatten(model)
    for seed in range(20):
        wild = jax.tree.unflatten(
            tree, [jnp.asarray(2 * _normal(*v.shape, seed=seed + i)) for i, v in enumerate(leaves)]
        )
        assert np.linalg.eigvals(_matrices(wild)[0]).real.max() < 0
        assert np.abs(np.linalg.eigvals(wild.discretized()[0])).max() < 1 + 1e-12


def test_the_initializations(double):
    """HiPPO-LegS from its definition, the projection of the past onto Legendre polynomials; by quadrature."""
    hippo = _made(1, 1, 6, structure="dense", initialization="hippo", dt_min=1.0, dt_max=1.0)
    a, b, *_ = _matrices(hippo)
    # c_n' = -c_n + sqrt(2n+1) x - sum_m <s P_n', P_m> c_m.
    nodes, weights = np.polynomial.legendre.leggauss(12)
    s, weights = (nodes + 1) / 2, weights / 2
    basis = [np.sqrt(2 * n + 1) * np.polynomial.legendre.Legendre.basis(n, domain=[0, 1]) for n in range(6)]
    moments = np.array([[weights @ (s * p.deriv()(s) * q(s)) for q in basis] for p in basis])
    np.testing.assert_allclose(a, -np.eye(6) - moments, atol=1e-12)
    root = np.array([p(1.0) for p in basis])
    np.testing.assert_allclose(b[:, 0], root, atol=1e-12)
    want = {
        "s4d_lin": np.pi * np.arange(3),
        "s4d_inv": np.sort(6 / np.pi * (6 / (2 * np.arange(3) + 1) - 1)),
        "hippo": np.sort(np.linalg.eigvals(-np.eye(6) - moments + np.outer(root, root) / 2).imag)[3:],
    }
    for name, frequencies in want.items():
        for structure in ("diagonal", "dense") if name != "hippo" else ("diagonal",):
            model = _made(1, 1, 6, structure=structure, initialization=name, dt_min=1.0, dt_max=1.0)
            eigenvalues = np.linalg.eigvals(_matrices(model)[0])
            np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-12)
            np.testing.assert_allclose(np.sort(eigenvalues.imag)[3:], frequencies, atol=1e-12)


@pytest.mark.parametrize(
    ("structure", "channels"),
    [("diagonal", 64), *(pytest.param(s, 1, marks=pytest.mark.slow) for s in ("diagonal", "dense"))],
)
def test_the_memory_of_a_gradient_is_linear_in_the_length(structure, channels):
    steps, size = 16_384, 64
    model = _made(channels, channels, size, structure=structure)
    params, rest = eqx.partition(model, eqx.is_array)
    x = jax.ShapeDtypeStruct((steps, channels), jnp.float32)

    def loss(params, x):
        return jnp.mean(eqx.combine(params, rest)(x) ** 2)

    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, x).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    # States, adjoints and a handful of the like for as many channels as states; chunks keep far less for one.
    assert temporary < (8 if channels > 1 else 1) * steps * size * 4


def test_batches_and_pieces(double):
    model = _made(2, 3, 8)
    xs = jnp.asarray(_normal(3, 50, 2))

    @eqx.filter_jit
    def run(model, xs):
        # In two pieces: the state after the first is where the second starts.
        states = model.states(xs[1])
        pieces = model(xs[1, :20]), model(xs[1, 20:], states[20])
        return jax.vmap(model)(xs), jnp.concatenate(pieces), jax.vmap(model.output)(states[1:], xs[1])

    batch, *others = run(model, xs)
    for other in others:
        np.testing.assert_allclose(other, batch[1], atol=1e-13)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda k: hjax.nn.SSM(1, 1, 3, key=k), "state_size is 3; pass an even number"),
        (lambda k: hjax.nn.SSM(0, 1, 4, key=k), "in_size is 0"),
        (lambda k: hjax.nn.SSM(1, 1, 4, structure="full", key=k), r"structure is 'full'; pass one of \['dense', 'd"),
        (lambda k: hjax.nn.SSM(1, 1, 4, discretization="zoh", key=k), "discretization is 'zoh'; pass one of"),
        (lambda k: hjax.nn.SSM(1, 1, 4, initialization="random", key=k), "initialization is 'random'; pass one of"),
        (lambda k: hjax.nn.SSM(1, 1, 4, dt_min=1.0, key=k), "dt_min is 1 and dt_max is 0.1; pass dt_min <= dt_max"),
        (lambda k: hjax.nn.SSM(1, 1, 4, step_size=0.0, key=k), "step_size is 0.0; pass a positive number"),
        (lambda k: hjax.nn.SSM(1, 1, 4, key=k)(jnp.zeros(5)), r"\(T, 1\), is wanted; .* pass x\[:, None\]"),
        (lambda k: hjax.nn.SSM(1, 1, 4, key=k)(jnp.zeros((0, 1))), "T >= 1"),
        (lambda k: hjax.nn.SSM(1, 1, 4, key=k)(jnp.zeros((5, 1), int)), "dtype int32"),
        (lambda k: hjax.nn.SSM(1, 1, 4, key=k)(jnp.zeros((5, 1)), jnp.zeros(3)), r"state has shape \(3,\), but \(4,\)"),
        (lambda k: hjax.nn.SSM(1, 1, 4, key=k)(jnp.zeros((5, 1)), method="fft"), "method is 'fft'; pass one of"),
        (
            lambda k: hjax.nn.SSM.from_arrays(np.ones((2, 2)), np.ones((2, 1)), np.ones((1, 2))),
            "symmetric part has the",
        ),
        (lambda k: hjax.nn.SSM.from_arrays(np.array([0.5j]), np.ones((1, 1)), np.ones((1, 1))), "real part 0, but neg"),
        (lambda k: hjax.nn.SSM.from_arrays(-np.eye(2), np.ones((3, 1)), np.ones((1, 2))), r"\(3, 1\), \(1, 2\), but"),
        (
            lambda k: hjax.nn.SSM.from_arrays(-np.eye(2), np.ones((2, 1)), np.ones((1, 2)), np.ones((2, 2))),
            r"D has shape \(2, 2\), but \(1, 1\)",
        ),
        (lambda k: hjax.nn.SSM.from_arrays(-np.eye(2), np.full((2, 1), np.nan), np.ones((1, 2))), "B contains NaN"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(jax.random.key(0))
