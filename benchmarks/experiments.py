"""`python -m benchmarks.experiments [--steps K] [--rounds R] [--out FILE]`: the training core of `hjax reproduce`.

A, every width of B, C and E (one batch of its digits) at full parameters but few of their steps: all seeds and
temperatures of a width at once by hjax, by the functions of `hjax reproduce`, against NumPy seed by seed with the same
arithmetic in the same precision: the forward pass, the gradient written out by hand, Adam. Once with matrix products
and in-place arrays, once as one writes it first, with (batch, N, d) broadcast. NumPy's matrix products run on one
thread: on small arrays, and where other work runs beside, more of them only wait for each other. Every round runs all
of them in turn; ratios are medians over rounds of ratios within a round. Compilation is apart: hjax's step time is that
of a long run less that of a short one. All start from the same parameters, and their losses after the last step are
compared. The last line adds them up, each times the steps that its experiment takes. D and G train nothing.

Where eps is small, exponentials that underflow slow NumPy down: most of the ratio of B at d = 2, N = 500.
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
from hjax.experiments.reproduce import _hessians, _images, _layers
from hjax.experiments.reproduce._recovery import exact_solution

from .record import machine, save

Start = dict[tuple[int, int], list[np.ndarray]]


class Core(NamedTuple):
    """What is trained: points `(M, d)`, targets `(temperatures, M)`, and everything that `fit_many` wants."""

    name: str
    x: np.ndarray
    y: np.ndarray
    eps: list[float]
    seeds: int
    rate: float
    full_steps: int
    make: Callable[..., Any]
    predict: Callable[..., Any]

    def start(self) -> Start:
        """Of each member rows and biases; of a network with an output layer its weight and bias too."""
        keys = jax.random.split(jax.random.key(0), self.seeds)
        return {
            (seed, i): [np.array(a) for a in _parameters(self.make(key, jnp.asarray(eps)))]
            for seed, key in enumerate(keys)
            for i, eps in enumerate(self.eps)
        }


def _parameters(model: Any) -> tuple[Any, ...]:
    if isinstance(model, hjax.nn.LSELayer):
        return model.weight, model.bias
    (layer,) = model.layers
    return layer.weight[0], layer.bias[0], model.output_weight[0], model.output_bias


def _of_layers(name: str, given: dict[str, Any], x: np.ndarray, y: np.ndarray, width: int, eps: list[float]) -> Core:
    make = functools.partial(
        _layers.make_layer, d=x.shape[1], width=width, rows=given["rows"] / x.shape[1] ** 0.5, biases=given["biases"],
        dtype=x.dtype.name,
    )  # fmt: skip
    return Core(
        f"{name}: {given['seeds']} seeds x {len(eps)} eps, d = {x.shape[1]}, N = {width}", x,
        np.broadcast_to(y, (len(eps), len(x))), eps, given["seeds"], given["rate"], given["steps"], make,
        _layers.values_of,
    )  # fmt: skip


def cores() -> list[Core]:
    """A, C and E, and B at every width."""
    a, b, c, e = (reproduce.EXPERIMENTS[name].full for name in "ABCE")
    x = np.linspace(-a["points_within"], a["points_within"], a["points"])
    found = [_of_layers("A", a, x[:, None], x**2 / 4 - exact_solution(a, x), a["width"], a["eps"])]
    sweep = b | {"seeds": b["sweep_seeds"]}
    for name, given, widths in (("B", b, b["widths"]), ("B, sweep", sweep, b["sweep_widths"])):
        for d, n in ((int(d), n) for d, some in widths.items() for n in some):
            x = np.random.default_rng(d).uniform(-2, 2, (b["training_points"], d)).astype(np.float32)
            eps = b["sweep_eps"] if given is sweep else [n ** (-1 / d)]
            found.append(_of_layers(name, given, x, np.linalg.norm(x, axis=1), n, eps))
    x = np.linspace(-c["within"], c["within"], c["points"])
    found.append(_of_layers("C", c, x[:, None], np.abs(x), c["width"], c["eps"]))
    images = _images.principal_components(_images.load(_images.MNIST), e["components"])
    x, labels = images.x[: e["batch"]].astype(np.float32), images.labels[: e["batch"]]
    y = np.broadcast_to(np.where(labels % 2, -1, 1).astype(np.float32), (len(e["eps"]), len(x)))
    name = f"E: {e['seeds']} seeds x {len(e['eps'])} eps, d = {x.shape[1]}, N = {e['width']}"
    make = functools.partial(_hessians.make_network, d=x.shape[1], width=e["width"])
    return [*found, Core(name, x, y, e["eps"], e["seeds"], e["rate"], e["steps"], make, _hessians.outputs_of)]


def ours(core: Core, steps: int) -> np.ndarray:
    """Losses `(seeds, temperatures)` before the last step, in compiled pieces of ten steps."""
    fits = hjax.training.fit_many(
        core.make, (core.x, core.y), keys=jax.random.split(jax.random.key(0), core.seeds), eps=core.eps,
        data_axes=(None, "eps"), predict=core.predict, optimizer=_layers.adam(core.rate), steps=steps, every=10,
        progress=False,
    )  # fmt: skip
    return fits.losses[..., -1]


def products(x: np.ndarray, y: np.ndarray, params: list[np.ndarray], eps: Any, work: np.ndarray) -> Any:
    """Loss and gradient by matrix products, in the array `work (M, N)`."""
    weight, bias, *output = params
    np.matmul(x, weight.T, out=work)
    work += bias
    top = work.max(axis=1)
    work -= top[:, None]
    work /= eps
    np.exp(work, out=work)
    total = work.sum(axis=1)
    loss, slopes, last = behind(top + eps * np.log(total), y, output)
    work *= (slopes / total)[:, None].astype(x.dtype)
    return loss, work.T @ x, work.sum(axis=0), *last


def broadcast(x: np.ndarray, y: np.ndarray, params: list[np.ndarray], eps: Any, work: np.ndarray) -> Any:
    """The same, as one writes it first: products of coordinates as an array (M, N, d)."""
    del work
    weight, bias, *output = params
    a = (x[:, None, :] * weight[None]).sum(axis=-1) + bias
    top = a.max(axis=1, keepdims=True)
    z = np.exp((a - top) / eps)
    p = z / z.sum(axis=1, keepdims=True)
    loss, slopes, last = behind(top[:, 0] + eps * np.log(z.sum(axis=1)), y, output)
    g = slopes[:, None].astype(x.dtype) * p
    return loss, (g[:, :, None] * x[:, None, :]).sum(axis=0), g.sum(axis=0), *last


def behind(values: np.ndarray, y: np.ndarray, output: list[np.ndarray]) -> tuple[Any, np.ndarray, list[Any]]:
    """Mean square, its derivative in the values of the layer, and in what stands behind it: `w f + c`, or nothing."""
    residual = (output[0] * values + output[1] if output else values) - y
    slopes = 2 / len(y) * residual
    last = [(slopes * values).sum(), slopes.sum()] if output else []
    return (residual**2).mean(), slopes * output[0] if output else slopes, last


def loop(core: Core, start: Start, gradient: Callable[..., Any], steps: int) -> np.ndarray:
    """Adam seed by seed and temperature by temperature; losses before the last step."""
    losses = np.empty((core.seeds, len(core.eps)))
    dtype = core.x.dtype.type
    for (seed, i), given in start.items():
        params = [a.copy() for a in given]
        work = np.empty((len(core.x), len(params[0])), dtype)
        first, second = ([np.zeros_like(p) for p in params] for _ in range(2))
        y = np.ascontiguousarray(core.y[i], dtype)
        for k in range(1, steps + 1):
            losses[seed, i], *slopes = gradient(core.x, y, params, dtype(core.eps[i]), work)
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
    many = 20 * steps
    ours(core, 10)
    start = core.start()
    seconds: dict[str, list[tuple[float, float]]] = {"hjax": [], "matrix products": [], "broadcast": []}
    for _ in range(rounds):
        short, long = timed(lambda: ours(core, 10)), timed(lambda: ours(core, 10 + many))
        seconds["hjax"].append(((long[0] - short[0]) / many, (long[1] - short[1]) / many))
        for name, gradient in (("matrix products", products), ("broadcast", broadcast)):
            with threadpool_limits(1):
                spent = timed(functools.partial(loop, core, start, gradient, steps))
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
    after = [ours(core, steps), loop(core, start, products, steps), loop(core, start, broadcast, steps)]
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
                f"{row['core']:<42} {row['dtype']}  hjax {row['hjax, ms a step']:8.2f} ms a step "
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
