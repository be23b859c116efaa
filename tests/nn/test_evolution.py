"""What every network that steps a state keeps, driven by a registry: adding a class is adding a line."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hjax

STEPS = 4


class Case(NamedTuple):
    """How to make a network, the shape of a sample that takes it STEPS steps, and where to evaluate its field."""

    make: Callable[[Any], Any]
    shape: tuple[int, ...]
    at: Any


def _other(key):
    first, second = jax.random.split(key)
    parts = eqx.nn.Linear(3, 4, key=first), eqx.nn.Lambda(jax.nn.softplus), eqx.nn.Linear(4, 3, key=second)
    return eqx.nn.Sequential(parts)


# `at` of a network with a clock is a time, of a driven one the shape of an input.
EVOLUTIONS = {
    "ResNet": Case(lambda k: hjax.nn.ResNet(3, 5, STEPS, eps=0.7, horizon=2.0, key=k), (3,), 1.2),
    "ResNet of LSE blocks": Case(lambda k: hjax.nn.ResNet(3, 5, STEPS, eps=0.2, kind="lse", key=k), (3,), 0.6),
    "ResNet at eps = 0": Case(lambda k: hjax.nn.ResNet(3, 5, STEPS, kind="lse", key=k).tropical(), (3,), 0.6),
    "ResNet of other blocks": Case(lambda k: hjax.nn.ResNet.from_blocks(_other, 3, STEPS, key=k), (3,), 0.0),
    "RNN": Case(lambda k: hjax.nn.RNN(2, 3, eps=0.5, key=k), (STEPS, 2), (2,)),
    "LSTM": Case(lambda k: hjax.nn.LSTM(2, 3, eps=0.5, key=k), (STEPS, 2), (2,)),
    "SwitchedLSTM": Case(lambda k: hjax.nn.LSTM(2, 3, key=k).tropical(), (STEPS, 2), (2,)),
    "SSM": Case(lambda k: hjax.nn.SSM(2, 1, 4, dt_min=0.5, dt_max=1.0, key=k), (STEPS, 2), (2,)),
    "dense SSM": Case(
        lambda k: hjax.nn.SSM(
            2,
            1,
            3,
            structure="dense",
            discretization="bilinear",
            initialization="hippo",
            dt_min=0.1,
            step_size=2.0,
            key=k,
        ),
        (STEPS, 2),
        (2,),
    ),
    "SelectiveSSM": Case(lambda k: hjax.nn.SelectiveSSM(2, 3, dt_min=0.5, dt_max=1.0, key=k), (STEPS, 2), (2,)),
    "TropicalSSM": Case(lambda k: hjax.nn.TropicalSSM(2, 1, 3, key=k), (STEPS, 2), (2,)),
    "TropicalSSM at eps > 0": Case(lambda k: hjax.nn.TropicalSSM(2, 1, 3, eps=0.4, key=k), (STEPS, 2), (2,)),
}

each = pytest.mark.parametrize("name", EVOLUTIONS)


def made(name: str) -> tuple[Any, jax.Array]:
    """The network and a sample, in the precision of the moment."""
    return _made(name, jax.config.jax_enable_x64)


@functools.cache
def _made(name: str, double: bool) -> tuple[Any, jax.Array]:
    case = EVOLUTIONS[name]
    return case.make(jax.random.key(3)), jnp.asarray(np.random.default_rng(7).normal(size=case.shape), float)


@each
def test_states_follow_each_other_by_steps(double, name):
    network, x = made(name)

    @eqx.filter_jit
    def run(network, x):
        states, drives = network.states(x), network.drives(x)
        stepped = jax.vmap(network.step)(jax.tree.map(lambda a: a[:-1], states), drives)
        return states, network.initial_state(x), stepped, jax.vmap(network.states)(jnp.stack([x, 2 * x]))

    states, first, stepped, batch = (jax.tree.leaves(tree) for tree in run(network, x))
    for s, s0, following, samples in zip(states, first, stepped, batch, strict=True):
        assert len(s) == STEPS + 1
        np.testing.assert_array_equal(s[0], s0)
        np.testing.assert_allclose(s[1:], following, atol=1e-14)
        np.testing.assert_allclose(samples[0], s, atol=1e-14)


@each
def test_states_have_the_dtype_of_the_sample_and_the_network(precision, name):
    case = EVOLUTIONS[name]
    states = eqx.filter_eval_shape(
        lambda k, x: case.make(k).states(x), jax.random.key(0), jax.ShapeDtypeStruct(case.shape, precision)
    )
    assert all(leaf.dtype == precision for leaf in jax.tree.leaves(states))


@each
def test_the_field_is_the_hamiltonian_s_derivative_in_the_momentum(double, name):
    network, x = made(name)
    rng, at = np.random.default_rng(1), EVOLUTIONS[name].at
    at = at if isinstance(at, float) else jnp.asarray(rng.normal(size=at))
    zeros, as_state = ravel_pytree(network.initial_state(x))
    state, momentum = as_state(jnp.asarray(rng.normal(size=zeros.shape))), jnp.asarray(rng.normal(size=zeros.shape))

    @eqx.filter_jit
    def run(network, momenta):
        values = jax.vmap(lambda p: network.hamiltonian(state, as_state(p), at))(momenta)
        return ravel_pytree(network.field(state, at))[0], values

    # H is linear in p, so a difference of any size is its derivative: no autodiff here.
    field, values = run(network, jnp.concatenate([momentum[None], momentum + jnp.eye(len(zeros))]))
    assert np.abs(np.asarray(field)).max() > 0.01
    np.testing.assert_allclose(values[1:] - values[0], field, atol=1e-13)


@each
def test_it_goes_through_a_file_and_says_what_it_solves(name, tmp_path):
    network, _ = made(name)
    hjax.save(tmp_path / "network", network)
    loaded = hjax.load(tmp_path / "network")
    assert jax.tree.structure(loaded) == jax.tree.structure(network)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(network), strict=True):
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
        np.testing.assert_array_equal(one, other)
    reading = network.describe()
    assert reading.model == type(network).__name__
    # None is a solution of a Hamilton-Jacobi equation as a whole.
    assert reading.status == "structural"
    assert str(reading).startswith(f"{reading.model} (structural)")
