"""One dimension: the x-t picture of the momentum with its characteristics, and profiles at some times."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ._figure_style import ACCENT, FAINT, INK, SIGNED, colorbar, dress, new_figure, shades
from ._problem import Problem
from ._solve import Solved

# A jump of the inviscid momentum between neighbouring queries, as a share of its range: a shock.
_JUMP = 0.12
_CHARACTERISTICS = 41


def line(problem: Problem, solved: Solved) -> Figure:
    """x-t plane at the left (with enough times), value and momentum profiles at the right."""
    space_time = len(problem.times) >= 8 and problem.queries.kind == "grid"
    figure = new_figure(12.5 if space_time else 7.5, 6.4)
    figure.suptitle(problem.title, x=0.01, ha="left", fontsize=14, color=INK)
    grid = figure.add_gridspec(2, 2 if space_time else 1, width_ratios=[1.25, 1] if space_time else [1])
    if space_time:
        _space_time(figure.add_subplot(grid[:, 0]), problem, solved)
    value, momentum = figure.add_subplot(grid[0, -1]), figure.add_subplot(grid[1, -1])
    order = np.argsort(problem.queries.points[:, 0], kind="stable")
    x = problem.queries.points[order, 0]
    chosen = np.unique(np.linspace(0, len(problem.times) - 1, 5).round().astype(int))
    sharp = _inviscid_momentum(problem, solved)
    # Hopf-Lax on atoms of spacing h has momenta in steps of h/(2 A t): not drawn where that would show.
    spacing = np.ptp(solved.arrays["atoms_points"]) / max(1, problem.data.size - 1)
    smooth = problem.times > spacing / (0.02 * 2 * problem.metric[0, 0] * np.ptp(sharp))
    for i, color in zip(chosen, shades(len(chosen), "plasma"), strict=True):
        value.plot(x, solved.arrays["value_inviscid"][i, order], color=FAINT, lw=0.8, ls=(0, (4, 2)))
        value.plot(x, solved.arrays["value"][i, order], color=color, lw=1.6, label=f"{problem.times[i]:.3g}")
        if smooth[i]:
            momentum.plot(x, sharp[i, order], color=FAINT, lw=0.8, ls=(0, (4, 2)))
        momentum.plot(x, solved.arrays["gradient"][i, order, 0], color=color, lw=1.6)
    dress(value, f"Value: viscous ($\\varepsilon$ = {problem.eps:g}) over inviscid (dashed)", "", "$u(x, t)$")
    dress(momentum, "Momentum: viscosity rounds the jump", "position $x$", "$u_x(x, t)$")
    value.legend(title="time $t$", fontsize=8, title_fontsize=8, frameon=False, ncols=len(chosen), loc="best")
    low, high = value.get_ylim()
    value.set_ylim(low, high + 0.18 * (high - low))
    for axes in (value, momentum):
        axes.set_xlim(x[0], x[-1])
    return figure


def _space_time(axes: Axes, problem: Problem, solved: Solved) -> None:
    x, times = problem.queries.points[:, 0], problem.times
    momentum = solved.arrays["gradient"][:, :, 0]
    limit = float(np.abs(momentum).max()) or 1.0
    mesh = axes.pcolormesh(x, times, momentum, cmap=SIGNED, vmin=-limit, vmax=limit, shading="gouraud", rasterized=True)
    axes.add_collection(
        LineCollection(list(_characteristics(problem, solved)), colors=INK, linewidths=0.55, alpha=0.55)
    )
    where = _shocks(problem, solved)
    axes.plot(*where.T, ls="", marker="o", ms=2.2, color="black", label="shock (inviscid)")
    axes.plot([], [], color=INK, lw=0.7, label="characteristics, until they end in it")
    breaking = solved.checks.get("breaking_time")
    if breaking is not None and 0 < breaking < times[-1]:
        axes.axhline(breaking, color=ACCENT, lw=1, ls=(0, (5, 3)))
        axes.annotate(
            f"first crossing $t^* = {breaking:.4g}$",
            (x[0] + 0.015 * (x[-1] - x[0]), breaking),
            xytext=(0, 4),
            textcoords="offset points",
            color=ACCENT,
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(0, times[-1])
    legend = axes.legend(loc="upper left", fontsize=8, framealpha=0.85, edgecolor="none")
    legend.get_frame().set_facecolor("white")
    dress(axes, "Momentum in space and time, and the paths that carry it", "position $x$", "time $t$")
    figure = axes.get_figure(root=True)
    if figure is not None:
        colorbar(figure, mesh, axes, "momentum $u_x(x, t)$")


def _inviscid_momentum(problem: Problem, solved: Solved) -> np.ndarray:
    """u_x of Hopf-Lax, (x - y*)/(2 A t) with y* the minimiser."""
    start = solved.arrays["atoms_points"][solved.arrays["minimizer"], 0]
    return (problem.queries.points[:, 0] - start) / (2 * problem.metric[0, 0] * problem.times[:, None])


def _shocks(problem: Problem, solved: Solved) -> np.ndarray:
    """Points (x, t) where the inviscid momentum jumps down, `(n, 2)`."""
    x, momentum = problem.queries.points[:, 0], _inviscid_momentum(problem, solved)
    drop = momentum[:, :-1] - momentum[:, 1:]
    i, j = np.nonzero(drop > _JUMP * np.ptp(momentum))
    return np.stack([(x[j] + x[j + 1]) / 2, problem.times[i]], axis=1)


def _characteristics(problem: Problem, solved: Solved):
    """Straight optimal paths: those that arrive at the last time, and those that end in a shock before.

    The first kind goes backwards from (x, T) to the minimiser (fans included). For the second: y*(x, t)
    increases with x, so the path of y passes between the two queries whose minimisers enclose y,
    unless these are far apart: then y has fallen into the shock between them.
    """
    x = problem.queries.points[:, 0]
    starts = solved.arrays["atoms_points"][solved.arrays["minimizer"], 0]
    for k in np.linspace(0, len(x) - 1, _CHARACTERISTICS).round().astype(int):
        yield np.array([(starts[-1, k], 0.0), (x[k], problem.times[-1])])
    low, high = starts.min(), starts.max()
    reach = 2 * problem.metric[0, 0] * np.ptp(_inviscid_momentum(problem, solved)) * _JUMP
    for y in np.linspace(low, high, _CHARACTERISTICS):
        end = None
        for t, row in zip(problem.times, starts, strict=True):
            k = int(np.searchsorted(row, y))
            if k == 0 or k == len(row):
                # The path is outside of the picture at this time, and may come back.
                continue
            gap = row[k] - row[k - 1]
            if gap > reach * t + (x[k] - x[k - 1]):
                break
            share = 0.5 if gap == 0 else (y - row[k - 1]) / gap
            end = (x[k - 1] + share * (x[k] - x[k - 1]), t)
        if end is not None and end[1] < problem.times[-1]:
            yield np.array([(y, 0.0), end])
