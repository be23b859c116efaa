"""The benchmark picture: rates by dimension, one group of bars per workload."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = {"hjax": "#1b4f9c", "jnp": "#b9b9b9", "pykeops": "#e08214"}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture to `path`, by way of a temporary file."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    kinds = list(dict.fromkeys(row["workload"].split(" d=")[0] for row in rows))
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    titles = {
        "value": "Values",
        "gradient": "Values and gradients\n(hjax, jnp: in every input; pykeops: in x)",
    }
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], strict=True):
        mine = [row for row in rows if row["workload"].startswith(kind + " ")]
        dimensions = sorted({row["d"] for row in mine})
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            rates = {r["d"]: r["giga_pairs_per_second"] for r in mine if r["implementation"] == name}
            places = [k + (i - (len(names) - 1) / 2) * width for k in range(len(dimensions))]
            axes.bar(places, [rates[d] for d in dimensions], width, color=COLOURS.get(name), label=name)
        axes.set_xticks(range(len(dimensions)), [f"d = {d}" for d in dimensions])
        axes.set_yscale("log")
        axes.set_title(titles.get(kind, kind), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("giga-pairs per second")
    figure.axes[-1].legend(frameon=False, fontsize=9)
    figure.suptitle(f"softmin on a CPU, float32, M = N = {rows[0]['m']:,}", fontsize=11)
    temporary = path.with_name("." + path.name)
    figure.savefig(temporary, dpi=160, format="png")
    temporary.replace(path)
