"""One side of a cell when it is its turn."""

import time
from collections.abc import Callable
from typing import Any

from .cpu import Sample
from .grid import INPUT_SETS

PASSES = {"forward": False, "forward_backward": True}  # whether each is training


class Turns:
    """Calls a side on a device, and times it."""

    def __init__(self, side: Any, device: Any, *, is_ours: bool) -> None:
        self.side, self.device, self.is_ours = side, device, is_ours
        self.call: Any = None
        self.of_pass = ""
        self.warm: dict[str, float] = {}  # seconds of calls that each pass has made already

    def prepare(self, of_pass: str) -> None:
        """What is measured from now on."""
        training, self.of_pass = PASSES[of_pass], of_pass
        self.side.prepare(training=training)
        self.call = _Rotation(self.side.train if training else self.side.infer)

    def peak_bytes(self) -> int | None:
        """In use at the same time in two calls, the results included, the inputs and the parameters not."""
        measure = self.device.peak_of_ours if self.is_ours else self.device.peak_of_torch
        start = time.perf_counter()
        peak = measure(self.call.twice)
        if peak is not None:
            self.warm[self.of_pass] = time.perf_counter() - start
        return peak

    def warm_up(self, seconds: float) -> None:
        """A call on every input set, or as many as the time allows: one at least, if `peak_bytes` made none."""
        if self.warm.get(self.of_pass, 0.0) > seconds:
            return
        start = time.perf_counter()
        for _ in range(INPUT_SETS):
            self.call()
            self.device.synchronize()
            if time.perf_counter() - start > seconds:
                break

    def sample(self, seconds: float) -> list[Sample]:
        return self.device.sample(self.call, seconds)


class _Rotation:
    """A call without arguments that takes the next input set each time, and drops the result."""

    def __init__(self, call: Callable[[int], Any]) -> None:
        self.call = call
        self.count = 0

    def __call__(self) -> None:
        self.call(self.count % INPUT_SETS)
        self.count += 1

    def twice(self) -> None:
        """On the first two sets; the first result is gone before the second call begins."""
        self.call(0)
        self.call(1)
