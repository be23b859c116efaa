"""Strict reading of untrusted tables: TOML, CSV and NPZ, one clear sentence per mistake.

Nothing here is evaluated or unpickled. Every message names the file, the key (or line and column), what
was found and what is wanted.
"""

import csv
import difflib
import math
import tomllib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class ProblemError(ValueError):
    """A problem that cannot be solved as written; its message is one sentence for the user."""


def load_toml(path: Path) -> "Table":
    """The table at the root of a TOML file."""
    try:
        return Table(path, "", tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise ProblemError(f"{path.name} is not valid TOML: {error}.") from error


def read_text(path: Path) -> str:
    """A UTF-8 text file (a byte order mark is skipped)."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ProblemError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    except UnicodeDecodeError as error:
        raise ProblemError(f"{path} is not a UTF-8 text file (byte {error.start}).") from error


class Table:
    """A TOML table that must be read completely: `finish` complains about every key not asked for."""

    def __init__(self, path: Path, name: str, entries: dict[str, Any]):
        self.path, self.name, self.entries = path, name, entries
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        self._known.append(key)
        return key in self.entries

    def error(self, key: str, message: str) -> ProblemError:
        """An error about one key of this table."""
        return ProblemError(f"{self.path.name}: {self.key(key)} {message}.")

    def key(self, key: str) -> str:
        """The dotted name of a key."""
        return f"{self.name}.{key}" if self.name else key

    def get(self, key: str, wanted: str, default: Any = None) -> Any:
        """The raw entry; without a default it must be there."""
        if key not in self:
            if default is None:
                raise self.error(key, f"is missing; {wanted} is wanted")
            return default
        return self.entries[key]

    def table(self, key: str, *, optional: bool = False) -> "Table":
        """A sub-table; an optional one that is absent reads as empty."""
        value = self.get(key, f"a table [{self.key(key)}]", {} if optional else None)
        if not isinstance(value, dict):
            raise self.error(key, f"is {_show(value)}, but a table [{self.key(key)}] is wanted")
        return Table(self.path, self.key(key), value)

    def text(self, key: str, default: str | None = None) -> str:
        """A non-empty string."""
        value = self.get(key, "a string", default)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f"is {_show(value)}, but a string is wanted")
        return value

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """One of the given strings."""
        value = self.get(key, f"one of {', '.join(choices)}", default)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise self.error(key, f"is {_show(value)}, but one of {', '.join(choices)} is wanted{hint}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, "true or false", default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {_show(value)}, but true or false is wanted")
        return value

    def integer(self, key: str, *, minimum: int = 1, default: int | None = None) -> int:
        """A whole number, not below `minimum`."""
        value = self.get(key, f"a whole number >= {minimum}", default)
        if not _is_integer(value) or value < minimum:
            raise self.error(key, f"is {_show(value)}, but a whole number >= {minimum} is wanted")
        return value

    def integers(self, key: str, count: int, *, minimum: int = 1) -> tuple[int, ...]:
        """`count` whole numbers; one number stands for all."""
        wanted = f"a whole number >= {minimum} or a list of {count} of them"
        value = self.get(key, wanted)
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count or not all(_is_integer(v) and v >= minimum for v in values):
            raise self.error(key, f"is {_show(value)}, but {wanted} is wanted")
        return tuple(values)

    def number(self, key: str, *, positive: bool = False, default: float | None = None) -> float:
        """A finite number."""
        wanted = "a positive number" if positive else "a finite number"
        value = self.get(key, wanted, default)
        if not _is_number(value) or (positive and value <= 0):
            raise self.error(key, f"is {_show(value)}, but {wanted} is wanted")
        return float(value)

    def numbers(self, key: str, count: int | None = None, *, default: float | None = None) -> np.ndarray:
        """A list of finite numbers, of length `count` (one number stands for all) or any length."""
        wanted = "a list of numbers" if count is None else f"a number or a list of {count} numbers"
        value = self.get(key, wanted, default)
        values = value if isinstance(value, list) else [value] * (count or 1)
        if not values or (count is not None and len(values) != count) or not all(map(_is_number, values)):
            raise self.error(key, f"is {_show(value)}, but {wanted} is wanted")
        return np.asarray(values, float)

    def rows(self, key: str, shape: tuple[int, int]) -> np.ndarray:
        """A list of `shape[0]` lists of `shape[1]` finite numbers."""
        wanted = f"{shape[0]} lists of {shape[1]} numbers each"
        value = self.get(key, wanted)
        right = isinstance(value, list) and len(value) == shape[0]
        if not right or not all(
            isinstance(row, list) and len(row) == shape[1] and all(map(_is_number, row)) for row in value
        ):
            raise self.error(key, f"is {_show(value)}, but {wanted} are wanted")
        return np.asarray(value, float)

    def finish(self) -> None:
        """Raise if there is a key that nobody asked for."""
        for key in self.entries:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, 1)
                hint = f"; did you mean {self.key(near[0])}?" if near else ""
                known = ", ".join(dict.fromkeys(self._known)) or "none"
                raise ProblemError(f"{self.path.name}: unknown key {self.key(key)} (known here: {known}){hint}.")


def read_csv(path: Path, prefix: str, extra: Sequence[str] = (), optional: Sequence[str] = ()) -> dict:
    """Columns `<prefix>1 .. <prefix>d` as "points" `(N, d)`, and each `extra` / present `optional` one.

    **Raises:** `ProblemError` naming line and column for a missing or unknown column, an empty file, a
    cell that is not a number, or NaN.
    """
    lines = list(csv.reader(read_text(path).splitlines()))
    if not lines or not any(cell.strip() for cell in lines[0]):
        raise ProblemError(f"{path.name} is empty; a header such as {prefix}1,{prefix}2 is wanted.")
    header = [cell.strip() for cell in lines[0]]
    count = sum(name.startswith(prefix) and name[len(prefix) :].isdigit() for name in header)
    wanted = [f"{prefix}{i + 1}" for i in range(max(count, 1))] + list(extra)
    present = [name for name in optional if name in header]
    if sorted(header) != sorted(wanted + present):
        also = f" and optionally {', '.join(optional)}" if optional else ""
        raise ProblemError(
            f"{path.name} has the columns {', '.join(header)}, but {', '.join(wanted)}{also} are wanted."
        )
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise ProblemError(f"{path.name}, line {number}: {len(cells)} cells, but the header has {len(header)}.")
        rows.append([_cell(path, number, *pair) for pair in zip(header, cells, strict=True)])
    if not rows:
        raise ProblemError(f"{path.name} has a header but no rows; at least one is wanted.")
    columns = dict(zip(header, np.asarray(rows, float).T, strict=True))
    points = np.stack([columns[f"{prefix}{i + 1}"] for i in range(max(count, 1))], axis=1)
    if not np.isfinite(points).all():
        raise ProblemError(f"{path.name} has an infinite coordinate; finite ones are wanted.")
    return {"points": points, **{name: columns[name] for name in [*extra, *present]}}


def read_npz(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named floating-point arrays of an NPZ file; never unpickles."""
    shown = f"{', '.join(wanted)}{' and optionally ' + ', '.join(optional) if optional else ''}"
    try:
        # Opened here: NumPy forgets to close a file that turns out not to be a zip archive.
        stream = path.open("rb")
    except OSError as error:
        raise ProblemError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    with stream:
        try:
            file = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ProblemError(f"{path.name} is not an NPZ file of plain arrays ({shown}).") from error
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ProblemError(f"{path.name} holds one array without a name; an NPZ file with {shown} is wanted.")
        with file:
            names = set(file.files)
            if not set(wanted) <= names or not names <= {*wanted, *optional}:
                raise ProblemError(f"{path.name} holds {', '.join(sorted(names)) or 'nothing'}, not {shown}.")
            return {name: _array(path, file, name) for name in sorted(names)}


def _array(path: Path, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        array = file[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ProblemError(
            f"{path.name}: the array {name} is damaged or holds pickled objects, which are never loaded; "
            f"save plain numbers."
        ) from error
    if array.dtype.kind not in "fiu":
        raise ProblemError(f"{path.name}: the array {name} has dtype {array.dtype}, not numbers.")
    return array.astype(float)


def _cell(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        shown = _show(text.strip())
        raise ProblemError(f"{path.name}, line {line}, column {column}: {shown} is not a number.") from None
    if math.isnan(value):
        raise ProblemError(f"{path.name}, line {line}, column {column} is NaN; drop that row.")
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    # The comparison is also false for NaN, and safe for the integers that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
