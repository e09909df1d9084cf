"""How long a cell will take, so that none is begun that would not end in time."""

import statistics
import time
from collections import defaultdict

from gpulstm.cuda import loop_times

from .grid import Cell

FIXED = {"gpu": 0.7, "cpu": 0.5}  # seconds: data, weights, kernels from the cache, releasing memory, settling
CALLS_IN_A_ROUND = {"gpu": 2, "cpu": 2}
MEMORY_CALLS = {"gpu": 2, "cpu": 0}
RATES = {"gpu": None, "cpu": (5e-6, 1.5e11)}  # seconds of a step's overhead, operations in a second
MARGIN = 1.25
RECENT = 12  # cells that say how far the model is off


class Budget:
    """Begins when it is made. ``seconds`` may be infinite; what a cell takes is modelled, and corrected by what cells
    of the same setting took before."""

    def __init__(self, device: str, seconds: float, pass_seconds: float, rounds: tuple[int, int]) -> None:
        self.device, self.seconds, self.pass_seconds, self.rounds = device, seconds, pass_seconds, rounds
        self.began = time.perf_counter()
        self.off: dict[str, list[float]] = defaultdict(list)

    def spent(self) -> float:
        return time.perf_counter() - self.began

    def left(self) -> float:
        return self.seconds - self.spent()

    def allows(self, cell: Cell) -> bool:
        return self.estimate(cell) <= self.left()

    def learn(self, cell: Cell, took: float) -> None:
        self.off[cell.setting].append(took / self.model(cell))

    def estimate(self, cell: Cell) -> float:
        """Seconds; more than is likely, rather than less."""
        seen = self.off.get(cell.setting) or [ratio for ratios in self.off.values() for ratio in ratios]
        return MARGIN * self.model(cell) * (statistics.median(seen[-RECENT:]) if seen else 1.0)

    def model(self, cell: Cell) -> float:
        """Both sides in all the calls that `racing.run` and `checking.check` make."""
        forward = seconds_of_call(cell, self.device, training=False)
        both = seconds_of_call(cell, self.device, training=True)
        checks = 5 * (forward + both)  # ours twice, PyTorch's, and the reference, in a type twice as wide
        return FIXED[self.device] + checks + self._timed(forward) + self._timed(both)

    def _timed(self, call: float) -> float:
        """Memory, warm-up and rounds of one pass, of two sides."""
        least, most = self.rounds
        of_round = 2 * CALLS_IN_A_ROUND[self.device] * call
        warm_up = max(2 * call, min(6 * call, self.pass_seconds))
        rounds = max(least * of_round, min(most * of_round, self.pass_seconds))
        return 2 * MEMORY_CALLS[self.device] * call + warm_up + rounds


def seconds_of_call(cell: Cell, device: str, *, training: bool) -> float:
    """Of the slower side, which goes step by step."""
    lanes = cell.num_layers * cell.directions
    rates = RATES[device]
    if rates is None:
        product = 8.0 * cell.batch * cell.hidden**2
        passes = [
            loop_times.microseconds(back, product, cell.dtype) for back in ((False, True) if training else (False,))
        ]
        return lanes * cell.steps * sum(passes) / 1e6
    overhead, operations = rates
    return (3 if training else 1) * (lanes * cell.steps * overhead + 2 * cell.work / operations)
