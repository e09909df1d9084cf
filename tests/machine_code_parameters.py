"""What the machine code of a kernel takes as arguments, and what the library lays out for it."""

import struct
from typing import Any

import numpy as np

from gpulstm.cuda.catalogue import Specialisation

_PARAMETER, _PARAMETER_AND_SIZE = 4, 0x17  # EIFMT_SVAL, EIATTR_KPARAM_INFO


def sizes_of(binary: bytes, entry: str) -> list[int]:
    """Bytes of each argument, in their order, as a cubin says in ``.nv.info.ENTRY``.

    NVIDIA does not document it. An entry has a byte for its form and one for what it is about, then two bytes: of form
    4 the length of what follows, else a value. An argument's has 12 bytes: an index, its number and its offset (two
    bytes each), and a word whose upper 14 bits are the size. cuobjdump -elf shows the same.
    """
    info, place, found = _section(binary, f".nv.info.{entry}"), 0, {}
    while place < len(info):
        form, about, length = struct.unpack_from("<BBH", info, place)
        place += 4
        if form != _PARAMETER:
            continue
        if about == _PARAMETER_AND_SIZE:
            _, number, _, word = struct.unpack_from("<IHHI", info, place)
            found[number] = word >> 18
        place += length
    assert sorted(found) == list(range(len(found))) and found, f"{entry}: no arguments were found"
    return [found[number] for number in range(len(found))]


def _section(binary: bytes, name: str) -> bytes:
    """Of an ELF file of 64 bits."""
    (headers,) = struct.unpack_from("<Q", binary, 0x28)
    size, count, names = struct.unpack_from("<HHH", binary, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", binary, headers + i * size) for i in range(count)]
    start_of_names = sections[names][4]
    for section in sections:
        start, length = section[4:]
        begin = start_of_names + section[0]
        if binary[begin : binary.index(b"\0", begin)].decode() == name:
            return binary[start : start + length]
    raise AssertionError(f"no section {name}")


class Recorded:
    """What stands for a kernel: it launches nothing, and notes how long each argument would be."""

    address, driver_launch = 0, None  # so that a series of launches asks this object each time

    def __init__(self, specialisation: Specialisation, into: dict[Specialisation, set[tuple[int, ...]]]) -> None:
        self.lengths = into.setdefault(specialisation, set())
        self.taken: set[int] = set()

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        self.lengths.add(tuple(a.nbytes if isinstance(a, (np.generic, np.ndarray)) else 8 for a in args))

    def launch(
        self, grid: Any, block: Any, arrays: Any, numbers: Any, shared_mem: int = 0, wide: tuple[int, ...] = ()
    ) -> None:
        of_numbers = (8 if place in wide else 4 for place in range(len(numbers)))
        self.lengths.add((*[8] * len(arrays), *of_numbers))

    def is_ready(self) -> None:
        pass
