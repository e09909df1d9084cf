"""Which LSTM nodes of a graph are one `gpulstm.LSTM`, and the constants that a graph puts together."""

import numpy as np
import onnx
import pytest
from onnx import helper

from gpulstm.interop.onnx import from_onnx
from gpulstm.interop.onnx_constants import Graph
from tests import onnx_cases, problems
from tests.onnx_cases import case, model_of, node, stored_model, value


def stack(change=None, lower=(), upper=(), between=None, **sizes):
    """Two LSTM nodes, "one" and "two", with the plainest plumbing between them."""
    low = case(1, dtype="float32", sizes=(5, 3, 4, 2), absent=onnx_cases.INPUTS[3:], **dict(lower))
    count = low.inputs["W"].shape[0]
    tall = {"sizes": (5, 3, 2 * count, 2), **dict(upper)}
    high = case(2, dtype="float32", absent=onnx_cases.INPUTS[3:], **tall)
    one, two = low.node, high.node
    one.name, two.name = "one", "two"
    one.input[:] = ["X", "W1", "R1"]
    two.input[:] = ["x2", "W2", "R2"]
    one.output[:], two.output[:] = ["Y1", "h1"], ["Y2"]
    tensors = {"W1": low.inputs["W"], "R1": low.inputs["R"], "W2": high.inputs["W"], "R2": high.inputs["R"]}
    tensors["shape"] = np.array([0, 0, 2 * count])
    plain = [
        helper.make_node("Transpose", ["Y1"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "shape"], ["x2"]),
    ]
    nodes = [one, *(plain if between is None else between), two]
    outputs = [value("Y2")]
    if change:
        change(nodes, tensors, outputs)
    return model_of(nodes, [value("X")], outputs, tensors)


class TestStacks:
    def test_the_plainest(self):
        lstm = from_onnx(stack())
        assert (lstm.layout.num_layers, lstm.layout.bias) == (2, False)
        single = from_onnx(stack(), node="two")
        np.testing.assert_array_equal(single.params["weight_ih_l0"], lstm.params["weight_ih_l1"])
        problems.assert_same_bits(from_onnx(stack(), node="h1").params, from_onnx(stack(), node="one").params)

    @pytest.mark.parametrize(
        "between",
        [
            [node("Squeeze", ["Y1", "axis"], ["x2"])],
            [node("Squeeze", ["Y1", "axis"], ["s"]), node("Identity", ["s"], ["i"]), node("Dropout", ["i"], ["x2"])],
            [node("Transpose", ["Y1"], ["t"], perm=[1, 0, 2, 3]), node("Gather", ["t", "zero"], ["x2"], axis=0)],
            [node("Reshape", ["Y1", "static"], ["x2"])],
            [
                node("Shape", ["Y1"], ["s"]),
                node("Slice", ["s", "zeros", "axis"], ["first"]),
                node("Slice", ["s", "twos", "fours"], ["last"]),
                node("Concat", ["first", "last"], ["computed"], axis=0),
                node("Reshape", ["Y1", "computed"], ["x2"]),
            ],
        ],
        ids=["squeeze", "identity and dropout", "gather", "sizes built in", "shape computed"],
    )
    def test_plumbing_of_all_kinds(self, between):
        def constants(nodes, tensors, outputs):
            tensors |= {"axis": np.array([1]), "zero": np.array(0), "zeros": np.array([0]), "twos": np.array([2])}
            tensors |= {"fours": np.array([4]), "static": np.array([5, 3, 2])}

        assert from_onnx(stack(constants, between=between)).layout.num_layers == 2

    @pytest.mark.parametrize(
        "between, says",
        [
            ([node("Squeeze", ["Y1", "axis"], ["s"]), node("Relu", ["s"], ["x2"])], "do not read another one's Y"),
            (
                [node("Transpose", ["Y1"], ["t"], perm=[2, 1, 0, 3]), node("Squeeze", ["t", "axis"], ["x2"])],
                "not plain",
            ),
            (
                [node("Squeeze", ["Y1", "axis"], ["s"]), node("Dropout", ["s", "", "true"], ["x2"])],
                "not plain: a dropout of training is random",
            ),
            ([node("Identity", ["h1"], ["x2"])], "do not read another one's Y"),
            ([node("Squeeze", ["Y1", "axis"], ["s"]), node("Add", ["s", "s"], ["x2"])], "not plain"),
        ],
        ids=["relu", "transposed", "training", "hidden state", "doubled"],
    )
    def test_plumbing_that_is_not_plain(self, between, says):
        def constants(nodes, tensors, outputs):
            tensors |= {"axis": np.array([1]), "true": np.array(1)}

        model = stack(constants, between=between)
        with pytest.raises(
            ValueError, match=f"not one stack: .*'one' .4 -> 2, forward.; .*'two'.*{says}.*node=\"name\""
        ):
            from_onnx(model)
        assert from_onnx(model, node="two").layout.input_size == 2

    @pytest.mark.parametrize(
        "upper, says",
        [
            ({"sizes": (5, 3, 2, 3)}, "must have hidden 2 and take 2 features"),
            ({"sizes": (5, 3, 6, 2)}, "must have hidden 2 and take 2 features"),
            ({"direction": "reverse"}, "differ in direction"),
            ({"clip": 0.5, "input_forget": 1}, "differ in clip, coupled"),
            ({"activations": ["Sigmoid", "Relu", "Tanh"]}, "differ in activations"),
        ],
    )
    def test_layers_that_differ(self, upper, says):
        with pytest.raises(ValueError, match=f"these nodes are not one stack.*{says}"):
            from_onnx(stack(upper=upper))

    def test_a_branch_between_the_layers(self):
        def read(nodes, tensors, outputs):
            nodes.append(node("Relu", ["t"], ["elsewhere"], name="nosy"))

        with pytest.raises(ValueError, match="The Y of .*'one' is read by Relu node 'nosy' too"):
            from_onnx(stack(read))

        def output(nodes, tensors, outputs):
            outputs.append(value("x2"))

        with pytest.raises(ValueError, match="The Y of .*'one' is read by the graph's output too"):
            from_onnx(stack(output))

    def test_two_that_read_one(self):
        def third(nodes, tensors, outputs):
            other = onnx.NodeProto()
            other.CopyFrom(nodes[-1])
            other.name, other.output[0] = "three", "Y3"
            nodes.append(other)

        with pytest.raises(ValueError, match="The Y of LSTM node 'one' goes to 2 of them"):
            from_onnx(stack(third))

    def test_names_that_are_not_there(self):
        with pytest.raises(ValueError, match="node must be .* got 'three'; there is 'one', 'two'"):
            from_onnx(stack(), node="three")
        with pytest.raises(TypeError, match="node must be the name of a node, got int"):
            from_onnx(stack(), node=1)

    def test_bias_in_one_layer_alone(self):
        def bias(nodes, tensors, outputs):
            nodes[-1].input.append("B2")
            tensors["B2"] = np.arange(16, dtype=np.float32).reshape(1, 16)

        lstm = from_onnx(stack(bias))
        np.testing.assert_array_equal(lstm.params["bias_l0"], np.zeros(8))
        np.testing.assert_array_equal(lstm.params["bias_l1"], [8, 10, 16, 18, 20, 22, 12, 14])  # i, f, g, o

    @pytest.mark.parametrize("after", [True, False])
    def test_a_transpose_at_both_ends_is_batch_first(self, after):
        def transposes(nodes, tensors, outputs):
            nodes.insert(0, node("Transpose", ["X"], ["x1"], perm=[1, 0, 2]))
            nodes[1].input[0] = "x1"
            tensors["one"] = np.array([1])
            nodes.append(node("Squeeze", ["Y2", "one"], ["squeezed"]))
            nodes.append(
                node("Transpose", ["squeezed"], ["last"], perm=[1, 0, 2]) if after else node("Relu", ["Y2"], ["last"])
            )

        assert from_onnx(stack(transposes)).batch_first == after


class TestConstants:
    """Weights that the graph puts together from what it stores."""

    def test_pieces_put_together(self):
        given = case(dtype="float32")
        model = stored_model(given)
        w, r = given.inputs["W"], given.inputs["R"]
        del model.graph.initializer[:2]
        tensors = {
            "upper": w[0, :3],
            "lower": w[0, 3:],
            "turned": r.transpose(2, 0, 1),
            "padded": np.tile(r[0], (3, 1)),
        }
        tensors |= {"axis": np.array([0]), "8": np.array([8]), "16": np.array([16])}
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.ascontiguousarray(each), name) for name, each in tensors.items()
        )
        before = [
            node("Concat", ["upper", "lower"], ["joined"], axis=0),
            node("Unsqueeze", ["joined", "axis"], ["W"]),
            node("Slice", ["padded", "8", "16", "axis"], ["middle"]),
            node("Identity", ["middle"], ["same"]),
            node("Constant", [], ["shape"], value_ints=[1, -1, 2]),
            node("Reshape", ["same", "shape"], ["R"]),
        ]
        nodes = [*before, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        problems.assert_same_bits(from_onnx(model).params, from_onnx(stored_model(given)).params)
        model.graph.node[0].CopyFrom(node("Transpose", ["turned"], ["R2"], perm=[1, 2, 0]))
        np.testing.assert_array_equal(Graph(model, None).constant("R2"), r)

    def test_older_and_newer_forms(self):
        data = np.arange(24.0).reshape(2, 3, 4)
        tensors = {"data": data, "two": np.array([2]), "minus": np.array([-1]), "start": np.array([-1, 0])}
        tensors |= {
            "end": np.array([-9, 2]),
            "axes": np.array([1, 2]),
            "steps": np.array([-2, 1]),
            "pair": np.array([3, 1]),
        }
        nodes = [
            node("Slice", ["data"], ["a"], starts=[1], ends=[99], axes=[2]),
            node("Slice", ["data", "start", "end", "axes", "steps"], ["b"]),
            node("Split", ["data"], ["c1", "c2"], axis=2),
            node("Split", ["data", "pair"], ["d1", "d2"], axis=2),
            node("Unsqueeze", ["data"], ["e"], axes=[0]),
            node("Squeeze", ["e"], ["f"], axes=[0]),
            node("Reshape", ["data", "minus"], ["g"]),
            node("Cast", ["two"], ["h"], to=onnx.TensorProto.INT32),
            node("Mul", ["two", "minus"], ["i"]),
            node("ConstantOfShape", ["two"], ["j"]),
            node("Expand", ["two", "pair"], ["k"]),
            node("Constant", [], ["l"], value_floats=[0.5, 2.0]),
            node("Shape", ["data"], ["m"], start=1),
        ]
        graph = Graph(model_of(nodes, [], [], tensors), None)
        wanted = {
            "a": data[:, :, 1:],
            "b": data[:, ::-2, :2],
            "c2": data[:, :, 2:],
            "d1": data[:, :, :3],
            "f": data,
            "g": data.reshape(-1),
            "h": [2],
            "i": [-2],
            "j": [0, 0],
            "k": np.full((3, 1), 2),
            "l": [0.5, 2],
            "m": [3, 4],
        }
        for name, expected in wanted.items():
            np.testing.assert_array_equal(graph.constant(name), expected, err_msg=name)
