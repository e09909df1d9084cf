"""Bad input to the LSTM layer, the cell, backward, and to loading parameters."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gpulstm as gl
from tests.test_errors import BIAS, DC, DH, DY, PARAMS, W_HH, C, H, X, refused


class TestGradients:
    def backward(self, dy=None, dstate=None):
        return gl.lstm_backward(gl.lstm_forward(X, PARAMS)[2], dy, dstate)

    @pytest.mark.parametrize(
        "dy", [DY[:-1], DY[:, :2], DY[..., :1], DY[0], DY.swapaxes(0, 1)], ids=lambda a: str(a.shape)
    )
    def test_dy_of_another_shape(self, dy):
        with refused(ValueError, "dy must have y's shape (5, 3, 2)", f"got {dy.shape}"):
            self.backward(dy)

    def test_dy_in_the_callers_layout(self):
        _, _, cache = gl.lstm_forward(X, PARAMS, batch_first=True)
        with refused(ValueError, "dy must have y's shape (5, 3, 2)", "got (3, 5, 2)"):
            gl.lstm_backward(cache, DY.swapaxes(0, 1))
        _, _, cache = gl.lstm_forward(X[:, 0], PARAMS)
        with refused(ValueError, "dy must have y's shape (5, 2)", "got (5, 3, 2)"):
            gl.lstm_backward(cache, DY)

    @pytest.mark.parametrize("dtype", ["float64", "int32", ">f4"])
    def test_dtypes(self, dtype):
        with refused(TypeError, "dy must have x's dtype float32", f"got {dtype}"):
            self.backward(DY.astype(dtype))
        with refused(TypeError, "dstate.c must have x's dtype float32", f"got {dtype}"):
            self.backward(None, (DH, DC.astype(dtype)))

    def test_not_arrays(self):
        for bad in (DY.tolist(), 1.0, "abc"):
            with refused(TypeError, "dy must be an array", f"got {type(bad).__name__}"):
                self.backward(bad)
        with refused(TypeError, "dy must be a plain array", "masked"):
            self.backward(np.ma.masked_array(DY))
        with refused(TypeError, "dstate.h must be an array", "got list"):
            self.backward(None, (DH.tolist(), DC))

    def test_another_library(self):
        with refused(TypeError, "dy must be a NumPy array like x", "got a torch array of shape (5, 3, 2)"):
            self.backward(torch.tensor(DY))
        with refused(TypeError, "dstate.c must be a NumPy array like x", "got a jax array"):
            self.backward(None, (None, jnp.asarray(DC)))

    def test_dstate_is_no_pair_or_of_another_shape(self):
        for bad, got in ((DH, "a NumPy array"), ((DH,), "1 item"), ((DH, DC, DC), "3 items"), ("hc", "str")):
            with refused(TypeError, "dstate must be a pair (h, c)", f"got {got}"):
                self.backward(None, bad)
        for bad in (DH[0], DH[:, :2]):
            with refused(
                ValueError,
                "dstate.h must have shape (layers*directions, batch, hidden) = (1, 3, 2)",
                f"got {bad.shape}",
            ):
                self.backward(None, (bad, DC))

    def test_the_cache_is_something_else(self):
        for bad in (None, gl.lstm_forward(X, PARAMS), DY):
            with refused(TypeError, "cache must be that of y, state, cache = forward(x)", f"got {type(bad).__name__}"):
                gl.lstm_backward(bad, DY)


class TestLayer:
    @pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
    def test_sizes(self, name):
        for bad in (0, -1, np.int64(0)):
            with refused(ValueError, f"{name} must be at least 1", f"got {bad}"):
                gl.LSTM(**{"input_size": 4, "hidden_size": 2, name: bad})
        for bad in (2.5, True, "3", None, [3], np.array(3), 3.0):
            with refused(TypeError, f"{name} must be an integer", f"got {type(bad).__name__}"):
                gl.LSTM(**{"input_size": 4, "hidden_size": 2, name: bad})

    @pytest.mark.parametrize("dtype", ["int32", "float8", "complex64", int, "longdouble", 3, None], ids=str)
    def test_dtypes(self, dtype):
        with refused(TypeError, "dtype must be", "float32", "float64", f"got {dtype!r}"):
            gl.LSTM(4, 2, dtype=dtype)
        with refused(TypeError, "dtype must be", "float32", "float64", f"got {dtype!r}"):
            gl.LSTMCell(4, 2, dtype=dtype)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_a_dtype_that_the_library_cannot_compute_in(self, dtype):
        """Said when the layer is made, not at its first call; and not answered with another dtype."""
        with refused(TypeError, "dtype must be", "float32 or float64", dtype):
            gl.LSTM(4, 2, dtype=dtype)

    def test_rng(self):
        for bad in ("a", 1.5, [1, 2], np.random.RandomState(0)):
            with refused(
                TypeError, "rng must be None, an integer seed or a numpy.random.Generator", f"got {type(bad).__name__}"
            ):
                gl.LSTM(4, 2, rng=bad)
        with refused(ValueError, "rng must", "-1"):
            gl.LSTM(4, 2, rng=-1)

    @pytest.mark.parametrize("xp", [None, "numpy", 3, list], ids=str)
    def test_xp(self, xp):
        with refused(TypeError, "xp must be", "numpy", "got"):
            gl.LSTM(4, 2, xp=xp)

    def test_gate(self):
        lstm = gl.LSTM(4, 2, 2)
        for bad in ("Forget", "f", "cell", "", None, 0):
            with refused(ValueError, "name must be one of 'input', 'forget', 'candidate', 'output'", f"got {bad!r}"):
                lstm.gate(bad)
        for bad in (2, -1):
            with refused(ValueError, "layer must be between 0 and 1", f"got {bad}"):
                lstm.gate("forget", bad)
        for bad in (1.0, True, "0", None):
            with refused(TypeError, "layer must be an integer", f"got {type(bad).__name__}"):
                lstm.gate("forget", bad)
        with refused(ValueError, "reverse must be False", "one direction", "got True"):
            lstm.gate("forget", reverse=True)


class TestCell:
    """A cell has no time axis and no layers, so no message about one may speak of them."""

    CELL = gl.LSTMCell(4, 2)

    def test_x(self):
        with refused(ValueError, "x must have shape (batch, inputs), or (inputs,)", "got (5, 3, 4)"):
            self.CELL(X)
        with refused(TypeError, "x must be an array", "got list"):
            self.CELL(X[0].tolist())
        with refused(ValueError, "x must have inputs = 4", "got shape (3, 3)"):
            self.CELL(X[0, :, :3])

    def test_state(self):
        with refused(ValueError, "state.h must have shape (batch, hidden) = (3, 2)", "got (1, 3, 2)"):
            self.CELL(X[0], (H, C))
        with refused(TypeError, "state must be a pair (h, c)", "got a NumPy array"):
            self.CELL(X[0], H[0])
        with refused(TypeError, "state must have both h and c", "got None"):
            self.CELL(X[0], (H[0], None))
        with refused(TypeError, "state.h must be an array", "got list"):
            self.CELL(X[0], (H[0].tolist(), C[0]))

    def test_parameters_by_their_own_names(self):
        cell = gl.LSTMCell(4, 2)
        cell.params["weight_hh"] = cell.params["weight_hh"].T
        with pytest.raises(ValueError, match=r"weight_hh must have shape .*\(8, 2\), got \(2, 8\); is it transposed\?"):
            cell(X[0])
        assert "_l0" not in repr(cell.params.keys())

    def test_of_another_library(self):
        with refused(TypeError, "x must be a NumPy array like the parameters", "got a torch array of shape (3, 4)"):
            self.CELL(torch.asarray(X[0]))

    def test_backward(self):
        with refused(TypeError, "cache must be that of state, cache = LSTMCell.forward(x)", "got Cache"):
            self.CELL.backward(gl.lstm_forward(X, PARAMS)[2], (H[0], C[0]))
        _, cache = self.CELL.forward(X[0])
        with refused(ValueError, "dstate.h must have shape (batch, hidden) = (3, 2)", "got (1, 3, 2)"):
            self.CELL.backward(cache, (H, C))


def torch_state(**options):
    return torch.nn.LSTM(4, 2, **options).state_dict()


class TestLoading:
    LSTM = gl.LSTM(4, 2, 2)
    OURS = LSTM.params

    def test_not_a_mapping(self):
        for bad in (None, [1], torch.nn.LSTM(4, 2)):
            with refused(TypeError, "mapping must be a dict of arrays", f"got {type(bad).__name__}"):
                self.LSTM.load_state_dict(bad)

    def test_everything_wrong_in_one_message(self):
        bad = {**self.OURS, "extra": BIAS, "weight_hh_l0": W_HH.T, "bias_l0": BIAS[:3]}
        del bad["bias_l1"]
        with pytest.raises(ValueError, match="does not fit this LSTM") as caught:
            self.LSTM.load_state_dict(bad)
        for part in (
            "missing bias_l1 (8,)",
            "unexpected extra",
            "weight_hh_l0 must have shape (4*hidden, hidden) = (8, 2), got (2, 8); is it transposed?",
            "bias_l0 must have shape (4*hidden,) = (8,), got (3,)",
        ):
            assert part in str(caught.value)

    def test_pytorchs_names(self):
        missing = torch_state(num_layers=2)
        del missing["bias_hh_l1"]
        with refused(ValueError, "missing bias_hh_l1 (8,)"):
            self.LSTM.load_state_dict(missing)
        with refused(ValueError, "unexpected bias_l0"):
            self.LSTM.load_state_dict({**torch_state(num_layers=2), "bias_l0": BIAS})
        wrong = torch_state(num_layers=2) | {"bias_hh_l1": torch.zeros(5)}
        with refused(ValueError, "bias_hh_l1 must have shape (4*hidden,) = (8,), got (5,)"):
            self.LSTM.load_state_dict(wrong)

    @pytest.mark.parametrize(
        "options, part",
        [
            ({"num_layers": 2, "bidirectional": True}, "unexpected weight_ih_l0_reverse"),
            ({"num_layers": 2, "proj_size": 1}, "unexpected weight_hr_l0"),
            ({"num_layers": 2, "bias": False}, "missing bias_l0"),
            ({"num_layers": 3}, "unexpected weight_ih_l2"),
        ],
    )
    def test_another_kind_of_lstm(self, options, part):
        with refused(ValueError, part):
            self.LSTM.load_state_dict(torch_state(**options))

    @pytest.mark.parametrize("value", [BIAS.astype(int), "abc", None, [[1.0], [2.0, 3.0]], BIAS.tolist(),
                                       BIAS.astype(complex), np.ma.masked_array(BIAS)],
                             ids=lambda value: type(value).__name__)  # fmt: skip
    def test_a_value_that_is_no_array_of_numbers(self, value):
        with refused(TypeError, "bias_l0 must be an array of floating-point numbers", "got"):
            self.LSTM.load_state_dict({**self.OURS, "bias_l0": value})

    def test_of_several_lstms_one_must_be_named(self):
        """The state dict of a whole model, where LSTMs are parts of it."""
        whole = torch.nn.ModuleDict({"encoder": torch.nn.LSTM(4, 2, 2), "decoder": torch.nn.LSTM(4, 2)}).state_dict()
        with refused(ValueError, "prefix must say which LSTM", "'encoder', 'decoder'"):
            gl.LSTM.from_torch(whole)

    def test_from_another_kind_of_module(self):
        for bad in (torch.nn.GRU(4, 2), torch.nn.RNN(4, 2)):
            with refused(TypeError, "module_or_state_dict must be a torch.nn.LSTM", f"{bad.mode!r}"):
                gl.LSTM.from_torch(bad)
        for bad in (torch.nn.Linear(4, 2), None, 3, [1]):
            with refused(TypeError, "must be a torch.nn.LSTM or its state_dict()", f"got {type(bad).__name__}"):
                gl.LSTM.from_torch(bad)

    @pytest.mark.parametrize("path", ["model.safetensors", Path("model.safetensors")])
    def test_a_path_instead_of_what_is_in_the_file(self, path):
        for take in (gl.LSTM.from_torch, self.LSTM.load_state_dict, gl.nn.Sequential(self.LSTM).load_state_dict):
            with refused(TypeError, f"got {type(path).__name__}; gpulstm.load(path)"):
                take(path)

    @pytest.mark.parametrize("module", [torch.nn.GRU(4, 2), torch.nn.RNN(4, 2)], ids=["GRU", "RNN"])
    def test_from_the_state_dict_of_a_gru(self, module):
        with pytest.raises(
            ValueError, match=r"weight_ih_l0 must have shape \(4\*hidden, inputs\) = \(8, 4\)"
        ) as caught:
            gl.LSTM.from_torch(module.state_dict())
        assert "  " not in str(caught.value), "a part of the message is missing"

    def test_from_a_module_with_what_this_layer_does_not_have(self):
        """PyTorch lets a dropout of 1 silence every layer but the first, even in training."""
        with refused(ValueError, "dropout must be at least 0 and below 1", "got 1.0"):
            gl.LSTM.from_torch(torch.nn.LSTM(4, 2, 2, dropout=1.0))
        with refused(ValueError, "dropout must be 0 with one layer", "got 0.1"):
            gl.LSTM.from_torch(torch_state(), dropout=0.1)

    def test_from_a_state_dict_that_lacks_something(self):
        with refused(ValueError, "must have 'weight_ih_l0'", "got nothing"):
            gl.LSTM.from_torch({})
        projected = torch_state(num_layers=2, proj_size=1)
        del projected["weight_hr_l1"]
        with refused(ValueError, "missing weight_hr_l1 (1, 2)"):
            gl.LSTM.from_torch(projected)
        with refused(ValueError, "weight_hr_l0 must be an array with 2 axes", "shape (2,)"):
            gl.LSTM.from_torch(torch_state(proj_size=1) | {"weight_hr_l0": torch.zeros(2)})
        with refused(ValueError, "weight_hh_l0 must have shape (4*hidden, proj) = (8, 1), got (8, 2)"):
            gl.LSTM.from_torch(torch_state(proj_size=1) | {"weight_hh_l0": torch.zeros(8, 2)})
        ours = gl.LSTM(4, 2, peephole=True, layer_norm=True).params
        for name, part in (
            ("weight_norm_c_l0", "missing weight_norm_c_l0 (2,)"),
            ("weight_norm_ih_l0", "unexpected weight_norm_hh_l0"),
            ("bias_l0", "layer_norm must come with bias=True"),
        ):
            with refused(ValueError, part):
                gl.LSTM.from_torch({key: value for key, value in ours.items() if key != name})

    def test_from_values_that_are_no_arrays(self):
        with pytest.raises((TypeError, ValueError), match="weight_ih_l0 must"):
            gl.LSTM.from_torch({"weight_ih_l0": [1.0, 2.0], "weight_hh_l0": [3.0]})
