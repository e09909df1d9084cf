"""The stand-in refuses every launch that a GPU would misread or refuse, and says which argument is wrong."""

import numpy as np
import pytest

from tests.cuda_on_cpu import CompilerMissing, InvalidMemory, compiler, cupy_on_cpu

SOURCE = """
typedef REAL real;
extern "C" __global__ void add(
    const real* __restrict__ x,  // (n,), not a parameter: int no
    real* y,
    const int* steps, long long n, int width, REAL scale, bool twice, unsigned int seed
#if WITH_EXTRA
    , double extra
#endif
) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] * scale + (steps ? steps[i] : width) + (twice ? int(seed) : 0);
}
extern "C" __global__ void nothing() {}
extern "C" __global__ void misplaced(int* y, int at) { y[at] = 1; }
"""
OPTIONS = ("--std=c++14", "-DREAL=float", "-DWITH_EXTRA=0")
ADD = {"x": 0, "y": 1, "steps": 2, "n": 3, "width": 4, "scale": 5, "twice": 6, "seed": 7}


@pytest.fixture
def cupy():
    with cupy_on_cpu() as module:
        yield module


@pytest.fixture
def module(cupy):
    return cupy.RawModule(code=SOURCE, options=OPTIONS)


@pytest.fixture
def arguments(cupy):
    x, steps = cupy.arange(6, dtype="float32"), cupy.arange(6, dtype="int32")
    scalars = np.int64(6), np.int32(2), np.float32(0.5), True, np.uint32(7)
    return [x, cupy.empty(6, "float32"), steps, *scalars]


def test_correct_arguments_are_passed_through(module, arguments):
    add = module.get_function("add")
    add((1,), (32,), tuple(arguments))
    np.testing.assert_array_equal(arguments[1].get(), np.arange(6) * 0.5 + np.arange(6) + 7)
    arguments[2] = np.uintp(0)
    add((1,), (32,), tuple(arguments))
    np.testing.assert_array_equal(arguments[1].get(), np.arange(6) * 0.5 + 2 + 7)


def test_a_python_number_is_passed_as_cupy_passes_it(module, arguments, cupy):
    arguments[ADD["n"]] = 6
    module.get_function("add")((1,), (32,), tuple(arguments))
    in_double = cupy.RawModule(code=SOURCE, options=("-DREAL=double", "-DWITH_EXTRA=1")).get_function("add")
    x, y = cupy.ones(6), cupy.empty(6)
    in_double((1,), (6,), (x, y, np.uintp(0), 6, np.int32(1), 0.25, False, np.uint32(0), 3.0))
    np.testing.assert_array_equal(y.get(), np.full(6, 1.25))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.zeros(6, np.float32), "expected an array of float32 for float*, got a numpy.ndarray"),
        ("x", None, "expected an array of float32 for float*, got None; numpy.uintp(0) is a null pointer"),
        ("x", 0, "expected an array of float32 for float*, got int 0"),
        ("x", np.uintp(4096), "expected an array of float32 for float*, got uint64"),
        ("n", np.int32(6), "expected numpy.int64 for long long, got numpy.int32"),
        ("width", 2, "expected numpy.int32 for int, got a Python int, which CuPy passes as long long"),
        ("width", np.int64(2), "expected numpy.int32 for int, got numpy.int64"),
        ("width", True, "expected numpy.int32 for int, got bool"),
        ("scale", 0.5, "expected numpy.float32 for float, got a Python float, which CuPy passes as double"),
        ("scale", np.float64(0.5), "expected numpy.float32 for float, got numpy.float64"),
        ("scale", None, "expected numpy.float32 for float, got None"),
        ("twice", np.int32(1), "expected numpy.bool for bool, got numpy.int32"),
        ("seed", np.int32(7), "expected numpy.uint32 for unsigned int, got numpy.int32"),
        ("seed", np.zeros(1, np.uint32), "expected numpy.uint32 for unsigned int, got a numpy.ndarray"),
    ],
)
def test_a_wrong_type_is_refused_by_name(module, arguments, name, value, message):
    arguments[ADD[name]] = value
    with pytest.raises(TypeError) as error:
        module.get_function("add")((1,), (32,), tuple(arguments))
    assert str(error.value).startswith(f"add: {name}: {message}")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("x", lambda cupy: cupy.zeros(6, "float64"), "got an array of float64"),
        ("steps", lambda cupy: cupy.zeros(6, "int64"), "expected an array of int32 for int*, got an array of int64"),
        ("x", lambda cupy: cupy.zeros((6, 2), "float32")[:, 0], "expected a C-contiguous array, got shape (6,) with"),
        ("x", lambda cupy: cupy.zeros(6, "float32")[::-1], "expected a C-contiguous array"),
        ("x", lambda cupy: cupy.zeros((2, 3), "float32").T, "expected a C-contiguous array"),
        ("width", lambda cupy: cupy.zeros((), "int32"), "expected numpy.int32 for int, got ndarray"),
    ],
)
def test_a_wrong_array_is_refused_by_name(cupy, module, arguments, name, make, message):
    arguments[ADD[name]] = make(cupy)
    with pytest.raises(TypeError) as error:
        module.get_function("add")((1,), (32,), tuple(arguments))
    assert str(error.value).startswith(f"add: {name}: ")
    assert message in str(error.value)


def test_an_array_of_another_device_is_refused(cupy, module, arguments):
    with cupy.cuda.Device(1):
        arguments[1] = cupy.empty(6, "float32")
    with pytest.raises(ValueError, match="add: y: the array is on device 1, the current device is 0"):
        module.get_function("add")((1,), (32,), tuple(arguments))


@pytest.mark.parametrize("count", [7, 9])
def test_a_wrong_number_of_arguments_is_refused(module, arguments, count):
    with pytest.raises(TypeError, match=rf"add takes 8 arguments \(x, y, steps, .*seed\), got {count}"):
        module.get_function("add")((1,), (32,), tuple([*arguments, np.int32(0)][:count]))


@pytest.mark.parametrize(
    ("grid", "block", "error", "message"),
    [
        ((0,), (32,), ValueError, r"invalid configuration: grid \(0,\)"),
        ((1, 65536), (32,), ValueError, "invalid configuration: grid"),
        ((2**31,), (32,), ValueError, "invalid configuration: grid"),
        ((1, 1, -1), (32,), ValueError, "invalid configuration: grid"),
        ((1,), (0,), ValueError, "invalid configuration: block"),
        ((1,), (1025,), ValueError, "invalid configuration: block"),
        ((1,), (1, 1, 65), ValueError, "invalid configuration: block"),
        ((1,), (32, 33), ValueError, "invalid configuration: block .* more than 1024 threads"),
        (1, (32,), TypeError, "grid must be a tuple"),
        ((1, 1, 1, 1), (32,), TypeError, "grid must be a tuple"),
        ((1,), (32.0,), TypeError, "block must hold integers"),
    ],
)
def test_a_wrong_geometry_is_refused(module, grid, block, error, message):
    with pytest.raises(error, match=f"nothing: {message}"):
        module.get_function("nothing")(grid, block, ())


def test_shared_memory_is_limited_until_more_is_asked_for(module):
    nothing = module.get_function("nothing")
    nothing((1,), (32,), (), shared_mem=48 * 1024)
    with pytest.raises(ValueError, match="nothing: shared_mem must be within 0 and 49152 bytes, got 49153"):
        nothing((1,), (32,), (), shared_mem=48 * 1024 + 1)
    nothing.max_dynamic_shared_size_bytes = 64 * 1024
    nothing((1,), (32,), (), shared_mem=64 * 1024)


@pytest.mark.parametrize("at", [-1, 4])
def test_a_write_beside_an_array_is_noticed_without_a_sanitizer(cupy, module, at):
    y = cupy.zeros(4, "int32")
    with pytest.raises(InvalidMemory, match="misplaced wrote (before|behind) an allocation of 16 bytes"):
        module.get_function("misplaced")((1,), (1,), (y, np.int32(at)))
    module.get_function("misplaced")((1,), (1,), (y, np.int32(0)))


def test_launches_are_counted(cupy, module):
    nothing = module.get_function("nothing")
    for _ in range(3):
        nothing((2,), (32,), ())
    assert cupy.on_cpu.launches == {"nothing": 3}
    cupy.on_cpu.reset_counts()
    assert not cupy.on_cpu.launches


def test_an_unknown_kernel_and_an_unknown_option_are_refused(cupy, module):
    with pytest.raises(cupy.cuda.compiler.CompileException, match="no kernel 'missing'.*add, nothing, misplaced"):
        module.get_function("missing")
    with pytest.raises(ValueError, match="option '--nonsense'"):
        cupy.RawModule(code=SOURCE, options=("--nonsense",)).get_function("add")
    with pytest.raises(TypeError, match="options must be a tuple"):
        cupy.RawModule(code=SOURCE, options="-DREAL=float")


def test_a_missing_compiler_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    compiler.cache_clear()
    try:
        with pytest.raises(CompilerMissing, match="'a-compiler-that-is-not-there'.*apt install g"):
            compiler()
    finally:
        compiler.cache_clear()
