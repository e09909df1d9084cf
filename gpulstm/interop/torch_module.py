"""``torch.nn.LSTM`` over gpulstm's engines, and with gpulstm's options."""

import sys
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch.nn import init as draw
from torch.nn.utils.rnn import PackedSequence

from .. import checkpoints, initialisers, options
from ..options import Options
from ..parameters import GATES, Layout
from . import torch_function
from .torch_packing import Rows

Hidden = tuple[torch.Tensor, torch.Tensor]


class LSTM(torch.nn.LSTM):
    """`torch.nn.LSTM` with the same arguments, parameters, ``state_dict`` keys and results, and with more options.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype :
        PyTorch's, but for a dropout of 1, which is refused. The same ``torch.manual_seed`` gives the same parameters.
    recurrent_dropout, recurrent_dropout_on, zoneout, weight_drop, layer_norm, peephole, coupled, cell_clip,
    activations, reverse, checkpoint_every, tf32, init, forget_bias, chrono :
        `gpulstm.LSTM`'s. Parameters that only they need come under gpulstm's names: ``weight_peephole_l0``,
        ``weight_norm_ih_l0``, ``weight_norm_hh_l0``, ``weight_norm_c_l0``, ``bias_norm_c_l0``. ``forget_bias`` and
        ``chrono`` set the sum of PyTorch's two biases.

    float32 and float64 tensors on a CPU go to the NumPy engine, on a CUDA device to our kernels, on PyTorch's current
    stream; none of them is copied on the way. PyTorch's own operations, where ``checkpoint_every`` has no effect,
    compute the rest: other dtypes and devices, calls that are traced, exported or transformed by `torch.func`, and
    those with zoneout in evaluation mode that ask for gradients.

    In training mode random masks are drawn from PyTorch's CPU generator: ``torch.manual_seed`` repeats them.
    Gradients can be differentiated again (``create_graph=True``). Under autocast the result has autocast's dtype as
    PyTorch's has, but is computed in the parameters' dtype and rounded once. `torch.compile` leaves the call out of
    its graphs, as it does PyTorch's; `torch.jit.script` is not supported, tracing and `torch.export` are.

    Raises what `torch.nn.LSTM` raises for wrong shapes, and TypeError or ValueError that names option or argument.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
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
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )
        self.peephole, self.layer_norm = bool(peephole), bool(layer_norm)
        self.checkpoint_every = checkpoints.checked(checkpoint_every)
        found = options.checked(
            reverse=reverse,
            coupled=coupled,
            cell_clip=cell_clip,
            activations=activations,
            dropout=dropout if num_layers > 1 else 0.0,  # PyTorch has warned that one layer makes no use of it
            recurrent_dropout=recurrent_dropout,
            recurrent_dropout_on=recurrent_dropout_on,
            zoneout=zoneout,
            weight_drop=weight_drop,
            tf32=tf32,
        )
        # Plain attributes, as PyTorch's: a schedule may change them between two calls.
        self.recurrent_dropout, self.recurrent_dropout_on = found.recurrent_dropout, found.recurrent_dropout_on
        self.zoneout, self.weight_drop, self.cell_clip = found.zoneout, found.weight_drop, found.cell_clip
        self.reverse, self.coupled, self.activations = found.reverse, found.coupled, found.activations
        self.tf32 = found.tf32
        options.refuse_contradictions(self._layout(), found)
        self._start = initialisers.started(init, forget_bias, chrono, bias=self.bias, options=found)
        self._register_own(device, dtype)
        self._begin()

    def _layout(self) -> Layout:
        return Layout(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.bias,
            self.proj_size,
            self.peephole,
            self.layer_norm,
        )

    def _options(self) -> Options:
        return _checked_options(
            reverse=self.reverse,
            coupled=self.coupled,
            cell_clip=self.cell_clip,
            activations=tuple(self.activations),
            dropout=self.dropout if self.num_layers > 1 else 0.0,
            recurrent_dropout=self.recurrent_dropout,
            recurrent_dropout_on=self.recurrent_dropout_on,
            zoneout=tuple(self.zoneout) if isinstance(self.zoneout, list) else self.zoneout,
            weight_drop=self.weight_drop,
            tf32=self.tf32,
        )

    def _register_own(self, device: Any, dtype: Any) -> None:
        """The parameters that `torch.nn.LSTM` does not have, drawn as its own are: after them, in the same way."""
        bound = self.hidden_size**-0.5
        for name, shape in self._layout().shapes().items():
            if not name.startswith("bias_l") and name not in self._flat_weights_names:
                self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
                draw.uniform_(getattr(self, name), -bound, bound)
        self._begin_norms()

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as the constructor did."""
        super().reset_parameters()
        if "_start" in self.__dict__:  # not yet when PyTorch's constructor calls this
            self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        """Makes PyTorch's draws, uniform in +-1/sqrt(hidden), what the options want; see `initialisers.of_lstm`."""
        hidden, start = self.hidden_size, self._start
        of_input, of_forget = (
            slice(GATES.index(gate) * hidden, (GATES.index(gate) + 1) * hidden) for gate in ("input", "forget")
        )
        self._begin_norms()
        for name, parameter in self.named_parameters(recurse=False) if start.init == "glorot" else ():
            _begin_as_keras(name, parameter)
        for _, suffix in self._layout().suffixes() if self.bias else ():
            first, second = getattr(self, "bias_ih" + suffix), getattr(self, "bias_hh" + suffix)
            if start.forget_bias is not None:
                first[of_forget], second[of_forget] = start.forget_bias, 0.0
            if start.chrono is not None:
                first[of_forget] = torch.empty_like(first[of_forget]).uniform_(1, start.chrono - 1).log()
                first[of_input] = -first[of_forget]
                second[of_forget], second[of_input] = 0.0, 0.0

    @torch.no_grad()
    def _begin_norms(self) -> None:
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith(("weight_norm", "bias_norm")):
                parameter.fill_(float(name.startswith("weight")))

    def flatten_parameters(self) -> None:
        """Does nothing: our kernels read every weight where it is."""

    def forward(  # type: ignore[override]
        self, input: torch.Tensor | PackedSequence, hx: Hidden | None = None, *, lengths: Any = None
    ) -> tuple[torch.Tensor | PackedSequence, Hidden]:
        """The output and the final states (h, c).

        Parameters
        ----------
        input : (time, batch, inputs), (batch, time, inputs) with ``batch_first``, (time, inputs), or a PackedSequence.
        hx : (h, c), each (layers * directions, batch, size), in the caller's order of sequences; None is zeros.
        lengths : (batch,) integers, a list, array or tensor, in any order, zero allowed. Outputs past a sequence's end
            are zero, its final state is that of its own last step, the reverse direction starts at its own end. Values
            on a GPU are waited for. Not for a PackedSequence, which has its own.

        A PackedSequence gives a PackedSequence of the same order.
        """
        # TorchDynamo would look into NumPy's and CuPy's part of the call. It takes a second to import, so it is only
        # told not to where somebody has imported it, as torch.compile does.
        if "torch._dynamo" not in sys.modules:
            return self._eager(input, hx, lengths)
        if not _outside_of_graphs:
            _outside_of_graphs.append(torch.compiler.disable(LSTM._eager))
        return _outside_of_graphs[0](self, input, hx, lengths)

    def _eager(self, input: Any, hx: Any, lengths: Any) -> tuple[Any, Hidden]:
        hx = None if hx is None else _pair(hx)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths must be None for a PackedSequence, which has its own lengths")
            return self._packed(input, hx)
        if not isinstance(input, torch.Tensor):
            raise TypeError(f"input must be a torch.Tensor or a PackedSequence, got {type(input).__name__}")
        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        if hx is not None and any(part.dim() != input.dim() for part in hx):
            kinds, axes = ("batched", 3) if batched else ("unbatched", 2)
            raise RuntimeError(
                f"For {kinds} {axes}-D input, hx and cx should also be {axes}-D but got "
                f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        with_batch = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        self._check(with_batch, hx if hx is None or batched else (hx[0].unsqueeze(1), hx[1].unsqueeze(1)), None)
        lengths = lengths.detach().cpu().numpy() if isinstance(lengths, torch.Tensor) else lengths
        return self._run(input, hx, lengths, self.batch_first)

    def _packed(self, input: PackedSequence, hx: Hidden | None) -> tuple[PackedSequence, Hidden]:
        self._check(input.data, hx, input.batch_sizes)
        hx = None if hx is None else self.permute_hidden(hx, input.sorted_indices)
        rows = Rows(input)
        y, final = self._run(rows.padded(input.data), hx, rows.lengths, batch_first=False)
        output = PackedSequence(rows.packed(y), input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return output, self.permute_hidden(final, input.unsorted_indices)

    def check_input(self, input: torch.Tensor, batch_sizes: torch.Tensor | None) -> None:
        """`torch.nn.LSTM`'s checks, and the device."""
        weight = self.weight_ih_l0
        if input.dtype != weight.dtype and _autocast_dtype(input) is None:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})"
            )
        if input.device != weight.device:
            raise ValueError(f"input must be on the parameters' device {weight.device}, got {input.device}; move one")
        axes = 3 if batch_sizes is None else 2
        if input.dim() != axes:
            raise RuntimeError(f"input must have {axes} dimensions, got {input.dim()}")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}"
            )

    def _check(self, input: torch.Tensor, hx: Hidden | None, batch_sizes: torch.Tensor | None) -> None:
        """``input`` and ``hx`` with their batch axis."""
        if hx is None:
            self.check_input(input, batch_sizes)
            return
        self.check_forward_args(input, hx, batch_sizes)  # shapes, PyTorch's way
        for name, part in zip(("hx[0]", "hx[1]"), hx, strict=True):
            if part.dtype != input.dtype and _autocast_dtype(input) is None:
                raise TypeError(
                    f"{name} must have input's dtype {input.dtype}, got {part.dtype}; nothing is cast silently"
                )
            if part.device != input.device:
                raise ValueError(f"{name} must be on input's device {input.device}, got {part.device}; move one")

    def _run(self, x: torch.Tensor, hx: Hidden | None, lengths: Any, batch_first: bool) -> tuple[torch.Tensor, Hidden]:
        result_dtype, (h, c) = x.dtype, hx or (None, None)
        layout = self._layout()
        params = self._summed(layout)
        if (of_autocast := _autocast_dtype(x)) is not None:
            dtype = params[0].dtype
            # PyTorch's autocast leaves float64 alone, and so does this.
            result_dtype = dtype if dtype == torch.float64 else of_autocast
            x, (h, c) = x.to(dtype), (None if t is None else t.to(dtype) for t in (h, c))
        acting = self._options() if self.training else _in_inference(self._options())
        random = self.training and acting.is_random
        seed = int(torch.empty((), dtype=torch.int64).random_()) if random else None
        call = torch_function.Call(layout, acting, seed, lengths, batch_first, self.checkpoint_every)
        y, h, c = torch_function.run(call, x, h, c, params)
        if y.dtype != result_dtype:
            y, h, c = y.to(result_dtype), h.to(result_dtype), c.to(result_dtype)
        return y, (h, c)

    def _summed(self, layout: Layout) -> tuple[torch.Tensor, ...]:
        """The parameters in the order of our names; the two biases added up, so that both get the sum's gradient."""
        found = []
        for name in layout.shapes():
            if name.startswith("bias_l"):
                suffix = name.removeprefix("bias")
                found.append(getattr(self, "bias_ih" + suffix) + getattr(self, "bias_hh" + suffix))
            else:
                found.append(getattr(self, name))
        for name, parameter in zip(layout.shapes(), found, strict=True):
            if parameter.dtype != found[0].dtype:
                raise TypeError(f"{name} must have weight_ih_l0's dtype {found[0].dtype}, got {parameter.dtype}")
            if parameter.device != found[0].device:
                raise ValueError(f"{name} must be on weight_ih_l0's device {found[0].device}, got {parameter.device}")
        return tuple(found)

    @classmethod
    def from_torch(cls, module: torch.nn.LSTM, **options: Any) -> "LSTM":
        """An LSTM in the place of an existing ``torch.nn.LSTM``, with the module's own parameters, not copies of them:
        an optimiser that holds them goes on. ``options`` are ours, but for those that say how parameters begin.

        Raises ValueError for a module whose parameters are computed (weight norm, parametrizations) or that has hooks:
        they would be lost.
        """
        if not isinstance(module, torch.nn.LSTM):
            raise TypeError(f"module must be a torch.nn.LSTM, got {type(module).__name__}")
        refused = [name for name in ("init", "forget_bias", "chrono") if name in options]
        if refused:
            raise TypeError(f"from_torch takes no {', '.join(refused)}: the parameters are the module's")
        lost = [name for name, hooks in vars(module).items() if name.endswith("_hooks") and hooks]
        own, there = module._flat_weights_names, module._parameters
        computed = module._modules or any(there.get(name) is None for name in own)
        if computed or lost:
            reason = "weight norm or a parametrization computes its parameters" if computed else f"it has {lost[0]}"
            raise ValueError(f"module must be plain to be taken over, but {reason}; remove that first and add it again")
        first = module.weight_ih_l0
        sizes = (module.input_size, module.hidden_size, module.num_layers, module.bias, module.batch_first)
        lstm = cls(*sizes, 0.0, module.bidirectional, module.proj_size, "meta", first.dtype, **options)
        for name in own:
            setattr(lstm, name, there[name])
        lstm._register_own(first.device, first.dtype)
        lstm.dropout = module.dropout  # not through the constructor, which would warn of one layer again
        return lstm.train(module.training)

    def own_options(self) -> dict[str, Any]:
        """The options that `torch.nn.LSTM` does not have, where they differ from their defaults, by name."""
        found = self._options()
        changed = {name: getattr(found, name) for name in found.changed() if name != "dropout"}
        changed |= {name: True for name in ("peephole", "layer_norm") if getattr(self, name)}
        return changed | ({} if self.checkpoint_every is None else {"checkpoint_every": self.checkpoint_every})

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{name}={value!r}" for name, value in self.own_options().items())])


_checked_options = lru_cache(maxsize=256)(options.checked)


@lru_cache(maxsize=256)
def _in_inference(found: Options) -> Options:
    """Without what acts in training alone; zoneout mixes the states."""
    return replace(found, dropout=0.0, recurrent_dropout=0.0, weight_drop=0.0)


_outside_of_graphs: list[Any] = []
"""`LSTM._eager`, once TorchDynamo is there to be told. No cached function: that it would warn of, and trace into."""


def _begin_as_keras(name: str, parameter: torch.nn.Parameter) -> None:
    """Glorot-uniform and orthogonal weights and zero biases; the forget gates' follow."""
    if name.startswith("weight_hh"):
        wide = torch.empty_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
        parameter.copy_(draw.orthogonal_(wide))  # of half-precision matrices there is no QR
    elif name.startswith(("weight_ih", "weight_hr")):
        draw.xavier_uniform_(parameter)
    elif name.startswith(("bias_ih", "bias_hh")):
        parameter.zero_()


def _autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """The dtype that autocast asks for on x's device, or None where it is off."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def _pair(hx: Any) -> Hidden:
    if not isinstance(hx, (tuple, list)) or len(hx) != 2 or not all(isinstance(part, torch.Tensor) for part in hx):
        got = ", ".join(type(part).__name__ for part in hx) if isinstance(hx, (tuple, list)) else type(hx).__name__
        raise TypeError(f"hx must be a pair of tensors (h, c), got {got or 'nothing in it'}")
    return hx[0], hx[1]
