"""The co-state of a differential equation, and the gradient that it carries (equation 17)."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from .. import _checks
from ..nn import Flow
from . import _characteristics
from ._costate_result import Costate
from ._terminal import loss_and_momentum


class _Forwards(eqx.Module):
    """x' = F(x, t)."""

    field: Any

    def __call__(self, t: Any, x: PyTree, args: Any) -> PyTree:
        del args
        return self.field(x, t)


class _Backwards(eqx.Module):
    """p' = -(dF/dx)^T p and g' = -dH/dtheta = -(dF/dtheta)^T p along the forward solution; one vjp makes both."""

    params: Any
    rest: Any
    path: Any

    def __call__(self, t: Any, y: PyTree, args: Any) -> PyTree:
        del args
        momentum, _ = y

        def field(x: PyTree, params: Any) -> PyTree:
            return eqx.combine(params, self.rest).field(x, t)

        _, pull = jax.vjp(field, self.path.evaluate(t), self.params)
        return jax.tree.map(jnp.negative, pull(momentum))


def continuous_costate(
    flow: Flow,
    x: PyTree[ArrayLike],
    terminal: Callable[[PyTree[Array]], Array] | PyTree[ArrayLike],
    *,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    dt0: ArrayLike | None = None,
    max_steps: int = 4096,
    steps_saved: int = 1,
) -> Costate:
    """`x' = F(x, t)`; `p' = -(dF/dx)^T p`, `p(t1) = grad loss(x(t1))`; `dloss/dtheta = int dH/dtheta dt`, H = p . F.

    The gradient of a loss of x(t1) by optimise-then-discretise. The state is solved forwards once, with dense output;
    p and the gradient then run backwards along that very solution. Solving x backwards beside p would save the memory,
    but it is unstable where the flow contracts: there neighbouring states tend to one, and nothing tells them apart on
    the way back (a rate of -20 over unit time multiplies every error by e^20). Between steps the
    dense output is as good as the steps of all usual solvers, so p and the gradient have the solver's own order.

    Against Euler's steps, the network, all of this differs by O(h): `costate` of the network is the exact gradient of
    the discrete loss.

    **Arguments:** `flow`: an `hjax.nn.Flow`, such as `network.to_ode()`. `x`: the state at t0, an array or a tree; use
    `jax.vmap` for batches. `terminal`: a scalar function of x(t1), or the momentum p(t1) itself. `solver`,
    `stepsize_controller`, `dt0`, `max_steps`: as for `solve_characteristics`, in both directions. `steps_saved`: K,
    the number of equal parts of [t0, t1] at whose ends states and momenta are returned.

    **Returns:** `Costate(value, states, momenta, gradient)`: the loss (None if a momentum was passed), x and p at the
    K + 1 times, and the gradient in the arrays of the flow.

    **Raises:** `ValueError` as `solve_characteristics`, and for a terminal that is neither a scalar loss nor a momentum
    like x; at run time an error for a field that is not finite.

    **Error:** that of the solver: O(h^order) for constant steps, about its tolerances else. **Cost:** a forward and a
    backward solve, of which a stage takes one vjp in state and parameters; memory O(steps) states and two gradients.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 8.4, eq. 17.

    >>> import jax, jax.numpy as jnp, hjax
    >>> flow = hjax.nn.Flow(lambda x, t: -2 * x, t0=0.0, t1=1.0)
    >>> found = hjax.dynamics.costate(flow, jnp.array([3.0]), lambda x: jnp.sum(x))
    >>> bool(jnp.allclose(found.momenta[0], jnp.exp(-2.0), atol=1e-5))
    True
    """
    state = _characteristics.state("x", x)
    dtype = jnp.result_type(*jax.tree.leaves(state))
    if not isinstance(steps_saved, int) or isinstance(steps_saved, bool) or steps_saved < 1:
        raise ValueError(f"steps_saved is {steps_saved!r}; pass a whole number of at least 1.")
    times = _characteristics.interval(flow.t0, flow.t1, dtype)
    solver = diffrax.Tsit5() if solver is None else solver
    if stepsize_controller is None and isinstance(solver, diffrax.AbstractAdaptiveSolver):
        tolerances = _characteristics.TOLERANCES[dtype.name]
        # By the largest entry: a mean over thousands of parameters would hide an error in one of them.
        stepsize_controller = _characteristics.adaptive(times, tolerances, norm=optx.max_norm)
    controller = _characteristics.controller_for(solver, stepsize_controller, dt0, times, (0.0, 0.0))
    if _characteristics.is_split(solver):
        raise ValueError(
            f"{type(solver).__name__} steps two halves of a state in turn, which F(x, t) does not have; pass "
            f"diffrax.Tsit5()."
        )
    _characteristics.check_steps(controller, dt0, flow.t0, flow.t1, max_steps)
    step = None if dt0 is None else _checks.positive_scalar("dt0", dt0).astype(dtype)
    found = _solve(flow, state, terminal, *times, step, solver, controller, max_steps, steps_saved)
    return _characteristics.checked(*found, _characteristics.Outcomes.singular_field)


@eqx.filter_jit
def _solve(
    flow: Flow, x: PyTree, terminal: Any, t0: Array, t1: Array, dt0: Array | None, solver: Any, controller: Any,
    max_steps: int, count: int,
) -> tuple[Costate, Array, diffrax.RESULTS]:  # fmt: skip
    _characteristics.check_hamiltonian(flow.hamiltonian, x, x, t0)
    fraction = jnp.arange(count + 1, dtype=t0.dtype) / count
    times = jnp.where(fraction < 1, t0 + (t1 - t0) * fraction, t1)
    forwards = diffrax.diffeqsolve(
        diffrax.ODETerm(_Forwards(flow.field)), solver, t0, t1, dt0, x, stepsize_controller=controller,
        saveat=diffrax.SaveAt(ts=times, dense=True), max_steps=max_steps, throw=False,
    )  # fmt: skip
    states: Any = forwards.ys
    value, momentum = loss_and_momentum(terminal, jax.tree.map(lambda a: a[-1], states))
    params, rest = eqx.partition(flow, eqx.is_inexact_array)
    none = jax.tree.map(jnp.zeros_like, params)
    momenta_and_end = diffrax.SaveAt(
        subs=[
            diffrax.SubSaveAt(ts=times[::-1], fn=lambda t, y, args: y[0]),
            diffrax.SubSaveAt(t1=True, fn=lambda t, y, args: y[1]),
        ]
    )
    backwards = diffrax.diffeqsolve(
        diffrax.ODETerm(_Backwards(params, rest, forwards.interpolation)), solver, t1, t0,
        None if dt0 is None else -dt0, (momentum, none), stepsize_controller=controller, saveat=momenta_and_end,
        max_steps=max_steps, throw=False,
    )  # fmt: skip
    ends: Any = backwards.ys
    momenta = jax.tree.map(lambda a: a[::-1], ends[0])
    gradient = jax.tree.map(lambda a: a[-1], ends[1])
    gradient = eqx.tree_at(lambda f: (f.t0, f.t1), gradient, _in_times(flow, states, momenta), is_leaf=_is_none)
    good = diffrax.is_okay(forwards.result)
    result = diffrax.RESULTS.where(good, backwards.result, forwards.result)
    singular = _characteristics.trouble(forwards) | (good & _characteristics.trouble(backwards))
    return Costate(value, states, momenta, gradient), singular, result


def _in_times(flow: Flow, states: PyTree, momenta: PyTree) -> tuple[Array | None, Array | None]:
    """-H at the start and H at the end: what the loss gains from an interval that is longer there."""

    def energy(index: int, t: Any) -> Array | None:
        if not eqx.is_inexact_array(t):
            return None
        x, p = (jax.tree.map(lambda a: a[index], tree) for tree in (states, momenta))
        return flow.hamiltonian(x, p, t).astype(t.dtype)

    first, last = energy(0, flow.t0), energy(-1, flow.t1)
    return None if first is None else -first, last


def _is_none(leaf: Any) -> bool:
    return leaf is None
