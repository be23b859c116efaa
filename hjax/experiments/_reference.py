"""An exact solution that knows no atoms: if g is a sum over coordinates, u is a sum of 1-D quadratures.

For g(y) = sum_i s(y_i) in a box, a diagonal metric A and the heat kernel's prefactor,

    exp(-u(x, t)/eps) = prod_i  integral_{lower_i}^{upper_i} K_i(x_i - y) exp(-s(y)/eps) dy,

with K_i the Gaussian of variance 2 eps t A_ii. Each factor is one call of `scipy.integrate.quad_vec`,
adaptive, vectorised over all queries: a route to u that shares nothing with the solutions of `hjax`.
"""

import numpy as np
from scipy import integrate

from ._problem import Problem


def has_reference(problem: Problem) -> bool:
    """Whether this problem has an exact solution by one-dimensional quadratures."""
    diagonal = np.array_equal(problem.metric, np.diag(np.diag(problem.metric)))
    separable = problem.function is not None and problem.function.summand is not None
    return separable and problem.box is not None and problem.normalize and diagonal


def reference(problem: Problem, x: np.ndarray, t: float) -> np.ndarray:
    """u(x, t) for queries `(M, d)` at one time, to about 1e-10 of its scale."""
    if problem.function is None or problem.function.summand is None or problem.box is None:
        raise ValueError("this problem has no reference; ask has_reference first.")
    eps, summand = problem.eps, problem.function.summand
    total = np.zeros(len(x))
    for i, (lower, upper) in enumerate(zip(*problem.box, strict=True)):
        variance = 2 * eps * t * problem.metric[i, i]
        nodes = np.linspace(lower, upper, 2001)
        energies = summand(nodes) / eps
        coordinates, where = np.unique(x[:, i], return_inverse=True)
        # The exponent's smallest value is taken out of each integral, so that nothing underflows.
        cost = (coordinates[:, None] - nodes) ** 2 / (2 * variance)
        floor = np.min(cost + energies, axis=1)

        def integrand(y, coordinates=coordinates, floor=floor, variance=variance):
            energy = float(summand(np.asarray(y))) / eps
            return np.exp(floor - energy - (coordinates - y) ** 2 / (2 * variance))

        # Interval ends of the size of the kernel's width, where the adaptive rule starts.
        pieces = int(np.clip((upper - lower) / np.sqrt(variance), 4, 400))
        points = np.linspace(lower, upper, pieces + 1)[1:-1]
        integral, _ = integrate.quad_vec(integrand, lower, upper, epsabs=1e-13, epsrel=1e-11, norm="max", points=points)
        one = eps * floor - eps * np.log(integral / np.sqrt(2 * np.pi * variance))
        total += one[where]
    return total
