"""Bridges between PyTorch's tensors and the arrays that the engines work on; nothing is copied on the way.

A bridge is a context, within which the engine computes, with two methods: ``array(tensor)`` and ``tensor(array)``.
"""

import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch.autograd import forward_ad

from ..arrays import Array

ENGINE_DTYPES = (torch.float32, torch.float64)


class NumpyBridge:
    """Tensors on the CPU as NumPy arrays of the same memory, and back."""

    def __enter__(self) -> "NumpyBridge":
        return self

    def __exit__(self, *exc: Any) -> None:
        pass

    def array(self, tensor: torch.Tensor) -> Array:
        return tensor.detach().resolve_neg().numpy()

    def tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array)


class CupyBridge:
    """Tensors on one CUDA device as CuPy arrays of the same memory, and back, on PyTorch's current stream.

    Who keeps which memory alive, and until when:

    - Inputs. A CuPy array made through DLPack holds its tensor. When the last of both is dropped, PyTorch's allocator
      gets the block back while our kernels may still be queued. It hands the block out again to the stream that it was
      allocated on. If that is the stream we compute on, the next user's work queues behind ours. If it is another one,
      the rule is that of every PyTorch operation: the caller has said ``x.record_stream(current_stream)``.
    - Everything that the engine allocates, scratch and outputs. CuPy's own pool would order reuse by stream as well,
      but it knows nothing of ``record_stream``: an output used on a second stream, as by DataParallel, could be handed
      out again too early. And each library's pool would keep what the other one lacks. So within this context CuPy
      allocates from PyTorch: each block is a tensor, which CuPy holds as the owner of its memory. An output goes back
      as a view of that tensor, so it is PyTorch's memory in every respect.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._blocks: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()  # by address
        self._contexts = ExitStack()

    def __enter__(self) -> "CupyBridge":
        cuda = _cupy().cuda
        stream = torch.cuda.current_stream(self.device)
        with ExitStack() as contexts:
            contexts.enter_context(torch.cuda.device(self.device))
            contexts.enter_context(cuda.Device(self.device.index))
            contexts.enter_context(cuda.Stream.from_external(_Stream(stream.cuda_stream)))
            contexts.enter_context(cuda.using_allocator(self._allocate))
            self._contexts = contexts.pop_all()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._contexts.__exit__(*exc)

    def _allocate(self, size: int) -> Any:
        """CuPy's allocator: ``size`` bytes of PyTorch's, on the current stream of both."""
        cuda = _cupy().cuda
        block = torch.empty(size, dtype=torch.uint8, device=self.device)
        memory = cuda.UnownedMemory(block.data_ptr(), size, block, self.device.index)
        if size:
            self._blocks[block.data_ptr()] = block
        return cuda.MemoryPointer(memory, 0)

    def array(self, tensor: torch.Tensor) -> Array:
        return _cupy().from_dlpack(tensor.detach().resolve_neg())

    def tensor(self, array: Array) -> torch.Tensor:
        dtype = getattr(torch, array.dtype.name)
        if array.size == 0:
            return torch.empty(array.shape, dtype=dtype, device=self.device)
        start = array.data.mem.ptr
        block = self._blocks.get(start)
        if block is None:  # an array from before this context; nothing here makes one
            return torch.from_dlpack(array)
        # A tensor of its own on that memory: a view of the block could not be written to in place as an output.
        strides = [stride // array.itemsize for stride in array.strides]
        offset = (array.data.ptr - start) // array.itemsize
        tensor = torch.empty(0, dtype=dtype, device=self.device)
        return tensor.set_(block.untyped_storage(), offset, array.shape, strides)


class _Stream:
    """A stream by its address, as CuPy wants it; streams of PyTorch 2.4 cannot say it themselves."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


Bridge = NumpyBridge | CupyBridge


def bridge_for(tensors: Iterable[torch.Tensor]) -> Bridge | None:
    """The bridge to the engine that can compute on these tensors, all of one dtype and device; None where only
    PyTorch's own operations can.

    Those are for other dtypes and devices, and for tensors without memory of their own: while something is traced or
    exported, under `torch.func`'s transforms, and in forward-mode differentiation.
    """
    tensors = list(tensors)
    first = tensors[0]
    if first.dtype not in ENGINE_DTYPES or first.device.type not in ("cpu", "cuda"):
        return None
    if torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return None
    if getattr(forward_ad, "_current_level", -1) >= 0:
        return None
    plain = torch.Tensor.__torch_dispatch__
    if any(type(t).__torch_dispatch__ is not plain or t.layout is not torch.strided for t in tensors):
        return None
    return NumpyBridge() if first.device.type == "cpu" else CupyBridge(first.device)


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            'tensors on a CUDA device need CuPy: pip install "gpulstm[cuda12x]" or "gpulstm[cuda13x]", '
            "whichever CUDA version PyTorch was built for"
        ) from error
    return cupy
