"""Files that are almost safetensors files, and how such files are put together."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np


def file_of(header, data=b"", length=None):
    """A file's bytes from its header, as bytes or as what JSON makes them of."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(dtype, shape, begin, end, **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]} | more


F32 = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
PAIR = {"a": tensor("F32", [2], 0, 8), "b": tensor("I16", [3], 8, 14)}
GOOD = file_of(PAIR, bytes(14))
HIGH = 2**63

# What is wrong, the file, and words of the message. The library calls those in TOLERATED good.
BAD = {
    "empty": (b"", "it is empty"),
    "five bytes": (b"12345", "it has 5 bytes"),
    "a length alone": (struct.pack("<Q", 2), "its header has 2 bytes, and it has 8 bytes in all"),
    "half a header": (GOOD[:40], "it has 40 bytes in all"),
    "half a tensor": (GOOD[:-1], "tensor 'b' ends at byte 14 after the header, and the file at byte 13"),
    "no tensors": (GOOD[:-14], "it is cut off"),
    "trailing bytes": (GOOD + b"x", "1 bytes follow after the last tensor"),
    "a long header": (file_of(PAIR, bytes(14), 10**6), "header has 1000000 bytes"),
    "a huge header": (file_of(PAIR, bytes(14), HIGH), f"header has {HIGH} bytes"),
    "the hugest header": (file_of(PAIR, bytes(14), 2**64 - 1), "header has 18446744073709551615 bytes"),
    "a header without an end": (file_of(PAIR, bytes(14), 20), "sensible about the tensor 'a'"),
    "an empty header": (file_of(b"", b"xx"), "'{' must be at byte 0"),
    "a big-endian length": (struct.pack(">Q", len(GOOD) - 22) + GOOD[8:], "is written big-endian"),
    "no JSON": (file_of(b"hello"), "'{' must be at byte 0, got b'hello'"),
    "unfinished JSON": (file_of(b'{"a":' + F32.encode(), bytes(8)), "'}' must be at byte 53|',' must be at byte 53"),
    "JSON and more": (file_of(b'{"a":' + F32.encode() + b"}\0\0", bytes(8)), "something follows its last brace"),
    "a trailing comma": (file_of(b'{"a":' + F32.encode() + b",}", bytes(8)), "a name in quotes must be at byte 54"),
    "a name that is a number": (file_of(b"{3:" + F32.encode() + b"}", bytes(8)), "a name in quotes must be"),
    "a byte-order mark": (file_of(b'\xef\xbb\xbf{"a":' + F32.encode() + b"}", bytes(8)), "'{' must be at byte 0"),
    "no UTF-8": (file_of(b'{"\xff":' + F32.encode() + b"}", bytes(8)), "is not UTF-8"),
    "half a letter": (file_of(b'{"a":' + F32.encode() + b"}\xc3", bytes(8)), "is not UTF-8"),
    "UTF-16": (file_of(json.dumps(PAIR).encode("utf-16"), bytes(14)), "is not UTF-8"),
    "half a surrogate": (file_of(b'{"\\ud800":' + F32.encode() + b"}", bytes(8)), "a name in quotes must be at byte 1"),
    "a wrong escape": (file_of(b'{"\\x41":' + F32.encode() + b"}", bytes(8)), "a name in quotes must be at byte 1"),
    "half a surrogate in a text": (file_of(b'{"__metadata__":{"a":"\\udc00"}}'), "must be texts, and 'a' is none"),
    "a wrong escape in a text": (file_of(b'{"__metadata__":{"a":"\\&"}}'), "must be texts, and 'a' is none"),
    "half an escape in a text": (file_of(b'{"__metadata__":{"a":"\\u00e"}}'), "must be texts, and 'a' is none"),
    "a line break in a text": (file_of(b'{"__metadata__":{"a":"\n"}}'), "must be texts, and 'a' is none"),
    "a list": (file_of([PAIR]), "'{' must be at byte 0"),
    "a number": (file_of(b"3"), "'{' must be at byte 0"),
    "lists without end": (file_of(b"[" * 100000), "'{' must be at byte 0"),
    "lists in a name": (file_of(b'{"a":' + b"[" * 100000), "nothing sensible about the tensor 'a'"),
    "lists in a shape": (
        file_of(b'{"a":{"dtype":"F32","shape":' + b"[" * 3000 + b"}}"),
        "not valid JSON where it speaks of the tensor 'a'",
    ),
    "a tensor that is NaN": (file_of(b'{"a":NaN}'), "nothing sensible about the tensor 'a'"),
    "overlapping": (
        file_of({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12)),
        "the tensors 'a' and 'b' overlap",
    ),
    "one on the other": (
        file_of({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 0, 8)}, bytes(8)),
        "overlap",
    ),
    "a hole": (
        file_of({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 12, 20)}, bytes(20)),
        "a hole of 4 bytes before the tensor 'b'",
    ),
    "a hole at first": (file_of({"a": tensor("F32", [2], 4, 12)}, bytes(12)), "a hole of 4 bytes"),
    "nothing inside another": (
        file_of({"a": tensor("F32", [2], 0, 8), "z": tensor("F32", [0], 4, 4)}, bytes(8)),
        "the tensors 'a' and 'z' overlap",
    ),
    "nothing behind the end": (file_of({"z": tensor("F32", [0], 4, 4)}), "it is cut off"),
    "data without a tensor": (file_of({}, b"xx"), "2 bytes follow"),
    "a name twice": (file_of(f'{{"a":{F32},"a":{F32}}}'.encode(), bytes(8)), "two tensors of the name 'a'"),
    "a name twice, escaped": (file_of(f'{{"a":{F32},"\\u0061":{F32}}}'.encode(), bytes(8)), "two tensors of the name"),
    "a field twice": (
        file_of(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "tensor 'a' must have a dtype, a shape and data_offsets, once each",
    ),
    "a text twice": (
        file_of(f'{{"__metadata__":{{"x":"1","x":"2"}},"a":{F32}}}'.encode(), bytes(8)),
        "its __metadata__ have 'x' twice",
    ),
    "metadata twice": (
        file_of(f'{{"__metadata__":{{"x":"1"}},"__metadata__":{{"y":"2"}},"a":{F32}}}'.encode(), bytes(8)),
        "__metadata__ twice",
    ),
    "metadata with a number": (file_of({"__metadata__": {"x": 1}}), "its __metadata__ must be texts, and 'x' is none"),
    "metadata in a list": (file_of({"__metadata__": ["x"]}), "'{' must be at byte"),
    "an unknown field": (file_of({"a": tensor("F32", [2], 0, 8, more=[])}, bytes(8)), "once each, got .*'more'"),
    "a missing field": (file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "once each, got 'dtype', 'shape'"),
    "an unknown dtype": (file_of({"a": tensor("float32", [2], 0, 8)}, bytes(8)), "has the dtype 'float32', and must"),
    "a dtype in small letters": (file_of({"a": tensor("f32", [2], 0, 8)}, bytes(8)), "has the dtype 'f32'"),
    "a dtype that is a list": (file_of({"a": tensor(["F32"], [2], 0, 8)}, bytes(8)), r"has the dtype \['F32'\]"),
    "a dtype that we lack": (
        file_of({"a": tensor("F8_E4M3", [2], 0, 2)}, bytes(2)),
        "dtype F8_E4M3, which is not supported; cast it",
    ),
    "a complex dtype": (file_of({"a": tensor("C64", [1], 0, 8)}, bytes(8)), "dtype C64, which is not supported"),
    "a shape that does not fit": (
        file_of({"a": tensor("F32", [3], 0, 8)}, bytes(8)),
        r"of shape \[3\] and dtype F32 takes 12 bytes, got 8",
    ),
    "a negative shape": (file_of({"a": tensor("F32", [-2], 0, 8)}, bytes(8)), r"has the shape \[-2\]"),
    "two negative sizes": (file_of({"a": tensor("F32", [-2, -1], 0, 8)}, bytes(8)), r"has the shape \[-2, -1\]"),
    "a broken size": (file_of({"a": tensor("F32", [2.0], 0, 8)}, bytes(8)), r"has the shape \[2.0\]"),
    "a size that is true": (file_of({"a": tensor("F32", [True], 0, 4)}, bytes(4)), r"has the shape \[True\]"),
    "a shape that is a number": (file_of({"a": tensor("F32", 2, 0, 8)}, bytes(8)), "has the shape 2"),
    "a huge shape": (file_of({"a": tensor("F32", [2**32, 2**32], 0, 0)}), "more than any memory holds"),
    "a size beyond 64 bits": (file_of({"a": tensor("F32", [2**70], 0, 8)}, bytes(8)), "must have a list of integers"),
    "a huge shape of nothing": (file_of({"a": tensor("F32", [2**62, 0, 2**62], 0, 0)}), "more than any memory holds"),
    "a large shape": (file_of({"a": tensor("F32", [2**40], 0, 2**42)}, bytes(8)), "it is cut off"),
    "65 axes": (file_of({"a": tensor("F32", [1] * 65, 0, 4)}, bytes(4)), "has 65 axes"),
    "an entry of a megabyte": (file_of({"a": tensor("F32", [1] * 10**6, 0, 4)}, bytes(4)), "nothing sensible about"),
    "three offsets": (file_of({"a": PAIR["a"] | {"data_offsets": [0, 8, 9]}}, bytes(8)), "must begin and end at two"),
    "offsets in reverse": (file_of({"a": tensor("F32", [2], 8, 0)}, bytes(8)), r"got \[8, 0\]"),
    "a negative offset": (file_of({"a": tensor("F32", [2], -8, 0)}, bytes(8)), r"got \[-8, 0\]"),
    "an offset of minus nothing": (
        file_of(b'{"a":' + F32.replace("[0,", "[-0,").encode() + b"}", bytes(8)),
        r"got \[-0.0, 8\]",
    ),
    "a broken offset": (file_of({"a": tensor("F32", [2], 0, 8.0)}, bytes(8)), r"got \[0, 8.0\]"),
    "offsets beyond 64 bits": (file_of({"a": tensor("F32", [2], 2**64, 2**64 + 8)}, bytes(8)), "must begin and end"),
    "a boolean of 2": (file_of({"a": tensor("BOOL", [2], 0, 2)}, b"\x02\x00"), "tensor 'a' is of booleans"),
}
TOLERATED = ("a name twice", "a name twice, escaped", "a text twice", "an unknown field", "a boolean of 2")


def foreign():
    """Files of other kinds, and words of the message."""
    import h5py
    import onnx
    import torch

    def written(write):
        buffer = io.BytesIO()
        write(buffer)
        return buffer.getvalue()

    def zipped(name):
        return written(lambda file: zipfile.ZipFile(file, "w").writestr(name, "{}"))

    weights = {"weight": torch.ones(40)}
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), producer_name="pytorch")
    pickled = [pickle.dumps({"a": list(range(99))}, protocol) for protocol in range(6)]
    return {
        "torch.save": (
            written(lambda file: torch.save(weights, file)),
            "an archive of torch.save with a pickle, which",
        ),
        "torch.save of old": (
            written(lambda file: torch.save(weights, file, _use_new_zipfile_serialization=False)),
            "a pickle, which is never unpickled .* safetensors.torch.save_file",
        ),
        **{f"pickle {k}": (content, "a pickle, which is never unpickled") for k, content in enumerate(pickled)},
        "npz": (
            written(lambda file: np.savez(file, a=np.ones(9))),
            "an .npz archive of NumPy; read it with numpy.load",
        ),
        "npy": (written(lambda file: np.save(file, np.ones(9))), "a NumPy array; read it with numpy.load"),
        "HDF5": (written(lambda file: h5py.File(file, "w").close()), "an HDF5 file; .*from_keras"),
        "ONNX": (model.SerializeToString(), "probably an ONNX model; gpulstm.interop.onnx.from_onnx"),
        "keras": (zipped("metadata.json"), "a .keras archive; .*from_keras"),
        "zip": (zipped("a.txt"), "a zip archive; unpack it"),
        "gzip": (b"\x1f\x8b\x08" + bytes(30), "a gzip archive"),
        "GGUF": (b"GGUF\3" + bytes(30), "a GGUF file"),
        "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
        "a web page": (b"<!DOCTYPE html><html>Not found</html>", "the download has failed"),
    }
