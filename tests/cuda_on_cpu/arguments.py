"""Checks a launch as strictly as CUDA and CuPy are lax: geometry, and the type of every argument."""

import ctypes
import numbers

import numpy as np

from . import state
from .compilation import Built
from .memory import Allocation, InvalidMemory, holder

MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2**31 - 1, 65535, 65535)
DEFAULT_SHARED_BYTES = 48 * 1024
_NAMES = {
    **{"f4": "float", "f8": "double", "i4": "int", "i8": "long long", "u4": "unsigned int"},
    **{"f2": "Float16", "V2": "BFloat16"},
    **{"u8": "unsigned long long", "b1": "bool", "i1": "signed char", "u1": "unsigned char"},
}


class Pointer:
    """A checked pointer argument: the array's own memory, or null."""

    def __init__(self, address: int, nbytes: int, allocation: Allocation | None) -> None:
        self.address, self.nbytes, self.allocation = address, nbytes, allocation


class Structure:
    """A checked struct argument: its bytes, and the pointers among them, by their places."""

    def __init__(self, data: bytes, pointers: dict[int, Pointer]) -> None:
        self.data, self.pointers = data, pointers


def pointers_of(checked: list) -> list[Pointer]:
    """All pointers of a launch, those inside of structs too, that are not null."""
    found = [a for a in checked if isinstance(a, Pointer)]
    found += [pointer for a in checked if isinstance(a, Structure) for pointer in a.pointers.values()]
    return [pointer for pointer in found if pointer.address]


def extent(name: str, value, limits: tuple[int, int, int], kernel: str) -> tuple[int, int, int]:
    """``value``, a grid or block, with all three components. Raises as an invalid launch configuration does."""
    if not isinstance(value, tuple) or not 1 <= len(value) <= 3:
        raise TypeError(f"{kernel}: {name} must be a tuple of 1 to 3 integers, got {value!r}")
    if not all(isinstance(n, numbers.Integral) for n in value):
        raise TypeError(f"{kernel}: {name} must hold integers, got {value!r}")
    full = tuple(int(n) for n in value) + (1,) * (3 - len(value))
    if not all(1 <= n <= limit for n, limit in zip(full, limits, strict=True)):
        raise ValueError(f"{kernel}: invalid configuration: {name} {value!r} must be within 1 and {limits}")
    return full


def geometry(kernel: str, grid, block, shared_mem, shared_limit: int):
    """(grid, block, shared_mem) checked."""
    grid = extent("grid", grid, MAX_GRID, kernel)
    block = extent("block", block, MAX_BLOCK, kernel)
    if block[0] * block[1] * block[2] > MAX_THREADS:
        raise ValueError(f"{kernel}: invalid configuration: block {block} has more than {MAX_THREADS} threads")
    if not 0 <= shared_mem <= shared_limit:
        raise ValueError(
            f"{kernel}: shared_mem must be within 0 and {shared_limit} bytes, got {shared_mem}; more has to be asked "
            "for through max_dynamic_shared_size_bytes"
        )
    return grid, block, int(shared_mem)


def check(built: Built, kernel: str, kinds: tuple[str, ...], args, array_type: type) -> list:
    """Each argument as a `Pointer`, a `Structure` or the NumPy scalar that CuPy would pass.

    Raises TypeError, ValueError, or InvalidMemory for a pointer inside a struct that leads nowhere.
    """
    parameters = built.kernels[kernel].parameters
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"{kernel}: args must be a tuple, got {type(args).__name__}")
    if len(args) != len(parameters):
        names = ", ".join(parameter.name for parameter in parameters)
        raise TypeError(f"{kernel} takes {len(parameters)} arguments ({names}), got {len(args)}")
    checked = []
    for parameter, kind, value in zip(parameters, kinds, args, strict=True):
        where = f"{kernel}: {parameter.name}"
        to_value = _structure if kind.startswith("struct:") else _pointer if kind[0] == "*" else _scalar
        checked.append(to_value(where, kind.lstrip("*"), value, array_type))
    return checked


def unpack(built: Built, kernel: str, kinds: tuple[str, ...], table: int) -> list:
    """The same of arguments that the driver is handed as a table of their addresses: nothing says their types, so what
    lies there is read as the kernel would read it.

    Raises InvalidMemory for a pointer that leads nowhere.
    """
    read = []
    for i, (parameter, kind) in enumerate(zip(built.kernels[kernel].parameters, kinds, strict=True)):
        where, size = f"{kernel}: {parameter.name}", _size_of(kind)
        data = ctypes.string_at(ctypes.c_void_p.from_address(table + 8 * i).value or 0, size)
        if kind.startswith("struct:"):
            read.append(_structure_of(where, kind, data))
        elif kind[0] == "*":
            address = int.from_bytes(data, "little")
            read.append(_pointer_inside(where, kind[1:], address) if address else Pointer(0, 0, None))
        else:
            read.append(np.frombuffer(data, np.dtype(kind))[0])
    return read


def _size_of(kind: str) -> int:
    if kind.startswith("struct:"):
        return int(kind.removeprefix("struct:").split(",")[0])
    return 8 if kind[0] == "*" else np.dtype(kind).itemsize


def _pointer(where: str, kind: str, value, array_type: type) -> Pointer:
    if isinstance(value, np.uintp) and value == 0:
        return Pointer(0, 0, None)
    if not isinstance(value, array_type):
        expected = f"an array of {_dtype_of(kind)} for {_NAMES.get(kind, kind)}*"
        hint = "; numpy.uintp(0) is a null pointer" if value is None else ""
        raise TypeError(f"{where}: expected {expected}, got {_describe(value)}{hint}")
    if _kind_of(value.dtype) != kind:
        expected = f"an array of {_dtype_of(kind)} for {_NAMES.get(kind, kind)}*"
        raise TypeError(f"{where}: expected {expected}, got an array of {value.dtype}")
    if not value.flags.c_contiguous:
        raise TypeError(f"{where}: expected a C-contiguous array, got shape {value.shape} with strides {value.strides}")
    if value.device.id != state.current().device:
        raise ValueError(
            f"{where}: the array is on device {value.device.id}, the current device is {state.current().device}"
        )
    return Pointer(value.data.ptr, value.nbytes, value.data.mem)


def _scalar(where: str, kind: str, value, array_type: type):
    if isinstance(value, np.generic) and _kind_of(value.dtype) == kind:
        return value
    expected = f"numpy.{_dtype_of(kind)} for {_NAMES.get(kind, kind)}"
    if isinstance(value, (bool, np.bool_)):
        passed, as_what = np.bool_(value), "bool"
    elif isinstance(value, int):
        passed, as_what = np.int64(value), "a Python int, which CuPy passes as long long"
    elif type(value) is float:
        passed, as_what = np.float64(value), "a Python float, which CuPy passes as double"
    elif isinstance(value, np.generic):
        passed, as_what = value, f"numpy.{value.dtype}"
    else:
        raise TypeError(f"{where}: expected {expected}, got {_describe(value)}")
    if _kind_of(passed.dtype) != kind:
        raise TypeError(f"{where}: expected {expected}, got {as_what}")
    return passed


def _structure(where: str, kind: str, value, array_type: type) -> Structure:
    """CuPy passes a NumPy array of one element by value, whatever its dtype; nobody checks that the layouts agree."""
    size, *members = kind.removeprefix("struct:").split(",")
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.names is None:
        raise TypeError(
            f"{where}: expected a numpy.ndarray of one element with a structured dtype, for a struct by value, got "
            f"{f'shape {value.shape} and dtype {value.dtype}' if isinstance(value, np.ndarray) else _describe(value)}"
        )
    places = {}
    for name, element, offset, count in (member.split(":") for member in members):
        places[name] = ("u8" if element[0] == "*" else element, int(offset), int(count))
    given = {name: _member(*value.dtype.fields[name][:2]) for name in value.dtype.names}
    if given != places or value.dtype.itemsize != int(size):
        raise TypeError(
            f"{where}: the struct has {int(size)} bytes with members (kind, offset, count) {places}, got a dtype of "
            f"{value.dtype.itemsize} bytes with {given}"
        )
    return _structure_of(where, kind, value.tobytes())


def _structure_of(where: str, kind: str, data: bytes) -> Structure:
    """The struct with these bytes, if its pointers lead somewhere."""
    pointers = {}
    for name, element, offset, count in (member.split(":") for member in kind.split(",")[1:]):
        for at in range(int(offset), int(offset) + 8 * int(count) * (element[0] == "*"), 8):
            index = (at - int(offset)) // 8
            address = int.from_bytes(data[at : at + 8], "little")
            if address:
                pointers[at] = _pointer_inside(f"{where}.{name}[{index}]", element.lstrip("*"), address)
    return Structure(data, pointers)


def _member(dtype: np.dtype, offset: int) -> tuple[str, int, int]:
    return _kind_of(dtype.base), offset, int(np.prod(dtype.shape))


def _pointer_inside(where: str, kind: str, address: int) -> Pointer:
    """A pointer that is known by its address alone: it may reach to the end of the memory that it lies in."""
    allocation = holder(address)
    if allocation is None:
        raise InvalidMemory(f"{where}: {address:#x} does not lie in a live array")
    if allocation.device != state.current().device:
        raise InvalidMemory(
            f"{where}: the array is on device {allocation.device}, the current device is {state.current().device}"
        )
    if address % np.dtype(kind).itemsize:
        raise InvalidMemory(f"{where}: {address:#x} is not aligned to {_dtype_of(kind)}")
    return Pointer(address, allocation.address + allocation.nbytes - address, allocation)


def _kind_of(dtype: np.dtype) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


def _dtype_of(kind: str) -> str:
    return "bfloat16" if kind == "V2" else str(np.dtype(kind))


def _describe(value) -> str:
    if isinstance(value, np.ndarray):
        return "a numpy.ndarray, which is not on the device"
    return "None" if value is None else f"{type(value).__name__} {value!r}"
