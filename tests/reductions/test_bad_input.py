"""Wrong input is answered by one sentence that says what was passed and what to write instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax
from hjax.reductions import gibbs_entropy

X, Y, G = np.zeros((3, 2), np.float32), np.ones((4, 2), np.float32), np.zeros(4, np.float32)

# jax raises the one or the other, depending on whether the program ran before the call returned.
RUN_TIME = (RuntimeError, ValueError)


def at(array: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


# what is wrong -> (arguments over the good ones, words that the message must hold)
SOFTMIN = {
    "x of another dimension": ({"x": np.zeros((3, 5), np.float32)}, ["x has shape (3, 5)", "(..., 2)"]),
    "x a single number": ({"x": np.float32(1)}, ["x has shape ()", "x[..., None]"]),
    "y on a line without its axis": ({"y": np.zeros(4, np.float32)}, ["y has shape (4,)", "y[:, None]"]),
    "y with too many axes": ({"y": np.zeros((1, 4, 2), np.float32)}, ["y has shape (1, 4, 2)", "(N, d)"]),
    "no atoms": ({"y": Y[:0], "g": G[:0]}, ["y has shape (0, 2)", "at least one atom"]),
    "no dimensions": ({"x": X[:, :0], "y": Y[:, :0]}, ["y has shape (4, 0)", "at least one"]),
    "g of another length": ({"g": G[:3]}, ["g has shape (3,)", "(4,)"]),
    "g with an axis too many": ({"g": G[:, None]}, ["g has shape (4, 1)", "(4,)"]),
    "integer x": ({"x": X.astype(int)}, ["x has dtype int", "x.astype(float)"]),
    "integer y": ({"y": Y.astype(int)}, ["y has dtype int", "y.astype(float)"]),
    "integer g": ({"g": G.astype(int)}, ["g has dtype int", "g.astype(float)"]),
    "boolean g": ({"g": G.astype(bool)}, ["g has dtype bool", "g.astype(float)"]),
    "complex y": ({"y": Y.astype(np.complex64)}, ["y has dtype complex64", "floating"]),
    "text for x": ({"x": "queries"}, ["x must be an array of real numbers", "str"]),
    "None for y": ({"y": None}, ["y must be an array of real numbers", "NoneType"]),
    "NaN in y": ({"y": at(Y, (2, 1), np.nan)}, ["y contains NaN", "[2, 1]"]),
    "NaN in g": ({"g": at(G, (3,), np.nan)}, ["g contains NaN", "[3]"]),
    "-inf in g": ({"g": at(G, (3,), -np.inf)}, ["g contains -inf", "+inf"]),
    "NaN in the payload": ({"payload": at(Y, (0, 0), np.nan)}, ["payload contains NaN", "[0, 0]"]),
    "payload of another length": ({"payload": Y[:2]}, ["payload has shape (2, 2)", "N = 4"]),
    "payload without channels": ({"payload": G}, ["payload has shape (4,)", "payload[:, None]"]),
    "integer payload": ({"payload": Y.astype(int)}, ["payload has dtype int", "payload.astype(float)"]),
    "causal with another number of queries": ({"causal": True}, ["causal=True", "(4, 2)", "(3, 2)"]),
    "eps zero": ({"eps": 0.0}, ["eps must be positive", "0.0"]),
    "eps negative": ({"eps": -1.0}, ["eps must be positive", "-1.0"]),
    "eps NaN": ({"eps": np.nan}, ["eps must be positive", "nan"]),
    "eps infinite": ({"eps": np.inf}, ["eps must be positive and finite", "inf"]),
    "several eps": ({"eps": np.ones(3)}, ["eps must be one number", "(3,)", "jax.vmap"]),
    "text for eps": ({"eps": "small"}, ["eps"]),
    "cost not callable": ({"cost": 2.0}, ["cost is float", "hjax.SquaredEuclidean"]),
    "cost with a vector for a value": ({"cost": lambda x, y: x - y}, ["shape (2,)", ".sum()"]),
    "metric of another dimension": ({"cost": hjax.Mahalanobis(np.ones(3))}, ["(3,)", "2 coordinates"]),
    "unknown implementation": ({"implementation": "cuda"}, ["'cuda'", "dense", "streaming"]),
    "unknown in a sequence": ({"implementation": ("dense", "gpu")}, ["gpu", "streaming"]),
    "no implementation in the sequence": ({"implementation": ()}, ["()", "None"]),
    "negative tolerance": ({"tolerance": -1.0}, ["tolerance is -1.0", "None"]),
}


def assert_one_sentence(error: pytest.ExceptionInfo, words: list[str]) -> None:
    message = str(error.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    assert len(message) < 300
    assert message.endswith((".", ")"))


@pytest.mark.parametrize("case", list(SOFTMIN))
@pytest.mark.parametrize("implementation", [None, "dense", "streaming"])
def test_softmin_says_what_is_wrong_and_what_to_write(case, implementation):
    wrong, words = SOFTMIN[case]
    arguments = {"x": X, "y": Y, "g": G, "eps": 1.0, "implementation": implementation} | wrong
    with pytest.raises(ValueError, match=".") as error:
        hjax.softmin(**arguments)
    assert_one_sentence(error, words)


@pytest.mark.parametrize("case", list(SOFTMIN))
def test_hardmin_and_entropy_say_the_same(case):
    wrong, words = SOFTMIN[case]
    common = {"x": X, "y": Y, "g": G} | {k: v for k, v in wrong.items() if k not in ("payload", "causal", "tolerance")}
    entropic = {"eps": 1.0} | common
    if wrong.keys() & {"payload", "causal", "tolerance"}:
        return
    with pytest.raises(ValueError, match=".") as error:
        gibbs_entropy(**entropic)
    assert_one_sentence(error, words)
    if "eps" not in wrong:
        with pytest.raises(ValueError, match=".") as error:
            hjax.hardmin(**common)
        assert_one_sentence(error, words)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: hjax.SquaredEuclidean(0.0), ["scale must be positive", "0.0"]),
        (lambda: hjax.SquaredEuclidean(-2), ["scale must be positive", "-2"]),
        (lambda: hjax.SquaredEuclidean(np.ones(2)), ["scale must be one number", "(2,)"]),
        (lambda: hjax.Mahalanobis(np.ones(2), scale=np.nan), ["scale must be positive", "nan"]),
        (lambda: hjax.Mahalanobis(np.array([1.0, -1.0])), ["metric must be positive", "-1"]),
        (lambda: hjax.Mahalanobis(np.array([[1.0, 2.0], [2.0, 1.0]])), ["not positive definite", "L @ L.T"]),
        (lambda: hjax.Mahalanobis(np.ones((2, 3))), ["(2, 3)", "(d, d)"]),
    ],
)
def test_costs_say_what_is_wrong(build, words):
    with pytest.raises(ValueError, match=".") as error:
        build()
    assert_one_sentence(error, words)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_traced_eps_that_is_not_positive_raises_at_run_time(bad):
    run = jax.jit(lambda eps: hjax.softmin(X, Y, G, eps=eps).value)
    run(1.0)
    with pytest.raises(RUN_TIME, match="eps must be positive"):
        jax.block_until_ready(run(bad))


def test_a_traced_scale_that_is_not_positive_raises_at_run_time():
    run = jax.jit(lambda s: hjax.softmin(X, Y, G, eps=1.0, cost=hjax.SquaredEuclidean(s)).value)
    with pytest.raises(RUN_TIME, match="scale must be positive"):
        jax.block_until_ready(run(-1.0))


def test_lists_and_numpy_arrays_are_welcome():
    value = hjax.softmin([0.0, 0.0], [[1.0, 1.0]], [0.5], eps=1).value
    np.testing.assert_allclose(value, 2.5)
    np.testing.assert_allclose(hjax.softmin(X, Y, G + np.float32(0.5), eps=np.float64(1e-6)).value, 2.5, rtol=1e-5)


def test_a_sequence_of_implementations_takes_the_first():
    one = hjax.softmin(X, Y, G, eps=1.0, implementation=("streaming", "dense")).value
    np.testing.assert_array_equal(one, hjax.softmin(X, Y, G, eps=1.0, implementation="streaming").value)


def test_which_implementation_answers_from_shapes_alone():
    def cloud(n: int) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, 3), (n, 3), (n,))]

    large, small = hjax.which_implementation(*cloud(100_000)), hjax.which_implementation(*cloud(100))
    assert large.name == "pruned"
    assert "100,000" in large.reason
    assert hjax.which_implementation(*cloud(10_000)).name == "streaming"
    assert small.name == "dense"
    assert "10,000" in small.reason
    payload = jax.ShapeDtypeStruct((100_000, 4), jnp.float32)
    assert hjax.which_implementation(*cloud(100_000), payload=payload, causal=True).name == "streaming"
    assert hjax.which_implementation(X, Y, G).name == "dense"


def test_which_implementation_refuses_what_softmin_refuses():
    with pytest.raises(ValueError, match=r"g has shape \(3,\)"):
        hjax.which_implementation(X, Y, G[:3])


@pytest.mark.parametrize("d", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_no_matrix_of_all_pairs_is_ever_in_memory(d):
    n = 20_000
    x, y, g = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, d), (n, d), (n,)))

    def run(x: jax.Array, y: jax.Array, g: jax.Array) -> hjax.SoftMin:
        return hjax.softmin(x, y, g, eps=1.0, payload=y)

    memory = jax.jit(run).lower(x, y, g).compile().memory_analysis()
    assert memory.temp_size_in_bytes < n * n * 4 / 20
