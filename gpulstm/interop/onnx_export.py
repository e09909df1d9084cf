"""An LSTM as an ONNX model: one LSTM node for each layer, and the plumbing between them."""

import os
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from .. import arrays, files
from ..lstm import LSTM
from . import onnx_activations, onnx_operator
from .held import refuse_what_is_not_held

HOLDS = (
    "num_layers",
    "bias",
    "batch_first",
    "bidirectional",
    "peephole",
    "reverse",
    "coupled",
    "cell_clip",
    "activations",
)
"""The options that the operator has."""

_REASONS = {
    "proj_size": "the operator LSTM has no projection",
    "zoneout": "inference mixes old and new states by it",
}
_MOST_BYTES = (1 << 31) - (1 << 20)  # protobuf's limit, less what is not weights


def to_onnx(
    lstm: LSTM,
    path: str | os.PathLike | None = None,
    *,
    state: bool = False,
    lengths: bool = False,
    opset: int = 22,
    for_onnxruntime: bool = True,
    ignore: Collection[str] = (),
    name: str = "lstm",
) -> onnx.ModelProto:
    """The LSTM as an ONNX model, which onnxruntime computes with the same numbers.

    Parameters
    ----------
    lstm : a `gpulstm.LSTM` with parameters of any library, float32 or float64.
    path : a file to write, whole or not at all; None writes none.
    state : whether the model takes initial_h and initial_c; without them the initial states are zero.
    lengths : whether the model takes sequence_lens.
    opset : version of ONNX's operators, 7 or newer; 9 or newer for state and lengths together.
    for_onnxruntime : raises for what onnxruntime computes differently from ONNX's text or not at all: cell_clip, of
        which it bounds the gates alone and not the cell, and float64. False writes them as the text has them.
    ignore : options to leave out although the format does not hold them; those that act in training alone can be.
    name : of the graph.

    The graph's inputs are X (time, batch, inputs), or (batch, time, inputs) with ``batch_first``, and where asked for
    sequence_lens (batch,) int32, initial_h and initial_c (layers * directions, batch, hidden). Its outputs are y, h and
    c as `gpulstm.LSTM` gives them. Time and batch are left open.

    ``batch_first`` is written as a Transpose at both ends, because onnxruntime refuses the attribute layout. The bias
    is the first half of B; the second one is zero. `from_onnx` gives the same LSTM back, to the bit.

    Raises ValueError that names the options that ONNX cannot hold, and numbers that its float32 attributes cannot.
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm must be a gpulstm.LSTM, got {type(lstm).__name__}")
    target = None if path is None else files.checked_target(path)
    refuse_what_is_not_held(lstm, "an ONNX LSTM", HOLDS, ignore, _REASONS)
    _check_opset(opset, state and lengths)
    params = {key: arrays.to_numpy(value) for key, value in lstm.params.items()}
    lstm.layout.check(params)
    dtype = _checked_dtype(params)
    if for_onnxruntime:
        _refuse_other_numbers(lstm, dtype)
    model = _Model(lstm, params, dtype, state, lengths, opset, name).model()
    if target is not None:
        files.write_whole(target, model.SerializeToString())
    return model


class _Model:
    """The nodes and tensors of one model."""

    def __init__(self, lstm: LSTM, params: dict, dtype: str, state: bool, lengths: bool, opset: int, name: str) -> None:
        self.lstm, self.layout, self.params, self.opset, self.name = lstm, lstm.layout, params, opset, name
        self.dtype, self.state, self.lengths = np.dtype(dtype), state, lengths
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        x = self._node("Transpose", ["X"], "X_time_first", perm=[1, 0, 2]) if self.lstm.batch_first else "X"
        states = []
        for layer in range(self.layout.num_layers):
            y, *final = self._layer(layer, x)
            states.append(final)
            swapped = self._node("Transpose", [y], f"Y_swapped_l{layer}", perm=[0, 2, 1, 3])
            last = layer == self.layout.num_layers - 1
            joined = "y" if last and not self.lstm.batch_first else f"y_l{layer}"
            x = self._node("Reshape", [swapped, self._tensor("y_shape", [0, 0, self.layout.output_size])], joined)
        if self.lstm.batch_first:
            self._node("Transpose", [x], "y", perm=[1, 0, 2])
        for part, output, initial in ((0, "h", "initial_h"), (1, "c", "initial_c")):
            self._final([each[part] for each in states], output, initial)
        return self._described()

    def _layer(self, layer: int, x: str) -> tuple[str, str, str]:
        """One LSTM node."""
        suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: self.layout.directions]
        weights = onnx_operator.from_params(self.params, suffixes)
        given = {"X": x, "sequence_lens": "sequence_lens" if self.lengths else ""}
        given |= {key: self._tensor(f"{key}_l{layer}", value) for key, value in weights.items()}
        if self.state:
            rows = np.arange(layer * len(suffixes), (layer + 1) * len(suffixes))
            for key in ("initial_h", "initial_c"):
                whole = self.layout.num_layers == 1
                index = None if whole else self._tensor(f"rows_l{layer}", rows)
                given[key] = key if whole else self._node("Gather", [key, index], f"{key}_l{layer}", axis=0)
        names = [given.get(key, "") for key in onnx_operator.INPUTS]
        while not names[-1]:
            names.pop()
        outputs = [f"Y_l{layer}", f"Y_h_l{layer}", f"Y_c_l{layer}"]
        self.nodes.append(helper.make_node("LSTM", names, outputs, name=f"lstm_l{layer}", **self._attributes()))
        return outputs[0], outputs[1], outputs[2]

    def _attributes(self) -> dict[str, Any]:
        options, count = self.lstm.options, self.layout.directions
        found: dict[str, Any] = {"hidden_size": self.layout.hidden_size}
        if count == 2 or options.reverse:
            found["direction"] = "bidirectional" if count == 2 else "reverse"
        if options.coupled:
            found["input_forget"] = 1
        if options.cell_clip is not None:
            found["clip"] = onnx_activations.checked_attribute("cell_clip", options.cell_clip)
        return found | onnx_activations.to_attributes(options.activations, count)

    def _final(self, parts: list[str], output: str, initial: str) -> None:
        """All layers' final states as one. A sequence of length zero keeps its initial state, which onnxruntime's LSTM
        does not give: it says zero."""
        kept = self.state and self.lengths
        joined = f"{output}_all" if kept else output
        self._node("Concat", parts, joined, axis=0)
        if kept:
            empty = f"is_empty_{output}"
            self._node("Equal", ["sequence_lens", self._tensor("zero", np.zeros(1, np.int32))], f"{empty}_row")
            column = self._node("Reshape", [f"{empty}_row", self._tensor("column", [-1, 1])], empty)
            self._node("Where", [column, initial, joined], output)

    def _node(self, kind: str, inputs: list, output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind.lower()}_{output}", **attributes))
        return output

    def _tensor(self, name: str, value: Any) -> str:
        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _described(self) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        leading = ("batch", "time") if self.lstm.batch_first else ("time", "batch")
        of_state = (self.layout.num_layers * self.layout.directions, "batch", self.layout.hidden_size)
        inputs: list[tuple[str, int, tuple]] = [("X", kind, (*leading, self.layout.input_size))]
        inputs += [("sequence_lens", TensorProto.INT32, ("batch",))] if self.lengths else []
        inputs += [(key, kind, of_state) for key in ("initial_h", "initial_c")] if self.state else []
        outputs: list[tuple[str, int, tuple]] = [
            ("y", kind, (*leading, self.layout.output_size)),
            ("h", kind, of_state),
            ("c", kind, of_state),
        ]
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(*each) for each in inputs],
            [helper.make_tensor_value_info(*each) for each in outputs],
            list(self.tensors.values()),
        )
        opsets = [helper.make_opsetid("", self.opset)]
        # From version 4 on, a stored tensor need not be an input too, which a caller could replace.
        version = max(4, helper.find_min_ir_version_for(opsets))
        return helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name="gpulstm")


def _check_opset(opset: Any, masks_states: bool) -> None:
    newest = onnx.defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, (int, np.integer)):
        raise TypeError(f"opset must be an integer, got {type(opset).__name__}")
    oldest = 9 if masks_states else 7
    if not oldest <= opset <= newest:
        why = " for state and lengths together" if masks_states else ""
        raise ValueError(f"opset must be between {oldest} and {newest}{why}, got {opset}")


def _checked_dtype(params: dict[str, np.ndarray]) -> str:
    dtypes = sorted({value.dtype.name for value in params.values()})
    if len(dtypes) != 1 or dtypes[0] not in arrays.KERNEL_DTYPES:
        raise ValueError(f"params must all be {' or '.join(arrays.KERNEL_DTYPES)}, got {', '.join(dtypes)}")
    size = sum(value.nbytes for value in params.values())
    if size > _MOST_BYTES:
        raise ValueError(f"params must have at most {_MOST_BYTES} bytes, which an ONNX file can hold, got {size}")
    return dtypes[0]


def _refuse_other_numbers(lstm: LSTM, dtype: str) -> None:
    problems = []
    if lstm.options.cell_clip is not None:
        problems.append(f"cell_clip={lstm.options.cell_clip} of the gates alone and not of the cell")
    if dtype == "float64":
        problems.append("no LSTM in float64")
    if problems:
        raise ValueError(
            f"onnxruntime computes {' and '.join(problems)}; for_onnxruntime=False writes what ONNX's text says"
        )
