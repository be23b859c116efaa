"""Temperatures that fall (or rise) during training: functions of the step, like the schedules of optax."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .. import _checks

Schedule = Callable[[ArrayLike], Array]


def constant(value: float) -> Schedule:
    """`eps_k = value` at every step.

    **Arguments:** `value`: a positive number. **Returns:** a function of the step. **Raises:** `ValueError` for
    value <= 0.

    >>> import hjax
    >>> float(hjax.training.constant(0.1)(7))
    0.10000...
    """
    held = _checks.positive_scalar("value", value)
    return lambda step: jnp.broadcast_to(held, jnp.shape(step))


def geometric(start: float, end: float, steps: int) -> Schedule:
    """`eps_k = start (end/start)^(k/steps)` up to step `steps`, then `end`: equal ratios, the usual annealing.

    Any schedule may be used: no theorem prefers one (theory: appendix J). A large eps first makes the loss
    smoother in the atoms, which is what annealing is for.

    **Arguments:** `start`, `end`: positive numbers. `steps`: after how many steps `end` is reached, at least 1.
    **Returns:** a function of the step. **Raises:** `ValueError` for numbers that are not positive.
    **Good values:** start of the order of the targets' range, steps about two thirds of the training.
    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix J.

    >>> import hjax
    >>> schedule = hjax.training.geometric(1.0, 0.01, steps=100)
    >>> [round(float(schedule(k)), 4) for k in (0, 50, 100, 200)]
    [1.0, 0.1, 0.01, 0.01]
    """
    first, last = _ends(start, end, steps)
    return lambda step: first * (last / first) ** _progress(step, steps)


def cosine(start: float, end: float, steps: int) -> Schedule:
    """`eps_k = end + (start - end)(1 + cos(pi k/steps))/2` up to step `steps`, then `end`.

    **Arguments, Returns, Raises:** as for `geometric`.
    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix J (any schedule).

    >>> import hjax
    >>> schedule = hjax.training.cosine(1.0, 0.5, steps=100)
    >>> [round(float(schedule(k)), 4) for k in (0, 50, 100, 200)]
    [1.0, 0.75, 0.5, 0.5]
    """
    first, last = _ends(start, end, steps)
    return lambda step: last + (first - last) * (1 + jnp.cos(jnp.pi * _progress(step, steps))) / 2


def _ends(start: float, end: float, steps: int) -> tuple[Array, Array]:
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; pass after how many steps the schedule ends, at least 1.")
    return _checks.positive_scalar("start", start), _checks.positive_scalar("end", end)


def _progress(step: ArrayLike, steps: int) -> Array:
    return jnp.clip(jnp.asarray(step, float) / steps, 0, 1)
