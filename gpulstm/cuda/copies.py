"""Copies within a device's memory, on the current stream.

An assignment of CuPy does the same by a kernel, and takes the CPU 15 microseconds longer to say so; even a view that
says which part of an array is meant takes one. So what goes into a history (slots, ...) or comes out of it is named by
the slot's number.
"""


def copy(target, source) -> None:
    """Copies a C-contiguous CuPy array into another one of the same size and dtype."""
    _copy(target.data.ptr, source.data.ptr, source.nbytes)


def put(history, slot: int, state) -> None:
    """``history[slot] = state``, all C-contiguous and of one dtype; a state of None is zeros."""
    nbytes = history.nbytes // len(history)
    address = history.data.ptr + slot * nbytes
    if state is None:
        fill(address, 0, nbytes)
    else:
        _copy(address, state.data.ptr, nbytes)


def take(history, slot: int, state) -> None:
    """``state[...] = history[slot]``, both C-contiguous and of one dtype."""
    nbytes = history.nbytes // len(history)
    _copy(state.data.ptr, history.data.ptr + slot * nbytes, nbytes)


def copy_rows(target, to: int, source, first: int, count: int) -> None:
    """``target[to : to + count] = source[first : first + count]``, both C-contiguous, with rows alike."""
    row = source.nbytes // len(source)
    _copy(target.data.ptr + to * row, source.data.ptr + first * row, count * row)


def copy_columns(target, to: int, to_column: int, source, first: int, column: int, columns: int, count: int) -> None:
    """``target[to : to + count, :, to_column : to_column + columns] = source[first : first + count, :, column : ...]``

    Both are (steps, batch, features), C-contiguous, and have the same batch.
    """
    import cupy

    itemsize, batch = source.itemsize, source.shape[1]
    pitches = tuple(array.shape[2] * itemsize for array in (target, source))
    places = ((target, to, to_column), (source, first, column))
    to_address, from_address = (
        array.data.ptr + start * batch * pitch + offset * itemsize
        for (array, start, offset), pitch in zip(places, pitches, strict=True)
    )
    runtime, stream = cupy.cuda.runtime, cupy.cuda.get_current_stream().ptr
    rows = from_address, pitches[1], columns * itemsize, count * batch
    runtime.memcpy2DAsync(to_address, pitches[0], *rows, runtime.memcpyDeviceToDevice, stream)


def fill(address: int, byte: int, nbytes: int) -> None:
    """Makes each of ``nbytes`` bytes from an address on the device ``byte``."""
    import cupy

    cupy.cuda.runtime.memsetAsync(address, byte, nbytes, cupy.cuda.get_current_stream().ptr)


def to_host(target: int, source: int, nbytes: int) -> None:
    """Copies from the device to an address of pinned memory on the host, some time after what came before."""
    import cupy

    runtime = cupy.cuda.runtime
    runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDeviceToHost, cupy.cuda.get_current_stream().ptr)


def _copy(target: int, source: int, nbytes: int) -> None:
    import cupy

    runtime = cupy.cuda.runtime
    stream = cupy.cuda.get_current_stream().ptr
    runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDeviceToDevice, stream)
