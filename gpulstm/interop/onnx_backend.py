"""ONNX's own interface to whoever computes its operators: ``onnx.backend.base.Backend``, for the operator LSTM."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx
from onnx.backend.base import Backend as OnnxBackend
from onnx.backend.base import BackendRep, namedtupledict

from .. import array_api_stack, arrays
from .. import lengths as lengths_module
from ..arrays import Array
from ..functional import lstm_inference
from ..masks import Draws
from ..options import PLAIN, Options
from ..parameters import Layout, State
from . import onnx_operator
from .onnx_activations import ForeignActivation
from .onnx_constants import Graph
from .onnx_operator import INPUTS, OUTPUTS, Operator
from .onnx_tensors import read_model


def run_node(
    node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
) -> tuple[Array, ...]:
    """Runs one LSTM node, with all that the operator's text has.

    Parameters
    ----------
    node : an ``onnx.NodeProto`` LSTM.
    inputs : arrays in the node's order, without those whose name is empty or with None for them; or a dict under the
        names that the node gives them. NumPy, CuPy or any array-API library; float32 or float64, sequence_lens integer.
    device : "CPU", or "CUDA" to bring NumPy arrays to the GPU and their results back. Arrays that are on a GPU stay.
    outputs_info : not needed, as the operator's outputs follow from its inputs.
    opset_version : the version whose attributes are allowed, 7 or newer; the newest one by default.

    Returns a named tuple of the outputs that the node names, in its order, in the inputs' library.
    Raises TypeError or ValueError that names the attribute or input. Float attributes count as the shortest decimal
    that gives that float32, so 0.2 is 0.2 in float64 as well. Each direction runs as an LSTM of its own.
    """
    operator = onnx_operator.read_node(node, kwargs.get("opset_version"))
    given = _by_formal_name(operator, node, inputs)
    back = device.upper().startswith("CUDA") and all(map(arrays.is_numpy, given.values()))
    if back:
        import cupy

        with cupy.cuda.Device(_device_number(device)):
            there = {name: cupy.asarray(array) for name, array in given.items()}
            found: Sequence[Array] = [array.get() for array in _run(operator, there)]
    else:
        found = _run(operator, given)
    named = [(operator.outputs[name], value) for name, value in zip(OUTPUTS, found, strict=True)]
    present = [(name, value) for name, value in named if name]
    return namedtupledict("Outputs", [name for name, _ in present])(*(value for _, value in present))


class Backend(OnnxBackend):
    """ONNX's backend interface, for the operator LSTM and for models that consist of one."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model is one LSTM node and nothing else."""
        return len(model.graph.node) == 1 and onnx_operator.is_lstm(model.graph.node[0])

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """ "CPU", and "CUDA" where CuPy finds a GPU."""
        kind = device.upper().partition(":")[0]
        if kind != "CUDA":
            return kind == "CPU"
        try:
            import cupy

            return bool(cupy.cuda.is_available())
        except ImportError:
            return False

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> "LSTMRep":
        """The model, ready to run. Raises ValueError unless it is one LSTM node."""
        return LSTMRep(model, device)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Array, ...]:
        """The module's `run_node`."""
        return run_node(node, inputs, device, outputs_info, **kwargs)


class LSTMRep(BackendRep):
    """A model of one LSTM node. `run` takes what the graph takes, in its order or as a dict by name."""

    def __init__(self, model: onnx.ModelProto, device: str) -> None:
        self.graph, self.device = Graph(*read_model(model)), device
        nodes = self.graph.proto.node
        if not Backend.is_compatible(model):
            raise ValueError(f"model must be one LSTM node, got {', '.join(n.op_type for n in nodes[:8]) or 'no node'}")
        self.node = nodes[0]
        onnx_operator.read_node(self.node, self.graph.opset)
        self.asked = [value.name for value in self.graph.proto.input if value.name not in self.graph.initialisers]
        self.stored = {name: self.graph.constant(name) for name in self.graph.initialisers}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Array, ...]:
        """The graph's outputs as a named tuple."""
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(self.asked):
                raise ValueError(f"inputs must be {', '.join(self.asked)}, got {len(inputs)}")
            inputs = dict(zip(self.asked, inputs, strict=True))
        wanted = {name: value for name, value in {**self.stored, **inputs}.items() if name in self.node.input}
        found = run_node(self.node, wanted, self.device, opset_version=self.graph.opset)
        by_name = dict(zip(filter(None, self.node.output), found, strict=True))
        names = [value.name for value in self.graph.proto.output]
        return namedtupledict("Outputs", names)(*(by_name[name] for name in names))


def _by_formal_name(operator: Operator, node: onnx.NodeProto, inputs: Any) -> dict[str, Array]:
    """X, W, R and so on; absent ones are not there."""
    present = [name for name in node.input if name]
    if isinstance(inputs, Mapping):
        unknown = [name for name in inputs if name not in present]
        if unknown:
            raise ValueError(
                f"{operator.label}: inputs must be among {', '.join(present)}, got {', '.join(map(repr, unknown))}"
            )
        by_name = dict(inputs)
    else:
        if isinstance(inputs, str) or not isinstance(inputs, Sequence):
            raise TypeError(f"inputs must be a list of arrays or a dict, got {type(inputs).__name__}")
        names = present if len(inputs) == len(present) else list(node.input)
        if len(inputs) != len(names):
            raise ValueError(f"{operator.label}: inputs must be {', '.join(present)}, got {len(inputs)} of them")
        by_name = dict(zip(names, inputs, strict=True))
    given = {formal: by_name.get(operator.inputs[formal]) for formal in INPUTS if operator.inputs[formal]}
    found = {formal: value for formal, value in given.items() if value is not None}
    missing = [name for name in ("X", "W", "R") if name not in found]
    if missing:
        raise ValueError(f"{operator.label}: X, W and R must be there, {' and '.join(missing)} missing")
    for formal, value in found.items():
        arrays.require_array(formal, value)
    arrays.check_same({formal: value for formal, value in found.items() if formal != "sequence_lens"})
    return found


def _run(operator: Operator, given: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Y, Y_h and Y_c in the operator's layout."""
    _check_shapes(operator, given)
    xp = arrays.namespace(given["X"])
    with arrays.on_device_of(given["X"]):
        found = [_direction(operator, given, number) for number in range(operator.directions)]
        y = xp.stack([each for each, _ in found], axis=2 if operator.batch_first else 1)
        h, c = (xp.concat([state[part] for _, state in found], axis=0) for part in (0, 1))
        return y, _swapped(h, operator), _swapped(c, operator)


def _direction(operator: Operator, given: dict[str, Array], number: int) -> tuple[Array, State]:
    """y and the final state of one direction, as an LSTM of its own."""
    x, lengths = given["X"], given.get("sequence_lens")
    params, options = onnx_operator.to_params(given, number), operator.options_of(number)
    h, c = (given.get(name) for name in ("initial_h", "initial_c"))
    state = None
    if h is not None or c is not None:
        h, c = (None if s is None else _swapped(s, operator)[number : number + 1, ...] for s in (h, c))
        zeros = arrays.zeros((1, x.shape[0 if operator.batch_first else 1], given["R"].shape[2]), x)
        state = State(zeros if h is None else h, zeros if c is None else c)
    if 0 in x.shape or not any(isinstance(each, ForeignActivation) for each in options.activations):
        return lstm_inference(
            x, params, state, lengths=lengths, batch_first=operator.batch_first, options=_of_ours(options)
        )
    steps = _swapped(x, operator)  # time first
    layout = Layout.of(params)
    counted = lengths_module.checked(lengths, steps, batched=True)
    y, final, _ = array_api_stack.forward(
        layout, layout.weights(params), steps, state, counted, Draws(options, None), False, keep=False
    )
    return _swapped(y, operator), final


def _of_ours(options: Options) -> Options:
    """Without the activations that no engine knows, which an empty x does not reach."""
    plain = zip(options.activations, PLAIN.activations, strict=True)
    gate, candidate, cell = (other if isinstance(each, ForeignActivation) else each for each, other in plain)
    return replace(options, activations=(gate, candidate, cell))


def _swapped(array: Array, operator: Operator) -> Array:
    """Between layout 1, in which the batch is first everywhere, and layout 0."""
    if not operator.batch_first:
        return array
    if arrays.is_numpy(array) or arrays.is_cupy(array):
        return array.swapaxes(0, 1)
    return arrays.namespace(array).permute_dims(array, (1, 0, 2))


def _check_shapes(operator: Operator, given: dict[str, Array]) -> None:
    inputs, hidden = onnx_operator.check_shapes(operator, given)
    x, first = tuple(given["X"].shape), operator.batch_first
    axes = "(batch, time, inputs)" if first else "(time, batch, inputs)"
    if len(x) != 3 or x[2] != inputs:
        raise ValueError(f"{operator.label}: X must have shape {axes} with inputs = {inputs} as W has, got {x}")
    batch, count = x[0 if first else 1], operator.directions
    of_state = (batch, count, hidden) if first else (count, batch, hidden)
    expected = {"sequence_lens": (batch,), "initial_h": of_state, "initial_c": of_state}
    words = "(batch, directions, hidden)" if first else "(directions, batch, hidden)"
    problems = [
        f"{name} must have shape {'(batch,)' if len(shape) == 1 else words} = {shape}, got {tuple(given[name].shape)}"
        for name, shape in expected.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    if problems:
        raise ValueError(f"{operator.label}: {'; '.join(problems)}; layout is {int(first)}")


def _device_number(device: str) -> int:
    number = device.partition(":")[2] or "0"
    if not number.isdigit():
        raise ValueError(f"device must be such as 'CPU', 'CUDA' or 'CUDA:1', got {device!r}")
    return int(number)
