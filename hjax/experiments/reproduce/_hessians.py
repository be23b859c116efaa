"""E and F: the Hessian of a trained network `f = w_2 LSE(x) + c` on images, against its bounds (Corollary 8.2).

`|Hess f| <= |w_2| D^2/(4 eps)`, D the diameter of the rows, and so `<= |w_2| R^2/eps`, R their largest norm. The rows
are trained, so neither bound is a constant over eps. f tells even from odd labels: +1 and -1, squared error.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist

import hjax

from .._figure_style import FAINT, dress
from ..verify._oracles import gibbs_mean
from . import _images
from ._experiment import Arrays, Criterion, Experiment, Keep, Parameters, Results, above, below
from ._layers import adam, best
from ._pictures import THEORY, Temperatures, legend, logarithmic, titled

_FULL: Parameters = {
    "components": 50,
    "width": 128,
    "eps": [0.1, 0.3, 1.0, 3.0, 10.0],
    "steps": 5000,
    "rate": 0.005,
    "batch": 256,
    "test_points": 300,
    "seeds": 3,
    "target": "+1 for an even label, -1 for an odd one",
    "inferred": ["target", "seeds"],
}
_QUICK = _FULL | {"width": 16, "eps": [0.1, 1.0, 10.0], "steps": 100, "test_points": 40, "seeds": 1}


def _parts(parameters: Parameters) -> dict[str, float]:
    return {"hessians": 2 + 40 * parameters["steps"] / 5000}


def make_network(key: Array, eps: Array, *, d: int, width: int) -> hjax.nn.LSENetwork:
    network = hjax.nn.LSENetwork(d, "scalar", (1,), width, eps=eps, key=key)
    return jax.tree.map(lambda a: a.astype(jnp.float32), network)


def outputs_of(network: hjax.nn.LSENetwork, x: Array) -> Array:
    """All outputs of `w_2 LSE + c` in one reduction."""
    (layer,) = network.layers
    assert isinstance(layer, hjax.nn.LSELayer)
    cost = hjax.Bilinear()
    u = hjax.softmin(x, layer.weight[0], -layer.bias[0], eps=layer.eps, cost=cost, implementation="dense").value
    return -network.output_weight[0] * u + network.output_bias


def _compute(origin: _images.Origin, parameters: Parameters, part: str, keep: Keep) -> Arrays:
    del part
    images = _images.principal_components(_images.load(origin), parameters["components"])
    x, x_test = images.x.astype(np.float32), images.x_test[: parameters["test_points"]]
    y = np.where(images.labels % 2, -1, 1).astype(np.float32)
    y_test = np.where(images.labels_test % 2, -1, 1)[: parameters["test_points"]]
    fits = hjax.training.fit_many(
        functools.partial(make_network, d=x.shape[1], width=parameters["width"]),
        (x, y),
        keys=jax.random.split(jax.random.key(0), parameters["seeds"]),
        eps=parameters["eps"],
        predict=outputs_of,
        optimizer=adam(parameters["rate"]),
        steps=parameters["steps"],
        batch_size=parameters["batch"],
        every=max(1, min(500, parameters["steps"] // 4)),
        checkpoint=keep.checkpoint,
        resume=keep.checkpoint is not None,
        progress=lambda fraction, doing: keep.progress(0.9 * fraction, doing),
    )
    model = jax.tree.map(lambda a: jnp.asarray(a, float), fits.model)

    @jax.jit
    def norms(model: Any, x: Array) -> tuple[Array, Array]:
        """By autodiff of the network: outputs, and the largest |eigenvalue| of its Hessian at each point."""

        def at(network: Any, x: Array) -> tuple[Array, Array]:
            return network(x), jnp.abs(jnp.linalg.eigvalsh(jax.hessian(network)(x))).max()

        each = jax.vmap(at, in_axes=(None, 0))
        for _ in range(2):
            each = jax.vmap(each, in_axes=(0, None))
        return each(model, x)

    outputs, sizes = (np.asarray(a) for a in norms(model, x_test))
    layer = model.raw_layers[0]
    return {
        # As it was trained, in single precision.
        "eps": np.asarray(layer.eps),
        "mse": fits.metrics["loss"],
        "right": (np.sign(outputs) == y_test).mean(axis=-1),
        "norms": sizes,
        "weight": np.asarray(layer.weight)[:, :, 0],
        "bias": np.asarray(layer.bias)[:, :, 0],
        "output": np.asarray(model.raw_output_weight)[..., 0],
        "x": x_test,
    }


def _bounds(run: Arrays, seed: int, i: int) -> tuple[float, float, float]:
    """`|w_2| R^2/eps`, `|w_2| D^2/(4 eps)`, and the worst error of autodiff's norms against `|w_2| Cov_p(W)/eps`."""
    eps, weight, size = float(run["eps"][seed, i]), run["weight"][seed, i], abs(float(run["output"][seed, i]))
    largest, diameter = np.linalg.norm(weight, axis=1).max(), pdist(weight).max()
    x, error = run["x"], 0.0
    for k in range(min(20, len(x))):
        p = gibbs_mean(-(weight @ x[k] + run["bias"][seed, i]), eps, np.eye(len(weight)))
        centred = weight - p @ weight
        exact = size * np.linalg.eigvalsh((centred * p[:, None]).T @ centred / eps)[-1]
        error = max(error, abs(exact - run["norms"][seed, i, k]) / (size * largest**2 / eps))
    return float(size * largest**2 / eps), float(size * diameter**2 / (4 * eps)), error


def _conclude(origin: _images.Origin, parameters: Parameters, found: dict[str, Arrays]) -> Results:
    run, rows = found["hessians"], []
    chosen = best(run["mse"])
    data = origin.title if len(run["x"]) and _images.present(origin) else "scikit-learn digits"
    error = 0.0
    for i, eps in enumerate(parameters["eps"]):
        for seed in range(parameters["seeds"]):
            paper, tight, off = _bounds(run, seed, i)
            error = max(error, off)
            norms = run["norms"][seed, i]
            rows.append(
                {
                    "data": data,
                    "eps": eps,
                    "seed": seed,
                    "training_mse": float(run["mse"][seed, i]),
                    "test_accuracy": float(run["right"][seed, i]),
                    "largest_hessian": float(norms.max()),
                    "median_hessian": float(np.median(norms)),
                    "paper_bound_R2_over_eps": paper,
                    "bound_D2_over_4eps": tight,
                    "w2": float(run["output"][seed, i]),
                    "best": int(seed == chosen[i]),
                }
            )
    worst = max(row["largest_hessian"] / row["bound_D2_over_4eps"] for row in rows)
    scaled = [row["eps"] * row["largest_hessian"] for row in rows if row["best"]]
    criteria: list[Criterion] = [
        below("largest |Hess f| over |w_2| D^2/(4 eps)", worst, 1 + 1e-9),
        below("|autodiff - |w_2| Cov_p(W)/eps| over |w_2| R^2/eps", error, 1e-12),
        above("eps |Hess f|: largest over least (not a constant over eps)", max(scaled) / min(scaled), 1.5),
    ]
    words = (
        rf"On {data} the Hessian stays below $|w_2|D^2/4\varepsilon$, and reaches {100 * worst:.0f} % of it; "
        rf"$\varepsilon\,\|\nabla^2 f\|$ is no constant"
    )
    return Results(rows, criteria, words)


def _draw(origin: _images.Origin, parameters: Parameters, found: dict[str, Arrays], results: Results) -> Figure:
    run, rows = found["hessians"], [row for row in results.rows if row["best"]]
    chosen, eps = best(run["mse"]), np.array(parameters["eps"])
    colors = Temperatures(parameters["eps"])
    remark = ""
    if rows[0]["data"] != origin.title:
        remark = (
            f"Data: the digits of scikit-learn serve here in place of {origin.title}, which is not on this machine."
        )
    figure = titled(12.5, 4.7, results, remark)
    norms, shares = panels = figure.subplots(1, 2, width_ratios=[1.3, 1])
    random = np.random.default_rng(0)
    for i, e in enumerate(parameters["eps"]):
        values = run["norms"][chosen[i], i]
        spread = e * np.exp(0.18 * random.uniform(-1, 1, values.size))
        norms.plot(spread, values, ".", color=colors(e), ms=3.5, alpha=0.5, mew=0, rasterized=True)
        norms.plot([e / 1.25, e * 1.25], 2 * [values.max()], color=colors(e), lw=2)
    norms.plot([], [], ".", color=FAINT, ms=6, label=f"{run['x'].shape[0]} test images; bar: the largest")
    norms.plot(
        eps, [r["paper_bound_R2_over_eps"] for r in rows], color=FAINT, lw=1.2, label=r"$|w_2|R^2/\varepsilon$ (paper)"
    )
    norms.plot(eps, [r["bound_D2_over_4eps"] for r in rows], **THEORY, label=r"$|w_2|D^2/4\varepsilon$ (tight)")
    logarithmic(norms, "y")
    largest = max(r["paper_bound_R2_over_eps"] for r in rows)
    norms.set_ylim(max(norms.get_ylim()[0], 1e-7 * largest), None)
    legend(norms, loc="lower right", bbox_to_anchor=(0.86, 0.0))
    dress(norms, "Hessian of the best seed at test images", r"temperature $\varepsilon$", r"$\|\nabla^2 f\|$")
    for row in results.rows:
        size = 7 if row["best"] else 3.5
        color = colors(row["eps"])
        shares.plot(row["eps"], row["largest_hessian"] / row["bound_D2_over_4eps"], "o", color=color, ms=size, mew=0)
        shares.plot(row["eps"], row["test_accuracy"], "D", color=color, ms=size - 1, mfc="white", mew=1.2)
    shares.axhline(1, **THEORY)
    shares.plot([], [], "o", color=FAINT, ms=6, mew=0, label=r"largest Hessian / $(|w_2|D^2/4\varepsilon)$")
    shares.plot([], [], "D", color=FAINT, ms=5, mfc="white", mew=1.2, label="even or odd: test accuracy")
    shares.set_ylim(0, 1.32)
    legend(shares, loc="upper center", ncols=2)
    dress(shares, "How sharp the bound is, and what the network learned", r"temperature $\varepsilon$", "share")
    for axes in panels:
        logarithmic(axes, "x", eps)
    colors.bar(figure, list(panels))
    return figure


def _experiment(name: str, origin: _images.Origin, components: int) -> Experiment:
    return Experiment(
        name,
        f"Hessian bounds of a network trained on {origin.title}, {components} principal components.",
        _FULL | {"components": components},
        _QUICK | {"components": components},
        _parts,
        functools.partial(_compute, origin),
        functools.partial(_conclude, origin),
        functools.partial(_draw, origin),
        functools.partial(_images.source, origin),
    )


MNIST = _experiment("E", _images.MNIST, 50)
CIFAR = _experiment("F", _images.CIFAR, 64)
