"""Which experiments, in which order, and what of them is already there."""

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._problem import precision
from . import _attention, _hessians, _recovery, _robustness, _scaling, _transformer
from ._experiment import Arrays, Experiment, Keep, Parameters, Progress
from ._store import Store, entry_of, read_part, write_part

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        _recovery.EXPERIMENT,
        _scaling.EXPERIMENT,
        _robustness.EXPERIMENT,
        _attention.EXPERIMENT,
        _hessians.MNIST,
        _hessians.CIFAR,
        _transformer.EXPERIMENT,
    )
}


# Parts do not depend on each other. XLA runs loops of small steps on one core, so a second part has the other.
_WORKERS = min(4, os.cpu_count() or 1)


class Report(NamedTuple):
    """An experiment after the run: its name, its entry in the manifest, and whether it was there before."""

    name: str
    entry: dict[str, Any]
    kept: bool


def select(names: Sequence[str] | None = None) -> list[Experiment]:
    """The experiments that `names` mean, each once and in order; "all" or nothing means all.

    **Raises:** `ValueError` for a name that means none.
    """
    given = list(names or ["all"])
    wanted = [name.upper() for name in given]
    unknown = [name for name, upper in zip(given, wanted, strict=True) if upper not in (*EXPERIMENTS, "ALL")]
    if unknown:
        raise ValueError(f"there is no experiment {unknown[0]!r}; there are {', '.join(EXPERIMENTS)}, and all.")
    return [experiment for name, experiment in EXPERIMENTS.items() if name in wanted or "ALL" in wanted]


def run(
    names: Sequence[str] | None,
    folder: Path,
    *,
    quick: bool = False,
    download: bool = False,
    progress: Progress = lambda fraction, doing: None,
) -> list[Report]:
    """Run the experiments that are not yet in `folder`, and write their files and the manifest there.

    A run that was killed continues from its last finished part, and within a part from the last checkpoint of
    its training, to the same numbers. An experiment that is finished there with the same parameters and data is kept.

    **Arguments:** `names`: as for `select`. `quick`: small parameters, seconds instead of minutes. `download`: fetch
    MNIST and CIFAR-10 if they are not there yet; without them the digits of scikit-learn serve. `progress`: called
    with the share done of everything, and words.

    **Raises:** `ValueError` for an unknown name, a folder with another manifest, and a quick run where a full one
    is; `OSError`, with one sentence, where files cannot be written or fetched.

    **Cost:** all at full parameters under ten minutes on two cores.
    """
    chosen = select(names)
    store = Store(folder)
    with store.held(), precision("float64"):
        plans = [(e, e.quick if quick else e.full, e.source(download)) for e in chosen]
        for experiment, parameters, source in plans:
            store.check(experiment)
            entry = store.entry(experiment)
            if quick and entry and not entry["quick"] and not store.finished(experiment, parameters, source):
                raise ValueError(
                    f"{folder} holds experiment {experiment.name} at full parameters, which a quick run would replace; "
                    f"pass another --out."
                )
        work = {e.name: sum(e.parts(parameters).values()) for e, parameters, _ in plans}
        total, done, reports = sum(work.values()), 0.0, []
        for experiment, parameters, source in plans:

            def step(part: float, doing: str, name: str = experiment.name, done: float = done) -> None:
                progress(min(1.0, (done + part) / total), f"{name}: {doing}")

            if store.finished(experiment, parameters, source):
                entry, kept = store.entry(experiment), True
                assert entry is not None
            else:
                entry, kept = _run_one(store, experiment, parameters, source, quick, step), False
            reports.append(Report(experiment.name, entry, kept))
            done += work[experiment.name]
        progress(1.0, "done")
    return reports


def _run_one(
    store: Store, experiment: Experiment, parameters: Parameters, source: str, quick: bool, step: Progress
) -> dict[str, Any]:
    folder = store.part_folder(experiment, parameters, source)
    parts = experiment.parts(parameters)
    done = dict.fromkeys(parts, 0.0)
    failed = threading.Event()

    def one(number: int, part: str) -> tuple[Arrays, float]:
        def within(fraction: float, doing: str) -> None:
            if failed.is_set():
                raise KeyboardInterrupt
            done[part] = fraction * parts[part]
            step(sum(done.values()), f"{part}, {doing}" if doing else part)

        path = folder / f"{number}.part"
        kept = read_part(path)
        if kept is None:
            within(0.0, "")
            began = time.perf_counter()
            # Precision is a thread's own affair.
            with precision("float64"):
                kept = dict(experiment.compute(parameters, part, Keep(folder / f"{number}.training", within)))
            kept["seconds"] = np.asarray(time.perf_counter() - began)
            write_part(path, kept)
        within(1.0, "")
        return kept, float(kept.pop("seconds"))

    # The longest first: the last one is then a short one.
    order = sorted(enumerate(parts), key=lambda item: -parts[item[1]])
    with ThreadPoolExecutor(min(len(parts), _WORKERS)) as pool:
        running = {part: pool.submit(one, number, part) for number, part in order}
        try:
            for future in as_completed(running.values()):
                future.result()
        except BaseException:
            failed.set()
            pool.shutdown(cancel_futures=True)
            raise
    found = {part: running[part].result()[0] for part in parts}
    seconds = sum(future.result()[1] for future in running.values())
    step(sum(done.values()), "drawing")
    results = experiment.conclude(parameters, found)
    figure = experiment.draw(parameters, found, results)
    return store.finish(experiment, results, figure, entry_of(experiment, parameters, results, source, quick, seconds))
