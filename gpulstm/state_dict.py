"""Parameters from elsewhere: our names or PyTorch's, arrays of any library."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array
from .parameters import Layout, listing, shape_problem


def load(
    mapping: Mapping[str, Any], layout: Layout, params: Mapping[str, Array], prefix: str | None = None
) -> dict[str, Array]:
    """New parameters in ``params``' library, device and dtype with the values of ``mapping``.

    ``prefix`` picks the LSTM out of a whole model's state dict, see `without_prefix`.

    Raises ValueError that lists everything missing, unexpected or mis-shaped.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(
            f"mapping must be a dict of arrays such as module.state_dict(), got {type(mapping).__name__}"
            f"{of_file(mapping)}"
        )
    mapping = without_prefix(mapping, prefix)
    shapes = layout.shapes()
    torch_names = any(re.match(r"bias_(ih|hh)_l\d", str(name)) for name in mapping)
    expected = {name: _sources(name, torch_names) for name in shapes}
    wanted = {source: shapes[name] for name, sources in expected.items() for source in sources}

    problems = [f"missing {source} {shape}" for source, shape in wanted.items() if source not in mapping]
    problems += [f"unexpected {name}" for name in mapping if name not in wanted]
    values = {source: _host(source, mapping[source]) for source in wanted if source in mapping}
    found = (
        shape_problem(source, value, wanted[source], projected=layout.proj_size > 0) for source, value in values.items()
    )
    problems += [problem for problem in found if problem]
    if problems:
        raise ValueError(f"the state dict does not fit this LSTM: {listing(problems)}")

    def combined(name: str) -> np.ndarray:
        first, *rest = (values[source] for source in expected[name])
        return np.where(rest[0] == 0, first, first + rest[0]) if rest else first  # -0.0 + 0.0 would lose its sign

    return {name: _like(combined(name), params[name]) for name in shapes}


def load_by_name(mapping: Mapping[str, Any], params: Mapping[str, Array]) -> dict[str, Array]:
    """`load` for a layer whose parameters are called as PyTorch's are: same names, same shapes."""
    problems = [f"missing {name} {tuple(p.shape)}" for name, p in params.items() if name not in mapping]
    problems += [f"unexpected {name}" for name in mapping if name not in params]
    values = {name: _host(name, mapping[name]) for name in params if name in mapping}
    for name, value in values.items():
        shape, got = tuple(params[name].shape), value.shape
        if got != shape:
            hint = "; is it transposed?" if len(shape) == 2 and got == shape[::-1] else ""
            problems.append(f"{name} must have shape {shape}, got {got}{hint}")
    if problems:
        raise ValueError(f"the state dict does not fit: {listing(problems)}")
    return {name: _like(values[name], params[name]) for name in params}


def of_torch(module_or_state_dict: Any) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The state dict of a ``torch.nn.LSTM``, or a state dict itself, and the options that it does not show.

    PyTorch takes a dropout with one layer, warns and does nothing with it; here it comes out as 0.
    """
    if isinstance(module_or_state_dict, Mapping):
        return module_or_state_dict, {}
    module = module_or_state_dict
    if not hasattr(module, "state_dict") or not hasattr(module, "hidden_size"):
        raise TypeError(
            f"module_or_state_dict must be a torch.nn.LSTM or its state_dict(), got {type(module).__name__}"
            f"{of_file(module)}"
        )
    if getattr(module, "mode", "LSTM") != "LSTM":
        raise TypeError(f"module_or_state_dict must be a torch.nn.LSTM, got a recurrent module of mode {module.mode!r}")
    dropout = getattr(module, "dropout", 0.0) if getattr(module, "num_layers", 1) > 1 else 0.0
    own = module.own_options() if hasattr(module, "own_options") else {}  # a gpulstm.interop.torch.LSTM
    own = {name: value for name, value in own.items() if name not in ("peephole", "layer_norm")}  # the names show them
    return module.state_dict(), {"batch_first": bool(getattr(module, "batch_first", False)), "dropout": dropout} | own


def of_file(given: Any) -> str:
    """What to do with a path where its content is wanted."""
    return (
        "; gpulstm.load(path) reads the arrays of a safetensors file" if isinstance(given, (str, os.PathLike)) else ""
    )


def without_prefix(mapping: Mapping[str, Any], prefix: str | None) -> Mapping[str, Any]:
    """One LSTM's part of a state dict, under the LSTM's own names.

    A whole model's state dict names the module before each parameter: ``encoder.lstm.weight_ih_l0``. ``prefix`` is what
    stands there, such as ``"encoder.lstm"``. None takes the mapping as it is if it has ``weight_ih_l0`` itself, and
    else the one LSTM that is in it.

    Raises ValueError that lists the LSTMs in the state dict where there are several, or none under ``prefix``.
    """
    found = [each[1] for name in map(str, mapping) if (each := re.fullmatch(r"((?:.+\.)?)weight_ih_l0", name))]
    if prefix is None:
        if "" in found or not found:
            return mapping
        if len(found) > 1:
            raise ValueError(f"prefix must say which LSTM to take out of {_quoted(found)}, got None")
        wanted = found[0]
    else:
        wanted = prefix + "." if prefix and not prefix.endswith(".") else prefix
        if wanted not in found:
            raise ValueError(f"prefix must name an LSTM in the state dict, one of {_quoted(found)}, got {prefix!r}")
    own = rf"{re.escape(wanted)}((?:weight|bias)_\w+)"  # a module below it has another dot
    return {each[1]: value for name, value in mapping.items() if (each := re.fullmatch(own, str(name)))}


def _quoted(prefixes: list[str]) -> str:
    return ", ".join(repr(each.removesuffix(".")) for each in prefixes) or "none"


def layout_of_torch(mapping: Mapping[str, Any]) -> Layout:
    """The layout of a state dict under our names or PyTorch's."""
    projected = "weight_hr_l0" in mapping
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_hr_l0")[: 2 + projected]:
        if name not in mapping:
            got = ", ".join(map(str, mapping)) or "nothing"
            raise ValueError(f"the state dict must have '{name}', got {got}")
        if len(getattr(mapping[name], "shape", ())) != 2:
            raise ValueError(f"{name} must be an array with 2 axes, got {arrays.describe(mapping[name])}")
    layers = [int(m[1]) for name in mapping if (m := re.fullmatch(r"weight_ih_l(\d+)", str(name)))]
    return Layout(
        input_size=int(mapping["weight_ih_l0"].shape[1]),
        hidden_size=int(mapping["weight_hr_l0" if projected else "weight_hh_l0"].shape[1]),
        num_layers=max(layers) + 1,
        bidirectional="weight_ih_l0_reverse" in mapping,
        bias="bias_l0" in mapping or "bias_ih_l0" in mapping,
        proj_size=int(mapping["weight_hr_l0"].shape[0]) if projected else 0,
        peephole="weight_peephole_l0" in mapping,
        layer_norm="weight_norm_ih_l0" in mapping,
    )


def _sources(name: str, torch_names: bool) -> tuple[str, ...]:
    """The keys that make up one of our parameters."""
    if torch_names and name.startswith("bias_l"):
        suffix = name.removeprefix("bias")
        return ("bias_ih" + suffix, "bias_hh" + suffix)
    return (name,)


def _host(name: str, value: Any) -> np.ndarray:
    """The values as a NumPy array. float16 and bfloat16 widen, so that two biases are added in float32."""
    if hasattr(value, "detach"):  # a PyTorch parameter requires grad, which DLPack refuses
        value = value.detach().cpu()
        value = value.float() if arrays.dtype_name(value) in ("float16", "bfloat16") else value
    if arrays.is_array(value):
        host = arrays.to_numpy(value)
    elif hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        host = np.from_dlpack(value)
    elif hasattr(value, "__array__") and not isinstance(value, (np.ndarray, np.generic)):
        host = np.asarray(value)
    else:
        raise TypeError(f"{name} must be an array of floating-point numbers, got {type(value).__name__}")
    if host.dtype.name in ("float16", "bfloat16"):
        return host.astype(np.float32)
    if host.dtype.kind != "f":
        raise TypeError(f"{name} must be an array of floating-point numbers, got {arrays.describe(host)}")
    return host


def _like(host: np.ndarray, like: Array) -> Array:
    """A copy of ``host`` in the library, device and dtype of ``like``."""
    if arrays.is_numpy(like):
        return np.array(host, dtype=like.dtype, order="C")
    # On the host there is a cast to every dtype that CuPy may have.
    wanted = np.array(host, dtype=like.dtype if arrays.is_cupy(like) else None, order="C")
    return arrays.beside(wanted, like, like.dtype)
