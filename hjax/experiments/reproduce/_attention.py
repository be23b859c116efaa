"""D: attention is a derivative of a Hopf-Cole solution, in its initial data.

With keys as atoms, `softmax(Q K^T/sqrt d) V` is `d/ds eps log sum_j exp((q.k_j + s v_j)/eps)` at s = 0 and
eps = sqrt d. The oracle is that derivative by complex steps in numpy; a softmax would be the same expression again.
Also measured: what the statement says literally, the gradient in *space*. It knows nothing of the values.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure

import hjax

from .._figure_style import ACCENT, dress
from ..verify._oracles import soft_minimum
from ._experiment import Arrays, Criterion, Experiment, Keep, Parameters, Results, above, below, generated
from ._pictures import THEORY, TINY, legend, logarithmic, titled

_FULL: Parameters = {
    "trials": 500,
    "d": [4, 8, 16, 32, 64],
    "queries": 8,
    "keys": 12,
    "values": 16,
    "seed": 0,
    "inferred": [],
}
_QUICK = _FULL | {"trials": 40, "d": [4, 16, 64]}
_STEP = 1e-30
_LAWS = {
    "identity": "output = derivative in the initial data",
    "corrected": "V = K: output = q - 2t grad u",
    "literal": "V = K: output = grad u (as stated)",
    "blind": "generic V: what grad u cannot see",
}


def _parts(parameters: Parameters) -> dict[str, float]:
    return {f"d={d}": 1.0 + parameters["trials"] / 500 for d in parameters["d"]}


def _outputs(d: int) -> Any:
    """Attention by hjax at t = 1/2, where the norms of the keys are the initial values; and its two gradients."""
    attention = hjax.nn.L2Attention(eps=math.sqrt(d), t=0.5)

    def one(q: Array, k: Array, v: Array) -> tuple[Array, ...]:
        output = attention(q, k, v, -jnp.sum(k**2, axis=1) / 2)
        u = attention.to_solution(k)
        by_distance, gradient = attention(q, k, k), u.gradient(q, 0.5)
        return output, by_distance, gradient

    return jax.jit(jax.vmap(one))


def _compute(parameters: Parameters, part: str, keep: Keep) -> Arrays:
    del keep
    d = int(part.removeprefix("d="))
    random = np.random.default_rng([parameters["seed"], d])
    trials, keys = parameters["trials"], parameters["keys"]
    q = random.normal(size=(trials, parameters["queries"], d))
    k = random.normal(size=(trials, keys, d))
    v = random.normal(size=(trials, keys, parameters["values"]))
    outputs = _outputs(d)
    output, by_distance, gradient = (np.asarray(a) for a in outputs(q, k, v))

    eps = math.sqrt(d)
    logits = np.einsum("bqd,bkd->bqk", q, k)
    moved = logits[:, :, None, :] + 1j * _STEP * np.swapaxes(v, 1, 2)[:, None, :, :]
    oracle = np.imag(-soft_minimum(-moved, eps)) / _STEP

    # A change of the values that is orthogonal to the keys and to constants leaves every function of grad u as it is.
    blind = np.full(trials, np.nan)
    if keys > d + 1:
        frame = np.concatenate([k, np.ones((trials, keys, 1))], axis=2)
        change = _rest(frame, v)
        blind = np.abs(np.asarray(outputs(q, k, v + change)[0]) - output).max(axis=(1, 2))

    def worst(difference: np.ndarray) -> np.ndarray:
        return np.abs(difference).max(axis=(1, 2))

    return {
        "identity": worst(output - oracle),
        "corrected": worst(by_distance - (q - gradient)),  # 2t = 1
        "literal": worst(by_distance - gradient),
        "blind": blind,
        "size": worst(v),
    }


def _rest(frame: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What is left of v `(B, k, p)` after projection on the columns of `frame (B, k, m)`."""
    basis = np.linalg.qr(frame)[0]
    return v - basis @ (np.swapaxes(basis, 1, 2) @ v)


def _conclude(parameters: Parameters, found: dict[str, Arrays]) -> Results:
    rows: list[dict[str, Any]] = []
    for part, arrays in found.items():
        for law, words in _LAWS.items():
            errors = arrays[law]
            if not np.isnan(errors).any():
                largest, middle = float(errors.max()), float(np.median(errors))
                row = {"d": int(part.removeprefix("d=")), "law": law, "meaning": words, "trials": errors.size}
                rows.append(
                    row | {"median_error": middle, "largest_error": largest, "least_error": float(errors.min())}
                )

    def over(law: str, pick: Any) -> float:
        kept = [pick(a[law]) for a in found.values() if not np.isnan(a[law]).any()]
        return float(pick(kept)) if kept else float("nan")

    identity, corrected = over("identity", np.max), over("corrected", np.max)
    criteria: list[Criterion] = [
        below("output against d/ds eps log sum exp((q.k + s v)/eps), largest", identity, 1e-13),
        below("V = K: output against q - 2t grad u, largest", corrected, 1e-12),
        above("V = K: output against grad u, least", over("literal", np.min), 0.1),
        above("generic V: change of the output where grad u does not change, least", over("blind", np.min), 1e-3),
    ]
    words = (
        f"Attention is the gradient of the solution in its initial data, to {identity:.0e}; not its gradient in space"
    )
    return Results(rows, criteria, words)


def _draw(parameters: Parameters, found: dict[str, Arrays], results: Results) -> Figure:
    figure = titled(10.5, 4.6, results)
    exact, wrong = figure.subplots(1, 2, width_ratios=[1.15, 1])
    places = np.arange(len(found))
    random = np.random.default_rng(0)
    styles = {
        "identity": (exact, "#2a7f9e", -0.17, r"$V^\top \nabla_g u$ against complex steps"),
        "corrected": (exact, "#7a9e2a", 0.17, r"$V = K$: $q - 2t\,\nabla_q u$"),
        "literal": (wrong, ACCENT, -0.17, r"$V = K$: $\nabla_q u$, as stated"),
        "blind": (wrong, "#8d5a97", 0.17, r"generic $V$: moved where $\nabla_q u$ is not"),
    }
    for law, (axes, color, shift, label) in styles.items():
        for place, arrays in zip(places, found.values(), strict=True):
            errors = np.maximum(arrays[law], TINY)
            if np.isnan(errors).any():
                continue
            spread = place + shift + 0.11 * random.uniform(-1, 1, errors.size)
            axes.plot(spread, errors, ".", color=color, ms=2, alpha=0.35, mew=0, rasterized=True)
            axes.plot([place + shift - 0.13, place + shift + 0.13], 2 * [np.median(errors)], color=color, lw=2)
        axes.plot([], [], "o", color=color, ms=5, mew=0, label=label)
    unit = np.finfo(float).eps * np.array([np.median(a["size"]) for a in found.values()])
    exact.plot(places, unit, **THEORY, label="one rounding of the largest value")
    for axes, top in ((exact, 6e-14), (wrong, 60.0)):
        logarithmic(axes, "y")
        axes.set_xticks(places, labels=[str(d) for d in parameters["d"]])
        axes.set_ylim(top=top)
        legend(axes, loc="upper left")
    exact.set_ylim(bottom=2e-17)
    note = "no such change exists once\nd + 1 reaches the number of keys"
    if np.isnan(found[f"d={parameters['d'][-1]}"]["blind"]).any():
        wrong.text(places[-1] + 0.15, 0.3, note, ha="right", fontsize=8, color="#8d5a97")
    trials = f"{parameters['trials']} trials each, bars at the median"
    dress(exact, f"What holds: to rounding ({trials})", "dimension $d$", "largest error of the output")
    dress(wrong, "What does not", "dimension $d$", "largest difference of the output")
    return figure


EXPERIMENT = Experiment(
    "D",
    "Attention identity: the output is the derivative of log Z in the values.",
    _FULL,
    _QUICK,
    _parts,
    _compute,
    _conclude,
    _draw,
    generated,
)
