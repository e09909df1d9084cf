"""FlashRNN's side of a comparison, where it is installed: ``pip install flashrnn``, a CUDA compiler, and a GPU.

Its operation is the recurrence alone: gate inputs in, states out. So the product of the input is made in front of it,
by PyTorch, inside of what is timed, as it is inside of the other two sides' calls. The signature, the layouts and the
order of the gates are those of version 1.0.8 (``flashrnn/flashrnn/flashrnn.py``, and the plain code in
``flashrnn/flashrnn/vanilla`` that its kernels are compared with):

- ``Wx`` (T, B, 4, heads, H) with ``input_shape="TBGHD"``: the input's part of the gates, without a bias
- ``R`` (4, heads, H out, H in), ``b`` (4, heads, H), all gates in the order i, f, z (our g), o; one head is an LSTM
- ``states`` (2, 1, B, heads, H) with ``output_shape="STBHD"``: h, then c; the result is (2, T, B, heads, H) of all
  steps and (2, 1, B, heads, H) of the last one

The first call of a size compiles, which takes a minute or more, and is not timed.
"""

import importlib
import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import torch

from .grid import Cell
from .sides import TorchSide

NAME = "flashrnn"
# Its float32 kernels multiply in TF32 and are built for batches of 16: they are not compared.
STORAGE = ("float16", "bfloat16")
EXPECTED = 120.0  # seconds of a first compilation, before there was one
BACKENDS = ("cuda_fused", "cuda")  # one kernel for all steps where that fits; a kernel and a GEMM a step otherwise


class TakesNoPart(Exception):
    """Why FlashRNN is not compared, in this cell or at all."""


class FlashRNN:
    """The library. Raises `TakesNoPart` where it cannot be imported."""

    def __init__(self, seconds_left: Callable[[], float] = lambda: float("inf")) -> None:
        self.seconds_left = seconds_left
        self.slowest = EXPECTED  # seconds that making a side may take
        try:
            self.module = importlib.import_module("flashrnn")
        except Exception as error:  # not installed, or its import fails: without a compiler it does
            raise TakesNoPart(f"FlashRNN cannot be imported: {_words(error)}") from None

    def about(self) -> dict[str, str]:
        try:
            return {"version": importlib.metadata.version(NAME)}
        except importlib.metadata.PackageNotFoundError:
            return {"version": "unknown"}

    def side(self, cell: Cell, theirs: TorchSide) -> "FlashSide":
        """Compiled, and called once forward and back. ``theirs`` has the weights and inputs that it is given."""
        if cell.setting != "one-layer":
            raise TakesNoPart("FlashRNN's operation is one layer in one direction, without lengths")
        if cell.dtype not in STORAGE:
            raise TakesNoPart(f"FlashRNN is compared in {' and '.join(STORAGE)}")
        if self.slowest > self.seconds_left():
            raise TakesNoPart(f"compiling FlashRNN may take {self.slowest:.0f} s, which are not left")
        start, reasons = time.perf_counter(), []
        for backend in BACKENDS:
            try:
                side = FlashSide(self.module, cell, theirs, backend)
                side.infer(0)
                side.train(0)
            except Exception as error:  # no layout for this size, no compiler, no memory
                reasons.append(f"{backend}: {_words(error)}")
                continue
            finally:
                self.slowest = max(self.slowest, time.perf_counter() - start)
            return side
        raise TakesNoPart(f"FlashRNN does not run: {'; '.join(reasons)}")


class FlashSide:
    """The calls and results of `TorchSide`, of the same parameters."""

    def __init__(self, module: Any, cell: Cell, theirs: TorchSide, backend: str) -> None:
        self.module, self.theirs, self.backend, self.hidden = module, theirs, backend, cell.hidden
        self.config = module.FlashRNNConfig(
            backend=backend,
            function="lstm",
            num_heads=1,
            head_dim=cell.hidden,
            batch_size=cell.batch,
            input_shape="TBGHD",
            output_shape="STBHD",
            dtype=cell.storage,
        )

    def prepare(self, *, training: bool) -> None:
        """Nothing to set: what it keeps for a backward pass depends on whether gradients are enabled."""

    def infer(self, which: int) -> tuple:
        with torch.no_grad():
            return self._call(self.theirs.inputs[which].x, None)

    def train(self, which: int) -> tuple:
        """y, h, c, and the gradients of x, h0, c0 and all parameters."""
        x, h, c = self.theirs.leaves[which]
        y, final = self._call(x, torch.stack((h, c)).unsqueeze(3))
        wanted = [x, h, c, *(self.theirs.parameters[name] for name in PARAMETERS)]
        return y, final, torch.autograd.grad(y, wanted, self.theirs.inputs[which].dy)

    def _call(self, x: torch.Tensor, states: torch.Tensor | None) -> tuple:
        w_ih, w_hh, bias = (self.theirs.parameters[name] for name in PARAMETERS)
        hidden, gates = self.hidden, (4, 1, self.hidden)
        inputs = torch.nn.functional.linear(x, w_ih).view(*x.shape[:2], *gates)
        recurrent = w_hh.view(*gates, hidden)
        of_all, last = self.module.flashrnn(
            inputs, recurrent, bias.view(gates), states=states, function="lstm", config=self.config
        )
        return of_all[0].squeeze(2), last.squeeze(3)

    def results(self) -> dict[str, torch.Tensor]:
        """Everything that the first inputs give, under `TorchSide.results`' names."""
        inferred, _ = self.infer(0)
        y, (h, c), (dx, dh, dc, *gradients) = self.train(0)
        found = {"y of inference": inferred, "y": y, "h": h, "c": c, "dx": dx, "dh": dh, "dc": dc}
        found |= {"d" + name.replace("bias_ih", "bias"): of for name, of in zip(PARAMETERS, gradients, strict=True)}
        return {name: value.detach() for name, value in found.items()}


PARAMETERS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")


def _words(error: BaseException) -> str:
    """The first line: a compiler's complaint is long."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
