"""gl.save and gl.load: the same bits come back, in every library, and PyTorch's users share the files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import array_api_strict
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import gpulstm as gl
from gpulstm import arrays
from gpulstm.interop.safetensors import load_metadata
from gpulstm.training import Checkpoint, load_checkpoint, save_checkpoint
from tests import backends
from tests.training_problems import Recurrent, assert_same_bits

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = backends.ALL
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *INTEGERS, "float16", "float32", "float64", ml_dtypes.bfloat16)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def bits(value):
    """What must come back: dtype, shape and every byte. NaN with its payload, and -0.0, are values like others."""
    return value.dtype.newbyteorder("="), value.shape, value.astype(value.dtype.newbyteorder("=")).tobytes()


def assert_comes_back(path, given):
    found = gl.load(path)
    assert list(found) == sorted(given)
    for name, value in found.items():
        assert bits(value) == bits(given[name]), name
        assert type(value) is np.ndarray and value.flags.writeable and value.flags.c_contiguous
        value[...] = 0  # and no other array sees it
    return found


# NumPy


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_arrays_of_any_strides_and_byte_orders_come_back(path, dtype):
    dtype = np.dtype(dtype)
    raw = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 256, 4 * 6 * dtype.itemsize, dtype="uint8")
    a = raw.view(dtype).reshape(4, 6)
    given = {"plain": a, "transposed": a.T, "reversed": a[::-1], "every other": a[:, ::2], "both": a[::-2, ::-1].T}
    given |= {"fortran": np.asfortranarray(a), "scalar": a[1, 2:3].reshape(()), "none": a[:0], "no rows": a[:, :0].T}
    given |= {"spread": np.broadcast_to(a[0], (3, 6)), "permuted": a.reshape(2, 2, 6).transpose(2, 0, 1)}
    if dtype.kind != "V" and dtype.name != "bfloat16":
        given["big-endian"] = a.astype(dtype.newbyteorder(">"))
        given["big-endian, transposed"] = a.astype(dtype.newbyteorder(">")).T
    gl.save(path, given)
    assert_comes_back(path, given)
    theirs = safetensors.numpy.load_file(path)
    assert {name: bits(value) for name, value in theirs.items()} == {name: bits(value) for name, value in given.items()}


def test_every_value_of_the_half_precisions_comes_back(path):
    every = np.arange(2**16, dtype="uint16")
    given = {"half": every.view("float16"), "brain": every.view(ml_dtypes.bfloat16)}
    gl.save(path, given)
    assert_comes_back(path, given)


def test_names_and_texts_of_any_letters_come_back(path):
    given = {name: np.array(k) for k, name in enumerate(("", "a.b", "é", "字", '"}{\\', "\n\t\0", "😀", " a", "dtype"))}
    texts = {"format": "pt", "": "", "字": "😀\n", "a\\u0041": '{"b": "\\"}', "x": "}" * 99}
    gl.save(path, given, metadata=texts)
    assert_comes_back(path, given)
    assert load_metadata(path) == texts
    gl.save(str(path), {})
    assert gl.load(str(path)) == {} and load_metadata(path) == {}


def test_arrays_are_aligned_and_their_own(path):
    gl.save(path, {"flag": np.array([True]), "double": np.ones(3), "single": np.ones(3, "float32")})
    assert all(value.flags.aligned and value.flags.owndata for value in gl.load(path).values())


def test_bfloat16_without_ml_dtypes(path, monkeypatch):
    gl.save(path, {"w": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert gl.load(path, torch)["w"].tolist() == [1.5, -2.0]
    with pytest.raises(ValueError, match="model.safetensors: 'w' is bfloat16, .* through the package ml_dtypes"):
        gl.load(path)
    with pytest.raises(ValueError, match=r"params\['w'\] is bfloat16, .* pip install ml_dtypes"):
        gl.save(path, {"w": torch.ones(2, dtype=torch.bfloat16)})


# Other libraries


def test_arrays_of_each_library_go_in_and_come_out(path, backend):
    rng = np.random.default_rng(2)
    given = {
        "a": rng.normal(size=(3, 5)),
        "b": rng.normal(size=4).astype("float32"),
        "n": np.arange(6),
        "s": np.array(2.5),
    }
    gl.save(path, backend.array(given))
    found = gl.load(path, backend.xp)
    for name, value in found.items():
        assert type(value) is type(backend.array(given[name]))
        assert bits(backend.numpy(value)) == bits(given[name])


def test_transposed_arrays_of_each_library(path, backend):
    a = np.arange(12, dtype="float32").reshape(3, 4)
    gl.save(path, {"t": backend.array(a).T, "r": backend.array(a)[::-1, :], "e": backend.array(a)[:, ::2]})
    assert_comes_back(path, {"t": a.T, "r": a[::-1], "e": a[:, ::2]})


TORCH_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
TORCH_DTYPES += ("uint16", "uint32", "uint64")


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_pytorch_reads_ours_and_we_read_theirs(path, dtype):
    kind = getattr(torch, dtype)
    raw = torch.randint(0, 2 if dtype == "bool" else 256, (24 * kind.itemsize,), dtype=torch.uint8)
    a = raw.view(kind).reshape(4, 6)
    given = {"plain": a, "transposed": a.T, "every other": a[:, ::2], "scalar": a[1, 2], "none": a[:0]}
    gl.save(path, given)
    contiguous = {name: value.clone(memory_format=torch.contiguous_format) for name, value in given.items()}

    def same(found):
        assert found.keys() == given.keys()
        for name, value in contiguous.items():
            assert found[name].dtype == kind and found[name].shape == value.shape
            assert torch.equal(found[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8)), name

    same(safetensors.torch.load_file(path))
    safetensors.torch.save_file(contiguous, path, metadata={"format": "pt"})
    found = gl.load(path, torch)
    same(found)
    found["plain"][...] = 0  # they can be written to, and no warning came
    assert load_metadata(path) == {"format": "pt"}


def test_one_file_has_arrays_of_all_libraries(path):
    a = np.arange(6, dtype="float32").reshape(2, 3)
    gl.save(
        path,
        {"numpy": a, "torch": torch.asarray(a), "jax": jax.numpy.asarray(a), "strict": array_api_strict.asarray(a)},
    )
    assert_comes_back(path, dict.fromkeys(("jax", "numpy", "strict", "torch"), a))


def test_jax_has_its_own_bfloat16_and_no_silent_float32(path):
    a = jax.numpy.arange(6, dtype="bfloat16").reshape(2, 3).T
    gl.save(path, {"a": a})
    found = gl.load(path, jax.numpy)["a"]
    assert isinstance(found, jax.Array) and found.dtype == a.dtype and (found == a).all()
    for dtype, instead in (("float64", "float32"), ("int64", "int32"), ("uint64", "uint32")):
        gl.save(path, {"fine": np.ones(2, "float32"), "w": np.ones(2, dtype)})
        expected = f"'w' is {dtype}, and .*jax.* would make it {instead}; nothing is cast silently: .*jax_enable_x64"
        with pytest.raises(ValueError, match=expected):
            gl.load(path, jax.numpy)
    with jax.enable_x64(True):
        assert gl.load(path, jax.numpy)["w"].dtype == "uint64"


def test_a_library_without_the_dtype_says_so(path):
    gl.save(path, {"w": np.ones(2, "float16")})
    with pytest.raises(ValueError, match="'w' is float16, which array_api_strict does not have; load it with xp=numpy"):
        gl.load(path, array_api_strict)
    with pytest.raises(TypeError, match="xp must be a module such as numpy, cupy or torch, got 'torch'"):
        gl.load(path, "torch")


# Models


@pytest.mark.parametrize("options", [{}, {"proj_size": 2, "num_layers": 2}, {"peephole": True, "layer_norm": True}])
def test_an_lstm_comes_back(path, backend, options):
    lstm, other = (gl.LSTM(3, 4, bidirectional=True, **options, xp=backend.xp, rng=seed) for seed in (0, 1))
    gl.save(path, lstm.params)
    other.load_state_dict(gl.load(path))
    assert_same_bits(backend.numpy(other.params), backend.numpy(lstm.params))
    of_file = gl.LSTM.from_torch(gl.load(path, backend.xp), xp=backend.xp)
    assert_same_bits(backend.numpy(of_file.params), backend.numpy(lstm.params))


def test_a_model_of_layers_comes_back(path, backend):
    def model(seed):
        layers = (gl.nn.LayerNorm(3, xp=backend.xp), gl.LSTM(3, 4, xp=backend.xp, rng=seed))
        inner = gl.nn.Sequential(gl.nn.Linear(4, 2, xp=backend.xp, rng=seed), gl.nn.Dropout(0.5))
        return gl.nn.Sequential(*layers, inner)

    first, second = model(0), model(5)
    gl.save(path, first.params)
    assert list(gl.load(path)) == sorted(first.params) and "2.0.weight" in gl.load(path)
    second.load_state_dict(gl.load(path))
    assert_same_bits(backend.numpy(dict(second.params)), backend.numpy(dict(first.params)))


def test_dicts_in_dicts_become_names_with_dots(path):
    model = Recurrent()
    gl.save(path, model.params)
    found = gl.load(path)
    assert "lstm.weight_hh_l1" in found and "head.bias" in found and len(found) == 8
    of_lstm = {name.removeprefix("lstm."): value for name, value in found.items() if name.startswith("lstm.")}
    assert_same_bits(gl.LSTM.from_torch(of_lstm).params, model.lstm.params)
    with pytest.raises(ValueError, match=r"params\['a.b'\] must have a name of its own, and 'a.b' is in params twice"):
        gl.save(path, {"a": {"b": np.ones(2)}, "a.b": np.ones(2)})


def test_a_pytorch_lstm_comes_over_and_goes_back(path):
    torch.manual_seed(3)
    theirs = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    safetensors.torch.save_file(theirs.state_dict(), path)
    x = np.random.default_rng(0).normal(size=(7, 2, 3)).astype("float32")
    ours = gl.LSTM.from_torch(gl.load(path))
    with torch.no_grad():
        expected, (h, c) = theirs(torch.asarray(x))
    y, state = ours(x)
    # float32 sums of at most 10 + 5 products, whose order differs: some units in the last place, through 7 steps
    for found, wanted in ((y, expected), (state.h, h), (state.c, c)):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)

    gl.save(path, theirs.state_dict())  # the tensors as they are
    again = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    again.load_state_dict(safetensors.torch.load_file(path))
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    gl.save(path, dict(theirs.named_parameters()))  # which require gradients
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in gl.load(path, torch).items())


# What cannot be saved


@pytest.mark.parametrize(
    "params, error, words",
    [
        (
            {"w": np.ma.masked_array([1.0, 2.0], [0, 1])},
            TypeError,
            r"params\['w'\] must be a plain array, got a masked",
        ),
        (
            {"w": np.array([None])},
            TypeError,
            r"params\['w'\] must have one of the dtypes .* got object; nothing is pickled",
        ),
        ({"w": np.ones(2, "complex64")}, TypeError, r"params\['w'\] .* got complex64; save the real and the imaginary"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, TypeError, r"params\['w'\] .* got complex64; save the real"),
        ({"w": np.ones(2, np.longdouble)}, TypeError, r"params\['w'\] .* got (longdouble|float\d+); nothing is cast"),
        ({"w": np.array(["a"])}, TypeError, r"params\['w'\] must have one of the dtypes .* got str"),
        ({"w": np.ones(2, [("a", "f4")])}, TypeError, r"params\['w'\] must have one of the dtypes .* got void"),
        ({"w": np.ones(2, "M8[s]")}, TypeError, r"params\['w'\] must have one of the dtypes .* got datetime64"),
        ({"w": np.ones(2, ml_dtypes.float8_e5m2)}, TypeError, r"params\['w'\] .* got float8_e5m2"),
        ({"a": {"w": [1.0]}}, TypeError, r"params\['a'\]\['w'\] must be an array .* got list; numpy.asarray"),
        ({"w": 3.0}, TypeError, r"params\['w'\] must be an array .* got float"),
        ({"w": None}, TypeError, r"params\['w'\] must be an array .* got NoneType"),
        (
            {"w": torch.ones(2, 2).to_sparse()},
            TypeError,
            r"params\['w'\] must be an array that NumPy can read, got a torch",
        ),
        ({"w": torch.ones(2, device="meta")}, TypeError, r"params\['w'\] must be an array that NumPy can read"),
        ({3: np.ones(2)}, TypeError, "params must have strings as names, got 3 in params"),
        ({"__metadata__": np.ones(2)}, ValueError, r"params\['__metadata__'\] must have another name"),
        ({"\ud800": np.ones(2)}, ValueError, "the name .* in params must be a text that UTF-8 can hold"),
        ([np.ones(2)], TypeError, "params must be a dict of arrays, such as lstm.params, got list"),
        (gl.LSTM(2, 3), TypeError, "params must be a dict of arrays, such as lstm.params, got LSTM"),
    ],
)
def test_what_cannot_be_saved_is_named_and_the_file_stays(path, params, error, words):
    path.write_bytes(b"before")
    with pytest.raises(error, match=words):
        gl.save(path, {"first": np.ones(2)} | params if isinstance(params, dict) else params)
    assert path.read_bytes() == b"before" and os.listdir(path.parent) == [path.name]


def test_an_array_on_a_device_that_numpy_cannot_read_is_named(path):
    far = array_api_strict.asarray([1.0, 2.0], device=array_api_strict.Device("device1"))
    with pytest.raises(TypeError, match=r"params\['w'\] must be an array that NumPy can read, got a array_api_strict"):
        gl.save(path, {"w": far})


@pytest.mark.parametrize(
    "metadata, words",
    [
        ({"a": 3}, "metadata must have strings as names and values, got 'a': 3"),
        ({3: "a"}, "metadata must have strings as names and values, got 3: 'a'"),
        ("pt", "metadata must be a dict of strings or None, got str"),
    ],
)
def test_metadata_are_strings(path, metadata, words):
    with pytest.raises(TypeError, match=words):
        gl.save(path, {"w": np.ones(2)}, metadata=metadata)
    with pytest.raises(ValueError, match="must be a text that UTF-8 can hold"):
        gl.save(path, {"w": np.ones(2)}, metadata={"a": "\udc00"})
    assert not path.exists()


def test_where_a_file_cannot_be(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere of the file a.b does not exist; make it first"):
        gl.save(tmp_path / "nowhere" / "a.b", {})
    with pytest.raises(IsADirectoryError, match="path must name a file, such as .*got the folder"):
        gl.save(tmp_path, {})
    with pytest.raises(TypeError, match="path must be a string or a path, got int"):
        gl.save(3, {})


# Whole or not at all


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    gl.save(path, {"a": np.ones(2)})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        gl.save(path, {"a": np.zeros(200)})
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


KILLED = """
import os, signal, sys, numpy, gpulstm as gl
os.{call} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
gl.save(sys.argv[1], {{"a": numpy.zeros(200)}})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_killed_writer_leaves_the_old_file_and_the_next_one_clears_up(path, call):
    gl.save(path, {"a": np.ones(2)})
    before = path.read_bytes()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED.format(call=call), str(path)], env=environment)
    assert done.returncode == -signal.SIGKILL
    left = sorted(os.listdir(path.parent))
    assert path.read_bytes() == before and len(left) == 2 and left[0].startswith(".model.safetensors.part-")
    gl.save(path, {"a": np.full(3, 2.0)})
    assert os.listdir(path.parent) == [path.name] and gl.load(path)["a"].tolist() == [2.0, 2.0, 2.0]


def test_an_array_may_be_saved_over_the_file_that_it_came_from(path):
    gl.save(path, {"a": np.arange(5.0)})
    theirs = safetensors.torch.load_file(path)  # a view of the file
    gl.save(path, {"a": theirs["a"].flip(0), "b": theirs["a"]})
    assert_comes_back(path, {"a": np.arange(5.0)[::-1], "b": np.arange(5.0)})


# Checkpoints


def test_a_checkpoint_keeps_bfloat16(path):
    given = {"torch": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16).T, "jax": jax.numpy.ones(3, "bfloat16")}
    save_checkpoint(path, Checkpoint(given))
    for name, value in load_checkpoint(path).params.items():
        assert value.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(
            value.astype("float32"),
            arrays.to_numpy(given[name].astype("float32") if name == "jax" else given[name].float()),
        )


def test_a_checkpoint_is_a_file_that_load_reads(path):
    save_checkpoint(path, Checkpoint({"w": np.ones(2)}, [np.arange(4)]))
    assert list(gl.load(path)) == ["optimiser/0", "params/w"]
    assert load_metadata(path)["format"] == "gpulstm checkpoint"
