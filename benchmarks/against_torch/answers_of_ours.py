"""What the process of gpulstm can be asked. PyTorch is not imported here."""

import gc
from pathlib import Path

import numpy as np

from . import exchange
from .cpu import Cpu, thread_pools
from .grid import Cell
from .ours import NotSupported, OurSide
from .turns import Turns


class Answers(Turns):
    """The questions of `TwoProcesses` and `Remote`, one method each."""

    def __init__(self, threads: int) -> None:
        super().__init__(None, Cpu(), is_ours=True)

    def thread_pools(self) -> list | str:
        return thread_pools()

    def begin(self, cell: Cell) -> str | None:
        """The reason, if gpulstm takes no part."""
        self.cell, self.side, self.call, self.problem = cell, None, None, None
        gc.collect()
        try:
            self.side = OurSide(cell, np)
        except NotSupported as refusal:
            return str(refusal)
        return None

    def load(self, path: Path) -> None:
        self.problem = exchange.read(path)
        self.side.load(self.problem)

    def results(self, path: Path) -> None:
        np.savez(path, **self.side.results())

    def plan(self) -> str | None:
        return self.side.plan()

    def renew(self) -> None:
        self.side = OurSide(self.cell, np)
        self.side.load(self.problem)
