"""The public face of the reductions: validate once, choose an implementation, shape the result."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from .. import _checks
from . import _dense, _pruned, _streaming
from ._costs import Bilinear, Cost, SquaredEuclidean, check_cost, fastest_form
from ._problem import Problem, cost_at, state
from ._queries import together

_IMPLEMENTATIONS = {"dense": _dense, "streaming": _streaming, "pruned": _pruned}

# Up to this many pairs, and atoms, the dense matrix is small (1 MiB in float32) and one fused
# expression beats a loop. The bound on N alone keeps a `jax.vmap` over single queries whose batch the choice
# cannot see (around a `jit`, say) within 512 numbers per query; the one on M N d is for derivatives of a cost by
# differences, which hold d numbers per pair.
_DENSE_PAIRS = 2**18
_DENSE_ATOMS = 512
_DENSE_COORDINATES = 2**21
# Boxes of tiles rule out less and less as the dimension grows; a caller who knows better says "pruned".
_PRUNED_DIMENSIONS = 8


class SoftMin(NamedTuple):
    """`value (...,)`: the soft-min. `mean (..., p)`: the Gibbs mean of the payload, or None."""

    value: Float[Array, "*batch"]
    mean: Float[Array, "*batch p"] | None


class HardMin(NamedTuple):
    """`value (...,)`: the minimum. `index (...,)`: the first atom that attains it, int32."""

    value: Float[Array, "*batch"]
    index: Int[Array, "*batch"]


class EvaluatedTiles(NamedTuple):
    """Who looks at whom: `evaluated[i, j]` says whether the queries `queries[i]` look at the atoms `atoms[j]`."""

    evaluated: Bool[Array, "b t"]
    queries: Int[Array, "b B"]
    atoms: Int[Array, "t n"]


class Choice(NamedTuple):
    """What `implementation=None` runs: its `name`, and the `reason` in words."""

    name: str
    reason: str


def softmin(
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    eps: ArrayLike,
    cost: Callable[[Array, Array], Array] | None = None,
    payload: ArrayLike | None = None,
    causal: bool = False,
    implementation: str | Sequence[str] | None = None,
    tolerance: float | None = None,
) -> SoftMin:
    """Gibbs reduction `-eps log sum_j exp(-(c(x, y_j) + g_j)/eps)`, with the Gibbs mean of a payload.

    Hopf-Cole's formula, a log-sum-exp layer, attention and Sinkhorn's half step are this one call. Value
    and mean come from the same pass. With `eps -> 0` it tends to `hardmin`:
    `0 <= hardmin - softmin <= eps log N`.

    **Arguments:**

    - `x`: queries, `(..., d)`.
    - `y`: atoms, `(N, d)`.
    - `g`: their values, `(N,)`, in the unit of the cost; `+inf` marks an absent atom.
    - `eps`: temperature, a positive number, in the unit of the cost.
    - `cost`: `SquaredEuclidean(scale)` (the default, with scale 1), `Mahalanobis(metric, scale)`,
      `Bilinear()`, `LagrangianCost(hamiltonian, t)`, or any module `(x, y) -> scalar`. Where it is `+inf`
      the query is out of the atom's reach, as if the atom were absent.
    - `payload`: `(N, p)`, or None.
    - `causal`: query i sees atoms j <= i only; `x` must then be `(N, d)`.
    - `implementation`: None (always works, never builds an M x N array for large M, N), "dense"
      (the definition), "streaming" (all pairs, tile by tile), "pruned" (only tiles of atoms that can
      matter; with a cost that has no bounds, `causal`, or too few points to sort, it is streaming), or a
      sequence of them, of which the first does.
    - `tolerance`: absolute error in the value that pruning may make; None for less than rounding. The
      mean is then that over the atoms that were kept, a share of at least `exp(-tolerance/eps)`.

    **Returns:** `SoftMin(value, mean)`; shapes `(...,)` and `(..., p)` (None without payload). If no
    atom is seen the value is `+inf` and the mean 0, with zero derivatives.

    **Raises:** `ValueError` for wrong shapes, integer arrays, NaN or `-inf` in concrete `y`, `g`,
    `payload`, concrete eps <= 0, or an unknown implementation. A traced eps <= 0 raises at run time.

    **Derivatives:** any order and mode in x, y, g, payload, eps and the cost's own parameters, under
    `jit` and `vmap`, in O(M + N) memory.

    **Error:** a few ulp of the largest of |value|, |g_j| and the costs that carry weight; for d > 16 the
    squared Euclidean cost is a centred matrix product, with a few ulp of `scale diam^2`, as long as that
    changes weights by less than a 64th (else it is computed from differences, at half the speed). Weights,
    and with them the mean and derivatives, carry the same error divided by eps.

    **Cost:** O(M N d) time, memory O(M + N). Pruning evaluates the share of the pairs that
    `evaluated_fraction` reports: a share that falls with N where a query's weight sits on a bounded number
    of atoms (eps shrinking like N^(-2/d); measured in the plane, time as N^1.17), and stays the same at
    a fixed eps. `python -m benchmarks` measures all of it against peers.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 4.1, eqs 4-5.

    >>> import jax.numpy as jnp, hjax
    >>> y, g = jnp.array([[0.0], [1.0]]), jnp.zeros(2)
    >>> u, mean = hjax.softmin(jnp.array([0.5]), y, g, eps=1.0, payload=y)
    >>> round(float(u), 4), round(float(mean[0]), 4)
    (-0.4431, 0.5)
    """
    problem, batch = _problem(x, y, g, eps, cost, payload, causal, tolerance)
    value, mean = together(lambda p: _run(implementation_of(p, implementation).softmin, p), problem)
    dtype = result_dtype(x, y, g, payload)
    channels = problem.payload.shape[1]
    return SoftMin(
        value.reshape(batch).astype(dtype),
        None if payload is None else mean.reshape(*batch, channels).astype(dtype),
    )


def hardmin(
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    cost: Callable[[Array, Array], Array] | None = None,
    implementation: str | Sequence[str] | None = None,
) -> HardMin:
    """Max-plus reduction `min_j c(x, y_j) + g_j`: Hopf-Lax, a max-plus layer, hard attention.

    **Arguments:** as for `softmin`.

    **Returns:** `HardMin(value, index)`, both `(...,)`; of equal minima the first index. The value is
    recomputed at that atom by differences, and its derivatives are those of the chosen cost (one
    subgradient where minima tie). With no atom present or in reach the value is `+inf`, the
    index 0.

    **Raises:** `ValueError` as `softmin`.

    **Error:** the value is within a few ulp of the true minimum's terms; for d > 16 streaming
    chooses the atom by a centred matrix product, so one that is worse by a few ulp of `scale diam^2` may win.

    **Cost:** where tiles of atoms can be ruled out (low dimension, or data of low dimension) little more
    than linear in M + N (measured: M = N, clusters in three dimensions, as N^1.12), else O(M N d), about
    half of `softmin`'s; memory O(M + N); derivatives O(M d).

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 5.1, eqs 9-10.

    >>> import jax.numpy as jnp, hjax
    >>> u, index = hjax.hardmin(jnp.array([0.2]), jnp.array([[0.0], [1.0]]), jnp.array([0.0, -1.0]))
    >>> round(float(u), 4), int(index)
    (-0.36, 1)
    """
    problem, batch = _problem(x, y, g, 1.0, cost, None, False, None)
    # No temperature at which the rounding of a cost would be too much.
    problem = problem._replace(eps=jnp.full_like(problem.eps, jnp.inf))
    index = together(lambda p: _run(implementation_of(p, implementation, minimum=True).argmin, p), problem)
    value = _run(_value_at, problem, index)
    return HardMin(value.reshape(batch).astype(result_dtype(x, y, g)), index.reshape(batch))


def gibbs_weights(
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    eps: ArrayLike,
    cost: Callable[[Array, Array], Array] | None = None,
) -> Float[Array, "*batch N"]:
    """The Gibbs weights of `softmin` written out, `(..., N)`: the one dense thing one may ask for."""
    problem, batch = _problem(x, y, g, eps, cost, None, False, None)
    weights = together(lambda p: _run(_dense.weights, p), problem)
    return weights.reshape(*batch, weights.shape[1]).astype(result_dtype(x, y, g))


def gibbs_entropy(
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    eps: ArrayLike,
    cost: Callable[[Array, Array], Array] | None = None,
    implementation: str | Sequence[str] | None = None,
) -> Float[Array, "*batch"]:
    """Shannon entropy (nats) of the Gibbs weights, with relative accuracy down to 1e-30 and below.

    With r and e the mass and the mean energy of all atoms but the heaviest, in units of its own
    weight, `S = log(1 + r) + e/(1 + r)`: a sum of small positive terms, where `-sum p log p` would
    subtract from one.

    **Arguments, Raises:** as for `softmin`; zero where at most one atom is seen. **Returns:** `(...,)`.

    **Error:** relative, a few ulp of the costs of the atoms behind the heaviest, divided by eps.

    **Cost:** two passes, O(M N d) time and O(M + N) memory.
    """
    problem, batch = _problem(x, y, g, eps, cost, None, False, None)
    mass, energy = together(lambda p: _run(_spread, p, implementation_of(p, implementation)), problem)
    entropy = jnp.log1p(mass) + energy / (1 + mass)
    return entropy.reshape(batch).astype(result_dtype(x, y, g))


def evaluated_fraction(
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    eps: ArrayLike,
    cost: Callable[[Array, Array], Array] | None = None,
    tolerance: float | None = None,
) -> Float[Array, ""]:
    """The share of all M N pairs that `softmin(..., implementation="pruned")` evaluates for its sums.

    One where it runs as streaming: a cost without bounds, too few points, or more than half to evaluate.

    **Arguments, Raises:** as for `softmin`. **Returns:** a number in (0, 1]. **Cost:** that of choosing the tiles,
    without the sums.

    >>> import jax, jax.numpy as jnp, hjax
    >>> y = jax.random.uniform(jax.random.key(0), (40_000, 2))
    >>> bool(hjax.evaluated_fraction(y, y, jnp.zeros(40_000), eps=1e-4) < 0.1)
    True
    """
    problem, _ = _problem(x, y, g, eps, cost, None, False, tolerance)
    return _run(_pruned.fraction, problem)


def evaluated_tiles(
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    *,
    eps: ArrayLike,
    cost: Callable[[Array, Array], Array] | None = None,
    tolerance: float | None = None,
) -> EvaluatedTiles:
    """Which tiles of atoms `softmin(..., implementation="pruned")` evaluates for which blocks of queries.

    For pictures: queries and atoms stand in the order of a space-filling curve, so that neighbours in a row or
    a column are neighbours in space. The last of each are filled up by repetition.

    **Arguments:** as for `softmin`. **Raises:** `ValueError` as `softmin`, and where nothing is pruned: another
    cost, or too few points. **Cost:** that of choosing the tiles, and one truth value for each of about
    M N / 8,192 pairs of a block and a tile.

    >>> import jax, jax.numpy as jnp, hjax
    >>> y = jax.random.uniform(jax.random.key(0), (40_000, 2))
    >>> tiles = hjax.reductions.evaluated_tiles(y, y, jnp.zeros(40_000), eps=1e-4)
    >>> tiles.evaluated.shape, bool(tiles.evaluated.mean() < 0.1)
    ((313, 625), True)
    """
    problem, _ = _problem(x, y, g, eps, cost, None, False, tolerance)
    if not _pruned.can_prune(problem, _pruned.PAIRS_WORTH_SUMS):
        m, n, _ = problem.shape
        raise ValueError(
            f"nothing is pruned for M = {m:,} queries, N = {n:,} atoms and cost {type(problem.cost).__name__}; "
            f"pass more points and SquaredEuclidean, Mahalanobis or Bilinear."
        )
    return EvaluatedTiles(*_run(_pruned.look, problem))


def which_implementation(
    x: ArrayLike | jax.ShapeDtypeStruct,
    y: ArrayLike | jax.ShapeDtypeStruct,
    g: ArrayLike | jax.ShapeDtypeStruct,
    *,
    eps: ArrayLike = 1.0,
    cost: Callable[[Array, Array], Array] | None = None,
    payload: ArrayLike | jax.ShapeDtypeStruct | None = None,
    causal: bool = False,
) -> Choice:
    """What `softmin(..., implementation=None)` would run for these arguments, and why.

    Only shapes and dtypes matter, so `jax.ShapeDtypeStruct`s do as well as arrays. A `jax.vmap` over x alone makes
    one call with all its queries, if the cost is `SquaredEuclidean`, `Mahalanobis` or `Bilinear`. Over atoms too
    (or around a `jit`, a `scan` or a derivative) the choice is made for one element of the batch; "pruned" then
    cannot choose for each element whether to go through all pairs, and does both. `hardmin` prefers "pruned" from
    fewer points on.

    >>> import jax, jax.numpy as jnp, hjax
    >>> points = jax.ShapeDtypeStruct((10_000, 3), jnp.float32)
    >>> values = jax.ShapeDtypeStruct((10_000,), jnp.float32)
    >>> hjax.which_implementation(points, points, values).name
    'streaming'
    """
    reasons: list[Choice] = []

    def look(x: Array, y: Array, g: Array, payload: Array | None) -> None:
        problem = _problem(x, y, g, eps, cost, payload, causal, None)[0]
        m, n, d = problem.shape
        name = _choose(problem, minimum=False)
        why = {
            "dense": f"a matrix of M N = {m * n:,} costs is small",
            "streaming": _streaming.describe(problem),
            "pruned": f"tiles of {_pruned.TILE_ATOMS} atoms that cannot matter are left out",
        }[name]
        reasons.append(Choice(name, f"M = {m:,}, N = {n:,}, d = {d}: {why}"))

    jax.eval_shape(look, x, y, g, payload)
    return reasons[0]


def _choose(problem: Problem, minimum: bool) -> str:
    m, n, d = problem.shape
    small = m * n <= _DENSE_PAIRS and n <= _DENSE_ATOMS
    flat = isinstance(problem.cost, Bilinear) or m * n * d <= _DENSE_COORDINATES
    if small and flat:
        return "dense"
    worth = _pruned.PAIRS_WORTH_A_MINIMUM if minimum else _pruned.PAIRS_WORTH_SUMS
    # Its loops of many small steps suit a CPU; on accelerators nobody has measured them.
    if d <= _PRUNED_DIMENSIONS and jax.default_backend() == "cpu" and _pruned.can_prune(problem, worth):
        return "pruned"
    return "streaming"


def implementation_of(problem: Problem, wanted: str | Sequence[str] | None, minimum: bool = False) -> Any:
    names = [wanted] if isinstance(wanted, str) else wanted
    if names is None:
        return _IMPLEMENTATIONS[_choose(problem, minimum)]
    unknown = [name for name in names if name not in _IMPLEMENTATIONS]
    if unknown or not names:
        raise ValueError(
            f"implementation {wanted!r} is not one of {sorted(_IMPLEMENTATIONS)}; pass one of these "
            f"names, a sequence of them, or None for the best that works."
        )
    # Each can run every problem there is, so the first name of a sequence is the one.
    return _IMPLEMENTATIONS[names[0]]


def _spread(problem: Problem, implementation: Any) -> tuple[Array, Array]:
    return implementation.spread(problem, implementation.argmin(problem))


def _value_at(problem: Problem, index: Int[Array, "M"]) -> Float[Array, "M"]:
    return jnp.where(jnp.any(problem.present), problem.base + cost_at(problem, index), jnp.inf)


def _run(function: Callable[..., Any], problem: Problem, *more: Any) -> Any:
    # Compiled once for all calls of the same shapes. Not with a cost that is a plain function: what it
    # reads from its surroundings may change without the cache noticing.
    return (_compiled if is_module(problem.cost) else _plainly)(function, problem, *more)


def is_module(cost: object) -> bool:
    return isinstance(cost.cost if isinstance(cost, _ScalarCost) else cost, eqx.Module)


def _plainly(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


_compiled = eqx.filter_jit(_plainly)


def _problem(*given: Any) -> tuple[Problem, tuple[int, ...]]:
    inputs, batch = validated(*given)
    return state(**inputs), batch


def validated(
    x: ArrayLike,
    y: ArrayLike,
    g: ArrayLike,
    eps: ArrayLike,
    cost: Callable[[Array, Array], Array] | None,
    payload: ArrayLike | None,
    causal: bool,
    tolerance: float | None,
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Validate, bring to one accumulation dtype, and flatten the batch of queries: what `state` takes."""
    xs, ys, gs = (_checks.floating(k, v) for k, v in (("x", x), ("y", y), ("g", g)))
    vs = None if payload is None else _checks.floating("payload", payload)
    _checks.atoms(ys, gs, ("y", "g"))
    n, d = ys.shape
    if xs.ndim == 0 or xs.shape[-1] != d:
        raise ValueError(
            f"x has shape {xs.shape}, but queries (..., {d}) are wanted to match y {ys.shape}; "
            f"for queries on a line pass x[..., None]."
        )
    if vs is not None and (vs.ndim != 2 or vs.shape[0] != n):
        raise ValueError(
            f"payload has shape {vs.shape}, but (N, p) with N = {n} is wanted; "
            f"for one number per atom pass payload[:, None]."
        )
    if causal and xs.shape != (n, d):
        raise ValueError(f"causal=True wants one query per atom, x of shape {(n, d)}, got {xs.shape}.")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; pass None or a number >= 0.")
    for name, array in (("y", ys), ("g", gs), ("payload", vs)):
        _checks.no_nan(name, array)
    if _checks.is_concrete(gs) and np.isneginf(np.asarray(gs)).any():
        raise ValueError("g contains -inf; only +inf is allowed, and means an absent atom.")
    cost = SquaredEuclidean() if cost is None else fastest_form(cost)
    check_cost(cost, d)
    eps = _checks.positive_scalar("eps", eps)
    # Half precision is for storage; sums and costs are float32 at least.
    dtype = jnp.promote_types(result_dtype(x, y, g, payload), jnp.float32)
    inputs = {
        "x": xs.reshape(-1, d).astype(dtype),
        "y": ys.astype(dtype),
        "g": gs.astype(dtype),
        "eps": eps.astype(dtype),
        "cost": cost if isinstance(cost, Cost) else _ScalarCost(cost, dtype),
        "payload": None if vs is None else vs.astype(dtype),
        "causal": causal,
        "tolerance": tolerance,
    }
    return inputs, xs.shape[:-1]


class _ScalarCost(eqx.Module):
    """A user's cost, told when it does not return one number."""

    cost: Callable[[Array, Array], Array]
    dtype: jnp.dtype = eqx.field(static=True)

    def __call__(self, x: Array, y: Array) -> Array:
        value = jnp.asarray(self.cost(x, y))
        if value.shape != ():
            raise ValueError(
                f"the cost returned shape {value.shape} for one query {x.shape} and one atom "
                f"{y.shape}, but one number is wanted; end it with .sum()."
            )
        return value.astype(self.dtype)


def result_dtype(*arrays: ArrayLike | None) -> jnp.dtype:
    return jnp.result_type(*[jnp.asarray(a).dtype for a in arrays if a is not None])
