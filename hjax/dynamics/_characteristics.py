"""Hamilton's equations in one solve of diffrax: state, co-state and action together."""

import math
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from .. import _checks
from ..hamiltonians import Advection, Hamiltonian, Separable

# What the solver's error is held to by default: with a margin above rounding, per dtype (relative, absolute).
TOLERANCES = {"float64": (1e-9, 1e-10), "float32": (1e-5, 1e-6)}


_NOT_FINITE = (
    "are not finite somewhere on the way from this start, or grow without bound before t1; look where it ends with "
    "throw=False, and stop before that with a smaller t1."
)


class Outcomes(diffrax.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """What diffrax may say, and what it does not: one check for both, as each costs a solve inside `jit` a little."""

    singular_hamiltonian = f"the Hamiltonian or its derivatives {_NOT_FINITE}"
    singular_data = f"the Hamiltonian, g or their derivatives {_NOT_FINITE}"
    singular_field = f"the field or its derivatives {_NOT_FINITE}"


def dot(a: PyTree, b: PyTree) -> Array:
    """a . b over all parts of two trees alike."""
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda u, v: jnp.sum(u * v), a, b))


def rates(hamiltonian: Any, x: PyTree, p: PyTree, t: Any) -> tuple[PyTree, PyTree, Array]:
    """x' = dH/dp, p' = -dH/dx and action' = p . dH/dp - H, each for no more than it costs by hand."""
    if isinstance(hamiltonian, Advection):
        velocity, pull = jax.vjp(lambda state: hamiltonian.field(state, t), x)
        (force,) = pull(p)
        # p . F - H is zero, and zero it stays: no rounding is added up.
        return velocity, jax.tree.map(jnp.negative, force), jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))
    if isinstance(hamiltonian, Hamiltonian):
        energy, velocity = jax.value_and_grad(hamiltonian)(p)
        return velocity, jax.tree.map(jnp.zeros_like, p), dot(p, velocity) - energy
    energy, (force, velocity) = jax.value_and_grad(hamiltonian, argnums=(0, 1))(x, p, t)
    return velocity, jax.tree.map(jnp.negative, force), dot(p, velocity) - energy


class _Field(eqx.Module):
    """Of (x, p, action). A module, as a closure would be compiled anew at every call."""

    hamiltonian: Any

    def __call__(self, t: Any, y: PyTree, args: Any) -> PyTree:
        del args
        return rates(self.hamiltonian, y[0], y[1], t)


class _StateAndCostate(eqx.Module):
    """Of (x, p) of an `Advection`: its action is constant, and one scalar more would double the time of a small one."""

    hamiltonian: Any

    def __call__(self, t: Any, y: PyTree, args: Any) -> PyTree:
        del args
        return rates(self.hamiltonian, y[0], y[1], t)[:2]


class _Drift(eqx.Module):
    """Of (x, the kinetic part of the action), by p alone."""

    kinetic: Any

    def __call__(self, t: Any, y: PyTree, args: Any) -> PyTree:
        del t, args
        energy, velocity = jax.value_and_grad(self.kinetic)(y[0])
        return velocity, dot(y[0], velocity) - energy


class _Kick(eqx.Module):
    """Of (p, the potential part of the action), by x alone."""

    potential: Any

    def __call__(self, t: Any, y: PyTree, args: Any) -> PyTree:
        del args
        if self.potential is None:
            return jax.tree.map(jnp.zeros_like, y)
        energy, slope = jax.value_and_grad(self.potential)(y[0], t)
        return jax.tree.map(jnp.negative, slope), -energy


def _joined(y: PyTree) -> PyTree:
    """(x, p, action) of the two halves that a splitting method steps."""
    (x, kinetic), (p, potential) = y
    return x, p, kinetic + potential


class _OfJoined(eqx.Module):
    """What a user does with (x, p, action), for the halves: a function to save or the condition of an event."""

    function: Callable[..., Any]

    def __call__(self, t: Any, y: PyTree, args: Any, **kwargs: Any) -> Any:
        return self.function(t, _joined(y), args, **kwargs)


def solve_characteristics(
    hamiltonian: Any,
    x0: PyTree[ArrayLike],
    p0: PyTree[ArrayLike],
    *,
    t0: ArrayLike = 0.0,
    t1: ArrayLike,
    action0: ArrayLike = 0.0,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    dt0: ArrayLike | None = None,
    saveat: diffrax.SaveAt | None = None,
    event: diffrax.Event | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    max_steps: int | None = 4096,
    throw: bool = True,
    progress_meter: diffrax.AbstractProgressMeter | None = None,
) -> diffrax.Solution:
    """Hamilton's equations `x' = dH/dp, p' = -dH/dx, action' = p . dH/dp - H`, in one solve of diffrax.

    With `p0 = grad g(x0)` and `action0 = g(x0)` this is the method of characteristics for `u_t + H(x, grad u, t) = 0`:
    until characteristics cross, `u(x(t), t)` is the action and `grad u(x(t), t)` is p. After that the action is that of
    a path which is not the least; Hopf-Lax keeps the minimum (`caustic_time` and `first_shock` say when).
    For `hjax.Advection` (H = p . F) x is the state of the network, p its co-state, and the action constant.

    One trajectory; use `jax.vmap` for many.

    **Arguments:**

    - `hamiltonian`: an `hjax.Hamiltonian` H(p), an `hjax.Advection` or `hjax.Separable`, or any function
      `(x, p, t) -> scalar` that JAX can differentiate. Pass the same function object again, or an Equinox module, and
      nothing is compiled twice.
    - `x0`, `p0`: the start: arrays, or trees of arrays alike. `action0`: the action there.
    - `t0`, `t1`: from when to when, t0 < t1.
    - `solver`: of diffrax, default `diffrax.Tsit5()`. Symplectic: `diffrax.SemiImplicitEuler()` and `StormerVerlet()`
      for `Separable` and H(p), `ImplicitMidpoint()` for any H. Reversible: `diffrax.ReversibleHeun()`,
      `diffrax.LeapfrogMidpoint()`.
    - `stepsize_controller`: default `diffrax.PIDController` at a relative 1e-9 in double and 1e-5 in single precision
      where the solver estimates its error, else constant steps.
    - `dt0`: the step; with an adaptive controller the first one, and it may be left out.
    - `saveat`, `event`, `adjoint`, `max_steps`, `throw`, `progress_meter`: as for `diffrax.diffeqsolve`; functions of
      the state see `(x, p, action)`. Default: the end is saved.

    **Returns:** `diffrax.Solution` with `ys = (x, p, action)`, saved times first, the last one last.

    **Raises:** `ValueError` for starts that do not match or are not finite, t1 <= t0, an H that is no scalar, a field
    of another shape, a solver that cannot run the request; at run time, unless `throw=False`, an error if H or its
    derivatives are not finite on the way, or the solver gives up.

    **Error:** that of the solver: about its tolerances times the flow's own expansion.

    **Cost:** a stage takes one value and gradient of H (for `Advection` one vjp of the field). Reverse-mode
    derivatives recompute by checkpoints; memory O(sqrt(steps)).

    **Good values:** the default for accuracy. `StormerVerlet` where 1e4 steps or more are to keep the energy.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition 5.2, eq. 17; Theorem 5.1.

    >>> import jax, jax.numpy as jnp, hjax
    >>> g = lambda y: jnp.sum(jnp.cos(y))
    >>> y = jnp.array([0.5])
    >>> end = hjax.dynamics.solve_characteristics(hjax.Quadratic(), y, jax.grad(g)(y), t1=0.4, action0=g(y))
    >>> x, p, action = (part[-1] for part in end.ys)
    >>> atoms = jnp.linspace(-2, 3, 5001)[:, None]
    >>> u = hjax.HopfLax(hjax.InitialData(atoms, jnp.cos(atoms[:, 0])))
    >>> bool(jnp.abs(u(x, 0.4) - action) < 1e-5), bool(jnp.abs(u.gradient(x, 0.4) - p)[0] < 1e-2)
    (True, True)
    """
    if not callable(hamiltonian):
        raise ValueError(
            f"hamiltonian is {type(hamiltonian).__name__}; pass an hjax.Hamiltonian, hjax.Advection(field) or a "
            f"function (x, p, t) -> scalar."
        )
    x, p, dtype = start(x0, p0)
    action, _ = _number("action0", action0, dtype)
    begin, end = interval(t0, t1, dtype)
    solver = diffrax.Tsit5() if solver is None else solver
    controller = controller_for(solver, stepsize_controller, dt0, (begin, end), TOLERANCES[dtype.name])
    step = None if dt0 is None else _checks.positive_scalar("dt0", dt0).astype(dtype)
    check_steps(controller, dt0, t0, t1, max_steps)
    saveat = diffrax.SaveAt(t1=True) if saveat is None else saveat
    adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    meter = diffrax.NoProgressMeter() if progress_meter is None else progress_meter
    split = is_split(solver)
    if split and not isinstance(hamiltonian, Separable | Hamiltonian):
        raise ValueError(
            f"{type(solver).__name__} steps x and p in turn, which wants H = K(p) + V(x, t), but the hamiltonian is "
            f"{_name(hamiltonian)}; pass hjax.Separable(kinetic, potential), or solver=ImplicitMidpoint()."
        )
    solution, singular = _solve(
        hamiltonian, (x, p, action), begin, end, step, solver, controller, saveat, event, adjoint, max_steps, meter,
        split,
    )  # fmt: skip
    if not throw:
        return solution
    return checked(solution, singular, solution.result, Outcomes.singular_hamiltonian)


@eqx.filter_jit
def _solve(
    hamiltonian: Any, y0: PyTree, t0: Array, t1: Array, dt0: Array | None, solver: Any, controller: Any, saveat: Any,
    event: Any, adjoint: Any, max_steps: int | None, meter: Any, split: bool,
) -> tuple[diffrax.Solution, Array]:  # fmt: skip
    check_hamiltonian(hamiltonian, y0[0], y0[1], t0)
    saveat = eqx.tree_at(_save_times, saveat, replace_fn=lambda ts: ts.astype(t0.dtype))
    constant = y0[2]
    idle = isinstance(hamiltonian, Advection) and not split and event is None and _saves_only_states(saveat)
    if split:
        x, p, action = y0
        y0 = ((x, action), (p, jnp.zeros_like(action)))
        separable = isinstance(hamiltonian, Separable)
        drift = _Drift(hamiltonian.kinetic if separable else hamiltonian)
        kick = _Kick(hamiltonian.potential if separable else None)
        terms: Any = (diffrax.ODETerm(drift), diffrax.ODETerm(kick))
        saveat = eqx.tree_at(lambda s: [sub.fn for sub in _subs(s)], saveat, replace_fn=_OfJoined)
        if event is not None:
            conditions = jax.tree.map(_OfJoined, event.cond_fn, is_leaf=callable)
            event = diffrax.Event(conditions, event.root_finder, event.direction)
    elif idle:
        terms, y0 = diffrax.ODETerm(_StateAndCostate(hamiltonian)), y0[:2]
    else:
        terms = diffrax.ODETerm(_Field(hamiltonian))
    solution = diffrax.diffeqsolve(
        terms, solver, t0, t1, dt0, y0, saveat=saveat, stepsize_controller=controller, event=event, adjoint=adjoint,
        max_steps=max_steps, throw=False, progress_meter=meter,
    )  # fmt: skip
    if split and solution.interpolation is not None:
        # Linear between steps, so the halves may be added afterwards.
        solution = eqx.tree_at(
            lambda s: (s.interpolation.infos, s.interpolation.y0_if_trivial), solution,
            ({k: _joined(v) for k, v in solution.interpolation.infos.items()}, _joined(y0)),
        )  # fmt: skip
    if idle:
        ys = jax.tree.map(
            lambda sub, ts, ys: (*ys, jnp.where(jnp.isfinite(ts), constant, jnp.inf)), saveat.subs, solution.ts,
            solution.ys, is_leaf=_is_sub,
        )  # fmt: skip
        solution = eqx.tree_at(lambda s: s.ys, solution, ys)
    return solution, trouble(solution)


def trouble(solution: diffrax.Solution) -> Array:
    """Whether NaN or infinity came into the states, or the solver is stuck in front of a singularity."""
    # An adaptive solver does not step over one: it makes ever smaller steps in front of it.
    rejected, accepted = solution.stats["num_rejected_steps"], solution.stats["num_accepted_steps"]
    stuck = ~diffrax.is_okay(solution.result) & (rejected > jnp.maximum(accepted, 50))
    return ~_finite(solution) | stuck | (solution.result == diffrax.RESULTS.dt_min_reached)


def checked(value: Any, singular: Array, result: diffrax.RESULTS, what: Any) -> Any:
    """The value, or a run-time error that says in words what failed."""
    failed = singular | ~diffrax.is_okay(result)
    whole: Any = Outcomes.where(singular, what, Outcomes.promote(result))
    if _checks.is_concrete(failed):
        if failed:
            raise RuntimeError(Outcomes[whole])
        return value
    return whole.error_if(value, failed)


def start(x0: PyTree, p0: PyTree) -> tuple[PyTree, PyTree, Any]:
    """Positions and momenta of one structure, shape and dtype, all finite where that can be seen."""
    x, p = state("x0", x0), state("p0", p0)
    if jax.tree.structure(x) != jax.tree.structure(p):
        raise ValueError(
            f"x0 and p0 are trees of different structure, {jax.tree.structure(x)} and {jax.tree.structure(p)}; pass a "
            f"momentum for each part of the position."
        )
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(p), strict=True):
        if a.shape != b.shape:
            raise ValueError(
                f"x0 has shape {a.shape} but p0 has shape {b.shape}; one momentum per coordinate is wanted."
            )
    dtypes = {a.dtype for a in jax.tree.leaves((x, p))}
    if len(dtypes) > 1:
        raise ValueError(
            f"x0 and p0 have dtypes {', '.join(sorted(str(d) for d in dtypes))}, but one for all is wanted; pass "
            f"p0.astype(x0.dtype)."
        )
    (dtype,) = dtypes
    return x, p, dtype


def state(name: str, value: PyTree) -> PyTree:
    """A tree of floating arrays, finite where that can be seen, in a precision that solvers work in."""
    if not jax.tree.leaves(value):
        raise ValueError(f"{name} holds no numbers; pass an array, such as jnp.zeros(2).")

    def part(path: Any, leaf: Any) -> Array:
        array = _checks.floating(name + jax.tree_util.keystr(path), leaf)
        if array.dtype.name not in TOLERANCES:
            raise ValueError(f"{name} has dtype {array.dtype}; pass {name}.astype(jnp.float32).")
        if _checks.is_concrete(array) and not np.isfinite(np.asarray(array)).all():
            raise ValueError(f"{name} contains NaN or infinity; pass a finite start.")
        return array

    return jax.tree_util.tree_map_with_path(part, value)


def _number(name: str, value: ArrayLike, dtype: Any) -> tuple[Array, float | None]:
    """As an array, and as a number where it is known: inside `jit` even the array of a known one is traced."""
    array = _checks.floating(name, value, integers=True)
    if array.shape != ():
        raise ValueError(f"{name} must be one number, got shape {array.shape}; for many of them use jax.vmap.")
    plain = value if isinstance(value, int | float | np.ndarray | np.generic) else array
    known = float(plain) if _checks.is_concrete(plain) else None
    if known is not None and not math.isfinite(known):
        raise ValueError(f"{name} is {known}; pass a finite number.")
    return array.astype(dtype), known


def interval(t0: ArrayLike, t1: ArrayLike, dtype: Any) -> tuple[Array, Array]:
    """t0 < t1 in the dtype of the states."""
    (begin, first), (end, last) = _number("t0", t0, dtype), _number("t1", t1, dtype)
    message = "t1 must be later than t0: characteristics are followed forwards in time"
    if first is not None and last is not None:
        if not last > first:
            raise ValueError(f"{message}, got t0 = {first}, t1 = {last}; to go back, pass -H and exchange the two.")
        return begin, end
    return begin, eqx.error_if(end, ~(end > begin), f"{message}; to go back, pass -H and exchange the two.")


def adaptive(times: tuple[Array, Array], tolerances: tuple[float, float], **options: Any) -> diffrax.PIDController:
    """The default controller of step sizes."""
    # Steps that time cannot resolve any more are those in front of a singularity: an end to them.
    least = 16 * jnp.finfo(times[0].dtype).eps * jnp.maximum(*map(jnp.abs, times))
    rtol, atol = tolerances
    return diffrax.PIDController(rtol=rtol, atol=atol, dtmin=least, force_dtmin=False, **options)


def controller_for(
    solver: Any, controller: Any, dt0: Any, times: tuple[Array, Array], tolerances: tuple[float, float]
) -> diffrax.AbstractStepSizeController:
    """The step size controller: the one given if the solver can run it, else the default."""
    if not isinstance(solver, diffrax.AbstractSolver):
        raise ValueError(f"solver is {getattr(solver, '__name__', type(solver).__name__)}; pass diffrax.Tsit5().")
    estimates = isinstance(solver, diffrax.AbstractAdaptiveSolver)
    if controller is None and estimates:
        return adaptive(times, tolerances)
    controller = diffrax.ConstantStepSize() if controller is None else controller
    if isinstance(controller, diffrax.AbstractAdaptiveStepSizeController) and not estimates:
        raise ValueError(
            f"{type(solver).__name__} makes no error estimate, so {type(controller).__name__} cannot choose its steps; "
            f"leave stepsize_controller out and pass dt0, or pass solver=diffrax.Tsit5()."
        )
    if isinstance(controller, diffrax.ConstantStepSize):
        if dt0 is None:
            raise ValueError(f"{type(solver).__name__} with constant steps wants their length; pass dt0=0.01.")
        tolerance = getattr(getattr(solver, "root_finder", None), "rtol", 0.0)
        if not isinstance(tolerance, float | Array | np.ndarray):
            raise ValueError(
                f"{type(solver).__name__} takes the tolerance of its root finder from an adaptive controller; pass "
                f"stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6)."
            )
    return controller


def check_steps(controller: Any, dt0: Any, t0: Any, t1: Any, max_steps: int | None) -> None:
    """Enough of them for constant steps, where that can be seen."""
    if max_steps is not None and (not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 1):
        raise ValueError(f"max_steps is {max_steps!r}; pass a whole number of at least 1, or None.")
    if max_steps is None or not isinstance(controller, diffrax.ConstantStepSize):
        return
    if all(_checks.is_concrete(v) for v in (dt0, t0, t1)):
        wanted = math.ceil((float(t1) - float(t0)) / float(dt0) * (1 - 1e-6))
        if wanted > max_steps:
            raise ValueError(
                f"from t0 = {t0} to t1 = {t1} at dt0 = {dt0} takes {wanted} steps; pass max_steps={wanted + 1}."
            )


def is_split(solver: Any) -> bool:
    """Whether it steps x and p in turn; refuses what it cannot run."""
    structure = solver.term_structure
    if isinstance(structure, type) and issubclass(diffrax.ODETerm, structure):
        return False
    if isinstance(structure, tuple) and len(structure) == 2:
        return True
    raise ValueError(
        f"{type(solver).__name__} is made for other equations than x' = dH/dp, p' = -dH/dx; pass diffrax.Tsit5(), "
        f"diffrax.Kvaerno5() for stiff ones, or hjax.dynamics.StormerVerlet()."
    )


def check_hamiltonian(hamiltonian: Any, x: PyTree, p: PyTree, t: Array) -> None:
    """At trace time: H makes one number, or F something like x."""
    wanted = jax.tree.map(lambda a: (a.shape, a.dtype.name), x)
    if isinstance(hamiltonian, Advection):
        made = jax.tree.map(lambda a: (a.shape, a.dtype.name), eqx.filter_eval_shape(hamiltonian.field, x, t))
        if made != wanted:
            raise ValueError(f"the field makes {made} of a state {wanted}; it must return x' of the same form as x.")
        return
    if isinstance(hamiltonian, Hamiltonian) and (not isinstance(p, Array) or p.ndim != 1):
        raise ValueError(f"p0 is {wanted}, but {_name(hamiltonian)} wants a vector (d,); for many use jax.vmap.")
    arguments = (p,) if isinstance(hamiltonian, Hamiltonian) else (x, p, t)
    energy = eqx.filter_eval_shape(hamiltonian, *arguments)
    dtype = jnp.result_type(*jax.tree.leaves(x))
    if getattr(energy, "shape", None) != () or energy.dtype != dtype:
        form = (energy.shape, energy.dtype.name) if hasattr(energy, "shape") else type(energy).__name__
        raise ValueError(
            f"the hamiltonian makes {form} of this state; it must return one number, of shape () and dtype {dtype}."
        )


def _name(hamiltonian: Any) -> str:
    return getattr(hamiltonian, "__name__", type(hamiltonian).__name__)


def _is_sub(sub: Any) -> bool:
    return isinstance(sub, diffrax.SubSaveAt)


def _subs(saveat: diffrax.SaveAt) -> list[diffrax.SubSaveAt]:
    return jax.tree.leaves(saveat.subs, is_leaf=_is_sub)


def _saves_only_states(saveat: diffrax.SaveAt) -> bool:
    """Whether nothing else sees the state on the way: no function of it, no interpolation, no solver's memory."""
    plain = diffrax.SubSaveAt(t1=True).fn
    return not (saveat.dense or saveat.solver_state) and all(sub.fn is plain for sub in _subs(saveat))


def _save_times(saveat: diffrax.SaveAt) -> list[Array]:
    return [sub.ts for sub in _subs(saveat) if sub.ts is not None]


def _finite(solution: diffrax.Solution) -> Array:
    """Whether all that was saved is; what was not reached is +inf in time and state alike."""

    def part(ts: Array, ys: PyTree) -> Array:
        reached = jnp.isfinite(ts)
        good = [
            jnp.all(jnp.isfinite(y) | ~reached.reshape(-1, *(1,) * (y.ndim - 1)))
            for y in jax.tree.leaves(ys)
            if jnp.issubdtype(y.dtype, jnp.floating)
        ]
        return jnp.all(jnp.stack(good)) if good else jnp.array(True)

    saved = jax.tree.leaves(jax.tree.map(part, solution.ts, solution.ys))
    dense = [] if solution.interpolation is None else jax.tree.leaves(solution.interpolation.infos)
    return jnp.all(jnp.stack(saved + [~jnp.any(jnp.isnan(info)) for info in dense]))
