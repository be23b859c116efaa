"""Where characteristics cross for the first time.

Beside a characteristic x(t), p(t) run its variations with the start: X = dx/dx0, P = dp/dx0, of which the columns obey
Hamilton's equations linearised. Until the first caustic the map x0 -> x(t) is locally one to one; there det X = 0.

The determinant itself is a poor event. It touches zero without a change of sign where two rays focus at once (a
perfect lens in the plane), and where the solver passes two simple zeros in one step, both are lost; for H(p) the
characteristics are straight, and a good solver takes very few steps. With X2 the variation whose momentum alone
starts off zero, `X2^-1 X` is symmetric: it is the Hessian in the start of g(x0) + c(x0, x). For an H that is convex in
p its eigenvalues come from +infinity and fall through zero exactly at the zeros of det X, each one for itself. So that
nothing is infinite at the start, the event looks at `(X + k X2)^-1 X`, which is `J/(J + k)` for that Hessian J and any
k > 0: it starts as the identity, and its smallest eigenvalue falls through zero at the caustic.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..hamiltonians import Advection, Hamiltonian
from . import _characteristics

# Of the trajectory and its variations (relative, absolute), and of the caustic in time within a step.
_TOLERANCES = {"float64": (1e-11, 1e-12, 1e-13), "float32": (1e-6, 1e-7, 1e-6)}


class Caustic(eqx.Module):
    """Where the characteristic from `start` meets its neighbours; see `caustic_time` and `first_shock`.

    - `time`: when, or +inf if not before t1.
    - `start`: x0 `(d,)`.
    - `position`, `momentum`: x and p at that time (at t1 if it is +inf), `(d,)`.
    - `value`: the action g(x0) + integral of p . dH/dp - H up to there; u(position, time) if no other
      characteristic has crossed before.

    >>> import jax.numpy as jnp, hjax
    >>> lens = hjax.dynamics.caustic_time(hjax.Quadratic(), lambda y: -jnp.sum(y**2), jnp.array([0.5]), t1=1.0)
    >>> round(float(lens.time), 4), bool(jnp.abs(lens.position[0]) < 1e-3)
    (0.25, True)
    """

    time: Float[Array, ""]
    start: Float[Array, "d"]
    position: Float[Array, "d"]
    momentum: Float[Array, "d"]
    value: Float[Array, ""]


class _Variations(eqx.Module):
    """The field of (x, p, action) and of rows (dx, dp), by one linearisation of Hamilton's equations."""

    hamiltonian: Any

    def __call__(self, t: Any, y: Any, args: Any) -> Any:
        del args
        (x, p, _), rows = y
        rates, push = jax.linearize(lambda x, p: _characteristics.rates(self.hamiltonian, x, p, t), x, p)
        dx, dp, _ = jax.vmap(push)(*rows)
        return rates, (dx, dp)


def _focus(t: Any, y: Any, args: Any, **kwargs: Any) -> Array:
    """The smallest eigenvalue of (X + k X2)^-1 X: the columns of the two are the first and the last rows dx."""
    del t, args, kwargs
    _, (dx, _) = y
    d = dx.shape[1]
    form = jnp.linalg.solve(dx[d:].T, dx[:d].T)
    return jnp.linalg.eigvalsh((form + form.T) / 2)[0]


def caustic_time(
    hamiltonian: Any,
    g: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    t0: ArrayLike = 0.0,
    t1: ArrayLike,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    dt0: ArrayLike | None = None,
    max_steps: int | None = 4096,
    throw: bool = True,
) -> Caustic:
    """When the characteristic of `u_t + H(x, grad u, t) = 0, u = g` from x0 first meets its neighbours.

    That is where `det dx(t)/dx0 = 0`, with p(0) = grad g(x0): variations run beside the characteristic, and an event
    with a root finder stops there. Beyond, the action is not a minimum any more, not even a local one. For H(p) it is
    the first t at which `I + t H''(p) g''(x0)` is singular. A characteristic may end in a shock earlier, where it meets
    one from further away; the first shock of all is a caustic, and `first_shock` finds it.

    One start; use `jax.vmap` for many. Differentiable in x0 and in whatever H and g hold, where the time is finite.

    **Arguments:** `hamiltonian`: convex in p; as for `solve_characteristics`. `g`: initial data, `(d,) -> scalar`,
    twice differentiable at x0. `x0`: `(d,)`. `t0`, `t1`: from when, and how long to look. `solver`: default
    `diffrax.Dopri8()`, whose interpolant inside a step is as good as its steps. `stepsize_controller`: default
    tolerances of 1e-11 in double, 1e-6 in single precision. `dt0`, `max_steps`, `throw`: as there.

    **Returns:** `Caustic`; its time is +inf if there is none up to t1.

    **Raises:** `ValueError` as `solve_characteristics`, and for an x0 or a g of another shape; a run-time error for an
    H that is concave in some direction of p at the start.

    **Error:** of the time about 1e-9 (1e-5 in single precision), relative.
    **Cost:** 2d variations, each the derivative of the field in one direction: d up to some tens.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 5.1 (the first shock of smooth initial data).

    >>> import jax.numpy as jnp, hjax
    >>> found = hjax.dynamics.caustic_time(
    ...     hjax.Quadratic(), lambda y: -jnp.sum(y**2) / 2, jnp.array([0.3, 0.4]), t1=2.0
    ... )
    >>> round(float(found.time), 5), bool(jnp.abs(found.position).max() < 1e-5)
    (0.5, True)
    """
    x = _vector(x0)
    begin, end = _characteristics.interval(t0, t1, x.dtype)
    solver, controller, step = _method(solver, stepsize_controller, dt0, (begin, end))
    found = _single(hamiltonian, g, x, begin, end, step, solver, controller, max_steps)
    return _characteristics.checked(*found, _characteristics.Outcomes.singular_data) if throw else found[0]


def first_shock(
    hamiltonian: Any,
    g: Callable[[Array], Array],
    starts: ArrayLike,
    *,
    t0: ArrayLike = 0.0,
    t1: ArrayLike,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    dt0: ArrayLike | None = None,
    max_steps: int | None = 4096,
    throw: bool = True,
) -> Caustic:
    """The first shock of `u_t + H(x, grad u, t) = 0, u = g`: the least caustic time over all starts.

    For `H = |p|^2` it is `t* = -1/(2 min lambda_min(g''))`, none if g is convex. Until then the value along
    characteristics is the solution; from then on two of them meet, and the lesser value wins.

    **Arguments:** `starts`: `(N, d)`, where to look: `caustic_time` is taken at each, and from the best one BFGS
    (optimistix) goes to the minimum near by. The others as for `caustic_time`.

    **Returns:** `Caustic`, with `start` the foot of the characteristic on which the shock forms; its time is +inf if
    there is none up to t1 from any of the starts.

    **Raises:** as `caustic_time`.

    **Error:** of the time about 1e-9 (1e-5 in single precision), relative, if a start lies in the basin of the least
    minimum; of the foot its root, as at any minimum.
    **Cost:** N trajectories with 2d variations each, then some tens of them with derivatives.
    **Good values:** starts a fraction of the length on which g'' varies.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 5.1.

    >>> import jax.numpy as jnp, hjax
    >>> starts = jnp.linspace(-3, 3, 13)[:, None]
    >>> shock = hjax.dynamics.first_shock(hjax.Quadratic(), lambda y: jnp.sum(jnp.sin(y)), starts, t1=2.0)
    >>> round(float(shock.time), 5), bool(jnp.abs(shock.start - jnp.pi / 2)[0] < 0.01)
    (0.5, True)
    """
    points = _checks.floating("starts", starts)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(
            f"starts has shape {points.shape}, but (N, d) is wanted; for points on a line pass x[:, None]."
        )
    points = _characteristics.state("starts", points)
    begin, end = _characteristics.interval(t0, t1, points.dtype)
    solver, controller, step = _method(solver, stepsize_controller, dt0, (begin, end))
    found = _least(hamiltonian, g, points, begin, end, step, solver, controller, max_steps)
    return _characteristics.checked(*found, _characteristics.Outcomes.singular_data) if throw else found[0]


_Found = tuple[Caustic, Array, diffrax.RESULTS]


@eqx.filter_jit
def _single(
    hamiltonian: Any, g: Any, x: Array, t0: Array, t1: Array, dt0: Array | None, solver: Any, controller: Any,
    max_steps: int | None,
) -> _Found:  # fmt: skip
    adjoint = diffrax.RecursiveCheckpointAdjoint()
    return _caustic(hamiltonian, g, x, t0, t1, dt0, solver, controller, adjoint, max_steps)


@eqx.filter_jit
def _least(
    hamiltonian: Any, g: Any, points: Array, t0: Array, t1: Array, dt0: Array | None, solver: Any, controller: Any,
    max_steps: int | None,
) -> _Found:  # fmt: skip
    def at(x: Array, adjoint: diffrax.AbstractAdjoint) -> _Found:
        return _caustic(hamiltonian, g, x, t0, t1, dt0, solver, controller, adjoint, max_steps)

    once = diffrax.RecursiveCheckpointAdjoint()
    caustics, singular, results = eqx.filter_vmap(lambda x: at(x, once))(points)
    best = jnp.argmin(caustics.time)
    first = jax.tree.map(lambda a: a[best], caustics)

    def time(x: Array, _: Any) -> tuple[Array, Caustic]:
        # Forwards, as d is small and reverse mode would keep the whole solve.
        caustic, _, _ = at(x, diffrax.ForwardMode())
        return caustic.time, caustic

    tolerance = float(np.sqrt(np.finfo(points.dtype).eps))
    found = optx.minimise(
        time, optx.BFGS(rtol=tolerance, atol=tolerance), first.start, has_aux=True, max_steps=64, throw=False,
        options={"autodiff_mode": "fwd"},
    )  # fmt: skip
    # Without any shock there is nothing to refine, and the derivative of inf is NaN.
    better = found.aux.time <= first.time
    caustic = jax.tree.map(lambda a, b: jnp.where(better, a, b), found.aux, first)
    worst = jnp.argmax(~diffrax.is_okay(results))
    return caustic, jnp.any(singular), jax.tree.map(lambda a: a[worst], results)


def _caustic(
    hamiltonian: Any, g: Any, x: Array, t0: Array, t1: Array, dt0: Array | None, solver: Any, controller: Any,
    adjoint: Any, max_steps: int | None,
) -> _Found:  # fmt: skip
    d, dtype = x.shape[0], x.dtype
    value = _initial(g, x)
    p, slopes = jax.grad(g)(x), jax.hessian(g)(x)
    _characteristics.check_hamiltonian(hamiltonian, x, p, t0)
    k = _scale(hamiltonian, x, p, slopes, t0, t1)
    rows = (jnp.tile(jnp.eye(d, dtype=dtype), (2, 1)), jnp.concatenate([slopes, slopes + k * jnp.eye(d, dtype=dtype)]))
    precision = _TOLERANCES[dtype.name][2]
    # Downwards, as told by flip, which keeps it from looking for a change of sign where there is no caustic.
    event = diffrax.Event(_focus, optx.Bisection(precision, precision, flip=True), direction=False)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_Variations(hamiltonian)), solver, t0, t1, dt0, ((x, p, value), rows),
        saveat=diffrax.SaveAt(t1=True), stepsize_controller=controller, event=event, adjoint=adjoint,
        max_steps=max_steps, throw=False,
    )  # fmt: skip
    ends: Any = solution.ys
    position, momentum, action = (part[-1] for part in ends[0])
    # The mask, not the result: bisection down to neighbouring numbers may call that a failure.
    met: Any = solution.event_mask
    last: Any = solution.ts
    time = jnp.where(met, last[-1], jnp.inf)
    result = diffrax.RESULTS.where(met, diffrax.RESULTS.event_occurred, solution.result)
    return Caustic(time, x, position, momentum, action), _characteristics.trouble(solution), result


def _scale(hamiltonian: Any, x: Array, p: Array, slopes: Array, t0: Array, t1: Array) -> Array:
    """k, well above the curvatures of g and of the potential: J + k is to stay positive for a while after J is not."""
    if isinstance(hamiltonian, Advection):
        return jnp.ones((), x.dtype)

    def energy(x: Array, p: Array) -> Array:
        return hamiltonian(p) if isinstance(hamiltonian, Hamiltonian) else hamiltonian(x, p, t0)

    size = jnp.linalg.norm
    (across, _), (_, mass) = jax.hessian(energy, argnums=(0, 1))(x, p)
    convex = jnp.linalg.eigvalsh(mass)[0] >= -64 * jnp.finfo(x.dtype).eps * size(mass)
    slopes = eqx.error_if(
        slopes,
        # A NaN is left to the solver, which will find it too.
        ~convex & jnp.isfinite(size(mass)),
        "the hamiltonian is not convex in p at this start, so characteristics may cross in other ways than here; pass "
        "a convex one, or follow solve_characteristics from neighbouring starts.",
    )
    heavy = jnp.where(size(mass) > 0, size(mass), 1)
    return jax.lax.stop_gradient(4 * (size(slopes) + 1 / ((t1 - t0) * heavy)) + jnp.sqrt(size(across) / heavy))


def _initial(g: Any, x: Array) -> Array:
    value = eqx.filter_eval_shape(g, x)
    if getattr(value, "shape", None) != ():
        raise ValueError(
            f"g makes {getattr(value, 'shape', type(value).__name__)} of a point {x.shape}; it must return one number, "
            f"such as jnp.sum(jnp.cos(y))."
        )
    return g(x).astype(x.dtype)


def _vector(x0: ArrayLike) -> Array:
    x = _characteristics.state("x0", x0)
    if not isinstance(x, Array) or x.ndim != 1 or not x.size:
        form = x.shape if isinstance(x, Array) else type(x).__name__
        raise ValueError(f"x0 is {form}, but one point (d,) is wanted; for many of them use jax.vmap.")
    return x


def _method(solver: Any, controller: Any, dt0: Any, times: tuple[Array, Array]) -> tuple[Any, Any, Array | None]:
    solver = diffrax.Dopri8() if solver is None else solver
    dtype = times[0].dtype
    controller = _characteristics.controller_for(solver, controller, dt0, times, _TOLERANCES[dtype.name][:2])
    if _characteristics.is_split(solver):
        raise ValueError(f"{type(solver).__name__} steps x and p in turn, not their variations; pass diffrax.Dopri8().")
    return solver, controller, None if dt0 is None else _checks.positive_scalar("dt0", dt0).astype(dtype)
