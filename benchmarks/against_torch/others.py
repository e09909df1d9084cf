"""How much of the machine is taken by processes that have no part in a measurement."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

# Cores. Two threads that wait for each other at every step wait much longer once something shares a core with one of
# them: a single busy process makes a call take up to fifty times as long.
DISTURBED = 0.1
PROC = Path("/proc")


class Others:
    """Counts from when it is made. Linux alone says what is needed."""

    def __init__(self, ours: Iterable[int]) -> None:
        self.ours = list(ours)
        self.began = self._now()

    def cores(self) -> float | None:
        """Taken by other processes, and by other machines on the same hardware, on average since then."""
        if self.began is None or (now := self._now()) is None:
            return None
        seconds, taken = (after - before for after, before in zip(now, self.began, strict=True))
        return round(max(taken / seconds, 0.0), 2)

    def _now(self) -> tuple[float, float] | None:
        """The time, and the seconds of all cores until now that were not idle and not ours."""
        try:
            ticks = [int(word) for word in (PROC / "stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
            own = 0
            for process in self.ours:
                fields = (PROC / str(process) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                own += int(fields[11]) + int(fields[12])  # in user and in system mode
        except (OSError, IndexError, ValueError):
            return None
        idle = ticks[3] + ticks[4]  # the fourth and fifth are idle and waiting for a disk; the eighth is stolen
        return time.perf_counter(), (sum(ticks) - idle - own) / os.sysconf("SC_CLK_TCK")
