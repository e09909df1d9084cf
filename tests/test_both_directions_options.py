"""Both directions of a layer with options side by side in one launch: the same bits as one after the other."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from gpulstm.cuda import both_directions, catalogue
from gpulstm.engines import cupy_one_launch
from tests import backends, variant_kernel_cases
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits
from tests.schedule_cases import scheduled
from tests.test_half_options import half
from tests.test_schedule_options import TOGETHER
from tests.variant_kernel_cases import RUNS, Case

BACKENDS = backends.KERNELS

# name -> (schedule, what the layer is like, multiprocessors), as in tests/test_both_directions.py.
CASES = {
    "resident": ("resident", {"hidden": 13}, 14),
    "float32": ("persistent", {"hidden": 12}, 10),
    "tf32": ("persistent", {"hidden": 12, "tf32": True}, 10),
    "float16": ("persistent", {"hidden": 72}, 10),
}


def given_for(name: str, **changes) -> Case:
    """Two layers' peepholes, masks and weights differ from direction to direction, and so do the sequences' ends."""
    sizes = {
        "steps": 3,
        "batch": 3,
        "lengths": (3, 0, 2),
        "bidirectional": True,
        **CASES[name][1],
        **TOGETHER,
        **changes,
    }
    return half(name, **sizes) if name == "float16" else variant_kernel_cases.case(7, **sizes)


@contextmanager
def laid_out(name: str, backend: Backend, way: str):
    schedule, _, multiprocessors = CASES[name]
    with scheduled(backend, schedule, multiprocessors), both_directions.ways(way):
        yield


def run(name: str, backend: Backend, given: Case, way: str, what: str = "training") -> dict:
    with laid_out(name, backend, way):
        return RUNS[what](backend, given, np.float16 if name == "float16" else "float32")


def launches(backend: Backend, function) -> Counter:
    backend.xp.on_cpu.reset_counts()
    function()
    return Counter({k: n for k, n in backend.xp.on_cpu.launches.items() if k in catalogue.BIDIRECTIONAL})


@pytest.mark.parametrize("name", CASES)
class TestTheSameBits:
    def test_all_results(self, backend, name):
        """`tests/test_schedule_options.py` and `test_half_options.py` compare those of one after the other."""
        given = given_for(name)
        for what in RUNS:
            assert_same_bits(*(run(name, backend, given, way, what) for way in ("alike", "apart")))

    def test_what_may_be_missing(self, backend, name):
        made = {"steps": 2, "lengths": None, "state": False, "bias": False, "dy": False, "peephole": False}
        given = given_for(name, **made, recurrent_dropout_on="candidate", coupled=False)
        assert_same_bits(*(run(name, backend, given, way) for way in ("alike", "apart")))


class TestOnTheCpu:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("name", ["float32", "float16"])
    def test_in_any_order_and_with_a_late_block(self, name):
        given, found = given_for(name, steps=2, lengths=(2, 0, 1)), []
        settings = [{}, {"thread_order": "random", "seed": 1, "late_block": 1}, {"late_block": 7}]
        for each in settings:
            with cupy_on_cpu(**each) as cupy:
                found.append(run(name, Backend(backends.CUPY_ON_CPU, cupy), given, "alike"))
        for other in found[1:]:
            assert_same_bits(other, found[0])

    def test_no_access_outside_of_the_arrays(self):
        given = given_for("resident", steps=2, lengths=(2, 0, 1))
        with cupy_on_cpu("asan") as cupy:
            found = run("resident", Backend(backends.CUPY_ON_CPU, cupy), given, "alike")
        assert np.isfinite(found["dx"]).all()

    @pytest.mark.parametrize("name", ["resident", "float16"])
    def test_one_launch_for_each_layer(self, backend, name):
        given, kernel = given_for(name, num_layers=2, steps=1, lengths=None), f"lstm_{CASES[name][0]}"
        kernel += "_half" if name == "float16" else ""
        for way, directions in (("alike", 1), ("apart", 2)):
            found = launches(backend, lambda way=way: run(name, backend, given, way))
            assert found == {f"{kernel}_{d}": 2 * directions for d in ("forward", "backward")}
            found = launches(backend, lambda way=way: run(name, backend, given, way, "inference"))
            assert found == {f"{kernel}_forward": 2 * directions}

    def test_long_sequences_of_16_bits_take_several_launches(self, backend, monkeypatch):
        """Each direction draws from the first step of its own stretch on."""
        given = given_for("float16", steps=5, hidden=16, lengths=(5, 0, 3))
        expected = run("float16", backend, given, "apart")
        monkeypatch.setattr(cupy_one_launch, "EXCHANGE_BYTES", 2 * 2 * 4 * 3 * 2 * 16)  # two steps of both
        found = launches(backend, lambda: assert_same_bits(run("float16", backend, given, "alike"), expected))
        assert found == {"lstm_persistent_half_forward": 1, "lstm_persistent_half_backward": 3}

    @pytest.mark.parametrize("made", [{"layer_norm": True}, {"proj_size": 3}, {"cell_clip": 0.5}], ids=str)
    def test_what_no_such_kernel_holds_runs_one_after_the_other(self, backend, made):
        given = variant_kernel_cases.case(steps=2, bidirectional=True, zoneout=0.2, **made)
        with both_directions.ways("alike"):
            assert not launches(backend, lambda: variant_kernel_cases.train(backend, given, "float32"))
