"""The optimisers' kernels: launches counted, NumPy's numbers, clean under sanitizers, and same bits twice."""

import copy

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import modules, sources, tensor_table
from gpulstm.training import SGD, Adam, AdamW, clip_by_global_norm, clip_by_value, fused
from tests import backends
from tests.cuda_on_cpu import SanitizerError, cupy_on_cpu

SIZES = (1, 1023, 0, 1024, 1025, 31, 5003)  # a chunk is 1024 elements
OPTIMISERS = {
    "adam": lambda: Adam(0.03, betas=(0.8, 0.9)),
    "adamw": lambda: AdamW(0.03, weight_decay=0.3),
    "sgd": lambda: SGD(0.03),
    "sgd with momentum": lambda: SGD(0.03, momentum=0.9, weight_decay=0.1),
    "sgd with nesterov": lambda: SGD(0.03, momentum=0.9, nesterov=True),
}


def tree(seed, dtype="float32", sizes=SIZES):
    rng = np.random.default_rng(seed)
    return {f"p{i}": rng.normal(size=size).astype(dtype) for i, size in enumerate(sizes)}


def three_steps(backend, make, dtype="float32", sizes=SIZES, steps=3):
    """Parameters and state after three steps, or as many as are asked for, as NumPy."""
    params, optimiser = backend.array(tree(0, dtype, sizes)), make()
    for seed in range(1, 1 + steps):
        optimiser.step(params, backend.array(tree(seed, dtype, sizes)))
    return backend.numpy(params), backend.numpy(optimiser.state_dict()["arrays"])


def assert_close(found, wanted, tolerance):
    for got, want in zip(found, wanted, strict=True):
        assert got.keys() == want.keys()
        for key in got:
            assert got[key].dtype == want[key].dtype
            np.testing.assert_allclose(got[key], want[key], rtol=tolerance, atol=tolerance)


NUMPY = backends.Backend(backends.NUMPY, np)


class TestOnEveryDevice:
    BACKENDS = backends.KERNELS

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("name", OPTIMISERS)
    def test_numpys_numbers(self, backend, name, dtype):
        found = three_steps(backend, OPTIMISERS[name], dtype)
        assert_close(found, three_steps(NUMPY, OPTIMISERS[name], dtype), 1e-6 if dtype == "float32" else 1e-14)

    @pytest.mark.parametrize("name", OPTIMISERS)
    def test_more_tensors_than_a_table_holds(self, backend, name):
        sizes = [3 + i % 5 for i in range(2 * tensor_table.TENSORS + 7)]
        found = three_steps(backend, OPTIMISERS[name], sizes=sizes)
        assert_close(found, three_steps(NUMPY, OPTIMISERS[name], sizes=sizes), 1e-6)

    def test_steps_over_other_parameters_in_turn(self, backend):
        """The tables of one step must not serve the next where its sizes differ."""
        trees = [tree(seed, "float64", (5, 2000, 7)) for seed in range(2)]
        params, wanted = backend.array(trees[0]), NUMPY.array(trees[0])
        ours, theirs = AdamW(), AdamW()
        for keys in (("p0", "p1"), ("p1", "p2"), ("p2",), ("p0", "p1", "p2")):
            grads = {key: trees[1][key] for key in keys}
            ours.step({key: params[key] for key in keys}, backend.array(grads))
            theirs.step({key: wanted[key] for key in keys}, grads)
        assert_close([backend.numpy(params)], [wanted], 1e-14)

    def test_tensors_of_both_dtypes(self, backend):
        mixed = [{**tree(seed), **{f"double {k}": v for k, v in tree(seed, "float64").items()}} for seed in range(2)]
        params, wanted, ours, theirs = backend.array(mixed[0]), NUMPY.array(mixed[0]), AdamW(), AdamW()
        ours.step(params, backend.array(mixed[1]))
        theirs.step(wanted, mixed[1])
        assert_close([backend.numpy(params)], [wanted], 1e-6)

    def test_gradients_in_any_order_of_memory_and_unchanged(self, backend):
        values, gradient = np.linspace(-1, 1, 35 * 3).reshape(35, 3), np.arange(35.0 * 3).reshape(3, 35)
        params, wanted = {"w": backend.array(values)}, {"w": values.copy()}
        given = backend.array(gradient)
        SGD(0.5).step(params, {"w": given.T})
        SGD(0.5).step(wanted, {"w": gradient.T})
        np.testing.assert_allclose(params["w"].get(), wanted["w"], rtol=1e-15)
        np.testing.assert_array_equal(given.get(), gradient)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("max_norm", [0.5, 1e3, 0])
    def test_clipping_to_a_norm_has_numpys_numbers(self, backend, dtype, max_norm, monkeypatch):
        monkeypatch.setattr(fused, "MOST_BLOCKS", 3)  # so that blocks take several chunks each
        for sizes in (SIZES, [3 + i % 5 for i in range(2 * tensor_table.TENSORS + 7)]):
            grads, wanted = backend.array(tree(5, dtype, sizes)), tree(5, dtype, sizes)
            norm, expected = clip_by_global_norm(grads, max_norm), clip_by_global_norm(wanted, max_norm)
            tolerance = 1e-6 if dtype == "float32" else 1e-14
            assert isinstance(norm, backend.xp.ndarray) and norm.shape == () and norm.dtype == dtype
            np.testing.assert_allclose(norm.get(), expected, rtol=tolerance)
            assert_close([backend.numpy(grads)], [wanted], tolerance)

    def test_clipping_to_a_norm_gives_the_same_bits_twice(self, backend):
        results = []
        for _ in range(2):
            grads = backend.array(tree(6, sizes=(600_011, 7)))
            results.append((clip_by_global_norm(grads, 1.0).get(), backend.numpy(grads)))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        for key, array in results[0][1].items():
            np.testing.assert_array_equal(array, results[1][1][key])
        np.testing.assert_allclose(sum((a.astype(float) ** 2).sum() for a in results[0][1].values()), 1, rtol=1e-5)

    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    def test_a_poisoned_gradient_shows_in_the_norm(self, backend, poison):
        grads = {"a": backend.array(np.array([1.0, poison])), "b": backend.array(np.array([2.0]))}
        norm = clip_by_global_norm(grads, 1.0)
        found = backend.numpy(grads)
        assert not np.isfinite(norm.get()) and np.isnan(found["a"][1])
        np.testing.assert_array_equal(found["b"], [np.nan if np.isnan(poison) else 0])

    def test_nothing_but_empty_gradients_have_norm_0(self, backend):
        grads = {"a": backend.array(np.zeros((0, 3)))}
        assert clip_by_global_norm(grads, 1.0).get() == 0
        clip_by_value(grads, 1.0)
        Adam().step(grads, {"a": backend.array(np.zeros((0, 3)))})

    def test_clipping_writes_to_gradients_in_any_order_of_memory(self, backend):
        for clip in (clip_by_global_norm, clip_by_value):
            base = backend.array(np.arange(12.0).reshape(3, 4))
            grads, wanted = {"w": base.T, "row": base[1]}, {"w": np.arange(12.0).reshape(3, 4).T}
            del grads["row"]
            view = grads["w"]
            clip(grads, 2.0)
            clip(wanted, 2.0)
            assert grads["w"] is view
            np.testing.assert_allclose(base.get().T, wanted["w"], rtol=1e-14)


class TestLaunches:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def launches(self, backend, function):
        backend.xp.on_cpu.reset_counts()
        function()
        return dict(backend.xp.on_cpu.launches)

    @pytest.mark.parametrize("name", OPTIMISERS)
    def test_one_a_step_for_a_whole_model(self, backend, name):
        lstm = gl.LSTM(3, 5, 2, bidirectional=True, dtype="float64", xp=backend.xp, rng=0)
        head = gl.nn.Linear(10, 2, dtype="float64", xp=backend.xp, rng=1)
        params, optimiser = {"lstm": lstm.params, "head": head.params}, OPTIMISERS[name]()
        x = backend.array(np.random.default_rng(2).normal(size=(4, 2, 3)))
        kernel = "sgd_step" if "sgd" in name else "adam_step"
        for _ in range(2):
            y, _, cache = lstm.forward(x)
            out, kept = head.forward(y)
            dy, head_grads = head.backward(kept, out)
            _, lstm_grads, _ = lstm.backward(cache, dy)
            grads = {"lstm": lstm_grads, "head": head_grads}
            before = backend.numpy(params["lstm"])
            clipping = self.launches(backend, lambda grads=grads: clip_by_global_norm(grads, 1.0))
            assert clipping == {"sum_of_squares": 1, "scale_to_norm": 1}
            assert self.launches(backend, lambda grads=grads: clip_by_value(grads, 0.1)) == {"clip_values": 1}
            assert self.launches(backend, lambda grads=grads: optimiser.step(params, grads)) == {kernel: 1}
            assert all(np.any(before[key] != array.get()) for key, array in lstm.params.items())

    def test_one_for_each_table_dtype_and_device(self, backend):
        sizes = [1] * (tensor_table.TENSORS + 1)
        params, grads = backend.array(tree(0, sizes=sizes)), backend.array(tree(1, sizes=sizes))
        assert self.launches(backend, lambda: SGD(1).step(params, grads)) == {"sgd_step": 2}
        with backend.xp.cuda.Device(1):
            other = backend.array(tree(0, "float64")), backend.array(tree(1, "float64"))
        params["other"], grads["other"] = other
        assert self.launches(backend, lambda: SGD(1).step(params, grads)) == {"sgd_step": 3}
        wanted = tree(0, "float64")
        SGD(1).step(wanted, tree(1, "float64"))
        for key, array in wanted.items():
            np.testing.assert_array_equal(params["other"][key].get(), array)

    def test_none_where_there_is_nothing_to_do(self, backend):
        empty = {"a": backend.array(np.zeros((0, 3)))}
        assert self.launches(backend, lambda: Adam().step(empty, dict(empty))) == {}

    def test_everything_is_on_the_arrays_device(self, backend):
        with backend.xp.cuda.Device(1):
            params, grads = backend.array(tree(0)), backend.array(tree(1))
        norm, adam = clip_by_global_norm(grads, 1.0), Adam()
        clip_by_value(grads, 0.1)
        adam.step(params, grads)
        state = adam.state_dict()
        again = Adam()
        again.load_state_dict({**state, "arrays": backend.numpy(state["arrays"])}, params)
        again.step(params, grads)
        found = (norm, *params.values(), *state["arrays"].values(), *again.state_dict()["arrays"].values())
        assert {array.device.id for array in found} == {1}
        assert backend.xp.cuda.runtime.getDevice() == 0, "the caller's device is as it was"

    def test_a_copied_optimiser_goes_its_own_way(self, backend):
        params, adam = backend.array(tree(0)), Adam(0.1)
        adam.step(params, backend.array(tree(1)))
        twin, twins = copy.copy(adam), backend.array(backend.numpy(params))
        twin._launch = copy.deepcopy(adam._launch)  # as pickle and deepcopy would
        twin.moments = {name: tuple(a.copy() for a in means) for name, means in adam.moments.items()}
        for optimiser, tensors in ((adam, params), (twin, twins)):
            optimiser.step(tensors, backend.array(tree(2)))
        for key, array in params.items():
            np.testing.assert_array_equal(array.get(), twins[key].get())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda p: p.update(b=p["a"].T), r"params\['b'\] must be C-contiguous, got shape \(3, 2\) with strides"),
            (lambda p: p.update(b=p["a"]), r"params\['b'\] must have memory of its own, got that of params\['a'\]"),
        ],
    )
    def test_memory_that_a_kernel_cannot_change_is_refused(self, backend, change, message):
        params = {"a": backend.array(np.ones((2, 3)))}
        change(params)
        optimiser = SGD(1)
        with pytest.raises(ValueError, match=message):
            optimiser.step(params, {key: backend.array(np.ones(array.shape)) for key, array in params.items()})
        assert optimiser.steps == 0 and np.all(params["a"].get() == 1)

    def test_gradients_that_share_memory_are_refused_for_clipping(self, backend):
        gradient = backend.array(np.ones(2))
        for clip in (clip_by_global_norm, clip_by_value):
            with pytest.raises(ValueError, match=r"grads\['b'\] must have memory of its own, got that of grads\['a'\]"):
                clip({"a": gradient, "b": gradient}, 0.5)
        assert np.all(gradient.get() == 1)

    def test_half_precision_is_refused(self, backend):
        half = {"a": backend.array(np.ones(2, np.float16))}
        for call in (lambda: SGD(1).step(half, dict(half)), lambda: clip_by_value(half, 1)):
            with pytest.raises(TypeError, match=r"\['a'\] must have dtype float32 or float64, got float16"):
                call()


def test_tables_hold_every_tensor_once():
    sizes = [0, 5, 1024, 0, 1025, *[2049] * 200, 0]
    found = tensor_table.tables(sizes)
    assert [len(table.members) for table in found] == [88, 88, 27]
    assert [place for table in found for place in table.members] == [i for i, size in enumerate(sizes) if size]
    first = found[0].values
    assert list(first["size"][:4]) == [5, 1024, 1025, 2049]
    assert list(first["first_chunk"][:5]) == [0, 1, 2, 4, 7]
    assert first["count"] == 88 and first["chunks"] == found[0].chunks == 1 + 1 + 2 + 3 * 85
    assert found[0].geometry() == ((259,), (256,)) and found[0].geometry(50) == ((50,), (256,))
    assert tensor_table.tables([0, 0]) == []


def test_a_launch_stays_below_what_every_device_takes():
    assert tensor_table._LAYOUT.itemsize + 8 * 8 <= 4096  # Adam passes 8 numbers behind the table


SMALL = (1, 33, 0, 1025)
ORDERS = ("descending", "random")


CLEAN = [("asan", name) for name in OPTIMISERS] + [("tsan", "adamw"), ("tsan", "sgd with nesterov")]


@pytest.mark.parametrize(("mode", "name"), CLEAN)
def test_steps_are_clean(mode, name):
    steps = 1 if mode == "tsan" else 3  # which takes its time, and each step launches the same kernel
    with cupy_on_cpu(mode, thread_order=ORDERS[mode == "tsan"], seed=1) as cupy:
        found = three_steps(backends.Backend(backends.CUPY_ON_CPU, cupy), OPTIMISERS[name], sizes=SMALL, steps=steps)
    assert_close(found, three_steps(NUMPY, OPTIMISERS[name], sizes=SMALL, steps=steps), 1e-6)


def clipped(cupy, sizes=SMALL):
    grads = {key: cupy.asarray(array) for key, array in tree(7, "float64", sizes).items()}
    norm = clip_by_global_norm(grads, 2.0).get()
    clip_by_value(grads, 0.02)
    return norm, {key: array.get() for key, array in grads.items()}


@pytest.mark.parametrize(("mode", "blocks"), [("asan", 2), ("asan", 512), ("tsan", 2)])
def test_clipping_is_clean_and_the_same_bits_in_any_order_of_threads(mode, blocks, monkeypatch):
    monkeypatch.setattr(fused, "MOST_BLOCKS", blocks)
    with cupy_on_cpu() as cupy:
        norm, grads = clipped(cupy)
    with cupy_on_cpu(mode, thread_order=ORDERS[mode == "tsan"], seed=2) as cupy:
        other_norm, others = clipped(cupy)
    np.testing.assert_array_equal(norm, other_norm)
    wanted = tree(7, "float64", SMALL)
    np.testing.assert_allclose(norm, clip_by_global_norm(wanted, 2.0), rtol=1e-14)
    clip_by_value(wanted, 0.02)
    for key, array in grads.items():
        np.testing.assert_array_equal(array, others[key])
        np.testing.assert_allclose(array, wanted[key], rtol=1e-14)


def changed(monkeypatch, file, line, count, replacement="", which=None):
    """Makes `sources.read` give ``file``, or those that include it, with another text for ``line``."""
    real_read = sources.read

    def read(name):
        text = real_read(name)
        if line not in text or name not in file:
            return text
        assert text.count(line) == count
        parts = text.split(line)
        places = range(count) if which is None else [which]
        glue = [replacement if i in places else line for i in range(count)]
        return parts[0] + "".join(g + part for g, part in zip(glue, parts[1:], strict=True))

    monkeypatch.setattr(sources, "read", read)
    monkeypatch.setattr(modules, "_kernels", {})


END = "begin + CHUNK < size ? begin + CHUNK : size"


@pytest.mark.parametrize("name", ["adam", "sgd with momentum", "clipping"])
def test_an_end_beyond_the_tensor_is_caught(monkeypatch, name):
    changed(monkeypatch, ("adam_step.cu", "sgd_step.cu", "clip_gradients.cu"), END, 1, "begin + CHUNK")
    with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        if name == "clipping":
            clipped(cupy)
        else:
            three_steps(backends.Backend(backends.CUPY_ON_CPU, cupy), OPTIMISERS[name], sizes=SMALL)


def test_a_barrier_taken_out_of_the_sum_is_a_race(monkeypatch):
    changed(monkeypatch, ("clip_gradients.cu",), "__syncthreads();", 2, which=1)
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        clipped(cupy)


def test_chunks_that_overlap_are_a_race(monkeypatch):
    changed(monkeypatch, ("sgd_step.cu",), "* CHUNK;", 1, "* (CHUNK - 1);")
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        three_steps(backends.Backend(backends.CUPY_ON_CPU, cupy), OPTIMISERS["sgd"], sizes=SMALL)
