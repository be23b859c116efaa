"""A Hamilton-Jacobi problem in a TOML file: what may be written there, read strictly.

```toml
title = "..."                    # optional: what the picture is called

[hamiltonian]                    # optional: H(p) = p^T A p, viscosity eps tr(A D^2 u)
metric = 1.0                     # A: a positive number, d of them (a diagonal), or d rows (SPD)

[initial_data]                   # exactly one of function, csv, npz
function = "double_valley"       # a name from `hjax.experiments._functions`
parameters = { delta = 0.5 }     # optional: that function's own
csv = "atoms.csv"                # header y1,...,yd,g and optionally weight; relative to this file
npz = "atoms.npz"                # arrays points (N, d), values (N,), optionally log_weights (N,)

[initial_data.rule]              # where a function is sampled
kind = "grid"                    # lower, upper, shape, optionally endpoints
                                 # "sobol": lower, upper, count, optionally seed
                                 # "gauss_hermite": count, optionally mean, scale
lower = -4.0                     # a number, or one per axis
upper = 4.0
shape = 4000
dimension = 1                    # optional: how many axes, if every bound is one number

[solve]
eps = 0.02                       # viscosity, > 0
times = [0.1, 0.5]               # each > 0; or { lower = 0.1, upper = 1.0, count = 10 }
normalize = true                 # optional: the heat kernel's prefactor, exact in (x, t)
dtype = "float64"                # optional: or "float32"

[queries]
kind = "grid"                    # lower, upper, shape (at most 3 axes), endpoints included
                                 # "slice": origin (d), directions (2 rows of d), lower, upper, shape
                                 # "csv": file with the header x1,...,xd
```
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hjax

from . import _functions
from ._tables import ProblemError, Table, load_toml, read_csv, read_npz

_SCHEMAS = ("problem", "digits")


class Queries(NamedTuple):
    """Where u is wanted: `points (M, d)`, in the order of an array of `shape`.

    `plane (M, 2)` are the coordinates to draw them at, if they lie in a plane.
    """

    kind: str
    points: np.ndarray
    shape: tuple[int, ...]
    plane: np.ndarray | None


class Problem(NamedTuple):
    """A validated problem. `box` is the (lower, upper) of a grid or Sobol rule, else None."""

    name: str
    title: str
    hamiltonian: hjax.Quadratic
    metric: np.ndarray
    data: hjax.InitialData
    origin: str
    function: _functions.InitialFunction | None
    box: tuple[np.ndarray, np.ndarray] | None
    eps: float
    times: np.ndarray
    normalize: bool
    dtype: str
    queries: Queries

    @property
    def dimension(self) -> int:
        """d, the number of coordinates."""
        return self.data.dimension


def precision(dtype: str) -> AbstractContextManager:
    """A context in which jax computes with this dtype, whatever the user's configuration says."""
    return jax.enable_x64(dtype == "float64")


def examples() -> list[str]:
    """The names of the problems that ship with the package."""
    folder = resources.files("hjax.experiments") / "problems"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def example(name: str) -> Path:
    """The file of a problem that ships with the package."""
    if name not in examples():
        raise ProblemError(f"there is no example {name!r}; there are {', '.join(examples())}.")
    return Path(str(resources.files("hjax.experiments") / "problems" / f"{name}.toml"))


def is_digits(path: Path) -> bool:
    """Whether the file describes the digits experiment: it has a table [digits]."""
    return "digits" in load_toml(path)


def read_problem(path: Path) -> Problem:
    """The problem in a TOML file, complete and checked.

    **Raises:** `ProblemError`, one sentence, for anything that cannot be solved as written.
    """
    root = load_toml(path)
    title = root.text("title", path.stem)
    solve = root.table("solve")
    dtype = solve.choice("dtype", ("float64", "float32"), "float64")
    eps = solve.number("eps", positive=True)
    times = _times(solve)
    normalize = solve.flag("normalize", True)
    solve.finish()
    with precision(dtype):
        data, function, box, origin = _initial_data(root.table("initial_data"))
        hamiltonian = _hamiltonian(root.table("hamiltonian", optional=True), data.dimension)
    queries = _queries(root.table("queries"), data.dimension)
    root.finish()
    d = data.dimension
    metric = np.eye(d) if hamiltonian.metric is None else np.asarray(hamiltonian.metric, float)
    metric = metric if metric.ndim == 2 else np.diag(np.broadcast_to(metric, (d,)))
    return Problem(
        path.stem,
        title,
        hamiltonian,
        metric,
        data,
        origin,
        function,
        box,
        eps,
        times,
        normalize,
        dtype,
        queries,
    )


def _times(solve: Table) -> np.ndarray:
    if isinstance(solve.entries.get("times"), dict):
        span = solve.table("times")
        lower, upper = span.number("lower", positive=True), span.number("upper", positive=True)
        times = np.linspace(lower, upper, span.integer("count"))
        span.finish()
    else:
        times = solve.numbers("times")
    if not np.all(times > 0):
        raise solve.error("times", f"must be positive, but its smallest is {times.min():g}")
    if not np.all(np.diff(times) > 0):
        raise solve.error("times", "must increase")
    return times


def _hamiltonian(table: Table, dimension: int) -> hjax.Quadratic:
    if "metric" not in table:
        table.finish()
        return hjax.Quadratic()
    value = table.entries["metric"]
    if isinstance(value, list) and any(isinstance(row, list) for row in value):
        metric = table.rows("metric", (dimension, dimension))
    elif isinstance(value, list):
        metric = table.numbers("metric", dimension)
    else:
        metric = np.asarray(table.number("metric"))
    table.finish()
    try:
        return hjax.Quadratic(jnp.asarray(metric))
    except ValueError as error:
        raise table.error("metric", f"cannot be used: {str(error).rstrip('.')}") from error


def _initial_data(table: Table) -> tuple:
    kinds = [kind for kind in ("function", "csv", "npz") if kind in table]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none of them"
        raise ProblemError(
            f"{table.path.name}: [initial_data] wants exactly one of function, csv, npz, but has {found}."
        )
    if kinds[0] == "function":
        return _from_function(table)
    path = table.path.parent / table.text(kinds[0])
    table.finish()
    if kinds[0] == "csv":
        columns = read_csv(path, "y", extra=["g"], optional=["weight"])
        weights = columns.get("weight")
        if weights is not None and not np.all((weights >= 0) & (weights < np.inf)):
            raise ProblemError(f"{path.name}: the column weight must be >= 0 and finite.")
        with np.errstate(divide="ignore"):
            log_weights = None if weights is None else np.log(weights)
        arrays = (columns["points"], columns["g"], log_weights)
    else:
        named = read_npz(path, ["points", "values"], ["log_weights"])
        arrays = (named["points"], named["values"], named.get("log_weights"))
    try:
        points, values, weights = (None if a is None else jnp.asarray(a) for a in arrays)
        data = hjax.InitialData(points, values, weights)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise ProblemError(f"{path.name}: {error}") from error
    present = np.isfinite(arrays[1]) if arrays[2] is None else np.isfinite(arrays[1]) & np.isfinite(arrays[2])
    if not present.any():
        raise ProblemError(f"{path.name}: every atom is absent (g infinite or weight 0); u would be +inf.")
    return data, None, None, path.name


def _from_function(table: Table) -> tuple:
    name = table.choice("function", _functions.names())
    given = table.table("parameters", optional=True)
    values = {k: given.number(k, default=v) for k, v in _functions.parameters(name).items()}
    given.finish()
    function = _functions.bind(name, values)
    rule = table.table("rule")
    kind = rule.choice("kind", list(_RULES))
    nodes, box, words = _RULES[kind](rule)
    rule.finish()
    table.finish()
    return hjax.InitialData.from_function(function.g, nodes), function, box, f"{name} on {words}"


def _box(table: Table, *, axes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of a box; the number of axes is given, or said by `dimension` or the longer bound."""
    if axes is None:
        lengths = [len(v) for k in ("lower", "upper") if isinstance(v := table.entries.get(k), list)]
        axes = table.integer("dimension", default=max([1, *lengths]))
    lower, upper = table.numbers("lower", axes), table.numbers("upper", axes)
    if not np.all(lower < upper):
        raise table.error("lower", "must be below upper in every axis")
    return lower, upper


def _grid_rule(table: Table) -> tuple:
    box = _box(table)
    endpoints = table.flag("endpoints", False)
    shape = table.integers("shape", len(box[0]), minimum=1 + endpoints)
    rule = hjax.quadrature.grid(*box, shape, endpoints=endpoints)
    return rule, box, f"a grid of {' x '.join(f'{n:,}' for n in shape)}"


def _sobol_rule(table: Table) -> tuple:
    box = _box(table)
    count, seed = table.integer("count"), table.integer("seed", minimum=0, default=0)
    rule = hjax.quadrature.sobol(*box, count, seed=seed)
    return rule, box, f"{rule.points.shape[0]:,} Sobol points"


def _gauss_hermite_rule(table: Table) -> tuple:
    count, d = table.integer("count"), table.integer("dimension", default=1)
    mean, scale = table.numbers("mean", d, default=0.0), table.numbers("scale", d, default=1.0)
    try:
        rule = hjax.quadrature.gauss_hermite(count, d, mean=mean, scale=scale)
    except ValueError as error:
        raise table.error("count", f"or scale cannot be used: {str(error).rstrip('.')}") from error
    return rule, None, f"{count} Gauss-Hermite nodes per axis"


_RULES: dict[str, Callable[[Table], tuple]] = {
    "grid": _grid_rule,
    "sobol": _sobol_rule,
    "gauss_hermite": _gauss_hermite_rule,
}


def _queries(table: Table, dimension: int) -> Queries:
    kind = table.choice("kind", ("grid", "slice", "csv"))
    if kind == "grid":
        queries = _grid_queries(table, dimension)
    elif kind == "slice":
        queries = _slice_queries(table, dimension)
    else:
        path = table.path.parent / table.text("file")
        points = read_csv(path, "x")["points"]
        if points.shape[1] != dimension:
            raise ProblemError(f"{path.name} has {points.shape[1]} coordinates, but the atoms have {dimension}.")
        queries = Queries(kind, points, (len(points),), points if dimension == 2 else None)
    table.finish()
    return queries


def _grid_queries(table: Table, dimension: int) -> Queries:
    if dimension > 3:
        raise table.error("kind", f"is 'grid', which has at most 3 axes, but d = {dimension}; take a slice")
    lower, upper = _box(table, axes=dimension)
    shape = table.integers("shape", dimension)
    points = _lattice(lower, upper, shape)
    return Queries("grid", points, shape, points if dimension == 2 else None)


def _slice_queries(table: Table, dimension: int) -> Queries:
    if dimension < 2:
        raise table.error("kind", "is 'slice', which wants d >= 2; take a grid")
    origin = table.numbers("origin", dimension)
    directions = table.rows("directions", (2, dimension))
    if np.linalg.matrix_rank(directions) < 2:
        raise table.error("directions", "are parallel or zero; two independent ones are wanted")
    lower, upper = _box(table, axes=2)
    shape = table.integers("shape", 2)
    plane = _lattice(lower, upper, shape)
    return Queries("slice", origin + plane @ directions, shape, plane)


def _lattice(lower: np.ndarray, upper: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    axes = [np.linspace(a, b, n) for a, b, n in zip(lower, upper, shape, strict=True)]
    return np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=-1)
