from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Int, PRNGKeyArray

from .. import _checks
from ..reductions import Bilinear, hardmin, softmin
from . import _rows
from ._description import Description


class Classifier(eqx.Module):
    """Class probabilities `P(c|x) = exp(a_c/eps) / sum_k exp(a_k/eps)`, scores `a = W body(x) + b`.

    They are the gradient of the log-sum-exp of the scores, `eps log sum_c exp(a_c/eps)`: the Gibbs weights of a
    Hopf-Cole solution whose atoms are the classes. The boundaries between classes are those of `max_c a_c`, hence the
    same at every eps: eps moves the confidence only, not the decision.

    One sample in; use `jax.vmap` for batches.

    **Arguments:**

    - `body`: a module or function from one sample to features `(features,)`, for example an `LSENetwork`;
      `eqx.nn.Identity()` for a linear classifier. `Classifier.of_scores(body, eps=...)` takes scores as they come.
    - `features`, `classes`: sizes of the linear head.
    - `eps`: temperature, positive.
    - `key`: random key for W ~ N(0, 1/features); b starts at 0.

    **Raises:** `ValueError` for sizes below one, eps <= 0, or a body that returns another shape.

    **Error:** of a log-probability: a few ulp of itself and of max |a_c|/eps. **Cost:** that of the body, and
    O(features classes).

    **Good values:** the loss is `-log_probabilities(x)[label]`; `cross_entropy` writes it. eps and the size of the
    weights trade off: train one of them.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix C.

    >>> import equinox as eqx, jax, jax.numpy as jnp, hjax
    >>> model = hjax.nn.Classifier(eqx.nn.Identity(), 2, 3, eps=1.0, key=jax.random.key(0))
    >>> round(float(jnp.exp(model.log_probabilities(jnp.array([0.1, 0.2]))).sum()), 5)
    1.0
    """

    body: Callable[..., Array]
    weight: Float[Array, "c n"] | None
    bias: Float[Array, "c"] | None
    eps: Array

    def __init__(self, body: Callable[..., Array], features: int, classes: int, *, eps: ArrayLike, key: PRNGKeyArray):
        if not callable(body):
            raise ValueError(f"body is {type(body).__name__}; pass a module or function from a sample to features.")
        self.body = body
        self.eps = _checks.positive_scalar("eps", eps)
        classes, features = _rows.size("classes", classes), _rows.size("features", features)
        self.weight = _rows.random_rows((), classes, features, key)
        self.bias = jnp.zeros(classes)

    @classmethod
    def of_scores(cls, body: Callable[..., Array], *, eps: ArrayLike) -> "Classifier":
        """The classifier whose scores are what `body` returns, without a head of its own.

        >>> import jax.numpy as jnp, hjax
        >>> model = hjax.nn.Classifier.of_scores(lambda x: x, eps=0.5)
        >>> int(model.predict(jnp.array([0.2, 0.9, 0.1])))
        1
        """
        headed = cls(body, 1, 1, eps=eps, key=jax.random.key(0))
        return eqx.tree_at(lambda m: (m.weight, m.bias), headed, (None, None))

    def __call__(self, x: Any, *, key: PRNGKeyArray | None = None) -> Float[Array, "c"]:
        """The logits `a/eps`, as losses of other libraries want them. `key` is ignored."""
        del key
        scores = self.scores(x)
        return scores / self.eps.astype(scores.dtype)

    def scores(self, x: Any) -> Float[Array, "c"]:
        """The class scores a, in the unit of eps."""
        features = self.body(x)
        wanted = "(classes,)" if self.weight is None else f"({self.weight.shape[1]},)"
        if features.ndim != 1 or (self.weight is not None and features.shape != self.weight.shape[1:]):
            raise ValueError(
                f"the body returned shape {features.shape} for one sample, but {wanted} is wanted; "
                f"for a batch use jax.vmap(classifier)(x)."
            )
        if self.weight is None or self.bias is None:
            return features
        return jnp.matmul(self.weight, features, precision="highest") + self.bias

    def potential(self, x: Any) -> Float[Array, ""]:
        """`eps log sum_c exp(a_c/eps)`, whose gradient in the scores is P(.|x)."""
        scores = self.scores(x)
        highest = lax.stop_gradient(scores.max())
        return highest + self._excess(scores - highest)

    def log_probabilities(self, x: Any) -> Float[Array, "c"]:
        """`log P(c|x) = (a_c - potential)/eps`, from scores relative to the highest, so that none is rounded off."""
        scores = self.scores(x)
        relative = scores - lax.stop_gradient(scores.max())
        return (relative - self._excess(relative)) / self.eps.astype(scores.dtype)

    def probabilities(self, x: Any) -> Float[Array, "c"]:
        """P(c|x)."""
        return jnp.exp(self.log_probabilities(x))

    def cross_entropy(self, x: Any, label: ArrayLike) -> Float[Array, ""]:
        """`-log P(label|x)`, the loss of one sample; the label is an index."""
        return -jnp.take(self.log_probabilities(x), label)

    def predict(self, x: Any) -> Int[Array, ""]:
        """The class of the highest score (of equals the first): the same at every eps."""
        scores = self.scores(x)
        return hardmin(*_class_atoms(scores), cost=Bilinear()).index

    def describe(self) -> Description:
        """The equation behind the probabilities: exact in the head's input, whatever the body is."""
        describe: Any = getattr(self.body, "describe", None)
        inputs = "features h = body(x)" if self.weight is not None else "scores h = a(x), W = I, b = 0"
        rows = "y_c = 2t A W_c, g_c = -b_c - t W_c^T A W_c"
        return Description(
            model="Classifier",
            equation="P(c|x): the Gibbs weights, and the gradient in the scores a, of f = eps log sum_c exp(a_c/eps); "
            f"f(h) = h^T A^-1 h/(4t) - u(h, t) at the {inputs}, "
            "with u_t + grad u^T A grad u = eps tr(A D^2 u). Boundaries do not move with eps",
            hamiltonian="p^T A p; |p|^2 at A = I",
            eps=float(self.eps),
            gauge=_rows.GAUGE,
            atoms=f"one per class: {rows}",
            status="exact",
            parts=() if describe is None else (describe(),),
        )

    def _excess(self, relative: Array) -> Array:
        return -softmin(*_class_atoms(relative), eps=self.eps, cost=Bilinear()).value


def _class_atoms(scores: Array) -> tuple[Array, Array, Array]:
    # One atom per class, all at the origin: the scores themselves are the initial datum.
    return jnp.zeros(1, scores.dtype), jnp.zeros((scores.shape[0], 1), scores.dtype), -scores
