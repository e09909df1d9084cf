"""`gpulstm.cuda.packed`: launches whose arguments are laid out here reach the kernel as RawKernel's do, by value."""

import threading

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import modules, planner, stacked_layers
from gpulstm.cuda.packed import NULL, Kernel, Repeated, Series
from tests import at_once, backends, problems
from tests.cuda_on_cpu import InvalidMemory, cupy_on_cpu

BACKENDS = backends.KERNELS

SOURCE = """
struct Scales { float of_x; int offset; double* more; };

// What each argument was, in an order of its own; nowhere do two of them look alike.
extern "C" __global__ void pointers_and_ints(const int* a, const int* b, int* out, int first, int second, int third) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = a[i] + (b ? 10 * b[i] : 0) + 100 * first + 10000 * second + 1000000 * third;
}

extern "C" __global__ void wide_ints(long long* out, long long first, int second, long long third) {
    out[0] = first;
    out[1] = second;
    out[2] = third;
}

extern "C" __global__ void all_kinds(
    double* out, bool flag, int first, int second, Scales scales, float real, double wide, long long large,
    const double* nothing, unsigned int last
) {
    const double values[] = {
        double(flag), double(first), double(second), scales.of_x, double(scales.offset), scales.more[1], real, wide,
        double(large), double(nothing == nullptr), double(last)};
    for (int i = 0; i < 11; i++) out[11 * (first - second) + i] = values[i];
}
"""
SCALES = np.dtype([("of_x", np.float32), ("offset", np.int32), ("more", np.uintp)], align=True)
ONE, THREADS = (1, 1, 1), (8, 1, 1)


def kernel(backend, name: str) -> Kernel:
    """One that no thread has launched yet."""
    return Kernel(backend.xp, backend.xp.RawModule(code=SOURCE, options=("--std=c++14",)).get_function(name))


def packed(backend) -> dict[str, int]:
    """How many launches went to the driver, by the kernel's name; None where nobody counts."""
    return dict(backend.xp.on_cpu.packed) if backend.name == backends.CUPY_ON_CPU else {}


def ints(backend, *values: int):
    return backend.xp.asarray(np.array(values, np.int32))


def test_pointers_and_ints(backend):
    function, out = kernel(backend, "pointers_and_ints"), ints(backend, *[0] * 8)
    a, b = ints(backend, *range(8)), ints(backend, *range(8, 0, -1))
    for number, (second, numbers) in enumerate(((b, (1, 2, 3)), (None, (-1, 0, 7)), (a, (5, -6, -7)), (b, (0, 0, 0)))):
        function.launch(ONE, THREADS, (a, second, out), numbers)
        of_b = 0 if second is None else backend.numpy(second)
        wanted = backend.numpy(a) + 10 * of_b + 100 * numbers[0] + 10000 * numbers[1] + 1000000 * numbers[2]
        np.testing.assert_array_equal(backend.numpy(out), wanted)
        if backend.name == backends.CUPY_ON_CPU:
            assert packed(backend) == ({"pointers_and_ints": number} if number else {}), "the first is CuPy's"


def test_ints_of_which_some_are_wide(backend):
    function, out = kernel(backend, "wide_ints"), backend.xp.zeros(3, "int64")
    for number, values in enumerate(([-(2**40), -5, 2**62], [3, 2**31 - 1, -1], [2**33, -(2**31), 0])):
        function.launch(ONE, ONE, (out,), values, wide=(0, 2))
        assert backend.numpy(out).tolist() == values
        if backend.name == backends.CUPY_ON_CPU:
            assert packed(backend) == ({"wide_ints": number} if number else {}), "the first is CuPy's"


def all_kinds(backend, steps: int) -> tuple[Series, tuple, np.ndarray]:
    """A series whose first two of the eleven kinds of arguments change, what it writes to, and what should be there."""
    more = backend.xp.asarray(np.array([0.5, 0.25]))
    out = backend.xp.zeros(11 * steps, "float64")
    scales = np.array((1.5, -7, more.data.ptr), SCALES)
    others = (scales, np.float32(0.1), np.float64(0.1), np.int64(-(2**40)), NULL, np.uint32(2**32 - 1))
    series = Series(kernel(backend, "all_kinds"), ONE, ONE, (out, np.True_, *[None] * 2, *others), 2, 2)
    same = [1.5, -7, 0.25, float(np.float32(0.1)), 0.1, -(2.0**40), 1, 2.0**32 - 1]
    return series, (out, more), np.array([[1, -3 + step, -3, *same] for step in range(steps)])


def test_a_series_of_all_kinds(backend):
    series, (out, more), wanted = all_kinds(backend, 4)
    for step in (2, 0, 3, 1):
        series(-3 + step, -3)
    np.testing.assert_array_equal(backend.numpy(out).reshape(4, 11), wanted)
    if backend.name == backends.CUPY_ON_CPU:
        assert packed(backend) == {"all_kinds": 3}


def test_on_a_stream_of_ones_own_and_in_a_graph(backend):
    series, (out, more), wanted = all_kinds(backend, 2)
    function, y, ones = kernel(backend, "pointers_and_ints"), ints(backend, *[0] * 8), ints(backend, *[1] * 8)
    series(-3, -3)  # a capture loads no kernel
    function.launch(ONE, THREADS, (y, None, y), (0, 0, 0))
    backend.xp.cuda.get_current_stream().synchronize()
    stream = backend.xp.cuda.Stream(non_blocking=True)
    with stream:
        of_stream = Series(series.kernel, ONE, ONE, (*series.before, None, None, *series.after), 2, 2)
        stream.begin_capture()
        of_stream(-2, -3)
        function.launch(ONE, THREADS, (ones, None, y), (4, 0, 0))
        graph = stream.end_capture()
    assert not backend.numpy(out)[11:].any() and not backend.numpy(y).any(), "captured, not run"
    of_stream.write(0, 0)  # the graph has copies of the arguments
    function.launch(ONE, THREADS, (y, None, y), (0, 0, 0))
    backend.xp.cuda.get_current_stream().synchronize()
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(backend.numpy(out).reshape(2, 11), wanted)
    assert backend.numpy(y).tolist() == [401] * 8


def repeated(backend, function) -> tuple[Repeated, object]:
    """One whose first and third array change, and the second one, which is tens of eights."""
    tens = ints(backend, *[8] * 8)
    function.launch(ONE, THREADS, (tens, None, ints(backend, *[0] * 8)), (0, 0, 0))  # the first one is CuPy's
    return Repeated(function, ONE, THREADS, (..., tens, ...), (3, -1, 7)), tens


def test_repeated_with_other_addresses(backend):
    launch, tens = repeated(backend, kernel(backend, "pointers_and_ints"))
    out = [ints(backend, *[0] * 8) for _ in range(3)]
    for number, target in enumerate(out):
        a = ints(backend, *range(number, number + 8))
        launch(a.data.ptr, target.data.ptr)
    for number, target in enumerate(out):
        wanted = np.arange(number, number + 8) + 80 + 300 - 10000 + 7000000
        np.testing.assert_array_equal(backend.numpy(target), wanted)
    without = Repeated(launch.kernel, ONE, THREADS, (out[0], ..., out[1]), (0, 0, 0))
    without(0)
    np.testing.assert_array_equal(backend.numpy(out[1]), backend.numpy(out[0]))


def test_repeated_on_the_stream_that_is_current_then(backend):
    launch, tens = repeated(backend, kernel(backend, "pointers_and_ints"))
    a, y = ints(backend, *[1] * 8), ints(backend, *[0] * 8)
    backend.xp.cuda.get_current_stream().synchronize()
    stream = backend.xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        launch(a.data.ptr, y.data.ptr)
        graph = stream.end_capture()
    assert not backend.numpy(y).any(), "captured, not run"
    graph.launch(stream)
    stream.synchronize()
    assert backend.numpy(y).tolist() == [1 + 80 + 300 - 10000 + 7000000] * 8


def test_repeated_within_itself_finds_other_room(backend):
    function = kernel(backend, "pointers_and_ints")
    launch, tens = repeated(backend, function)
    inner, outer, a, b = (ints(backend, *[value] * 8) for value in (0, 0, 1, 2))
    streams, asked = function.current_stream, []

    def in_between():  # the arguments are laid out, and not launched yet
        if not asked:
            asked.append(True)
            launch(b.data.ptr, inner.data.ptr)
        return streams()

    function.current_stream = in_between
    launch(a.data.ptr, outer.data.ptr)
    same = 80 + 300 - 10000 + 7000000
    assert backend.numpy(outer).tolist() == [1 + same] * 8 and backend.numpy(inner).tolist() == [2 + same] * 8


def test_without_the_drivers_launch_all_is_cupys(backend, monkeypatch):
    for name in ("launchKernel", "launchCooperativeKernel"):
        monkeypatch.delattr(backend.xp.cuda.driver, name)
    series, (out, more), wanted = all_kinds(backend, 3)
    for step in range(3):
        series(-3 + step, -3)
    np.testing.assert_array_equal(backend.numpy(out).reshape(3, 11), wanted)
    function, y = kernel(backend, "pointers_and_ints"), ints(backend, *[0] * 8)
    for _ in range(2):
        function.launch(ONE, THREADS, (y, None, y), (1, 0, 0))
    np.testing.assert_array_equal(backend.numpy(y), [200] * 8)
    assert packed(backend) == {}


def test_a_kernel_without_an_address_is_cupys(backend):
    asked = []
    function = Kernel(backend.xp, lambda *args, **kwargs: asked.append((args, kwargs)))
    for _ in range(2):
        function.launch(ONE, THREADS, (None,), (3,), 64)
    assert asked == [((ONE, THREADS, (NULL, np.int32(3))), {"shared_mem": 64})] * 2


def test_threads_do_not_meet(backend):
    """Each has its own room: with the interpreter's switches as close as they come, all launches are right."""
    function, rounds = kernel(backend, "pointers_and_ints"), 40
    together = threading.Barrier(3)

    def work(number: int) -> None:
        with backend.xp.cuda.Device(0):
            a, out = ints(backend, *[number] * 8), ints(backend, *[0] * 8)
            together.wait(timeout=20)
            for i in range(rounds):
                function.launch(ONE, THREADS, (a, None, out), (i, number, 0))
                assert backend.numpy(out).tolist() == [number + 100 * i + 10000 * number] * 8

    at_once.run(work, range(1, 4))
    if backend.name == backends.CUPY_ON_CPU:
        assert packed(backend) == {"pointers_and_ints": 3 * (rounds - 1)}, "each thread's first is CuPy's"


def test_a_launch_within_a_launch_finds_other_room(backend):
    """As a finaliser may, which runs wherever the interpreter happens to be."""
    function, other = (kernel(backend, "pointers_and_ints") for _ in range(2))
    one, inner, outer = (ints(backend, *[value] * 8) for value in (1, 0, 0))
    for each in (function, other):
        each.launch(ONE, THREADS, (one, None, outer), (0, 0, 0))
    streams = function.current_stream

    def in_between():  # the arguments are laid out, and not launched yet
        other.launch(ONE, THREADS, (one, one, inner), (7, 7, 7))
        return streams()

    function.current_stream = in_between
    function.launch(ONE, THREADS, (one, None, outer), (2, 0, 0))
    assert backend.numpy(outer).tolist() == [201] * 8 and backend.numpy(inner).tolist() == [7070711] * 8


def test_cooperative_launches_are_the_drivers_from_a_threads_first_on(backend):
    """Structs and all; and the kernel is compiled as any other one."""
    module = backend.xp.RawModule(code=SOURCE, options=("--std=c++14",))
    function = Kernel(backend.xp, module.get_function("all_kinds"), cooperative=True)
    of_series, (out, more), wanted = all_kinds(backend, 3)

    def work(step: int) -> None:
        with backend.xp.cuda.Device(0):
            function(ONE, ONE, (*of_series.before, *map(np.int32, (-3 + step, -3)), *of_series.after))
            backend.xp.cuda.get_current_stream().synchronize()

    at_once.run(work, range(3))
    np.testing.assert_array_equal(backend.numpy(out).reshape(3, 11), wanted)
    if backend.name == backends.CUPY_ON_CPU:
        assert packed(backend) == {"all_kinds": 3}


def test_a_numpy_array_that_is_no_struct_is_refused(backend):
    with pytest.raises(TypeError, match=r"one element goes to a kernel by value, got shape \(2,\)"):
        Series(kernel(backend, "pointers_and_ints"), ONE, ONE, (np.zeros(2), *[None] * 5), 3, 3)


class TestTheLibrary:
    """Whatever it launches this way is compared by value elsewhere; here is how often it does."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    def counts(self, backend, function) -> tuple[dict[str, int], dict[str, int]]:
        backend.xp.on_cpu.reset_counts()
        function()
        return dict(backend.xp.on_cpu.launches), packed(backend)

    def test_all_steps_of_a_loop_but_a_kernels_first(self, backend, monkeypatch):
        monkeypatch.setattr(modules, "_kernels", {})
        given = problems.problem(steps=5)
        for fewer in (1, 0):
            launches, packed = self.counts(backend, lambda: problems.solve(backend, given))
            steps = launches["lstm_forward_step"], launches["lstm_backward_step"]
            assert (packed["lstm_forward_step"], packed["lstm_backward_step"]) == tuple(n - fewer for n in steps)

    @pytest.mark.parametrize("options", [{"zoneout": 0.1}, {"proj_size": 3}, {"layer_norm": True}], ids=str)
    def test_and_with_options(self, backend, options):
        lstm, x = gl.LSTM(4, 8, **options, xp=backend.xp, rng=0), backend.xp.ones((4, 2, 4), "float32")

        def train() -> None:
            y, _, cache = lstm.forward(x, rng=0)
            lstm.backward(cache, y)

        train()
        launches, packed = self.counts(backend, train)
        steps = {name: n for name, n in launches.items() if name.startswith(("lstm_variant_c", "lstm_variant_o"))}
        assert packed == steps | {"column_sum": launches["column_sum"]}
        assert len(steps) == 2 + 2 * ("proj_size" in options)

    def test_what_comes_before_and_after_the_steps(self, backend):
        given = problems.problem(hidden=8, dtype="float32", lengths=[2, 0, 3])
        with planner.only("resident"):
            problems.solve(backend, given)
            launches, packed = self.counts(backend, lambda: problems.solve(backend, given))
        assert packed == launches
        assert set(packed) >= {"column_sum", "without_padding", "state_of_running", "clear_inputs"}

    @pytest.mark.parametrize("options", [{}, {"zoneout": 0.1}, {"num_layers": 2}], ids=str)
    def test_nothing_is_compiled_for_cooperative_groups(self, backend, monkeypatch, options):
        """Which CuPy 14.0 and 14.1 need a library of CUDA's for; and CuPy launches none of these kernels."""
        monkeypatch.setattr(modules, "_kernels", {})
        lstm, x = gl.LSTM(4, 8, **options, xp=backend.xp, rng=0), backend.xp.ones((16, 2, 4), "float32")
        raw_module = backend.xp.RawModule
        monkeypatch.setattr(backend.xp, "RawModule", lambda *, code, options: raw_module(code=code, options=options))
        with planner.only("persistent"), stacked_layers.ways("any"):
            launches, packed = self.counts(backend, lambda: lstm.forward(x, rng=0))
        assert packed["lstm_persistent_forward"] == launches["lstm_persistent_forward"] == 1

    @pytest.mark.parametrize("schedule", ["step", "resident", "persistent", "cluster"])
    def test_all_that_run_in_one_launch(self, backend, schedule):
        lstm = gl.LSTM(4, 8, xp=backend.xp, rng=0)
        x = backend.xp.ones((1 if schedule == "step" else 3, 2, 4), "float32")
        with planner.only(schedule):
            y, _ = lstm(x)
            launches, packed = self.counts(backend, lambda: lstm(x))
            assert packed == launches and sum(launches.values()) == 1
            assert (backend.numpy(lstm(x)[0]) == backend.numpy(y)).all(), "CuPy's launch and ours are the same"


class TestTheStandIn:
    """What would go wrong on a GPU, or go unnoticed there, is an error here."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_an_array_that_is_gone(self, backend):
        function, out = kernel(backend, "pointers_and_ints"), ints(backend, *[0] * 8)
        arrays = [ints(backend, *[1] * 8), None, out]
        series = Series(function, ONE, THREADS, (arrays[0], NULL, out, *[None] * 3), 3, 3)
        series(1, 2, 3)
        series(1, 2, 3)
        arrays.clear()
        series.before = ()
        with pytest.raises(InvalidMemory, match="pointers_and_ints: a: 0x.* does not lie in a live array"):
            series(1, 2, 3)

    def test_an_argument_too_few_or_out_of_its_place(self, backend):
        function, out, a = kernel(backend, "pointers_and_ints"), ints(backend, *[0] * 8), ints(backend, *[3] * 8)
        with pytest.raises(TypeError, match="takes 6 arguments"):  # the first one is CuPy's, and looked at
            function.launch(ONE, THREADS, (a, None, out), (1, 2))
        function.launch(ONE, THREADS, (a, None, out), (1, 2, 3))
        with pytest.raises(InvalidMemory):
            function.launch(ONE, THREADS, (a, out), (5, 1, 2, 3))

    def test_another_thread_device_or_stream(self, backend):
        cupy = backend.xp
        launch, error = cupy.cuda.driver.launchKernel, cupy.cuda.driver.CUDADriverError
        function, out = kernel(backend, "pointers_and_ints"), ints(backend, *[0] * 8)
        function.launch(ONE, THREADS, (out, None, out), (1, 2, 3))
        with pytest.raises(error, match="INVALID_HANDLE: 5 is not the ptr of a kernel"):
            launch(5, *ONE, *ONE, 0, 0, 0, 0)
        with pytest.raises(error, match="INVALID_HANDLE: 77 is not the ptr of a stream"):
            launch(function.address, *ONE, *THREADS, 0, 77, 0, 0)
        with cupy.cuda.Device(1):
            cupy.RawModule(code=SOURCE).get_function("pointers_and_ints")(
                ONE, ONE, (out_of(cupy),) * 3 + (np.int32(0),) * 3
            )
            with pytest.raises(error, match="INVALID_HANDLE: a kernel of device 0, not of 1"):
                function.launch(ONE, THREADS, (out, None, out), (1, 2, 3))
        found = []

        def elsewhere() -> None:
            try:
                launch(function.address, *ONE, *THREADS, 0, 0, 0, 0)
            except error as refused:
                found.append(str(refused))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "INVALID_CONTEXT: device 0's context is not bound to this thread" in found[0]

    def test_a_cooperative_grid_that_does_not_fit(self):
        with cupy_on_cpu(multiprocessors=2) as cupy:
            module = cupy.RawModule(code=SOURCE, enable_cooperative_groups=True)
            function = Kernel(cupy, module.get_function("pointers_and_ints"), cooperative=True)
            out = cupy.zeros(1024 * 5, "int32")
            for blocks in (1, 4):
                function.launch((blocks, 1, 1), (1024, 1, 1), (out, None, out), (blocks, 0, 0))
            assert out.get()[[0, 1024, 4096]].tolist() == [100 + 400, 400, 0]
            with pytest.raises(cupy.cuda.driver.CUDADriverError, match="COOPERATIVE_LAUNCH_TOO_LARGE"):
                function.launch((5, 1, 1), (1024, 1, 1), (out, None, out), (1, 0, 0))


def out_of(cupy):
    return cupy.zeros(1, "int32")
