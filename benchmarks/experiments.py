"""`python -m benchmarks.experiments [--steps K] [--rounds R] [--out FILE]`: the training core of `hjax reproduce`.

A, B and C at full parameters but few of their steps, all seeds and temperatures at once by hjax, against NumPy seed by
seed with the same arithmetic in the same precision: the forward pass, the gradient written out by hand, Adam. Once with
matrix products and in-place arrays, once as one writes it first, with (batch, N, d) broadcast. NumPy's matrix products
run on one thread: on small arrays, and where other work runs beside, more of them only wait for each other. Every round
runs all of them in turn; ratios are medians over rounds of ratios within a round. Compilation is apart: hjax's step
time is that of a long run less that of a short one. All start from the same parameters, and their losses after the last
step are compared. The last line adds them up, each times the steps that its experiment takes.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import hjax
from hjax.experiments import reproduce
from hjax.experiments.reproduce import _layers
from hjax.experiments.reproduce._recovery import exact_solution

from .record import machine, save


class Core(NamedTuple):
    """What is trained: points `(M, d)`, targets `(temperatures, M)`, and everything that `fit_many` wants."""

    name: str
    x: np.ndarray
    y: np.ndarray
    width: int
    eps: list[float]
    seeds: int
    rate: float
    rows: float
    biases: float
    tiled: bool
    full_steps: int

    @property
    def make(self) -> Callable[..., Any]:
        """`(key, eps) -> layer`, of a certain width and precision."""
        return functools.partial(
            _layers.make_layer, d=self.x.shape[1], width=self.width, rows=self.rows, biases=self.biases,
            dtype=self.x.dtype.name,
        )  # fmt: skip

    def start(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows and biases of each seed."""
        keys = jax.random.split(jax.random.key(0), self.seeds)
        layers = [self.make(key, jnp.asarray(self.eps[0])) for key in keys]
        return [(np.array(layer.weight), np.array(layer.bias)) for layer in layers]


def cores() -> list[Core]:
    """A, C, and B at a narrow and a wide layer for each d."""
    a, b, c = (reproduce.EXPERIMENTS[name].full for name in "ABC")
    x = np.linspace(-a["points_within"], a["points_within"], a["points"])
    recovery = Core(
        f"A: {a['seeds']} seeds x {len(a['eps'])} eps, N = {a['width']}", x[:, None],
        x**2 / 4 - exact_solution(a, x), a["width"], a["eps"], a["seeds"], a["rate"], a["rows"], a["biases"], False,
        a["steps"],
    )  # fmt: skip
    found = [recovery]
    for d, n in ((1, 50), (1, 500), (2, 500), (4, 1000)):
        random = np.random.default_rng(d)
        x = random.uniform(-2, 2, (b["training_points"], d)).astype(np.float32)
        found.append(
            Core(
                f"B: d = {d}, {b['seeds']} seeds, N = {n}", x, np.linalg.norm(x, axis=1)[None], n, [n ** (-1 / d)],
                b["seeds"], b["rate"], b["rows"] / d**0.5, b["biases"], b["training_points"] * n > 2**17, b["steps"],
            )
        )  # fmt: skip
    x = np.linspace(-c["within"], c["within"], c["points"])
    targets = np.broadcast_to(np.abs(x), (len(c["eps"]), len(x)))
    found.append(
        Core(
            f"C: {c['seeds']} seeds x {len(c['eps'])} eps, N = {c['width']}", x[:, None], targets, c["width"], c["eps"],
            c["seeds"], c["rate"], c["rows"], c["biases"], False, c["steps"],
        )
    )  # fmt: skip
    return found


def ours(core: Core, steps: int) -> np.ndarray:
    """Losses `(seeds, temperatures)` before the last step, in compiled pieces of ten steps."""
    fits = hjax.training.fit_many(
        core.make, (core.x, core.y), keys=jax.random.split(jax.random.key(0), core.seeds), eps=core.eps,
        data_axes=(None, "eps"), predict=_layers.tiled_values if core.tiled else _layers.dense_values,
        optimizer=_layers.adam(core.rate), steps=steps, every=10, progress=False,
    )  # fmt: skip
    return fits.losses[..., -1]


def products(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: Any, work: np.ndarray) -> Any:
    """Loss and gradient by matrix products, in the array `work (M, N)`."""
    np.matmul(x, weight.T, out=work)
    work += bias
    top = work.max(axis=1)
    work -= top[:, None]
    work /= eps
    np.exp(work, out=work)
    total = work.sum(axis=1)
    residual = top + eps * np.log(total) - y
    work *= (2 / len(y) * residual / total)[:, None].astype(x.dtype)
    return (residual**2).mean(), work.T @ x, work.sum(axis=0)


def broadcast(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: Any, work: np.ndarray) -> Any:
    """The same, as one writes it first: products of coordinates as an array (M, N, d)."""
    del work
    a = (x[:, None, :] * weight[None]).sum(axis=-1) + bias
    top = a.max(axis=1, keepdims=True)
    z = np.exp((a - top) / eps)
    p = z / z.sum(axis=1, keepdims=True)
    residual = top[:, 0] + eps * np.log(z.sum(axis=1)) - y
    g = (2 / len(y) * residual)[:, None].astype(x.dtype) * p
    return (residual**2).mean(), (g[:, :, None] * x[:, None, :]).sum(axis=0), g.sum(axis=0)


def loop(core: Core, gradient: Callable[..., Any], steps: int) -> np.ndarray:
    """Adam seed by seed and temperature by temperature; losses before the last step."""
    losses = np.empty((core.seeds, len(core.eps)))
    dtype = core.x.dtype.type
    work = np.empty((len(core.x), core.width), dtype)
    for seed, (weight, bias) in enumerate(core.start()):
        for i, eps in enumerate(core.eps):
            params = [weight.copy(), bias.copy()]
            first, second = ([np.zeros_like(p) for p in params] for _ in range(2))
            y = np.ascontiguousarray(core.y[i], dtype)
            for k in range(1, steps + 1):
                losses[seed, i], *slopes = gradient(core.x, y, *params, dtype(eps), work)
                for p, g, m, v in zip(params, slopes, first, second, strict=True):
                    m += dtype(0.1) * (g - m)
                    v += dtype(0.001) * (g * g - v)
                    p -= dtype(core.rate) * (m / dtype(1 - 0.9**k)) / (np.sqrt(v / dtype(1 - 0.999**k)) + dtype(1e-8))
    return losses


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds on the clock, seconds of all cores, and the result."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - clock, time.process_time() - cpu, result


def measure(core: Core, steps: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a step of all members, by the clock and in processor time, and ratios within a round."""
    many = max(20, 10 * round(20 * steps / 10)) if core.width * core.x.shape[0] < 2**17 else 10 * steps
    ours(core, 10)
    seconds: dict[str, list[tuple[float, float]]] = {"hjax": [], "matrix products": [], "broadcast": []}
    for _ in range(rounds):
        short, long = timed(lambda: ours(core, 10)), timed(lambda: ours(core, 10 + many))
        seconds["hjax"].append(((long[0] - short[0]) / many, (long[1] - short[1]) / many))
        for name, gradient in (("matrix products", products), ("broadcast", broadcast)):
            with threadpool_limits(1):
                spent = timed(functools.partial(loop, core, gradient, steps))
            seconds[name].append((spent[0] / steps, spent[1] / steps))
    row: dict[str, Any] = {"core": core.name, "dtype": core.x.dtype.name, "steps": steps}
    row["steps of the experiment"] = core.full_steps
    for name, spent in seconds.items():
        row[f"{name}, ms a step"] = 1e3 * statistics.median(s for s, _ in spent)
        row[f"{name}, ms of processor"] = 1e3 * statistics.median(c for _, c in spent)
    for name in ("matrix products", "broadcast"):
        pairs = list(zip(seconds[name], seconds["hjax"], strict=True))
        row[f"times faster than {name}"] = statistics.median(theirs[0] / mine[0] for theirs, mine in pairs)
        row[f"times less processor than {name}"] = statistics.median(theirs[1] / mine[1] for theirs, mine in pairs)
    after = [ours(core, steps), loop(core, products, steps), loop(core, broadcast, steps)]
    row["largest relative difference of losses"] = max(float(np.abs(a / after[0] - 1).max()) for a in after[1:])
    return row


def together(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of all cores with all steps of their experiments, and ratios."""
    names = "hjax", "matrix products", "broadcast"
    seconds = {n: sum(row[f"{n}, ms a step"] * row["steps of the experiment"] for row in rows) / 1e3 for n in names}
    ratios = {f"times faster than {n}": seconds[n] / seconds["hjax"] for n in names[1:]}
    return {f"{n}, s": s for n, s in seconds.items()} | ratios


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="NumPy's steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "experiments.json")
    options = parser.parse_args()
    rows = []
    with jax.enable_x64(True):
        for core in cores():
            row = measure(core, options.steps, options.rounds)
            rows.append(row)
            print(
                f"{row['core']:<32} {row['dtype']}  hjax {row['hjax, ms a step']:8.2f} ms a step "
                f"({row['hjax, ms of processor']:.2f} of processor); "
                f"x {row['times faster than matrix products']:.1f} over matrix products, "
                f"x {row['times faster than broadcast']:.1f} over broadcast "
                f"(processor: {row['times less processor than matrix products']:.1f}, "
                f"{row['times less processor than broadcast']:.1f}); "
                f"losses within {row['largest relative difference of losses']:.0e}",
                flush=True,
            )
    total = together(rows)
    print(
        f"all with all their steps: hjax {total['hjax, s']:.0f} s; "
        f"x {total['times faster than matrix products']:.1f} over matrix products, "
        f"x {total['times faster than broadcast']:.1f} over broadcast"
    )
    measured_on = machine(options.rounds) | {"load": os.getloadavg()[0], "numpy": np.__version__}
    save(options.out, {"machine": measured_on, "rows": rows, "together": total})


if __name__ == "__main__":
    main()
