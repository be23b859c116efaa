"""Time against N, M = N: where pruning changes the exponent, and where it does not."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hjax

from .peers import pykeops
from .workloads import clustered, smooth

# A curve stops growing where one call would take longer than this.
_LONGEST = 12.0
# From here on sums are pruned; with fewer points the pruned curves are streaming's.
FITTED_FROM = 2**15


def curves(quick: bool) -> dict[str, Callable[[int], Callable[[], Any]]]:
    """Name of a curve, and for each N a call."""

    def soft(d: int, eps: Callable[[int], float], implementation: str | None) -> Callable[[int], Callable[[], Any]]:
        def at(n: int) -> Callable[[], Any]:
            c = smooth(d, n, eps(n))

            def run(x: Any, y: Any, g: Any) -> Any:
                cost = hjax.SquaredEuclidean(c.scale)
                return hjax.softmin(x, y, g, eps=c.eps, cost=cost, implementation=implementation).value

            return _compiled(run, c)

        return at

    def hard(n: int) -> Callable[[], Any]:
        return _compiled(lambda x, y, g: hjax.hardmin(x, y, g).value, clustered(n, weights=True))

    found = {
        "hardmin, d = 3": hard,
        "eps ~ 1/N, d = 2": soft(2, lambda n: 1e-3 * 2**18 / n / 16, None),
        "eps = 1e-3, d = 2": soft(2, lambda n: 1e-3, None),
        "eps = 1e-3, d = 2, streaming": soft(2, lambda n: 1e-3, "streaming"),
    }
    try:
        import pykeops as _  # noqa: F401
    except ImportError:
        return found
    return found | {"eps = 1e-3, d = 2, pykeops": lambda n: pykeops(smooth(2, n, 1e-3), "value")}


def _compiled(run: Callable[..., Any], clouds: Any) -> Callable[[], Any]:
    arguments = tuple(map(jnp.asarray, clouds[:3]))
    compiled = jax.jit(run).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def sizes(quick: bool) -> list[int]:
    return [2**k for k in ((12, 14, 16) if quick else range(12, 21))]


def scale(quick: bool) -> Iterator[dict[str, Any]]:
    """One row per curve: sizes, seconds (the median of three calls), and the exponent fitted from 2^15 on."""
    for name, at in curves(quick).items():
        ns: list[int] = []
        seconds: list[float] = []
        for n in sizes(quick):
            if seconds and seconds[-1] * (n / ns[-1]) ** 2 > (1.0 if quick else _LONGEST):
                break
            call = at(n)
            call()
            ns.append(n)
            seconds.append(statistics.median(_timed(call) for _ in range(3)))
        late = [i for i, n in enumerate(ns) if n >= FITTED_FROM]
        fit = late if len(late) > 1 else range(len(ns))
        exponent = np.polyfit(np.log([ns[i] for i in fit]), np.log([seconds[i] for i in fit]), 1)[0]
        yield {"curve": name, "n": ns, "seconds": seconds, "exponent": float(exponent)}


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
