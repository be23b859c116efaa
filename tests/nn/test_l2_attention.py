"""L2 attention against 50 digits, against derivatives of the solution it claims to be, and merged states."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax

from .. import oracles, tolerances

EPS, T, D, P = 0.7, 0.4, 3, 2


def inputs(m: int = 5, n: int = 8) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=s), float) for s in ((m, D), (n, D), (n, P), (n,)))


def attention(eps: float = EPS) -> hjax.nn.L2Attention:
    return hjax.nn.L2Attention(eps=eps, t=T)


state = eqx.filter_jit(lambda made, *a: made.state(*a))
output = eqx.filter_jit(lambda made, *a, **k: made(*a, **k))
merge = eqx.filter_jit(hjax.nn.AttentionState.merge)


def test_output_and_partition_are_their_formulas_at_fifty_digits(precision):
    query, key, value, g = inputs()
    got = state(attention(), query, key, value, g)
    for i, q in enumerate(np.asarray(query)):
        oracle = oracles.softmin(oracles.costs(q, key, oracles.squared(1 / (4 * T))), np.asarray(g), EPS)
        error = tolerances.weight_error(precision, oracle.scale, EPS)
        np.testing.assert_allclose(got.output[i], oracle.mean(oracles.exact(value)).astype(float), atol=4 * error)
        assert abs(float(got.log_partition[i]) + float(oracle.value) / EPS) <= error * 4


def test_the_output_is_the_derivative_of_the_solution_in_its_initial_data(double):
    """Theorem 4.2 (A): d/ds u(q, t; g + s v), by forward mode through the HopfCole solution."""
    query, key, value, g = inputs()
    made = attention()

    def along(column: jax.Array) -> jax.Array:
        return jax.jvp(lambda s: made.to_solution(key, g + s * column)(query, T), (0.0,), (1.0,))[1]

    want = jax.jit(jax.vmap(along, in_axes=1, out_axes=1))(value)
    np.testing.assert_allclose(output(made, query, key, value, g), want, atol=1e-14)


def test_only_the_keys_themselves_come_out_of_a_gradient_in_space(double):
    query, key, value, _ = inputs()
    u = attention().to_solution(key)
    slope = u.gradient(query, T)
    np.testing.assert_allclose(output(attention(), query, key, key), query - 2 * T * slope, atol=1e-13)
    assert np.abs(output(attention(), query, key, value[:, [0, 1, 1]]) - (query - 2 * T * slope)).max() > 0.1


def test_dot_products_are_distances_with_the_norms_as_initial_data(double):
    query, key, value, _ = inputs()
    made = hjax.nn.L2Attention(eps=EPS)
    got = output(made, query, key, value, -jnp.sum(key**2, axis=1) / 2)
    logits = np.asarray(query) @ np.asarray(key).T / EPS
    weights = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(got, weights / weights.sum(1, keepdims=True) @ value, atol=1e-14)


def test_absent_and_later_keys_do_not_count(precision):
    _, key, value, g = inputs()
    atol = 20 * tolerances.of(precision).atol
    padded = output(attention(), key, key, value, g.at[5:].set(jnp.inf))
    np.testing.assert_allclose(padded, output(attention(), key, key[:5], value[:5], g[:5]), atol=atol)
    causal = output(attention(), key, key, value, g, causal=True)
    np.testing.assert_allclose(causal[4], output(attention(), key, key[:5], value[:5], g[:5])[4], atol=atol)
    np.testing.assert_allclose(causal[0], value[0], atol=atol)


def test_the_hard_limit_takes_the_nearest_key_and_is_the_identity_on_itself(double):
    query, key, value, _ = inputs()
    nearest = ((np.asarray(query)[:, None] - np.asarray(key)) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(output(attention(0), query, key, value), np.asarray(value)[nearest])
    np.testing.assert_allclose(output(attention(1e-4), query, key, value), np.asarray(value)[nearest], atol=1e-12)
    np.testing.assert_array_equal(output(attention(0), key, key, key), key)
    causal = output(attention(0), query, key[:5], value[:5], causal=True)
    first = [((np.asarray(query)[i] - np.asarray(key)[: i + 1]) ** 2).sum(-1).argmin() for i in range(5)]
    np.testing.assert_array_equal(causal, np.asarray(value)[first])
    u = attention(0).to_solution(key)
    assert isinstance(u, hjax.HopfLax)
    np.testing.assert_array_equal(u.minimizer(query, T), nearest)


def test_states_of_the_same_queries_merge_in_any_grouping(precision):
    """H.11 for a fixed query: one key at a time, by an associative scan, is the state over all keys."""
    query, key, value, g = inputs(n=4)
    atol = 40 * tolerances.of(precision).atol
    want = state(attention(), query, key, value, g)

    @jax.jit
    def prefixes(query, key, value, g):
        one = jax.vmap(lambda k, v, h: attention().state(query, k[None], v[None], h[None]))(key, value, g)
        return jax.lax.associative_scan(hjax.nn.AttentionState.merge, one)

    got = prefixes(query, key, value, g)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a[-1], b, atol=atol)
    np.testing.assert_allclose(got.output[0], np.broadcast_to(value[0], (5, P)), atol=atol)
    empty = hjax.nn.AttentionState.empty(want)
    for a, b in zip(merge(empty, want), want, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)
    assert np.all(np.isneginf(merge(empty, empty).log_partition))
    assert not np.any(merge(empty, empty).output)


def test_a_state_of_another_query_is_of_no_use(double):
    """The correction to H.11: extending the old query's state is not the new query's state."""
    query, key, value, g = inputs()
    new = query[::-1]
    old = state(attention(), query, key[:4], value[:4], g[:4])
    last = state(attention(), new, key[4:], value[4:], g[4:])
    true = state(attention(), new, key, value, g)
    first = state(attention(), new, key[:4], value[:4], g[:4])
    np.testing.assert_allclose(merge(first, last).output, true.output, atol=1e-14)
    assert np.abs(merge(old, last).output - true.output).max() > 0.05


def test_the_sink_bound(double):
    """H.12: the mass off the leading key is at most (n - 1) exp(-gap/eps), and the output as near to its value."""
    query, key, value, g = inputs(200)
    costs = ((np.asarray(query)[:, None] - np.asarray(key)) ** 2).sum(-1) / (4 * T) + np.asarray(g)
    order = np.sort(costs, axis=1)
    bound = (len(key) - 1) * np.exp(-(order[:, 1] - order[:, 0]) / EPS)
    sink = np.asarray(value)[costs.argmin(1)]
    away = np.linalg.norm(output(attention(), query, key, value, g) - sink, axis=1)
    farthest = np.linalg.norm(np.asarray(value)[None] - sink[:, None], axis=-1).max(1)
    assert np.all(away <= bound * farthest + 1e-14)
    assert (bound < 1).any()


def test_it_says_what_it_solves():
    assert attention().describe().status == "exact"
    assert attention().describe().eps == pytest.approx(EPS)
    assert attention(0).describe().eps == 0


Q, K, V = jnp.zeros((4, 3)), jnp.zeros((5, 3)), jnp.zeros((5, 2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.L2Attention(eps=-1.0), "eps must be positive"),
        (lambda: hjax.nn.L2Attention(eps=1.0, t=0.0), "t must be positive"),
        (lambda: attention()(Q[0], K, V), r"query has shape \(3,\).*\(T, 3\)"),
        (lambda: attention()(Q[:, :2], K, V), r"query has shape \(4, 2\).*\(T, 3\)"),
        (lambda: attention()(Q[None], K, V), r"query has shape \(1, 4, 3\).*jax\.vmap"),
        (lambda: attention()(Q, K.astype(int), V), "key_ has dtype int"),
        (lambda: attention()(Q, K, V[:3]), "value has 3 rows and key_ has 5"),
        (lambda: attention()(Q, K, V, causal=True), "query has 4 rows and key_ has 5"),
        (lambda: attention()(Q, K, V, jnp.zeros(4)), r"g has shape \(4,\)"),
        (lambda: attention(0).state(Q, K, V), "eps is 0.*to_solution"),
        (
            lambda: state(attention(), Q, K, V).merge(state(attention(), Q[:2], K, V)),
            r"outputs \(4, 2\) and \(2, 2\)",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
