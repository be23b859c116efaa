"""Every model goes into a file and comes back bit for bit; every other file is answered by one sentence."""

import hashlib
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax
from hjax import _container

from .conftest import enable_x64


def _data(dtype=jnp.float32, weights=True):
    rng = np.random.default_rng(0)
    y, g, w = (jnp.asarray(rng.normal(size=s), dtype) for s in ((5, 2), (5,), (5,)))
    return hjax.InitialData(y, g.at[2].set(jnp.inf), w if weights else None)


def _layer(out_size="scalar"):
    return hjax.nn.LSELayer(3, out_size, 4, eps=0.3, key=jax.random.key(1))


MODELS = {
    "layer": lambda: _layer(),
    "layer of several outputs": lambda: _layer(2),
    "half-precision layer": lambda: jax.tree.map(lambda a: a.astype(jnp.bfloat16), _layer()),
    "initial data": lambda: _data(),
    "initial data without weights": lambda: _data(weights=False),
    "Hopf-Cole": lambda: hjax.HopfCole(_data(), 0.1, hjax.Quadratic(jnp.array([1.0, 2.0])), normalize=True),
    "Hopf-Lax": lambda: hjax.HopfLax(_data()),
    "Hamiltonians": lambda: [hjax.Quadratic(), hjax.Power(3.0), hjax.Eikonal(2.0), hjax.Relativistic(1.0)],
    "costs": lambda: (hjax.Bilinear(), hjax.SquaredEuclidean(0.5), hjax.LagrangianCost(hjax.Power(4.0), 1.0)),
    "ensemble": lambda: eqx.filter_vmap(lambda k: hjax.nn.LSELayer(1, "scalar", 3, eps=0.1, key=k))(
        jax.random.split(jax.random.key(0), 4)
    ),
    "a network of equinox": lambda: eqx.nn.Sequential(
        [eqx.nn.Linear(3, 3, key=jax.random.key(0)), eqx.nn.Lambda(jax.nn.softplus), _layer()]
    ),
    "max-plus layer": lambda: hjax.nn.MaxPlusLayer(2, 3, 4, key=jax.random.key(0)),
    "deep network": lambda: hjax.nn.LSENetwork(2, "scalar", [3, 3], 4, eps=[0.1, 0.2], key=jax.random.key(0)),
    "convolution": lambda: hjax.nn.ConvLSE(2, 1, 2, 3, 4, eps=0.1, key=jax.random.key(0)),
    "transformer": lambda: hjax.nn.Transformer(3, 2, size=8, depth=1, num_heads=2, key=jax.random.key(0)),
    "classifier": lambda: hjax.nn.Classifier(_layer(2), 2, 3, eps=1.0, key=jax.random.key(0)),
    "attention and patterns": lambda: (
        hjax.nn.L2Attention(eps=0.5),
        hjax.nn.KVCache(2, 8, 4, 4),
        hjax.nn.HopfieldLayer(3, 5, eps=0.1, key=jax.random.key(0)),
    ),
    "containers": lambda: {
        "keys": (jax.random.key(7), jax.random.split(jax.random.key(1, impl="rbg"), 3)),
        "numbers": [1, -(10**30), 0.1, float("inf"), 1 + 2j, True, None, "ε", np.float64(0.1)],
        "arrays": (np.arange(4, dtype=np.int8), jnp.zeros((0, 2)), jnp.asarray(1.5), jnp.asarray([1, 2], jnp.uint32)),
        "empty": ((), [], {}),
        "function": jax.nn.relu,
        "dtype": jnp.dtype(jnp.bfloat16),
    },
}


def same(one, other):
    assert type(one) is type(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(a) is type(b)
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(a) == jax.random.key_impl(b)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if isinstance(a, jax.Array | np.ndarray | np.generic):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert getattr(a, "weak_type", False) == getattr(b, "weak_type", False)
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        else:
            assert a == b


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_bit_for_bit(name, tmp_path):
    model = MODELS[name]()
    hjax.save(tmp_path / "model", model)
    same(hjax.load(tmp_path / "model"), model)
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_loaded_model_computes_the_same(tmp_path):
    u = MODELS["Hopf-Cole"]()
    hjax.save(tmp_path / "u", u)
    x = jnp.ones((3, 2))
    np.testing.assert_array_equal(hjax.load(tmp_path / "u")(x, 0.5), u(x, 0.5))


def test_double_precision_is_kept_or_refused(tmp_path):
    with enable_x64(True):
        data = _data(jnp.float64)
        hjax.save(tmp_path / "data", data)
        same(hjax.load(tmp_path / "data"), data)
    with pytest.raises(ValueError, match=r"float64 arrays.*jax.config.update\('jax_enable_x64', True\)"):
        hjax.load(tmp_path / "data")


class Mine(eqx.Module):
    weight: jax.Array


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    file = tmp_path / "model"
    hjax.save(file, _layer())
    before = file.read_bytes()
    for part, message in (
        (Mine(jnp.zeros(2)), r"the model\[0\] is a Mine, which is no class of hjax"),
        (lambda x: x, r"the model\[0\] is <lambda>"),
        (object(), r"the model\[0\] is object"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            hjax.save(file, (part,))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="dtype"):
        hjax.save(file, np.array(["a"]))
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda a: hjax.save(file, a))(jnp.ones(2))
    with pytest.raises(OSError, match="cannot be written: no such file or directory"):
        hjax.save(tmp_path / "nowhere" / "model", _layer())
    assert file.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def written(path, change) -> None:
    """The file of a layer with another header, and a checksum that fits."""
    hjax.save(path, _layer())
    content = path.read_bytes()
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[16 : 16 + length])
    change(header)
    text = json.dumps(header).encode()
    body = content[:8] + len(text).to_bytes(8, "little") + text + content[16 + length : -32]
    path.write_bytes(body + hashlib.sha256(body).digest())


CRAFTED = {
    "a newer version": (lambda h: h.update(version=2, arrays="elsewhere"), "format version 2.*upgrade hjax"),
    "another kind": (lambda h: h.update(kind="checkpoint"), r"holds a checkpoint, but a model is wanted.*resume=True"),
    "a class of others": (lambda h: h["tree"].update(module="os.system"), "class os.system, which is none of"),
    "a function for a class": (lambda h: h["tree"].update(module="hjax.softmin"), "class hjax.softmin, which is none"),
    "a class that is gone": (lambda h: h["tree"].update(module="hjax.nn.Old"), "class hjax.nn.Old.*upgrade hjax"),
    "another field": (lambda h: h["tree"]["fields"].update(gain=None), "other fields.*gain.*save it anew"),
    "a field less": (lambda h: h["tree"]["fields"].pop("bias"), "other fields.*bias"),
    "another function": (lambda h: h.update(tree={"function": "os.remove"}), "function os.remove"),
    "nonsense": (lambda h: h.update(tree={"array": "x"}), "description of the model"),
    "an array too many": (lambda h: h["tree"]["fields"].update(bias={"array": 9, "weak": False}), "description"),
    "a larger array": (lambda h: h["arrays"][0].update(shape=[400, 3]), "truncated or damaged|another length"),
    "a pickle for an array": (lambda h: h["arrays"][0].update(dtype="object"), "unknown dtype 'object'"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_answered_by_one_sentence(name, tmp_path):
    change, message = CRAFTED[name]
    written(tmp_path / "file", change)
    with pytest.raises(ValueError, match=message) as caught:
        hjax.load(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_answered_by_one_sentence(tmp_path):
    file = tmp_path / "file"
    hjax.save(file, _layer())
    content = file.read_bytes()
    cut = [content[:n] for n in (4, 12, 100, len(content) - 1)]
    flipped = [content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in (20, len(content) - 40)]
    longer = [content + b"\0"]
    foreign = [b"", b"PK\3\4 a zip archive", b"\x80\x04 a pickle", b'{"hjax": 1}']
    for damaged in cut + flipped + longer + foreign:
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"truncated or damaged|not a file of hjax") as caught:
            hjax.load(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="cannot be read: no such file"):
        hjax.load(tmp_path / "none")
    with pytest.raises(OSError, match="cannot be read"):
        hjax.load(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    hjax.save(file, _layer())
    before = file.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_container.os, "fsync", full)
    with pytest.raises(OSError, match="file cannot be written: no space left on device"):
        hjax.save(file, _layer(2))
    assert file.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
