from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from ..initial_data import InitialData
from ..reductions import Bilinear
from ..solutions import HopfCole, HopfLax
from . import _rows
from ._attend import attend, temperature
from ._description import Description


class HopfieldLayer(eqx.Module):
    """A modern Hopfield network: `x <- sum_j p_j(x) Y_j`, p the Gibbs weights of `x.Y_j/eps` over stored patterns Y.

    Its energy is a Hopf-Cole solution at time 1/2, `E(x) = |x|^2/2 - eps log sum_j exp(x.Y_j/eps) = u(x, 1/2)` with the
    patterns as atoms and `g_j = -|Y_j|^2/2`. A step is steepest descent on it with step size one, `x - grad u(x, 1/2)`,
    and lowers it: E is a convex function less a convex one, and the step minimises E with the second replaced by its
    tangent. A query near a pattern that stands apart from the others by more than eps log N finds it in about one step;
    for large eps all queries go to one mean. With eps = 0 a step goes to the pattern with the largest x.Y_j.

    One sample in, `(in_size,)`, and out; use `jax.vmap` for batches. The patterns are parameters.

    **Arguments:**

    - `in_size`: d. `num_patterns`: N.
    - `eps`: temperature, the inverse of the usual beta; positive, or 0.
    - `steps`: how many.
    - `key`: random key for patterns ~ N(0, 1).

    **Raises:** `ValueError` for sizes below one, eps < 0, or an input of another shape or integer dtype.

    **Error:** a few ulp of max |Y| (1 + |x||Y|/eps) a step. **Cost:** O(N d) a step and sample.

    **Reference:** H. Ramsauer et al., Hopfield networks is all you need (2021), eqs 2, 3, theorem 1; as a solution:
    Hamilton-Jacobi theory of deep learning (2026), Theorem 4.2 (B).

    >>> import jax, jax.numpy as jnp, hjax
    >>> patterns = jnp.array([[1.0, 1.0, -1.0], [-1.0, 1.0, 1.0]])
    >>> memory = hjax.nn.HopfieldLayer.from_patterns(patterns, eps=0.1)
    >>> memory(jnp.array([0.9, 0.2, -0.3])).round(3).tolist()
    [1.0, 1.0, -1.0]
    """

    patterns: Float[Array, "N d"]
    eps: Array | None  # None in the hard limit
    steps: int = eqx.field(static=True)

    def __init__(self, in_size: int, num_patterns: int, *, eps: ArrayLike, steps: int = 1, key: PRNGKeyArray):
        shape = _rows.size("num_patterns", num_patterns), _rows.size("in_size", in_size)
        self.patterns = jax.random.normal(key, shape)
        self.eps = temperature(eps)
        self.steps = _rows.size("steps", steps)

    @classmethod
    def from_patterns(cls, patterns: ArrayLike, *, eps: ArrayLike, steps: int = 1) -> "HopfieldLayer":
        """A layer that stores these patterns `(N, d)`."""
        rows = _checks.floating("patterns", patterns)
        _checks.atoms(rows, rows[..., 0] if rows.ndim == 2 and rows.shape[1] else rows, ("patterns", "patterns"))
        _checks.no_nan("patterns", rows)
        n, d = rows.shape
        layer = cls(d, n, eps=eps, steps=steps, key=jax.random.key(0))
        return eqx.tree_at(lambda m: m.patterns, layer, rows)

    def __call__(self, x: ArrayLike, *, key: Any = None) -> Float[Array, "d"]:
        """What is retrieved from x after `steps` steps. `key` is ignored."""
        del key
        start = self._sample(x)
        start = start.astype(jnp.result_type(start, self.patterns))

        def step(x: Array, _: None) -> tuple[Array, None]:
            return attend(x[None], self.patterns, self.patterns, eps=self.eps, cost=Bilinear())[0][0], None

        return lax.scan(step, start, None, length=self.steps)[0]

    def energy(self, x: ArrayLike) -> Float[Array, ""]:
        """E(x); no step raises it."""
        point = self._sample(x)
        found = attend(point[None], self.patterns, self.patterns, eps=self.eps, cost=Bilinear())[1][0]
        return jnp.sum(point * point) / 2 + found

    def to_solution(self) -> HopfCole | HopfLax:
        """The solution u with `E(x) = u(x, 1/2)` and a step `x - grad u(x, 1/2)`; `HopfLax` for eps = 0."""
        data = InitialData(self.patterns, -jnp.sum(self.patterns**2, axis=1) / 2)
        return HopfLax(data) if self.eps is None else HopfCole(data, self.eps)

    def describe(self) -> Description:
        """The equation a step descends on: exact."""
        return Description(
            model="HopfieldLayer",
            equation=f"u_t + |grad u|^2 = {'0' if self.eps is None else 'eps Lap u'}; a step is x - grad u(x, 1/2)",
            hamiltonian="|p|^2",
            eps=0.0 if self.eps is None else float(self.eps),
            gauge="t = 1/2, where a step has size one",
            atoms=f"{len(self.patterns)} patterns Y_j, with g_j = -|Y_j|^2/2",
            status="exact",
        )

    def _sample(self, x: ArrayLike) -> Array:
        return _rows.sample(x, self.patterns.shape[1:], "layer")
