"""A problem file in, a folder of results out: the whole of `hjax solve`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._files import staged
from ._problem import is_digits, read_problem
from ._solve import Progress, solve

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
    digits = is_digits(path)
    folder = Path("out") / path.stem if folder is None else folder
    if digits:
        from ._digits import read_digits, solve_digits
        from ._figure_digits import draw_digits as draw
        from ._summary import summarise_digits as summarise

        problem = read_digits(path)
        work = solve_digits
    else:
        from ._figures import draw
        from ._summary import summarise

        problem = read_problem(path)
        work = solve
    with staged(folder, NAMES) as temporary:
        solved = work(problem, lambda fraction, doing: progress(0.92 * fraction, doing))
        progress(0.92, "writing")
        np.savez_compressed(temporary / NAMES[0], **solved.arrays)
        progress(0.95, "drawing")
        draw(problem, solved, temporary / NAMES[1])
        summary = summarise(problem, solved, folder, NAMES)
        (temporary / NAMES[2]).write_text(summary, encoding="utf-8")
    progress(1.0, "done")
    return Outcome(summary, folder)
