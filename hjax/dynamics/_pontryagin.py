"""Training by Pontryagin's principle: states forwards, co-states backwards, then each layer for itself.

Once the states x_k and the co-states p_{k+1} are known, the layers no longer know of each other. Layer k is asked to
lower its own Hamiltonian `p_{k+1} . step(x_k, theta_k)` (of a ResNet `p_{k+1} . x_k + h H(x_k, p_{k+1}, theta_k)`),
with both ends of it frozen. Here a loss is minimised and `p = +dloss/dx`, so H is to be small; the books of optimal
control, which maximise, have p = -dloss/dx and the largest H.

    gradient:    theta_k <- theta_k - rate h dH/dtheta(x_k, p_{k+1}).        That is backpropagation, to rounding.
    successive:  theta_k <- argmin H.             The method of successive approximations; may diverge.
    augmented:   theta_k <- argmin H + rho/2 |x_{k+1} - step(x_k)|^2 + rho/2 |p_k - grad_x (p_{k+1} . step(x_k))|^2.

The reason to lower H: with the states and co-states of the old parameters, the loss of the new ones is at most
`loss + sum_k (change of H_k) + C sum_k (|change of step|^2 + |change of its pull|^2)`. Without a penalty the second sum
may outweigh the first, and does where H is linear in a parameter and has no minimum. The penalties are that sum.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from .. import _checks
from ..nn import Evolution
from ._characteristics import dot
from ._costate import costate

Method = Literal["gradient", "successive", "augmented"]
_METHODS = ("gradient", "successive", "augmented")


class PontryaginStep(NamedTuple):
    """`model` after the step, and `value`, the mean loss before it."""

    model: Any
    value: Float[Array, ""]


def pontryagin_step(
    model: Evolution,
    batch: tuple[ArrayLike, ...],
    terminal: Callable[..., Array],
    *,
    method: Method = "gradient",
    rate: ArrayLike = 0.1,
    penalty: ArrayLike | None = None,
    inner_steps: int = 10,
    running: Callable[..., Array] | None = None,
    trainable: Any = None,
) -> PontryaginStep:
    """One step of training by Pontryagin's principle: `theta_k` lowers `H(x_k, p_{k+1}, theta_k)`, x and p frozen.

    States forwards and co-states backwards by `costate`, for every sample; then the Hamiltonian, its mean over the
    samples and its sum over the layers, is lowered in the parameters. Where each layer has its own, the sum falls
    apart into one problem per layer; where all steps share them, as in an `RNN`, it is one problem. What the first
    state owes to the parameters counts as one more layer.

    **Arguments:**

    - `model`: an `hjax.nn.Evolution`.
    - `batch`: `(x, *targets)`, arrays with one row per sample.
    - `terminal`: `(s_K, *targets) -> number`, the loss of one sample. `running`: `(s_k, k, *targets) -> number`, added
      at every state before the last, or None. Pass the same function objects again and nothing is compiled twice.
    - `method`: "gradient", one step of size `rate`, identical to gradient descent by backpropagation;
      "successive", at most `inner_steps` steps of L-BFGS (optimistix) on H alone; "augmented", the same on H with
      the penalties `penalty/2 |x_{k+1} - step(x_k)|^2 + penalty/2 |p_k - grad_x H|^2` for each layer and sample.
    - `trainable`: which leaves: a function of a leaf or a tree of bools; default all floating arrays but the
      temperatures (fields named eps), as in `hjax.training.fit`.

    **Returns:** `PontryaginStep(model, value)`; the value is that of the model passed, before the step.

    **Raises:** `ValueError` for another model or method, a batch that is no tuple of rows, rate <= 0, penalty <= 0 or
    missing for "augmented" or passed for another method, or inner_steps < 1.

    **Error:** "gradient": rounding. "successive" has no step size and diverges where H has no minimum, for example in
    the last weights of a block, in which it is linear: the larger `inner_steps`, the sooner.

    **Cost:** a forward and a backward pass, and as much again for each inner step (twice with the penalties).

    **Good values:** a penalty of once to four times the number of layers, for losses and states of order one: smaller,
    and the loss rises at times; larger, and it falls slowly. inner_steps 5 to 20.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 8.4, eqs 16, 17, as corrected: gradient
    steps end at dH/dtheta = 0, not at a minimum of H. Q. Li, L. Chen, C. Tai, W. E, Maximum principle based
    algorithms for deep learning (2018), algorithms 1 and 2.

    >>> import jax, jax.numpy as jnp, hjax
    >>> network = hjax.nn.ResNet(2, 8, 4, key=jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (50, 2))
    >>> def loss(state, target):
    ...     return jnp.sum((state - target) ** 2)
    >>> values = []
    >>> for _ in range(20):
    ...     step = hjax.dynamics.pontryagin_step(network, (x, -x), loss, method="augmented", penalty=8.0)
    ...     network, values = step.model, [*values, float(step.value)]
    >>> values[-1] < 0.5 * values[0]
    True
    """
    batch = _rows(model, batch)
    if method not in _METHODS:
        raise ValueError(f"method is {method!r}; pass one of {list(_METHODS)}.")
    if not isinstance(inner_steps, int) or isinstance(inner_steps, bool) or inner_steps < 1:
        raise ValueError(f"inner_steps is {inner_steps!r}; pass a whole number of at least 1.")
    if (penalty is None) == (method == "augmented"):
        raise ValueError(
            f"penalty is {penalty} for method={method!r}; pass method='augmented' with a positive penalty, for "
            f"example that of the number of layers, or another method without one."
        )
    rate = _checks.positive_scalar("rate", rate)
    weight = None if penalty is None else _checks.positive_scalar("penalty", penalty)
    chosen = _not_eps(model) if trainable is None else trainable
    return PontryaginStep(*_step(model, batch, terminal, running, method, rate, weight, inner_steps, chosen))


def costate_loss(
    terminal: Callable[..., Array], running: Callable[..., Array] | None = None
) -> Callable[..., Float[Array, ""]]:
    """The mean loss of a batch whose gradient is the co-state's, `sum_k h dH/dtheta(x_k, p_{k+1})`, as a function.

    `hjax.training.fit(model, data, loss=costate_loss(terminal))` trains by Pontryagin's gradient, with everything
    that `fit` has; the losses are those of backpropagation to rounding.

    **Arguments:** `terminal`, `running`: as for `pontryagin_step`.

    **Returns:** `(model, x, *targets) -> mean`, differentiable once and in reverse, in the model's arrays only.

    **Error:** rounding. **Cost:** that of backpropagation, with a second evaluation of every step.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Theorem 8.4, eq. 16.

    >>> import jax, jax.numpy as jnp, hjax
    >>> network = hjax.nn.ResNet(2, 8, 4, key=jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (50, 2))
    >>> loss = hjax.dynamics.costate_loss(lambda state, target: jnp.sum((state - target) ** 2))
    >>> fit = hjax.training.fit(network, (x, -x), loss=loss, steps=100)
    >>> bool(fit.losses[-1] < 0.5 * fit.losses[0])
    True
    """

    @eqx.filter_custom_vjp
    def mean(model: Evolution, batch: tuple[Array, ...]) -> Array:
        return _trajectories(model, batch, terminal, running)[0]

    @mean.def_fwd
    def forwards(perturbed: Any, model: Evolution, batch: tuple[Array, ...]) -> tuple[Array, Any]:
        del perturbed
        value, *ends = _trajectories(model, batch, terminal, running)
        return value, ends

    @mean.def_bwd
    def backwards(ends: Any, scale: Array, perturbed: Any, model: Evolution, batch: tuple[Array, ...]) -> Any:
        del perturbed
        params, rest = eqx.partition(model, eqx.is_inexact_array)
        gradient = jax.grad(_hamiltonian)(params, rest, batch[0], *ends)
        return jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, gradient)

    def loss(model: Evolution, *batch: ArrayLike) -> Array:
        return mean(model, _rows(model, batch))

    return loss


@eqx.filter_jit
def _step(
    model: Evolution,
    batch: tuple[Array, ...],
    terminal: Callable[..., Array],
    running: Callable[..., Array] | None,
    method: Method,
    rate: Array,
    penalty: Array | None,
    inner_steps: int,
    trainable: Any,
) -> tuple[Evolution, Array]:
    value, states, momenta = _trajectories(model, batch, terminal, running)
    wanted, rest = eqx.partition(model, trainable)
    params, held = eqx.partition(wanted, eqx.is_inexact_array)
    rest = eqx.combine(rest, held)
    x = batch[0]
    if method == "gradient":
        slopes = jax.grad(_hamiltonian)(params, rest, x, states, momenta)
        return eqx.combine(jax.tree.map(lambda a, g: a - rate.astype(a.dtype) * g, params, slopes), rest), value
    before = None if penalty is None else _images(params, rest, x, states, momenta)

    def objective(params: Any, args: tuple[Any, ...]) -> Array:
        x, states, momenta, penalty, before = args
        lowered = _hamiltonian(params, rest, x, states, momenta)
        if penalty is None:
            return lowered
        after = _images(params, rest, x, states, momenta)
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), after, before)
        return lowered + penalty / (2 * x.shape[0]) * jax.tree.reduce(jnp.add, squares)

    tolerance = float(jnp.finfo(value.dtype).eps) ** 0.5
    better = optimistix.minimise(
        objective,
        optimistix.LBFGS(rtol=tolerance, atol=tolerance),
        params,
        (x, states, momenta, penalty, before),
        max_steps=inner_steps + 1,  # the first of them evaluates the start
        throw=False,
    )
    return eqx.combine(better.value, rest), value


def _trajectories(
    model: Evolution, batch: tuple[Array, ...], terminal: Callable[..., Array], running: Callable[..., Array] | None
) -> tuple[Array, PyTree[Array], PyTree[Array]]:
    """The mean loss, and the states and co-states `(M, K + 1, ...)` of each sample's own loss."""

    def one(x: Array, *targets: Array) -> tuple[Any, PyTree[Array], PyTree[Array]]:
        def last(state: PyTree[Array]) -> Array:
            return terminal(state, *targets)

        def paid(state: PyTree[Array], k: Array) -> Array:
            assert running is not None
            return running(state, k, *targets)

        result = costate(model, x, last, running=None if running is None else paid)
        return result.value, result.states, result.momenta

    values, states, momenta = jax.vmap(one)(*batch)
    return jnp.mean(values), states, momenta


def _hamiltonian(params: Any, rest: Any, x: Array, states: PyTree[Array], momenta: PyTree[Array]) -> Float[Array, ""]:
    """`mean_i p_0 . s_0 + sum_k p_{k+1} . step(s_k)` at frozen states and co-states; its slope is the loss's."""
    model: Evolution = eqx.combine(params, rest)

    def one(x: Array, states: PyTree[Array], momenta: PyTree[Array]) -> Array:
        first = dot(_at(momenta, 0), model.initial_state(x))
        moved = jax.vmap(model.step)(_but_last(states), model.drives(x))
        return first + dot(_but_first(momenta), moved)

    return jnp.mean(jax.vmap(one)(x, states, momenta))


def _images(params: Any, rest: Any, x: Array, states: PyTree[Array], momenta: PyTree[Array]) -> PyTree[Array]:
    """Where the parameters take each state, and to what each step pulls its co-state back."""
    model: Evolution = eqx.combine(params, rest)

    def one(x: Array, states: PyTree[Array], momenta: PyTree[Array]) -> tuple[Any, Any, Any]:
        def both(state: PyTree[Array], drive: PyTree[Array], momentum: PyTree[Array]) -> tuple[Any, Any]:
            moved, pull = jax.vjp(lambda s: model.step(s, drive), state)
            return moved, pull(momentum)[0]

        moved, pulled = jax.vmap(both)(_but_last(states), model.drives(x), _but_first(momenta))
        return model.initial_state(x), moved, pulled

    return jax.vmap(one)(x, states, momenta)


def _at(tree: PyTree[Array], index: int) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _but_last(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf[:-1], tree)


def _but_first(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf[1:], tree)


def _not_eps(model: Any) -> Any:
    """True for every floating array that is not a field named eps: temperatures are chosen, not trained."""

    def wanted(path: tuple[Any, ...], leaf: Any) -> bool:
        return eqx.is_inexact_array(leaf) and getattr(path[-1], "name", None) != "eps"

    return jax.tree_util.tree_map_with_path(wanted, model)


def _rows(model: Any, batch: Any) -> tuple[Array, ...]:
    if not isinstance(model, Evolution):
        raise ValueError(
            f"model is {type(model).__name__}; pass a network that steps a state, an hjax.nn.Evolution such as ResNet, "
            f"RNN, LSTM or SSM."
        )
    if not isinstance(batch, tuple | list) or not batch:
        raise ValueError(
            f"the batch is {type(batch).__name__}; pass a tuple of arrays with one row per sample: (x, y)."
        )
    arrays = tuple(jnp.asarray(a) for a in batch)
    counts = [a.shape[0] if a.ndim else None for a in arrays]
    if None in counts or len(set(counts)) > 1 or not counts[0]:
        raise ValueError(
            f"the arrays of the batch have shapes {[a.shape for a in arrays]}; one row per sample is wanted in all of "
            f"them, for one sample x[None]."
        )
    return arrays
