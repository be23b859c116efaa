"""Small solutions on random atoms, shared by the tests of this room."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import hjax

_ROOT = np.array([[1.2, 0.0, 0.0], [0.3, 0.8, 0.0], [-0.4, 0.2, 0.6]])
METRICS = {"identity": None, "number": 2.5, "diagonal": np.array([0.5, 1.0, 2.0]), "matrix": _ROOT @ _ROOT.T}
EPS = 0.3


def data(n: int = 7, d: int = 3, *, seed: int = 0, weighted: bool = False) -> hjax.InitialData:
    rng = np.random.default_rng(seed)
    y, g, w = rng.normal(size=(n, d)), rng.normal(size=n), rng.normal(size=n)
    return hjax.InitialData(*(jnp.asarray(a, float) for a in (y, g)), jnp.asarray(w, float) if weighted else None)


def queries(m: int = 5, d: int = 3, *, seed: int = 1) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(m, d)), float), jnp.asarray(rng.uniform(0.3, 2, size=m), float)


def solution(kind: str, metric: str, *, normalize: bool = False, weighted: bool = False) -> hjax.Solution:
    hamiltonian = hjax.Quadratic(None if METRICS[metric] is None else jnp.asarray(METRICS[metric], float))
    if kind == "HopfLax":
        return hjax.HopfLax(data(weighted=weighted), hamiltonian)
    return hjax.HopfCole(data(weighted=weighted), EPS, hamiltonian, normalize)


def dense_metric(metric: str, d: int = 3) -> np.ndarray:
    a = METRICS[metric]
    if a is None:
        return np.eye(d)
    a = np.asarray(a, float)
    return a if a.ndim == 2 else np.diag(np.broadcast_to(a, d))


@functools.cache
def closed_forms():
    """All closed forms at once."""

    def run(u: hjax.Solution, x: jax.Array, t: jax.Array):
        return u.gradient(x, t), u.hessian(x, t), u.laplacian(x, t), u.time_derivative(x, t)

    return eqx.filter_jit(run)


@functools.cache
def autodiff():
    """The same by differentiating the value, one query at a time."""

    def run(u: hjax.Solution, x: jax.Array, t: jax.Array):
        def one(x: jax.Array, t: jax.Array):
            gradient, rate = jax.grad(u, argnums=(0, 1))(x, t)
            hessian = jax.hessian(u)(x, t)
            return gradient, hessian, jnp.trace(hessian), rate

        return jax.vmap(one)(x, t)

    return eqx.filter_jit(run)
