"""What training returns."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np


class Diverged(FloatingPointError):
    """The loss, or a parameter, became NaN or infinite; `result` is the `Fit` up to the last good step.

    >>> import jax, jax.numpy as jnp, hjax
    >>> layer = hjax.nn.LSELayer(1, "scalar", width=2, eps=0.1, key=jax.random.key(0))
    >>> try:
    ...     hjax.training.fit(layer, (jnp.ones((4, 1)), jnp.full(4, 1e30)), steps=5)
    ... except hjax.training.Diverged as error:
    ...     error.result.steps
    0
    """

    def __init__(self, message: str, result: "Fit"):
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Fit:
    """A trained model.

    - `model`: with the parameters after the last good step.
    - `losses`: `(steps,)`, the loss of each step's batch, before its update.
    - `history`: one dict per piece of the run, the lines of the log: step, loss, eps, metrics, seconds.
    - `metrics`: at the end, on the evaluation data (else the training data); "loss" is always among them.
    - `steps`: how many were made.
    - `status`: "finished", or one sentence that says what stopped it.

    >>> import jax, jax.numpy as jnp, hjax
    >>> layer = hjax.nn.LSELayer(1, "scalar", width=2, eps=0.1, key=jax.random.key(0))
    >>> result = hjax.training.fit(layer, (jnp.ones((4, 1)), jnp.ones(4)), steps=5)
    >>> result.finished, result.losses.shape, sorted(result.metrics)
    (True, (5,), ['loss'])
    """

    model: Any
    losses: np.ndarray
    history: list[dict[str, Any]]
    metrics: dict[str, float]
    steps: int
    status: str

    @property
    def finished(self) -> bool:
        """Whether nothing stopped it."""
        return self.status == "finished"


@dataclass(frozen=True)
class Fits:
    """An ensemble of trained models; `fits[seed, eps]` is one `Fit`, `fits[seed]` without temperatures.

    - `model`: its arrays have the ensemble's axes in front: `(seeds, temperatures, ...)`.
    - `losses`: `(seeds, temperatures, steps)`.
    - `history`: as in `Fit`, with nested lists.
    - `metrics`: each `(seeds, temperatures)`.
    - `steps`: how many each member made, `(seeds, temperatures)`.
    - `total`: how many were wanted.

    >>> import jax.numpy as jnp, hjax
    >>> def make(key, eps):
    ...     return hjax.nn.LSELayer(1, "scalar", width=2, eps=eps, key=key)
    >>> fits = hjax.training.fit_many(make, (jnp.ones((4, 1)), jnp.ones(4)), keys=2, eps=[0.1, 0.2, 0.3], steps=5)
    >>> fits.shape, fits[1, 2].losses.shape, len(fits.best())
    ((2, 3), (5,), 3)
    """

    model: Any
    losses: np.ndarray
    history: list[dict[str, Any]]
    metrics: dict[str, np.ndarray]
    steps: np.ndarray
    total: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The ensemble's axes."""
        return self.steps.shape

    @property
    def finished(self) -> np.ndarray:
        """Which members nothing stopped."""
        return self.steps == self.total

    def __getitem__(self, place: int | tuple[int, ...]) -> Fit:
        at = place if isinstance(place, tuple) else (place,)
        if len(at) != len(self.shape):
            raise IndexError(f"{at} has {len(at)} indices, but the ensemble has shape {self.shape}.")
        at = tuple(int(i) for i in at)
        steps = int(self.steps[at])
        return Fit(
            jax.tree.map(lambda a: a[at] if eqx.is_array(a) else a, self.model),
            self.losses[at][:steps],
            [record for record in self.history if record["step"] <= steps],
            {k: float(v[at]) for k, v in self.metrics.items()},
            steps,
            "finished" if steps == self.total else stopped(steps),
        )

    def best(self, metric: str = "loss") -> "Fit | list[Fit]":
        """The seed with the lowest final metric: one `Fit`, or with temperatures a list, one for each."""
        if metric not in self.metrics:
            raise ValueError(f"metric {metric!r} is not one of {sorted(self.metrics)}; pass it to metrics=.")
        values = np.where(np.isfinite(self.metrics[metric]), self.metrics[metric], np.inf)
        if len(self.shape) == 1:
            return self[int(values.argmin())]
        return [self[int(values[:, j].argmin()), j] for j in range(self.shape[1])]


def stopped(steps: int) -> str:
    """The sentence for a run that stopped after this many good steps."""
    return (
        f"the loss or a parameter is not finite after step {steps}, so the model is that of step {steps}; "
        f"lower the learning rate, raise eps, or look at the data."
    )
