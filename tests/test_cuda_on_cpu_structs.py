"""Structs by value: what CuPy passes as bytes and nobody checks is checked against the compiler's own layout."""

import importlib.util

import numpy as np
import pytest

from tests.cuda_on_cpu import InvalidMemory, SanitizerError, cupy_on_cpu

SOURCE = """
struct Table {
    int count;
    REAL* target[3];
    const REAL* source[3];
    long long size[3];
    REAL factor;
};
struct Unused { void method() {} };
extern "C" __global__ void scale(const Table table, REAL offset) {
    for (int k = 0; k < table.count; ++k)
        for (long long i = threadIdx.x; i < table.size[k]; i += blockDim.x)
            table.target[k][i] = table.source[k] ? table.factor * table.source[k][i] + offset : offset;
}
"""
LAYOUT = np.dtype(
    [
        *(("count", "i4"), ("target", np.uintp, (3,)), ("source", np.uintp, (3,)), ("size", "i8", (3,))),
        ("factor", "f4"),
    ],
    align=True,
)


def kernel(cupy, source=SOURCE):
    return cupy.RawModule(code=source, options=("--std=c++14", "-DREAL=float")).get_function("scale")


def filled(targets, sources, layout=LAYOUT):
    table = np.zeros((), layout)
    table["count"], table["factor"] = len(targets), 2
    for k, (target, source) in enumerate(zip(targets, sources, strict=True)):
        table["target"][k], table["size"][k] = target.data.ptr, target.size
        table["source"][k] = 0 if source is None else source.data.ptr
    return table


@pytest.mark.parametrize("mode", ["fibers", "asan", "tsan"])
def test_a_struct_reaches_the_kernel_with_its_pointers(mode):
    with cupy_on_cpu(mode) as cupy:
        source, base = cupy.arange(5, dtype="float32"), cupy.zeros(9, "float32")
        targets = [base[1:6], base[6:8], cupy.empty(5, "float32")]
        sources = [source, None, source]
        kernel(cupy)((1,), (32,), (filled(targets, sources), np.float32(1)))
        np.testing.assert_array_equal(base.get(), [0, 1, 3, 5, 7, 9, 1, 1, 0])
        np.testing.assert_array_equal(targets[2].get(), [1, 3, 5, 7, 9])
        kernel(cupy)((1,), (32,), (filled(targets, sources).reshape(1), np.float32(1)))  # one element: any shape


def test_sizes_beyond_an_array_are_caught():
    wrong = SOURCE.replace("i < table.size[k]", "i <= table.size[k]")
    with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        target = cupy.empty(3, "float32")
        kernel(cupy, wrong)((1,), (32,), (filled([target], [None]), np.float32(1)))


def test_a_write_behind_an_array_is_noticed_without_a_sanitizer_too():
    wrong = SOURCE.replace("i < table.size[k]", "i <= table.size[k]")
    with cupy_on_cpu() as cupy, pytest.raises(InvalidMemory, match="scale wrote behind an allocation of 12 bytes"):
        target = cupy.empty(3, "float32")
        kernel(cupy, wrong)((1,), (32,), (filled([target], [None]), np.float32(1)))


def swapped(**changes):
    """The layout with other members: name -> what NumPy takes for it, None to leave it out."""
    members = {name: (LAYOUT.fields[name][0].base, LAYOUT.fields[name][0].shape) for name in LAYOUT.names} | changes
    return np.dtype([(name, *given) for name, given in members.items() if given], align=True)


@pytest.mark.parametrize(
    "layout",
    [
        swapped(count=("u4", ())),
        swapped(target=("f8", (3,))),
        swapped(size=("i8", (2,))),
        swapped(factor=("f8", ())),
        swapped(factor=None),
        np.dtype([(name, LAYOUT.fields[name][0]) for name in LAYOUT.names]),  # packed
        LAYOUT[["count", "source", "target", "size", "factor"]],
        np.dtype({"names": ["number"], "formats": ["i4"], "itemsize": LAYOUT.itemsize}),
    ],
)
def test_another_layout_than_the_compilers_is_refused(layout):
    if layout.names[1:2] == ("source",):  # the same members in another order
        layout = np.dtype([(name, LAYOUT.fields[name][0]) for name in layout.names], align=True)
    with cupy_on_cpu() as cupy, pytest.raises(TypeError, match="scale: table: the struct has 88 bytes with members"):
        kernel(cupy)((1,), (32,), (np.zeros((), layout), np.float32(1)))


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (np.zeros((), LAYOUT)[()], "void"),
        (np.zeros(2, LAYOUT), r"shape \(2,\)"),
        (np.zeros(()), "dtype float64"),
        (np.int64(0), "int64"),
        (None, "None"),
    ],
    ids=str,
)
def test_what_is_no_struct_is_refused(value, got):
    with (
        cupy_on_cpu() as cupy,
        pytest.raises(TypeError, match=f"scale: table: expected a numpy.ndarray .* got .*{got}"),
    ):
        kernel(cupy)((1,), (32,), (value, np.float32(1)))


def test_a_struct_where_a_number_belongs_is_refused():
    with cupy_on_cpu() as cupy, pytest.raises(TypeError, match="scale: offset: expected numpy.float32"):
        kernel(cupy)((1,), (32,), (np.zeros((), LAYOUT), np.zeros((), LAYOUT)))


def test_a_pointer_that_leads_nowhere_is_refused():
    with cupy_on_cpu() as cupy:
        target = cupy.empty(3, "float32")
        table = filled([target] * 2, [None] * 2)
        for address, message in (
            (target.data.ptr + 12, "table.target.1.: .* does not lie in a live array"),
            (target.data.ptr + 2, "table.target.1.: .* is not aligned to float32"),
        ):
            table["target"][1] = address
            with pytest.raises(InvalidMemory, match=message):
                kernel(cupy)((1,), (32,), (table, np.float32(1)))
        with cupy.cuda.Device(1):
            table["target"][1] = (elsewhere := cupy.empty(3, "float32")).data.ptr
        with pytest.raises(InvalidMemory, match="the array is on device 1, the current device is 0"):
            kernel(cupy)((1,), (32,), (table, np.float32(1)))
        assert elsewhere.device.id == 1


def test_members_in_one_statement_are_refused():
    with cupy_on_cpu() as cupy, pytest.raises(Exception, match="declare one member per statement"):
        kernel(cupy, SOURCE.replace("int count;", "int count, more;"))


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed: nothing to compare with")
def test_cupy_passes_numpy_arrays_of_one_element_by_value():
    """What the stand-in takes for granted: CuPy has a kernel argument that points at a NumPy array's own bytes."""
    from cupy.cuda import function

    table = np.zeros((), LAYOUT)
    argument = function.CNumpyArray(table)
    assert argument.ptr == table.ctypes.data
