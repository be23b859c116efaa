"""How a workload is timed: every runner in turn, round after round, so that the machine's moods hit all alike."""

import statistics
import time
from typing import Any

import jax
import numpy as np

from .workloads import Program, Workload


class Ready:
    """A runner made ready: compiled if it is a program, and run once."""

    def __init__(self, made: Any):
        start = time.perf_counter()
        self.temporary_bytes = None
        if isinstance(made, Program):
            compiled = jax.jit(made.function).lower(*made.arguments).compile()
            analysis = compiled.memory_analysis()
            self.temporary_bytes = analysis.temp_size_in_bytes if analysis else None
            self.compile_seconds = time.perf_counter() - start
            self.call = lambda: np.asarray(jax.block_until_ready(compiled(*made.arguments))[0])
            self.first = self.call()
        else:
            self.call = made
            self.first = self.call()
            self.compile_seconds = None


def measure(workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """One row per runner: seconds (median, p10, p90), rate, error, ratios within a round to every other runner."""
    ready = {name: Ready(make()) for name, make in workload.runners.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(min(rounds, workload.rounds or rounds)):
        for name, runner in ready.items():
            start = time.perf_counter()
            runner.call()
            seconds[name].append(time.perf_counter() - start)
    exact = None if workload.exact is None else workload.exact()
    rows = []
    for name, times in seconds.items():
        low, median, high = np.quantile(times, [0.1, 0.5, 0.9])
        error = None if exact is None else float(np.abs(ready[name].first[: exact.size] - exact).max())
        rows.append(
            {
                "workload": workload.name,
                "implementation": name,
                "seconds": float(median),
                "seconds_p10": float(low),
                "seconds_p90": float(high),
                "pairs": workload.pairs,
                "giga_pairs_per_second": workload.pairs / float(median) / 1e9,
                "times_faster_than": {
                    other: statistics.median(b / a for a, b in zip(times, theirs, strict=True))
                    for other, theirs in seconds.items()
                    if other != name
                },
                # A peer that underflowed; JSON has no NaN.
                "error": "nan" if error != error else error,
                "compile_seconds": ready[name].compile_seconds,
                "temporary_bytes": ready[name].temporary_bytes,
            }
        )
    return rows
