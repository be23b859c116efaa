"""Scalar log-sum-exp layers over many seeds and temperatures: what A, B and C train, and how it is read."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import hjax

from ._experiment import Keep

# Pairs times coordinates, measured: below, a step is faster with a matrix, which compiles sooner too.
_SMALL = 2**18


@functools.cache
def adam(rate: float) -> optax.GradientTransformation:
    """The same object for the same rate, so that nothing compiles twice."""
    return optax.adam(rate)


def make_layer(key: Array, eps: Array, *, d: int, width: int, rows: float, biases: float, dtype: str):
    """A scalar layer with rows N(0, rows^2) and biases N(0, biases^2)."""
    first, second = jax.random.split(key)
    weight = rows * jax.random.normal(first, (width, d), dtype)
    return hjax.nn.LSELayer.from_arrays(
        weight, biases * jax.random.normal(second, (width,), dtype), eps=eps.astype(dtype)
    )


def values_of(layer: hjax.nn.LSELayer, x: Array) -> Array:
    """All values at once: one small matrix, or tiles of a large one that stay in the cache, forward and backward."""
    pairs, d = x.shape[0] * layer.weight.shape[0], x.shape[1]
    implementation = "streaming" if pairs * d > _SMALL else "dense"
    cost = hjax.Bilinear()
    return -hjax.softmin(x, layer.weight, -layer.bias, eps=layer.eps, cost=cost, implementation=implementation).value


def train(
    x: np.ndarray,
    y: np.ndarray,
    *,
    width: int,
    eps: Sequence[float],
    seeds: int,
    steps: int,
    rate: float,
    rows: float,
    biases: float,
    keep: Keep,
    own_targets: bool = False,
) -> hjax.training.Fits:
    """Adam on the mean squared error, full batch, in the precision of x: one program for all seeds and temperatures.

    `own_targets`: y is `(temperatures, M)` instead of `(M,)`.
    """
    make = functools.partial(make_layer, d=x.shape[1], width=width, rows=rows, biases=biases, dtype=x.dtype.name)
    return hjax.training.fit_many(
        make,
        (x, y),
        keys=jax.random.split(jax.random.key(0), seeds),
        eps=list(eps),
        data_axes=(None, "eps") if own_targets else None,
        predict=values_of,
        optimizer=adam(rate),
        steps=steps,
        every=max(1, min(500, steps // 4)),
        checkpoint=keep.checkpoint,
        resume=keep.checkpoint is not None,
        progress=keep.progress,
    )


def best(errors: np.ndarray) -> np.ndarray:
    """The seed with the least error for each temperature; `errors` is `(seeds, temperatures)`."""
    return np.where(np.isfinite(errors), errors, np.inf).argmin(axis=0)


def at(model: hjax.nn.LSELayer, seed: int, temperature: int) -> hjax.nn.LSELayer:
    """One layer of an ensemble."""
    return jax.tree.map(lambda a: jnp.asarray(a)[seed, temperature], model)
