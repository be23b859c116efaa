"""`python -m benchmarks [--quick] [--only TEXT] [--out DIR]`: the table, a JSON file, two pictures.

Every workload runs hjax and its peers in turn, round after round; a ratio is the median over rounds of the
ratios within a round. Compilation is timed apart. The C loop is the limit of this machine, not a peer: it
does the sums alone, and is told the stabiliser.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .picture import draw_scaling, draw_table
from .record import machine, save
from .scaling import curves, scale
from .timing import measure
from .workloads import workloads


def is_ours(name: str) -> bool:
    return name.startswith("hjax")


def best_peer(row: dict[str, Any]) -> tuple[str, float] | None:
    """The fastest peer and how many times faster than it this row is; jnp counts, the C loop does not."""
    ratios = {k: v for k, v in row["times_faster_than"].items() if not is_ours(k) and k != "C loop"}
    return min(ratios.items(), key=lambda item: item[1], default=None)


def geometric_means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of hjax over pykeops, for each kind of workload."""
    found: dict[str, list[float]] = {}
    for row in rows:
        ratio = row["times_faster_than"].get("pykeops")
        kind, _, d = row["workload"].partition(" d=")
        if row["implementation"] == "hjax" and ratio and d in ("1", "3", "16", "64"):
            found.setdefault(kind, []).append(ratio)
    return {kind: math.exp(sum(map(math.log, r)) / len(r)) for kind, r in found.items()}


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows as text."""
    result = Table(title="times, rates over all pairs, and how many times faster than peers in the same run")
    for column in ("workload", "implementation"):
        result.add_column(column)
    for column in ("ms", "Gpairs/s", "x best peer", "x pykeops", "x C loop", "error", "temp MB", "compile s"):
        result.add_column(column, justify="right")
    for row in rows:
        peer = best_peer(row) if is_ours(row["implementation"]) else None
        ratios = row["times_faster_than"] if is_ours(row["implementation"]) else {}
        cells = [
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['giga_pairs_per_second']:.3g}",
            f"{peer[1]:.2f} ({peer[0]})" if peer else "",
            f"{ratios['pykeops']:.1f}" if "pykeops" in ratios else "",
            f"{ratios['C loop']:.2f}" if "C loop" in ratios else "",
            "" if row["error"] is None else f"{float(row['error']):.1e}",
            "" if row["temporary_bytes"] is None else f"{row['temporary_bytes'] / 1e6:.1f}",
            "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}",
        ]
        result.add_row(row["workload"], row["implementation"], *cells)
    return result


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller problems, 2 rounds: under two minutes")
    parser.add_argument("--only", default="", help="workloads whose name contains this, and no scaling curves")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds = 2 if options.quick else options.rounds
    console = Console(width=140)
    rows: list[dict[str, Any]] = []
    scaling: list[dict[str, Any]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    stem = "quick" if options.quick else "reductions"

    def save_all() -> None:
        # After every row: a run that is stopped has lost nothing.
        if options.only:
            return
        means = geometric_means(rows)
        result = {"machine": machine(rounds), "geometric_mean_over_pykeops": means, "rows": rows, "scaling": scaling}
        save(options.out / f"{stem}.json", result)

    with Progress(console=Console(stderr=True), transient=True) as progress:
        makers = workloads(options.quick)
        task = progress.add_task("workloads", total=len(makers))
        for make in makers:
            workload = make()
            if options.only in workload.name:
                rows += measure(workload, rounds)
                save_all()
            progress.advance(task)
        if not options.only:
            task = progress.add_task("scaling", total=len(curves(options.quick)))
            for curve in scale(options.quick):
                scaling.append(curve)
                save_all()
                progress.advance(task)
    console.print(table(rows))
    for kind, mean in geometric_means(rows).items():
        console.print(f"geometric mean over d, hjax over pykeops, {kind}: {mean:.1f}")
    for curve in scaling:
        seconds = ", ".join(f"{n:,}: {s:.3g} s" for n, s in zip(curve["n"], curve["seconds"], strict=True))
        console.print(f"{curve['curve']}: N^{curve['exponent']:.2f}   ({seconds})")
    if not options.only:
        draw_table(rows, options.out / f"{stem}.png")
        draw_scaling(scaling, options.out / f"{stem}-scaling.png")
        console.print(f"saved {stem}.json and two pictures in {options.out}")


if __name__ == "__main__":
    main()
