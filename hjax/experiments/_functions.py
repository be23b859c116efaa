"""The initial functions g that a problem file may name.

A small registry instead of an expression parser: nothing in a file is evaluated, and every entry has its
equation, its parameters with defaults, and, if g is a sum over coordinates, the summand, from which
`_reference` makes an independent solution in any dimension. Summands take NumPy and JAX arrays alike.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

Numbers = Array | np.ndarray


class InitialFunction(NamedTuple):
    """A named g with its parameters bound: `g(y)` for one point `(d,)`; `summand(s)` or None."""

    name: str
    g: Callable[[Array], Array]
    summand: Callable[[Numbers], Numbers] | None


def norm1(y: Numbers, scale: float = 1.0) -> Numbers:
    """Summand of g(y) = scale * sum_i |y_i|: a rarefaction opens from the kink at 0."""
    return scale * y.__array_namespace__().abs(y)


def quadratic(y: Numbers, curvature: float = 1.0) -> Numbers:
    """Summand of g(y) = curvature * |y|^2 / 2; curvature < 0 focuses at t = -1/(2 curvature)."""
    return curvature * y**2 / 2


def double_valley(y: Numbers, delta: float = 0.5, tilt: float = 0.0) -> Numbers:
    """Summand of g(y) = sum_i |sqrt(y_i^2 + delta^2) - 1| + tilt y_i.

    Two |y|-type valleys with a rounded ridge (g'' = -1/delta) between them, where a shock forms at
    t* = delta/2 under H(p) = p^2 and then moves with speed 2 tilt.
    """
    xp = y.__array_namespace__()
    return xp.abs(xp.sqrt(y**2 + delta**2) - 1) + tilt * y


def sines(y: Numbers, amplitude: float = 1.0, frequency: float = 1.0) -> Numbers:
    """Summand of g(y) = amplitude * sum_i sin(frequency y_i): a periodic row of shocks."""
    return amplitude * y.__array_namespace__().sin(frequency * y)


def norm2(y: Array, scale: float = 1.0) -> Array:
    """g(y) = scale * |y|, the Euclidean norm."""
    return scale * jnp.linalg.norm(y)


def roof(y: Array, delta: float = 0.1) -> Array:
    """g(y) = -sqrt(|y|^2 + delta^2), a smoothed -|y|: everything meets at 0 from t = delta/2 on."""
    return -jnp.sqrt(jnp.sum(y**2) + delta**2)


def ring(y: Array, radius: float = 1.0) -> Array:
    """g(y) = | |y| - radius |: a valley along a sphere; the part that travels inwards meets in a shock."""
    return jnp.abs(jnp.linalg.norm(y) - radius)


_SUMMANDS = {f.__name__: f for f in (norm1, quadratic, double_valley, sines)}
_WHOLE = {f.__name__: f for f in (norm2, roof, ring)}


def names() -> list[str]:
    """The names that `initial_data.function` may have."""
    return sorted({**_SUMMANDS, **_WHOLE})


def parameters(name: str) -> dict[str, float]:
    """The parameters of a function, with their defaults."""
    signature = inspect.signature({**_SUMMANDS, **_WHOLE}[name])
    return {k: p.default for k, p in signature.parameters.items() if k != "y"}


def bind(name: str, values: dict[str, float]) -> InitialFunction:
    """The function of that name with these parameters (defaults for the others)."""
    if name in _WHOLE:
        return InitialFunction(name, lambda y: _WHOLE[name](y, **values), None)

    def summand(s: Numbers) -> Numbers:
        return _SUMMANDS[name](s, **values)

    return InitialFunction(name, lambda y: jnp.sum(summand(y)), summand)
