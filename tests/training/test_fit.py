"""The loop against steps written out by hand, and what it says to bad input."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import hjax
from hjax.training import fit, fit_many

X = np.linspace(-2, 2, 40)[:, None].astype(np.float32)
Y = np.abs(X[:, 0])


def layer(eps=0.2, width=6, out="scalar", seed=0):
    return hjax.nn.LSELayer(1, out, width, eps=eps, key=jax.random.key(seed))


def make(key, eps=0.2):
    return hjax.nn.LSELayer(1, "scalar", 6, eps=eps, key=key)


def numpy_run(weight, bias, eps, steps, rate):
    """Adam on the mean squared error, in float64, with the derivatives written by hand."""
    p = [np.asarray(weight, float), np.asarray(bias, float)]
    m, v, losses = [0 * a for a in p], [0 * a for a in p], []
    x = X.astype(float)
    for k in range(steps):
        e = eps if np.isscalar(eps) else eps[k]
        a = (x @ p[0].T + p[1]) / e
        top = a.max(1, keepdims=True)
        z = np.exp(a - top)
        f = e * (top[:, 0] + np.log(z.sum(1)))
        r = f - Y
        losses.append(np.mean(r**2))
        q = (2 / len(x)) * r[:, None] * z / z.sum(1, keepdims=True)
        for i, g in enumerate((q.T @ x, q.sum(0))):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g * g
            p[i] = p[i] - rate * (m[i] / (1 - 0.9 ** (k + 1))) / (np.sqrt(v[i] / (1 - 0.999 ** (k + 1))) + 1e-8)
    return p, np.array(losses)


def test_a_run_is_adam_written_out_by_hand():
    start = layer()
    got = fit(start, (X, Y), steps=25, optimizer=optax.adam(0.01), every=10)
    (weight, bias), losses = numpy_run(start.weight, start.bias, 0.2, 25, 0.01)
    np.testing.assert_allclose(got.model.weight, weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.model.bias, bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.losses, losses, rtol=1e-4)
    assert got.model.eps == start.eps
    assert got.steps == 25
    assert [r["step"] for r in got.history] == [10, 20, 25]


def test_annealing_sets_the_temperature_of_every_step():
    start, schedule = layer(), hjax.training.geometric(1.0, 0.1, 20)
    got = fit(start, (X, Y), steps=25, optimizer=optax.adam(0.01), eps=schedule, every=10)
    temperatures = [0.1 ** (min(k, 20) / 20) for k in range(25)]
    (weight, _), losses = numpy_run(start.weight, start.bias, temperatures, 25, 0.01)
    np.testing.assert_allclose(got.losses, losses, rtol=1e-4)
    np.testing.assert_allclose(got.model.weight, weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(float(got.model.eps), 0.1, rtol=1e-6)


def test_an_ensemble_is_its_members_one_by_one():
    keys, eps = jax.random.split(jax.random.key(3), 2), [0.5, hjax.training.cosine(0.4, 0.1, 20)]
    fits = fit_many(make, (X, Y), keys=keys, eps=eps, steps=30, batch_size=16, every=12, metrics=["sup"])
    assert fits.shape == (2, 2)
    assert fits.finished.all()
    for s in range(2):
        for j, e in enumerate(eps):
            alone = fit(
                make(keys[s], e(0) if callable(e) else e),
                (X, Y),
                steps=30,
                batch_size=16,
                every=12,
                key=keys[0],
                eps=e if callable(e) else None,
            )
            np.testing.assert_allclose(fits[s, j].losses, alone.losses, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(fits[s, j].model.weight, alone.model.weight, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(fits[s, j].model.eps, alone.model.eps, rtol=1e-6)
            assert fits[s, j].model.in_size == 1
    best = fits.best("sup")
    assert isinstance(best, list)
    assert best[0].metrics["sup"] == fits.metrics["sup"][:, 0].min()


@pytest.mark.parametrize("mesh", [None, Mesh(jax.devices()[:1], ("seed",))])
def test_members_may_have_targets_and_batches_of_their_own(mesh):
    targets = np.stack([Y, 2 * Y])
    seen = {"steps": 20, "batch_size": 16, "every": 20}
    keys = jax.random.split(jax.random.key(0), 2)
    fits = fit_many(
        make, (X, targets), keys=keys, eps=[0.3, 0.2], data_axes=(None, "eps"), shared_batches=False, mesh=mesh, **seen
    )
    for s in range(2):
        for j, e in enumerate([0.3, 0.2]):
            alone = fit(make(keys[s], e), (X, targets[j]), key=keys[s], **seen)
            np.testing.assert_allclose(fits.losses[s, j], alone.losses, rtol=1e-3, atol=1e-5)


def test_every_sample_is_seen_once_an_epoch():
    data = (jnp.arange(10.0)[:, None], jnp.zeros(10))
    one = eqx.nn.Linear(1, "scalar", key=jax.random.key(0))

    def loss(model, x, y):
        return jnp.sum(10.0 ** -jnp.floor(x[:, 0]) * 0 + x[:, 0]) + 0 * model.weight.sum() + 0 * y.sum()

    got = fit(one, data, loss=loss, steps=10, batch_size=5, optimizer=optax.sgd(0.0))
    np.testing.assert_allclose(got.losses.reshape(5, 2).sum(1), 45.0)
    assert len(set(got.losses.tolist())) > 2


def test_what_is_trained():
    start = layer()
    held = fit(
        start, (X, Y), steps=5, trainable=eqx.tree_at(lambda m: m.bias, jax.tree.map(lambda _: False, start), True)
    )
    np.testing.assert_array_equal(held.model.weight, start.weight)
    assert not np.array_equal(held.model.bias, start.bias)
    warm = fit(start, (X, Y), steps=50, train_eps=True)
    assert 0 < warm.model.eps != start.eps
    u = hjax.HopfCole(hjax.InitialData(jnp.linspace(-2, 2, 5)[:, None], jnp.zeros(5)), eps=0.1)
    fitted = fit(u, (X, Y), steps=60, optimizer=optax.adam(0.05), predict=lambda u, x: u(x, 1.0))
    assert isinstance(fitted.model, hjax.HopfCole)
    assert fitted.metrics["loss"] < 0.2 * fitted.losses[0]
    assert fitted.model.eps == u.eps


def test_classes_are_fitted_by_cross_entropy():
    z = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32) * 30
    labels = np.array([0, 1, 2, 2, 1, 0, 0])
    want = np.mean(np.log(np.exp(z.astype(float)).sum(1)) - z[np.arange(7), labels])
    np.testing.assert_allclose(hjax.training.cross_entropy(z, labels), want, rtol=1e-6)
    labels = (X[:, 0] > 0.5).astype(np.int32)
    got = fit(layer(out=2), (X, labels), loss="cross_entropy", steps=200, metrics=["accuracy"])
    assert got.metrics["accuracy"] > 0.95


def test_a_loss_that_is_not_finite_stops_at_the_last_good_step(tmp_path):
    def loss(model, x, y):
        value = jnp.mean((jax.vmap(model)(x) - y) ** 2)
        return jnp.where((value < 0.02) & (model.eps < 0.3), jnp.nan, value)

    file = tmp_path / "run"
    with pytest.raises(hjax.training.Diverged, match=r"not finite after step \d+.*lower the learning rate") as caught:
        fit(layer(), (X, Y), loss=loss, steps=400, every=100, checkpoint=file)
    stopped = caught.value.result
    good = stopped.steps
    assert 0 < good < 400
    assert np.isfinite(stopped.losses).all()
    assert len(stopped.losses) == good
    same = fit(layer(), (X, Y), steps=good, every=100)
    np.testing.assert_array_equal(stopped.model.weight, same.model.weight)
    again = fit(layer(), (X, Y), loss=loss, steps=400, every=100, checkpoint=file, resume=True, throw=False)
    np.testing.assert_array_equal(again.model.weight, same.model.weight)
    assert not again.finished
    for mesh in (None, Mesh(jax.devices()[:1], ("eps",))):
        fits = fit_many(make, (X, Y), keys=2, eps=[0.5, 0.05], loss=loss, steps=400, every=100, mesh=mesh)
        assert fits.finished[:, 0].all()
        assert not fits.finished[:, 1].any()
        assert np.isfinite(np.asarray(fits.model.weight)).all()
        assert np.isfinite(fits[0, 1].losses).all()
    with pytest.raises(hjax.training.Diverged, match="after step 0"):
        fit(layer(), (X, Y), loss=lambda m, x, y: jnp.nan * m.weight.sum(), steps=3)


def test_the_log_is_lines_of_json_and_the_progress_a_function(tmp_path, capsys):
    said = []
    fit(
        layer(), (X, Y), steps=30, every=10, metrics=["rmse"], log=tmp_path / "log",
        progress=lambda done, words: said.append((done, words)),
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert {"loss", "metrics", "seconds"} <= set(lines[0])
    assert [done for done, _ in said] == [1 / 3, 2 / 3, 1.0]
    fit(layer(), (X, Y), steps=3, progress=True)
    fit(layer(), (X, Y), steps=3)
    assert capsys.readouterr().out == ""


MISTAKES = {
    "targets of another length": ({"data": (X, Y[:7])}, "data\\[1\\] has 7 samples, but data\\[0\\] has 40"),
    "targets of another shape": (
        {"data": (X, Y[:, None])},
        "predictions have shape \\(40,\\), the targets \\(40, 1\\)",
    ),
    "integer samples": ({"data": (X.astype(int), Y)}, "dtype int32"),
    "NaN": ({"data": (X, np.where(Y > 1, np.nan, Y))}, "data\\[1\\] contains NaN"),
    "one array": ({"data": X}, "pass a tuple of arrays"),
    "words": ({"data": (X, ["a"] * 40)}, "data\\[1\\] is list"),
    "an unknown loss": ({"loss": "mse"}, "'mse' is not one of"),
    "a loss per sample": ({"loss": lambda m, x, y: jax.vmap(m)(x) - y}, "returned shape \\(40,\\)"),
    "a loss of two": ({"loss": lambda m, x, y: (1.0, 2.0)}, "returned tuple"),
    "no steps": ({"steps": 0}, "steps is 0"),
    "a large batch": ({"batch_size": 41}, "there are 40 samples"),
    "a rate for an optimizer": ({"optimizer": 0.1}, "optimizer is float"),
    "an unknown metric": ({"metrics": ["r2"]}, "dict of functions"),
    "nothing to train": ({"trainable": lambda leaf: False}, "nothing in LSELayer is trainable"),
    "a negative temperature": ({"eps": -1.0}, "eps must be positive"),
    "a schedule that reaches zero": ({"eps": lambda k: 1.0 - k / 5}, "the schedule gives eps = "),
    "no temperature": ({"model": eqx.nn.Linear(1, 1, key=jax.random.key(0)), "eps": 0.1}, "has no field eps"),
    "resuming from nowhere": ({"resume": True}, "pass checkpoint="),
    "a solution without a time": (
        {"model": hjax.HopfCole(hjax.InitialData(jnp.zeros((2, 1)), jnp.zeros(2)), 0.1)},
        "predict=lambda u, x: u\\(x, 1.0\\)",
    ),
    "devices for a mesh": ({"mesh": jax.devices()}, "mesh is list"),
    "a folder that is not there": ({"checkpoint": "/nowhere/at/all"}, "its folder does not exist"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_by_one_sentence(mistake):
    given, message = MISTAKES[mistake]
    arguments = {"model": layer(), "data": (X, Y), "steps": 10} | given
    with pytest.raises((ValueError, OSError), match=message) as caught:
        fit(arguments.pop("model"), arguments.pop("data"), **arguments)
    assert "\n" not in str(caught.value)


MANY_MISTAKES = {
    "no seeds": ({"keys": 0}, "number of seeds"),
    "no temperatures": ({"eps": []}, "eps is empty"),
    "an unknown axis": ({"data_axes": ("rows", None)}, "pass None, 'seed', 'eps' or 'both'"),
    "devices for what is not there": ({"eps": None, "mesh": Mesh(jax.devices()[:1], ("eps",))}, "seeds only"),
    "an axis that is not there": ({"data_axes": (None, "eps")}, r"data\[1\] has shape \(40,\)"),
}


@pytest.mark.parametrize("mistake", MANY_MISTAKES)
def test_a_mistake_with_an_ensemble_is_answered_by_one_sentence(mistake):
    given, message = MANY_MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        fit_many(make, (X, Y), **({"keys": 2, "eps": [0.1], "steps": 3} | given))
