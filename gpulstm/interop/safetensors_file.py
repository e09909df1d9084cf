"""A safetensors file from the disk to NumPy arrays and back, checked in both directions."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .. import arrays, files
from ..arrays import Array
from .foreign_files import what_it_is
from .safetensors_header import HEADER_LIMIT, Entry, Header, Problem, parsed, text

DTYPES = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32"},
    **{"U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
}
"""The format's words, and ours."""

EXPECTED = "a whole safetensors file"


def read(
    path: str | os.PathLike, expected: str = EXPECTED, *, metadata: bool = False
) -> tuple[dict[str, tuple[str, np.ndarray]], dict[str, str]]:
    """Every tensor as (name of the dtype, array of its own), in the order of their names; and with ``metadata`` theirs.

    bfloat16 comes as its bits in uint16, for NumPy alone does not know it. ``expected`` is what a message says that the
    file must be.

    Raises FileNotFoundError for no file, ValueError for whatever is no whole safetensors file. Until all is checked
    nothing is allocated but the header.
    """
    with _checked(path, expected) as file:
        header, listed = _header(file)
        texts = {key: text(header, place) for key, place in listed.texts.items()} if metadata else {}
        found = {entry.name: (DTYPES[entry.code], _tensor(file, entry)) for entry in listed.entries}
    return dict(sorted(found.items())), texts


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The texts in a file's header; the tensors are not read. Raises as `read` does."""
    with _checked(path, EXPECTED) as file:
        header, listed = _header(file)
        return {key: text(header, place) for key, place in listed.texts.items()}


def write(target: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None) -> None:
    """Writes arrays that `on_host` gave, whole or not at all: see `gpulstm.files.write_whole`."""
    from safetensors import SafetensorError
    from safetensors.numpy import save  # its save_file would leave files of other names when killed

    try:  # an older file must not give way to one that nobody can read
        content = save(dict(tensors), None if metadata is None else dict(metadata))
        end = 8 + int.from_bytes(content[:8], "little")
        if end > 8 + HEADER_LIMIT:
            raise Problem(f"its header would have {end - 8} bytes, and the format allows {HEADER_LIMIT}")
        parsed(content[8:end], len(content) - end)
    except (Problem, SafetensorError) as problem:
        raise ValueError(f"{target} could not be read again: {problem}") from None
    files.write_whole(target, content)


def on_host(name: str, value: Array) -> np.ndarray:
    """An array of any library as NumPy's, in C's order.

    Raises TypeError, which says ``name``, for a dtype that the format does not have, and for what cannot be on a CPU.
    """
    dtype = value.dtype.name if isinstance(value.dtype, np.dtype) else arrays.dtype_name(value)  # ">f4" is float32
    if dtype not in DTYPES.values():
        hint = "nothing is cast silently"
        hint = "nothing is pickled" if dtype == "object" else hint
        hint = "save the real and the imaginary part" if dtype.startswith("complex") else hint
        raise TypeError(f"{name} must have one of the dtypes {', '.join(DTYPES.values())}, got {dtype}; {hint}")
    try:
        is_torch = hasattr(value, "detach")
        host = _bfloat16_of_torch(name, value) if is_torch and dtype == "bfloat16" else arrays.to_numpy(value)
    except (RuntimeError, TypeError) as error:  # sparse, on a device that NumPy cannot read, traced
        raise TypeError(
            f"{name} must be an array that NumPy can read, got {arrays.describe(value)}: {error}"
        ) from error
    # safetensors writes wrong values for any other order, and ascontiguousarray gives an axis to those without
    return np.ascontiguousarray(host).reshape(host.shape)


def as_numpy(name: str, dtype: str, value: np.ndarray) -> np.ndarray:
    """An array that `read` gave, with the dtype that it says. Raises ValueError for bfloat16 without ml_dtypes."""
    return value.view(bfloat16(name)) if dtype == "bfloat16" else value


def bfloat16(name: str) -> np.dtype:
    """NumPy's bfloat16, which is ml_dtypes'. Raises ValueError without that package."""
    try:
        import ml_dtypes
    except ImportError:
        raise ValueError(
            f"{name} is bfloat16, which NumPy has only through the package ml_dtypes: pip install ml_dtypes"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


def _bfloat16_of_torch(name: str, value: Array) -> np.ndarray:
    """PyTorch makes no NumPy array of bfloat16, but one of its bits."""
    import torch

    return value.detach().cpu().view(torch.int16).numpy().view(bfloat16(name))


@contextmanager
def _checked(path: str | os.PathLike, expected: str) -> Iterator[BinaryIO]:
    """The open file. A `Problem` becomes a ValueError that names the file and says what to do."""
    target = files.as_path(path)
    if not target.exists():
        raise FileNotFoundError(f"there is no file {target}")
    if not target.is_file():  # to read a pipe would be to wait for ever
        kind = "a folder; name a file in it" if target.is_dir() else "no ordinary file"
        raise ValueError(f"{target} must be {expected}: it is {kind}")
    try:
        with target.open("rb") as file:
            yield file
    except Problem as problem:
        advice = "" if ";" in str(problem) else "; it is damaged, so copy or download it again"
        raise ValueError(f"{target} must be {expected}: {problem}{advice}") from None


def _header(file: BinaryIO) -> tuple[bytes, Header]:
    """The header, and what it says. The file is left at the first byte after it."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise Problem(
            f"it has {size} bytes, and must have 8 for the length of its header alone" if size else "it is empty"
        )
    start = file.read(8)
    length = int.from_bytes(start, "little")
    fits = length <= size - 8
    header = file.read(length if fits and length <= HEADER_LIMIT else 200)
    if not fits or header[:1] not in b"{ \t\r\n":
        foreign = what_it_is(start + header[:200])
        if foreign:
            raise Problem(f"it is {foreign}")
    if not fits and _ends_a_header(file, 7 + int.from_bytes(start, "big")):
        raise Problem(
            "the length of its header is written big-endian; the format has it little-endian, so save it again"
        )
    if not fits:
        raise Problem(f"its first 8 bytes say that its header has {length} bytes, and it has {size} bytes in all")
    if length > HEADER_LIMIT:
        raise Problem(f"its header has {length} bytes, and the format allows {HEADER_LIMIT}")
    return header, parsed(header, size - 8 - length)


def _ends_a_header(file: BinaryIO, place: int) -> bool:
    """Whether the byte at a place of the file can be a header's last."""
    if place >= os.fstat(file.fileno()).st_size:
        return False
    file.seek(place)
    return file.read(1) in (b"}", b" ")


def _tensor(file: BinaryIO, entry: Entry) -> np.ndarray:
    """One tensor, read from where the file is: tensors are asked for in the order in which they lie there."""
    dtype = np.dtype("uint16" if entry.code == "BF16" else DTYPES[entry.code])
    found = np.empty(entry.shape, dtype.newbyteorder("<"))
    raw = found.reshape(-1).view(np.uint8)
    if file.readinto(raw) != raw.size:  # type: ignore[attr-defined]
        raise Problem("it became shorter while it was read")
    if entry.code == "BOOL" and raw.max(initial=0) > 1:
        raise Problem(f"tensor {entry.name!r} is of booleans, which are bytes 0 and 1, and has others")
    return found.astype(dtype, copy=False)
