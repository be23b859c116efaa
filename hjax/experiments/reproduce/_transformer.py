"""G: inside a pre-norm transformer block every log-sum-exp unit is a Hopf-Cole solution at its normalised input.

`|x|^2/(4t) - u(x, t)` with the atoms of a unit, in double precision, against the unit's log-sum-exp: for all trials in
numpy's extended precision, for a few in 40 digits. The whole block is compared with numpy's as well.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure

import hjax

from .._figure_style import ACCENT, FAINT, dress
from ..verify._oracles import exact, exact_softmax, mpmath
from ._experiment import Arrays, Criterion, Experiment, Keep, Parameters, Results, below, generated
from ._pictures import THEORY, TINY, Temperatures, legend, logarithmic, titled

_FULL: Parameters = {
    "trials": 500,
    "d": [4, 8, 16, 32, 64],
    "length": 8,
    "rows": 32,
    "eps": [0.05, 0.1, 0.2, 0.5, 1.0],
    "units": 4,
    "in_40_digits": 4,
    "seed": 0,
    "inferred": ["d", "units", "in_40_digits"],
}
_QUICK = _FULL | {"trials": 20, "d": [8], "eps": [0.05, 0.2, 1.0], "units": 2, "in_40_digits": 1}


def _parts(parameters: Parameters) -> dict[str, float]:
    return {f"d={d}": 1.5 + d * parameters["trials"] / 10_000 for d in parameters["d"]}


def _programs(parameters: Parameters, d: int) -> Any:
    """Of one trial at one temperature: inputs of the units, the units read as solutions at time t, the block."""
    units, rows = parameters["units"], parameters["rows"]

    def one(key: Array, tokens: Array, t: Array, eps: Array) -> dict[str, Array]:
        block = hjax.nn.TransformerBlock(d, 1, hidden=units, rows=rows, eps=eps, key=key)
        biases = 0.3 * jax.random.normal(jax.random.fold_in(key, 1), (units, rows))
        block = eqx.tree_at(lambda b: b.units.bias, block, biases)
        attended = tokens + block.attention(jax.vmap(block.attention_norm)(tokens))
        x = jax.vmap(block.units_norm)(attended)
        read = [jnp.sum(x**2, axis=1) / (4 * t) - block.units.unit(i).to_solution(t)(x, t) for i in range(units)]
        heads = block.attention
        linear = heads.query_projection, heads.key_projection, heads.value_projection, heads.output_projection
        return {
            "x": x,
            "read": jnp.stack(read, axis=1),
            "block": block(tokens),
            "weight": block.units.weight,
            "bias": block.units.bias,
            "projections": jnp.stack([p.weight for p in linear]),
            "projection_biases": jnp.stack([jnp.zeros(d) if p.bias is None else p.bias for p in linear]),
            "output": block.output.weight,
            "output_bias": block.output.bias,
        }

    return jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, None, None, 0)), in_axes=(0, 0, 0, None)))


def _compute(parameters: Parameters, part: str, keep: Keep) -> Arrays:
    d, trials = int(part.removeprefix("d=")), parameters["trials"]
    eps = np.array(parameters["eps"])
    random = np.random.default_rng([parameters["seed"], d])
    keys = jax.random.split(jax.random.fold_in(jax.random.key(parameters["seed"]), d), trials)
    tokens = random.normal(size=(trials, parameters["length"], d))
    times = np.exp(random.uniform(np.log(0.1), np.log(10), trials))
    ours = {k: np.asarray(v) for k, v in _programs(parameters, d)(keys, tokens, times, eps).items()}

    wide, worst = np.longdouble, np.empty((trials, len(eps)))
    blocks, digits = np.empty((trials, len(eps))), np.full((trials, len(eps)), np.nan)
    scale = np.empty((trials, len(eps)))
    for trial in range(trials):
        x, weight, bias = (ours[k][trial, 0] for k in ("x", "weight", "bias"))
        logits = np.einsum("sd,und->sun", x.astype(wide), weight.astype(wide)) + bias.astype(wide)
        largest = logits.max(axis=-1, keepdims=True)
        for i, e in enumerate(eps):
            read, e_wide = ours["read"][trial, i], wide(e)
            phi = largest[..., 0] + e_wide * np.log(np.exp((logits - largest) / e_wide).sum(axis=-1))
            worst[trial, i] = np.abs(read - phi).max()
            # The terms that |x|^2/(4t) - u adds up are of this size: a small t makes the first large, a large t the
            # values of the atoms.
            scale[trial, i] = (x**2).sum(axis=1).max() / (4 * times[trial]) + np.abs(phi).max()
            scale[trial, i] += (np.abs(bias) + times[trial] * (weight**2).sum(axis=-1)).max()
            if trial < parameters["in_40_digits"]:
                with mpmath.workdps(40):
                    costs = exact(weight[0]) @ exact(x[0]) + exact(bias[0])
                    digits[trial, i] = abs(float(exact_softmax(costs, float(e)) - mpmath.mpf(float(read[0, 0]))))
        whole = _block({k: v[trial, 0] for k, v in ours.items()}, tokens[trial], eps[:, None, None])
        blocks[trial] = np.abs(ours["block"][trial] - whole).max(axis=(1, 2))
        if trial % 50 == 0:
            keep.progress(trial / trials, "")
    return {"worst": worst, "scale": scale, "digits": digits, "block": blocks}


def _normalised(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)


def _block(arrays: dict[str, np.ndarray], tokens: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """The block in plain numpy, for each temperature: one head at sqrt d, units, two residual sums."""
    linear = list(zip(arrays["projections"], arrays["projection_biases"], strict=True))
    q, k, v = (_normalised(tokens) @ matrix.T + shift for matrix, shift in linear[:3])
    logits = q @ k.T / np.sqrt(tokens.shape[1])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    state = tokens + weights @ v / weights.sum(axis=1, keepdims=True) @ linear[3][0].T + linear[3][1]
    a = np.einsum("sd,und->sun", _normalised(state), arrays["weight"]) + arrays["bias"]
    top = a.max(axis=-1)
    units = top + eps * np.log(np.exp((a - top[..., None]) / eps[..., None]).sum(axis=-1))
    return state + units @ arrays["output"].T + arrays["output_bias"]


def _conclude(parameters: Parameters, found: dict[str, Arrays]) -> Results:
    rows: list[dict[str, Any]] = []
    for part, arrays in found.items():
        for i, eps in enumerate(parameters["eps"]):
            rows.append(
                {
                    "d": int(part.removeprefix("d=")),
                    "eps": eps,
                    "trials": parameters["trials"],
                    "unit_median_error": float(np.median(arrays["worst"][:, i])),
                    "unit_largest_error": float(arrays["worst"][:, i].max()),
                    "unit_largest_error_over_scale": float((arrays["worst"] / arrays["scale"])[:, i].max()),
                    "unit_error_from_40_digits": float(np.nanmax(arrays["digits"][:, i])),
                    "block_largest_error": float(arrays["block"][:, i].max()),
                }
            )
    relative = max(row["unit_largest_error_over_scale"] for row in rows)
    digits = max(row["unit_error_from_40_digits"] for row in rows)
    block = max(row["block_largest_error"] for row in rows)
    criteria: list[Criterion] = [
        below("units: |(|x|^2/4t - u) - LSE| over the size of its terms, largest", relative, 1e-14),
        below("the same without scaling, from 40 digits", digits, 1e-11),
        below("block against numpy, largest", block, 1e-11),
    ]
    words = (
        f"Every unit of the block is a Hopf\u2013Cole solution, to {relative:.0e} of its terms, at every temperature"
    )
    return Results(rows, criteria, words)


def _draw(parameters: Parameters, found: dict[str, Arrays], results: Results) -> Figure:
    colors = Temperatures(parameters["eps"])
    figure = titled(11.5, 4.6, results)
    scaled, cancelled = panels = figure.subplots(1, 2)
    random, unit = np.random.default_rng(0), float(np.finfo(float).eps)
    places = np.arange(len(found))
    count = len(parameters["eps"])
    for place, arrays in zip(places, found.values(), strict=True):
        for i, eps in enumerate(parameters["eps"]):
            at = place + 0.75 * ((i + 0.5) / count - 0.5)
            ratio = np.maximum(arrays["worst"][:, i] / arrays["scale"][:, i], TINY)
            spread = at + 0.55 / count * random.uniform(-0.5, 0.5, ratio.size)
            scaled.plot(spread, ratio, ".", color=colors(eps), ms=3, alpha=0.4, mew=0, rasterized=True)
            scaled.plot([at - 0.3 / count, at + 0.3 / count], 2 * [np.median(ratio)], color=colors(eps), lw=2.2)
            cancelled.plot(
                arrays["scale"][:, i], np.maximum(arrays["worst"][:, i], TINY), ".", color=colors(eps), ms=3.5,
                alpha=0.5, mew=0, rasterized=True,
            )  # fmt: skip
    scaled.axhline(unit, **THEORY, label="one rounding")
    digits = np.array([np.nanmax(a["digits"] / a["scale"]) for a in found.values()])
    scaled.plot(
        places, np.maximum(digits, TINY), "x", color=ACCENT, ms=7, mew=1.5, label="worst from 40 digits", zorder=4
    )
    scaled.plot([], [], ".", color=FAINT, ms=5, label=f"{parameters['trials']} trials from extended precision")
    logarithmic(scaled, "y")
    low, high = scaled.get_ylim()
    scaled.set_ylim(low, high * 8)
    scaled.set_xticks(places, labels=[str(d) for d in parameters["d"]])
    legend(scaled, loc="upper left")
    dress(
        scaled,
        "Unit against $|x|^2/4t - u$, relative to its terms (bars: medians)",
        "dimension $d$",
        "largest error / size of terms",
    )
    sizes = np.concatenate([a["scale"].ravel() for a in found.values()])
    line = np.array([sizes.min(), sizes.max()])
    cancelled.plot(line, unit * line, **THEORY, label="one rounding of the terms")
    logarithmic(cancelled, "x", [5, 10, 20, 50, 100, 200, 500])
    cancelled.set_xlim(line[0] / 1.2, line[1] * 1.2)
    logarithmic(cancelled, "y")
    legend(cancelled, loc="upper left")
    dress(
        cancelled,
        "The gauge $t$ is free, but far from 1 it costs digits",
        "size of the terms",
        "largest error of a unit",
    )
    colors.bar(figure, list(panels))
    return figure


EXPERIMENT = Experiment(
    "G",
    "Transformer block: its units, read as Hopf-Cole solutions at their normalised inputs.",
    _FULL,
    _QUICK,
    _parts,
    _compute,
    _conclude,
    _draw,
    generated,
)
