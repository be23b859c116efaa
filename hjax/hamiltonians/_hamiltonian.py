import abc

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


class Hamiltonian(eqx.Module):
    """A convex Hamiltonian H(p) with its Legendre dual L(v) = sup_p p.v - H(p).

    Along the straight characteristics of `u_t + H(grad u) = 0` the action of going from `y` to `x`
    in time `t` is the cost `c_t(x, y) = t L((x - y)/t)`, the only thing that Hopf-Lax needs.

    To add one: subclass, give `__call__` and `lagrangian`, and put a line into the registry of
    `tests/hamiltonians`, which checks the duality against a brute-force supremum.
    """

    @abc.abstractmethod
    def __call__(self, p: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """H(p) for momenta `(..., d)`."""

    @abc.abstractmethod
    def lagrangian(self, v: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """L(v), the Legendre dual, for velocities `(..., d)`; +inf for those that nothing can have."""

    def cost(
        self, x: Float[Array, "*batch d"], y: Float[Array, "*batch d"], t: Float[Array, ""] | float
    ) -> Float[Array, "*batch"]:
        """c_t(x, y) = t L((x - y)/t): the least action from y to x in time t > 0, +inf if x is out of reach."""
        rate = self.lagrangian((x - y) / t)
        unreachable = rate == jnp.inf
        # Twice `where`: the derivative of t * inf in t, times zero, would be NaN.
        return jnp.where(unreachable, jnp.inf, t * jnp.where(unreachable, 0, rate))
