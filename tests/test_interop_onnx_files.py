"""Files that nobody should trust: each ends in a ValueError with a reason, and none in memory that its size does not
account for."""

import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import gpulstm as gl
from gpulstm.interop.onnx import from_onnx, to_onnx
from tests import problems
from tests.onnx_cases import case, node, stored_model
from tests.onnx_hostile import ALLOWANCE, graph_with, refused


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil", "data")
    return file.getvalue()


class TestWholeFiles:
    @pytest.mark.parametrize(
        "data, says",
        [
            (b"", "got 0 bytes without a graph"),
            (b"\x00" * 100, "must be an ONNX model"),
            (b"hello, world", "must be an ONNX model"),
            (bytes(range(256)) * 40, "must be an ONNX model"),
            (pickle.dumps({"weight": [1.0]}), "must be an ONNX model, got a pickle; nothing in it was run"),
            (zipped(), "must be an ONNX model, got a zip archive"),
            (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "must be an ONNX model, got an HDF5 file"),
        ],
        ids=["empty", "zeros", "text", "bytes", "pickle", "zip", "hdf5"],
    )
    def test_of_another_kind(self, data, says, tmp_path):
        refused(data, says)
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="model.onnx must be an ONNX model"):
            from_onnx(path)

    def test_truncated_anywhere(self):
        data = to_onnx(gl.LSTM(4, 3, 2, rng=0)).SerializeToString()
        for length in range(0, len(data) - 1, 37):
            with pytest.raises(ValueError):
                from_onnx(data[:length])

    def test_names_that_are_no_text(self):
        data = stored_model(case(), name="unmistakable").SerializeToString()
        refused(data.replace(b"unmistakable", b"unmist\xff\xfeable"), "text|utf-8")

    def test_arguments_that_are_no_file(self, tmp_path):
        with pytest.raises(TypeError, match="model must be a path, bytes or an onnx.ModelProto, got int"):
            from_onnx(3)
        with pytest.raises(FileNotFoundError):
            from_onnx(tmp_path / "missing.onnx")

    @pytest.mark.parametrize("start", range(4))
    def test_flipped_bits(self, start):
        """All that may come out is an LSTM or a ValueError."""
        options = {"num_layers": 2, "bidirectional": start % 2 == 1, "batch_first": start > 1}
        activations = (("hard_sigmoid", 0.3, 0.4), "tanh", "relu")
        lstm = gl.LSTM(3, 2, **options, peephole=True, activations=activations, rng=0)
        whole = to_onnx(lstm, state=True, lengths=True).SerializeToString()
        rng = np.random.default_rng(start)
        outcomes = []
        tracemalloc.start()
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), size=rng.integers(1, 4)):
                data[place] ^= 1 << rng.integers(8)
            try:
                outcomes.append(type(from_onnx(bytes(data), with_state=True)))
            except ValueError as error:
                outcomes.append(type(error))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * len(whole) + ALLOWANCE
        assert tuple in outcomes and ValueError in outcomes


def broken(change) -> bytes:
    """A sound model whose tensor W is changed."""
    model = stored_model(case(dtype="float32"))
    change(model.graph.initializer[0])
    return model.SerializeToString()


def dims(*sizes):
    def change(tensor):
        tensor.dims[:] = sizes

    return change


def field(**values):
    def change(tensor):
        tensor.ClearField("raw_data")
        for name, each in values.items():
            if isinstance(each, list):
                getattr(tensor, name).extend(each)
            else:
                setattr(tensor, name, each)

    return change


class TestTensors:
    @pytest.mark.parametrize(
        "change, says",
        [
            (dims(1, 8, 5), r"tensor 'W' must have 160 bytes for dims \(1, 8, 5\) of float32, got 128"),
            (dims(1, 8, -4), "at most 32 axes, none of them negative"),
            (dims(-1, -8, 4), "at most 32 axes, none of them negative"),
            (dims(1 << 40, 1 << 40, 1), "must have 4835703278458516698824704 bytes"),
            (dims(1 << 62, 4, 2), "must have .* bytes"),
            (dims(*[1] * 33), "at most 32 axes"),
            (dims(), "must have 4 bytes"),
            (field(), r"must have 32 elements for dims \(1, 8, 4\), got 0"),
            (field(float_data=[1.0] * 31), "must have 32 elements .*, got 31"),
            (field(data_type=TensorProto.FLOAT16, int32_data=[1 << 20] * 32), "elements of 16 bits, got more"),
            (field(data_type=TensorProto.STRING, string_data=[b"x"] * 32), "must be one of float32, .* got STRING"),
            (field(data_type=TensorProto.INT8, int32_data=[1] * 32), "must be one of float32, .* got INT8"),
            (field(data_type=TensorProto.INT64, int64_data=[1] * 32), "must be floating-point numbers, got W int64"),
            (field(data_type=77), "must be one of float32, .* got type 77"),
            (lambda tensor: tensor.segment.MergeFrom(TensorProto.Segment(begin=0, end=4)), "stored in one piece"),
        ],
    )
    def test_that_contradict_themselves(self, change, says):
        refused(broken(change), says)

    @pytest.mark.parametrize("dtype, name", [("float32", "float_data"), ("float64", "double_data")])
    def test_values_in_fields_of_their_own(self, dtype, name):
        given = case(dtype=dtype)
        model = stored_model(given)
        wanted = from_onnx(model)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor).reshape(-1)
            tensor.ClearField("raw_data")
            getattr(tensor, name).extend(values.tolist())
        problems.assert_same_bits(from_onnx(model).params, wanted.params)

    @pytest.mark.parametrize(
        "name, shape",
        [("W", (1, 12, 4)), ("R", (1, 8, 3)), ("B", (1, 8)), ("P", (2, 6)), ("W", (8, 4)), ("R", (1, 0, 2))],
    )
    def test_shapes_that_disagree(self, name, shape):
        given = case(dtype="float32")
        given.inputs[name] = np.zeros(shape, "float32")
        refused(
            stored_model(given).SerializeToString(), f"{name} .*got .*{shape}".replace("(", r"\(").replace(")", r"\)")
        )

    def test_weights_that_are_inputs(self):
        refused(case().model.SerializeToString(), "W must be stored in the model, and 'W' is an input of the graph")

    def test_weights_that_are_nowhere(self):
        model = stored_model(case())
        del model.graph.initializer[1]
        refused(model.SerializeToString(), "R must be stored in the model, and 'R' is not in the file")

    def test_weights_behind_another_operator(self):
        model = stored_model(case(dtype="float32"))
        model.graph.initializer[0].name = "quantised"
        model.graph.node.add(op_type="DequantizeLinear", input=["quantised"], output=["W"], name="scales")
        refused(model.SerializeToString(), "W must be stored in the model, and DequantizeLinear node 'scales'")


class TestExternalData:
    def written(self, folder: Path, location: str = "data/weights", **entries) -> tuple[Path, gl.LSTM]:
        """A model whose W lies in another file."""
        given = case(dtype="float32")
        model = stored_model(given)
        wanted = from_onnx(model)
        tensor = model.graph.initializer[0]
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, each in {"location": location, "offset": "16", "length": str(len(data)), **entries}.items():
            if each is not None:
                tensor.external_data.add(key=key, value=each)
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "weights").write_bytes(b"\xff" * 16 + data)
        (folder.parent / "outside").write_bytes(b"\xff" * 16 + data)
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path, wanted

    @pytest.mark.parametrize("location", ["data/weights", "./data/weights"])
    @pytest.mark.parametrize("length", ["128", None])
    def test_inside_the_models_folder(self, tmp_path, monkeypatch, location, length):
        path, wanted = self.written(tmp_path / "model", location, length=length)
        problems.assert_same_bits(from_onnx(path).params, wanted.params)
        monkeypatch.chdir(path.parent)
        problems.assert_same_bits(from_onnx("model.onnx").params, wanted.params)
        problems.assert_same_bits(from_onnx(onnx.load(path)).params, wanted.params)

    @pytest.mark.parametrize(
        "location",
        ["../outside", "data/../../outside", "/etc/passwd", "C:\\outside", "\\outside", "..\\outside", "", "a\0b"],
    )
    def test_outside_of_it(self, tmp_path, location):
        path, _ = self.written(tmp_path / "model", location)
        refused(path, "tensor 'W' must lie in a file inside the model's folder, got location")

    @pytest.mark.skipif(os.name == "nt", reason="links need rights there that tests do not have")
    def test_links(self, tmp_path):
        path, wanted = self.written(tmp_path / "model", "link/weights")
        link = path.parent / "link"
        link.symlink_to(tmp_path)
        (tmp_path / "weights").write_bytes((tmp_path / "outside").read_bytes())
        refused(path, "must lie inside the model's folder, got the link 'link/weights' that leads out")
        link.unlink()
        link.symlink_to(path.parent / "data")
        problems.assert_same_bits(from_onnx(path).params, wanted.params)
        link.unlink()
        link.symlink_to(link)
        refused(path, "lies in the file 'link/weights', which cannot be read")

    @pytest.mark.skipif(os.name == "nt", reason="there are no such files there")
    def test_what_is_no_regular_file(self, tmp_path):
        path, _ = self.written(tmp_path / "model", "pipe")
        os.mkfifo(path.parent / "pipe")
        refused(path, "must lie in a regular file, got 'pipe'")
        path, _ = self.written(tmp_path / "other", "data")
        refused(path, "must lie in a regular file, got 'data'")

    @pytest.mark.parametrize(
        "entries, says",
        [
            ({"offset": "17"}, "must lie within 'data/weights', which has 144 bytes, got offset 17 and 128 bytes"),
            ({"offset": "9" * 19}, "must lie within"),
            ({"offset": "9" * 30}, "a whole number of bytes for offset"),
            ({"offset": "-16"}, "a whole number of bytes for offset, got '-16'"),
            ({"offset": "1e1"}, "a whole number of bytes for offset, got '1e1'"),
            ({"length": "64"}, "must have 128 bytes for dims .*, got length 64"),
            ({"length": str(1 << 60)}, "must have 128 bytes for dims .*, got length 1152921504606846976"),
            ({"location": "missing"}, "lies in the file 'missing', which cannot be read"),
            ({"location": "n" * 5000}, "which cannot be read"),
        ],
    )
    def test_that_are_not_there(self, tmp_path, entries, says):
        path, _ = self.written(tmp_path / "model", **entries)
        refused(path, says)

    def test_dims_that_the_file_does_not_fill(self, tmp_path):
        path, _ = self.written(tmp_path / "model", length=None)
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].dims[:] = [1, 1 << 20, 1 << 20]
        path.write_bytes(model.SerializeToString())
        refused(path, "must lie within 'data/weights', which has 144 bytes")

    def test_without_a_path(self, tmp_path):
        path, _ = self.written(tmp_path / "model")
        refused(path.read_bytes(), "lies in the file 'data/weights' beside the model; pass the model's path")


HOSTILE = """
import resource, sys
from pathlib import Path
from gpulstm.interop.onnx import from_onnx, to_onnx
import gpulstm as gl

from_onnx(to_onnx(gl.LSTM(3, 2)))  # whatever is allocated once
now = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + 48 * 2**20,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        from_onnx(path)
        print(path.name, "loaded")
    except ValueError:
        print(path.name, "ValueError")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of a process as Linux does")
def test_hostile_files_within_48_megabytes(tmp_path):
    """What tracemalloc does not see: protobuf's own memory, and NumPy's before it is touched."""
    huge = {"one": np.ones((1, 1, 1), "float32"), "huge": np.array([1 << 12, 1 << 12, 1 << 6])}
    files = {
        "dims": broken(dims(1, 1 << 14, 1 << 14)),
        "expand": graph_with([node("Expand", ["one", "huge"], ["W"])], huge),
        "shape": graph_with([node("ConstantOfShape", ["huge"], ["W"])], huge),
        # A message that says it is two gigabytes long, and a field of as many elements.
        "length": b"\x3a\xff\xff\xff\xff\x07" + b"\0" * 64,
        "packed": b"\x3a\x10\x2a\x0e\x22\xff\xff\xff\xff\x07" + b"\0" * 8,
        "nested": b"\x3a\x7f" * 4000,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    environment = os.environ | {"PYTHONPATH": str(Path(gl.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:-1] == [f"{name} ValueError" for name in sorted(files)], done.stderr


def test_a_large_file_takes_a_few_times_its_size():
    """Weights of eight megabytes: the file, its parsed form, and the parameters."""
    given = case(dtype="float32", sizes=(2, 2, 256, 512), absent=("sequence_lens", "initial_h", "initial_c"))
    data = stored_model(given).SerializeToString()
    tracemalloc.start()
    lstm = from_onnx(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lstm.layout.hidden_size == 512
    assert peak < 6 * len(data)
