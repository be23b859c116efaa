"""B: how the error of a layer trained on |x|_2 falls with its width, and what that says.

The paper ties the temperature to the width, eps = N^(-1/d), and reads the fall of the error as the quadrature's.
Two things that it could not separate are measured beside: the error over eps at fixed N (in one dimension two rows
already have the error eps log 2, whatever N), and the quadrature itself, on grids with and without end points.
"""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._figure_style import ACCENT, FAINT, INK, dress
from ..verify._oracles import soft_minimum
from ..verify._quadrature import grid_errors
from ._experiment import Arrays, Criterion, Experiment, Keep, Parameters, Results, above, below, generated
from ._layers import train
from ._pictures import THEORY, THIN, Temperatures, legend, logarithmic, slope, titled

_FULL: Parameters = {
    "within": 2.0,
    "training_points": 4000,
    "test_points": 800,
    "widths": {
        "1": [10, 20, 50, 100, 200, 500],
        "2": [20, 50, 100, 200, 500],
        "4": [40, 100, 200, 500, 1000],
    },
    "steps": 3000,
    "rate": 0.006,
    "seeds": 5,
    "rows": 1.0,
    "biases": 0.2,
    "sweep_widths": {"1": [10, 100], "2": [20, 100]},
    "sweep_eps": [0.5, 0.2, 0.1, 0.05, 0.02, 0.01],
    "sweep_seeds": 2,
    "grid_sides": {"1": [16, 32, 64, 128, 256, 512, 1024], "2": [8, 16, 32, 64, 128], "4": [4, 6, 8, 11]},
    "inferred": ["within", "widths between the ends", "rows", "biases", "sweep_*", "grid_sides"],
}
_QUICK = _FULL | {
    "training_points": 400,
    "test_points": 200,
    "widths": {"1": [10, 40]},
    "steps": 300,
    "rate": 0.02,
    "seeds": 2,
    "sweep_widths": {"1": [10, 40]},
    "sweep_eps": [0.5, 0.2, 0.1, 0.05],
    "sweep_seeds": 1,
    "grid_sides": {"1": [64, 256, 1024], "2": [32, 64, 128], "4": [6, 8, 11]},
}
_COLORS = {"end points": ACCENT, "midpoints": "#2a7f9e"}


def _parts(parameters: Parameters) -> dict[str, float]:
    steps = parameters["steps"] * parameters["training_points"] * 3e-9
    cost = {"1": 1.0, "2": 1.4, "4": 1.8}
    parts = {
        f"d={d} N={n}": 1.0 + steps * parameters["seeds"] * n * cost[d]
        for d, widths in parameters["widths"].items()
        for n in widths
    }
    each = parameters["sweep_seeds"] * len(parameters["sweep_eps"])
    parts |= {
        f"sweep d={d} N={n}": 1.0 + steps * each * n * cost[d]
        for d, widths in parameters["sweep_widths"].items()
        for n in widths
    }
    return parts | {"quadrature": 3.0}


def _compute(parameters: Parameters, part: str, keep: Keep) -> Arrays:
    if part == "quadrature":
        return _quadrature(parameters)
    sweep = part.startswith("sweep")
    d, n = (int(word.split("=")[1]) for word in part.split()[-2:])
    eps = parameters["sweep_eps"] if sweep else [n ** (-1 / d)]
    random = np.random.default_rng([20, d])
    count = parameters["training_points"] + parameters["test_points"]
    x = random.uniform(-parameters["within"], parameters["within"], (count, d)).astype(np.float32)
    y = np.linalg.norm(x, axis=1)
    split = parameters["training_points"]
    fits = train(
        x[:split], y[:split], width=n, eps=eps, seeds=parameters["sweep_seeds" if sweep else "seeds"],
        steps=parameters["steps"], rate=parameters["rate"], rows=parameters["rows"] / math.sqrt(d),
        biases=parameters["biases"], keep=keep,
    )  # fmt: skip
    # Measured in numpy and double precision, on points that were not trained on.
    weight, bias = (np.asarray(a, float) for a in (fits.model.weight, fits.model.bias))
    errors = np.empty((*weight.shape[:2], len(y) - split))
    for seed, i in np.ndindex(*weight.shape[:2]):
        logits = x[split:].astype(float) @ weight[seed, i].T + bias[seed, i]
        errors[seed, i] = -soft_minimum(-logits, eps[i]) - y[split:]
    return {
        "eps": np.array(eps),
        "rmse": np.sqrt((errors**2).mean(axis=-1)),
        "sup": np.abs(errors).max(axis=-1),
    }


def _quadrature(parameters: Parameters) -> Arrays:
    errors = grid_errors({int(d): sides for d, sides in parameters["grid_sides"].items()})
    return {f"{name} d={d}": np.array(values) for d, by in errors.items() for name, values in by.items()}


def _slopes(parameters: Parameters, found: dict[str, Arrays]) -> dict[str, dict[str, float]]:
    """The exponent in N for each d, best of seeds."""
    return {
        d: {
            kind: slope(np.array(widths), np.array([found[f"d={d} N={n}"][kind].min() for n in widths]))
            for kind in ("rmse", "sup")
        }
        for d, widths in parameters["widths"].items()
    }


def _grid_slopes(parameters: Parameters, found: dict[str, Arrays]) -> dict[tuple[str, str], float]:
    quadrature = found["quadrature"]
    return {
        (name, d): slope(np.array(sides[-3:], float) ** int(d), quadrature[f"{name} d={d}"][-3:])
        for d, sides in parameters["grid_sides"].items()
        for name in _COLORS
    }


def _conclude(parameters: Parameters, found: dict[str, Arrays]) -> Results:
    rows: list[dict[str, Any]] = []
    for part, arrays in found.items():
        if part == "quadrature":
            continue
        kind = "eps sweep" if part.startswith("sweep") else "eps = N^(-1/d)"
        d, n = (int(word.split("=")[1]) for word in part.split()[-2:])
        rmse, sup = arrays["rmse"], arrays["sup"]
        for seed, i in np.ndindex(*rmse.shape):
            errors = {"rmse": float(rmse[seed, i]), "sup_error": float(sup[seed, i])}
            rows.append({"kind": kind, "d": d, "N": n, "eps": float(arrays["eps"][i]), "seed": seed} | errors)
    for d, sides in parameters["grid_sides"].items():
        for name in _COLORS:
            for n, error in zip(sides, found["quadrature"][f"{name} d={d}"], strict=True):
                row = {"kind": f"quadrature, {name}", "d": int(d), "N": n ** int(d), "eps": 1.0, "seed": ""}
                rows.append(row | {"rmse": "", "sup_error": float(error)})

    low, high = (found[f"sweep d=1 N={n}"]["rmse"].min(axis=0) for n in parameters["sweep_widths"]["1"])
    warm = np.array(parameters["sweep_eps"]) >= 0.05
    unchanged = float((high / low)[warm].min())
    exponent = slope(np.array(parameters["sweep_eps"])[warm], high[warm])
    grids, slopes = _grid_slopes(parameters, found), _slopes(parameters, found)
    ends = max(abs(s * int(d) + 1) for (name, d), s in grids.items() if name == "end points")
    middles = max(abs(s * int(d) + 2) for (name, d), s in grids.items() if name == "midpoints")
    few, many = parameters["sweep_widths"]["1"]
    criteria: list[Criterion] = [
        above(f"d = 1, eps fixed: error at N = {many} over that at N = {few}, least", unchanged, 0.7),
        below("d = 1, N fixed: |exponent of the error in eps - 1|", abs(exponent - 1), 0.35),
        below("quadrature with end points: |d exponent + 1|, largest", ends, 0.25),
        below("quadrature with midpoints: |d exponent + 2|, largest", middles, 0.2),
        below("largest exponent of the error in N (it falls)", max(s["rmse"] for s in slopes.values()), -0.1),
    ]
    words = r"The error that falls with $N$ is that of the imposed $\varepsilon = N^{-1/d}$, not of the quadrature"
    return Results(rows, criteria, words)


def _draw(parameters: Parameters, found: dict[str, Arrays], results: Results) -> Figure:
    tied = [float(a["eps"][0]) for part, a in found.items() if part.startswith("d=")]
    every = sorted({*tied, *parameters["sweep_eps"]})
    colors = Temperatures([every[0], every[-1]])
    colors.eps = [e for e in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if every[0] <= e <= every[-1]]
    slopes = _slopes(parameters, found)
    figure = titled(13.5, 8.0, results)
    panels = figure.subplots(2, 3)
    for axes in panels.ravel()[[*range(len(parameters["widths"]), 3), *range(3 + len(parameters["sweep_widths"]), 5)]]:
        axes.set_axis_off()
    for axes, (d, widths) in zip(panels[0], parameters["widths"].items(), strict=False):
        _tied(axes, d, np.array(widths), found, slopes[d], colors)
    for axes, (d, widths) in zip(panels[1], parameters["sweep_widths"].items(), strict=False):
        _swept(axes, d, widths, np.array(parameters["sweep_eps"]), found, colors)
    _grids(panels[1, 2], parameters, found)
    colors.bar(figure, panels.ravel().tolist())
    return figure


def _power(d: str) -> str:
    return "N^{-1}" if d == "1" else f"N^{{-1/{d}}}"


def _tied(
    axes: Axes, d: str, widths: np.ndarray, found: dict[str, Arrays], slopes: dict[str, float], colors: Temperatures
) -> None:
    for kind, marker in (("rmse", "o"), ("sup", "^")):
        best = [found[f"d={d} N={n}"][kind].min() for n in widths]
        name = {"rmse": "root mean square", "sup": "largest"}[kind]
        axes.plot(widths, best, color=FAINT, lw=0.8, zorder=1)
        axes.plot([], [], marker, color=FAINT, mew=0, ms=5, label=f"{name}, $N^{{{slopes[kind]:.2f}}}$")
        for n, value in zip(widths, best, strict=True):
            arrays = found[f"d={d} N={n}"]
            color = colors(float(arrays["eps"][0]))
            axes.plot(
                np.full(arrays[kind].size, n), arrays[kind].ravel(), marker, color=color, ms=2.5, mew=0, alpha=0.6
            )
            axes.plot(n, value, marker, color=color, ms=6.5, mew=0)
    anchor = found[f"d={d} N={widths[0]}"]["sup"].min()
    axes.plot(widths, anchor * (widths / widths[0]) ** (-1 / int(d)), **THEORY, label=f"${_power(d)}$, the theory's")
    if d == "1":
        label = r"$\varepsilon\,\log 2$: two rows $\pm 1$, untrained"
        axes.plot(widths, math.log(2) / widths, color=ACCENT, lw=1.1, ls=(0, (1, 1.5)), label=label)
    logarithmic(axes, "x", widths)
    logarithmic(axes, "y")
    legend(axes, loc="lower left")
    low, high = axes.get_ylim()
    axes.set_ylim(low * (low / high) ** 0.42, high)
    dress(axes, rf"d = {d}: $\varepsilon$ tied to the width, $\varepsilon = {_power(d)}$", "rows $N$", "test error")


def _swept(
    axes: Axes, d: str, widths: list[int], eps: np.ndarray, found: dict[str, Arrays], colors: Temperatures
) -> None:
    for n, style, marker in zip(widths, ("-", (0, (4, 2))), ("o", "s"), strict=True):
        best = found[f"sweep d={d} N={n}"]["sup"].min(axis=0)
        axes.plot(eps, best, color=FAINT, lw=1.0, ls=style, zorder=1)
        for e, value in zip(eps, best, strict=True):
            face = colors(float(e)) if n == widths[-1] else "white"
            axes.plot(e, value, marker, color=colors(float(e)), mfc=face, ms=6, mew=1.4)
        face = FAINT if n == widths[-1] else "white"
        axes.plot([], [], marker, ls=style, color=FAINT, mfc=face, ms=5, label=f"N = {n}")
    axes.plot(eps, math.log(2) * eps, **THEORY, label=r"$\varepsilon\,\log 2$")
    for n in widths:
        axes.axvline(n ** (-1 / int(d)), color=INK, lw=0.5, alpha=0.4)
        # Where the curves are not: at the top on the left, at the bottom on the right.
        place, end = (0.985, "top") if n == widths[-1] else (0.02, "bottom")
        axes.text(
            n ** (-1 / int(d)), place, f"${_power(d)}$ at N = {n} ", transform=axes.get_xaxis_transform(), rotation=90,
            va=end, ha="right", fontsize=7, color=INK, alpha=0.8,
        )  # fmt: skip
    logarithmic(axes, "x", eps)
    logarithmic(axes, "y")
    legend(axes, loc="center right", bbox_to_anchor=(1.0, 0.38))
    dress(axes, rf"d = {d}: $N$ held, $\varepsilon$ moved", r"temperature $\varepsilon$", "largest test error")


def _grids(axes: Axes, parameters: Parameters, found: dict[str, Arrays]) -> None:
    slopes = _grid_slopes(parameters, found)
    for (d, sides), marker in zip(parameters["grid_sides"].items(), "os^", strict=False):
        totals = np.array(sides, float) ** int(d)
        for name, color in _COLORS.items():
            errors = found["quadrature"][f"{name} d={d}"]
            axes.plot(totals, errors, marker, color=color, ms=4.5, mew=0)
            power = -1 if name == "end points" else -2
            axes.plot(totals, errors[-1] * (totals / totals[-1]) ** (power / int(d)), **THIN)
            axes.text(
                totals[-1] * 1.25, errors[-1], f"d={d}: {slopes[name, d]:.2f}", color=color, fontsize=7.5, va="center"
            )
    for name, color in _COLORS.items():
        power = {"end points": "-1/d", "midpoints": "-2/d"}[name]
        axes.plot([], [], "o", color=color, ms=5, mew=0, label=f"grid with {name}: $N^{{{power}}}$ (dashed)")
    logarithmic(axes, "x")
    logarithmic(axes, "y")
    axes.set_xlim(right=axes.get_xlim()[1] * 12)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.25)
    legend(axes, loc="upper right")
    dress(axes, r"Quadrature alone ($\varepsilon = t = 1$): the boundary decides", "atoms $N$", "error of $u(0, 1)$")


EXPERIMENT = Experiment(
    "B",
    "Scaling: the error of a layer trained on |x|_2 against its width, temperature and quadrature.",
    _FULL,
    _QUICK,
    _parts,
    _compute,
    _conclude,
    _draw,
    generated,
)
