"""The command line: what it writes, what it prints, and one clear sentence for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from hjax import cli
from hjax.experiments import _problem, _run, verify

LINE = """
title = "A small shock"
[hamiltonian]
metric = 1.0
[initial_data]
function = "double_valley"
[initial_data.rule]
kind = "grid"
lower = -3.0
upper = 3.0
shape = 400
[solve]
eps = 0.1
times = [0.1, 0.5]
[queries]
kind = "grid"
lower = -1.0
upper = 1.0
shape = 21
"""

PLANE = """
[hamiltonian]
metric = [[1.0, 0.3], [0.3, 0.5]]
[initial_data]
function = "ring"
[initial_data.rule]
kind = "grid"
lower = [-2.0, -2.0]
upper = 2.0
shape = [16, 18]
[solve]
eps = 0.2
times = { lower = 0.2, upper = 0.4, count = 2 }
normalize = false
[queries]
kind = "grid"
lower = -1.0
upper = 1.0
shape = [9, 8]
"""

SLICE = """
[hamiltonian]
metric = [1.0, 0.5, 2.0]
[initial_data]
function = "sines"
[initial_data.rule]
kind = "sobol"
lower = -1.0
upper = 1.0
dimension = 3
count = 500
seed = 3
[solve]
eps = 1.0
times = [1.0]
[queries]
kind = "slice"
origin = [0.0, 0.1, 0.2]
directions = [[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]
lower = -1.0
upper = 1.0
shape = 7
"""

CELLS = """
[initial_data]
csv = "atoms.csv"
[solve]
eps = 0.05
times = [0.5]
[queries]
kind = "grid"
lower = 0.0
upper = 1.0
shape = 12
"""

POINTS = """
[initial_data]
npz = "atoms.npz"
[solve]
eps = 0.1
times = [0.5, 1.0]
dtype = "float32"
[queries]
kind = "csv"
file = "queries.csv"
"""

CSV = "y1,y2,g,weight\n0.1,0.2,0.0,1\n0.9,0.3,0.1,2\n0.4,0.8,inf,1\n0.5,0.5,0.0,0.5\n"


@pytest.fixture
def hjax_(capsys: pytest.CaptureFixture[str]):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(a) for a in arguments])
        return exit_.value.code, *capsys.readouterr()

    return run


def write(folder: Path, toml: str) -> Path:
    (folder / "atoms.csv").write_text(CSV)
    (folder / "queries.csv").write_text("x1,x2,x3\n0,0,0\n0.5,0.5,0.5\n1,0,1\n")
    rng = np.random.default_rng(0)
    np.savez(folder / "atoms.npz", points=rng.normal(size=(20, 3)), values=rng.normal(size=20))
    path = folder / "small.toml"
    path.write_text(toml)
    return path


# (problem, T, M, d, N, has a reference)
PROBLEMS = {
    "line": (LINE, 2, 21, 1, 400, True),
    "plane": (PLANE, 2, 72, 2, 288, False),
    "slice": (SLICE, 1, 49, 3, 512, True),
    "cells": (CELLS, 1, 144, 2, 4, False),
    "points": (POINTS, 2, 3, 3, 20, False),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in ("line", "slice"))) for k in PROBLEMS]
)
def test_solve_writes_arrays_picture_and_summary(kind: str, tmp_path: Path, hjax_):
    toml, times, queries, d, atoms, has_reference = PROBLEMS[kind]
    x64 = jax.config.read("jax_enable_x64")
    out = tmp_path / "a" / "b"
    code, stdout, _ = hjax_("solve", write(tmp_path, toml), "--out", out)
    assert code == 0
    assert jax.config.read("jax_enable_x64") == x64
    assert sorted(p.name for p in out.iterdir()) == sorted(_run.NAMES)
    with np.load(out / "solution.npz", allow_pickle=False) as file:
        arrays = dict(file)
    for name in ("value", "value_inviscid", "laplacian", "entropy", "minimizer"):
        assert arrays[name].shape == (times, queries), name
    assert arrays["gradient"].shape == (times, queries, d)
    assert arrays["queries"].shape == (queries, d)
    assert arrays["times"].shape == (times,)
    assert arrays["query_shape"].prod() == queries
    assert arrays["atoms_points"].shape == (atoms, d)
    assert arrays["atoms_values"].shape == arrays["atoms_log_weights"].shape == (atoms,)
    assert arrays["metric"].shape == (d, d)
    assert ("reference" in arrays) == has_reference
    assert arrays["value"].dtype == (np.float32 if "float32" in toml else np.float64)
    for name in ("value", "gradient", "laplacian", "entropy", "residual"):
        assert np.isfinite(arrays[name]).all(), name
    t = arrays["times"][arrays["residual_time"]]
    expected = -d * arrays["eps"] / (2 * t) if "normalize = false" in toml else 0
    tolerance = 1e-4 if "float32" in toml else 1e-11
    assert np.abs(arrays["residual"] - expected).max() < tolerance * arrays["residual_scale"].max()
    picture = imread(out / "solution.png")
    assert min(picture.shape[:2]) > 500
    assert picture[..., :3].std() > 0.02
    assert (out / "summary.txt").read_text() == stdout
    lines = stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert "residual" in stdout


def test_gradient_in_the_file_is_that_of_the_value(tmp_path: Path, hjax_):
    """Central differences of the saved values along the line."""
    hjax_("solve", write(tmp_path, LINE.replace("shape = 21", "shape = 401")), "--out", tmp_path / "out")
    with np.load(tmp_path / "out" / "solution.npz") as file:
        step = file["queries"][1, 0] - file["queries"][0, 0]
        difference = (file["value"][:, 2:] - file["value"][:, :-2]) / (2 * step)
        curvature = np.diff(file["value"], 2) / step**2
        np.testing.assert_allclose(file["gradient"][:, 1:-1, 0], difference, atol=2e-4)
        np.testing.assert_allclose(file["laplacian"][:, 1:-1], curvature, atol=4e-3)


def test_every_shipped_problem_is_valid():
    assert _problem.examples() == ["anisotropic", "atoms", "digits", "shock", "slice"]
    for name in _problem.examples():
        path = _problem.example(name)
        if not _problem.is_digits(path):
            problem = _problem.read_problem(path)
            assert problem.title != name
            assert path.read_text().startswith("#")


def test_solve_atoms_example_from_the_package(tmp_path: Path, hjax_, monkeypatch: pytest.MonkeyPatch):
    """By name, into the default folder, over the result of an earlier run."""
    monkeypatch.chdir(tmp_path)
    earlier = tmp_path / "out" / "atoms" / "solution.npz"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("old")
    assert hjax_("solve", "--example", "atoms")[0] == 0
    with np.load(earlier) as file:
        assert file["value"].shape == (1, 321 * 321)
        # Absolute entropy bounds: between one atom and all thirty alike.
        assert file["entropy"].min() >= 0
        assert file["entropy"].max() <= np.log(30)


# What is written instead of what, and a part of the sentence that has to come.
BAD_PROBLEMS = {
    "malformed": (LINE, "eps = 0.1", "eps = = 0.1", "not valid TOML"),
    "missing key": (LINE, "eps = 0.1", "", "solve.eps is missing"),
    "missing table": (LINE, "[queries]", "[qeries]", "queries is missing"),
    "unknown key": (LINE, "eps = 0.1", "eps = 0.1\nepsilon = 1.0", "unknown key solve.epsilon"),
    "unknown table": (LINE, "[queries]", "[extra]\na = 1\n[queries]", "unknown key extra"),
    "wrong type": (LINE, "shape = 400", 'shape = "many"', "initial_data.rule.shape is 'many'"),
    "eps zero": (LINE, "eps = 0.1", "eps = 0", "solve.eps is 0"),
    "eps negative": (LINE, "eps = 0.1", "eps = -1.0", "solve.eps is -1.0"),
    "eps nan": (LINE, "eps = 0.1", "eps = nan", "solve.eps is nan"),
    "eps huge": (LINE, "eps = 0.1", f"eps = 1{'0' * 400}", "solve.eps is 1000"),
    "eps flag": (LINE, "eps = 0.1", "eps = true", "solve.eps is True"),
    "time zero": (LINE, "[0.1, 0.5]", "[0]", "solve.times must be positive"),
    "time negative": (LINE, "[0.1, 0.5]", "[-1.0, 1.0]", "solve.times must be positive"),
    "times none": (LINE, "[0.1, 0.5]", "[]", "solve.times is []"),
    "times back": (LINE, "[0.1, 0.5]", "[0.5, 0.1]", "solve.times must increase"),
    "metric zero": (LINE, "metric = 1.0", "metric = 0.0", "metric must be positive"),
    "metric not definite": (PLANE, "[0.3, 0.5]", "[0.3, -0.5]", "not positive definite"),
    "metric not symmetric": (PLANE, "[0.3, 0.5]", "[0.2, 0.5]", "not symmetric"),
    "metric shape": (LINE, "metric = 1.0", "metric = [1.0, 2.0]", "hamiltonian.metric is [1.0, 2.0]"),
    "unknown function": (LINE, "double_valley", "double_vally", "did you mean double_valley?"),
    "unknown parameter": (LINE, '"double_valley"', '"norm1"\nparameters = { size = 1 }', "parameters.size"),
    "unknown rule": (LINE, 'kind = "grid"\nlower = -3', 'kind = "random"\nlower = -3', "rule.kind"),
    "unknown dtype": (LINE, "eps = 0.1", 'eps = 0.1\ndtype = "float16"', "solve.dtype"),
    "empty box": (LINE, "upper = 3.0", "upper = -4.0", "must be below upper"),
    "two sources": (LINE, 'function = "double_valley"', 'function = "ring"\ncsv = "a.csv"', "exactly one"),
    "slice on a line": (LINE, 'kind = "grid"\nlower = -1', 'kind = "slice"\nlower = -1', "wants d >= 2"),
    "parallel": (SLICE, "[0.0, 1.0, 0.0]", "[2.0, 0.0, 1.0]", "parallel"),
    "grid in 4": (SLICE.replace("dimension = 3", "dimension = 4").replace("metric = [1.0, 0.5, 2.0]", ""),
                  'kind = "slice"', 'kind = "grid"', "at most 3 axes"),
    "no such csv": (CELLS, "atoms.csv", "atom.csv", "cannot be read"),
    "csv is a folder": (CELLS, "atoms.csv", ".", "cannot be read"),
    "no such queries": (POINTS, "queries.csv", "q.csv", "cannot be read"),
    "hermite count": (LINE, 'kind = "grid"\nlower = -3.0\nupper = 3.0\nshape = 400',
                      'kind = "gauss_hermite"\ncount = 1000', "count"),
}  # fmt: skip


def assert_refused(result: tuple[int, str, str], fragment: str, out: Path) -> None:
    code, stdout, stderr = result
    assert code == 2
    assert stdout == ""
    assert len(stderr.strip().splitlines()) == 1
    assert fragment in stderr
    assert "Traceback" not in stderr
    assert not out.exists()


@pytest.mark.parametrize("mistake", BAD_PROBLEMS)
def test_a_bad_problem_is_one_sentence(mistake: str, tmp_path: Path, hjax_):
    toml, old, new, fragment = BAD_PROBLEMS[mistake]
    assert old in toml
    out = tmp_path / "out"
    assert_refused(hjax_("solve", write(tmp_path, toml.replace(old, new, 1)), "--out", out), fragment, out)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("y1,y2,g\n0,0,one\n", "line 2, column g: 'one' is not a number"),
        ("y1,y2,g\n0,0,0\n1,nan,0\n", "line 3, column y2 is NaN"),
        ("y1,y2,g\n0,0,\n", "is not a number"),
        ("y1,y2,g\n", "no rows"),
        ("", "is empty"),
        ("y1,y2\n0,0\n", "columns"),
        ("y1,y2,g,label\n0,0,0,cat\n", "columns"),
        ("y1,y2,g\n0,0\n", "line 2: 2 cells"),
        ("y1,y2,g\ninf,0,0\n", "infinite"),
        ("y1,y2,g\n0,0,-inf\n", "-inf"),
        ("y1,y2,g\n0,0,inf\n", "every atom is absent"),
        ("y1,y2,g,weight\n0,0,0,-1\n", "weight"),
        ("y1,y2,g\n\xff\n", "line 2"),
    ],
)
def test_a_bad_csv_is_one_sentence(text: str, fragment: str, tmp_path: Path, hjax_):
    path, out = write(tmp_path, CELLS), tmp_path / "out"
    (tmp_path / "atoms.csv").write_text(text, encoding="utf-8")
    assert_refused(hjax_("solve", path, "--out", out), fragment, out)


def test_a_csv_of_bytes_is_one_sentence(tmp_path: Path, hjax_):
    path, out = write(tmp_path, CELLS), tmp_path / "out"
    (tmp_path / "atoms.csv").write_bytes(b"y1,y2,g\n\xff\xfe\n")
    assert_refused(hjax_("solve", path, "--out", out), "not a UTF-8 text file", out)


@pytest.mark.parametrize(
    ("arrays", "fragment"),
    [
        ({"points": np.array([[0.0, 0.0, None]], dtype=object), "values": np.zeros(1)}, "pickled"),
        ({"points": np.zeros((3, 3))}, "not points, values"),
        ({"points": np.zeros((3, 3)), "values": np.zeros(2)}, "values has shape (2,)"),
        ({"points": np.zeros((0, 3)), "values": np.zeros(0)}, "at least one atom"),
        ({"points": np.full((1, 3), np.nan), "values": np.zeros(1)}, "NaN"),
        ({"points": np.array([["a"]]), "values": np.zeros(1)}, "not numbers"),
        ({"points": np.zeros((1, 2)), "values": np.zeros(1)}, "queries.csv has 3 coordinates"),
    ],
)
def test_a_bad_npz_is_one_sentence(arrays: dict, fragment: str, tmp_path: Path, hjax_):
    path, out = write(tmp_path, POINTS), tmp_path / "out"
    np.savez(tmp_path / "atoms.npz", **arrays)
    assert_refused(hjax_("solve", path, "--out", out), fragment, out)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x04]\x94.", b"text"])
def test_a_damaged_npz_is_one_sentence(content: bytes, tmp_path: Path, hjax_):
    path, out = write(tmp_path, POINTS), tmp_path / "out"
    (tmp_path / "atoms.npz").write_bytes(content)
    assert_refused(hjax_("solve", path, "--out", out), "atoms.npz", out)


def test_an_output_that_cannot_be_written(tmp_path: Path, hjax_, monkeypatch: pytest.MonkeyPatch):
    """Found out before the computation. (Root may write anywhere, so not by chmod.)"""

    def never(*_: object) -> None:
        raise AssertionError("computed before the folder was looked at")

    monkeypatch.setattr(_run, "solve", never)
    path = write(tmp_path, LINE)
    before = sorted(tmp_path.iterdir())
    for out in (path, path / "below"):
        code, _, stderr = hjax_("solve", path, "--out", out)
        assert code == 2
        assert "cannot be written" in stderr
        assert len(stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "out" / "solution.png").mkdir(parents=True)
    code, _, stderr = hjax_("solve", path, "--out", tmp_path / "out")
    assert code == 2
    assert "a folder has that name" in stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["solution.png"]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written(error: BaseException, tmp_path: Path, hjax_, monkeypatch: pytest.MonkeyPatch):
    """The picture fails, or the user has enough, after the arrays were written."""
    from hjax.experiments import _figures

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(_figures, "draw", fail)
    code, stdout, stderr = hjax_("solve", write(tmp_path, LINE), "--out", tmp_path / "new" / "out")
    assert code == (2 if isinstance(error, OSError) else 130)
    assert len(stderr.strip().splitlines()) == 1
    assert stdout == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("solve",), "--example NAME, one of anisotropic, atoms, digits, shock, slice"),
        (("solve", "a.toml", "--example", "shock"), "either"),
        (("solve", "--example", "nope"), "there are anisotropic, atoms, digits, shock, slice"),
        (("solve", "nowhere.toml"), "cannot be read"),
        (("solve", "--bogus"), "No such option"),
        (("bogus",), "No such command"),
        (("verify", "9.9"), "there is no statement '9.9'"),
        (("reproduce", "Z", "--out", "out"), "there is no experiment 'Z'; there are A, B"),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: tuple, fragment: str, tmp_path: Path, hjax_, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert_refused(hjax_(*arguments), fragment, tmp_path / "out")


def test_list_of_examples(hjax_):
    code, stdout, _ = hjax_("solve", "--example", "list")
    assert code == 0
    assert [line.split()[0] for line in stdout.splitlines()] == _problem.examples()
    assert all(Path(line.split(maxsplit=1)[1]).is_file() for line in stdout.splitlines())


def test_info(hjax_):
    code, stdout, _ = hjax_("info")
    assert code == 0
    for word in ("hjax", "jax", "jaxlib", "equinox", "python", "devices", "x64", "dense", "streaming"):
        assert word in stdout


def test_verify_json(hjax_):
    code, stdout, _ = hjax_("verify", "3.1.c", "--json")
    assert code == 0
    (row,) = json.loads(stdout)
    assert set(row) == set(verify.Finding._fields)
    assert row["verdict"] == row["expected"] == "holds with correction"


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_verify_exits_1_when_a_verdict_changed(flags: tuple, hjax_, monkeypatch: pytest.MonkeyPatch):
    row = verify.Finding("3.1.c", "s [0]", "f", verify.Verdict.FAILS, verify.Verdict.HOLDS, True, 0.1)
    monkeypatch.setattr(verify, "run", lambda names, progress: [row])
    code, stdout, _ = hjax_("verify", "3.1.c", *flags)
    assert code == 1
    assert "[0]" in stdout
    assert "does not hold" in stdout
    assert ("1 verdict changed" in stdout) == (not flags)


def test_reproduce_prints_what_came_out_and_keeps_it(tmp_path: Path, hjax_, monkeypatch: pytest.MonkeyPatch):
    from hjax.experiments.reproduce import _run as runner

    experiment = runner.EXPERIMENTS["D"]
    monkeypatch.setitem(runner.EXPERIMENTS, "D", experiment._replace(quick=experiment.quick | {"trials": 3, "d": [4]}))
    for remark in ("(quick)", "(quick, already there)"):
        code, stdout, _ = hjax_("reproduce", "D", "--quick", "--out", tmp_path / "out")
        assert code == 0
        assert remark in stdout
        assert "data: generated from the seeds" in stdout
        assert "ok   output against" in stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["D.csv", "D.pdf", "D.png", "manifest.json"]
    bad = experiment._replace(quick=experiment.quick | {"trials": 2, "d": [64]})  # no values that grad u cannot see
    monkeypatch.setitem(runner.EXPERIMENTS, "D", bad)
    code, stdout, _ = hjax_("reproduce", "D", "--quick", "--out", tmp_path / "out")
    assert code == 1
    assert "   NOT  generic V" in stdout


def test_reproduce_where_nothing_can_be_written(tmp_path: Path, hjax_):
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "D.png").mkdir(parents=True)
    for out, fragment in (
        (tmp_path / "file", "cannot be written"),
        (tmp_path / "file" / "below", "cannot be written"),
        (tmp_path / "out", "a folder has that name"),
    ):
        code, stdout, stderr = hjax_("reproduce", "D", "--quick", "--out", out)
        assert (code, stdout) == (2, "")
        assert fragment in stderr
        assert len(stderr.strip().splitlines()) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["D.png"]


def test_reproduce_interrupted_says_how_to_go_on(tmp_path: Path, hjax_, monkeypatch: pytest.MonkeyPatch):
    from hjax.experiments import reproduce

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "run", stop)
    code, _, stderr = hjax_("reproduce", "D", "--out", tmp_path)
    assert (code, stderr.strip()) == (130, "hjax: interrupted; the same command goes on from here.")


def test_import_is_light_and_the_missing_extra_is_one_sentence():
    heavy = ("hjax.experiments", "hjax.cli", "matplotlib", "typer", "sklearn")
    light = f"import sys, hjax; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    missing = "import sys; sys.modules['typer'] = None; import hjax.cli"
    done = subprocess.run([sys.executable, "-c", missing], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "the command line needs: pip install 'hjax[cli]'\n")
