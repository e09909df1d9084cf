"""The ONNX operator LSTM: its attributes, and its weights to and from ours.

ONNX's gate order is i, o, f, c and its peephole order i, o, f; ours are i, f, g, o and i, f, o, with c another name of
the candidate g. ONNX has two biases, of W and of R, in one tensor B; ours is their sum.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto

from ..activations import WITH_PARAMETERS, Activation
from ..arrays import Array, namespace
from ..options import Options
from . import onnx_activations
from .onnx_activations import ForeignActivation, as_written
from .onnx_constants import DEFAULT_DOMAINS, attributes

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")

_GATES_TO_OURS, _GATES_TO_ONNX = (0, 2, 3, 1), (0, 3, 1, 2)
_PEEPHOLES = (0, 2, 1)  # its own inverse

_TYPES = {
    "direction": AttributeProto.STRING,
    "activations": AttributeProto.STRINGS,
    "activation_alpha": AttributeProto.FLOATS,
    "activation_beta": AttributeProto.FLOATS,
    "clip": AttributeProto.FLOAT,
    "input_forget": AttributeProto.INT,
    "hidden_size": AttributeProto.INT,
    "layout": AttributeProto.INT,
}


@dataclass(frozen=True)
class Operator:
    """One LSTM node's attributes, checked, and the names of its inputs and outputs; "" is an absent one."""

    label: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    direction: str
    activations: tuple[tuple[Activation, Activation, Activation], ...]  # of each direction
    clip: float | None
    coupled: bool
    hidden_size: int | None
    batch_first: bool

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def options_of(self, direction: int) -> Options:
        """Of one direction by itself."""
        return Options(
            reverse=self.direction == "reverse" or direction == 1,
            coupled=self.coupled,
            cell_clip=self.clip,
            activations=self.activations[direction],
        )

    def options_of_lstm(self) -> dict[str, Any]:
        """What `gpulstm.LSTM` takes. Raises ValueError for activations that it cannot hold."""
        foreign = [a.name for each in self.activations for a in each if isinstance(a, ForeignActivation)]
        if foreign:
            raise ValueError(
                f"{self.label}: gpulstm.LSTM cannot hold activations {', '.join(dict.fromkeys(foreign))}; run_node can"
            )
        if any(each != self.activations[0] for each in self.activations):
            raise ValueError(
                f"{self.label}: gpulstm.LSTM cannot hold activations that differ between its directions, "
                f"got {' and '.join(map(repr, self.activations))}; run_node can"
            )
        return {
            "bidirectional": self.direction == "bidirectional",
            "reverse": self.direction == "reverse",
            "coupled": self.coupled,
            "cell_clip": self.clip,
            "activations": tuple(tuple(a) if a.name in WITH_PARAMETERS else a.name for a in self.activations[0]),
        }


def is_lstm(node: NodeProto) -> bool:
    return node.op_type == "LSTM" and node.domain in DEFAULT_DOMAINS


def read_node(node: NodeProto, opset: int | None = None) -> Operator:
    """`Operator` of a node. Raises ValueError that names the attribute, what was expected and what came.

    ``opset`` None is the newest one.
    """
    if not is_lstm(node):
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise ValueError(f"node must be an LSTM of ONNX's own domain, got {kind!r}")
    label = f"LSTM node {node.name or next(filter(None, node.output), '')!r}"
    if opset is not None and opset < 7:
        raise ValueError(f"{label}: opset must be 7 or newer, got {opset}; onnx.version_converter brings it up")
    _check_attributes(node, label, opset)
    found = attributes(node)
    direction = found.get("direction", b"forward").decode("utf-8", "replace")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"{label}: direction must be forward, reverse or bidirectional, got {direction!r}")
    for name in ("input_forget", "layout"):
        if found.get(name, 0) not in (0, 1):
            raise ValueError(f"{label}: {name} must be 0 or 1, got {found[name]}")
    clip = found.get("clip")
    if clip is not None and not 0 < clip < np.inf:
        raise ValueError(f"{label}: clip must be positive and finite, got {clip}; without one nothing is bounded")
    directions = 2 if direction == "bidirectional" else 1
    names, alphas, betas = (found.get(name, []) for name in ("activations", "activation_alpha", "activation_beta"))
    try:
        activations = onnx_activations.from_attributes(names, alphas, betas, directions)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    return Operator(
        label=label,
        inputs=_names(label, "inputs", INPUTS, node.input),
        outputs=_names(label, "outputs", OUTPUTS, node.output),
        direction=direction,
        activations=tuple(activations),
        clip=None if clip is None else as_written(clip),
        coupled=bool(found.get("input_forget", 0)),
        hidden_size=found.get("hidden_size"),
        batch_first=bool(found.get("layout", 0)),
    )


def _check_attributes(node: NodeProto, label: str, opset: int | None) -> None:
    newest = onnx.defs.onnx_opset_version()
    known = onnx.defs.get_schema("LSTM", max_inclusive_version=newest if opset is None else opset).attributes
    for attribute in node.attribute:
        if attribute.name not in known or attribute.name not in _TYPES:
            raise ValueError(f"{label}: attributes must be among {', '.join(known)}, got {attribute.name!r}")
        if attribute.ref_attr_name:
            raise ValueError(f"{label}: {attribute.name} must be given here, got a reference into a function")
        if attribute.type != _TYPES[attribute.name]:
            kind = AttributeProto.AttributeType.Name(_TYPES[attribute.name])
            raise ValueError(f"{label}: {attribute.name} must be of type {kind}, got {attribute.type}")


def _names(label: str, what: str, formal: tuple[str, ...], given: Any) -> dict[str, str]:
    if len(given) > len(formal):
        raise ValueError(f"{label}: {what} must be at most {', '.join(formal)}, got {len(given)}")
    return dict(zip(formal, [*given, *[""] * (len(formal) - len(given))], strict=True))


def check_shapes(operator: Operator, given: dict[str, Array]) -> tuple[int, int]:
    """(input_size, hidden_size) of weights W, R and, where there are any, B and P.

    Raises ValueError that lists all that disagree with the others.
    """
    shapes = {name: tuple(array.shape) for name, array in given.items() if name in ("W", "R", "B", "P")}
    missing = [name for name in ("W", "R") if name not in shapes]
    if missing:
        raise ValueError(f"{operator.label}: inputs W and R must be there, {' and '.join(missing)} missing")
    axes = {"W": 3, "R": 3}
    wrong = [f"{name} {shape}" for name, shape in shapes.items() if len(shape) != axes.get(name, 2) or 0 in shape]
    if wrong:
        raise ValueError(
            f"{operator.label}: W and R must have 3 axes, B and P 2, none of them empty, got {', '.join(wrong)}"
        )
    count, inputs, hidden = operator.directions, shapes["W"][2], operator.hidden_size or shapes["R"][2]
    expected = {
        "W": ("(directions, 4*hidden, inputs)", (count, 4 * hidden, inputs)),
        "R": ("(directions, 4*hidden, hidden)", (count, 4 * hidden, hidden)),
        "B": ("(directions, 8*hidden)", (count, 8 * hidden)),
        "P": ("(directions, 3*hidden)", (count, 3 * hidden)),
    }
    problems = [
        f"{name} must have shape {expected[name][0]} = {expected[name][1]}, got {shape}"
        for name, shape in shapes.items()
        if shape != expected[name][1]
    ]
    if problems:
        why = "the attribute hidden_size" if operator.hidden_size else "R"
        raise ValueError(
            f"{operator.label}: {'; '.join(problems)}; "
            f"direction is {operator.direction}, and {why} says hidden = {hidden}"
        )
    return inputs, hidden


def to_params(given: dict[str, Array], direction: int, suffix: str = "_l0") -> dict[str, Array]:
    """Our parameters of one direction, named with ``suffix``; `check_shapes` comes first."""
    xp = namespace(given["W"])
    found = {
        "weight_ih" + suffix: _reordered(xp, given["W"][direction, ...], _GATES_TO_OURS),
        "weight_hh" + suffix: _reordered(xp, given["R"][direction, ...], _GATES_TO_OURS),
    }
    if "B" in given:
        both = given["B"][direction, ...]
        half = both.shape[0] // 2
        # Where one of them is zero the sum is the other to the bit, a negative zero included.
        of_input, recurrent = both[:half], both[half:]
        with np.errstate(over="ignore", invalid="ignore"):
            summed = xp.where(recurrent == 0, of_input, of_input + recurrent)
        found["bias" + suffix] = _reordered(xp, summed, _GATES_TO_OURS)
    if "P" in given:
        found["weight_peephole" + suffix] = _reordered(xp, given["P"][direction, ...], _PEEPHOLES)
    return found


def from_params(params: dict[str, np.ndarray], suffixes: list[str]) -> dict[str, np.ndarray]:
    """W, R, B and P of one layer's directions; B and P only where there are any."""

    def joined(kind: str, order: tuple[int, ...]) -> np.ndarray:
        return np.stack([_reordered(np, params[kind + suffix], order) for suffix in suffixes])

    found = {"W": joined("weight_ih", _GATES_TO_ONNX), "R": joined("weight_hh", _GATES_TO_ONNX)}
    if "bias" + suffixes[0] in params:
        bias = joined("bias", _GATES_TO_ONNX)
        found["B"] = np.concatenate([bias, np.zeros_like(bias)], axis=1)
    if "weight_peephole" + suffixes[0] in params:
        found["P"] = joined("weight_peephole", _PEEPHOLES)
    return found


def _reordered(xp: Any, array: Array, order: tuple[int, ...]) -> Array:
    """Blocks of the first axis in another order."""
    size = array.shape[0] // len(order)
    return xp.concat([array[k * size : (k + 1) * size, ...] for k in order])
