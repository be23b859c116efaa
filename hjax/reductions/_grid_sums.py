"""The soft-min along one axis of a grid, for all lines of the grid side by side.

    z_iL = sum_j 2^(kappa (mu_iL - c(x_i, y_j) - f_jL))

is almost a matrix product: on a tile of rows I and atoms J with centres i0, j0 the cost is

    c_ij = c_(i,j0) + c_(i0,j) - c_(i0,j0) + r_ij,

with r small on a small tile. So z is `2^(row) * (2^(-kappa r) @ 2^(atom))`, where `atom` is scaled to be at most
one in each line: one product, and n m L/width exponentials in place of n m L. If |kappa r| <= 30, what an
`atom` below the smallest number loses is 2^-60 of the sum at most, since mu is the exact hard-min and every
weight at most one. The widest tile that keeps this bound is chosen at run time; the narrowest, of width one
by one, is the sum written out.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from ._exp2 import exp2
from ._problem import far

_WIDTHS = (256, 64, 16)
# In binary digits: with this much on both sides, sums stay within 2^+-60 of one.
_LARGEST_REMAINDER = 30.0
_DIRECT_ROWS = 16
_DIRECT_ATOMS = 32

Cost = Callable[[Array, Array], Array]


def line_sums(
    cost: Cost, x: Float[Array, "n"], y: Float[Array, "m"], f: Float[Array, "m L"], mu: Array, kappa: Array
) -> Float[Array, "n L"]:
    """z at the stabiliser mu, a constant to autodiff; atoms that are absent have an f that no cost reaches."""
    mu = lax.stop_gradient(mu)
    widths = [width for width in _WIDTHS if width <= max(x.shape[0], y.shape[0])]
    fits = [_remainder(cost, x, y, width) * kappa <= _LARGEST_REMAINDER for width in widths]
    # The first width that fits; behind all of them the direct sums.
    which = jnp.argmax(jnp.stack([*fits, jnp.asarray(True)]))
    branches = [_tiled(cost, width) for width in widths]
    return lax.switch(lax.stop_gradient(which), [*branches, _direct(cost)], x, y, f, mu, kappa)


def _blocks(values: Array, size: int, fill: float | None = None) -> Array:
    """Rows in blocks; the last filled up with copies of the last row, or with a number."""
    extra = -values.shape[0] % size
    width = [(0, extra)] + [(0, 0)] * (values.ndim - 1)
    full = jnp.pad(values, width, mode="edge") if fill is None else jnp.pad(values, width, constant_values=fill)
    return full.reshape(full.shape[0] // size, size, *values.shape[1:])


def _table(cost: Cost, x: Array, y: Array) -> Float[Array, "n m"]:
    return jax.vmap(lambda a: jax.vmap(lambda b: cost(a, b))(y))(x)


def _parts(cost: Cost, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Of a tile: c_(i,j0), c_(i0,j) - c_(i0,j0), and the remainder."""
    x0, y0 = x[x.shape[0] // 2], y[y.shape[0] // 2]
    rows = jax.vmap(lambda a: cost(a, y0))(x)
    atoms = jax.vmap(lambda b: cost(x0, b))(y) - cost(x0, y0)
    return rows, atoms, _table(cost, x, y) - rows[:, None] - atoms


def _remainder(cost: Cost, x: Array, y: Array, width: int) -> Array:
    """The largest remainder of any tile."""
    x, y = _blocks(lax.stop_gradient(x), width), _blocks(lax.stop_gradient(y), width)
    frozen = jax.tree.map(lambda a: lax.stop_gradient(a) if isinstance(a, jax.Array) else a, cost)
    largest = lax.map(lambda row: jnp.max(jax.vmap(lambda atom: jnp.max(jnp.abs(_parts(frozen, row, atom)[2])))(y)), x)
    return lax.stop_gradient(jnp.max(largest))


def _tiled(cost: Cost, width: int) -> Callable[..., Array]:
    def sums(x: Array, y: Array, f: Array, mu: Array, kappa: Array) -> Array:
        @jax.checkpoint
        def tile(x: Array, mu: Array, y: Array, f: Array, kappa: Array) -> Array:
            rows, columns, remainder = _parts(cost, x, y)
            heights = columns[:, None] + f
            least = lax.stop_gradient(jnp.min(heights, axis=0))
            weights = jnp.matmul(
                exp2(-kappa * remainder), exp2(_floored(kappa * (least - heights))), precision="highest"
            )
            return weights * exp2(_floored(kappa * (mu - rows[:, None] - least)))

        return _over_tiles(tile, (width, width), x, y, f, mu, kappa)

    return sums


def _direct(cost: Cost) -> Callable[..., Array]:
    def sums(x: Array, y: Array, f: Array, mu: Array, kappa: Array) -> Array:
        rows, several = min(x.shape[0], _DIRECT_ROWS), min(y.shape[0], _DIRECT_ATOMS)

        @jax.checkpoint
        def tile(x: Array, mu: Array, y: Array, f: Array, kappa: Array) -> Array:
            z, costs = jnp.zeros_like(mu), _table(cost, x, y)
            for j in range(several):
                z = z + exp2(_floored(kappa * (mu - costs[:, j, None] - f[j])))
            return z

        return _over_tiles(tile, (rows, several), x, y, f, mu, kappa)

    return sums


def _over_tiles(
    tile: Callable[..., Array], sizes: tuple[int, int], x: Array, y: Array, f: Array, mu: Array, kappa: Array
) -> Float[Array, "n L"]:
    """Sums of `tile(x, mu, y, f, kappa)` over tiles of (rows, atoms), each recomputed in a backward pass."""
    rows, several = sizes
    atoms = _blocks(y, several), _blocks(f, several, far(f.dtype))

    @jax.checkpoint
    def block(given: tuple[Array, Array]) -> Array:
        x, mu = given

        def step(z: Array, atoms: tuple[Array, Array]) -> tuple[Array, None]:
            return z + tile(x, mu, *atoms, kappa), None

        return lax.scan(step, jnp.zeros_like(mu), atoms)[0]

    z = lax.map(block, (_blocks(x, rows), _blocks(mu, rows)))
    return z.reshape(-1, mu.shape[1])[: x.shape[0]]


def _floored(exponents: Array) -> Array:
    """Far below the smallest number, but finite: an absent atom's 1e30/eps is no factor for a derivative."""
    return jnp.maximum(exponents, 2.0 * float(jnp.finfo(exponents.dtype).minexp))
