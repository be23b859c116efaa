"""One screen of plain text about a solved problem: what it was, what came out, how far to trust it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ._problem import Problem
from ._solve import Solved

if TYPE_CHECKING:
    from ._digits import Digits

_WIDTH = 100


def summarise(problem: Problem, solved: Solved, folder: Path, names: Sequence[str]) -> str:
    """The summary of a Hamilton-Jacobi problem, at most 24 lines of 100 columns."""
    arrays, checks = solved.arrays, solved.checks
    times, queries = problem.times, problem.queries
    metric = problem.metric
    isotropic = np.array_equal(metric, metric[0, 0] * np.eye(len(metric)))
    if isotropic:
        factor = "" if metric[0, 0] == 1 else f"{metric[0, 0]:g} "
        equation = f"u_t + {factor}|grad u|^2 = eps {factor}lap u"
    else:
        spectrum = np.linalg.eigvalsh(metric)
        equation = "u_t + grad u^T A grad u = eps tr(A D^2 u), "
        equation += f"eigenvalues of A {spectrum[0]:.3g} .. {spectrum[-1]:.3g}"
    when = f"t = {times[0]:g}" if len(times) == 1 else f"{len(times)} times t = {times[0]:g} .. {times[-1]:g}"
    shape = " x ".join(f"{n:,}" for n in queries.shape)
    expected = "0" if problem.normalize else "-d eps/(2t), the prefactor being left out,"
    gap = np.abs(arrays["value"] - arrays["value_inviscid"]).max()
    rows = [
        ("equation", equation),
        ("atoms", f"{problem.data.size:,} in d = {problem.dimension}: {problem.origin}"),
        ("queries", f"{queries.kind} of {shape} points, {when}"),
        ("eps", f"{problem.eps:g} ({problem.dtype}, {'with' if problem.normalize else 'without'} prefactor)"),
        ("value", f"{_range(arrays['value'])}; from the inviscid one at most {gap:.3g} away"),
        ("|grad u|", _range(np.linalg.norm(arrays["gradient"], axis=-1))),
        ("laplacian", _range(arrays["laplacian"])),
        ("entropy", f"{_range(arrays['entropy'])} nats, of at most log N = {np.log(problem.data.size):.3g}"),
        (
            "residual",
            f"max |r - expected| = {checks['residual']:.1e}, relative to its terms "
            f"{checks['residual_relative']:.1e}; expected is {expected} ({len(arrays['residual'])} points)",
        ),
    ]
    if "reference" in checks:
        count = int(np.isfinite(arrays["reference"]).sum())
        rows.append(
            (
                "reference",
                f"max error {checks['reference']:.1e} of {checks['reference_scale']:.3g}, against "
                f"1-D quadratures by scipy ({count:,} points)",
            )
        )
    if "breaking_time" in checks:
        rows.append(("shock", f"characteristics first cross at t* = {checks['breaking_time']:.4g}"))
    return _screen(problem.title, rows, solved, folder, names)


def summarise_digits(problem: "Digits", solved: Solved, folder: Path, names: Sequence[str]) -> str:
    """The summary of the digits experiment."""
    c, count = solved.checks, len(solved.arrays["query_labels"])
    rows = [
        ("data", f"{problem.atoms:,} digits as atoms with labels, {count} held out, d = 64 pixels in [0, 1]"),
        ("kernel", f"bandwidth {problem.bandwidth:g} = sqrt(2 eps t): eps = {problem.eps:g}, t = 0.5, g = 0"),
        ("", f"{'':<26}{'hjax':>10}{'scikit-learn':>16}{'same label':>14}"),
        ("accuracy", _compared("Hopf-Cole, Nadaraya-Watson", c, "", "agreement", count)),
        ("accuracy", _compared("Hopf-Lax, 1-NN", c, "nearest_", "nearest_agreement", count)),
        ("probability", f"differs from scikit-learn's by at most {c['probability_difference']:.1e}"),
        (
            "entropy",
            f"of the atoms' weights: {c['entropy_right']:.3f} nats on average where the label is right, "
            f"{c['entropy_wrong']:.3f} where wrong",
        ),
        ("", "attribution: top_atoms, top_weights hold the digits that weigh most"),
    ]
    return _screen(problem.title, rows, solved, folder, names)


def _compared(name: str, checks: dict[str, float], prefix: str, agreement: str, count: int) -> str:
    ours, theirs = checks[f"{prefix}accuracy"], checks[f"sklearn_{prefix}accuracy"]
    return f"{name:<26}{ours:>10.4f}{theirs:>16.4f}{f'{checks[agreement]:.0f} / {count}':>14}"


def _screen(title: str, rows: Sequence[tuple[str, str]], solved: Solved, folder: Path, names: Sequence[str]) -> str:
    rows = [
        *rows,
        ("time", f"{solved.checks['seconds']:.1f} s"),
        ("files", f"{', '.join(names)} in {folder}"),
        ("arrays", ", ".join(f"{k} {_shape(v)}" for k, v in solved.arrays.items())),
    ]
    lines = [textwrap.shorten(title, _WIDTH), ""]
    for name, text in rows:
        indent = f"  {name:<12}"
        # Spaces that line columns up stay; only lines that are too long are wrapped.
        if len(indent) + len(text) <= _WIDTH:
            lines.append(indent + text)
            continue
        lines += textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent))
    return "\n".join(lines) + "\n"


def _range(values: np.ndarray) -> str:
    return f"{values.min():.4g} .. {values.max():.4g}"


def _shape(array: np.ndarray) -> str:
    return "(" + ",".join(map(str, array.shape)) + ")"
