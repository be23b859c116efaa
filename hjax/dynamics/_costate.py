"""Backpropagation as the co-state equation: one public name for the discrete, continuous and heat-flow forms."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from ..nn import Evolution, Flow, LSELayer
from ..solutions import HopfCole
from ._adjoint_heat import heat_costate
from ._continuous import continuous_costate
from ._costate_result import Costate
from ._terminal import loss_and_momentum, require_scalar


def costate(
    model: Any,
    x: ArrayLike,
    terminal: Callable[[PyTree[Array]], Array] | PyTree[ArrayLike],
    *,
    running: Callable[[PyTree[Array], Array], Array] | None = None,
    **options: Any,
) -> Costate:
    """`p_K = grad loss(s_K)`, `p_k = (d step/d s)(s_k)^T p_{k+1}`, `d loss/d theta = sum_k (d step/d theta)^T p_{k+1}`.

    Backpropagation through a network of steps is its co-state equation: for a ResNet, `p_k = p_{k+1} + h dF/dx(x_k)^T
    p_{k+1}` and `d loss/d theta_k = h dH/d theta(x_k, p_{k+1})` with `H = p . F`. State and co-state enter as (x_k,
    p_{k+1}): together they are the symplectic Euler method, exactly, and the gradient is that of automatic
    differentiation to rounding. Here the recursion is written out: a scan forwards that keeps the states, a scan
    backwards with the derivative of one step.

    **Arguments:**

    - `model`: an `hjax.nn.Evolution` (`ResNet`, `RNN`, `LSTM`, `SSM`, ...) for this recursion. An
      `hjax.nn.Flow` for its differential equation (eq. 17), see `continuous_costate`. A scalar `hjax.nn.LSELayer` or
      an `hjax.HopfCole` for the adjoint heat flow (eq. 33): there x is a batch `(M, d)`,
      `terminal` the residuals dL/df(x_i) or a function of all outputs, and the states are the values at the atoms and
      at x; see `adjoint_heat`.
    - `x`: one sample; use `jax.vmap` for batches.
    - `terminal`: the loss, a scalar function of the final state s_K, or the momentum p_K itself.
    - `running`: `(s_k, k) -> scalar`, added to the loss for every state before the last.
    - `options`: none for an `Evolution`; the solver and its steps for a `Flow`; `t=`, the time, for a `HopfCole`.

    Parameters that only `terminal` or `running` holds get no gradient here.

    **Returns:** `Costate(value, states, momenta, gradient)`: the loss (None if a momentum was passed), s_k and p_k for
    k = 0 ... K, and the gradient in the model's arrays.

    **Raises:** `ValueError` for another model, a loss that is no scalar, or a momentum unlike the final state.

    **Error:** rounding. **Cost:** two steps forwards and one backwards per step; memory O(K) states, besides the
    gradient itself.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 8.4, eqs 16, 17, as corrected.

    >>> import equinox as eqx, jax, jax.numpy as jnp, hjax
    >>> network, x = hjax.nn.ResNet(2, 8, 4, key=jax.random.key(0)), jnp.array([0.3, -0.4])
    >>> result = hjax.dynamics.costate(network, x, lambda state: jnp.sum(state**2))
    >>> gradient = eqx.filter_grad(lambda network: jnp.sum(network(x) ** 2))(network)
    >>> bool(jnp.allclose(result.gradient.blocks.weight, gradient.blocks.weight, atol=1e-6))
    True
    """
    if isinstance(model, Evolution):
        if options:
            raise ValueError(f"{sorted(options)} are no options of a discrete recursion; leave them out.")
        return discrete_costate(model, x, terminal, running)
    if isinstance(model, Flow):
        if running is not None:
            raise ValueError("running is paid at the steps of a network, which a Flow does not have; leave it out.")
        return continuous_costate(model, x, terminal, **options)
    if isinstance(model, LSELayer | HopfCole):
        if running is not None:
            raise ValueError("running was passed, but between the atoms and the outputs nothing is paid; leave it out.")
        return heat_costate(model, x, terminal, **options)
    raise ValueError(
        f"model is {type(model).__name__}; pass an hjax.nn.Evolution, such as hjax.nn.ResNet(2, 16, 8, key=key), its "
        f"network.to_ode(), a scalar hjax.nn.LSELayer or an hjax.HopfCole."
    )


def discrete_costate(model: Evolution, x: ArrayLike, terminal: Any, running: Any) -> Costate:
    """Equation 16 for any `Evolution`, without differentiating more than one step at a time."""
    params, rest = eqx.partition(model, eqx.is_inexact_array)

    def start(params: Any) -> tuple[Any, Any]:
        whole = eqx.combine(params, rest)
        return whole.initial_state(x), eqx.filter(whole.drives(x), eqx.is_inexact_array)

    (first, moving), pull_back = jax.vjp(start, params)
    fixed = eqx.filter(model.drives(x), eqx.is_inexact_array, inverse=True)

    def step(params: Any, state: PyTree[Array], moving: PyTree[Array], fixed: PyTree[Array]) -> PyTree[Array]:
        return eqx.combine(params, rest).step(state, eqx.combine(moving, fixed))

    def forwards(state: PyTree[Array], drive: Any) -> tuple[PyTree[Array], PyTree[Array]]:
        return step(params, state, *drive), state

    final, before = jax.lax.scan(forwards, first, (moving, fixed))
    states = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), before, final)
    value, last = loss_and_momentum(terminal, final)
    count = jax.tree.leaves(before)[0].shape[0]
    index = jnp.arange(count)
    if running is not None:
        require_scalar("running", jax.eval_shape(running, first, index[0]))
        costs = jax.vmap(running)(before, index)
        value = None if value is None else value + jnp.sum(costs)

    def backwards(carry: Any, at: Any) -> tuple[Any, Any]:
        momentum, gradient = carry
        state, moving, fixed, k = at
        _, pull = jax.vjp(lambda model, s, drive: step(model, s, drive, fixed), params, state, moving)
        own, momentum, driving = pull(momentum)
        if running is not None:
            momentum = jax.tree.map(jnp.add, momentum, jax.grad(running)(state, k))
        return (momentum, jax.tree.map(jnp.add, gradient, own)), (momentum, driving)

    none = jax.tree.map(jnp.zeros_like, params)
    (momentum, gradient), (momenta, driving) = jax.lax.scan(
        backwards, (last, none), (before, moving, fixed, index), reverse=True
    )
    (rest_of_gradient,) = pull_back((momentum, driving))
    return Costate(
        value,
        states,
        jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), momenta, last),
        jax.tree.map(jnp.add, gradient, rest_of_gradient),
    )
