"""How the host hears that blocks of a launch have waited for each other in vain, and who says so at the end.

That cannot happen while all blocks of a launch run at the same time, which the driver promises; if it does, what the
launch computed is wrong. Nothing waits for the device to find out: the next such launch looks at a word of the host's
own memory, and when the interpreter ends, somebody looks for the last time.
"""

import os
import sys
import time
from collections.abc import Iterable

import numpy as np

from ..cuda.copies import to_host

LAST_WAIT = 60.0
"""Seconds that the end of the interpreter waits for the last launch. One whose blocks wait in vain takes twenty or more
of them (`kernels/handover.cuh`)."""

SINCE = "the blocks of a launch waited for each other in vain: they did not all run at the same time"
IN_VAIN = (
    "the blocks of an earlier launch waited for each other in vain, so what it computed is wrong: they did not all run "
    "at the same time. From now on this process makes no such launches on this device: what the schedule 'persistent' "
    "would have run takes another one, most of it the loop, and lstm.plan(x) says so. Compute it again"
)
AT_EXIT = "the blocks of one of the last launches waited for each other in vain, so what it computed is wrong"
UNKNOWN = (
    f"the last launch had not ended {LAST_WAIT:.0f} seconds after the program, so nobody knows whether it is right"
)


class Alarm:
    """A word on the device that a kernel sets when its blocks have waited in vain, and a copy of it on the host."""

    def __init__(self, cupy) -> None:
        self.word = cupy.zeros(1, np.uint32)
        cupy.cuda.get_current_stream().synchronize()  # once: other streams must not find what was here
        pinned = cupy.cuda.alloc_pinned_memory(4)
        self.seen = np.frombuffer(pinned, np.uint32, 1)
        self._copied = pinned.ptr, self.word.data.ptr, self.word.nbytes
        self.seen[0] = 0
        self.is_told = False  # somebody has been told of whatever it says
        self.is_pending = False  # there has been a launch, the last one's copy comes before `_last`
        self._last = cupy.cuda.Event(disable_timing=True)
        self._process = os.getpid()

    def is_heard(self) -> bool:
        """Whether an earlier launch has failed, as far as is known by now; says so once."""
        if not self.seen[0]:
            return False
        self.word.fill(0)
        self.seen[0] = 0
        self.is_told = True
        return True

    def look(self) -> None:
        """Copies the word to the host, some time after the launches before."""
        to_host(*self._copied)
        self._last.record()
        self.is_told, self.is_pending = False, True

    def last_word(self, patience: float = LAST_WAIT) -> str:
        """What is to be said when the interpreter ends; empty if all went well, or it has been said.

        The copy to the host comes some time after the launch, so a program that has not waited for its last results
        ends before it. So this waits for an event behind that copy, but no longer than ``patience`` seconds: it is not
        worth a process that never ends, and what the device is at may wait for a process that is gone. It asks for this
        event alone and not for the device, so other streams' work is not waited for; of launches on several streams the
        last one's event counts. Where the context has gone, asking raises an error, and nothing is known but what the
        host's memory says. A forked process has neither the context nor that memory, and looks at nothing.
        """
        if not self.is_pending or self.is_told or os.getpid() != self._process:
            return ""
        end, is_over = time.monotonic() + patience, False
        try:
            while not (is_over := self._last.done) and time.monotonic() < end:
                time.sleep(0.01)
        except (Exception, KeyboardInterrupt):  # noqa: BLE001 - whatever the device's state, the interpreter ends
            is_over = True
        self.is_told = True
        return AT_EXIT if self.seen[0] else "" if is_over else UNKNOWN


def report(alarms: Iterable[Alarm]) -> None:
    """Says on stderr what nobody has been told of yet. For the end of the interpreter."""
    for alarm in [*alarms]:
        if (words := alarm.last_word()) and sys.stderr is not None:
            print(f"gpulstm: {words}.", file=sys.stderr)
