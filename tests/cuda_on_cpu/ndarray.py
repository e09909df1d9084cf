"""The stand-in's array: CuPy's behaviour where it differs from NumPy's, on NumPy's memory.

It never mixes with NumPy arrays, every result is an array (0-d where NumPy gives a scalar), and an array of another
device is refused, where CuPy may warn and read it across.
"""

import operator

import numpy as np

from . import capture, memory, state

quiet = np.errstate(all="ignore")  # a GPU divides by zero without a warning


class Flags:
    def __init__(self, flags) -> None:
        self.c_contiguous = flags.c_contiguous
        self.f_contiguous = flags.f_contiguous


class MemoryPointer:
    """What ``array.data`` is: the address, and the allocation that it points into."""

    def __init__(self, ptr: int, mem) -> None:
        self.ptr, self.mem = ptr, mem

    @property
    def device_id(self) -> int:
        return self.mem.device


class ndarray:  # noqa: N801 - CuPy's name
    __module__ = "cupy"
    __array_ufunc__ = None  # NumPy's operators leave the work to ours, which refuse NumPy arrays
    __hash__ = None

    def __init__(self, shape, dtype=float) -> None:
        """A new array on the current device, full of garbage. CuPy's constructor has more arguments."""
        dtype = np.dtype(dtype)
        shape = _shape(shape)
        allocation = memory.Allocation(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        self._hold(np.ndarray(shape, dtype, allocation.bytes), allocation)
        _spoil(self._values)

    def _hold(self, values: np.ndarray, allocation: memory.Allocation) -> "ndarray":
        self._values, self._allocation = values, allocation
        return self

    # What it is
    @property
    def shape(self):
        return self._values.shape

    @shape.setter
    def shape(self, shape) -> None:
        self._values = self._values.reshape(shape, copy=False)

    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    strides = property(lambda self: self._values.strides)
    nbytes = property(lambda self: self._values.nbytes)
    itemsize = property(lambda self: self._values.itemsize)
    flags = property(lambda self: Flags(self._values.flags))

    @property
    def data(self) -> MemoryPointer:
        # CuPy's empty allocation is a null pointer.
        return MemoryPointer(self._values.ctypes.data if self._allocation.nbytes else 0, self._allocation)

    @property
    def device(self):
        from .device import Device

        return Device(self._allocation.device)

    # Views, which need no device
    T = property(lambda self: self._view(self._values.T))

    def _view(self, values: np.ndarray) -> "ndarray":
        return ndarray.__new__(ndarray)._hold(values, self._allocation)

    def reshape(self, *shape, order="C"):
        reshaped = self._values.reshape(*shape, order=order)
        return (
            self._view(reshaped)
            if np.may_share_memory(reshaped, self._values)
            else owned(values_of(self).reshape(*shape, order=order))
        )

    def view(self, dtype=None):
        return self._view(self._values if dtype is None else self._values.view(dtype))

    def ravel(self, order="C"):
        return self.reshape(-1, order=order)

    def transpose(self, *axes):
        return self._view(self._values.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return self._view(self._values.swapaxes(axis1, axis2))

    def __getitem__(self, slices):
        index = _index(slices)
        if any(isinstance(part, np.ndarray) for part in index):  # integer or boolean arrays copy
            return owned(values_of(self)[index])
        # With an ellipsis NumPy gives a 0-d view where it would give a scalar.
        index = index if any(part is Ellipsis for part in index) else (*index, ...)
        return self._view(self._values[index])

    @quiet
    def __setitem__(self, slices, value):
        values_of(self)[_index(slices)] = operand(value)

    # Copies
    def copy(self, order="C"):
        return owned(values_of(self).copy(order))

    @quiet
    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        return owned(values_of(self).astype(dtype, order=order, casting=casting or "unsafe"))

    def get(self, stream=None, order="C", out=None, blocking=True):
        """A NumPy copy; works from any device, as CuPy's does."""
        capture.refuse("a copy to the host")
        if out is None:
            return self._values.copy(order)
        out[...] = self._values
        return out

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def fill(self, value):
        values_of(self).fill(operand(value))

    # Reductions
    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return reduce("sum", self, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def mean(self, axis=None, dtype=None, out=None, keepdims=False):
        return reduce("mean", self, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def max(self, axis=None, out=None, keepdims=False):
        return reduce("max", self, axis=axis, out=out, keepdims=keepdims)

    def min(self, axis=None, out=None, keepdims=False):
        return reduce("min", self, axis=axis, out=out, keepdims=keepdims)

    def all(self, axis=None, out=None, keepdims=False):
        return reduce("all", self, axis=axis, out=out, keepdims=keepdims)

    def any(self, axis=None, out=None, keepdims=False):
        return reduce("any", self, axis=axis, out=out, keepdims=keepdims)

    # To Python
    def item(self, *args):
        return self._values.item(*args)

    def tolist(self):
        return self._values.tolist()

    def __len__(self):
        return len(self._values)

    def __bool__(self):
        return bool(self._values)

    def __float__(self):
        return float(self._values)

    def __int__(self):
        return int(self._values)

    def __repr__(self):
        return repr(self._values)

    def __str__(self):
        return str(self._values)

    def __neg__(self):
        return owned(-values_of(self))

    def __abs__(self):
        return owned(abs(values_of(self)))

    def __invert__(self):
        return owned(~values_of(self))


def owned(values) -> ndarray:
    """A new array on the current device with these values, in the same memory order."""
    values = np.asarray(values)
    order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
    result = uninitialised(values.shape, values.dtype, order)
    result._values[...] = values
    return result


def uninitialised(shape, dtype, order="C") -> ndarray:
    """A new array on the current device, full of garbage."""
    result = ndarray(shape, dtype)
    if order == "F":
        values = result._values.reshape(-1).reshape(_shape(shape), order="F")
        return result._view(values)
    return result


def _shape(shape) -> tuple[int, ...]:
    return (int(shape),) if np.ndim(shape) == 0 else tuple(int(n) for n in shape)


def _spoil(values: np.ndarray) -> None:
    garbage = memory.GARBAGE[values.dtype.kind]
    values.fill(garbage if values.dtype.kind in "fcbV" else np.array(garbage).astype(values.dtype))


def values_of(a: ndarray) -> np.ndarray:
    """The values of an array that the current device can compute on."""
    if not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")
    capture.refuse("in this stand-in an operation of CuPy's arrays")
    if a._allocation.device != state.current().device:
        raise ValueError(
            f"Array device must be same as the current device: array device = {a._allocation.device} while current = "
            f"{state.current().device}"
        )
    return a._values


def operand(value):
    """An array's values, or a scalar as it is. Raises TypeError for anything else, NumPy arrays among it."""
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return value
    return values_of(value)


@quiet
def reduce(name: str, a: ndarray, axis=None, out=None, **keywords) -> ndarray:
    result = getattr(np, name)(values_of(a), axis=axis, **{k: v for k, v in keywords.items() if v is not None})
    if out is None:
        return owned(result)
    values_of(out)[...] = result
    return out


def _index(slices) -> tuple:
    parts = slices if isinstance(slices, tuple) else (slices,)
    return tuple(_index_part(part) for part in parts)


def _index_part(part):
    if isinstance(part, ndarray):
        return values_of(part)
    if isinstance(part, np.ndarray) and part.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return np.asarray(part) if isinstance(part, list) else part


def _binary(name: str):
    function = getattr(operator, name)
    replace = getattr(operator, f"i{name.strip('_')}", None)  # comparisons have none

    @quiet
    def forward(self, other):
        return owned(function(values_of(self), operand(other)))

    @quiet
    def reflected(self, other):
        return owned(function(operand(other), values_of(self)))

    @quiet
    def in_place(self, other):
        replace(values_of(self), operand(other))
        return self

    return forward, reflected, in_place


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "matmul"):
    _plain = _name.strip("_")
    _forward, _reflected, _in_place = _binary(_name)
    setattr(ndarray, f"__{_plain}__", _forward)
    setattr(ndarray, f"__r{_plain}__", _reflected)
    if _name != "matmul":
        setattr(ndarray, f"__i{_plain}__", _in_place)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _binary(_name)[0])
