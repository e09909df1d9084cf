"""One simulated launch, from the arguments to the numbers."""

import numpy as np

from .counts import Counts
from .errors import Finding, KernelError, index_text, launch_error, who
from .memory import Addresses, Memory, check_arguments, memory_of
from .recorder import Recorder
from .runtime import Guards, mathematics
from .schedule import ORDERS, Block, Scheduler
from .translate import SHARED_BASE, SITE_BITS, Program

THREADS = 1024  # of a block
SHARED_BYTES = 48 * 1024
LIMIT = 1_000_000  # rounds of loops, per thread
MOST_FINDINGS = 10


def sizes(what: str, given) -> tuple[int, int, int]:
    """A grid or a block as three numbers."""
    parts = given if isinstance(given, tuple) else (given,)
    if not 1 <= len(parts) <= 3 or not all(isinstance(part, (int, np.integer)) for part in parts):
        raise launch_error(f"the {what} is a whole number or a tuple of up to three, got {given!r}.")
    if min(parts) < 1:
        raise launch_error(f"the {what} must have at least 1 in each direction, got {given!r}.")
    return (*(int(part) for part in parts), 1, 1)[:3]


def check_geometry(grid, block, shared_bytes: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and block as triples. Raises KernelError for what no GPU can launch."""
    grid, block = sizes("grid", grid), sizes("block", block)
    count = block[0] * block[1] * block[2]
    if count > THREADS:
        raise launch_error(f"a block has at most {THREADS} threads, and {index_text(block)} are {count}.")
    if block[2] > 64:
        raise launch_error(f"a block has at most 64 threads in z, got {block[2]}.")
    if max(grid[1:]) > 65535:
        raise launch_error(f"a grid has at most 65535 blocks in y and z, got {grid}.")
    if shared_bytes > SHARED_BYTES:
        raise launch_error(f"a block has {SHARED_BYTES} bytes of shared memory, and the kernel wants {shared_bytes}.")
    return grid, block


class Run:
    """What the parts of one launch share: who is running, and what was found."""

    def __init__(self, program: Program, block_shape: tuple[int, int, int], strict: bool, limit: int) -> None:
        self.program, self.shape, self.strict, self.limit = program, block_shape, strict, limit
        self.findings: list[Finding] = []
        self.races: list[Finding] = []
        self.block: Block | None = None
        self.thread = self.changes = 0
        x, y, z = block_shape
        self.indexes = [(i % x, i // x % y, i // (x * y)) for i in range(x * y * z)]
        self.element_names: list[Memory] = []

    def thread_things(self, block: Block, number: int) -> tuple:
        return (block.log.append, block.shared, *self.indexes[number], *block.index)

    def index_of(self, number: int) -> tuple[int, int, int]:
        return self.indexes[number]

    def thread_index(self) -> tuple[int, int, int]:
        return self.indexes[self.thread]

    def finding(self, kind: str, message: str, line: int) -> Finding:
        where = {"block": self.block.index, "thread": self.thread_index()}
        return self.program.prepared.finding(kind, message, line, **where)

    def complain(self, kind: str, message: str, line: int) -> None:
        """Raises, or keeps the first finding of each kind and line."""
        found = self.finding(kind, message, line)
        if self.strict:
            raise KernelError(found)
        self.keep(self.findings, found)

    def keep(self, findings: list[Finding], found: Finding) -> None:
        known = any((other.kind, other.line) == (found.kind, found.line) for other in findings)
        if not known and len(findings) < MOST_FINDINGS:
            findings.append(found)

    def element_name(self, array: int, element: int) -> str:
        return self.element_names[array].element(element)

    def race(self, missing: str, first: tuple, second: tuple, element: str) -> None:
        """``first`` and ``second``: (block, thread, line, what it does); the first one writes."""
        (block, thread, line, does), (other_block, other_thread, other_line, other_does) = first, second
        where = "in the same line" if line == other_line else f"in line {other_line}"
        text = "" if line == other_line else f" ({self.program.prepared.line_text(other_line)})"
        if does == other_does == "writes":
            other_does = "writes it too"
        elif other_does in ("reads", "writes", "changes"):
            other_does += " it"
        message = (
            f"race: {who(thread, block)} {does} {element} here, and {who(other_thread, other_block)} {other_does} "
            f"{where}{text}, with no {missing} between them: nothing says who is first."
        )
        found = self.program.prepared.finding("race", message, line, block=block, thread=thread)
        self.races.append(found)


class Simulator:
    """A translated kernel, ready to be launched."""

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name, self.function = program, name, program.kernels[name]
        self.code = compile(program.python, "<simulated kernel>", "exec")

    def launch(self, grid, block, arguments: tuple, *, strict=True, order="in order", seed=0, shared=0, limit=LIMIT):
        """Runs it. Gives (counts, accesses, findings); raises KernelError if ``strict`` and something is wrong."""
        if order not in ORDERS:
            raise launch_error(f"the order is one of {', '.join(ORDERS)}, got {order!r}.")
        grid, block = check_geometry(grid, block, self.program.shared_bytes + shared)
        parameters = self.function.parameters
        check_arguments(self.name, parameters, arguments, np.ndarray, "NumPy")
        run = Run(self.program, block, strict, limit)
        names = {**mathematics(), **Guards(run).names(), "LIMIT": limit, "WARP": 2, "BLOCK": 0, "GRID": 1, "SPIN": 3}
        names |= dict(zip(("BDX", "BDY", "BDZ"), block, strict=True)) | dict(zip(("GDX", "GDY", "GDZ"), grid, strict=True))
        memories = self.bind(names, arguments)
        shared_memories = self.shared_memories(shared)
        run.element_names = [*memories.values(), *shared_memories]
        arrays = list(memories.values())
        recorder = Recorder(run, self.program.sites, arrays, list(self.program.shared), True)
        exec(self.code, names)
        scheduler = Scheduler(run, recorder, self.block_maker(grid, shared), order, seed)
        scalars = tuple(
            argument.item() if isinstance(argument, np.generic) else argument
            for parameter, argument in zip(parameters, arguments, strict=True)
            if not parameter.is_pointer
        )
        blocks, threads = grid[0] * grid[1] * grid[2], block[0] * block[1] * block[2]
        waits, together = self.function.waits, self.program.together
        scheduler.launch(names[f"f_{self.name}"], scalars, blocks, threads, waits, together)
        recorder.finish()
        if strict and run.races:
            raise KernelError(*run.races[:3])
        counts = Counts(recorder.tally, blocks, threads)
        return counts, recorder.tally.accesses(), [*run.findings, *run.races[:MOST_FINDINGS]]

    def bind(self, names: dict, arguments: tuple) -> dict[str, Memory]:
        """Puts the arrays where the translated code looks for them."""
        addresses, memories = Addresses(), {}
        for parameter, argument in zip(self.function.parameters, arguments, strict=True):
            if parameter.is_pointer:
                memory = memories[parameter.name] = memory_of(argument, parameter, addresses)
                stem = f"P_{parameter.name}"
                names |= {f"{stem}_m": memory, f"{stem}_d": memory.data, f"{stem}_n": memory.length}
        for name, (site, array) in self.program.launch_constants.items():
            if array in memories:
                names[name] = (site << SITE_BITS) + memories[array].base
        return memories

    def shared_memories(self, dynamic_bytes: int) -> list[Memory]:
        """Fresh shared memory: full of nothing."""
        made = []
        for array in self.program.shared:
            length = dynamic_bytes // array.type.size if array.dynamic else array.length
            base = SHARED_BASE + array.offset // array.type.size
            made.append(Memory(array.name, "shared", [None] * length, length, base, array.dims, array.type.dtype))
        return made

    def block_maker(self, grid: tuple[int, int, int], dynamic_bytes: int):
        def make(number: int) -> Block:
            x, y, _ = grid
            index = (number % x, number // x % y, number // (x * y))
            return Block(number, index, self.shared_memories(dynamic_bytes))

        return make
