"""Stream capture: work is written down instead of done, and done by every launch of the graph.

While a stream captures, what is asked for on it is recorded if CUDA would record it: launches, copies, fillings, and
products of a cuBLAS handle of one's own. What CUDA or CuPy refuse is refused: products of CuPy's cuBLAS, waiting, and
copies to the host. Three things are stricter than there: nothing may be allocated, since CuPy's pool would hand out
the memory once more; nothing loaded or made that may allocate or wait, a kernel or a cuBLAS handle; and no operation of
CuPy's own arrays, which this stand-in does at once.

A graph holds addresses, not arrays: whoever drops one of the arrays finds out at the next launch.
"""

import weakref
from collections.abc import Callable

from . import memory, state


class CaptureError(RuntimeError):
    """What cannot be done while a stream captures, or a graph that leads into memory that is gone."""


class Graph:
    """What ``Stream.end_capture`` gives."""

    def __init__(self, operations: list[tuple[str, Callable[[], None], list]]) -> None:
        self._operations = operations

    def launch(self, stream=None) -> None:
        """Does everything once, in order."""
        refuse("the launch of a graph")
        state.current().graphs["launch"] += 1
        for what, operation, held in self._operations:
            if any(allocation() is None for allocation in held):
                raise CaptureError(f"the graph's {what} leads into an array that is gone")
            operation()

    def upload(self, stream=None) -> None:
        pass


class Capture:
    """What one stream has recorded so far."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, Callable[[], None], list]] = []

    def end(self) -> Graph:
        state.current().graphs["capture"] += 1
        return Graph(self.operations)


def begun_by(stream: int) -> Capture | None:
    """The capture of the stream with this ``ptr``, if it captures."""
    return state.current().captures.get(stream)


def done_or_recorded(stream: int, what: str, operation: Callable[[], None], addresses) -> None:
    """Does it now, or, if the stream captures, keeps it together with the allocations that it leads into."""
    capture = begun_by(stream)
    if capture is None:
        operation()
        return
    held = [memory.holder(address) for address in addresses]
    if None in held:
        raise memory.InvalidMemory(f"{what}: an address does not lie in a live array")
    capture.operations.append((what, operation, [weakref.ref(allocation) for allocation in held]))


def refuse(what: str) -> None:
    """Raises CaptureError if any stream captures; for what must not happen then."""
    if state.captures():
        raise CaptureError(f"cudaErrorStreamCaptureUnsupported: {what} is not permitted while a stream captures")
