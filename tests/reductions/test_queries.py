"""`jax.vmap` over queries is one call with all of them; every other order of transformations gives the same numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax
from hjax.reductions import _dense, _streaming, gibbs_entropy, gibbs_weights

from .test_memory import MEGABYTE

RANDOM = np.random.default_rng(5)
COSTS = [hjax.Bilinear(), hjax.SquaredEuclidean(0.5), hjax.Mahalanobis(np.array([0.5, 1.0, 2.0]))]


def everything(x, y, g, v, cost, eps=0.3):
    soft = hjax.softmin(x, y, g, eps=eps, cost=cost, payload=v)
    hard = hjax.hardmin(x, y, g, cost=cost)
    entropy = gibbs_entropy(x, y, g, eps=eps, cost=cost)
    return *soft, *hard, entropy, gibbs_weights(x, y, g, eps=eps, cost=cost)


def draw(*lead, m=7, n=6, d=3):
    shapes = (*lead, m, d), (*lead, n, d), (*lead, n), (*lead, n, 2)
    return tuple(jnp.asarray(RANDOM.normal(size=s)) for s in shapes)


def assert_same(got, want, tolerance=1e-13):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


@pytest.mark.parametrize("cost", COSTS, ids=["bilinear", "squared", "metric"])
def test_it_is_the_call_with_all_queries(double, cost):
    x, y, g, v = draw()
    got = jax.vmap(lambda q: everything(q, y, g, v, cost))(x)
    assert_same(got, everything(x, y, g, v, cost))
    deep = jax.vmap(jax.vmap(lambda q: everything(q, y, g, v, cost), in_axes=1))(x.T[None])
    assert [a.shape[:2] for a in deep] == [(1, 7)] * 6


def test_the_implementation_sees_all_queries(monkeypatch):
    seen = []
    for module in (_dense, _streaming):
        plain = module.softmin
        monkeypatch.setattr(module, "softmin", lambda p, plain=plain, m=module: seen.append((m, p.shape)) or plain(p))
    x, y, g, _ = draw(m=41, n=43)
    jax.vmap(lambda q: hjax.softmin(q, y, g, eps=0.3).value)(x)
    assert seen[-1] == (_dense, (41, 43, 3))
    # The outputs of a layer, each with its own atoms; the batch of samples goes around them.
    layer = hjax.nn.LSELayer(3, 4, width=37, eps=0.3, key=jax.random.key(0))
    jax.vmap(layer)(x)
    assert seen[-1] == (_dense, (41, 37, 3))
    # So do the members of an ensemble, around their samples.
    many = eqx.filter_vmap(lambda key: hjax.nn.LSELayer(3, 2, width=31, eps=0.3, key=key))(
        jax.random.split(jax.random.key(0), 5)
    )
    assert eqx.filter_vmap(lambda model: jax.vmap(model)(x))(many).shape == (5, 41, 2)
    assert seen[-1] == (_dense, (41, 31, 3))


def test_any_nesting_of_vmaps_is_a_python_loop(double):
    x, y, g, v = draw(3)
    cost = hjax.SquaredEuclidean(0.5)

    def one(q, i, j):
        return everything(q, y[i], g[j], v[j], cost)

    want = jax.tree.map(
        lambda *a: np.reshape(a, (3, 3, 7, *a[0].shape)),
        *[one(x[i, k], i, j) for i in range(3) for j in range(3) for k in range(7)],
    )
    index = jnp.arange(3)

    def queries_inside(i):
        return jax.vmap(lambda j: jax.vmap(lambda q: one(q, i, j))(x[i]))(index)

    def queries_between(i):
        return jax.vmap(lambda q: jax.vmap(lambda j: one(q, i, j))(index), out_axes=1)(x[i])

    def queries_outside(q):
        return jax.vmap(lambda i: jax.vmap(lambda j: one(q[i], i, j))(index))(index)

    assert_same(jax.vmap(queries_inside)(index), want)
    assert_same(jax.jit(jax.vmap(queries_between))(index), want)
    assert_same(jax.vmap(queries_outside, in_axes=1, out_axes=2)(x), want)


def test_derivatives_inside_and_outside_of_vmap(double):
    x, y, g, _ = draw()

    def value(q, y, g, eps):
        return hjax.softmin(q, y, g, eps=eps, cost=hjax.Bilinear()).value

    def plain(q, y, g, eps):  # the definition, for two derivatives of everything
        return -eps * jax.nn.logsumexp((y @ q - g) / eps)

    def outside(f):
        return jax.grad(lambda x, y, g, e: jnp.sum(jnp.sin(jax.vmap(lambda q: f(q, y, g, e))(x))), argnums=(0, 1, 2, 3))

    def inside(f):
        return jax.vmap(jax.grad(f, argnums=(0, 1, 2, 3)), in_axes=(0, None, None, None))

    def of_atoms_inside(f):  # the queries' vmap lies outside a derivative that does not feel them
        return jax.vmap(lambda q: jax.grad(lambda h: f(q, y, h, 0.3))(g))

    def between(f):
        return jax.vmap(lambda s: jax.grad(lambda h: jnp.sum(jax.vmap(lambda q: f(q, y, h, s))(x)))(g))

    def second(f):
        return jax.vmap(jax.hessian(f, argnums=(0, 1)), in_axes=(0, None, None, None))

    for order in (outside, inside, second):
        assert_same(jax.jit(order(value))(x, y, g, 0.3), jax.jit(order(plain))(x, y, g, 0.3), 1e-11)
    assert_same(of_atoms_inside(value)(x), of_atoms_inside(plain)(x), 1e-12)
    assert_same(between(value)(jnp.array([0.3, 0.7])), between(plain)(jnp.array([0.3, 0.7])), 1e-12)
    hessian = jax.jacfwd(outside(value), argnums=1)(x, y, g, 0.3)
    assert_same(hessian, jax.jacfwd(outside(plain), argnums=1)(x, y, g, 0.3), 1e-11)


def test_loops_and_programs_between_are_as_before(double):
    x, y, g, _ = draw()
    want = hjax.softmin(x, y, g, eps=0.3).value

    def scanned(q):
        return jax.lax.scan(lambda c, h: (c, hjax.softmin(q + c, y, h, eps=0.3).value), jnp.zeros(3), g[None])[1][0]

    assert_same(jax.vmap(scanned)(x), want)
    assert_same(jax.vmap(jax.jit(lambda q: hjax.softmin(q, y, g, eps=0.3).value))(x), want)
    assert_same(
        jax.vmap(lambda q: hjax.softmin(q, y, g, eps=0.3, cost=lambda a, b: jnp.sum((a - b) ** 2)).value)(x), want
    )
    # Causal: a query's place says what it sees.
    got = jax.vmap(lambda c: hjax.softmin(c * y, y, g, eps=0.3, causal=True).value)(jnp.array([1.0, 2.0]))
    assert_same(got, jnp.stack([hjax.softmin(c * y, y, g, eps=0.3, causal=True).value for c in (1.0, 2.0)]))


def test_bad_input_is_said_as_without_vmap():
    x, y, g, _ = draw()
    with pytest.raises(ValueError, match="eps must be positive"):
        jax.vmap(lambda q: hjax.softmin(q, y, g, eps=-1.0).value)(x)
    with pytest.raises(ValueError, match="not one of"):
        jax.vmap(lambda q: hjax.softmin(q, y, g, eps=1.0, implementation="best").value)(x)
    assert jax.vmap(lambda q: hjax.softmin(q, y, g, eps=1.0).value)(x[:0]).shape == (0,)


def test_a_batch_of_single_queries_needs_no_more_memory_than_one_call():
    def total(x, y, g):
        return jnp.sum(jax.vmap(lambda q: hjax.softmin(q, y, g, eps=0.1, implementation="streaming").value)(x))

    n = 20_480
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, 3), (n, 3), (n,))]
    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*shapes).compile()
    # One 20,480 x 20,480 float32 matrix is 1,600 MB.
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * MEGABYTE
