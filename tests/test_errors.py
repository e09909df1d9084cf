"""Bad input to the LSTM's functions: which exception, and whether its message names the argument, what was expected
and what came. `lstm_forward` stands for all that check their arguments through it."""

import re
from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm.functional import lstm_inference
from tests import backends, problems

GIVEN = problems.problem(dtype="float32")  # x (5, 3, 4), hidden 2, one layer
X, PARAMS, (H, C), DY, (DH, DC) = GIVEN.x, GIVEN.params, GIVEN.state, GIVEN.dy, GIVEN.dstate
W_IH, W_HH, BIAS = PARAMS["weight_ih_l0"], PARAMS["weight_hh_l0"], PARAMS["bias_l0"]


def refused(error: type[Exception], *wanted: str):
    """A context that expects this exception with all these texts in its message, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, wanted)))


def forward(x: Any = X, state: Any = None, lengths: Any = None, batch_first: bool = False, **params: Any) -> Any:
    """Runs training and inference, which must refuse alike; ``params`` replace some of the good ones."""
    params = {**PARAMS, **params}
    options = {"lengths": lengths, "batch_first": batch_first}
    with pytest.raises((TypeError, ValueError)) as of_inference:
        lstm_inference(x, params, state, **options)
    try:
        return gl.lstm_forward(x, params, state, **options)
    except (TypeError, ValueError) as error:
        assert str(error) == str(of_inference.value) and type(error) is of_inference.type
        assert "  " not in str(error), "a part of the message is missing"
        raise


class TestX:
    @pytest.mark.parametrize(
        "x", [X.tolist(), tuple(X.tolist()), 1.0, np.float32(1)], ids=["list", "tuple", "float", "scalar"]
    )
    def test_not_an_array_but_could_be_one(self, x):
        with refused(TypeError, "x must be an array", f"got {type(x).__name__}", "numpy.asarray(x) makes one"):
            forward(x)

    @pytest.mark.parametrize("x", [None, "abc", {}, object()], ids=["None", "str", "dict", "object"])
    def test_nothing_like_an_array(self, x):
        with refused(TypeError, "x must be an array", f"got {type(x).__name__}"):
            forward(x)

    def test_masked(self):
        with refused(TypeError, "x must be a plain array", "masked", "x.filled(0.0)"):
            forward(np.ma.masked_array(X, X > 0))

    @pytest.mark.parametrize(
        "dtype", ["int64", "int32", "uint8", "bool", "complex64", "float16", "object", "longdouble"]
    )
    def test_wrong_dtype(self, dtype):
        got = np.dtype(dtype).name
        with refused(TypeError, "x must have dtype float32 or float64", f"got {got}", ".astype('float32')"):
            forward(X.astype(dtype))

    @pytest.mark.parametrize("dtype", [">f4", ">f8"])
    def test_other_byte_order(self, dtype):
        with refused(TypeError, "x must have dtype", f"got {dtype}", "bytes are in the other order"):
            forward(X.astype(dtype))

    @pytest.mark.parametrize("x", [X[0, 0], X[None], np.float32(1) * np.ones(())], ids=["1 axis", "4 axes", "0 axes"])
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_wrong_rank(self, x, batch_first):
        axes = "(batch, time, inputs)" if batch_first else "(time, batch, inputs)"
        if x.ndim == 0:
            x = np.array(1, "float32")
        with refused(ValueError, f"x must have shape {axes}", "or (time, inputs)", f"got {x.shape}"):
            forward(x, batch_first=batch_first)

    @pytest.mark.parametrize("x", [X[..., :3], X[:, 0, :3]])
    def test_wrong_size(self, x):
        with refused(ValueError, "x must have inputs = 4 on its last axis", f"got shape {x.shape}"):
            forward(x)

    def test_another_float_than_the_parameters(self):
        with refused(TypeError, "x must have the parameters' dtype float32", "got float64", "nothing is cast silently"):
            forward(X.astype("float64"))


class TestParams:
    def test_not_a_dict(self):
        for bad in (None, [W_IH], gl.LSTM(4, 2)):
            with refused(TypeError, "params must be a dict of arrays", f"got {type(bad).__name__}"):
                gl.lstm_forward(X, bad)

    @pytest.mark.parametrize("missing", ["weight_ih_l0", "weight_hh_l0"])
    def test_a_missing_weight(self, missing):
        params = {name: p for name, p in PARAMS.items() if name != missing}
        with refused(ValueError, "params must have", missing, "got bias_l0"):
            gl.lstm_forward(X, params)
        with refused(ValueError, "params must have", "got an empty dict"):
            gl.lstm_forward(X, {})

    def test_everything_wrong_in_one_message(self):
        params = dict(problems.problem(layers=2, directions=2, dtype="float32").params)
        del params["bias_l1"], params["weight_hh_l0_reverse"]
        params["weight_hh_l1"] = params["weight_hh_l1"].T
        params["bias_l0"] = params["bias_l0"][:3]
        params["extra"] = W_IH
        with pytest.raises(ValueError, match="params do not fit") as caught:
            gl.lstm_forward(X, params)
        for part in (
            "missing bias_l1 (8,)",
            "missing weight_hh_l0_reverse (8, 2)",
            "unexpected extra",
            "weight_hh_l1 must have shape (4*hidden, hidden) = (8, 2), got (2, 8); is it transposed?",
            "bias_l0 must have shape (4*hidden,) = (8,), got (3,)",
        ):
            assert part in str(caught.value)

    def test_transposed(self):
        with refused(
            ValueError, "weight_hh_l0 must have shape (4*hidden, hidden) = (8, 2), got (2, 8); is it transposed?"
        ):
            forward(weight_hh_l0=W_HH.T)
        with refused(
            ValueError, "weight_ih_l0 must have shape (4*hidden, inputs) = (8, 4), got (4, 8); is it transposed?"
        ):
            forward(weight_ih_l0=W_IH.T)

    @pytest.mark.parametrize(
        "name, value, wanted",
        [
            ("weight_ih_l0", W_IH[:6], "(4*hidden, inputs) = (8, 4), got (6, 4)"),
            ("weight_hh_l0", W_HH[:7], "(4*hidden, hidden) = (8, 2), got (7, 2)"),
            ("bias_l0", BIAS[:, None], "(4*hidden,) = (8,), got (8, 1)"),
        ],
    )
    def test_one_wrong_shape(self, name, value, wanted):
        with refused(ValueError, f"{name} must have shape {wanted}"):
            forward(**{name: value})

    def test_wrong_rank(self):
        for name in ("weight_ih_l0", "weight_hh_l0"):
            with refused(ValueError, f"{name} must have 2 axes", "got shape (8,)"):
                forward(**{name: BIAS})

    @pytest.mark.parametrize("name", PARAMS)
    def test_not_an_array(self, name):
        for bad in (PARAMS[name].tolist(), None):
            with refused(TypeError, f"{name} must be an array", f"got {type(bad).__name__}"):
                forward(**{name: bad})
        with refused(TypeError, f"{name} must be a plain array", "masked"):
            forward(**{name: np.ma.masked_array(PARAMS[name])})

    @pytest.mark.parametrize("dtype", ["float64", "int32", ">f4"])
    @pytest.mark.parametrize("name", ["weight_hh_l0", "bias_l0"])
    def test_wrong_dtype(self, name, dtype):
        with refused(TypeError, f"{name} must have x's dtype float32", f"got {dtype}"):
            forward(**{name: PARAMS[name].astype(dtype)})

    def test_pytorchs_two_biases(self):
        theirs = {name: p.detach().numpy() for name, p in torch.nn.LSTM(4, 2).state_dict().items()}
        with refused(
            ValueError, "unexpected bias_ih_l0", "unexpected bias_hh_l0", "PyTorch's names", "LSTM.from_torch"
        ):
            gl.lstm_forward(X, theirs)

    def test_sizes_of_zero(self):
        """A weight without rows or columns is somebody's mistake, told as such and not by a reshape inside."""
        nothing = {"weight_ih_l0": np.zeros((0, 4), "float32"), "weight_hh_l0": np.zeros((0, 0), "float32")}
        with refused(ValueError, "weight_ih_l0", "(0, 4)"):
            gl.lstm_forward(X, nothing)
        with refused(ValueError, "weight_ih_l0", "(8, 0)"):
            forward(X[..., :0], weight_ih_l0=W_IH[:, :0])

    def test_a_layer_number_far_off_has_a_readable_message(self):
        with pytest.raises(ValueError, match="weight_ih_l1 ") as caught:
            gl.lstm_forward(X, {**PARAMS, "weight_ih_l99999": W_IH})
        assert len(str(caught.value)) < 2000

    def test_the_layer_knows_what_it_has(self):
        """A key taken out of lstm.params is missing, not an LSTM without bias."""
        lstm, cell = gl.LSTM(4, 2), gl.LSTMCell(4, 2)
        del lstm.params["bias_l0"], cell.params["bias"]
        with refused(ValueError, "missing bias_l0"):
            lstm(X)
        with refused(ValueError, "missing bias"):
            cell(X[0])
        lstm = gl.LSTM(4, 2)
        lstm.params |= {name.replace("_l0", "_l1"): p for name, p in gl.LSTM(2, 2).params.items()}
        with refused(ValueError, "unexpected", "_l1"):
            lstm(X)


class TestState:
    @pytest.mark.parametrize(
        "state, got",
        [(H, "a NumPy array"), (np.stack([H, C]), "a NumPy array"), ({"h": H, "c": C}, "dict"), ("hc", "str"),
         ((H,), "1 item"), ((H, C, C), "3 items"), ([], "0 items")],
        ids=["h", "stacked", "dict", "str", "one", "three", "none"],
    )  # fmt: skip
    def test_not_a_pair(self, state, got):
        with refused(TypeError, "state must be a pair (h, c)", f"got {got}"):
            forward(state=state)

    @pytest.mark.parametrize("state", [(None, C), (H, None), (None, None)], ids=["no h", "no c", "neither"])
    def test_half_of_it(self, state):
        with refused(TypeError, "state must have both h and c", "got None"):
            forward(state=state)

    @pytest.mark.parametrize("half", [0, 1])
    def test_each_half(self, half):
        name = f"state.{'hc'[half]}"

        def state(value):
            return (value, C) if half == 0 else (H, value)

        good = (H, C)[half]
        for bad in (good[0], good[:, :2], good[..., :1], good[None], np.concatenate([good, good])):
            expected = "(layers*directions, batch, hidden) = (1, 3, 2)"
            with refused(ValueError, f"{name} must have shape {expected}", f"got {bad.shape}"):
                forward(state=state(bad))
        for dtype in ("float64", "int32", ">f4"):
            with refused(TypeError, f"{name} must have x's dtype float32", f"got {dtype}"):
                forward(state=state(good.astype(dtype)))
        with refused(TypeError, f"{name} must be a NumPy array like x", "got a torch array"):
            forward(state=state(torch.tensor(good)))
        with refused(TypeError, f"{name} must be an array", "got list"):
            forward(state=state(good.tolist()))

    def test_a_batch_axis_that_x_does_not_have(self):
        with refused(ValueError, "state.h must have shape (layers*directions, hidden) = (1, 2)", "got (1, 3, 2)"):
            forward(X[:, 0], (H, C))


class TestLengths:
    @pytest.mark.parametrize(
        "lengths",
        [[1.0, 2.0, 3.0], np.ones(3), [True, False, True], np.ones(3, bool), ["a", "b", "c"], [1, None, 2], "abc",
         {1: 2}, {1, 2, 3}, np.array([1, 2, 3], object), [1j, 1, 1], [1, 2, 2**70]],
        ids=str,
    )  # fmt: skip
    def test_wrong_type(self, lengths):
        with refused(TypeError, "lengths must be integers", "got"):
            forward(lengths=lengths)

    def test_ragged(self):
        with pytest.raises((TypeError, ValueError), match="^lengths must"):
            forward(lengths=[[1], [2, 3], 4])

    def test_masked(self):
        """What the mask hides would be taken for a length."""
        with refused(TypeError, "lengths must be a plain array", "masked"):
            forward(lengths=np.ma.masked_array([1, 2, 3], [0, 1, 0]))

    @pytest.mark.parametrize("lengths, got", [([1, 6, 9], "6 for sequence 1"), ([5, 5, -1], "-1 for sequence 2"),
                                              (np.array([2**63, 0, 0], "uint64"), f"{2**63} for sequence 0"),
                                              ([2**32 + 1, 2, 3], f"{2**32 + 1} for sequence 0")])  # fmt: skip
    def test_out_of_range(self, lengths, got):
        with refused(ValueError, "lengths must be between 0 and the number of time steps 5", f"got {got}"):
            forward(lengths=lengths)

    @pytest.mark.parametrize("lengths", [[1, 2], [1, 2, 3, 4], [], 3, [[1, 2, 3]], [5, 5, 5, 5, 5]], ids=str)
    def test_wrong_shape(self, lengths):
        with refused(ValueError, "lengths must have shape (batch,) = (3,)", f"got {np.shape(lengths)}"):
            forward(lengths=lengths)

    def test_without_a_batch(self):
        with refused(ValueError, "lengths must have shape ()", "x has no batch axis", "got (1,)"):
            forward(X[:, 0], lengths=[3])
        with refused(ValueError, "lengths must be between 0 and", "5", "got 6"):
            forward(X[:, 0], lengths=6)

    @pytest.mark.parametrize("other", [torch.tensor([1, 2, 3]), jnp.asarray([1, 2, 3])], ids=["torch", "jax"])
    def test_of_another_library(self, other):
        with refused(TypeError, "lengths must be integers on the host or a NumPy array like x", "numpy.asarray"):
            forward(lengths=other)

    @pytest.mark.parametrize("dtype", [float, bool])
    def test_traced_by_jax(self, dtype):
        """No values to look at under jit, but a dtype there is."""
        params = jax.tree.map(jnp.asarray, PARAMS)
        with refused(TypeError, "lengths must be integers"):
            jax.jit(lambda lengths: lstm_inference(jnp.asarray(X), params, lengths=lengths))(jnp.ones(3, dtype))
        with refused(ValueError, "lengths must have shape (batch,) = (3,)", "got (2,)"):
            jax.jit(lambda lengths: lstm_inference(jnp.asarray(X), params, lengths=lengths))(jnp.ones(2, int))


class TestLibraries:
    @pytest.mark.parametrize("name, xp", [("torch", torch), ("jax", jnp), ("array_api_strict", array_api_strict)])
    def test_an_input_beside_numpy_parameters(self, name, xp):
        with refused(TypeError, "x must be a NumPy array like the parameters", f"got a {name} array", "LSTM with xp="):
            forward(xp.asarray(X))
        with refused(TypeError, f"x must be a {name} array like the parameters", "xp=numpy"):
            forward(**{key: xp.asarray(p) for key, p in PARAMS.items()})

    def test_a_torch_tensor_is_told_of_the_module(self):
        with refused(TypeError, "x must be a NumPy array", "gpulstm.interop.torch.LSTM"):
            forward(torch.asarray(X))

    def test_one_torch_tensor_among_numpy_arrays(self):
        with refused(TypeError, "weight_hh_l0 must be a NumPy array like x", "got a torch array of shape (8, 2)"):
            forward(weight_hh_l0=torch.tensor(W_HH))

    def test_one_float64_parameter_among_torch_tensors(self):
        params = {name: torch.tensor(p) for name, p in PARAMS.items()} | {"bias_l0": torch.tensor(BIAS).double()}
        with refused(TypeError, "bias_l0 must have x's dtype float32, got float64"):
            forward(torch.tensor(X), **params)

    def test_integers_of_other_libraries(self):
        for xp in (torch, jnp, array_api_strict):
            params = {name: xp.asarray(p) for name, p in PARAMS.items()}
            with refused(TypeError, "x must have dtype float16 or bfloat16 or float32 or float64", "got int"):
                forward(xp.asarray(np.ones((5, 3, 4), "int32")), **params)

    def test_two_devices_of_array_api_strict(self):
        there = array_api_strict.Device("device1")
        params = {name: array_api_strict.asarray(p) for name, p in PARAMS.items()}
        with refused(ValueError, "weight_ih_l0 must be on x's device", "device1", "got", "CPU_DEVICE"):
            forward(array_api_strict.asarray(X, device=there), **params)


class TestCuPy:
    BACKENDS = backends.KERNELS

    def test_numpy_beside_cupy(self, backend):
        x, params = backend.array(X), backend.array(PARAMS)
        with refused(TypeError, "x must be a NumPy array like the parameters", "got a CuPy array on", "xp=cupy"):
            forward(x)
        with refused(TypeError, "x must be a CuPy array like the parameters", "got a NumPy array", "xp=numpy"):
            forward(X, **params)
        with refused(TypeError, "state.c must be a CuPy array like x", "got a NumPy array"):
            forward(x, (backend.array(H), C), **params)
        with refused(TypeError, "dy must be a CuPy array like x", "got a NumPy array"):
            gl.lstm_backward(gl.lstm_forward(x, params)[2], DY)
        with refused(TypeError, "lengths must be", "NumPy array like x", "got a CuPy array"):
            forward(lengths=backend.array(np.array([1, 2, 3])))

    def test_dtypes(self, backend):
        with refused(TypeError, "x must have dtype float16 or bfloat16 or float32 or float64", "got int32"):
            forward(backend.array(X.astype("int32")), **backend.array(PARAMS))
        with refused(TypeError, "x must have the parameters' dtype float32, got float16", ".astype('float32')"):
            forward(backend.array(X.astype("float16")), **backend.array(PARAMS))
        with refused(TypeError, "lengths must be integers", "got a CuPy array", "float64"):
            forward(backend.array(X), lengths=backend.array(np.ones(3)), **backend.array(PARAMS))

    def test_lengths_out_of_range(self, backend):
        with refused(ValueError, "lengths must be between 0 and", "got 6 for sequence 1"):
            forward(backend.array(X), lengths=backend.array(np.array([1, 6, 2])), **backend.array(PARAMS))


class TestTwoDevices:
    BACKENDS = (backends.CUPY_ON_CPU,)  # the stand-in has two devices; the machine with the GPU may have one

    def test_each_argument(self, backend):
        with backend.xp.cuda.Device(1):
            x_there, params_there, state_there = (backend.array(a) for a in (X, PARAMS, (H, C)))
        x, params = backend.array(X), backend.array(PARAMS)
        wanted = ("device <CUDA Device 0>, got <CUDA Device 1>", "nothing is copied between devices silently")
        with refused(ValueError, "weight_ih_l0 must be on x's", *wanted):
            forward(x, **params_there)
        with refused(ValueError, "bias_l0 must be on x's", *wanted):
            forward(x, **{**params, "bias_l0": params_there["bias_l0"]})
        with refused(ValueError, "state.h must be on x's", *wanted):
            forward(x, state_there, **params)
        dy = gl.lstm_forward(x_there, params_there)[0]
        with refused(ValueError, "dy must be on x's", *wanted):
            gl.lstm_backward(gl.lstm_forward(x, params)[2], dy)
