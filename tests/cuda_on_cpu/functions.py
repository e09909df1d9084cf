"""The functions of the ``cupy`` module that the project uses, under CuPy's signatures."""

import numpy as np

from .ndarray import ndarray, operand, owned, quiet, reduce, uninitialised, values_of


# New arrays
def empty(shape, dtype=float, order="C"):
    return uninitialised(shape, dtype, order)


def zeros(shape, dtype=float, order="C"):
    return full(shape, 0, dtype, order)


def ones(shape, dtype=float, order="C"):
    return full(shape, 1, dtype, order)


def full(shape, fill_value, dtype=None, order="C"):
    result = uninitialised(shape, np.result_type(fill_value) if dtype is None else dtype, order)
    result.fill(fill_value)
    return result


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    model = np.empty_like(values_of(prototype), dtype, order, shape=shape)
    return uninitialised(model.shape, model.dtype, "C" if model.flags.c_contiguous else "F")


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    result = empty_like(a, dtype, order, shape=shape)
    result.fill(0)
    return result


def ones_like(a, dtype=None, order="K", subok=None, shape=None):
    result = empty_like(a, dtype, order, shape=shape)
    result.fill(1)
    return result


def arange(start, stop=None, step=1, dtype=None):
    return owned(np.arange(start, step=step, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype))


def linspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0):
    if retstep:
        raise NotImplementedError("the stand-in has linspace without its step only")
    return owned(np.linspace(operand(start), operand(stop), num, endpoint, dtype=dtype, axis=axis))


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    """A stand-in array as it is, or a copy of host values on the current device."""
    if isinstance(a, ndarray):
        same = dtype is None or np.dtype(dtype) == a.dtype
        return a if same and not copy else owned(values_of(a).astype(dtype or a.dtype, order=order or "K"))
    return owned(np.array(a, dtype, order=order or "K"))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    return asarray(obj, dtype, order, copy=copy)


def ascontiguousarray(a, dtype=None):
    if isinstance(a, ndarray) and a.flags.c_contiguous and (dtype is None or np.dtype(dtype) == a.dtype):
        return a
    return owned(np.ascontiguousarray(values_of(a) if isinstance(a, ndarray) else a, dtype))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a, order=order)


def copyto(dst, src, casting="same_kind", where=None):
    if where is not None:
        raise NotImplementedError("the stand-in has copyto(dst, src) only")
    np.copyto(values_of(dst), operand(src), casting)


# Rearranging
def where(condition, x=None, y=None):
    if x is None or y is None:
        raise NotImplementedError("the stand-in has where(condition, x, y) only")
    return owned(np.where(operand(condition), operand(x), operand(y)))


def take(a, indices, axis=None, out=None):
    if out is not None:
        raise NotImplementedError("the stand-in has take(a, indices, axis) only")
    return owned(np.take(values_of(a), operand(indices), axis))


def stack(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    return _into(out, np.stack([values_of(a) for a in tup], axis, dtype=dtype, casting=casting))


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    return _into(out, np.concatenate([values_of(a) for a in tup], axis, dtype=dtype, casting=casting))


concat = concatenate


def reshape(a, newshape, order="C", *, copy=None):
    return a.reshape(newshape, order=order)


def flip(a, axis=None):
    if not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")
    return a._view(np.flip(a._values, axis))  # a view, which needs no device


def argsort(a, axis=-1, kind=None):
    return owned(np.argsort(values_of(a), axis, kind="stable"))  # the only kind that CuPy has


def allclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False):
    return owned(np.allclose(operand(a), operand(b), rtol, atol, equal_nan))


def array_equal(a1, a2, equal_nan=False):
    return owned(np.array_equal(values_of(a1), values_of(a2), equal_nan))


# Arithmetic
def _elementwise(name: str):
    function = getattr(np, name)

    @quiet
    def call(*args, out=None, dtype=None):
        # CuPy's elementwise functions take arrays and scalars, at least one array among them or all scalars.
        return _into(out, function(*map(operand, args), dtype=dtype))

    call.__name__ = name
    return call


tanh, exp, sqrt, log, sign = map(_elementwise, ("tanh", "exp", "sqrt", "log", "sign"))
log1p = _elementwise("log1p")
abs = _elementwise("absolute")  # noqa: A001 - CuPy's name
maximum, minimum, isfinite, isnan = map(_elementwise, ("maximum", "minimum", "isfinite", "isnan"))


@quiet
def matmul(*args, out=None):
    a, b = args
    return _into(out, np.matmul(values_of(a), values_of(b)))


def sum(a, axis=None, dtype=None, out=None, keepdims=False):  # noqa: A001 - CuPy's name
    return reduce("sum", a, axis=axis, dtype=dtype, out=out, keepdims=keepdims)


def mean(a, axis=None, dtype=None, out=None, keepdims=False):
    return reduce("mean", a, axis=axis, dtype=dtype, out=out, keepdims=keepdims)


def any(a, axis=None, out=None, keepdims=False):  # noqa: A001 - CuPy's name
    return reduce("any", a, axis=axis, out=out, keepdims=keepdims)


def all(a, axis=None, out=None, keepdims=False):  # noqa: A001 - CuPy's name
    return reduce("all", a, axis=axis, out=out, keepdims=keepdims)


def _into(out, values):
    if out is None:
        return owned(values)
    values_of(out)[...] = values
    return out
