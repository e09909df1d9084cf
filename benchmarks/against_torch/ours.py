"""gpulstm's side of a comparison, called as its users call it. It knows nothing of PyTorch."""

from typing import Any

import numpy as np

import gpulstm as gl

from .grid import Cell

# Weights under PyTorch's names, and for each input set x, the state (h, c), dy and the lengths, if there are any.
Problem = tuple[dict[str, Any], list[tuple[Any, tuple[Any, Any], Any, np.ndarray | None]]]


class NotSupported(Exception):
    """gpulstm has no LSTM of this dtype yet."""


class OurSide:
    """gpulstm.LSTM. Without a `load` it only says whether there is one for the cell, by raising `NotSupported`."""

    def __init__(self, cell: Cell, xp: Any) -> None:
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

    def load(self, problem: Problem) -> None:
        """The inputs stay where they are, and may share their memory with the other side's."""
        weights, self.inputs = problem
        self.lstm.load_state_dict(weights)

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

    def results(self) -> dict[str, Any]:
        """Everything that the first inputs give, under `TorchSide.results`' names."""
        inferred, _ = self.infer(0)
        y, final, (dx, grads, dstate) = self.train(0)
        found = {"y of inference": inferred, "y": y, "h": final.h, "c": final.c, "dx": dx}
        return found | {"dh": dstate.h, "dc": dstate.c} | {"d" + name: value for name, value in grads.items()}
