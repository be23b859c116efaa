"""`hjax solve` against solvers that know no kernel, no atoms, or no hjax."""

from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import integrate, sparse

from hjax.experiments import _files, _functions, _problem
from hjax.experiments._digits import read_digits, solve_digits
from hjax.experiments._reference import has_reference, reference
from hjax.experiments._solve import solve


def smaller(name: str, folder: Path, *changes: tuple[str, str]) -> _problem.Problem:
    """A shipped problem with some of its lines changed."""
    text = _problem.example(name).read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return _problem.read_problem(path)


def valley(y: np.ndarray) -> np.ndarray:
    """The shock example's initial data, written again."""
    return np.abs(np.sqrt(y**2 + 0.25) - 1) + 0.2 * y


SHOCK = (
    ("times = { lower = 0.0125, upper = 1.25, count = 100 }", "times = [0.1, 0.25, 0.6]"),
    ("shape = 4800", "shape = 2400"),
    ("shape = 641", "shape = 81"),
)


def viscous_by_differences(n: int, eps: float, times: np.ndarray, x: np.ndarray) -> np.ndarray:
    """u_t + u_x^2 = eps u_xx by central differences on [-5, 5] and scipy's BDF, from t = 0.

    Beyond +-2 the datum is almost affine, and the boundary cells go on as if u_xx were 0.
    """
    grid, h = np.linspace(-5, 5, n, retstep=True)

    def rate(_: float, u: np.ndarray) -> np.ndarray:
        padded = np.concatenate([[2 * u[0] - u[1]], u, [2 * u[-1] - u[-2]]])
        slope = (padded[2:] - padded[:-2]) / (2 * h)
        return -(slope**2) + eps * (padded[2:] - 2 * u + padded[:-2]) / h**2

    band = sparse.diags_array([np.ones(n)] * 5, offsets=[-2, -1, 0, 1, 2], shape=(n, n))
    solved = integrate.solve_ivp(
        rate, (0, times[-1]), valley(grid), "BDF", times, rtol=1e-7, atol=1e-9, jac_sparsity=band
    )
    return np.stack([np.interp(x, grid, u) for u in solved.y.T])


def inviscid_by_godunov(n: int, times: np.ndarray, x: np.ndarray) -> np.ndarray:
    """u_t + u_x^2 = 0 by the first-order Godunov scheme: monotone, so it finds the viscosity solution."""
    grid, h = np.linspace(-5, 5, n, retstep=True)
    u, now, out = valley(grid), 0.0, []
    for t in times:
        steps = int(np.ceil((t - now) / (0.9 * h / (2 * 1.25))))
        for _ in range(steps):
            padded = np.concatenate([[2 * u[0] - u[1]], u, [2 * u[-1] - u[-2]]])
            left, right = (u - padded[:-2]) / h, (padded[2:] - u) / h
            u = u - (t - now) / steps * np.maximum(np.maximum(left, 0), np.maximum(-right, 0)) ** 2
        now = t
        out.append(np.interp(x, grid, u))
    return np.stack(out)


@pytest.fixture(scope="module")
def shock(tmp_path_factory: pytest.TempPathFactory):
    problem = smaller("shock", tmp_path_factory.mktemp("shock"), *SHOCK)
    return problem, solve(problem)


def test_shock_is_the_viscous_solution_of_a_finite_difference_solve(shock):
    problem, solved = shock
    x = problem.queries.points[:, 0]
    errors = [
        np.abs(viscous_by_differences(n, problem.eps, problem.times, x) - solved.arrays["value"]).max()
        for n in (401, 801, 1601)
    ]
    # Second order: the scheme converges to the kernel's solution, and to nothing else.
    assert errors[-1] < 1e-3
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def test_shock_is_the_inviscid_solution_of_a_monotone_scheme(shock):
    problem, solved = shock
    x = problem.queries.points[:, 0]
    errors = [
        np.abs(inviscid_by_godunov(n, problem.times, x) - solved.arrays["value_inviscid"]).max()
        for n in (501, 1001, 2001)
    ]
    assert errors[-1] < 1e-2
    assert errors[0] > 1.4 * errors[1] > 1.4**2 * errors[2]


def test_shock_forms_when_and_where_it_should(shock):
    problem, solved = shock
    assert solved.checks["breaking_time"] == pytest.approx(0.25, rel=1e-4)
    # At t = 0.6 it sits at 2 tilt t, between minimisers that are far apart; at t = 0.1 there is none.
    start = solved.arrays["atoms_points"][solved.arrays["minimizer"], 0]
    x = problem.queries.points[:, 0]
    jump = np.diff(start[2])
    assert x[jump.argmax()] <= 2 * 0.2 * 0.6 <= x[jump.argmax() + 1]
    assert jump.max() > 0.9
    assert np.diff(start[0]).max() < 0.3


def test_shock_residual_and_reference(shock):
    _, solved = shock
    assert solved.checks["residual_relative"] < 1e-12
    assert solved.checks["reference"] < 1e-4
    assert np.isfinite(solved.arrays["reference"]).sum() == len(solved.arrays["residual"])


def test_reference_is_the_integral_in_the_plane(tmp_path: Path):
    """Against one adaptive two-dimensional quadrature of the Hopf-Cole integral."""
    problem = smaller(
        "anisotropic",
        tmp_path,
        ('function = "ring"\nparameters = { radius = 1.0 }', 'function = "sines"'),
        ("[[1.0, 0.6], [0.6, 0.7]]", "[1.0, 0.5]"),
        ("shape = 120", "shape = 10"),
        ("lower = -2.8\nupper = 2.8", "lower = -1.0\nupper = [1.0, 2.0]"),
    )
    assert has_reference(problem)
    x, t, eps = np.array([0.3, -0.2]), 0.6, problem.eps

    def phi(b: float, a: float) -> float:
        cost = (x[0] - a) ** 2 / (4 * t) + (x[1] - b) ** 2 / (4 * t * 0.5)
        return np.exp(-(np.sin(a) + np.sin(b) + cost) / eps) / (4 * np.pi * eps * t * np.sqrt(0.5))

    integral, _ = integrate.dblquad(phi, -1, 1, -1, 2, epsabs=0, epsrel=1e-10)
    np.testing.assert_allclose(reference(problem, x[None], t), -eps * np.log(integral), rtol=1e-9)


def test_anisotropic_is_the_integral_with_a_full_metric(tmp_path: Path):
    """Values by a brute-force trapezoidal sum of the continuum integral, on another and finer grid."""
    problem = smaller("anisotropic", tmp_path, ("shape = 71", "shape = 4"), ("[0.15, 0.3, 0.6]", "[0.3]"))
    solved = solve(problem)
    axis, h = np.linspace(-2.8, 2.8, 801, retstep=True)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    g, inverse = np.abs(np.hypot(a, b) - 1), np.linalg.inv(problem.metric)
    t, eps = 0.3, problem.eps
    exact = []
    for x in problem.queries.points:
        p, q = x[0] - a, x[1] - b
        cost = (inverse[0, 0] * p**2 + 2 * inverse[0, 1] * p * q + inverse[1, 1] * q**2) / (4 * t)
        total = np.exp(-(g + cost) / eps).sum() * h**2
        exact.append(-eps * np.log(total / (4 * np.pi * eps * t * np.sqrt(np.linalg.det(problem.metric)))))
    # The atoms' spacing is 0.047 and the datum has a kink: second order in that.
    np.testing.assert_allclose(solved.arrays["value"][0], exact, atol=2e-3)
    assert solved.checks["residual_relative"] < 1e-12


@pytest.mark.slow
def test_ten_dimensions_along_a_slice(tmp_path: Path):
    small = ("shape = 49", "shape = 7")
    errors = [
        solve(smaller("slice", tmp_path, small, ("count = 65536", f"count = {count}"))).checks["reference"]
        for count in (2**8, 2**15)
    ]
    assert errors[1] < 0.03
    assert errors[0] > 2 * errors[1]


def test_digits_agree_with_scikit_learn():
    problem = read_digits(_problem.example("digits"))
    solved = solve_digits(problem)
    arrays, checks = solved.arrays, solved.checks
    assert checks["agreement"] == checks["nearest_agreement"] == 360 == len(arrays["query_labels"])
    assert checks["probability_difference"] < 1e-12
    assert checks["accuracy"] == checks["sklearn_accuracy"] > 0.95
    assert checks["nearest_accuracy"] == checks["sklearn_nearest_accuracy"] > 0.95
    # The attribution weights and their entropy, written out for some queries.
    for m in (0, 17, 359):
        squares = ((arrays["queries"][m] - arrays["atoms_points"]) ** 2).sum(1)
        weights = np.exp((squares.min() - squares) / (2 * problem.bandwidth**2))
        weights /= weights.sum()
        np.testing.assert_allclose(arrays["top_weights"][m], np.sort(weights)[::-1][:12], rtol=1e-10)
        np.testing.assert_allclose(weights[arrays["top_atoms"][m]], arrays["top_weights"][m], rtol=1e-10)
        np.testing.assert_allclose(arrays["entropy"][m], -(weights * np.log(weights)).sum(), rtol=1e-9)
        assert arrays["minimizer"][m] == squares.argmin()


@pytest.mark.parametrize("x64", [False, True])
def test_precision_is_the_problems_and_not_the_users(x64: bool, tmp_path: Path):
    changes = (
        ("count = 100 }", "count = 1 }"),
        ("shape = 4800", "shape = 300"),
        ("shape = 641", "shape = 5"),
    )
    dtype = np.dtype(np.float32 if x64 else np.float64)
    with jax.enable_x64(x64):
        extra = ("eps = 0.02", f'eps = 0.1\ndtype = "{dtype.name}"')
        solved = solve(smaller("shock", tmp_path, *changes, extra))
        assert solved.arrays["value"].dtype == dtype
        assert solved.arrays["atoms_points"].dtype == dtype
        assert jax.config.read("jax_enable_x64") == x64


def test_queries_in_many_blocks_are_the_queries_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    csv = _problem.example("atoms").with_suffix(".csv").read_text()
    (tmp_path / "atoms.csv").write_text(csv)
    problem = smaller("atoms", tmp_path, ("shape = 321", "shape = 11"))
    whole = solve(problem).arrays
    steps = []
    monkeypatch.setattr("hjax.experiments._solve._PAIRS", 30 * 13)
    parts = solve(problem, lambda fraction, doing: steps.append(fraction)).arrays
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, rtol=1e-12, atol=1e-12, err_msg=name)
    assert steps == sorted(steps)
    assert steps[-1] == 1


@pytest.mark.parametrize("name", _functions.names())
def test_functions_take_a_point_and_say_what_they_are(name: str):
    function = _functions.bind(name, _functions.parameters(name))
    y = np.array([0.3, -1.2, 0.5])
    value = float(function.g(jax.numpy.asarray(y)))
    assert np.isfinite(value)
    if function.summand is not None:
        assert value == pytest.approx(sum(float(function.summand(np.asarray(s))) for s in y), rel=1e-5)


def test_staged_files_come_together_or_not_at_all(tmp_path: Path):
    with _files.staged(tmp_path / "a" / "b", ["x", "y"]) as folder:
        (folder / "x").write_text("1")
        (folder / "y").write_text("2")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["x", "y"]

    def broken() -> None:
        with _files.staged(tmp_path / "a" / "b", ["x", "y"]) as folder:
            (folder / "x").write_text("3")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["x", "y"]
    assert (tmp_path / "a" / "b" / "x").read_text() == "1"
