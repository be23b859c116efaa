"""The quadrature experiment (exp.Q): which exponent in N the discrete solution has, and where it comes from."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

import hjax

from ._table import Evidence, Verdict, check

_SIDES = {1: (64, 256, 1024), 2: (32, 64, 128), 4: (6, 8, 11)}


def _by_pyramids(d: int) -> float:
    """-log of the mean of exp(-|y| - |y|^2/4) over [-2, 2]^d, to rounding.

    One quadrant is d pyramids with their tips at the kink; y = r (1, v) makes the integrand smooth on each.
    """
    nodes, weights = np.polynomial.legendre.leggauss(20)
    r, radial = nodes + 1, weights * (nodes + 1) ** (d - 1)
    v, flat = (nodes + 1) / 2, weights / 2
    squares, measure = np.zeros(()), np.ones(())
    for _ in range(d - 1):
        squares, measure = squares[..., None] + v**2, measure[..., None] * flat
    length = r * np.sqrt(1 + squares.reshape(-1, 1))
    integral = measure.ravel() @ np.exp(-length - length**2 / 4) @ radial
    return -math.log(d * integral / 2**d)


def grid_errors(sides: Mapping[int, Sequence[int]]) -> dict[int, dict[str, list[float]]]:
    """Errors at x = 0 of hjax's mean over grids of n^d points, n in `sides[d]`: with end points, and midpoints."""
    # One shape for every d and N: unused coordinates are zero, unused atoms absent.
    size, found = max(max(each) ** d for d, each in sides.items()), {}
    for d, each in sides.items():
        exact, errors = _by_pyramids(d), {"end points": [], "midpoints": []}
        for n in each:
            lines = {"end points": np.linspace(-2, 2, n), "midpoints": (np.arange(n) + 0.5) * 4 / n - 2}
            for name, line in lines.items():
                points, values = np.zeros((size, 4)), np.full(size, np.inf)
                grid = np.stack([axis.ravel() for axis in np.meshgrid(*d * [line])], axis=1)
                points[: n**d, :d], values[: n**d] = grid, np.linalg.norm(grid, axis=1)
                u = float(hjax.softmin(np.zeros(4), points, values, eps=1.0, cost=hjax.SquaredEuclidean(0.25)).value)
                errors[name].append(abs(u + math.log(n**d) - exact))
        found[d] = errors
    return found


@check(
    "exp.Q",
    "The mean over a grid of N points has error N^(-1/d); corrected: that is what equal weights cost at the "
    "boundary of a grid with end points, midpoints give N^(-2/d).",
    expected=Verdict.CORRECTED,
)
def quadrature_exponent() -> Evidence:
    """eps = t = 1, g = |y|, x = 0, means over [-2, 2]^d: hjax on both grids, and Gauss-Legendre on pyramids."""
    slopes = {}
    for d, errors in grid_errors(_SIDES).items():
        totals = [n**d for n in _SIDES[d]]
        slopes[d] = {name: float(np.polyfit(np.log(totals), np.log(e), 1)[0]) for name, e in errors.items()}
    figure = "; ".join(
        f"d={d}: N^{s['end points']:.2f} with end points, N^{s['midpoints']:.2f} with midpoints (-1/d = {-1 / d:.2f})"
        for d, s in slopes.items()
    )
    midpoint = max(abs(s["midpoints"] * d + 2) for d, s in slopes.items())
    ends = max(abs(s["end points"] * d + 1) for d, s in slopes.items())
    return Evidence(holds=not midpoint < 0.5, corrected=bool(midpoint < 0.2 and ends < 0.25), figure=figure)
