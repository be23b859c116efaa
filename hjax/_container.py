"""One kind of file: a JSON header and the bytes of arrays, whole or not at all, and never a pickle.

    8 bytes   magic
    8 bytes   length of the header, little-endian
    header    JSON: {"version", "kind", "arrays": [{"dtype", "shape"}, ...], ...}
    arrays    one after another, C order, little-endian
    32 bytes  SHA-256 of all before

A file is written under a temporary name, flushed to the disk and renamed. A reader looks at the length and
the checksum before it looks at anything else.
"""

import contextlib
import hashlib
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

VERSION = 1
_MAGIC = b"\x89hjax\r\n\x1a"
_DIGEST = 32
_DTYPES = frozenset(
    ["bool", "complex64", "complex128", "bfloat16", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + [d for d in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz")]
)


def write(path: str | os.PathLike, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Write a whole file or leave the old one; `header` is JSON and says its "kind".

    **Raises:** `ValueError` for a dtype that has no place here, `OSError`, with one sentence, if it cannot be written.
    """
    target = Path(path)
    listed = []
    for array in arrays:
        if array.dtype.name not in _DTYPES:
            raise ValueError(
                f"an array of dtype {array.dtype} cannot be saved; convert it to one of {sorted(_DTYPES)}."
            )
        listed.append({"dtype": array.dtype.name, "shape": list(array.shape)})
    text = json.dumps({"version": VERSION, **header, "arrays": listed}, allow_nan=False).encode()
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:
        raise OSError(f"{target} cannot be written: {_reason(error)}.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            digest = hashlib.sha256()
            for part in (_MAGIC, len(text).to_bytes(8, "little"), text, *map(_bytes, arrays)):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(f"{target} cannot be written: {_reason(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _sync_folder(target.parent)


def read(path: str | os.PathLike, kind: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The header and the arrays of a file of this kind, all of it checked.

    **Raises:** `OSError` if it cannot be read; `ValueError`, with one sentence, for a foreign, truncated, damaged
    or newer file, or one of another kind.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {_reason(error)}.") from error
    if content[: len(_MAGIC)] != _MAGIC[: len(content)] or not content:
        raise ValueError(f"{path} is not a file of hjax; pass one that hjax.save (or a checkpoint=) has written.")
    start = len(_MAGIC) + 8
    length = int.from_bytes(content[len(_MAGIC) : start], "little")
    header = _header(content[start : start + length]) if len(content) >= start + length else None
    # A newer version may have moved everything but this.
    if header is not None and isinstance(header.get("version"), int) and header["version"] > VERSION:
        raise ValueError(
            f"{path} has format version {header['version']}, this hjax reads up to {VERSION}; upgrade hjax to load it."
        )
    if header is None or len(content) < start + length + _DIGEST or not _whole(content):
        raise ValueError(f"{path} is truncated or damaged (its checksum does not match); load another copy.")
    if header.get("kind") != kind:
        raise ValueError(f"{path} holds a {header.get('kind')}, but a {kind} is wanted; {_INSTEAD[kind]}.")
    place, arrays = start + length, []
    for entry in header["arrays"]:
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path} holds an array of unknown dtype {entry['dtype']!r}.")
        dtype, shape = jnp.dtype(entry["dtype"]), tuple(entry["shape"])
        count = math.prod(shape)
        if place + count * dtype.itemsize > len(content) - _DIGEST:
            break
        array = np.frombuffer(content, dtype, count, place).reshape(shape)
        place += count * dtype.itemsize
        arrays.append(array.byteswap() if sys.byteorder == "big" else array)
    if place != len(content) - _DIGEST or len(arrays) != len(header["arrays"]):
        raise ValueError(f"{path} has arrays of another length than its header says.")
    return header, arrays


_INSTEAD = {
    "model": "a checkpoint is read by hjax.training.fit(..., checkpoint=path, resume=True)",
    "checkpoint": "a model is read by hjax.load(path)",
}


def _header(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _whole(content: bytes) -> bool:
    view = memoryview(content)
    return hashlib.sha256(view[:-_DIGEST]).digest() == bytes(view[-_DIGEST:])


def _bytes(array: np.ndarray) -> bytes:
    return (array.byteswap() if sys.byteorder == "big" else array).tobytes()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
