"""`gpulstm.warm_steps`: a single step that runs again is right, and everything that has changed since is seen."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import modules, planner
from gpulstm.engines import cupy_engine
from gpulstm.parameters import State
from gpulstm.warm_steps import WarmSteps
from tests import at_once, backends
from tests.test_schedule_step import step_or_loop  # noqa: F401 - a fixture of all tests here too

BACKENDS = backends.KERNELS
LOOP, STEP = "lstm_forward_step", "lstm_one_step_forward"


@pytest.fixture
def only_warm(monkeypatch):
    """From when it is called on, all single steps on a GPU must be warm."""
    return lambda: monkeypatch.setattr(cupy_engine, "one_step", lambda *_: pytest.fail("it was not warm"))


class Case:
    """A layer or a cell of 6 inputs and 7 hidden units, NumPy's twin of it, and steps for both."""

    def __init__(self, backend, batch=3, *, cell=False, dtype="float64", **options) -> None:
        kind = gl.LSTMCell if cell else gl.LSTM
        self.backend, self.rng, self.dtype = backend, np.random.default_rng(1), dtype
        self.twin, self.ours = (kind(6, 7, **options, dtype=dtype, xp=xp, rng=0) for xp in (np, backend.xp))
        layout, of_batch = self.ours.layout, () if batch is None else (batch,)
        count = () if cell else (layout.num_layers * layout.directions,)
        axes = of_batch if cell else (1,) if batch is None else (batch, 1) if options.get("batch_first") else (1, batch)
        self.shapes = (*axes, 6), (*count, *of_batch, 7)

    def given(self) -> tuple:
        x, state = self.shapes
        return tuple(self.rng.normal(size=shape).astype(self.dtype) for shape in (x, state, state))

    def flat(self, result) -> list:
        return [*result] if isinstance(result, State) else [result[0], *result[1]]

    def check(self, x, state, *, on_device=None) -> None:
        """That both give the same; x and state are NumPy's."""
        of_x, of_state = on_device or (self.backend.array(x), self.backend.array(state))
        found, wanted = self.flat(self.ours(of_x, of_state)), self.flat(self.twin(x, state))
        assert len(found) == len(wanted)
        for ours, expected in zip(found, wanted, strict=True):
            assert ours.shape == expected.shape and ours.dtype == expected.dtype
            np.testing.assert_allclose(self.backend.numpy(ours), expected, rtol=0, atol=1e-13)

    def warm(self, times: int = 2) -> None:
        for _ in range(times):  # a kernel's first launch in a thread is CuPy's
            x, *state = self.given()
            self.check(x, tuple(state))


LAYERS = (
    {},
    {"batch": 1, "bias": False, "batch_first": True},
    {"batch": 5, "num_layers": 3, "bidirectional": True},
    {"batch": None, "num_layers": 2},
    {"cell": True},
    {"cell": True, "batch": None, "bias": False},
)


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_by_value(backend, only_warm, options):
    case = Case(backend, **options)
    case.warm()
    only_warm()
    kept = []
    for _ in range(2):
        x, *state = case.given()
        case.check(x, tuple(state))
        case.check(x, None)
        found = case.flat(case.ours(backend.array(x), backend.array(tuple(state))))
        kept.append((found, [backend.numpy(each) for each in found]))
    for found, values in kept:  # what came out earlier stays, and no two of them are one
        for number, (array, value) in enumerate(zip(found, values, strict=True)):
            assert (backend.numpy(array) == value).all()
            array[...] = number
        assert [backend.numpy(array).flat[0] for array in found] == [*range(len(found))]


def test_each_shape_has_its_own(backend, only_warm):
    cases = [Case(backend, batch) for batch in (1, 4, None)]
    for case in cases:
        case.ours = cases[0].ours
        case.warm()
    only_warm()
    for case in cases * 2:
        case.warm(1)


def test_a_sequence_step_by_step(backend, only_warm):
    case = Case(backend, 2, num_layers=2)
    case.warm()
    x = np.random.default_rng(2).normal(size=(5, 2, 6))
    expected, wanted = case.twin(x)
    ours, state, parts = backend.array(x), None, []
    only_warm()
    for t in range(5):
        y, state = case.ours(ours[t : t + 1], state)
        parts.append(backend.numpy(y))
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(backend.numpy(state.c), wanted.c, rtol=0, atol=1e-13)


def another(case: Case, name: str) -> np.ndarray:
    return case.rng.normal(size=case.twin.params[name].shape)


def replace_one(case: Case, name: str) -> None:
    case.twin.params[name] = another(case, name)
    case.ours.params[name] = case.backend.array(case.twin.params[name])


def write_into_one(case: Case, name: str) -> None:
    case.twin.params[name][...] = another(case, name)
    case.ours.params[name][...] = case.backend.array(case.twin.params[name])


def replace_all(case: Case, name: str) -> None:
    case.twin.params = {each: another(case, each) for each in case.twin.params}
    case.ours.params = case.backend.array(case.twin.params)


def swap_two_of_a_shape(case: Case, name: str) -> None:
    other = name.replace("0", "1")
    for params in (case.twin.params, case.ours.params):
        params[name], params[other] = params[other], params[name]


def load(case: Case, name: str) -> None:
    values = {each: another(case, each) for each in case.twin.params}
    case.twin.load_state_dict(values)
    case.ours.load_state_dict(values)


def turn_one(case: Case, name: str) -> None:
    """The same numbers, in memory the other way round."""
    case.ours.params[name] = case.backend.array(case.twin.params[name].T).T


@pytest.mark.parametrize("change", [replace_all, swap_two_of_a_shape, load], ids=lambda change: change.__name__)
def test_changed_parameters_are_seen(backend, change):
    case = Case(backend, num_layers=2)
    case.warm()
    change(case, "weight_hh_l0")
    case.warm(3)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"cell": True}], ids=str)
@pytest.mark.parametrize("change", [replace_one, write_into_one, turn_one], ids=lambda change: change.__name__)
def test_one_changed_parameter_is_seen(backend, change, options):
    case = Case(backend, **options)
    case.warm()
    change(case, "weight_hh" if "cell" in options else "weight_hh_l0")
    case.warm(3)


def test_changed_options_are_seen(backend):
    case = Case(backend, 3)
    case.warm()
    for layer in (case.ours, case.twin):
        layer.batch_first = True  # and (1, 3, 6) is one sequence of three steps
    x, h, c = case.given()
    case.check(x, (h[:, :1], c[:, :1]))
    clipped = gl.LSTM(6, 7, cell_clip=0.05, rng=0).options
    for layer in (case.ours, case.twin):
        layer.batch_first, layer.options = False, clipped
    case.warm(1)


def without(params, name) -> dict:
    return {each: array for each, array in params.items() if each != name}


def reshaped(params, name) -> dict:
    params[name].shape = params[name].shape[::-1]
    return params


WRONG_PARAMETERS = {
    "missing": (lambda params: without(params, "bias_l0"), "missing bias_l0"),
    "none": (lambda params: params | {"bias_l0": None}, "bias_l0 must be an array"),
    "one more": (lambda params: params | {"bias_l1": params["bias_l0"]}, "unexpected bias_l1"),
    "renamed": (lambda params: without(params, "bias_l0") | {"b": params["bias_l0"]}, "missing bias_l0"),
    "shorter": (lambda params: params | {"bias_l0": params["bias_l0"][1:]}, "bias_l0 must have shape"),
    "reshaped in place": (lambda params: reshaped(params, "weight_hh_l0"), "weight_hh_l0 must have shape"),
    "of another dtype": (lambda params: params | {"bias_l0": params["bias_l0"].astype("float32")}, "dtype"),
    "of NumPy's": (lambda params: params | {"bias_l0": params["bias_l0"].get()}, "bias_l0 must be a CuPy array"),
}


@pytest.mark.parametrize("name", WRONG_PARAMETERS)
def test_what_is_wrong_with_parameters_is_said_after_a_warm_call(backend, name):
    change, message = WRONG_PARAMETERS[name]
    case = Case(backend)
    case.warm()
    x, *_ = backend.array(case.given())
    case.ours.params = change(case.ours.params)
    gc.collect()  # a weak reference to what is gone gives None, as a dict's get does for what is not there
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=message):
            case.ours(x)


WRONG_ARGUMENTS = {
    "x of another dtype": (lambda x, h, c: (x.astype("float32"), (h, c)), "x must have the parameters' dtype"),
    "features": (lambda x, h, c: (x[..., 1:], (h, c)), "inputs = 6"),
    "an axis more": (lambda x, h, c: (x[None], (h, c)), "x must have shape"),
    "a list": (lambda x, h, c: (x.tolist(), (h, c)), "x must be an array"),
    "NumPy's x": (lambda x, h, c: (x.get(), (h, c)), "CuPy|NumPy"),
    "h of another batch": (lambda x, h, c: (x, (h[:, 1:], c)), "state.h must have shape"),
    "c without layers": (lambda x, h, c: (x, (h, c[0])), "state.c must have shape"),
    "c of another dtype": (lambda x, h, c: (x, (h, c.astype("float32"))), "dtype"),
    "NumPy's h": (lambda x, h, c: (x, (h.get(), c)), "state.h must be a CuPy array"),
    "only h": (lambda x, h, c: (x, (h, None)), "must have both h and c"),
    "three": (lambda x, h, c: (x, (h, c, c)), "must be a pair"),
    "an array": (lambda x, h, c: (x, h), "must be a pair"),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_what_is_wrong_with_arguments_is_said_after_a_warm_call(backend, name):
    change, message = WRONG_ARGUMENTS[name]
    case = Case(backend)
    case.warm()
    x, state = change(*backend.array(case.given()))
    with pytest.raises((TypeError, ValueError), match=message):
        case.ours(x, state)
    case.warm(1)


def test_a_cells_wrong_arguments_are_said_after_a_warm_call(backend):
    case = Case(backend, cell=True)
    case.warm()
    x, h, c = backend.array(case.given())
    for of_x, state, message in ((x[:, 1:], (h, c), "inputs = 6"), (x, (h[1:], c), "state.h must have shape")):
        with pytest.raises(ValueError, match=message):
            case.ours(of_x, state)
    with pytest.raises(TypeError, match="dtype"):
        case.ours(x.astype("float32"), (h, c))
    case.ours.params.pop("bias")
    with pytest.raises(ValueError, match="missing bias"):
        case.ours(x, (h, c))


def test_what_is_merely_unusual_is_right(backend):
    """And leaves the step that there is alone, which takes longer to make than to run."""
    case = Case(backend)
    case.warm()
    (step,) = case.ours._warm_steps.steps.values()
    x, h, c = case.given()
    turned = [backend.array(a.swapaxes(1, 2)).swapaxes(1, 2) for a in (x, h, c)]
    for of_x in (backend.array(x), turned[0]):
        for of_state in ((turned[1], backend.array(c)), [backend.array(h), turned[2]], State(*turned[1:])):
            case.check(x, (h, c), on_device=(of_x, of_state))
    assert [*case.ours._warm_steps.steps.values()] == [step]


def test_two_threads(backend):
    case, rounds = Case(backend, num_layers=2), 15
    case.warm()
    together = threading.Barrier(2)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with backend.xp.cuda.Device(0):
            inputs = [[rng.normal(size=shape) for shape in (case.shapes[0], *case.shapes[1:] * 2)] for _ in "123"]
            expected = [case.flat(case.twin(x, (h, c))) for x, h, c in inputs]
            ours = [backend.array(tuple(each)) for each in inputs]
            together.wait(timeout=20)
            for number in range(rounds):
                x, *state = ours[number % 3]
                found = case.flat(case.ours(x, tuple(state)))
                for a, b in zip(found, expected[number % 3], strict=True):
                    np.testing.assert_allclose(backend.numpy(a), b, rtol=0, atol=1e-13)

    at_once.run(work, (1, 2))


class TestTheStandIn:  # counts, and has two devices
    BACKENDS = (backends.CUPY_ON_CPU,)

    def launched(self, backend, call) -> tuple[dict, dict]:
        backend.xp.on_cpu.reset_counts()
        call()
        return dict(backend.xp.on_cpu.launches), dict(backend.xp.on_cpu.packed)

    def test_the_schedules_that_are_allowed_are_asked_for(self, backend):
        case = Case(backend)
        case.warm()
        x, *_ = backend.array(case.given())
        with planner.only("loop"):
            assert set(self.launched(backend, lambda: case.ours(x))[0]) == {LOOP}
        assert self.launched(backend, lambda: case.ours(x)) == ({STEP: 1}, {STEP: 1})

    def test_a_threads_first_launch_is_cupys(self, backend):
        """Which binds the device's context to the thread: the driver refuses the kernel otherwise."""
        case, found = Case(backend), []
        case.warm()
        x, *_ = backend.array(case.given())

        def elsewhere() -> None:
            found.extend(self.launched(backend, lambda: case.ours(x)) for _ in range(2))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert found == [({STEP: 1}, {}), ({STEP: 1}, {STEP: 1})]

    def test_on_the_arrays_device(self, backend):
        with backend.xp.cuda.Device(1):
            case = Case(backend)
            case.warm()
            given = backend.array(case.given())
        x, h, c = given
        for _ in range(2):  # the current device is another one
            y, final = case.ours(x, (h, c))
            assert y.device == final.h.device == x.device and backend.xp.cuda.runtime.getDevice() == 0
        (step,) = case.ours._warm_steps.steps.values()
        with backend.xp.cuda.Device(1):
            assert self.launched(backend, lambda: case.ours(x, (h, c)))[1] == {STEP: 1}
            assert [*case.ours._warm_steps.steps.values()] == [step]
        elsewhere = backend.array(case.given())
        for of_x, of_state in ((elsewhere[0], (h, c)), (x, (h, elsewhere[2]))):
            with backend.xp.cuda.Device(1), pytest.raises(ValueError, match="device"):
                case.ours(of_x, of_state)
        case.ours.params = backend.array({name: p.get() for name, p in case.ours.params.items()})
        case.warm(2)  # on device 0

    def test_without_the_drivers_launch_all_is_cupys(self, backend, monkeypatch):
        monkeypatch.setattr(modules, "_kernels", {})
        monkeypatch.delattr(backend.xp.cuda.driver, "launchKernel")
        case = Case(backend)
        assert self.launched(backend, lambda: case.warm(3)) == ({STEP: 3}, {})

    def test_no_array_is_kept_alive(self, backend):
        case = Case(backend)
        case.warm()
        x, h, c = backend.array(case.given())
        kept = [weakref.ref(a) for a in (x, h, c, *case.ours(x, (h, c))[1], *case.ours.params.values())]
        case.ours.params = backend.array(case.twin.params)
        del x, h, c
        gc.collect()
        assert not any(each() for each in kept)
        case.warm(2)

    @pytest.mark.parametrize("cell", [True, False])
    def test_a_copy_of_a_warm_layer(self, backend, cell):
        case = Case(backend, cell=cell)
        case.warm()
        twin = copy.copy(case.ours)
        twin.params = backend.array({name: 2 * p for name, p in case.twin.params.items()})
        x, h, c = backend.array(case.given())
        before, other = case.flat(case.ours(x, (h, c))), case.flat(twin(x, (h, c)))
        assert (backend.numpy(before[0]) != backend.numpy(other[0])).all()
        case.warm(2)
        for again in (copy.deepcopy(case.ours._warm_steps), pickle.loads(pickle.dumps(case.ours._warm_steps))):
            assert isinstance(again, WarmSteps) and again.kind is None and not again.steps


def test_numpy_has_none():
    lstm = gl.LSTM(6, 7, rng=0)
    lstm(np.ones((1, 1, 6), "float32"))
    assert lstm._warm_steps.kind is None and not lstm._warm_steps.steps
