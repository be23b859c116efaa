"""The theorem table: every verdict is the expected one, and a broken formula changes it."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import pytest

import hjax
from hjax.experiments import verify

# The items of the theory that this table must contain, written out so that none can be lost.
ITEMS = """3.1.a 3.1.b 3.1.c 3.2 4.1.a 4.1.b 4.1.c 4.1.d gauge.a gauge.b gauge.c 4.3.a 4.3.b 4.3.c 4.3.d 4.4
5.1.a 5.1.b 5.1.c 5.1.d 5.1.e T5 5.2 5.4.a 5.4.b 5.4.c 5.5.a 5.5.b 5.5.c
7.1.ii.a 7.1.ii.b 7.1.iii.a 7.1.iii.b 7.1.iii.c 7.1.iii.d 7.1.iv 7.1.v E.4.ii
8.4.a 8.4.b 8.4.c
eq6-7 4.2.a 4.2.b 4.2.c 4.2.d E.1 E.2 H.10 H.11 H.12 H.13
A C.class C.kernel D.1 D.2.a D.2.b D.2.c D.3.a D.3.b D.4 E.6 score
H.1 H.2 H.8 H.9 T6 T6.b exp.Q exp.A exp.B exp.C exp.D exp.E exp.F exp.G"""


def test_no_item_is_missing():
    assert set(ITEMS.split()) <= set(verify.items())


LONG = {"exp.A", "exp.B", "exp.C", "exp.E", "exp.F", "exp.G", "7.1.iii.b", "7.1.iii.d"}


@pytest.mark.parametrize("item", [pytest.param(i, marks=[pytest.mark.slow] * (i in LONG)) for i in verify.items()])
def test_verdict_is_the_expected_one(item):
    # T6 means T6.b as well.
    row = next(row for row in verify.run([item]) if row.item == item)
    assert row.verdict == row.expected, row.figure
    assert not row.changed
    assert not re.search(r"\bnan\b", row.figure)
    assert row.statement.endswith(".")


def test_a_prefix_selects_a_theorem():
    assert verify.select(["4.1"]) == ["4.1.a", "4.1.b", "4.1.c", "4.1.d"]
    assert verify.select(["GAUGE"]) == ["gauge.a", "gauge.b", "gauge.c"]
    assert verify.select(["7.1.ii"]) == ["7.1.ii.a", "7.1.ii.b"]
    assert verify.select(["T5", "3.2", "3"]) == ["3.1.a", "3.1.b", "3.1.c", "3.2", "T5"]
    assert verify.select() == verify.select([]) == verify.items()


@pytest.mark.parametrize("name", ["9.9", "4.1.", "7.1.i", ""])
def test_an_unknown_statement_is_named(name):
    with pytest.raises(ValueError, match=r"there is no statement '.*'; there are 3\.1\.a, "):
        verify.run(["3.2", name])


def test_rows_come_as_they_are_measured_and_the_precision_stays(precision):
    before = jax.config.jax_enable_x64
    seen = []
    rows = verify.run(["3.1.b", "T5"], seen.append)
    assert rows == seen
    assert [row.item for row in rows] == ["3.1.b", "T5"]
    assert jax.config.jax_enable_x64 == before
    assert json.loads(json.dumps([row._asdict() for row in rows]))[0]["verdict"] == "holds"


def _wrong_sign(self, t):
    return -_log_normalisation(self, t)


_log_normalisation = hjax.HopfCole.log_normalisation


def _half_cost(hamiltonian, t):
    return hjax.SquaredEuclidean(1 / (2 * t))


def _no_weights(self):
    return self.data.values


def _to_wrong_values(self, t, hamiltonian=None):
    """The dictionary without its quadratic term: g_j = -b_j."""
    return hjax.HopfCole(hjax.InitialData(2 * t * self.weight, -self.bias), self.eps)


def _hot(*arguments, eps, **options):
    return hjax.softmin(*arguments, eps=1.1 * eps, **options)


def _half_squares(scale):
    return hjax.SquaredEuclidean(scale / 2)


def _mean_of_states(self, other):
    return hjax.nn.AttentionState((self.output + other.output) / 2, self.log_partition + other.log_partition)


def _unturned(points, positions, limit):
    return points


def _both_at_once(self, state, drive):
    """Euler's step of both components of an LSTM."""
    return tuple(s + v for s, v in zip(state, self.field(state, drive), strict=True))


def _twice(momentum, final):
    return None, 2 * jax.numpy.asarray(momentum)


def _frozen_costate(hamiltonian, y0, *rest):
    solution, singular = _solve(hamiltonian, y0, *rest)
    return solution.__class__(**{**vars(solution), "ys": (solution.ys[0], y0[1][None], solution.ys[2])}), singular


def _module(name):
    return sys.modules[f"hjax.{name}"]


_solve = _module("dynamics._characteristics")._solve


@pytest.mark.parametrize(
    ("item", "target", "name", "broken"),
    [
        ("4.1.b", hjax.HopfCole, "log_normalisation", _wrong_sign),
        ("4.1.d", hjax.HopfCole, "log_normalisation", _wrong_sign),
        ("4.1.b", _module("solutions._hopf_cole"), "quadratic_cost", _half_cost),
        ("4.1.a", hjax.nn.LSELayer, "to_solution", _to_wrong_values),
        ("gauge.a", hjax.nn.LSELayer, "to_solution", _to_wrong_values),
        ("gauge.b", hjax.nn.LSELayer, "to_solution", _to_wrong_values),
        ("4.3.b", hjax.HopfCole, "log_normalisation", _wrong_sign),
        ("5.1.a", _module("solutions._hopf_lax"), "quadratic_cost", _half_cost),
        ("5.1.e", _module("solutions._hopf_lax"), "quadratic_cost", _half_cost),
        ("5.5.a", hjax.nn.LSTM, "step", _both_at_once),
        ("5.5.b", hjax.nn.activations, "softmin", _hot),
        ("5.5.c", hjax.nn.SwitchedLSTM, "step", _both_at_once),
        ("5.2", _module("dynamics._characteristics"), "_solve", _frozen_costate),
        ("5.4.b", _module("nn._generators"), "mean_exponential", jnp.ones_like),
        ("5.4.c", _module("nn._tropical_ssm"), "softmin", _hot),
        ("A", _module("solutions._hopf_cole"), "quadratic_cost", _half_cost),
        ("7.1.iii.a", hjax.HopfCole, "_values", _no_weights),
        ("4.2.b", _module("nn._l2_attention"), "SquaredEuclidean", _half_squares),
        ("E.2", hjax.HopfCole, "log_normalisation", _wrong_sign),
        ("8.4.a", hjax.nn.ResNet, "h", property(lambda self: 1.1 * self.horizon / self.depth)),
        ("8.4.b", hjax.nn.ResNet, "h", property(lambda self: 1.1 * self.horizon / self.depth)),
        ("8.4.c", _module("dynamics._costate"), "loss_and_momentum", _twice),
        ("E.6", _module("dynamics._adjoint_heat"), "softmin", _hot),
        ("D.2.a", _module("nn._lse_layer"), "softmin", _hot),
        ("D.3.a", _module("nn._lse_layer"), "softmin", _hot),
        ("C.class", _module("nn._classifier"), "softmin", _hot),
        ("score", _module("solutions._hopf_cole"), "quadratic_cost", _half_cost),
        ("T6", hjax.nn.activations, "softmin", _hot),
        ("H.9", hjax.nn.LSELayer, "to_solution", _to_wrong_values),
        ("H.11", hjax.nn.AttentionState, "merge", _mean_of_states),
        ("H.13", _module("nn._positions"), "rotate", _unturned),
    ],
)
def test_a_broken_formula_changes_the_verdict(monkeypatch, item, target, name, broken):
    monkeypatch.setattr(target, name, broken)
    row = verify.run([item])[0]
    assert row.changed, row.figure


@pytest.mark.parametrize(
    ("holds", "corrected", "verdict"),
    [
        (True, False, verify.Verdict.HOLDS),
        (True, True, verify.Verdict.HOLDS),
        (False, True, verify.Verdict.CORRECTED),
        (False, False, verify.Verdict.FAILS),
    ],
)
def test_the_verdict_follows_from_the_evidence(holds, corrected, verdict):
    assert verify.Evidence(holds, "", corrected).verdict == verdict


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match=r"two checks are called 3\.2"):
        verify.check("3.2", "Again.", expected=verify.Verdict.HOLDS)(lambda: verify.Evidence(True, ""))
