"""Every implementation, through the same suite."""

import jax.numpy as jnp
import numpy as np
import pytest

from hjax.reductions import _pruned

from .suite import COST_CASES, SIZES, Suite, cast, compiled, inputs


class TestDense(Suite):
    implementation = "dense"


class TestStreaming(Suite):
    implementation = "streaming"


class TestPruned(Suite):
    implementation = "pruned"

    @pytest.fixture(autouse=True)
    def _prunes_small_problems(self, monkeypatch):
        """The suite's problems are small: without this they would test streaming again, on a single tile."""
        settings = {"PAIRS_WORTH_SUMS": 0, "PAIRS_WORTH_A_MINIMUM": 0, "MOST_SELECTED": 1}
        for name, value in (settings | {"BLOCK_QUERIES": 16, "TILE_ATOMS": 8, "RUN": 4, "GROUP": 4}).items():
            monkeypatch.setattr(_pruned, name, value)

    # Costs without bounds and causal sums are streamed: the suite tests that above. Here, that it is so.
    test_a_causal_query_sees_no_later_atom = None
    test_derivatives_of_a_causal_reduction = None

    @pytest.mark.parametrize(("cost", "causal"), [("module", False), ("closure", False), ("SquaredEuclidean", True)])
    def test_what_cannot_be_pruned_is_streamed(self, cost, causal):
        given = cast(inputs(40, 40, 2, 1, cost), np.float32)
        ours, theirs = (compiled(name, cost, causal)(given) for name in ("pruned", "streaming"))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)

    # What depends on the forms of a tile alone, or on what surrounds an implementation, the other two have
    # gone through; each program here takes long to compile.
    test_eps_may_be_a_python_number_an_array_or_traced = None
    test_the_mean_is_none_without_a_payload_and_empty_with_an_empty_one = None
    test_second_derivatives_in_blocks_of_many_queries = None

    @pytest.mark.parametrize(("m", "n", "d", "p"), [SIZES[k] for k in (1, 2, 3, 6, 9)])
    def test_squared_euclidean_of_every_size_agrees_with_both_oracles(self, m, n, d, p):
        super().test_squared_euclidean_of_every_size_agrees_with_both_oracles(m, n, d, p)

    @pytest.mark.parametrize("case", [case for case in COST_CASES if case[0] in ("Mahalanobis full", "Bilinear")])
    def test_every_cost_agrees_with_both_oracles(self, case):
        super().test_every_cost_agrees_with_both_oracles(*case)

    @pytest.mark.parametrize("batch", [(2, 5), (0,)])
    def test_any_batch_of_queries_keeps_its_shape(self, batch):
        super().test_any_batch_of_queries_keeps_its_shape(batch)

    @pytest.mark.parametrize("dtype", [jnp.float16])
    def test_half_precision_inputs_accumulate_in_single_and_round_once(self, dtype):
        super().test_half_precision_inputs_accumulate_in_single_and_round_once(dtype)

    def test_all_atoms_absent_gives_inf_with_zero_mean_and_zero_derivatives(self, double):
        super().test_all_atoms_absent_gives_inf_with_zero_mean_and_zero_derivatives(double, 2)

    @pytest.mark.parametrize("cost", ["SquaredEuclidean", "Mahalanobis full", "Bilinear"])
    def test_every_derivative_to_second_order_in_every_input(self, double, cost):
        super().test_every_derivative_to_second_order_in_every_input(double, cost)

    def test_every_derivative_to_second_order_in_single_precision(self):
        super().test_every_derivative_to_second_order_in_single_precision(9)

    def test_entropy_has_the_derivatives_of_minus_sum_p_log_p(self, double):
        super().test_entropy_has_the_derivatives_of_minus_sum_p_log_p(double, 2)

    def test_vmap_over_any_and_all_inputs_equals_a_python_loop(self, double):
        super().test_vmap_over_any_and_all_inputs_equals_a_python_loop(double, 3, 2)
