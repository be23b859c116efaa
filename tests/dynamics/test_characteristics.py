"""Hamilton's equations against closed forms, scipy's integrators and Hopf-Lax; symplectic solvers over many steps."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize

import hjax
from hjax.dynamics import ImplicitMidpoint, StormerVerlet, solve_characteristics

from ..conftest import enable_x64

# What the default tolerances leave, on the short ways of these tests.
ERROR = {"float64": 1e-8, "float32": 2e-5}
PENDULUM = hjax.Separable(hjax.Quadratic(0.5), lambda x, t: 1 - jnp.cos(x[0]))


def last(solution: diffrax.Solution) -> tuple:
    return jax.tree.map(lambda a: np.asarray(a[-1]), solution.ys)


def test_straight_characteristics_of_a_metric_many_at_once(precision):
    metric = np.array([[2.0, 0.6], [0.6, 1.0]])
    rng = np.random.default_rng(0)
    x, p = rng.normal(size=(2, 5, 2))
    hamiltonian = hjax.Quadratic(jnp.asarray(metric, precision))
    times = jnp.asarray([0.2, 0.7], precision)

    @jax.jit
    def solve(x, p):
        return jax.vmap(
            lambda x, p: (
                solve_characteristics(
                    hamiltonian, x, p, t0=0.1, t1=0.7, action0=3.0, saveat=diffrax.SaveAt(ts=times)
                ).ys
            )
        )(x, p)

    xs, ps, actions = solve(jnp.asarray(x, precision), jnp.asarray(p, precision))
    assert {a.dtype for a in (xs, ps, actions)} == {precision}
    assert xs.shape == (5, 2, 2)
    span = np.array([0.1, 0.6])[:, None]
    np.testing.assert_allclose(xs, x[:, None] + 2 * span * (p @ metric)[:, None], atol=ERROR[precision.name])
    np.testing.assert_allclose(ps, np.broadcast_to(p[:, None], ps.shape), atol=ERROR[precision.name])
    lagrangian = np.einsum("ni,ij,nj->n", p, metric, p)
    np.testing.assert_allclose(actions, 3 + span[:, 0] * lagrangian[:, None], rtol=ERROR[precision.name])


def moving(x, p, t):
    """Neither separable nor autonomous; a state of two parts."""
    (a, b), (pa, pb) = (x["a"], x["b"]), (p["a"], p["b"])
    return (1 + 0.3 * jnp.sin(t)) * jnp.sum(pa**2) * (1 + b**2) + pb**2 / 2 + b * jnp.sum(jnp.cos(a)) + t * pb


def test_any_hamiltonian_on_a_tree_against_scipy(precision):
    def rates(t, y):
        a, b, pa, pb = y[:2], y[2], y[3:5], y[5]
        strength = 1 + 0.3 * np.sin(t)
        va, vb = 2 * strength * pa * (1 + b**2), pb + t
        energy = strength * (pa**2).sum() * (1 + b**2) + pb**2 / 2 + b * np.cos(a).sum() + t * pb
        fa, fb = b * np.sin(a), -strength * (pa**2).sum() * 2 * b - np.cos(a).sum()
        return np.concatenate([va, [vb], fa, [fb], [pa @ va + pb * vb - energy]])

    start = np.array([0.3, -0.8, 0.5, 0.2, 0.4, -0.6])
    exact = integrate.solve_ivp(rates, (0.5, 2.0), [*start, 0.25], method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    parts = np.asarray(start, precision)
    x0, p0 = {"a": parts[:2], "b": parts[2]}, {"a": parts[3:5], "b": parts[5]}
    x, p, action = last(solve_characteristics(moving, x0, p0, t0=0.5, t1=2.0, action0=0.25))
    found = np.concatenate([x["a"], [x["b"]], p["a"], [p["b"]], [action]])
    np.testing.assert_allclose(found, exact, atol=3 * ERROR[precision.name])
    assert found.dtype == precision


def test_state_and_costate_of_a_field_keep_their_pairing(double):
    """p(t) . dx(t) is constant for any variation dx: here that of scipy's flow, by differences."""
    weight = np.random.default_rng(1).normal(size=(3, 3))

    def flow(x):
        return integrate.solve_ivp(lambda t, x: np.tanh(weight @ x + t), (0, 1.5), x, rtol=1e-12, atol=1e-12).y[:, -1]

    start, momentum, h = np.array([0.2, -0.4, 0.7]), np.array([1.0, 0.5, -2.0]), 1e-5
    field = hjax.Advection(lambda x, t: jnp.tanh(weight @ x + t))
    x, p, action = last(solve_characteristics(field, jnp.asarray(start), jnp.asarray(momentum), t1=1.5, action0=7.0))
    np.testing.assert_allclose(x, flow(start), atol=1e-8)
    jacobian = np.stack([(flow(start + h * e) - flow(start - h * e)) / (2 * h) for e in np.eye(3)], axis=1)
    np.testing.assert_allclose(p, np.linalg.solve(jacobian.T, momentum), atol=1e-7)
    assert action == 7.0


def test_the_action_is_hopf_lax_before_the_shock_and_above_it_after(double):
    def g(y):
        return np.exp(-(y**2)) * np.sin(3 * y)

    def initial(y):
        return jnp.exp(-(y[0] ** 2)) * jnp.sin(3 * y[0])

    feet, fine = np.linspace(-1.5, 1.5, 7), np.linspace(-3, 3, 60_001)
    shock = -1 / (2 * np.gradient(np.gradient(g(fine), fine), fine).min())

    @jax.jit
    def along(foot):
        p = jax.grad(initial)(foot)
        times = jnp.array([0.5, 0.9, 3.0]) * shock
        ends = solve_characteristics(
            hjax.Quadratic(), foot, p, t1=3 * shock, action0=initial(foot), saveat=diffrax.SaveAt(ts=times)
        )
        return times, ends.ys

    times, (xs, ps, actions) = jax.vmap(along)(jnp.asarray(feet)[:, None])
    # With the feet among the atoms their error is not one of quadrature.
    atoms = np.unique(np.concatenate([np.linspace(-9, 9, 20_001), feet]))
    u = hjax.HopfLax(hjax.InitialData(atoms[:, None], g(atoms)))
    solution = jax.jit(lambda x, t: (u(x, t), u.gradient(x, t)))
    for k in range(2):
        value, gradient = solution(xs[:, k], times[0, k])
        np.testing.assert_allclose(value, actions[:, k], atol=1e-9)
        np.testing.assert_allclose(gradient, ps[:, k], atol=1e-8)
    # scipy's minimum over y says the same of the last time as Hopf-Lax does.
    t = float(times[0, 2])
    least = []
    for x in np.asarray(xs[:, 2, 0]):
        near = atoms[np.argmin(g(atoms) + (x - atoms) ** 2 / (4 * t))]
        bounds = (near - 1e-2, near + 1e-2)
        found = optimize.minimize_scalar(lambda y, x=x: g(y) + (x - y) ** 2 / (4 * t), bounds=bounds, method="bounded")
        least.append(found.fun)
    np.testing.assert_allclose(solution(xs[:, 2], t)[0], least, atol=1e-6)
    excess = actions[:, 2] - np.array(least)
    assert excess.min() > -1e-9
    assert excess.max() > 0.05


# Each steps the pendulum and its action; scipy does so to twelve digits.
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (diffrax.SemiImplicitEuler(), 1),
        (StormerVerlet(), 2),
        (ImplicitMidpoint(), 2),
        pytest.param(diffrax.ReversibleHeun(), 2, marks=pytest.mark.slow),
        pytest.param(diffrax.LeapfrogMidpoint(), 2, marks=pytest.mark.slow),
    ],
)
def test_fixed_steps_have_their_order_at_the_end_and_between_steps(double, solver, order):
    def rates(t, y):
        return [
            y[1],
            -(1 + 0.5 * np.sin(2 * t)) * np.sin(y[0]),
            y[1] ** 2 / 2 - (1 + 0.5 * np.sin(2 * t)) * (1 - np.cos(y[0])),
        ]

    exact = integrate.solve_ivp(
        rates, (0, 3), [1.0, 0.5, 0.0], method="DOP853", rtol=1e-12, atol=1e-12, dense_output=True
    )
    driven = hjax.Separable(hjax.Quadratic(0.5), lambda x, t: (1 + 0.5 * jnp.sin(2 * t)) * (1 - jnp.cos(x[0])))

    @jax.jit
    def errors(h):
        saveat = diffrax.SaveAt(t1=True, dense=True)
        found = solve_characteristics(
            driven, jnp.array([1.0]), jnp.array([0.5]), t1=3.0, solver=solver, dt0=h, saveat=saveat, max_steps=400,
            stepsize_controller=diffrax.ConstantStepSize(),
        )  # fmt: skip
        return jnp.stack([jnp.hstack(found.interpolation.evaluate(t)) for t in (1.5 + h / 2, 3.0)]), found.ys

    steps = np.array([3 / 100, 3 / 200, 3 / 400])
    found = [errors(h) for h in steps]
    for k in range(2):
        times = (steps / 2 + 1.5, 0 * steps + 3.0)[k]
        wrong = [np.abs(np.asarray(f[0][k]) - exact.sol(t)).max() for f, t in zip(found, times, strict=True)]
        slope = np.polyfit(np.log(steps), np.log(wrong), 1)[0]
        assert abs(slope - order) < 0.15, (times, wrong)
    x, p, action = found[-1][1]
    np.testing.assert_allclose(np.hstack([x[-1], p[-1], action[-1]]), found[-1][0][1], atol=1e-14)


def energy_range(solver, steps, h):
    """Of a pendulum that swings widely, over its last tenth and its first."""
    starts = (jnp.array([1.5]), jnp.array([0.0]))
    saveat = diffrax.SaveAt(ts=jnp.linspace(0, steps * h, 1001))
    found = solve_characteristics(
        PENDULUM, *starts, t1=steps * h, solver=solver, dt0=h, stepsize_controller=diffrax.ConstantStepSize(),
        saveat=saveat, max_steps=steps + 10, throw=False,
    )  # fmt: skip
    x, p, _ = found.ys
    drift = np.abs(np.asarray(p[:, 0] ** 2 / 2 + 1 - jnp.cos(x[:, 0])) - (1 - np.cos(1.5)))
    return drift[:101].max(), drift[-101:].max()


def check_drift(steps):
    h = 0.1
    for solver, bound in ((diffrax.SemiImplicitEuler(), 0.1), (StormerVerlet(), 3e-3), (ImplicitMidpoint(), 3e-3)):
        early, late = energy_range(solver, steps, h)
        assert late < bound, type(solver).__name__
        assert late < 1.2 * early, type(solver).__name__
    early, late = energy_range(diffrax.Euler(), steps, h)
    assert late > 5


def test_symplectic_solvers_keep_the_energy_where_euler_drifts(double):
    check_drift(10_000)


@pytest.mark.slow
def test_they_keep_it_for_a_hundred_thousand_steps(double):
    check_drift(100_000)


@pytest.mark.parametrize(
    ("solver", "symplectic"),
    [
        (diffrax.SemiImplicitEuler(), True),
        (StormerVerlet(), True),
        (ImplicitMidpoint(), True),
        (diffrax.Midpoint(), False),
    ],
)
def test_one_step_keeps_the_symplectic_form(double, solver, symplectic):
    """D^T J D = J for the Jacobian D of one step in (x, p); not so for an explicit Runge-Kutta method."""
    coupling = np.array([[1.0, 0.4], [0.4, 2.0]])
    separable = hjax.Separable(
        lambda p: jnp.sum(p * (coupling @ p)) / 2 + jnp.sum(p**4),
        lambda x, t: jnp.sum(jnp.cos(x)) * x[0],
    )

    @jax.jit
    def step(z):
        found = solve_characteristics(
            separable, z[:2], z[2:], t1=0.2, solver=solver, dt0=0.2, stepsize_controller=diffrax.ConstantStepSize()
        )
        return jnp.concatenate([found.ys[0][-1], found.ys[1][-1]])

    z = jnp.array([0.5, -0.3, 0.7, 0.2])
    d = np.asarray(jax.jit(jax.jacrev(step))(z), float)
    form = np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])
    gap = np.abs(d.T @ form @ d - form).max()
    assert (gap < 200 * np.finfo(float).eps) == symplectic
    if not symplectic:
        assert gap > 1e-4


def test_the_implicit_midpoint_takes_any_hamiltonian_and_any_root_finder(double):
    import optimistix as optx

    def coupled(x, p, t):
        return jnp.sum((1 + x**2) * p**2) / 2 + jnp.sum(x**2)

    ends = [
        last(solve_characteristics(coupled, jnp.array([0.4]), jnp.array([0.9]), t1=2.0, solver=solver, dt0=0.05))
        for solver in (ImplicitMidpoint(), ImplicitMidpoint(root_finder=optx.Chord(1e-10, 1e-12)))
    ]
    np.testing.assert_allclose(np.hstack(ends[0]), np.hstack(ends[1]), atol=1e-9)
    x, p, _ = ends[0]
    assert abs((1 + x**2) * p**2 / 2 + x**2 - (1.16 * 0.81 / 2 + 0.16))[0] < 1e-3


def test_events_and_dense_output_see_position_momentum_and_action(double):
    """A spring stops where its momentum is zero, for a solver that steps both together and one that does not."""
    import optimistix as optx

    spring = hjax.Separable(hjax.Quadratic(), lambda x, t: jnp.sum(x**2))
    stop = diffrax.Event(lambda t, y, args, **kwargs: y[1][0], optx.Newton(1e-12, 1e-12))
    for solver, dt0, error in ((None, None, 1e-6), (StormerVerlet(), 1e-3, 1e-5)):
        found = solve_characteristics(
            spring, jnp.array([0.0]), jnp.array([1.0]), t1=9.0, solver=solver, dt0=dt0, event=stop, max_steps=10_000,
            saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(t1=True, fn=lambda t, y, args: y[2])]),
        )  # fmt: skip
        # x = sin 2t, p = cos 2t: the action is the integral of p^2 - x^2 = cos 4t.
        assert abs(found.ts[0][0] - np.pi / 4) < error
        assert abs(found.ys[0][0]) < error


@pytest.mark.parametrize(
    "adjoint",
    [
        None,
        pytest.param(diffrax.DirectAdjoint(), marks=pytest.mark.slow),
        pytest.param(diffrax.BacksolveAdjoint(), marks=pytest.mark.slow),
        diffrax.ForwardMode(),
    ],
    ids=lambda a: type(a).__name__,
)
def test_derivatives_in_start_and_parameters_by_every_adjoint(double, adjoint):
    """Of the action and the end of `|p|^2 + k x^2 / 2`, against differences of the closed form."""

    def end(x0, p0, k):
        w = np.sqrt(2 * k)
        x, p = x0 * np.cos(w) + 2 * p0 / w * np.sin(w), p0 * np.cos(w) - k / w * x0 * np.sin(w)
        action = (x * p - x0 * p0) / 2  # of a quadratic H, by Euler's identity
        return x + 2 * action

    def found(x0, p0, k):
        spring = hjax.Separable(hjax.Quadratic(), jax.tree_util.Partial(lambda k, x, t: k * jnp.sum(x**2) / 2, k))
        ys = solve_characteristics(spring, x0[None], p0[None], t1=1.0, adjoint=adjoint).ys
        return ys[0][-1, 0] + 2 * ys[2][-1]

    at, h = np.array([0.3, 0.8, 1.7]), 1e-6
    differences = [(end(*(at + h * e)) - end(*(at - h * e))) / (2 * h) for e in np.eye(3)]
    take = jax.jacfwd if isinstance(adjoint, diffrax.ForwardMode) else jax.jacrev
    gradient = jax.jit(take(found, argnums=(0, 1, 2)))(*map(jnp.asarray, at))
    np.testing.assert_allclose(found(*map(jnp.asarray, at)), end(*at), atol=1e-8)
    np.testing.assert_allclose(gradient, differences, atol=1e-6)


def test_the_same_function_is_traced_once():
    traces = []

    def hamiltonian(x, p, t):
        traces.append(t)
        return jnp.sum(p**2)

    for scale in (1.0, 2.0, 3.0):
        solve_characteristics(hamiltonian, scale * jnp.ones(2), jnp.ones(2), t1=scale, action0=scale)
        if scale == 1.0:
            first = len(traces)
    assert len(traces) == first


def test_single_precision_stays_single_beside_double():
    with enable_x64(True):
        x = jnp.ones(2, jnp.float32)
        found = solve_characteristics(hjax.Quadratic(), x, x, t1=0.5, saveat=diffrax.SaveAt(ts=np.array([0.25, 0.5])))
    assert {a.dtype for a in found.ys} == {np.dtype("float32")}


ONE = np.ones(2, np.float32)
SPLIT = {"solver": diffrax.SemiImplicitEuler(), "dt0": 0.1}


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((3.0, ONE, ONE), {}, "hamiltonian is float; pass an hjax.Hamiltonian"),
        ((hjax.Quadratic(), ONE, np.ones(3, np.float32)), {}, r"x0 has shape \(2,\) but p0 has shape \(3,\)"),
        ((hjax.Quadratic(), ONE, (ONE, ONE)), {}, "trees of different structure"),
        ((hjax.Quadratic(), np.array([1, 2]), ONE), {}, r"x0 has dtype int.*pass x0\.astype\(float\)"),
        ((hjax.Quadratic(), ONE, jnp.ones(2, jnp.float16)), {}, "p0 has dtype float16"),
        ((hjax.Quadratic(), np.array([1, np.inf], np.float32), ONE), {}, "x0 contains NaN or infinity"),
        ((hjax.Quadratic(), {}, {}), {}, "x0 holds no numbers"),
        ((hjax.Quadratic(), "start", ONE), {}, "x0 must be an array of real numbers, got str"),
        ((hjax.Quadratic(), ONE, ONE), {"t1": 0.0}, "t1 must be later than t0: .* got t0 = 0.0, t1 = 0.0"),
        ((hjax.Quadratic(), ONE, ONE), {"t1": -1.0}, "to go back, pass -H"),
        ((hjax.Quadratic(), ONE, ONE), {"t1": np.nan}, "t1 is nan; pass a finite number"),
        ((hjax.Quadratic(), ONE, ONE), {"t1": np.ones(2)}, r"t1 must be one number, got shape \(2,\)"),
        ((hjax.Quadratic(), ONE, ONE), {"action0": ONE}, r"action0 must be one number, got shape \(2,\)"),
        ((hjax.Quadratic(), ONE, ONE), {"dt0": -0.1}, "dt0 must be positive"),
        ((hjax.Quadratic(), ONE, ONE), {"max_steps": 0}, "max_steps is 0"),
        ((hjax.Quadratic(), ONE, ONE), {"solver": diffrax.Tsit5}, r"solver is Tsit5; pass diffrax\.Tsit5\(\)"),
        ((hjax.Quadratic(), ONE, ONE), {"solver": StormerVerlet()}, r"wants their length; pass dt0"),
        ((hjax.Quadratic(), ONE, ONE), SPLIT | {"t1": 1e3}, r"takes 10000 steps; pass max_steps=10001"),
        (
            (hjax.Quadratic(), ONE, ONE),
            SPLIT | {"stepsize_controller": diffrax.PIDController(rtol=1e-3, atol=1e-3)},
            "SemiImplicitEuler makes no error estimate, so PIDController cannot",
        ),
        (
            (hjax.Quadratic(), ONE, ONE),
            {"solver": diffrax.Kvaerno5(), "dt0": 0.1, "stepsize_controller": diffrax.ConstantStepSize()},
            "Kvaerno5 takes the tolerance of its root finder from an adaptive controller",
        ),
        ((hjax.Quadratic(), ONE, ONE), {"solver": diffrax.ItoMilstein(), "dt0": 0.1}, "ItoMilstein is made for other"),
        ((hjax.Advection(lambda x, t: -x), ONE, ONE), SPLIT, r"wants H = K\(p\) \+ V\(x, t\), but .* is Advection"),
        ((lambda x, p, t: jnp.sum(x * p), ONE, ONE), SPLIT, r"but .* is <lambda>; pass hjax\.Separable"),
        ((hjax.Advection(lambda x, t: x[:1]), ONE, ONE), {}, r"the field makes \(\(1,\), 'float32'\) of a state"),
        ((hjax.Advection(lambda x, t: (x, x)), ONE, ONE), {}, "it must return x' of the same form as x"),
        (
            (lambda x, p, t: x * p, ONE, ONE),
            {},
            r"the hamiltonian makes \(\(2,\), 'float32'\) .* must return one number",
        ),
        ((lambda x, p, t: 3.0, ONE, ONE), {}, "must return one number"),
        ((hjax.Quadratic(), np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)), {}, r"wants a vector \(d,\)"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        solve_characteristics(*arguments, **({"t1": 1.0} | options))


def nowhere(x, p, t):
    """Beyond x = 1 it has no value."""
    return jnp.sum(p) + 0 * jnp.sum(jnp.sqrt(1 - x))


@pytest.mark.parametrize("options", [{}, {"solver": diffrax.Euler(), "dt0": 0.05}])
def test_a_field_without_values_is_an_error_and_no_silent_nan(options):
    start = jnp.zeros(1), jnp.ones(1)
    with pytest.raises(RuntimeError, match="the Hamiltonian or its derivatives are not finite somewhere on the way"):
        solve_characteristics(nowhere, *start, t1=2.0, **options)
    with pytest.raises(Exception, match="are not finite somewhere on the way"):
        jax.jit(lambda x, p: solve_characteristics(nowhere, x, p, t1=2.0, **options).ys)(*start)
    assert solve_characteristics(nowhere, *start, t1=2.0, throw=False, **options) is not None


def test_traced_times_the_wrong_way_round_are_an_error():
    solve = jax.jit(lambda t: solve_characteristics(hjax.Quadratic(), jnp.ones(1), jnp.ones(1), t1=t).ys)
    with pytest.raises(Exception, match="t1 must be later than t0"):
        jax.block_until_ready(solve(-1.0))


def test_too_few_steps_are_an_error_of_their_own():
    with pytest.raises(RuntimeError, match="maximum number of solver steps"):
        solve_characteristics(PENDULUM, jnp.ones(1), jnp.ones(1), t1=50.0, max_steps=5)
