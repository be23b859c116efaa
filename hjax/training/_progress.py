"""What a run says while it runs: a bar, and one line of JSON per piece."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Report = Callable[[float, str], None]


@contextlib.contextmanager
def reporting(progress: "bool | Report | None", title: str) -> Iterator[Report]:
    """A function (fraction done, words): the caller's own, a bar on a terminal, or nothing."""
    if callable(progress):
        yield progress
        return
    wanted = sys.stderr.isatty() if progress is None else progress
    if not wanted:
        yield lambda fraction, words: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError as error:
        if progress is None:
            yield lambda fraction, words: None
            return
        raise ImportError("progress=True wants the package rich: pip install rich, or pass progress=False.") from error
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda fraction, words: bar.update(task, completed=fraction, description=words)


class Log:
    """A file of JSON lines, each complete on disk before the next piece of the run starts."""

    def __init__(self, path: "str | os.PathLike | None", records: Sequence[dict[str, Any]]):
        self.file = None
        if path is None:
            return
        try:
            # What a resumed run has already said; lines after its checkpoint will come again.
            self.file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OSError(f"the log {path} cannot be written: {reason}.") from error
        for record in records:
            self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        """One line."""
        if self.file is not None:
            self.file.write(json.dumps(plain(record), allow_nan=False) + "\n")
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def plain(value: Any) -> Any:
    """Numbers for JSON, which has no NaN: those become words."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
