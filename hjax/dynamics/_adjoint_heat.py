"""Backpropagation to the initial data of a Hopf-Cole solve: the heat flow run backwards, tilted.

An LSE layer is `f(x_i) = x_i^T A^-1 x_i/(4t) - u(x_i, t)`, so with `l'_i = dL/df(x_i)` and the Gibbs weights
`p_j(x_i) = exp(-(g_j + c_ij - u_i)/eps)`,

    dL/dg_j = -sum_i l'_i p_j(x_i) = -exp(-g_j/eps) sum_i exp(-c_ij/eps) l'_i/phi(x_i),     phi = exp(-u/eps).

The sum over i is a Gibbs sum with the roles swapped: the atoms ask, the samples x_i are the atoms, with values -u_i.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from ..nn import LSELayer
from ..reductions import Bilinear, quadratic_cost, softmin
from ..solutions import HopfCole
from ._costate_result import Costate


def adjoint_heat(
    model: LSELayer | HopfCole, x: ArrayLike, residuals: ArrayLike, t: ArrayLike | None = None
) -> Float[Array, "N"]:
    """`dL/dg_j = -exp(-g_j/eps) (K_t^T [l'/phi])(y_j) = -sum_i l'_i p_j(x_i)`: the gradient in the initial values.

    The adjoint of the solve: the residuals l', divided by phi, diffuse back from the samples to the atoms, and are
    tilted there by exp(-g/eps). The heat flow alone, without the tilt, is not the gradient. In other words, a small
    change w of u obeys linear transport with viscosity, `w_t + 2 (A grad u) . grad w = eps tr(A D^2 w)`; its
    adjoint in reversed time s, `mu_s = eps tr(A D^2 mu) + 2 div(mu A grad u)`, is the co-state. It starts as
    `-sum_i l'_i delta(x_i)`, keeps its sum, and ends as `sum_j dL/dg_j delta(y_j)`. `costate(model, x, residuals)`
    gives both ends, and the gradient in the other parameters.

    **Arguments:**

    - `model`: a scalar `LSELayer` f, or a `HopfCole` u, read as `f(x) = x^T A^-1 x/(4t) - u(x, t)`.
    - `x`: samples `(M, d)`.
    - `residuals`: l'_i = dL/df(x_i), `(M,)`; any sign. For a loss of u itself, minus its derivative.
    - `t`: the time of u. For a layer None: t is a gauge, and -dL/db_j = dL/dg_j at all of them, W fixed.

    **Returns:** dL/dg, `(N,)`; 0 for absent atoms.

    **Raises:** `ValueError` for another model, a layer of several outputs, other shapes, t <= 0 or t missing.

    **Error:** relative to `sum_i |l'_i| p_j(x_i)`, a few ulp of the largest cost and value, divided by eps. Unlike
    that of a soft-min's mean it has no other bound; where eps is a few ulp of the costs take `jax.grad` instead.

    **Cost:** two reductions, O(M N d) time and O(M + N) memory.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition E.6, eq. 33, as corrected (the tilt).

    >>> import jax, jax.numpy as jnp, hjax
    >>> u = hjax.HopfCole(hjax.InitialData(jnp.array([[-1.0], [1.0]]), jnp.zeros(2)), eps=0.5)
    >>> x, residuals = jnp.array([[0.0], [2.0]]), jnp.array([1.0, -3.0])
    >>> gradient = hjax.dynamics.adjoint_heat(u, x, residuals, 1.0)
    >>> bool(jnp.allclose(gradient, -residuals @ u.weights(x, 1.0), atol=1e-6))
    True
    """
    problem = _problem(model, x, t)
    slopes = _residuals(residuals, problem.x.shape[0]).astype(problem.x.dtype)
    return -_pull_back(problem, _values(problem), slopes[:, None])[:, 0]


def heat_costate(
    model: LSELayer | HopfCole,
    x: ArrayLike,
    terminal: Callable[[Array], Array] | ArrayLike,
    *,
    t: ArrayLike | None = None,
) -> Costate:
    """The co-state at both ends, and the gradient in the atoms and values, by the same one reduction.

    `states = (g, u(x_i))` and `momenta = (dL/dg, dL/du(x_i) = -l')`; of a layer (-b, -f(x_i)), which are these up to
    squares that do not depend on b. What is not initial data (eps, the metric) gets automatic differentiation's.
    """
    problem = _problem(model, x, t)
    values = _values(problem)
    outputs = problem.outputs(model, values)
    if callable(terminal):
        loss: Any = jax.value_and_grad(terminal)
        value, slopes = loss(outputs)
    else:
        value, slopes = None, _residuals(terminal, problem.x.shape[0]).astype(problem.x.dtype)
    # Far from the origin differences of points keep their digits.
    origin = jax.lax.stop_gradient(jnp.mean(problem.x, axis=0)) if isinstance(model, HopfCole) else 0.0
    payload = jnp.concatenate([slopes[:, None], slopes[:, None] * (problem.x - origin)], axis=1)
    pulled = _pull_back(problem, values, payload)
    mass, first = pulled[:, 0], pulled[:, 1:]
    spec = jax.tree.map(eqx.is_inexact_array, model)
    if isinstance(model, LSELayer):
        spec = eqx.tree_at(lambda m: (m.weight, m.bias), spec, (False, False))
        own = eqx.tree_at(
            lambda m: (m.weight, m.bias),
            jax.tree.map(lambda _: None, model),
            (first, mass),
            is_leaf=lambda leaf: leaf is None,
        )
        before = -model.bias
        after = -outputs
    else:
        spec = eqx.tree_at(lambda m: m.data, spec, jax.tree.map(lambda _: False, model.data))
        scale = 2 * problem.t
        moved = model.hamiltonian.solve(first - mass[:, None] * (model.data.points - origin)) / scale
        weights = None if model.data.log_weights is None else model.eps * mass
        own = eqx.tree_at(
            lambda m: (m.data.points, m.data.values, m.data.log_weights),
            jax.tree.map(lambda _: None, model),
            (moved, -mass, weights),
            is_leaf=lambda leaf: leaf is None,
        )
        before = model.data.values
        after = values + model.log_normalisation(problem.t).astype(values.dtype)
    others, rest = eqx.partition(model, spec)

    def linear(others: Any) -> Array:
        whole = eqx.combine(others, rest)
        again = _problem(whole, x, t)
        return jnp.dot(slopes, again.outputs(whole, _values(again)), precision="highest")

    gradient = eqx.combine(own, jax.grad(linear)(others))
    return Costate(value, (before, after), (-mass, -slopes), gradient)


class _Swappable(NamedTuple):
    """A soft-min whose queries and atoms can change places: `-eps log sum_j exp(-(cost(x, y_j) + values_j)/eps)`."""

    x: Array
    atoms: Array
    values: Array
    eps: Array
    cost: Any
    t: Any

    def outputs(self, model: Any, values: Array) -> Array:
        """f(x_i), of the soft-min's values."""
        if isinstance(model, LSELayer):
            return -values
        u = values + model.log_normalisation(self.t).astype(values.dtype)
        return model.hamiltonian.cost(self.x, jnp.zeros_like(self.x), self.t) - u


def _problem(model: Any, x: ArrayLike, t: ArrayLike | None) -> _Swappable:
    samples = _checks.floating("x", x)
    if isinstance(model, LSELayer):
        if model.out_size != "scalar":
            raise ValueError(
                f"this layer has {model.out_size} outputs, each with atoms of its own; pass one of them, layer.unit(i)."
            )
        if t is not None:
            raise ValueError(
                "t was passed for an LSELayer, where it is a gauge: the gradient is the same; leave it out."
            )
        atoms, values, cost = model.weight, -model.bias, Bilinear()
    elif isinstance(model, HopfCole):
        if t is None:
            raise ValueError("u is a function of x and t; pass the time of the outputs as well, for example t=1.0.")
        t = _checks.positive_scalar("t", t)
        atoms, values, cost = model.data.points, model.effective_values(), quadratic_cost(model.hamiltonian, t)
    else:
        raise ValueError(
            f"model is {type(model).__name__}; pass a scalar hjax.nn.LSELayer or a solution hjax.HopfCole(data, eps)."
        )
    if samples.ndim != 2 or samples.shape[1] != atoms.shape[1]:
        raise ValueError(
            f"x has shape {samples.shape}, but samples (M, {atoms.shape[1]}) are wanted; for one sample pass x[None]."
        )
    dtype = jnp.result_type(samples, atoms)
    return _Swappable(samples.astype(dtype), atoms.astype(dtype), values.astype(dtype), model.eps, cost, t)


def _values(problem: _Swappable) -> Float[Array, "M"]:
    return softmin(problem.x, problem.atoms, problem.values, eps=problem.eps, cost=problem.cost).value


def _pull_back(problem: _Swappable, values: Float[Array, "M"], payload: Float[Array, "M p"]) -> Float[Array, "N p"]:
    """`sum_i p_j(x_i) payload_i`, in logarithms: `exp(-(values_j + V_j)/eps) mean_j`, with V the soft-min of -u_i.

    The factor is `sum_i p_j(x_i)`, between 0 and M, so nothing overflows; the mean keeps the payload's signs.
    """
    # A sample that sees no atom has u = +inf; it pulls at none.
    seen = jnp.isfinite(values)
    back, mean = softmin(
        problem.atoms,
        problem.x,
        jnp.where(seen, -values, jnp.inf),
        eps=problem.eps,
        cost=problem.cost,
        payload=payload,
    )
    assert mean is not None  # a payload was passed
    count = values.shape[0]
    # Rounding over a tiny eps may not take it above M; absent atoms have values of +inf.
    shares = jnp.minimum(jnp.exp(-(problem.values + back) / problem.eps), count)
    return shares.astype(mean.dtype)[:, None] * mean


def _residuals(residuals: Any, count: int) -> Array:
    slopes = _checks.floating("residuals", residuals)
    if slopes.shape != (count,):
        raise ValueError(
            f"residuals has shape {slopes.shape}, but one derivative dL/df(x_i) per sample, ({count},), is wanted; "
            f"for a loss pass costate(model, x, lambda outputs: ...)."
        )
    return slopes
