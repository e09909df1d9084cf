"""The constant parts of an ONNX graph, computed: exporters put slices, transpositions and concatenations between the
tensors that they store and the operator that reads them.

Only operators that move values around, or compute a shape, are known here. All of them together may not copy more than
a few times the bytes that the model stores, whatever a file asks for.
"""

import math
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto

from .onnx_tensors import to_array, widened

COPIES = 4
"""How many times the stored bytes all copies together may take."""

DEEPEST = 100
"""Nodes in a row between a tensor and its reader."""

DEFAULT_DOMAINS = ("", "ai.onnx")


class NotConstantError(ValueError):
    """A value that only a run of the model would tell, with the reason."""


class Graph:
    """A model's main graph, and the values of its constants by name."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None) -> None:
        graph = model.graph
        self.model, self.folder, self.proto = model, folder, graph
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), default=1)
        self.initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input}
        self.outputs = {value.name for value in graph.output}
        self.producers: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[NodeProto]] = {}
        _require_text(self.initialisers, self.inputs, self.outputs)
        for node in graph.node:
            _require_text((node.name, node.op_type, node.domain), node.input, node.output)
            _require_text(attribute.name for attribute in node.attribute)
            for name in filter(None, node.output):
                if name in self.producers:
                    raise ValueError(f"the graph must compute each value once, got {name!r} twice")
                self.producers[name] = node
            for name in filter(None, node.input):
                self.consumers.setdefault(name, []).append(node)
        self._known: dict[str, np.ndarray] = {}
        self._budget = _Budget()

    def constant(self, name: str, *, unexpanded: bool = False) -> np.ndarray:
        """The value of that name. Raises `NotConstantError` for one that depends on the model's inputs, ValueError for
        one that is broken.

        ``unexpanded`` passes over every Expand: states are stored for one sequence and expanded to the batch.
        """
        found = _Evaluation(self, {} if unexpanded else self._known, unexpanded, self._budget).value(name)
        self._budget.take(repr(name), found.nbytes)  # an Expand is a view until somebody looks at all of it
        return found

    def with_values(self, given: dict[str, np.ndarray], name: str) -> np.ndarray:
        """The value of that name where others have given values, whoever computes those."""
        budget = _Budget()
        budget.left += COPIES * sum(value.nbytes for value in given.values())
        return _Evaluation(self, dict(given), False, budget).value(name)

    def filled_with(self, name: str, depth: int = 0) -> float | None:
        """The one number that all elements have, whatever the shape, or None."""
        node = self.producers.get(name)
        if node is None or node.op_type == "Constant":
            try:
                value = self.constant(name)
            except NotConstantError:
                return None
            value = widened(value)
            return float(value.flat[0]) if value.size and (value == value.flat[0]).all() else None
        if node.domain not in DEFAULT_DOMAINS or depth > DEEPEST:
            return None
        if node.op_type == "ConstantOfShape":
            return float(widened(_fill_of(node, self.folder)).flat[0])
        if node.op_type in _KEEPS_VALUES and node.input:
            return self.filled_with(node.input[0], depth + 1)
        return None

    def depends_on_inputs(self, name: str) -> bool:
        """Whether a run's inputs decide the elements; what decides their number alone does not count."""
        waiting, seen = [name], set()
        while waiting:
            name = waiting.pop()
            if name in seen or name in self.initialisers:
                continue
            seen.add(name)
            node = self.producers.get(name)
            if node is None or node.op_type not in (*_OPERATORS, "Constant", "Tile"):
                return True
            if node.op_type != "Shape":
                waiting += filter(None, node.input)
        return False

    def static_shape(self, name: str) -> tuple[int | None, ...] | None:
        """The shape that the file declares for a value, None for what it leaves open."""
        for value in (*self.proto.input, *self.proto.value_info):
            if value.name == name and value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
        return None


def _require_text(*names: Iterable[str]) -> None:
    """protobuf gives bytes for a name that is no UTF-8."""
    for name in chain(*names):
        if not isinstance(name, str):
            raise ValueError(f"names in the graph must be text, got {name!r:.80}; is the file damaged?")


class _Budget:
    """Bytes that may still be copied: those of a few shapes, and more with each tensor that is read."""

    def __init__(self) -> None:
        self.left = 1 << 16

    def take(self, what: str, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError(f"{what} would need more memory than the stored tensors account for: {size} bytes")


class _Evaluation:
    """Values by name: those that are known, and those that follow."""

    def __init__(self, graph: Graph, known: dict[str, np.ndarray], unexpanded: bool, budget: _Budget) -> None:
        self.graph, self.known, self.unexpanded, self.budget = graph, known, unexpanded, budget
        self.working: set[str] = set()

    def value(self, name: str) -> np.ndarray:
        if name in self.known:
            return self.known[name]
        if name in self.graph.initialisers:
            self.known[name] = self._stored(self.graph.initialisers[name])
            return self.known[name]
        node = self.graph.producers.get(name)
        if node is None:
            where = "an input of the graph" if name in self.graph.inputs else "not in the file"
            raise NotConstantError(f"{name!r} is {where}")
        if name in self.working or len(self.working) > DEEPEST:
            raise ValueError(f"{name!r} must be computed without circles and in at most {DEEPEST} nodes")
        self.working.add(name)
        for output, value in zip(node.output, self._run(node), strict=False):
            self.known[output] = value
        self.working.discard(name)
        if name not in self.known:
            raise ValueError(f"{_named(node)} must have an output {name!r}, and has not")
        return self.known[name]

    def _run(self, node: NodeProto) -> tuple[np.ndarray, ...]:
        if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
            tensor = _value_tensor(node)
            return (_constant_numbers(node) if tensor is None else self._stored(tensor),)
        if self.unexpanded and node.op_type == "Expand" and len(node.input) == 2:
            return (self.value(node.input[0]),)
        if node.domain not in DEFAULT_DOMAINS or node.op_type not in _OPERATORS:
            raise NotConstantError(f"{_named(node)} is not constant, or is nothing that can be computed on import")
        inputs = [self.value(name) if name else None for name in node.input]
        call = _Call(node, inputs, self.graph, self.budget)
        try:
            result = _OPERATORS[node.op_type](call)
        except NotConstantError:
            raise
        except (IndexError, TypeError, OverflowError, ValueError, MemoryError) as error:
            raise ValueError(f"{_named(node)} does not fit its inputs: {error}") from error
        return result if isinstance(result, tuple) else (result,)

    def _stored(self, tensor: onnx.TensorProto) -> np.ndarray:
        value = to_array(tensor, self.graph.folder)
        self.budget.left += COPIES * value.nbytes
        return value


class _Call:
    """A node with the values of its inputs, and what its operator may ask of it."""

    def __init__(self, node: NodeProto, inputs: list, graph: Graph, budget: _Budget) -> None:
        self.node, self.inputs, self.budget = node, inputs, budget
        self.opset, self.folder = graph.opset, graph.folder

    def input(self, index: int) -> np.ndarray:
        found = self.optional(index)
        if found is None:
            raise ValueError(f"input {index} is missing")
        return found

    def optional(self, index: int) -> np.ndarray | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        return attributes(self.node).get(name, default)

    def integers(self, index: int, name: str) -> list[int] | None:
        """A list that older versions have as an attribute and newer ones as an input."""
        found = self.optional(index)
        if found is None:
            return self.attribute(name)
        return [int(number) for number in found.reshape(-1)]

    def copied(self, size: int) -> None:
        self.budget.take(_named(self.node), int(size))


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's integers, floats and strings by name, and lists of them."""
    fields: dict[int, Callable[[AttributeProto], Any]] = {
        AttributeProto.INT: lambda a: a.i,
        AttributeProto.INTS: lambda a: list(a.ints),
        AttributeProto.FLOAT: lambda a: a.f,
        AttributeProto.FLOATS: lambda a: list(a.floats),
        AttributeProto.STRING: lambda a: a.s,
        AttributeProto.STRINGS: lambda a: list(a.strings),
    }
    return {a.name: fields[a.type](a) for a in node.attribute if a.type in fields}


def _named(node: NodeProto) -> str:
    return f"{node.op_type} node {node.name or next(iter(node.output), '')!r}"


def _value_tensor(node: NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant or ConstantOfShape."""
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
            return attribute.t
    return None


def _constant_numbers(node: NodeProto) -> np.ndarray:
    """The value of a Constant that has no tensor."""
    found = attributes(node)
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32)):
        if name in found:
            return np.asarray(found[name], dtype)
    for name in ("value_int", "value_ints"):
        if name in found:
            return np.asarray(found[name], np.int64)
    raise ValueError(f"{_named(node)} must hold numbers, got {', '.join(a.name for a in node.attribute) or 'nothing'}")


def _fill_of(node: NodeProto, folder: Path | None) -> np.ndarray:
    """The element of a ConstantOfShape."""
    tensor = _value_tensor(node)
    if tensor is not None:
        value = to_array(tensor, folder)
        if value.size != 1:
            raise ValueError(f"{_named(node)} must have a value of one element, got shape {value.shape}")
        return value
    return np.zeros(1, np.float32)


def _transpose(call: _Call) -> np.ndarray:
    return np.transpose(call.input(0), call.attribute("perm"))


def _reshape(call: _Call) -> np.ndarray:
    data, wanted = call.input(0), call.integers(1, "shape") or []
    if not call.attribute("allowzero", 0):
        wanted = [data.shape[k] if size == 0 else size for k, size in enumerate(wanted)]
    call.copied(data.nbytes)
    return data.reshape(wanted)


def _squeeze(call: _Call) -> np.ndarray:
    axes = call.integers(1, "axes")
    return np.squeeze(call.input(0), None if axes is None else tuple(axes))


def _unsqueeze(call: _Call) -> np.ndarray:
    axes = call.integers(1, "axes") or []
    return np.expand_dims(call.input(0), tuple(axes))


def _concat(call: _Call) -> np.ndarray:
    call.copied(sum(value.nbytes for value in call.inputs))
    return np.concatenate(call.inputs, axis=call.attribute("axis", 1 if call.opset < 4 else None) or 0)


def _slice(call: _Call) -> np.ndarray:
    data = call.input(0)
    starts, ends = call.integers(1, "starts") or [], call.integers(2, "ends") or []
    axes, steps = call.integers(3, "axes") or list(range(len(starts))), call.integers(4, "steps") or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("starts, ends, axes and steps differ in number")
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)  # Python bounds what lies outside as ONNX does
    return data[tuple(index)]


def _expand(call: _Call) -> np.ndarray:
    """A view, however large."""
    data, shape = call.input(0), call.integers(1, "shape") or []
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(shape)))


def _constant_of_shape(call: _Call) -> np.ndarray:
    shape = tuple(int(size) for size in call.input(0).reshape(-1))
    return np.broadcast_to(_fill_of(call.node, call.folder).reshape(()), shape)


def _split(call: _Call) -> tuple[np.ndarray, ...]:
    data, axis, count = call.input(0), call.attribute("axis", 0), len(call.node.output)
    sizes = call.integers(1, "split")
    if sizes is None:
        part = math.ceil(data.shape[axis] / max(count, 1))
        sizes = [part] * (count - 1) + [data.shape[axis] - part * (count - 1)]
    if len(sizes) != count or sum(sizes) != data.shape[axis] or min(sizes) < 0:
        raise ValueError(f"pieces {sizes[:20]} of an axis of size {data.shape[axis]}")
    return tuple(np.split(data, np.cumsum(sizes)[:-1], axis=axis))


def _gather(call: _Call) -> np.ndarray:
    data, indices, axis = call.input(0), call.input(1), call.attribute("axis", 0)
    call.copied(data.nbytes // max(data.shape[axis], 1) * indices.size)
    return np.take(data, indices.astype(np.int64, copy=False), axis=axis)


def _shape(call: _Call) -> np.ndarray:
    return np.asarray(call.input(0).shape[call.attribute("start", 0) : call.attribute("end")], np.int64)


def _cast(call: _Call) -> np.ndarray:
    """Between integers: a weight in another precision than the file's would be another weight."""
    data = call.input(0)
    kinds = {onnx.TensorProto.INT32: np.int32, onnx.TensorProto.INT64: np.int64}
    target = kinds.get(call.attribute("to"))
    if target is None or data.dtype.kind != "i":
        raise NotConstantError("a cast of other than integers is not computed on import")
    call.copied(2 * data.nbytes)
    return data.astype(target)


def _arithmetic(function: Callable) -> Callable[[_Call], np.ndarray]:
    """Of integers, from which shapes are computed."""

    def computed(call: _Call) -> np.ndarray:
        a, b = call.input(0), call.input(1)
        if a.dtype.kind != "i" or b.dtype.kind != "i" or max(a.size, b.size) > 1024:
            raise NotConstantError("arithmetic with other than a shape's integers is not computed on import")
        call.copied(8 * a.size * b.size)
        return function(a, b)

    return computed


def _dropout(call: _Call) -> np.ndarray:
    training = call.optional(2)
    if training is not None and training.any():
        raise NotConstantError("a dropout of training is random")
    return call.input(0)


_OPERATORS: dict[str, Callable[[_Call], Any]] = {
    "Identity": lambda call: call.input(0),
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Gather": _gather,
    "Shape": _shape,
    "Cast": _cast,
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Dropout": _dropout,
}

_KEEPS_VALUES = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Expand", "Tile")
"""Operators whose result has no other elements than their first input."""


def only_plumbing(nodes: Iterable[NodeProto]) -> bool:
    """Whether they are operators that may stand between two layers of a stack without being anything of their own."""
    return all(node.domain in DEFAULT_DOMAINS and node.op_type in _OPERATORS for node in nodes)
