from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import _checks
from .quadrature import Rule


class InitialData(eqx.Module):
    """The initial datum g of a Hamilton-Jacobi equation, known at N atoms.

    The atoms stand for the measure `sum_j w_j exp(-g_j/eps) delta(y - y_j)`, where `w_j` are
    quadrature weights (ones if `log_weights` is None). Unweighted atoms are a layer's view; with the
    weights of a quadrature rule the viscous solution converges to the continuum's.

    **Arguments:**

    - `points`: y, shape `(N, d)`.
    - `values`: g(y_j), shape `(N,)`; `+inf` marks an absent atom.
    - `log_weights`: log w_j, shape `(N,)`, or None; `-inf` also marks an absent atom.

    **Raises:** `ValueError` for wrong shapes, integer arrays, no atoms, NaN, infinite points,
    `-inf` values or `+inf` log-weights.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 4.1 (unweighted) and 7.1
    (weighted; theory of the correction: the unweighted sum has no limit).

    >>> import jax.numpy as jnp, hjax
    >>> data = hjax.InitialData(jnp.array([[-1.0], [1.0]]), jnp.zeros(2))
    >>> data.size, data.dimension
    (2, 1)
    """

    points: Float[Array, "N d"]
    values: Float[Array, "N"]
    log_weights: Float[Array, "N"] | None

    def __init__(self, points: ArrayLike, values: ArrayLike, log_weights: ArrayLike | None = None):
        y = _checks.floating("points", points)
        g = _checks.floating("values", values)
        w = None if log_weights is None else _checks.floating("log_weights", log_weights)
        _checks.atoms(y, g, ("points", "values"))
        if w is not None:
            _checks.atoms(y, w, ("points", "log_weights"))
        for name, array in (("points", y), ("values", g), ("log_weights", w)):
            _checks.no_nan(name, array)
        if _checks.is_concrete(y) and not np.isfinite(np.asarray(y)).all():
            raise ValueError("points contains infinity; an absent atom is marked by values = +inf.")
        if _checks.is_concrete(g) and np.isneginf(np.asarray(g)).any():
            raise ValueError("values contains -inf; only +inf is allowed, and means an absent atom.")
        if w is not None and _checks.is_concrete(w) and np.isposinf(np.asarray(w)).any():
            raise ValueError("log_weights contains +inf; only -inf is allowed (an absent atom).")
        cast = _checks.same_dtype({"points": y, "values": g, "log_weights": w})
        self.points, self.values, self.log_weights = (  # pyright: ignore[reportAttributeAccessIssue]
            cast["points"],
            cast["values"],
            cast["log_weights"],
        )

    @classmethod
    def from_function(cls, g: Callable[[Array], Array], rule: Rule) -> "InitialData":
        """Sample `g` at the nodes of a quadrature rule and keep its log-weights.

        **Arguments:** `g`: a function of one point `(d,)` that returns a scalar; it is vmapped.
        `rule`: nodes and log-weights from `hjax.quadrature` (`grid`, `gauss_hermite`, `sobol`,
        `samples`).

        **Error:** that of the rule for `exp(-(g(y) + c_t(x, y))/eps)`; its width is about
        `sqrt(2 eps t)`, so a grid wants a spacing below that (or eps of the size of the spacing).

        >>> import jax.numpy as jnp, hjax
        >>> rule = hjax.quadrature.grid(-2.0, 2.0, 100)
        >>> hjax.InitialData.from_function(lambda y: jnp.abs(y).sum(), rule).size
        100
        """
        values = jax.vmap(g)(rule.points)
        if values.shape != rule.points.shape[:1]:
            raise ValueError(
                f"g returned shape {values.shape[1:]} for a point of shape {rule.points.shape[1:]}, "
                f"but one number is wanted; end g with .sum() or an index."
            )
        return cls(rule.points, values, rule.log_weights)

    @property
    def size(self) -> int:
        """N, the number of atoms."""
        return self.points.shape[0]

    @property
    def dimension(self) -> int:
        """d, the number of coordinates."""
        return self.points.shape[1]
