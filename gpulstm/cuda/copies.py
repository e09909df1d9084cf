"""Copies within a device's memory."""


def copy(target, source) -> None:
    """Copies a C-contiguous CuPy array into another one of the same size and dtype, on the current stream.

    An assignment does the same by a kernel, and takes the CPU 15 microseconds longer to say so.
    """
    import cupy

    runtime = cupy.cuda.runtime
    stream = cupy.cuda.get_current_stream().ptr
    runtime.memcpyAsync(target.data.ptr, source.data.ptr, source.nbytes, runtime.memcpyDeviceToDevice, stream)
