"""Data-parallel training on eight virtual devices, against one: a program of its own that prints its largest errors."""

import functools
import json
import tempfile

import jax
import numpy as np
from jax.sharding import Mesh

import hjax


def main() -> None:
    """Print one line of JSON: name -> largest difference of the losses and parameters, relative."""
    assert jax.device_count() == 8
    mesh = Mesh(np.array(jax.devices()), ("data",))
    x = np.random.default_rng(0).uniform(-2, 2, (64, 2)).astype(np.float32)
    data = (x, np.abs(x).sum(1))

    def make(key, eps):
        return hjax.nn.LSELayer(2, "scalar", 8, eps=eps, key=key)

    errors = {}
    for name, options in {"batches": {"batch_size": 16}}.items():
        layer = make(jax.random.key(0), 0.2)
        one, eight = (hjax.training.fit(layer, data, steps=20, mesh=m, **options) for m in (None, mesh))
        errors[name] = worst((one.losses, one.model.weight), (eight.losses, eight.model.weight))
        errors[f"{name}: devices"] = len(eight.model.weight.sharding.device_set)
    errors |= members(data, make)
    many = [hjax.training.fit_many(make, data, keys=2, eps=[0.2, 0.4], steps=20, mesh=m) for m in (None, mesh)]
    errors["ensemble"] = worst(*((f.losses, f.model.weight) for f in many))
    try:
        hjax.training.fit(layer, data, steps=1, batch_size=12, mesh=mesh)
    except ValueError as error:
        errors["message"] = str(error)
    print(json.dumps(errors))


def members(data, make) -> dict[str, float]:
    """Members instead of batches on the devices: eight seeds, and five and three that the devices do not divide."""
    x, y = data
    many = functools.partial(hjax.training.fit_many, make, steps=20, every=7)
    schedules = [hjax.training.geometric(e, e / 2, 20) for e in (0.2, 0.4, 0.8)]
    cases = {
        "seed": dict(data=data, keys=8, eps=[0.2, 0.4], batch_size=16, shared_batches=False),
        "seed, five": dict(data=(x, np.stack([y, 2 * y])), data_axes=(None, "eps"), keys=5, eps=[0.2, 0.4]),
        "eps, three": dict(data=data, keys=2, eps=schedules, metrics=["sup"]),
    }
    errors = {}
    for name, options in cases.items():
        mesh = Mesh(np.array(jax.devices()), (name.split(",")[0],))
        one, eight = many(**options), many(**options, mesh=mesh)
        found = [(f.losses, f.model.weight, f.model.eps, *f.metrics.values()) for f in (one, eight)]
        errors[f"members: {name}"] = worst(*found)
        errors[f"members: {name}: devices of the result"] = len(eight.model.weight.sharding.device_set)
    with tempfile.TemporaryDirectory() as folder:
        kept = functools.partial(many, **options, mesh=mesh, checkpoint=f"{folder}/run")
        kept(steps=11)
        resumed = kept(resume=True)
    errors["members: resumed"] = float(np.abs(resumed.losses - eight.losses).max())
    return errors


def worst(one, other) -> float:
    """The largest difference, relative to the largest entry."""
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(one, other, strict=True)]
    return float(max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs))


if __name__ == "__main__":
    main()
