"""Rules about the source itself: who may import whom, and what stands where."""

import ast
import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import pytest

import hjax

ROOT = Path(hjax.__file__).parent
REPOSITORY = ROOT.parent
# Each may import itself and what stands before it. A new room takes its place in this line.
ROOMS = [
    "_checks",
    "_container",
    "_serialisation",
    "hamiltonians",
    "initial_data",
    "reductions",
    "solutions",
    "nn",
    "dynamics",
    "training",
    "experiments",
    "cli",
]
FILES = sorted(ROOT.rglob("*.py"))
IDS = [str(f.relative_to(ROOT)) for f in FILES]


def room(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imported_rooms(file: Path) -> Iterator[tuple[str, int]]:
    package = ["hjax", *file.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names = [(a.name.split("."), node.lineno) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            names = [([*base, a.name], node.lineno) for a in node.names]
        else:
            continue
        for parts, line in names:
            if parts[0] == "hjax":
                yield (parts[1] if len(parts) > 1 else "hjax"), line


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_rooms_import_downwards_only(file):
    here = room(file)
    if here == "__init__":
        return
    assert here in ROOMS, f"{here} is a new room: give it its place in ROOMS"
    for there, line in imported_rooms(file):
        # The flat namespace is for the top of the house, which nothing imports in turn.
        if there not in ROOMS:
            assert here in ("experiments", "cli"), f"line {line} imports hjax itself"
            continue
        assert ROOMS.index(there) <= ROOMS.index(here), f"line {line} imports {there}, which is above {here}"


def test_pallas_stands_in_one_file_at_most():
    assert (
        sum("pallas" in {n.name.split(".")[-1] for n in ast.walk(tree(f)) if isinstance(n, ast.alias)} for f in FILES)
        <= 1
    )


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_no_second_log_sum_exp(file):
    """Every Gibbs average comes from the reductions (the design's point 5.1)."""
    banned = {"logsumexp", "softmax", "log_softmax", "logaddexp"}
    for node in ast.walk(tree(file)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
        name = node.name if isinstance(node, ast.alias) else name
        assert name not in banned, f"line {node.lineno} uses {name}: call hjax.softmin"


def test_the_top_level_holds_nothing_else():
    allowed = {"pyproject.toml", "README.md", "LICENSE", "hjax", "benchmarks", "tests", "notebooks"}
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tops = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {t for t in tops if not t.startswith(".")} <= allowed


def modules() -> list[str]:
    return [m.name for m in pkgutil.walk_packages(hjax.__path__, "hjax.")]


def classes() -> list[type]:
    found = set()
    for name in modules():
        for _, value in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if value.__module__.startswith("hjax"):
                found.add(value)
    return sorted(found, key=lambda c: c.__qualname__)


def is_abstract(cls: type) -> bool:
    return inspect.isabstract(cls) or bool(
        getattr(cls, "__abstractvars__", ()) or getattr(cls, "__abstractclassvars__", ())
    )


def test_modules_are_abstract_or_final():
    """No concrete Module is subclassed (docs/pattern.md of Equinox)."""
    for cls in classes():
        if issubclass(cls, eqx.Module):
            for base in cls.__bases__:
                if base.__module__.startswith("hjax"):
                    assert is_abstract(base), f"{cls.__name__} subclasses the concrete {base.__name__}"


def public() -> dict[str, object]:
    found = {}
    for owner in (hjax, hjax.nn, hjax.dynamics, hjax.quadrature, hjax.training):
        for name, value in vars(owner).items():
            if name.startswith("_") or name in ("annotations",):
                continue
            if getattr(value, "__module__", getattr(value, "__name__", "")).startswith("hjax"):
                found[f"{owner.__name__}.{name}"] = value
    return found


@pytest.mark.parametrize("name", list(public()))
def test_every_public_name_has_a_docstring(name):
    value = public()[name]
    assert value.__doc__
    # A dataclass or NamedTuple without one of its own gets its signature for a docstring.
    assert not value.__doc__.startswith(f"{name.split('.')[-1]}(")
    if inspect.isclass(value):
        for attribute, method in vars(value).items():
            if not attribute.startswith("_") and inspect.isfunction(method):
                assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute} has no docstring"


@pytest.mark.parametrize("name", [n for n, v in public().items() if inspect.isclass(v) or inspect.isfunction(v)])
def test_every_public_function_and_concrete_class_shows_an_example(name):
    value = public()[name]
    result_type = inspect.isclass(value) and issubclass(value, tuple)
    if is_abstract(value) or result_type:
        return  # shown by what makes them
    assert ">>> " in value.__doc__


def test_importing_hjax_imports_nothing_heavy_or_optional():
    code = (
        "import sys, hjax; print([m for m in ('matplotlib', 'sklearn', 'typer', 'mpmath', 'rich') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
