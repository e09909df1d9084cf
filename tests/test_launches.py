"""What the CuPy engine asks of the device: how many launches, on which device, and how many compilations."""

import threading
from collections import Counter

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import modules, planner
from gpulstm.engines import cupy_engine
from gpulstm.functional import lstm_inference
from tests import backends, problems

STEPS = 5


class TestCounts:
    """One kernel and one product for each step; whatever else there is does not depend on the number of steps."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("directions", [1, 2])
    @pytest.mark.parametrize("layers", [1, 3])
    @pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=["no lengths", "lengths"])
    @pytest.mark.parametrize("state", [True, False])
    def test_training(self, backend, layers, directions, lengths, state):
        given = problems.problem(layers=layers, directions=directions, lengths=lengths, state=state)
        x, params = backend.array(given.x), backend.array(given.params)
        initial, dy, dstate = (backend.array(a) for a in (given.state, given.dy, given.dstate))
        runs = layers * directions
        kept = []
        forward = backend.counted(lambda: kept.append(gl.lstm_forward(x, params, initial, lengths=lengths)[2]))
        padding = {"without_padding": 1, "clear_inputs": runs} if lengths else {}
        padding |= {"state_of_running": 2 * runs} if lengths and state else {}  # the initial one, and the final one
        assert forward == ({"lstm_forward_step": STEPS * runs, **padding}, (STEPS + 1) * runs)
        backward = backend.counted(lambda: gl.lstm_backward(kept[0], dy, dstate))
        # A product for dx and one for each weight.
        assert backward == ({"lstm_backward_step": STEPS * runs, "column_sum": runs}, (STEPS + 3) * runs)

    def test_training_has_as_many_products_and_sums_as_windows_of_time(self, backend, monkeypatch):
        monkeypatch.setattr(engines, "WINDOW", 2)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given = problems.problem()
        windows = -(-STEPS // 2)
        x, params, kept = backend.array(given.x), backend.array(given.params), []
        forward = backend.counted(lambda: kept.append(gl.lstm_forward(x, params)[2]))
        assert forward == ({"lstm_forward_step": STEPS}, STEPS + windows)
        backward = backend.counted(lambda: gl.lstm_backward(kept[0], backend.array(given.dy)))
        assert backward == ({"lstm_backward_step": STEPS, "column_sum": windows}, STEPS + 3 * windows)
        numpy = backends.Backend(backends.NUMPY, np)
        problems.assert_close(problems.solve(backend, given), problems.solve(numpy, given))

    def test_inference(self, backend):
        given = problems.problem(layers=2, directions=2)
        x, params = backend.array(given.x), backend.array(given.params)
        found = backend.counted(lambda: lstm_inference(x, params))
        assert found == ({"lstm_forward_step": STEPS * 4}, (STEPS + 1) * 4)

    def test_inference_in_tiles_has_one_more_product_for_each_tile(self, backend, monkeypatch):
        given = problems.problem()
        monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", 2 * 3 * 8 * 8)  # two steps
        x, params = backend.array(given.x), backend.array(given.params)
        assert backend.counted(lambda: lstm_inference(x, params)) == ({"lstm_forward_step": STEPS}, STEPS + 3)

    def test_a_second_launch_where_the_bias_has_many_rows(self, backend):
        """column_sum adds up 512 rows in a block, then the blocks' sums: 2 launches, a right sum in a fixed order."""
        given = problems.problem(steps=2, batch=300, hidden=9)
        kept = gl.lstm_forward(backend.array(given.x), backend.array(given.params))[2]
        gradients = []
        dy = backend.array(given.dy)
        launches, _ = backend.counted(lambda: gradients.append(gl.lstm_backward(kept, dy)[1]))
        assert launches["column_sum"] == 2
        numpy = problems.solve(backends.Backend(backends.NUMPY, np), given.but(state=None, dstate=None))
        np.testing.assert_allclose(backend.numpy(gradients[0]["bias_l0"]), numpy["dbias_l0"], rtol=1e-12)

    def test_without_a_bias_nothing_is_summed(self, backend):
        given = problems.problem(bias=False)
        kept = gl.lstm_forward(backend.array(given.x), backend.array(given.params))[2]
        assert "column_sum" not in backend.counted(lambda: gl.lstm_backward(kept))[0]

    @pytest.mark.parametrize("sizes", [{"steps": 0}, {"batch": 0}], ids=str)
    def test_nothing_to_do_launches_nothing(self, backend, sizes):
        given = problems.problem(**sizes)
        assert backend.counted(lambda: problems.solve(backend, given)) == ({}, 0)


class TestMemory:
    """Every copy, every array and every filling costs the CPU some microseconds, which a short sequence feels."""

    BACKENDS = (backends.CUPY_ON_CPU,)
    # For one layer in one direction: (new arrays, copies, fillings). The final state, y, and in training the history
    # of gates, c and h; in the backward pass dx, three gradients, and dh and dc. The stand-in counts no filling of
    # cupy.zeros, and CuPy's own copies as new arrays. The persistent schedule has its alarm copied to the host, and
    # exchanges words in an array of its own.
    INFERENCE = {"loop": (4, 0, 0), "resident": (4, 0, 0), "persistent": (5, 3, 1)}
    FORWARD = {"loop": (6, 4, 0), "resident": (6, 4, 0), "persistent": (6, 5, 1)}
    FORWARD_FROM_ZEROS = {"loop": (6, 2, 2), "resident": (6, 2, 2), "persistent": (6, 3, 3)}
    BACKWARD = {"loop": (6, 0, 0), "resident": (6, 0, 0), "persistent": (7, 1, 0)}

    def asks(self, backend, function) -> tuple[int, int, int]:
        backend.xp.on_cpu.reset_counts()
        function()
        found = backend.xp.on_cpu.memory
        return found["new"], found["memcpyAsync"], found["memsetAsync"]

    @pytest.mark.parametrize("schedule", INFERENCE)
    def test_of_a_call(self, backend, schedule):
        given = problems.problem(dtype="float32", hidden=4)
        lstm = gl.LSTM(4, 4, xp=backend.xp, rng=0)
        x, state, dy, kept = backend.array(given.x), backend.array(given.state), backend.array(given.dy), []
        with planner.only(schedule):
            lstm.forward(x)  # the device, the alarm
            assert self.asks(backend, lambda: lstm(x, state)) == self.INFERENCE[schedule]
            assert self.asks(backend, lambda: kept.append(lstm.forward(x, state)[2])) == self.FORWARD[schedule]
            assert self.asks(backend, lambda: lstm.forward(x)) == self.FORWARD_FROM_ZEROS[schedule]
            assert self.asks(backend, lambda: lstm.backward(kept[0], dy, state)) == self.BACKWARD[schedule]


class TestCompilation:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.fixture(autouse=True)
    def compilations(self, monkeypatch):
        """Counts compilations, starting with none: slow ones, so that threads have time to come together."""
        found = Counter()
        compile_one, slow = modules._compile, threading.Event()

        def counted(cupy, specialisation, shared_bytes):
            found[specialisation, cupy.cuda.runtime.getDevice()] += 1
            slow.wait(0.05)
            return compile_one(cupy, specialisation, shared_bytes)

        monkeypatch.setattr(modules, "_kernels", {})
        monkeypatch.setattr(modules, "_compile", counted)
        return found

    def test_once_for_each_specialisation(self, backend, compilations):
        for lengths in (None, [5, 0, 3], None, [1, 2, 3]):
            for dtype in ("float32", "float64"):
                problems.solve(backend, problems.problem(lengths=lengths, dtype=dtype))
        # 2 dtypes x (forward and backward, with and without lengths, the sum, and three for padding)
        assert len(compilations) == 2 * (2 + 2 + 1 + 3)
        assert set(compilations.values()) == {1}

    def test_once_when_threads_ask_together(self, backend, compilations):
        together = threading.Barrier(4)
        found, errors = [], []

        def ask():
            try:
                together.wait(timeout=10)
                found.append(modules.kernel("sigmoid", "float32"))
            except Exception as error:  # noqa: BLE001 - else lost with its thread, and the test would pass
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert list(compilations.values()) == [1]
        assert len(found) == 4 and all(kernel is found[0] for kernel in found)

    def test_again_for_another_device(self, backend, compilations):
        modules.kernel("sigmoid", "float32")
        with backend.xp.cuda.Device(1):
            modules.kernel("sigmoid", "float32")
        assert sorted(device for _, device in compilations) == [0, 1]


class TestDevices:
    """Everything happens on the arrays' device, whichever is the current one."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=["no lengths", "lengths"])
    @pytest.mark.parametrize("state", [True, False])
    def test_training_and_inference(self, backend, state, lengths):
        self.check(backend, problems.problem(layers=2, directions=2, lengths=lengths, state=state))

    @pytest.mark.parametrize("sizes", [{"steps": 0}, {"batch": 0}], ids=str)
    @pytest.mark.parametrize("state", [True, False])
    def test_nothing_to_do(self, backend, sizes, state):
        self.check(backend, problems.problem(**sizes, state=state))

    def check(self, backend, given: problems.Problem) -> None:
        device = backend.xp.cuda.Device(1)
        with device:
            x, params, state = backend.array(given.x), backend.array(given.params), backend.array(given.state)
            dy, dstate = backend.array(given.dy), backend.array(given.dstate)
        inferred, inferred_state = lstm_inference(x, params, state, lengths=given.lengths)
        y, final, cache = gl.lstm_forward(x, params, state, lengths=given.lengths)
        dx, grads, dinitial = gl.lstm_backward(cache, dy, dstate)
        for array in (inferred, *inferred_state, y, *final, dx, *grads.values(), *dinitial):
            assert array.device == device
        assert backend.xp.cuda.runtime.getDevice() == 0, "the caller's device is as it was"
        expected = problems.solve(backend, given)
        found = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
        problems.assert_close(backend.numpy(found), {name: expected[name] for name in found})

    def test_the_layer(self, backend):
        with backend.xp.cuda.Device(1):
            lstm = gl.LSTM(4, 2, dtype="float64", xp=backend.xp, rng=0)
            x = backend.array(problems.problem().x)
        gate = lstm.gate("forget")
        assert gate.weight.device == gate.bias.device == x.device
        lstm.load_state_dict(backend.numpy(lstm.params))
        assert all(p.device == x.device for p in lstm.params.values())
        assert lstm(x)[0].device == x.device

    def test_the_cell(self, backend):
        with backend.xp.cuda.Device(1):
            cell = gl.LSTMCell(4, 2, dtype="float64", xp=backend.xp, rng=0)
            x = backend.array(problems.problem().x[0])
        after, cache = cell.forward(x)
        dx, _, _ = cell.backward(cache, (after.h, None))
        assert dx.device == after.h.device == x.device


def test_windows_on_a_gpu_have_rows_enough_for_a_product():
    assert [engines.gpu_window(batch) for batch in (0, 1, 8, 64, 65, 1000)] == [8192, 8192, 1024, 128, 128, 128]
    assert engines.cpu_window(1) == engines.WINDOW == 128
    for window in map(engines.gpu_window, range(100)):
        assert window % engines.WINDOW == 0
