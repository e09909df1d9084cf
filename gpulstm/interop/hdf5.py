"""Reads arrays and strings out of the HDF5 files that Keras writes, in Python alone.

The HDF5 C library reads far more, and a file with a few wrong bytes can make it crash, hang or ask for any amount of
memory; that was tried. This reader knows the part of the format that h5py uses unless told otherwise (version 0 of the
superblock, groups as symbol tables) and looks at each byte once: whatever is outside of the file, is read again and
again, or is of another kind raises ValueError. It follows no soft or external link, applies no filter and opens no
second file.

The format: "HDF5 File Format Specification Version 3.0", The HDF Group.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1  # an address of nothing
LONGEST_NAME = 1024  # bytes; many links could share one long name
DEEPEST_GROUP = 64
DATASPACE, DATATYPE, LINK_INFO, LINK, EXTERNAL_FILES, LAYOUT = 0x01, 0x03, 0x02, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
FIXED_STRING, OPAQUE, VLEN, FLOAT = 3, 5, 9, 1
CLASSES: tuple[str, ...] = (
    "integer",
    "float",
    "time",
    "string",
    "bit field",
    "opaque",
    "compound",
    "reference",
    "enum",
)
CLASSES += ("variable-length", "array", "complex")  # by number

# (bytes, bit offset, precision, exponent's place and size, mantissa's place and size, exponent bias) -> dtype
FLOATS = {
    (2, 0, 16, 10, 5, 0, 10, 15): "float16",
    (2, 0, 16, 7, 8, 0, 7, 127): "bfloat16",
    (4, 0, 32, 23, 8, 0, 23, 127): "float32",
    (8, 0, 64, 52, 11, 0, 52, 1023): "float64",
}


@dataclass
class Dataset:
    """One array in a file. ``problem`` says why it cannot be read, if it cannot."""

    file: "Hdf5"
    path: str
    shape: tuple[int, ...]
    dtype: str  # "float16", "bfloat16", "float32", "float64"
    big_endian: bool
    problem: str | None
    address: int
    inline: bytes | None = None  # a small dataset's values stand in its header

    def read(self) -> np.ndarray:
        """The values in this machine's byte order; bfloat16 as float32, which holds them exactly."""
        if self.problem:
            raise ValueError(f"{self.path} {self.problem}")
        narrow = self.dtype == "bfloat16"
        stored = np.dtype("u2" if narrow else self.dtype).newbyteorder(">" if self.big_endian else "<")
        count = math.prod(self.shape)
        raw = self.file.read(self.address, count * stored.itemsize) if self.inline is None else self.inline
        values = np.frombuffer(raw, stored, count).astype(stored.newbyteorder("="), copy=False)
        if narrow:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(self.shape)


@dataclass
class Group:
    """A folder of groups and datasets, with the attributes that are strings."""

    attributes: dict[str, str] = field(default_factory=dict)
    members: dict[str, "Group | Dataset"] = field(default_factory=dict)

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Group"]]:
        """(path, group) of this group and of all below it."""
        yield path, self
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield from member.walk((*path, name))

    def get(self, path: tuple[str, ...]) -> "Group | Dataset | None":
        """What is at a path below this group, or None."""
        found: Group | Dataset | None = self
        for name in path:
            found = found.members.get(name) if isinstance(found, Group) else None
        return found


@dataclass
class _Message:
    kind: int
    shared: bool
    body: bytes


class Hdf5:
    """A file's tree of groups, ``root``, read at once; arrays are read when asked for.

    ``file`` is open for reading, and HDF5 begins at byte ``start`` of it and has ``size`` bytes.
    Raises ValueError with the reason for anything that is not as described at the top.
    """

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._left = 2 * size + 4096  # what may be read in all: structures that overlap would be read for ever
        self._seen: set[int] = set()
        self._heaps: dict[int, dict[int, bytes]] = {}
        self.root = Group()
        try:
            self._fill(self.root, self._messages(self._superblock()), ())
        except (struct.error, IndexError) as error:
            raise ValueError(f"a structure in it ends too early ({error})") from error

    def read(self, address: int, count: int) -> bytes:
        """Bytes of the file, which must be there."""
        if address + count > self._size:
            raise ValueError(
                f"it points to {count} bytes at {address} and has {self._size} bytes; is it truncated or damaged?"
            )
        self._left -= count
        if self._left < 0:
            raise ValueError("its structures point to the same bytes again and again")
        self._file.seek(self._start + address)
        found = self._file.read(count)
        if len(found) != count:
            raise ValueError("it became shorter while it was read")
        return found

    def _unpack(self, layout: str, address: int) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.read(address, struct.calcsize("<" + layout)))

    def _superblock(self) -> int:
        """The root group's address."""
        if self._size < 96:
            raise ValueError(f"it has {self._size} bytes, which is too short for an HDF5 file")
        signature, version, _, _, _, _, of_offsets, of_lengths = self._unpack("8s7B", 0)
        if signature != SIGNATURE:
            raise ValueError("it does not begin as an HDF5 file does")
        if version > 1:
            raise ValueError(
                f"it has the newer layout of HDF5 (superblock {version}), which Keras does not write; "
                f"save it again with Keras, or read its arrays with h5py and pass them as a list"
            )
        if (of_offsets, of_lengths) != (8, 8):
            raise ValueError(f"its addresses must have 8 bytes, got {of_offsets} and {of_lengths}")
        base, _, end, driver, _, root = self._unpack("6Q", 24 + 4 * version)
        if base != 0 or driver != UNDEFINED:
            raise ValueError("its data is spread over other files or begins elsewhere, which Keras does not do")
        if end > self._size:
            raise ValueError(f"it says that it has {end} bytes and has {self._size}; is it truncated?")
        return root

    def _fill(self, group: Group, messages: list[_Message], path: tuple[str, ...]) -> None:
        """Gives a group everything that is below it."""
        if len(path) > DEEPEST_GROUP:
            raise ValueError(f"its groups are nested more than {DEEPEST_GROUP} deep")
        group.attributes = self._strings(messages)
        for name, address in self._links(messages, "/".join(path)):
            inner = (*path, name)
            if name in group.members:
                raise ValueError(f"{'/'.join(inner)} is there twice")
            below = self._messages(address)
            kinds = [message.kind for message in below]
            if DATASPACE in kinds:
                group.members[name] = self._dataset(below, "/".join(inner))
            elif SYMBOL_TABLE in kinds or LINK_INFO in kinds or LINK in kinds:
                folder = group.members[name] = Group()
                self._fill(folder, below, inner)

    def _messages(self, address: int) -> list[_Message]:
        """The messages of an object's header, version 1."""
        if address in self._seen:
            raise ValueError("two links lead to one object, which Keras does not write")
        self._seen.add(address)
        version, _, count, _, size = self._unpack("BBHII", address)
        if version != 1:
            raise ValueError(f"an object header at {address} has version {version}; Keras writes version 1")
        found: list[_Message] = []
        blocks = [(address + 16, size)]
        while blocks and len(found) < count:
            block = self.read(*blocks.pop(0))
            at = 0
            while at + 8 <= len(block) and len(found) < count:
                kind, length, flags = struct.unpack_from("<HHB", block, at)
                body = block[at + 8 : at + 8 + length]
                if len(body) != length:
                    raise ValueError(f"an object header at {address} is damaged")
                if kind == CONTINUATION:
                    blocks.append(struct.unpack_from("<QQ", body))
                found.append(_Message(kind, bool(flags & 2), body))
                at += 8 + length
        return found

    def _links(self, messages: list[_Message], path: str) -> Iterator[tuple[str, int]]:
        """(name, address) of a group's members. Links to elsewhere are refused by name."""
        for message in messages:
            if message.kind == LINK:
                _refuse_link(message.body, path)
        for message in messages:
            if message.kind in (LINK, LINK_INFO):
                raise ValueError(f"{path or 'its root'} has its links in a newer layout, which Keras does not write")
            if message.kind == SYMBOL_TABLE:
                tree, heap = struct.unpack_from("<QQ", message.body)
                signature, _, size, _, names = self._unpack("4sIQQQ", heap)
                if signature != b"HEAP":
                    raise ValueError(f"the names in {path or 'its root'} are damaged")
                yield from self._entries(tree, self.read(names, size), path, None)

    def _entries(self, address: int, names: bytes, path: str, level: int | None) -> Iterator[tuple[str, int]]:
        """The links below a node of a group's B-tree."""
        signature, kind, found, count, _, _ = self._unpack("4sBBHQQ", address)
        if signature != b"TREE" or kind != 0 or found > 32 or (level is not None and found != level):
            raise ValueError(f"the index of {path or 'its root'} is damaged")
        children = self._unpack(f"{2 * count + 1}Q", address + 24)[1::2]
        for child in children:
            if found:
                yield from self._entries(child, names, path, found - 1)
                continue
            signature, _, _, entries = self._unpack("4sBBH", child)
            if signature != b"SNOD":
                raise ValueError(f"the index of {path or 'its root'} is damaged")
            for at, target, cached, _, _, _ in struct.iter_unpack("<QQIIQQ", self.read(child + 8, 40 * entries)):
                end = names.find(b"\0", at, at + LONGEST_NAME)
                if end <= at:
                    raise ValueError(f"a name in {path or 'its root'} is damaged or too long")
                name = _text(names[at:end], "a name")
                if cached == 2:
                    raise ValueError(f"{path}/{name} is a soft link; Keras writes none, and none is followed")
                yield name, target

    def _strings(self, messages: list[_Message]) -> dict[str, str]:
        """The attributes that are one string each. Others are passed over."""
        found = {}
        for body in (message.body for message in messages if message.kind == ATTRIBUTE and not message.shared):
            version, flags, of_name, of_type, of_space = struct.unpack_from("<BBHHH", body)
            if version not in (1, 2, 3) or (version > 1 and flags & 3):
                continue
            step = 8 if version == 1 else 1  # version 1 pads each part
            name_at = 9 if version == 3 else 8
            type_at = name_at + -(-of_name // step) * step
            space_at = type_at + -(-of_type // step) * step
            values = body[space_at + -(-of_space // step) * step :]
            name = _text(body[name_at : name_at + of_name].rstrip(b"\0"), "an attribute's name")
            kind, flag, size = body[type_at] & 15, body[type_at + 1], _u32(body, type_at + 4)
            if body[space_at + 1] != 0:  # its rank
                continue
            if kind == FIXED_STRING:
                found[name] = _text(values[:size].rstrip(b"\0"), f"attribute {name}")
            elif kind == VLEN and flag & 15 == 1:
                length, heap, index = struct.unpack_from("<IQI", values)
                value = self._heap(heap).get(index, b"") if length else b""
                if length > len(value):
                    raise ValueError(f"attribute {name} is damaged")
                found[name] = _text(value[:length].rstrip(b"\0"), f"attribute {name}")
        return found

    def _heap(self, address: int) -> dict[int, bytes]:
        """Index -> value of a global heap, where strings of variable length are."""
        if address not in self._heaps:
            signature, _, size = self._unpack("4sIQ", address)
            if signature != b"GCOL":
                raise ValueError("a string in it is damaged")
            block, at = memoryview(self.read(address, size)), 16
            self._heaps[address] = values = {}
            while at + 16 <= size:
                index, _, _, length = struct.unpack_from("<HHIQ", block, at)
                if index == 0 or length > size - at - 16:  # the rest is free, or damaged
                    break
                values[index] = bytes(block[at + 16 : at + 16 + length])
                at += 16 + -(-length // 8) * 8
        return self._heaps[address]

    def _dataset(self, messages: list[_Message], path: str) -> Dataset:
        """What a dataset's header says. A problem is kept until somebody asks for the values."""
        of_kind = {message.kind: message for message in reversed(messages)}
        try:
            shape = _shape(of_kind[DATASPACE].body)
            dtype, big_endian = _float_type(of_kind[DATATYPE].body, self._strings(messages).get("dtype"))
            needed = math.prod(shape) * int(dtype.strip("bfloat")) // 8
            if any(of_kind[kind].shared for kind in (DATASPACE, DATATYPE, LAYOUT)):
                raise ValueError("refers to another object for its type, which Keras does not do")
            if EXTERNAL_FILES in of_kind:
                raise ValueError("has its values in another file; none is opened")
            if FILTERS in of_kind:
                raise ValueError("is compressed; Keras stores its weights plainly, so save it again with Keras")
            address, inline = _place(of_kind[LAYOUT].body, needed)
            if inline is None and address + needed > self._size:
                raise ValueError(f"has shape {shape} and dtype {dtype}, which is more than the file holds")
        except (ValueError, KeyError, struct.error, IndexError) as error:
            reason = str(error) if type(error) is ValueError else "has a damaged header"
            return Dataset(self, path, (), "float32", False, reason, 0)
        return Dataset(self, path, shape, dtype, big_endian, None, address, inline)


def _shape(body: bytes) -> tuple[int, ...]:
    version, rank, _, kind = struct.unpack_from("<4B", body)
    if version not in (1, 2) or rank > 32 or (version == 2 and kind == 2):
        raise ValueError("has a damaged or empty shape")
    shape = struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)
    if math.prod(shape) >= 2**60:
        raise ValueError(f"has the shape {shape}, which no file can hold")
    return shape


def _float_type(body: bytes, tag: str | None) -> tuple[str, bool]:
    """(dtype, whether it is big-endian) of floating-point numbers. All other types are refused by name."""
    kind, flags, sign, size = body[0] & 15, body[1], body[2], _u32(body, 4)
    if kind == OPAQUE and size == 2 and tag == "bfloat16":
        return "bfloat16", False
    if kind != FLOAT:
        other = CLASSES[kind] if kind < len(CLASSES) else "unknown"
        raise ValueError(f"must hold floating-point numbers, got HDF5's type {other!r}")
    name = FLOATS.get((size, *struct.unpack_from("<HHBBBBI", body, 8)))
    # Bits 4 and 5: a leading one that is not stored. Bit 6 with bit 0 is the byte order of a VAX.
    if name is None or flags & 0x30 != 0x20 or flags & 0x40 or sign != 8 * size - 1:
        raise ValueError(f"must hold IEEE floating-point numbers, got another format of {size} bytes")
    return name, bool(flags & 1)


def _place(body: bytes, needed: int) -> tuple[int, bytes | None]:
    """(address, None) of a dataset's values, or (0, values) of those in the header."""
    version, kind = body[:2]
    if version not in (3, 4):
        raise ValueError(f"has a layout of version {version}, which Keras does not write")
    if kind == 0:
        (size,) = struct.unpack_from("<H", body, 2)
        address, inline = 0, body[4 : 4 + size]
        size = len(inline)
    elif kind == 1:
        (address, size), inline = struct.unpack_from("<QQ", body, 2), None
        if address == UNDEFINED and needed:
            raise ValueError("has no values stored")
        address = 0 if address == UNDEFINED else address
    else:
        how = {2: "chunks", 3: "other datasets (a virtual dataset)"}.get(kind, "an unknown way")
        raise ValueError(f"has its values in {how}; Keras stores its weights in one piece, so save it again with Keras")
    if size < needed:
        raise ValueError(f"must have {needed} bytes for its shape and type, got {size}")
    return address, inline


def _refuse_link(body: bytes, path: str) -> None:
    """Raises for a link message of another kind than a hard link, with its name."""
    flags, at = body[1], 2
    kind = body[at] if flags & 8 else 0
    if kind == 0:
        return
    at += bool(flags & 8) + 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    length = int.from_bytes(body[at : at + width], "little")
    name = body[at + width : at + width + min(length, 100)].decode("utf-8", "replace")
    what = {1: "a soft link", 64: "an external link"}.get(kind, "an unknown link")
    raise ValueError(f"{path}/{name} is {what}; Keras writes none, and none is followed")


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8") from error


def _u32(body: bytes, at: int) -> int:
    return struct.unpack_from("<I", body, at)[0]
