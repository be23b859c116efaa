"""Table 6: what each activation is at finite eps, and how many rows a sum of softplus is."""

import itertools

import jax
import numpy as np
from jax import Array

import hjax
from hjax.nn import activations

from ._oracles import complex_step, exact_softmax, mpmath, soft_minimum
from ._table import Evidence, Verdict, check


def _gelu_by_quadrature(z: float, scale: float) -> float:
    """(1 - s d/ds) of the heat flow of ReLU, an integral that starts where ReLU does."""

    def flow(s):
        def integrand(n):
            return (z + s * n) * mpmath.npdf(n)

        return mpmath.quad(integrand, [-z / s, 0, mpmath.inf] if z > 0 else [-z / s, mpmath.inf])

    return float(flow(mpmath.mpf(scale)) - scale * mpmath.diff(flow, scale))


@check(
    "T6",
    "Each activation is a solution, SiLU and GELU open; corrected: softplus is a Hopf-Cole one, ReLU a Hopf-Lax one, "
    "sigmoid and tanh are slopes of solutions, SiLU is (1 - eps d/d eps) softplus_eps, GELU (1 - s d/ds) (ReLU * "
    "N(0, s^2)).",
    expected=Verdict.CORRECTED,
)
def table_of_activations() -> Evidence:
    """hjax's activations against 50 digits, numpy's closed forms, complex steps in eps, and mpmath's quadrature."""
    eps, z = 0.4, np.linspace(-3, 3, 7)
    softplus = np.array([float(exact_softmax(np.array([0.0, v]), eps)) for v in z])
    p = 1 / (1 + np.exp(-z / eps))
    oracles = {
        "relu": np.maximum(z, 0),
        "softplus": softplus,
        "sigmoid": p,
        "tanh": np.tanh(z / eps),
        "silu": softplus - eps * complex_step(lambda e: e * np.log(1 + np.exp(z / e)), np.array(eps), np.array(1.0)),
        "gelu": np.array([_gelu_by_quadrature(v, eps) for v in z]),
    }

    oracles |= {"softplus'": p, "mean energy": z * p, "mean energy of the heat flow": oracles["gelu"]}

    @jax.jit
    def measured(z: Array) -> dict[str, Array]:
        names = ("softplus", "sigmoid", "tanh", "silu", "gelu")
        return {name: getattr(activations, name)(z, eps) for name in names} | {
            "relu": activations.relu(z),
            "softplus'": jax.vmap(jax.grad(lambda v: activations.softplus(v, eps)))(z),
            "mean energy": activations.mean_energy(activations.softplus)(z, eps),
            "mean energy of the heat flow": activations.mean_energy(activations.heat_relu)(z, eps),
        }

    ours = {name: np.asarray(value) for name, value in measured(z).items()}
    errors = {name: np.abs(ours[name] - oracle).max() for name, oracle in oracles.items()}
    binary = -p * np.log(p) - (1 - p) * np.log1p(-p)
    errors["softplus - eps entropy"] = np.abs(ours["silu"] - (softplus - eps * binary)).max()
    # A solution's layer is convex, in any gauge.
    concave = {name: np.diff(ours[name], 2).min() for name in ("sigmoid", "tanh", "silu", "gelu")}
    figure = (
        f"err {', '.join(f'{name} {err:.0e}' for name, err in errors.items())}; least second difference "
        f"{', '.join(f'{name} {v:.2f}' for name, v in concave.items())}: no layer, which is convex"
    )
    return Evidence(
        holds=not max(concave.values()) < -1e-3, corrected=bool(max(errors.values()) < 1e-14), figure=figure
    )


@check(
    "T6.b",
    "A sum of N softplus units is one log-sum-exp layer of 2^N rows, the sums over subsets of units.",
    expected=Verdict.HOLDS,
)
def subset_sums() -> Evidence:
    """hjax's layer on the sixteen subset sums of four units, against numpy's sum of softplus."""
    rng, eps = np.random.default_rng(600), 0.3
    weight, bias, x = rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=(30, 3))
    subsets = np.array(list(itertools.product((0.0, 1.0), repeat=4)))

    @jax.jit
    def values(offsets: Array) -> Array:
        return jax.vmap(hjax.nn.LSELayer.from_arrays(subsets @ weight, offsets, eps=eps))(x)

    units = x @ weight.T + bias
    oracle = -soft_minimum(np.stack([np.zeros_like(units), -units], axis=-1), eps).sum(axis=1)
    err = np.abs(np.asarray(values(subsets @ bias)) - oracle).max()
    fewer = np.where(subsets.sum(axis=1) == 2, -np.inf, subsets @ bias)
    gap = np.abs(np.asarray(values(fewer)) - oracle).max()
    return Evidence(bool(err < 1e-14 and gap > 0.1), f"N = 4: err {err:.1e} with 16 rows; without the pairs {gap:.2f}")
