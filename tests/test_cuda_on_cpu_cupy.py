"""The stand-in's arrays behave like CuPy's where those differ from NumPy's, and it offers no name that CuPy lacks."""

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.cuda_on_cpu import cupy_on_cpu, install
from tests.cuda_on_cpu.ndarray import ndarray


@pytest.fixture
def cupy():
    with cupy_on_cpu() as module:
        yield module


def test_it_stands_in_for_cupy_until_the_end():
    before = sys.modules.get("cupy")
    with cupy_on_cpu() as module:
        import cupy
        import cupy.cuda.device

        assert cupy is module
        assert cupy.cuda.is_available()
        assert type(cupy.zeros(3)).__module__ == "cupy"
    assert sys.modules.get("cupy") is before
    assert "cupy.cuda.device" not in sys.modules or before is not None


def test_whatever_was_imported_before_is_back_afterwards_even_after_an_error(monkeypatch):
    pretended = {name: object() for name in ("cupy", "cupy.cuda", "cupyx", "cupy_backends.cuda")}
    for name, module in pretended.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(ZeroDivisionError), cupy_on_cpu():
        assert "cupy_backends.cuda" not in sys.modules
        assert sys.modules["cupyx"] is not pretended["cupyx"]
        raise ZeroDivisionError
    assert {name: sys.modules[name] for name in pretended} == pretended


def test_contexts_nest_and_have_their_own_counts_and_device(cupy):
    cupy.on_cpu.launches["outer"] += 1
    with cupy_on_cpu("asan") as inner, inner.cuda.Device(1):
        assert inner.on_cpu.mode == "asan"
        assert not inner.on_cpu.launches
    assert cupy.on_cpu.launches == {"outer": 1}
    assert cupy.cuda.runtime.getDevice() == 0


@pytest.mark.parametrize("wrong", [{"mode": "gpu"}, {"thread_order": "sorted"}, {"block_order": "sorted"}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match="must be one of"), cupy_on_cpu(**wrong):
        pass


ON_HOST = np.ones(3, np.float32)


@pytest.mark.parametrize(
    "mix",
    [
        lambda cupy, a: a + ON_HOST,
        lambda cupy, a: ON_HOST + a,
        lambda cupy, a: ON_HOST @ a,
        lambda cupy, a: a == ON_HOST,
        lambda cupy, a: np.add(a, ON_HOST),
        lambda cupy, a: np.tanh(a),
        lambda cupy, a: a.__iadd__(ON_HOST),
        lambda cupy, a: a.__setitem__(slice(None), ON_HOST),
        lambda cupy, a: a.fill(ON_HOST),
        lambda cupy, a: cupy.where(a > 0, a, ON_HOST),
        lambda cupy, a: cupy.maximum(a, ON_HOST),
        lambda cupy, a: cupy.tanh(ON_HOST),
        lambda cupy, a: cupy.matmul(a, ON_HOST),
        lambda cupy, a: cupy.sum(ON_HOST),
        lambda cupy, a: cupy.concatenate([a, ON_HOST]),
        lambda cupy, a: cupy.tanh(a, out=ON_HOST),
    ],
)
def test_numpy_arrays_do_not_mix(cupy, mix):
    with pytest.raises(TypeError):
        mix(cupy, cupy.ones(3, "float32"))


@pytest.mark.parametrize("convert", [np.asarray, np.array, np.ascontiguousarray])
def test_it_does_not_become_a_numpy_array_by_itself(cupy, convert):
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        convert(cupy.ones(3))


def test_scalars_mix(cupy):
    a = cupy.full(3, 2, "float32")
    for result, expected in (
        *((2 * a, 4), (a - np.float32(1), 1), (np.float32(1) - a, -1), (1 / a, 0.5), (a**2, 4), (-a, -2)),
        *((abs(-a), 2), (a // 2, 1), (cupy.maximum(a, 3), 3), (cupy.where(a > 1, a, 0), 2)),
    ):
        assert isinstance(result, ndarray)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result.get(), np.full(3, expected))
    assert (a * np.float64(1)).dtype == np.float64


def test_every_result_is_an_array(cupy):
    a = cupy.arange(6, dtype="float32").reshape(2, 3)
    for scalar, expected in ((a.sum(), 15), (a[1, 2], 5), (a[1][2], 5), (a.max(), 5), (cupy.sum(a), 15)):
        assert isinstance(scalar, ndarray)
        assert scalar.shape == ()
        assert float(scalar) == int(scalar) == scalar.item() == expected
    assert isinstance((a > 0).all(), ndarray)
    assert not (a > 0).all()
    assert (a > 0).any()
    with pytest.raises(ValueError, match="ambiguous"):
        bool(a)


def test_views_share_memory_and_integer_arrays_copy(cupy):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = (
        *(lambda a: a[1], lambda a: a[:, ::-1], lambda a: a[..., 1:3], lambda a: a[:, None, 0], lambda a: a[1, 2, 3]),
        *(lambda a: a.T, lambda a: a.transpose(1, 0, 2), lambda a: a.swapaxes(0, 1), lambda a: a.reshape(6, 4)),
    )
    for view in views:
        a = cupy.asarray(base)
        np.testing.assert_array_equal(view(a).get(), view(base))
        view(a)[...] = -1
        assert (a.get() == -1).sum() == view(base).size
        assert view(a).strides == np.asarray(view(base)).strides or not view(a).ndim
    a = cupy.asarray(base)
    picked = a[cupy.asarray(np.array([1, 0])), cupy.arange(2)]
    np.testing.assert_array_equal(picked.get(), base[[1, 0], [0, 1]])
    picked[...] = -1
    assert (a.get() >= 0).all()
    np.testing.assert_array_equal(cupy.flip(a, 1).get(), base[:, ::-1])
    assert cupy.flip(a, 1).data.ptr == a.data.ptr + 2 * 16


def test_in_place_operators_keep_the_memory(cupy):
    a = cupy.ones((2, 3), "float32")
    row, address = a[1], a.data.ptr
    row += 1
    row *= cupy.full(3, 3, "float32")
    a -= 1
    assert a.data.ptr == address
    np.testing.assert_array_equal(a.get(), [[0] * 3, [5] * 3])


def test_contiguity_and_addresses(cupy):
    a = cupy.zeros((3, 4), "float32")
    assert a.flags.c_contiguous
    assert not a.T.flags.c_contiguous
    assert cupy.ascontiguousarray(a) is a
    assert cupy.ascontiguousarray(a.T).flags.c_contiguous
    assert a[1].data.ptr == a.data.ptr + 16
    assert a.copy().data.ptr != a.data.ptr
    assert cupy.asarray(a) is a
    assert cupy.empty((0, 3)).data.ptr == 0
    assert (a.ndim, a.size, a.nbytes, a.itemsize, len(a)) == (2, 12, 48, 4, 3)


def test_new_memory_is_full_of_garbage(cupy):
    assert np.isnan(cupy.empty(5, "float32").get()).all()
    assert np.isnan(cupy.empty_like(cupy.zeros(5)).get()).all()
    assert (abs(cupy.empty(5, "int32").get()) > 10**9).all()


def test_arrays_are_made_on_the_current_device_and_stay_there(cupy):
    here = cupy.zeros(3)
    with cupy.cuda.Device(1) as device:
        there = cupy.zeros(3)
        assert device.id == cupy.cuda.runtime.getDevice() == there.device.id == 1
        with cupy.cuda.Device(0):
            assert cupy.zeros(1).device == here.device
        assert cupy.zeros(1).device == there.device != here.device
    assert cupy.cuda.runtime.getDeviceCount() == 2
    np.testing.assert_array_equal(there.get(), np.zeros(3))
    for use in (lambda: here + there, lambda: there + 1, lambda: there.sum(), lambda: cupy.tanh(there)):
        with pytest.raises(ValueError, match="array device = 1 while current = 0"):
            use()
    for view in (there[::-1], there[1], there.T, there.reshape(3, 1), cupy.flip(there)):  # no work for a device
        assert view.device == there.device
    with pytest.raises(ValueError, match="invalid device ordinal 2"):
        cupy.cuda.Device(2)


@pytest.mark.parametrize("name", ["tanh", "exp", "sqrt", "abs", "isfinite"])
def test_functions_are_numpys(cupy, name):
    x = np.linspace(0.1, 3, 6).reshape(2, 3)
    out = cupy.empty((2, 3), bool if name == "isfinite" else float)
    np.testing.assert_array_equal(getattr(cupy, name)(cupy.asarray(x)).get(), getattr(np, name)(x))
    getattr(cupy, name)(cupy.asarray(x), out=out)
    np.testing.assert_array_equal(out.get(), getattr(np, name)(x))


def test_other_functions_are_numpys(cupy):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    a = cupy.asarray(x)
    for ours, theirs in (
        *((cupy.stack([a, a], 1), np.stack([x, x], 1)), (cupy.concatenate([a, a], axis=1), np.concatenate([x, x], 1))),
        *((cupy.matmul(a, a.T), x @ x.T), (a @ a.T, x @ x.T), (cupy.sum(a, axis=0), x.sum(0)), (a.mean(1), x.mean(1))),
        *((cupy.ones_like(a), np.ones_like(x)), (cupy.full((2,), 3), np.full(2, 3)), (cupy.any(a), np.True_)),
        *((cupy.arange(1, 7, 2), np.arange(1, 7, 2)), (a.astype("int32"), x.astype("int32")), (cupy.all(a), np.False_)),
        *((cupy.zeros((2, 3), "int64"), np.zeros((2, 3), "int64")), (cupy.minimum(a, 2), np.minimum(x, 2))),
        *((cupy.linspace(-8, 8, 5, dtype="float32"), np.linspace(-8, 8, 5, dtype="float32")),),
        *((cupy.allclose(a, a + 1e-9), np.True_), (cupy.allclose(a, a + 1), np.False_)),
    ):
        np.testing.assert_array_equal(cupy.asnumpy(ours), theirs)
        assert ours.dtype == theirs.dtype


def test_copyto_keeps_the_memory_and_casts_as_numpy_does(cupy):
    a, b = cupy.zeros((2, 3), "float32"), cupy.arange(3, dtype="float64")
    address = a.data.ptr
    cupy.copyto(a, b)
    np.testing.assert_array_equal(a.get(), [[0, 1, 2]] * 2)
    assert a.data.ptr == address
    with pytest.raises(TypeError):
        cupy.copyto(cupy.zeros(3, "int32"), b)
    with pytest.raises(TypeError):
        cupy.copyto(a, np.zeros(3))


def test_streams_nest(cupy):
    null, stream = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
    with stream:
        assert cupy.cuda.get_current_stream() is stream
        assert stream.ptr != null.ptr
    assert cupy.cuda.get_current_stream() is null


# What the stand-in offers, against what the installed CuPy has.

ASK_CUPY = """
import importlib.util, inspect, json, sys
import cupy
paths, MODULES = json.load(sys.stdin)
answers = {}
for path in paths:
    found = cupy
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError:
        continue
    try:
        text = str(inspect.signature(found))
    except (TypeError, ValueError):
        text = (found.__doc__ or "").strip().split(chr(10))[0]
    answers[path] = text
modules = [name for name in MODULES if importlib.util.find_spec(name)]
print(json.dumps([answers, modules]))
"""


def offered():
    """Path below ``cupy`` -> object, for everything that the stand-in has."""
    with cupy_on_cpu() as cupy:
        paths = [*install.FUNCTIONS, *install.CONSTANTS]
        paths += ["RawModule", "RawModule.get_function", "RawKernel", "RawKernel.max_dynamic_shared_size_bytes"]
        paths += [f"RawKernel.{name}" for name in ("kernel", "shared_size_bytes", "enable_cooperative_groups")]
        paths += ["cuda.Device.attributes", "cuda.Device.compute_capability"]
        paths += [f"cuda.cublas.{name}" for name in install.CUBLAS]
        for name, module in vars(cupy.cuda).items():
            if name.startswith("__"):
                continue
            below = vars(module) if name in install.SUBMODULES + install.ATTRIBUTES else {}
            paths += [f"cuda.{name}", *(f"cuda.{name}.{n}" for n in below if not n.startswith("__"))]
        paths += [f"ndarray.{n}" for n in vars(ndarray) if not n.startswith("_")]
        paths += [f"ndarray.{n}" for n in vars(ndarray) if re.fullmatch("__[a-z]+__", n) and n not in NOT_METHODS]
        paths += [f"cuda.Device.{n}" for n in ("id", "use", "synchronize", "__enter__", "__exit__")]
        paths += ["cuda.Stream.synchronize", "cuda.Stream.__enter__", "cuda.Stream.__exit__"]
        return {path: _found(cupy, path) for path in paths}


NOT_METHODS = {"__module__", "__doc__", "__dict__", "__weakref__", "__hash__", "__init__", "__array_ufunc__"}


def _found(module, path):
    for part in path.split("."):
        module = getattr(module, part, None)  # an instance attribute has no value on the class
    return module


def _parameters(text):
    """(positional names, keyword-only names, defaults) of a signature as text, C types and all; None without one."""
    match = re.search(r"\((.*)\)", text)
    if match is None:
        return None
    inside = re.sub(r"\s*->.*", "", match[1])
    inside = re.sub(r": *'[^']*'", "", inside)
    names, keyword_only, defaults, after_star = [], [], {}, False
    for part in filter(None, map(str.strip, re.split(r",\s*(?![^(\[]*[)\]])", inside))):
        name, equals, default = part.partition("=")
        name = name.split()[-1] if name.strip() else ""
        if name in ("self", "/") or name.startswith("**"):
            continue
        if name.startswith("*"):
            after_star = True
            names += [name] if name != "*" else []
            continue
        (keyword_only if after_star else names).append(name)
        if equals:
            defaults[name] = default.strip()
    return names, keyword_only, defaults


def _mismatch(path, ours, theirs):
    """What is wrong with our signature, or ''."""
    if not callable(ours) or inspect.isclass(ours) and path not in ("RawModule", "RawKernel", "cuda.Stream"):
        return ""
    real = _parameters(theirs)
    if real is None or "ufunc" in theirs or path in ELEMENTWISE or path.rpartition(".")[2].startswith("__"):
        return ""
    own = _parameters(str(inspect.signature(ours)))
    names = [name for name in own[0] if not name.startswith("*")]
    if names != [name for name in real[0] if not name.startswith("*")][: len(names)]:
        return f"positional parameters {own[0]}, CuPy has {real[0]}"
    if not set(own[1]) <= set(real[1]):
        return f"keywords {own[1]}, CuPy has {real[1]}"
    for name in own[2].keys() & real[2].keys():
        if _value(own[2][name]) != _value(real[2][name]):
            return f"default {name}={own[2][name]}, CuPy has {real[2][name]}"
    return ""


ELEMENTWISE = (
    "tanh",
    "exp",
    "sqrt",
    "log",
    "log1p",
    "sign",
    "abs",
    "maximum",
    "minimum",
    "isfinite",
    "isnan",
    "matmul",
)


def _value(text):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def test_every_name_and_signature_is_cupys():
    if importlib.util.find_spec("cupy") is None:
        if os.environ.get("CI") and sys.platform != "darwin":  # for which there is no CuPy
            pytest.fail("CuPy is not installed, and CI promises this test: pip install 'gpulstm[kernelcheck]'")
        pytest.skip("CuPy is not installed, so the stand-in was not compared: pip install 'gpulstm[kernelcheck]'")
    ours = offered()
    modules = [f"cupy.cuda.{name}" for name in install.SUBMODULES]
    command, question = [sys.executable, "-W", "ignore", "-c", ASK_CUPY], json.dumps([list(ours), modules])
    asked = subprocess.run(command, input=question, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    theirs, importable = json.loads(asked.stdout)
    assert importable == modules
    assert {path for path in ours if path not in theirs} == set()
    wrong = {path: _mismatch(path, ours[path], theirs[path]) for path in ours}
    assert {path: what for path, what in wrong.items() if what} == {}
    compared = [path for path in ours if callable(ours[path]) and _parameters(theirs[path])]
    assert {"empty", "where", "cuda.cublas.sgemm", "ndarray.reshape", "RawKernel"} <= set(compared)


def test_the_comparison_notices_a_difference():
    assert "positional" in _mismatch("empty", lambda shape, order="C": 0, "(shape, dtype=float, order='C')")
    assert "default" in _mismatch("empty", lambda shape, dtype=None: 0, "(shape, dtype=float, order='C')")
    assert "keywords" in _mismatch("asarray", lambda a, *, no=0: 0, "(a, dtype=None, *, copy=None)")
    c_typed = "sgemm(intptr_t handle, int transa, size_t alpha)"
    assert "positional" in _mismatch("cuda.cublas.sgemm", lambda handle, transb: 0, c_typed)
    assert not _mismatch("cuda.cublas.sgemm", lambda handle, transa, alpha: 0, c_typed)
