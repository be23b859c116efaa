"""What the pictures of the experiments share: temperatures as colours, theory as lines, logarithmic axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from .._figure_style import FAINT, INK, VALUE, new_figure
from ._experiment import Results

THEORY: dict[str, Any] = {"color": INK, "lw": 1.1, "ls": (0, (5, 2))}
THIN: dict[str, Any] = {**THEORY, "lw": 0.8}
TINY = 1e-17


class Temperatures:
    """One colour for each eps, and the bar that says which."""

    def __init__(self, eps: Sequence[float], label: str = r"temperature $\varepsilon$"):
        low, high = min(eps), max(eps)
        self.norm = LogNorm(low / 1.05, high * 1.05)
        # Without its palest end, which cannot be read on white.
        self.map = colormaps[VALUE].resampled(256)
        self.map = type(self.map)(self.map(np.linspace(0.0, 0.88, 256)))  # pyright: ignore
        self.label, self.eps = label, list(eps)

    def __call__(self, eps: float) -> tuple:
        return self.map(self.norm(eps))

    def bar(self, figure: Figure, axes: Axes | Sequence[Axes]) -> None:
        """A colour bar with a tick at each temperature."""
        bar = figure.colorbar(ScalarMappable(self.norm, self.map), ax=axes, pad=0.015, fraction=0.05, aspect=28)
        bar.set_label(self.label, color=INK, fontsize=9)
        bar.set_ticks(self.eps, labels=[f"{e:g}" for e in self.eps])
        bar.minorticks_off()
        bar.ax.tick_params(labelsize=8, width=0.6)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def titled(width: float, height: float, results: Results, remark: str = "") -> Figure:
    """A figure whose title is what was found; below it, smaller, a remark."""
    figure = new_figure(width, height)
    figure.suptitle(results.found, x=0.01, ha="left", fontsize=13, color=INK)
    if remark:
        figure.supxlabel(remark, x=0.01, ha="left", fontsize=8, color=FAINT)
    return figure


def logarithmic(axes: Axes, which: str, ticks: Sequence[float] | np.ndarray | None = None) -> None:
    """A logarithmic axis, "x" or "y", without numbers at minor ticks; `ticks` are written out."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if ticks is not None:
        axis.set_ticks(list(ticks), labels=[f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """The exponent of y in x: least squares in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def legend(axes: Axes, **options: object) -> None:
    """A small legend without a frame."""
    given = {"fontsize": 8, "title_fontsize": 8, "frameon": False, **options}
    axes.legend(**given)  # pyright: ignore
