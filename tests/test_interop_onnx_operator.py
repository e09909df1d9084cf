"""`run_node`: ONNX's operator LSTM as its text has it, on every array path; and what other runtimes do differently."""

import numpy as np
import onnx
import pytest
from onnx import helper

from gpulstm.interop.onnx import Backend, run_node
from tests import backends, onnx_cases, problems
from tests.onnx_cases import by_the_text, case, random_case

BACKENDS = (backends.NUMPY, backends.EQUATIONS, backends.CUPY_ON_CPU, backends.GPU)
# float32 rounds at 6e-8; a few hundred operations, on values of a few units, stay below ten times that.
FLOAT32 = 1e-6


def ran(given, xp=np.asarray):
    return run_node(given.node, [xp(array) for array in given.listed])._asdict()


def against_onnxruntime(given, **differences):
    found = onnx_cases.run_in_onnxruntime(given.model, given.inputs)
    wanted = by_the_text(given, **differences)
    problems.assert_close(dict(zip(wanted, found, strict=True)), wanted, FLOAT32)


@pytest.mark.parametrize("seed", range(100))
def test_random_nodes_follow_the_text(seed):
    given = random_case(seed)
    with np.errstate(over="ignore"):
        wanted = by_the_text(given)
    problems.assert_close(ran(given), wanted, 1e-11)  # rounding, times up to a hundred for what a cell piles up


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_every_array_path(backend, direction, layout):
    hard = [("HardSigmoid", 0.3, 0.4), "Softsign", "Relu"]
    given = case(
        direction=direction,
        layout=layout,
        activations=hard + ["Sigmoid", ("Affine", 0.5, 0.1), "Tanh"] * (direction == "bidirectional"),
        clip=0.9,
        lengths=[5, 0, 2],
    )
    found = run_node(given.node, [backend.array(a) for a in given.listed])
    problems.assert_close(backend.numpy(found._asdict()), by_the_text(given))


@pytest.mark.parametrize("name", [name for name in onnx_cases.ACTIVATIONS])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_activation_at_each_place(backend, name, place):
    chosen = ["Sigmoid", "Tanh", "Tanh"]
    chosen[place] = (name, *(0.7, 0.3)[: len(onnx_cases.ACTIVATIONS[name][0])])
    given = case(activations=chosen, lengths=[2, 0, 1], scale=0.5)
    found = run_node(given.node, [backend.array(a) for a in given.listed])
    problems.assert_close(backend.numpy(found._asdict()), by_the_text(given))


def test_activation_names_in_any_case_and_parameters_where_none_are_written():
    names = ["hardsigmoid", "LEAKYRELU", "elu", "Affine", "scaledtanh", "ThresholdedRelu"]
    given = case(direction="bidirectional")
    given.attributes["activations"] = names
    given.functions = [
        ("HardSigmoid", 0.2, 0.5),
        ("LeakyRelu", 0.01),
        ("Elu", 1.0),
        ("Affine", 1.0, 0.0),
        ("ScaledTanh", 1.0, 1.0),
        ("ThresholdedRelu", 1.0),
    ]
    problems.assert_close(ran(given), by_the_text(given))


def test_half_of_the_parameters_go_to_the_first_that_take_them():
    given = case(activations=[("HardSigmoid", 0.3, 0.4), "Tanh", ("Affine", 1.0, 0.0)])
    given.attributes["activation_alpha"], given.attributes["activation_beta"] = [0.3], [0.4]
    problems.assert_close(ran(given), by_the_text(given))


@pytest.mark.parametrize("wanted", [("Y",), ("", "Y_h"), ("", "", "Y_c"), ("Y", "", "Y_c"), ("c", "b", "a")])
def test_outputs_come_in_the_nodes_order_and_absent_ones_do_not(wanted):
    given = case()
    node = given.node
    del node.output[:]
    node.output.extend(wanted)
    found, full = run_node(node, given.listed), ran(given)
    assert found._fields == tuple(filter(None, wanted))
    for name, formal in zip(wanted, full, strict=False):
        if name:
            np.testing.assert_array_equal(getattr(found, name), full[formal])


def test_inputs_as_a_list_with_gaps_or_by_name():
    given = case(absent=("sequence_lens", "initial_h"))
    whole = ran(given)
    gaps = [given.inputs.get(name) for name in onnx_cases.INPUTS]
    problems.assert_same_bits(run_node(given.node, gaps)._asdict(), whole)
    problems.assert_same_bits(run_node(given.node, given.inputs)._asdict(), whole)
    problems.assert_close(whole, by_the_text(given))


@pytest.mark.parametrize("sizes", [(0, 3, 4, 2), (5, 0, 4, 2)], ids=["no time", "no sequence"])
@pytest.mark.parametrize("activations", [None, ["Elu", "Softplus", "Tanh"]])
def test_nothing_to_do(sizes, activations):
    given = case(sizes=sizes, absent=("sequence_lens",))
    if activations:
        given.attributes["activations"] = activations
    wanted = by_the_text(given)
    problems.assert_close(ran(given), wanted)


class TestDevices:
    BACKENDS = backends.KERNELS

    def test_numpy_arrays_go_to_the_gpu_and_back(self, backend):
        given = case(direction="bidirectional", dtype="float32")
        found = run_node(given.node, given.listed, device="CUDA")
        assert all(type(array) is np.ndarray for array in found)
        problems.assert_close(found._asdict(), by_the_text(given), FLOAT32)

    def test_arrays_that_are_there_stay(self, backend):
        given = case(dtype="float32")
        for device in ("CPU", "CUDA:0"):
            found = run_node(given.node, [backend.array(a) for a in given.listed], device=device)
            assert all(type(array) is type(backend.array(given.listed[0])) for array in found)

    def test_devices_that_are_none(self, backend):
        with pytest.raises(ValueError, match="device must be such as 'CPU', 'CUDA' or 'CUDA:1', got 'CUDA:x'"):
            run_node(case().node, case().listed, device="CUDA:x")


class TestOnnxsOwnBackendTests:
    def cases(self):
        import onnx.backend.test.case.node as node
        import onnx.backend.test.case.node.lstm  # noqa: F401 - this alone: all operators' cases take ten seconds

        found = {each.name: each for each in node._NodeTestCases if each.name.startswith("test_lstm_")}
        assert len(found) >= 6, "onnx keeps its cases elsewhere"
        return found.values()

    def test_models(self):
        from onnx.backend.test.runner import Runner

        for each in self.cases():
            assert Backend.is_compatible(each.model) and Backend.supports_device("CPU")
            for inputs, outputs in each.data_sets:
                found = Backend.prepare(each.model, "CPU").run(inputs)
                Runner.assert_similar_outputs(outputs, found, rtol=each.rtol, atol=each.atol)
                problems.assert_same_bits(
                    dict(enumerate(Backend.run_model(each.model, inputs))), dict(enumerate(found))
                )

    def test_nodes(self):
        for each in self.cases():
            for inputs, outputs in each.data_sets:
                found = Backend.run_node(each.model.graph.node[0], inputs, opset_version=22)
                problems.assert_close(dict(enumerate(found)), dict(enumerate(outputs)), FLOAT32)

    def test_stored_weights_and_inputs_by_name(self):
        given = case(dtype="float32")
        stored = onnx_cases.stored_model(given)
        feed = {name: a for name, a in given.inputs.items() if name not in ("W", "R", "B", "P")}
        problems.assert_same_bits(Backend.prepare(stored).run(feed)._asdict(), ran(given))

    def test_what_it_does_not_run(self):
        two = case().model
        two.graph.node.add(op_type="Identity", input=["Y"], output=["Z"])
        assert not Backend.is_compatible(two)
        assert not Backend.supports_device("TPU")
        with pytest.raises(ValueError, match="model must be one LSTM node, got LSTM, Identity"):
            Backend.prepare(two)
        with pytest.raises(ValueError, match="inputs must be X, W, R, B, .*, got 2"):
            Backend.prepare(case().model).run([1, 2])


class TestOnnxruntime:
    """Where it follows the text, and where it does not."""

    @pytest.mark.parametrize("seed", range(40))
    def test_it_agrees(self, seed):
        given = random_case(seed, "float32", scale=0.5)  # so that no cell grows to where rounding is amplified
        given.attributes.pop("clip", None)
        if given.attributes.get("layout"):
            given.attributes.pop("layout")
            swapped = [name for name in ("X", "initial_h", "initial_c") if name in given.inputs]
            given.inputs |= {name: np.ascontiguousarray(given.inputs[name].swapaxes(0, 1)) for name in swapped}
        if "sequence_lens" in given.inputs:
            given.inputs["sequence_lens"] = np.maximum(given.inputs["sequence_lens"], 1)
        against_onnxruntime(given)
        problems.assert_close(ran(given), by_the_text(given), FLOAT32)

    @pytest.mark.parametrize("input_forget", [0, 1])
    def test_clip_bounds_the_gates_and_not_the_cell(self, input_forget):
        given = case(clip=0.6, input_forget=input_forget, dtype="float32")
        against_onnxruntime(given, clip_of_cell=False)
        other = by_the_text(given)["Y"] - by_the_text(given, clip_of_cell=False)["Y"]
        assert np.abs(other).max() > 0.01
        problems.assert_close(ran(given), by_the_text(given), FLOAT32)

    @pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
    def test_a_sequence_of_length_zero_ends_with_zeros(self, direction):
        given = case(direction=direction, lengths=[4, 0, 2], dtype="float32")
        against_onnxruntime(given, empty_keeps_state=False)
        problems.assert_close(ran(given), by_the_text(given), FLOAT32)

    @pytest.mark.parametrize(
        "name, parameters", [("Affine", (0.0, 0.0)), ("ScaledTanh", (0.0, 0.0)), ("ThresholdedRelu", (0.0,))]
    )
    def test_parameters_that_are_not_written_are_zero(self, name, parameters):
        given = case(dtype="float32")
        given.attributes["activations"] = ["Sigmoid", name, "Tanh"]
        given.functions = [("Sigmoid",), (name, *parameters), ("Tanh",)]
        against_onnxruntime(given)

    @pytest.mark.parametrize(
        "options, says",
        [
            ({"layout": 1, "dtype": "float32"}, "layout"),
            ({"dtype": "float64"}, "does not support double"),
            ({"clip": 0.0, "dtype": "float32"}, "clip"),
        ],
        ids=["layout", "double", "clip 0"],
    )
    def test_what_it_refuses(self, options, says):
        given = case(**options)
        with pytest.raises(Exception, match=says):  # its errors have no class that it promises
            onnx_cases.run_in_onnxruntime(given.model, given.inputs)


class TestOnnxsReferenceEvaluator:
    def run(self, given):
        from onnx.reference import ReferenceEvaluator

        return dict(zip(("Y", "Y_h", "Y_c"), ReferenceEvaluator(given.model).run(None, given.inputs), strict=True))

    @pytest.mark.parametrize("layout", [0, 1])
    @pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
    def test_it_follows_the_text_in_direction_layout_states_and_peepholes(self, direction, layout):
        given = case(direction=direction, layout=layout)
        problems.assert_close(self.run(given), by_the_text(given))

    @pytest.mark.parametrize(
        "options",
        [
            {"clip": 0.3},
            {"input_forget": 1},
            {"activations": ["Tanh", "Relu", "Softsign"]},
            {"lengths": [2, 0, 1]},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_it_passes_over_the_rest(self, options):
        given = case(**options)
        problems.assert_close(self.run(given), by_the_text(case()))
        assert np.abs(by_the_text(given)["Y"] - by_the_text(case())["Y"]).max() > 0.01


class TestErrors:
    @pytest.mark.parametrize(
        "attributes, says",
        [
            ({"direction": "sideways"}, "direction must be forward, reverse or bidirectional, got 'sideways'"),
            ({"layout": 2}, "layout must be 0 or 1, got 2"),
            ({"input_forget": -1}, "input_forget must be 0 or 1, got -1"),
            ({"clip": 0.0}, "clip must be positive and finite, got 0.0"),
            ({"clip": float("nan")}, "clip must be positive and finite, got nan"),
            ({"clip": 1}, "clip must be of type FLOAT"),
            ({"activations": ["Sigmoid", "Tanh"]}, "activations must be three for each of 1 directions, got 2"),
            ({"activations": ["Sigmoid", "Tanh", "Swish"]}, "activations must be among .*, got 'Swish'"),
            ({"activation_alpha": [0.5]}, "one number for each activation that takes one .*got 1 too many"),
            (
                {"activations": ["Affine", "Tanh", "Tanh"], "activation_alpha": [float("inf")]},
                "finite parameters, got .*inf.* for Affine",
            ),
            (
                {"hidden_size": 3},
                r"W must have shape \(directions, 4\*hidden, inputs\) = \(1, 12, 4\), got \(1, 8, 4\)",
            ),
            ({"output_sequence": 1}, "attributes must be among .*, got 'output_sequence'"),
            ({"direction": "bidirectional"}, r"W must .* = \(2, 8, 4\), got .*; R must .*; B must .*; P must"),
        ],
    )
    def test_attributes(self, attributes, says):
        given = case()
        given.attributes |= attributes
        with pytest.raises(ValueError, match=f"LSTM node 'the_node': .*{says}"):
            ran(given)

    @pytest.mark.parametrize(
        "name, shape, says",
        [
            ("X", (5, 3, 9), r"X must have shape \(time, batch, inputs\) with inputs = 4 as W has, got \(5, 3, 9\)"),
            ("X", (5, 3), r"X must have shape .*, got \(5, 3\)"),
            ("W", (8, 4), r"W and R must have 3 axes, .* got W \(8, 4\)"),
            ("W", (1, 8, 0), r"none of them empty, got W \(1, 8, 0\)"),
            ("R", (1, 2, 8), r"R must have shape \(directions, 4\*hidden, hidden\) = \(1, 8, 2\), got \(1, 2, 8\)"),
            ("B", (1, 8), r"B must have shape \(directions, 8\*hidden\) = \(1, 16\), got \(1, 8\)"),
            ("P", (1, 8), r"P must have shape \(directions, 3\*hidden\) = \(1, 6\), got \(1, 8\)"),
            ("initial_h", (3, 1, 2), r"initial_h must have shape \(directions, batch, hidden\) = \(1, 3, 2\), got"),
            ("initial_c", (1, 3, 5), r"initial_c must have shape .* = \(1, 3, 2\), got \(1, 3, 5\); layout is 0"),
            ("sequence_lens", (1, 3), r"sequence_lens must have shape \(batch,\) = \(3,\), got \(1, 3\)"),
        ],
    )
    def test_shapes(self, name, shape, says):
        given = case()
        given.inputs[name] = np.zeros(shape, given.inputs[name].dtype)
        with pytest.raises(ValueError, match=says):
            ran(given)

    def test_opsets_before_an_attribute(self):
        given = case(layout=1)
        with pytest.raises(ValueError, match="attributes must be among .*, got 'layout'"):
            run_node(given.node, given.listed, opset_version=13)
        with pytest.raises(ValueError, match="opset must be 7 or newer, got 1"):
            run_node(given.node, given.listed, opset_version=1)

    @pytest.mark.parametrize("kind, domain", [("GRU", ""), ("LSTM", "com.microsoft")])
    def test_other_nodes(self, kind, domain):
        with pytest.raises(ValueError, match="node must be an LSTM of ONNX's own domain, got"):
            run_node(helper.make_node(kind, ["X"], ["Y"], domain=domain), [])

    def test_other_inputs(self):
        given = case()
        with pytest.raises(ValueError, match="inputs must be X, W, R, B, .*, got 2 of them"):
            run_node(given.node, given.listed[:2])
        with pytest.raises(ValueError, match="inputs must be among X, W, .*, got 'x'"):
            run_node(given.node, {"x": given.inputs["X"]})
        with pytest.raises(ValueError, match="X, W and R must be there, W and R missing"):
            run_node(given.node, {"X": given.inputs["X"]})
        with pytest.raises(TypeError, match="inputs must be a list of arrays or a dict, got ndarray"):
            run_node(given.node, given.inputs["X"])
        with pytest.raises(TypeError, match="W must have X's dtype float64, got float32"):
            run_node(given.node, given.inputs | {"W": given.inputs["W"].astype("float32")})
        with pytest.raises(TypeError, match="x must have dtype float32 or float64, got float16"):
            ran(case(dtype="float16"))
        with pytest.raises(ValueError, match="lengths must be between 0 and the number of time steps 5, got 9"):
            ran(case(lengths=[9, 1, 1]))

    def test_a_reference_into_a_function(self):
        node = case().node
        node.attribute.append(onnx.AttributeProto(name="clip", type=onnx.AttributeProto.FLOAT, ref_attr_name="outer"))
        with pytest.raises(ValueError, match="clip must be given here, got a reference into a function"):
            run_node(node, case().listed)
