"""The LSTM layer and the cell as objects: parameters, gates, loading, PyTorch's modules, printing."""

import copy
import pickle
import subprocess
import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import arrays, config
from tests import problems
from tests.cuda_on_cpu import cupy_on_cpu

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}  # some 100 roundings of values up to 1
GATES = ("input", "forget", "candidate", "output")
LAYOUTS = {
    "one": {},
    "three layers": {"num_layers": 3},
    "two directions": {"num_layers": 2, "bidirectional": True},
    "no bias": {"num_layers": 2, "bidirectional": True, "bias": False},
    "projection": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "dropout": {"num_layers": 2, "dropout": 0.25},
}


class TestParameters:
    def test_names_shapes_and_dtypes(self, backend):
        lstm = gl.LSTM(5, 3, 2, bidirectional=True, dtype="float64", xp=backend.xp, rng=0)
        expected = {}
        for suffix, inputs in {"_l0": 5, "_l0_reverse": 5, "_l1": 6, "_l1_reverse": 6}.items():
            expected |= {"weight_ih" + suffix: (12, inputs), "weight_hh" + suffix: (12, 3), "bias" + suffix: (12,)}
        assert {name: tuple(p.shape) for name, p in lstm.params.items()} == expected
        assert {arrays.dtype_name(p) for p in lstm.params.values()} == {"float64"}

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_names_are_pytorchs_with_one_bias(self, layout):
        theirs = torch.nn.LSTM(5, 3, **LAYOUTS[layout]).state_dict()
        expected = {k.replace("bias_ih", "bias"): tuple(v.shape) for k, v in theirs.items() if "bias_hh" not in k}
        assert {k: p.shape for k, p in gl.LSTM(5, 3, **LAYOUTS[layout]).params.items()} == expected

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_one_seed_gives_one_set_of_parameters_everywhere(self, backend, dtype):
        ours = gl.LSTM(5, 3, 2, dtype=dtype, rng=7).params
        theirs = gl.LSTM(5, 3, 2, dtype=dtype, xp=backend.xp, rng=7).params
        problems.assert_same_bits(backend.numpy(theirs), ours)

    def test_seeds_generators_and_fresh_entropy(self):
        def weight(rng):
            return gl.LSTM(5, 3, rng=rng).params["weight_ih_l0"]

        np.testing.assert_array_equal(weight(1), weight(np.random.default_rng(1)))
        assert (weight(1) != weight(2)).all() and (weight(None) != weight(None)).all()
        both = np.random.default_rng(1)
        assert (weight(both) != weight(both)).all(), "a generator goes on where it was"

    def test_they_begin_uniform_within_one_over_root_hidden(self):
        values = np.concatenate([p.ravel() for p in gl.LSTM(100, 64, 2, rng=0, dtype="float64").params.values()])
        bound = 1 / 8
        assert np.abs(values).max() < bound
        # A uniform distribution's standard deviation is bound / sqrt(3); that of 75000 samples is within 1 %.
        np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.01)

    @pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), torch.float32, jnp.float32], ids=str)
    def test_a_dtype_may_be_given_in_any_librarys_words(self, dtype):
        assert gl.LSTM(2, 3, dtype=dtype).params["bias_l0"].dtype == np.float32

    def test_other_libraries_by_their_plain_module(self):
        assert isinstance(gl.LSTM(2, 3, xp=torch).params["bias_l0"], torch.Tensor)
        assert isinstance(gl.LSTM(2, 3, xp=jnp).params["bias_l0"], type(jnp.zeros(1)))
        assert gl.LSTM(2, 3, xp=torch, dtype="bfloat16").params["bias_l0"].dtype == torch.bfloat16

    def test_numpy_integers_are_sizes(self):
        assert gl.LSTM(np.int64(2), np.uint8(3)).params["weight_ih_l0"].shape == (12, 2)


class TestGate:
    """gate() is the textbook's view: weight @ [h, x] + bias is that gate's pre-activation."""

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_it_gives_the_same_preactivation(self, backend, layout):
        options = LAYOUTS[layout]
        lstm = gl.LSTM(5, 3, **options, dtype="float64", xp=backend.xp, rng=0)
        params = backend.numpy(lstm.params)
        rng = np.random.default_rng(1)
        for layer in range(options.get("num_layers", 1)):
            for reverse in (False, True)[: 1 + options.get("bidirectional", False)]:
                suffix = f"_l{layer}" + "_reverse" * reverse
                width = options.get("proj_size", 3)
                x, h = rng.normal(size=params["weight_ih" + suffix].shape[1]), rng.normal(size=width)
                a = params["weight_ih" + suffix] @ x + params["weight_hh" + suffix] @ h
                a = a + params.get("bias" + suffix, 0)
                for number, name in enumerate(GATES):
                    gate = lstm.gate(name, layer, reverse=reverse)
                    weight, bias = backend.numpy((gate.weight, gate.bias))
                    assert weight.shape == (3, width + len(x)) and bias.shape == (3,)
                    assert weight.dtype == bias.dtype == np.float64
                    found = weight @ np.concatenate([h, x]) + bias
                    np.testing.assert_allclose(found, a[3 * number : 3 * number + 3], rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("bias", [True, False])
    def test_it_is_a_copy(self, bias):
        lstm = gl.LSTM(5, 3, bias=bias, rng=0)
        before = {name: p.tobytes() for name, p in lstm.params.items()}
        for part in lstm.gate("forget"):
            part[...] = 99.0
        assert {name: p.tobytes() for name, p in lstm.params.items()} == before


# The forms in which a parameter's values may come, each from a float32 NumPy array.
VALUES = {
    "torch, requires grad": lambda a: torch.nn.Parameter(torch.tensor(a)),
    "torch, bfloat16": lambda a: torch.tensor(a).bfloat16(),
    "torch, float16": lambda a: torch.tensor(a).half(),
    "torch, strided": lambda a: torch.tensor(np.repeat(a, 2, axis=0))[::2],
    "jax": jnp.asarray,
    "jax, bfloat16": lambda a: jnp.asarray(a, dtype=jnp.bfloat16),
    "numpy, bfloat16": lambda a: a.astype(ml_dtypes.bfloat16),
    "numpy, Fortran": np.asfortranarray,
    "numpy, other byte order": lambda a: a.astype(">f4"),
}


def torch_module(**options) -> torch.nn.LSTM:
    torch.manual_seed(0)
    return torch.nn.LSTM(5, 3, **options)


class TestLoading:
    def test_our_own_names(self, backend):
        source = gl.LSTM(5, 3, 2, bidirectional=True, xp=backend.xp, rng=1)
        target = gl.LSTM(5, 3, 2, bidirectional=True, rng=2)
        target.load_state_dict(source.params)
        problems.assert_same_bits(target.params, backend.numpy(source.params))

    def test_into_another_library_and_dtype(self, backend):
        source = gl.LSTM(5, 3, rng=1)
        target = gl.LSTM(5, 3, dtype="float64", xp=backend.xp, rng=2)
        target.load_state_dict(source.params)
        for name, p in target.params.items():
            assert type(p) is type(backend.array(np.zeros(1))) and arrays.dtype_name(p) == "float64"
            np.testing.assert_array_equal(backend.numpy(p), source.params[name].astype("float64"))

    def test_pytorchs_two_biases_are_added_up(self, backend):
        theirs = torch_module(dtype=torch.float64).state_dict()
        lstm = gl.LSTM(5, 3, dtype="float64", xp=backend.xp)
        lstm.load_state_dict(theirs)
        expected = (theirs["bias_ih_l0"] + theirs["bias_hh_l0"]).numpy()
        np.testing.assert_array_equal(backend.numpy(lstm.params["bias_l0"]), expected)

    @pytest.mark.parametrize("kind", VALUES)
    def test_any_array(self, kind):
        source = gl.LSTM(5, 3, rng=1).params
        lstm = gl.LSTM(5, 3, rng=2)
        lstm.load_state_dict({name: VALUES[kind](p) for name, p in source.items()})
        half = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}.get(kind.rpartition(" ")[2])
        for name, p in lstm.params.items():
            expected = source[name] if half is None else source[name].astype(half).astype(np.float32)
            assert p.dtype == np.float32 and p.flags.c_contiguous and p.flags.writeable and p.flags.owndata
            np.testing.assert_array_equal(p, expected)

    def test_biases_of_half_precision_are_added_in_single(self):
        """1 + 2^-9 has more bits than bfloat16 keeps, and as many as float32 needs."""
        theirs = torch_module().bfloat16().state_dict()
        theirs["bias_ih_l0"] = torch.full((12,), 1.0).bfloat16()
        theirs["bias_hh_l0"] = torch.full((12,), 2.0**-9).bfloat16()
        lstm = gl.LSTM(5, 3)
        lstm.load_state_dict(theirs)
        np.testing.assert_array_equal(lstm.params["bias_l0"], np.full(12, 1 + 2.0**-9, np.float32))

    def test_nothing_is_shared(self, backend):
        source = gl.LSTM(5, 3, xp=backend.xp, rng=1)
        target = gl.LSTM(5, 3, xp=backend.xp, rng=2)
        target.load_state_dict(source.params)
        before = backend.numpy(target.params["bias_l0"]).copy()
        source.params["bias_l0"][...] = 99.0
        np.testing.assert_array_equal(backend.numpy(target.params["bias_l0"]), before)

    def test_nothing_is_changed_by_an_error(self):
        lstm = gl.LSTM(5, 3, 2, rng=1)
        before = {name: p.tobytes() for name, p in lstm.params.items()}
        good = gl.LSTM(5, 3, 2, rng=2).params
        for bad in ({**good, "bias_l1": np.zeros(5)}, {**good, "bias_l1": "abc"}, {**good, "more": np.zeros(5)}):
            with pytest.raises((TypeError, ValueError)):
                lstm.load_state_dict(bad)
        assert {name: p.tobytes() for name, p in lstm.params.items()} == before

    def test_who_holds_the_dict_sees_the_new_parameters(self):
        """A training loop or an optimiser that was given lstm.params must not go on with arrays that nobody uses."""
        lstm = gl.LSTM(5, 3, rng=1)
        held = lstm.params
        lstm.load_state_dict(gl.LSTM(5, 3, rng=2).params)
        assert held is lstm.params


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # PyTorch's own affair
class TestFromTorch:
    def check(self, ours: gl.LSTM, theirs: torch.nn.LSTM, dtype: str) -> None:
        x = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(dtype)
        y, state = ours(x)
        with torch.no_grad():
            wanted_y, wanted_state = theirs.eval()(torch.tensor(x))
        for found, wanted in zip((y, *state), (wanted_y, *wanted_state), strict=True):
            assert found.dtype == dtype
            np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=TOLERANCE[dtype])

    def test_module(self, layout, batch_first, dtype):
        theirs = torch_module(**LAYOUTS[layout], batch_first=batch_first, dtype=getattr(torch, dtype))
        self.check(gl.LSTM.from_torch(theirs), theirs, dtype)

    def test_state_dict(self, layout, batch_first, dtype):
        theirs = torch_module(**LAYOUTS[layout], batch_first=batch_first, dtype=getattr(torch, dtype))
        self.check(gl.LSTM.from_torch(theirs.state_dict(), batch_first=batch_first), theirs, dtype)


class TestFromTorchOptions:
    def test_the_module_is_not_changed_or_shared(self):
        theirs = torch_module()
        before = {name: p.clone() for name, p in theirs.state_dict().items()}
        ours = gl.LSTM.from_torch(theirs)
        for p in ours.params.values():
            p[...] = 99.0
        assert all(torch.equal(p, before[name]) for name, p in theirs.state_dict().items())

    def test_another_library_and_dtype(self, backend):
        ours = gl.LSTM.from_torch(torch_module(), dtype="float64", xp=backend.xp)
        expected = torch_module().state_dict()["weight_ih_l0"].double().numpy()
        found = backend.numpy(ours.params["weight_ih_l0"])
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected)

    def test_an_argument_wins_over_the_module(self):
        assert gl.LSTM.from_torch(torch_module(batch_first=True), batch_first=False).batch_first is False

    @pytest.mark.parametrize("proj_size", [0, 2])
    def test_projection_and_dropout_of_a_module(self, proj_size):
        found = gl.LSTM.from_torch(torch_module(num_layers=2, dropout=0.25, proj_size=proj_size))
        assert found.options.dropout == 0.25 and found.layout.proj_size == proj_size
        assert found.layout.hidden_size == 3, "the hidden state's size is another one"

    def test_a_state_dict_does_not_tell_the_dropout(self):
        theirs = torch_module(num_layers=2, dropout=0.25)
        assert gl.LSTM.from_torch(theirs.state_dict()).options.dropout == 0.0
        assert gl.LSTM.from_torch(theirs.state_dict(), dropout=0.5).options.dropout == 0.5
        assert gl.LSTM.from_torch(theirs, dropout=0.0).options.dropout == 0.0

    def test_a_dropout_that_does_nothing_in_pytorch_is_none(self):
        with pytest.warns(UserWarning, match="dropout"):
            theirs = torch_module(dropout=0.25)
        assert gl.LSTM.from_torch(theirs).options.dropout == 0.0

    @pytest.mark.parametrize(
        "options",
        [{}, {"proj_size": 2}, {"peephole": True}, {"layer_norm": True}, {"bias": False, "peephole": True}],
        ids=str,
    )
    def test_our_own_names_in_a_state_dict(self, options):
        source = gl.LSTM(5, 3, 2, bidirectional=True, **options, rng=1)
        found = gl.LSTM.from_torch(source.params)
        assert found.layout == source.layout
        problems.assert_same_bits(found.params, source.params)

    @pytest.mark.parametrize("half", ["float16", "bfloat16"])
    def test_half_precision_keeps_its_word(self, half):
        """dtype None keeps PyTorch's. NumPy has no path for it, so that has to be asked for: float64 is no answer."""
        theirs = torch_module(dtype=getattr(torch, half))
        with pytest.raises(TypeError, match="dtype"):
            gl.LSTM.from_torch(theirs)
        assert gl.LSTM.from_torch(theirs, dtype="float32").params["bias_l0"].dtype == np.float32
        assert gl.LSTM.from_torch(theirs, xp=torch).params["bias_l0"].dtype == getattr(torch, half)


class TestCell:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("missing", [None, "h", "c", "both"])
    @pytest.mark.parametrize("state", [True, False])
    @pytest.mark.parametrize("batched", [True, False])
    def test_matches_torch(self, backend, bias, missing, state, batched):
        theirs = torch.nn.LSTMCell(5, 3, bias=bias, dtype=torch.float64)
        cell = gl.LSTMCell(5, 3, bias=bias, dtype="float64", xp=backend.xp)
        own = {"weight_ih": theirs.weight_ih, "weight_hh": theirs.weight_hh}
        own |= {"bias": theirs.bias_ih + theirs.bias_hh} if bias else {}
        assert set(own) == set(cell.params)
        cell.params = backend.array({name: p.detach().numpy() for name, p in own.items()})

        rng = np.random.default_rng(0)
        leading = (4,) if batched else ()
        x, h, c, dh, dc = (rng.normal(size=(*leading, n)) for n in (5, 3, 3, 3, 3))
        if not state:
            h, c = np.zeros_like(h), np.zeros_like(c)
        asked = [np.zeros_like(d) if missing in (part, "both") else d for part, d in (("h", dh), ("c", dc))]
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, h, c)]
        after = theirs(leaves[0], tuple(leaves[1:]))
        torch.autograd.backward(after, [torch.tensor(d) for d in asked])

        before = backend.array((h, c)) if state else None
        next_state, cache = cell.forward(backend.array(x), before)
        given = [None if missing in (part, "both") else backend.array(d) for part, d in (("h", dh), ("c", dc))]
        dx, grads, dstate = cell.backward(cache, given)
        inferred = cell(backend.array(x), before)
        wanted = [*after, *after, *(leaf.grad for leaf in leaves), theirs.weight_ih.grad, theirs.weight_hh.grad]
        found = [*next_state, *inferred, dx, *dstate, grads["weight_ih"], grads["weight_hh"]]
        if bias:
            wanted.append(theirs.bias_ih.grad)
            found.append(grads["bias"])
        assert set(grads) == set(cell.params)
        for ours, other in zip(found, wanted, strict=True):
            assert tuple(ours.shape) == tuple(other.shape)
            np.testing.assert_allclose(backend.numpy(ours), other.detach().numpy(), rtol=0, atol=1e-13)


IMPORT = """
import sys, time
import numpy
start = time.process_time()
import gpulstm
took = time.process_time() - start
others = ("cupy", "torch", "jax", "onnx", "ml_dtypes", "array_api_strict")
print(took, *(name for name in others if name in sys.modules))
"""


def test_importing_is_quick_and_brings_no_other_library():
    """The best of five, of the CPU's time and NumPy aside: what others do on the same core hardly counts."""
    runs = [
        subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True) for _ in range(5)
    ]
    times, libraries = zip(
        *((float(first), rest) for first, *rest in (run.stdout.split() for run in runs)), strict=True
    )
    assert min(times) < 0.3
    assert libraries == ([],) * 5


class TestPrinting:
    def test_repr(self):
        assert repr(gl.LSTM(5, 3)) == "LSTM(5, 3, dtype='float32')"
        full = gl.LSTM(5, 3, 2, bias=False, batch_first=True, bidirectional=True, dtype="float64")
        assert repr(full) == (
            "LSTM(5, 3, num_layers=2, bias=False, batch_first=True, bidirectional=True, dtype='float64')"
        )
        assert eval(repr(full), {"LSTM": gl.LSTM}).layout == full.layout
        assert repr(gl.LSTMCell(5, 3)).startswith("LSTMCell(5, 3")
        assert "bias=False" in repr(gl.LSTMCell(5, 3, bias=False))

    def test_copies_and_pickles(self):
        lstm = gl.LSTM(5, 3, 2, rng=0)
        x = problems.problem(inputs=5, dtype="float32").x
        for other in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
            np.testing.assert_array_equal(other(x)[0], lstm(x)[0])

    def test_show_config_without_a_gpu_library(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)  # import cupy raises ImportError
        gl.show_config()
        text = capsys.readouterr().out
        for wanted in (f"gpulstm {gl.__version__}", f"numpy {np.__version__}", "NumPy engine", "CuPy arrays: none"):
            assert wanted in text

    def test_show_config_with_the_kernels(self, capsys):
        with cupy_on_cpu():
            gl.show_config()
        text = capsys.readouterr().out
        assert "CuPy arrays: CuPy engine" in text and "GPU 0" in text and "kernels compile" in text
        assert len(config.report()) >= 4
