"""The checks of `hjax.shard` that want many devices: run as a program of its own, one line of JSON per check.

`test_sharded.py` runs it, as `XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m
tests.reductions.eight_devices`; names of checks after that run these alone. The other side is `oracles.naive`, the
textbook expression on the present atoms in float64, and mpmath.
"""

import functools
import json
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import hjax
from hjax.reductions import gibbs_entropy

from .. import oracles, tolerances
from ..conftest import enable_x64

CLOUD = Mesh(jax.devices(), ("cloud",))
GRID = Mesh(np.array(jax.devices()).reshape(2, 4), ("rows", "cloud"))
LAYOUTS = {
    "atoms": {"mesh": CLOUD, "atoms": "cloud"},
    "queries": {"mesh": CLOUD, "queries": "cloud"},
    "both": {"mesh": GRID, "atoms": "cloud", "queries": "rows"},
    "atoms over both axes": {"mesh": GRID, "atoms": ("rows", "cloud")},
}


class Inputs(NamedTuple):
    """All differentiable inputs; `theta` is the scale of the cost."""

    x: Any
    y: Any
    g: Any
    payload: Any
    eps: Any
    theta: Any


@functools.cache
def inputs() -> Inputs:
    """Sizes that no mesh here divides. Of eight devices the third has absent atoms only, infinitely far away."""
    rng = np.random.default_rng(0)
    x, y, g, payload = (rng.normal(size=s) for s in ((7, 2), (37, 2), (37,), (37, 2)))
    g[10:16] = g[30] = np.inf
    y[10:15] = np.inf
    y[36], g[36] = y[3], g[3]
    return Inputs(x, y, g, payload, np.float64(0.5), np.float64(0.75))


def cast(given: Inputs, dtype: Any) -> Inputs:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), given)


class Stiffness(eqx.Module):
    """A user's cost."""

    stiffness: Array

    def __call__(self, x: Array, y: Array) -> Array:
        return jnp.sum(self.stiffness * jnp.sqrt(1 + (x - y) ** 2))


def reductions(layout: str | None, **options: Any) -> Callable[[Inputs], Any]:
    """Value, mean, hard value, index and entropy as a function of all inputs; unsharded for None."""
    sharded = functools.partial(hjax.shard, **LAYOUTS[layout]) if layout else lambda reduction: reduction

    def run(a: Inputs) -> Any:
        options_here = {"cost": hjax.SquaredEuclidean(a.theta)} | options
        soft = sharded(hjax.softmin)(a.x, a.y, a.g, eps=a.eps, payload=a.payload, **options_here)
        hard = sharded(hjax.hardmin)(a.x, a.y, a.g, **options_here)
        return *soft, *hard, sharded(gibbs_entropy)(a.x, a.y, a.g, eps=a.eps, **options_here)

    return run


def textbook(present: np.ndarray) -> Callable[[Inputs], Any]:
    """The same five by textbook expressions on the present atoms alone, to be run in float64."""
    keep = np.flatnonzero(present)

    def run(a: Inputs) -> Any:
        def cost(x: Array, y: Array) -> Array:
            return a.theta * jnp.sum((x - y) ** 2)

        value, mean = oracles.naive(a.x, a.y, a.g, a.eps, cost, a.payload, present=present, causal=False)
        total = jax.vmap(lambda x: jax.vmap(lambda y: cost(x, y))(a.y[keep]))(a.x) + a.g[keep]
        logits = (value[:, None] - total) / a.eps
        entropy = -jnp.sum(jnp.exp(logits) * logits, axis=1)
        return value, mean, total.min(axis=1), jnp.asarray(keep)[total.argmin(axis=1)], entropy

    return run


def derivatives(function: Callable[[Inputs], Any], order: int, a: Inputs) -> dict[str, Any]:
    """Results; the gradient of a nonlinear functional of all; the Hessian of one of value and mean, times a vector."""
    rng = np.random.default_rng(1)
    m, p = a.x.shape[0], a.payload.shape[1]
    weights = [rng.normal(size=s) for s in ((m,), (m, p), (m,), (m,))]
    direction = jax.tree.map(lambda b: jnp.asarray(rng.normal(size=b.shape), b.dtype), a)

    def functional(a: Inputs) -> tuple[Array, Any]:
        value, mean, hard, index, entropy = function(a)
        moving = (value, mean) if order == 2 else (value, mean, hard, entropy)
        finite = [jnp.where(jnp.isinf(b), 0, b) for b in moving]
        return sum(jnp.vdot(w, jnp.sin(b)) for w, b in zip(weights, finite, strict=False)), (*moving, index)

    if order == 2:
        gradient, product, results = jax.jvp(jax.grad(functional, has_aux=True), (a,), (direction,), has_aux=True)
        return {"results": results, "gradient": gradient, "Hessian-vector product": product}
    if order == 1:
        gradient, results = jax.grad(functional, has_aux=True)(a)
        return {"results": results, "gradient": gradient}
    return {"results": functional(a)[1]}


@functools.cache
def truth(order: int) -> dict[str, Any]:
    run = jax.jit(functools.partial(derivatives, textbook(np.isfinite(inputs().g)), order))
    return jax.tree.map(np.asarray, run(cast(inputs(), np.float64)))


@functools.cache
def program(layout: str, implementation: str, order: int) -> Callable[[Inputs], Any]:
    return jax.jit(functools.partial(derivatives, reductions(layout, implementation=implementation), order))


def agrees(layout: str, implementation: str, order: int) -> None:
    with enable_x64(True):
        run, given = program(layout, implementation, order), cast(inputs(), np.float64)
        want, first, second = truth(max(order, 1)), run(given), run(given)
    for kind, numbers in first.items():
        for mine, again, theirs in zip(*map(jax.tree.leaves, (numbers, second[kind], want[kind])), strict=True):
            # Second derivatives are of the order 100 here.
            np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-12, err_msg=kind)
            np.testing.assert_array_equal(mine, again, err_msg="a second run differs")


def check_atoms_split_agree_to_second_derivatives() -> None:
    agrees("atoms", "dense", 2)


def check_atoms_and_queries_split_agree_to_first_derivatives() -> None:
    agrees("both", "streaming", 1)


def check_queries_split_agree() -> None:
    agrees("queries", "dense", 0)


def check_atoms_split_over_two_axes_agree() -> None:
    agrees("atoms over both axes", "streaming", 0)


def spread(mesh: Mesh, spec: P, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, spec))


def compiled(layout: str, function: Callable[..., Any], m: int, n: int, d: int = 3) -> Any:
    """`function(x, y, g)` compiled for arrays that lie as the layout has them."""
    places = LAYOUTS[layout]
    x, y = (places.get(key) for key in ("queries", "atoms"))
    shapes = (x, m, d), (y, n, d), (y, n)
    return jax.jit(function).lower(*[spread(places["mesh"], P(axes), *s) for axes, *s in shapes]).compile()


def collectives(executable: Any) -> list[str]:
    """Every operation between devices of a compiled program, with its result; of a reduction also what it computes."""
    found, roots, name = [], {}, ""
    for line in executable.as_text().splitlines():
        if opens := re.match(r"(?:ENTRY )?%?(\S+) \(.*\{$", line):
            name = opens[1]
        if root := re.match(r"\s*ROOT \S+ = \S+ (\w+)\(", line):
            roots[name] = root[1]
        call = re.search(
            r" = (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|ragged-all-to-all|collective-[a-z]+)"
            r"(?:-start)?\(",
            line,
        )
        if call:
            applied = re.search(r"to_apply=%?([^\s,]+)", line)
            found.append((call[2], applied and applied[1], re.sub(r"\{[\d,]*\}", "", call[1])))
    return sorted(" ".join([kind, *([roots[applied]] if applied else []), what]) for kind, applied, what in found)


def check_a_soft_min_is_one_minimum_and_one_sum_of_its_own_size() -> None:
    def run(x: Array, y: Array, g: Array) -> Any:
        return sharded(x, y, g, eps=0.5, payload=y)

    for layout, rows in (("atoms", 16), ("both", 8)):
        sharded = hjax.shard(hjax.softmin, **LAYOUTS[layout])
        want = [f"all-reduce add f32[{rows},4]", f"all-reduce minimum f32[{rows}]"]
        assert collectives(compiled(layout, run, 16, 64)) == want


def check_a_hard_min_is_three_minima_and_one_sum() -> None:
    executable = compiled("atoms", hjax.shard(hjax.hardmin, **LAYOUTS["atoms"]), 16, 64)
    minima = [f"all-reduce minimum {what}" for what in ("f32[16]", "f32[]", "s32[16]")]
    assert collectives(executable) == ["all-reduce add f32[16]", *minima]


def check_split_queries_need_nobody_else() -> None:
    sharded = hjax.shard(hjax.softmin, **LAYOUTS["queries"])
    assert collectives(compiled("queries", lambda x, y, g: sharded(x, y, g, eps=0.5, payload=y), 16, 64)) == []


def check_a_gradient_moves_no_atom_and_holds_no_matrix() -> None:
    m, n = 4096, 65_536
    sharded = hjax.shard(hjax.softmin, **LAYOUTS["both"])

    def run(x: Array, y: Array, g: Array) -> Array:
        # Any cost will do; this one compiles in a third of the time.
        cost = Stiffness(jnp.ones(1))
        return jnp.sum(sharded(x, y, g, eps=0.5, cost=cost, payload=y, implementation="streaming").mean ** 2)

    executable = compiled("both", jax.grad(run, (0, 1, 2)), m, n, d=1)
    found = collectives(executable)
    assert found
    assert all(what.startswith("all-reduce") for what in found), found
    # Gradients of atoms are summed over the two devices that share them, 16,384 each; nothing is of size N.
    assert not any(str(n) in what for what in found), found
    # One device's block of the matrix is 2048 x 16,384 float32, 128 MiB.
    assert executable.memory_analysis().temp_size_in_bytes < 16 * 2**20


def check_pruned_agrees() -> None:
    rng = np.random.default_rng(2)
    x, y = (rng.uniform(size=(k, 2)).astype(np.float32) for k in (64, 16_384))
    sharded = hjax.shard(hjax.hardmin, **LAYOUTS["atoms"])
    value, index = sharded(x, y, np.zeros(16_384, np.float32), implementation="pruned")
    least, first = oracles.hopf_lax(x.astype(np.float64), y.astype(np.float64), np.zeros(16_384), 0.25)
    np.testing.assert_allclose(value, least, rtol=1e-5)
    np.testing.assert_array_equal(index, first)


def check_accuracy_far_from_the_origin_and_at_every_temperature() -> None:
    rng = np.random.default_rng(3)
    x, y, g = (np.float32(rng.normal(size=s)) for s in ((3, 2), (40, 2), (40,)))
    x, y = x + np.float32(1e4), y + np.float32(1e4)
    sharded = hjax.shard(hjax.softmin, **LAYOUTS["atoms"])
    run = jax.jit(lambda x, y, g, eps: sharded(x, y, g, eps=eps, payload=y - 1e4))
    for eps in np.float32([1e-8, 1e-4, 1e-2, 1, 1e6]):
        # An offset that float32 holds exactly costs the value its digits, the weights none.
        for offset in np.float32([0, 256]):
            moved = np.round(g * 2**14) / 2**14
            value, mean = run(x, y, moved + offset, eps)
            for i in range(3):
                oracle = oracles.softmin(oracles.costs(x[i], y, oracles.squared()), moved, float(eps))
                error = tolerances.value_error(np.float32, oracle.scale + float(offset))
                assert abs(float(oracle.value) + offset - float(value[i])) <= error
                weight = tolerances.weight_error(np.float32, oracle.scale, float(eps))
                want = oracle.mean(oracles.exact(y - np.float32(1e4))).astype(float)
                np.testing.assert_allclose(mean[i], want, rtol=0, atol=4 * weight)


def check_rounding_far_coarser_than_the_temperature_stays_finite() -> None:
    rng = np.random.default_rng(4)
    x, y, g = (jnp.float32(rng.normal(size=s)) for s in ((5, 2), (40, 2), (40,)))
    sharded = hjax.shard(hjax.softmin, **LAYOUTS["atoms"])

    def run(x: Array, y: Array, g: Array) -> tuple[Array, Array]:
        value, mean = sharded(x, y, g + 1e6, eps=1e-8, payload=y)
        return value.sum() + mean.sum(), value

    (_, value), gradients = jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(x, y, g)
    least, _ = oracles.hopf_lax(np.float64(x), np.float64(y), np.float64(g) + 1e6, 0.25)
    np.testing.assert_allclose(value, least, rtol=4 * 2**-23)
    assert all(np.isfinite(a).all() for a in gradients)


def check_ties_give_the_lowest_index() -> None:
    y = np.tile(np.float32([[0, 0], [1, 1], [2, 2]]), (8, 1))  # each atom once on every device
    for layout in ("atoms over both axes", "both"):
        value, index = hjax.shard(hjax.hardmin, **LAYOUTS[layout])(y[:3], y, np.full(24, 7, np.float32))
        assert index.tolist() == [0, 1, 2]
        assert value.tolist() == [7, 7, 7]


def check_no_atom_present_gives_inf_with_zero_derivatives() -> None:
    with enable_x64(True):
        given = cast(inputs()._replace(g=np.full(37, np.inf)), np.float64)
        got = program("both", "streaming", 1)(given)
    value, mean, hard, entropy, index = got["results"]
    assert np.isposinf(value).all()
    assert np.isposinf(hard).all()
    for zero in (mean, index, entropy, *got["gradient"]):
        assert not np.any(zero)


def check_a_query_that_is_nan_shows_and_spoils_no_other() -> None:
    with enable_x64(True):
        given = cast(inputs(), np.float64)
        got = program("both", "streaming", 1)(given._replace(x=given.x.at[2].set(jnp.nan)))
    for result in got["results"][:4]:
        assert np.isnan(result[2]).all()
        assert np.isfinite(np.delete(result, 2, axis=0)).all()


def check_any_cost_has_the_derivative_in_what_it_holds_and_reads() -> None:
    # With three atoms most devices have none; the logarithm would not forgive one at the origin.
    x, y, g = jnp.ones((2, 2)), jnp.array([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0]]), jnp.array([0.0, 1.0, 0.5])

    def unsharded(cost: Callable[[Array, Array], Array]) -> Array:
        return oracles.naive(x, y, g, 0.5, cost, y, present=[True] * 3, causal=False)[0].sum()

    def sharded(cost: Callable[[Array, Array], Array]) -> Array:
        return hjax.shard(hjax.softmin, **LAYOUTS["atoms"])(x, y, g, eps=0.5, cost=cost).value.sum()

    def logarithmic(theta: Array) -> Callable[[Array, Array], Array]:
        return lambda x, y: jnp.sum(theta * jnp.log(y / x) ** 2)

    theta = jnp.array([0.5, 1.5])
    for make, wrap in ((Stiffness, jax.jit), (logarithmic, lambda function: function)):
        want = jax.jit(jax.grad(lambda theta, make=make: unsharded(make(theta))))(theta)
        got = wrap(jax.grad(lambda theta, make=make: sharded(make(theta))))(theta)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def check_vmap_over_clouds_and_temperatures() -> None:
    rng = np.random.default_rng(5)
    x, y, g = (rng.normal(size=s) for s in ((3, 5, 2), (3, 10, 2), (3, 10)))
    eps = np.array([0.5, 1.0, 2.0])

    def run(reduction: Callable[..., Array]) -> Callable[..., Any]:
        return jax.jit(jax.vmap(jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(reduction(*a))), (0, 1, 2, 3))))

    sharded = hjax.shard(hjax.softmin, **LAYOUTS["both"])
    with enable_x64(True):
        got = run(lambda x, y, g, eps: sharded(x, y, g, eps=eps).value)(x, y, g, eps)
        want = run(
            lambda x, y, g, eps: oracles.naive(
                x, y, g, eps, lambda a, b: jnp.sum((a - b) ** 2), y, present=[True] * 10, causal=False
            )[0]
        )(x, y, g, eps)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def check_explicit_meshes_take_arrays_that_they_hold() -> None:
    mesh = jax.make_mesh((8,), ("cloud",), axis_types=(AxisType.Explicit,))
    given = cast(inputs(), np.float32)
    y, g = (jax.device_put(a[:32], NamedSharding(mesh, P("cloud"))) for a in (given.y, given.g))
    want = hjax.softmin(given.x, given.y[:32], given.g[:32], eps=0.5).value

    def run(x: Array, y: Array, g: Array, **split: str) -> Array:
        return hjax.shard(hjax.softmin, mesh=mesh, **split)(x, y, g, eps=0.5).value

    # One whose results need no change of place, and one where they are cut and reshaped.
    slope, value = jax.jit(jax.grad(lambda x: (lambda u: (u.sum(), u))(run(x, y, g, atoms="cloud")), has_aux=True))(
        given.x
    )
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert np.isfinite(slope).all()
    value = run(given.x[:6].reshape(2, 3, 2), y, g, queries="cloud")
    np.testing.assert_allclose(value.ravel(), want[:6], rtol=1e-5)


def check_shapes_and_dtypes_are_those_of_the_reduction() -> None:
    given = cast(inputs(), np.float16)
    for batch in ((), (0,), (2, 3)):
        x = given.x[: int(np.prod(batch))].reshape(*batch, 2)
        sharded = hjax.shard(hjax.softmin, **LAYOUTS["both"])
        value, mean = jax.eval_shape(functools.partial(sharded, eps=0.5, payload=given.y), x, given.y, given.g)
        assert (value.shape, mean.shape) == (batch, (*batch, 2))
        assert value.dtype == mean.dtype == np.float16


def check_the_example_of_the_readme_runs() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = readme[readme.index("## When one device is not enough") :]
    (example, *_) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example.replace("100_000", "1_000"), names)
    y = names["y"]
    want, mean = hjax.softmin(y[:100], y, jnp.zeros(1_000), eps=0.1, payload=y)
    np.testing.assert_allclose(names["value"], want, atol=1e-5)
    np.testing.assert_allclose(names["mean"], mean, atol=1e-5)


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}


def main(names: list[str]) -> None:
    assert len(jax.devices()) == 8
    for name in names or CHECKS:
        start, error = time.perf_counter(), None
        try:
            CHECKS[name]()
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"name": name, "error": error, "seconds": round(time.perf_counter() - start, 2)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
