"""Tests that are slow ones by measurement, named by how their ids begin; others carry the mark themselves.

Each is a further case of something that the default suite samples: another size, cost, precision or architecture,
or the example in a docstring of what has tests of its own. `pytest -m slow` runs them, and `.ci/run` does.
"""

_CASES = {
    "tests/dynamics/test_caustic.py::test_": ("a_lens_and_two_zeros_in_one_step_are_seen[x32]", "a_spring_focuses"),
    "tests/dynamics/test_characteristics.py::test_": ("one_step_keeps_the_symplectic_form[solver0", "single_precision"),
    "tests/dynamics/test_costate.py::test_it_is_automatic_differentiation_to_rounding[": (
        "ResNet of",
        "ResNet at",
        "dense",
        "SSM",
        "SwitchedLSTM",
    ),
    "tests/dynamics/test_scores.py::test_": (
        "the_density_along_the_flow_is_that_of_the_mixture[x32]",
        "the_velocity_of_flow_matching_per_query_and_at_the_ends[x32]",
    ),
    "tests/experiments/test_reproduce.py::test_a_second_run_does_nothing": ("",),
    "tests/experiments/test_solve.py::test_": ("anisotropic", "precision_is_the_problems_and_not_the_users[False]"),
    "tests/experiments/test_verify.py::test_verdict_is_the_expected_one[": (
        "5.1.e",
        "5.2",
        "5.4.c",
        "7.1.ii.b",
        "7.1.iii.a",
        "7.1.iii.c",
        "7.1.v",
        "A]",
        "exp.D",
    ),
    "tests/nn/test_evolution.py::test_": (
        "it_goes_through_a_file_and_says_what_it_solves[ResNet of",
        "states_follow_each_other_by_steps[ResNet of",
        "states_follow_each_other_by_steps[dense",
    ),
    "tests/nn/test_selective_ssm.py::test_outputs_and_gradients_of_both_methods_are_those_of_a_numpy_loop[x32]": ("",),
    "tests/nn/test_ssm.py::test_": (
        "the_outputs_are_a_numpy_loop_s_and_gradients_of_both_methods_agree[x32",
        "the_steps_are_scipy_s_discretizations[x32",
    ),
    "tests/nn/test_transformer.py::test_it_learns_what_no_token_knows_alone": ("",),
    "tests/reductions/test_accuracy.py::test_": (
        "values_and_gradients_over_fourteen_decades_of_eps[x32-1]",
        "values_and_gradients_over_fourteen_decades_of_eps[x64-9]",
        "values_and_gradients_over_fourteen_decades_of_eps[x64-32]",
        "a_single_atom_has_the_cost_as_value_and_no_entropy[x32",
        "a_few_atoms_one_by_one_keep_the_same_promise[x32-1]",
        "a_few_atoms_one_by_one_keep_the_same_promise[x64-3]",
    ),
    "tests/reductions/test_grid.py::test_": (
        *(
            f"any_convex_cost_on_uneven_axes_agrees_with_brute_force[x{bits}-{eps}-{cost}"
            for bits, costs in ((32, ("asymmetric", "absolute", "metric")), (64, ("quartic", "squared")))
            for eps in ("None", "1e-08", "0.01", "1.0", "1000000.0")
            for cost in costs
        ),
        "periodic_axes_see_their_images[2.0]",
    ),
    "tests/reductions/test_implementations.py::TestDense::test_": (
        "every_derivative_to_second_order_in_single_precision",
        "all_atoms_absent_gives_inf_with_zero_mean_and_zero_derivatives[x32",
        "a_causal_query_sees_no_later_atom[70",
        "every_derivative_to_second_order_in_every_input[module",
        "every_derivative_to_second_order_in_every_input[closure",
        "second_derivatives_over_several_tiles",
        "second_derivatives_in_blocks_of_many_queries",
        "first_derivatives_over_several_tiles_of_many_queries[x32",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[31-",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[5130",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[1-65",
        "entropy_has_the_derivatives_of_minus_sum_p_log_p[2",
        "every_cost_agrees_with_both_oracles[Mahalanobis full-9",
        "every_cost_agrees_with_both_oracles[Bilinear-3",
    ),
    "tests/reductions/test_implementations.py::TestStreaming::test_": (
        "every_cost_agrees_with_both_oracles[Mahalanobis full-9",
        "every_cost_agrees_with_both_oracles[Mahalanobis diagonal",
        "every_cost_agrees_with_both_oracles[Bilinear-3",
        "every_cost_agrees_with_both_oracles[SquaredEuclidean",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[31-",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[33-63",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[33-513",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[1-65",
        "every_derivative_to_second_order_in_every_input[closure",
        "every_derivative_to_second_order_in_every_input[module",
        "every_derivative_to_second_order_in_single_precision[3",
        "a_causal_query_sees_no_later_atom[70",
        "entropy_has_the_derivatives_of_minus_sum_p_log_p[2",
        "first_derivatives_over_several_tiles_of_many_queries[x32",
        "all_atoms_absent_gives_inf_with_zero_mean_and_zero_derivatives[x32",
    ),
    # Its programs take the longest to compile, by far.
    "tests/reductions/test_implementations.py::TestPruned::test_": (
        "squared_euclidean_of_every_size_agrees_with_both_oracles[33-63-8-17]",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[5130-65-2-3]",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[31-2-2-1]",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[33-513-64-1]",
        "every_cost_agrees_with_both_oracles[case0]",
        "every_cost_agrees_with_both_oracles[case1]",
        "every_cost_agrees_with_both_oracles[case2]",
        "single_precision_inputs_stay_single_in_an_x64_session",
        "squared_euclidean_of_every_size_agrees_with_both_oracles[32-3-3-3]",
        "every_cost_agrees_with_both_oracles[case3]",
        "entropy_has_the_derivatives_of_minus_sum_p_log_p",
        "all_atoms_absent_gives_inf_with_zero_mean_and_zero_derivatives",
        "any_batch_of_queries_keeps_its_shape",
        "derivatives_agree_with_finite_differences",
        "every_derivative_to_second_order",
        "second_derivatives_over_several_tiles_of_a_matrix_product",
        "half_precision_inputs_accumulate_in_single_and_round_once",
        "vmap_over_any_and_all_inputs_equals_a_python_loop",
        "what_cannot_be_pruned_is_streamed[SquaredEuclidean",
        "weights_written_out_are_the_derivative_in_g",
        "first_derivatives_over_several_tiles_of_many_queries",
    ),
    "tests/reductions/test_lagrangian_costs.py::test_": (
        "values_and_derivatives_are_those_of_the_definition[Relativistic-dense",
        "values_and_derivatives_are_those_of_the_definition[Power",
    ),
    "tests/reductions/test_pruned.py::test_": ("two_runs_agree_to_the_last_bit", "coordinates_far_from_the_origin"),
    "tests/reductions/test_queries.py::test_": (
        "any_nesting_of_vmaps",
        "it_is_the_call_with_all_queries[squared",
        "it_is_the_call_with_all_queries[metric",
    ),
    "tests/reductions/test_tiles.py::test_sizes_of_other_devices": ("",),
    "tests/solutions/test_derivatives.py::test_closed_forms_equal_autodiff_of_the_value[": (
        "HopfLax-number",
        "HopfLax-diagonal",
        "HopfCole-number",
        "HopfCole-diagonal",
    ),
    "tests/test_doctests.py::test_the_examples_of_this_module_run[hjax.": tuple(
        f"{module}]"
        for module in (
            "dynamics._caustic",
            "dynamics._pontryagin",
            "dynamics._sampling",
            "nn._lse_network",
            "nn._resnet",
            "nn._ssm",
            "nn._transformer",
            "training._fixed_support",
            "training._polish",
            "training._result",
        )
    ),
    "tests/training/test_fit.py::test_": ("an_ensemble_is_its_members_one_by_one", "what_is_trained"),
    "tests/training/test_minima.py::test_": ("a_convex_loss_of_ones_own",),
}
PREFIXES = tuple(start + case for start, cases in _CASES.items() for case in cases)
