"""Writing results: all of them or none.

A run that takes a minute should not learn at its end that it may not write, and a run that dies should
not leave half a file under the name of a whole one. So the output folder is opened first, files are
written into a hidden folder inside it (the same file system, so that a rename is atomic), and only when
every one of them is complete do they move to their names.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def staged(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder; when the block succeeds, move `names` from there into `folder`.

    If the block raises (or is interrupted) nothing is left behind, not even folders that were made here.

    **Raises:** `OSError`, with one sentence, before the block runs if `folder` cannot be made or written
    or one of the `names` in it is a folder.
    """
    folder = Path(folder)
    made = [p for p in [folder, *folder.parents] if not p.exists()]
    temporary = _open(folder, names, made)
    try:
        yield temporary
        for name in names:
            os.replace(temporary / name, folder / name)
        made = []
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)


def _open(folder: Path, names: Sequence[str], made: Sequence[Path]) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".hjax-", dir=folder))
    except OSError as error:
        _remove_empty(made)
        reason = (error.strerror or str(error)).lower()
        raise OSError(f"the output folder {folder} cannot be written: {reason}.") from error
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
            raise OSError(f"the output {folder / name} cannot be written: a folder has that name.")
    return temporary


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove these folders, innermost first, as far as they exist and are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
