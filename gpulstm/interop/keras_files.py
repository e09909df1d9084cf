"""Reads Keras' files: ``.keras``, ``.weights.h5`` and the older ``.h5``. Only numbers and JSON are taken from them.

A ``.keras`` file is a zip archive whose members are stored uncompressed, so that its ``model.weights.h5`` is read where
it stands: nothing is unpacked to the disk, nothing is unpickled, and no code that a file holds or names is run.
"""

import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from . import hdf5
from .hdf5 import Dataset, Group, Hdf5

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"
LARGEST_DIRECTORY = 2**18  # bytes of a zip archive's table of contents: five thousand members, Keras writes three
INFLATION = 2  # times the file's size is what a compressed member may become: numbers hardly compress
SMALL = 2**16  # bytes that any file may take
OBJECTS = {b"[": 88, b"{": 184, b",": 64, b":": 60}  # bytes that Python may need for what one of these begins


@dataclass
class Cell:
    """The arrays of one LSTM cell in a file, not read yet."""

    kernel: Dataset
    recurrent: Dataset
    bias: Dataset | None


@dataclass
class Slot:
    """The arrays of one recurrent layer in a file: one cell, or a forward and a backward one."""

    name: str
    told: bool  # whether the file says the name, or it is that of the group, which comes from the class
    path: tuple[str, ...]  # of the layer's group, below what every path begins with
    cells: dict[str, Cell] = field(default_factory=dict)  # under "forward", and "backward" if there is one


@dataclass
class KerasFile:
    """What a file holds: the model's configuration, if it has one, and the arrays of its recurrent layers."""

    config: dict[str, Any] | None
    version: str | None  # of Keras
    slots: list[Slot]
    others: list[tuple[int, ...]]  # shapes of all other arrays of the model


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[KerasFile]:
    """A file whose arrays can be read as long as the context lasts.

    Raises FileNotFoundError, IsADirectoryError, or ValueError that says what is wrong with it.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"source must name a file, got the folder {target}")
    if not target.exists():
        raise FileNotFoundError(f"there is no Keras file at {target}")
    with target.open("rb") as file:
        yield _read(file, os.fstat(file.fileno()).st_size)


@contextmanager
def naming(source: str | os.PathLike) -> Iterator[None]:
    """Puts the file's name before each ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{os.fspath(source)}: {error}") from error


def _read(file: BinaryIO, size: int) -> KerasFile:
    start = file.read(8)
    if not size:
        raise ValueError("it is empty")
    if start[:2] == b"PK":
        members = _members(file, size)
        of_model = _json(_whole(file, size, members, CONFIG), CONFIG, size)
        version = _json(_whole(file, size, members, METADATA), METADATA, size).get("keras_version")
        tree = Hdf5(file, *_window(file, size, members, WEIGHTS))
        return _found(tree, of_model, version if isinstance(version, str) else None)
    if start != hdf5.SIGNATURE:
        hint = "; it looks like a pickle, which is never read" if start[:1] == b"\x80" else ""
        raise ValueError(f"it is neither a zip archive (.keras) nor HDF5 (.h5){hint}")
    tree = Hdf5(file, 0, size)
    attributes = tree.root.attributes
    inner = tree.root.members.get("model_weights")
    texts = (inner.attributes if isinstance(inner, Group) else {}) | attributes
    config = None
    if "model_config" in attributes:
        config = _json(attributes["model_config"].encode(), "model_config", size)
    return _found(tree, config, texts.get("keras_version"))


class _Table:
    """The archive for zipfile, which reads the table of contents in one piece and makes an object of each entry."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell, self.seekable = file, file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count > LARGEST_DIRECTORY:
            raise ValueError(f"its table of contents has {count} bytes, Keras' has some hundreds")
        return self._file.read(LARGEST_DIRECTORY if count < 0 else count)


def _members(file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    """Name -> entry of a zip archive's members, each of which is as Keras writes it."""
    try:
        entries = zipfile.ZipFile(_Table(file)).infolist()  # type: ignore[arg-type]  # it asks for no more than these
    except ValueError:
        raise
    except Exception as error:  # zipfile lets out what it stumbles over: struct.error, NotImplementedError, ...
        raise ValueError(f"it begins as a zip archive and is none ({error}); is it truncated?") from error
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.orig_filename  # zipfile turns backslashes round and cuts at a NUL
        parts = re.split(r"[/\\]", name.removesuffix("/"))
        if not all(parts) or {".", ".."} & set(parts) or ":" in name or "\\" in name or "\0" in name:
            raise ValueError(f"its member {name!r} has a path that leads out of the archive")
        if name in found:
            raise ValueError(f"its member {name!r} is there twice")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(f"its member {name!r} is a symbolic link")
        if entry.flag_bits & 1:
            raise ValueError(f"its member {name!r} is encrypted")
        if entry.header_offset + 30 + entry.compress_size > size:
            raise ValueError(f"its member {name!r} lies beyond its end; is it truncated?")
        found[name] = entry
    for name in (WEIGHTS, CONFIG, METADATA):
        if name not in found:
            raise ValueError(f"it has no member {name}, got {', '.join(map(repr, sorted(found)[:8])) or 'none'}")
    return found


def _place(file: BinaryIO, size: int, entry: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin. Its own header must agree with the table of contents."""
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\3\4":
        raise ValueError(f"its member {entry.orig_filename!r} is damaged")
    of_name, of_extra = struct.unpack_from("<HH", header, 26)
    start = entry.header_offset + 30 + of_name + of_extra
    if file.read(of_name) != entry.orig_filename.encode() or start + entry.compress_size > size:
        raise ValueError(f"its member {entry.orig_filename!r} is damaged or truncated")
    return start


def _window(file: BinaryIO, size: int, members: dict[str, zipfile.ZipInfo], name: str) -> tuple[int, int]:
    """(first byte, count) of a stored member whose checksum is right."""
    entry = members[name]
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(
            f"its member {name} is compressed; Keras stores it, so save it again with Keras, or zip it with level 0"
        )
    start, left, checksum = _place(file, size, entry), entry.file_size, 0
    file.seek(start)
    while left:
        block = file.read(min(left, 2**20))
        if not block:
            raise ValueError(f"its member {name} is truncated")
        checksum, left = zlib.crc32(block, checksum), left - len(block)
    if checksum != entry.CRC:
        raise ValueError(f"its member {name} is damaged: the checksum is wrong")
    return start, entry.file_size


def _whole(file: BinaryIO, size: int, members: dict[str, zipfile.ZipInfo], name: str) -> bytes:
    """A member's bytes."""
    entry = members[name]
    if entry.compress_type == zipfile.ZIP_STORED:
        start, count = _window(file, size, members, name)
        file.seek(start)
        return file.read(count)
    if entry.compress_type != zipfile.ZIP_DEFLATED:
        raise ValueError(f"its member {name} is compressed in a way that Keras does not write")
    limit = max(INFLATION * size, SMALL)
    file.seek(_place(file, size, entry))
    try:
        found = zlib.decompressobj(-15).decompress(file.read(entry.compress_size), limit + 1)
    except zlib.error as error:
        raise ValueError(f"its member {name} is damaged: {error}") from error
    if len(found) > limit or entry.file_size > limit:
        raise ValueError(f"its member {name} would inflate to more than {limit} bytes, the file has {size}")
    if len(found) != entry.file_size or zlib.crc32(found) != entry.CRC:
        raise ValueError(f"its member {name} is damaged: the checksum is wrong")
    return found


def _json(raw: bytes, what: str, size: int) -> dict[str, Any]:
    """A JSON object. Refused before parsing where Python's objects would take many times the file's size."""
    needed = sum(raw.count(sign) * of_object for sign, of_object in OBJECTS.items())
    if needed > 2 * size + 2**20:
        raise ValueError(f"its {what} would take {needed} bytes of memory, and the file has {size}")
    try:
        found = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {what} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"its {what} must be a JSON object, got {type(found).__name__}")
    return found


def _found(tree: Hdf5, config: dict[str, Any] | None, version: str | None) -> KerasFile:
    """The recurrent layers among a file's arrays: Keras 3 numbers a layer's arrays, older files name them."""
    slots: dict[tuple[str, ...], Slot] = {}
    others: list[tuple[int, ...]] = []
    for path, group in tree.root.walk():
        arrays = {name: member for name, member in group.members.items() if isinstance(member, Dataset)}
        if not arrays or {"optimizer", "optimizer_weights", "top_level_model_weights"} & set(path[:2]):
            continue
        cell = _numbered(path, arrays) or (_named(arrays) if path else None)
        if cell is None or group.attributes.get("name", "lstm_cell").startswith(("gru_cell", "simple_rnn_cell")):
            others += [member.shape for member in arrays.values()]
            continue
        layer, side = _layer_of(path, tree.root)
        slot = slots.setdefault(layer, Slot(*_name_of(layer, tree.root), layer))
        if side in slot.cells:
            raise ValueError(f"{'/'.join(layer)} has the arrays of several cells")
        slot.cells[side] = cell
    for slot in slots.values():
        if "forward" not in slot.cells:
            raise ValueError(f"{'/'.join(slot.path)} has the arrays of a backward cell and none of a forward one")
    return KerasFile(config, version, sorted(slots.values(), key=_in_order), others)


def _numbered(path: tuple[str, ...], arrays: dict[str, Dataset]) -> Cell | None:
    """The cell of a group ``.../cell/vars`` with arrays 0, 1 and, with a bias, 2."""
    if path[-2:] != ("cell", "vars") or not {"0", "1"} <= arrays.keys() <= {"0", "1", "2"}:
        return None
    return Cell(arrays["0"], arrays["1"], arrays.get("2"))


def _named(arrays: dict[str, Dataset]) -> Cell | None:
    """The cell of a group with arrays that are called kernel, recurrent_kernel and bias, as Keras 2 calls them."""
    plain = {name.removesuffix(":0"): array for name, array in arrays.items()}
    if not {"kernel", "recurrent_kernel"} <= plain.keys():
        return None
    return Cell(plain["kernel"], plain["recurrent_kernel"], plain.get("bias"))


def _layer_of(path: tuple[str, ...], root: Group) -> tuple[tuple[str, ...], str]:
    """(path of the layer's group, "forward" or "backward") for the path of a cell's arrays."""
    if path[-2:] == ("cell", "vars"):
        layer = path[:-2]
        if layer and layer[-1] in ("forward_layer", "backward_layer"):
            return layer[:-1], layer[-1].removesuffix("_layer")
        return layer, "forward"
    layer = path[:-1] if re.fullmatch(r"lstm_cell(_\d+)?", path[-1]) else path
    parent = root.get(layer[:-1])
    siblings = parent.members if isinstance(parent, Group) else {}
    for side, other in (("forward", "backward"), ("backward", "forward")):
        if layer[-1].startswith(side + "_") and any(name.startswith(other + "_") for name in siblings):
            return layer[:-1], side
    return layer, "forward"


def _name_of(layer: tuple[str, ...], root: Group) -> tuple[str, bool]:
    """A layer's name, and whether the file says it: Keras 3 does, and in the older .h5 files it is the group's."""
    beside = root.get((*layer, "vars"))
    own = beside.attributes.get("name") if isinstance(beside, Group) else None
    return own or (layer[-1] if layer else "the layer"), own is not None


def _in_order(slot: Slot) -> list[tuple[str, int]]:
    """Sorts lstm, lstm_1, lstm_2, ..., lstm_10 as the model has them."""
    found = (re.fullmatch(r"(?s)(.*?)(?:_(\d+))?", part) for part in slot.path)
    return [(match[1], int(match[2] or 0)) for match in found if match]
