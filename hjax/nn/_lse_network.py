from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from . import _rows
from ._description import Description
from ._lse_layer import LSELayer
from ._max_plus import MaxPlusLayer


class LSENetwork(eqx.Module):
    """A network of log-sum-exp layers with a signed output: `V h_L(...h_1(x)) + c`, each unit of h_l an LSE layer.

    One hidden layer of two units and V = (1, -1) is a difference of two convex functions, two hidden layers with
    negative inner rows a smoothed `max_i min_j`: either approximates any continuous function on a compact set, to the
    error of its piecewise affine skeleton plus `eps (log N_1 + log N_2)`. The minus sign is essential: a single
    LSE layer is convex. With `convex=True` the network is convex in x: the rows of all layers but the first, and V,
    are the exponentials of the parameters, hence positive.

    Every unit is exactly a Hopf-Cole solution of its own inputs. Their composition is not the semigroup of the
    equation, whatever the width: it evaluates a solution at a point that another one made (`describe()` says so;
    `compose` passes functions instead).

    One sample in, `(in_size,)`; use `jax.vmap` for batches.

    **Arguments:**

    - `in_size`: d.
    - `out_size`: "scalar", or the number of outputs.
    - `hidden`: the number of units of each hidden layer, for example `(2,)` or `(16, 16)`.
    - `width`: N, the number of rows of each unit: one number, or one per hidden layer.
    - `eps`: temperature, positive: one number, or one per hidden layer.
    - `convex`: whether to keep the network convex in its input.
    - `key`: random key.

    **Raises:** `ValueError` for sizes below one, lists of another length than `hidden`, eps <= 0, or an input of
    another shape or integer dtype.

    **Error:** rounding: a few ulp of the largest term, once per layer.

    **Cost:** O(N d) a unit and sample; under `jax.vmap` one matrix product per layer.

    **Good values:** `hidden=(2 out_size,)` with all the width in the rows for regression in low dimension. `eps` is
    a leaf that gradients reach: partition it off (or give it a transform) unless it shall be trained.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Propositions H.1, H.2.

    >>> import jax, jax.numpy as jnp, hjax
    >>> network = hjax.nn.LSENetwork(3, 2, (8, 4), width=16, eps=0.1, key=jax.random.key(0))
    >>> jax.vmap(network)(jnp.zeros((5, 3))).shape
    (5, 2)
    >>> network.describe().status
    'structural'
    """

    raw_layers: tuple[LSELayer | MaxPlusLayer, ...]
    raw_output_weight: Float[Array, "n"] | Float[Array, "k n"]
    output_bias: Float[Array, ""] | Float[Array, "k"]
    in_size: int = eqx.field(static=True)
    out_size: int | Literal["scalar"] = eqx.field(static=True)
    convex: bool = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int | Literal["scalar"],
        hidden: Sequence[int],
        width: int | Sequence[int],
        *,
        eps: ArrayLike | Sequence[ArrayLike],
        convex: bool = False,
        key: PRNGKeyArray,
    ):
        lead = _rows.lead(out_size)
        if isinstance(hidden, int) or not len(hidden):
            raise ValueError(
                f"hidden is {hidden!r}; pass the units of each hidden layer, for example ({hidden or 2},)."
            )
        count = len(hidden)
        widths, temperatures = _per_layer("width", width, count), _per_layer("eps", eps, count)
        keys = jax.random.split(key, count + 1)
        stages, size = [], in_size
        for units, rows, temperature, subkey in zip(hidden, widths, temperatures, keys[:-1], strict=True):
            stage = LSELayer(size, _rows.size("hidden", units), rows, eps=temperature, key=subkey)
            # Positive rows of sum about one: each row is an average of the units below.
            stages.append(_in_logarithms(stage) if convex and stages else stage)
            size = units
        self.raw_layers = tuple(stages)
        weight = jax.random.normal(keys[-1], (*lead, size)) / jnp.sqrt(float(size))
        self.raw_output_weight = weight - jnp.log(float(size)) if convex else weight
        self.output_bias = jnp.zeros(lead)
        self.in_size, self.out_size, self.convex = in_size, out_size, bool(convex)

    @property
    def layers(self) -> tuple[LSELayer | MaxPlusLayer, ...]:
        """The hidden layers with the rows that act: those of `raw_layers`, but for `convex` their exponentials."""
        if not self.convex:
            return self.raw_layers
        return self.raw_layers[0], *(eqx.tree_at(lambda s: s.weight, s, jnp.exp(s.weight)) for s in self.raw_layers[1:])

    @property
    def output_weight(self) -> Float[Array, "n"] | Float[Array, "k n"]:
        """The V that acts: `raw_output_weight`, but for `convex` its exponential."""
        return jnp.exp(self.raw_output_weight) if self.convex else self.raw_output_weight

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, ""] | Float[Array, "k"]:
        """The output, a scalar or `(out_size,)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        state = _rows.sample(x, (self.in_size,), "network")
        for layer in self.layers:
            state = layer(state)
        return jnp.matmul(self.output_weight, state, precision="highest") + self.output_bias

    @classmethod
    def from_layers(
        cls, layers: Sequence[LSELayer], output_weight: ArrayLike, output_bias: ArrayLike | None = None
    ) -> "LSENetwork":
        """The network with these hidden layers, of several outputs each, and this V, `(n,)` or `(k, n)`.

        **Raises:** `ValueError` where the sizes do not follow on each other.

        >>> import jax.numpy as jnp, hjax
        >>> modulus = hjax.nn.LSELayer.from_arrays(jnp.array([[[1.0], [-1.0]]]), jnp.zeros((1, 2)), eps=0.01)
        >>> tent = hjax.nn.LSENetwork.from_layers([modulus], jnp.array([-1.0]))
        >>> round(float(tent(jnp.array([0.5]))), 4)
        -0.5
        """
        sizes = [layer.out_size for layer in layers]
        if not layers or "scalar" in sizes:
            raise ValueError(
                f"layers have outputs {sizes}; pass at least one layer, none of them scalar: "
                f"rows of shape (1, N, d) make a layer of one output."
            )
        signs = _checks.floating("output_weight", output_weight)
        if signs.ndim not in (1, 2):
            raise ValueError(f"output_weight has shape {signs.shape}; pass (n,) for a scalar output or (k, n) for k.")
        for below, above in zip(sizes, [*(layer.in_size for layer in layers[1:]), signs.shape[-1]], strict=True):
            if above != below:
                raise ValueError(
                    f"a layer of {below} outputs is followed by one of input size {above}; make them equal."
                )
        lead = signs.shape[:-1]
        sizes = layers[0].in_size, lead[0] if lead else "scalar"
        network = eqx.filter_eval_shape(lambda: cls(*sizes, [1], 1, eps=1.0, key=jax.random.key(0)))
        bias = jnp.zeros(lead, signs.dtype) if output_bias is None else _checks.floating("output_bias", output_bias)
        if bias.shape != lead:
            raise ValueError(f"output_bias has shape {bias.shape}, but {lead} is wanted to match output_weight.")
        return eqx.tree_at(
            lambda n: (n.raw_layers, n.raw_output_weight, n.output_bias), network, (tuple(layers), signs, bias)
        )

    def tropical(self) -> "LSENetwork":
        """The same network at eps = 0: every layer a `MaxPlusLayer`, piecewise affine.

        A unit's error `eps log N` reaches the output through the layers above it, each of which multiplies
        it by at most its largest sum of |W_j|.
        """
        stages = tuple(s.tropical() if isinstance(s, LSELayer) else s for s in self.raw_layers)
        return eqx.tree_at(lambda n: n.raw_layers, self, stages)

    def describe(self) -> Description:
        """What is exact (each unit) and what is not (their composition)."""
        kind = "an input-convex composition" if self.convex else "a signed sum"
        depth = len(self.raw_layers)
        return Description(
            model="LSENetwork",
            equation=f"none as a whole: {kind} of solutions; each unit solves the equation of its own inputs exactly"
            + ("" if depth == 1 else "; layers evaluate one solution at a point made by another, not its semigroup"),
            hamiltonian="p^T A p for each unit; |p|^2 at A = I",
            eps=None,
            gauge="one time t and metric A for each unit: the network does not depend on them",
            atoms="the rows of each unit",
            status="structural",
            parts=tuple(layer.describe() for layer in self.layers),
        )


def _per_layer(name: str, given: ArrayLike | Sequence, count: int) -> Sequence:
    if not isinstance(given, list | tuple):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name} has {len(given)} entries for {count} hidden layers; pass one number or {count}.")
    return given


def _in_logarithms(stage: LSELayer) -> LSELayer:
    shift = jnp.log(float(stage.in_size))
    return eqx.tree_at(lambda s: s.weight, stage, stage.weight - shift)
