"""Pictures of a solved problem: which one suits it, and what all of them share.

Matplotlib's object-oriented interface only, so that nobody's pyplot state or rcParams change.
"""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from ._problem import Problem
from ._solve import Solved

INK = "#22262e"
FAINT = "#8a8f99"
ACCENT = "#d1495b"
VALUE = "viridis"
SIGNED = "RdBu_r"
ENTROPY = "magma"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, which will be saved at 160 dpi."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, title: str, xlabel: str, ylabel: str) -> Axes:
    """Title in words at the left, labelled axes, light frame."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK, labelsize=8, width=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_linewidth(0.6)
    return axes


def colorbar(figure: Figure, mesh: QuadMesh, axes: Axes | list[Axes], label: str) -> None:
    """A slim colour bar with a label."""
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, fraction=0.05, aspect=28)
    bar.set_label(label, color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8, width=0.6)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def shades(count: int, name: str = VALUE) -> list:
    """`count` colours from a perceptually uniform map, without its palest end."""
    return [colormaps[name](s) for s in np.linspace(0.0, 0.86, count)]


def draw(problem: Problem, solved: Solved, path: Path) -> None:
    """Write the picture that suits the problem to `path`."""
    from . import _figure_line, _figure_plane

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
