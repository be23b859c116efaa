"""C: curvature and certified radii of layers trained on |x|, against the bounds of Corollary 8.2.

`f'' <= D^2/(4 eps)` (D the diameter of the rows), which implies the paper's `R^2/eps` (R their largest norm). The
paper's radius (15), `(eps/R)(sqrt(1 + 2 tau/eps) - 1)`, is valid but below the Lipschitz radius tau/R for every eps;
`max(tau/R, (4 eps/D^2)(sqrt(|f'|^2 + D^2 tau/(2 eps)) - |f'|))` is the one that uses the curvature.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from .._figure_style import ACCENT, FAINT, dress
from ..verify._oracles import gibbs_mean, soft_minimum
from ._experiment import Arrays, Criterion, Experiment, Keep, Parameters, Results, above, below, generated
from ._layers import best, train
from ._pictures import THEORY, Temperatures, legend, logarithmic, titled

_FULL: Parameters = {
    "within": 2.0,
    "points": 400,
    "width": 30,
    "eps": [0.08, 0.12, 0.2, 0.35, 0.6, 1.0],
    "steps": 4000,
    "rate": 0.01,
    "rows": 1.0,
    "biases": 0.2,
    "seeds": 3,
    "tau": 0.1,
    "inferred": ["within", "points", "rows", "biases"],
}
_QUICK = _FULL | {"eps": [0.08, 0.2, 0.6], "steps": 600, "rate": 0.02, "seeds": 2}


def _parts(parameters: Parameters) -> dict[str, float]:
    del parameters
    return {"robustness": 15.0}


def _compute(parameters: Parameters, part: str, keep: Keep) -> Arrays:
    del part
    x = np.linspace(-parameters["within"], parameters["within"], parameters["points"])
    fits = train(
        x[:, None], np.abs(x), keep=keep,
        **{k: parameters[k] for k in ("width", "eps", "seeds", "steps", "rate", "rows", "biases")},
    )  # fmt: skip
    # Around the kink, where the curvature is, and everywhere else.
    fine = np.unique(
        np.concatenate([np.linspace(-parameters["within"], parameters["within"], 801), np.linspace(-0.1, 0.1, 401)])
    )

    @jax.jit
    def curvature(model: Any) -> Any:
        def one(layer: Any) -> Any:
            return jax.vmap(lambda z: jax.hessian(lambda s: layer(s[None]))(z))(jnp.asarray(fine))

        return jax.vmap(jax.vmap(one))(model)

    return {
        "mse": fits.metrics["loss"],
        "weight": np.asarray(fits.model.weight)[..., 0],
        "bias": np.asarray(fits.model.bias),
        "x": fine,
        "curvature": np.asarray(curvature(fits.model)),
    }


def _certified(w: np.ndarray, b: np.ndarray, eps: float, tau: float, x: np.ndarray) -> dict[str, Any]:
    """Radii, and the worst change of f within them over tau, in numpy: `w (N,)`, `b (N,)`, `x (M,)`."""
    largest, diameter = np.abs(w).max(), np.ptp(w)

    def f(at: np.ndarray) -> np.ndarray:
        return -soft_minimum(-(at[..., None] * w + b), eps)

    p = gibbs_mean(-(x[:, None] * w + b), eps, np.stack([w, w**2], axis=1))
    steep = np.abs(p[:, 0])
    slope = 2 * tau / eps
    paper = eps / largest * (np.sqrt(1 + slope) - 1)
    lipschitz = tau / largest
    tight = np.maximum(lipschitz, 4 * eps / diameter**2 * (np.sqrt(steep**2 + diameter**2 * tau / (2 * eps)) - steep))

    def attack(radius: Any) -> float:
        steps = np.linspace(-1, 1, 101)
        return float(
            np.abs(f(x[:, None] + np.multiply.outer(radius * np.ones(len(x)), steps)) - f(x)[:, None]).max() / tau
        )

    return {
        "paper": paper,
        "lipschitz": lipschitz,
        "tight": tight,
        "attacks": {"paper": attack(paper), "lipschitz": attack(lipschitz), "tight": attack(tight)},
        "second": (p[:, 1] - p[:, 0] ** 2) / eps,
        "largest": largest,
        "diameter": diameter,
    }


def _each(parameters: Parameters, run: Arrays) -> dict[tuple[int, int], dict[str, Any]]:
    return {
        (seed, i): _certified(run["weight"][seed, i], run["bias"][seed, i], eps, parameters["tau"], run["x"])
        for seed in range(parameters["seeds"])
        for i, eps in enumerate(parameters["eps"])
    }


def _conclude(parameters: Parameters, found: dict[str, Arrays]) -> Results:
    run, rows = found["robustness"], []
    certificates, chosen = _each(parameters, run), best(run["mse"])
    oracle = worst = changed = 0.0
    gain, most = np.inf, 0.0
    for (seed, i), c in certificates.items():
        eps = parameters["eps"][i]
        largest = float(run["curvature"][seed, i].max())
        bound = c["diameter"] ** 2 / (4 * eps)
        oracle = max(oracle, float(np.abs(run["curvature"][seed, i] - c["second"]).max()) * eps)
        worst = max(worst, largest / bound)
        changed = max(changed, *c["attacks"].values())
        gain, most = min(gain, c["lipschitz"] / c["paper"]), max(most, float(c["tight"].max() / c["lipschitz"]))
        rows.append(
            {
                "eps": eps,
                "seed": seed,
                "rmse": float(np.sqrt(run["mse"][seed, i])),
                "max_second_derivative": largest,
                "paper_bound_R2_over_eps": float(c["largest"] ** 2 / eps),
                "bound_D2_over_4eps": float(bound),
                "paper_radius_15": float(c["paper"]),
                "lipschitz_radius": float(c["lipschitz"]),
                "tight_radius_least": float(c["tight"].min()),
                "tight_radius_largest": float(c["tight"].max()),
                "worst_change_over_tau_paper": c["attacks"]["paper"],
                "worst_change_over_tau_lipschitz": c["attacks"]["lipschitz"],
                "worst_change_over_tau_tight": c["attacks"]["tight"],
                "best": int(seed == chosen[i]),
            }
        )
    rows.sort(key=lambda row: (parameters["eps"].index(row["eps"]), row["seed"]))
    criteria: list[Criterion] = [
        below("max f'' over D^2/(4 eps)", worst, 1 + 1e-9),
        above("the same, where it is largest (not vacuous)", worst, 0.8),
        below("worst change within any certified radius, over tau", changed, 1 + 1e-9),
        above("least tau/R over the paper's radius (15)", gain, 1.0),
        below("eps |f'' by autodiff - Var_p(W)/eps|", oracle, 1e-11),
    ]
    words = (
        f"The curvature stays below $D^2/4\\varepsilon$ and reaches {100 * worst:.1f} % of it; "
        f"$\\tau/R$ beats the paper's radius at every $\\varepsilon$"
    )
    return Results(rows, criteria, words)


def _draw(parameters: Parameters, found: dict[str, Arrays], results: Results) -> Figure:
    run, rows = found["robustness"], [row for row in results.rows if row["best"]]
    chosen, eps = best(run["mse"]), np.array(parameters["eps"])
    colors = Temperatures(parameters["eps"])
    figure = titled(13.5, 4.3, results)
    profile, bounds, radii = panels = figure.subplots(1, 3)
    for i, e in enumerate(parameters["eps"]):
        profile.plot(run["x"], run["curvature"][chosen[i], i], color=colors(e), lw=1.5)
        profile.plot([-0.12, 0.12], 2 * [rows[i]["bound_D2_over_4eps"]], color=colors(e), lw=1.0, ls=(0, (3, 2)))
    profile.plot([], [], color=FAINT, lw=1.0, ls=(0, (3, 2)), label=r"$D^2/4\varepsilon$ of the same layer")
    profile.set_xlim(-1.2, 1.2)
    profile.set_ylim(0, 1.12 * max(row["bound_D2_over_4eps"] for row in rows))
    legend(profile, loc="upper right")
    dress(profile, "Second derivative: the kink of |x|, rounded", "position $x$", "$f''(x)$")

    for key, style, label in (
        ("paper_bound_R2_over_eps", {"color": FAINT, "lw": 1.2}, "$R^2$ (paper)"),
        ("bound_D2_over_4eps", THEORY, "$D^2/4$ (tight)"),
    ):
        bounds.plot(eps, [r["eps"] * r[key] for r in rows], **style, label=label)
    for row in rows:
        bounds.plot(row["eps"], row["eps"] * row["max_second_derivative"], "o", color=colors(row["eps"]), ms=6.5, mew=0)
    bounds.plot([], [], "o", color=FAINT, ms=6, mew=0, label="largest $f''$, best seed")
    legend(bounds, loc="lower center")
    bounds.set_ylim(0, None)
    dress(bounds, "The bounds times $\\varepsilon$", r"temperature $\varepsilon$", r"$\varepsilon\,\max f''$")

    tau = parameters["tau"]
    radii.fill_between(
        eps, [r["tight_radius_least"] for r in rows], [r["tight_radius_largest"] for r in rows], color="#2a7f9e",
        alpha=0.18, lw=0, label="with $D^2/4\\varepsilon$: from worst to best $x$",
    )  # fmt: skip
    radii.plot(eps, [r["lipschitz_radius"] for r in rows], **THEORY, label=r"Lipschitz, $\tau/R$")
    radii.plot(eps, [r["paper_radius_15"] for r in rows], "o-", color=ACCENT, ms=4, lw=1.2, label="paper, eq. 15")
    legend(radii, loc="upper left")
    dress(radii, f"Certified radius for a change of $\\tau$ = {tau:g}", r"temperature $\varepsilon$", "radius")
    radii.set_ylim(0, 1.45 * max(r["tight_radius_largest"] for r in rows))
    for axes in (bounds, radii):
        logarithmic(axes, "x", eps)
    colors.bar(figure, list(panels))
    return figure


EXPERIMENT = Experiment(
    "C",
    "Robustness: curvature and certified radii of layers trained on |x|.",
    _FULL,
    _QUICK,
    _parts,
    _compute,
    _conclude,
    _draw,
    generated,
)
