"""`python -m benchmarks.scan [--quick]`: state-space models in parallel over time against their recurrence.

T = 16,384 steps, 64 states, float32: the model with 1, 8 and 64 inputs and outputs (diagonal, and dense with one), and
the bare recurrence `x_{k+1} = a_k x_k + b_k` with all states kept. Each row is a value, or a value and its gradient in
all parameters and inputs. "sequential" is `jax.lax.scan` over steps; "associative_scan" is jax's own, as one would use
it. All of a workload run in turn, a fiftieth of a second each, round after round. A ratio is the median over rounds of
the ratios within a round; on a machine that does other work as well, look at those of the best rounds. Compile time is
apart. The table goes to `benchmarks/results/scan.json`.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax
from hjax.nn._linear_scan import linear_scan

from .record import machine, save

STEPS, STATES = 16_384, 64
_FILL = 0.02  # seconds


def associative(a: Array, b: Array) -> Array:
    """The same states by jax's parallel prefix."""

    def combine(first: Any, second: Any) -> Any:
        return second[0] * first[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(combine, (jnp.broadcast_to(a, b.shape), b))[1]


def sequential(a: Array, b: Array) -> Array:
    """The same states one after another."""

    def step(x: Array, at: Any) -> Any:
        x = at[0] * x + at[1]
        return x, x

    return jax.lax.scan(step, jnp.zeros_like(b[0]), (jnp.broadcast_to(a, b.shape), b))[1]


def by_associative_scan(model: hjax.nn.SSM, x: Array) -> Array:
    """A diagonal model as one would write it: all states by the parallel prefix, then C."""
    transition, weight = model._discretize()
    drives = x @ weight.T
    half = STATES // 2
    states = associative(
        jax.lax.complex(transition.real, transition.imaginary), jax.lax.complex(drives[:, :half], drives[:, half:])
    )
    return jnp.concatenate([states.real, states.imag], axis=1) @ model.output_weight.T + x @ model.feedthrough.T


def model_runners(structure: Any, channels: int) -> tuple[dict[str, Callable[..., Any]], tuple[Any, ...]]:
    """The model's two methods, and the associative scan where states are elementwise."""
    model = hjax.nn.SSM(channels, channels, STATES, structure=structure, key=jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(STEPS, channels)), jnp.float32)
    params, rest = eqx.partition(model, eqx.is_array)

    def run(method: Any, params: Any, x: Array) -> Array:
        return eqx.combine(params, rest)(x, method=method)

    runners: dict[str, Callable[..., Any]] = {
        f"hjax {m}": functools.partial(run, m) for m in ("parallel", "sequential")
    }
    if structure == "diagonal":
        runners["associative_scan"] = lambda params, x: by_associative_scan(eqx.combine(params, rest), x)
    return runners, (params, x)


def recurrence_runners(varying: bool) -> tuple[dict[str, Callable[..., Any]], tuple[Any, ...]]:
    """The bare recurrence, with constant or varying factors."""
    rng = np.random.default_rng(1)
    a = np.exp(-rng.uniform(1e-3, 1e-1, (STEPS, STATES) if varying else STATES))
    arguments = tuple(jnp.asarray(v, jnp.float32) for v in (a, rng.normal(size=(STEPS, STATES))))
    return {"hjax parallel": linear_scan, "hjax sequential": sequential, "associative_scan": associative}, arguments


def workloads() -> dict[str, Callable[[], tuple[dict[str, Callable[..., Any]], tuple[Any, ...]]]]:
    """Name -> how to make the runners and their arguments."""
    rows: dict[str, Callable[[], Any]] = {
        f"SSM, {c} in, {c} out, diagonal": functools.partial(model_runners, "diagonal", c) for c in (1, 8, 64)
    }
    rows["SSM, 1 in, 1 out, dense"] = functools.partial(model_runners, "dense", 1)
    rows["recurrence, constant a"] = functools.partial(recurrence_runners, False)
    rows["recurrence, varying a"] = functools.partial(recurrence_runners, True)
    return rows


def with_gradient(function: Callable[..., Array]) -> Callable[..., Any]:
    """The mean square and its gradient in all arguments."""
    return lambda *arguments: jax.value_and_grad(
        lambda arguments: jnp.mean(jnp.abs(function(*arguments)) ** 2)
    )(arguments)  # fmt: skip


def measure(rounds: int) -> Iterator[dict[str, Any]]:
    """One row per workload, kind and implementation."""
    for name, make in workloads().items():
        runners, arguments = make()
        for kind in ("value", "value and gradient"):
            ready, compiled_in, memory = {}, {}, {}
            for label, function in runners.items():
                start = time.perf_counter()
                wanted = function if kind == "value" else with_gradient(function)
                ready[label] = jax.jit(wanted).lower(*arguments).compile()
                compiled_in[label] = time.perf_counter() - start
                memory[label] = ready[label].memory_analysis().temp_size_in_bytes
                jax.block_until_ready(ready[label](*arguments))
            first = {label: jax.tree.leaves(run(*arguments))[0] for label, run in ready.items()}
            seconds: dict[str, list[float]] = {label: [] for label in ready}
            for _ in range(rounds):
                for label, run in ready.items():
                    # Some take a fraction of a millisecond: as many calls as fill a fiftieth of a second.
                    start, calls = time.perf_counter(), 0
                    while time.perf_counter() - start < _FILL:
                        jax.block_until_ready(run(*arguments))
                        calls += 1
                    seconds[label].append((time.perf_counter() - start) / calls)
            reference = np.asarray(first["hjax sequential"])
            for label, times in seconds.items():
                difference = np.abs(np.asarray(first[label]) - reference).max() / np.abs(reference).max()
                yield {
                    "workload": name,
                    "kind": kind,
                    "implementation": label,
                    "seconds": statistics.median(times),
                    "seconds_best": min(times),
                    "times_faster_than": {
                        other: statistics.median(b / a for a, b in zip(times, theirs, strict=True))
                        for other, theirs in seconds.items()
                        if other != label
                    },
                    "times_faster_than_best": {
                        other: min(theirs) / min(times) for other, theirs in seconds.items() if other != label
                    },
                    "relative_difference_from_sequential": float(difference),
                    "compile_seconds": compiled_in[label],
                    "temporary_bytes": memory[label],
                }


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds, and nothing is saved")
    options = parser.parse_args()
    rounds, rows = 3 if options.quick else 15, []
    for row in measure(rounds):
        rows.append(row)
        best = row["times_faster_than_best"]
        ratios = ", ".join(f"{v:.2f}x ({best[k]:.2f}x) {k}" for k, v in row["times_faster_than"].items())
        print(
            f"{row['workload']:28} {row['kind']:18} {row['implementation']:16} {1e3 * row['seconds']:7.2f} ms  "
            f"(best {1e3 * row['seconds_best']:6.2f})  {row['temporary_bytes'] / 1e6:6.1f} MB  {ratios}",
            flush=True,
        )
    if not options.quick:
        result = {"machine": machine(rounds), "steps": STEPS, "states": STATES, "rows": rows}
        save(Path(__file__).parent / "results" / "scan.json", result)


if __name__ == "__main__":
    main()
