"""Networks that step a state, and the differential equation behind the steps."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from ..hamiltonians import Advection


class Flow(eqx.Module):
    """The ordinary differential equation `x' = F(x, t)` on `t0 <= t <= t1`: what `to_ode` makes of a network.

    Its characteristics and co-states are followed by `hjax.dynamics`, with `flow.hamiltonian`, `flow.t0`, `flow.t1`.

    **Arguments:** `field`: `(x, t) -> F`, an Equinox module where it has parameters. `t0`, `t1`: the interval.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition 5.2.

    >>> import jax.numpy as jnp, hjax
    >>> flow = hjax.nn.Flow(lambda x, t: -x, t0=0.0, t1=1.0)
    >>> float(flow.hamiltonian(jnp.ones(2), jnp.ones(2), 0.0))
    -2.0
    """

    field: Callable[[Any, Any], Any]
    t0: float
    t1: float

    @property
    def hamiltonian(self) -> Advection:
        """`H(x, p, t) = p . F(x, t)`."""
        return Advection(self.field)


class Evolution(eqx.Module):
    """A network that steps a state, `s_{k+1} = step(s_k, drive_k)`: a discrete flow with a Hamiltonian.

    The drive of a step is what changes from step to step: the parameters of a ResNet's block, the input of a
    recurrent network. `field` is the vector field F of which a step is an integrator's step, and
    `H(s, p, .) = p . F(s, .)` the Hamiltonian whose characteristics the network integrates; backpropagation is
    the co-state equation, `p_k = (d step/ds)^T p_{k+1}` (`hjax.dynamics.costate`).

    To add one: give the four abstract methods, and put a line into the registry of `tests/nn/test_evolution.py`.
    """

    @abc.abstractmethod
    def initial_state(self, x: ArrayLike) -> PyTree[Array]:
        """s_0 of the sample x: an array or a tree of arrays."""

    @abc.abstractmethod
    def drives(self, x: ArrayLike) -> PyTree[Array]:
        """What drives each of the K steps on the sample x: a tree of arrays `(K, ...)`."""

    @abc.abstractmethod
    def step(self, state: PyTree[Array], drive: PyTree[Array]) -> PyTree[Array]:
        """s_{k+1} of s_k and the k-th drive."""

    @abc.abstractmethod
    def field(self, state: PyTree[Array], at: Any) -> PyTree[Array]:
        """F(s, .): at a time, for a network with a clock of its own; at an input, for a driven one."""

    @property
    def hamiltonian(self) -> Advection:
        """`H(s, p, .) = p . F(s, .)`."""
        return Advection(self.field)

    def states(self, x: ArrayLike) -> PyTree[Array]:
        """All states s_0 ... s_K of the sample x, `(K + 1, ...)`: the discrete characteristic."""

        def step(state: PyTree[Array], drive: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
            following = self.step(state, drive)
            return following, following

        first = self.initial_state(x)
        _, rest = jax.lax.scan(step, first, self.drives(x))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
