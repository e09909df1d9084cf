"""What translated kernels call: C's arithmetic, the mathematics in both precisions, and guarded memory."""

import math
import operator
from array import array

from .errors import KernelError, who
from .memory import Memory, nowhere

SITE_BITS = 44
_cell = array("f", [0.0])


def round_float(value: float) -> float:
    """The nearest float32: an array of them rounds as the processor does."""
    _cell[0] = value
    return _cell[0]


def divide(a: float, b: float) -> float:
    """IEEE's division, which Python refuses by zero."""
    if b:
        return a / b
    if a != a or a == 0 or b != b:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def truncate(value: float, low: int, high: int) -> int:
    """Towards zero; what does not fit is brought to the nearest end, and NaN to 0, as a GPU does."""
    if value != value:
        return 0
    return low if value <= low else high if value >= high else int(value)


def quotient(a: int, b: int) -> int:
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def _guarded(function):
    def safe(x):
        try:
            return function(x)
        except OverflowError:
            return math.inf if function is not math.sinh or x > 0 else -math.inf
        except ValueError:  # outside of its domain
            return -math.inf if x == 0 and function is not math.sqrt else math.nan

    return safe


def _log1p(x):
    return -math.inf if x == -1 else math.log1p(x)


def _fused(a: float, b: float, c: float) -> float:
    """a * b + c of float32 numbers, to be rounded once: the product is exact, the sum is rounded to odd."""
    product = a * b
    total = product + c
    if not math.isfinite(total):
        return total
    back = total - product
    rest = (product - (total - back)) + (c - back)
    if rest and int(math.frexp(total)[0] * 2**53) % 2 == 0:
        return math.nextafter(total, math.inf if rest > 0 else -math.inf)
    return total


def _fused_double(a: float, b: float, c: float) -> float:
    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c
    from fractions import Fraction

    exact = Fraction(a) * Fraction(b) + Fraction(c)
    return float(exact) if exact else a * b + c


def _smaller(a, b):
    return b if a != a or b < a else a


def _larger(a, b):
    return b if a != a or b > a else a


def _power(a, b):
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:
        return math.inf if a == 0 else math.nan


def _remainder(a, b):
    try:
        return math.fmod(a, b)
    except ValueError:
        return math.nan


def _whole(function):
    return lambda x: math.copysign(float(function(x)), x) if math.isfinite(x) else x


_FUNCTIONS = {
    **{name: _guarded(getattr(math, name)) for name in ("exp", "exp2", "expm1", "log", "log2", "log10", "sqrt")},
    **{name: _guarded(getattr(math, name)) for name in ("tanh", "sinh", "cosh", "sin", "cos", "tan", "atan")},
    **{name: _guarded(getattr(math, name)) for name in ("asin", "acos", "erf", "fabs")},
    **{name: _whole(getattr(math, name)) for name in ("floor", "ceil", "trunc")},
    "rint": _whole(round),
    "round": _whole(lambda x: math.floor(abs(x) + 0.5) if abs(x) < 2**52 else abs(x)),
    "log1p": _guarded(_log1p),
    "rsqrt": lambda x: divide(1.0, math.sqrt(x)) if x >= 0 else math.nan,
    "pow": _power,
    "fmod": _remainder,
    "fmin": _smaller,
    "fmax": _larger,
    "atan2": math.atan2,
    "copysign": math.copysign,
    "hypot": math.hypot,
}
_EXACT = ("fabs", "floor", "ceil", "trunc", "rint", "round", "fmin", "fmax", "copysign")  # of float32 give float32


def _in_float(function):
    def rounded(*values):
        _cell[0] = function(*values)
        return _cell[0]

    return rounded


def mathematics() -> dict:
    """The names that translated code uses for C's functions."""
    names = {"R": round_float, "FDIV": divide, "TRUNCATE": truncate, "INFINITY": math.inf, "NAN": math.nan}
    names |= {"ISNAN": math.isnan, "ISINF": math.isinf, "ISFINITE": math.isfinite}
    names |= {f"D_{name}": function for name, function in _FUNCTIONS.items()}
    names |= {f"F_{name}": f if name in _EXACT else _in_float(f) for name, f in _FUNCTIONS.items()}
    names |= {"D_fma": _fused_double, "F_fma": _in_float(_fused)}
    return names


_CHANGES = {
    "atomicAdd": operator.add,
    "atomicSub": operator.sub,
    "atomicExch": lambda old, value: value,
    "atomicMax": max,
    "atomicMin": min,
    "atomicOr": operator.or_,
    "atomicAnd": operator.and_,
}


class Guards:
    """The part of the runtime that complains. ``run`` has the thread that is running and takes the findings."""

    def __init__(self, run) -> None:
        self.run = run

    def names(self) -> dict:
        return {
            "BAD": self.bad_access,
            "UNSET": self.unset,
            "ENDLESS": self.endless,
            "STEP": self.step,
            "SHIFT": self.shift,
            "IDIV": self.divide,
            "IREM": self.remainder,
            "LOAD": self.load,
            "STORE": self.store,
            "ATOMIC": self.atomic,
            "NO_RESULT": self.no_result,
            "LOCAL": lambda name, length, sizes, kind: Memory(
                name, "local", [None] * length, length, 1 << 42, sizes, kind
            ),
            "MOVED": lambda pair, by: (pair[0], pair[1] + by),
            "NOWHERE": nowhere,
        }

    def bad_access(self, site: int, memory: Memory, index: int, indexes: tuple[int, ...] = ()) -> int:
        found = self.run.program.sites[site]
        thread = who(self.run.thread_index(), self.run.block.index)
        does = {"store": "writes", "load": "reads"}.get(found.kind, "changes")
        sizes, name = memory.sizes, memory.name
        inside = all(0 <= i < size for i, size in zip(indexes, sizes, strict=False))
        if 0 <= index < memory.length and inside:
            where = "shared memory" if memory.space == "shared" else "a local array"
            message = (
                f"{thread} reads {memory.element(index)} before anything was written to it; {where} begins as garbage."
            )
            if memory.space == "shared":  # a missing barrier, perhaps: known when it is known who wrote
                self.run.suspect(message, found.line, memory.base + index)
            else:
                self.run.complain("uninitialised", message, found.line)
            return math.nan if memory.dtype in ("float32", "float64") else 0
        if not inside:
            shape = "".join(f"[{size}]" for size in sizes)
            asked = "".join(f"[{i}]" for i in indexes)
            message = f"{thread} {does} {name}{asked}, and {name} is {name}{shape}: outside of it."
            self.run.complain("out of bounds", message, found.line)
        elif memory.space == "nowhere":
            message = f"{thread} {does} {name}[{index}], and {name} was not made to point to anything."
            self.run.complain("uninitialised", message, found.line)
        else:
            elements = f"{memory.length} elements, 0 to {memory.length - 1}" if memory.length else "no elements"
            message = f"{thread} {does} {name}[{index}], and {name} has {elements}."
            self.run.complain("out of bounds", message, found.line)
        return 0

    def unset(self, line: int, name: str) -> int:
        thread = who(self.run.thread_index(), self.run.block.index)
        message = f"{thread} reads {name} before it was given a value; a local variable begins as garbage."
        self.run.complain("uninitialised", message, line)
        return 0

    def endless(self, line: int) -> None:
        thread = who(self.run.thread_index(), self.run.block.index)
        message = f"{thread} has gone round its loops more than {self.run.limit:,} times: this one may never end."
        raise KernelError(self.run.finding("endless loop", message, line))

    def no_result(self, line: int, name: str) -> None:
        self.run.complain("no result", f"{name} came to its end without a return.", line)

    def step(self, value: int, line: int) -> int:
        if value == 0:
            self.endless(line)
        return value

    def shift(self, by: int, bits: int, line: int) -> int:
        if 0 <= by < bits:
            return by
        self.run.complain("shift", f"a number of {bits} bits is shifted by {by}, which C leaves undefined.", line)
        return 0

    def divide(self, a: int, b: int, line: int) -> int:
        return quotient(a, b) if b else self.by_zero(line)

    def remainder(self, a: int, b: int, line: int) -> int:
        return a - quotient(a, b) * b if b else self.by_zero(line)

    def by_zero(self, line: int) -> int:
        thread = who(self.run.thread_index(), self.run.block.index)
        self.run.complain("division by zero", f"{thread} divides an integer by zero.", line)
        return 0

    def load(self, site: int, log, pair):
        memory, index = pair
        if not 0 <= index < memory.length:
            return self.bad_access(site, memory, index)
        log((site << SITE_BITS) + memory.base + index)
        value = memory.data[index]
        return self.bad_access(site, memory, index) if value is None else value

    def store(self, site: int, log, pair, value):
        memory, index = pair
        if not 0 <= index < memory.length:
            self.bad_access(site, memory, index)
        else:
            log((site << SITE_BITS) + memory.base + index)
            memory.data[index] = value
        return value

    def atomic(self, name: str, site: int, log, pair, kind: str, value, swapped=None):
        """Reads, changes and writes without anybody in between; gives the value before."""
        memory, index = pair
        if not 0 <= index < memory.length:
            return self.bad_access(site, memory, index)
        log((site << SITE_BITS) + memory.base + index)
        old = memory.data[index]
        if old is None:
            return self.bad_access(site, memory, index)
        if name == "atomicCAS":
            new = swapped if old == value else old
        else:
            new = _CHANGES[name](old, value)
        memory.data[index] = _wrap(new, kind)
        self.run.changes += new != old
        return old


def _wrap(value, kind: str):
    if kind == "float":
        return round_float(value)
    if kind == "double":
        return value
    bits = 64 if "long" in kind else 32
    value &= (1 << bits) - 1
    return value - (1 << bits) if "unsigned" not in kind and value >> bits - 1 else value
