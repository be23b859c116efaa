"""`hjax.shard` on eight virtual devices and in two processes, each in programs of their own; its errors here.

How many devices there are is settled before jax starts, and two processes are two programs.
"""

import inspect
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hjax
from hjax.reductions import gibbs_entropy, gibbs_weights

ROOT = Path(__file__).parents[2]
MESH = jax.sharding.Mesh(jax.devices()[:1], ("cloud",))
X, Y, G = np.zeros((3, 2), np.float32), np.ones((4, 2), np.float32), np.zeros(4, np.float32)


def environment(devices: int) -> dict[str, str]:
    # A proxy would be asked for the way from one process to the other.
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of the machine code: most of the time is compiling
        "PYTHONPATH": str(ROOT),
    }


def test_every_check_passes_on_eight_devices():
    program = [sys.executable, "-W", "error", "-m", "tests.reductions.eight_devices"]
    ran = subprocess.run(
        program, cwd=ROOT, env=environment(8), capture_output=True, text=True, timeout=600, check=False
    )
    results = {r["name"]: r["error"] for r in map(json.loads, ran.stdout.splitlines())}
    failures = [f"{name}\n{error}" for name, error in results.items() if error]
    assert not failures, "\n\n".join(failures)
    source = (ROOT / "tests/reductions/eight_devices.py").read_text()
    assert set(results) == set(re.findall(r"^def check_(\w+)", source, re.MULTILINE)), ran.stderr[-3000:]
    assert ran.returncode == 0, ran.stderr[-3000:]


# After the README's example: what each process ends up with.
REPORT = """
from jax.experimental.multihost_utils import process_allgather
dy, dg = (process_allgather(a, tiled=True) for a in (dy, dg))
np.savez(f"{process}.npz", value=value, dx=dx, dy=dy, dg=dg, devices=jax.device_count())
"""


def two_processes(script: Path) -> tuple[list[int | None], str]:
    """Exit codes and output of the script as process 0 and 1 of 2; nothing of them outlives this call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    # Into files: a full pipe would stop one process, and the other waits for it.
    logs = [script.with_name(f"{process}.log") for process in range(2)]
    children, end = [], time.monotonic() + 240
    try:
        for process, log in enumerate(logs):
            command = [sys.executable, "-W", "error", str(script), address, str(process)]
            with log.open("w") as out:
                children.append(
                    subprocess.Popen(command, cwd=script.parent, env=environment(2), stdout=out, stderr=out)
                )
        # Either without the other would wait for a long time.
        while time.monotonic() < end and not any(c.poll() for c in children) and None in [c.poll() for c in children]:
            time.sleep(0.05)
    finally:
        for child in children:
            child.kill()
            child.wait()
    return [child.returncode for child in children], "\n\n".join(log.read_text()[-3000:] for log in logs)


def test_two_processes_run_the_example_of_the_readme(tmp_path):
    (example,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "jax.distributed.initialize" in code
    )
    script = tmp_path / "two.py"
    script.write_text(example + REPORT)
    for _ in range(3):
        codes, output = two_processes(script)
        # Between asking for a free port and using it another program may have taken it.
        if "in use" not in output:
            break
    assert codes == [0, 0], output

    x = np.ones((5, 3))
    y = np.concatenate([np.random.default_rng(k).normal(size=(1000, 3)).astype(np.float32) for k in range(2)])
    difference, eps = x[:, None] - y.astype(float), 0.1
    total = (difference**2).sum(-1) + np.abs(y).sum(1)
    least = total.min(axis=1, keepdims=True)
    weights = np.exp(-(total - least) / eps)
    value = (least[:, 0] - eps * np.log(weights.sum(1))).sum()
    weights /= weights.sum(1, keepdims=True)
    arrows = 2 * weights[..., None] * difference
    for process in range(2):
        with np.load(tmp_path / f"{process}.npz") as saved:
            got = dict(saved)
        assert got["devices"] == 4
        np.testing.assert_allclose(got["value"], value, rtol=1e-5)
        for name, want in {"dx": arrows.sum(1), "dy": -arrows.sum(0), "dg": weights.sum(0)}.items():
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5, err_msg=name)


MISTAKES = {
    "an unknown axis": ({"atoms": "rows"}, ["'rows' is not an axis", "('cloud',)"]),
    "a number for an axis": ({"queries": 0}, ["0 is not an axis", "('cloud',)"]),
    "an axis for atoms and queries": ({"atoms": "cloud", "queries": "cloud"}, ["'cloud' is used more than once"]),
    "an axis twice": ({"atoms": ("cloud", "cloud")}, ["'cloud' is used more than once", "None"]),
    "no axis": ({}, ["neither atoms nor queries", "('cloud',)"]),
    "no mesh": ({"mesh": None, "atoms": "cloud"}, ["mesh is NoneType", "jax.sharding.Mesh(jax.devices()"]),
    "devices for a mesh": ({"mesh": jax.devices(), "atoms": "cloud"}, ["mesh is list", "jax.sharding.Mesh(jax.dev"]),
    "another reduction": ({"reduction": gibbs_weights, "atoms": "cloud"}, ["gibbs_weights", "pass hjax.softmin"]),
    "no function": ({"reduction": "softmin", "atoms": "cloud"}, ["reduction is str", "pass hjax.softmin"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_split_is_answered_by_one_sentence(mistake):
    given, words = MISTAKES[mistake]
    with pytest.raises(ValueError, match=".") as caught:
        hjax.shard(**{"reduction": hjax.softmin, "mesh": MESH} | given)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


CALLS = {
    "causal": ({"causal": True}, "causal=True cannot be split"),
    "a negative temperature": ({"eps": -1.0}, "eps must be positive"),
    "queries of another dimension": ({"x": X[:, :1]}, r"x has shape \(3, 1\)"),
    "an unknown implementation": ({"implementation": "fast"}, "implementation 'fast' is not one of"),
}


@pytest.mark.parametrize("mistake", CALLS)
def test_a_wrong_call_is_answered_as_without_a_mesh(mistake):
    given, message = CALLS[mistake]
    sharded = hjax.shard(hjax.softmin, mesh=MESH, atoms="cloud")
    with pytest.raises(ValueError, match=message):
        sharded(**{"x": X, "y": Y, "g": G, "eps": 1.0} | given)


def test_a_sharded_reduction_is_called_like_the_reduction():
    for reduction in (hjax.softmin, hjax.hardmin, gibbs_entropy):
        sharded = hjax.shard(reduction, mesh=MESH, queries="cloud")
        assert inspect.signature(sharded) == inspect.signature(reduction)
    assert hjax.shard(hjax.softmin, mesh=MESH, atoms="cloud")(X, Y, G, eps=jnp.float32(1)).mean is None
