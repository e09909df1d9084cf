"""What the stand-in knows while it is installed: mode, thread order, current device, and counts."""

from collections import Counter
from dataclasses import dataclass, field

from .tf32_rounding import ROUNDING

ORDERS = ("ascending", "descending", "random")
DEVICE_COUNT = 2


@dataclass(frozen=True)
class Gpu:
    """What the device pretends to be."""

    multiprocessors: int = 16
    shared_memory_optin: int = 227 * 1024
    compute_capability: str = "90"
    blocks_at_once: int | None = None  # of a cooperative launch, where the driver allows fewer than it says
    clusters_at_once: int | None = None  # where fewer of them find room than multiprocessors say
    rounds_tf32: bool = False  # in the mode "ptx": its `mma` rounds operands instead of cutting them off

    @property
    def architecture(self) -> str:
        """What PTX is made for."""
        return f"{self.compute_capability} {ROUNDING}" if self.rounds_tf32 else self.compute_capability


@dataclass
class State:
    """One `cupy_on_cpu` context."""

    mode: str = "fibers"
    thread_order: str = "ascending"
    block_order: str = "ascending"
    seed: int = 0
    late_block: int | None = None
    spin_limit: int = 10_000
    gpu: Gpu = field(default_factory=Gpu)
    device: int = 0
    launches: Counter = field(default_factory=Counter)  # kernel name -> launches
    packed: Counter = field(default_factory=Counter)  # of those, the ones through the driver
    gemms: Counter = field(default_factory=Counter)  # "sgemm", "dgemm", "gemmEx" -> calls
    math_modes: dict = field(default_factory=dict)  # of each device's cuBLAS handle
    memory: Counter = field(default_factory=Counter)  # "memcpyAsync", "memsetAsync" -> calls; "new" -> allocations

    graphs: Counter = field(default_factory=Counter)  # "capture", "launch"
    captures: dict = field(default_factory=dict)  # ptr of a stream that captures -> capture.Capture

    def reset_counts(self) -> None:
        self.launches.clear()
        self.packed.clear()
        self.gemms.clear()
        self.memory.clear()
        self.graphs.clear()


_stack: list[State] = []


def current() -> State:
    """The state of the innermost context. Raises RuntimeError outside of one."""
    if not _stack:
        raise RuntimeError("the stand-in for CuPy works inside `with cupy_on_cpu():` only")
    return _stack[-1]


def captures() -> bool:
    """Whether a stream captures; outside of a context none does."""
    return bool(_stack and _stack[-1].captures)


def push(state: State) -> None:
    _stack.append(state)


def pop() -> None:
    _stack.pop()
