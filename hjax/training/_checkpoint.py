"""A run on disk: its last state and the one before, and what run it is."""

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _container
from . import _loop
from ._batches import is_key
from ._loop import State
from ._progress import plain

if TYPE_CHECKING:
    from ._drive import Plan

# Steps at which two schedules are compared.
_PLACES = np.unique(np.concatenate([np.arange(256), np.geomspace(1, 1e7, 500)]).astype(np.int32))
Found = tuple[State, int, np.ndarray, np.ndarray, list[dict[str, Any]]]


class Checkpoint:
    """Writes `path`, keeping the one before as `path.previous`; reads the newer of the two that is whole."""

    def __init__(self, plan: "Plan", state: State):
        assert plan.checkpoint is not None
        self.path = Path(plan.checkpoint)
        self.previous = self.path.with_name(self.path.name + ".previous")
        self.steps = plan.steps
        self.run = _describe(plan, state)
        if not self.path.parent.is_dir():
            raise OSError(f"the checkpoint {self.path} cannot be written: its folder does not exist.")
        for left in self.path.parent.glob(f".{self.path.name}.new-*"):
            left.unlink(missing_ok=True)  # by a run that was killed while it wrote
        self.damaged = False
        if not plan.resume and self.path.exists():
            # Whatever it is, a run that starts anew must not leave it to be resumed from.
            os.replace(self.path, self.previous)

    def write(self, state: State, step: int, good: Any, losses: np.ndarray, records: list[dict[str, Any]]) -> None:
        """Put this state on the disk, whole, before the old one goes."""
        leaves = [np.asarray(a) for a in jax.tree.leaves(state)]
        # A step at which a run is to end is not part of what it is: `steps` may be raised.
        unbounded = np.where(np.asarray(good) >= self.steps, -1, good).tolist()
        header = {"kind": "checkpoint", "run": self.run, "step": step, "good": unbounded}
        header["records"] = plain(records)
        fresh = self.path.with_name(self.path.name + ".new")
        _container.write(fresh, header, [losses, *leaves])
        # A damaged file must not take the place of the whole one before it.
        if self.path.exists() and not self.damaged:
            os.replace(self.path, self.previous)
        os.replace(fresh, self.path)
        self.damaged = False

    def read(self, like: State) -> Found | None:
        """The newest whole state of this run; None if there is no file yet."""
        reasons = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                header, arrays = _container.read(path, "checkpoint")
            except ValueError as error:
                reasons.append(str(error))
                self.damaged = path == self.path
                continue
            self._require_same_run(path, header)
            found = self._state(path, header, arrays, like)
            if reasons:
                warnings.warn(f"{reasons[0]} Resuming from {path.name}, step {found[1]}, instead.", stacklevel=5)
            return found
        if reasons:
            raise ValueError(f"{reasons[0]} There is no older checkpoint; delete the file to start anew.")
        return None

    def _require_same_run(self, path: Path, header: dict[str, Any]) -> None:
        theirs = header["run"]
        other = [name for name in self.run if theirs.get(name) != self.run[name]]
        if other:
            was, now = theirs.get(other[0]), self.run[other[0]]
            detail = "" if len(f"{was}{now}") > 200 else f" (was {was}, is {now})"
            raise ValueError(
                f"the checkpoint {path} is of another run: {other[0]} differs{detail}; pass the same arguments as "
                f"then, or another checkpoint path."
            )

    def _state(self, path: Path, header: dict[str, Any], arrays: list[np.ndarray], like: State) -> Found:
        losses, *leaves = arrays
        wanted, structure = jax.tree.flatten(like)
        same = len(leaves) == len(wanted) and all(
            a.shape == b.shape and a.dtype == b.dtype for a, b in zip(leaves, wanted, strict=False)
        )
        if not same:
            raise ValueError(f"the checkpoint {path} is of another run: its arrays have other shapes or dtypes.")
        if header["step"] > self.steps:
            raise ValueError(
                f"the checkpoint {path} is already at step {header['step']}, past steps={self.steps}; pass more steps."
            )
        good = np.asarray(header["good"])
        good = np.where(good < 0, self.steps, good)
        state = jax.tree.unflatten(structure, [jnp.asarray(a) for a in leaves])
        return State(*state), header["step"], good, losses, header["records"]


def _describe(plan: "Plan", state: State) -> dict[str, Any]:
    """What makes two runs the same run."""
    task = plan.task
    shapes = [f"{a.dtype}{list(a.shape)}" for a in jax.tree.leaves((plan.params, plan.frozen))]
    return {
        "the jax version": jax.__version__,
        "the model's arrays": ", ".join(shapes),
        "the ensemble": list(plan.shape),
        "the batch size": plan.batches.batch,
        "the key": plan.batches.words,
        "the number of devices": 1 if task.mesh is None else task.mesh.size,
        "the data": _digest(jax.tree.leaves(plan.data)),
        "the starting point": _digest(jax.tree.leaves((plan.params, plan.frozen))),
        "the model, loss, optimizer or a constant in them": _program(plan, state),
        "the schedule of eps": None if plan.eps is None else _digest([plan.eps(jnp.asarray(_PLACES))]),
    }


def _digest(arrays: list[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        numbers = np.ascontiguousarray(np.asarray(jax.random.key_data(array) if is_key(array) else array))
        digest.update(f"{numbers.dtype}{numbers.shape}".encode())
        digest.update(numbers.tobytes())
    return digest.hexdigest()[:16]


def _program(plan: "Plan", state: State) -> str:
    """The step itself, as jax traces it: learning rates are numbers in it, and so is whatever else it closes over."""
    indices = plan.batches.indices(0, 1)
    index = None if indices is None else jnp.asarray(indices[0])
    eps = None if plan.eps is None else plan.eps(jnp.arange(1))[0]
    step = _loop.over_members(plan.task, lambda *a: _loop.member_step(plan.task, *a))
    traced = jax.make_jaxpr(lambda s, f, d: step(s, f, d, index, eps))(state, plan.frozen, plan.data)
    # Addresses differ from process to process.
    text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))
    return hashlib.sha256((text + _digest(list(traced.consts))).encode()).hexdigest()[:16]
