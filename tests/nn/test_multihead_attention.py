"""Multi-head attention against torch, against jax.nn, and against loops over positions in numpy."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax
from hjax.nn import _positions

from .. import tolerances

H, SIZE, HEAD, ROWS = 2, 8, 4, 6
KEY = jax.random.key(0)
RULES = ("causal", "padding", "per head")


def attention(**given) -> hjax.nn.MultiheadAttention:
    return hjax.nn.MultiheadAttention(H, SIZE, key=KEY, **given)


def tokens(rows: int = ROWS, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, SIZE)), float)


def rule_of(rule: str, rows: int = ROWS) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Which keys are present, and what is added to the logits."""
    rng = np.random.default_rng(3)
    present = np.arange(rows) < rows - 2 if rule in ("padding", "per head") else None
    return present, rng.normal(size=(H, rows, rows)) if rule == "per head" else None


call = eqx.filter_jit(lambda made, *a, **k: made(*a, **k))
heads = eqx.filter_jit(lambda made, *a, **k: made.heads(*a, **k))


def theirs_in_torch(torch, theirs, given, rule) -> tuple[np.ndarray, list[np.ndarray]]:
    """Values, and gradients in query, key, value, the joined weights and the last bias."""
    present, bias = rule_of(rule)
    dtype = given[0].dtype
    leaves = [torch.tensor(a, requires_grad=True) for a in given]
    mask = None if bias is None else torch.tensor(bias.astype(dtype))
    mask = torch.ones(ROWS, ROWS, dtype=torch.bool).triu(1) if rule == "causal" else mask
    padding = None
    if present is not None:  # as numbers, like the mask beside it
        padding = torch.tensor(np.where(present, 0, -np.inf).astype(dtype))
    out, _ = theirs(*leaves, key_padding_mask=padding, attn_mask=mask, need_weights=False)
    moving = [*leaves, theirs.in_proj_weight, theirs.out_proj.bias]
    return out.detach().numpy(), [a.numpy() for a in torch.autograd.grad((out**2).sum(), moving)]


def test_values_and_gradients_are_those_of_torch(precision):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(SIZE, H, batch_first=True, dtype=getattr(torch, precision.name))
    torch.nn.init.normal_(theirs.in_proj_bias)
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    made = hjax.nn.MultiheadAttention.from_state_dict(state, H)
    causal = hjax.nn.MultiheadAttention.from_state_dict(state, H, causal=True)
    given = [tokens(seed=s) for s in range(3)]

    def loss(pair, rule):
        (made, given), (present, bias) = pair, rule_of(rule)
        shift = None if bias is None else jnp.asarray(bias, precision) * made.eps
        out = made(*given, mask=None if present is None else jnp.asarray(present), shift=shift)
        return jnp.sum(out**2), out

    @eqx.filter_jit
    def every(made, causal, given):
        both = eqx.filter_value_and_grad(loss, has_aux=True)
        return {rule: both((causal if rule == "causal" else made, given), rule) for rule in RULES}

    atol, rtol = 20 * tolerances.of(precision).atol, 20 * tolerances.of(precision).rtol
    for rule, ((_, got), (weights, moved)) in every(made, causal, given).items():
        want, gradients = theirs_in_torch(torch, theirs, [np.asarray(a) for a in given], rule)
        np.testing.assert_allclose(got, want, atol=atol, rtol=rtol, err_msg=rule)
        joined = jnp.concatenate([p.weight for p in weights._all[:3]])
        for a, b in zip([*moved, joined, weights.output_projection.bias], gradients, strict=True):
            np.testing.assert_allclose(a, b, atol=10 * atol, rtol=rtol, err_msg=rule)


def test_torch_weights_of_other_sizes_are_read():
    rng = np.random.default_rng(0)
    sizes = {"q": SIZE, "k": 6, "v": 10}
    state = {f"{name}_proj_weight": rng.normal(size=(SIZE, s)) for name, s in sizes.items()}
    made = hjax.nn.MultiheadAttention.from_state_dict({**state, "out_proj.weight": rng.normal(size=(SIZE, SIZE))}, H)
    assert call(made, tokens(), jnp.zeros((3, 6)), jnp.zeros((3, 10))).shape == (ROWS, SIZE)
    assert made.query_projection.bias is None


def test_values_and_gradients_are_those_of_jax_nn():
    """In single precision: jax.nn takes its exponentials in that, whatever it is given."""
    x = tokens()

    def theirs(x, rule):
        made, (present, bias) = attention(causal=rule == "causal"), rule_of(rule)
        query, key, value = (jnp.moveaxis(a, 0, 1)[None] for a in made.project(x))
        extra = None if bias is None else jnp.asarray(bias, jnp.float32).reshape(1, -1, ROWS, ROWS)
        allowed = None if present is None else jnp.broadcast_to(jnp.asarray(present), (1, 1, ROWS, ROWS))
        out = jax.nn.dot_product_attention(query, key, value, extra, allowed, is_causal=made.causal)[0]
        return jnp.moveaxis(out, 0, 1)

    def ours(x, rule):
        made, (present, bias) = attention(causal=rule == "causal"), rule_of(rule)
        shift = None if bias is None else jnp.asarray(bias, jnp.float32) * math.sqrt(HEAD)
        return made.heads(x, mask=None if present is None else jnp.asarray(present), shift=shift)

    @jax.jit
    def both(x):
        def slope(f, rule):
            return jax.grad(lambda x: jnp.sum(jnp.sin(f(x, rule))))(x)

        return [[(f(x, rule), slope(f, rule)) for rule in RULES] for f in (ours, theirs)]

    for rule, a, b in zip(RULES, *both(x), strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=20 * tolerances.of("float32").atol, err_msg=rule)
        np.testing.assert_allclose(a[1], b[1], atol=40 * tolerances.of("float32").atol, err_msg=rule)


def test_masks_of_pairs_forbid_what_they_say_and_nothing_is_zero(double):
    made, x = attention(use_bias=False), tokens()
    allowed = np.random.default_rng(1).random((ROWS, ROWS)) < 0.5
    allowed[2] = False  # looks nowhere
    got = call(made, x, mask=jnp.asarray(allowed))
    want = looped(made, x, lambda h, i, j: 0.0 if allowed[i, j] else -np.inf)
    np.testing.assert_allclose(got, want, atol=1e-14)
    assert not np.any(got[2])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(made(x, mask=jnp.asarray(allowed)))))(x)
    assert np.isfinite(gradient).all()


def looped(made: hjax.nn.MultiheadAttention, x: jax.Array, extra, turned=lambda a, i: a) -> np.ndarray:
    """Attention as loops over heads, queries and keys; `extra(h, i, j)` is added to the logits."""

    def projected(p):
        return np.asarray(x) @ np.asarray(p.weight).T + (0 if p.bias is None else np.asarray(p.bias))

    query, key, value = (projected(p).reshape(len(x), H, -1) for p in made._all[:3])
    out = np.zeros((len(x), H, value.shape[-1]))
    for h in range(H):
        for i in range(len(x)):
            logits = np.array(
                [
                    turned(query[i, h], i) @ turned(key[j, h], j) / math.sqrt(HEAD) + extra(h, i, j)
                    for j in range(len(x))
                ]
            )
            if np.isfinite(logits).any():
                weights = np.exp(logits - logits.max())
                out[i, h] = weights @ value[:, h] / weights.sum()
    p = made.output_projection
    return out.reshape(len(x), -1) @ np.asarray(p.weight).T + (0 if p.bias is None else np.asarray(p.bias))


def turn(a: np.ndarray, i: int) -> np.ndarray:
    """Pairs (k, k + d/2) as complex numbers, times exp(i position 10000^(-2k/d))."""
    half = len(a) // 2
    z = (a[:half] + 1j * a[half:]) * np.exp(1j * i * 10_000.0 ** (-2 * np.arange(half) / len(a)))
    return np.concatenate([z.real, z.imag])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", ["rotary", "slopes"])
def test_positions_are_a_loop_over_pairs(precision, positions, causal):
    made, x = attention(positions=positions, causal=causal), tokens()

    def extra(h, i, j):
        if causal and j > i:
            return -np.inf
        return -abs(i - j) * 2.0 ** (-8 * (h + 1) / H) if positions == "slopes" else 0.0

    want = looped(made, x, extra, turn if positions == "rotary" else lambda a, i: a)
    np.testing.assert_allclose(call(made, x), want, atol=10 * tolerances.of(precision).atol)


def test_rotations_keep_lengths_and_depend_on_distance_alone(precision):
    """H.13: |R k| = |k| and (R_i q).(R_j k) = q.R_(j-i) k, also far out, where single-precision angles fail."""
    points = tokens()
    atol = 20 * tolerances.of(precision).atol
    near, far = (_positions.rotate(points, start + jnp.arange(ROWS), 40_000) for start in (0, 30_000))
    np.testing.assert_allclose(near @ near.T, far @ far.T, atol=atol)
    np.testing.assert_allclose(jnp.sum(far**2, axis=1), jnp.sum(points**2, axis=1), atol=atol)
    np.testing.assert_allclose(far[3], turn(np.asarray(points[3], np.float64), 30_003), atol=atol)


def test_a_shift_is_a_change_of_the_initial_data(double):
    """H.13: the output under a shift of pairs is read off, query by query, from the solution with g_ij = -shift_ij."""
    made, x = attention(positions="slopes", causal=True), tokens()
    shift = jnp.asarray(np.random.default_rng(5).normal(size=(H, ROWS, ROWS)))
    mask = jnp.arange(ROWS) != 1
    query, _, value = made.project(x)
    got = heads(made, x, mask=mask, shift=shift)
    for head, i in ((0, 5), (1, 3)):
        for t in (0.5, 2.0):
            u = made.to_solution(x, head=head, t=t, mask=mask, shift=shift, position=i)
            np.testing.assert_allclose(u.expectation(query[head, i], t, value[head]), got[head, i], atol=1e-13)
    per_query = jnp.arange(ROWS, dtype=float)[:, None] + jnp.zeros((H, ROWS, ROWS))  # the same for all keys: no effect
    np.testing.assert_allclose(
        heads(made, x, mask=mask, shift=per_query), heads(made, x, mask=mask, shift=0 * shift), atol=1e-14
    )


def test_the_partition_function_is_that_of_the_solution(precision):
    made, x = attention(positions="rotary"), tokens()
    query, key, _ = made.project(x)
    logits = np.asarray(query[1], float) @ np.asarray(key[1], float).T / math.sqrt(HEAD)
    for t in (0.5, 1.7):
        u = made.to_solution(x, head=1, t=t)
        got = (jnp.sum(query[1] ** 2, axis=1) / (4 * t) - u(query[1], t)) / made.eps
        np.testing.assert_allclose(got, np.log(np.exp(logits).sum(1)), atol=20 * tolerances.of(precision).atol)


def test_keys_far_ahead_take_all_the_weight(double):
    """H.12: a sink a gap above all other keys leaves (n - 1) exp(-gap/eps) of the weight."""
    made, x = attention(use_bias=False), tokens()
    _, _, value = made.project(x)
    for gap in (5.0, 20.0, 60.0):
        got = heads(made, x, shift=jnp.where(jnp.arange(ROWS) == 2, gap, 0.0))
        query, key, _ = made.project(x)
        logits = np.einsum("hid,hjd->hij", query, key) + np.where(np.arange(ROWS) == 2, gap, 0.0)
        others = np.delete(logits, 2, axis=2).max(2)
        bound = (ROWS - 1) * np.exp(-(logits[:, :, 2] - others) / math.sqrt(HEAD))
        farthest = np.linalg.norm(value - value[:, 2:3], axis=-1).max(1)[:, None]
        assert np.all(np.linalg.norm(got - value[:, 2:3], axis=-1) <= bound * farthest + 1e-14)


@pytest.mark.parametrize("causal", [False, True])
def test_eps_zero_selects_the_largest_product(double, causal):
    made, x = attention(eps=0, causal=causal), tokens()
    query, key, value = (np.asarray(a) for a in made.project(x))
    products = np.einsum("hid,hjd->hij", query, key)
    if causal:
        products = np.where(np.tri(ROWS, dtype=bool), products, -np.inf)
    want = np.stack([v[row.argmax(1)] for v, row in zip(value, products, strict=True)])
    np.testing.assert_array_equal(heads(made, x), want)
    cold = attention(eps=1e-6, causal=causal)
    np.testing.assert_allclose(heads(cold, x), want, atol=1e-12)
    assert isinstance(made.to_solution(x, position=0), hjax.HopfLax)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m(x))))(made)
    assert np.any(gradient.value_projection.weight)
    assert not np.any(gradient.query_projection.weight)


def test_cross_attention_has_sizes_of_its_own():
    made = hjax.nn.MultiheadAttention(3, 8, key_size=5, value_size=4, output_size=7, head_size=2, key=KEY)
    assert made.eps == pytest.approx(math.sqrt(2))
    batched = jax.jit(jax.vmap(made, in_axes=(0, None, None)))
    batch = batched(jnp.stack([tokens(4), tokens(4)[::-1]]), jnp.ones((9, 5)), jnp.ones((9, 4)))
    assert batch.shape == (2, 4, 7)
    np.testing.assert_allclose(batch[1], batch[0][::-1], atol=1e-6)


def test_half_precision_goes_in_and_comes_out():
    made = attention(positions="slopes", causal=True)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, made)
    got = call(half, tokens().astype(jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(float), call(made, tokens()), atol=0.05)


def test_the_gradient_of_long_attention_fits_in_128_megabytes():
    long = hjax.nn.MultiheadAttention(1, 64, causal=True, key=KEY)
    parameters, static = eqx.partition(long, eqx.is_inexact_array)

    def loss(parameters, x):
        return jnp.sum(eqx.combine(parameters, static)(x) ** 2)

    x = jax.ShapeDtypeStruct((32_768, 64), jnp.float32)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(parameters, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 128e6


def test_tiles_and_dense_matrices_agree():
    """Beyond 512 keys tiles take over; slopes and causality with them."""
    made, x = attention(positions="slopes", causal=True), tokens(600)
    want = call(made, x[:64])
    np.testing.assert_allclose(call(made, x)[:64], want, atol=1e-5)


def test_it_says_what_it_solves():
    reading = attention(positions="slopes", causal=True).describe()
    assert (reading.status, reading.eps) == ("exact", 2.0)
    assert "new problem for every query" in reading.atoms
    assert attention(eps=0).describe().eps == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: hjax.nn.MultiheadAttention(0, 8, key=KEY), "num_heads is 0"),
        (lambda: hjax.nn.MultiheadAttention(3, 8, key=KEY), "query_size 8 does not split over 3 heads"),
        (lambda: attention(key_size=2.0), "key_size is 2.0"),
        (lambda: attention(positions="learned"), "positions is 'learned'"),
        (lambda: attention(head_size=3, positions="rotary"), "head_size is 3.*even"),
        (lambda: attention(eps=-1.0), "eps must be positive"),
        (lambda: attention()(jnp.zeros(8)), r"query has shape \(8,\).*\(T, 8\)"),
        (lambda: attention()(jnp.zeros((2, 4, 8))), r"query has shape \(2, 4, 8\).*jax\.vmap"),
        (lambda: attention()(tokens(), jnp.zeros((4, 3))), r"key_ has shape \(4, 3\).*\(T, 8\)"),
        (lambda: attention()(tokens(), tokens(), tokens(3)), "value has 3 rows and key_ has 6"),
        (lambda: attention(causal=True)(tokens(), tokens(3)), "query has 6 rows and key_ has 3"),
        (lambda: attention()(tokens(), mask=jnp.zeros(6)), "mask has dtype float32.*shift="),
        (lambda: attention()(tokens(), mask=jnp.ones(5, bool)), r"mask has shape \(5,\); pass \(6,\)"),
        (lambda: attention()(tokens(), shift=jnp.zeros((3, 6, 6))), r"shift has shape \(3, 6, 6\).*\(2, 6, 6\)"),
        (lambda: attention()(tokens(), shift=jnp.full(6, jnp.nan)), "shift contains NaN"),
        (lambda: attention()(tokens(), shift=jnp.full(6, jnp.inf)), r"shift contains \+inf"),
        (lambda: attention(causal=True).to_solution(tokens()), "pass position=i"),
        (lambda: attention(causal=True).to_solution(tokens(), position=6), "position is 6.*0 to 5"),
        (lambda: attention().to_solution(tokens(), head=2), "index is 2"),
        (lambda: attention().to_solution(tokens(), t=0.0), "t must be positive"),
        (lambda: hjax.nn.MultiheadAttention.from_state_dict({}, 2), r"missing; pass torch\.nn"),
        (
            lambda: hjax.nn.MultiheadAttention.from_state_dict({"bias_k": np.zeros(8)}, 2),
            "bias_k.*add_bias_kv=False",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_reason(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
