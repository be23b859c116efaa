"""The results folder: one manifest, finished parts under `.parts`, and files that appear whole.

    OUT/manifest.json    what was run, with which parameters, what came out, and the SHA-256 of every file
    OUT/A.csv, A.png, A.pdf
    OUT/.parts/A-<identity>/   finished parts and training checkpoints of an experiment that is not finished

The manifest moves to its name last, so a run that dies before has not finished the experiment, and the next
one finds its parts. A part is found by the name of its folder, a digest of all that decides its numbers.
"""

import contextlib
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ... import _container
from .._files import staged
from ._experiment import Arrays, Experiment, Parameters, Results

MANIFEST = "manifest.json"
_PARTS = ".parts"
_VERSION = 1


def versions() -> dict[str, str]:
    """Of what computes and draws."""
    names = ("hjax", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "scikit-learn", "matplotlib")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def names_of(experiment: Experiment) -> list[str]:
    """The files of an experiment."""
    return [f"{experiment.name}{suffix}" for suffix in (".csv", ".png", ".pdf")]


class Store:
    """A results folder, held by one run at a time.

    **Raises:** `OSError`, with one sentence, if it cannot be made or written, or another run holds it; `ValueError`
    if its manifest is none.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        with staged(self.folder, ()):
            pass
        self.manifest = self._read()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the folder; what a killed one left half-written goes."""
        parts = self.folder / _PARTS
        with _locked(self.folder):
            for left in self.folder.glob(".hjax-*"):
                shutil.rmtree(left, ignore_errors=True)
            self.manifest = self._read()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    parts.rmdir()  # if nothing is left to resume

    def check(self, experiment: Experiment) -> None:
        """Raise `OSError` if a folder stands where a file of the experiment shall go."""
        for name in [*names_of(experiment), MANIFEST]:
            if (self.folder / name).is_dir():
                raise OSError(f"the output {self.folder / name} cannot be written: a folder has that name.")

    def entry(self, experiment: Experiment) -> dict[str, Any] | None:
        """What the manifest says of the experiment."""
        return self.manifest["experiments"].get(experiment.name)

    def finished(self, experiment: Experiment, parameters: Parameters, source: str) -> bool:
        """Whether it was run with these parameters on these data, and its files are still what they were."""
        entry = self.entry(experiment)
        if entry is None or (entry["parameters"], entry["data"]) != (_plain(parameters), source):
            return False
        return set(entry["files"]) == set(names_of(experiment)) and all(
            _digest(self.folder / name) == digest for name, digest in entry["files"].items()
        )

    def part_folder(self, experiment: Experiment, parameters: Parameters, source: str) -> Path:
        """Where its parts are kept until it is finished: another folder for whatever may change a number."""
        used = {k: v for k, v in versions().items() if k in ("hjax", "jax", "jaxlib", "optax", "numpy", "scipy")}
        run = {"experiment": experiment.name, "parameters": _plain(parameters), "data": source, "versions": used}
        digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.folder / _PARTS / f"{experiment.name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self, experiment: Experiment, results: Results, figure: Figure, entry: dict[str, Any]) -> dict[str, Any]:
        """Write the files and the manifest; then the parts are no longer wanted."""
        names = names_of(experiment)
        with staged(self.folder, [*names, MANIFEST]) as temporary:
            _write_rows(temporary / names[0], results.rows)
            figure.savefig(temporary / names[1], format="png")
            # No dates inside: the same results are the same bytes.
            figure.savefig(temporary / names[2], format="pdf", metadata={"CreationDate": None})
            entry = entry | {"files": {name: _digest(temporary / name) for name in names}}
            # Read again: what another program has added meanwhile stays.
            manifest = self._read()
            others = {k: v for k, v in manifest["experiments"].items() if k != experiment.name}
            manifest["experiments"] = dict(sorted((others | {experiment.name: entry}).items()))
            text = json.dumps(manifest, indent=1, allow_nan=False)
            (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
        self.manifest = manifest
        for folder in (self.folder / _PARTS).glob(f"{experiment.name}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        return entry

    def _read(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if not path.exists():
            return {"kind": "hjax reproduce", "version": _VERSION, "experiments": {}}
        wanted = f"{path} is not a manifest of hjax reproduce; move it away, or pass another --out."
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(wanted) from error
        if not isinstance(manifest, dict) or manifest.get("kind") != "hjax reproduce":
            raise ValueError(wanted)
        entries = manifest.get("experiments")
        fields = {"parameters", "data", "files", "quick"}
        if manifest.get("version") != _VERSION or not isinstance(entries, dict):
            raise ValueError(wanted)
        if not all(isinstance(e, dict) and fields <= set(e) and isinstance(e["files"], dict) for e in entries.values()):
            raise ValueError(wanted)
        return manifest


def read_part(path: Path) -> Arrays | None:
    """The arrays of a finished part, or None if there is no whole one."""
    try:
        header, arrays = _container.read(path, "part")
    except (OSError, ValueError):
        return None
    return dict(zip(header["names"], arrays, strict=True))


def write_part(path: Path, arrays: Arrays) -> None:
    """Keep the arrays of a finished part."""
    _container.write(path, {"kind": "part", "names": list(arrays)}, [np.asarray(a) for a in arrays.values()])


def entry_of(
    experiment: Experiment, parameters: Parameters, results: Results, source: str, quick: bool, seconds: float
) -> dict[str, Any]:
    """What the manifest says of a finished experiment; its files come with `Store.finish`."""
    return {
        "title": experiment.title,
        "found": results.found,
        "quick": quick,
        "parameters": _plain(parameters),
        "data": source,
        "acceptance": [criterion._asdict() | {"value": _number(criterion.value)} for criterion in results.criteria],
        "accepted": results.met,
        "rows": len(results.rows),
        "seconds_of_its_parts": round(seconds, 1),
        "versions": versions(),
    }


def _plain(parameters: Parameters) -> Parameters:
    """As JSON gives them back: tuples are lists."""
    return json.loads(json.dumps(parameters))


def _number(value: float) -> float | str:
    """JSON has no NaN."""
    return value if np.isfinite(value) else str(value)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()})


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once are then the user's affair
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(
                f"another hjax reproduce is writing to {folder}; wait for it, or pass another --out."
            ) from error
        yield
    finally:
        os.close(descriptor)
