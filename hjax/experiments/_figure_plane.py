"""Two dimensions, or a plane through more: values with their momentum field, cells, and a slice."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._figure_style import ENTROPY, INK, SIGNED, VALUE, colorbar, dress, new_figure
from ._problem import Problem
from ._solve import Solved


def plane(problem: Problem, solved: Solved) -> Figure:
    """Top: level lines of u at up to four times with the momentum field. Bottom: the Laplacian."""
    chosen = np.unique(np.linspace(0, len(problem.times) - 1, 4).round().astype(int))
    columns = len(chosen)
    figure = new_figure(3.7 * columns + 0.9, 7.4)
    figure.suptitle(problem.title, x=0.01, ha="left", fontsize=14, color=INK)
    panels = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
    value, laplacian = solved.arrays["value"][chosen], solved.arrays["laplacian"][chosen]
    low, high = value.min(), value.max()
    limit = float(np.quantile(np.abs(laplacian), 0.995)) or 1.0
    meshes = []
    for j, i in enumerate(chosen):
        mesh = _mesh(panels[0, j], problem, value[j], cmap=VALUE, vmin=low, vmax=high)
        _levels(panels[0, j], problem, value[j], np.linspace(low, high, 16))
        _arrows(panels[0, j], problem, solved.arrays["gradient"][i])
        bent = _mesh(panels[1, j], problem, laplacian[j], cmap=SIGNED, vmin=-limit, vmax=limit)
        meshes = [mesh, bent]
        dress(panels[0, j], f"$t$ = {problem.times[i]:.3g}", "", "$x_2$" if j == 0 else "")
        dress(panels[1, j], "", "$x_1$", "$x_2$" if j == 0 else "")
    first = f"Value and momentum (arrows), $t$ = {problem.times[chosen[0]]:.3g}"
    panels[0, 0].set_title(first, loc="left", fontsize=10, color=INK)
    panels[1, 0].set_title("Laplacian: a shock is a blue line", loc="left", fontsize=10, color=INK)
    colorbar(figure, meshes[0], list(panels[0]), "value $u(x, t)$")
    colorbar(figure, meshes[1], list(panels[1]), "Laplacian $\\Delta u(x, t)$")
    return figure


def cells(problem: Problem, solved: Solved) -> Figure:
    """Left: the Hopf-Lax cells (a power diagram). Right: the entropy of Hopf-Cole's weights over them."""
    last = len(problem.times) - 1
    figure = new_figure(12.2, 5.9)
    figure.suptitle(problem.title, x=0.01, ha="left", fontsize=14, color=INK)
    left, right = figure.subplots(1, 2, sharey=True)
    owner = solved.arrays["minimizer"][last]
    present = np.unique(owner)
    hues = _colours(problem, present)[owner]
    _mesh(left, problem, hues, cmap="twilight_shifted", vmin=0, vmax=1, alpha=0.8, shading="nearest")
    value = solved.arrays["value_inviscid"][last]
    _levels(left, problem, value, np.linspace(value.min(), value.max(), 14), color="white")
    mesh = _mesh(right, problem, solved.arrays["entropy"][last], cmap=ENTROPY, vmin=0)
    _edges(left, problem, owner, INK, 1.1)
    _edges(right, problem, owner, "white", 0.5)
    y = solved.arrays["atoms_points"]
    size = 70 * np.exp(solved.arrays["atoms_log_weights"])
    alive = np.isin(np.arange(len(y)), present)
    for axes, cross in ((left, INK), (right, "white")):
        axes.scatter(*y[alive].T, s=size[alive], c="white", edgecolors=INK, lw=0.9, zorder=4)
        axes.scatter(*y[~alive].T, s=36, c=cross, marker="x", lw=1.1, zorder=4)
        axes.set_xlim(problem.queries.points[:, 0].min(), problem.queries.points[:, 0].max())
        axes.set_ylim(problem.queries.points[:, 1].min(), problem.queries.points[:, 1].max())
    t = problem.times[last]
    none = "" if alive.all() else "; cross: no cell"
    dress(left, f"Inviscid: each point belongs to one atom ($t$ = {t:.3g}{none})", "$x_1$", "$x_2$")
    dress(right, f"Viscous, $\\varepsilon$ = {problem.eps:g}: atoms share near the edges", "$x_1$", "")
    colorbar(figure, mesh, right, "entropy of the weights (nats)")
    return figure


def slice_with_reference(problem: Problem, solved: Solved) -> Figure:
    """The value along a plane beside the exact one and the error; without one, momentum and entropy."""
    last = len(problem.times) - 1
    figure = new_figure(14.0, 4.9)
    figure.suptitle(f"{problem.title}, $t$ = {problem.times[last]:.3g}", x=0.01, ha="left", fontsize=14, color=INK)
    panels = list(figure.subplots(1, 3, sharey=True))
    value = solved.arrays["value"][last]
    low, high = value.min(), value.max()
    levels = np.linspace(low, high, 15)
    mesh = _mesh(panels[0], problem, value, cmap=VALUE, vmin=low, vmax=high)
    _levels(panels[0], problem, value, levels)
    atoms = f"{problem.data.size:,} atoms, d = {problem.dimension}"
    dress(panels[0], f"Hopf-Cole: {atoms}", "along direction 1", "along direction 2")
    if "reference" in solved.arrays:
        exact = solved.arrays["reference"][last]
        mesh = _mesh(panels[1], problem, exact, cmap=VALUE, vmin=low, vmax=high)
        _levels(panels[1], problem, exact, levels)
        dress(panels[1], f"Exact: {problem.dimension} one-dimensional quadratures", "along direction 1", "")
        colorbar(figure, mesh, panels[:2], "value $u(x, t)$")
        error = value - exact
        limit = float(np.abs(error).max()) or 1e-16
        mesh = _mesh(panels[2], problem, error, cmap=SIGNED, vmin=-limit, vmax=limit)
        dress(panels[2], f"Their difference, at most {limit:.1e}", "along direction 1", "")
        colorbar(figure, mesh, panels[2], "error in $u(x, t)$")
        return figure
    colorbar(figure, mesh, panels[0], "value $u(x, t)$")
    speed = np.linalg.norm(solved.arrays["gradient"][last], axis=1)
    colorbar(figure, _mesh(panels[1], problem, speed, cmap="cividis"), panels[1], "$|\\nabla u|$")
    dress(panels[1], "Size of the momentum", "along direction 1", "")
    entropy = solved.arrays["entropy"][last]
    colorbar(figure, _mesh(panels[2], problem, entropy, cmap=ENTROPY), panels[2], "entropy (nats)")
    dress(panels[2], "How many atoms share a point", "along direction 1", "")
    return figure


def _axes_of(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The two coordinate axes of the grid that the queries form in their plane."""
    if problem.queries.plane is None:
        raise ValueError("these queries do not lie in a plane.")
    plane = problem.queries.plane.reshape(*problem.queries.shape, 2)
    return plane[:, 0, 0], plane[0, :, 1]


def _mesh(axes: Axes, problem: Problem, values: np.ndarray, **style):
    first, second = _axes_of(problem)
    shaped = values.reshape(problem.queries.shape).T
    axes.set_aspect("equal")
    style = {"shading": "gouraud", "rasterized": True} | style
    return axes.pcolormesh(first, second, shaped, **style)


def _levels(axes: Axes, problem: Problem, values: np.ndarray, levels: np.ndarray, color: str = "white") -> None:
    shaped = values.reshape(problem.queries.shape).T
    if np.ptp(levels) > 0:
        axes.contour(*_axes_of(problem), shaped, levels=levels, colors=color, linewidths=0.5, alpha=0.6)


def _arrows(axes: Axes, problem: Problem, gradient: np.ndarray) -> None:
    first, second = _axes_of(problem)
    a, b = (max(1, len(axis) // 15) for axis in (first, second))
    field = gradient.reshape(*problem.queries.shape, 2)[a // 2 :: a, b // 2 :: b]
    axes.quiver(
        first[a // 2 :: a], second[b // 2 :: b], field[..., 0].T, field[..., 1].T,
        color="white", pivot="mid", scale=28, width=0.005, alpha=0.9,
    )  # fmt: skip


def _edges(axes: Axes, problem: Problem, owner: np.ndarray, color: str, width: float) -> None:
    """The borders of the cells: a half-way contour of each cell's indicator."""
    shaped = owner.reshape(problem.queries.shape).T
    for cell in np.unique(owner):
        inside = (shaped == cell).astype(float)
        if 0 < inside.sum() < inside.size:
            axes.contour(*_axes_of(problem), inside, levels=[0.5], colors=color, linewidths=width)


def _colours(problem: Problem, present: np.ndarray) -> np.ndarray:
    """One number in [0, 1] per atom, spread by the golden ratio in the order of the cells' places."""
    y = np.asarray(problem.data.points)
    numbers = np.zeros(len(y))
    order = present[np.argsort(y[present, 0])]
    numbers[order] = (np.arange(len(order)) * 0.6180339887) % 1.0
    return numbers
