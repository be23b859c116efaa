from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray, PyTree

from .. import _checks
from . import _rows, _sequence
from ._description import Description
from ._evolution import Evolution, Flow
from ._gate import LSEGate
from ._lse_layer import LSELayer

Interpolation = Literal["constant", "linear"]


class ResidualBlock(eqx.Module):
    """`F(x) = V tanh_eps(W x + b) + c`, the hyperbolic tangent by an `LSEGate`."""

    gate: LSEGate
    weight: Float[Array, "d n"]
    bias: Float[Array, "d"]

    def __init__(self, size: int, width: int, *, eps: ArrayLike, key: PRNGKeyArray):
        inner, outer = jax.random.split(key)
        self.gate = LSEGate(size, width, eps=eps, kind="tanh", key=inner)
        # Of order one at any width: h = horizon/depth keeps each step near the identity.
        self.weight = _rows.random_rows((), size, width, outer)
        self.bias = jnp.zeros(size)

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, "d"]:
        """F(x), `(size,)`. `key` is ignored."""
        del key
        return jnp.matmul(self.weight, self.gate(x), precision=jax.lax.Precision.HIGHEST) + self.bias

    def describe(self) -> Description:
        """The reading of its gate."""
        return self.gate.describe()


class ResNet(Evolution):
    """The residual network `x_{k+1} = x_k + h F(x_k, theta_k)`, h = horizon/depth: Euler's steps of `x' = F`.

    As depth grows at a fixed horizon, with theta_k the values of a Lipschitz theta(t), it follows the characteristics
    of `H(x, p, t) = p . F(x, theta(t))` to O(h). H is linear in p: no Legendre dual, no Hopf-Lax or Hopf-Cole, no
    viscosity. Any differential equation is of this kind, so the reading is structural; backpropagation is its
    co-state, exactly (`hjax.dynamics.costate`).

    One sample in, `(size,)`; use `jax.vmap` for batches.

    **Arguments:**

    - `size`: d, of the state. `width`: n, the units of each block. `depth`: K, the number of blocks.
    - `eps`: temperature of the blocks, positive.
    - `kind`: "tanh" for blocks `V tanh_eps(W x + b) + c`, or "lse" for one `LSELayer` of `width` rows per component,
      `eps log sum_j exp((W_ij.x + b_ij)/eps)`: those have a max-plus limit, `tropical()`.
    - `horizon`: the time that all K steps take together, positive.
    - `key`: random key for W ~ N(0, 1/d) and V ~ N(0, 1/n); b and c start at 0.

    Blocks of another kind: `ResNet.from_blocks(make, size, depth, key=key)`.

    **Raises:** `ValueError` for sizes below one, eps <= 0 or horizon <= 0, another kind, or an input of another shape
    or integer dtype.

    **Error:** to its differential equation O(h), slope 1. **Cost:** K blocks, compiled once (their parameters are
    stacked and scanned); O(K d) memory for a gradient through `hjax.dynamics.costate`.

    **Good values:** `depth` 4 to 32 at `horizon=1`. More room: embed x in a larger size by a linear layer in front.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Proposition 5.2, eqs 16, 17.

    >>> import jax, jax.numpy as jnp, hjax
    >>> network = hjax.nn.ResNet(2, 16, 8, key=jax.random.key(0))
    >>> x = jnp.array([0.3, -0.4])
    >>> bool(jnp.allclose(network.states(x)[1], x + network.field(x, 0.0) / 8)), network(x).shape
    (True, (2,))
    """

    blocks: Any
    size: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    horizon: float = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        width: int,
        depth: int,
        *,
        eps: ArrayLike = 1.0,
        kind: Literal["tanh", "lse"] = "tanh",
        horizon: float = 1.0,
        key: PRNGKeyArray,
    ):
        if kind not in ("tanh", "lse"):
            raise ValueError(
                f"kind is {kind!r}; pass 'tanh' or 'lse', or make your own blocks with ResNet.from_blocks(make, ...)."
            )
        self.size, self.depth = _rows.size("size", size), _rows.size("depth", depth)
        self.horizon = _sequence.positive_number("horizon", horizon)
        width, eps = _rows.size("width", width), _checks.positive_scalar("eps", eps)

        def make(key: PRNGKeyArray) -> ResidualBlock | LSELayer:
            if kind == "lse":
                return LSELayer(size, size, width, eps=eps, key=key)
            return ResidualBlock(size, width, eps=eps, key=key)

        self.blocks = eqx.filter_vmap(make)(jax.random.split(key, depth))

    @classmethod
    def from_blocks(
        cls,
        make: Callable[[PRNGKeyArray], Callable[[Array], Array]],
        size: int,
        depth: int,
        *,
        horizon: float = 1.0,
        key: PRNGKeyArray,
    ) -> "ResNet":
        """The network whose blocks are `make(key_0), ..., make(key_{K-1})`.

        **Arguments:** `make`: a function of a random key that makes an Equinox module `(size,) -> (size,)`; it is
        vmapped over keys, so that the blocks differ in their arrays only.

        **Raises:** `ValueError` for a block whose result has another shape.

        >>> import equinox as eqx, jax, jax.numpy as jnp, hjax
        >>> network = hjax.nn.ResNet.from_blocks(
        ...     lambda key: eqx.nn.MLP(2, 2, 8, 1, key=key), size=2, depth=4, key=jax.random.key(0)
        ... )
        >>> network(jnp.zeros(2)).shape
        (2,)
        """
        size, depth = _rows.size("size", size), _rows.size("depth", depth)
        result = eqx.filter_eval_shape(lambda k: make(k)(jnp.zeros(size)), key)
        if getattr(result, "shape", None) != (size,):
            raise ValueError(
                f"a block makes {getattr(result, 'shape', type(result).__name__)} of an x of shape ({size},); pass a "
                f"make(key) whose module returns the same shape."
            )
        return cls._of(eqx.filter_vmap(make)(jax.random.split(key, depth)), size, depth, horizon)

    @classmethod
    def _of(cls, blocks: Any, size: int, depth: int, horizon: float) -> "ResNet":
        # Only the shape of a network: no random blocks are drawn that would be replaced.
        network = eqx.filter_eval_shape(lambda: cls(size, 1, depth, horizon=horizon, key=jax.random.key(0)))
        return eqx.tree_at(lambda n: n.blocks, network, blocks)

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, "d"]:
        """x_K, `(size,)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        final, _ = jax.lax.scan(lambda s, drive: (self.step(s, drive), None), self.initial_state(x), self.drives(x))
        return final

    @property
    def h(self) -> float:
        """The step, horizon/depth."""
        return self.horizon / self.depth

    def block(self, index: int) -> Any:
        """The block F(., theta_k) of step `index`."""
        if not -self.depth <= index < self.depth:
            raise ValueError(f"index is {index}, but this network has {self.depth} blocks.")
        return _at(self.blocks, index)

    def initial_state(self, x: ArrayLike) -> Float[Array, "d"]:
        """x itself, in the dtype of the arithmetic."""
        sample = _rows.sample(x, (self.size,), "network")
        return sample.astype(_sequence.common_dtype(sample, self.blocks))

    def drives(self, x: ArrayLike) -> PyTree[Array]:
        """The parameters theta_0, ..., theta_{K-1} of the blocks; they do not depend on x."""
        del x
        return eqx.filter(self.blocks, eqx.is_array)

    def step(self, state: Float[Array, "d"], drive: PyTree[Array]) -> Float[Array, "d"]:
        """x + h F(x, theta)."""
        block = eqx.combine(drive, eqx.filter(self.blocks, eqx.is_array, inverse=True))
        return state + self.h * block(state)

    def field(self, state: Float[Array, "d"], at: Any) -> Float[Array, "d"]:
        """F(x, theta(t)), theta piecewise constant: that of block `floor(t/h)`, the first before 0, the last after."""
        return _at(self.blocks, _sequence.interval(at, self.h, self.depth))(state)

    def to_ode(self, interpolation: Interpolation = "constant") -> Flow:
        """The differential equation on [0, horizon] of which the network takes Euler's steps of length h.

        **Arguments:** `interpolation`: of theta between `theta(k h) = theta_k`: "constant" up to the next one, or
        "linear" (the last one constant). Euler's method with step h is the network itself either way.
        """
        return Flow(InterpolatedBlocks(self, _interpolation(interpolation)), 0.0, self.horizon)

    def refine(self, factor: int, interpolation: Interpolation = "constant") -> "ResNet":
        """The network of `factor` times as many steps, each as much smaller, along the same theta(t).

        Its states tend to those of `to_ode(interpolation)` as O(1/factor).
        """
        factor, linear = _rows.size("factor", factor), _interpolation(interpolation) == "linear"

        def finer(leaf: Any) -> Any:
            if not eqx.is_array(leaf):
                return leaf
            if not (linear and eqx.is_inexact_array(leaf)):
                return jnp.repeat(leaf, factor, axis=0)
            part = jnp.arange(factor, dtype=leaf.dtype).reshape(1, -1, *[1] * (leaf.ndim - 1)) / factor
            following = jnp.concatenate([leaf[1:], leaf[-1:]])
            between = leaf[:, None] + part * (following - leaf)[:, None]
            return between.reshape(self.depth * factor, *leaf.shape[1:])

        return self._of(jax.tree.map(finer, self.blocks), self.size, self.depth * factor, self.horizon)

    def tropical(self) -> "ResNet":
        """The limit eps -> 0 of blocks that have one: `x + h max_j(W_j x + b_j)`, a maximum for each component.

        **Raises:** `ValueError` for others: tanh becomes a sign, a switch, which is no max-plus operation.
        """
        if not hasattr(self.blocks, "tropical"):
            raise ValueError(
                f"blocks of kind {type(self.blocks).__name__} have no max-plus limit (of tanh it is a switch); "
                f"make the network with kind='lse'."
            )
        return self._of(eqx.filter_vmap(lambda b: b.tropical())(self.blocks), self.size, self.depth, self.horizon)

    def describe(self) -> Description:
        """Of what it is Euler's method, and the reading of a block."""
        block = self.block(0)
        return Description(
            model="ResNet",
            equation=f"{self.depth} Euler steps h = {self.h:g} of x' = F(x, theta(t)), to O(h): characteristics of the "
            "linear transport v_t + F . grad v = 0",
            hamiltonian="p . F(x, theta(t)): linear in p, without Legendre dual",
            eps=None,
            gauge="none: no viscosity, so no Hopf-Cole reading of the whole",
            atoms="none for the whole: the state is a point, not a function",
            status="structural",
            parts=(block.describe(),) if hasattr(block, "describe") else (),
        )


class InterpolatedBlocks(eqx.Module):
    """`F(x, theta(t))` of a `ResNet`, the field of its flow."""

    network: ResNet
    interpolation: Interpolation = eqx.field(static=True)

    def __call__(self, x: Float[Array, "d"], t: Any) -> Float[Array, "d"]:
        """F(x, theta(t))."""
        network = self.network
        if self.interpolation == "constant":
            return network.field(x, t)
        index = _sequence.interval(t, network.h, network.depth)
        lower, upper = (_at(network.blocks, i) for i in (index, jnp.minimum(index + 1, network.depth - 1)))
        part = _checks.floating("t", t, integers=True) / network.h - index

        def between(a: Any, b: Any) -> Any:
            return (a + part * (b - a)).astype(a.dtype) if eqx.is_inexact_array(a) else a

        return jax.tree.map(between, lower, upper)(x)


def _at(blocks: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, blocks)


def _interpolation(name: str) -> Any:
    if name not in ("constant", "linear"):
        raise ValueError(f"interpolation is {name!r}; pass 'constant' or 'linear'.")
    return name
