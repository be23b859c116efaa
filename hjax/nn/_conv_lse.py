import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from .. import _checks
from ..reductions import Bilinear, hardmin, softmin
from . import _rows
from ._description import Description
from ._lse_layer import LSELayer
from ._max_plus import MaxPlusLayer

_PADDINGS = ("VALID", "SAME", "CIRCULAR")


class ConvLSE(eqx.Module):
    """A convolutional log-sum-exp layer, `z_i = eps log sum_j exp((w_j.x_i + b_j)/eps)` at each position's patch x_i.

    Every output channel is one `LSELayer` of the patch, the same at all positions: one initial datum, read at as many
    queries as there are positions. A shift of the input shifts the output (by whole strides; without padding, or
    with "CIRCULAR"); "SAME" pads with zeros, which the border sees. The gradient in the filters is the sum over
    positions; the gradients of single positions differ, no symmetry makes them equal.

    One sample in, `(in_channels, *space)` with one or two axes of space; use `jax.vmap` for batches.

    **Arguments:**

    - `num_spatial_dims`: 1 or 2.
    - `in_channels`, `out_channels`: sizes of the channel axis.
    - `kernel_size`: of the patch: one number, or one per axis of space.
    - `width`: N, the number of rows (filters) in the log-sum-exp of each output channel.
    - `eps`: temperature, positive.
    - `stride`: one number, or one per axis of space.
    - `padding`: "VALID", "SAME" or "CIRCULAR".
    - `key`: random key.

    **Raises:** `ValueError` for sizes below one, other paddings, eps <= 0, an input of another number of axes or
    channels, or one smaller than the patch.

    **Error:** a few ulp of `max |w_j| |x_i| + |b_j|`.

    **Cost:** O(P out_channels N K) for P positions and patches of K numbers; memory O(P K) for the patches, and a
    P x N matrix for each channel only while P N is small.

    **Good values:** `width` 2 is a softplus of differences, more rows a smooth maxout.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Remark H.8.

    >>> import jax, jax.numpy as jnp, hjax
    >>> layer = hjax.nn.ConvLSE(2, 3, 8, kernel_size=3, width=4, eps=0.1, padding="SAME", key=jax.random.key(0))
    >>> layer(jnp.zeros((3, 10, 12))).shape
    (8, 10, 12)
    >>> layer.unit(0).to_solution(t=1.0).data.size
    4
    """

    filters: LSELayer | MaxPlusLayer
    in_channels: int = eqx.field(static=True)
    kernel_size: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    padding: str = eqx.field(static=True)

    def __init__(
        self,
        num_spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        width: int,
        *,
        eps: ArrayLike,
        stride: int | Sequence[int] = 1,
        padding: str = "VALID",
        key: PRNGKeyArray,
    ):
        if num_spatial_dims not in (1, 2):
            raise ValueError(f"num_spatial_dims is {num_spatial_dims!r}; pass 1 or 2.")
        if padding not in _PADDINGS:
            raise ValueError(f"padding is {padding!r}; pass one of {list(_PADDINGS)}.")
        self.in_channels, self.padding = _rows.size("in_channels", in_channels), padding
        self.kernel_size = _per_axis("kernel_size", kernel_size, num_spatial_dims)
        self.stride = _per_axis("stride", stride, num_spatial_dims)
        patch = in_channels
        for length in self.kernel_size:
            patch *= length
        self.filters = LSELayer(patch, _rows.size("out_channels", out_channels), width, eps=eps, key=key)

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, "c *space"]:
        """The output, `(out_channels, *space)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        patches = self.patches(x)
        queries, filters = patches.reshape(-1, patches.shape[-1]), self.filters

        def channel(weight: Array, bias: Array) -> Array:
            if isinstance(filters, MaxPlusLayer):
                return -hardmin(queries, weight, -bias, cost=Bilinear()).value
            return -softmin(queries, weight, -bias, eps=filters.eps, cost=Bilinear()).value

        return jax.vmap(channel)(filters.weight, filters.bias).reshape(-1, *patches.shape[:-1])

    def patches(self, x: ArrayLike) -> Float[Array, "*space K"]:
        """The patch x_i of every position, `(*space, K)`: channels first, then the axes of the patch."""
        given = _checks.floating("x", x)
        axes = len(self.kernel_size)
        if given.ndim != 1 + axes or given.shape[0] != self.in_channels:
            wanted = ", ".join(
                [str(self.in_channels), "length"] if axes == 1 else [str(self.in_channels), "rows", "columns"]
            )
            raise ValueError(
                f"x has shape {given.shape}, but one sample of shape ({wanted}) is wanted; "
                f"for a batch use jax.vmap(layer)(x)."
            )
        padded = self._padded(given)
        counts = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:], self.kernel_size, self.stride, strict=True)]
        if min(counts) < 1:
            raise ValueError(
                f"x has space {given.shape[1:]}, smaller than the patch {self.kernel_size}; "
                "pass padding='SAME' or a larger x."
            )
        # One strided slice for each place in the patch. Copies only, where lax.conv_general_dilated_patches convolves
        # with an identity: 7 times slower on a CPU (its gradient 30 times), and infinity times zero is NaN.
        slices = []
        for start in itertools.product(*(range(k) for k in self.kernel_size)):
            stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, counts, self.stride, strict=True)]
            slices.append(lax.slice(padded, (0, *start), (self.in_channels, *stop), (1, *self.stride)))
        stacked = jnp.stack(slices, axis=1).reshape(-1, *counts)
        return jnp.moveaxis(stacked, 0, -1)

    def unit(self, channel: int) -> LSELayer | MaxPlusLayer:
        """The layer of a patch that gives an output channel; its `to_solution(t)` is read at all positions."""
        return self.filters.unit(channel)

    def tropical(self) -> "ConvLSE":
        """The limit eps -> 0 at these filters: a maximum over rows, within `eps log N` of this layer."""
        if isinstance(self.filters, MaxPlusLayer):
            return self
        return eqx.tree_at(lambda m: m.filters, self, self.filters.tropical())

    def describe(self) -> Description:
        """The equation that each channel solves, with one initial datum for all positions."""
        one = self.filters.describe()
        return Description(
            model="ConvLSE",
            equation=f"at the patch x of every position: {one.equation}",
            hamiltonian=one.hamiltonian,
            eps=one.eps,
            gauge=one.gauge,
            atoms=f"{one.atoms}; the same for all positions of a channel, which share one solution",
            status=one.status,
        )

    def _padded(self, x: Array) -> Array:
        if self.padding == "VALID":
            return x
        space = x.shape[1:]
        pads = [(0, 0), *lax.padtype_to_pads(space, self.kernel_size, self.stride, "SAME")]
        return jnp.pad(x, pads, mode="wrap" if self.padding == "CIRCULAR" else "constant")


def _per_axis(name: str, given: int | Sequence[int], axes: int) -> tuple[int, ...]:
    values = (given,) * axes if isinstance(given, int) else tuple(given)
    if len(values) != axes:
        raise ValueError(f"{name} has {len(values)} entries for {axes} axes of space; pass one number or {axes}.")
    return tuple(_rows.size(name, value) for value in values)
