"""What is timed: `-eps log sum_j exp(-(scale |x_i - y_j|^2 + g_j)/eps)` on random clouds, float32."""

from typing import NamedTuple

import numpy as np

EPS, SCALE = 0.3, 0.5


class Workload(NamedTuple):
    """`kind` is "value", or "gradient" for value plus gradients (hjax: all inputs; pykeops: x only)."""

    kind: str
    d: int
    m: int
    n: int

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.kind} d={self.d}"

    @property
    def pairs(self) -> int:
        """M N."""
        return self.m * self.n

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries `(M, d)`, atoms `(N, d)` and values `(N,)`, the same in every run."""
        random = np.random.default_rng(self.d)
        x = random.normal(size=(self.m, self.d)).astype(np.float32)
        y = random.normal(size=(self.n, self.d)).astype(np.float32)
        return x, y, random.normal(size=self.n).astype(np.float32)


def workloads(quick: bool) -> list[Workload]:
    """The table's rows: four dimensions, forward and with gradients."""
    size = 4_096 if quick else 10_240
    return [Workload(kind, d, size, size) for kind in ("value", "gradient") for d in (1, 3, 16, 64)]


def float64_sample(workload: Workload, rows: int = 64) -> np.ndarray:
    """The exact values at the first queries, by plain NumPy in float64."""
    x, y, g = (a.astype(np.float64) for a in workload.data())
    costs = SCALE * ((x[:rows, None] - y) ** 2).sum(-1) + g
    least = costs.min(axis=1)
    return least - EPS * np.log(np.exp(-(costs - least[:, None]) / EPS).sum(axis=1))
