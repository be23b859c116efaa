"""Models in files: the tree of modules as JSON, the arrays as bytes; no code in a file is ever run."""

import dataclasses
import importlib
import os
import re
import sys
import types
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from . import _container

# Functions that a field may hold, by the only names a file may give.
_FUNCTIONS: dict[str, Any] = {
    **{
        f"jax.nn.{name}": f for name, f in vars(jax.nn).items() if callable(f) and not name.startswith("_")
    },
    **{
        f"jax.numpy.{name}": getattr(jnp, name)
        for name in ("abs", "cos", "cosh", "exp", "expm1", "log", "log1p", "maximum", "minimum", "negative")
        + ("sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "arctan")
    },
}  # fmt: skip


def save(path: str | os.PathLike, model: Any) -> None:
    """Write a model to a file, from which `load` gives it back bit for bit.

    **Arguments:** `path`: the file, replaced in one step if it exists. `model`: any module of hjax or `equinox.nn`
    (layers, networks, solutions, initial data, an ensemble's stacked model), or tuples, lists and dicts of them, with
    arrays of every dtype, random keys, numbers, strings and functions of `jax.nn`.

    **Raises:** `ValueError` for anything else, naming where it stands; `OSError` if the file cannot be written. In
    both cases the old file, if any, stays as it was.

    **Cost:** one copy of the arrays on disk; a checksum over all of it.

    >>> import os, tempfile, jax, hjax
    >>> layer = hjax.nn.LSELayer(2, "scalar", width=4, eps=0.1, key=jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     hjax.save(os.path.join(folder, "layer.hjax"), layer)
    ...     same = hjax.load(os.path.join(folder, "layer.hjax"))
    >>> bool((same.weight == layer.weight).all()), same.out_size
    (True, 'scalar')
    """
    arrays: list[np.ndarray] = []
    tree = _described(model, arrays, "the model")
    _container.write(path, {"kind": "model", "tree": tree}, arrays)


def load(path: str | os.PathLike) -> Any:
    """The model in a file that `save` has written.

    Nothing is unpickled or run: the file may only name classes of hjax and `equinox.nn` and functions of `jax.nn`,
    and its length, checksum, classes and fields are checked before an array is made.

    **Arguments:** `path`. **Returns:** the model. **Raises:** `ValueError`, with one sentence, for a foreign,
    truncated, damaged or newer file, and for 64-bit arrays where jax has them switched off; `OSError`.

    >>> import os, tempfile, jax.numpy as jnp, hjax
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "points.hjax")
    ...     hjax.save(path, {"points": jnp.arange(3.0), "name": None})
    ...     hjax.load(path)
    {'points': Array([0., 1., 2.], dtype=float32), 'name': None}
    """
    header, arrays = _container.read(path, "model")
    try:
        return _built(header["tree"], arrays)
    except _FileError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from None
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be loaded: its description of the model is not one of hjax's.") from error


class _FileError(Exception):
    pass


def _described(value: Any, arrays: list[np.ndarray], where: str) -> Any:
    match value:
        case None | bool() | str():
            return value
        case np.generic() | np.ndarray():
            arrays.append(np.asarray(value))
            return {"numpy": len(arrays) - 1, "scalar": isinstance(value, np.generic)}
        case int():
            return {"int": str(value)}
        case float():
            return {"float": value.hex()}
        case complex():
            return {"complex": [value.real.hex(), value.imag.hex()]}
        case jax.Array() if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            arrays.append(np.asarray(jax.random.key_data(value)))
            return {"key": len(arrays) - 1, "implementation": str(jax.random.key_impl(value))}
        case jax.Array():
            if isinstance(value, jax.core.Tracer):
                raise ValueError(f"{where} is traced, so it has no numbers to save; call hjax.save outside of jit.")
            arrays.append(np.asarray(value))
            return {"array": len(arrays) - 1, "weak": value.weak_type}
        case eqx.Module():
            name = _name_of(type(value), where)
            fields = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
            return {
                "module": name,
                "fields": {f: _described(getattr(value, f), arrays, f"{where}.{f}") for f in fields},
            }
        case tuple() | list() if type(value) in (tuple, list):
            kind = type(value).__name__
            return {kind: [_described(v, arrays, f"{where}[{i}]") for i, v in enumerate(value)]}
        case dict() if type(value) is dict and all(isinstance(k, str | int) for k in value):
            items = value.items()
            return {
                "dict": [[_described(k, arrays, where), _described(v, arrays, f"{where}[{k!r}]")] for k, v in items]
            }
        case np.dtype():
            return {"dtype": value.name}
    for name, function in _FUNCTIONS.items():
        if function is value:
            return {"function": name}
    what = getattr(value, "__name__", type(value).__name__)
    raise ValueError(
        f"{where} is {what}, which hjax.save has no form for; save a module of hjax or equinox.nn, containers and "
        f"arrays, or with your own classes use eqx.tree_serialise_leaves."
    )


def _built(node: Any, arrays: list[np.ndarray]) -> Any:
    match node:
        case None | bool() | str():
            return node
        case {"numpy": int(i), "scalar": bool(scalar)}:
            return arrays[i][()] if scalar else arrays[i].copy()
        case {"int": str(text)}:
            return int(text)
        case {"float": str(text)}:
            return float.fromhex(text)
        case {"complex": [str(real), str(imaginary)]}:
            return complex(float.fromhex(real), float.fromhex(imaginary))
        case {"key": int(i), "implementation": str(name)}:
            return _key(_array(arrays[i]), name)
        case {"array": int(i), "weak": bool(weak)}:
            array = _array(arrays[i])
            # A weak type yields to others, so losing it would change the dtype of results. Zeros that have it keep it.
            zero = jnp.asarray(arrays[i].dtype.type(0).item())
            if weak and zero.dtype == array.dtype:
                return jnp.broadcast_to(zero, array.shape).at[...].set(array)
            return array
        case {"module": str(name), "fields": dict(fields)}:
            return _module(name, {k: _built(v, arrays) for k, v in fields.items()})
        case {"tuple": list(items)}:
            return tuple(_built(v, arrays) for v in items)
        case {"list": list(items)}:
            return [_built(v, arrays) for v in items]
        case {"dict": list(items)}:
            return {_built(k, arrays): _built(v, arrays) for k, v in items}
        case {"dtype": str(name)}:
            return jnp.dtype(name)
        case {"function": str(name)}:
            if name not in _FUNCTIONS:
                raise _FileError(f"it names the function {name}, which this hjax does not know; upgrade hjax and jax.")
            return _FUNCTIONS[name]
    raise TypeError(node)


def _array(array: np.ndarray) -> jax.Array:
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise _FileError(
            f"it holds {array.dtype} arrays, which jax would cut to 32 bits; first call "
            f"jax.config.update('jax_enable_x64', True)."
        )
    return jnp.asarray(array)


def _key(words: jax.Array, implementation: str) -> jax.Array:
    try:
        return jax.random.wrap_key_data(words, impl=implementation)
    except (ValueError, TypeError) as error:
        raise _FileError(f"it holds a random key of kind {implementation!r}, which this jax does not know.") from error


def _module(name: str, values: dict[str, Any]) -> eqx.Module:
    cls = _class_of(name)
    known = {f.name for f in dataclasses.fields(cls)}
    if set(values) != known:
        other = ", ".join(sorted(set(values) ^ known))
        raise _FileError(f"{name} has other fields here than in this version of hjax ({other}); save it anew.")
    made = object.__new__(cls)
    for field, value in values.items():
        object.__setattr__(made, field, value)
    return made


def _name_of(cls: type, where: str) -> str:
    """The public name if there is one (private files may be renamed), else the private one."""
    for package, module in list(sys.modules.items()):
        ours = package == "hjax" or package.startswith("hjax.") or package == "equinox.nn"
        if (
            ours
            and "._" not in package
            and isinstance(module, types.ModuleType)
            and vars(module).get(cls.__name__) is cls
        ):
            return f"{package}.{cls.__name__}"
    if cls.__module__.startswith("hjax.") and vars(sys.modules[cls.__module__]).get(cls.__name__) is cls:
        return f"{cls.__module__}.{cls.__name__}"
    raise ValueError(
        f"{where} is a {cls.__name__}, which is no class of hjax or equinox.nn and so could not be loaded again; save "
        f"its parts, or use eqx.tree_serialise_leaves."
    )


def _class_of(name: str) -> Any:
    found = re.fullmatch(r"(hjax(?:\.\w+)*|equinox\.nn)\.(\w+)", name)
    try:
        cls = getattr(importlib.import_module(found[1]), found[2], None) if found else None
    except ImportError:
        cls = None
    if not (isinstance(cls, type) and issubclass(cls, eqx.Module) and dataclasses.is_dataclass(cls)):
        raise _FileError(f"it names the class {name}, which is none of this hjax or equinox.nn; upgrade hjax.")
    return cls
