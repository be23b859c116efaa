"""The digits' picture: held-out digits, the atoms that explain them, and how sure the prediction is."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._digits import Digits
from ._figure_style import ACCENT, FAINT, INK, dress, new_figure
from ._solve import Solved

_ROWS = 6
_COLUMNS = 6
_GOOD = "#2a7f9e"


def draw_digits(problem: Digits, solved: Solved, path: Path) -> None:
    """Write the picture to `path`."""
    figure = new_figure(15.0, 8.2)
    figure.suptitle(problem.title, x=0.01, ha="left", fontsize=14, color=INK)
    left, right = figure.subfigures(1, 2, width_ratios=[1.75, 1])  # pyright: ignore
    _explanations(left, solved)
    upper, lower = right.subplots(2, 1)
    _sureness(upper, solved)
    _agreement(lower, solved)
    figure.savefig(path, format="png")


def _chosen(solved: Solved) -> list[int]:
    """Three clear cases of different labels, then the least certain right ones, then wrong ones."""
    arrays = solved.arrays
    sure = arrays["probability"].max(axis=1)
    right = arrays["prediction"] == arrays["query_labels"]
    clear: list[int] = []
    for m in np.argsort(-sure, kind="stable"):
        if right[m] and arrays["query_labels"][m] not in arrays["query_labels"][clear]:
            clear.append(int(m))
        if len(clear) == 2:
            break
    doubtful = [int(m) for m in np.argsort(sure, kind="stable") if right[m]][:2]
    wrong = [int(m) for m in np.argsort(-sure, kind="stable") if not right[m]][: _ROWS - 4]
    return clear + doubtful + wrong


def _explanations(figure: Figure, solved: Solved) -> None:
    arrays, rows = solved.arrays, _chosen(solved)
    ratios = [1.25, 1.9, *([1.0] * _COLUMNS)]
    panels = figure.subplots(len(rows), 2 + _COLUMNS, width_ratios=ratios, squeeze=False)
    for row, m in zip(panels, rows, strict=True):
        truth, said = int(arrays["query_labels"][m]), int(arrays["prediction"][m])
        color = _GOOD if truth == said else ACCENT
        _image(row[0], arrays["queries"][m], f"held-out {truth}", color)
        _bars(row[1], arrays["probability"][m], truth, color)
        for axes, j, weight in zip(row[2:], arrays["top_atoms"][m], arrays["top_weights"][m], strict=False):
            label = int(arrays["atoms_labels"][j])
            _image(axes, arrays["atoms_points"][j], f"{label}:  {100 * weight:.1f} %", FAINT)
            axes.title.set_color(_GOOD if label == truth else ACCENT)
    panels[0, 1].set_title("soft prediction", loc="left", fontsize=9, color=INK)
    panels[-1, 1].set_xlabel("digit", fontsize=8, color=INK)
    figure.supxlabel(
        "left: a held-out digit; right: the atoms that weigh most in its prediction, with label and weight",
        fontsize=9, color=INK,
    )  # fmt: skip


def _image(axes: Axes, pixels: np.ndarray, title: str, color: str) -> None:
    axes.imshow(pixels.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9, color=color, pad=3)
    for spine in axes.spines.values():
        spine.set_edgecolor(color)
        spine.set_linewidth(1.2)


def _bars(axes: Axes, probability: np.ndarray, truth: int, color: str) -> None:
    colors = [FAINT] * 10
    colors[int(probability.argmax())] = color
    axes.bar(np.arange(10), probability, color=colors, width=0.8)
    axes.plot([truth], [1.08], marker="v", color=INK, ms=4, clip_on=False)
    axes.set_xticks(np.arange(10))
    axes.set_ylim(0, 1.15)
    axes.set_yticks([0, 1])
    axes.tick_params(labelsize=7, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _sureness(axes: Axes, solved: Solved) -> None:
    arrays = solved.arrays
    right = arrays["prediction"] == arrays["query_labels"]
    sure = arrays["probability"].max(axis=1)
    for mask, color, marker, name in ((right, _GOOD, "o", "right"), (~right, ACCENT, "X", "wrong")):
        axes.scatter(
            arrays["entropy"][mask], sure[mask], s=26, c=color, marker=marker, alpha=0.65, lw=0,
            label=f"{name} ({mask.sum()})",
        )  # fmt: skip
    axes.set_ylim(None, 1.02)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    dress(
        axes,
        "How many atoms speak, and whether they agree",
        "attribution entropy of the atoms' weights (nats)",
        "largest soft probability",
    )


def _agreement(axes: Axes, solved: Solved) -> None:
    """The two probabilities of the true label, one against the other: on the diagonal if they agree."""
    arrays, index = solved.arrays, np.arange(len(solved.arrays["query_labels"]))
    ours = arrays["probability"][index, arrays["query_labels"]]
    theirs = arrays["sklearn_probability"][index, arrays["query_labels"]]
    axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
    axes.scatter(theirs, ours, s=22, facecolors="none", edgecolors=_GOOD, lw=0.9)
    largest = solved.checks["probability_difference"]
    dress(
        axes,
        f"The same numbers as scikit-learn's: they differ by at most {largest:.0e}",
        "probability of the true digit, Nadaraya-Watson (scikit-learn)",
        "expectation under Hopf-Cole (hjax)",
    )
