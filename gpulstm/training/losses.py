"""The losses of training steps: kept on the device, and fetched now and then."""

import math
from collections import deque
from typing import Any

import numpy as np

from .. import arrays

WAITING = 256  # losses at most that wait on the device
RECENT = 100  # steps over which the bar's loss is averaged


class Losses:
    """Adds up the losses since the last evaluation, always in the same order and in float64."""

    def __init__(self, step: int, total: float = 0.0, count: int = 0) -> None:
        self.step = step  # those fetched so far
        self.total, self.count = total, count
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._waiting: list[Any] = []

    def add(self, loss: Any) -> None:
        """The next step's loss, which has no axes. Nothing waits for the device, but for every 256th."""
        self._waiting.append(loss)
        if len(self._waiting) == WAITING:
            self.fetch()

    def fetch(self) -> None:
        """Waits for the device. Raises FloatingPointError that names the first step whose loss is NaN or infinite."""
        waiting, self._waiting = self._waiting, []
        for value in on_host(waiting):
            self.step += 1
            if not math.isfinite(value):
                labels = ""
                if value == math.inf:
                    labels = "; or in ctc, a labelling needs more time steps than its sequence has"
                raise FloatingPointError(
                    f"the loss of step {self.step} is {value}, and the parameters are no longer to be trusted; a "
                    f"smaller learning rate or clip_norm=1.0 often helps, or there is a NaN in the data{labels}"
                )
            self.total += value
            self.count += 1
            self._recent.append(value)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    @property
    def recent(self) -> float | None:
        return sum(self._recent) / len(self._recent) if self._recent else None

    def forget(self) -> None:
        self.total, self.count = 0.0, 0


def on_host(scalars: list[Any]) -> list[float]:
    """Numbers, or arrays without axes, as floats: those of a device come in one transfer."""
    if scalars and all(arrays.is_array(value) and not isinstance(value, np.generic) for value in scalars):
        first = scalars[0]
        if not arrays.is_numpy(first):
            with arrays.on_device_of(first):
                return [float(value) for value in arrays.to_numpy(arrays.namespace(first).stack(scalars))]
    return [float(value) for value in scalars]


def require_scalar(name: str, value: Any) -> None:
    """Raises TypeError unless the value is a number or an array without axes."""
    shape = getattr(value, "shape", () if isinstance(value, (int, float)) else None)
    if shape is None or tuple(shape) != ():
        raise TypeError(f"{name} must be a number or an array without axes, got {arrays.describe(value)}")
