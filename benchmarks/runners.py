"""Who is timed. Each runner prepares a workload once and returns a call that computes and blocks."""

import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hjax

from .workloads import EPS, SCALE, Workload


class Prepared(NamedTuple):
    """`call()` returns the values `(M,)`; compile time and temporaries are None where unknown."""

    call: Callable[[], np.ndarray]
    compile_seconds: float | None
    temporary_bytes: int | None


def hjax_runner(implementation: str) -> Callable[[Workload], Prepared]:
    """Run `hjax.softmin` in the named implementation."""

    def value(x: Any, y: Any, g: Any, eps: Any) -> Any:
        cost = hjax.SquaredEuclidean(SCALE)
        return hjax.softmin(x, y, g, eps=eps, cost=cost, implementation=implementation).value

    return lambda workload: _compiled(value, workload)


def dense_jnp(workload: Workload) -> Prepared:
    """What one writes without a library: matrix-product distances and `jax.nn.logsumexp`."""

    def value(x: Any, y: Any, g: Any, eps: Any) -> Any:
        squares = jnp.sum(x * x, 1)[:, None] - 2 * x @ y.T + jnp.sum(y * y, 1)
        return -eps * jax.nn.logsumexp(-(SCALE * squares + g) / eps, axis=1)

    return _compiled(value, workload)


def pykeops(workload: Workload) -> Prepared:
    """KeOps on the CPU; its gradient is that in x alone, as a second reduction."""
    from pykeops.numpy import LazyTensor

    x, y, g = workload.data()
    points, atoms, heights = (LazyTensor(a) for a in (x[:, None, :], y[None, :, :], g[None, :, None]))

    def exponents() -> Any:
        squares = ((points - atoms) ** 2).sum(-1)
        return squares * np.float32(-SCALE / EPS) - heights * np.float32(1 / EPS)

    def call() -> np.ndarray:
        value = -EPS * exponents().logsumexp(axis=1)[:, 0]
        if workload.kind == "gradient":
            _ = 2 * SCALE * (x - exponents().sumsoftmaxweight(atoms, axis=1))
        return value

    start = time.perf_counter()
    call()
    return Prepared(call, time.perf_counter() - start, None)


def runners() -> dict[str, Callable[[Workload], Prepared]]:
    """hjax first, then the peers that are installed."""
    found = {
        "hjax": hjax_runner("streaming"),
        "jnp": dense_jnp,
    }
    if importlib.util.find_spec("pykeops"):
        found["pykeops"] = pykeops
    return found


def _compiled(value: Callable[..., Any], workload: Workload) -> Prepared:
    arguments = (*map(jnp.asarray, workload.data()), jnp.float32(EPS))

    def both(*arguments: Any) -> Any:
        def total(*a: Any) -> Any:
            u = value(*a)
            return jnp.sum(u), u

        (_, u), slopes = jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True)(*arguments)
        return u, slopes

    function = jax.jit(both if workload.kind == "gradient" else lambda *a: (value(*a), ()))
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start

    def call() -> np.ndarray:
        return np.asarray(jax.block_until_ready(compiled(*arguments))[0])

    analysis = compiled.memory_analysis()
    return Prepared(call, seconds, analysis.temp_size_in_bytes if analysis else None)
