"""Networks on real data that needs no download: scikit-learn's digits, and the docstrings of Python itself."""

import codecs
import contextlib
import importlib
import inspect
import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import hjax
from hjax.training import cross_entropy, fit, geometric

TRAIN = (
    "argparse bisect calendar configparser contextlib copy csv dataclasses difflib doctest email.message fractions "
    "functools getopt inspect ipaddress json json.decoder json.encoder logging mailbox optparse os pathlib pickletools "
    "platform pprint queue random re sched selectors shelve shutil socket statistics string tarfile tempfile textwrap "
    "threading timeit"
)
HELD_OUT = "collections heapq subprocess traceback urllib.request zipfile"


def digits(shifts: bool):
    """Standardised by the 1,437 training images; with `shifts` those also moved by a pixel in four directions."""
    images, labels = load_digits(return_X_y=True)
    x, held_x, y, held_y = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    if shifts:
        padded = np.pad(x.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
        corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
        x = np.concatenate([padded[:, i : i + 8, j : j + 8].reshape(-1, 64) for i, j in corners])
        y = np.tile(y, len(corners))
    # Pixels at the rim hardly vary: the 1 (of 16 grey levels) keeps them small.
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1
    arrays = (x - mean) / scale, y, (held_x - mean) / scale, held_y
    x, y, held_x, held_y = (jnp.asarray(a, jnp.float32 if a.ndim == 2 else jnp.int32) for a in arrays)
    return (x, y), (held_x, held_y)


def adamw(rate: float, steps: int, decay: float = 1e-2) -> optax.GradientTransformation:
    return optax.adamw(optax.warmup_cosine_decay_schedule(0, rate, steps // 10, steps), weight_decay=decay)


def accuracy(model, train, held_out, steps: int, seed: int = 0, **options) -> float:
    options = {"loss": "cross_entropy", "optimizer": adamw(3e-3, steps), "metrics": ["accuracy"]} | options
    found = fit(model, train, steps=steps, evaluation=held_out, key=seed, every=steps, **options)
    assert found.finished
    return found.metrics["accuracy"]


def lse_classifier(units: int, seed: int):
    network = hjax.nn.LSENetwork(64, 10, (units,), width=8, eps=1.0, key=jax.random.key(seed))
    return hjax.nn.Classifier.of_scores(network, eps=1.0)


def test_an_lse_network_learns_digits():
    got = accuracy(lse_classifier(24, 0), *digits(shifts=False), steps=300, batch_size=64, eps=geometric(1.0, 0.3, 200))
    assert got >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_an_lse_network_reads_digits(seed):
    annealed = geometric(1.0, 0.3, 1000)
    got = accuracy(lse_classifier(64, seed), *digits(shifts=True), steps=1500, seed=seed, batch_size=128, eps=annealed)
    assert got >= 0.97


@pytest.mark.slow
def test_a_transformer_reads_digits_row_by_row():
    (x, y), (held_x, held_y) = digits(shifts=True)
    body = hjax.nn.Transformer(8, 10, size=64, depth=2, num_heads=4, hidden=128, pooled=True, key=jax.random.key(0))
    model = hjax.nn.Classifier.of_scores(body, eps=1.0)
    rows = (x.reshape(-1, 8, 8), y), (held_x.reshape(-1, 8, 8), held_y)
    optimizer = adamw(2e-3, 1500, decay=0.3)
    assert accuracy(model, *rows, steps=1500, batch_size=64, optimizer=optimizer) >= 0.96


def docstrings(name: str) -> set[str]:
    """The docstrings of a module, and of the functions, classes and methods that it defines."""
    module = importlib.import_module(name)
    found = [module]
    for thing in vars(module).values():
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == name:
            methods = vars(thing).values() if inspect.isclass(thing) else ()
            found += [thing, *(m for m in methods if inspect.isfunction(m))]
    return {inspect.cleandoc(thing.__doc__) for thing in found if thing.__doc__}


def all_docstrings(modules: str) -> set[str]:
    return set().union(*map(docstrings, modules.split()))


def text() -> tuple[str, str]:
    """The Zen of Python and the docstrings of some modules; those of others, held out."""
    with contextlib.redirect_stdout(io.StringIO()):
        this = importlib.import_module("this")
    train = all_docstrings(TRAIN)
    held_out = all_docstrings(HELD_OUT) - train
    zen = codecs.decode(this.s, "rot13")
    return "\n\n".join([zen, *sorted(train)]), "\n\n".join(sorted(held_out))


def windows(ids: np.ndarray, length: int, stride: int):
    """Rows of `length` characters, and of the characters after them."""
    places = np.arange(0, len(ids) - length, stride)[:, None] + np.arange(length + 1)
    return jnp.asarray(ids[places[:, :-1]]), jnp.asarray(ids[places[:, 1:]])


def next_character(model, x, y):
    scores = jax.vmap(model)(x)
    return cross_entropy(scores.reshape(-1, scores.shape[-1]), y.ravel())


@pytest.mark.slow
def test_a_causal_transformer_predicts_characters_better_than_their_pairs():
    train, held_out = text()
    numbers = {c: i for i, c in enumerate(sorted(set(train)), start=1)}  # 0 is any other character
    train, held_out = (np.array([numbers.get(c, 0) for c in s], np.int32) for s in (train, held_out))
    size, length = len(numbers) + 1, 64
    x, y = windows(held_out, length, length)

    pairs = np.ones((size, size))  # add one
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    bigram = -np.mean(np.log(pairs / pairs.sum(axis=1, keepdims=True))[x, y])

    model = hjax.nn.Transformer(
        size, size, size=64, depth=2, num_heads=4, hidden=128, token_ids=True, causal=True, key=jax.random.key(0)
    )
    steps = 500
    found = fit(
        model,
        windows(train, length, length // 4),
        steps=steps,
        loss=next_character,
        optimizer=adamw(4e-3, steps),
        batch_size=32,
        evaluation=(x, y),
        every=steps,
    )
    assert found.metrics["loss"] < bigram - 0.2
