"""Killed, cut short, damaged: what is on disk is whole, and a resumed run is the run."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hjax

from .interrupted import run

REPOSITORY = Path(__file__).parents[2]


def child(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"tests.training.{module}", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def same(one: hjax.training.Fit, other: hjax.training.Fit) -> None:
    np.testing.assert_array_equal(one.losses, other.losses)
    for a, b in zip(jax.tree.leaves(one.model), jax.tree.leaves(other.model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole() -> hjax.training.Fit:
    return run(None)


def test_killed_while_it_writes_a_run_resumes_to_the_same_bits(tmp_path, whole):
    file = tmp_path / "run"
    killed = child("interrupted", str(file))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    said = []
    resumed = run(file, resume=True, progress=lambda done, words: said.append(done), log=tmp_path / "log")
    assert len(said) == 3  # of five pieces two were on disk
    same(resumed, whole)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["step"] for line in lines] == [15, 30, 45, 60, 70]
    same(run(file, resume=True), whole)  # of a finished run: nothing to do


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, whole):
    file = tmp_path / "run"
    run(file)
    content = file.read_bytes()
    for damaged in (content[:-100], content[:200], content[:60] + b"x" + content[61:], b""):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"(truncated or damaged|not a file of hjax).*Resuming from run.previous"):
            again = run(file, resume=True)
        same(again, whole)
        assert file.read_bytes() != damaged
    file.write_bytes(content[:-1])
    (tmp_path / "run.previous").write_bytes(b"mine")
    with pytest.raises(ValueError, match="truncated or damaged.*no older checkpoint") as caught:
        run(file, resume=True)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content[:-1]


OTHERS = {
    "another rate": ({"optimizer": optax.adam(0.01)}, "optimizer"),
    "another loss": ({"loss": "absolute"}, "loss"),
    "another batch size": ({"batch_size": 12}, "batch size differs .was 24, is 12"),
    "another key": ({"key": 3}, "the key differs"),
    "another schedule": ({"eps": hjax.training.cosine(0.5, 0.1, 60)}, "schedule of eps differs"),
    "fewer steps": ({"steps": 20}, "already at step 70, past steps=20"),
}


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "run"
    run(file)
    content = file.read_bytes()
    for given, message in OTHERS.values():
        with pytest.raises(ValueError, match=message) as caught:
            run(file, resume=True, **given)
        assert "\n" not in str(caught.value)
        assert file.read_bytes() == content
    hjax.save(tmp_path / "model", jnp.zeros(2))
    with pytest.raises(ValueError, match="holds a model.*hjax.load"):
        run(tmp_path / "model", resume=True)


def test_more_steps_continue_a_finished_run(tmp_path, whole):
    file = tmp_path / "run"
    run(file, steps=40)
    same(run(file, resume=True), whole)


def test_an_ensemble_resumes_to_the_same_bits(tmp_path):
    x = np.linspace(-2, 2, 64)[:, None].astype(np.float32)

    def make(key, eps):
        return hjax.nn.LSELayer(1, "scalar", 8, eps=eps, key=key)

    def train(**options):
        given = {"keys": 2, "eps": [0.3, 0.1], "steps": 40, "batch_size": 16, "every": 10} | options
        return hjax.training.fit_many(make, (x, np.abs(x[:, 0])), **given)

    def stop(done, words):
        if done >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=tmp_path / "run", progress=stop)
    with warnings.catch_warnings():
        resumed, whole = train(checkpoint=tmp_path / "run", resume=True), train()
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.model.weight, whole.model.weight)


@pytest.mark.slow
def test_eight_devices_agree_with_one():
    done = child("eight_devices", XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert max(errors[k] for k in ("batches", "ensemble")) < 1e-4
    assert errors["batches: devices"] == 8
    for case in ("seed", "seed, five", "eps, three"):
        assert errors[f"members: {case}"] < 1e-5
        assert errors[f"members: {case}: devices of the result"] == 1
    assert errors["members: resumed"] == 0
    assert "batch_size=12 cannot be split over 8 devices" in errors["message"]
