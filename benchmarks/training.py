"""`python -m benchmarks.training [--quick] [--out FILE]`: training, in one program and one after another.

An ensemble against its members one by one, in one program on one device and on all cores as devices, and one step of
a layer against NumPy. One row per workload and
implementation: seconds per step (of all members), best and median of interleaved rounds, and the ratio of the best
times to every other implementation. Compile time is not in it.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import hjax

from .record import machine, save

# Runs `steps` steps of everything the workload trains.
Runner = Callable[[int], Any]
TEMPERATURES = (0.5, 0.3, 0.2, 0.1, 0.05)
SEEDS = 8
RATE = 5e-3


def absolute_value(d: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(d).uniform(-2, 2, (samples, d)).astype(np.float32)
    return x, np.linalg.norm(x, axis=1).astype(np.float32)


def ensemble(d: int, width: int, samples: int, batch: int | None) -> dict[str, Runner]:
    """8 seeds x 5 temperatures: at once (twice), one after another in compiled pieces, step by step from Python."""
    data, optimizer, keys = absolute_value(d, samples), optax.adam(RATE), jax.random.split(jax.random.key(0), SEEDS)

    def make(key: Any, eps: Any) -> hjax.nn.LSELayer:
        return hjax.nn.LSELayer(d, "scalar", width, eps=eps, key=key)

    def together(steps: int, mesh: Any = None) -> Any:
        return hjax.training.fit_many(
            make, data, keys=keys, eps=TEMPERATURES, steps=steps, batch_size=batch, optimizer=optimizer, every=_PIECE,
            mesh=mesh,
        )  # fmt: skip

    def shared(steps: int) -> Any:
        return together(steps, Mesh(jax.devices(), ("seed",)))

    def in_turn(steps: int) -> Any:
        for key in keys:
            for eps in TEMPERATURES:
                hjax.training.fit(
                    make(key, eps), data, steps=steps, batch_size=batch, optimizer=optimizer, every=_PIECE, key=keys[0]
                )

    @eqx.filter_jit
    def step(model: Any, state: Any, x: Any, y: Any) -> Any:
        def loss(weights: Any) -> Any:
            moved = eqx.tree_at(lambda m: (m.weight, m.bias), model, weights)
            return jnp.mean((jax.vmap(moved)(x) - y) ** 2)

        weights = (model.weight, model.bias)
        updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
        return eqx.tree_at(lambda m: (m.weight, m.bias), model, optax.apply_updates(weights, updates)), state

    def plain(steps: int) -> Any:
        random = np.random.default_rng(0)
        steps = max(1, steps // _SHORTER)  # each costs the same, and there are 40 of them
        for key in keys:
            for eps in TEMPERATURES:
                model = make(key, eps)
                state = optimizer.init((model.weight, model.bias))
                for _ in range(steps):
                    rows = slice(None) if batch is None else random.integers(0, samples, batch)
                    model, state = step(model, state, data[0][rows], data[1][rows])
                jax.block_until_ready(model.weight)

    return {_SHARED: shared, "fit_many": together, "fit, one by one": in_turn, _LOOP: plain}


_PIECE = 200
_SHARED = "fit_many, cores as devices"
_LOOP, _SHORTER = "a loop of jitted steps", 10


def network(d: int = 50, width: int = 128, batch: int = 256) -> dict[str, Runner]:
    """Adam on one LSE layer, against the same arithmetic in NumPy: two matrix products, an exponential, Adam."""
    x, y = absolute_value(d, batch)
    layer = hjax.nn.LSELayer(d, "scalar", width, eps=0.3, key=jax.random.key(0))
    optimizer = optax.adam(RATE)

    def ours(steps: int) -> Any:
        return hjax.training.fit(layer, (x, y), steps=steps, optimizer=optimizer, every=_PIECE).model.weight

    def numpy(dtype: Any) -> Runner:
        start = [np.asarray(a, dtype) for a in (layer.weight, layer.bias)]
        x_, y_ = x.astype(dtype), y.astype(dtype)
        return lambda steps: numpy_adam(start, x_, y_, dtype(0.3), steps)[0]

    return {"hjax": ours, "numpy float32": numpy(np.float32), "numpy float64": numpy(np.float64)}


def numpy_adam(start: list[np.ndarray], x: np.ndarray, y: np.ndarray, eps: Any, steps: int) -> list[np.ndarray]:
    """Adam on the mean squared error of `eps log sum exp((W x + b)/eps)`, derivatives by hand."""
    one = x.dtype.type
    parameters = list(start)
    first, second = [np.zeros_like(a) for a in start], [np.zeros_like(a) for a in start]
    for k in range(1, steps + 1):
        scores = x @ parameters[0].T + parameters[1]
        top = scores.max(axis=1, keepdims=True)
        weights = np.exp((scores - top) / eps)
        total = weights.sum(axis=1, keepdims=True)
        values = top[:, 0] + eps * np.log(total[:, 0])
        slopes = (one(2 / len(x)) * (values - y))[:, None] * (weights / total)
        for i, gradient in enumerate((slopes.T @ x, slopes.sum(axis=0))):
            first[i] = one(0.9) * first[i] + one(0.1) * gradient
            second[i] = one(0.999) * second[i] + one(0.001) * gradient * gradient
            size = np.sqrt(second[i] / one(1 - 0.999**k)) + one(1e-8)
            parameters[i] = parameters[i] - one(RATE / (1 - 0.9**k)) * first[i] / size
    return parameters


def workloads(rounds: int) -> dict[str, tuple[Callable[[], dict[str, Runner]], int, int]]:
    """Name -> how to make the runners, steps of one round, rounds."""
    rows: dict[str, tuple[Callable[[], dict[str, Runner]], int, int]] = {
        f"40 fits, d=1, N={n}, 400 points": (lambda n=n: ensemble(1, n, 400, None), 4 * _PIECE, rounds)
        for n in (10, 30)
    }
    rows["40 fits, d=50, N=128, batch 256"] = (lambda: ensemble(50, 128, 4_096, 256), _PIECE, 2)
    rows["LSE step d=50, N=128, batch 256"] = (network, 5 * _PIECE, 2 * rounds)
    return rows


def train(rounds: int) -> Iterator[dict[str, Any]]:
    """One row per workload and implementation."""
    for name, (make, steps, rounds_of_it) in workloads(rounds).items():
        runners = make()
        seconds: dict[str, list[float]] = {label: [] for label in runners}
        for runner in runners.values():
            runner(_SHORTER)
        for _ in range(rounds_of_it):
            for label, runner in runners.items():
                start = time.perf_counter()
                jax.block_until_ready(jax.tree.leaves(runner(steps)))
                made = steps // _SHORTER if label == _LOOP else steps
                seconds[label].append((time.perf_counter() - start) / made)
        for label, times in seconds.items():
            yield {
                "workload": name,
                "implementation": label,
                "rounds": rounds_of_it,
                "seconds_per_step": min(times),
                "seconds_per_step_median": statistics.median(times),
                "times_faster_than": {o: min(s) / min(times) for o, s in seconds.items() if o != label},
            }


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    options = parser.parse_args()
    # No more than there are seeds; the first device still uses all cores by itself.
    jax.config.update("jax_num_cpu_devices", min(SEEDS, os.cpu_count() or 1))
    rounds, rows = 3 if options.quick else 9, []
    for row in train(rounds):
        rows.append(row)
        ratios = ", ".join(f"{v:.2f}x {k}" for k, v in row["times_faster_than"].items())
        print(
            f"{row['workload']:36} {row['implementation']:26} {1e6 * row['seconds_per_step']:9.0f} us/step "
            f"(median {1e6 * row['seconds_per_step_median']:.0f})  {ratios}",
            flush=True,
        )
    save(options.out, {"machine": machine(rounds), "rows": rows})


if __name__ == "__main__":
    main()
