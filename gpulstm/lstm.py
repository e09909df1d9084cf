"""The LSTM layer: parameters, layers x directions, forward, backward."""

from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import arrays, checkpoints, initialisers, options, state_dict
from .arrays import Array
from .cuda.planner import Plan
from .functional import Cache, forward, inference, lstm_backward, plan
from .masks import Draws
from .parameters import GATES, Layout, State
from .warm_steps import WarmSteps


class Gate(NamedTuple):
    """One gate as the textbook writes it: ``activation(weight @ [h, x] + bias)``."""

    weight: Array  # (hidden, hidden + inputs)
    bias: Array  # (hidden,)


class LSTM:
    """A stack of LSTM layers, in one or both directions of time.

    Parameters
    ----------
    input_size, hidden_size : features of the input and of the hidden state.
    num_layers : each layer's output is the next one's input.
    bias : whether the gates have one.
    batch_first : x and y are (batch, time, features) instead of (time, batch, features). State is not affected.
    bidirectional : a second direction reads each sequence from its end; the outputs stand side by side.
    reverse : the only direction reads each sequence from its end, as the second one of two does.
    proj_size : features of the hidden state after a projection; 0 is none (Sak et al. 2014).
    peephole : the gates see the cell state through ``weight_peephole_l0``, of i, f, o (Gers et al. 2002).
    layer_norm : on both parts of the gates' input and on the cell (Ba et al. 2016).
    coupled : the forget gate is one minus the input gate.
    cell_clip : bound of what goes into every activation, gates and cell, as the ONNX operator's clip; None is none.
    activations : of the gates, of the candidate and of the cell, each a name or (name, alpha, beta):
        sigmoid, tanh, relu, softsign, hard_sigmoid, affine.

    These act in training alone, each given as a probability:

    dropout : between layers, as PyTorch's.
    recurrent_dropout : one mask per sequence on the hidden state (Gal and Ghahramani 2016), or with
        ``recurrent_dropout_on="candidate"`` one per step on the candidate (Semeniuta et al. 2016).
    zoneout : a state keeps its value from the step before; one probability, or a pair for h and c. Inference mixes
        old and new by the same share (Krueger et al. 2017).
    weight_drop : on the entries of weight_hh, one mask per call (Merity et al. 2018).

    These say how the parameters begin; `gpulstm.initialisers.of_lstm` has the formulas:

    init : "uniform" in +-1/sqrt(hidden_size), PyTorch's way, or "glorot", Keras' way: Glorot-uniform weight_ih,
        orthogonal weight_hh, zero bias but for a forget bias of 1.
    forget_bias : what the forget gate's bias begins with; None leaves it to ``init``.
    chrono : the longest dependency to expect, in time steps. The forget gates' biases begin such that the cells forget
        over all time scales up to it, and the input gates' with the opposite sign (Tallec and Ollivier 2018).

    checkpoint_every : training keeps the states of every so many steps only, and backward runs the rest again: for
        sequences too long for the memory. See `gpulstm.lstm_forward`.
    dtype : of the parameters, and so of what the layer takes and gives, states and gradients too: "float32" or
        "float64". On CuPy arrays "float16" and "bfloat16" as well: cell states, what ``layer_norm`` normalises by and
        sums are float32 inside, and bfloat16 needs the package ml_dtypes and compute capability 8.0. Other libraries
        take all four.
    tf32 : on CuPy arrays of float32, matrix products may round their factors to TF32, with 10 bits of mantissa instead
        of 23: faster, and by 1e-3 less exact. Those within the time steps stay float32 in the resident schedule, of
        small layers, in a single step in inference, with weights from L2, and in one launch with ``layer_norm``: `plan`
        says where one launch has them in TF32. Without effect on other libraries' arrays and on GPUs before compute
        capability 8.0.
    xp : the library that the parameters live in: numpy, cupy, or any array-API library such as torch.
    rng : seed or numpy Generator for the parameters; the same seed gives the same ones in every library.

    ``params`` is a dict of arrays under PyTorch's names and shapes; it may be written to and its arrays may be
    replaced. Gate order along a 4*hidden axis is i, f, g, o: input gate, forget gate, candidate, output gate.

    weight_ih_l0 : (4*hidden, inputs); inputs of layer 1 and up are directions * (proj_size or hidden).
    weight_hh_l0 : (4*hidden, proj_size or hidden).
    bias_l0 : (4*hidden,), with ``bias``: one, where PyTorch has two that are added up.
    weight_hr_l0 : (proj_size, hidden), with ``proj_size``.
    weight_peephole_l0 : (3*hidden,), of i, f, o, with ``peephole``.
    weight_norm_ih_l0, weight_norm_hh_l0 : (4*hidden,), with ``layer_norm``; and weight_norm_c_l0, bias_norm_c_l0
        (hidden,).

    Those of layer 1 end in ``_l1``, those of the second direction in ``_l0_reverse``.

    Raises TypeError or ValueError that names the argument, what was expected and what came.

    The equations are `gpulstm.equations`' (Hochreiter and Schmidhuber 1997; Gers et al. 2000), with options
    `gpulstm.variants`'.

    Examples
    --------
    >>> import numpy as np
    >>> import gpulstm as gl
    >>> lstm = gl.LSTM(input_size=3, hidden_size=5, rng=0)
    >>> x = np.ones((20, 4, 3), "float32")  # (time, batch, input)
    >>> y, state = lstm(x)  # inference
    >>> y.shape, state.h.shape, state.c.shape
    ((20, 4, 5), (1, 4, 5), (1, 4, 5))
    >>> y, state, cache = lstm.forward(x, lengths=np.array([20, 7, 0, 13]))  # training
    >>> dx, grads, dstate = lstm.backward(cache, dy=y)  # y is the gradient of the sum of y**2 / 2
    >>> dx.shape, sorted(grads)
    ((20, 4, 3), ['bias_l0', 'weight_hh_l0', 'weight_ih_l0'])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_on: str = "hidden",
        zoneout: float | tuple[float, float] = 0.0,
        weight_drop: float = 0.0,
        layer_norm: bool = False,
        peephole: bool = False,
        reverse: bool = False,
        coupled: bool = False,
        cell_clip: float | None = None,
        activations: tuple[Any, Any, Any] = ("sigmoid", "tanh", "tanh"),
        init: str = "uniform",
        forget_bias: float | None = None,
        chrono: float | None = None,
        checkpoint_every: int | None = None,
        tf32: bool = False,
        dtype: Any = "float32",
        xp: ModuleType = np,
        rng: Any = None,
    ) -> None:
        require = initialisers.require_size
        self.layout = Layout(
            require("input_size", input_size),
            require("hidden_size", hidden_size),
            require("num_layers", num_layers),
            bool(bidirectional),
            bool(bias),
            require("proj_size", proj_size, at_least=0),
            bool(peephole),
            bool(layer_norm),
        )
        self.checkpoint_every = checkpoints.checked(checkpoint_every)
        self.options = options.checked(
            reverse=reverse,
            coupled=coupled,
            cell_clip=cell_clip,
            activations=activations,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            recurrent_dropout_on=recurrent_dropout_on,
            zoneout=zoneout,
            weight_drop=weight_drop,
            tf32=tf32,
        )
        options.refuse_contradictions(self.layout, self.options)
        self.batch_first = bool(batch_first)
        start = initialisers.started(init, forget_bias, chrono, bias=self.layout.bias, options=self.options)
        shapes, hidden = self.layout.shapes(), self.layout.hidden_size
        self.params: dict[str, Array] = initialisers.of_lstm(shapes, hidden, start, dtype, xp, rng)
        options.refuse_tf32(self.options, arrays.dtype_name(self.params["weight_hh_l0"]))
        self._warm_steps = WarmSteps()

    def __call__(
        self, x: Array, state: State | tuple[Array, Array] | None = None, *, lengths: Any = None
    ) -> tuple[Array, State]:
        """Inference: the output and the final state, as `forward` gives them, without random masks.

        Arguments are those of `forward`. Nothing is kept for a backward pass, and on NumPy and CuPy arrays the
        memory beyond x and y is bounded (8 to 64 MB for the gates), however many time steps there are.
        """
        warm = self._warm_steps
        if type(x) is warm.kind and lengths is None:
            found = warm.run(x, state, self.params, (self.layout, self.options, self.batch_first))
            if found is not None:
                return found
        draws = Draws(self.options, None)
        return inference(self.layout, x, self.params, state, lengths, self.batch_first, draws, warm)

    def forward(
        self, x: Array, state: State | tuple[Array, Array] | None = None, *, lengths: Any = None, rng: Any = None
    ) -> tuple[Array, State, Cache]:
        """Training: the output, the final state, and a cache for one `backward`.

        Parameters
        ----------
        x : (time, batch, inputs), (batch, time, inputs) with ``batch_first``, or (time, inputs).
        state : (h, c), each (layers * directions, batch, hidden), or None for zeros; with ``proj_size`` that many in h.
        lengths : (batch,) integers, time steps of each sequence; see `gpulstm.lstm_forward`.
        rng : seed or numpy Generator of the random masks, if the layer has any; None draws a fresh seed.

        Returns ``y`` (time, batch, directions * hidden) laid out as x is, with ``proj_size`` in the place of hidden if
        there is one; the final `State`; and the cache, which refers to x, y and the parameters: do not write to them
        before `backward`. Without a batch axis in x there is none in y and in the states.

        Raises TypeError or ValueError that names the argument, what was expected and what came.
        """
        draws = Draws(self.options, initialisers.seed_for(self.options.is_random, rng))
        return forward(self.layout, x, self.params, state, lengths, self.batch_first, draws, self.checkpoint_every)

    def backward(
        self, cache: Cache, dy: Array | None = None, dstate: State | tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, dict[str, Array], State]:
        """Gradients of x, of the parameters (same keys and shapes as ``params``) and of the initial state.

        ``dy`` is the gradient of y and ``dstate`` that of the final state, of their shapes; either may be None, which
        is zeros, and so may each half of ``dstate``. A cache serves once.

        Raises TypeError or ValueError for gradients that do not fit, and for a cache that has been used.
        """
        return lstm_backward(cache, dy, dstate)

    def plan(self, x: Array) -> Plan:
        """What would run each layer's time steps forward and back for an input such as x, and why. Runs nothing.

        Print it. On a GPU it names the schedule, `gpulstm.cuda.planner` says what there is; all layers have the same
        one, and so have both directions, which run side by side where it says "2 directions", as layers do where it
        says how many.
        """
        draws = Draws(self.options, 0 if self.options.is_random else None)
        checkpoints = self.checkpoint_every is not None
        return plan(self.layout, x, self.params, self.batch_first, draws, checkpoints=checkpoints)

    def gate(self, name: str, layer: int = 0, *, reverse: bool = False) -> Gate:
        """A copy of one gate's parameters as the textbook writes them.

        ``name`` is "input", "forget", "candidate" or "output". ``weight`` (hidden, hidden + inputs) multiplies the
        concatenation [h, x]; ``bias`` (hidden,) is zeros for an LSTM without bias.
        """
        if name not in GATES:
            raise ValueError(f"name must be one of {', '.join(map(repr, GATES))}, got {name!r}")
        if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
            raise TypeError(f"layer must be an integer, got {type(layer).__name__}")
        if not 0 <= layer < self.layout.num_layers:
            raise ValueError(f"layer must be between 0 and {self.layout.num_layers - 1}, got {layer}")
        if reverse and not self.layout.bidirectional:
            raise ValueError("reverse must be False for an LSTM with one direction, got True")
        suffix = f"_l{layer}" + ("_reverse" if reverse else "")
        hidden, row = self.layout.hidden_size, GATES.index(name) * self.layout.hidden_size
        recurrent = self.params["weight_hh" + suffix][row : row + hidden, :]
        of_input = self.params["weight_ih" + suffix][row : row + hidden, :]
        bias = self.params.get("bias" + suffix)
        with arrays.on_device_of(recurrent):
            weight = arrays.namespace(recurrent).concat([recurrent, of_input], axis=1)
            return Gate(weight, arrays.zeros((hidden,), weight) if bias is None else bias[row : row + hidden] + 0)

    def load_state_dict(self, mapping: Mapping[str, Any], *, prefix: str | None = None) -> None:
        """Copies parameters from a mapping under our names or PyTorch's, whose two biases are added up.

        Values may be arrays of any library that speaks DLPack or NumPy's array protocol; they are brought to this
        layer's library, device and dtype. A whole model's state dict will do: ``prefix`` says which LSTM in it, such as
        ``"encoder.lstm"``, and may be left out where there is one.

        Raises one ValueError that lists every missing, unexpected and mis-shaped key; then nothing has been changed.
        """
        self.params.update(state_dict.load(mapping, self.layout, self.params, prefix))

    @classmethod
    def from_torch(
        cls,
        module_or_state_dict: Any,
        *,
        prefix: str | None = None,
        batch_first: bool | None = None,
        dropout: float | None = None,
        dtype: Any = None,
        xp: ModuleType = np,
    ) -> "LSTM":
        """An LSTM with the parameters of a ``torch.nn.LSTM`` or of its ``state_dict()``, copied.

        The layout, projection included, is read off the names and shapes; ``batch_first`` and ``dropout`` off the
        module, unless given here: a state dict does not tell them. ``dtype`` None keeps PyTorch's. A state dict may
        be a whole model's: ``prefix`` says which LSTM in it, such as ``"encoder.lstm"``, and may be left out where it
        is the only one. A state dict of our own will do too; of its options it shows those that have parameters:
        projection, peepholes, layer norm. A `gpulstm.interop.torch.LSTM` shows all of its options.
        """
        mapping, found = state_dict.of_torch(module_or_state_dict)
        mapping = state_dict.without_prefix(mapping, prefix)
        layout = state_dict.layout_of_torch(mapping)
        given = {"batch_first": batch_first, "dropout": dropout}
        lstm = cls(
            layout.input_size,
            layout.hidden_size,
            layout.num_layers,
            bias=layout.bias,
            bidirectional=layout.bidirectional,
            proj_size=layout.proj_size,
            peephole=layout.peephole,
            layer_norm=layout.layer_norm,
            **found | {name: value for name, value in given.items() if value is not None},
            dtype=dtype or arrays.dtype_name(next(iter(mapping.values()))),
            xp=xp,
            rng=0,
        )
        lstm.load_state_dict(mapping)
        return lstm

    def changed_options(self) -> dict[str, Any]:
        """The constructor's options that differ from their defaults, by name; sizes, dtype and how the parameters began
        are not among them."""
        found = vars(self.layout) | {"batch_first": self.batch_first}
        usual = {field.name: field.default for field in fields(Layout)} | {"batch_first": False}
        order = ("num_layers", "bias", "batch_first", "bidirectional", "proj_size", "peephole", "layer_norm")
        unusual = {name: found[name] for name in order if found[name] != usual[name]}
        unusual |= {name: getattr(self.options, name) for name in self.options.changed()}
        return unusual | ({} if self.checkpoint_every is None else {"checkpoint_every": self.checkpoint_every})

    def __repr__(self) -> str:
        size, dtype = self.layout, arrays.dtype_name(self.params["weight_hh_l0"])
        flags = "".join(f", {name}={value!r}" for name, value in self.changed_options().items())
        return f"LSTM({size.input_size}, {size.hidden_size}{flags}, dtype={dtype!r})"
