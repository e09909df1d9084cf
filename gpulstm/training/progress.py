"""The progress bar, in a terminal, a notebook or a log."""

import importlib.util
import math
import os
import sys
import time
from typing import Any

TO_A_SCREEN, TO_A_LOG = 0.2, 10.0  # seconds between two looks at the losses, each of which waits for the device

# Short enough for the numbers to fit into 80 columns: of what there is, the bar takes the rest.
FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"


class Silent:
    """No bar."""

    def due(self) -> bool:
        return False

    def show(self, step: int, tokens: int, **facts: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Bar(Silent):
    """A bar with the loss, the validation loss, the learning rate and the time steps per second."""

    def __init__(self, total: int, step: int) -> None:
        in_notebook = _in_notebook()
        self._bar = _bar_class(in_notebook)(total=total, initial=step, bar_format=FORMAT, **_width())
        on_screen = in_notebook or getattr(sys.stderr, "isatty", bool)()
        self._every = TO_A_SCREEN if on_screen else TO_A_LOG
        self._shown_at, self._shown_tokens = time.monotonic(), 0
        self._speed: float | None = None

    def due(self) -> bool:
        return time.monotonic() - self._shown_at >= self._every

    def show(self, step: int, tokens: int, **facts: Any) -> None:
        """``tokens`` counts all of this run's; ``facts`` are name and number, None for what is not known."""
        now = time.monotonic()
        if now > self._shown_at and tokens > self._shown_tokens:
            self._speed = (tokens - self._shown_tokens) / (now - self._shown_at)
        self._shown_at, self._shown_tokens = now, tokens
        words = [f"{name} {_short(value)}" for name, value in facts.items() if value is not None]
        words += [] if self._speed is None else [f"{_short(self._speed, 2)} tokens/s"]
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.n = step
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def _width() -> dict[str, Any]:
    """As wide as the terminal, whenever it is resized; 80 columns in one that says it has none."""
    try:
        unknown = os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, AttributeError, ValueError):  # no terminal
        unknown = False
    return {"ncols": 80, "nrows": 24} if unknown else {"dynamic_ncols": True}


def _short(value: float, digits: int = 3) -> str:
    """That many digits, and never an exponent between 1 and a billion."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if size <= value < math.inf:
            scaled = value / size
            return f"{scaled:.{digits}g}{unit}" if scaled < 10 ** (digits - 1) else f"{scaled:.0f}{unit}"
    return f"{value:.{digits}g}" if value < 10 ** (digits - 1) else f"{value:.0f}"


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel that can show widgets. tqdm.auto would warn where ipywidgets is missing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell" and importlib.util.find_spec("ipywidgets") is not None


def _bar_class(in_notebook: bool) -> Any:
    if in_notebook:
        from tqdm.notebook import tqdm
    else:
        from tqdm.std import tqdm

    class Quiet(tqdm):
        monitor_interval = 0  # no thread that watches for bars which stand still

    return Quiet
