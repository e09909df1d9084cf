"""Keras' files, good and bad, as bytes; and what has to happen to a bad one."""

import io
import json
import re
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from gpulstm.interop.keras import from_keras

CELL = "layers/lstm/cell/vars"
LSTM = {"name": "lstm", "units": 5, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
MODEL = {"class_name": "Sequential", "config": {"name": "s", "layers": [{"class_name": "LSTM", "config": LSTM}]}}
SHAPES = {"0": (4, 20), "1": (5, 20), "2": (20,)}


def hdf5(change=None, legacy=False) -> bytes:
    """The bytes of a good file of weights, or of what ``change`` makes of it through h5py."""
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    with h5py.File(buffer, "w") as file:
        if legacy:
            file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(MODEL), "3.0.0"
            for name, shape in zip(("kernel", "recurrent_kernel", "bias"), SHAPES.values(), strict=True):
                file[f"model_weights/lstm/lstm/lstm_cell/{name}"] = rng.normal(size=shape).astype("float32")
        else:
            file.create_group("layers/lstm/vars").attrs["name"] = "lstm"
            for name, shape in SHAPES.items():
                file[f"{CELL}/{name}"] = rng.normal(size=shape).astype("float32")
            file["optimizer/vars/0"] = np.int64(3)
        if change:
            change(file)
    return buffer.getvalue()


def archive(members=None, *, good=True, **options) -> bytes:
    """The bytes of a .keras file; ``members`` are pairs of name or ZipInfo and contents, put in after the good ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as file:
        if good:
            file.writestr("metadata.json", '{"keras_version": "3.0.0"}')
            file.writestr("config.json", json.dumps(MODEL))
            file.writestr("model.weights.h5", hdf5())
        for name, contents in members or ():
            file.writestr(name, contents)
    return buffer.getvalue()


def loaded(tmp_path, raw: bytes, name="model.keras"):
    (tmp_path / name).write_bytes(raw)
    return from_keras(tmp_path / name)


def refused(tmp_path, raw: bytes, *wanted: str, name="model.keras", factor=3, floor=2**17) -> None:
    """One ValueError that names the file and the reason, having used ``factor`` times its size at the most."""
    (tmp_path / name).write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="(?s)" + ".*".join((re.escape(name), *wanted))):
            from_keras(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < factor * len(raw) + floor + LIBRARIES, f"{peak} bytes for a file of {len(raw)}"


LIBRARIES = 2**19  # zipfile's objects, a file's buffer of 2**18 for the end of a zip archive, pytest's own
