"""Hamiltonians of position, momentum and time, H(x, p, t): what characteristics need beyond H(p).

`hjax.dynamics` follows Hamilton's equations of any callable `(x, p, t) -> scalar`; these two are the ones with
a name. Positions and momenta may be arrays or, alike, trees of them: a state of several parts, as the (c, h) of
an LSTM.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ._hamiltonian import Hamiltonian


class Advection(eqx.Module):
    """`H(x, p, t) = p . F(x, t)`: the Hamiltonian of the ordinary differential equation `x' = F(x, t)`.

    Hamilton's equations are `x' = F` and the adjoint `p' = -(dF/dx)^T p`; the Hamilton-Jacobi equation is linear
    transport, `v_t + F . grad v = 0`, and v is constant along x. H is linear in p: no Legendre dual, so neither
    Hopf-Lax nor Hopf-Cole applies, and no viscosity is hidden in it. Every network that steps a state has one.

    **Arguments:** `field`: `(x, t) -> F`, of the structure of x. For a driven field the third argument is whatever
    drives it, the input of a recurrent network, instead of the time.

    **Cost:** one evaluation of the field.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition 5.2, eq. 17.

    >>> import jax.numpy as jnp, hjax
    >>> hamiltonian = hjax.Advection(lambda x, t: -x)
    >>> float(hamiltonian(jnp.array([1.0, 2.0]), jnp.array([3.0, 1.0]), 0.0))
    -5.0
    """

    field: Callable[[Any, Any], Any]

    def __call__(self, x: PyTree, p: PyTree, t: Any) -> Float[Array, ""]:
        """p . F(x, t), summed over all parts of the state."""
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), p, self.field(x, t))
        return jax.tree.reduce(jnp.add, products)


class Separable(eqx.Module):
    """`H(x, p, t) = K(p) + V(x, t)`: kinetic plus potential, the class that explicit symplectic integrators serve.

    Hamilton's equations are `x' = K'(p)` and `p' = -grad V`: `Quadratic()` and `V = -omega^2 |x|^2` is the
    Hamiltonian of Mehler's kernel, with `V = +omega^2 |x|^2` an oscillator of angular frequency 2 omega.

    **Arguments:** `kinetic`: a `Hamiltonian` or another function of p. `potential`: `V(x, t) -> scalar`.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 4.3 (the oscillator) and Appendix J.

    >>> import jax.numpy as jnp, hjax
    >>> pendulum = hjax.Separable(hjax.Quadratic(0.5), lambda x, t: 1 - jnp.cos(x[0]))
    >>> float(pendulum(jnp.array([0.0]), jnp.array([2.0]), 0.0))
    2.0
    """

    kinetic: Hamiltonian | Callable[[Any], Array]
    potential: Callable[[Any, Any], Array]

    def __call__(self, x: PyTree, p: PyTree, t: Any) -> Float[Array, ""]:
        """K(p) + V(x, t)."""
        return self.kinetic(p) + self.potential(x, t)
