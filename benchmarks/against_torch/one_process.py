"""Both sides in this process, as on a GPU: one context, one stream, and no threads that stand in each other's way."""

from typing import Any

import torch

from . import checking
from .grid import Cell
from .ours import NotSupported, OurSide
from .sides import TorchSide
from .turns import Turns


class OneProcess:
    """One cell at a time: `begin` it, `check` it, `renew`, measure its `sides`, and `end` it."""

    def __init__(self, device: Any, flashrnn: Any = None, without_flashrnn: str = "it was not asked for") -> None:
        """``flashrnn`` is a `FlashRNN`, or None, and then ``without_flashrnn`` says why."""
        self.device = device
        self.rounds = device.rounds
        self.out_of_memory = device.out_of_memory
        self.references = checking.References()
        self.flashrnn, self.without_flashrnn = flashrnn, without_flashrnn
        self.end()

    def about(self) -> dict[str, Any]:
        """What the results file says beyond machine and versions."""
        return {"flashrnn": self.flashrnn.about() if self.flashrnn else {"missing": self.without_flashrnn}}

    def begin(self, cell: Cell) -> str | None:
        """Why gpulstm takes no part, if it does not: then PyTorch's is the only side."""
        self.cell = cell
        self.device.allow_tf32(cell.dtype == "tf32")
        self.theirs = TorchSide.of(cell, self.device.where)
        try:
            self.ours = OurSide(cell, self.device.xp)
        except NotSupported as refusal:
            self.sides = {"torch": Turns(self.theirs, self.device, is_ours=False)}
            return str(refusal)
        self.problem = self.theirs.problem(self.device.to_array)
        self.ours.load(self.problem)
        return None

    def check(self) -> dict[str, Any]:
        def results_of_ours() -> dict[str, torch.Tensor]:
            return {name: _tensor(value) for name, value in self.ours.results().items()}

        def results_of_flashrnn() -> dict[str, torch.Tensor]:
            self.flash = self.flashrnn.side(self.cell, self.theirs)
            return self.flash.results()

        others = {"flashrnn": results_of_flashrnn} if self.flashrnn else {}
        found = checking.check(self.cell, self.device, results_of_ours, self.theirs, self.references, others)
        of_flashrnn = found.get("flashrnn", {})
        if of_flashrnn.get("status") == "timed":
            of_flashrnn["backend"] = self.flash.backend
        else:
            self.flash = None
        return found

    def plan(self) -> str | None:
        return self.ours.plan()

    def renew(self) -> None:
        """A new LSTM on our side has no buffers yet."""
        self.ours = OurSide(self.cell, self.device.xp)
        self.ours.load(self.problem)
        self.sides = {
            "ours": Turns(self.ours, self.device, is_ours=True),
            "torch": Turns(self.theirs, self.device, is_ours=False),
        }
        if self.flash is not None:
            self.sides["flashrnn"] = Turns(self.flash, self.device, is_ours=False)

    def conditions(self) -> dict[str, Any]:
        """What was noticed since then that bears upon the figures."""
        return {}

    def end(self) -> None:
        """Nothing of the cell is kept."""
        self.cell = self.theirs = self.ours = self.problem = self.flash = None
        self.sides: dict[str, Turns] = {}

    def release(self) -> None:
        """Raises if the device gives no more results."""
        self.device.release()

    def close(self) -> None:
        """Nothing was started."""


def _tensor(array: Any) -> torch.Tensor:
    """PyTorch's tensor on the same memory. DLPack is not asked to know bfloat16."""
    if array.dtype.name != "bfloat16":
        return torch.from_dlpack(array)
    return torch.from_dlpack(array.view("int16")).view(torch.bfloat16)
