"""The memory contract, read off the compiler's own analysis: temporaries of value and derivatives."""

import jax
import jax.numpy as jnp
import pytest

import hjax

MEGABYTE = 2**20
COSTS = {
    "squared": (3, lambda scale: hjax.SquaredEuclidean(scale)),
    "squared, d = 24": (24, lambda scale: hjax.SquaredEuclidean(scale)),
    "bilinear": (3, lambda scale: hjax.Bilinear()),
    "any cost": (3, lambda scale: lambda x, y: scale * jnp.sum(jnp.abs(x - y))),
}


def value(make, x, y, g, payload, eps, scale, implementation="streaming"):
    reduced = hjax.softmin(x, y, g, eps=eps, cost=make(scale), payload=payload, implementation=implementation)
    return jnp.sum(reduced.value) + jnp.sum(reduced.mean**2)


def temporaries(function, size, dimension):
    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    n, d = size, dimension
    arguments = array(n, d), array(n, d), array(n), array(n, 2), array(), array()
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "squared")) for n in COSTS])
def test_value_and_gradient_in_all_inputs_at_40960_fit_64_megabytes(name):
    dimension, make = COSTS[name]
    inputs = tuple(range(5 if name == "bilinear" else 6))  # the scale plays no part in it
    implementation = "pruned" if name == "squared" else "streaming"
    function = jax.value_and_grad(lambda *a: value(make, *a, implementation), argnums=inputs)
    # One 40,960 x 40,960 float32 matrix is 6,400 MB.
    assert temporaries(function, 40_960, dimension) < 64 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS)
def test_reverse_over_reverse_at_10240_fits_128_megabytes(name):
    dimension, make = COSTS[name]
    inputs = tuple(range(5))

    def slope(*arguments):
        gradients = jax.grad(lambda *a: value(make, *a), argnums=inputs)(*arguments)
        return sum(jnp.sum(jnp.sin(gradient)) for gradient in gradients)

    # One 10,240 x 10,240 float32 matrix is 400 MB.
    assert temporaries(jax.grad(slope, argnums=inputs), 10_240, dimension) < 128 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS)
def test_forward_over_reverse_at_10240_fits_128_megabytes(name):
    dimension, make = COSTS[name]
    inputs = tuple(range(5))

    def product(*arguments):
        gradient = jax.grad(lambda *a: value(make, *a), argnums=inputs)
        return jax.jvp(lambda *a: gradient(*a, arguments[5]), arguments[:5], arguments[:5])[1]

    assert temporaries(product, 10_240, dimension) < 128 * MEGABYTE


def test_vmapped_single_queries_stay_small():
    def total(x, y, g, payload, eps, scale):
        def one(point):
            return hjax.softmin(point, y, g, eps=eps, payload=payload).value

        return jax.vmap(one)(x)

    assert temporaries(total, 10_240, 3) < 128 * MEGABYTE
