"""`to_onnx` and `from_onnx`: what onnxruntime computes, round trips to the bit, and which nodes are one LSTM."""

import numpy as np
import onnx
import pytest
from onnx import helper

import gpulstm as gl
from gpulstm.interop.onnx import from_onnx, to_onnx
from tests import onnx_cases, problems
from tests.onnx_cases import case, run_in_onnxruntime, stored_model, value

FLOAT32 = 1e-6  # rounding at 6e-8, times the operations between x and the last layer's state
HARD = (("hard_sigmoid", 0.3, 0.4), ("affine", 0.5, 0.25), "softsign")
OPTIONS = {
    "plain": {},
    "stack": {"num_layers": 3, "bidirectional": True},
    "reverse": {"reverse": True, "num_layers": 2},
    "batch first": {"batch_first": True, "num_layers": 2},
    "no bias": {"bias": False},
    "peephole": {"peephole": True, "bidirectional": True},
    "coupled": {"coupled": True, "peephole": True, "num_layers": 2},
    "activations": {"activations": HARD, "bidirectional": True, "num_layers": 2},
    "relu": {"activations": ("sigmoid", "relu", "tanh")},
    "defaults of hard_sigmoid": {"activations": ("hard_sigmoid", "tanh", "affine")},
}
TEXT_ALONE = {
    "clip": {"cell_clip": 0.3},
    "float64": {"dtype": "float64", "num_layers": 2, "bidirectional": True},
    "all": {
        "dtype": "float64",
        "cell_clip": 0.7,
        "num_layers": 2,
        "bidirectional": True,
        "batch_first": True,
        "peephole": True,
        "coupled": True,
        "activations": HARD,
    },
}


def lstm_of(options, rng=1):
    """With parameters of unit size, where the usual ones would leave the bounds of activations out of reach."""
    lstm = gl.LSTM(4, 3, **options, rng=rng)
    for name, parameter in lstm.params.items():
        lstm.params[name] = np.random.default_rng(len(name)).normal(size=parameter.shape).astype(parameter.dtype)
    return lstm


def assert_same_lstm(found, wanted):
    assert (found.layout, found.options, found.batch_first) == (wanted.layout, wanted.options, wanted.batch_first)
    assert repr(found) == repr(wanted)
    problems.assert_same_bits(found.params, wanted.params)


class TestToOnnx:
    @pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
    @pytest.mark.parametrize("state", [False, True], ids=["zeros", "state"])
    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_onnxruntime_gives_the_same_numbers(self, options, state, lengths):
        lstm = lstm_of(options)
        rng = np.random.default_rng(2)
        for opset in (9, 13, 22):
            model = to_onnx(lstm, state=state, lengths=lengths, opset=opset)
            onnx.checker.check_model(model, full_check=True)
            for steps, batch in ((6, 5), (2, 1)):  # time and batch are open
                leading = (batch, steps) if lstm.batch_first else (steps, batch)
                feed = {"X": rng.normal(size=(*leading, 4)).astype("float32")}
                initial = counts = None
                if state:
                    shape = lstm.layout.state_shapes(batch)[0]
                    initial = gl.State(*(rng.normal(size=shape).astype("float32") for _ in range(2)))
                    feed |= {"initial_h": initial.h, "initial_c": initial.c}
                if lengths:
                    counts = np.array([steps, 0, 3, 1, 5][:batch], np.int32)
                    feed["sequence_lens"] = counts
                y, final = lstm(feed["X"], initial, lengths=counts)
                found = dict(zip(("y", "h", "c"), run_in_onnxruntime(model, feed), strict=True))
                problems.assert_close(found, {"y": y, "h": final.h, "c": final.c}, FLOAT32)

    @pytest.mark.parametrize("opset", [7, 8, 9, 10, 13, 14, 18, 22, onnx.defs.onnx_opset_version()])
    def test_every_opset(self, opset):
        lstm = lstm_of({"num_layers": 2, "bidirectional": True, "batch_first": True})
        model = to_onnx(lstm, state=True, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == opset
        assert_same_lstm(from_onnx(model), lstm)

    @pytest.mark.parametrize("wide", [False, True], ids=["bare", "state and lengths"])
    @pytest.mark.parametrize("options", (OPTIONS | TEXT_ALONE).values(), ids=OPTIONS | TEXT_ALONE)
    def test_there_and_back_to_the_bit(self, options, wide, tmp_path):
        lstm = lstm_of(options)
        for parameter in lstm.params.values():
            parameter.flat[:3] = (-0.0, np.inf, 1e-40)  # of a negative zero, a sum with zero loses the sign
        path = tmp_path / "lstm.onnx"
        model = to_onnx(lstm, path, state=wide, lengths=wide, for_onnxruntime=False)
        onnx.checker.check_model(model, full_check=True)
        for source in (path, str(path), path.read_bytes(), model):
            assert_same_lstm(from_onnx(source), lstm)
        assert [entry.name for entry in tmp_path.iterdir()] == ["lstm.onnx"]

    def test_names_and_sizes(self):
        model = to_onnx(lstm_of({"num_layers": 2}), state=True, lengths=True, name="mine")

        def described(values):
            return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

        assert model.graph.name == "mine" and model.producer_name == "gpulstm"
        states = {"initial_h": [2, "batch", 3], "initial_c": [2, "batch", 3]}
        assert described(model.graph.input) == {"X": ["time", "batch", 4], "sequence_lens": ["batch"]} | states
        assert described(model.graph.output) == {"y": ["time", "batch", 3], "h": [2, "batch", 3], "c": [2, "batch", 3]}

    @pytest.mark.parametrize(
        "options, says",
        [
            ({"proj_size": 2}, "proj_size=2 .the operator LSTM has no projection"),
            ({"layer_norm": True}, "layer_norm=True"),
            ({"zoneout": 0.1}, r"zoneout=\(0.1, 0.1\) .inference mixes"),
            ({"dropout": 0.5, "num_layers": 2}, r"dropout=0.5; ignore=\('dropout',\)"),
            ({"weight_drop": 0.5, "recurrent_dropout": 0.2}, "recurrent_dropout=0.2, weight_drop=0.5"),
            ({"checkpoint_every": 4}, "checkpoint_every=4"),
        ],
    )
    def test_what_onnx_cannot_hold(self, options, says):
        with pytest.raises(ValueError, match=f"an ONNX LSTM cannot hold .*{says}"):
            to_onnx(gl.LSTM(4, 3, **options))

    def test_what_acts_in_training_alone_can_be_left_out(self):
        lstm = lstm_of({"dropout": 0.5, "num_layers": 2})
        assert_same_lstm(from_onnx(to_onnx(lstm, ignore=("dropout",))), lstm_of({"num_layers": 2}))

    def test_what_onnxruntime_computes_differently(self):
        with pytest.raises(ValueError, match="cell_clip=0.3 of the gates alone .* for_onnxruntime=False"):
            to_onnx(lstm_of({"cell_clip": 0.3}))
        with pytest.raises(ValueError, match="no LSTM in float64"):
            to_onnx(lstm_of({"dtype": "float64"}))

    def test_numbers_that_attributes_cannot_hold(self):
        with pytest.raises(ValueError, match="cell_clip must be a number .* such as 0.33333334, got 0.333333333"):
            to_onnx(lstm_of({"cell_clip": 1 / 3}), for_onnxruntime=False)
        with pytest.raises(ValueError, match=r"activations\[1\] must be .* got 1e\+300"):
            to_onnx(lstm_of({"activations": ("sigmoid", ("affine", 1e300, 0.0), "tanh")}))

    def test_other_arguments(self, tmp_path):
        lstm = lstm_of({})
        with pytest.raises(TypeError, match="lstm must be a gpulstm.LSTM, got dict"):
            to_onnx(lstm.params)
        with pytest.raises(ValueError, match="opset must be between 7 and .*, got 6"):
            to_onnx(lstm, opset=6)
        with pytest.raises(ValueError, match="opset must be between 9 and .* for state and lengths together, got 8"):
            to_onnx(lstm, opset=8, state=True, lengths=True)
        with pytest.raises(TypeError, match="opset must be an integer, got str"):
            to_onnx(lstm, opset="22")
        with pytest.raises(FileNotFoundError):
            to_onnx(lstm, tmp_path / "missing" / "lstm.onnx")

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "lstm.onnx"
        to_onnx(lstm_of({}), path)
        before = path.read_bytes()
        monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            to_onnx(lstm_of({"bias": False}), path)
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1

    def test_parameters_of_another_library(self):
        import torch

        lstm = lstm_of({"num_layers": 2})
        theirs = gl.LSTM(4, 3, 2, xp=torch)
        theirs.load_state_dict(lstm.params)
        assert to_onnx(theirs).SerializeToString() == to_onnx(lstm).SerializeToString()
        back = from_onnx(to_onnx(lstm), xp=torch)
        assert all(torch.equal(back.params[name], p) for name, p in theirs.params.items())


class TestOneNode:
    @pytest.mark.parametrize("layout", [0, 1])
    @pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
    @pytest.mark.parametrize("dtype, tolerance", [("float32", FLOAT32), ("float64", 1e-12)])
    def test_the_lstm_computes_the_nodes_numbers(self, dtype, tolerance, direction, layout):
        count = 2 if direction == "bidirectional" else 1
        given = case(
            direction=direction,
            layout=layout,
            clip=0.8,
            input_forget=layout,
            activations=["Sigmoid", ("Affine", 0.5, 0.25), "Softsign"] * count,
            lengths=[5, 0, 2],
            dtype=dtype,
        )
        lstm = from_onnx(stored_model(given))
        assert lstm.batch_first == bool(layout)
        h, c = (given.inputs[name] for name in ("initial_h", "initial_c"))
        state = (h.swapaxes(0, 1), c.swapaxes(0, 1)) if layout else (h, c)
        y, final = lstm(given.inputs["X"], state, lengths=given.inputs["sequence_lens"])
        wanted = onnx_cases.by_the_text(given)
        side_by_side = wanted["Y"] if layout else wanted["Y"].swapaxes(1, 2)
        found = {"y": y, "h": final.h, "c": final.c}
        text = {"y": side_by_side.reshape(y.shape)}
        text |= {key: wanted[f"Y_{key}"].swapaxes(0, 1) if layout else wanted[f"Y_{key}"] for key in ("h", "c")}
        problems.assert_close(found, text, tolerance)

    def test_dtypes(self):
        given = case(dtype="float32")
        assert from_onnx(stored_model(given), dtype="float64").params["bias_l0"].dtype == np.float64
        half = stored_model(case(dtype="float16"))
        with pytest.raises(ValueError, match="the weights must be float32 or float64, got float16; dtype='float32'"):
            from_onnx(half)
        wide = case(dtype="float16")
        wide.inputs = {name: a.astype("float32") if a.dtype == np.float16 else a for name, a in wide.inputs.items()}
        problems.assert_same_bits(from_onnx(half, dtype="float32").params, from_onnx(stored_model(wide)).params)

    def test_bfloat16(self):
        import ml_dtypes

        given = case(dtype="float32", absent=("sequence_lens",))
        given.inputs = {n: a.astype(ml_dtypes.bfloat16).astype("float32") for n, a in given.inputs.items()}
        rounded = from_onnx(stored_model(given))
        given.inputs = {n: a.astype(ml_dtypes.bfloat16) for n, a in given.inputs.items()}
        with pytest.raises(ValueError, match="must be float32 or float64, got bfloat16"):
            from_onnx(stored_model(given))
        found = from_onnx(stored_model(given), dtype="float32")
        problems.assert_same_bits(found.params, rounded.params)

    def test_mixed_dtypes(self):
        given = case(dtype="float32")
        given.inputs["R"] = given.inputs["R"].astype("float64")
        with pytest.raises(ValueError, match="W, R, B and P must have one dtype, got W float32, R float64"):
            from_onnx(stored_model(given))

    @pytest.mark.parametrize("name", ["Softplus", "Elu"])
    def test_activations_that_no_lstm_can_hold(self, name):
        given = case(activations=["Sigmoid", (name, *(0.5,) * len(onnx_cases.ACTIVATIONS[name][0])), "Tanh"])
        with pytest.raises(ValueError, match=f"gpulstm.LSTM cannot hold activations {name}; run_node can"):
            from_onnx(stored_model(given))

    def test_directions_that_differ(self):
        given = case(direction="bidirectional", activations=["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Tanh"])
        with pytest.raises(ValueError, match="cannot hold activations that differ between its directions, got .*relu"):
            from_onnx(stored_model(given))

    @pytest.mark.parametrize("opset", [7, 14, 22])
    def test_opsets(self, opset):
        assert from_onnx(stored_model(case(), opset=opset)).layout.peephole

    def test_an_opset_that_is_too_old(self):
        with pytest.raises(ValueError, match="opset must be 7 or newer, got 6"):
            from_onnx(stored_model(case(), opset=6))


class TestStates:
    def model(self, **stored):
        given = case(dtype="float32", absent=("sequence_lens",))
        given.inputs |= {name: np.asarray(value, "float32") for name, value in stored.items()}
        model = stored_model(given)
        for name in stored:
            model.graph.initializer.append(onnx.numpy_helper.from_array(given.inputs[name], name))
        return model, given

    def test_zeros_are_dropped(self):
        model, _ = self.model(initial_h=np.zeros((1, 3, 2)), initial_c=np.zeros((1, 3, 2)))
        assert from_onnx(model, with_state=True)[1] is None

    def test_inputs_are_for_the_caller(self):
        lstm, state = from_onnx(stored_model(case()), with_state=True)
        assert state is None and lstm.layout.hidden_size == 2

    def test_values_are_given_back_or_refused(self):
        values = np.arange(6.0).reshape(1, 3, 2)
        model, _ = self.model(initial_c=values)
        with pytest.raises(ValueError, match="initial_c is stored .* with_state=True returns it"):
            from_onnx(model)
        _, state = from_onnx(model, with_state=True, dtype="float64")
        assert isinstance(state, gl.State) and state.c.dtype == np.float64
        np.testing.assert_array_equal(state.c, values)
        np.testing.assert_array_equal(state.h, np.zeros_like(values))

    def test_states_that_are_expanded_to_the_batch(self):
        """A learned initial state, and zeros, each expanded by the shape of x."""
        model, _ = self.model(initial_h=[[[3.0, 4.0]]], initial_c=[[[0.0, 0.0]]])
        node = model.graph.node[0]
        shape = [
            helper.make_node("Shape", ["X"], ["shape_of_x"]),
            helper.make_node("Gather", ["shape_of_x", "one"], ["batch"]),
            helper.make_node("Concat", ["one", "batch", "hidden"], ["shape_of_state"], axis=0),
            helper.make_node("Expand", ["initial_h", "shape_of_state"], ["h"]),
            helper.make_node("Expand", ["initial_c", "shape_of_state"], ["c"]),
        ]
        for k, name in ((5, "h"), (6, "c")):
            node.input[k] = name
        for name, number in (("one", 1), ("hidden", 2)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([number]), name))
        del model.graph.node[:]
        model.graph.node.extend([*shape, node])
        _, state = from_onnx(model, with_state=True)
        np.testing.assert_array_equal(state.h, [[[3.0, 4.0]]])
        np.testing.assert_array_equal(state.c, [[[0.0, 0.0]]])
        with pytest.raises(ValueError, match="initial_h is stored"):
            from_onnx(model)

    def test_batch_first_states(self):
        given = case(layout=1, dtype="float32")
        model = stored_model(given)
        model.graph.initializer.append(onnx.numpy_helper.from_array(given.inputs["initial_h"], "initial_h"))
        _, state = from_onnx(model, with_state=True)
        np.testing.assert_array_equal(state.h, given.inputs["initial_h"].swapaxes(0, 1))

    def test_a_state_of_another_shape(self):
        model, _ = self.model(initial_h=np.ones((1, 3, 5)))
        with pytest.raises(ValueError, match=r"initial_h must have shape .* = \(1, batch, 2\), got \(1, 3, 5\)"):
            from_onnx(model, with_state=True)

    def test_lengths_in_the_file(self):
        given = case(dtype="float32", lengths=[5, 2, 3])
        model = stored_model(given)
        model.graph.initializer.append(onnx.numpy_helper.from_array(given.inputs["sequence_lens"], "sequence_lens"))
        with pytest.raises(ValueError, match="sequence_lens is stored in the model, and an LSTM keeps no lengths"):
            from_onnx(model)
        model.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(np.full(3, 5, np.int32), "sequence_lens"))
        model.graph.input[0].CopyFrom(value("X", shape=(5, 3, 4)))
        assert from_onnx(model).layout.input_size == 4  # the whole sequence of five steps
