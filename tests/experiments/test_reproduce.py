"""The paper's experiments: every file they write, what a second run keeps, and what a killed one loses (nothing)."""

import csv
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pooch
import pytest
from matplotlib.image import imread

from hjax.experiments import reproduce
from hjax.experiments.reproduce import _images, _run

NAMES = ["A", "B", "C", "D", "E", "F", "G"]
TINY = {
    "C": {"points": 20, "width": 4, "eps": [0.2, 1.0], "steps": 40, "seeds": 2},
    "D": {"trials": 3, "d": [4, 16]},
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory):
    """All experiments at quick parameters: their folder, and what the run reported."""
    folder = tmp_path_factory.mktemp("quick")
    before = jax.config.jax_enable_x64
    reports = reproduce.run(["all"], folder, quick=True)
    assert jax.config.jax_enable_x64 == before
    return folder, reports


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    """C and D in a second."""
    for name, changes in TINY.items():
        experiment = reproduce.EXPERIMENTS[name]
        changed = experiment._replace(quick=experiment.quick | changes, full=experiment.full | changes | {"tau": 0.2})
        monkeypatch.setitem(_run.EXPERIMENTS, name, changed)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_writes_a_figure_a_table_and_its_place_in_the_manifest(name, quick):
    folder, reports = quick
    (report,) = (r for r in reports if r.name == name)
    entry = json.loads((folder / "manifest.json").read_text())["experiments"][name]
    assert not report.kept
    assert report.entry == entry
    assert entry["quick"]
    assert entry["parameters"] == json.loads(json.dumps(reproduce.EXPERIMENTS[name].quick))
    assert {"hjax", "jax", "numpy"} <= set(entry["versions"])
    assert entry["accepted"], entry["acceptance"]
    assert all(set(criterion) == {"name", "value", "wanted", "met"} for criterion in entry["acceptance"])
    assert set(entry["files"]) == {f"{name}.csv", f"{name}.png", f"{name}.pdf"}
    for file, digest in entry["files"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    table = rows(folder, name)
    assert len(table) == entry["rows"] == len({tuple(row.items()) for row in table})
    picture = imread(folder / f"{name}.png")
    assert picture.shape[0] > 500
    assert picture.std() > 0.02
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_nothing_else_is_left_in_the_folder(quick):
    expected = {f"{name}.{suffix}" for name in NAMES for suffix in ("csv", "png", "pdf")} | {"manifest.json"}
    assert set(contents(quick[0])) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wanted"), [("E", "MNIST"), ("F", "CIFAR-10")])
def test_where_digits_serve_every_output_says_so(name, wanted, quick):
    folder, _ = quick
    entry = json.loads((folder / "manifest.json").read_text())["experiments"][name]
    if _images.present(_images.MNIST if name == "E" else _images.CIFAR):
        pytest.skip("the data set is on this machine")
    assert entry["data"].startswith("scikit-learn digits")
    assert f"in place of {wanted}" in entry["data"]
    assert {row["data"] for row in rows(folder, name)} == {"scikit-learn digits"}
    assert "scikit-learn digits" in entry["found"]


def test_a_second_run_does_nothing(tiny, tmp_path):
    first = reproduce.run(["C", "D"], tmp_path, quick=True)
    before = contents(tmp_path)
    seen = []
    second = reproduce.run(["d", "C", "c"], tmp_path, quick=True, progress=lambda *a: seen.append(a))
    assert contents(tmp_path) == before
    assert [r.kept for r in first] == [False, False]
    assert [(r.name, r.kept) for r in second] == [("C", True), ("D", True)]
    assert seen == [(1.0, "done")]


@pytest.mark.slow
def test_damaged_files_and_other_parameters_are_run_again_without_a_second_row(tiny, tmp_path, monkeypatch):
    reproduce.run(["C", "D"], tmp_path, quick=True)
    whole = contents(tmp_path)
    (tmp_path / "D.csv").write_text("nothing")
    (tmp_path / "C.png").unlink()
    assert [r.kept for r in reproduce.run(["C", "D"], tmp_path, quick=True)] == [False, False]
    same = [name for name in whole if name != "manifest.json"]
    assert {name: contents(tmp_path)[name] for name in same} == {name: whole[name] for name in same}

    experiment = reproduce.EXPERIMENTS["D"]
    monkeypatch.setitem(_run.EXPERIMENTS, "D", experiment._replace(quick=experiment.quick | {"d": [4]}))
    assert [r.kept for r in reproduce.run(["C", "D"], tmp_path, quick=True)] == [True, False]
    assert {row["d"] for row in rows(tmp_path, "D")} == {"4"}
    assert set(json.loads((tmp_path / "manifest.json").read_text())["experiments"]) == {"C", "D"}


@pytest.mark.slow
def test_a_quick_run_does_not_replace_a_full_one(tiny, tmp_path):
    reproduce.run(["C", "D"], tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="holds experiment C at full parameters"):
        reproduce.run(["C"], tmp_path, quick=True)
    assert contents(tmp_path) == before
    reproduce.run(["D"], tmp_path / "quick", quick=True)
    assert [r.kept for r in reproduce.run(["D"], tmp_path / "quick")] == [False]  # a full one replaces a quick one


KILLED = """
import os, signal, sys
from pathlib import Path
from hjax.experiments import reproduce
from hjax.experiments.reproduce import _run
changes = {changes!r}
experiment = reproduce.EXPERIMENTS["C"]
_run.EXPERIMENTS["C"] = experiment._replace(quick=experiment.quick | changes)
def progress(fraction, doing):
    if "step 20" in doing:
        os.kill(os.getpid(), signal.SIGKILL)
reproduce.run(["C"], Path(sys.argv[1]), quick=True, progress=progress)
"""


def test_a_killed_run_resumes_to_the_same_table(tiny, tmp_path):
    """Killed for good in the middle of training, then interrupted, then left to finish."""
    reproduce.run(["C"], tmp_path / "whole", quick=True)
    folder = tmp_path / "killed"
    script = KILLED.format(changes=TINY["C"])
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [p.name for p in folder.iterdir()] == [".parts"]

    def stop(fraction: float, doing: str) -> None:
        if "step 30" in doing:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce.run(["C"], folder, quick=True, progress=stop)
    seen = []
    reproduce.run(["C"], folder, quick=True, progress=lambda fraction, doing: seen.append((fraction, doing)))
    steps = [doing.split("step ")[1].split(",")[0] for _, doing in seen if "step " in doing]
    assert steps == ["40"]
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert contents(folder)["C.csv"] == contents(tmp_path / "whole")["C.csv"]
    assert contents(folder)["C.pdf"] == contents(tmp_path / "whole")["C.pdf"]
    assert not (folder / ".parts").exists()


def test_finished_parts_are_kept(tiny, tmp_path, monkeypatch):
    """The second part of D fails; the next run computes only that one."""
    experiment, computed = reproduce.EXPERIMENTS["D"], []

    def compute(parameters, part, keep):
        computed.append(part)
        if part == "d=16" and len(computed) < 3:
            raise OSError("no space left on device.")
        return experiment.compute(parameters, part, keep)

    monkeypatch.setattr(_run, "_WORKERS", 1)
    # The shorter part first.
    parts = {"d=4": 2.0, "d=16": 1.0}
    monkeypatch.setitem(
        _run.EXPERIMENTS, "D", experiment._replace(compute=compute, parts=lambda parameters: dict(parts))
    )
    with pytest.raises(OSError, match="no space"):
        reproduce.run(["D"], tmp_path, quick=True)
    assert not (tmp_path / "manifest.json").exists()
    reproduce.run(["D"], tmp_path, quick=True)
    assert computed == ["d=4", "d=16", "d=16"]


def test_two_runs_cannot_share_a_folder(tiny, tmp_path):
    def again(fraction: float, doing: str) -> None:
        reproduce.run(["D"], tmp_path, quick=True)

    with pytest.raises(OSError, match="another hjax reproduce is writing"):
        reproduce.run(["D"], tmp_path, quick=True, progress=again)


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "hjax reproduce"}', '{"kind": "other", "experiments": {}}'])
def test_a_foreign_manifest_is_left_alone(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="is not a manifest of hjax reproduce"):
        reproduce.run(["D"], tmp_path, quick=True)
    assert (tmp_path / "manifest.json").read_text() == text


def test_names():
    assert [e.name for e in reproduce.select(["c", "A"])] == ["A", "C"]
    assert [e.name for e in reproduce.select(["all"])] == [e.name for e in reproduce.select()] == NAMES
    with pytest.raises(ValueError, match="there is no experiment 'Z'; there are A, B, C, D, E, F, G"):
        reproduce.select(["A", "Z"])


def mnist(random: np.random.Generator) -> bytes:
    arrays = {}
    for kind, count in (("train", 60), ("test", 12)):
        arrays[f"x_{kind}"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"y_{kind}"] = random.integers(0, 10, count, dtype=np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def cifar(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
            records = random.integers(0, 10, (30, 3073), dtype=np.uint8).tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(records)
            archive.addfile(info, io.BytesIO(records))
    return file.getvalue()


@pytest.mark.parametrize(("name", "write", "shape"), [("MNIST", mnist, (60, 784)), ("CIFAR", cifar, (60, 3072))])
def test_images_are_read_where_they_are_and_what_they_should_be(name, write, shape, tmp_path, monkeypatch):
    content, origin = write(np.random.default_rng(0)), getattr(_images, name)
    origin = origin._replace(sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(_images, "folder", lambda: tmp_path)
    assert "in place of" in _images.source(origin, download=False)

    def retrieve(url, known_hash, file, path):
        assert known_hash == f"sha256:{origin.sha256}"
        (Path(path) / file).write_bytes(content)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert _images.source(origin, download=True).startswith(f"{origin.title}, sha256 ")
    images = _images.load(origin)
    assert images.x.shape == shape
    assert images.x.min() >= 0
    assert images.x.max() <= 1
    assert len(images.x_test) == len(images.labels_test)
    scores = _images.principal_components(images, 5)
    centred = images.x - images.x.mean(axis=0)
    exact = np.linalg.svd(centred, compute_uv=False)[:5]
    np.testing.assert_allclose(np.linalg.norm(scores.x, axis=0), exact, rtol=1e-5)
    (tmp_path / origin.file).write_bytes(content[:-1])  # damaged: not used
    assert "in place of" in _images.source(origin, download=False)


def test_a_download_that_fails_is_one_sentence(tmp_path, monkeypatch):
    def retrieve(*_):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(_images, "folder", lambda: tmp_path)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(OSError, match=r"^MNIST cannot be fetched from https://\S+: no route to host\.$"):
        _images.source(_images.MNIST, download=True)
