"""Which LSTM nodes of a graph are one stack of layers, and what they are given.

Between the layers of a stack there is plumbing: Y (time, directions, batch, hidden) becomes the next X (time, batch,
directions * hidden). Exporters write that in many ways, with shapes computed at run time. So it is not compared with
patterns: numbers are sent through it, at two sizes, and must come out in their places.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from . import onnx_operator
from .onnx_constants import DEEPEST, Graph, NotConstantError, only_plumbing
from .onnx_operator import Operator

_PROBES = ((2, 3), (5, 2))
"""(time, batch) of the numbers sent through plumbing."""

_LARGEST_PROBE = 1 << 12
"""Time times batch: where more is built in, the numbers would take much more memory than the weights."""


@dataclass
class Layer:
    """One LSTM node with its weights."""

    node: NodeProto
    operator: Operator
    weights: dict[str, np.ndarray]  # W, R and, where there are any, B and P
    input_size: int
    hidden_size: int

    def __str__(self) -> str:
        return f"{self.operator.label} ({self.input_size} -> {self.hidden_size}, {self.operator.direction})"


def layers_of(graph: Graph, node: str | None) -> list[Layer]:
    """The node of that name, or all LSTM nodes as one stack, first layer first.

    A node is also known by the name of any of its outputs. Raises ValueError that lists the nodes where there is no
    such node, or where they are not one stack.
    """
    nodes = [each for each in graph.proto.node if onnx_operator.is_lstm(each)]
    if node is not None:
        if not isinstance(node, str):
            raise TypeError(f"node must be the name of a node, got {type(node).__name__}")
        named = [each for each in nodes if node and (each.name == node or node in each.output)]
        if len(named) != 1:
            names = ", ".join(repr(each.name or next(iter(each.output), "")) for each in nodes) or "no LSTM node"
            raise ValueError(f"node must be the name of one LSTM node or of its output, got {node!r}; there is {names}")
        return [_layer(graph, named[0])]
    if not nodes:
        raise ValueError(f"the model must have an LSTM node, got {_whereabouts(graph.model)}")
    layers = [_layer(graph, each) for each in nodes]
    if len(layers) == 1:
        return layers
    try:
        return _stacked(graph, layers)
    except ValueError as error:
        listed = "; ".join(map(str, layers[:20]))
        raise ValueError(
            f'these nodes are not one stack: {listed}. {error}. Pass node="name" for one of them by itself'
        ) from error


def is_batch_first(graph: Graph, layers: list[Layer]) -> bool:
    """Whether the stack's x and y have the batch first: by the attribute layout, or because a Transpose stands before
    the first node and another one behind the last, as exporters write it for runtimes that have no layout."""
    first, last = layers[0].operator, layers[-1].operator
    if first.batch_first:
        return True
    before = graph.producers.get(first.inputs["X"])
    if before is None or not _swaps(before):
        return False
    y = last.outputs["Y"]
    names = _reached(graph, y)[0]
    return any(
        _comes_out(graph, y, probe, name, _plain(probe, last).swapaxes(0, 1))
        for probe in _probes(graph, layers[-1])[0]
        for name in names
    )


def _layer(graph: Graph, node: NodeProto) -> Layer:
    operator = onnx_operator.read_node(node, graph.opset)
    weights = {}
    for name in ("W", "R", "B", "P"):
        if operator.inputs[name]:
            try:
                weights[name] = graph.constant(operator.inputs[name])
            except NotConstantError as error:
                raise ValueError(
                    f"{operator.label}: {name} must be stored in the model, and {error}; "
                    f"run_node takes weights as inputs"
                ) from error
    inputs, hidden = onnx_operator.check_shapes(operator, weights)
    return Layer(node, operator, weights, inputs, hidden)


def _whereabouts(model: onnx.ModelProto) -> str:
    """What there is instead of an LSTM node in the main graph."""
    for function in model.functions:
        if any(map(onnx_operator.is_lstm, function.node)):
            return f"one in the function {function.name!r} alone; onnx.inliner brings it into the graph"
    waiting = [(node, node.name or node.op_type) for node in model.graph.node]
    others = sorted({node.op_type for node in model.graph.node if node.op_type in ("GRU", "RNN", "LSTM")})
    while waiting:
        node, outer = waiting.pop()
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                if any(map(onnx_operator.is_lstm, graph.node)):
                    return f"one inside the subgraph of {outer!r} alone, which runs it once, often or never"
                waiting += [(inner, outer) for inner in graph.node]
    if others:
        return f"{', '.join(others)} nodes" + (" of another domain" if "LSTM" in others else "")
    return f"{len(model.graph.node)} nodes of other kinds" if model.graph.node else "an empty graph"


def _stacked(graph: Graph, layers: list[Layer]) -> list[Layer]:
    """The layers in the order of their stack. Raises ValueError with the reason why they are none."""
    by_output = {layer.operator.outputs["Y"]: layer for layer in layers if layer.operator.outputs["Y"]}
    before = [_layer_before(graph, layer, by_output) for layer in layers]
    starts = [layer for layer, found in zip(layers, before, strict=True) if found is None]
    if len(starts) != 1:
        labels = " and ".join(layer.operator.label for layer in starts)
        raise ValueError(f"{labels} do not read another one's Y" if starts else "They read one another in a circle")
    ordered = starts
    while len(ordered) < len(layers):
        after = [layer for layer, found in zip(layers, before, strict=True) if found is ordered[-1]]
        if len(after) != 1:
            raise ValueError(f"The Y of {ordered[-1].operator.label} goes to {len(after)} of them")
        ordered.append(after[0])
    for upper, lower in zip(ordered[1:], ordered[:-1], strict=True):
        _check_alike(lower, upper)
        _check_branches(graph, lower, upper)
        _check_plumbing(graph, lower, upper)
    return ordered


def _layer_before(graph: Graph, layer: Layer, by_output: dict[str, Layer]) -> Layer | None:
    """Whose Y is this layer's X, with nothing but plumbing between?"""
    name = layer.operator.inputs["X"]
    for _ in range(DEEPEST):
        if name in by_output:
            return by_output[name]
        node = graph.producers.get(name)
        if node is None or not node.input or not only_plumbing([node]):
            return None
        name = node.input[0]
    return None


def _check_alike(lower: Layer, upper: Layer) -> None:
    one, other = lower.operator, upper.operator
    names = ("direction", "activations", "clip", "coupled", "batch_first")
    differing = [name for name in names if getattr(one, name) != getattr(other, name)]
    differing += ["P"] if ("P" in lower.weights) != ("P" in upper.weights) else []
    differing += ["the dtype"] if lower.weights["W"].dtype != upper.weights["W"].dtype else []
    if differing:
        raise ValueError(f"{one.label} and {other.label} differ in {', '.join(differing)}")
    width = one.directions * lower.hidden_size
    if lower.hidden_size != upper.hidden_size or upper.input_size != width:
        raise ValueError(f"{other.label} must have hidden {lower.hidden_size} and take {width} features")


def _check_branches(graph: Graph, lower: Layer, upper: Layer) -> None:
    """Nothing else may read what one layer hands to the next: an LSTM keeps that to itself."""
    names, readers = _reached(graph, lower.operator.outputs["Y"])
    others = [node for node in readers if node is not upper.node and not only_plumbing([node])]
    if others or names & graph.outputs:
        who = "the graph's output" if not others else f"{others[0].op_type} node {others[0].name!r}"
        raise ValueError(f"The Y of {lower.operator.label} is read by {who} too")


def _reached(graph: Graph, name: str) -> tuple[set[str], list[NodeProto]]:
    """All that plumbing makes of a value, and the nodes that read any of it."""
    names: set[str] = set()
    readers: list[NodeProto] = []
    waiting = [name] if name else []
    while waiting:
        name = waiting.pop()
        if not name or name in names:
            continue
        names.add(name)
        for node in graph.consumers.get(name, []):
            readers.append(node)
            if only_plumbing([node]):
                waiting += node.output
    return names, readers


def _check_plumbing(graph: Graph, lower: Layer, upper: Layer) -> None:
    y, x = lower.operator.outputs["Y"], upper.operator.inputs["X"]
    probes, enough = _probes(graph, lower)
    if not enough(_comes_out(graph, y, probe, x, _plain(probe, lower.operator)) for probe in probes):
        try:
            graph.with_values({y: probes[0]}, x)
            reason = "what comes out is not Y with its directions side by side"
        except ValueError as error:
            reason = str(error)
        raise ValueError(f"What lies between {lower.operator.label} and {upper.operator.label} is not plain: {reason}")


def _comes_out(graph: Graph, y: str, probe: np.ndarray, name: str, wanted: np.ndarray) -> bool:
    """Whether plumbing makes ``wanted`` of the numbers that are sent through it."""
    try:
        return np.array_equal(graph.with_values({y: probe}, name), wanted)
    except ValueError:  # it does not fit these numbers, or is no plumbing
        return False


def _probes(graph: Graph, layer: Layer) -> tuple[list[np.ndarray], Callable[[Iterable[bool]], bool]]:
    """Different numbers in Y's shape, and how many of the shapes must come out right.

    A Reshape may have a time and a batch built in. Then those are tried, either way round, and one must do.
    """
    for node in _reached(graph, layer.operator.outputs["Y"])[1]:
        if node.op_type != "Reshape" or len(node.input) < 2:
            continue
        try:
            shape = [int(size) for size in graph.constant(node.input[1]).reshape(-1)]
        except (ValueError, TypeError):
            continue
        if len(shape) == 3 and min(shape) > 0 and shape[0] * shape[1] <= _LARGEST_PROBE:
            return [_probe(layer, (shape[0], shape[1])), _probe(layer, (shape[1], shape[0]))], any
    return [_probe(layer, size) for size in _PROBES], all


def _probe(layer: Layer, size: tuple[int, int]) -> np.ndarray:
    time, batch = size
    count, hidden = layer.operator.directions, layer.hidden_size
    shape = (batch, time, count, hidden) if layer.operator.batch_first else (time, count, batch, hidden)
    return np.arange(time * batch * count * hidden, dtype=np.float64).reshape(shape)


def _plain(y: np.ndarray, operator: Operator) -> np.ndarray:
    """Y with its directions side by side."""
    side_by_side = y if operator.batch_first else y.swapaxes(1, 2)
    return side_by_side.reshape(*side_by_side.shape[:2], -1)


def _swaps(node: NodeProto) -> bool:
    """Whether it is a Transpose that swaps the first two of three axes."""
    perms = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
    return node.op_type == "Transpose" and only_plumbing([node]) and perms == [[1, 0, 2]]
