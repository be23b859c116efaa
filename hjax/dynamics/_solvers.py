"""Symplectic integrators that diffrax does not have, as solvers of diffrax."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import PyTree


def _moved(y: PyTree, change: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, y, change)


class StormerVerlet(diffrax.AbstractSolver):
    """`x += h/2 K'(p); p -= h V'(x); x += h/2 K'(p)`: the leapfrog, for `H(x, p, t) = K(p) + V(x, t)`.

    Symplectic and time-reversible, order 2, with a fixed step. The energy of a trajectory does not drift: it stays
    within O(h^2) of its first value for exponentially many steps, as the method follows a Hamiltonian near H.

    The terms are the pair of `diffrax.SemiImplicitEuler`, for (x, .) and (p, .); `solve_characteristics` makes them
    of an `hjax.Separable` or an H(p). V is taken at the middle of the step.

    **Error:** O(h^2), also between steps. **Cost:** one gradient of V and two of K a step; no error estimate.
    **Good values:** h at most a tenth of the shortest period.

    **Reference:** E. Hairer, C. Lubich and G. Wanner, Geometric Numerical Integration, sections I.1.4 and VI.3;
    Hamilton-Jacobi theory of deep learning (2026), Appendix J.

    >>> import jax.numpy as jnp, hjax
    >>> spring = hjax.Separable(hjax.Quadratic(), lambda x, t: jnp.sum(x**2))
    >>> after = hjax.dynamics.solve_characteristics(
    ...     spring, jnp.ones(1), jnp.zeros(1), t1=10.0, solver=hjax.dynamics.StormerVerlet(), dt0=0.01
    ... )
    >>> x, p, _ = after.ys
    >>> bool(jnp.abs(p**2 + x**2 - 1).max() < 1e-3)
    True
    """

    term_structure: ClassVar = (diffrax.AbstractTerm, diffrax.AbstractTerm)
    # Of second order, as the method is.
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation

    def order(self, terms: PyTree) -> int:
        """Two."""
        del terms
        return 2

    def init(self, terms: PyTree, t0: Any, t1: Any, y0: PyTree, args: Any) -> None:
        """Nothing is carried from step to step."""

    def step(
        self, terms: PyTree, t0: Any, t1: Any, y0: PyTree, args: Any, solver_state: None, made_jump: Any
    ) -> tuple[PyTree, None, dict[str, PyTree], None, diffrax.RESULTS]:
        """One step from t0 to t1."""
        del solver_state, made_jump
        drift, kick = terms
        x, p = y0
        middle = t0 + (t1 - t0) / 2
        x = _moved(x, drift.vf_prod(t0, p, args, drift.contr(t0, middle)))
        p = _moved(p, kick.vf_prod(middle, x, args, kick.contr(t0, t1)))
        x = _moved(x, drift.vf_prod(middle, p, args, drift.contr(middle, t1)))
        return (x, p), None, {"y0": y0, "y1": (x, p)}, None, diffrax.RESULTS.successful

    def func(self, terms: PyTree, t0: Any, y0: PyTree, args: Any) -> PyTree:
        """The vector field of the pair."""
        drift, kick = terms
        return drift.vf(t0, y0[1], args), kick.vf(t0, y0[0], args)


class ImplicitMidpoint(diffrax.AbstractSolver):
    """`y_1 = y_0 + h f((y_0 + y_1)/2)`: symplectic for every Hamiltonian, separable or not.

    Time-reversible, order 2, with a fixed step. It keeps quadratic invariants exactly, to the tolerance of the root
    finder: the energy of an oscillator, or p . dx, the pairing of a co-state with a variation of the state.

    **Arguments:** `root_finder`: of optimistix, for the increment y_1 - y_0 in units of the largest entry of the state;
    None is `optimistix.Newton` down to rounding. `root_find_max_steps`: the solve fails after so many iterations.

    **Error:** O(h^2), also between steps. **Cost:** a step takes two to four linear solves, of the size of the state
    and co-state; no error estimate. **Good values:** h below the inverse of the field's Lipschitz constant.

    **Reference:** E. Hairer, C. Lubich and G. Wanner, Geometric Numerical Integration, sections IV.2 and VI.4;
    Hamilton-Jacobi theory of deep learning (2026), Appendix J.

    >>> import jax.numpy as jnp, hjax
    >>> after = hjax.dynamics.solve_characteristics(
    ...     lambda x, p, t: jnp.sum(x**2 + p**2) + jnp.sum(x * p), jnp.ones(1), jnp.zeros(1), t1=10.0,
    ...     solver=hjax.dynamics.ImplicitMidpoint(), dt0=0.1,
    ... )
    >>> x, p, _ = after.ys
    >>> bool(jnp.abs(x**2 + p**2 + x * p - 1).max() < 1e-4)
    True
    """

    root_finder: optx.AbstractRootFinder | None = None
    root_find_max_steps: int = 20
    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation

    def order(self, terms: PyTree) -> int:
        """Two."""
        del terms
        return 2

    def init(self, terms: PyTree, t0: Any, t1: Any, y0: PyTree, args: Any) -> None:
        """Nothing is carried from step to step."""

    def step(
        self, terms: PyTree, t0: Any, t1: Any, y0: PyTree, args: Any, solver_state: None, made_jump: Any
    ) -> tuple[PyTree, None, dict[str, PyTree], None, diffrax.RESULTS]:
        """One step from t0 to t1."""
        del solver_state, made_jump
        middle, control = t0 + (t1 - t0) / 2, terms.contr(t0, t1)
        # In units of the state's largest entry, so that the tolerances are relative to it, as its rounding is.
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(a)) for a in jax.tree.leaves(y0)]))
        unit = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1))

        def rescaled(tree: PyTree, by: Any) -> PyTree:
            return jax.tree.map(lambda a: a * by, tree)

        def defect(increment: PyTree, _: Any) -> PyTree:
            halfway = _moved(y0, rescaled(increment, unit / 2))
            change = rescaled(terms.vf_prod(middle, halfway, args, control), 1 / unit)
            return jax.tree.map(jnp.subtract, change, increment)

        guess = rescaled(terms.vf_prod(t0, y0, args, control), 1 / unit)
        finder = _newton(largest.dtype) if self.root_finder is None else self.root_finder
        found = optx.root_find(defect, finder, guess, throw=False, max_steps=self.root_find_max_steps)
        y1 = _moved(y0, rescaled(found.value, unit))
        return y1, None, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.promote(found.result)

    def func(self, terms: PyTree, t0: Any, y0: PyTree, args: Any) -> PyTree:
        """The vector field."""
        return terms.vf(t0, y0, args)


def _newton(dtype: Any) -> optx.AbstractRootFinder:
    # Of rounding; the last iterate is better than that, as Newton's are.
    tolerance = 64 * float(jnp.finfo(dtype).eps)
    return optx.Newton(rtol=tolerance, atol=tolerance)
