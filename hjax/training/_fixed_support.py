"""Atoms fixed, values free: a convex problem (Proposition D.2), solved to a certificate.

With F_i(b) = eps log sum_j exp((a_ij + b_j)/eps) and targets q_i in the simplex,

    J(b) = mean_i [F_i(b) - <q_i, a_i + b>]

is eps times a cross-entropy between Gibbs weights and targets: convex, and minimal where the mean weights
equal the mean targets. By F_i(b) = max_p <p, a_i + b> + eps S(p) its dual is an entropic transport problem,

    min_b J(b) = max { mean_i [<p_i - q_i, a_i> + eps S(p_i)] : mean_i p_i = mean_i q_i },

so every p with that mean bounds J from below: the Gibbs weights at b, rounded to it, certify how far b is from
the optimum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import entr
from jax.typing import ArrayLike

from .. import _checks
from ..nn import LSELayer
from ..reductions import Bilinear, gibbs_weights, quadratic_cost, softmin
from ..solutions import HopfCole
from ._polish import minimise


@dataclass(frozen=True)
class FixedSupport:
    """The optimum over the values at fixed atoms: what `fit_fixed_support` returns.

    - `model`: with the best values; for the cross-entropy their constant is such that `<mean q, g> = 0`.
    - `objective`: J there.
    - `gradient`: its largest entry in absolute value.
    - `gap`: J minus a lower bound on the minimum (the certificate); None for a loss of one's own.
    - `steps`: iterations. `status`: "finished", or one sentence.

    >>> import jax.numpy as jnp, hjax
    >>> layer = hjax.nn.LSELayer.from_arrays(jnp.array([[-1.0], [1.0]]), jnp.zeros(2), eps=0.5)
    >>> found = hjax.training.fit_fixed_support(layer, jnp.array([[0.2], [0.4]]), jnp.array([0.5, 0.5]))
    >>> found.gap < 1e-5
    True
    """

    model: Any
    objective: float
    gradient: float
    gap: float | None
    steps: int
    status: str


def fit_fixed_support(
    model: LSELayer | HopfCole,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    t: ArrayLike | None = None,
    loss: Callable[[Array, Array], Array] | None = None,
    shares: ArrayLike | None = None,
    steps: int = 1_000,
    tolerance: float | None = None,
) -> FixedSupport:
    """Minimise a convex loss over the biases b (the values -g) at fixed atoms: the global optimum, certified.

    Without `loss`: `J(b) = mean_i F_i(b) - <q_i, a_i + b>`, with F = f of an `LSELayer`, or -u(., t) of a `HopfCole`
    solution: cross-entropy between the attribution weights of the atoms and targets q. In g it is the dual of
    entropic transport from the samples to the atoms. The optimum is unique up to a constant.

    **Arguments:**

    - `model`: a scalar `LSELayer`, or a `HopfCole` with its time `t`. Its own values are where the search starts.
    - `x`: samples `(n, d)`.
    - `targets`: q: one distribution for all `(N,)`, one each `(n, N)`, or the atom's index `(n,)`. Every atom that is
      present must have some share, or the infimum is at infinity. With `loss`, what that takes: `(n,)`.
    - `loss`: `(F, target) -> number`, convex and *non-decreasing* in F: then `mean_i loss(F_i, target_i) - <shares, b>`
      is convex. A square or a logistic loss with both labels is not of this kind (theory D.2); a strictly increasing
      one without `shares` has no minimum.
    - `shares`: `(N,)`, not negative; zero if None.
    - `steps`: at most so many iterations of L-BFGS. `tolerance`: on the gradient; default 10 ulp of one.

    **Returns:** `FixedSupport(model, objective, gradient, gap, steps, status)`.

    **Raises:** `ValueError` for targets that are no distributions, an atom without a share, a loss that is concave or
    decreases somewhere on the samples.

    **Error:** `gap` bounds J - min J, but for rounding. **Cost:** O(n N d) an iteration; the certificate O(n N)
    memory. **Good values:** double precision; small eps makes it slow (condition about 1/eps).

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition D.2, as corrected.

    >>> import jax.numpy as jnp, hjax
    >>> layer = hjax.nn.LSELayer.from_arrays(jnp.array([[-1.0], [1.0]]), jnp.array([0.0, 0.0]), eps=1.0)
    >>> found = hjax.training.fit_fixed_support(layer, jnp.zeros((4, 1)), jnp.array([0, 0, 0, 1]))
    >>> round(float(found.model.bias[0] - found.model.bias[1]), 4)  # log(3/1)
    1.0986
    """
    atoms, g, cost, rebuild = _read(model, t)
    samples = _checks.floating("x", x)
    if samples.ndim != 2 or samples.shape[1] != atoms.shape[1] or not samples.shape[0]:
        raise ValueError(f"x has shape {samples.shape}, but (n, {atoms.shape[1]}) is wanted to match the atoms.")
    _checks.no_nan("x", samples)
    dtype = jnp.result_type(samples.dtype, atoms.dtype)
    samples, atoms, g = samples.astype(dtype), atoms.astype(dtype), g.astype(dtype)
    present = np.isfinite(np.asarray(g))
    eps = model.eps.astype(dtype)
    if loss is None:
        mean, constant = _targets(targets, samples, atoms, cost, present, dtype)
        extra = (mean,)
    else:
        extra, constant = _own(targets, shares, samples, atoms.shape[0], dtype), jnp.zeros((), dtype)
        _require_convex(loss, samples, atoms, g, eps, cost, extra[0])
    limit = 10 * float(jnp.finfo(dtype).eps) if tolerance is None else tolerance
    start = jnp.where(present, g, 0)
    found = _solve(
        loss, samples, atoms, eps, cost, jnp.asarray(present), start, extra, jnp.asarray(steps), jnp.asarray(limit)
    )
    values = found.params
    gap = None
    if loss is None:
        values = values - jnp.vdot(extra[0], values)
        gap = float(_gap(samples, atoms, eps, cost, jnp.asarray(present), values, extra[0]))
    gradient, made = float(found.gradient), int(found.steps)
    status = "finished"
    if gradient > limit:
        status = (
            f"the gradient is still {gradient:.3g} after {made} iterations (tolerance {limit:.3g}); look at gap, pass "
            f"more steps, a larger tolerance, or use double precision."
        )
    done = rebuild(jnp.where(present, values, jnp.inf))
    return FixedSupport(done, float(found.value + constant), gradient, gap, made, status)


def _read(model: Any, t: ArrayLike | None) -> tuple[Array, Array, Any, Callable[[Array], Any]]:
    """Atoms, values, cost, and how to put other values in."""
    if isinstance(model, LSELayer):
        if model.out_size != "scalar" or model.weight.ndim != 2:
            raise ValueError("a layer with several outputs has an objective each; pass layer.unit(i).")
        return model.weight, -model.bias, Bilinear(), lambda g: eqx.tree_at(lambda m: m.bias, model, -g)
    if isinstance(model, HopfCole):
        if t is None:
            raise ValueError("a HopfCole solution is fitted at a time; pass t=1.0.")
        shift = model.effective_values() - jnp.where(jnp.isfinite(model.data.values), model.data.values, 0)

        def rebuild(g: Array) -> Any:
            values = jnp.where(jnp.isfinite(g), g - jnp.where(jnp.isfinite(shift), shift, 0), jnp.inf)
            return eqx.tree_at(lambda m: m.data.values, model, values)

        return model.data.points, model.effective_values(), quadratic_cost(model.hamiltonian, t), rebuild
    raise ValueError(f"the model is a {type(model).__name__}; pass a scalar hjax.nn.LSELayer, or a HopfCole and t.")


def _targets(
    targets: ArrayLike, samples: Array, atoms: Array, cost: Any, present: np.ndarray, dtype: Any
) -> tuple[Array, Array]:
    """The mean of the targets, `(N,)`, and mean <q_i, c_i>."""
    q, n, size = jnp.asarray(targets), samples.shape[0], atoms.shape[0]
    if jnp.issubdtype(q.dtype, jnp.integer) and q.shape == (n,):
        labels = np.asarray(q)
        if labels.min() < 0 or labels.max() >= size:
            raise ValueError(f"the targets go from {labels.min()} to {labels.max()}; atoms are 0 to {size - 1}.")
        mean = jnp.bincount(q, length=size).astype(dtype) / n
        constant = jnp.mean(jax.vmap(cost)(samples, atoms[q]))
    else:
        q = _checks.floating("targets", q).astype(dtype)
        if q.shape not in ((size,), (n, size)):
            raise ValueError(
                f"targets has shape {q.shape}; pass a distribution over atoms ({size},), one per sample ({n}, {size}), "
                f"or integer labels ({n},)."
            )
        sums = np.asarray(q.sum(-1))
        if not (np.asarray(q).min() >= 0 and np.allclose(sums, 1, atol=n * float(jnp.finfo(dtype).eps) + 1e-6)):
            raise ValueError(
                "targets must be distributions: not negative and of sum one; pass q / q.sum(-1, keepdims=True)."
            )
        q = q / q.sum(-1, keepdims=True)
        mean = q if q.ndim == 1 else q.mean(0)
        rows = jnp.broadcast_to(q, (n, size))
        each = jax.lax.map(lambda a: jnp.vdot(jax.vmap(lambda y: cost(a[0], y))(atoms), a[1]), (samples, rows))
        constant = jnp.mean(each)
    share = np.asarray(mean)
    if (share[present] == 0).any() or (share[~present] > 0).any():
        j = int(np.argmax((share == 0) == present))
        raise ValueError(
            f"atom {j} is present but no target, or a target but absent, so the infimum is at infinity; give the "
            f"value +inf to exactly the atoms without a share."
        )
    return mean, constant


def _own(targets: ArrayLike, shares: ArrayLike | None, samples: Array, size: int, dtype: Any) -> tuple[Array, Array]:
    y = jnp.asarray(targets, dtype)
    q = jnp.zeros(size, dtype) if shares is None else _checks.floating("shares", shares).astype(dtype)
    if y.shape != samples.shape[:1] or q.shape != (size,) or np.asarray(q).min() < 0:
        raise ValueError(
            f"targets has shape {y.shape}, shares {q.shape}; one target per sample ({samples.shape[0]},) and shares of "
            f"({size},), not negative, are wanted."
        )
    return y, q


@eqx.filter_jit
def _solve(
    loss: Any, samples: Array, atoms: Array, eps: Array, cost: Any, present: Array, start: Array, extra: Any,
    steps: Array, tolerance: Array,
) -> Any:  # fmt: skip
    def value(g: Array) -> Array:
        u = softmin(samples, atoms, jnp.where(present, g, jnp.inf), eps=eps, cost=cost).value
        if loss is None:
            return jnp.vdot(extra[0], g) - jnp.mean(u)
        return jnp.mean(jax.vmap(loss)(-u, extra[0])) + jnp.vdot(extra[1], g)

    return minimise(value, start, steps, tolerance)


@eqx.filter_jit
def _gap(samples: Array, atoms: Array, eps: Array, cost: Any, present: Array, g: Array, mean: Array) -> Array:
    """J(g) minus the dual's value at the Gibbs weights, rounded to the mean `mean` (one scaling, one rank-one term)."""
    held = jnp.where(present, g, jnp.inf)
    p = gibbs_weights(samples, atoms, held, eps=eps, cost=cost)
    p = p * jnp.minimum(1, mean / jnp.maximum(p.mean(0), jnp.finfo(p.dtype).tiny))
    rows, columns = jnp.maximum(1 - p.sum(1), 0), jnp.maximum(mean - p.mean(0), 0)
    p = p + rows[:, None] * columns / jnp.maximum(columns.sum(), jnp.finfo(p.dtype).tiny)
    costs = jax.vmap(lambda a: jax.vmap(lambda y: cost(a, y))(atoms))(samples)
    u = softmin(samples, atoms, held, eps=eps, cost=cost).value
    # Sample by sample <p, c + g> - eps S(p) - u >= 0: a Gibbs distribution minimises the first two, to u.
    excess = jnp.sum(p * jnp.where(present, costs + g, 0), axis=1) - eps * jnp.sum(entr(p), axis=1) - u
    return jnp.mean(excess)


def _require_convex(
    loss: Callable[[Array, Array], Array], samples: Array, atoms: Array, g: Array, eps: Array, cost: Any, targets: Array
) -> None:
    f = -softmin(samples, atoms, g, eps=eps, cost=cost).value
    spread = jnp.max(jnp.abs(f - targets)) + 1
    slope = jax.grad(loss)
    for shift in np.linspace(-1, 1, 9):
        at = f + shift * spread
        first, second = jax.vmap(slope)(at, targets), jax.vmap(jax.grad(slope))(at, targets)
        if bool(jnp.any(first < 0) | jnp.any(second < 0)):
            raise ValueError(
                "the loss decreases or is concave somewhere, so the problem is not convex in b; pass a convex "
                "non-decreasing one, such as lambda f, y: jnp.maximum(f - y, 0)**2, or none with targets q."
            )
