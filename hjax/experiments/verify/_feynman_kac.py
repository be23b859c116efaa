"""The Gibbs weights as a Bayesian posterior: the matched scale (Proposition E.4 ii) and Tweedie's formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hjax

from ._table import Evidence, Verdict, check


def _grid_bayes(x: float, sigma2: float, noise: float) -> tuple[float, float]:
    """Posterior mean and variance of y ~ N(0, sigma2) seen through x ~ N(y, noise): Bayes' rule on a grid."""
    y, step = np.linspace(-15 * math.sqrt(sigma2), 15 * math.sqrt(sigma2), 20_001, retstep=True)
    prior = np.exp(-(y**2) / (2 * sigma2)) / math.sqrt(2 * math.pi * sigma2)
    likelihood = np.exp(-((x - y) ** 2) / (2 * noise)) / math.sqrt(2 * math.pi * noise)
    posterior = prior * likelihood / (np.sum(prior * likelihood) * step)
    mean = np.sum(posterior * y) * step
    return float(mean), float(np.sum(posterior * (y - mean) ** 2) * step)


@check(
    "E.4.ii",
    "At the matched scale sigma^2 = 2 eps t the posterior mean is x/2 and its variance sigma^2/2 = eps t: mean and "
    "ratio do not depend on eps and t.",
    expected=Verdict.HOLDS,
)
def matched_scale() -> Evidence:
    """Gibbs moments of g = eps |y|^2/(2 sigma^2) through `expectation`, against Bayes' rule on a grid."""
    x = 0.8

    def posterior(eps: float, t: float, multiple: float) -> tuple[float, float, float]:
        """Mean over x, variance over sigma^2 where sigma^2 = multiple 2 eps t, and the distance to Bayes."""
        sigma2 = multiple * 2 * eps * t
        reach = 12 * math.sqrt(sigma2) + x
        rule = hjax.quadrature.grid(-reach, reach, 4000)
        prior = hjax.InitialData.from_function(lambda y: eps * (y**2).sum() / (2 * sigma2), rule)
        y = np.asarray(rule.points)
        u, powers = hjax.HopfCole(prior, eps), np.concatenate([y, y**2], axis=1)
        mean, square = np.asarray(u.expectation(np.array([x]), t, powers))
        oracle = _grid_bayes(x, sigma2, 2 * eps * t)
        err = max(abs(mean - oracle[0]), abs(square - mean**2 - oracle[1]))
        return mean / x, (square - mean**2) / sigma2, err

    settings = ((0.3, 0.5), (0.05, 2.0), (1.0, 0.4))
    matched = np.array([posterior(eps, t, 1.0) for eps, t in settings])
    wide = np.array([posterior(eps, t, 3.0) for eps, t in settings])
    err = max(matched[:, 2].max(), wide[:, 2].max())
    spread = np.abs(matched[:, :2] - 0.5).max()
    variances = [m * 2 * eps * t for (_, m, _), (eps, t) in zip(matched, settings, strict=True)]
    figure = (
        f"sigma^2 = 2 eps t: mean/x = {matched[0, 0]:.6f}, var/sigma^2 = {matched[0, 1]:.6f} for three (eps, t), to "
        f"{spread:.0e}; at 3x: {wide[0, 0]:.3f}, {wide[0, 1]:.3f}; the variance itself is "
        f"{', '.join(f'{v:.2f}' for v in variances)}; Bayes on a grid within {err:.0e}"
    )
    others = np.abs(wide[:, :2] - [0.75, 0.25]).max()
    return Evidence(bool(spread < 1e-9 and others < 1e-9 and err < 1e-9 and np.ptp(variances) > 0.1), figure)


@check(
    "score",
    "Tweedie's formula: for noise of variance s^2 = 2 eps t, E[y|x] = x + 2 eps t grad log phi = x - 2t grad u; with "
    "the signal scaled by alpha it needs x/alpha and s/alpha.",
    expected=Verdict.HOLDS,
)
def tweedie() -> Evidence:
    """hjax's score and denoiser for a mixture of two normals as prior, against its posterior in closed form."""
    means, widths, shares, x = np.array([-1.0, 1.2]), np.array([0.5, 0.3]), np.array([0.4, 0.6]), np.linspace(-2, 2, 9)

    def prior(y: Array) -> Array:
        return jnp.sum(shares * jnp.exp(-((y - means) ** 2) / (2 * widths**2)) / widths)

    rule = hjax.quadrature.grid(-6, 6, 2000)

    @jax.jit
    def denoised(x: Array, eps: Array, t: Array) -> tuple[Array, Array]:
        data = hjax.InitialData.from_function(lambda y: -eps * jnp.log(prior(y[0])), rule)
        u = hjax.HopfCole(data, eps, normalize=True)
        by_score = x[:, None] + 2 * eps * t * hjax.dynamics.score(u, x[:, None], t)
        return hjax.dynamics.denoise(u, x[:, None], t)[:, 0], by_score[:, 0]

    def posterior(x: np.ndarray, noise: float) -> np.ndarray:
        """The mean of each component given x, weighted by how well the component explains x."""
        total = widths**2 + noise
        evidence = shares * np.exp(-((x[:, None] - means) ** 2) / (2 * total)) / np.sqrt(total)
        return (evidence * (x[:, None] * widths**2 + means * noise) / total).sum(1) / evidence.sum(1)

    err = 0.0
    for eps, t in ((0.3, 0.5), (0.05, 2.0), (1.0, 0.4)):
        err = max(err, np.abs(np.stack(denoised(x, eps, t)) - posterior(x, 2 * eps * t)).max())
    # x = alpha y + s noise is y + (s/alpha) noise after division by alpha; without it the formula is off.
    alpha, s2, eps = 0.6, 1 - 0.6**2, 0.4
    oracle = posterior(x / alpha, s2 / alpha**2)
    scaled = np.abs(np.stack(denoised(x / alpha, eps, s2 / alpha**2 / (2 * eps))) - oracle).max()
    plain = np.abs(np.stack(denoised(x, eps, s2 / (2 * eps))) - oracle).max()
    figure = (
        f"denoise and x + 2 eps t score from the posterior mean: {err:.1e} for three (eps, t); variance-preserving "
        f"noise, alpha = {alpha}: {scaled:.1e} after x/alpha, {plain:.2f} without"
    )
    return Evidence(bool(max(err, scaled) < 1e-11 and plain > 0.1), figure)
