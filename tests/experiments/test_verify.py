"""The theorem table: every verdict follows from its measurement, and a broken identity changes it."""

import jax
import pytest

import hjax
from hjax.experiments import verify


@pytest.mark.parametrize("item", verify.items())
def test_the_measured_verdict_is_the_theorys(item):
    (finding,) = verify.run([item])
    assert finding.verdict == finding.expected, finding.figure
    assert not finding.changed
    assert finding.figure


def test_the_table_has_every_item_of_the_issue():
    wanted = {"3.1", "3.2", "4.1", "gauge", "4.3", "4.4", "5.1", "7.1", "T5", "E.4.ii"}
    for name in wanted:
        assert verify.select([name]), name


def test_a_prefix_selects_whole_components_only():
    assert verify.select(["4.1"]) == ["4.1.a", "4.1.b", "4.1.c", "4.1.d"]
    assert verify.select(["3.2", "3.1.a"]) == ["3.1.a", "3.2"]  # in the table's order


def test_an_unknown_item_is_one_clear_sentence():
    with pytest.raises(ValueError, match=r"there is no statement '9\.9'; there are 3\.1\.a"):
        verify.run(["9.9"])


@pytest.mark.parametrize("item", ["4.1.b", "4.1.c", "4.4"])
def test_a_wrong_prefactor_or_viscosity_changes_the_verdict(item, monkeypatch):
    honest = hjax.HopfCole._moments

    def broken(self, x, t, payload):
        value, mean = honest(self, x, t, payload)
        return value + 0.1 * t**2, mean  # no solution of the equation any more

    monkeypatch.setattr(hjax.HopfCole, "_moments", broken)
    (finding,) = verify.run([item])
    assert finding.changed


def test_the_callers_precision_is_left_alone():
    before = jax.config.jax_enable_x64
    verify.run(["T5"])
    assert jax.config.jax_enable_x64 == before
