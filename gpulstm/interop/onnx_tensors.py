"""Models and tensors out of ONNX files that nobody vouches for.

Every size is checked against the bytes that are there before anything is allocated for it. Tensors may lie in files of
their own beside the model, as ONNX's "external data": regular files inside the model's folder, and nothing else.
"""

import math
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

_STORED: dict[int, tuple[str, str]] = {
    TensorProto.FLOAT: ("float32", "float_data"),
    TensorProto.DOUBLE: ("float64", "double_data"),
    TensorProto.FLOAT16: ("float16", "int32_data"),
    TensorProto.BFLOAT16: ("bfloat16", "int32_data"),
    TensorProto.INT32: ("int32", "int32_data"),
    TensorProto.INT64: ("int64", "int64_data"),
}
"""Element type -> NumPy's name, and the field that holds the elements where raw_data does not."""

BFLOAT16 = np.dtype([("bfloat16", np.uint16)])
"""What NumPy does not have: the bits, in a dtype of their own, so that nobody takes them for integers."""

_AXES = 32  # more than any of NumPy's arrays has
_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive, as torch.save and Keras write",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"ORTM": "a file in onnxruntime's own format",
}


def read_model(model: Any) -> tuple[onnx.ModelProto, Path | None]:
    """The model, and the folder in which its external data may lie; None where it came without a path.

    ``model`` is a path, the bytes of a file, or a ModelProto. Raises ValueError for bytes that are no ONNX model.
    """
    if isinstance(model, onnx.ModelProto):
        return model, None
    if isinstance(model, (bytes, bytearray, memoryview)):
        return _parsed(bytes(model), "model"), None
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model must be a path, bytes or an onnx.ModelProto, got {type(model).__name__}")
    path = Path(model)
    return _parsed(path.read_bytes(), str(path)), path.parent


def _parsed(data: bytes, what: str) -> onnx.ModelProto:
    for beginning, kind in _BEGINNINGS.items():
        if data.startswith(beginning):
            raise ValueError(f"{what} must be an ONNX model, got {kind}; nothing in it was run")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ValueError(f"{what} must be an ONNX model, got {len(data)} bytes that are none: {error}") from error
    if not model.HasField("graph"):
        raise ValueError(f"{what} must be an ONNX model, got {len(data)} bytes without a graph; is the file truncated?")
    return model


def to_array(tensor: TensorProto, folder: Path | None) -> np.ndarray:
    """A tensor's values; those in bfloat16 as `BFLOAT16`. The array may be read-only.

    Raises ValueError where type, dims and bytes disagree, or external data are not where they may be.
    """
    what = f"tensor {tensor.name!r}"
    if tensor.data_type not in _STORED:
        known = ", ".join(name for name, _ in _STORED.values())
        raise ValueError(f"{what} must be one of {known}, got {_type_name(tensor.data_type)}")
    if tensor.HasField("segment"):
        raise ValueError(f"{what} must be stored in one piece, got a segment")
    name, field = _STORED[tensor.data_type]
    dims = tuple(tensor.dims)
    if len(dims) > _AXES or any(size < 0 for size in dims):
        raise ValueError(f"{what} must have at most {_AXES} axes, none of them negative, got dims {dims[: _AXES + 1]}")
    count, width = math.prod(dims), 2 if name == "bfloat16" else np.dtype(name).itemsize
    dtype = np.dtype("uint16" if name == "bfloat16" else name)
    if tensor.data_location == TensorProto.EXTERNAL:
        values = _little_endian(_external(tensor, folder, what, dims, count * width), dtype)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * width:
            raise ValueError(
                f"{what} must have {count * width} bytes for dims {dims} of {name}, got {len(tensor.raw_data)}"
            )
        values = _little_endian(tensor.raw_data, dtype)
    else:
        values = _elements(getattr(tensor, field), name, dtype, count, what, dims)
    return (values.view(BFLOAT16) if name == "bfloat16" else values).reshape(dims)


def widened(values: np.ndarray) -> np.ndarray:
    """float16 and bfloat16 as float32, anything else as it is."""
    if values.dtype == BFLOAT16:
        return (values["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _elements(found: Any, name: str, dtype: np.dtype, count: int, what: str, dims: tuple) -> np.ndarray:
    """The elements of a repeated field; those of 16 bits lie there as integers."""
    if len(found) != count:
        raise ValueError(f"{what} must have {count} elements for dims {dims}, got {len(found)}")
    if name not in ("float16", "bfloat16"):
        return np.fromiter(found, dtype, count)
    bits = np.fromiter(found, np.int32, count)
    if ((bits < 0) | (bits > 0xFFFF)).any():
        raise ValueError(f"{what} must have elements of 16 bits, got more")
    return bits.astype(np.uint16).view(dtype)


def _little_endian(data: bytes, dtype: np.dtype) -> np.ndarray:
    """ONNX stores little-endian; on such a machine this copies nothing."""
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)


def _external(tensor: TensorProto, folder: Path | None, what: str, dims: tuple, size: int) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not all(isinstance(text, str) for text in entries.values()):  # protobuf gives bytes for what is no UTF-8
        raise ValueError(f"{what} must have text for its location, got {entries!r:.200}")
    if folder is None:
        raise ValueError(
            f"{what} lies in the file {location!r} beside the model; pass the model's path, or what onnx.load gives"
        )
    path = _inside(folder, location, what)
    numbers = {}
    for key in ("offset", "length"):
        text = entries.get(key, "0" if key == "offset" else str(size))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ValueError(f"{what} must have a whole number of bytes for {key}, got {text[:40]!r}")
        numbers[key] = int(text)
    if numbers["length"] != size:
        raise ValueError(f"{what} must have {size} bytes for dims {dims}, got length {numbers['length']}")
    with path.open("rb") as file:
        there = os.fstat(file.fileno()).st_size
        if numbers["offset"] + size > there:
            raise ValueError(
                f"{what} must lie within {location!r}, which has {there} bytes, "
                f"got offset {numbers['offset']} and {size} bytes"
            )
        file.seek(numbers["offset"])
        return file.read(size)


def _inside(folder: Path, location: str, what: str) -> Path:
    """The file of this name if it is a regular one in the model's folder, links followed."""
    parts = PureWindowsPath(location).parts  # splits at both kinds of slash
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if not location or absolute or ".." in parts or "\0" in location:
        raise ValueError(f"{what} must lie in a file inside the model's folder, got location {location[:200]!r}")
    try:
        path = (folder / location).resolve(strict=True)
        mode = path.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ValueError(f"{what} lies in the file {location[:200]!r}, which cannot be read: {error}") from error
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{what} must lie inside the model's folder, got the link {location[:200]!r} that leads out")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{what} must lie in a regular file, got {location[:200]!r}, which is none")
    return path


def _type_name(number: int) -> str:
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else f"type {number}"
