"""What all pictures share: colours, frames, colour bars.

Matplotlib's object-oriented interface only, so that nobody's pyplot state or rcParams change.
"""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

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
