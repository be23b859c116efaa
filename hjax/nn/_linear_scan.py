"""The linear recurrence `x_{k+1} = a_k x_k + b_k`, element by element, in parallel over time.

Time is cut into about sqrt(T) chunks that run side by side: once to learn where each chunk ends when it starts at
zero, then a short recurrence over the chunks' ends, then once more from the right starts. That is 3 sqrt(T) steps in
place of T, reads b twice and writes x once, and keeps nothing else: on a CPU it runs at the speed of memory.

The states solve the linear equations `x_{k+1} - a_k x_k = b_k`, whose transpose is the same recurrence backwards.
Said to jax as just that (`custom_linear_solve`), every derivative of every order, forward or reverse, is a linear
recurrence again, and reverse mode keeps x and a alone.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Inexact


def linear_scan(a: Inexact[Array, "*T_and_n"], b: Inexact[Array, "T *n"]) -> Inexact[Array, "T *n"]:
    """All states `x_1 ... x_T` of `x_{k+1} = a_k x_k + b_k`, `x_0 = 0`, real or complex.

    `a` is of the shape of `b`, or of one step's for a recurrence that is the same at all times. Meant for |a| <= 1:
    products of a over a whole chunk are formed, which overflow before the states do.
    """
    dtype = jnp.result_type(a, b)
    a, b = a.astype(dtype), b.astype(dtype)
    constant = a.ndim < b.ndim

    def residual(x: Array) -> Array:
        before = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
        return x - a * before

    def forwards(_, b: Array) -> Array:
        return _in_chunks(a, b, False)

    def backwards(_, c: Array) -> Array:
        # The step back from k + 1 to k carries the factor of the step that led there.
        shifted = a if constant else jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
        return _in_chunks(shifted, c, True)

    return jax.lax.custom_linear_solve(residual, b, forwards, backwards)


def _in_chunks(a: Array, b: Array, reverse: bool) -> Array:
    steps, shape = b.shape[0], b.shape[1:]
    length = 2 ** round(math.log2(steps) / 2)
    chunks = -(-steps // length)
    constant = a.ndim < b.ndim

    def cut(array: Array) -> Array:
        # Zeros after the end change nothing before it; backwards they hand on the zero that the scan starts with.
        padded = jnp.pad(array, [(0, chunks * length - steps)] + [(0, 0)] * len(shape))
        return padded.reshape(chunks, length, *shape)

    drive, factor = cut(b), a if constant else cut(a)

    def at(array: Array, k: Array) -> Array:
        return jax.lax.dynamic_index_in_dim(array, length - 1 - k if reverse else k, 1, keepdims=False)

    def factor_at(k: Array) -> Array:
        return factor if constant else at(factor, k)

    def end(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        product, x = carry
        step = factor_at(k)
        return step * product, step * x + at(drive, k)

    rest = jnp.zeros((chunks, *shape), b.dtype)
    one = jnp.ones(shape if constant else (chunks, *shape), b.dtype)
    products, ends = jax.lax.fori_loop(0, length, end, (one, rest))

    def next_chunk(x: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        product, end = chunk
        return product * x + end, x

    across = (jnp.broadcast_to(products, ends.shape), ends)
    _, starts = jax.lax.scan(next_chunk, rest[0], across, reverse=reverse)

    def state(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, states = carry
        x = factor_at(k) * x + at(drive, k)
        return x, jax.lax.dynamic_update_index_in_dim(states, x, length - 1 - k if reverse else k, 1)

    _, states = jax.lax.fori_loop(0, length, state, (starts, jnp.zeros_like(drive)))
    return states.reshape(chunks * length, *shape)[:steps]
