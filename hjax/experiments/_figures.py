"""Pictures of a solved problem: which one suits it."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from . import _figure_line, _figure_plane
from ._figure_style import INK, dress, new_figure, shades
from ._problem import Problem
from ._solve import Solved


def draw(problem: Problem, solved: Solved, path: Path) -> None:
    """Write the picture that suits the problem to `path`."""
    if problem.dimension == 1:
        figure = _figure_line.line(problem, solved)
    elif problem.queries.plane is not None and problem.queries.kind == "slice":
        figure = _figure_plane.slice_with_reference(problem, solved)
    elif problem.dimension == 2 and problem.queries.kind == "grid":
        few = problem.function is None and problem.data.size <= 400
        figure = _figure_plane.cells(problem, solved) if few else _figure_plane.plane(problem, solved)
    else:
        figure = scattered(problem, solved)
    figure.savefig(path, format="png")


def scattered(problem: Problem, solved: Solved) -> Figure:
    """Queries without a grid: the value against time, and the entropy, one line per query."""
    arrays, times = solved.arrays, problem.times
    figure = new_figure(9.5, 4.2)
    figure.suptitle(problem.title, x=0.01, ha="left", fontsize=13, color=INK)
    left, right = figure.subplots(1, 2)
    shown = np.unique(np.linspace(0, len(problem.queries.points) - 1, 40).astype(int))
    marker = "o" if len(times) == 1 else ""
    for m, color in zip(shown, shades(len(shown)), strict=True):
        left.plot(times, arrays["value"][:, m], color=color, lw=1, marker=marker)
        right.plot(times, arrays["entropy"][:, m], color=color, lw=1, marker=marker)
    dress(left, f"Value at {len(shown)} of {arrays['value'].shape[1]:,} queries", "time $t$", "$u(x, t)$")
    dress(right, "How many atoms share each query", "time $t$", "entropy (nats)")
    return figure
