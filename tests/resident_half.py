"""What the resident kernels in 16 bits have to do alike, whether they multiply by FMA or on the tensor cores."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gpulstm.cuda.planner import Choice
from gpulstm.engines import Lane, cupy_one_launch
from gpulstm.parameters import Weights
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import numpy_dtype
from tests.half_recurrence import HalfCase, backward_in_numpy, check, forward_in_numpy, half_case, run_forward


def check_inference(case: HalfCase, choice: Choice) -> None:
    """y has the bits of training, and the states are the final ones."""
    last = 0 if case.reverse else case.sizes[0]
    with cupy_on_cpu() as cupy:
        kept, alone = (run_forward(cupy, case, choice, keep, wider=2) for keep in (True, False))
    np.testing.assert_array_equal(alone["y"], kept["y"])
    for name in ("hiddens", "cells"):
        np.testing.assert_array_equal(alone[name], kept[name][last])
    check({"y": alone["y"]}, forward_in_numpy(case), case.dtype)


def check_a_second_launch(case: HalfCase, choice: Choice) -> None:
    """It goes on with the same bits: what the products read within a launch is h as it is stored, and c is not
    rounded."""
    with cupy_on_cpu() as cupy:
        whole = run_forward(cupy, case, choice, keep=False)
        first = run_forward(cupy, replace(case, inputs=case.inputs[:5]), choice, keep=False)
        rest = replace(case, inputs=case.inputs[5:], first_time=5, h=first["hiddens"], c=first["cells"])
        second = run_forward(cupy, rest, choice, keep=False)
    np.testing.assert_array_equal(np.concatenate([first["y"], second["y"]]), whole["y"])
    for name in ("hiddens", "cells"):
        np.testing.assert_array_equal(second[name], whole[name])


def check_both_directions_back(one: HalfCase, choice: Choice) -> None:
    """Side by side they have the bits of one after the other, and the right values."""
    other = half_case(one.dtype, *one.sizes, seed=1, lengths=one.lengths, reverse=True)
    pairs = [(case, forward_in_numpy(case)) for case in (one, other)]
    dy = np.concatenate([one.dy, other.dy], axis=2)
    hidden = one.sizes[2]

    def found(launch: Callable[..., None]) -> list[np.ndarray]:
        with cupy_on_cpu() as cupy:
            half = numpy_dtype(one.dtype)
            gates = [cupy.asarray(forward["gates"].astype(half)) for _, forward in pairs]
            cells = [cupy.asarray(forward["cells"].astype(np.float32)) for _, forward in pairs]
            weights = [Weights(None, cupy.asarray(case.weight.astype(half)), None) for case, _ in pairs]
            dh, dc = ([cupy.asarray(getattr(case, n).copy()) for case, _ in pairs] for n in ("dh", "dc"))
            lanes = [Lane(0, hidden, False, 0), Lane(hidden, hidden, True, 1)]
            lengths = cupy.asarray(one.lengths.astype(np.int32))
            launch(gates, cells, weights, cupy.asarray(dy.astype(half)), dh, dc, lanes, lengths)
            return [a.get() for a in (*gates, *dh, *dc)]

    def together(*arguments):
        cupy_one_launch.backward_steps_of_both(choice._replace(directions=2), *arguments)

    def apart(gates, cells, weights, dy, dh, dc, lanes, lengths):
        for i, lane in enumerate(lanes):
            cupy_one_launch.backward_steps(choice, gates[i], cells[i], weights[i], dy, dh[i], dc[i], lane, lengths)

    results = found(together)
    for value, wanted in zip(results, found(apart), strict=True):
        np.testing.assert_array_equal(value, wanted)
    for i, (case, forward) in enumerate(pairs):
        expected = backward_in_numpy(case, forward["gates"], forward["cells"])
        check({"gates": results[i].astype(np.float32), "dh": results[2 + i]}, expected, one.dtype)
