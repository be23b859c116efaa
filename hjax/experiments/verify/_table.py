import contextlib
import enum
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax


class Verdict(enum.StrEnum):
    """What the measurements say of a statement."""

    HOLDS = "holds"
    CORRECTED = "holds with correction"
    FAILS = "does not hold"


class Evidence(NamedTuple):
    """What a check measured: whether the statement `holds`, else whether it does as `corrected`; the `figure`.

    Write the expected outcome as a strict inequality that could fail (`holds=err < tol`, and for a
    counterexample `holds=not gap > 0.1`): then a NaN always changes the verdict.
    """

    holds: bool
    figure: str
    corrected: bool = False

    @property
    def verdict(self) -> Verdict:
        """The verdict that follows."""
        if self.holds:
            return Verdict.HOLDS
        return Verdict.CORRECTED if self.corrected else Verdict.FAILS


class Finding(NamedTuple):
    """One row of the table; `changed` says that the verdict is not the expected one."""

    item: str
    statement: str
    figure: str
    verdict: Verdict
    expected: Verdict
    changed: bool
    seconds: float


class _Check(NamedTuple):
    item: str
    statement: str
    expected: Verdict
    measure: Callable[[], Evidence]


_CHECKS: dict[str, _Check] = {}


def check(
    item: str, statement: str, *, expected: Verdict
) -> Callable[[Callable[[], Evidence]], Callable[[], Evidence]]:
    """Register a function that measures the statement `item`; its verdict is `expected` to be this one."""

    def register(measure: Callable[[], Evidence]) -> Callable[[], Evidence]:
        if item in _CHECKS:
            raise ValueError(f"two checks are called {item}; give the second another name.")
        _CHECKS[item] = _Check(item, statement, expected, measure)
        return measure

    return register


def items() -> list[str]:
    """The names of all statements, in the order of the theory."""
    return list(_CHECKS)


def select(names: Sequence[str] | None = None) -> list[str]:
    """The statements that `names` mean, in table order: "4.1" means all of 4.1.a, 4.1.b, ...; None means all.

    **Raises:** `ValueError` for a name that means none.
    """
    if not names:
        return items()

    def means(name: str, item: str) -> bool:
        return f"{item}.".casefold().startswith(f"{name}.".casefold())

    for name in names:
        if not any(means(name, item) for item in _CHECKS):
            raise ValueError(f"there is no statement {name!r}; there are {', '.join(_CHECKS)}.")
    return [item for item in _CHECKS if any(means(name, item) for name in names)]


def run(names: Sequence[str] | None = None, progress: Callable[[Finding], None] | None = None) -> list[Finding]:
    """Measure the statements that `names` select, in double precision, and read off the verdicts.

    **Arguments:** `names`: as for `select`. `progress`: called with every finding as it comes.

    **Raises:** `ValueError` for an unknown name.

    **Cost:** all of them about a minute on two cores, most of it compilation. The caller's `jax_enable_x64` stays.

    >>> from hjax.experiments import verify
    >>> [(row.item, str(row.verdict), row.changed) for row in verify.run(["3.1.c"])]
    [('3.1.c', 'holds with correction', False)]
    """
    findings = []
    for item in select(names):
        _, statement, expected, measure = _CHECKS[item]
        start = time.perf_counter()
        with _double_precision():
            evidence = measure()
        seconds = time.perf_counter() - start
        verdict = evidence.verdict
        row = Finding(item, statement, evidence.figure, verdict, expected, verdict != expected, seconds)
        findings.append(row)
        if progress is not None:
            progress(row)
    return findings


def _double_precision() -> contextlib.AbstractContextManager:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    return enable_x64(True)
