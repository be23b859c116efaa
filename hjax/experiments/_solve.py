"""From a problem to named arrays: everything through `hjax.HopfCole` and `hjax.HopfLax`.

Queries go through in blocks, so that a progress bar moves and an interrupt is heard; one compiled program
serves all blocks and times.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._problem import Problem, precision
from ._reference import has_reference, reference

# Pairs of query and atom per block: about half a second of work on two cores.
_PAIRS = 2**26
# The residual is an autodiff check of 2 d + 2 passes: a random subset is plenty, a smaller one of many atoms.
_SUBSET = (32, 256)
_SUBSET_PAIRS = 2**22
_RESIDUAL_BLOCK = 32

Progress = Callable[[float, str], None]


class Solved(NamedTuple):
    """`arrays`: what the NPZ file holds, by name. `checks`: numbers for the summary."""

    arrays: dict[str, np.ndarray]
    checks: dict[str, float]


def solve(problem: Problem, progress: Progress = lambda fraction, doing: None) -> Solved:
    """Value, derivatives, entropy, minimiser, residual and, where one exists, an exact reference.

    **Arguments:** `progress(fraction, doing)`: called with the share of the work that is done, 0 to 1.

    **Returns:** arrays over T times and M queries in d dimensions, with N atoms:

    - `times (T,)`, `queries (M, d)`, `query_shape`: the shape of the grid that the queries form;
      `plane (M, 2)`: their coordinates in it, if they lie in a plane;
    - `value (T, M)`, `value_inviscid (T, M)`: u by Hopf-Cole (eps > 0) and by Hopf-Lax (eps = 0);
    - `gradient (T, M, d)`, `laplacian (T, M)` (the trace of D^2 u), `entropy (T, M)` (nats) of Hopf-Cole;
    - `minimizer (T, M)`: the atom that Hopf-Lax chooses;
    - `residual (K,)` at `residual_time (K,)` and `residual_query (K,)`, indices into the first two axes;
      `residual_scale (K,)`: the largest term in each;
    - `reference (T, M)`: the exact value by quadrature, NaN where it was not evaluated (if there is one);
    - `atoms_points (N, d)`, `atoms_values (N,)`, `atoms_log_weights (N,)`, `eps ()`, `metric (d, d)`.
    """
    start = time.perf_counter()
    with precision(problem.dtype):
        arrays = _fields(problem, lambda f, doing: progress(0.8 * f, doing))
        arrays |= _residual(problem, lambda f, doing: progress(0.8 + 0.15 * f, doing))
    if has_reference(problem):
        progress(0.95, "reference")
        arrays["reference"] = _reference_values(problem, arrays)
    log_weights = problem.data.log_weights
    arrays |= {
        "query_shape": np.asarray(problem.queries.shape),
        "atoms_points": np.asarray(problem.data.points),
        "atoms_values": np.asarray(problem.data.values),
        "atoms_log_weights": np.zeros(problem.data.size) if log_weights is None else np.asarray(log_weights),
        "eps": np.asarray(problem.eps),
        "metric": problem.metric,
    }
    if problem.queries.plane is not None:
        arrays["plane"] = problem.queries.plane
    progress(1.0, "done")
    checks = _checks(problem, arrays)
    checks["seconds"] = time.perf_counter() - start
    return Solved(arrays, checks)


@eqx.filter_jit
def _block(u: hjax.HopfCole, v: hjax.HopfLax, x: Array, t: Array) -> dict[str, Array]:
    return {
        "value": u(x, t),
        "value_inviscid": v(x, t),
        "gradient": u.gradient(x, t),
        "laplacian": u.laplacian(x, t),
        "entropy": u.entropy(x, t),
        "minimizer": v.minimizer(x, t),
    }


def _solutions(problem: Problem) -> tuple[hjax.HopfCole, hjax.HopfLax]:
    u = hjax.HopfCole(problem.data, problem.eps, problem.hamiltonian, normalize=problem.normalize)
    return u, hjax.HopfLax(problem.data, problem.hamiltonian)


def _fields(problem: Problem, progress: Progress) -> dict[str, np.ndarray]:
    u, v = _solutions(problem)
    x = jnp.asarray(problem.queries.points)
    count = len(x)
    size = int(np.clip(_PAIRS // problem.data.size, 1, count))
    blocks = -(-count // size)
    # The last block is filled up with its first query, so that all have one shape and one compilation.
    index = np.minimum(np.arange(blocks * size), count - 1).reshape(blocks, size)
    rows: list[dict[str, np.ndarray]] = []
    for i, t in enumerate(problem.times):
        parts = []
        for j in range(blocks):
            progress((i * blocks + j) / (len(problem.times) * blocks), f"time {i + 1} of {len(problem.times)}")
            parts.append(jax.tree.map(np.asarray, _block(u, v, x[index[j]], jnp.asarray(t))))
        rows.append({k: np.concatenate([part[k] for part in parts])[:count] for k in parts[0]})
    fields = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
    return {"times": problem.times, "queries": problem.queries.points} | fields


@eqx.filter_jit
def _terms(u: hjax.HopfCole, x: Array, t: Array) -> tuple[Array, Array]:
    """The residual, and the size of the largest term in it."""
    rate, kinetic = jnp.abs(u.time_derivative(x, t)), u.hamiltonian(u.gradient(x, t))
    natural = u.data.dimension * u.eps / (2 * t)
    return u.residual(x, t), jnp.maximum(jnp.maximum(rate, kinetic), natural)


def _residual(problem: Problem, progress: Progress) -> dict[str, np.ndarray]:
    u, _ = _solutions(problem)
    shape = (len(problem.times), len(problem.queries.points))
    wanted = int(np.clip(_SUBSET_PAIRS // problem.data.size, *_SUBSET))
    count = min(wanted, shape[0] * shape[1])
    chosen = np.sort(np.random.default_rng(0).choice(shape[0] * shape[1], count, replace=False))
    times, queries = np.divmod(chosen, shape[1])
    size = min(_RESIDUAL_BLOCK, count)
    parts = []
    for start in range(0, count, size):
        progress(start / count, "residual")
        block = np.minimum(np.arange(start, start + size), count - 1)
        x = jnp.asarray(problem.queries.points[queries[block]])
        parts.append(jax.tree.map(np.asarray, _terms(u, x, jnp.asarray(problem.times[times[block]]))))
    residual, scale = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    return {
        "residual": residual,
        "residual_scale": scale,
        "residual_time": times,
        "residual_query": queries,
    }


def _reference_values(problem: Problem, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Everywhere if a slice asks for a picture of it, else where the residual was taken."""
    values: np.ndarray = np.full(arrays["value"].shape, np.nan)
    for i, t in enumerate(problem.times):
        where = arrays["residual_query"][arrays["residual_time"] == i]
        if problem.queries.kind == "slice":
            where = np.arange(values.shape[1])
        if len(where):
            values[i, where] = reference(problem, problem.queries.points[where], float(t))
    return values


def expected_residual(problem: Problem) -> np.ndarray:
    """What the residual is in exact arithmetic at each time: 0, or -d eps/(2t) without the prefactor."""
    return np.zeros_like(problem.times) if problem.normalize else -problem.dimension * problem.eps / (2 * problem.times)


def _checks(problem: Problem, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    excess = np.abs(arrays["residual"] - expected_residual(problem)[arrays["residual_time"]])
    checks = {
        "residual": float(excess.max()),
        "residual_relative": float((excess / arrays["residual_scale"]).max()),
    }
    if "reference" in arrays:
        checks["reference"] = float(np.nanmax(np.abs(arrays["reference"] - arrays["value"])))
        checks["reference_scale"] = float(np.nanmax(np.abs(arrays["reference"])))
    breaking = breaking_time(problem)
    if breaking is not None:
        checks["breaking_time"] = breaking
    return checks


def breaking_time(problem: Problem) -> float | None:
    """When characteristics first cross in one dimension, t* = -1/(2 A min g''), or None if never.

    g'' is taken between kinks at the atoms; a concave kink of g (a shock at once) has no g''.
    """
    if problem.dimension != 1 or problem.function is None:
        return None
    with precision(problem.dtype):
        g = problem.function.g
        curvature = jax.vmap(jax.grad(lambda s: jax.grad(lambda r: g(r[None]))(s)))(problem.data.points[:, 0])
        steepest = float(jnp.nanmin(curvature)) * float(problem.metric[0, 0])
    return -1 / (2 * steepest) if steepest < 0 else None
