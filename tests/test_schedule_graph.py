"""The schedule "graph": the loop's launches captured once and replayed, against the loop itself.

The options in it are in tests/test_schedule_graph_options.py.
"""

import gc
import warnings

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import graph_layouts, own_cublas, planner
from gpulstm.cuda.gemm import matrix
from gpulstm.engines import cupy_graph, cupy_one_launch
from gpulstm.functional import lstm_inference
from tests import backends, half_cases, problems
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.cuda_on_cpu.capture import CaptureError
from tests.problems import assert_same_bits, infer, solve
from tests.schedule_cases import small_problem
from tests.test_half_precision import solve_with

BACKENDS = backends.KERNELS


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """No stage of another test's, and graphs of 4 steps, of which short sequences need several."""
    monkeypatch.setattr(cupy_graph, "_stages", type(cupy_graph._stages)())
    monkeypatch.setattr(cupy_graph, "_failures", {})
    monkeypatch.setattr(graph_layouts, "STEPS", 4)
    planner._choose.cache_clear()
    yield
    planner._choose.cache_clear()


def check(backend, given) -> None:
    """The same kernels and products in the same order: on the stand-in the same bits as the loop."""
    for how in (solve, infer):
        with planner.only("loop"):
            expected = how(backend, given)
        with planner.only("graph"):
            found = how(backend, given)
        if backend.name == backends.GPU:  # another handle may choose another algorithm for a product
            problems.assert_close(found, expected, 1e-12 if given.x.dtype == np.float64 else 1e-5)
        else:
            assert_same_bits(found, expected)


@pytest.mark.parametrize("lengths", [None, [11, 0, 3, 8]], ids=["no lengths", "lengths"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"steps": 11},  # 4 + 4 + 3
        {"steps": 11, "directions": 2, "layers": 2, "dtype": "float32"},
        {"steps": 11, "state": False, "bias": False, "directions": 2},
        {"steps": 12, "layers": 2},
    ],
    ids=str,
)
def test_by_value(backend, sizes, lengths):
    check(backend, problems.problem(batch=4, inputs=5, hidden=6, lengths=lengths, **sizes))


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 8])
def test_any_number_of_steps(backend, steps):
    check(backend, problems.problem(steps=steps, batch=2))


def in_tf32(backend, given) -> dict:
    return solve_with(backend, given, options={"tf32": True})


OTHER_ARITHMETIC = {
    "tf32": (in_tf32, lambda **sizes: small_problem(2, **sizes)),
    "float16": (solve, lambda **sizes: half_cases.half_problem("float16", **sizes)),
    "bfloat16": (solve, lambda **sizes: half_cases.half_problem("bfloat16", **sizes)),
}


@pytest.mark.parametrize("arithmetic", OTHER_ARITHMETIC)
def test_in_tf32_and_16_bits(backend, arithmetic):
    """On the stand-in, which rounds as cuBLAS may, the same bits: so every product says what it is to be made of."""
    how, made = OTHER_ARITHMETIC[arithmetic]
    given = made(steps=7, batch=3, hidden=9, inputs=4, directions=2, lengths=[7, 0, 4])
    runs = (how,) if arithmetic == "tf32" else (solve, infer)
    for run in runs:
        with planner.only("loop"):
            expected = run(backend, given)
        with planner.only("graph"):
            found = run(backend, given)
        if backend.name != backends.GPU:
            assert_same_bits(found, expected)
        elif arithmetic == "tf32":
            problems.assert_close(found, expected, 5e-3)
        else:
            half_cases.check(found, given, run)
    if backend.name != backends.GPU:
        replayed = [graphs for stage in cupy_graph._stages.values() for graphs in stage.graphs.values()]
        products = {what for graph in replayed for what, *_ in graph._operations if "gemm" in what}
        assert products == {"gemmEx"}


def test_tf32_needs_a_device_that_has_it(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    given = small_problem(2, steps=3, batch=2, hidden=4)
    with cupy_on_cpu(compute_capability="75", schedules=("graph",)) as cupy:
        in_tf32(Backend(backends.CUPY_ON_CPU, cupy), given)
        assert cupy.on_cpu.graphs["launch"] == 2 and set(cupy.on_cpu.gemms) == {"sgemm"}


def test_reverse_alone_and_no_gradient_of_y(backend):
    given = problems.problem(steps=9)
    x, params, dstate = (backend.array(a) for a in (given.x, given.params, given.dstate))
    found = []
    for schedule in ("loop", "graph"):
        with planner.only(schedule):
            y, final, cache = gl.lstm_forward(x, params, options={"reverse": True})
            dx, grads, dinitial = gl.lstm_backward(cache, None, dstate)
            found.append(backend.numpy({"y": y, "h": final.h, "dx": dx, "dh": dinitial.h, **grads}))
    problems.assert_close(*found)


def test_in_windows_and_with_checkpoints(backend, monkeypatch):
    from gpulstm import engines
    from gpulstm.engines import cupy_engine

    monkeypatch.setattr(engines, "WINDOW", 3)
    monkeypatch.setattr(engines, "GPU_ROWS", 1)
    given = problems.problem(steps=10, lengths=[10, 0, 5])
    x, params, dy = backend.array(given.x), backend.array(given.params), backend.array(given.dy)
    found = []
    for schedule in ("loop", "graph"):
        with planner.only(schedule):
            y, final, cache = gl.lstm_forward(x, params, lengths=given.lengths, checkpoint_every=6)
            found.append(backend.numpy({"y": y, **gl.lstm_backward(cache, dy)[1]}))
            monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", 5 * 3 * 8 * 8)  # five steps
            found[-1]["inferred"] = backend.numpy(lstm_inference(x, params, lengths=given.lengths)[0])
    problems.assert_close(*found)


class TestCaptures:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def graphs(self, backend, function) -> tuple[int, int]:
        backend.xp.on_cpu.reset_counts()
        with planner.only("graph"):
            function()
        found = backend.xp.on_cpu.graphs
        return found["capture"], found["launch"]

    def test_once_for_each_shape_and_number_of_steps(self, backend):
        given = problems.problem(steps=10)  # 4 + 4 + 2
        assert self.graphs(backend, lambda: infer(backend, given)) == (2, 3)
        assert self.graphs(backend, lambda: infer(backend, given)) == (0, 3)
        assert self.graphs(backend, lambda: solve(backend, given)) == (4, 6)
        assert self.graphs(backend, lambda: solve(backend, given)) == (0, 6)
        other = problems.problem(5, steps=8)  # other arrays, and no short stretch
        assert self.graphs(backend, lambda: solve(backend, other)) == (0, 4)
        assert len(cupy_graph._stages) == 3

    @pytest.mark.parametrize(
        "sizes",
        [{"batch": 2}, {"hidden": 3}, {"dtype": "float32"}, {"lengths": [4, 2, 0]}, {"bias": False}],
        ids=str,
    )
    def test_again_for_other_sizes_and_switches(self, backend, sizes):
        assert self.graphs(backend, lambda: infer(backend, problems.problem(steps=4))) == (1, 1)
        assert self.graphs(backend, lambda: infer(backend, problems.problem(steps=4, **sizes))) == (1, 1)

    def test_again_for_another_device(self, backend):
        given = problems.problem(steps=4)
        assert self.graphs(backend, lambda: infer(backend, given)) == (1, 1)
        with backend.xp.cuda.Device(1):
            assert self.graphs(backend, lambda: infer(backend, given)) == (1, 1)

    def test_the_layers_share_them(self, backend):
        given = problems.problem(steps=4, layers=3, directions=2)
        assert self.graphs(backend, lambda: infer(backend, given)) == (2, 6)

    def test_launches_in_a_second_call_are_those_of_the_graph(self, backend):
        given = problems.problem(steps=8)
        self.graphs(backend, lambda: infer(backend, given))
        self.graphs(backend, lambda: infer(backend, given))
        counts = backend.xp.on_cpu
        assert dict(counts.launches) == {"lstm_forward_step": 8} and dict(counts.gemms) == {"dgemm": 9}
        shorter = problems.problem(steps=8, lengths=[8, 0, 5])
        self.graphs(backend, lambda: infer(backend, shorter))
        self.graphs(backend, lambda: infer(backend, shorter))
        assert dict(counts.launches) == {"lstm_forward_step": 8, "replay_arguments": 2}

    def test_the_oldest_stage_makes_room(self, backend, monkeypatch):
        for hidden in (2, 3, 4):
            self.graphs(backend, lambda hidden=hidden: infer(backend, problems.problem(steps=4, hidden=hidden)))
        sizes = [stage.nbytes for stage in cupy_graph._stages.values()]
        assert [key.hidden for key in cupy_graph._stages] == [2, 3, 4] and min(sizes) > 32 * 2**20
        monkeypatch.setattr(cupy_graph, "KEPT_BYTES", sizes[0] + sizes[1] + sizes[2] - 1)
        assert self.graphs(backend, lambda: infer(backend, problems.problem(steps=4, hidden=2))) == (0, 1)
        assert [key.hidden for key in cupy_graph._stages] == [4, 2]
        assert self.graphs(backend, lambda: infer(backend, problems.problem(steps=4, hidden=3))) == (1, 1)

    def test_a_users_stream(self, backend):
        given = problems.problem(steps=6)
        with backend.xp.cuda.Stream(non_blocking=True), planner.only("graph"):
            found = solve(backend, given)
        with planner.only("loop"):
            assert_same_bits(found, solve(backend, given))

    def test_training_and_inference_take_turns(self, backend):
        """Stages are filled anew by each call: what one leaves behind is nothing to the next."""
        first, second = (problems.problem(seed, steps=5, lengths=[5, 0, 3]) for seed in (1, 2))
        for given in (first, second, first):
            check(backend, given)


class TestFailures:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def check_the_loop_runs(self, backend, why: str) -> None:
        given = problems.problem(steps=6)
        with planner.only("loop"):
            expected = solve(backend, given)
        with planner.only("graph"):
            lstm, x = gl.LSTM(4, 2, dtype="float64", xp=backend.xp, rng=0), backend.array(given.x)
            assert lstm.plan(x).forward.schedule == "graph"
            with pytest.warns(UserWarning, match=f"run in a loop, since they could not be captured: .*{why}"):
                assert_same_bits(solve(backend, given), expected)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # it is said once
                assert_same_bits(solve(backend, given), expected)
            plan = lstm.plan(x)
            assert {choice.schedule for choice in plan} == {"loop"} and why in str(plan)

    def test_no_library(self, backend, monkeypatch):
        def nowhere():
            raise own_cublas.NotLoaded("cuBLAS was not found")

        monkeypatch.setattr(own_cublas, "_library", None)
        monkeypatch.setattr(own_cublas, "_found", nowhere)
        self.check_the_loop_runs(backend, "cuBLAS was not found")

    def test_a_library_that_refuses(self, backend, monkeypatch):
        monkeypatch.setattr(own_cublas._library, "cublasCreate_v2", lambda handle: 3, raising=False)
        self.check_the_loop_runs(backend, "cublasCreate_v2 gave status 3")

    def test_a_capture_that_fails(self, backend, monkeypatch):
        monkeypatch.setattr(own_cublas._library, "cublasDgemm_v2", lambda *arguments: 13, raising=False)
        self.check_the_loop_runs(backend, "cublasDgemm_v2 gave status 13")
        assert not backend.xp.on_cpu.captures and not cupy_graph._stages

    def test_no_memory_is_no_reason_for_ever(self, backend, monkeypatch):
        class OutOfMemoryError(Exception):
            """CuPy's name."""

        def full(key):
            raise OutOfMemoryError

        given = problems.problem(steps=6)
        with planner.only("graph"):
            with monkeypatch.context() as patch:
                patch.setattr(cupy_graph, "Stage", full)
                found = solve(backend, given)
            assert not cupy_graph.why_not()
            assert_same_bits(found, solve(backend, given))
        assert len(cupy_graph._stages) == 2


class TestTheStandIn:
    """What CUDA and CuPy refuse while a stream captures."""

    def capturing(self, cupy, function):
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                assert stream.is_capturing()
                function()
            finally:
                graph = stream.end_capture()
        return graph

    def test_what_is_refused(self):
        with cupy_on_cpu() as cupy:
            x = cupy.ones(4, "float32")
            for wrong, error in (
                (lambda: cupy.empty(3), "allocated while a stream captures"),
                (lambda: x.get(), "copy to the host"),
                (lambda: x.fill(0), "operation of CuPy"),
                (lambda: cupy.cuda.get_current_stream().synchronize(), "synchronize"),
                (lambda: cupy.cuda.cublas.sgemm(cupy.cuda.device.get_cublas_handle(), *[0] * 13), "cuBLAS API during"),
                (lambda: cupy.RawModule(code="").get_function("none"), "loading a kernel"),
                (lambda: own_cublas._handle(0), "making a cuBLAS handle"),
            ):
                with pytest.raises((RuntimeError, NotImplementedError), match=error):
                    self.capturing(cupy, wrong)
            with pytest.raises(RuntimeError, match="non_blocking=True"):
                cupy.cuda.Stream().begin_capture()
            assert not cupy.on_cpu.captures

    def test_nothing_is_done_before_the_graph_is_launched(self):
        with cupy_on_cpu() as cupy:
            x, y = cupy.ones(4, "float32"), cupy.zeros(4, "float32")
            runtime = cupy.cuda.runtime

            def work():
                stream = cupy.cuda.get_current_stream().ptr
                runtime.memcpyAsync(y.data.ptr, x.data.ptr, 16, runtime.memcpyDeviceToDevice, stream)
                runtime.memsetAsync(x.data.ptr, 0, 8, stream)

            graph = self.capturing(cupy, work)
            assert y.get().tolist() == [0] * 4 and x.get().tolist() == [1] * 4
            graph.launch()
            assert y.get().tolist() == [1] * 4 and x.get().tolist() == [0, 0, 1, 1]
            graph.launch()
            assert y.get().tolist() == [0, 0, 1, 1]

    def test_a_product_needs_a_workspace(self):
        with cupy_on_cpu() as cupy:
            x, held = cupy.ones((2, 2), "float32"), [cupy.empty(1024, "uint8")]
            out = cupy.zeros((2, 2), "float32")
            own_cublas._handle(0)

            def multiply(forget: bool):
                stream = cupy.cuda.get_current_stream().ptr
                gemm = own_cublas.OwnGemm(0, "float32", stream, held[0])
                if forget:
                    own_cublas._call("cublasSetStream_v2", gemm.handle, stream)
                gemm(matrix(x), matrix(x), matrix(out))

            with pytest.raises(CaptureError, match="without a workspace"):
                self.capturing(cupy, lambda: multiply(True))
            graph = self.capturing(cupy, lambda: multiply(False))
            graph.launch()
            assert out.get().tolist() == [[2, 2], [2, 2]]
            held.clear()
            gc.collect()
            with pytest.raises(CaptureError, match="sgemm leads into an array that is gone"):
                graph.launch()
