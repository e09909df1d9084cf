"""Graphs in which the LSTM is not where it should be, or whose constants ask for what the file does not account for."""

import numpy as np
import pytest
from onnx import helper

from gpulstm.interop.onnx_constants import COPIES
from tests.onnx_cases import case, model_of, node, stored_model, value
from tests.onnx_hostile import graph_with, refused


class TestGraphs:
    def test_without_an_lstm(self):
        relu = helper.make_node("Relu", ["X"], ["Y"])
        refused(model_of([relu], [value("X")], [value("Y")]).SerializeToString(), "must have an LSTM node, got 1 nodes")
        refused(model_of([], [], []).SerializeToString(), "must have an LSTM node, got an empty graph")
        gru = helper.make_node("GRU", ["X", "W", "R"], ["Y"])
        refused(model_of([gru], [], []).SerializeToString(), "must have an LSTM node, got GRU nodes")
        foreign = helper.make_node("LSTM", ["X", "W", "R"], ["Y"], domain="com.example")
        refused(model_of([foreign], [], []).SerializeToString(), "got LSTM nodes of another domain")

    def test_inside_a_subgraph_or_a_function(self):
        body = helper.make_graph([case().node], "body", [], [value("Y")])
        both = helper.make_node("If", ["condition"], ["Y"], name="choice", then_branch=body, else_branch=body)
        refused(model_of([both], [], []).SerializeToString(), "got one inside the subgraph of 'choice' alone")
        model = model_of([helper.make_node("mine", ["X"], ["Y"], domain="local")], [], [])
        opsets = [helper.make_opsetid("", 22)]
        model.functions.append(helper.make_function("local", "mine", ["X"], ["Y"], [case().node], opsets))
        refused(model.SerializeToString(), "got one in the function 'mine' alone; onnx.inliner")

    def test_unknown_activations_and_directions(self):
        given = case()
        given.attributes["activations"] = ["Sigmoid", "Tanh", "Swish"]
        refused(stored_model(given).SerializeToString(), "activations must be among .* got 'Swish'")
        given = case()
        given.attributes["direction"] = "up"
        refused(
            stored_model(given).SerializeToString(), "direction must be forward, reverse or bidirectional, got 'up'"
        )

    def test_circles_and_long_rows(self):
        circle = [node("Identity", ["b"], ["W"]), node("Identity", ["W"], ["b"])]
        refused(graph_with(circle), "without circles and in at most 100 nodes")
        row = [node("Identity", [f"v{k + 1}"], [f"v{k}"]) for k in range(5000)]
        long = graph_with([node("Identity", ["v0"], ["W"]), *row])
        refused(long, "without circles and in at most 100 nodes", times=16)  # Python's objects for 5000 tiny nodes

    def test_one_value_twice(self):
        refused(graph_with([node("Identity", ["kept"], ["W"])] * 2), "must compute each value once, got 'W' twice")

    def test_sizes_that_double(self):
        """Each node doubles what it is given: 2 to the 60th."""
        row = [node("Concat", [f"v{k}", f"v{k}"], [f"v{k + 1}"], axis=0) for k in range(60)]
        start = node("Identity", ["kept"], ["v0"])
        refused(graph_with([start, *row, node("Identity", ["v60"], ["W"])]), "more memory than the stored tensors")
        empty = [node("Concat", [f"v{k}", f"v{k}"], [f"v{k + 1}"], axis=0) for k in range(60)]
        nothing = [node("Identity", ["none"], ["v0"]), *empty, node("Identity", ["v60"], ["W"])]
        refused(graph_with(nothing, {"none": np.zeros((0, 8, 4), "float32")}), "none of them empty")

    @pytest.mark.parametrize(
        "nodes",
        [
            [node("Expand", ["one", "huge"], ["W"])],
            [node("Expand", ["one", "huge"], ["e"]), node("Reshape", ["e", "flat"], ["W"])],
            [node("ConstantOfShape", ["huge"], ["W"])],
            [node("Gather", ["one", "zeros"], ["g"]), node("Gather", ["g", "zeros"], ["W"])],
        ],
        ids=["expand", "reshape", "constant of shape", "gather"],
    )
    def test_sizes_out_of_nothing(self, nodes):
        tensors = {"one": np.ones((1, 1, 1), "float32"), "huge": np.array([1 << 20, 1 << 20, 1 << 10])}
        tensors |= {"flat": np.array([1, 1 << 40, 1 << 10]), "zeros": np.zeros((30, 30, 30), np.int64)}
        refused(graph_with(nodes, tensors), "more memory than the stored tensors account for|do(es)? not fit", COPIES)

    @pytest.mark.parametrize(
        "broken",
        [
            node("Transpose", ["kept"], ["W"], perm=[0, 1, 7]),
            node("Transpose", ["kept"], ["W"], perm=2.5),
            node("Reshape", ["kept", "shape"], ["W"]),
            node("Reshape", ["kept"], ["W"]),
            node("Slice", ["kept", "shape"], ["W"]),
            node("Slice", ["kept"], ["W"], starts=[0], ends=[1], axes=[9]),
            node("Gather", ["kept", "shape"], ["W"]),
            node("Gather", ["kept", "shape"], ["W"], axis=9),
            node("Split", ["kept", "shape"], ["W", "b"]),
            node("Split", ["kept"], ["W", "b", "c"], axis=5),
            node("Concat", ["kept", "shape"], ["W"], axis=0),
            node("Concat", [], ["W"], axis=0),
            node("Squeeze", ["kept", "shape"], ["W"]),
            node("Unsqueeze", ["kept", "shape"], ["W"]),
            node("Unsqueeze", ["", "shape"], ["W"]),
            node("Constant", [], ["W"]),
            node("Constant", [], ["W"], value_strings=["a"]),
            node("Constant", [], ["W"], value_int=3),
            node("ConstantOfShape", ["kept"], ["W"]),
            node("Expand", ["kept", "shape"], ["W"]),
            node("Cast", ["kept"], ["W"], to=11),
            node("Mul", ["kept", "kept"], ["W"]),
            node("Shape", ["kept"], ["W"], start="x"),
        ],
        ids=lambda each: each.op_type,
    )
    def test_nodes_that_do_not_fit(self, broken):
        refused(graph_with([broken], {"shape": np.array([7, -5, 3])}), "LSTM|node 'W'|tensor")
