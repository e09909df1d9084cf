"""Every kernel by value once more, as the PTX that NVRTC makes of it: a GPU's driver gets this, and not the source.

Between the two lie inline PTX, which the source leaves out on a CPU, and whatever the compiler concludes from types and
`__restrict__`. The tests are those of other modules, in random order of threads; `GPULSTM_KERNELS_AS=ptx pytest tests`
runs all that there are on PTX.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import catalogue, planner, resident_tensor_layouts, stacked_layers
from gpulstm.training import clip_by_value
from tests import (
    problems,
    schedule_cases,
    test_attention,
    test_both_directions,
    test_both_directions_options,
    test_cluster_half,
    test_cross_entropy,
    test_ctc,
    test_half_layer_norm,
    test_half_options,
    test_half_schedule,
    test_kernel_sanitizers,
    test_nn_embedding,
    test_nn_layer_norm,
    test_optimiser_kernels,
    test_padding_kernels,
    test_schedule_graph_options,
    test_schedule_layer_norm,
    test_schedule_options,
    test_schedule_step,
    test_schedule_wide,
    test_stacked_layers,
    test_stacked_layers_half,
    variant_kernel_cases,
)
from tests.backends import CUPY_ON_CPU, Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.test_nvrtc_gate import nvrtc_or_skip


class Case(NamedTuple):
    run: Callable  # takes a backend, and compares
    kernels: str  # what it must launch


def both_ways(name: str) -> str:
    return f"{name}_forward {name}_backward"


def in_the_loop(backend: Backend) -> None:
    given = test_kernel_sanitizers.given("more_than_one_block")
    given = given.but(params=problems.problem(hidden=37, inputs=3, dtype="float32").params)
    problems.assert_close(problems.solve(backend, given), problems.solve(test_kernel_sanitizers.NUMPY, given), 1e-5)


def plain(schedule: str) -> Callable:
    def run(backend: Backend) -> None:
        case = schedule_cases.random_case(schedule, 2)
        with schedule_cases.scheduled(backend, schedule, case.multiprocessors):
            schedule_cases.check(problems.solve(backend, case.given), case.given)

    return run


def variants(backend: Backend) -> None:
    for number in (4, 18):
        variant_kernel_cases.check(backend, variant_kernel_cases.random_case(number), "training", "float32")
    everything = test_schedule_layer_norm.usual(**test_schedule_options.TOGETHER, proj_size=3)
    variant_kernel_cases.check(backend, everything, "training", "float32")
    with planner.only("loop"):
        of_16_bits = test_half_options.half("bfloat16", hidden=16, layer_norm=True, **test_half_options.TOGETHER)
        test_half_options.check(backend, of_16_bits)


def gates_and_cells(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, n)).astype(np.float32) for n in (28, 7, 7, 7, 7)]

    def results(convert: Callable) -> list:
        g, before, after, d_after, d_h = map(convert, arrays)
        return [
            *(gl.ops.sigmoid(g), gl.ops.tanh(g), gl.ops.sigmoid_backward(g, g), gl.ops.tanh_backward(g, g)),
            *(gl.ops.gate_activations(g), gl.ops.gate_activations_backward(g, g), *gl.ops.cell_update(g, before)),
            *gl.ops.cell_update_backward(g, before, after, d_after, d_h),
        ]

    for found, wanted in zip(results(backend.array), results(np.array), strict=True):
        np.testing.assert_allclose(backend.numpy(found), wanted, rtol=1e-5, atol=1e-6)


def optimisers(backend: Backend) -> None:
    on_every_device = test_optimiser_kernels.TestOnEveryDevice()
    for name in test_optimiser_kernels.OPTIMISERS:
        on_every_device.test_numpys_numbers(backend, name, "float32")
    with pytest.MonkeyPatch.context() as patch:
        on_every_device.test_clipping_to_a_norm_has_numpys_numbers(backend, "float32", 0.5, patch)
    gradients = backend.array({"w": np.array([-3, 0.5, 2], "float32")})
    clip_by_value(gradients, 1.0)
    assert backend.numpy(gradients["w"]).tolist() == [-1, 0.5, 1]


def in_a_graph(backend: Backend) -> None:
    test_schedule_graph_options.test_together_in_float32_and_tf32(backend, "training")


def stacked(test: Callable, *arguments: str) -> Callable:
    def run(backend: Backend) -> None:
        with pytest.MonkeyPatch.context() as patch:  # as the tests' own fixtures do
            patch.setattr(stacked_layers, "FEWEST_STEPS", 1)
            patch.setattr(stacked_layers, "WORTH", 1000.0)
            stacked_layers._side_by_side.cache_clear()
            test(backend, *arguments)
        stacked_layers._side_by_side.cache_clear()

    return run


def attention(backend: Backend) -> None:
    for kind in test_attention.KINDS:
        test_attention.test_equals_torch(backend, kind, "lengths and values", "float32")


def ctc(backend: Backend) -> None:
    test_ctc.test_it_equals_torch(backend, 13, "mean", True)


CASES = {
    "the loop": Case(in_the_loop, "lstm_forward_step lstm_backward_step column_sum"),
    "one step": Case(
        lambda b: test_schedule_step.test_a_layer_by_value(b, test_schedule_step.LAYERS[2], True),
        "lstm_one_step_forward",
    ),
    "resident": Case(plain("resident"), both_ways("lstm_resident")),
    "persistent": Case(plain("persistent"), both_ways("lstm_persistent")),
    "clusters": Case(plain("cluster"), both_ways("lstm_cluster")),
    "TF32": Case(lambda b: test_half_schedule.TestTF32().test_all_results(b), both_ways("lstm_persistent")),
    "float16": Case(
        lambda b: test_half_schedule.TestHalf().test_all_results(b, "persistent", "float16"),
        both_ways("lstm_persistent_half") + " narrow widen",
    ),
    "bfloat16": Case(
        lambda b: test_half_schedule.TestHalf().test_what_may_be_missing(b, "persistent", "bfloat16"),
        both_ways("lstm_persistent_half"),
    ),
    "resident in bfloat16": Case(
        lambda b: test_half_schedule.TestHalf().test_what_may_be_missing(b, "resident", "bfloat16"),
        " ".join(resident_tensor_layouts.TILES),
    ),
    "clusters in bfloat16": Case(
        lambda b: test_cluster_half.TestLayers().test_all_results(b, "bfloat16"), both_ways("lstm_cluster_half")
    ),
    "clusters in float16": Case(
        lambda b: test_cluster_half.TestLayers().test_what_may_be_missing(b), both_ways("lstm_cluster_half")
    ),
    "weights from L2": Case(
        lambda b: test_schedule_wide.test_all_results(b, next(iter(test_schedule_wide.LAYOUTS))),
        both_ways("lstm_wide"),
    ),
    "layer norm, resident": Case(
        lambda b: test_schedule_layer_norm.test_both_directions_with_lengths(b, "resident"),
        both_ways("lstm_resident_layer_norm"),
    ),
    "layer norm, sums": Case(
        lambda b: test_schedule_layer_norm.test_with_other_options(b, test_schedule_layer_norm.SUMS, "together"),
        f"{both_ways('lstm_persistent_layer_norm')} {both_ways('lstm_layer_norm_inputs')} lstm_draw_options "
        "lstm_layer_norm_slope_sums lstm_layer_norm_gain_gradient",
    ),
    "layer norm in bfloat16": Case(
        lambda b: test_half_layer_norm.test_each_pass_takes_its_own_schedule(
            b, *("persistent", "persistent"), test_half_layer_norm.masked(steps=2, lengths=(2, 0, 1, 2, 1))
        ),
        "lstm_persistent_layer_norm_once_forward lstm_persistent_layer_norm_backward",
    ),
    "layer norm, products": Case(
        lambda b: test_schedule_layer_norm.test_tiles_of_the_kernel_that_hands_over_once(b, (4, 1, 8), 68),
        "lstm_persistent_layer_norm_once_forward",
    ),
    "options, resident": Case(
        lambda b: test_schedule_options.test_each_option(b, "together", "resident"), both_ways("lstm_resident")
    ),
    "options, persistent": Case(
        lambda b: test_schedule_options.test_each_option(b, "together", "persistent"), both_ways("lstm_persistent")
    ),
    "options in float16": Case(
        lambda b: test_half_options.test_all_options_in_one_launch(
            b, "persistent", "float16", {**test_half_options.TOGETHER, "bidirectional": True}
        ),
        both_ways("lstm_persistent_half"),
    ),
    **{
        f"both directions, {name}": Case(
            lambda b, name=name: test_both_directions.TestTheSameBits().test_all_results(b, name), ""
        )
        for name in ("resident bfloat16", "float16")
    },
    **{
        f"both directions with options, {name}": Case(
            lambda b, name=name: test_both_directions_options.TestTheSameBits().test_all_results(b, name), ""
        )
        for name in ("float32",)
    },
    "stacked layers": Case(stacked(test_stacked_layers.TestValues().test_all_results), both_ways("lstm_persistent")),
    "stacked layers in float16": Case(
        stacked(test_stacked_layers_half.TestWholeStacks().test_all_results, "float16"),
        both_ways("lstm_persistent_half"),
    ),
    "variants in the loop": Case(
        variants,
        f"{both_ways('lstm_variant_cell')} {both_ways('lstm_variant_output')} lstm_variant_initial_gradient "
        "masked_copy",
    ),
    "in a graph": Case(in_a_graph, "replay_arguments lstm_variant_first_input"),
    "gates and cells": Case(
        gates_and_cells,
        "sigmoid sigmoid_backward tanh_forward tanh_backward gate_activations gate_activations_backward cell_update "
        "cell_update_backward",
    ),
    "padding": Case(
        lambda b: test_padding_kernels.test_by_value(b, "float16"), "clear_inputs state_of_running without_padding"
    ),
    "optimisers": Case(optimisers, "adam_step sgd_step sum_of_squares scale_to_norm clip_values"),
    "embedding": Case(
        lambda b: test_nn_embedding.TestEngines().test_it_equals_torch(b, (40, 20), 2, "float32", 1e-5),
        "embedding_forward embedding_gradient_chunks embedding_gradient_join",
    ),
    "layer norm of its own": Case(
        lambda b: test_nn_layer_norm.TestEngines().test_it_equals_torch(b, (4, 3), 33, "float32", 2e-5),
        f"{both_ways('layer_norm')} layer_norm_parameter_gradient",
    ),
    "attention": Case(attention, "masked_softmax masked_softmax_backward"),
    "cross-entropy": Case(
        lambda b: test_cross_entropy.test_equals_torch(b, "ignored", "float32"),
        "softmax_cross_entropy softmax_cross_entropy_count softmax_cross_entropy_mean",
    ),
    "CTC": Case(ctc, "ctc_log_normaliser ctc_forward_backward ctc_gradient"),
}


@pytest.mark.parametrize("name", CASES)
def test_by_value(name):
    nvrtc_or_skip()
    case = CASES[name]
    with cupy_on_cpu("ptx", thread_order="random", seed=4) as cupy:
        case.run(Backend(CUPY_ON_CPU, cupy))
        assert not set(case.kernels.split()) - set(cupy.on_cpu.launches)


def test_every_kernel_is_among_them():
    assert set(catalogue.KERNELS) == {kernel for case in CASES.values() for kernel in case.kernels.split()}
