"""Files that are no safetensors files: one clear ValueError each, no more memory than the file's size, no surprises."""

import os
import random
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors

import gpulstm as gl
from gpulstm.interop import safetensors_file, safetensors_header
from gpulstm.training import Checkpoint, load_checkpoint, save_checkpoint
from tests.safetensors_cases import BAD, F32, GOOD, PAIR, TOLERATED, file_of, foreign, tensor

ROOT = Path(__file__).resolve().parent.parent
SMALL = 300_000  # bytes that messages, decoders and file buffers may take


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def put(path, content):
    """Into the file that is there: some file systems force one to the disk that is emptied and written again."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def refused(path):
    """The message about a file, after a look at its length."""
    with pytest.raises(ValueError) as error:
        gl.load(path)
    assert type(error.value) is ValueError and str(error.value).startswith(f"{path} must be a whole safetensors file: ")
    assert len(str(error.value)) < 600 + len(str(path)) and "; " in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", list(BAD))
def test_a_bad_file_is_refused_in_words_and_within_its_size(path, case):
    content, words = BAD[case]
    path.write_bytes(content)
    refused(path)  # imports and caches whatever there is
    tracemalloc.start()
    message = refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert re.search(words, message), message
    assert peak <= len(content) + SMALL


@pytest.mark.parametrize("case", [name for name in BAD if name not in TOLERATED])
def test_the_library_refuses_them_too(path, case):
    """What is refused here is no invention: only what TOLERATED lists goes beyond the library."""
    path.write_bytes(BAD[case][0])
    with pytest.raises((safetensors.SafetensorError, ValueError, AttributeError)):
        load_by_library(path)
        if case in ("a dtype that we lack", "a complex dtype"):
            raise ValueError("the library has it; we do not")


def load_by_library(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict


@pytest.mark.parametrize("case", list(TOLERATED))
def test_what_the_library_lets_pass(path, case):
    path.write_bytes(BAD[case][0])
    assert load_by_library(path)


def test_files_of_other_kinds_are_called_by_their_names(path):
    for content, words in foreign().values():
        path.write_bytes(content)
        assert re.search(words, refused(path)), refused(path)


def test_a_header_whose_length_begins_like_a_pickle_is_no_pickle(path):
    """0x80 0x04 is how a pickle begins, and a header of 1152 bytes."""
    header = b'{"a":' + F32.encode() + b"}"
    path.write_bytes(file_of(header.ljust(0x0480), bytes(8)))
    assert path.read_bytes()[:2] == b"\x80\x04"
    assert gl.load(path)["a"].shape == (2,)


def test_nothing_in_a_file_is_run(path, tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path.write_bytes(pickle.dumps(Trap()))
    refused(path)
    assert not (tmp_path / "sprung").exists()


def test_no_file_a_folder_and_a_pipe(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*a.safetensors"):
        gl.load(path)
    with pytest.raises(ValueError, match="must be a whole safetensors file: it is a folder; name a file in it"):
        gl.load(tmp_path)
    with pytest.raises(TypeError, match="path must be a string or a path, got int"):
        gl.load(3)
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        with pytest.raises(ValueError, match="it is no ordinary file"):
            gl.load(path)


@pytest.mark.parametrize(
    "header",
    [
        b'  {"a":' + F32.encode() + b"}",
        b'{\n "a" :\t' + F32.replace(",", " ,\r\n").encode() + b" }\n ",
        b'{"a":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}',
        b'{"__metadata__":null,"a":' + F32.encode() + b"}",
        b'{"__metadata__":{},"a":' + F32.encode() + b"}",
        b'{"a":' + F32.encode() + b',"__metadata__":{"k":"}{\\"\\u00fc\xc3\xbc"}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"z":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]}}',
        b'{"a}{\\"":{"dtype":"F32","shape":[1,2,1],"data_offsets":[0,8]}}',
        b'{"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    ],
)
def test_whatever_the_format_allows_is_read_as_the_library_reads_it(path, header):
    path.write_bytes(file_of(header, np.array([1.5, -2.0], "<f4").tobytes()))
    ours, theirs = gl.load(path), load_by_library(path)
    assert list(ours) == sorted(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], strict=True)


# Damage at every place


def a_file(path):
    """A file with all that a file can have."""
    rng = np.random.default_rng(4)
    arrays = {"weight": rng.normal(size=(3, 4)).astype("float32"), "flags": np.array([True, False, True])}
    arrays |= {"half": rng.normal(size=5).astype("float16"), "none": np.zeros((0, 2)), "n": np.array(7)}
    gl.save(path, arrays, metadata={"made by": "hand", "why": '"\u00fc"'})
    return path.read_bytes()


def test_a_file_cut_anywhere_is_refused(path):
    content = a_file(path)
    for length in range(len(content)):
        put(path, content[:length])
        with pytest.raises(ValueError, match="must be a whole safetensors file"):
            gl.load(path)


def damaged(content, rng):
    """One to three places changed: a bit, a byte, one more, one less, a piece doubled, a number or a name replaced.

    Three of four in the header, whose length is then mostly right again.
    """
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header, data, length = bytearray(content[8:end]), bytearray(content[end:]), end - 8
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        part = header if rng.random() < 0.75 else data
        where, byte = rng.randrange(len(part)), rng.choice([rng.randrange(256), *b'0123456789{}[]",:\\-eE. '])
        kind = rng.randrange(7 if part is header else 4)
        if kind == 0:
            part[where] ^= 1 << rng.randrange(8)
        elif kind == 1:
            part[where] = byte
        elif kind == 2:
            part.insert(where, byte)
        elif kind == 3:
            del part[where]
        elif kind == 4:
            part[where:where] = part[where : where + rng.randrange(1, 60)]
        else:
            found = rng.choice(list(re.finditer(rb"[0-9]+|[A-Za-z_]+", part)))
            part[slice(*found.span())] = rng.choice(re.findall(rb"[0-9]+|[A-Za-z_]+", part) + [b"-1", b"1e3"])
    if rng.random() < 0.8:
        length = len(header)
    return struct.pack("<Q", length ^ (1 << rng.randrange(64) if rng.random() < 0.05 else 0)) + header + data


def test_thousands_of_damaged_files_are_read_whole_or_refused(path):
    """Whatever is read, the library reads too, and to the same bits."""
    good, rng, counts = a_file(path), random.Random(8), {"read": 0, "refused": 0, "here alone": 0}
    for _ in range(3000):
        content = damaged(good, rng)
        put(path, content)
        try:
            theirs = load_by_library(path)
        except (safetensors.SafetensorError, ValueError, AttributeError):
            theirs = None
        try:
            found = gl.load(path)
        except ValueError as error:
            assert type(error) is ValueError
            counts["refused"] += 1
            counts["here alone"] += theirs is not None
            continue
        counts["read"] += 1
        assert theirs is not None and sorted(theirs) == list(found), content
        assert sum(value.nbytes for value in found.values()) < len(content)
        for name, value in found.items():
            assert (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape)
            assert value.tobytes() == theirs[name].tobytes() and value.flags.writeable
    assert counts["read"] > 300 and counts["refused"] > 2000 and counts["here alone"] > 15, counts


# Memory


def entries(count, name="%07x"):
    return b",".join(
        b'"%s":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % (name % k).encode() for k in range(count)
    )


def heavy():
    """Headers that a general JSON parser would make a hundred megabytes or more of."""
    return {
        "empty lists": b'{"a":[' + b"[]," * 3_000_000 + b"[]]}",
        "empty lists in a field": b'{"a":{"dtype":"F32","shape":[' + b"[]," * 3_000_000 + b"[]]}}",
        "tensors without bytes": b"{" + entries(300_000) + b"}",
        "one tensor too often": b"{" + entries(30_000) + b',"0000001":' + F32.encode() + b"}",
        "texts": b'{"__metadata__":{' + b",".join(b'"%x":""' % k for k in range(1_000_000)) + b"}}",
        "a text without an end": b'{"__metadata__":{"a":"' + b"x" * 20_000_000,
        "a text of escapes": b'{"__metadata__":{"a":"' + b"\\n" * 10_000_000 + b'"}',
        "a text and then nothing": b'{"__metadata__":{"a":"' + "\u5b57".encode() * 7_000_000 + b'"}',
        "one number": b'{"a":{"dtype":"F32","shape":[' + b"9" * 9_000_000 + b'],"data_offsets":[0,8]}}',
        "blanks": b" " * 20_000_000 + b"x",
    }


# Each file is read with no more address space than its size and a little: whatever takes more, in any language, fails.
WITHIN = """
import resource, sys
from pathlib import Path
import numpy, gpulstm as gl
folder = Path(sys.argv[1])
gl.save(folder / "good", {"a": numpy.ones(3)}); gl.load(folder / "good")
def taken():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for path in sorted(folder.glob("*.bad")):
    limit = taken() + path.stat().st_size + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        gl.load(path)
        print(path.stem, "was read")
    except Exception as error:
        if type(error) is not ValueError:
            print(path.stem, type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc and limits of the address space")
def test_no_bad_file_takes_more_address_space_than_its_size(tmp_path):
    for name, header in heavy().items():
        (tmp_path / f"{name}.bad").write_bytes(file_of(header))
    for name, (content, _) in BAD.items():
        (tmp_path / f"{name}.bad").write_bytes(content)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    allowed = 40 * 2**20  # 2**16 entries of 512 bytes are free
    command = [sys.executable, "-c", WITHIN, str(tmp_path), str(allowed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_a_good_file_takes_its_size_once(path):
    gl.save(path, {"a": np.ones((1000, 1000)), "b": np.ones(10, "bool")})
    gl.load(path)
    tracemalloc.start()
    gl.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size + SMALL


def test_entries_must_have_bytes_from_a_number_on(path, monkeypatch):
    monkeypatch.setattr(safetensors_header, "ENTRIES", 10)
    arrays = {f"{k:02}": np.full(600, k, "uint8") for k in range(30)}
    gl.save(path, arrays)
    assert list(gl.load(path)) == list(arrays)
    with pytest.raises(ValueError, match="could not be read again: its header names more than 10 things"):
        gl.save(path, dict.fromkeys(arrays, np.zeros(0)))
    assert list(gl.load(path)) == list(arrays)  # the older file is there


def test_a_header_has_a_hundred_megabytes_at_most(path, monkeypatch):
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(100_000_100)
    with pytest.raises(ValueError, match="its header has 100000001 bytes, and the format allows 100000000"):
        gl.load(path)
    monkeypatch.setattr(safetensors_file, "HEADER_LIMIT", 1000)
    path.write_bytes(GOOD)
    with pytest.raises(ValueError, match="could not be read again: its header would have 1.* bytes"):
        gl.save(path, {"a": np.ones(2)}, metadata={"x": "x" * 1000})
    assert path.read_bytes() == GOOD


# Checkpoints


@pytest.mark.parametrize("case", list(BAD))
def test_a_checkpoint_is_read_with_the_same_care(path, case):
    path.write_bytes(BAD[case][0])
    with pytest.raises(ValueError, match="must be a checkpoint, and is no whole safetensors file") as error:
        load_checkpoint(path)
    assert re.search(BAD[case][1], str(error.value))


@pytest.mark.parametrize(
    "old, new",
    [
        (b'"version":"1"', b'"version":"x"'),
        (b'"version":"1"', b'"vorsion":"1"'),
        (b'"contents":', b'"contants":'),
        (b'\\"params\\"', b'\\"porams\\"'),
        (b'{\\"array\\": \\"params/a\\"}', b'{\\"array\\": \\"params/b\\"}'),
        (b'{\\"dict\\": [', b'{\\"dict\\": 3'),
        (b'{\\"dict\\": [[', b'{\\"dict\\": {['),
    ],
)
def test_damage_in_what_a_checkpoint_says_is_found(path, old, new):
    save_checkpoint(path, Checkpoint({"a": np.ones(2)}))
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ValueError, match="must be a checkpoint, and its (header is|contents are) damaged"):
        load_checkpoint(path)


def test_a_good_file_is_read(path):
    path.write_bytes(GOOD)
    assert {name: (value.dtype.name, value.shape) for name, value in gl.load(path).items()} == {
        "a": ("float32", (2,)),
        "b": ("int16", (3,)),
    }
    path.write_bytes(file_of(PAIR | {"c": tensor("BOOL", [], 14, 15)}, bytes(15)))
    assert gl.load(path)["c"].shape == ()
