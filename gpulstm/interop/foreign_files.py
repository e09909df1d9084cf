"""What a file is that somebody took for another one: told by its first bytes, without opening it any further."""

PICKLE = "a pickle, which is never unpickled here, for that can run any code; {}"
RESAVE = "load it where you trust it, and save its state dict with safetensors.torch.save_file"

_BEGINNINGS = (
    (b"\x93NUMPY", "a NumPy array; read it with numpy.load and save it with gpulstm.save"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; if Keras wrote it, gpulstm.interop.keras.from_keras reads it"),
    (b"GGUF", "a GGUF file; convert it to safetensors"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; get the file with git lfs pull"),
    (b"<", "a web page or XML; the download has failed"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    *((begin, PICKLE.format(RESAVE)) for begin in (b"(dp", b"(lp", b"(ip", b"}q", b"]q", b"ccollections\n")),
)


def what_it_is(beginning: bytes) -> str | None:
    """What a file that begins like this is, and what to do with it; None for none that is known."""
    for start, answer in _BEGINNINGS:
        if beginning.startswith(start):
            return answer
    if beginning[:1] == b"\x80" and beginning[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE.format(RESAVE)
    if beginning[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip(beginning)
    # A protobuf: field 1 is the version, a small number, and next comes a name, another version or the graph
    if (
        beginning[:1] == b"\x08"
        and len(beginning) > 2
        and beginning[1] < 32
        and beginning[2] in b"\x12\x1a\x22\x28\x32\x3aB"
    ):
        return "probably an ONNX model; gpulstm.interop.onnx.from_onnx reads one"
    return None


def _zip(beginning: bytes) -> str:
    """The kind of a zip archive by its first member: bytes 26 and 27 have the length of the name at byte 30."""
    first = beginning[30 : 30 + int.from_bytes(beginning[26:28], "little")]
    if first.endswith(b".pkl"):
        return "an archive of torch.save with " + PICKLE.format(RESAVE)
    if first.endswith(b".npy"):
        return "an .npz archive of NumPy; read it with numpy.load and save its arrays with gpulstm.save"
    if first in (b"metadata.json", b"config.json", b"model.weights.h5"):
        return "a .keras archive; gpulstm.interop.keras.from_keras reads one"
    return "a zip archive; unpack it"
