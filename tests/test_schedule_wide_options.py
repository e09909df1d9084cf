"""Options in the kernels that read a part of the recurrent weights from L2, against the NumPy engine and themselves."""

from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits
from tests.schedule_cases import laid_out_by_hand, scheduled
from tests.test_schedule_options import TOGETHER
from tests.test_schedule_wide import MULTIPROCESSORS, USUAL
from tests.variant_kernel_cases import RUNS, Case, case, check, train

BACKENDS = backends.KERNELS
OF_THE_CANDIDATE = {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate", "zoneout": (0.0, 0.3)}


def given_for(**changes) -> Case:
    """For two groups, one of which has two passes."""
    return case(5, **{"steps": 3, "batch": 5, "hidden": USUAL.hidden, "lengths": (3, 0, 2, 3, 1), **changes})


def test_all_options_together(backend):
    given = given_for(bidirectional=True, **TOGETHER)
    with scheduled(backend, "persistent", MULTIPROCESSORS), laid_out_by_hand(**USUAL.choices()):
        for run in RUNS:
            check(backend, given, run, "float32")


def test_of_the_candidate_and_what_may_be_missing(backend):
    given = given_for(steps=2, lengths=None, bias=False, state=False, dy=False, **OF_THE_CANDIDATE)
    with scheduled(backend, "persistent", MULTIPROCESSORS), laid_out_by_hand(**USUAL.choices()):
        check(backend, given, "training", "float32")


class TestOnTheCpu:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_in_any_order_and_with_a_late_block(self):
        given, found = given_for(**TOGETHER), []
        for settings in ({}, {"thread_order": "random", "seed": 1, "late_block": 1}):
            with cupy_on_cpu(**settings) as cupy, laid_out_by_hand(**USUAL.choices()):
                found.append(train(Backend(backends.CUPY_ON_CPU, cupy), given, "float32"))
                assert {"lstm_wide_forward", "lstm_wide_backward"} <= cupy.on_cpu.launches.keys()
        assert_same_bits(*found)
