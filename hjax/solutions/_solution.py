"""One abstract method, the Gibbs moments, carries every solution.

For the cost `c = (x-y)^T A^-1 (x-y)/(4t)` every derivative of `u = -eps log sum_j exp(-(g_j + c_j)/eps)` is a
moment of `z = A^-1 (y - o)` (any origin o) under the Gibbs weights:

    grad u = (A^-1 (x - o) - E z)/(2t)
    D^2 u  = A^-1/(2t) - Cov z/(4 t^2 eps)
    u_t    = -E[(x-y)^T A^-1 (x-y)]/(4 t^2)

and eps -> 0 puts all weight on one atom: the same formulas with Cov z/eps replaced by 0. The origin is the
middle of the cloud, so that coordinates far from zero cost no digits.
"""

import abc
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from .. import _checks
from ..hamiltonians import Quadratic
from ..initial_data import InitialData
from ..reductions import hardmin, quadratic_cost

# Up to here the Hessian's d(d+1)/2 moments ride through one pass; beyond, one pass per row.
_ONE_PASS_DIMENSION = 16


def _one_program(method: Callable[..., Array]) -> Callable[..., Array]:
    """The same method, compiled where nothing else compiles it: step by step it would be dozens of small programs.

    Under a transformation it is left as it is, for `vmap` over single queries to see the reduction in it.
    """
    compiled = eqx.filter_jit(method)

    @functools.wraps(method)
    def call(self: "Solution", x: Array, t: Array) -> Array:
        traced = any(isinstance(a, Tracer) for a in jax.tree.leaves((self, x, t)))
        return (method if traced else compiled)(self, x, t)

    return call


class Solution(eqx.Module):
    """A solution u(x, t) built on atoms: `HopfCole` (eps > 0) or `HopfLax` (eps = 0).

    Everywhere `x` is `(..., d)` and `t` a positive number or an array that broadcasts against the batch
    `(...)`; results have the batch's shape first. One time for all queries runs as one reduction; many
    times run as one reduction per query, vmapped. To add a solution, give `_moments` and
    `_inverse_viscosity`; value, gradient, Hessian, Laplacian, time derivative and residual follow.
    """

    data: eqx.AbstractVar[InitialData]
    hamiltonian: eqx.AbstractVar[Quadratic]

    @abc.abstractmethod
    def _moments(
        self, x: Float[Array, "M d"], t: Float[Array, ""], payload: Float[Array, "N p"]
    ) -> tuple[Float[Array, "M"], Float[Array, "M p"]]:
        """u(x, t), and the Gibbs mean of the payload, which may have no channels."""

    @abc.abstractmethod
    def _inverse_viscosity(self) -> Array | float:
        """1/eps, or 0 where the weights have collapsed onto one atom."""

    @abc.abstractmethod
    def _normalisation_rate(self, t: Float[Array, ""]) -> Array | float:
        """d/dt of what u has in addition to the soft-min of the costs."""

    @abc.abstractmethod
    def weights(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch N"]:
        """Gibbs attribution weights of the atoms, `(..., N)`; the one result that is that large."""

    @abc.abstractmethod
    def entropy(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch"]:
        """Attribution entropy of the weights in nats, from 0 (one atom) to log N (all alike)."""

    def __call__(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch"]:
        """The value u(x, t)."""
        return self._over(self._value, x, t)

    def gradient(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch d"]:
        """The momentum grad u = A^-1 (x - E y)/(2t), `(..., d)`, in closed form and one pass."""

        def gradient(x: Array, t: Array) -> Array:
            origin, z = self._whitened_atoms()
            _, mean = self._moments(x, t, z)
            return (self.hamiltonian.solve(x - origin) - mean) / (2 * t)

        return self._over(gradient, x, t)

    def hessian(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch d d"]:
        """D^2 u = A^-1/(2t) - Cov z/(4 t^2 eps), `(..., d, d)`, in closed form.

        **Error:** a few ulp of `diam^2/(4 t^2 eps)`. **Cost:** one pass with d(d+1)/2 channels (that many
        numbers per atom) up to d = 16, then d passes with d channels.
        """
        return self._over(self._hessian, x, t)

    @_one_program
    def _hessian(self, x: Float[Array, "M d"], t: Float[Array, ""]) -> Float[Array, "M d d"]:
        _, z = self._whitened_atoms()
        d = z.shape[1]
        if d <= _ONE_PASS_DIMENSION:
            i, j = jnp.triu_indices(d)
            _, mean = self._moments(x, t, jnp.concatenate([z, z[:, i] * z[:, j]], axis=1))
            first, upper = mean[:, :d], mean[:, d:]
            second = jnp.zeros((x.shape[0], d, d), x.dtype).at[:, i, j].set(upper)
            second = second.at[:, j, i].set(upper)
        else:
            first = self._moments(x, t, z)[1]
            rows = lax.map(lambda column: self._moments(x, t, column[:, None] * z)[1], z.T)
            second = jnp.moveaxis(rows, 0, 1)
        covariance = second - first[:, :, None] * first[:, None, :]
        flat = self.hamiltonian.solve(jnp.eye(d, dtype=x.dtype)) / (2 * t)
        return flat - self._inverse_viscosity() * covariance / (4 * t**2)

    def laplacian(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch"]:
        """The trace of D^2 u, in closed form and one pass with d + 1 channels."""
        return self._over(self._laplacian, x, t)

    @_one_program
    def _laplacian(self, x: Float[Array, "M d"], t: Float[Array, ""]) -> Float[Array, "M"]:
        _, z = self._whitened_atoms()
        d = z.shape[1]
        squares = jnp.sum(z * z, axis=1, keepdims=True)
        _, mean = self._moments(x, t, jnp.concatenate([z, squares], axis=1))
        variance = mean[:, d] - jnp.sum(mean[:, :d] ** 2, axis=1)
        flat = jnp.trace(self.hamiltonian.solve(jnp.eye(d, dtype=x.dtype))) / (2 * t)
        return flat - self._inverse_viscosity() * variance / (4 * t**2)

    def time_derivative(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch"]:
        """u_t at fixed atoms and values, in closed form and one pass with d + 1 channels."""
        return self._over(self._time_derivative, x, t)

    @_one_program
    def _time_derivative(self, x: Float[Array, "M d"], t: Float[Array, ""]) -> Float[Array, "M"]:
        origin, z = self._whitened_atoms()
        d = z.shape[1]
        squares = jnp.sum((self.data.points - origin) * z, axis=1, keepdims=True)
        _, mean = self._moments(x, t, jnp.concatenate([z, squares], axis=1))
        centred = x - origin
        distance = jnp.sum(centred * (self.hamiltonian.solve(centred) - 2 * mean[:, :d]), axis=1) + mean[:, d]
        return self._normalisation_rate(t) - distance / (4 * t**2)

    def residual(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "*batch"]:
        """`u_t + H(grad u) - eps tr(A D^2 u)` by autodiff of the value, not of the closed forms above.

        Zero to rounding for `HopfCole(normalize=True)` and, away from shocks, for `HopfLax`; the constant
        `-d eps/(2t)` for `HopfCole(normalize=False)`.

        **Cost:** 2 d + 2 passes over the atoms.
        """

        def residual(x: Array, t: Array) -> Array:
            def value(x: Array, t: Array) -> Array:
                return self._value(x[None], t)[0]

            def second(direction: Array) -> Array:
                along = jax.jvp(lambda x: jax.grad(value)(x, t), (x,), (direction,))[1]
                return jnp.vdot(direction, along)

            momentum, rate = jax.grad(value, argnums=(0, 1))(x, t)
            roots = self.hamiltonian.factor(x.shape[0]).T.astype(x.dtype)
            inverse = self._inverse_viscosity()
            eps = 0 if isinstance(inverse, float) else 1 / inverse
            viscous = eps * jnp.sum(lax.map(second, roots))
            return rate + self.hamiltonian(momentum) - viscous

        points, times = self._validated(x, t)
        times = jnp.broadcast_to(times, points.shape[:-1])
        flat = jax.vmap(residual)(points.reshape(-1, points.shape[-1]), times.reshape(-1))
        return flat.reshape(points.shape[:-1])

    def expectation(self, x: ArrayLike, t: ArrayLike, payload: ArrayLike) -> Float[Array, "*batch p"]:
        """The Gibbs mean E[payload] under the attribution weights; payload `(N, p)`."""
        values = _checks.floating("payload", payload)
        _checks.no_nan("payload", values)
        if values.ndim != 2 or values.shape[0] != self.data.size:
            raise ValueError(
                f"payload has shape {values.shape}, but (N, p) with N = {self.data.size} is wanted; "
                f"for one number per atom pass payload[:, None]."
            )
        return self._over(lambda x, t: self._moments(x, t, values)[1], x, t)

    def minimizer(self, x: ArrayLike, t: ArrayLike) -> Int[Array, "*batch"]:
        """The index of the atom that weighs most: where the optimal path to (x, t) starts."""

        def minimizer(x: Array, t: Array) -> Array:
            cost = quadratic_cost(self.hamiltonian, t)
            return hardmin(x, self.data.points, self._values(), cost=cost).index

        return self._over(minimizer, x, t)

    @abc.abstractmethod
    def _values(self) -> Float[Array, "N"]:
        """The values that enter the reduction: g, with the quadrature weights folded in."""

    def _value(self, x: Float[Array, "M d"], t: Float[Array, ""]) -> Float[Array, "M"]:
        return self._moments(x, t, self.data.points[:, :0])[0]

    @eqx.filter_jit
    def _whitened_atoms(self) -> tuple[Float[Array, "d"], Float[Array, "N d"]]:
        """The middle o of the cloud of atoms, and z = A^-1 (y - o)."""
        # Of the bounding box: XLA may compute it twice, and minima, unlike sums, come out the same. Absent
        # atoms, wherever they are, do not count.
        present = self._values() < jnp.inf
        points = jnp.where(present[:, None], self.data.points, self.data.points[jnp.argmax(present)])
        origin = lax.stop_gradient((jnp.min(points, axis=0) + jnp.max(points, axis=0)) / 2)
        return origin, self.hamiltonian.solve(self.data.points - origin)

    def _validated(self, x: ArrayLike, t: ArrayLike) -> tuple[Array, Array]:
        points = _checks.floating("x", x)
        d = self.data.dimension
        if points.ndim == 0 or points.shape[-1] != d:
            raise ValueError(
                f"x has shape {points.shape}, but (..., {d}) is wanted to match the atoms "
                f"{self.data.points.shape}; for points on a line pass x[..., None]."
            )
        times = _checks.positive("t", t)
        try:
            fits = jnp.broadcast_shapes(times.shape, points.shape[:-1]) == points.shape[:-1]
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"t has shape {times.shape}, which does not broadcast to the batch "
                f"{points.shape[:-1]} of x; pass one time, or one per query."
            )
        dtype = jnp.result_type(points.dtype, self.data.points.dtype)
        return points.astype(dtype), times.astype(dtype)

    def _over(self, function: Callable[[Array, Array], Array], x: ArrayLike, t: ArrayLike) -> Array:
        """Apply a function of (M, d) queries and one time to any batch and any times."""
        points, times = self._validated(x, t)
        batch, flat = points.shape[:-1], points.reshape(-1, points.shape[-1])
        if times.ndim == 0:
            result = function(flat, times)
        else:
            many = jnp.broadcast_to(times, batch).reshape(-1)
            result = jax.vmap(lambda x, t: function(x[None], t)[0])(flat, many)
        return result.reshape(*batch, *result.shape[1:])


def require_quadratic(data: InitialData, hamiltonian: Quadratic, name: str) -> None:
    """Raise `ValueError` unless `hamiltonian` is quadratic and fits the data."""
    if not isinstance(data, InitialData):
        raise ValueError(f"data is {type(data).__name__}; pass hjax.InitialData(points, values) to {name}.")
    if not isinstance(hamiltonian, Quadratic):
        raise ValueError(
            f"hamiltonian is {type(hamiltonian).__name__}, but {name} takes quadratic ones only; pass "
            f"hjax.Quadratic(metric), or for Hopf-Lax call hjax.hardmin with hjax.LagrangianCost(hamiltonian, t)."
        )
    hamiltonian.require_dimension(data.dimension)
