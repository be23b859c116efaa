"""The paper's experiments A to G at small parameters; `hjax reproduce` runs them at the paper's."""

import dataclasses
from typing import Any

from ._table import Evidence, Verdict, check


@dataclasses.dataclass
class _Run:
    """What an experiment measured: rows, and the criteria by a word of their names."""

    rows: list[dict[str, Any]]
    criteria: list[Any]

    def __getitem__(self, words: str) -> Any:
        (criterion,) = (c for c in self.criteria if words in c.name)
        return criterion

    @property
    def met(self) -> bool:
        return all(criterion.met for criterion in self.criteria)


def _quick(name: str, **changes: Any) -> _Run:
    # Here, not above: those experiments take their oracles from this package.
    from .. import reproduce

    experiment = reproduce.EXPERIMENTS[name]
    _, results = reproduce.in_memory(experiment, experiment.quick | changes)
    return _Run(results.rows, results.criteria)


@check(
    "exp.A",
    "A layer of 10 rows trained on a viscous solution recovers its initial data; corrected: it recovers the solution, "
    "and of the atoms those that carry weight at a low temperature.",
    expected=Verdict.CORRECTED,
)
def initial_data_recovery() -> Evidence:
    """hjax's layers, trained and read back by hjax, against the target's soft minimum in numpy."""
    run = _quick("A")
    best = [row for row in run.rows if row["best"]]
    coldest = min(best, key=lambda row: row["eps"])
    distance, scattered = coldest["dominant_atom_to_nearest_true"], run["farthest atom"].value
    figure = "; ".join(
        f"eps = {row['eps']:g}: MSE {row['adam_mse']:.0e}, with L-BFGS {row['polished_mse']:.0e}, "
        f"sup|u - u*| {row['sup_error_inside']:.0e}"
        for row in best
    )
    figure += f"; at eps = {coldest['eps']:g} dominant atoms to {distance:.0e}, at 0.5 some {scattered:.2f} off"
    return Evidence(holds=not scattered > 0.1, corrected=bool(run.met and distance < 0.01), figure=figure)


@check(
    "exp.B",
    "With eps = N^(-1/d) the error of a trained layer falls as the quadrature's N^(-1/d); corrected: at fixed eps it "
    "does not fall with N, so it is the imposed eps that is seen.",
    expected=Verdict.CORRECTED,
)
def scaling() -> Evidence:
    """hjax's layers trained on |x|, measured in numpy, at eps tied to N, and at both held in turn."""
    run = _quick("B")
    ratio, exponent = run["eps fixed"].value, run["exponent of the error in N"].value
    moved = run["N fixed"].value
    figure = (
        f"d=1: rms error ~ N^{exponent:.2f} with eps = 1/N; at fixed eps, N = 40 has at least {ratio:.2f} times the "
        f"error of N = 10; at N = 40 it goes as eps^(1 +- {moved:.2f})"
    )
    return Evidence(holds=not ratio > 0.7, corrected=run.met, figure=figure)


@check(
    "exp.C",
    "The second derivative of layers trained on |x| is at most D^2/(4 eps), hence R^2/eps, and no certified radius "
    "is exceeded (tau/R is always above the paper's).",
    expected=Verdict.HOLDS,
)
def robustness() -> Evidence:
    """hjax's Hessians by autodiff; radii and attacks in numpy."""
    run = _quick("C")
    figure = "; ".join(
        f"eps = {row['eps']:g}: max f'' {row['max_second_derivative']:.2f} <= {row['bound_D2_over_4eps']:.2f} <= "
        f"{row['paper_bound_R2_over_eps']:.2f}, radii (15) {row['paper_radius_15']:.3f}, "
        f"tau/R {row['lipschitz_radius']:.3f}"
        for row in run.rows
        if row["best"]
    )
    return Evidence(run.met, figure)


@check(
    "exp.D",
    "Attention at eps = sqrt d is the derivative of eps log sum_j exp((q.k_j + s v_j)/eps) in s, in every dimension.",
    expected=Verdict.HOLDS,
)
def attention_identity() -> Evidence:
    """hjax's attention by distance, with the keys' norms as initial values, against complex steps in numpy."""
    run = _quick("D")
    errors = {row["d"]: row["largest_error"] for row in run.rows if row["law"] == "identity"}
    figure = ", ".join(f"d={d}: {error:.0e}" for d, error in errors.items())
    figure = (
        f"largest error over 40 trials: {figure}; against grad u in space {run['against grad u'].value:.1f} or more"
    )
    return Evidence(run.met, figure)


def _hessians(name: str) -> Evidence:
    run = _quick(name)
    figure = "; ".join(
        f"eps = {row['eps']:g}: {row['largest_hessian']:.2g} <= {row['bound_D2_over_4eps']:.2g} <= "
        f"{row['paper_bound_R2_over_eps']:.2g}"
        for row in run.rows
        if row["best"]
    )
    return Evidence(run.met, f"{run.rows[0]['data']}: {figure}; |w2| Cov/eps in numpy to {run['Cov_p'].value:.0e}")


@check(
    "exp.E",
    "The Hessian of f = w2 LSE + c, trained on MNIST's 50 principal components (or on digits), is at most "
    "|w2| D^2/(4 eps), hence |w2| R^2/eps.",
    expected=Verdict.HOLDS,
)
def mnist_hessians() -> Evidence:
    """hjax's network and its Hessians by autodiff against covariances in numpy."""
    return _hessians("E")


@check(
    "exp.F",
    "The same for CIFAR-10's 64 principal components (or digits).",
    expected=Verdict.HOLDS,
)
def cifar_hessians() -> Evidence:
    """As exp.E."""
    return _hessians("F")


@check(
    "exp.G",
    "In a pre-norm transformer block every log-sum-exp unit is |x|^2/(4t) - u(x, t) at its normalised input.",
    expected=Verdict.HOLDS,
)
def transformer_units() -> Evidence:
    """hjax's block, its units read as solutions at random t, against extended precision, 40 digits and numpy."""
    run = _quick("G")
    figure = (
        f"units within {run['size of its terms'].value:.0e} of the size of their terms, {run['40 digits'].value:.0e} "
        f"from 40 digits; block within {run['block against'].value:.0e} of numpy's"
    )
    return Evidence(run.met, figure)
