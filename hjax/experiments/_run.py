"""A problem file in, a folder of results out: the whole of `hjax solve`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from ._files import staged
from ._problem import Problem, is_digits, read_problem
from ._solve import Progress, Solved, solve

if TYPE_CHECKING:
    from ._digits import Digits

NAMES = ("solution.npz", "solution.png", "summary.txt")


class Outcome(NamedTuple):
    """The one-screen `summary`, and the `folder` that holds the files."""

    summary: str
    folder: Path


def solve_file(path: Path, folder: Path | None, progress: Progress) -> Outcome:
    """Solve the problem in a TOML file and write `NAMES` into `folder` (default `out/` and its name).

    The problem is read and checked, and the folder opened, before anything is computed.

    **Raises:** `ProblemError` for a problem that cannot be solved as written, `OSError` for a folder that
    cannot be written; then nothing has been written.
    """
    if is_digits(path):
        from ._digits import read_digits, solve_digits
        from ._figure_digits import draw_digits
        from ._summary import summarise_digits

        return _write(read_digits(path), solve_digits, draw_digits, summarise_digits, folder, progress)
    from ._figures import draw
    from ._summary import summarise

    return _write(read_problem(path), solve, draw, summarise, folder, progress)


# Each kind of problem brings its own solver, picture and summary.
_P = TypeVar("_P", Problem, "Digits")


def _write(
    problem: _P,
    work: Callable[[_P, Progress], Solved],
    draw: Callable[[_P, Solved, Path], None],
    summarise: Callable[[_P, Solved, Path, Sequence[str]], str],
    folder: Path | None,
    progress: Progress,
) -> Outcome:
    folder = Path("out") / problem.name if folder is None else folder
    with staged(folder, NAMES) as temporary:
        solved = work(problem, lambda fraction, doing: progress(0.92 * fraction, doing))
        progress(0.92, "writing")
        np.savez_compressed(temporary / NAMES[0], **solved.arrays)  # pyright: ignore[reportArgumentType]
        progress(0.95, "drawing")
        draw(problem, solved, temporary / NAMES[1])
        summary = summarise(problem, solved, folder, NAMES)
        (temporary / NAMES[2]).write_text(summary, encoding="utf-8")
    progress(1.0, "done")
    return Outcome(summary, folder)
