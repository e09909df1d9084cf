"""PyTorch's side of a comparison, and the random problem that both sides get."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .grid import INPUT_SETS, Cell, lengths
from .ours import Problem


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
    """Everything but the lengths is drawn on the device."""
    draw = torch.Generator(where).manual_seed(seed)
    dtype = getattr(torch, cell.storage)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device=where, dtype=dtype)

    state = (cell.num_layers * cell.directions, cell.batch, cell.hidden)
    outputs = cell.directions * cell.hidden
    x, dy = normal(cell.steps, cell.batch, cell.hidden), normal(cell.steps, cell.batch, outputs)
    return Inputs(x, normal(*state), normal(*state), dy, lengths(cell, seed))


class TorchSide:
    """torch.nn.LSTM. Variable lengths are packed and unpacked inside the call, in the order in which they come."""

    def __init__(self, module: torch.nn.LSTM, inputs: list[Inputs]) -> None:
        self.module = module
        self.inputs = inputs
        self.parameters = dict(module.named_parameters())
        self.leaves = [[t.detach().requires_grad_() for t in (data.x, data.h, data.c)] for data in inputs]
        self.lengths = [None if data.lengths is None else torch.from_numpy(data.lengths) for data in inputs]

    @classmethod
    def of(cls, cell: Cell, where: str) -> "TorchSide":
        inputs = [random_inputs(cell, where, seed) for seed in range(INPUT_SETS)]
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

    def problem(self, to_array: Callable[[torch.Tensor], Any]) -> Problem:
        """The same problem for the other side."""
        weights = {name: parameter.detach() for name, parameter in self.module.state_dict().items()}
        return weights, [
            (to_array(data.x), (to_array(data.h), to_array(data.c)), to_array(data.dy), data.lengths)
            for data in self.inputs
        ]

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
