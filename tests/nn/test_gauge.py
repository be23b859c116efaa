import jax.numpy as jnp
import numpy as np
import pytest

import hjax


def entropy(y: np.ndarray, g: np.ndarray, eps: float, x: np.ndarray, t: float) -> float:
    """Mean attribution entropy over x, in numpy, from the weights."""
    logits = -(((x[:, None] - y) ** 2).sum(-1) / (4 * t) + g) / eps
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    return float(-np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1).mean())


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(6, 2)), 0.3 * rng.normal(size=6), rng.normal(size=(5, 2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_information_gauge_is_the_best_of_a_dense_scan(double, seed):
    y, g, x = problem(seed)
    gauge = hjax.nn.information_gauge(hjax.HopfCole(hjax.InitialData(y, g), 0.2), x)
    scan = [entropy(y, g, 0.2, x, t) for t in np.geomspace(1e-3, 1e4, 4001)]
    assert gauge.entropy == pytest.approx(max(scan), abs=1e-6)
    assert entropy(y, g, 0.2, x, gauge.t) == pytest.approx(gauge.entropy, abs=1e-10)
    assert gauge.interior == (0 < int(np.argmax(scan)) < 4000)


def test_the_information_gauge_says_when_the_maximum_is_an_end(double):
    # With equal values the entropy grows with t towards log N: there is nothing inside.
    y, _, x = problem(0)
    assert not hjax.nn.information_gauge(hjax.HopfCole(hjax.InitialData(y, np.zeros(6)), 0.2), x, upper=10.0).interior


def test_moving_t_at_fixed_atoms_changes_the_layer(double):
    y, g, x = problem(0)
    u = hjax.HopfCole(hjax.InitialData(y, g), 0.2)
    one, two = (hjax.nn.LSELayer.from_solution(u, t)(jnp.asarray(x[0])) for t in (0.5, 1.0))
    assert abs(float(one - two)) > 1e-3


def test_the_data_scale_gauge_matches_the_kernel_s_variance_to_the_data_s(double):
    x = np.random.default_rng(0).normal(size=(500, 3)) * 2 + 5
    t = float(hjax.nn.data_scale_gauge(x, eps=0.1))
    assert 2 * 0.1 * t == pytest.approx(np.mean([np.var(c) for c in x.T]), rel=1e-12)


def test_the_generalization_gauge_is_the_rate():
    gauge = hjax.nn.generalization_gauge(1000, 3)
    assert gauge.eps == gauge.t == pytest.approx(0.1)


DATA = hjax.InitialData(np.zeros((4, 2), np.float32), np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.data_scale_gauge(np.zeros(4), 0.1), r"x has shape \(4,\)"),
        (lambda: hjax.nn.data_scale_gauge(np.zeros((1, 4)), 0.1), r"x has shape \(1, 4\)"),
        (lambda: hjax.nn.data_scale_gauge(np.ones((3, 4)), 0.1), "do not vary"),
        (lambda: hjax.nn.data_scale_gauge(np.eye(3), 0.0), "eps must be positive"),
        (lambda: hjax.nn.information_gauge(hjax.HopfLax(DATA), np.ones((3, 2))), "u is HopfLax"),
        (
            lambda: hjax.nn.information_gauge(hjax.HopfCole(DATA, 0.1), np.ones((3, 2)), lower=0.0),
            "0 < lower",
        ),
        (
            lambda: hjax.nn.information_gauge(hjax.HopfCole(DATA, 0.1), np.ones((3, 2)), lower=2, upper=1),
            "empty",
        ),
        (lambda: hjax.nn.generalization_gauge(0, 2), "width 0"),
        (lambda: hjax.nn.generalization_gauge(10, 0), "dimension 0"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
