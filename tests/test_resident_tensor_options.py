"""The LSTM's options in the resident kernels on the tensor cores, and both directions in one launch."""

import pytest

from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits
from tests.schedule_cases import schedule_of_each, scheduled
from tests.test_half_options import check, half
from tests.test_schedule_options import TOGETHER

BACKENDS = backends.KERNELS
KERNEL = "lstm_resident_tensor_forward"

# (dtype, what the layer is like): with the largest tiles some weights stand in shared memory.
CASES = {
    "largest": ("float16", {"hidden": 100, "steps": 3, "lengths": (3, 0, 2, 1, 3), **TOGETHER}),
    "both directions": (
        "bfloat16",
        {"hidden": 21, "steps": 6, "lengths": (6, 0, 5, 1, 4), "bidirectional": True, **TOGETHER},
    ),
    "of the candidate": (
        "float16",
        {
            "hidden": 40,
            "lengths": None,
            "reverse": True,
            **TOGETHER,
            "recurrent_dropout_on": "candidate",
            "bias": False,
        },
    ),
    "none of them": ("bfloat16", {"hidden": 12, "bidirectional": True, "zoneout": (0.0, 0.0), "coupled": True}),
}


def launched(backend: Backend) -> int:
    return backend.xp.on_cpu.launches[KERNEL]


@pytest.mark.parametrize("name", CASES)
def test_by_value_however_many_sequences_a_block_has(backend, name):
    dtype, made = CASES[name]
    given, found = half(dtype, **made), []
    for multiprocessors in (4, 10):  # several sequences in a block, or one
        with scheduled(backend, "resident", multiprocessors), schedule_of_each(forward="resident", backward="loop"):
            found.append(check(backend, given))
            check(backend, given, "inference")
    assert_same_bits(*found)


@pytest.mark.parametrize("name", ["largest", "both directions"])
def test_in_any_order_and_without_races(name):
    dtype, made = CASES[name]
    given, found = half(dtype, **made), []
    for settings in ({}, {"thread_order": "random", "seed": 1, "block_order": "descending"}):
        with cupy_on_cpu(**settings) as cupy:
            backend = Backend(backends.CUPY_ON_CPU, cupy)
            with scheduled(backend, "resident", 4), schedule_of_each(forward="resident", backward="loop"):
                found.append(check(backend, given, "inference"))
            assert launched(backend) == 1
    assert_same_bits(*found)
