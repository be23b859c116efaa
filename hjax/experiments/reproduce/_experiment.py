"""What an experiment is: data and functions without files, so that `hjax verify` can run it too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

Arrays = dict[str, np.ndarray]
Parameters = dict[str, Any]
Progress = Callable[[float, str], None]


class Keep(NamedTuple):
    """What a part may use while it runs: a checkpoint for its training (None: none), a progress report."""

    checkpoint: Path | None
    progress: Progress


class Criterion(NamedTuple):
    """One thing that must come out: `value` in words and numbers, `wanted`, and whether it is `met`."""

    name: str
    value: float
    wanted: str
    met: bool


def below(name: str, value: float, limit: float) -> Criterion:
    """The criterion `value < limit`; NaN does not meet it."""
    return Criterion(name, float(value), f"< {limit:g}", bool(value < limit))


def above(name: str, value: float, limit: float) -> Criterion:
    """The criterion `value > limit`; NaN does not meet it."""
    return Criterion(name, float(value), f"> {limit:g}", bool(value > limit))


class Results(NamedTuple):
    """The `rows` of the CSV (all with the same keys), the `criteria`, and in one sentence what was `found`."""

    rows: list[dict[str, Any]]
    criteria: list[Criterion]
    found: str

    @property
    def met(self) -> bool:
        """Whether every criterion is."""
        return all(criterion.met for criterion in self.criteria)


class Experiment(NamedTuple):
    """One of the paper's experiments.

    - `title`: what it asks. `full`, `quick`: parameters, JSON; what the paper does not say is under "inferred".
    - `parts(parameters)`: names of its parts, with their share of the work.
    - `compute(parameters, part, keep)`: the arrays of one part; the same ones every time.
    - `conclude(parameters, found)`: rows and criteria from the arrays of all parts.
    - `draw(parameters, found, results)`: the picture.
    - `source(download)`: where its data come from, in words; kept in the manifest, and part of what a run is.
    """

    name: str
    title: str
    full: Parameters
    quick: Parameters
    parts: Callable[[Parameters], dict[str, float]]
    compute: Callable[[Parameters, str, Keep], Arrays]
    conclude: Callable[[Parameters, dict[str, Arrays]], Results]
    draw: Callable[[Parameters, dict[str, Arrays], Results], Figure]
    source: Callable[[bool], str]


def generated(download: bool) -> str:
    """The source of an experiment that makes its own data."""
    del download
    return "generated from the seeds"


def in_memory(experiment: Experiment, parameters: Parameters) -> tuple[dict[str, Arrays], Results]:
    """Run an experiment without files. The caller sets double precision."""
    keep = Keep(None, lambda fraction, doing: None)
    found = {part: experiment.compute(parameters, part, keep) for part in experiment.parts(parameters)}
    return found, experiment.conclude(parameters, found)
