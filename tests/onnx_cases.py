"""ONNX's operator LSTM as its text says it, one sequence and one step at a time in float64; random nodes and models."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")

ACTIVATIONS = {
    "Sigmoid": ((), lambda x: 1 / (1 + np.exp(-x))),
    "Tanh": ((), np.tanh),
    "Relu": ((), lambda x: np.maximum(x, 0)),
    "Affine": (("alpha", "beta"), lambda x, alpha, beta: alpha * x + beta),
    "LeakyRelu": (("alpha",), lambda x, alpha: np.where(x >= 0, x, alpha * x)),
    "ThresholdedRelu": (("alpha",), lambda x, alpha: np.where(x >= alpha, x, 0)),
    "ScaledTanh": (("alpha", "beta"), lambda x, alpha, beta: alpha * np.tanh(beta * x)),
    "HardSigmoid": (("alpha", "beta"), lambda x, alpha, beta: np.minimum(np.maximum(alpha * x + beta, 0), 1)),
    "Elu": (("alpha",), lambda x, alpha: np.where(x >= 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1))),
    "Softsign": ((), lambda x: x / (1 + np.abs(x))),
    "Softplus": ((), lambda x: np.log(1 + np.exp(x))),
}
"""Name -> which parameters it takes, and the function."""

BOUNDED = ("Sigmoid", "HardSigmoid", "Tanh", "Softsign")
"""As gates these keep a random cell from growing without end."""


@dataclass
class Case:
    """A node's attributes and inputs; ``functions`` are f, g, h of each direction, for `by_the_text`."""

    attributes: dict[str, Any]
    inputs: dict[str, np.ndarray]
    functions: list

    @property
    def node(self) -> onnx.NodeProto:
        names = [name if name in self.inputs else "" for name in INPUTS]
        while not names[-1]:
            names.pop()
        return helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], name="the_node", **self.attributes)

    @property
    def listed(self) -> list[np.ndarray]:
        return [self.inputs[name] for name in INPUTS if name in self.inputs]

    @property
    def model(self) -> onnx.ModelProto:
        kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in self.inputs.items()}
        ins = [helper.make_tensor_value_info(name, kinds[name], None) for name in INPUTS if name in self.inputs]
        outs = [helper.make_tensor_value_info(name, kinds["X"], None) for name in ("Y", "Y_h", "Y_c")]
        return model_of([self.node], ins, outs)

    def __str__(self) -> str:
        shapes = {name: array.shape for name, array in self.inputs.items()}
        return f"{self.attributes} {shapes} {self.inputs.get('sequence_lens')}"


def case(
    seed: int = 0,
    *,
    direction: str = "forward",
    layout: int = 0,
    activations: list[tuple] | None = None,
    clip: float | None = None,
    input_forget: int = 0,
    absent: tuple[str, ...] = (),
    lengths: Any = None,
    sizes: tuple[int, int, int, int] = (5, 3, 4, 2),
    dtype: str = "float64",
    scale: float = 1.0,
) -> Case:
    """Random values. ``activations`` are (name, *parameters), or plain names, three for each direction."""
    rng = np.random.default_rng(seed)
    steps, batch, inputs, hidden = sizes
    count = 2 if direction == "bidirectional" else 1
    x, state = ((batch, steps), (batch, count)) if layout else ((steps, batch), (count, batch))
    shapes = {
        "X": (*x, inputs),
        "W": (count, 4 * hidden, inputs),
        "R": (count, 4 * hidden, hidden),
        "B": (count, 8 * hidden),
        "initial_h": (*state, hidden),
        "initial_c": (*state, hidden),
        "P": (count, 3 * hidden),
    }
    values = {name: (scale * rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}
    values["sequence_lens"] = np.array([steps] * batch if lengths is None else lengths, np.int32)
    attributes: dict[str, Any] = {"hidden_size": hidden}
    attributes |= {"direction": direction} if direction != "forward" else {}
    attributes |= {"layout": 1} if layout else {}
    attributes |= {"clip": clip} if clip is not None else {}
    attributes |= {"input_forget": 1} if input_forget else {}
    chosen = [(a,) if isinstance(a, str) else a for a in activations or ["Sigmoid", "Tanh", "Tanh"] * count]
    if activations is not None:
        alphas, betas = [], []
        for name, *parameters in chosen:
            for parameter, number in zip(ACTIVATIONS[name][0], parameters, strict=True):
                (alphas if parameter == "alpha" else betas).append(number)
        attributes |= {"activations": [name for name, *_ in chosen]}
        attributes |= {"activation_alpha": alphas} if alphas else {}
        attributes |= {"activation_beta": betas} if betas else {}
    return Case(attributes, {name: value for name, value in values.items() if name not in absent}, chosen)


def random_case(seed: int, dtype: str = "float64", scale: float = 1.0) -> Case:
    rng = np.random.default_rng(seed)
    direction = ("forward", "reverse", "bidirectional")[seed % 3]
    count = 2 if direction == "bidirectional" else 1
    sizes = tuple(int(n) for n in (rng.integers(1, 8), rng.integers(1, 5), *rng.permutation(np.arange(1, 7))[:2]))

    def activation(names) -> tuple:
        name = names[rng.integers(len(names))]
        return (name, *(round(float(rng.uniform(0.1, 1)), 2) for _ in ACTIVATIONS[name][0]))

    activations = None
    if rng.random() < 0.6:
        everything = list(ACTIVATIONS)
        activations = [activation(BOUNDED if k % 3 == 0 else everything) for k in range(3 * count)]
    absent = tuple(name for name in INPUTS[3:] if rng.random() < 0.4)
    return case(
        seed,
        direction=direction,
        layout=int(rng.random() < 0.4),
        activations=activations,
        clip=round(float(rng.uniform(0.2, 2)), 2) if rng.random() < 0.4 else None,
        input_forget=int(rng.random() < 0.3),
        absent=absent,
        lengths=rng.integers(0, sizes[0] + 1, size=sizes[1]),
        sizes=sizes,
        dtype=dtype,
        scale=scale,
    )


def by_the_text(case: Case, *, clip_of_cell: bool = True, empty_keeps_state: bool = True) -> dict[str, np.ndarray]:
    """Y, Y_h and Y_c by the equations of the operator's text. The switches are where onnxruntime differs."""
    given = {name: value.astype(np.float64) for name, value in case.inputs.items()}
    swapped = case.attributes.get("layout", 0) == 1
    if swapped:
        given |= {n: given[n].swapaxes(0, 1) for n in ("X", "initial_h", "initial_c") if n in given}
    steps, batch, _ = given["X"].shape
    count, hidden = given["R"].shape[0], given["R"].shape[2]
    clip = case.attributes.get("clip", np.inf)
    y = np.zeros((steps, count, batch, hidden))
    last_h, last_c = np.zeros((count, batch, hidden)), np.zeros((count, batch, hidden))
    for d in range(count):
        f, g, h = (_function(*each, clip=clip) for each in case.functions[3 * d : 3 * d + 3])
        of_cell = h if clip_of_cell else _function(*case.functions[3 * d + 2], clip=np.inf)
        wb, rb = np.split(given.get("B", np.zeros((count, 8 * hidden)))[d], 2)
        p_i, p_o, p_f = np.split(given.get("P", np.zeros((count, 3 * hidden)))[d], 3)
        for n in range(batch):
            length = int(case.inputs["sequence_lens"][n]) if "sequence_lens" in case.inputs else steps
            backwards = case.attributes.get("direction") == "reverse" or d == 1
            ht, ct = (given[name][d, n] if name in given else np.zeros(hidden) for name in ("initial_h", "initial_c"))
            for t in reversed(range(length)) if backwards else range(length):
                i, o, forget, candidate = np.split(given["W"][d] @ given["X"][t, n] + given["R"][d] @ ht + wb + rb, 4)
                i = f(i + p_i * ct)
                forget = 1 - i if case.attributes.get("input_forget") else f(forget + p_f * ct)
                ct = forget * ct + i * g(candidate)
                ht = f(o + p_o * ct) * of_cell(ct)
                y[t, d, n] = ht
            if length or empty_keeps_state:
                last_h[d, n], last_c[d, n] = ht, ct
    if swapped:
        return {"Y": y.transpose(2, 0, 1, 3), "Y_h": last_h.swapaxes(0, 1), "Y_c": last_c.swapaxes(0, 1)}
    return {"Y": y, "Y_h": last_h, "Y_c": last_c}


def _function(name: str, *parameters: float, clip: float):
    function = ACTIVATIONS[name][1]
    return lambda x: function(np.clip(x, -clip, clip), *parameters)


def model_of(nodes, inputs, outputs, tensors: dict[str, np.ndarray] | None = None, opset: int = 22) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(value, name) for name, value in (tensors or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def stored_model(case: Case, *, opset: int = 22, name: str = "the_node") -> onnx.ModelProto:
    """A model of the case's node whose weights are stored in it; X, states and lengths are its inputs."""
    stored = {key: case.inputs[key] for key in ("W", "R", "B", "P") if key in case.inputs}
    model = case.model
    del model.graph.input[:]
    for key, value in case.inputs.items():
        if key not in stored:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            model.graph.input.append(helper.make_tensor_value_info(key, kind, None))
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in stored.items())
    model.graph.node[0].name = name
    model.opset_import[0].version = opset
    return model


def value(name: str, kind: int = TensorProto.FLOAT, shape=None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def run_in_onnxruntime(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)
