"""The one compiled loop: many steps of one member or of an ensemble in one program, without Python in between.

The number of steps is an argument of the program, not a constant in it: a last, shorter piece runs the same
machine code, so where a run was cut (for a checkpoint, by a kill) cannot change its numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ._devices import Places, over_devices
from ._parts import Structure


class Task(NamedTuple):
    """What does not change during a run; compared by identity, so the same objects compile once."""

    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    structure: Structure
    axes: tuple[str, ...]  # leading axes of every leaf of params, outermost first
    data_axes: tuple[tuple[str, ...], ...]  # of each array of the data
    own_batches: bool
    mesh: Any  # jax.sharding.Mesh or None
    annealed: bool

    @property
    def shared(self) -> str | None:
        """The ensemble's axis whose members the devices share; None if they share every batch, or there is no mesh."""
        name = None if self.mesh is None else self.mesh.axis_names[0]
        return name if name in self.axes else None

    @property
    def index_places(self) -> Places:
        """Of the indices of a step's batch."""
        return ("seed",) if self.own_batches else ()

    @property
    def eps_places(self) -> Places:
        """Of the temperatures of a step."""
        return ("eps",) if self.annealed and "eps" in self.axes else ()


class State(NamedTuple):
    """What changes: parameters and the optimizer's state."""

    params: Any
    optimizer: Any


def member_loss(task: Task, state: State, frozen: Any, data: Any, index: Array | None, eps: Array | None) -> Array:
    """The loss of one member's batch."""
    batch = data if index is None else tuple(a[index] for a in data)
    if task.mesh is not None and task.shared is None:
        rows = NamedSharding(task.mesh, P(task.mesh.axis_names[0]))
        batch = tuple(lax.with_sharding_constraint(a, rows) for a in batch)
    return task.loss(task.structure.model(state.params, frozen, eps), *batch)


def member_step(
    task: Task, state: State, frozen: Any, data: Any, index: Array | None, eps: Array | None
) -> tuple[State, Array]:
    """One step of one member; the loss is that before the update."""

    def objective(params: Any) -> Array:
        return member_loss(task, State(params, None), frozen, data, index, eps)

    value, gradient = jax.value_and_grad(objective)(state.params)
    updates, optimizer = task.optimizer.update(gradient, state.optimizer, state.params)
    return State(optax.apply_updates(state.params, updates), optimizer), value


def over_members(task: Task, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(state, frozen, data, index, eps)` vmapped over the task's axes, innermost last."""
    for axis in reversed(task.axes):
        data = tuple(0 if axis in axes else None for axes in task.data_axes)
        index = 0 if axis in task.index_places else None
        eps = 0 if axis in task.eps_places else None
        function = jax.vmap(function, in_axes=(0, 0, data, index, eps))
    return function


def check_loss(task: Task, state: State, frozen: Any, data: Any, index: Any, eps: Any, shape: tuple[int, ...]) -> Any:
    """The dtype of the loss, after saying what is wrong with it if it is no number."""
    value = over_members(task, lambda *a: member_loss(task, *a))
    found = jax.eval_shape(lambda s, f, d: value(s, f, d, index, eps), state, frozen, data)
    got = getattr(found, "shape", None)
    if got != shape or not jnp.issubdtype(found.dtype, jnp.floating):
        what = type(found).__name__ if got is None else f"shape {got[len(shape) :]} and dtype {found.dtype}"
        raise ValueError(f"the loss returned {what}, but one real number is wanted; end it with .mean().")
    return found.dtype


@eqx.filter_jit
def run(
    task: Task,
    state: State,
    frozen: Any,
    data: Any,
    indices: Array | None,
    eps: Array | None,
    losses: Array,
    count: Array,
    stops: Array | None,
) -> tuple[State, Array]:
    """`count` steps; member m no longer changes from step `stops[m]` on (if given). Returns their losses too."""
    step = over_members(task, lambda *arguments: member_step(task, *arguments))

    def loop(
        state: State, frozen: Any, data: Any, indices: Any, eps: Any, losses: Array, count: Array, stops: Any
    ) -> tuple[State, Array]:
        def body(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
            state, losses = carry
            index = None if indices is None else indices[i]
            new, value = step(state, frozen, data, index, None if eps is None else eps[i])
            if stops is not None:
                running = i < stops
                new = jax.tree.map(lambda a, b: jnp.where(_fit(running, a), a, b), new, state)
            return new, losses.at[i].set(value.astype(losses.dtype))

        return lax.fori_loop(0, count, body, (state, losses))

    arguments = state, frozen, data, indices, eps, losses, count, stops
    each_step = None, *task.axes
    places = task.axes, task.axes, task.data_axes, (None, *task.index_places), (None, *task.eps_places), each_step
    return over_devices(task.mesh, task.shared, loop, arguments, (*places, (), task.axes), (task.axes, each_step))


def _fit(condition: Array, like: Array) -> Array:
    return condition.reshape(condition.shape + (1,) * (like.ndim - condition.ndim))


@eqx.filter_jit
def initial_state(task: Task, params: Any) -> State:
    """The optimizer's state of every member."""
    start = task.optimizer.init
    for _ in task.axes:
        start = jax.vmap(start)
    return State(params, start(params))


@eqx.filter_jit
def measure(
    task: Task, metrics: Any, params: Any, frozen: Any, data: Any, data_axes: Any, eps: Array | None
) -> dict[str, Array]:
    """Every metric of every member, one member after another: the data may be large."""

    def here(params: Any, frozen: Any, data: Any, eps: Array | None) -> dict[str, Array]:
        shape = jax.tree.leaves(params)[0].shape[: len(task.axes)]

        def one(place: Any) -> dict[str, Array]:
            def at(a: Array, axes: Places) -> Array:
                for name, i in zip(task.axes, place, strict=True):
                    a = a[i] if name in axes else a
                return a

            own, held = jax.tree.map(lambda a: at(a, task.axes), (params, frozen))
            model = task.structure.model(own, held, None if eps is None else at(eps, task.eps_places))
            given = tuple(at(a, axes) for a, axes in zip(data, data_axes, strict=True))
            return {name: jnp.asarray(metric(model, *given)) for name, metric in metrics}

        if not shape:
            return one([])
        members = jnp.stack(jnp.meshgrid(*map(jnp.arange, shape), indexing="ij"), axis=-1).reshape(-1, len(shape))
        return jax.tree.map(lambda a: a.reshape(shape + a.shape[1:]), lax.map(one, members))

    places = task.axes, task.axes, data_axes, task.eps_places
    return over_devices(task.mesh, task.shared, here, (params, frozen, data, eps), places, task.axes)


@eqx.filter_jit
def well(
    task: Task, state: State, frozen: Any, data: Any, indices: Array | None, eps: Array | None, last: Array
) -> Array:
    """Which members' parameters, and their loss on the batch of step `last`, are finite."""
    index = None if indices is None else indices[last]
    value = over_members(task, lambda *arguments: member_loss(task, *arguments))
    arguments = state, frozen, data, index, None if eps is None else eps[last]
    places = task.axes, task.axes, task.data_axes, task.index_places, task.eps_places
    loss = over_devices(task.mesh, task.shared, value, arguments, places, task.axes)
    lead = len(task.axes)
    flags = [jnp.isfinite(a).all(axis=tuple(range(lead, a.ndim))) for a in jax.tree.leaves(state.params)]
    return jnp.stack([*flags, jnp.isfinite(loss)]).all(axis=0)
