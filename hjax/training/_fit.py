"""The two calls that train: one model, or an ensemble over seeds and temperatures in one program."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .. import _checks
from ._batches import Batches, is_key
from ._drive import Ended, Plan, drive
from ._loop import Task
from ._losses import Loss, Predict, loss_of, metrics_of
from ._parts import eps_leaves, take_apart, with_eps
from ._progress import Report
from ._result import Diverged, Fit, Fits, stopped
from ._schedules import Schedule

Eps = float | Array | Schedule
_EVERY = 500


def fit(
    model: Any,
    data: tuple[Any, ...],
    *,
    steps: int,
    loss: str | Loss = "squared",
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    key: Any = 0,
    predict: Predict | None = None,
    eps: Eps | None = None,
    trainable: Any = None,
    train_eps: bool = False,
    metrics: Sequence[str] | Mapping[str, Loss] = (),
    evaluation: tuple[Any, ...] | None = None,
    every: int | None = None,
    log: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool | Report | None = None,
    mesh: Mesh | None = None,
    throw: bool = True,
) -> Fit:
    """Minimise `mean_i loss(model(x_i), y_i)` by an optax optimizer, in compiled pieces of `every` steps.

    Every sample is seen once an epoch, in an order that `key` decides. The temperatures of the model are *not*
    trained unless `train_eps=True` (then through their logarithms, so they stay positive).

    **Arguments:**

    - `model`: any Equinox module: an `hjax.nn` layer, a `HopfCole` solution (its atoms and values are trained).
    - `data`: arrays with one row per sample, `(x, y)` for the losses with a name.
    - `steps`: how many.
    - `loss`: "squared", "absolute", "cross_entropy" (scores and integer labels), or a function
      `(model, *batch) -> mean`. Pass the same function object again and nothing is compiled twice.
    - `optimizer`: of optax; default `optax.adam(1e-2)`.
    - `batch_size`: samples a step, None for all. `key`: an int or a random key.
    - `predict`: `(model, x) -> predictions` for a named loss; default `jax.vmap(model)(x)`.
    - `eps`: None (the model's own), a number, or a schedule `step -> eps` (`geometric`, `cosine`, any of optax):
      every field named eps is set to it.
    - `trainable`: which leaves: a function of a leaf or a tree of bools; default `eqx.is_inexact_array`.
    - `metrics`: names ("rmse", "sup", "accuracy", or a loss), or a dict of functions like `loss`.
    - `evaluation`: arrays like `data` for the metrics; default the data.
    - `every`: steps per compiled piece, after which the log, the bar, metrics and the checkpoint follow.
    - `log`: a file of JSON lines. `progress`: None (a bar if stderr is a terminal), a bool, or a function
      (fraction, words).
    - `checkpoint`: a file; written after every piece, whole or not at all, the one before kept as
      `<file>.previous`. `resume=True` continues from it (from the start if there is none) to the same bits as a
      run that was never stopped, and refuses the checkpoint of another run. `steps` may be larger than then.
    - `mesh`: devices over whose first axis each batch is split; parameters are on all.
    - `throw`: raise `Diverged` when the loss is no longer finite; False returns the last good model and says so
      in `status`.

    **Returns:** `Fit(model, losses, history, metrics, steps, status)`.

    **Raises:** `ValueError` for shapes that do not fit, NaN in the data, a loss that is no number;
    `Diverged` with the last good model in `.result`, which is also what is on disk.

    **Error:** with a mesh, as without one to rounding (sums are taken in another order).

    **Cost:** no Python between the steps of a piece; at divergence one piece runs twice.
    **Good values:** Adam at 1e-3 to 1e-2; `every` 100 to 1,000, or it is mostly Python that you wait for.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix C (regression, classification).

    >>> import jax, jax.numpy as jnp, hjax
    >>> x = jnp.linspace(-2, 2, 50)[:, None]
    >>> layer = hjax.nn.LSELayer(1, "scalar", width=8, eps=0.1, key=jax.random.key(0))
    >>> result = hjax.training.fit(layer, (x, jnp.abs(x[:, 0])), steps=300, metrics=["sup"])
    >>> result.status, result.losses.shape, result.metrics["sup"] < 0.1
    ('finished', (300,), True)
    """
    chosen = loss_of(loss, predict)
    if eps is not None:
        model = with_eps(model, _start(eps, model))
    params, frozen, structure = take_apart(model, trainable, train_eps)
    places = ((),) * len(_rows(data, "data"))
    task = Task(chosen, _optimizer(optimizer), structure, (), places, False, _mesh(mesh), callable(eps))
    plan = _plan(
        task, params, frozen, data, (), [key], steps, batch_size, [eps] if callable(eps) else None,
        metrics_of(metrics, chosen, predict), evaluation, None, every, log, checkpoint, resume, progress, train_eps,
    )  # fmt: skip
    ended = drive(plan)
    good = int(ended.good)
    done = Fit(
        _assembled(task, ended, plan, frozen),
        ended.losses[:good],
        ended.records,
        {k: float(v) for k, v in ended.metrics.items()},
        good,
        "finished" if good == steps else stopped(good),
    )
    if throw and not done.finished:
        where = "" if checkpoint is None else f" It is in result.model and in {checkpoint}."
        raise Diverged(done.status + where, done)
    return done


Axis = Literal["seed", "eps", "both"] | None


def fit_many(
    make: Callable[..., Any],
    data: tuple[Any, ...],
    *,
    keys: Any,
    eps: Sequence[Eps] | Array | None = None,
    steps: int,
    data_axes: Sequence[Axis] | None = None,
    loss: str | Loss = "squared",
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    shared_batches: bool = True,
    predict: Predict | None = None,
    trainable: Any = None,
    train_eps: bool = False,
    metrics: Sequence[str] | Mapping[str, Loss] = (),
    evaluation: tuple[Any, ...] | None = None,
    evaluation_axes: Sequence[Axis] | None = None,
    every: int | None = None,
    log: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool | Report | None = None,
    mesh: Mesh | None = None,
) -> Fits:
    """`fit` for every seed and every temperature at once, in one compiled program: `fits[seed, eps]`.

    **Arguments:** as `fit`, and

    - `make`: `(key, eps) -> model`, or `(key) -> model` without temperatures; it is vmapped.
    - `keys`: one key per seed: `jax.random.split(key, seeds)`, or a number of seeds.
    - `eps`: temperatures: numbers, or schedules (a model starts at its schedule's value at step 0), or None.
    - `data_axes`: for each array of `data` the axes that it has in front of its rows: None (one for all members),
      "seed", "eps", or "both" (seeds first). Targets of their own for each temperature: `(None, "eps")`.
    - `shared_batches`: whether all members see the same batches (faster), or each seed its own order.
    - `mesh`: with a first axis named "seed" or "eps", devices that share the members along that axis; they have nothing
      to tell each other, so this is the fastest way to use several. With any other name, as in `fit`.

    **Returns:** `Fits`; a member whose loss is no longer finite stops at its last good step, the others go on.

    **Raises:** as `fit`, and for a mesh named "eps" without temperatures; never `Diverged`: look at `fits.finished`.

    **Error:** members agree with `fit` to rounding, which training amplifies as it does any other.

    **Cost:** that of all members' arithmetic, without the overhead of each; with a mesh of k devices the k-th part.
    **Good values:** the cores of a CPU are devices too, and an ensemble of small layers is about twice as fast on two:
    `jax.config.update("jax_num_cpu_devices", 2)` before anything else, then `mesh=Mesh(jax.devices(), ("seed",))`.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), the experiments' seeds and temperatures.

    >>> import functools, jax, jax.numpy as jnp, hjax
    >>> x = jnp.linspace(-2, 2, 50)[:, None]
    >>> def make(key, eps):
    ...     return hjax.nn.LSELayer(1, "scalar", width=8, eps=eps, key=key)
    >>> fits = hjax.training.fit_many(make, (x, jnp.abs(x[:, 0])), keys=3, eps=[0.5, 0.1], steps=300)
    >>> fits.shape, fits.losses.shape, fits.best()[1].metrics["loss"] < 1e-3
    ((3, 2), (3, 2, 300), True)
    """
    chosen = loss_of(loss, predict)
    keys = _keys(keys)
    schedules = None if eps is None else list(eps)
    if schedules is not None and not schedules:
        raise ValueError("eps is empty; pass temperatures such as [0.1, 0.3], or None for those that make(key) sets.")
    models = _stacked(make, keys, schedules)
    axes = ("seed",) if schedules is None else ("seed", "eps")
    params, frozen, structure = take_apart(models, trainable, train_eps)
    annealed = schedules is not None and any(callable(e) for e in schedules)
    own = not shared_batches and batch_size is not None
    count = len(_rows(data, "data", data_axes))
    places = _axes(data_axes, count, "data_axes", axes)
    task = Task(chosen, _optimizer(optimizer), structure, axes, places, own, _mesh(mesh, axes), annealed)
    shape = (len(keys),) if schedules is None else (len(keys), len(schedules))
    plan = _plan(
        task, params, frozen, data, shape, list(keys) if own else [keys[0]], steps, batch_size,
        schedules if annealed else None, metrics_of(metrics, chosen, predict), evaluation, evaluation_axes, every,
        log, checkpoint, resume, progress, train_eps,
    )  # fmt: skip
    ended = drive(plan)
    return Fits(_assembled(task, ended, plan, frozen), ended.losses, ended.records, ended.metrics, ended.good, steps)


def _stacked(make: Callable[..., Any], keys: Array, schedules: list[Eps] | None) -> Any:
    if schedules is None:
        return eqx.filter_vmap(make)(keys)
    values = jnp.stack([jnp.asarray(e(0) if callable(e) else e, float) for e in schedules])
    _checks.positive("eps", values)
    return eqx.filter_vmap(lambda key: eqx.filter_vmap(lambda e: make(key, e))(values))(keys)


def _plan(
    task: Task, params: Any, frozen: Any, data: tuple[Any, ...], shape: tuple[int, ...], keys: list[Any], steps: int,
    batch_size: int | None, schedules: list[Eps] | None, metrics: Any, evaluation: tuple[Any, ...] | None,
    evaluation_axes: Sequence[Axis] | None, every: int | None, log: Any, checkpoint: Any, resume: bool, progress: Any,
    train_eps: bool,
) -> Plan:  # fmt: skip
    for name, number in (("steps", steps), ("batch_size", batch_size), ("every", every)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise ValueError(f"{name} is {number!r}; pass a whole number of at least 1.")
    if train_eps and schedules is not None:
        raise ValueError("train_eps=True and a schedule of eps contradict each other; leave one of them out.")
    if resume and checkpoint is None:
        raise ValueError("resume=True wants to know from where; pass checkpoint='run.checkpoint' as well.")
    arrays, rows = _arrays(data, task.data_axes, "data", shape)
    if batch_size is not None and batch_size > rows:
        raise ValueError(f"batch_size is {batch_size}, but there are {rows} samples; pass at most that, or None.")
    if task.mesh is not None:
        if task.shared is None:
            _require_even(task.mesh, batch_size, rows)
        params, frozen, arrays = jax.device_put((params, frozen, arrays), NamedSharding(task.mesh, P()))
    if evaluation is None:
        measured, measured_axes = arrays, task.data_axes
    else:
        count = len(_rows(evaluation, "evaluation", evaluation_axes))
        measured_axes = _axes(evaluation_axes, count, "evaluation_axes", task.axes)
        measured, _ = _arrays(evaluation, measured_axes, "evaluation", shape)
    return Plan(
        task, params, frozen, arrays, shape, Batches([_key(k) for k in keys], rows, batch_size, not task.own_batches),
        _temperatures(schedules, bool(shape)), steps, min(every or _EVERY, steps), metrics, measured, measured_axes,
        log, checkpoint, resume, progress,
    )  # fmt: skip


def _temperatures(schedules: list[Eps] | None, many: bool) -> Callable[[Any], Any] | None:
    if schedules is None:
        return None
    functions = [e if callable(e) else (lambda step, e=e: jnp.asarray(e, float)) for e in schedules]

    def values(steps: Array) -> Array:
        each = [jax.vmap(lambda k, f=f: jnp.asarray(f(k), float))(steps) for f in functions]
        return jnp.stack(each, axis=1) if many else each[0]

    return values


def _start(eps: Eps, model: Any) -> Array:
    if not eps_leaves(model):
        raise ValueError(f"eps was passed, but {type(model).__name__} has no field eps; leave it out.")
    return _checks.positive_scalar("eps", eps(0) if callable(eps) else eps)


def _optimizer(optimizer: Any) -> optax.GradientTransformation:
    if optimizer is None:
        return _ADAM
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(f"optimizer is {type(optimizer).__name__}; pass one of optax, such as optax.adam(1e-2).")
    return optimizer


_ADAM = optax.adam(1e-2)


def _key(key: Any) -> Any:
    return jax.random.key(key) if isinstance(key, int) else key


def _keys(keys: Any) -> Array:
    if isinstance(keys, int) and not isinstance(keys, bool) and keys >= 1:
        return jax.random.split(jax.random.key(0), keys)
    if isinstance(keys, jax.Array) and is_key(keys) and keys.ndim == 1 and keys.shape[0]:
        return keys
    raise ValueError(
        "keys must be a number of seeds, at least 1, or that many random keys: jax.random.split(jax.random.key(0), 8)."
    )


def _rows(data: Any, name: str, axes: Sequence[Axis] | None = None) -> tuple[Any, ...]:
    if not isinstance(data, tuple | list) or not data:
        raise ValueError(f"{name} is {type(data).__name__}; pass a tuple of arrays with one row per sample: (x, y).")
    if axes is not None and len(axes) != len(data):
        raise ValueError(f"{name}_axes has {len(axes)} entries for {len(data)} arrays; pass one each, such as None.")
    return tuple(data)


_MEANING = {None: (), "seed": ("seed",), "eps": ("eps",), "both": ("seed", "eps")}


def _axes(given: Sequence[Axis] | None, count: int, name: str, axes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    given = [None] * count if given is None else given
    if not all(g in _MEANING and set(_MEANING[g]) <= set(axes) for g in given):
        raise ValueError(f"{name} is {list(given)}; pass None, 'seed', 'eps' or 'both' for each array.")
    return tuple(_MEANING[g] for g in given)


def checked_data(
    data: Any, given: Sequence[Axis] | None, axes: tuple[str, ...], shape: tuple[int, ...]
) -> tuple[tuple[Array, ...], tuple[tuple[str, ...], ...]]:
    """The arrays of the data, and the ensemble's axes that each has."""
    places = _axes(given, len(_rows(data, "data", given)), "data_axes", axes)
    return _arrays(data, places, "data", shape)[0], places


def _arrays(data: Any, axes: tuple[tuple[str, ...], ...], name: str, shape: tuple[int, ...]) -> tuple[tuple, int]:
    arrays, rows = [], None
    for i, (given, lead) in enumerate(zip(_rows(data, name), axes, strict=True)):
        array = _numbers(f"{name}[{i}]", given)
        sizes = tuple(shape[("seed", "eps").index(axis)] for axis in lead)
        if array.ndim <= len(lead) or array.shape[: len(lead)] != sizes:
            raise ValueError(
                f"{name}[{i}] has shape {array.shape}, but {(*sizes, 'samples', '...')} is wanted; for another layout "
                f"pass {name}_axes."
            )
        if jnp.issubdtype(array.dtype, jnp.inexact):
            _checks.no_nan(f"{name}[{i}]", array)
        size = array.shape[len(lead)]
        rows = size if rows is None else rows
        if size != rows or not size:
            raise ValueError(
                f"{name}[{i}] has {size} samples, but {name}[0] has {rows}; as many in each, at least one, are wanted."
            )
        arrays.append(array)
    assert rows is not None
    return tuple(arrays), rows


def _numbers(name: str, given: Any) -> Array:
    if isinstance(given, jax.Array):
        return given
    try:
        array = np.asarray(given)
        if array.dtype.kind not in "OUSmM":
            return jnp.asarray(array)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} is {type(given).__name__}, but not of numbers; pass an array with one row per sample.")


def _mesh(mesh: Any, axes: tuple[str, ...] = ()) -> Mesh | None:
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh is {type(mesh).__name__}; pass jax.sharding.Mesh(jax.devices(), ('data',)).")
    if axes and mesh.axis_names[0] == "eps" and "eps" not in axes:
        raise ValueError("the mesh is for 'eps', but the ensemble has seeds only; pass eps=, or call its axis 'seed'.")
    return Mesh(mesh.devices, mesh.axis_names)  # its axes of the kind that the compiler splits by itself


def _require_even(mesh: Mesh, batch_size: int | None, rows: int) -> None:
    parts = mesh.shape[mesh.axis_names[0]]
    if (batch_size or rows) % parts:
        what = f"batch_size={batch_size}" if batch_size else f"all {rows} samples as one batch"
        raise ValueError(f"{what} cannot be split over {parts} devices; pass a batch_size that {parts} divides.")


def _assembled(task: Task, ended: Ended, plan: Plan, frozen: Any) -> Any:
    """The model with its trained parameters, at the temperature of its last step."""
    params = ended.params
    if task.shared is not None:
        # What is done with the members from here on is not for the devices of a mesh.
        params = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), params)
    model = task.structure.model(params, frozen, None)
    if plan.eps is None:
        return model
    last = np.maximum(np.asarray(ended.good) - 1, 0)
    steps, place = np.unique(last, return_inverse=True)
    eps = plan.eps(jnp.asarray(steps))[place.reshape(last.shape)]
    if plan.shape:  # (seeds, temperatures, temperatures): to each member its own
        eps = jnp.diagonal(eps, axis1=1, axis2=2)
    return _with_eps(model, eps, plan.shape)


def _with_eps(model: Any, eps: Array, shape: tuple[int, ...]) -> Any:
    """Every temperature set to its member's."""
    change: Callable[[Any, Array], Any] = with_eps
    for _ in shape:
        change = eqx.filter_vmap(change)
    return change(model, eps)
