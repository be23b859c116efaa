"""What a state-space model learns: to wait, and to forecast a chaotic series better than linear predictors do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hjax


@pytest.mark.slow
def test_it_learns_to_wait():
    """White noise, to be given back ten steps later: a predictor without memory has an error of 1."""
    delay, burn = 10, 30
    noise = np.random.default_rng(0).normal(size=(24, 200)).astype(np.float32)
    late = np.roll(noise, delay, axis=1)

    def loss(model, x, y):
        return jnp.mean((jax.vmap(model)(x[..., None])[..., 0] - y)[:, burn:] ** 2)

    model = eqx.filter_jit(lambda k: hjax.nn.SSM(1, 1, 32, dt_min=0.05, dt_max=0.3, key=k))(jax.random.key(0))
    fitted = hjax.training.fit(
        model, (noise[:16], late[:16]), steps=400, loss=loss, optimizer=optax.adam(1e-2), progress=False
    )
    error = np.sqrt(eqx.filter_jit(loss)(fitted.model, noise[16:], late[16:]))
    assert error < 0.5, error
    # It did so by a response that is largest at the delay.
    impulse = np.zeros((40, 1), np.float32)
    impulse[0] = 1
    response = np.asarray(eqx.filter_jit(lambda m, x: m(x))(fitted.model, impulse))[:, 0]
    assert np.argmax(np.abs(response)) == delay


HORIZON, WINDOW, BURN = 15, 256, 64


def mackey_glass(count):
    """`x' = 0.2 x(t - 17)/(1 + x(t - 17)^10) - 0.1 x` by Runge and Kutta with step 0.1, once a unit of time."""
    per, lag = 10, 170
    h, total = 1 / per, (count + 300) * per
    x = np.empty(total + lag + 1)
    x[: lag + 1] = 1.2 + 0.1 * np.sin(np.arange(lag + 1) / lag)

    def slope(now, before):
        return 0.2 * before / (1 + before**10) - 0.1 * now

    for i in range(lag, lag + total):
        before, after = x[i - lag], x[i - lag + 1]
        middle = (before + after) / 2
        k1 = slope(x[i], before)
        k2 = slope(x[i] + h / 2 * k1, middle)
        k3 = slope(x[i] + h / 2 * k2, middle)
        k4 = slope(x[i] + h * k3, after)
        x[i + 1] = x[i] + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    series = x[lag + 300 * per :: per][:count]
    return (series - series.mean()) / series.std()


class Forecaster(eqx.Module):
    """An encoder, the linear system, and a gated readout."""

    encoder: eqx.nn.Linear
    ssm: hjax.nn.SSM
    value: eqx.nn.Linear
    gate: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.encoder = eqx.nn.Linear(1, 4, key=keys[0])
        self.ssm = hjax.nn.SSM(4, 16, 32, initialization="s4d_lin", dt_min=0.02, dt_max=0.2, key=keys[1])
        self.value, self.gate = (eqx.nn.Linear(16, 32, key=k) for k in keys[2:4])
        self.readout = eqx.nn.Linear(32, 1, key=keys[4])

    def __call__(self, x):
        features = self.ssm(jax.vmap(self.encoder)(x))
        return jax.vmap(lambda v: self.readout(self.value(v) * jax.nn.sigmoid(self.gate(v))))(features)


def _windows(series, count):
    starts = np.linspace(0, len(series) - WINDOW - HORIZON, count).astype(int)
    cut = np.stack([series[i : i + WINDOW + HORIZON] for i in starts])[..., None].astype(np.float32)
    return cut[:, :WINDOW], cut[:, HORIZON:]


def _autoregression(train, test, order):
    """Least squares on `order` lags, with the error of its forecasts `HORIZON` steps ahead."""

    def rows(z):
        lags = [z[order - 1 - j : len(z) - HORIZON - j] for j in range(order)]
        return np.stack([*lags, np.ones(len(lags[0]))], axis=1), z[order - 1 + HORIZON :]

    weights = np.linalg.lstsq(*rows(train), rcond=None)[0]
    matrix, target = rows(test)
    return np.sqrt(np.mean((matrix @ weights - target) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "share"), [(150, 0.6), (1200, 0.1)], ids=["light", "full"])
def test_it_forecasts_mackey_glass_better_than_persistence_and_autoregressions(steps, share):
    """15 steps ahead; the error is to be at most a share of that of the best of four autoregressions."""
    series = mackey_glass(3000)
    train, test = series[:2000], series[2000:]
    data, held_out = _windows(train, 32), _windows(test, 6)

    def loss(model, x, y):
        return jnp.mean((jax.vmap(model)(x) - y)[:, BURN:] ** 2)

    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    model = eqx.filter_jit(Forecaster)(jax.random.key(0))
    fitted = hjax.training.fit(model, data, steps=steps, batch_size=8, loss=loss, optimizer=optimizer, progress=False)
    error = np.sqrt(eqx.filter_jit(loss)(fitted.model, *held_out))
    persistence = np.sqrt(np.mean((held_out[0] - held_out[1])[:, BURN:] ** 2))
    linear = min(_autoregression(train, test, order) for order in (16, 32, 64, 128))
    figures = f"error {error:.4f}, persistence {persistence:.3f}, the best autoregression {linear:.3f}"
    assert error < share * linear < persistence, figures
