"""Ctrl-C during training: heard at once, obeyed where nothing is half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """While this context is open, SIGINT waits for the next `check`; a second one does not, unless `held`.

    Whatever handler was there, Python's own as a rule, is called then, and put back at the end. Where the signal is
    ignored, or handled by no Python function, or this is not the main thread, which gets none, nothing changes.
    """

    def __init__(self) -> None:
        self.waiting = False
        self._held = 0
        self._previous: Any = None

    def __enter__(self) -> "Interrupts":
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and callable(signal.getsignal(signal.SIGINT)):
            self._previous = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Where a signal waits, calls the handler from before, which raises KeyboardInterrupt as a rule."""
        if self.waiting:
            self.waiting = False
            self._previous(signal.SIGINT, None)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, nothing interrupts: for changes that belong together."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def _heard(self, number: int, frame: Any) -> None:
        if self.waiting and not self._held:
            self.waiting = False
            self._previous(number, frame)
        else:
            self.waiting = True
