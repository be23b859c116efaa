"""Losses and metrics: functions `(model, x, y) -> number`, mean over the samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .. import _checks
from ..reductions import Bilinear, softmin
from ..solutions import Solution

Loss = Callable[..., Any]
Predict = Callable[[Any, Array], Array]


def each(model: Any, x: Array) -> Array:
    """The predictions of a model of one sample: `jax.vmap(model)(x)`."""
    if isinstance(model, Solution):
        raise ValueError(
            f"the model is a {type(model).__name__}, which wants a time; pass predict=lambda u, x: u(x, 1.0) for t = 1."
        )
    return jax.vmap(model)(x)


def squared_error(prediction: Array, target: Array) -> Float[Array, ""]:
    """`mean |prediction - target|^2` over samples and outputs.

    **Raises:** `ValueError` for shapes that differ: a silent broadcast would fit the mean.

    >>> import jax.numpy as jnp, hjax
    >>> float(hjax.training.squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
    2.0
    """
    _same_shape(prediction, target)
    return jnp.mean((prediction - target) ** 2)


def cross_entropy(logits: Float[Array, "n k"], labels: Array) -> Float[Array, ""]:
    """`mean log sum_c exp(z_c) - z_label`, the log-sum-exp through `hjax.softmin` at eps = 1.

    For a layer at temperature eps the class probabilities are those of `z = a/eps`: divide the scores by eps in
    `predict`; the decision `argmax_c a_c` does not depend on eps.

    **Arguments:** `logits`: z, `(n, k)`. `labels`: integers `(n,)` from 0 to k - 1.
    **Raises:** `ValueError` for other shapes, and labels that are no integers.
    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix C, classification, as corrected.

    >>> import jax.numpy as jnp, hjax
    >>> round(float(hjax.training.cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 3]))), 4)
    1.3863
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    _labels(logits, labels)

    def one(scores: Array) -> Array:
        atoms = jnp.zeros((scores.shape[0], 1), scores.dtype)
        return -softmin(atoms[0], atoms, -scores, eps=1.0, cost=Bilinear()).value

    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.vmap(one)(logits) - chosen)


def absolute_error(prediction: Array, target: Array) -> Float[Array, ""]:
    """`mean |prediction - target|`.

    **Raises:** `ValueError` for shapes that differ.

    >>> import jax.numpy as jnp, hjax
    >>> float(hjax.training.absolute_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
    1.0
    """
    _same_shape(prediction, target)
    return jnp.mean(jnp.abs(prediction - target))


def _root(prediction: Array, target: Array) -> Array:
    return jnp.sqrt(squared_error(prediction, target))


def _largest(prediction: Array, target: Array) -> Array:
    _same_shape(prediction, target)
    return jnp.max(jnp.abs(prediction - target))


def _accuracy(logits: Array, labels: Array) -> Array:
    _labels(logits, labels)
    return jnp.mean(jnp.argmax(logits, axis=1) == labels)


LOSSES = {"squared": squared_error, "absolute": absolute_error, "cross_entropy": cross_entropy}
METRICS = LOSSES | {"rmse": _root, "sup": _largest, "accuracy": _accuracy}


class Predicted:
    """A named loss of the predictions, as a function of the model; equal ones are equal, so compile once."""

    def __init__(self, name: str, predict: Predict | None):
        self.name, self.predict = name, each if predict is None else predict

    def __call__(self, model: Any, x: Array, y: Array) -> Array:
        """The mean over the samples."""
        return METRICS[self.name](self.predict(model, x), y)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Predicted) and (self.name, self.predict) == (other.name, other.predict)

    def __hash__(self) -> int:
        return hash((self.name, self.predict))


def loss_of(loss: str | Loss, predict: Predict | None) -> Loss:
    """A loss by its name, or as it is."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"loss {loss!r} is not one of {sorted(LOSSES)}; or pass a function (model, x, y) -> mean.")
        return Predicted(loss, predict)
    if not callable(loss):
        raise ValueError(f"loss is {type(loss).__name__}; pass one of {sorted(LOSSES)} or a function (model, x, y).")
    if predict is not None:
        raise ValueError("predict is for the losses with a name; call it inside your own loss(model, x, y).")
    return loss


def metrics_of(
    metrics: Sequence[str] | Mapping[str, Loss], loss: Loss, predict: Predict | None
) -> tuple[tuple[str, Loss], ...]:
    """The metrics by their names, and the loss before them."""
    if not isinstance(metrics, Mapping):
        unknown = [m for m in metrics if m not in METRICS]
        if isinstance(metrics, str) or unknown:
            raise ValueError(
                f"metrics is {metrics!r}; pass a list of names among {sorted(METRICS)}, or a dict of functions "
                f"(model, x, y) -> number."
            )
        metrics = {name: Predicted(name, predict) for name in metrics}
    return (("loss", loss), *((k, v) for k, v in metrics.items() if k != "loss"))


def _same_shape(prediction: Array, target: Array) -> None:
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"the predictions have shape {prediction.shape}, the targets {target.shape}; both must be the same, "
            f"for example by y = y.reshape({prediction.shape})."
        )
    _checks.floating("the targets y", target)


def _labels(logits: Array, labels: Array) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"the scores have shape {logits.shape}, the labels {labels.shape} and dtype {labels.dtype}; scores (n, k) "
            f"and integer labels (n,) are wanted, for example y.astype(int)."
        )
