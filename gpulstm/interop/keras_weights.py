"""The arrays of Keras' LSTM layers: read from a layer, a list or a file, checked, and put into an LSTM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .. import arrays
from ..activations import WITH_PARAMETERS, Activation
from ..lstm import LSTM
from .keras_config import Spec
from .keras_files import Slot

ROOTS = ("keras", "tf_keras", "tensorflow")
"""Packages that Keras' layers come from."""


@dataclass
class Direction:
    """The arrays of one LSTM cell."""

    kernel: np.ndarray  # (inputs, 4*hidden)
    recurrent: np.ndarray  # (hidden, 4*hidden)
    bias: np.ndarray | None  # (4*hidden,)
    dtype: str  # what they had where they came from: bfloat16 comes as float32


def of_list(source: Sequence[Any]) -> list[Direction]:
    """From arrays as a layer's ``get_weights()`` gives them."""
    if len(source) not in (2, 3, 4, 6):
        raise ValueError(
            f"source must have the arrays kernel, recurrent_kernel and bias (or no bias), of one direction or of two, "
            f"got {len(source)} arrays"
        )
    each = 3 if len(source) % 3 == 0 else 2
    return [_direction("source", source[at : at + each], None) for at in range(0, len(source), each)]


def of_layer(layer: Any, spec: Spec) -> list[Direction]:
    """From a Keras layer, whose functions must be Keras' own and whose weights plain ones."""
    found = []
    for one in (layer.forward_layer, layer.backward_layer) if spec.bidirectional else (layer,):
        cell = getattr(one, "cell", one)
        for option in ("activation", "recurrent_activation"):
            function = getattr(cell, option)
            module = str(getattr(function, "__module__", ""))
            if module.partition(".")[0] not in ROOTS:
                raise ValueError(f"{option} of layer {spec.name!r} must be Keras' own, got {function!r} of {module!r}")
        if getattr(one, "lora_enabled", False) or getattr(cell, "lora_enabled", False):
            raise ValueError(f"an LSTM of gpulstm cannot hold lora_enabled=True of layer {spec.name!r}")
        values = [getattr(cell, name, None) for name in ("kernel", "recurrent_kernel", "bias")]
        if values[0] is None or values[1] is None:
            raise ValueError(
                f"layer {spec.name!r} must be built, and has no weights yet; call it once, or "
                f"layer.build((None, None, inputs))"
            )
        found.append(_direction(spec.name, values, spec.units))
    return found


def of_slot(slot: Slot, spec: Spec | None) -> list[Direction]:
    """From a file. ``spec`` is what its configuration says of the layer, if it has one."""
    if spec is not None:
        both, bias = "backward" in slot.cells, slot.cells["forward"].bias is not None
        for option, wanted, got in (("bidirectional", spec.bidirectional, both), ("use_bias", spec.bias, bias)):
            if wanted != got:
                raise ValueError(
                    f"layer {spec.name!r} must have arrays for {option}={wanted}, got those for {option}={got}"
                )
    found = []
    for cell in (slot.cells[side] for side in ("forward", "backward") if side in slot.cells):
        given = {"kernel": cell.kernel, "recurrent_kernel": cell.recurrent, "bias": cell.bias}
        for array in given.values():
            if array is not None and array.problem:
                raise ValueError(f"{array.path} {array.problem}")
        shapes = {what: None if array is None else array.shape for what, array in given.items()}
        _check_shapes(slot.name, shapes, spec.units if spec else None)
        require_one_dtype(slot.name, [array.dtype for array in given.values() if array is not None])
        bias_values = None if cell.bias is None else cell.bias.read()
        found.append(Direction(cell.kernel.read(), cell.recurrent.read(), bias_values, cell.kernel.dtype))
    return found


def built(
    specs: Sequence[Spec], weights: Sequence[Sequence[Direction]], dropout: float, dtype: Any, xp: ModuleType
) -> LSTM:
    """One LSTM from its layers, bottom up."""
    first = specs[0]
    params: dict[str, np.ndarray] = {}
    inputs, width = weights[0][0].kernel.shape[0], first.units * (2 if first.bidirectional else 1)
    for number, (spec, directions) in enumerate(zip(specs, weights, strict=True)):
        for direction, suffix in zip(directions, (f"_l{number}", f"_l{number}_reverse"), strict=False):
            wanted = (width if number else inputs, 4 * first.units)
            if direction.kernel.shape != wanted:
                raise ValueError(
                    f"the arrays of layer {spec.name!r} do not fit: kernel must have shape (inputs, 4*hidden) = "
                    f"{wanted}, got {direction.kernel.shape}"
                )
            if (direction.bias is not None) != first.bias:
                raise ValueError(f"layer {spec.name!r} must have a bias in all directions and layers, or in none")
            params |= {"weight_ih" + suffix: direction.kernel.T, "weight_hh" + suffix: direction.recurrent.T}
            params |= {} if direction.bias is None else {"bias" + suffix: direction.bias}
    names = ", ".join(spec.name for spec in specs)
    found = require_one_dtype(names, [direction.dtype for directions in weights for direction in directions])
    gates, candidate, cell = (_as_given(activation) for activation in first.activations)
    lstm = LSTM(
        inputs,
        first.units,
        len(specs),
        bias=first.bias,
        batch_first=True,
        dropout=dropout,
        bidirectional=first.bidirectional,
        reverse=first.reverse,
        activations=(gates, candidate, cell),
        dtype=found if dtype is None else dtype,
        xp=xp,
        rng=0,
    )
    lstm.load_state_dict(params)
    return lstm


def require_one_dtype(name: str, dtypes: Sequence[str]) -> str:
    """The one dtype of a layer's arrays. Raises ValueError where they differ."""
    if len(set(dtypes)) > 1:
        raise ValueError(f"the arrays of layer {name!r} must have one dtype, got {', '.join(dtypes)}")
    return dtypes[0]


def _as_given(activation: Activation) -> Any:
    return tuple(activation) if activation.name in WITH_PARAMETERS else activation.name


def _direction(name: str, values: Sequence[Any], units: int | None) -> Direction:
    """Kernel, recurrent_kernel and bias of one direction, checked. The bias may be None or missing."""
    hosts, dtypes = {}, []
    for what, value in zip(("kernel", "recurrent_kernel", "bias"), values, strict=False):
        if value is not None or what != "bias":
            hosts[what], found = _host(f"{what} of {name}", value)
            dtypes.append(found)
    _check_shapes(name, {what: host.shape for what, host in hosts.items()}, units)
    dtype = require_one_dtype(name, dtypes)
    return Direction(hosts["kernel"], hosts["recurrent_kernel"], hosts.get("bias"), dtype)


def _host(what: str, value: Any) -> tuple[np.ndarray, str]:
    """(values, dtype) of an array or a Keras variable. bfloat16 widens to float32, which holds it exactly."""
    module = type(value).__module__.partition(".")[0]
    if module in ROOTS:
        value = value.numpy() if module == "tensorflow" else value.value
    if not arrays.is_array(value):
        raise TypeError(f"{what} must be an array of floating-point numbers, got {type(value).__name__}")
    dtype = arrays.dtype_name(value)
    if dtype == "bfloat16" and hasattr(value, "detach"):
        value = value.detach().float()
    host = arrays.to_numpy(value)
    host = host.astype(np.float32) if dtype == "bfloat16" else host
    if host.dtype.kind != "f":
        raise TypeError(f"{what} must be an array of floating-point numbers, got {arrays.describe(value)}")
    return host, "bfloat16" if dtype == "bfloat16" else host.dtype.name


def _check_shapes(name: str, shapes: Mapping[str, tuple[int, ...] | None], units: int | None) -> None:
    """Raises ValueError unless the arrays fit each other, and the number of units where that is known."""
    kernel, recurrent, bias = (shapes.get(what) for what in ("kernel", "recurrent_kernel", "bias"))
    hidden = units or _hidden(recurrent or ())
    inputs = 1
    if kernel is not None and len(kernel) == 2:
        inputs = kernel[1] if kernel[0] == 4 * hidden != kernel[1] else kernel[0]
    wanted: list[tuple[str, str, tuple[int, ...], tuple[int, ...] | None]] = [
        ("kernel", "(inputs, 4*hidden)", (max(inputs, 1), 4 * hidden), kernel),
        ("recurrent_kernel", "(hidden, 4*hidden)", (hidden, 4 * hidden), recurrent),
    ]
    wanted += [] if bias is None else [("bias", "(4*hidden,)", (4 * hidden,), bias)]
    problems = []
    for what, symbols, shape, got in wanted:
        if got != shape:
            hint = "; is it transposed?" if len(shape) == 2 and got == shape[::-1] else ""
            hint = "; is it a GRU's?" if got == (hidden, 3 * hidden) else hint
            problems.append(f"{what} must have shape {symbols} = {shape}, got {got}{hint}")
    if problems:
        raise ValueError(f"the arrays of layer {name!r} do not fit: {'; '.join(problems)}")


def _hidden(recurrent: tuple[int, ...]) -> int:
    """The hidden size that a recurrent kernel speaks for, transposed or not."""
    if len(recurrent) != 2:
        return 1
    rows, columns = recurrent
    return max(1, columns if rows == 4 * columns else rows)
