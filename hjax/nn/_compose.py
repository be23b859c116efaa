from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from .. import _checks
from ..solutions import HopfCole


def compose(u: HopfCole, times: Sequence[float] | Array) -> HopfCole:
    """Layers that pass a function: `g_j <- u(y_j, tau)` at the atoms, once for each tau of `times`.

    This is the depth that solves the equation. Each step is a layer of N log-sum-exp units on N rows whose outputs
    are the next initial datum on the same atoms, and `compose(u, times)(x, t)` tends to `u(x, sum(times) + t)` as
    the atoms fill space. Composing layers as `x -> f_2(f_1(x))` does not, at any width (theory 7.1.ii.b).

    **Arguments:**

    - `u`: a `HopfCole` solution with `normalize=True` on the weighted nodes of a quadrature rule: other sums over
      atoms have no limit, so their composition has none.
    - `times`: the K steps tau_1, ..., tau_K, positive.

    **Returns:** the solution whose initial datum is the last function; it is read at x and any further time.

    **Raises:** `ValueError` for a u without prefactor or weights, or no steps, or one that is not positive.

    **Error:** at most `(L + h/(2 tau)) h` for each step, with grid spacing h and Lipschitz constant L (measured at
    fixed eps on midpoint grids: far below, and falling faster than h). Near the ends of the grid mass is missing:
    let it reach `2 L t + O(sqrt(eps t))` beyond where u is read. **Cost:** K reductions of N queries and N atoms.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorems E.1, E.2 (eqs 28, 29) as corrected.

    >>> import jax.numpy as jnp, hjax
    >>> data = hjax.InitialData.from_function(lambda y: jnp.abs(y).sum(), hjax.quadrature.grid(-8.0, 8.0, 200))
    >>> u = hjax.HopfCole(data, eps=0.5, normalize=True)
    >>> deep, x = hjax.nn.compose(u, [0.25, 0.25]), jnp.array([0.3])
    >>> round(float(deep(x, 0.5)), 3), round(float(u(x, 1.0)), 3)
    (0.562, 0.562)
    """
    if not isinstance(u, HopfCole):
        raise ValueError(f"u is {type(u).__name__}; pass hjax.HopfCole(data, eps, normalize=True).")
    if not u.normalize or u.data.log_weights is None:
        raise ValueError(
            "u has no prefactor or no quadrature weights, so its layers have no limit; pass "
            "hjax.HopfCole(hjax.InitialData.from_function(g, rule), eps, normalize=True)."
        )
    steps = _checks.positive("times", jnp.asarray(times, float))
    if steps.ndim != 1 or not steps.size:
        raise ValueError(f"times has shape {steps.shape}; pass a list of at least one step.")

    def restarted(values: Array) -> HopfCole:
        return eqx.tree_at(lambda v: v.data.values, u, values)

    def step(values: Array, tau: Array) -> tuple[Array, None]:
        return restarted(values)(u.data.points, tau).astype(values.dtype), None

    return restarted(jax.lax.scan(step, u.data.values, steps)[0])
