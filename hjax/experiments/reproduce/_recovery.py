"""A: whether a trained layer recovers the initial data of a viscous Hamilton-Jacobi solution.

The target is u*(x, 1), the Hopf-Cole solution of 8 atoms on g* = |y|. A layer f of 10 rows is trained so that
|x|^2/4 - f equals u*, with Adam and then L-BFGS, and read back as a solution with 10 atoms of its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import hjax

from .._figure_style import ACCENT, FAINT, INK, dress
from ..verify._oracles import gibbs_mean, soft_minimum, squared_distances
from ._experiment import Arrays, Criterion, Experiment, Keep, Parameters, Results, above, below, generated
from ._layers import best, train, values_of
from ._pictures import THEORY, THIN, Temperatures, legend, logarithmic, titled

_FULL: Parameters = {
    "atoms": 8,
    "atoms_within": 2.0,
    "points": 400,
    "points_within": 2.4,
    "measured_within": 1.7,
    "width": 10,
    "eps": [0.5, 0.1, 0.04],
    "steps": 5000,
    "rate": 0.008,
    "rows": 0.4,
    "biases": 0.2,
    "seeds": 8,
    "polish_steps": 4000,
    "inferred": ["polish_steps"],
}
_QUICK = _FULL | {"steps": 500, "seeds": 2, "polish_steps": 600}
_TIME = 1.0
# An atom that somewhere carries most of the weight can be read off the solution; others cannot.
_DOMINANT = 0.9


def _parts(parameters: Parameters) -> dict[str, float]:
    del parameters
    return {"recovery": 40.0}


def _true_atoms(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    y = np.linspace(-parameters["atoms_within"], parameters["atoms_within"], parameters["atoms"])
    return y, np.abs(y)


def exact_solution(parameters: Parameters, x: np.ndarray) -> np.ndarray:
    """u*(x, 1) in numpy, `(temperatures, M)`."""
    y, g = _true_atoms(parameters)
    costs = g + squared_distances(x[:, None], y[:, None]) / (4 * _TIME)
    return np.stack([soft_minimum(costs, eps) for eps in parameters["eps"]])


def _compute(parameters: Parameters, part: str, keep: Keep) -> Arrays:
    del part
    x = np.linspace(-parameters["points_within"], parameters["points_within"], parameters["points"])
    targets = x**2 / (4 * _TIME) - exact_solution(parameters, x)
    share = parameters["steps"] / (parameters["steps"] + 2 * parameters["polish_steps"])
    training = keep._replace(progress=lambda fraction, doing: keep.progress(share * fraction, doing))
    fits = train(
        x[:, None], targets, own_targets=True, keep=training,
        **{k: parameters[k] for k in ("width", "eps", "seeds", "steps", "rate", "rows", "biases")},
    )  # fmt: skip
    keep.progress(share, "L-BFGS")
    polished = hjax.training.polish(
        fits, (x[:, None], targets), data_axes=(None, "eps"), predict=values_of, steps=parameters["polish_steps"],
        tolerance=1e-12,
    )  # fmt: skip
    data = jax.vmap(jax.vmap(lambda layer: _as_data(layer)))(polished.model)
    return {
        "losses": fits.losses[:, :, :: max(1, parameters["steps"] // 500)],
        "adam": fits.metrics["loss"],
        "polished": polished.metrics["loss"],
        "points": np.asarray(data.points)[..., 0],
        "values": np.asarray(data.values),
    }


def _as_data(layer: hjax.nn.LSELayer) -> hjax.InitialData:
    return layer.to_solution(_TIME).data


def _measured(parameters: Parameters, found: Arrays) -> dict[str, np.ndarray]:
    """On a fine grid of the inner interval: the errors of u, and each atom's largest weight."""
    x = np.linspace(-parameters["points_within"], parameters["points_within"], 1201)
    exact = exact_solution(parameters, x)
    points, values = jnp.asarray(found["points"]), jnp.asarray(found["values"])

    def read(y: Any, g: Any, eps: Any) -> Any:
        return hjax.HopfCole(hjax.InitialData(y[:, None], g), eps)(jnp.asarray(x)[:, None], _TIME)

    u = jax.vmap(jax.vmap(read, in_axes=(0, 0, 0)), in_axes=(0, 0, None))(
        points, values, jnp.asarray(parameters["eps"])
    )
    inside = np.abs(x) <= parameters["measured_within"]
    weights = np.empty(points.shape)
    for i, eps in enumerate(parameters["eps"]):
        for seed in range(points.shape[0]):
            y, g = found["points"][seed, i], found["values"][seed, i]
            costs = g + squared_distances(x[inside, None], y[:, None]) / (4 * _TIME)
            weights[seed, i] = gibbs_mean(costs, eps, np.eye(len(y))).max(axis=0)
    errors = np.abs(np.asarray(u) - exact)
    return {"x": x, "errors": errors, "sup": errors[..., inside].max(axis=-1), "weights": weights}


def _conclude(parameters: Parameters, found: dict[str, Arrays]) -> Results:
    run = found["recovery"]
    measured, (y, _) = _measured(parameters, run), _true_atoms(parameters)
    apart = np.abs(run["points"][..., None] - y).min(axis=-1)
    rows: list[dict[str, Any]] = []
    chosen = best(run["polished"])
    worst: dict[float, float] = {}
    for i, eps in enumerate(parameters["eps"]):
        for seed in range(parameters["seeds"]):
            dominant = measured["weights"][seed, i] > _DOMINANT
            distance = float(apart[seed, i][dominant].max()) if dominant.any() else float("nan")
            if seed == chosen[i]:
                worst[eps] = distance
            rows.append(
                {
                    "eps": eps,
                    "seed": seed,
                    "adam_mse": float(run["adam"][seed, i]),
                    "polished_mse": float(run["polished"][seed, i]),
                    "sup_error_inside": float(measured["sup"][seed, i]),
                    "dominant_atoms": int(dominant.sum()),
                    "dominant_atom_to_nearest_true": distance,
                    "best": int(seed == chosen[i]),
                }
            )
    mse = max(float(run["polished"][s, i]) for i, s in enumerate(chosen))
    sup = max(float(measured["sup"][s, i]) for i, s in enumerate(chosen))
    hottest = parameters["eps"].index(max(parameters["eps"]))
    scattered = float(apart[chosen[hottest], hottest].max())
    criteria: list[Criterion] = [
        below("mean squared error after L-BFGS, best seed, worst temperature", mse, 1e-8),
        below(f"sup |u - u*| on |x| <= {parameters['measured_within']:g}", sup, 1e-3),
        above(f"farthest atom from a true one at eps = {max(parameters['eps']):g} (not identified)", scattered, 0.1),
    ]
    found_words = f"The solution is recovered to {sup:.0e}; its atoms are not, unless the temperature is low"
    if mse >= 1e-8 or sup >= 1e-3:
        found_words = f"The solution is recovered to {sup:.0e} only (mean squared error {mse:.0e})"
    return Results(rows, criteria, found_words)


def _draw(parameters: Parameters, found: dict[str, Arrays], results: Results) -> Figure:
    run = found["recovery"]
    measured, chosen, (y, g) = _measured(parameters, run), best(run["polished"]), _true_atoms(parameters)
    colors = Temperatures(parameters["eps"])
    figure = titled(13.5, 4.3, results)
    training, error, atoms = panels = figure.subplots(1, 3)
    steps = np.linspace(0, parameters["steps"], run["losses"].shape[2], endpoint=False)
    for i, eps in enumerate(parameters["eps"]):
        for seed in range(parameters["seeds"]):
            strong = seed == chosen[i]
            style = {"color": colors(eps), "lw": 1.6 if strong else 0.6, "alpha": 1.0 if strong else 0.45}
            training.plot(steps + 1, run["losses"][seed, i], **style)
            end = parameters["steps"] * (1.12 + 0.1 * i)
            training.plot(end, run["polished"][seed, i], "o", ms=5 if strong else 2.5, color=colors(eps), mew=0)
        error.plot(measured["x"], np.maximum(measured["errors"][chosen[i], i], 1e-17), color=colors(eps), lw=1.2)
        weights = measured["weights"][chosen[i], i]
        atoms.scatter(
            run["points"][chosen[i], i], run["values"][chosen[i], i], s=8 + 70 * weights, color=colors(eps), alpha=0.8,
            lw=0, zorder=3,
        )  # fmt: skip
    training.set_xticks(np.linspace(0, parameters["steps"], 6))
    training.axhline(1e-8, **THEORY)
    training.text(0.02, 1e-8, "accepted below", transform=training.get_yaxis_transform(), va="bottom", fontsize=8)
    training.axvline(parameters["steps"] * 1.05, color=FAINT, lw=0.6)
    training.text(parameters["steps"] * 1.07, training.get_ylim()[1], " L-BFGS", va="top", fontsize=8, color=INK)
    logarithmic(training, "y")
    dress(training, f"Loss of {parameters['seeds']} seeds (best bold)", "Adam step", "mean squared error")
    logarithmic(error, "y")
    error.axhline(1e-3, **THEORY)
    error.text(0, 1.2e-3, "accepted below", ha="center", va="bottom", fontsize=8)
    inner = parameters["measured_within"]
    error.axvspan(-inner, inner, color=FAINT, alpha=0.1, lw=0)
    dress(error, "Error of the best seed; measured in the grey interval", "position $x$", "$|u - u^*|(x, 1)$")
    atoms.plot(y, g, "x", color=ACCENT, ms=9, mew=1.6, label="true atoms", zorder=4)
    line = np.linspace(-3, 3, 3)
    atoms.plot(line, np.abs(line), **THIN, zorder=1, label="$g^* = |y|$")
    atoms.scatter([], [], s=78, color=FAINT, lw=0, label="found, carries weight 1 somewhere")
    atoms.scatter([], [], s=15, color=FAINT, lw=0, label="found, carries 0.1 at most")
    # Rows that never matter may be anywhere.
    atoms.set_xlim(-1.5 * parameters["atoms_within"], 1.5 * parameters["atoms_within"])
    atoms.set_ylim(-0.1, 3.4)
    legend(atoms, loc="upper center")
    dress(atoms, "Initial data: true, and found by the best seed", "atom $y$", "value $g$")
    colors.bar(figure, list(panels))
    return figure


EXPERIMENT = Experiment(
    "A",
    "Initial-data recovery: a layer trained on a viscous solution, read back as initial data.",
    _FULL,
    _QUICK,
    _parts,
    _compute,
    _conclude,
    _draw,
    generated,
)
