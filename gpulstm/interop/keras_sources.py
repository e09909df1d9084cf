"""What `from_keras` may be given, file, list or object: which layers it has, and their arrays."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import activations as ours
from . import keras_config, keras_files, keras_weights
from .keras_config import Feeds, Model, Spec
from .keras_weights import ROOTS, Direction

PLAIN = ("sigmoid", "tanh", "tanh")
Found = tuple[list[Spec], list[list[Direction]], Model]
"""The layers to be made one LSTM, bottom up; the arrays of each; and the model that they are from."""


class Untold:
    """Options for sources that do not tell them."""

    def __init__(self, activations: Any, reverse: bool | None) -> None:
        if reverse is not None and not isinstance(reverse, bool):
            raise TypeError(f"reverse must be True, False or None, got {reverse!r}")
        self.given = {"activations": activations, "reverse": reverse}
        self.reverse = bool(reverse)
        chosen = PLAIN if activations is None else activations
        if isinstance(chosen, str) or not isinstance(chosen, Sequence) or len(chosen) != 3:
            raise ValueError(f"activations must be three: of the gates, the candidate and the cell, got {chosen!r}")
        gates, candidate, cell = (ours.named("activations", each) for each in chosen)
        self.activations = (gates, candidate, cell)

    def refuse(self, what: str) -> None:
        """Raises ValueError where the source tells these options itself."""
        for name, value in self.given.items():
            if value is not None:
                raise ValueError(f"{name} must be None for {what}, which tells its own, got {value!r}")

    def spec(self, name: str, directions: Sequence[Direction]) -> Spec:
        """What there is to say about a layer of which there are only the arrays."""
        if self.reverse and len(directions) == 2:
            raise ValueError("reverse must be False for both directions: of two the second one is the reverse already")
        both = len(directions) == 2
        return Spec(
            name,
            directions[0].recurrent.shape[0],
            self.activations,
            directions[0].bias is not None,
            both,
            self.reverse,
            {},
            (name,),
        )


def of_list(source: Sequence[Any], layer: Any, untold: Untold) -> Found:
    """The one layer of a list of arrays."""
    if layer is not None:
        raise ValueError(f"layer must be None for a list of arrays, got {layer!r}")
    directions = keras_weights.of_list(source)
    return [untold.spec("source", directions)], [directions], Model()


def of_file(source: str | os.PathLike, layer: str | Sequence[str] | None, untold: Untold) -> Found:
    """The layers that are wanted of a file."""
    with keras_files.opened(source) as file:
        if file.config is not None:
            model = keras_config.model_of(file.config, file.version)
            if model.specs or model.problems or not file.slots:
                untold.refuse("a file with a configuration")
                specs = keras_config.chosen(model, layer)
                weights = [keras_weights.of_slot(_slot(file, spec), spec) for spec in specs]
                return specs, weights, model
            if untold.given["activations"] is None:
                raise ValueError(
                    f"its configuration does not describe its LSTM layers {', '.join(s.name for s in file.slots)}, as "
                    f"that of a subclassed model does not; say activations=('sigmoid', 'tanh', 'tanh') if they are so"
                )
        slots = _slots_without_config(file, layer)
        weights = [keras_weights.of_slot(slot, None) for slot in slots]
        specs = [untold.spec(slot.name, directions) for slot, directions in zip(slots, weights, strict=True)]
        if layer is None and len(specs) > 1:
            _refuse_guessed_stack(file, specs, weights)
        if len(specs) > 1:  # the first one's output is in the order in which it went
            specs = [specs[0], *(replace(spec, reverse=False) for spec in specs[1:])]
        feeds: Feeds = {above.path: (below.path, 0.0) for below, above in zip(specs, specs[1:], strict=False)}
        model = Model(specs, feeds=feeds)
        reason = keras_config.why_not_stacked(specs, model)
        if reason:
            raise ValueError(f"{reason}; {keras_config.list_of(specs)}")
        return specs, weights, model


def _slot(file: keras_files.KerasFile, spec: Spec) -> keras_files.Slot:
    """Where a file has the arrays of a layer that its configuration names."""
    groups = [spec.group, tuple("_layer_checkpoint_dependencies" if part == "layers" else part for part in spec.group)]
    found = [slot for slot in file.slots if slot.path in groups and (slot.name == spec.name or not slot.told)]
    found = found or [slot for slot in file.slots if slot.name == spec.name]
    if len(found) != 1:
        got = ", ".join("/".join(slot.path) for slot in file.slots) or "none"
        raise ValueError(f"it must have the arrays of layer {spec.name!r} once, got those of {got}")
    return found[0]


def _slots_without_config(file: keras_files.KerasFile, layer: str | Sequence[str] | None) -> list[keras_files.Slot]:
    """The layers of a file of weights. GRU and SimpleRNN have as many arrays; their columns tell them apart."""

    def is_other(slot: keras_files.Slot) -> bool:
        shape = slot.cells["forward"].recurrent.shape
        return len(shape) == 2 and shape[1] in (shape[0], 3 * shape[0])

    slots = [slot for slot in file.slots if not is_other(slot)]
    if not slots:
        raise ValueError("it has no arrays of an LSTM layer")
    if layer is None:
        return slots
    found = []
    for name in (layer,) if isinstance(layer, str) else layer:
        named = [slot for slot in slots if name in (slot.name, slot.path[-1], "/".join(slot.path))]
        if len(named) != 1:
            raise ValueError(
                f"layer must name one LSTM layer, got {name!r}; the LSTM layers are "
                f"{', '.join(slot.name for slot in slots)}"
            )
        found += named
    return found


def _refuse_guessed_stack(
    file: keras_files.KerasFile, specs: Sequence[Spec], weights: Sequence[Sequence[Direction]]
) -> None:
    """Raises ValueError where a file without a configuration leaves open what its LSTM layers feed on."""
    width = specs[0].units * (2 if specs[0].bidirectional else 1)
    between = [shape for shape in file.others if shape[-1:] == (width,)]
    inputs = [directions[0].kernel.shape[0] for directions in weights]
    if between or inputs[0] == width or any(size != width for size in inputs[1:]):
        names = tuple(spec.name for spec in specs)
        raise ValueError(
            f"a file of weights does not say how its LSTM layers are joined, and these need not be a stack: "
            f"{keras_config.list_of(specs)}, layer={names!r} for a stack of them, or the .keras file"
        )


def of_object(source: Any, layer: str | Sequence[str] | None, untold: Untold) -> Found:
    """The layers that are wanted of a Keras layer or model."""
    kinds = [kind.__name__ for kind in type(source).__mro__ if kind.__module__.partition(".")[0] in ROOTS]
    if not kinds or not hasattr(source, "get_config"):
        raise TypeError(
            f"source must be a Keras LSTM, Bidirectional or model, a path, or a list of arrays, "
            f"got {type(source).__name__}"
        )
    untold.refuse(f"a {type(source).__name__}")
    version = getattr(sys.modules.get(type(source).__module__.partition(".")[0]), "__version__", None)
    if "Model" in kinds and hasattr(source, "get_layer"):
        model = keras_config.model_of(_config_of(source), version)
        specs = keras_config.chosen(model, layer)
        return specs, [keras_weights.of_layer(_inside(source, spec.path), spec) for spec in specs], model
    if layer is not None:
        raise ValueError(f"layer must be None for a single layer, got {layer!r}")
    name = type(source).__name__
    if "LSTM" in kinds and name != "LSTM":
        raise TypeError(
            f"source must be Keras' own LSTM, got its subclass {name}, which may compute something else; "
            f"if it does not, pass its get_weights()"
        )
    config = {"class_name": name, "module": type(source).__module__, "config": source.get_config()}
    spec = keras_config.layer_of(config, version)
    return [spec], [keras_weights.of_layer(source, spec)], Model([spec])


def _config_of(model: Any) -> Mapping[str, Any]:
    try:
        return json.loads(model.to_json())
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"the model {model.name!r} does not say what it consists of ({error}); pass its LSTM layer itself"
        ) from error


def _inside(model: Any, path: Sequence[str]) -> Any:
    for name in path:
        model = model.get_layer(name)
    return model
