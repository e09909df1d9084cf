"""The header of a safetensors file, read without trusting a byte of it.

A file is 8 bytes with the header's length (little-endian), the header as JSON, and the tensors' bytes. The header is
``{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"key": "text"}}``; the
offsets count from the first byte after it, and the tensors lie there without overlaps, holes or a rest
(https://huggingface.co/docs/safetensors, "Format").

The safetensors library checks most of this. It lets the second of two tensors of one name win, and mixes up the like in
the metadata; it maps the file into memory, so that a file that gets shorter meanwhile ends the process; and a general
JSON parser makes gigabytes of objects out of a header of megabytes. So the header is read here, entry by entry, and
nothing is kept that is larger than the file; the tests compare what is accepted with what the library accepts.
"""

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

HEADER_LIMIT = 100_000_000  # bytes; the library's own limit
ENTRIES, BYTES_PER_ENTRY = 2**16, 512  # what an entry takes in Python: so many are free, more must have their bytes
LONGEST_ENTRY = 4096  # bytes; the 64 axes that NumPy allows, in digits, are less than half of it
MOST_AXES = 64  # NumPy's limit

ITEM_SIZES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2},
    **{"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8},
}
OTHER_DTYPES = ("C64", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0")
"""What the format has too."""

# A JSON string; the last two lines are letters by number, and by a pair of surrogates, of which half is none
_STRING = re.compile(
    rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]'
    rb"|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}"
    rb'|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+"'
)
_BLANK = re.compile(rb"[ \t\r\n]*+")


class Entry(NamedTuple):
    """One tensor: its name, the format's word for its dtype, its shape, and where its bytes are after the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """What a header says: the tensors by the place of their bytes, and where the metadata's texts are."""

    entries: list[Entry]
    texts: dict[str, tuple[int, int]]


class Problem(ValueError):
    """What is wrong with a file, as the end of a sentence that names the file."""


def parsed(header: bytes, data_size: int) -> Header:
    """The checked header of a file with ``data_size`` bytes after it. Raises `Problem`."""
    _check_utf8(header)
    budget = ENTRIES + data_size // BYTES_PER_ENTRY
    entries: dict[str, Entry] = {}
    texts: dict[str, tuple[int, int]] | None = None
    for name, begin in (members := _Members(header, 0)):
        if name == "__metadata__":
            if texts is not None:
                raise Problem("it has __metadata__ twice")
            texts, members.position = _metadata(header, begin, budget)
            continue
        end = header.find(b"}", begin, begin + LONGEST_ENTRY) + 1
        if header[begin : begin + 1] != b"{" or not end:
            raise Problem(f"its header says nothing sensible about the tensor {name!r}")
        if name in entries:
            raise Problem(f"it has two tensors of the name {name!r}")
        entries[name] = _entry(name, header[begin:end])
        members.position = end
        _check_budget(len(entries), budget)
    if _BLANK.match(header, members.position).end() != len(header):  # type: ignore[union-attr]
        raise Problem("its header is not valid JSON: something follows its last brace")
    ordered = sorted(entries.values(), key=lambda entry: (entry.begin, entry.end))
    _check_places(ordered, data_size)
    return Header(ordered, texts or {})


def text(header: bytes, place: tuple[int, int]) -> str:
    """The JSON string at a place of a header."""
    return json.loads(header[slice(*place)].decode())


class _Members:
    """Walks over a JSON object: each member's key, and where its value begins.

    Whoever asks for the next one has set ``position`` to the end of that value.
    """

    def __init__(self, header: bytes, begin: int) -> None:
        self.header, self.position = header, begin

    def __iter__(self) -> Iterator[tuple[str, int]]:
        self._take(b"{")
        if self._next() == b"}":
            self.position += 1
            return
        while True:
            self._next()
            key = _STRING.match(self.header, self.position)
            if key is None:
                self._refuse("a name in quotes")
            self.position = key.end()  # type: ignore[union-attr]
            self._take(b":")
            self._next()
            yield text(self.header, key.span()), self.position  # type: ignore[union-attr]
            if self._next() == b"}":
                self.position += 1
                return
            self._take(b",")

    def _next(self) -> bytes:
        """The next byte that is not blank."""
        self.position = _BLANK.match(self.header, self.position).end()  # type: ignore[union-attr]
        return self.header[self.position : self.position + 1]

    def _take(self, byte: bytes) -> None:
        if self._next() != byte:
            self._refuse(repr(byte.decode()))
        self.position += 1

    def _refuse(self, expected: str) -> None:
        got = self.header[self.position : self.position + 20]
        raise Problem(f"its header is not valid JSON: {expected} must be at byte {self.position}, got {got!r}")


def _metadata(header: bytes, begin: int, budget: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Where the metadata's texts are, and where the metadata end. Reads no text: it may be most of the file."""
    if header.startswith(b"null", begin):
        return {}, begin + 4
    texts: dict[str, tuple[int, int]] = {}
    for key, place in (members := _Members(header, begin)):
        value = _STRING.match(header, place)
        if value is None:
            raise Problem(f"its __metadata__ must be texts, and {key!r} is none")
        if key in texts:
            raise Problem(f"its __metadata__ have {key!r} twice")
        texts[key] = value.span()
        members.position = value.end()
        _check_budget(len(texts), budget)
    return texts, members.position


def _entry(name: str, source: bytes) -> Entry:
    """What the header says of one tensor, checked as far as it can be without the others."""
    fields = _fields(name, source)
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if code in OTHER_DTYPES:
        raise Problem(f"tensor {name!r} has the dtype {code}, which is not supported; cast it where it comes from")
    if not isinstance(code, str) or code not in ITEM_SIZES:
        raise Problem(f"tensor {name!r} has the dtype {_shown(code)}, and must have one of {', '.join(ITEM_SIZES)}")
    if not _are_sizes(shape):
        raise Problem(f"tensor {name!r} has the shape {_shown(shape)}, and must have a list of integers from 0 on")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise Problem(f"tensor {name!r} must begin and end at two bytes of the file, got {_shown(offsets)}")
    if len(shape) > MOST_AXES:
        raise Problem(f"tensor {name!r} has {len(shape)} axes, and NumPy has at most {MOST_AXES}")
    begin, end = offsets
    if math.prod(size for size in shape if size) * ITEM_SIZES[code] >= 2**63:  # empty ones too: NumPy has none such
        raise Problem(f"tensor {name!r} has the shape {_shown(shape)}, more than any memory holds")
    size = math.prod(shape) * ITEM_SIZES[code]
    if size != end - begin:
        raise Problem(
            f"tensor {name!r} of shape {_shown(shape)} and dtype {code} takes {size} bytes, got {end - begin}"
        )
    return Entry(name, code, tuple(shape), begin, end)


def _fields(name: str, source: bytes) -> dict[str, Any]:
    """A tensor's own JSON object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs) or fields.keys() != {"dtype", "shape", "data_offsets"}:
            got = ", ".join(_shown(key) for key, _ in pairs)
            raise Problem(f"tensor {name!r} must have a dtype, a shape and data_offsets, once each, got {got}")
        return fields

    try:
        return json.loads(source.decode(), object_pairs_hook=unique, parse_int=_integer)
    except Problem:
        raise
    except (ValueError, RecursionError):
        raise Problem(f"its header is not valid JSON where it speaks of the tensor {name!r}") from None


def _integer(digits: str) -> int | float:
    """-0 as the float that it is for other parsers, which they refuse."""
    return -0.0 if digits == "-0" else int(digits)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _shown(value: Any) -> str:
    """Something from a file, short enough for a message."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _check_utf8(header: bytes) -> None:
    """In pieces: as a text, one letter of Chinese would make the whole header twice as large."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for begin in range(0, len(header), 2**16):
            decoder.decode(header[begin : begin + 2**16])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise Problem("its header is not UTF-8") from None


def _check_budget(entries: int, budget: int) -> None:
    if entries > budget:
        raise Problem(f"its header names more than {budget} things, for which the file has too few bytes")


def _check_places(entries: list[Entry], data_size: int) -> None:
    """The tensors' bytes lie one after another, from the first byte after the header to the file's last."""
    name, filled = "", 0
    for entry in entries:
        if entry.end > data_size:
            raise Problem(
                f"tensor {entry.name!r} ends at byte {entry.end} after the header, and the file at byte {data_size}: "
                f"it is cut off"
            )
        if entry.begin < filled:
            raise Problem(f"the tensors {name!r} and {entry.name!r} overlap")
        if entry.begin > filled:
            raise Problem(f"there is a hole of {entry.begin - filled} bytes before the tensor {entry.name!r}")
        name, filled = entry.name, entry.end
    if filled < data_size:
        raise Problem(f"{data_size - filled} bytes follow after the last tensor")
