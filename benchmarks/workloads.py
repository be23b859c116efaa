"""The named workloads: what is computed, by whom, and how many pairs that would be one by one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hjax

from .peers import Call, Clouds, peers_of


class Program(NamedTuple):
    """A function of arrays that is compiled before it is timed; its first result is what is compared."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workload(NamedTuple):
    """`pairs` counts them all, evaluated or not; `exact` are the right values at the first places, or None."""

    name: str
    pairs: int
    runners: dict[str, Callable[[], Program | Call]]
    exact: Callable[[], np.ndarray] | None
    rounds: int | None = None


def gaussian(d: int, size: int) -> Clouds:
    """Clouds whose every pair matters: eps of the order of the costs."""
    random = np.random.default_rng(d)
    x, y = (random.normal(size=(size, d)).astype(np.float32) for _ in range(2))
    return Clouds(x, y, random.normal(size=size).astype(np.float32), 0.3, 0.5)


def smooth(d: int, size: int, eps: float) -> Clouds:
    """A Hamilton-Jacobi problem: g = sum sin(5 y) on the unit cube, time 1/2."""
    random = np.random.default_rng(d)
    x, y = (random.random((size, d)).astype(np.float32) for _ in range(2))
    return Clouds(x, y, np.sin(5 * y).sum(axis=1).astype(np.float32), eps, 0.5)


def clustered(size: int, weights: bool) -> Clouds:
    """Fifty clusters in three dimensions; with weights, a g that no nearest-neighbour tree knows."""
    random = np.random.default_rng(7)
    centres = random.random((50, 3))
    x, y = (
        (centres[random.integers(0, 50, size)] + 0.03 * random.normal(size=(size, 3))).astype(np.float32)
        for _ in range(2)
    )
    g = random.exponential(1e-4, size) if weights else np.zeros(size)
    return Clouds(x, y, g.astype(np.float32), 1e-4, 1.0)


def _value(implementation: str | None) -> Callable[..., Any]:
    def value(x: Any, y: Any, g: Any, eps: Any, scale: Any, payload: Any = None) -> Any:
        cost = hjax.SquaredEuclidean(scale)
        return hjax.softmin(x, y, g, eps=eps, cost=cost, payload=payload, implementation=implementation)

    return value


def _dense(x: Any, y: Any, g: Any, eps: Any, scale: Any, payload: Any = None) -> Any:
    """What one writes without a library: matrix-product distances and `jax.nn.logsumexp`."""
    squares = jnp.sum(x * x, 1)[:, None] - 2 * x @ y.T + jnp.sum(y * y, 1)
    exponents = -(scale * squares + g) / eps
    value = -eps * jax.nn.logsumexp(exponents, axis=1)
    return hjax.SoftMin(value, None if payload is None else jax.nn.softmax(exponents, axis=1) @ payload)


def _program(reduction: Callable[..., Any], kind: str, clouds: Clouds) -> Program:
    arguments = (*map(jnp.asarray, clouds[:3]), jnp.float32(clouds.eps), jnp.float32(clouds.scale))

    def total(*a: Any) -> Any:
        u = reduction(*a).value
        return jnp.sum(u), u

    def gradient(*a: Any) -> Any:
        (_, u), slopes = jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True)(*a)
        return u, slopes

    def product(x: Any, *rest: Any) -> Any:
        def slope(x: Any) -> Any:
            return jax.value_and_grad(lambda x: total(x, *rest), has_aux=True)(x)

        ((_, u), _), (_, change) = jax.jvp(slope, (x,), (jnp.ones_like(x),))
        return u, change

    functions = {"gradient": gradient, "hvp": product, "payload 64": lambda *a: tuple(reduction(*a))}
    if kind == "payload 64":
        random = np.random.default_rng(0)
        arguments = (*arguments, jnp.asarray(random.normal(size=(len(clouds.y), 64)).astype(np.float32)))
    return Program(functions.get(kind, lambda *a: (reduction(*a).value,)), arguments)


def reduction(name: str, kind: str, clouds: Clouds, ours: dict[str, str | None], dense: bool = True) -> Workload:
    """A `softmin` workload: hjax's implementations, dense jnp, and the peers."""
    runners: dict[str, Callable[[], Program | Call]] = {
        label: lambda chosen=chosen: _program(_value(chosen), kind, clouds) for label, chosen in ours.items()
    }
    if dense:
        runners["jnp"] = lambda: _program(_dense, kind, clouds)
    for peer, prepare in peers_of(kind, clouds).items():
        runners[peer] = lambda prepare=prepare: prepare(clouds, kind)
    rounds = None if clouds.pairs <= 2**30 else 2
    return Workload(name, clouds.pairs, runners, clouds.exact, rounds)


def nearest(name: str, clouds: Clouds) -> Workload:
    """`hardmin`; with g = 0 against SciPy's tree, single-threaded, built beforehand or not."""
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    def hard(implementation: str | None) -> Callable[[], Program]:
        def value(x: Any, y: Any, g: Any) -> Any:
            return tuple(hjax.hardmin(x, y, g, cost=hjax.SquaredEuclidean(1.0), implementation=implementation))

        return lambda: Program(value, tuple(map(jnp.asarray, clouds[:3])))

    runners: dict[str, Callable[[], Program | Call]] = {"hjax": hard(None)}
    if not clouds.g.any():
        tree = cKDTree(clouds.y)
        runners["cKDTree, built"] = lambda: lambda: tree.query(clouds.x)[0] ** 2
        runners["cKDTree"] = lambda: lambda: cKDTree(clouds.y).query(clouds.x)[0] ** 2

    def exact() -> np.ndarray:
        x, y, g = (a.astype(np.float64) for a in clouds[:3])
        return np.stack([(((one - y) ** 2).sum(-1) + g).min() for one in x[:64]])

    return Workload(name, clouds.pairs, runners, exact, 3)


def grid(name: str, shape: tuple[int, ...], eps: float | None) -> Workload:
    """`on_grid`: against the exact Euclidean distance transform, or a convolution by FFT."""
    from scipy import ndimage

    if eps is None:
        absent = np.random.default_rng(0).random(shape) > 0.01
        g, axes = np.where(absent, np.inf, 0).astype(np.float32), [np.arange(n, dtype=np.float32) for n in shape]

        def transform() -> np.ndarray:
            return np.ravel(np.asarray(ndimage.distance_transform_edt(absent))) ** 2

        peers: dict[str, Callable[[], Program | Call]] = {"scipy edt": lambda: transform}
        scale = 1.0
    else:
        axes = [np.linspace(0, 1, n, dtype=np.float32) for n in shape]
        g = np.sum([np.sin(5 * a) for a in np.meshgrid(*axes, indexing="ij")], axis=0).astype(np.float32)
        scale = 0.5
        peers = {"fft": lambda: Program(lambda g: (_convolved(g, axes, eps, scale).ravel(),), (jnp.asarray(g),))}

    def ours(g: Any) -> Any:
        return (jnp.ravel(hjax.on_grid(g, axes, eps=eps, cost=hjax.SquaredEuclidean(scale))),)

    def exact() -> np.ndarray:
        points = [a.astype(np.float64) for a in axes]
        rows = np.stack(np.unravel_index(np.arange(64), shape), axis=1)
        values = []
        for row in rows:
            total = g.astype(np.float64)
            for k, (axis, place) in enumerate(zip(points, row, strict=True)):
                total = total + (scale * (axis - axis[place]) ** 2).reshape(
                    [-1 if i == k else 1 for i in range(len(shape))]
                )
            least = total.min()
            soft = 0 if eps is None else -eps * np.log(np.exp(-(total - least) / eps).sum())
            values.append(least + soft)
        return np.array(values)

    pairs = int(np.prod(shape)) * sum(shape)
    return Workload(name, pairs, {"hjax": lambda: Program(ours, (jnp.asarray(g),))} | peers, exact, 3)


def _convolved(g: Any, axes: list[np.ndarray], eps: float, scale: float) -> Any:
    """The same sum as a zero-padded convolution, with g's minimum taken out: as good as it gets in float32."""
    sizes = [2 * len(a) for a in axes]
    kernel = jnp.ones(())
    for k, axis in enumerate(axes):
        n = len(axis)
        offsets = (np.arange(2 * n) + n) % (2 * n) - n
        line = np.exp(-scale * ((axis[1] - axis[0]) * offsets.astype(np.float64)) ** 2 / eps).astype(np.float32)
        kernel = kernel * jnp.asarray(line).reshape([-1 if i == k else 1 for i in range(len(axes))])
    least = jnp.min(g)
    spectrum = jnp.fft.rfftn(jnp.exp(-(g - least) / eps), sizes) * jnp.fft.rfftn(kernel)
    inside = jnp.fft.irfftn(spectrum, sizes)[tuple(slice(0, len(a)) for a in axes)]
    return least - eps * jnp.log(inside)


def workloads(quick: bool) -> list[Callable[[], Workload]]:
    """The rows of the table, each made when its turn comes."""
    size, many, side = (4_096, 32_768, 512) if quick else (10_240, 262_144, 2_048)
    auto: dict[str, str | None] = {"hjax": None}
    both: dict[str, str | None] = {"hjax": None, "hjax streaming": "streaming"}
    rows: list[Callable[[], Workload]] = [
        lambda kind=kind, d=d: reduction(f"{kind} d={d}", kind, gaussian(d, size), auto)
        for kind, dimensions in (
            ("value", (1, 3, 8, 16, 64, 128)),
            ("gradient", (1, 3, 16, 64)),
            ("hvp", (1, 3, 16, 64)),
            ("payload 64", (3, 64)),
        )
        for d in (dimensions if not quick else dimensions[: 2 if kind in ("value", "gradient") else 1])
    ]
    for d in (2, 3):
        rows.append(lambda d=d: reduction(f"small eps d={d}", "small eps", smooth(d, many, 1e-3), both, dense=False))
    rows += [
        lambda: reduction("density d=3", "density", clustered(many // 8, weights=False), both, dense=False),
        lambda: reduction("Sinkhorn-like d=3", "Sinkhorn-like", smooth(3, many // 4, 1e-2), both, dense=False),
        lambda: nearest("nearest d=3", clustered(many, weights=False)),
        lambda: nearest("nearest, weights d=3", clustered(many, weights=True)),
        lambda: grid(f"grid {side}^2 hard", (side, side), None),
        lambda: grid(f"grid {side}^2 eps=1", (side, side), 1.0),
        lambda: grid(f"grid {side}^2 eps=1e-2", (side, side), 1e-2),
        lambda: grid(f"grid {side}^2 eps=1e-5", (side, side), 1e-5),
        lambda: grid(f"grid {side // 8}^3 hard", (side // 8,) * 3, None),
        lambda: grid(f"grid {side // 8}^3 eps=1e-2", (side // 8,) * 3, 1e-2),
    ]
    return rows
