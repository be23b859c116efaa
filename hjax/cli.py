"""The command line: `hjax solve`, `hjax verify`, `hjax reproduce`, `hjax info`.

Results go to stdout, progress and errors to stderr. An error is one sentence and exit code 2.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

_NEEDED = ("matplotlib", "mpmath", "rich", "sklearn", "typer")
if any(importlib.util.find_spec(name) is None for name in _NEEDED):
    sys.stderr.write("the command line needs: pip install 'hjax[cli]'\n")
    raise SystemExit(2)

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402
from rich.table import Table  # noqa: E402

# typer either depends on click or carries a copy of it; its own exception leads to the right one.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Solve Hamilton-Jacobi equations, and check the theory behind hjax."""


@app.command()
def solve(
    problem: Annotated[Path | None, typer.Argument(help="A problem file (TOML).")] = None,
    example: Annotated[
        str | None, typer.Option(help="A problem that ships with hjax, instead of a file; 'list' lists them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for the results; default out/NAME.")] = None,
) -> None:
    """Solve a problem to solution.npz, solution.png and summary.txt.

    What a problem file may say is written at the top of each example.
    """
    from .experiments import _problem, _run

    if example == "list" and problem is None:
        for name in _problem.examples():
            typer.echo(f"{name:<14}{_problem.example(name)}")
        return
    if problem is None and example is not None:
        path = _problem.example(example)
    elif problem is not None and example is None:
        path = problem
    else:
        names = ", ".join(_problem.examples())
        raise ValueError(f"give either a problem file or --example NAME, one of {names}.")
    with _progress("reading", 1.0) as step:
        outcome = _run.solve_file(path, out, lambda fraction, doing: step(doing, completed=fraction))
    typer.echo(outcome.summary, nl=False)


@app.command()
def verify(
    items: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ITEM]...", help="Statements such as 4.1 or 5.1.a; default all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects on stdout.")] = False,
) -> None:
    """Measure the statements of the theory; exit code 1 if a verdict has changed."""
    from .experiments import verify as table

    chosen = table.select(items)
    with _progress("measuring", len(chosen)) as step:
        findings = table.run(items, lambda row: step(row.item, advance=1))
    changed = [row for row in findings if row.changed]
    if as_json:
        typer.echo(json.dumps([_plain(row._asdict()) for row in findings], indent=2))
    else:
        _print_findings(findings, len(changed))
    if changed:
        raise typer.Exit(1)


def _plain(row: dict) -> dict:
    return {key: str(value) if key in ("verdict", "expected") else value for key, value in row.items()}


def _print_findings(findings: Sequence, changed: int) -> None:
    colors = {"holds": "green", "holds with correction": "yellow", "does not hold": "red"}
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for name, ratio in (("item", None), ("statement", 3), ("figure", 3), ("verdict", None)):
        rows.add_column(name, ratio=ratio, overflow="fold", no_wrap=ratio is None)
    for row in findings:
        verdict = str(row.verdict)
        shown = f"[{colors.get(verdict, 'white')}]{verdict}[/]"
        if row.changed:
            shown = f"[bold reverse red]{verdict}[/]\nexpected: {row.expected}"
        rows.add_row(row.item, _escape(row.statement), _escape(row.figure), shown)
    console = Console()
    # Piped into a file there is no width to respect; 140 columns keep most rows on two lines.
    console = console if console.is_terminal else Console(width=140)
    console.print(rows)
    seconds = sum(row.seconds for row in findings)
    said = "no verdict changed" if not changed else f"{changed} verdict{'s' * (changed > 1)} changed"
    console.print(f"\n{len(findings)} statements in {seconds:.0f} s: {said}", highlight=False)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@app.command()
def reproduce(
    experiments: Annotated[
        list[str] | None, typer.Argument(metavar="[EXPERIMENT]...", help="Letters from A to G, or all (the default).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small parameters: seconds instead of minutes.")] = False,
    out: Annotated[Path, typer.Option(help="The folder for the results.")] = Path("out/reproduce"),
    download: Annotated[
        bool, typer.Option("--download", help="Fetch MNIST and CIFAR-10; otherwise scikit-learn's digits serve.")
    ] = False,
) -> None:
    """Run the paper's experiments: a figure and a CSV for each, and one manifest.json.

    What is finished in the folder is kept; a run that was stopped goes on where it was. Exit code 1 if something that
    must come out did not.
    """
    from .experiments import reproduce as room

    room.select(experiments)
    try:
        with _progress("reading", 1.0) as step:
            reports = room.run(
                experiments,
                out,
                quick=quick,
                download=download,
                progress=lambda fraction, doing: step(doing, completed=fraction),
            )
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from here.", 130)
    for report in reports:
        _print_experiment(report.name, report.entry, report.kept)
    typer.echo(f"figures, tables and {out / 'manifest.json'}")
    if not all(report.entry["accepted"] for report in reports):
        raise typer.Exit(1)


def _print_experiment(name: str, entry: dict, kept: bool) -> None:
    before = ", already there" if kept else ""
    typer.echo(f"{name}  {entry['title']} ({'quick' if entry['quick'] else 'full'}{before})")
    typer.echo(f"   data: {entry['data']}")
    for criterion in entry["acceptance"]:
        value = criterion["value"]
        shown = value if isinstance(value, str) else f"{value:.4g}"
        typer.echo(f"   {'ok ' if criterion['met'] else 'NOT'}  {criterion['name']}: {shown} {criterion['wanted']}")


@app.command()
def info() -> None:
    """Versions, devices, precision, and which implementation the reductions choose."""
    import jax
    import jax.numpy as jnp

    import hjax

    def line(name: str, text: object) -> None:
        typer.echo(f"{name:<11}{text}")

    for name in ("hjax", "jax", "jaxlib", "equinox"):
        line(name, importlib.metadata.version(name))
    line("python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    line("devices", ", ".join(f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices()))
    x64 = bool(jax.config.read("jax_enable_x64"))
    line("x64", f"{'on' if x64 else 'off'} (hjax solve uses float64 whatever this says)")
    typer.echo("\nsoftmin and hardmin with implementation=None:")
    for m, n, d in ((100, 100, 2), (1, 100_000, 2), (10_000, 10_000, 1), (10_000, 10_000, 64)):
        x, y = (jax.ShapeDtypeStruct((count, d), jnp.float32) for count in (m, n))
        choice = hjax.which_implementation(x, y, jax.ShapeDtypeStruct((n,), jnp.float32))
        line(f"  {choice.name}", f" {choice.reason}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 if `verify` found a change, 2 for an error, 130 for Ctrl-C."""
    import jax

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(arguments or ["--help"], standalone_mode=False, prog_name="hjax")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except _UsageError as error:
        _fail(f"{error.format_message()} (hjax --help says what there is)")  # pyright: ignore
    except (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        _fail(str(error) or "out of memory.")
    if code == 130:
        # Some versions of typer turn the exception into this code themselves.
        _fail("interrupted; nothing was written.", 130)
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _progress(doing: str, total: float) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; yields `step(doing, completed=...)` or `step(doing, advance=...)`.

    Ctrl-C is heard at the next step, within about a second: an exception in the middle of a
    compilation can take the interpreter down. A second Ctrl-C does not wait.
    """
    heard = threading.Event()

    def note(number: int, frame: object) -> None:
        heard.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    columns = (TextColumn("{task.description:<22}"), BarColumn(40), TextColumn("{task.percentage:>3.0f} %"))
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, note) if main_thread else None
    try:
        with bar:
            task = bar.add_task(doing, total=total)

            def step(doing: str, **change: float) -> None:
                if heard.is_set():
                    raise KeyboardInterrupt
                bar.update(task, description=doing, **change)  # pyright: ignore[reportArgumentType]

            yield step
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr, and the exit code."""
    sys.stderr.write(f"hjax: {' '.join(message.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
