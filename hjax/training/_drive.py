"""From one piece of the compiled loop to the next: batches, temperatures, checks, records, checkpoints."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from . import _checkpoint, _loop
from ._batches import Batches
from ._loop import State, Task
from ._progress import Log, Report, reporting


class Plan(NamedTuple):
    """A run, validated."""

    task: Task
    params: Any
    frozen: Any
    data: tuple[Any, ...]
    shape: tuple[int, ...]  # of the ensemble; () for one model
    batches: Batches
    eps: Callable[[Any], Any] | None  # steps (K,) -> (K,) or (K, temperatures)
    steps: int
    every: int
    metrics: tuple[tuple[str, Callable[..., Any]], ...]
    evaluation: tuple[Any, ...]
    evaluation_axes: tuple[tuple[str, ...], ...]
    log: "str | os.PathLike | None"
    checkpoint: "str | os.PathLike | None"
    resume: bool
    progress: "bool | Report | None"


class Ended(NamedTuple):
    """Parameters, losses `(*shape, steps made)`, records, final metrics, good steps `(*shape,)`."""

    params: Any
    losses: np.ndarray
    records: list[dict[str, Any]]
    metrics: dict[str, np.ndarray]
    good: np.ndarray
    step: int


def drive(plan: Plan) -> Ended:
    """Run the plan to its end, or until no member has a finite loss."""
    task = plan.task
    state = _loop.initial_state(task, plan.params)
    step, good = 0, np.full(plan.shape, plan.steps)
    losses: list[np.ndarray] = []
    records: list[dict[str, Any]] = []
    file = None if plan.checkpoint is None else _checkpoint.Checkpoint(plan, state)
    if file is not None and plan.resume:
        found = file.read(state)
        if found is not None:
            state, step, good, before, records = found
            losses = [before]
    log = Log(plan.log, records)
    buffer = jnp.zeros((plan.every, *plan.shape), _loss_dtype(plan, state))
    began, spent = time.perf_counter(), records[-1]["seconds"] if records else 0.0
    try:
        with reporting(plan.progress, "training") as report:
            coming = _prepared(plan, step)
            while step < plan.steps and np.any(good > step):
                count = min(plan.every - step % plan.every, plan.steps - step)
                indices, eps = coming
                stops = None if np.all(good > step) else np.clip(good - step, 0, count)

                def piece(
                    count: int, stops: Any, state: State = state, indices: Any = indices, eps: Any = eps
                ) -> tuple[State, Any]:
                    given = None if stops is None else jnp.asarray(stops)
                    return _loop.run(
                        task, state, plan.frozen, plan.data, indices, eps, buffer, jnp.asarray(count), given
                    )

                new, made = piece(count, stops)
                coming = _prepared(plan, step + count)
                values = np.asarray(made)[:count]
                well = _loop.well(task, new, plan.frozen, plan.data, indices, eps, jnp.asarray(count - 1))
                stop = _good_steps(values, np.asarray(well), good - step)
                if np.any(stop < np.minimum(good - step, count)):
                    # Again, to the last step at which all is well: the same program, so the same numbers.
                    good = np.where(stop < np.minimum(good - step, count), step + stop, good)
                    if plan.shape:
                        new, _ = piece(count, np.clip(good - step, 0, count))
                    else:
                        new, _ = piece(int(stop), None)
                state, step = new, step + count
                losses.append(values)
                record = _record(plan, state, step, values, eps, count)
                record["seconds"] = round(spent + time.perf_counter() - began, 3)
                records.append(record)
                log.write(record)
                if file is not None:
                    file.write(state, step, good, np.concatenate(losses), records)
                report(step / plan.steps, f"step {step:,}, loss {np.min(values[-1]):.3g}")
    finally:
        log.close()
    metrics = {k: np.asarray(v) for k, v in _measured(plan, state, plan.steps - 1).items()}
    together = np.concatenate(losses) if losses else np.zeros((0, *plan.shape))
    return Ended(state.params, np.moveaxis(together, 0, -1), records, metrics, np.minimum(good, plan.steps), step)


def _prepared(plan: Plan, step: int) -> tuple[Any, Any]:
    """The batches and temperatures of the steps up to the next multiple of `every`."""
    if step >= plan.steps:
        return None, None
    indices = plan.batches.indices(step, plan.every)
    eps = None
    if plan.eps is not None:
        # What lies behind the end is never used, and a schedule need not be positive there.
        eps = plan.eps(jnp.minimum(jnp.arange(step, step + plan.every), plan.steps - 1))
        lowest = float(jnp.min(eps)) if bool(jnp.isfinite(eps).all()) else float("nan")
        if not lowest > 0:
            raise ValueError(f"the schedule gives eps = {lowest} at a step; pass one that stays positive and finite.")
    return None if indices is None else jnp.asarray(indices), eps


def _good_steps(losses: np.ndarray, well: np.ndarray, running: np.ndarray) -> np.ndarray:
    """After how many steps of this piece each member was last well (its loss at those parameters finite)."""
    count = len(losses)
    bad = ~np.isfinite(losses)
    first = np.where(bad.any(axis=0), bad.argmax(axis=0), count)
    # The loss of step i is that of the parameters after i steps: the good ones are a step older.
    stop = np.where(first < count, np.maximum(first - 1, 0), np.where(well, count, count - 1))
    return np.where(running <= 0, running, stop)


def _record(plan: Plan, state: State, step: int, values: np.ndarray, eps: Any, count: int) -> dict[str, Any]:
    record: dict[str, Any] = {"step": step, "loss": values[-1].tolist()}
    if eps is not None:
        record["eps"] = np.asarray(eps)[count - 1].tolist()
    if len(plan.metrics) > 1:
        measured = _measured(plan, state, step - 1)
        record["metrics"] = {k: np.asarray(v).tolist() for k, v in measured.items()}
    return record


def _measured(plan: Plan, state: State, step: int) -> dict[str, Any]:
    eps = None if plan.eps is None else plan.eps(jnp.asarray([step]))[0]
    return _loop.measure(plan.task, plan.metrics, state.params, plan.frozen, plan.evaluation, plan.evaluation_axes, eps)


def _loss_dtype(plan: Plan, state: State) -> Any:
    indices, eps = _prepared(plan, 0)
    index, first = None if indices is None else indices[0], None if eps is None else eps[0]
    return _loop.check_loss(plan.task, state, plan.frozen, plan.data, index, first, plan.shape)
