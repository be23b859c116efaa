"""Two solvers that know nothing of kernels or minima: a pseudo-spectral one (exponax) and WENO (hj_reachability)."""

import exponax
import hj_reachability
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import simpson

import hjax

PERIOD = 2 * np.pi


def test_exponax_converges_at_its_own_order_to_hopf_cole(double):
    """u_t + u_x^2 = eps u_xx, u(x, 0) = cos x, periodic: exponential Runge-Kutta of order 2 in time.

    exponax leaves the mean out of a gradient-norm nonlinearity; it falls by the integral of mean(u_x^2).
    """
    eps, time, n = 0.25, 0.5, 64
    x = np.arange(n) * PERIOD / n
    initial = hjax.InitialData.from_function(
        lambda y: jnp.cos(y[0]), hjax.quadrature.grid(-3 * PERIOD, 4 * PERIOD, 1400)
    )
    want = np.asarray(hjax.HopfCole(initial, eps, normalize=True)(x[:, None], time))
    steps, errors, means = (20, 40, 80), [], []
    for count in steps:
        stepper = exponax.stepper.generic.GeneralGradientNormStepper(
            1, PERIOD, n, time / count, linear_coefficients=(0.0, 0.0, eps), gradient_norm_scale=2.0, order=2
        )
        path = exponax.rollout(stepper, count, include_init=True)(jnp.cos(x)[None])[:, 0]
        errors.append(np.abs(path[-1] - (want - want.mean())).max())
        slopes = np.fft.ifft(1j * np.fft.fftfreq(n, 1 / n) * np.fft.fft(path)).real
        means.append(abs(-simpson(np.square(slopes).mean(axis=1), dx=time / count) - want.mean()))
    assert 1.8 < -np.polyfit(np.log(steps), np.log(errors), 1)[0] < 2.3
    assert errors[-1] < 2e-5
    assert means[-1] < 2e-5, means


class _SquaredMomentum(hj_reachability.Dynamics):
    """H(p) = |p|^2, without controls."""

    def __init__(self):
        super().__init__("min", "max", None, None)

    def __call__(self, state, control, disturbance, time):
        raise NotImplementedError

    def optimal_control_and_disturbance(self, state, time, grad_value):
        raise NotImplementedError

    def hamiltonian(self, state, time, value, grad_value):
        return jnp.sum(grad_value**2)

    def partial_max_magnitudes(self, state, time, value, grad_value_box):
        return 2 * jnp.maximum(jnp.abs(grad_value_box.lo), jnp.abs(grad_value_box.hi))


@pytest.mark.parametrize(
    ("d", "counts", "atoms"), [(1, (40, 80, 160), 3000), pytest.param(2, (20, 40, 80), 240, marks=pytest.mark.slow)]
)
def test_hj_reachability_converges_to_hopf_lax_past_the_shock(double, d, counts, atoms):
    """u_t + |grad u|^2 = 0 from a sum of cosines, at t = 0.75 where characteristics have crossed (t* = 0.5)."""
    time = 0.75
    rule = hjax.quadrature.grid([-2.0] * d, [PERIOD + 2] * d, atoms)  # |grad g| <= 1 an axis: 2 t away at most
    u = hjax.HopfLax(hjax.InitialData.from_function(lambda y: jnp.sum(jnp.cos(y)), rule))
    errors = []
    for n in counts:
        grid = hj_reachability.Grid.from_lattice_parameters_and_boundary_conditions(
            hj_reachability.sets.Box(np.zeros(d), np.full(d, PERIOD)), (n,) * d, periodic_dims=tuple(range(d))
        )
        settings = hj_reachability.SolverSettings.with_accuracy("medium")
        start = jnp.sum(jnp.cos(grid.states), axis=-1)
        got = hj_reachability.step(settings, _SquaredMomentum(), grid, 0.0, start, time, progress_bar=False)
        errors.append(float(jnp.mean(jnp.abs(got - u(grid.states, time)))))
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] > 0.7
    assert errors[-1] < 0.02
