"""The co-state of a differential equation against scipy, against the discrete one, and the orders of both."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import hjax
from hjax.dynamics import StormerVerlet, continuous_costate, costate


class Driven(eqx.Module):
    """`F(x, t) = tanh(W x + b t)`."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, x, t):
        return jnp.tanh(self.weight @ x + self.bias * t)


WEIGHT = np.random.default_rng(3).normal(size=(3, 3))
BIAS = np.array([0.5, -1.0, 0.3])
START, TARGET = np.array([0.4, -0.2, 0.9]), np.array([1.0, 0.0, -1.0])


def flow(dtype=None):
    return hjax.nn.Flow(Driven(jnp.asarray(WEIGHT, dtype), jnp.asarray(BIAS, dtype)), t0=0.0, t1=1.5)


def loss(x):
    return jnp.sum((x - TARGET.astype(x.dtype)) ** 2) / 2


def by_scipy(weight, bias):
    """x, p and the gradient by equation 17 in NumPy: forwards, then backwards beside a dense solution."""

    def rate(t, x):
        return np.tanh(weight @ x + bias * t)

    tight = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-12, "dense_output": True}
    path = integrate.solve_ivp(rate, (0, 1.5), START, **tight)

    def back(t, y):
        x, p = path.sol(t), y[:3]
        slope = (1 - rate(t, x) ** 2) * p
        return -np.concatenate([weight.T @ slope, np.outer(slope, x).ravel(), slope * t])

    end = path.y[:, -1]
    found = integrate.solve_ivp(back, (1.5, 0), np.concatenate([end - TARGET, np.zeros(12)]), **tight)
    return path.sol, found.sol


def test_state_costate_and_gradient_are_those_of_scipy(precision):
    states, adjoint = by_scipy(WEIGHT, BIAS)
    found = costate(flow(precision), jnp.asarray(START, precision), loss, steps_saved=3)
    error = {"float64": 2e-8, "float32": 5e-5}[precision.name]
    times = np.linspace(0, 1.5, 4)
    np.testing.assert_allclose(found.states, states(times).T, atol=error)
    np.testing.assert_allclose(found.momenta, adjoint(times)[:3].T, atol=error)
    np.testing.assert_allclose(found.value, ((states(1.5) - TARGET) ** 2).sum() / 2, rtol=error)
    np.testing.assert_allclose(found.gradient.field.weight, adjoint(0.0)[3:12].reshape(3, 3), atol=error)
    np.testing.assert_allclose(found.gradient.field.bias, adjoint(0.0)[12:], atol=error)
    assert (found.gradient.t0, found.gradient.t1) == (None, None)
    assert {a.dtype for a in jax.tree.leaves(found)} == {precision}


def test_a_momentum_in_place_of_a_loss_and_the_ends_of_time(double):
    """The gradient in t0 and t1, where they are arrays, by differences of scipy's flow; trees; vmap."""
    momentum = np.array([0.3, -1.0, 2.0])

    def value(t0, t1):
        return (
            momentum
            @ integrate.solve_ivp(
                lambda t, x: np.tanh(WEIGHT @ x + BIAS * t), (t0, t1), START, method="DOP853", rtol=1e-12, atol=1e-12
            ).y[:, -1]
        )

    @jax.jit
    def found(t0, t1, scale):
        whole = hjax.nn.Flow(lambda x, t: {"a": Driven(WEIGHT, BIAS)(x["a"], t)}, t0, t1)
        return costate(whole, {"a": jnp.asarray(START)}, {"a": scale * momentum})

    several = jax.vmap(found, in_axes=(None, None, 0))(jnp.array(0.2), jnp.array(1.1), jnp.array([1.0, -2.0]))
    h = 1e-5
    np.testing.assert_allclose(several.gradient.t0[0], (value(0.2 + h, 1.1) - value(0.2 - h, 1.1)) / (2 * h), atol=1e-7)
    np.testing.assert_allclose(several.gradient.t1[0], (value(0.2, 1.1 + h) - value(0.2, 1.1 - h)) / (2 * h), atol=1e-7)
    np.testing.assert_allclose(several.momenta["a"][1], -2 * several.momenta["a"][0], atol=1e-7)
    assert several.value is None


def euler_gradient(steps):
    """Forwards and backwards through Euler's steps, in NumPy: the discrete gradient of the parameters and p_0."""
    h = 1.5 / steps
    xs = [START]
    for k in range(steps):
        xs.append(xs[-1] + h * np.tanh(WEIGHT @ xs[-1] + BIAS * (k * h)))
    p, weight, bias = xs[-1] - TARGET, np.zeros((3, 3)), np.zeros(3)
    for k in reversed(range(steps)):
        slope = h * (1 - np.tanh(WEIGHT @ xs[k] + BIAS * (k * h)) ** 2) * p
        weight += np.outer(slope, xs[k])
        bias += slope * (k * h)
        p = p + WEIGHT.T @ slope
    return np.concatenate([p, weight.ravel(), bias])


def flat(found):
    return np.concatenate([found.momenta[0], found.gradient.field.weight.ravel(), found.gradient.field.bias])


def test_the_discrete_gradient_tends_to_it_at_order_h(double):
    limit = flat(costate(flow(), jnp.asarray(START), loss))
    depths = np.array([32, 64, 128, 256])
    gaps = [np.abs(euler_gradient(k) - limit).max() for k in depths]
    slope = np.polyfit(np.log(1.5 / depths), np.log(gaps), 1)[0]
    assert abs(slope - 1) < 0.1, gaps


@pytest.mark.slow
def test_it_is_the_limit_of_a_residual_networks_backpropagation(double):
    """`jax.grad` through ever deeper networks of one theta(t), against the co-state of their `to_ode`."""
    network = hjax.nn.ResNet(2, 5, 4, key=jax.random.key(0))
    x = jnp.array([0.7, -0.4])
    limit = costate(network.to_ode("linear"), x, lambda s: jnp.sum(s**3)).momenta[0]
    gradient = eqx.filter_jit(lambda net, x: jax.grad(lambda x: jnp.sum(net(x) ** 3))(x))
    factors = np.array([4, 8, 16])
    gaps = [np.abs(gradient(network.refine(int(f), "linear"), x) - limit).max() for f in factors]
    slope = np.polyfit(np.log(1 / factors), np.log(gaps), 1)[0]
    assert abs(slope - 1) < 0.1, gaps


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        pytest.param(diffrax.Euler(), 1, marks=pytest.mark.slow),
        (diffrax.Heun(), 2),
        pytest.param(diffrax.Bosh3(), 3, marks=pytest.mark.slow),
        (diffrax.Tsit5(), 5),
    ],
)
def test_a_solver_reaches_its_own_order_in_the_costate_and_the_gradient(double, solver, order):
    _, adjoint = by_scipy(WEIGHT, BIAS)
    steps = np.array([8, 16, 32])

    @jax.jit
    def found(h):
        return continuous_costate(
            flow(), jnp.asarray(START), loss, solver=solver, dt0=h, stepsize_controller=diffrax.ConstantStepSize()
        )

    gaps = [np.abs(flat(found(1.5 / k)) - adjoint(0.0)).max() for k in steps]
    slope = np.polyfit(np.log(1 / steps), np.log(gaps), 1)[0]
    assert slope > order - 0.25, gaps
    assert slope < order + (1.1 if order == 5 else 0.5), gaps


@pytest.mark.slow
def test_a_contracting_flow_keeps_its_digits_where_solving_backwards_loses_them(double):
    """At a rate of -15 the state forgets where it came from; the path back is kept, not solved for."""

    def field(x, t):
        return -15 * (x - jnp.sin(t)) - (x - jnp.sin(t)) ** 3

    def rate(t, y):
        x, p = y
        return [-15 * (x - np.sin(t)) - (x - np.sin(t)) ** 3, 15 * p + 3 * (x - np.sin(t)) ** 2 * p]

    # Of the variation dx(2)/dx(0), which p(0) is for p(2) = 1, by scipy forwards: stable.
    def variation(t, y):
        x, v = y
        return [rate(t, [x, 0])[0], -(15 + 3 * (x - np.sin(t)) ** 2) * v]

    exact = integrate.solve_ivp(variation, (0, 2), [2.0, 1.0], method="DOP853", rtol=1e-12, atol=1e-25).y[1, -1]
    tight = diffrax.PIDController(rtol=1e-9, atol=1e-22)
    ours = costate(
        hjax.nn.Flow(field, 0.0, 2.0), jnp.array([2.0]), jnp.array([1.0]), stepsize_controller=tight
    ).momenta[0, 0]
    assert abs(ours / exact - 1) < 1e-5

    @jax.jit
    @jax.grad
    def backwards(x):
        return hjax.dynamics.solve_characteristics(
            hjax.Advection(field), x[None], jnp.ones(1), t1=2.0, adjoint=diffrax.BacksolveAdjoint(),
            stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-9), throw=False,
        ).ys[0][-1, 0]  # fmt: skip

    lost = float(backwards(jnp.array(2.0)))
    assert not abs(lost / exact - 1) < 1e-2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": np.array([1, 2, 3])}, "x has dtype int"),
        ({"terminal": lambda x: x}, r"terminal returns \(3,\), but a number"),
        ({"terminal": np.ones(2, np.float32)}, r"a momentum of shapes \[\(2,\)\], but the final state has \[\(3,\)\]"),
        ({"flow": hjax.nn.Flow(lambda x, t: x[:2], 0.0, 1.0)}, "the field makes"),
        ({"flow": hjax.nn.Flow(lambda x, t: x, 1.0, 1.0)}, "t1 must be later than t0"),
        ({"steps_saved": 0}, "steps_saved is 0"),
        ({"solver": StormerVerlet(), "dt0": 0.1}, "StormerVerlet steps two halves"),
        ({"solver": diffrax.Euler()}, "wants their length; pass dt0"),
        ({"running": lambda x, t: 0.0}, "running is paid at the steps of a network"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(options, words):
    given = {"flow": hjax.nn.Flow(lambda x, t: -x, 0.0, 1.0), "x": np.ones(3, np.float32), "terminal": loss} | options
    with pytest.raises(ValueError, match=words):
        costate(given.pop("flow"), given.pop("x"), given.pop("terminal"), **given)


@pytest.mark.slow
def test_a_field_without_values_is_an_error():
    broken = hjax.nn.Flow(lambda x, t: 1 + 0 * jnp.sqrt(1 - x), 0.0, 2.0)
    with pytest.raises(RuntimeError, match="the field or its derivatives are not finite"):
        costate(broken, jnp.zeros(1), jnp.ones(1))
