"""One simulated launch, from the arguments to the numbers."""

from dataclasses import dataclass

import numpy as np

from .counts import Counts
from .errors import Finding, KernelError, launch_error, who
from .memory import Addresses, Memory, check_arguments, memory_of
from .recorder import Recorder
from .runtime import Guards, mathematics
from .schedule import BLOCK, GRID, ORDERS, SPIN, WARP, Block, Scheduler
from .translate import SHARED_BASE, SITE_BITS, Program

THREADS = 1024  # of a block
SHARED_BYTES = 48 * 1024
LIMIT = 1_000_000  # rounds of loops, per thread
MOST_FINDINGS = 10
WAITING = {"BLOCK": BLOCK, "GRID": GRID, "WARP": WARP, "SPIN": SPIN}


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
        raise launch_error(f"a block has at most {THREADS} threads, and {_product(block)} are {count}.")
    if block[2] > 64:
        raise launch_error(f"a block has at most 64 threads in z, got {block[2]}.")
    if max(grid[1:]) > 65535:
        raise launch_error(f"a grid has at most 65535 blocks in y and z, got {grid}.")
    if shared_bytes > SHARED_BYTES:
        raise launch_error(f"a block has {SHARED_BYTES} bytes of shared memory, and the kernel wants {shared_bytes}.")
    return grid, block


def _product(block: tuple[int, int, int]) -> str:
    return " x ".join(str(size) for size in block if size > 1)


class Run:
    """What the parts of one launch share: who is running, and what was found."""

    def __init__(self, program: Program, block_shape: tuple[int, int, int], strict: bool, limit: int) -> None:
        self.program, self.shape, self.strict, self.limit = program, block_shape, strict, limit
        self.findings: list[Finding] = []
        self.races: list[Finding] = []
        self.suspects: list[tuple[Finding, Block, int]] = []  # reads of an element that nobody had written
        self.block: Block | None = None
        self.thread = self.changes = 0
        x, y, z = block_shape
        self.indexes = [(i % x, i // x % y, i // (x * y)) for i in range(x * y * z)]
        self.memories: list[Memory] = []

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

    def suspect(self, message: str, line: int, element: int) -> None:
        """A read of shared memory that nobody had written yet: to be settled at the next barrier."""
        if len(self.suspects) < MOST_FINDINGS:
            self.suspects.append((self.finding("uninitialised", message, line), self.block, element))

    def settle(self, block: Block, written: np.ndarray, writers: np.ndarray) -> None:
        """``written``: the elements that the block wrote meanwhile, and who wrote each. Of what another thread wrote,
        the race tells."""
        own = [suspect for suspect in self.suspects if suspect[1] is block]
        self.suspects = [suspect for suspect in self.suspects if suspect[1] is not block]
        for found, _, element in own:
            if {self.indexes[writer] for writer in writers[written == element]} - {found.thread}:
                continue
            if self.strict:
                raise KernelError(found)
            self.keep(self.findings, found)

    def keep(self, findings: list[Finding], found: Finding) -> None:
        known = any((other.kind, other.line) == (found.kind, found.line) for other in findings)
        if not known and len(findings) < MOST_FINDINGS:
            findings.append(found)

    def element_name(self, array: int, element: int) -> str:
        return self.memories[array].element(element)

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
        self.keep(self.races, self.program.prepared.finding("race", message, line, block=block, thread=thread))


@dataclass(frozen=True)
class Outcome:
    """What a launch did."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    counts: Counts
    accesses: np.ndarray  # structured: block, warp, thread, line, kind, array, element, request
    findings: tuple[Finding, ...]
    stopped: bool  # before the end


class Simulator:
    """A translated kernel, ready to be launched."""

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name, self.function = program, name, program.kernels[name]
        self.code = compile(program.python, "<simulated kernel>", "exec")

    def launch(self, grid, block, arguments: tuple, *, strict=True, order="in order", seed=0, shared=0, limit=LIMIT):
        """Runs it; what it did, and what is wrong with it. Raises KernelError only for a launch that cannot begin."""
        if order not in ORDERS:
            raise launch_error(f"the order is one of {', '.join(ORDERS)}, got {order!r}.")
        grid, block = check_geometry(grid, block, self.program.shared_bytes + shared)
        parameters = self.function.parameters
        check_arguments(self.name, parameters, arguments, np.ndarray, "NumPy")
        run = Run(self.program, block, strict, limit)
        names = {**mathematics(), **Guards(run).names(), **WAITING, "LIMIT": limit}
        names |= dict(zip(("BDX", "BDY", "BDZ", "GDX", "GDY", "GDZ"), (*block, *grid), strict=True))
        memories = self.bind(names, arguments)
        run.memories = [*memories, *self.shared_memories(shared)]
        recorder = Recorder(run, self.program.sites, memories, list(self.program.shared))
        exec(self.code, names)
        scheduler = Scheduler(run, recorder, self.block_maker(grid, shared), order, seed)
        scalars = tuple(
            argument.item() if isinstance(argument, np.generic) else argument
            for parameter, argument in zip(parameters, arguments, strict=True)
            if not parameter.is_pointer
        )
        blocks, threads = grid[0] * grid[1] * grid[2], block[0] * block[1] * block[2]
        stopped = ()
        try:
            scheduler.launch(
                names[f"f_{self.name}"], scalars, blocks, threads, self.function.waits, self.program.together
            )
            recorder.finish()
        except KernelError as error:
            stopped = error.findings
            run.strict = False
            recorder.interval(run.block)  # what had happened until then is worth a look
        counts = Counts(recorder.tally, blocks, threads)
        findings = (*stopped, *run.findings, *run.races[: 3 if strict else MOST_FINDINGS])
        return Outcome(grid, block, counts, recorder.tally.accesses(), findings, bool(stopped))

    def bind(self, names: dict, arguments: tuple) -> list[Memory]:
        """Puts the arrays where the translated code looks for them."""
        addresses, memories = Addresses(), {}  # by name
        for parameter, argument in zip(self.function.parameters, arguments, strict=True):
            if parameter.is_pointer:
                memory = memories[parameter.name] = memory_of(argument, parameter, addresses)
                stem = f"P_{parameter.name}"
                names |= {f"{stem}_m": memory, f"{stem}_d": memory.data, f"{stem}_n": memory.length}
        for name, (site, array) in self.program.launch_constants.items():
            if array in memories:
                names[name] = (site << SITE_BITS) + memories[array].base
        return list(memories.values())

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
