"""The two LSTMs of a comparison on the same weights and inputs, called as their users call them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gpulstm as gl

from .grid import Cell


class NotSupported(Exception):
    """gpulstm has no LSTM of this dtype yet."""


@dataclass
class Inputs:
    """One random call, as PyTorch's tensors. ``lengths`` is on the host, where a data loader has it."""

    x: torch.Tensor  # (time, batch, hidden)
    h: torch.Tensor  # (layers * directions, batch, hidden)
    c: torch.Tensor  # likewise
    dy: torch.Tensor  # (time, batch, directions * hidden)
    lengths: np.ndarray | None  # (batch,)

    def as_double(self) -> "Inputs":
        return Inputs(self.x.double(), self.h.double(), self.c.double(), self.dy.double(), self.lengths)


def random_inputs(cell: Cell, where: str, seed: int) -> Inputs:
    """The longest of the lengths is the number of time steps, the others are evenly spread below it."""
    draw = torch.Generator(where).manual_seed(seed)
    dtype = getattr(torch, cell.storage)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device=where, dtype=dtype)

    state = (cell.num_layers * cell.directions, cell.batch, cell.hidden)
    lengths = None
    if cell.has_lengths:
        lengths = np.random.default_rng(seed).integers(1, cell.steps + 1, size=cell.batch)
        lengths[0] = cell.steps
    outputs = cell.directions * cell.hidden
    x, dy = normal(cell.steps, cell.batch, cell.hidden), normal(cell.steps, cell.batch, outputs)
    return Inputs(x, normal(*state), normal(*state), dy, lengths)


class TorchSide:
    """torch.nn.LSTM. Variable lengths are packed and unpacked inside the call, in the order in which they come."""

    def __init__(self, module: torch.nn.LSTM, inputs: list[Inputs]) -> None:
        self.module = module
        self.inputs = inputs
        self.parameters = dict(module.named_parameters())
        self.leaves = [[t.detach().requires_grad_() for t in (data.x, data.h, data.c)] for data in inputs]
        self.lengths = [None if data.lengths is None else torch.from_numpy(data.lengths) for data in inputs]

    @classmethod
    def of(cls, cell: Cell, inputs: list[Inputs], where: str) -> "TorchSide":
        torch.manual_seed(1)
        module = torch.nn.LSTM(
            cell.hidden,
            cell.hidden,
            cell.num_layers,
            bidirectional=cell.directions == 2,
            device=where,
            dtype=getattr(torch, cell.storage),
        )
        with torch.no_grad():  # a cell has one bias here, and two there: ours is the sum, this one's second is zero
            for name, parameter in module.named_parameters():
                if "bias_hh" in name:
                    parameter.zero_()
        return cls(module, inputs)

    def as_double(self) -> "TorchSide":
        """The same problem in float64: the reference."""
        return TorchSide(copy.deepcopy(self.module).double(), [self.inputs[0].as_double()])

    def prepare(self, *, training: bool) -> None:
        """Outside of what is timed: in eval mode PyTorch keeps nothing for a backward pass."""
        self.module.train(training)

    def infer(self, which: int) -> tuple:
        with torch.no_grad():
            return self._call(which, self.inputs[which].x, None)

    def train(self, which: int) -> tuple:
        """y, h, c, and the gradients of x, h0, c0 and all parameters."""
        x, h, c = self.leaves[which]
        y, final = self._call(which, x, (h, c))
        gradients = torch.autograd.grad(y, [x, h, c, *self.parameters.values()], self.inputs[which].dy)
        return y, final, gradients

    def _call(self, which: int, x: torch.Tensor, state: Any) -> tuple:
        lengths = self.lengths[which]
        if lengths is None:
            return self.module(x, state)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, final = self.module(packed, state)
        return pad_packed_sequence(y, total_length=x.shape[0])[0], final

    def results(self) -> dict[str, torch.Tensor]:
        """Everything that the first inputs give, by name."""
        self.prepare(training=False)
        inferred, _ = self.infer(0)
        self.prepare(training=True)
        y, (h, c), (dx, dh, dc, *gradients) = self.train(0)
        found = {"y of inference": inferred, "y": y, "h": h, "c": c, "dx": dx, "dh": dh, "dc": dc}
        for name, gradient in zip(self.parameters, gradients, strict=True):
            if "bias_hh" not in name:
                found["d" + name.replace("bias_ih", "bias")] = gradient
        return {name: value.detach() for name, value in found.items()}


class OurSide:
    """gpulstm.LSTM, on arrays that share their memory with PyTorch's."""

    def __init__(self, cell: Cell, theirs: TorchSide, xp: Any, to_array: Callable[[torch.Tensor], Any]) -> None:
        if cell.dtype == "tf32" and xp is np:
            raise NotSupported("there is no TF32 on a CPU")
        # TF32 is only used when asked for, and this is how.
        options: dict[str, Any] = {"tf32": True} if cell.dtype == "tf32" else {}
        try:
            self.lstm = gl.LSTM(
                cell.hidden,
                cell.hidden,
                cell.num_layers,
                bidirectional=cell.directions == 2,
                dtype=cell.storage,
                xp=xp,
                rng=0,
                **options,
            )
        except TypeError as error:
            if cell.dtype == "float32":
                raise
            raise NotSupported(str(error)) from None
        self.lstm.load_state_dict({name: p.detach() for name, p in theirs.module.state_dict().items()})
        self.inputs = [
            (to_array(data.x), (to_array(data.h), to_array(data.c)), to_array(data.dy), data.lengths)
            for data in theirs.inputs
        ]

    def prepare(self, *, training: bool) -> None:
        """Nothing to set: inference and training are two methods."""

    def plan(self) -> str | None:
        """What the LSTM says about the schedule that it picked, if it does."""
        plan = getattr(self.lstm, "plan", None)
        return None if plan is None else str(plan(self.inputs[0][0]))

    def infer(self, which: int) -> tuple:
        x, _, _, lengths = self.inputs[which]
        return self.lstm(x, lengths=lengths)

    def train(self, which: int) -> tuple:
        """y, the final state, and (dx, grads, dstate)."""
        x, state, dy, lengths = self.inputs[which]
        y, final, cache = self.lstm.forward(x, state, lengths=lengths)
        return y, final, self.lstm.backward(cache, dy)

    def results(self) -> dict[str, torch.Tensor]:
        """Everything that the first inputs give, under `TorchSide.results`' names."""
        inferred, _ = self.infer(0)
        y, final, (dx, grads, dstate) = self.train(0)
        found = {"y of inference": inferred, "y": y, "h": final.h, "c": final.c, "dx": dx}
        found |= {"dh": dstate.h, "dc": dstate.c} | {"d" + name: value for name, value in grads.items()}
        return {name: _tensor(value) for name, value in found.items()}


def _tensor(array: Any) -> torch.Tensor:
    """PyTorch's tensor on the same memory. DLPack is not asked to know bfloat16."""
    if array.dtype.name != "bfloat16":
        return torch.from_dlpack(array)
    return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
