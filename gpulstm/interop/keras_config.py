"""What Keras' configuration says about a model's LSTM layers: plain dicts and lists, as JSON has them."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..activations import Activation, named
from .held import check_ignored

FORWARD_ALONE = ("dropout", "recurrent_dropout")
"""Options of a Keras layer that act in training alone, and that gpulstm holds differently."""

SAME_NAMES = ("sigmoid", "tanh", "relu", "softsign")
LINEAR, HARD_SIGMOID, OLD_HARD_SIGMOID = (
    named("activation", given)
    for given in (("affine", 1.0, 0.0), ("hard_sigmoid", 1 / 6, 0.5), ("hard_sigmoid", 0.2, 0.5))
)

NO_EFFECT = frozenset(
    "name trainable dtype batch_shape batch_input_shape input_shape input_dim input_length return_sequences "
    "return_state stateful unroll units activation recurrent_activation use_bias go_backwards kernel_initializer "
    "recurrent_initializer bias_initializer unit_forget_bias kernel_regularizer recurrent_regularizer "
    "bias_regularizer activity_regularizer kernel_constraint recurrent_constraint bias_constraint dropout "
    "recurrent_dropout seed implementation zero_output_for_mask".split()
)
"""Options of keras.layers.LSTM that are read here, or do not change what the numbers of a call are."""

QUIET = ("Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization")
"""Layers that pass their input through unless in training."""

MODELS = ("Sequential", "Functional", "Model")
DEEPEST_MODEL = 20


@dataclass(frozen=True)
class Spec:
    """One recurrent layer of a model."""

    name: str
    units: int
    activations: tuple[Activation, Activation, Activation]
    bias: bool
    bidirectional: bool
    reverse: bool
    dropouts: Mapping[str, float]  # those of `FORWARD_ALONE` that are on
    path: tuple[str, ...] = ()  # names of the models around it, and its own
    group: tuple[str, ...] = ()  # where a file has its arrays

    def __str__(self) -> str:
        return f"{'/'.join(self.path) or self.name} ({self.units} units{' each way' if self.bidirectional else ''})"


@dataclass
class Model:
    """The LSTM layers of a model, and which of them feed on which."""

    specs: list[Spec] = field(default_factory=list)
    problems: dict[tuple[str, ...], str] = field(default_factory=dict)  # of layers that cannot be held, by path
    feeds: "Feeds" = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)  # of all layers, for messages


Feeds = dict[tuple[str, ...], tuple[tuple[str, ...], float | None]]
"""Path of a layer -> path of the one that it reads alone, and the dropout in between; None is one of another kind."""


def model_of(config: Mapping[str, Any], version: str | None) -> Model:
    """The LSTM layers of a model's configuration, in its order. ``version`` is Keras'."""
    found = Model()
    if config.get("class_name") in ("LSTM", "Bidirectional"):
        _add(found, config, (str(_inner(config).get("name")),), (), version)
    else:
        _add_layers(found, config, (), (), version)
    return found


def layer_of(config: Mapping[str, Any], version: str | None) -> Spec:
    """The spec of an LSTM or of a Bidirectional around one. Raises TypeError or ValueError that names the option."""
    inner, kind = _inner(config), config.get("class_name")
    name = str(inner.get("name", "the layer"))
    if kind == "Bidirectional":
        return _bidirectional(name, config, inner, version)
    if kind != "LSTM":
        raise TypeError(f"layer {name!r} must be an LSTM or a Bidirectional around one, got {kind}")
    _refuse_unknown(name, config, inner)
    units = inner.get("units")
    if isinstance(units, bool) or not isinstance(units, int) or units < 1:
        raise ValueError(f"units of layer {name!r} must be a positive integer, got {units!r}")
    flags = [inner.get(flag, default) for flag, default in (("use_bias", True), ("go_backwards", False))]
    if not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(f"use_bias and go_backwards of layer {name!r} must be true or false, got {flags}")
    gates = activation_of(f"recurrent_activation of layer {name!r}", inner.get("recurrent_activation", ""), version)
    cell = activation_of(f"activation of layer {name!r}", inner.get("activation", ""), version)
    dropouts = {option: inner[option] for option in FORWARD_ALONE if inner.get(option)}
    return Spec(name, units, (gates, cell, cell), flags[0], False, flags[1], dropouts)


def activation_of(what: str, given: Any, version: str | None) -> Activation:
    """Ours for one of Keras', which a configuration names by a string; None is the linear one."""
    if given in ("linear", None):
        return LINEAR
    if given == "hard_sigmoid":
        if version is None:
            raise ValueError(f"{what} is hard_sigmoid, which changed with Keras 3, and no version of Keras is given")
        return OLD_HARD_SIGMOID if int(version.partition(".")[0].zfill(1) or 0) < 3 else HARD_SIGMOID
    if given not in SAME_NAMES:
        shown = given.get("config", given) if isinstance(given, Mapping) else given
        known = ", ".join((*SAME_NAMES, "hard_sigmoid", "linear"))
        raise ValueError(f"{what} must be one of {known}, got {str(shown)[:80]!r}")
    return named(what, given)


def chosen(model: Model, layer: str | Sequence[str] | None) -> list[Spec]:
    """The layers to be made one LSTM, in order: all, or those that are named. Raises ValueError if they cannot be."""
    if layer is None:
        if model.problems and not model.specs or len(model.problems) + len(model.specs) > 1 and model.problems:
            raise ValueError("; ".join(model.problems.values()))
        wanted = model.specs
        if not wanted:
            raise ValueError(f"the model must have an LSTM layer, got {', '.join(model.classes[:20]) or 'no layers'}")
    else:
        wanted = [
            by_name(name, model.specs, model.problems) for name in ((layer,) if isinstance(layer, str) else layer)
        ]
    if len(wanted) > 1:
        reason = why_not_stacked(wanted, model)
        if reason:
            raise ValueError(f"{reason}; {list_of(wanted)}")
    return list(wanted)


def by_name(name: str, specs: Sequence[Any], problems: Mapping[tuple[str, ...], str]) -> Any:
    """The layer of this name, or of this path where several models have one of the name."""
    found = [spec for spec in specs if name in (spec.name, "/".join(spec.path))]
    if len(found) == 1:
        return found[0]
    for path, problem in problems.items():
        if name in (path[-1], "/".join(path)):
            raise ValueError(problem)
    got = ", ".join(map(str, specs)) or "none"
    raise ValueError(f"layer must name one LSTM layer, got {name!r}; the LSTM layers are {got}")


def list_of(specs: Sequence[Any]) -> str:
    """What to do about several layers, for a message."""
    return f"the LSTM layers are {', '.join(map(str, specs))}; pass layer={specs[0].name!r} for one of them"


def why_not_stacked(specs: Sequence[Spec], model: Model) -> str | None:
    """Why these layers are not one LSTM with several layers, or None."""
    first = specs[0]
    for below, above in zip(specs, specs[1:], strict=False):
        for option in ("units", "activations", "bias", "bidirectional"):
            if getattr(above, option) != getattr(first, option):
                return f"the layers of one LSTM must have the same {option}"
        if above.reverse:  # the first one's output is in the order in which it went, so the next ones go forward
            return "of layers upon each other only the first one can have go_backwards"
        if model.feeds.get(above.path, ((), None))[0] != below.path:
            return f"layer {above.name!r} does not read the output of {below.name!r} alone"
    return None


def dropout_of(specs: Sequence[Spec], model: Model, ignore: Collection[str]) -> float:
    """Our dropout between layers for Dropout layers between theirs. Raises ValueError for what differs in training."""
    check_ignored(ignore, FORWARD_ALONE)
    for spec in specs:
        left = [f"{name}={value}" for name, value in spec.dropouts.items() if name not in ignore]
        if left:
            names = tuple(name for name in spec.dropouts if name not in ignore)
            raise ValueError(
                f"an LSTM of gpulstm cannot hold {', '.join(left)} of layer {spec.name!r}: Keras drops inputs, and has "
                f"a mask for each gate; ignore={names!r} leaves out what acts in training alone"
            )
    between = {model.feeds[spec.path][1] for spec in specs[1:]}
    if not between or "dropout" in ignore:
        return 0.0
    rate = between.pop()
    if between or rate is None:
        raise ValueError(
            "an LSTM of gpulstm can hold one dropout rate between its layers, all of class Dropout; "
            "ignore=('dropout',) leaves out what acts in training alone"
        )
    return rate


def _inner(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("config")
    if not isinstance(inner, Mapping):
        raise ValueError(f"the configuration of a {config.get('class_name')} must be an object, got {inner!r:.80}")
    return inner


def _bidirectional(name: str, config: Mapping[str, Any], inner: Mapping[str, Any], version: str | None) -> Spec:
    layers = [inner.get("layer"), inner.get("backward_layer")]
    if not isinstance(layers[0], Mapping) or layers[0].get("class_name") != "LSTM":
        got = layers[0].get("class_name") if isinstance(layers[0], Mapping) else layers[0]
        raise TypeError(f"layer {name!r} must be a Bidirectional around an LSTM, got one around {got!r:.80}")
    if inner.get("merge_mode", "concat") != "concat":
        raise ValueError(f"merge_mode of layer {name!r} must be 'concat', got {inner['merge_mode']!r:.80}")
    _refuse_unknown(name, config, inner, frozenset(("layer", "backward_layer", "merge_mode")))
    forward = layer_of(layers[0], version)
    backward = layer_of(layers[1], version) if isinstance(layers[1], Mapping) else replace(forward, reverse=True)
    if forward.reverse or not backward.reverse:
        raise ValueError(f"go_backwards of layer {name!r} must be False forward and True backward")
    for option in ("units", "activations", "bias"):
        if getattr(forward, option) != getattr(backward, option):
            raise ValueError(f"both directions of layer {name!r} must have the same {option}")
    return replace(forward, name=name, bidirectional=True, dropouts={**backward.dropouts, **forward.dropouts})


def _refuse_unknown(
    name: str, config: Mapping[str, Any], inner: Mapping[str, Any], more: frozenset[str] = frozenset()
) -> None:
    """Raises for an option that nobody here knows and that is on, a custom class, and types that are not plain."""
    unknown = {key: value for key, value in inner.items() if key not in NO_EFFECT | more}
    effective = [f"{key}={value!r:.60}" for key, value in unknown.items() if value not in (None, False)]
    if effective:
        raise ValueError(f"an LSTM of gpulstm cannot hold {', '.join(effective)} of layer {name!r}")
    module = config.get("module") or "keras.layers"
    if str(module).partition(".")[0] not in ("keras", "tf_keras", "tensorflow") or ">" in str(
        config.get("registered_name") or ""
    ):
        raise TypeError(f"layer {name!r} must be Keras' own LSTM, got the class of that name in {module!r:.80}")
    policy = inner.get("dtype")
    kind = policy.get("class_name") if isinstance(policy, Mapping) else "DTypePolicy"
    text = str(policy.get("config") if isinstance(policy, Mapping) else policy)
    if kind not in ("DTypePolicy", "Policy") or any(part in text for part in ("int8", "int4", "float8")):
        raise ValueError(f"an LSTM of gpulstm cannot hold dtype={text[:80]} of layer {name!r}: it is quantised")


def _add(
    found: Model, config: Mapping[str, Any], path: tuple[str, ...], group: tuple[str, ...], version: str | None
) -> None:
    try:
        found.specs.append(replace(layer_of(config, version), path=path, group=group))
    except (TypeError, ValueError) as error:
        if config.get("class_name") == "LSTM" or "must be a Bidirectional around" not in str(error):
            found.problems[path] = str(error)


def _add_layers(
    found: Model, config: Mapping[str, Any], path: tuple[str, ...], group: tuple[str, ...], version: str | None
) -> None:
    """Adds the LSTM layers of a model's configuration, and those of the models inside it."""
    inner = config.get("config")
    # Keras 2 before 2.2.3 had the list of layers itself for a Sequential.
    layers = inner.get("layers") if isinstance(inner, Mapping) else inner
    if not isinstance(layers, list) or len(path) > DEEPEST_MODEL:
        return
    counts: dict[str, int] = {}
    entries = [layer for layer in layers if isinstance(layer, Mapping)]
    for layer in entries:
        kind, name = str(layer.get("class_name")), _layer_name(layer)
        counts[kind] = counts.get(kind, -1) + 1
        at = (*group, "layers", _snake_case(kind) + (f"_{counts[kind]}" if counts[kind] else ""))
        found.classes.append(kind)
        if kind in ("LSTM", "Bidirectional"):
            _add(found, layer, (*path, name), at, version)
        elif isinstance(layer.get("config"), Mapping) and "layers" in layer["config"]:
            _add_layers(found, layer, (*path, name), at, version)
    found.feeds |= _feeds(config, entries, path)


def _feeds(config: Mapping[str, Any], entries: list[Mapping[str, Any]], path: tuple[str, ...]) -> Feeds:
    """For each recurrent layer the one below it, if nothing lies between them that acts in a call."""
    names = [_layer_name(layer) for layer in entries]
    by = dict(zip(names, entries, strict=True))
    if config.get("class_name") == "Sequential":
        below = dict(zip(names[1:], names, strict=False))
    else:
        below = {name: source for name in names if (source := _only_source(by[name]))}
    found: Feeds = {}
    for name, layer in by.items():
        if layer.get("class_name") not in ("LSTM", "Bidirectional"):
            continue
        rates: list[float | None] = []
        at = below.get(name)
        for _ in names:
            if at not in by or by[at].get("class_name") not in QUIET:
                break
            rates.append(_rate(by[at]))
            at = below.get(at)
        if at in by:
            rate = 0.0 if not rates else rates[0] if len(rates) == 1 else None
            found[(*path, name)] = ((*path, at), rate)
    return found


def _only_source(layer: Mapping[str, Any]) -> str | None:
    """The layer whose first output is this one's one input, in a Functional model's configuration."""
    nodes = layer.get("inbound_nodes")
    if not isinstance(nodes, list) or len(nodes) != 1:
        return None
    found: list[Any] = []
    waiting = [nodes[0]]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            history = item.get("keras_history")
            found += [history] if history else []
            waiting += [] if history else list(item.values())
        elif isinstance(item, list):
            is_source = len(item) in (3, 4) and isinstance(item[0], str) and isinstance(item[1], int)  # Keras 2
            found += [item[:3]] if is_source else []
            waiting += item[3:] if is_source else item
    if len(found) != 1 or not isinstance(found[0], list) or found[0][1:] != [0, 0]:
        return None
    return found[0][0] if isinstance(found[0][0], str) else None


def _rate(layer: Mapping[str, Any]) -> float | None:
    """The rate of a Dropout layer that is as ours between layers; None for another kind."""
    inner = layer.get("config")
    if layer.get("class_name") == "ActivityRegularization":
        return 0.0
    if layer.get("class_name") != "Dropout" or not isinstance(inner, Mapping) or inner.get("noise_shape"):
        return None
    rate = inner.get("rate")
    return float(rate) if isinstance(rate, (int, float)) and 0 <= rate < 1 else None


def _layer_name(layer: Mapping[str, Any]) -> str:
    inner = layer.get("config")
    return str(layer.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None))


def _snake_case(name: str) -> str:
    """As Keras makes the names of a file's groups from those of classes."""
    text = re.sub(r"\W+", "", name)
    text = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", text)
    return re.sub("([a-z])([A-Z])", r"\1_\2", text).lower()
