"""What a co-state computation returns: one class for the discrete, the continuous and the heat-flow form."""

from typing import Any

import equinox as eqx
from jax import Array
from jaxtyping import Float, PyTree


class Costate(eqx.Module):
    """A trajectory, its co-state, and the gradient that the two make: what `costate` returns.

    - `value`: the loss, or None where a momentum was passed instead of a loss.
    - `states`: s_0 ... s_K, each leaf with the time (the step) as its first axis.
    - `momenta`: p_k = d loss/d s_k in the same structure and shape.
    - `gradient`: d loss/d model, a tree like that of `eqx.filter_grad`: the model, with None where it holds no
      floating array. Hand it to `eqx.apply_updates` or to an optimizer of optax.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 8.4, eqs 16, 17; Proposition E.6, eq. 33.

    >>> import jax, jax.numpy as jnp, hjax
    >>> network = hjax.nn.RNN(1, 3, key=jax.random.key(0))
    >>> result = hjax.dynamics.costate(network, jnp.ones((4, 1)), lambda state: jnp.sum(state**2))
    >>> result.momenta.shape, bool((result.momenta[-1] == 2 * result.states[-1]).all())
    ((5, 3), True)
    """

    value: Float[Array, ""] | None
    states: PyTree[Array]
    momenta: PyTree[Array]
    gradient: Any
