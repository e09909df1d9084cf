"""LSTMs out of and into ONNX files, and ONNX's own interface to run the operator.

    lstm = from_onnx("model.onnx")
    to_onnx(lstm, "lstm.onnx")
    y, y_h, y_c = run_node(node, [x, w, r])

What others compute differently from the operator's text, found with onnxruntime 1.31 and onnx 1.23:

- onnxruntime on a CPU bounds by ``clip`` what goes into the gates and the candidate, and not what goes into the cell's
  activation; refuses ``layout=1``, float64 and a clip of zero; gives zeros as the final states of a sequence of length
  zero, where the text has the initial ones; takes 0 for the parameters of Affine, ScaledTanh and ThresholdedRelu where
  none are written.
- onnx's reference evaluator computes direction, layout, states and peepholes, and passes over ``activations``,
  ``clip``, ``input_forget`` and ``sequence_lens`` without a word.
"""

from types import ModuleType
from typing import Any

import numpy as np

try:
    import onnx  # noqa: F401 - says what to install before one of the modules below fails
except ImportError as error:
    raise ImportError('gpulstm.interop.onnx needs onnx: pip install "gpulstm[onnx]"') from error

from .. import arrays
from ..lstm import LSTM
from ..parameters import State
from . import onnx_graph, onnx_operator
from .onnx_backend import Backend, run_node
from .onnx_constants import Graph, NotConstantError
from .onnx_export import to_onnx
from .onnx_graph import Layer
from .onnx_tensors import BFLOAT16, read_model, widened

__all__ = ["Backend", "from_onnx", "run_node", "to_onnx"]


def from_onnx(
    model: Any, *, node: str | None = None, with_state: bool = False, dtype: Any = None, xp: ModuleType = np
) -> Any:
    """An LSTM with the weights and options of a model's LSTM node, or of the nodes that are one stack.

    Parameters
    ----------
    model : a path, the bytes of a file, or an ``onnx.ModelProto``. Everything else in the model is left aside.
    node : the name of one LSTM node, or of one of its outputs. None takes all there are as layers of one LSTM: each
        must read the Y of the one before, through transpositions and reshapes alone, and they must agree in everything.
    with_state : returns a pair: the LSTM, and the initial states that the model stores as a `gpulstm.State` (layers *
        directions, batch, hidden), or None where there are none. States that the model expands to the batch at run time
        come with the batch axis that they are stored with.
    dtype : "float32" or "float64"; None keeps the file's.
    xp : the library of the parameters, as `gpulstm.LSTM` takes it.

    ``batch_first`` is True for layout 1, and for a Transpose of the first two axes both before the first node and
    behind the last one: so PyTorch exports its own batch_first, and so does `to_onnx`. Initial states and lengths that
    the model computes or takes are for the caller to give at each call. Initial states of zero are those of every LSTM.

    Raises ValueError for bytes that are no model; for weights that are missing, that are inputs of the model, or whose
    shapes disagree; for nodes that are not one LSTM, with a list of them; for options that `gpulstm.LSTM` cannot hold
    (`run_node` can); and for initial states or lengths in the file, which would be lost, unless ``with_state``.
    No code in a file is run, and external data are read from the model's own folder alone.

    Source: the operator LSTM of https://onnx.ai/onnx/operators/onnx__LSTM.html, opset 7 and newer.
    """
    graph = Graph(*read_model(model))
    layers = onnx_graph.layers_of(graph, node)
    options = layers[0].operator.options_of_lstm()
    for layer in layers:
        _refuse_constant_lengths(graph, layer)
    states = [_stored_states(graph, layer) for layer in layers]
    if not with_state:
        for layer, stored in zip(layers, states, strict=True):
            for name in stored:
                raise ValueError(
                    f"{layer.operator.label}: {name} is stored in the model and is not zero, and an LSTM keeps no "
                    f"initial state; with_state=True returns it beside the LSTM"
                )
    lstm = LSTM(
        layers[0].input_size,
        layers[0].hidden_size,
        len(layers),
        bias=any("B" in layer.weights for layer in layers),
        batch_first=onnx_graph.is_batch_first(graph, layers),
        peephole="P" in layers[0].weights,
        dtype=_checked_dtype(layers, dtype),
        xp=xp,
        rng=0,
        **options,
    )
    lstm.load_state_dict(_params(layers, lstm))
    return (lstm, _joined_state(layers, states, lstm)) if with_state else lstm


def _checked_dtype(layers: list[Layer], dtype: Any) -> Any:
    found = {name: each for layer in layers for name, each in _dtypes(layer).items()}
    if len(set(found.values())) != 1:
        listed = ", ".join(f"{name} {each}" for name, each in found.items())
        raise ValueError(f"W, R, B and P must have one dtype, got {listed}")
    name = found["W"]
    if dtype is None and name not in arrays.KERNEL_DTYPES:
        raise ValueError(
            f"the weights must be {' or '.join(arrays.KERNEL_DTYPES)}, got {name}; "
            f"dtype='float32' converts them, which changes no value of a smaller type"
        )
    return dtype or name


def _dtypes(layer: Layer) -> dict[str, str]:
    found = {name: "bfloat16" if w.dtype == BFLOAT16 else w.dtype.name for name, w in layer.weights.items()}
    integers = [f"{name} {dtype}" for name, dtype in found.items() if dtype.startswith("int")]
    if integers:
        raise ValueError(f"{layer.operator.label}: weights must be floating-point numbers, got {', '.join(integers)}")
    return found


def _params(layers: list[Layer], lstm: LSTM) -> dict[str, np.ndarray]:
    """Under our names; a layer without B has a bias of zero where others have one."""
    found: dict[str, np.ndarray] = {}
    for index, layer in enumerate(layers):
        weights = {name: widened(value) for name, value in layer.weights.items()}
        for direction, ending in zip(range(layer.operator.directions), ("", "_reverse"), strict=False):
            found |= onnx_operator.to_params(weights, direction, f"_l{index}{ending}")
    for name, shape in lstm.layout.shapes().items():
        if name.startswith("bias_l") and name not in found:
            found[name] = np.zeros(shape, np.float32)
    return found


def _refuse_constant_lengths(graph: Graph, layer: Layer) -> None:
    """Lengths are given at each call. Those in a file would be lost, unless they are the whole sequence."""
    name = layer.operator.inputs["sequence_lens"]
    if not name:
        return
    try:
        lengths = graph.constant(name)
    except NotConstantError:
        return
    shape = graph.static_shape(layer.operator.inputs["X"]) or (None, None)
    steps = shape[1 if layer.operator.batch_first else 0] if len(shape) > 1 else None
    if lengths.dtype.kind != "i" or not (lengths == steps).all():
        raise ValueError(
            f"{layer.operator.label}: sequence_lens is stored in the model, and an LSTM keeps no lengths: "
            f"they are given at each call; run_node takes them"
        )


def _stored_states(graph: Graph, layer: Layer) -> dict[str, np.ndarray]:
    """initial_h and initial_c where the model stores values other than zero, each (directions, batch, hidden)."""
    found = {}
    for name in ("initial_h", "initial_c"):
        source = layer.operator.inputs[name]
        if not source or graph.filled_with(source) == 0 or graph.depends_on_inputs(source):
            continue
        try:
            value = widened(graph.constant(source, unexpanded=True))
        except NotConstantError as error:
            raise ValueError(f"{layer.operator.label}: {name} must be stored, zero or an input, and {error}") from error
        value = value.swapaxes(0, 1) if layer.operator.batch_first and value.ndim == 3 else value
        count, hidden = layer.operator.directions, layer.hidden_size
        if value.ndim != 3 or (value.shape[0], value.shape[2]) != (count, hidden) or value.dtype.kind != "f":
            raise ValueError(
                f"{layer.operator.label}: {name} must have shape (directions, batch, hidden) = "
                f"({count}, batch, {hidden}), got {value.shape} of {value.dtype.name}"
            )
        found[name] = value
    return found


def _joined_state(layers: list[Layer], states: list[dict[str, np.ndarray]], lstm: LSTM) -> State | None:
    """The states of all layers in the LSTM's library and dtype; those that are not stored are zero."""
    batches = sorted({value.shape[1] for stored in states for value in stored.values()})
    if not batches:
        return None
    if len(batches) > 1 and (batches[0] != 1 or len(batches) > 2):
        raise ValueError(f"initial states must be stored for one batch, got batches of {', '.join(map(str, batches))}")
    like = lstm.params["weight_hh_l0"]
    parts = []
    for name in ("initial_h", "initial_c"):
        each = [
            np.broadcast_to(stored.get(name, np.zeros(1)), (layer.operator.directions, batches[-1], layer.hidden_size))
            for layer, stored in zip(layers, states, strict=True)
        ]
        parts.append(arrays.beside(np.concatenate(each), like, like.dtype))
    return State(*parts)
