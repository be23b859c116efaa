"""L-BFGS after (or instead of) a first-order optimizer: full batches, one model or a whole ensemble at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from . import _loop
from ._fit import Axis, checked_data
from ._loop import State, Task
from ._losses import Loss, Predict, loss_of, metrics_of
from ._parts import take_apart
from ._result import Fit, Fits


class Minimum(NamedTuple):
    """Where it ended: parameters, value, largest entry of the gradient, iterations."""

    params: Any
    value: Array
    gradient: Array
    steps: Array


_MEMORY = 20
# An iteration that no longer lowers the value beyond rounding may be luck; this many are the end.
_PATIENCE = 8
_ULPS = 2


def minimise(value: Callable[[Any], Array], start: Any, steps: Array, tolerance: Array) -> Minimum:
    """L-BFGS with a zoom line search until no entry of the gradient exceeds `tolerance`, or nothing moves."""
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")
    optimizer = optax.lbfgs(memory_size=_MEMORY, linesearch=search)
    at = optax.value_and_grad_from_state(value)

    def largest(gradient: Any) -> Array:
        return jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(gradient)]))

    def going(carry: Any) -> Array:
        _, _, best, k, idle = carry
        return (k < steps) & (best.gradient > tolerance) & (idle < _PATIENCE)

    def body(carry: Any) -> Any:
        params, state, best, k, idle = carry
        now, gradient = at(params, state=state)  # from the line search that led here
        found = Minimum(params, jnp.asarray(now), largest(gradient), k)
        # At the end of the digits the value stands still, but for its last ones, while the gradient still falls.
        rounding = _ULPS * jnp.finfo(found.value.dtype).eps * jnp.abs(found.value)
        lower = found.value < best.value - rounding
        better = lower | ((found.value <= best.value + rounding) & (found.gradient < best.gradient))
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), found, best)
        updates, state = optimizer.update(gradient, state, params, value=now, grad=gradient, value_fn=value)
        return optax.apply_updates(params, updates), state, best, k + 1, jnp.where(better, 0, idle + 1)

    infinity, zero = jnp.full_like(jax.eval_shape(value, start), jnp.inf), jnp.asarray(0)
    best = Minimum(start, infinity, infinity, zero)
    _, _, best, k, _ = lax.while_loop(going, body, (start, optimizer.init(start), best, zero, zero))
    return best._replace(steps=k)


def polish(
    model: Any,
    data: tuple[Any, ...],
    *,
    loss: str | Loss = "squared",
    steps: int = 500,
    tolerance: float | None = None,
    data_axes: Sequence[Axis] | None = None,
    predict: Predict | None = None,
    trainable: Any = None,
    train_eps: bool = False,
    metrics: Sequence[str] | Mapping[str, Loss] = (),
) -> Any:
    """Lower the full-batch loss by L-BFGS (optax, zoom line search): the last digits after Adam.

    **Arguments:** `model`: a model, a `Fit`, or the `Fits` of an ensemble, whose members are then polished all at
    once (`data_axes` as in `fit_many`). `steps`: at most so many iterations. `tolerance`: on the largest entry of the
    gradient; default 10 ulp of one. The rest as in `fit`.

    **Returns:** a `Fit` (`Fits` for an ensemble); its losses are those before and after, `metrics` has "gradient",
    and a `Fit`'s status is "finished" when the gradient is below the tolerance.

    **Raises:** as `fit`. **Cost:** two to three passes over all data an iteration; an ensemble goes on until its
    slowest member ends. **Good values:** double precision (`jax.config.update("jax_enable_x64", True)`): in single
    precision a squared loss has no digits left below about 1e-9.

    **Reference:** Liu and Nocedal, On the limited memory BFGS method (1989).

    >>> import jax, jax.numpy as jnp, hjax
    >>> x = jnp.linspace(-2, 2, 50)[:, None]
    >>> layer = hjax.nn.LSELayer(1, "scalar", width=4, eps=0.1, key=jax.random.key(0))
    >>> result = hjax.training.polish(layer, (x, jnp.abs(x[:, 0])), steps=100)
    >>> result.metrics["loss"] < 1e-3
    True
    """
    shape = model.shape if isinstance(model, Fits) else ()
    start = model.model if isinstance(model, Fit | Fits) else model
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; pass a whole number of at least 1.")
    if data_axes is not None and not shape:
        raise ValueError("data_axes is for an ensemble; pass the Fits of fit_many, or leave it out.")
    chosen = loss_of(loss, predict)
    params, frozen, structure = take_apart(start, trainable, train_eps)
    axes = ("seed", "eps")[: len(shape)]
    arrays, places = checked_data(data, data_axes, axes, shape)
    task = Task(chosen, _NOTHING, structure, axes, places, False, None, False)
    _loop.check_loss(task, State(params, None), frozen, arrays, None, None, shape)
    if tolerance is None:
        tolerance = 10 * float(max(jnp.finfo(a.dtype).eps for a in jax.tree.leaves(params)))
    before, found = _minimised(task, params, frozen, arrays, jnp.asarray(steps), jnp.asarray(tolerance))
    chosen_metrics = metrics_of(metrics, chosen, predict)
    measured = _loop.measure(task, chosen_metrics, found.params, frozen, arrays, places, None)
    numbers = {k: np.asarray(v) for k, v in (measured | {"gradient": found.gradient}).items()}
    losses = np.stack([np.asarray(before), np.asarray(found.value)], axis=-1)
    made, done = np.asarray(found.steps), structure.model(found.params, frozen, None)
    if shape:
        # An ensemble is finished as a whole: members end where their gradients do.
        return Fits(done, losses, [], numbers, np.full(shape, 2), 2)
    gradient = float(numbers["gradient"])
    status = "finished"
    if gradient > tolerance:
        status = (
            f"the gradient is still {gradient:.3g} after {int(made)} iterations (tolerance {tolerance:.3g}); pass more "
            f"steps, a larger tolerance, or use double precision."
        )
    return Fit(done, losses, [], {k: float(v) for k, v in numbers.items()}, int(made), status)


_NOTHING = optax.identity()


@eqx.filter_jit
def _minimised(
    task: Task, params: Any, frozen: Any, data: Any, steps: Array, tolerance: Array
) -> tuple[Array, Minimum]:
    def member(state: State, frozen: Any, data: Any, index: None, eps: None) -> tuple[Array, Minimum]:
        def value(params: Any) -> Array:
            return _loop.member_loss(task, State(params, None), frozen, data, index, eps)

        return value(state.params), minimise(value, state.params, steps, tolerance)

    return _loop.over_members(task, member)(State(params, None), frozen, data, None, None)
