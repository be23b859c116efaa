"""`python -m benchmarks.dynamics [--rounds R] [--out FILE]`: state and co-state in one solve, against others.

The same equations, `x' = F(x, t)` and `p' = -(dF/dx)^T p` or those of a Hamiltonian that is not linear in p, by
`hjax.dynamics.solve_characteristics`, by diffrax with the field written out by hand (with the action, the same
number of equations, and without), and by torchdiffeq (without) where it is installed. For a field the action is
constant and hjax leaves it out, so there "no action" is the like of it; for the other Hamiltonian "by hand" is. All
with the Dormand-Prince method of order five at the same tolerances, in single precision. Every round runs all of
them in turn; ratios are medians over rounds of ratios within a round. Compilation is apart; the error is the
largest in x and p against a tight solve in double precision.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

import hjax

from .record import machine, save

RTOL, ATOL, END = 1e-5, 1e-6, 4.0
CONTROLLER = diffrax.PIDController(rtol=RTOL, atol=ATOL)


class Problem(NamedTuple):
    """Starts, the Hamiltonian for hjax, and x', p' by hand for JAX, torch and NumPy (for scipy); action'."""

    name: str
    x: np.ndarray
    p: np.ndarray
    hamiltonian: Any
    by_hand: Callable[..., Any]
    gain: Callable[..., Any]
    in_torch: Callable[..., Any]
    in_numpy: Callable[..., Any]


def _constant(t: Any, x: Any, p: Any, velocity: Any) -> Any:
    del t, x, p, velocity
    return jnp.zeros(())


def network(size: int, width: int) -> Problem:
    """The field `V tanh(W x + b + t c)` of a residual network, and its co-state."""
    rng = np.random.default_rng(size)
    w, v = rng.normal(size=(width, size)) / size**0.5, rng.normal(size=(size, width)) / width**0.5
    b, c = rng.normal(size=(2, width))
    single = [jnp.asarray(a, jnp.float32) for a in (w, v, b, c)]

    def field(x: Any, t: Any) -> Any:
        w, v, b, c = single
        return v @ jnp.tanh(w @ x + b + t * c)

    def by_hand(t: Any, y: Any, args: Any) -> Any:
        del args
        velocity, pull = jax.vjp(lambda x: field(x, t), y[0])
        return velocity, -pull(y[1])[0]

    def in_torch(torch: Any) -> Any:
        w_, v_, b_, c_ = (torch.tensor(a, dtype=torch.float32) for a in (w, v, b, c))

        def rates(t: Any, y: Any) -> Any:
            h = torch.tanh(w_ @ y[0] + b_ + t * c_)
            return v_ @ h, -((v_.T @ y[1]) * (1 - h * h)) @ w_

        return rates

    def in_numpy(t: float, y: np.ndarray) -> np.ndarray:
        h = np.tanh(w @ y[:size] + b + t * c)
        return np.concatenate([v @ h, -((v.T @ y[size:]) * (1 - h * h)) @ w])

    x, p = rng.normal(size=(2, size))
    return Problem(
        f"network, {size} states, {width} units", x, p, hjax.Advection(field), by_hand, _constant,
        in_torch, in_numpy,
    )  # fmt: skip


def waves(size: int) -> Problem:
    """`H = sum (1 + sin(x)^2/2) p^2 + cos(x)`, not linear in p and not separable; the derivatives written out."""

    def hamiltonian(x: Any, p: Any, t: Any) -> Any:
        del t
        return jnp.sum((1 + jnp.sin(x) ** 2 / 2) * p**2 + jnp.cos(x))

    def rates(xp: Any, x: Any, p: Any) -> Any:
        sine, cosine = xp.sin(x), xp.cos(x)
        return 2 * (1 + sine**2 / 2) * p, -sine * cosine * p**2 + sine

    def in_numpy(t: float, y: np.ndarray) -> np.ndarray:
        del t
        return np.concatenate(rates(np, y[:size], y[size:]))

    x, p = np.random.default_rng(size).normal(size=(2, size))
    return Problem(
        f"|p|^2 in a wave field, {size} states", x, p, hamiltonian, lambda t, y, args: rates(jnp, *y),
        lambda t, x, p, v: jnp.sum(p * v) - hamiltonian(x, p, t),
        lambda torch: lambda t, y: rates(torch, *y), in_numpy,
    )  # fmt: skip


def runners(problem: Problem, many: int) -> dict[str, Callable[[], Any]]:
    """Each solves `many` times in one call, from starts a little apart, and gives x and p at the end."""
    lift = (1 + 1e-3 * np.arange(many)[:, None]).astype(np.float32)
    starts = (jnp.asarray(lift * problem.x, jnp.float32), jnp.asarray(lift * problem.p, jnp.float32))
    solver = diffrax.Dopri5()

    @jax.jit
    def ours(x: Any, p: Any) -> Any:
        def one(start: Any) -> Any:
            found = hjax.dynamics.solve_characteristics(
                problem.hamiltonian, *start, t1=END, solver=solver, stepsize_controller=CONTROLLER
            )
            ends: Any = found.ys
            return ends[0][-1], ends[1][-1]

        return jax.lax.map(one, (x, p))

    def by_hand(action: bool) -> Callable[[], Any]:
        def rates(t: Any, y: Any, args: Any) -> Any:
            velocity, force = problem.by_hand(t, y[:2], args)
            return (velocity, force, problem.gain(t, *y[:2], velocity)) if action else (velocity, force)

        @jax.jit
        def solve(x: Any, p: Any) -> Any:
            def one(start: Any) -> Any:
                y0 = (*start, jnp.zeros(())) if action else start
                ends: Any = diffrax.diffeqsolve(
                    diffrax.ODETerm(rates), solver, 0.0, END, None, y0, stepsize_controller=CONTROLLER
                ).ys
                return ends[0][-1], ends[1][-1]

            return jax.lax.map(one, (x, p))

        return lambda: jax.block_until_ready(solve(*starts))

    made: dict[str, Callable[[], Any]] = {
        "hjax": lambda: jax.block_until_ready(ours(*starts)),
        "diffrax by hand": by_hand(True),
        "diffrax, no action": by_hand(False),
    }
    try:
        torch, torchdiffeq = importlib.import_module("torch"), importlib.import_module("torchdiffeq")
    except ImportError:
        return made
    rates, both = problem.in_torch(torch), [torch.tensor(np.asarray(a)) for a in starts]
    span = torch.tensor([0.0, END])

    def in_torch() -> Any:
        with torch.no_grad():
            ends = [
                torchdiffeq.odeint(rates, (x, p), span, rtol=RTOL, atol=ATOL, method="dopri5")
                for x, p in zip(*both, strict=True)
            ]
        return [np.stack([e[i][-1].numpy() for e in ends]) for i in range(2)]

    made["torchdiffeq"] = in_torch
    return made


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row per problem and implementation."""
    rows = []
    for problem, many in ((network(64, 256), 20), (network(256, 1024), 4), (waves(32), 20)):
        exact = integrate.solve_ivp(
            problem.in_numpy, (0, END), np.concatenate([problem.x, problem.p]), rtol=1e-10, atol=1e-10, method="DOP853"
        ).y[:, -1]
        made, compiled, errors = runners(problem, many), {}, {}
        for name, run in made.items():
            start = time.perf_counter()
            x, p = run()
            compiled[name] = time.perf_counter() - start
            first = np.concatenate([np.asarray(x)[0], np.asarray(p)[0]])
            errors[name] = float(np.abs(first - exact).max() / np.abs(exact).max())
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(rounds):
            for name, run in made.items():
                start = time.perf_counter()
                run()
                seconds[name].append((time.perf_counter() - start) / many)
        for name, times in seconds.items():
            rows.append(
                {
                    "problem": problem.name,
                    "implementation": name,
                    "seconds_per_solve": statistics.median(times),
                    "relative_error": errors[name],
                    "first_call_seconds": compiled[name],
                    "times_faster_than": {
                        other: statistics.median(b / a for a, b in zip(times, theirs, strict=True))
                        for other, theirs in seconds.items()
                        if other != name
                    },
                }
            )
    return rows


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dynamics", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dynamics.json")
    options = parser.parse_args()
    rows = measure(options.rounds)
    for row in rows:
        ratios = ", ".join(f"{v:.2f}x {k}" for k, v in row["times_faster_than"].items())
        print(
            f"{row['problem']:36} {row['implementation']:16} {1e6 * row['seconds_per_solve']:8.0f} us  "
            f"error {row['relative_error']:.0e}  {ratios}"
        )
    save(options.out, {"machine": machine(options.rounds) | {"diffrax": diffrax.__version__}, "rows": rows})


if __name__ == "__main__":
    main()
