"""Memory as the simulated threads see it: data, a length, and a place in one numbering of all elements."""

import numpy as np

from . import numbers_of_c
from .errors import launch_error
from .values import Parameter

SECTOR = 32  # bytes: what a GPU fetches at least


class Memory:
    """What a pointer leads into. ``base`` is the number of its first element in the log."""

    __slots__ = ("name", "space", "data", "length", "base", "sizes", "dtype")

    def __init__(self, name, space, data, length, base, sizes=(), dtype="float32") -> None:
        self.name, self.space, self.data, self.length = name, space, data, length
        self.base, self.sizes, self.dtype = base, sizes, dtype

    def element(self, index: int) -> str:
        """An element's name in C: tile[3][4] or x[12]."""
        if len(self.sizes) < 2:
            return f"{self.name}[{index}]"
        parts = []
        for size in reversed(self.sizes[1:]):
            parts.append(index % size)
            index //= size
        return self.name + "".join(f"[{part}]" for part in (index, *reversed(parts)))


def nowhere(name: str) -> Memory:
    """What a pointer leads into that was given no value."""
    return Memory(name, "nowhere", [], 0, 0)


class Addresses:
    """Gives arrays addresses: each allocation begins at a multiple of 512 bytes, as CuPy's do; views lie in it."""

    def __init__(self) -> None:
        self.free = 512
        self.begins: dict[int, int] = {}  # where an allocation really is -> its address
        self.owners: list[np.ndarray] = []

    def of(self, array: np.ndarray) -> int:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        begin = np.lib.array_utils.byte_bounds(owner)[0]
        if begin not in self.begins:
            self.begins[begin] = self.free
            self.free += -(-max(owner.nbytes, 1) // 512) * 512 + 512
            self.owners.append(owner)
        return self.begins[begin] + array.__array_interface__["data"][0] - begin


def memory_of(array: np.ndarray, parameter: Parameter, addresses: Addresses) -> Memory:
    """A kernel's array. The threads read and write the array itself."""
    flat = array.reshape(-1)
    address = addresses.of(array)
    item = array.dtype.itemsize
    data = memoryview(flat) if flat.size else []
    sizes = (array.size, *parameter.dims)
    return Memory(parameter.name, "global", data, array.size, address // item, sizes, parameter.type.dtype)


def check_arguments(name: str, parameters: tuple[Parameter, ...], arguments: tuple, array_type: type, library: str):
    """Raises KernelError for an argument that CuPy would pass on as it is and the kernel would misread."""
    if len(arguments) != len(parameters):
        listed = ", ".join(map(str, parameters))
        raise launch_error(f"{name} takes {len(parameters)} arguments ({listed}), and {len(arguments)} were given.")
    for position, (parameter, argument) in enumerate(zip(parameters, arguments, strict=True), 1):
        what = f"argument {position} of {name}, {parameter},"
        if parameter.is_pointer:
            _check_array(what, parameter, argument, array_type, library)
        else:
            _check_number(what, parameter, argument)


def _check_array(what: str, parameter: Parameter, argument, array_type: type, library: str) -> None:
    wanted = np.dtype(parameter.type.dtype)
    if not isinstance(argument, array_type):
        raise launch_error(f"{what} wants a {library} array of {wanted}, and got {_kind(argument)}.")
    if argument.dtype != wanted:
        message = f"{what} wants an array of {wanted}, and got one of {argument.dtype}: convert it with .astype."
        raise launch_error(message)
    if not argument.flags.c_contiguous:
        copy = "xp.ascontiguousarray"
        message = f"{what} wants elements that lie one after the other, and got a view with gaps: use {copy}."
        raise launch_error(message)
    if isinstance(argument, np.ndarray) and not argument.flags.writeable and not parameter.const:
        raise launch_error(f"{what} may be written by the kernel, and got an array that is read-only.")


def _check_number(what: str, parameter: Parameter, argument) -> None:
    wanted = np.dtype(parameter.type.dtype)
    constructor = "np.bool_" if parameter.type.kind == "b" else f"np.{wanted}"
    given = getattr(argument, "dtype", None)
    if isinstance(argument, bool) and parameter.type.kind == "b":
        return
    if not isinstance(argument, np.generic):
        message = f"{what} wants {constructor}(...), and got {_kind(argument)}"
        if isinstance(argument, (int, float)):
            message += ": a plain Python number has another size than the kernel reads"
        raise launch_error(message + ".")
    if numbers_of_c.of_dtype(given) != parameter.type:
        raise launch_error(f"{what} wants {constructor}(...), and got np.{given}.")


def _kind(argument) -> str:
    if hasattr(argument, "dtype") and hasattr(argument, "shape"):
        module = type(argument).__module__.partition(".")[0]
        return f"a {module} array of {argument.dtype}" if argument.shape else f"{module}.{argument.dtype}"
    return f"the {type(argument).__name__} {argument!r}"
