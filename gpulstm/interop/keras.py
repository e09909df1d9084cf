"""Weights and options from Keras and to it.

Reading needs neither Keras nor h5py: a file is read by `gpulstm.interop.keras_files`, a layer by its attributes. Keras
is imported only where one of its layers is made.
"""

import os
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from .. import arrays
from ..activations import Activation
from ..lstm import LSTM
from . import keras_config, keras_files, keras_sources, keras_weights
from .held import refuse_what_is_not_held

__all__ = ["from_keras", "to_keras"]

HELD = ("num_layers", "bias", "batch_first", "bidirectional", "reverse", "activations", "dropout")
"""Options of `gpulstm.LSTM` that Keras' layers hold."""


def from_keras(
    source: Any,
    *,
    layer: str | Sequence[str] | None = None,
    ignore: Collection[str] = (),
    activations: tuple[Any, Any, Any] | None = None,
    reverse: bool | None = None,
    dtype: Any = None,
    xp: ModuleType = np,
) -> LSTM:
    """An LSTM with the weights and options of Keras' own, copied. It has ``batch_first=True``, as Keras has its axes.

    Parameters
    ----------
    source : a built ``keras.layers.LSTM``; a ``Bidirectional`` around one; a model with such layers; the path of a
        ``.keras``, ``.weights.h5`` or ``.h5`` file; or a list of arrays as ``layer.get_weights()`` gives it: kernel
        (inputs, 4*hidden), recurrent_kernel (hidden, 4*hidden) and, if there is one, bias (4*hidden,), for a
        Bidirectional the forward layer's first and then the backward layer's.
    layer : which of several LSTM layers, by name; several names are stacked in this order. None takes all of them.
        Layers of one size that feed on each other, with nothing or Dropout in between, become one LSTM of several
        layers. Others raise ValueError, which lists them.
    ignore : "dropout" and "recurrent_dropout" may be left out. They act in training alone, and Keras' are not ours:
        it drops inputs, and has one mask for each gate. Unless named here they raise.
    activations, reverse : as `gpulstm.LSTM` has them, for sources that do not tell: arrays, and files that hold
        weights alone (``.weights.h5``). None is Keras' default: sigmoid, tanh, tanh, forward.
    dtype : of the parameters; None keeps theirs, which is the dtype of Keras' variables, not that of its computations.
    xp : the library of the parameters.

    A file is read as data: JSON and numbers. Nothing is unpickled, unpacked or run, Lambda layers included.

    Differences in what a call gives: our outputs are always in the order of time, where those of a Keras layer with
    ``go_backwards`` are in the order in which it went; and ours past a sequence's end are zero, where Keras repeats the
    last one. A mask of Keras that is right-padded, such as Embedding's ``mask_zero`` makes, is our ``lengths``; others
    have no counterpart. What a layer returns, keeps between calls or does to its weights in training (return_sequences,
    return_state, stateful, unroll, trainable, initialisers, regularisers, constraints, seed) is left out: it does not
    change what is computed.

    Raises TypeError for another kind of layer; ValueError for what gpulstm does not have, naming the option, for layers
    that are not built, and for files that are damaged or not Keras', naming the file.

    Gate order of both is i, f, c (our g), o. https://keras.io/api/layers/recurrent_layers/lstm/
    """
    keras_config.check_ignored(ignore, keras_config.FORWARD_ALONE)
    if layer is not None and not isinstance(layer, str):
        if not isinstance(layer, Sequence) or not layer or not all(isinstance(name, str) for name in layer):
            raise TypeError(f"layer must be a name or a tuple of names, got {layer!r}")
    untold = keras_sources.Untold(activations, reverse)
    is_file = isinstance(source, (str, os.PathLike))
    with keras_files.naming(source) if is_file else nullcontext():
        if is_file:
            specs, weights, model = keras_sources.of_file(source, layer, untold)
        elif isinstance(source, (list, tuple)):
            specs, weights, model = keras_sources.of_list(source, layer, untold)
        else:
            specs, weights, model = keras_sources.of_object(source, layer, untold)
        dropout = keras_config.dropout_of(specs, model, ignore)
        return keras_weights.built(specs, weights, dropout, dtype, xp)


def to_keras(
    lstm: LSTM,
    *,
    ignore: Collection[str] = (),
    return_sequences: bool = True,
    return_state: bool = False,
    name: str | None = None,
) -> Any:
    """A built Keras layer with an LSTM's weights, copied: a ``keras.layers.LSTM``, a ``Bidirectional`` around one, or
    for several layers a ``keras.Sequential`` of them, with Dropout in between if ``lstm`` has it there.

    Parameters
    ----------
    lstm : an LSTM with ``batch_first=True``: Keras has no other axes. float32 or float64.
    ignore : names of options to leave out that act in training alone: see `gpulstm.interop.held.TRAINING_ALONE`.
    return_sequences : whether it gives the outputs of all time steps, as ours does, or of the last one.
    return_state : whether the final h and c come after the output. Not for several layers: a Sequential has one output.
    name : of the layer or Sequential.

    With ``reverse=True`` its outputs are in the order in which it went, the last time step first; that is how Keras
    has it. Masks take the place of ``lengths``.

    Raises ValueError that names every option that Keras' layers do not have, ImportError without Keras.
    """
    reasons = {"activations": "Keras has one activation for candidate and cell, out of its own"}
    chosen = lstm.options.activations
    names = [_KERAS_NAMES.get(activation) for activation in chosen]
    holds = HELD if all(names) and chosen[1] == chosen[2] else tuple(set(HELD) - {"activations"})
    refuse_what_is_not_held(lstm, "a Keras layer", holds, ignore, reasons)
    if not lstm.batch_first:
        raise ValueError("batch_first must be True for a Keras layer, got False: Keras has no layer with time first")
    dtype = arrays.dtype_name(lstm.params["weight_hh_l0"])
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64 for a Keras layer, got {dtype}")
    layout = lstm.layout
    if return_state and layout.num_layers > 1:
        raise ValueError("return_state must be False with num_layers > 1: a keras.Sequential has one output")
    try:
        import keras
    except ImportError as error:
        raise ImportError("to_keras needs Keras: pip install keras, and one of its backends") from error

    layers = []
    for number in range(layout.num_layers):
        last = number == layout.num_layers - 1
        flags = {"return_sequences": return_sequences or not last, "return_state": return_state}
        layers.append(_layer(keras, lstm, number, flags | {"name": None if layout.num_layers > 1 else name}))
        if lstm.options.dropout and "dropout" not in ignore and not last:
            layers.append(keras.layers.Dropout(lstm.options.dropout, dtype=dtype))
    if layout.num_layers == 1:
        return layers[0]
    return keras.Sequential([keras.Input((None, layout.input_size), dtype=dtype), *layers], name=name)


def _layer(keras: ModuleType, lstm: LSTM, number: int, flags: dict[str, Any]) -> Any:
    """One of the LSTM's layers as Keras'."""
    layout, (gates, _, cell) = lstm.layout, lstm.options.activations
    dtype, name = arrays.dtype_name(lstm.params["weight_hh_l0"]), flags.pop("name")
    layer = keras.layers.LSTM(
        layout.hidden_size,
        activation=_KERAS_NAMES[cell],
        recurrent_activation=_KERAS_NAMES[gates],
        use_bias=layout.bias,
        # the outputs of a first layer that went back are in its order, in which the next one goes on
        go_backwards=lstm.options.reverse and number == 0,
        dtype=dtype,
        name=None if layout.bidirectional else name,
        **flags,
    )
    if layout.bidirectional:
        layer = keras.layers.Bidirectional(layer, dtype=dtype, name=name)
    layer.build((None, None, layout.output_size if number else layout.input_size))
    cells = (layer.forward_layer.cell, layer.backward_layer.cell) if layout.bidirectional else (layer.cell,)
    for part, suffix in zip(cells, (f"_l{number}", f"_l{number}_reverse"), strict=False):
        part.kernel.assign(_host(lstm, "weight_ih" + suffix).T)
        part.recurrent_kernel.assign(_host(lstm, "weight_hh" + suffix).T)
        if layout.bias:
            part.bias.assign(_host(lstm, "bias" + suffix))
    return layer


_KERAS_NAMES: dict[Activation, str] = {
    **{Activation(name): name for name in keras_config.SAME_NAMES},
    keras_config.LINEAR: "linear",
    keras_config.HARD_SIGMOID: "hard_sigmoid",
}


def _host(lstm: LSTM, name: str) -> np.ndarray:
    return arrays.to_numpy(lstm.params[name])
