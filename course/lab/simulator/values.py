"""What the translator knows about a piece of C while it writes the Python for it."""

from dataclasses import dataclass, field, replace

from .numbers_of_c import Scalar


@dataclass(frozen=True)
class Value:
    """A Python expression, the C type of its value and, for an integer, the range that it is known to lie in."""

    code: str
    type: Scalar
    low: int | None = None
    high: int | None = None

    def __post_init__(self):
        if not self.type.is_float and self.low is None:
            object.__setattr__(self, "low", self.type.low)
            object.__setattr__(self, "high", self.type.high)

    @property
    def constant(self) -> int | None:
        return self.low if not self.type.is_float and self.low == self.high else None


@dataclass(frozen=True)
class Variable:
    """A number with a name: the Python name, and whether it may be read before it was written."""

    name: str
    type: Scalar
    const: bool = False
    may_be_unset: bool = False
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True)
class Root:
    """The memory that a pointer leads into, as Python names: its data, its length, its object for messages.

    ``kind``: array (a kernel's argument), shared, local, or any (known when the kernel runs).
    """

    kind: str
    name: str
    data: str
    length: str
    memory: str
    base: int | None = None  # of shared memory: the number of its first element, the same in every block

    @property
    def is_logged(self) -> bool:
        return self.kind != "local"

    @property
    def may_be_unset(self) -> bool:
        return self.kind != "array"


@dataclass(frozen=True)
class Pointer:
    """An address: where it leads, how far in (in scalars), and what must hold for it to be inside.

    ``dims`` are the sizes of what it points to: () for a number, (33,) for a row of 33. ``limit`` is how many of those
    there are, where the declaration says so. ``checks`` are conditions on the indexes so far.
    """

    scalar: Scalar
    root: Root | None  # None: ``offset`` is the code of a pair (memory, offset)
    offset: str = "0"
    dims: tuple[int, ...] = ()
    limit: int | None = None
    checks: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    is_checked: bool = False  # the indexes are known to be inside, given the checks
    const: bool = False
    volatile: bool = False

    @property
    def pair(self) -> str:
        return self.offset if self.root is None else f"({self.root.memory}, {self.offset})"

    def moved(self, by: str) -> "Pointer":
        """The same pointer further on; what was known about its limits is forgotten."""
        if self.root is None:
            return replace(self, offset=f"MOVED({self.offset}, {by})", limit=None, is_checked=False)
        offset = by if self.offset == "0" else f"{self.offset} + {by}"
        return replace(self, offset=f"({offset})", limit=None, is_checked=False, checks=(), indexes=())


@dataclass(frozen=True)
class PointerVariable:
    """A pointer with a name of its own that is moved or made to point elsewhere."""

    pointer: Pointer
    prefix: str  # of its Python names


@dataclass(frozen=True)
class Site:
    """One place in the source that is counted: number ``number`` in the log of what happened."""

    number: int
    kind: str  # load, store, atomic, flops, acquire, release, shuffle
    line: int
    name: str = ""  # of the array, where it is known beforehand
    size: int = 0  # bytes of an element
    volatile: bool = False


@dataclass(frozen=True)
class Parameter:
    name: str
    type: Scalar
    is_pointer: bool
    const: bool = False  # what a pointer leads to must not be written
    volatile: bool = False
    dims: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{'const ' if self.const else ''}{self.type}{'*' if self.is_pointer else ''} {self.name}"


@dataclass(frozen=True)
class SharedArray:
    name: str
    type: Scalar
    dims: tuple[int, ...]  # () for a single number
    offset: int  # bytes, in the block's shared memory
    dynamic: bool = False

    @property
    def length(self) -> int:
        length = 1
        for size in self.dims:
            length *= size
        return length


@dataclass
class Function:
    """A function of the source. ``waits``: it meets barriers, so its Python is a generator."""

    name: str
    node: object
    is_kernel: bool
    result: Scalar | None
    parameters: tuple[Parameter, ...]
    assigned: set[str] = field(default_factory=set)
    waits: bool = False
    spins: bool = False
