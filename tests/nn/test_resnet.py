"""Residual networks against NumPy loops, SciPy's integrator and their limits; one learns two moons."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, special
from sklearn.datasets import make_moons

import hjax
from hjax.training import fit

from .. import tolerances

X = np.array([0.7, -0.2])


def _x(dtype=float):
    # A copy: jax remembers what it made of an array, even from the other precision.
    return jnp.asarray(X.copy(), dtype)


def _tanh(parameters, x, eps):
    w, b, v, c = parameters
    return v @ np.tanh((w @ x + b) / eps) + c


def _parameters(network):
    blocks = network.blocks
    return [np.asarray(a, float) for a in (blocks.gate.weight, blocks.gate.bias, blocks.weight, blocks.bias)]


def _network(depth=4, eps=1.0, **options):
    """A network of random numbers that nothing is compiled for."""
    shapes = eqx.filter_eval_shape(lambda: hjax.nn.ResNet(2, 5, depth, key=jax.random.key(0), **options))
    rng = np.random.default_rng(3)
    network = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) / 2, a.dtype), shapes)
    return eqx.tree_at(lambda n: n.blocks.gate.eps, network, jnp.full(depth, eps))


def test_it_is_a_loop_of_residual_blocks(precision):
    network = _network(eps=0.5, horizon=2.0)
    want = [X]
    for k in range(4):
        want.append(want[-1] + 0.5 * _tanh([p[k] for p in _parameters(network)], want[-1], 0.5))
    x = _x(precision)
    states, final = eqx.filter_jit(lambda n, x: (n.states(x), n(x)))(network, x)
    assert final.dtype == precision
    np.testing.assert_allclose(states, want, atol=16 * tolerances.of(precision).atol)
    np.testing.assert_array_equal(final, states[-1])


def test_mixed_precision_runs_in_the_wider_one(double):
    network = _network()
    assert network(_x(jnp.float32)).dtype == jnp.float64
    half = jax.tree.map(lambda a: a.astype(jnp.float32), network)
    assert half(_x()).dtype == jnp.float64


def test_lse_blocks_are_log_sum_exps_and_tend_to_maxima(double):
    eps = np.array([0.1, 0.01, 0.001])

    network = hjax.nn.ResNet(2, 6, 4, kind="lse", key=jax.random.key(2))
    rows, biases = np.asarray(network.blocks.weight), np.random.default_rng(4).normal(size=(4, 2, 6))

    @eqx.filter_jit
    def finals(network, x):
        network = eqx.tree_at(lambda n: n.blocks.bias, network, jnp.asarray(biases))
        warm = [eqx.tree_at(lambda n: n.blocks.eps, network, jnp.full(4, e))(x) for e in eps]
        return warm, network.tropical()(x)

    warm, cold = finals(network, _x())
    hard = X
    for w, b in zip(rows, biases, strict=True):
        hard = hard + 0.25 * (w @ hard + b).max(axis=1)
    np.testing.assert_allclose(cold, hard, atol=1e-14)
    errors = []
    for e, got in zip(eps, warm, strict=True):
        want = X
        for w, b in zip(rows, biases, strict=True):
            want = want + 0.25 * e * special.logsumexp((w @ want + b) / e, axis=1)
        np.testing.assert_allclose(got, want, atol=1e-14)
        errors.append(np.abs(want - hard).max())
    assert errors[0] > errors[1] > errors[2]
    assert network.tropical().describe().parts[0].eps == 0


def test_the_clock_finds_the_block_of_a_rounded_time(precision):
    network = _network(depth=10)
    h = np.asarray(0.1, precision)
    summed = np.cumsum(np.full(10, h), dtype=precision) - h
    times = jnp.asarray(np.concatenate([np.arange(10) * h, summed, summed + h / 2, [-1.0, 0.9999, 1.0, 7.0]]))
    blocks = [*range(10)] * 3 + [0, 9, 9, 9]
    got = eqx.filter_jit(lambda n, t: jax.vmap(lambda t: n.field(_x(), t))(t))(network, times)
    parameters = _parameters(network)
    want = [_tanh([p[k] for p in parameters], X, 1.0) for k in blocks]
    np.testing.assert_allclose(got, want, atol=16 * tolerances.of(precision).atol)


@pytest.mark.parametrize("interpolation", ["constant", "linear"])
def test_euler_s_method_on_its_flow_is_the_network(interpolation, precision):
    network = _network(depth=10, horizon=0.7)
    x = _x(precision)

    @eqx.filter_jit
    def solve(flow, x):
        term = diffrax.ODETerm(lambda t, y, _: flow.field(y, t))
        return diffrax.diffeqsolve(term, diffrax.Euler(), flow.t0, flow.t1, 0.07, x).ys[0]

    flow = network.to_ode(interpolation)
    assert (flow.t0, flow.t1) == (0.0, 0.7)
    # The linear one sees the rounding of diffrax's times.
    np.testing.assert_allclose(solve(flow, x), network(x), atol=64 * tolerances.of(precision).atol)


@pytest.mark.parametrize("interpolation", [pytest.param("constant", marks=pytest.mark.slow), "linear"])
def test_refined_networks_tend_to_their_differential_equation_at_order_one(interpolation, double):
    network = _network(depth=4, horizon=1.0)
    parameters = _parameters(network)

    def field(t, x):
        k = min(int(t * 4), 3)
        part = (t * 4 - k) * (interpolation == "linear")
        return _tanh([p[k] + part * (p[min(k + 1, 3)] - p[k]) for p in parameters], x, 1.0)

    flow = network.to_ode(interpolation)
    for t in (0.1, 0.25, 0.6, 0.74, 0.9):
        np.testing.assert_allclose(flow.field(_x(), t), field(t, X), atol=1e-14)
    want = X
    for k in range(4):  # the field jumps or bends between intervals
        piece = (k / 4, np.nextafter((k + 1) / 4, 0))
        want = integrate.solve_ivp(field, piece, want, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    factors = np.array([8, 16, 32, 64])
    run = eqx.filter_jit(lambda n: [n.refine(int(f), interpolation)(_x()) for f in factors])
    errors = [np.abs(np.asarray(got) - want).max() for got in run(network)]
    slope = np.polyfit(np.log(factors), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.05
    np.testing.assert_array_equal(network.refine(1, interpolation)(_x()), network(_x()))


@pytest.mark.parametrize("interpolation", ["constant", "linear"])
def test_a_flow_goes_through_a_file(interpolation, tmp_path):
    flow = _network().to_ode(interpolation)
    hjax.save(tmp_path / "flow", flow)
    assert eqx.tree_equal(hjax.load(tmp_path / "flow"), flow)


def test_own_blocks_and_single_blocks():
    network = hjax.nn.ResNet.from_blocks(
        lambda key: eqx.nn.Linear(2, 2, key=key), size=2, depth=3, horizon=1.5, key=jax.random.key(0)
    )
    x = _x()
    want = x
    for k in range(3):
        want = want + 0.5 * network.block(k)(want)
    np.testing.assert_allclose(network(x), want, atol=1e-6)
    np.testing.assert_array_equal(network.block(-1)(x), network.block(2)(x))
    assert network.describe().parts == ()


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.ResNet(0, 3, 2, key=KEY), "size is 0"),
        (lambda: hjax.nn.ResNet(2, 3, 2.0, key=KEY), r"depth is 2\.0"),
        (lambda: hjax.nn.ResNet(2, 0, 2, key=KEY), "width is 0"),
        (lambda: hjax.nn.ResNet(2, 3, 2, eps=0.0, key=KEY), "eps must be positive"),
        (lambda: hjax.nn.ResNet(2, 3, 2, horizon=-1.0, key=KEY), r"horizon is -1\.0; pass a positive number"),
        (lambda: hjax.nn.ResNet(2, 3, 2, horizon=jnp.inf, key=KEY), "horizon is inf"),
        (lambda: hjax.nn.ResNet(2, 3, 2, kind="relu", key=KEY), r"kind is 'relu'.*from_blocks"),
        (lambda: hjax.nn.ResNet(2, 3, 2, key=KEY)(jnp.zeros((5, 2))), r"jax\.vmap\(network\)"),
        (lambda: hjax.nn.ResNet(2, 3, 2, key=KEY)(jnp.zeros(2, int)), "dtype int"),
        (lambda: hjax.nn.ResNet(2, 3, 2, key=KEY).tropical(), "no max-plus limit.*kind='lse'"),
        (lambda: hjax.nn.ResNet(2, 3, 2, key=KEY).to_ode("cubic"), "interpolation is 'cubic'"),
        (lambda: hjax.nn.ResNet(2, 3, 2, key=KEY).refine(0), "factor is 0"),
        (lambda: hjax.nn.ResNet(2, 3, 2, key=KEY).block(2), "index is 2, but this network has 2 blocks"),
        (
            lambda: hjax.nn.ResNet.from_blocks(lambda k: eqx.nn.Linear(2, 3, key=k), 2, 2, key=KEY),
            r"a block makes \(3,\)",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_it_learns_two_moons():
    x, y = make_moons(1000, noise=0.1, random_state=0)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)
    first, middle, last = jax.random.split(jax.random.key(0), 3)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Linear(2, 8, key=first),
            hjax.nn.ResNet(8, 16, 8, horizon=2.0, key=middle),
            eqx.nn.Linear(8, 2, key=last),
        ]
    )
    found = fit(
        model,
        (x[:600], y[:600]),
        steps=300,
        loss="cross_entropy",
        optimizer=optax.adam(1e-2),
        batch_size=100,
        metrics=["accuracy"],
        evaluation=(x[600:], y[600:]),
    )
    assert found.finished
    assert found.metrics["accuracy"] >= 0.97
