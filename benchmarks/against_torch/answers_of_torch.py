"""What the process of PyTorch can be asked. gpulstm computes nothing here."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import checking, exchange
from .cpu import Cpu, thread_pools
from .grid import Cell
from .sides import TorchSide
from .turns import Turns


class Answers(Turns):
    """The questions of `TwoProcesses` and `Remote`, one method each."""

    def __init__(self, threads: int) -> None:
        super().__init__(None, Cpu(), is_ours=False)
        torch.set_num_threads(threads)
        self.references = checking.References()

    def number_of_threads(self) -> int:
        return torch.get_num_threads()

    def thread_pools(self) -> list | str:
        return thread_pools()

    def begin(self, cell: Cell, path: Path | None) -> None:
        """Writes the same problem for the other side, if it takes part."""
        self.cell, self.side, self.call = cell, None, None
        gc.collect()
        self.side = TorchSide.of(cell, "cpu")
        if path is not None:
            exchange.write(path, self.side.problem(self.device.to_array))

    def check(self, *paths: Path) -> dict[str, Any]:
        """``paths`` are of our results, of two runs."""
        left = iter(paths)

        def results_of_ours() -> dict[str, torch.Tensor]:
            with np.load(next(left)) as file:
                return {name: torch.from_numpy(file[name]) for name in file.files}

        return checking.check(self.cell, self.device, results_of_ours, self.side, self.references)
