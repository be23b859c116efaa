"""`python -m benchmarks [--quick] [--out DIR]`: the table, a JSON file, a picture.

Every workload runs all implementations in turn, round after round, so that the machine's moods hit
them alike; a ratio is the median over rounds of the ratios within a round. Compilation is timed apart.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import hjax

from .picture import draw
from .runners import Prepared, runners
from .workloads import Workload, float64_sample, workloads

PEERS = ("pykeops", "jnp")


def measure(workload: Workload, prepared: dict[str, Prepared], rounds: int) -> list[dict[str, Any]]:
    """One row per implementation: seconds (median, p10, p90), rate, error, ratios to the peers."""
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    exact = float64_sample(workload)
    errors = {name: float(np.abs(p.call()[: exact.size] - exact).max()) for name, p in prepared.items()}
    for _ in range(rounds):
        for name, runner in prepared.items():
            start = time.perf_counter()
            runner.call()
            seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        against = {
            peer: statistics.median(theirs / mine for theirs, mine in zip(seconds[peer], times, strict=True))
            for peer in PEERS
            if peer in seconds and peer != name
        }
        median = statistics.median(times)
        low, high = np.quantile(times, [0.1, 0.9])
        rows.append(
            {
                "workload": workload.name,
                "implementation": name,
                "m": workload.m,
                "n": workload.n,
                "d": workload.d,
                "seconds": median,
                "seconds_p10": float(low),
                "seconds_p90": float(high),
                "giga_pairs_per_second": workload.pairs / median / 1e9,
                "times_faster_than": against,
                "error": errors[name],
                "compile_seconds": prepared[name].compile_seconds,
                "temporary_bytes": prepared[name].temporary_bytes,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows as one screen of text."""
    result = Table(title="softmin: giga-pairs/s (higher is better), ratios within one run")
    for column in ("workload", "implementation", "ms", "Gpairs/s", *(f"x {p}" for p in PEERS)):
        result.add_column(column, justify="left" if column in ("workload", "implementation") else "right")
    for column in ("error", "temp MB", "compile s"):
        result.add_column(column, justify="right")
    for row in rows:
        temporary = row["temporary_bytes"]
        result.add_row(
            row["workload"],
            row["implementation"],
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['giga_pairs_per_second']:.3f}",
            *(f"{row['times_faster_than'][p]:.1f}" if p in row["times_faster_than"] else "" for p in PEERS),
            f"{row['error']:.1e}",
            "" if temporary is None else f"{temporary / 1e6:.1f}",
            f"{row['compile_seconds']:.1f}",
        )
    return result


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4,096 points, 3 rounds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds
    console = Console(width=100)
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        chosen = workloads(options.quick)
        task = progress.add_task("benchmarks", total=len(chosen))
        for workload in chosen:
            prepared = {name: prepare(workload) for name, prepare in runners().items()}
            rows += measure(workload, prepared, rounds)
            progress.advance(task)
    console.print(table(rows))
    machine = {
        "device": str(jax.devices()[0]),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "hjax": hjax.__version__,
        "rounds": rounds,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    stem = "quick" if options.quick else "reductions"
    temporary = options.out / f".{stem}.json"
    temporary.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    temporary.replace(options.out / f"{stem}.json")
    draw(rows, options.out / f"{stem}.png")
    console.print(f"saved {stem}.json and {stem}.png in {options.out}")


if __name__ == "__main__":
    main()
