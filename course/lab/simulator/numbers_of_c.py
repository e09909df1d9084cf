"""The numbers of C: their sizes, their ranges, and which type two of them meet in."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scalar:
    """A type of number. ``kind``: f floating, i signed, u unsigned, b bool."""

    name: str
    kind: str
    size: int  # bytes
    dtype: str  # NumPy's name

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def low(self) -> int:
        return -(1 << 8 * self.size - 1) if self.kind == "i" else 0

    @property
    def high(self) -> int:
        return 1 if self.kind == "b" else (1 << 8 * self.size - (self.kind == "i")) - 1

    def __str__(self) -> str:
        return self.name


FLOAT, DOUBLE = Scalar("float", "f", 4, "float32"), Scalar("double", "f", 8, "float64")
INT, UINT = Scalar("int", "i", 4, "int32"), Scalar("unsigned int", "u", 4, "uint32")
LONG, ULONG = Scalar("long long", "i", 8, "int64"), Scalar("unsigned long long", "u", 8, "uint64")
BOOL = Scalar("bool", "b", 1, "bool")
CHAR, UCHAR = Scalar("char", "i", 1, "int8"), Scalar("unsigned char", "u", 1, "uint8")
SHORT, USHORT = Scalar("short", "i", 2, "int16"), Scalar("unsigned short", "u", 2, "uint16")
SCALARS = (FLOAT, DOUBLE, INT, UINT, LONG, ULONG, BOOL, CHAR, UCHAR, SHORT, USHORT)
_RANK = (INT, UINT, LONG, ULONG, FLOAT, DOUBLE)  # the later one wins


def named(words: list[str]) -> Scalar | None:
    """The type of C's words, in any order: unsigned long long; None if it is none of ours."""
    left = sorted(word for word in words if word != "signed")
    if left and left[0] in ("_Bool", "float", "double") and len(left) == 1:
        return {"_Bool": BOOL, "float": FLOAT, "double": DOUBLE}[left[0]]
    is_unsigned = "unsigned" in left
    left = [word for word in left if word not in ("unsigned", "int")]
    pairs = {
        (): (INT, UINT),
        ("long",): (LONG, ULONG),  # 8 bytes, as on Linux
        ("long", "long"): (LONG, ULONG),
        ("short",): (SHORT, USHORT),
        ("char",): (CHAR, UCHAR),
    }
    found = pairs.get(tuple(left))
    return found and found[is_unsigned]


def promoted(scalar: Scalar) -> Scalar:
    """C computes nothing in less than an int."""
    return INT if scalar in (BOOL, CHAR, UCHAR, SHORT, USHORT) else scalar


def common(a: Scalar, b: Scalar) -> Scalar:
    """The usual arithmetic conversions: what an operation on ``a`` and ``b`` is done in."""
    return max(promoted(a), promoted(b), key=_RANK.index)


def of_dtype(dtype: np.dtype) -> Scalar | None:
    for scalar in SCALARS:
        if np.dtype(scalar.dtype) == dtype:
            return scalar
    return None
