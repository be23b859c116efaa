"""The benchmark pictures: rates by workload, and time against N."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .scaling import FITTED_FROM

_COLOURS = {
    "hjax": "#1b4f9c",
    "hjax streaming": "#7fa6d9",
    "jnp": "#b9b9b9",
    "torch": "#8c564b",
    "pykeops": "#e08214",
    "sklearn": "#5aae61",
    "C loop": "#333333",
}
_KINDS = {"value": "Values", "gradient": "Values and all gradients", "hvp": "Hessian-vector products"}


def draw_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Rates of the workloads that come in several dimensions."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for (kind, title), axes in zip(_KINDS.items(), figure.subplots(1, len(_KINDS), sharey=True), strict=True):
        mine = [(row, int(row["workload"].split("d=")[1])) for row in rows if row["workload"].startswith(kind + " d=")]
        dimensions = sorted({d for _, d in mine})
        names = [name for name in _COLOURS if any(row["implementation"] == name for row, _ in mine)]
        width = 0.8 / max(1, len(names))
        for i, name in enumerate(names):
            rates = {d: row["giga_pairs_per_second"] for row, d in mine if row["implementation"] == name}
            places = {d: k + (i - (len(names) - 1) / 2) * width for k, d in enumerate(dimensions)}
            axes.bar([places[d] for d in rates], list(rates.values()), width, color=_COLOURS[name], label=name)
        axes.set_xticks(range(len(dimensions)), [f"d = {d}" for d in dimensions], fontsize=8)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
        _plain(axes, "y")
    figure.axes[0].set_ylabel("giga-pairs per second")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", frameon=False, fontsize=8, ncols=len(names))
    figure.suptitle(
        "softmin on 2 CPU cores, float32, M = N = "
        + ", ".join(
            f"{n:,}" for n in sorted({math.isqrt(row["pairs"]) for row in rows if row["workload"] == "value d=1"})
        ),
        fontsize=10,
    )
    _save(figure, path)


def draw_scaling(curves: list[dict[str, Any]], path: Path) -> None:
    """Time against N, log-log, with the fitted exponents."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = ["#1b4f9c", "#2a9d8f", "#7b3294", "#7fa6d9", "#e08214"]
    for curve, colour in zip(curves, colours, strict=False):
        n, seconds = np.array(curve["n"]), np.array(curve["seconds"])
        axes.loglog(
            n, seconds, "o-", color=colour, markersize=4, label=f"{curve['curve']}: $N^{{{curve['exponent']:.2f}}}$"
        )
    axes.set_xlabel("M = N")
    axes.set_ylabel("seconds")
    axes.set_title(f"Time of one reduction on 2 CPU cores, exponents fitted from N = {FITTED_FROM:,} on", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    _plain(axes, "both")
    _save(figure, path)


def _plain(axes: Any, grid: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name("." + path.name)
    figure.savefig(temporary, dpi=150, format="png")
    temporary.replace(path)
